//! What a script of lines cannot tell: time, segments, what was sent too early, and the trace field to the letter.

mod common;

use common::{Client, Server, Setup, run, tool, wait_until};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

fn with(settings: &[(&str, &str)]) -> Server {
    let mut setup = Setup::new();
    for (key, value) in settings {
        setup.set("worker.yaml", key, value);
    }
    setup.start()
}

/// Sends `octet` again and again until the server has said something; how long that took.
fn drip(client: &mut Client, octet: &[u8]) -> Duration {
    let began = Instant::now();
    while client.is_quiet() && began.elapsed() < common::PATIENCE * 3 {
        client.send(octet);
    }
    began.elapsed()
}

fn in_data(server: &Server) -> Client {
    let mut client = server.hello();
    for (line, code) in [
        ("MAIL FROM:<>", 250),
        ("RCPT TO:<test@example.com>", 250),
        ("DATA", 354),
    ] {
        assert_eq!(client.command(line).code, code);
    }
    client
}

fn is_given_up(mut client: Client, status: &str) {
    let reply = client.reply();
    assert!(reply.code == 421 && reply.text().starts_with(status), "{reply:?}");
    assert!(client.is_closed());
}

#[test]
fn a_command_has_its_time() {
    let server = with(&[("command_timeout", "2s")]);
    let began = Instant::now();
    let client = server.hello();
    is_given_up(client, "4.4.2");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    // Octets alone keep nothing open: the command has to be complete.
    let mut client = server.hello();
    let taken = drip(&mut client, b"N");
    assert!((1..15).contains(&taken.as_secs()), "{taken:?}");
    is_given_up(client, "4.4.2");
    // Commands do.
    let mut client = server.hello();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        assert!(client.is_quiet());
        assert_eq!(client.command("NOOP").code, 250);
    }
    assert!(wait_until(|| server.said().contains("reason=timeout")));
}

#[test]
fn a_message_has_its_time() {
    let server = with(&[("data_timeout", "2s"), ("minimum_data_rate", "0")]);
    let began = Instant::now();
    is_given_up(in_data(&server), "4.4.2");
    assert!(began.elapsed() >= Duration::from_secs(2));
    // Each octet is a sign of life.
    let mut client = in_data(&server);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        assert!(client.is_quiet());
        client.send(b"x");
    }
    client.send(b"\r\n.\r\n");
    assert_eq!(client.reply().code, 250);
    assert_eq!(server.await_mail("test@example.com", 1).len(), 1);
}

#[test]
fn a_session_has_its_time() {
    let server = with(&[("session_timeout", "3s")]);
    let mut client = server.hello();
    let began = Instant::now();
    let last = loop {
        client.is_quiet();
        let reply = client.command("NOOP");
        if reply.code != 250 {
            break reply;
        }
        assert!(began.elapsed() < common::PATIENCE, "it goes on for ever");
    };
    assert!(last.code == 421 && last.text().starts_with("4.4.2"), "{last:?}");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(client.is_closed());
}

#[test]
fn a_message_keeps_up_its_rate() {
    let server = with(&[("minimum_data_rate", "1000")]);
    let mut client = in_data(&server);
    let taken = drip(&mut client, b"x\r\n");
    assert!(taken >= Duration::from_secs(29), "only after a grace: {taken:?}");
    is_given_up(client, "4.4.2");
    assert!(server.mail("test@example.com").is_empty());
    assert!(wait_until(|| server.said().contains("reason=too-slow")));
}

/// A client that asks and asks and never reads must not hold a worker longer than one that says nothing.
#[test]
fn who_never_reads_is_given_up() {
    let server = with(&[("command_timeout", "2s"), ("maximum_harmless_commands", "1000000")]);
    let client = server.hello();
    let mut stream = client.stream();
    let began = Instant::now();
    let question = "HELP\r\n".repeat(1000);
    while stream.write_all(question.as_bytes()).is_ok() {
        assert!(began.elapsed() < common::PATIENCE, "it is never ended");
    }
    assert!(began.elapsed() < common::PATIENCE, "{:?}", began.elapsed());
    assert!(
        wait_until(|| server.said().contains("reason=timeout")),
        "{}",
        server.said()
    );
}

/// Counts the segments with data that arrive for a group of commands (`tcpi_data_segs_in`).
const SEGMENTS: &str = r#"
import socket, struct, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
f = s.makefile("rb")
def segments():
    return struct.unpack_from("I", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 152)[0]
def replies(count):
    got = []
    while len(got) < count:
        line = f.readline()
        if line[3:4] == b" ":
            got.append(line[:3])
    return b" ".join(got).decode()
replies(1)
s.sendall(b"EHLO client.example\r\n")
replies(1)
assert segments() == 2, segments()
for group, count in [
    (b"MAIL FROM:<>\r\nRCPT TO:<test@example.com>\r\nRCPT TO:<nobody@example.com>\r\nDATA\r\n", 4),
    (b"Subject: x\r\n\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<test@example.com>\r\nDATA\r\n", 4),
    (b".\r\n" + b"RSET\r\n" * 50 + b"NOOP\r\n", 52),
]:
    before = segments()
    s.sendall(group)
    print(replies(count), segments() - before)
