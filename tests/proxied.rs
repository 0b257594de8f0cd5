//! Mail goes through our proxy into a real Postfix or Exim, and from there to our
//! server: it comes out as if it had gone in directly. Postfix knows the client by
//! XCLIENT, and refuses one recipient of each message.

mod common;

use common::certificates::{ECDSA, Pair, make, pins, signed};
use common::messages::{Message, Shape, assert_each_once, message, stored};
use common::relay::Relay;
use common::{Client, PATIENCE, Reply, Server, Setup, needs_root, stuffed, tool, wait_until};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer lines than RFC 5321 allows; both are told to let them pass.
const SHAPE: Shape = Shape {
    longest_line: 20_000,
    awkward_end: true,
};

/// For Postfix and Exim: where the key and the certificate are.
const POSTFIX_KEYS: &str = "smtpd_tls_chain_files = /etc/relay/key.pem, /etc/relay/chain.pem";
const EXIM_KEYS: &str = "tls_advertise_hosts = *\ntls_certificate = /etc/relay/chain.pem\ntls_privatekey = \
                         /etc/relay/key.pem";

/// An authority, and the pair that it has signed for relay.example.org.
struct Trusted {
    ca: Pair,
    pair: Pair,
    _directory: TempDir,
}

fn trusted(test: &str) -> Option<Trusted> {
    if !needs_root(test) {
        return None;
    }
    tool(test, "openssl")?;
    let directory = tempfile::tempdir().expect("temporary directory");
    let ca = make(&directory.path().join("ca"), "authority.example", ECDSA);
    let pair = signed(&directory.path().join("pair"), "relay.example.org", &ca);
    Some(Trusted {
        ca,
        pair,
        _directory: directory,
    })
}

/// The way from the proxy to the server behind it.
#[derive(Default)]
struct Way<'a> {
    /// Lines of that server's configuration.
    more: String,
    /// Its key and certificate.
    pair: Option<&'a Pair>,
    /// Lines of proxy.yaml.
    keys: String,
    /// What the log says of the certificate.
    verified: &'static str,
}

impl Way<'_> {
    fn relay(&self, name: &str, next: SocketAddr) -> Option<Relay> {
        let Some((chain, key)) = self.pair else {
            return Relay::start(name, next);
        };
        Relay::start_with(name, next, &self.more, &[("chain.pem", chain), ("key.pem", key)])
    }
}

/// A proxy in front of `relay`.
fn proxy(relay: &Relay, keys: &str) -> Server {
    let mut setup = Setup::new();
    setup.set("worker.yaml", "command_handler", "proxy");
    let port = relay.address().port();
    setup.write("proxy.yaml", &format!("host: 127.0.0.1\nport: {port}\n{keys}"));
    setup.whatever_it_says().start()
}

#[test]
fn through_postfix() {
    proxied("proxied::through_postfix", "postfix", 1_000, &Way::default());
}

/// TLS is demanded on both sides, and the client is known by XCLIENT inside it.
#[test]
fn through_postfix_under_tls() {
    let test = "proxied::through_postfix_under_tls";
    let Some(trusted) = trusted(test) else { return };
    let way = Way {
        more: format!("{POSTFIX_KEYS}\nsmtpd_tls_security_level = encrypt"),
        pair: Some(&trusted.pair),
        keys: format!(
            "tls: required\ntls_ca_file: {}\ntls_name: relay.example.org\n",
            trusted.ca.0.display()
        ),
        verified: "ca",
    };
    proxied(test, "postfix", 200, &way);
}

#[test]
fn through_postfix_under_implicit_tls() {
    let test = "proxied::through_postfix_under_implicit_tls";
    let Some(trusted) = trusted(test) else { return };
    let way = Way {
        more: format!("{POSTFIX_KEYS}\nsmtpd_tls_wrappermode = yes\nsmtpd_tls_security_level = encrypt"),
        pair: Some(&trusted.pair),
        keys: format!("tls: implicit\ntls_pins: {}\n", pins(&trusted.pair)[1]),
        verified: "pin",
    };
    proxied(test, "postfix", 100, &way);
}

#[test]
fn through_exim_under_tls() {
    let test = "proxied::through_exim_under_tls";
    let Some(trusted) = trusted(test) else { return };
    let way = Way {
        more: EXIM_KEYS.to_owned(),
        pair: Some(&trusted.pair),
        keys: "tls: opportunistic\n".to_owned(),
        verified: "no",
    };
    proxied(test, "exim", 100, &way);
}

