//! Clients that come over IPv6: greeted, named in the trace field as RFC 5321 §4.1.3 has it, counted by their /64.

mod common;

use common::{Client, Server, Setup, needs_root, run, tool, wait_until};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, bind, connect, socket};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

const MESSAGE: &[u8] = b"Subject: x\r\n\r\nbody\r\n";
const LOOPBACK: Ipv6Addr = Ipv6Addr::LOCALHOST;
const REFUSED: &str = "4.3.2 Too many connections from your network, try again later";

/// Listens on `address` and, at another port, on 127.0.0.1.
fn server(address: Ipv6Addr, workers: &str) -> (Server, SocketAddr) {
    let setup = Setup::new();
    let free = TcpListener::bind((address, 0)).expect("IPv6 on the loopback interface");
    let there = free.local_addr().expect("address");
    drop(free);
    let text = format!(
        "listeners:\n  - {{address: 127.0.0.1, port: {}}}\n  - {{address: \"{address}\", port: {}}}\n\
         server_name: mail.example.com\nstate: {}\nworkers: {{{workers}}}\n",
        setup.port(),
        there.port(),
        setup.state().display()
    );
    let ipv4 = SocketAddr::from(([127, 0, 0, 1], setup.port()));
    (Server::start_with(setup, &text, there), ipv4)
}

fn greeted(mut client: Client) -> Client {
    assert_eq!(client.reply().code, 220);
    client
}

fn assert_refused(mut client: Client) {
    let reply = client.reply();
    assert_eq!((reply.code, reply.text().as_str()), (421, REFUSED));
    assert!(client.is_closed());
}

/// Waits until the master has counted so many clients.
fn await_busy(server: &Server, busy: usize) {
    let lines = |said: &str| said.matches("event=status pid=").count();
    let reached = wait_until(|| {
        let before = lines(&server.said());
        server.signal(Signal::SIGUSR1);
        wait_until(|| lines(&server.said()) > before);
        let said = server.said();
        let last = said.rsplit("event=status pid=").next().unwrap_or_default();
        last.contains(&format!(" busy={busy} "))
    });
    assert!(reached, "{busy} busy workers expected:\n{}", server.said());
}

#[test]
fn a_message_over_ipv6() {
    let (server, _) = server(LOOPBACK, "");
    let mut client = greeted(server.connect());
    let hello = client.command("EHLO [IPv6:2001:db8::7]");
    assert_eq!(hello.code, 250);
    assert!(hello.text().contains("(::1 port "), "{}", hello.text());
    let reply = client.deliver("a@example.org", &["test@example.com"], MESSAGE);
    assert_eq!(reply.code, 250, "{reply:?}");
    let stored = server.await_mail("test@example.com", 1).remove(0);
    let text = String::from_utf8_lossy(&stored)
        .replace("\r\n\t", " ")
        .replace("\r\n ", " ");
    let received = text.lines().find(|line| line.starts_with("Received: "));
    let expected = "Received: from [IPv6:2001:db8::7] ([IPv6:::1]) by mail.example.com with ESMTP id ";
    assert!(received.is_some_and(|line| line.starts_with(expected)), "{text}");
    server.await_said("peer=::1", 1);
}

#[test]
fn a_source_over_ipv6_has_its_limit() {
    let (server, ipv4) = server(LOOPBACK, "per_source: 1, per_source_rate: 0, trusted: []");
    await_busy(&server, 0);
    let first = greeted(server.connect());
    await_busy(&server, 1);
    assert_refused(server.connect());
    greeted(Client::over(TcpStream::connect(ipv4).expect("connection")));
    drop(first);
}

/// A connection from `source`.
fn from(source: Ipv6Addr, server: &Server) -> Client {
    let SocketAddr::V6(to) = server.address() else {
        panic!("IPv6 only")
    };
    let fd = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(source, 0, 0, 0))).expect("bind");
    connect(fd.as_raw_fd(), &SockaddrIn6::from(to)).expect("connect");
    Client::over(TcpStream::from(fd))
}

