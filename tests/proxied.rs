//! Mail goes through our proxy into a real Postfix or Exim, and from there to our
//! server: it comes out as if it had gone in directly. Postfix knows the client by
//! XCLIENT, and refuses one recipient of each message.

mod common;

use common::messages::{Message, Shape, assert_each_once, message, stored};
use common::relay::Relay;
use common::{Client, PATIENCE, Reply, Server, Setup, needs_root, stuffed, tool};
use std::thread;
use std::time::{Duration, Instant};

/// Longer lines than RFC 5321 allows; both are told to let them pass.
const SHAPE: Shape = Shape {
    longest_line: 20_000,
    awkward_end: true,
};

#[test]
fn through_postfix() {
    proxied("postfix", 300);
}

#[test]
fn through_exim() {
    proxied("exim", 100);
}

fn proxied(name: &str, count: usize) {
    let test = format!("proxied::through_{name}");
    if !needs_root(&test) || tool(&test, "unshare").is_none() {
        return;
    }
    let server = Server::start();
    let Some(relay) = Relay::start(name, server.address()) else {
        return;
    };
    let mut setup = Setup::new();
    setup.set("worker.yaml", "command_handler", "proxy");
    let port = relay.address().port();
    setup.write("proxy.yaml", &format!("host: 127.0.0.1\nport: {port}\n"));
    let proxy = setup.start();
    let sent = messages(name, count);
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
    assert_eq!(assert_each_once(&server, &sent), files);
}

/// All kinds of messages, and one of 20 MiB; the proxy adds no field, the server behind it one.
fn messages(name: &str, count: usize) -> Vec<Message> {
    let mut all: Vec<Message> = (0..=count).map(|number| message(name, number, SHAPE)).collect();
    if let Some(long) = all.last_mut() {
        let line = [b".".to_vec(), vec![0xe4; 900], b"\r\n".to_vec()].concat();
        long.bytes.extend(line.repeat((20 << 20) / line.len()));
    }
    all.iter_mut().for_each(|message| message.hops = 2);
    all
}

/// One message, with a recipient among the others that Postfix refuses.
fn send(client: &mut Client, name: &str, message: &Message) -> Reply {
    assert_eq!(client.command("MAIL FROM:<sender@example.org> BODY=8BITMIME").code, 250);
    for recipient in &message.recipients {
        let reply = client.command(&format!("RCPT TO:<{recipient}>"));
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    if name == "postfix" {
        assert_eq!(client.command("RCPT TO:<nobody@example.com>").code, 554);
    }
    assert_eq!(client.command("DATA").code, 354);
    client.send(&stuffed(&message.bytes));
    client.send(b".\r\n");
    client.reply()
}