/// Postfix is reached by whoever asks for what it has, and by nobody else.
#[test]
fn postfix_proves_who_it_is() {
    let test = "proxied::postfix_proves_who_it_is";
    let Some(trusted) = trusted(test) else { return };
    if tool(test, "unshare").is_none() {
        return;
    }
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let ca = |pair: &Pair| format!("tls_ca_file: {}\n", pair.0.display());
    let [pin, key_pin] = pins(&trusted.pair);
    let stranger = make(&trusted.ca.0.with_file_name("stranger"), "stranger.example", ECDSA);
    for (mode, level) in [
        ("required", "smtpd_tls_security_level = may"),
        ("implicit", "smtpd_tls_wrappermode = yes"),
    ] {
        let way = Way {
            more: format!("{POSTFIX_KEYS}\n{level}"),
            pair: Some(&trusted.pair),
            ..Way::default()
        };
        let Some(relay) = way.relay("postfix", nowhere) else {
            return;
        };
        for (keys, right) in [
            (format!("{}tls_name: relay.example.org\n", ca(&trusted.ca)), true),
            (format!("{}tls_name: relay.example.org\n", ca(&stranger)), false),
            (format!("{}tls_name: other.example.org\n", ca(&trusted.ca)), false),
            (format!("tls_pins: {pin}\n"), true),
            (format!("tls_pins: \"{key_pin}\"\n"), true),
            (format!("tls_pins: {}\n", pins(&stranger)[0]), false),
        ] {
            let proxy = proxy(&relay, &format!("tls: {mode}\n{keys}"));
            let greeting = proxy.connect().reply();
            let expected = if right { 220 } else { 421 };
            assert_eq!(greeting.code, expected, "{mode} {keys}: {}", proxy.said());
        }
        if mode == "required" {
            let proxy = proxy(&relay, "tls: opportunistic\n");
            assert_eq!(proxy.hello().command("NOOP").code, 250);
            proxy.await_said("verified=no", 1);
        }
    }
}

/// Greeted at this address of the loopback network.
fn from(server: &Server, source: [u8; 4]) -> Client {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    let [a, b, c, d] = source;
    bind(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).expect("bind");
    let SocketAddr::V4(to) = server.address() else {
        panic!("IPv4 only")
    };
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).expect("connect");
    let mut client = Client::over(TcpStream::from(fd));
    assert_eq!(client.reply().code, 220);
    client
}

/// What Postfix grants to this host it grants to no client, whatever that begins with: mail to anywhere, here, and a name
/// that is refused to nobody else, or to everybody else.
#[test]
fn a_stranger_is_one_to_postfix() {
    let test = "proxied::a_stranger_is_one_to_postfix";
    if !needs_root(test) || tool(test, "unshare").is_none() {
        return;
    }
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let more = "mynetworks = 127.0.0.1/32\nsmtpd_authorized_xclient_hosts = 127.0.0.1/32\nsmtpd_delay_reject = no\n\
                smtpd_helo_restrictions = check_helo_access inline:{bad.example=REJECT, later.example=DEFER}, \
                permit_mynetworks, check_helo_access inline:{ours.example=REJECT}";
    let Some(relay) = Relay::start_with("postfix", nowhere, more, &[]) else {
        return;
    };
    let proxy = proxy(&relay, "");
    let mail = ["MAIL FROM:<a@b.example>", "RCPT TO:<user@elsewhere.example>"];
    for first in [
        &[("EHLO client.example", 250)][..],
        &[("HELO client.example", 250)],
        &[("EHLO bad.example", 554), ("HELO client.example", 250)],
        &[("EHLO later.example", 450), ("EHLO client.example", 250)],
        &[("EHLO later.example", 450), ("NOOP", 250), ("HELO client.example", 250)],
        &[("EHLO ours.example", 554), ("EHLO client.example", 250)],
        &[("HELO bad.example", 554), ("RSET", 250), ("EHLO client.example", 250)],
        &[("VRFY x", 454), ("EHLO client.example", 250)],
    ] {
        let mut client = from(&proxy, [127, 0, 0, 2]);
        for (line, code) in first {
            assert_eq!(client.command(line).code, *code, "{first:?}");
        }
        assert_eq!(client.command(mail[0]).code, 250, "{first:?}");
        let reply = client.command(mail[1]);
        assert!(reply.text().contains("Relay access denied"), "{first:?}: {reply:?}");
        assert_eq!(client.command("QUIT").code, 221);
    }
    let mut client = from(&proxy, [127, 0, 0, 1]);
    for line in ["EHLO ours.example", mail[0], mail[1]] {
        assert_eq!(client.command(line).code, 250, "{line}");
    }
}

