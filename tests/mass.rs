//! 3,000 messages from swaks, msmtp, smtplib, and from Postfix and Exim that
//! relay to us, several at a time, over one connection a message and over kept
//! ones: each is found once in each of its mailboxes, byte for byte.

mod common;

use common::messages::{Message, Shape, assert_each_once, message, stored};
use common::relay::{Recorder, Relay};
use common::{Client, PATIENCE, Server, needs_root, run, stuffed, tool};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Lines of 998 octets, the most that RFC 5321 lets a client send.
const POLITE: Shape = Shape {
    longest_line: 998,
    awkward_end: true,
};

/// All messages, and the shares of those that are not smtplib's.
const ALL: usize = 3_000;
const SWAKS: usize = 80;
const MSMTP: usize = 320;
const POSTFIX: usize = 500;
const EXIM: usize = 200;

#[test]
fn three_thousand_messages() {
    let server = Server::start();
    let recorders = [Recorder::start(server.address()), Recorder::start(server.address())];
    let relay = |name: &str, at: usize| {
        let able = needs_root(&format!("mass: {name} (its share goes by smtplib)"))
            && tool("mass: relays (their shares go by smtplib)", "unshare").is_some();
        able.then(|| Relay::start(name, recorders[at].address)).flatten()
    };
    let (postfix, exim) = (relay("postfix", 0), relay("exim", 1));
    let relays = [(&postfix, "postfix", POSTFIX), (&exim, "exim", EXIM)].into_iter();
    let relays: Vec<_> = relays
        .filter_map(|(relay, name, count)| Some((relay.as_ref()?, name, count)))
        .collect();
    let relayed: usize = relays.iter().map(|(_, _, count)| count).sum();
    let mut sent = Vec::new();
    thread::scope(|scope| {
        let mut senders = vec![
            scope.spawn(|| swaks(&server)),
            scope.spawn(|| msmtp(&server)),
            scope.spawn(|| smtplib(&server, ALL - SWAKS - MSMTP - relayed)),
        ];
        for (relay, name, count) in relays {
            senders.push(scope.spawn(move || relayed_by(relay, name, count)));
        }
        for sender in senders {
            sent.extend(sender.join().expect("a client that ends well"));
        }
    });
    assert_eq!(sent.len(), ALL);
    let files: usize = sent.iter().map(|message| message.recipients.len()).sum();
    let end = Instant::now() + 3 * PATIENCE;
    while stored(&server) < files && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(assert_each_once(&server, &sent), files);
    if postfix.is_some() {
        let whole = envelopes(&recorders[0], b"DATA\r\n");
        assert!(
            whole >= POSTFIX * 3 / 4,
            "{whole} of Postfix's envelopes came in one piece"
        );
    }
    if exim.is_some() {
        let chunks = recorders[1]
            .recorded()
            .iter()
            .filter(|piece| has(piece, b"BDAT "))
            .count();
        assert!(chunks >= EXIM, "{chunks} times BDAT");
        let whole = envelopes(&recorders[1], b"");
        assert!(whole >= EXIM / 2, "{whole} of Exim's envelopes came in one piece");
    }
}

