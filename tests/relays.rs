//! Postfix and Exim relay to the real binary, Postfix with PIPELINING, Exim
//! with CHUNKING as well (Postfix has it as a server only): each message is
//! found once in each of its mailboxes, byte for byte. The same with our proxy
//! in front of them.

mod common;

use common::messages::{Message, Shape, assert_each_once, message};
use common::{Client, PATIENCE, Server, Setup, messages_below, needs_root, root, skip, tool, wait_until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer lines than RFC 5321 allows; both are told to let them pass.
const SHAPE: Shape = Shape {
    longest_line: 20_000,
    awkward_end: true,
};

#[test]
fn postfix() {
    let Some(recorded) = relayed("postfix", 400) else {
        return;
    };
    let pipelined = |chunk: &Vec<u8>| has(chunk, b"MAIL FROM:") && has(chunk, b"RCPT TO:") && has(chunk, b"DATA\r\n");
    let count = recorded.iter().filter(|chunk| pipelined(chunk)).count();
    assert!(count >= 300, "{count} envelopes came in one piece");
}

#[test]
fn exim() {
    let Some(recorded) = relayed("exim", 200) else {
        return;
    };
    let chunks = recorded.iter().filter(|chunk| has(chunk, b"BDAT ")).count();
    assert!(chunks >= 200, "{chunks} times BDAT");
    let count = recorded
        .iter()
        .filter(|chunk| has(chunk, b"MAIL FROM:") && has(chunk, b"RCPT TO:"))
        .count();
    assert!(count >= 100, "{count} envelopes came in one piece");
}

/// Mail goes through the proxy into Postfix, which knows the client by XCLIENT, and from there to our server.
#[test]
fn a_proxy_before_postfix() {
    proxied("postfix", 300);
}

/// The same through Exim.
#[test]
fn a_proxy_before_exim() {
    proxied("exim", 100);
}

fn proxied(name: &str, count: usize) {
    let test = format!("relays::a_proxy_before_{name}");
    if !needs_root(&test) || tool(&test, "unshare").is_none() {
        return;
    }
    let server = Server::start();
    let Some(relay) = Relay::start(name, server.address()) else {
        return;
    };
    let mut setup = Setup::new();
    setup.set("worker.yaml", "command_handler", "proxy");
    setup.write(
        "proxy.yaml",
        &format!("host: 127.0.0.1\nport: {}\n", relay.address.port()),
    );
    let proxy = setup.start();
    let mut sent: Vec<Message> = (0..count).map(|number| message(name, number, SHAPE)).collect();
    let mut long = message(name, count, SHAPE);
    let line = [b".".to_vec(), vec![0xe4; 900], b"\r\n".to_vec()].concat();
    long.bytes.extend(line.repeat((20 << 20) / line.len()));
    sent.push(long);
    thread::scope(|scope| {
        for part in sent.chunks(count.div_ceil(4)) {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut client = proxy.hello();
                for message in part {
                    let reply = send(&mut client, name, message);
                    assert_eq!(reply.code, 250, "{name}: {reply:?}");
                }
                assert_eq!(client.command("QUIT").code, 221);
            });
        }
    });
    let files: usize = sent.iter().map(|message| message.recipients.len()).sum();
    let end = Instant::now() + 3 * PATIENCE;
    while stored(&server) < files && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(assert_each_once(&server, &sent, 2), files);
}

/// One message, with a recipient among the others that Postfix refuses.
fn send(client: &mut Client, name: &str, message: &Message) -> common::Reply {
    let mail = client.command("MAIL FROM:<sender@example.org> BODY=8BITMIME");
    assert_eq!(mail.code, 250, "{mail:?}");
    for recipient in &message.recipients {
        let reply = client.command(&format!("RCPT TO:<{recipient}>"));
        assert!(matches!(reply.code, 250), "{reply:?}");
    }
    if name == "postfix" {
        assert_eq!(client.command("RCPT TO:<nobody@example.com>").code, 554);
    }
    assert_eq!(client.command("DATA").code, 354);
    client.send(&common::stuffed(&message.bytes));
    client.send(b".\r\n");
    client.reply()
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Sends `count` messages through the relay; what it then sent us, as it came.
fn relayed(name: &str, count: usize) -> Option<Vec<Vec<u8>>> {
    let test = format!("relays::{name}");
    if !needs_root(&test) || tool(&test, "unshare").is_none() {
        return None;
    }
    let server = Server::start();
    let recorder = Recorder::start(server.address());
    let relay = Relay::start(name, recorder.address)?;
    let sent: Vec<Message> = (0..count).map(|number| message(name, number, SHAPE)).collect();
    thread::scope(|scope| {
        for part in sent.chunks(count.div_ceil(4)) {
            let relay = &relay;
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
    let files: usize = sent.iter().map(|message| message.recipients.len()).sum();
    let end = Instant::now() + 3 * PATIENCE;
    while stored(&server) < files && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(assert_each_once(&server, &sent, 2), files);
    Some(recorder.recorded())
}

fn stored(server: &Server) -> usize {
    [
        "test@example.com",
        "other@example.com",
        "mixed.case@example.com",
        "test@example.net",
    ]
    .iter()
    .map(|address| messages_below(&server.maildir(address)).len())
    .sum()
}

/// A mail server in namespaces of its own; ends when dropped.
struct Relay {
    child: Child,
    address: SocketAddr,
    _scratch: TempDir,
}

impl Relay {
    fn start(name: &str, next: SocketAddr) -> Option<Relay> {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let free = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = free.local_addr().expect("address");
        drop(free);
        let mut child = Command::new(root().join("tests/mail_servers/relay"))
            .arg(name)
            .arg(scratch.path())
            .args([address.port().to_string(), next.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tests/mail_servers/relay");
        let mut ended = None;
        let up = wait_until(|| {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || greets(address)
        });
        let mut relay = Relay {
            child,
            address,
            _scratch: scratch,
        };
        if up && ended.is_none() {
            return Some(relay);
        }
        let _ = relay.child.kill();
        let mut said = String::new();
        if let Some(mut stderr) = relay.child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        assert_eq!(ended.and_then(|status| status.code()), Some(77), "{name}: {said}");
        skip(&format!("relays::{name}"), said.trim());
        None
    }

    fn connect(&self) -> Client {
        let mut client = Client::over(TcpStream::connect(self.address).expect("the relay"));
        assert_eq!(client.reply().code, 220);
        assert_eq!(client.command("EHLO client.example").code, 250);
        client
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn greets(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok_and(|stream| Client::over(stream).try_reply().is_ok_and(|r| r.code == 220))
}

/// Stands between a client and our server and keeps what the client says.
struct Recorder {
    address: SocketAddr,
    pieces: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    fn start(server: SocketAddr) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("address");
        let pieces = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&pieces);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                let kept = Arc::clone(&kept);
                thread::spawn(move || pass(client, server, Some(&kept)));
                thread::spawn(move || pass(server2, client2, None));
            }
        });
        Recorder { address, pieces }
    }

    fn recorded(&self) -> Vec<Vec<u8>> {
        self.pieces.lock().expect("not poisoned").clone()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, keep: Option<&Mutex<Vec<Vec<u8>>>>) {
    let mut buffer = vec![0; 65_536];
    let _ = to.set_nodelay(true);
    while let Ok(read) = from.read(&mut buffer) {
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            break;
        };
        if let Some(keep) = keep {
            keep.lock().expect("not poisoned").push(piece.to_vec());
        }
        if to.write_all(piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