/// Killed when the session is that far, Postfix has taken nothing of which the client hears a 250.
#[test]
fn postfix_killed_at_each_step() {
    let test = "proxied::postfix_killed_at_each_step";
    if !needs_root(test) || tool(test, "unshare").is_none() {
        return;
    }
    let steps = [
        ("", "at=greeting "),
        ("EHLO client.example", "at=MAIL "),
        ("MAIL FROM:<sender@example.org>", "at=RCPT "),
        ("RCPT TO:<test@example.com>", "at=DATA "),
        ("DATA", "recipients=1 body=true "),
        ("text", "recipients=1 body=true "),
        ("end", "may have taken the message"),
    ];
    let server = Server::start();
    for (number, (step, told)) in steps.into_iter().enumerate() {
        let Some(relay) = Relay::start("postfix", server.address()) else {
            return;
        };
        let proxy = proxy(&relay, "");
        let mut client = (number > 0).then(|| proxy.connect());
        if let Some(client) = &mut client {
            assert_eq!(client.reply().code, 220);
            for (line, _) in &steps[1..=number.min(4)] {
                assert!(matches!(client.command(line).code, 250 | 354), "{line}");
            }
        }
        let text = b"Subject: x\r\n\r\n0123456789\r\n".repeat(10_000);
        let half = text.len() / 2;
        match (step, &mut client) {
            ("text", Some(client)) => client.send(&text[..half]),
            ("end", Some(client)) => client.send(&text),
            _ => {}
        }
        relay.freeze();
        if step == "end" {
            // It was told the end, and cannot say what it thinks of it.
            client.as_mut().expect("a client").send(b".\r\n");
            assert!(wait_until(|| unread(relay.address()) > 0), "the end does not get there");
        }
        drop(relay);
        let mut client = client.unwrap_or_else(|| proxy.connect());
        let _ = match step {
            "" => Ok(()),
            "DATA" => client.stream().write_all(&[text.as_slice(), b".\r\n"].concat()),
            "text" => client.stream().write_all(&[&text[half..], b".\r\n"].concat()),
            "end" => Ok(()),
            _ => client
                .stream()
                .write_all(format!("{}\r\n", steps[number + 1].0).as_bytes()),
        };
        let reply = client.reply();
        assert_eq!(reply.code, 421, "{step}: {reply:?}");
        proxy.await_said("event=back-end-lost", 1);
        let said = proxy.said();
        assert!(
            said.contains(told) && !said.contains("event=message "),
            "{step}: {said}"
        );
        assert_eq!(stored(&server), 0, "{step}");
    }
}

fn proxied(test: &str, name: &str, count: usize, way: &Way<'_>) {
    if !needs_root(test) || tool(test, "unshare").is_none() {
        return;
    }
    let server = Server::start();
    let Some(relay) = way.relay(name, server.address()) else {
        return;
    };
    let proxy = proxy(&relay, &way.keys);
    let sent = messages(name, count);
    thread::scope(|scope| {
        for part in sent.chunks(count.div_ceil(4)) {
            let proxy = &proxy;
            scope.spawn(move || {
                // Neither side lets too many errors pass in one session.
                for some in part.chunks(50) {
                    let mut client = proxy.hello();
                    for message in some {
                        let reply = send(&mut client, name, message);
                        assert_eq!(reply.code, 250, "{name}: {reply:?}");
                    }
                    assert_eq!(client.command("QUIT").code, 221);
                }
            });
        }
    });
    let files: usize = sent.iter().map(|message| message.recipients.len()).sum();
    let end = Instant::now() + 3 * PATIENCE;
    while stored(&server) < files && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(assert_each_once(&server, &sent), files);
    if !way.verified.is_empty() {
        proxy.await_said(&format!(" verified={}", way.verified), 4);
    }
    assert_eq!(proxy.said().contains("event=back-end-tls"), !way.verified.is_empty());
    assert!(!proxy.said().contains("event=back-end-plain"));
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

/// Octets that connections to a server wait for it to read.
fn unread(server: SocketAddr) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let local = format!("0100007F:{:04X}", server.port());
    let of_server = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_server = of_server.filter(|fields| fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"01"));
    let queues = of_server.filter_map(|fields| fields.get(4)?.split_once(':'));
    queues
        .filter_map(|(_, unread)| u64::from_str_radix(unread, 16).ok())
        .sum()
}