"#;

#[test]
fn replies_to_a_group_are_one_write() {
    let Some(python) = tool("protocol::replies_to_a_group_are_one_write", "python3") else {
        return;
    };
    let server = Server::start();
    let mut command = Command::new(python);
    command.args(["-c", SEGMENTS, &server.address().port().to_string()]);
    let (success, said) = run(&mut command, b"");
    assert!(success, "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "250 250 550 354 1");
    assert_eq!(lines[1], "250 250 250 354 1");
    assert_eq!(lines[2], format!("{} 1", ["250"; 52].join(" ")));
}

/// Lets a client connect and talk while no process of the server runs.
#[test]
fn who_talks_before_the_greeting_is_noted() {
    let server = Server::start();
    let group = Pid::from_raw(server.pid());
    killpg(group, Signal::SIGSTOP).expect("signal");
    let mut early = Client::over(TcpStream::connect(server.address()).expect("connection"));
    early.send(b"EHLO client.example\r\n");
    killpg(group, Signal::SIGCONT).expect("signal");
    assert_eq!(early.reply().code, 220);
    assert_eq!(early.reply().code, 250);
    assert_eq!(early.command("QUIT").code, 221);
    assert!(
        wait_until(|| server.said().contains("odd=early_talk ")),
        "early talk is noted"
    );
}

/// What a client has sent is seen where the kernel still has it: the server reads it after the reply only.
#[test]
fn what_was_sent_but_not_read_is_noted() {
    let server = Server::start();
    let mut client = server.hello();
    let group = Pid::from_raw(server.pid());
    killpg(group, Signal::SIGSTOP).expect("signal");
    // More than one read takes.
    client.send(format!("VRFY {}\r\nVRFY b\r\n", "a".repeat(65536 - 7)).as_bytes());
    killpg(group, Signal::SIGCONT).expect("signal");
    assert_eq!(client.reply().code, 500);
    assert_eq!(client.reply().code, 252);
    assert_eq!(client.command("QUIT").code, 221);
    let seen = || server.said().contains("odd=line_too_long,illegal_pipelining ");
    assert!(wait_until(seen), "{}", server.said());
}

/// The one trace field of a message, unfolded.
fn trace_field(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message).replace("\r\n", "\n");
    let header = text.split("\n\n").next().unwrap_or_default();
    let unfolded = header.replace("\n\t", " ");
    let mut fields = unfolded.lines().filter(|line| line.starts_with("Received: "));
    let field = fields.next().expect("a Received field").to_owned();
    assert_eq!(fields.next(), None, "{header}");
    field
}

#[test]
fn the_trace_field_is_that_of_the_rfc() {
    let server = Setup::new().under(["/usr/bin/env", "TZ=XYZ-3:30"]).start();
    for (number, (hello, mail, with)) in [
        ("EHLO client.example", "MAIL FROM:<a@client.example>", "ESMTP"),
        ("HELO client.example", "MAIL FROM:<a@client.example>", "SMTP"),
        (
            "EHLO client.example",
            "MAIL FROM:<a@client.example> SMTPUTF8",
            "UTF8SMTP",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = server.connect();
        assert_eq!(client.reply().code, 220);
        for line in [hello, mail, "RCPT TO:<test@example.com>", "DATA"] {
            assert!(client.command(line).code < 400, "{line}");
        }
        client.send(b"Subject: x\r\n\r\n.\r\n");
        let reply = client.reply();
        assert_eq!(reply.code, 250);
        let text = reply.text();
        let id = text
            .strip_prefix("2.0.0 ")
            .and_then(|text| text.strip_suffix(" accepted"));
        let id = id.unwrap_or_else(|| panic!("no id in {text}"));
        let atom = |c: char| c.is_ascii_alphanumeric() || c == '-';
        assert!(!id.is_empty() && id.chars().all(atom), "{id} is no atom of RFC 5322");
        let mail = server.await_mail("test@example.com", number + 1);
        let field = mail
            .iter()
            .map(|message| trace_field(message))
            .find(|field| field.contains(id));
        let field = field.unwrap_or_else(|| panic!("no trace field has the id {id} that the client was told"));
        let (clauses, date) = field.split_once("; ").expect("a date");
        assert_eq!(
            clauses,
            format!(
                "Received: from client.example ([127.0.0.1]) by mail.example.com with {with} id {id} for <test@example.com>"
            )
        );
        let then = jiff::fmt::rfc2822::parse(date).unwrap_or_else(|e| panic!("{date}: {e}"));
        assert!(date.ends_with(" +0330"), "{date}");
        let age = jiff::Timestamp::now().as_second() - then.timestamp().as_second();
        assert!((0..60).contains(&age), "{date} is {age} s ago");
    }
}