/// In a network of its own, where the loopback interface has the addresses of three networks.
#[test]
fn a_whole_network_is_one_source() {
    const NAME: &str = "ipv6::a_whole_network_is_one_source";
    if !needs_root(NAME) {
        return;
    }
    let Some(ip) = tool(NAME, "ip") else { return };
    let test = thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            return common::skip(NAME, &format!("no network namespace: {error}"));
        }
        let addresses: Vec<Ipv6Addr> = ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"]
            .map(|text| text.parse().expect("address"))
            .to_vec();
        let ip = |words: &str| {
            let (success, said) = run(Command::new(&ip).args(words.split(' ')), b"");
            assert!(success, "ip {words}: {said}");
        };
        ip("link set lo up");
        for address in &addresses {
            ip(&format!("addr add {address}/128 dev lo nodad"));
        }
        let (server, _) = server(LOOPBACK, "per_source: 1, per_source_rate: 0, trusted: [\"::1/128\"]");
        await_busy(&server, 0);
        let first = greeted(from(addresses[0], &server));
        await_busy(&server, 1);
        assert_refused(from(addresses[1], &server));
        let other = greeted(from(addresses[2], &server));
        drop((first, other));
        server.await_said("event=source-refused peer=2001:db8:0:1:ffff::2 limit=per_source", 1);
    });
    test.join().expect("the test in its network");
}

/// Listens on both families by one name, at a port that is free on both.
fn by_name(name: &str) -> Server {
    let setup = Setup::new();
    let free =
        |port: &u16| TcpListener::bind((LOOPBACK, *port)).is_ok() && TcpListener::bind(("0.0.0.0", *port)).is_ok();
    let port = std::iter::repeat_with(|| Setup::new().port()).take(50).find(free);
    let port = port.expect("a port that is free on both families");
    let text = format!(
        "address: \"{name}\"\nport: {port}\nserver_name: mail.example.com\nstate: {}\n",
        setup.state().display()
    );
    let first = if name == "*" { [0, 0, 0, 0] } else { [127, 0, 0, 1] };
    Server::start_with(setup, &text, SocketAddr::from((first, port)))
}

/// What it says it listens on, in order.
fn listening(server: &Server) -> Vec<String> {
    let said = server.said();
    let lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("rsmtpd: listening on "));
    lines.map(str::to_owned).collect()
}

/// A message through this address.
fn assert_takes(server: &Server, address: &str) {
    let address: std::net::IpAddr = address.parse().expect("address");
    let there = SocketAddr::new(address, server.address().port());
    let stream = TcpStream::connect(there).unwrap_or_else(|e| panic!("{there}: {e}; {}", server.said()));
    let mut client = greeted(Client::over(stream));
    let hello = client.command("EHLO client.example");
    // A client over IPv4 is one, whichever socket it came by.
    let peer = if address.is_ipv4() { "(127.0.0." } else { "(::1 port " };
    assert!(hello.code == 250 && hello.text().contains(peer), "{hello:?}");
    let reply = client.deliver("a@example.org", &["test@example.com"], MESSAGE);
    assert_eq!(reply.code, 250, "{there}: {reply:?}");
}

/// Whether this machine has IPv6; otherwise `test` is named as skipped.
fn has_ipv6(test: &str) -> bool {
    let has = TcpListener::bind((LOOPBACK, 0)).is_ok();
    if !has {
        common::skip(test, "this machine has no IPv6");
    }
    has
}

#[test]
fn localhost_is_both_loopbacks_and_nothing_else() {
    if !has_ipv6("ipv6::localhost_is_both_loopbacks_and_nothing_else") {
        return;
    }
    let server = by_name("localhost");
    let port = server.address().port();
    assert_eq!(
        listening(&server),
        [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]
    );
    assert_takes(&server, "127.0.0.1");
    assert_takes(&server, "::1");
    assert_eq!(server.mail("test@example.com").len(), 2);
    // Another address of this machine.
    let elsewhere = TcpStream::connect(("127.0.0.2", port)).map_err(|error| error.kind());
    assert_eq!(elsewhere.err(), Some(std::io::ErrorKind::ConnectionRefused));
}

#[test]
fn a_star_is_every_address_of_both_families() {
    if !has_ipv6("ipv6::a_star_is_every_address_of_both_families") {
        return;
    }
    let server = by_name("*");
    let port = server.address().port();
    assert_eq!(listening(&server), [format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
    for address in ["127.0.0.1", "127.0.0.2", "::1"] {
        assert_takes(&server, address);
    }
    assert_eq!(server.mail("test@example.com").len(), 3);
}