/// Plain sockets say what no client does: everything at once, and chunks cut anywhere.
#[test]
fn pipelined_and_in_chunks() {
    let server = Server::start();
    let sent = raw(&server, "raw", 600);
    assert!(assert_each_once(&server, &sent) > 600);
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

/// Envelopes that came in one piece, with `end`: pipelined (RFC 2920).
fn envelopes(recorder: &Recorder, end: &[u8]) -> usize {
    let whole = |piece: &&Vec<u8>| has(piece, b"MAIL FROM:") && has(piece, b"RCPT TO:") && has(piece, end);
    recorder.recorded().iter().filter(whole).count()
}

/// Gives messages to a server that relays them to ours: Postfix with PIPELINING, Exim with CHUNKING as well (Postfix
/// has it as a server only). Both are told to let lines pass that are longer than RFC 5321 allows.
fn relayed_by(relay: &Relay, name: &str, count: usize) -> Vec<Message> {
    let shape = Shape {
        longest_line: 20_000,
        ..POLITE
    };
    let mut messages = messages(name, count, shape);
    messages.iter_mut().for_each(|message| message.hops = 2);
    thread::scope(|scope| {
        for part in messages.chunks(count.div_ceil(4)) {
            scope.spawn(move || {
                let mut client = relay.connect();
                for message in part {
                    let reply = client.deliver("sender@example.org", &message.recipients, &message.bytes);
                    assert_eq!(reply.code, 250, "{name}: {reply:?}");
                }
                client.command("QUIT");
            });
        }
    });
    messages
}

fn messages(sender: &str, count: usize, shape: Shape) -> Vec<Message> {
    (0..count).map(|number| message(sender, number, shape)).collect()
}

/// The work shared by two threads, as there are things to wait for.
fn by_two(messages: &[Message], send: impl Fn(&Message) + Sync) {
    let (even, odd): (Vec<_>, Vec<_>) = messages.iter().enumerate().partition(|(n, _)| n % 2 == 0);
    thread::scope(|scope| {
        for half in [even, odd] {
            scope.spawn(|| half.into_iter().for_each(|(_, message)| send(message)));
        }
    });
}

fn port(server: &Server) -> String {
    server.address().port().to_string()
}

fn swaks(server: &Server) -> Vec<Message> {
    let Some(program) = tool("mass: swaks (its share goes over plain sockets)", "swaks") else {
        return raw(server, "swaks", SWAKS);
    };
    // a dot alone would be the end to it, and it adds what it misses
    let messages = messages(
        "swaks",
        SWAKS,
        Shape {
            awkward_end: false,
            ..POLITE
        },
    );
    // it ends what it is given with a CRLF of its own
    let directory = files(&messages, |bytes| bytes.strip_suffix(b"\r\n").unwrap_or(bytes));
    by_two(&messages, |message| {
        let mut command = Command::new(&program);
        command
            .args(["--server", "127.0.0.1", "--port", &port(server)])
            .args(["--helo", "client.example", "--from", "sender@example.org"])
            .args(["--to", &message.recipients.join(",")])
            .arg("--data")
            .arg(format!("@{}", directory.path().join(&message.id).display()));
        if message.id.len() % 2 == 0 {
            command.arg("--pipeline");
        }
        let (success, said) = run(&mut command, b"");
        assert!(success, "{said}");
    });
    messages
}

fn msmtp(server: &Server) -> Vec<Message> {
    let Some(program) = tool("mass: msmtp (its share goes over plain sockets)", "msmtp") else {
        return raw(server, "msmtp", MSMTP);
    };
    let messages = messages("msmtp", MSMTP, POLITE);
    by_two(&messages, |message| {
        let unix: Vec<u8> = message.bytes.iter().copied().filter(|&b| b != b'\r').collect();
        let mut command = Command::new(&program);
        command
            .args(["--file=/dev/null", "--host=127.0.0.1", "--auth=off", "--tls=off"])
            .arg(format!("--port={}", port(server)))
            .args(["--domain=client.example", "--from=sender@example.org"])
            .args([
                "--set-from-header=off",
                "--set-date-header=off",
                "--set-msgid-header=off",
            ])
            .arg("--undisclosed-recipients=off")
            .arg("--")
            .args(&message.recipients);
        let (success, said) = run(&mut command, &unix);
        assert!(success, "{}: {said}", message.id);
    });
    messages
}

const PYTHON: &str = r#"
import smtplib, sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), "client.example", timeout=20) as client:
    client.ehlo()
    for line in sys.stdin.read().splitlines():
        path, recipients = line.split(" ")
        with open(path, "rb") as file:
            message = file.read()
        # it adds SIZE by itself
        refused = client.sendmail("sender@example.org", recipients.split(","), message, ["BODY=8BITMIME"])
        assert not refused, refused
"#;

fn smtplib(server: &Server, count: usize) -> Vec<Message> {
    let Some(python) = tool("mass: smtplib (its share goes over plain sockets)", "python3") else {
        return raw(server, "smtplib", count);
    };
    let messages = messages(
        "smtplib",
        count,
        Shape {
            longest_line: 5_000,
            ..POLITE
        },
    );
    let directory = files(&messages, |bytes| bytes);
    thread::scope(|scope| {
        for part in messages.chunks(count.div_ceil(3)) {
            let list: String = part
                .iter()
                .map(|m| {
                    format!(
                        "{} {}\n",
                        directory.path().join(&m.id).display(),
                        m.recipients.join(",")
                    )
                })
                .collect();
            let mut command = Command::new(&python);
            command.args(["-c", PYTHON, &port(server)]);
            scope.spawn(move || {
                let (success, said) = run(&mut command, list.as_bytes());
                assert!(success, "{said}");
            });
        }
    });
    messages
}

/// A file for each message, named as its id.
fn files(messages: &[Message], content: fn(&[u8]) -> &[u8]) -> TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    for message in messages {
        let path = Path::new(directory.path()).join(&message.id);
        fs::write(path, content(&message.bytes)).expect("written");
    }
    directory
}

/// Plain sockets, in turn command by command, pipelined, and with BDAT.
fn raw(server: &Server, name: &str, count: usize) -> Vec<Message> {
    let messages = messages(
        name,
        count,
        Shape {
            longest_line: 70_000,
            ..POLITE
        },
    );
    thread::scope(|scope| {
        for part in messages.chunks(count.div_ceil(4)) {
            scope.spawn(move || {
                let mut client = server.hello();
                for (number, message) in part.iter().enumerate() {
                    match number % 3 {
                        0 => {
                            let reply = client.deliver("sender@example.org", &message.recipients, &message.bytes);
                            assert_eq!(reply.code, 250, "{reply:?}");
                        }
                        1 => pipelined(&mut client, message),
                        _ => in_chunks(&mut client, message, number),
                    }
                }
                assert_eq!(client.command("QUIT").code, 221);
            });
        }
    });
    messages
}

fn envelope(message: &Message) -> String {
    let recipients: String = message
        .recipients
        .iter()
        .map(|r| format!("RCPT TO:<{r}>\r\n"))
        .collect();
    format!("MAIL FROM:<sender@example.org> BODY=8BITMIME\r\n{recipients}")
}

fn expect(client: &mut Client, replies: usize) {
    for _ in 0..replies {
        let reply = client.reply();
        assert_eq!(reply.code, 250, "{reply:?}");
    }
}

/// The commands up to DATA in one write (RFC 2920); the end of the data
/// together with the next command.
fn pipelined(client: &mut Client, message: &Message) {
    client.send(format!("{}DATA\r\n", envelope(message)).as_bytes());
    expect(client, 1 + message.recipients.len());
    assert_eq!(client.reply().code, 354);
    client.send(&[stuffed(&message.bytes).as_slice(), b".\r\nNOOP\r\n"].concat());
    expect(client, 2);
}

/// In three chunks (RFC 3030), cut anywhere, all in one write.
fn in_chunks(client: &mut Client, message: &Message, number: usize) {
    let (one, rest) = message.bytes.split_at(number % message.bytes.len());
    let (two, three) = rest.split_at(rest.len() / 2);
    let mut wire = envelope(message).into_bytes();
    for (chunk, last) in [(one, ""), (two, ""), (three, " LAST")] {
        wire.extend(format!("BDAT {}{last}\r\n", chunk.len()).bytes());
        wire.extend(chunk);
    }
    client.send(&wire);
    expect(client, 1 + message.recipients.len() + 3);
}
