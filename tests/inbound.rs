//! Clients that are not at the other end of their connection: PROXY headers before everything else, and XCLIENT.

mod common;

use common::certificates::{self, ECDSA, make};
use common::{Client, Server, Setup, run, tool, wait_until};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// What begins a header of version 2 for a client over IPv4; its block follows.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11";

/// A header of version 2 from 198.51.100.9 port 4711 to 192.0.2.25 port 25, with these further values.
fn v2(values: &[u8]) -> Vec<u8> {
    let addresses = [198, 51, 100, 9, 192, 0, 2, 25, 0x12, 0x67, 0, 25];
    let length = u16::try_from(addresses.len() + values.len()).expect("short");
    [V2, &length.to_be_bytes(), &addresses, values].concat()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
    listener.local_addr().expect("address").port()
}

/// A server whose listeners these are, the last one without any ado; `more` goes into rsmtpd.yaml.
fn listening(setup: Setup, listeners: &[(u16, &str)], more: &str) -> Server {
    let mut text = format!("server_name: mail.example.com\nstate: {}\n", setup.state().display());
    text += more;
    text += "\nlisteners:\n";
    for (port, rest) in listeners {
        text += &format!("  - {{address: 127.0.0.1, port: {port}{rest}}}\n");
    }
    let (port, _) = listeners.last().expect("at least one");
    Server::start_with(setup, &text, ([127, 0, 0, 1], *port).into())
}

/// A server with a listener for proxies on this machine.
struct ForProxies {
    server: Server,
    address: SocketAddr,
}

impl ForProxies {
    fn start(setup: Setup, more: &str) -> ForProxies {
        let (port, plain) = (free_port(), free_port());
        let server = listening(setup, &[(port, ", proxy_protocol: [127.0.0.0/8]"), (plain, "")], more);
        let address = ([127, 0, 0, 1], port).into();
        ForProxies { server, address }
    }

    fn connect(&self, header: &[u8]) -> Client {
        let mut client = Client::over(TcpStream::connect(self.address).expect("connection"));
        client.send(header);
        client
    }

    /// The one line of the log with this event that was not there before; `count` were.
    fn line(&self, event: &str, count: usize) -> String {
        self.server.await_said(event, count + 1);
        let said = self.server.said();
        let mut lines = said.lines().filter(|line| line.contains(event));
        lines.nth(count).expect("awaited").to_owned()
    }
}

#[test]
fn a_header_names_the_client_everywhere() {
    let setup = Setup::new();
    let records = setup.aside().join("records");
    std::fs::create_dir(&records).expect("directory");
    // As in /tmp: whoever writes records may make files here.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(&records, mode).expect("mode");
    let path = records.display();
    setup.write("transaction_log.yaml", &format!("log_path: {path}\nformat: jsonl\n"));
    let entry = "{handler: transaction_log, mode: observe}";
    let chain = setup.read("command_handler_standard_server.yaml");
    let chain = chain.replace("__OPEN__:\n", &format!("__OPEN__:\n  - {entry}\n"));
    assert!(chain.contains(entry));
    setup.write("command_handler_standard_server.yaml", &chain);
    let proxies = ForProxies::start(setup, "sandbox: require");
    let values = [&[0x02, 0, 11][..], b"sni.example"].concat();
    for (header, client, local) in [
        (
            b"PROXY TCP4 198.51.100.7 192.0.2.25 4711 25\r\n".to_vec(),
            "198.51.100.7",
            "192.0.2.25:25",
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::25 4711 25\r\n".to_vec(),
            "2001:db8::7",
            "[2001:db8::25]:25",
        ),
        (v2(&values), "198.51.100.9", "192.0.2.25:25"),
    ] {
        let before = proxies.server.mail("test@example.com").len();
        let mut session = proxies.connect(&header);
        assert_eq!(session.reply().code, 220, "{client}");
        let hello = session.command("EHLO client.example");
        assert!(hello.lines[0].contains(&format!("({client} port 4711)")), "{hello:?}");
        assert_eq!(
            session
                .deliver("a@client.example", &["test@example.com"], b"Subject: x\r\n\r\nx\r\n")
                .code,
            250
        );
        assert_eq!(session.command("QUIT").code, 221);
        let mail = proxies.server.await_mail("test@example.com", before + 1);
        let literal = if client.contains(':') {
            format!("[IPv6:{client}]")
        } else {
            format!("[{client}]")
        };
        let received = format!("from client.example ({literal})");
        let found = mail
            .iter()
            .any(|text| String::from_utf8_lossy(text).contains(&received));
        assert!(found, "{received}");
        let connect = proxies.line(&format!("event=connect session={}", session_of(&proxies, client)), 0);
        assert!(
            connect.contains(&format!("peer={client} port=4711 local={local} via=127.0.0.1:")),
            "{connect}"
        );
        proxies.server.await_said(&format!("peer={client} reason=quit"), 1);
    }
    wait_until(|| record(&records).matches("\"event\":\"close\"").count() == 3);
    let text = record(&records);
    assert_eq!(
        text.matches("\"peer\":\"198.51.100.9:4711\",\"via\":\"127.0.0.1:")
            .count(),
        3,
        "{text}"
    );
    let proxy = "\"proxy\":{\"version\":2,\"for\":\"client\",\"values_base64\":\"AgALc25pLmV4YW1wbGU=\"}";
    assert!(text.contains(proxy), "{text}");
}

/// The session of the client with this address.
fn session_of(proxies: &ForProxies, client: &str) -> String {
    let words = format!("peer={client} ");
    proxies.server.await_said(&words, 1);
    let said = proxies.server.said();
    let line = said
        .lines()
        .find(|line| line.contains("event=connect") && line.contains(&words));
    let line = line.expect("a connection");
    let session = line.split("session=").nth(1).and_then(|rest| rest.split(' ').next());
    session.expect("a session").to_owned()
}

fn record(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("transaction_log.jsonl")).unwrap_or_default()
}

#[test]
fn whom_a_proxy_does_not_name_is_the_proxy() {
    let proxies = ForProxies::start(Setup::new(), "xclient: [127.0.0.1]");
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec();
    let unspecified = b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x03abc".to_vec();
    for (header, may_introduce) in [
        (local, true),
        (unspecified, false),
        (b"PROXY UNKNOWN\r\n".to_vec(), false),
        (b"PROXY UNKNOWN 198.51.100.7 whatever\r\n".to_vec(), false),
        (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n".to_vec(), true),
        (b"PROXY TCP4 127.0.1.1 127.0.0.1 1 25\r\n".to_vec(), false),
    ] {
        let mut client = proxies.connect(&header);
        assert_eq!(client.reply().code, 220);
        let hello = client.command("EHLO client.example").text();
        assert!(hello.contains("(127.0."), "{hello}");
        // The rights of the proxy are not those of a client that could be anybody.
        assert_eq!(hello.contains("\nXCLIENT "), may_introduce, "{header:?}");
        assert_eq!(client.command("QUIT").code, 221);
    }
}

/// However the octets come, what stands behind the header is heard, once, and after the greeting.
#[test]
fn octets_behind_a_header_are_neither_lost_nor_early() {
    let proxies = ForProxies::start(Setup::new(), "");
    let big = [&[0xea, 0x0f, 0x00][..], &[b'x'; 0xf00]].concat();
    for header in [
        b"PROXY TCP4 198.51.100.7 192.0.2.25 4711 25\r\n".to_vec(),
        v2(&[]),
        v2(&big),
    ] {
        for cut in [1, 3, 12, 15, header.len() - 1, header.len()] {
            let whole = [header.as_slice(), b"EHLO client.example\r\nQUIT\r\n"].concat();
            let (first, second) = whole.split_at(cut);
            let mut client = proxies.connect(first);
            // Nothing is said before the header is there.
            if cut < header.len() {
                assert!(client.is_quiet());
            }
            client.send(second);
            let codes = [client.reply().code, client.reply().code, client.reply().code];
            assert_eq!(codes, [220, 250, 221], "{cut}");
            assert!(client.is_closed());
        }
    }
    // Octet by octet.
    let mut client = proxies.connect(b"");
    for octet in [&v2(&[4, 0, 2, 1, 1])[..], b"NOOP\r\n"].concat() {
        client.send(&[octet]);
    }
    assert_eq!([client.reply().code, client.reply().code], [220, 250]);
}

#[test]
fn without_a_header_nothing_is_served() {
    let proxies = ForProxies::start(Setup::new(), "");
    let too_big = [V2, &[0xff, 0xff], &[0; 5000][..]].concat();
    let bad_version = b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c".to_vec();
    let hostile: [&[u8]; 8] = [
        b"EHLO client.example\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.25 4711 25\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.25 4711 99999\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
        &bad_version,
        &too_big,
        &[V2, &[0, 12, 1, 2, 3]].concat(), // closes before the rest
    ];
    for (number, octets) in hostile.iter().enumerate() {
        let mut client = proxies.connect(octets);
        client.stream().shutdown(std::net::Shutdown::Write).expect("shutdown");
        assert!(client.is_closed(), "{number}: nothing is said");
        let line = proxies.line("event=no-proxy-header", number);
        assert!(line.contains("peer=127.0.0.1 error=\""), "{line}");
        let end = proxies.line("reason=no-proxy-header", number);
        assert!(
            end.contains("odd=no_proxy_header") && end.contains("commands=0"),
            "{end}"
        );
    }
    // A client that waits for the greeting, and one that takes its time, are closed after five seconds: not at once, and
    // long before they lose patience.
    let began = Instant::now();
    let (mut silent, mut slow) = (proxies.connect(b""), proxies.connect(b"PROXY "));
    let dribble = slow.stream().try_clone().expect("stream");
    let dribbling = thread::spawn(move || {
        let mut stream = dribble;
        while stream.write_all(b"U").is_ok() {
            thread::sleep(Duration::from_millis(500));
        }
    });
    for client in [&mut silent, &mut slow] {
        assert!(client.is_closed());
        let waited = began.elapsed();
        assert!((4..9).contains(&waited.as_secs()), "{waited:?}");
    }
    dribbling.join().expect("it ends");
    let line = proxies.line("event=no-proxy-header", hostile.len());
    assert!(line.contains("it took too long"), "{line}");
    // And the server goes on.
    assert_eq!(proxies.connect(&v2(&[])).reply().code, 220);
}

#[test]
fn who_is_no_proxy_is_refused_and_a_header_elsewhere_is_garbage() {
    let (closed, plain) = (free_port(), free_port());
    let listeners = [(closed, ", proxy_protocol: [192.0.2.0/24]"), (plain, "")];
    let server = listening(Setup::new(), &listeners, "");
    let paste = format!("smtplib.SMTP(\"127.0.0.1\", {plain})");
    assert!(server.said().contains(&paste), "a test message goes where it is taken");
    let mut client = Client::over(TcpStream::connect(("127.0.0.1", closed)).expect("connection"));
    client.send(&v2(&[]));
    assert_eq!(client.reply().text(), "4.3.2 This port serves proxies only");
    assert!(client.is_closed());
    server.await_said("event=proxy-refused peer=127.0.0.1", 1);

    for (header, code) in [
        (b"PROXY TCP4 198.51.100.7 192.0.2.25 4711 25\r\n".to_vec(), 500),
        (v2(&[]), 500),
    ] {
        let mut client = server.connect();
        client.send(&header);
        assert_eq!(client.reply().code, 220);
        assert_eq!(client.reply().code, code);
        drop(client);
    }
    server.await_said("unasked_proxy_header", 2);
    let said = server.said();
    assert!(!said.contains("peer=198.51.100.7"), "{said}");
}

/// The sources that are counted are the clients, not the proxy.
#[test]
fn limits_are_those_of_the_client_s_source() {
    let workers = "workers: {per_source: 2, per_source_rate: 0, trusted: []}";
    let proxies = ForProxies::start(Setup::new(), &format!("{workers}\nxclient: [127.0.0.1]"));
    let header = |client: &str| format!("PROXY TCP4 {client} 192.0.2.25 4711 25\r\n").into_bytes();
    let greeted = |client: &str| {
        let mut session = proxies.connect(&header(client));
        assert_eq!(session.reply().code, 220, "{client}");
        session
    };
    let mut held: Vec<Client> = (1..=5).map(|number| greeted(&format!("198.51.100.{number}"))).collect();
    held.extend([greeted("198.51.100.9"), greeted("198.51.100.9")]);
    // Refused before the greeting; or at the next command, as the master hears of all three at once.
    let refused = || {
        let mut third = proxies.connect(&header("198.51.100.9"));
        third.reply().code == 421
    };
    assert!(wait_until(refused));
    let limit = "limit=per_source count=";
    let told = format!("event=source-refused peer=198.51.100.9 {limit}");
    proxies.server.await_said(&told, 1);
    greeted("198.51.100.10");
    held.clear();
    assert!(wait_until(
        || proxies.connect(&header("198.51.100.9")).reply().code == 220
    ));
    // And by XCLIENT: the connection counts for the server in front until then.
    let mut all = Vec::new();
    let told = format!("event=source-refused peer=203.0.113.5 {limit}");
    let one_too_many = wait_until(|| {
        let mut client = proxies.server.connect();
        if client.reply().code == 220 && client.command("XCLIENT ADDR=203.0.113.5").code == 220 {
            all.push(client);
        }
        proxies.server.said().contains(&told)
    });
    assert!(one_too_many && all.len() > 2, "{}", proxies.server.said());
}

#[test]
fn a_header_comes_before_tls() {
    let test = "inbound::a_header_comes_before_tls";
    if tool(test, "openssl").is_none() {
        return;
    }
    let setup = Setup::new();
    let pair = make(&setup.aside().join("one"), "mail.example.com", ECDSA);
    let tls = certificates::block(&certificates::entry(".example.com", "mail.example.com", &pair));
    let (implicit, starttls, plain) = (free_port(), free_port(), free_port());
    let proxied = ", proxy_protocol: [127.0.0.1]";
    let secure = format!("{proxied}, tls: implicit");
    let listeners = [(implicit, secure.as_str()), (starttls, proxied), (plain, "")];
    let server = listening(setup, &listeners, &format!("sandbox: require\ntls: {tls}"));
    for (port, arguments) in [(implicit, &[][..]), (starttls, &["-starttls", "smtp"][..])] {
        let through = proxy_in_front(([127, 0, 0, 1], port).into());
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-crlf", "-connect", &through.to_string()]);
        let (_, said) = run(command.args(arguments), b"EHLO client.example\nQUIT\n");
        assert!(said.contains("(198.51.100.9 port 4711)"), "{said}");
    }
    // A handshake without a header is none.
    let mut early = Client::over(TcpStream::connect(("127.0.0.1", implicit)).expect("connection"));
    early.send(b"\x16\x03\x01\x02\x00");
    assert!(early.is_closed());
    server.await_said("event=no-proxy-header", 1);
}

/// Forwards one connection to `to`, with a header of version 2 in front and the client's first octets in the same segment
/// where there are any.
fn proxy_in_front(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("client");
        let mut server = TcpStream::connect(to).expect("server");
        client
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("timeout");
        let mut first = [0; 4096];
        let length = client.read(&mut first).unwrap_or(0);
        client.set_read_timeout(None).expect("timeout");
        server
            .write_all(&[&v2(&[])[..], &first[..length]].concat())
            .expect("sent");
        let (mut back, mut there) = (server.try_clone().expect("stream"), client.try_clone().expect("stream"));
        thread::spawn(move || {
            let _ = std::io::copy(&mut back, &mut there);
            let _ = there.shutdown(std::net::Shutdown::Both);
        });
        let _ = std::io::copy(&mut client, &mut server);
        let _ = server.shutdown(std::net::Shutdown::Write);
    });
    address
}

/// Our own proxy speaks to our own listener by each of its ways.
#[test]
fn our_own_proxy_tells_our_own_server() {
    for (send, xclient) in [("v1", "no"), ("v2", "no"), ("no", "yes"), ("v2", "yes")] {
        let (port, plain) = (free_port(), free_port());
        let mut listeners = vec![(plain, "")];
        if send != "no" {
            listeners.insert(0, (port, ", proxy_protocol: [127.0.0.1]"));
        }
        let networks = if xclient == "yes" { "xclient: [127.0.0.1]" } else { "" };
        let server = listening(Setup::new(), &listeners, networks);
        let mut setup = Setup::new();
        setup.set("worker.yaml", "command_handler", "proxy");
        let to = if send == "no" { plain } else { port };
        setup.write(
            "proxy.yaml",
            &format!("host: 127.0.0.1\nport: {to}\nsend_proxy: {send}\n"),
        );
        let proxy = setup.start();
        let mut client = proxy.connect();
        let here = client.stream().local_addr().expect("address");
        assert_eq!(client.reply().code, 220);
        let hello = client.command("EHLO client.example").text();
        assert!(
            hello.contains(&format!("(127.0.0.1 port {})", here.port())),
            "{send} {xclient}: {hello}"
        );
        assert!(!hello.contains("XCLIENT"), "{hello}");
        assert_eq!(client.deliver("a@b.example", &["test@example.com"], b"x\r\n").code, 250);
        assert_eq!(server.await_mail("test@example.com", 1).len(), 1);
    }
}

/// A server in front of our proxy: the back end hears of each client by a connection of its own.
#[test]
fn a_back_end_hears_of_each_client() {
    let back_end = ForProxies::start(Setup::new(), "");
    let mut setup = Setup::new();
    setup.set("worker.yaml", "command_handler", "proxy");
    setup.set("rsmtpd.yaml", "xclient", "[127.0.0.1]");
    let port = back_end.address.port();
    setup.write(
        "proxy.yaml",
        &format!("host: 127.0.0.1\nport: {port}\nsend_proxy: v2\n"),
    );
    let server = setup.start();
    let mut client = server.connect();
    assert_eq!(client.reply().code, 220);
    for (number, (address, told)) in [("192.0.2.1", "192.0.2.1"), ("IPV6:2001:db8::1", "2001:db8::1")]
        .into_iter()
        .enumerate()
    {
        let hello = client.command("EHLO front.example").text();
        assert!(hello.contains("\nXCLIENT NAME ADDR"), "{hello}");
        assert_eq!(client.command(&format!("XCLIENT ADDR={address} PORT=7")).code, 220);
        assert_eq!(client.command("EHLO client.example").code, 250);
        assert_eq!(client.deliver("a@b.example", &["test@example.com"], b"x\r\n").code, 250);
        back_end.server.await_mail("test@example.com", number + 1);
        back_end.line(&format!("peer={told} port=7 "), 0);
    }
    assert_eq!(client.command("QUIT").code, 221);
}

#[test]
fn xclient_is_for_those_who_may() {
    // Where nobody may, it is a command of an extension that is not served.
    let server = Server::start();
    let mut client = server.hello();
    let reply = client.command("XCLIENT ADDR=192.0.2.1");
    let text = reply.text();
    assert!(
        reply.code == 502 && text == "5.5.1 command not implemented",
        "{reply:?}"
    );
    assert_eq!(client.command("QUIT").code, 221);
    server.await_said("odd=unauthorized_xclient", 1);
    let mut setup = Setup::new();
    setup.set("rsmtpd.yaml", "xclient", "[192.0.2.0/24, \"::1\"]");
    setup.set("rsmtpd.yaml", "sandbox", "require");
    let mut server = setup.start();
    let mut client = server.hello();
    let reply = client.command("XCLIENT ADDR=192.0.2.1");
    let text = reply.text();
    assert!(
        reply.code == 550 && text == "5.7.0 not authorized to speak for others",
        "{reply:?}"
    );
    assert!(!client.command("EHLO client.example").text().contains("XCLIENT"));
    assert_eq!(client.command("QUIT").code, 221);
    server.await_said("odd=unauthorized_xclient", 1);
    // Who may is told anew by a reload.
    let text = server.setup().read("rsmtpd.yaml");
    let text = text.replace("[192.0.2.0/24, \"::1\"]", "127.0.0.1");
    server.setup().write("rsmtpd.yaml", &text);
    server.signal(Signal::SIGHUP);
    assert!(wait_until(|| server
        .hello_text()
        .contains("\nXCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT")));
    let mut client = server.hello();
    for (line, code) in [
        ("MAIL FROM:<a@b.example>", 250),
        ("XCLIENT ADDR=198.51.100.1", 503),
        ("RSET", 250),
        ("XCLIENT", 501),
        ("XCLIENT NAME=a+", 501),
        (
            "XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::5 PORT=4711 HELO=x+20y LOGIN=joe PROTO=SMTP",
            220,
        ),
        ("MAIL FROM:<a@b.example>", 503),
        ("HELO client.example", 250),
    ] {
        let reply = client.command(line);
        assert_eq!(reply.code, code, "{line}: {reply:?}");
    }
    assert_eq!(client.deliver("a@b.example", &["test@example.com"], b"x\r\n").code, 250);
    let mail = server.await_mail("test@example.com", 1).remove(0);
    let mail = String::from_utf8_lossy(&mail).into_owned();
    assert!(mail.contains("from client.example ([IPv6:2001:db8::5])"), "{mail}");
    assert!(mail.contains("with SMTP id"), "{mail}");
    server.await_said("event=xclient ", 1);
    let said = server.said();
    assert!(said.contains(" helo=\"x y\" login=\"joe\" proto=SMTP"), "{said}");
    assert!(said.contains(" via=127.0.0.1:"), "{said}");
}

#[test]
fn swaks_speaks_for_others() {
    let Some(swaks) = tool("inbound::swaks_speaks_for_others", "swaks") else {
        return;
    };
    let proxies = ForProxies::start(Setup::new(), "xclient: [127.0.0.1]");
    let plain = proxies.server.address().to_string();
    let proxied = proxies.address.to_string();
    let xclient = [
        ["--xclient-addr", "198.51.100.7"],
        ["--xclient-name", "named.example"],
        ["--xclient-helo", "claimed example"],
        ["--xclient-login", "joe@example"],
    ];
    let split = [
        ["--xclient-helo", "claimed"],
        ["--xclient-delim", "--xclient-name"],
        ["named.example", "--xclient-addr"],
    ];
    let ways: [(&str, &str, Vec<&str>, &str); 4] = [
        ("xclient", &plain, xclient.concat(), "(named.example [198.51.100.7])"),
        (
            "split",
            &plain,
            [&split.concat()[..], &["198.51.100.8"]].concat(),
            "(named.example [198.51.100.8])",
        ),
        ("v1", &proxied, proxy_of_swaks("1"), "([198.51.100.3])"),
        ("v2", &proxied, proxy_of_swaks("2"), "([198.51.100.3])"),
    ];
    for (number, (name, server, arguments, received)) in ways.into_iter().enumerate() {
        let mut command = Command::new(&swaks);
        command.args([
            "--server",
            server,
            "--from",
            "a@client.example",
            "--to",
            "test@example.com",
        ]);
        command.args(["--helo", "client.example"]).args(arguments);
        let (success, said) = run(&mut command, b"");
        assert!(success, "{name}: {said}");
        let mail = proxies.server.await_mail("test@example.com", number + 1);
        let wanted = format!("from client.example {received}");
        let found = mail.iter().any(|text| String::from_utf8_lossy(text).contains(&wanted));
        assert!(found, "{name}: no {wanted}; swaks said {said}");
    }
}

fn proxy_of_swaks(version: &'static str) -> Vec<&'static str> {
    let mut arguments = vec!["--proxy-version", version, "--proxy-family"];
    let tcp = if version == "1" { "TCP4" } else { "AF_INET" };
    arguments.extend([tcp, "--proxy-source", "198.51.100.3", "--proxy-source-port", "4711"]);
    arguments.extend(["--proxy-dest", "192.0.2.25", "--proxy-dest-port", "25"]);
    if version == "2" {
        arguments.extend(["--proxy-protocol", "STREAM", "--proxy-command", "PROXY"]);
    }
    arguments
}

/// A real proxy: HAProxy by both versions, its checks included.
#[test]
fn haproxy_passes_clients_on() {
    let Some(haproxy) = tool("inbound::haproxy_passes_clients_on", "haproxy") else {
        return;
    };
    let proxies = ForProxies::start(Setup::new(), "");
    let (first, second) = (free_port(), free_port());
    let to = proxies.address;
    let aside = tempfile::tempdir().expect("directory");
    let file = aside.path().join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n\
         listen one\n  bind 127.0.0.1:{first}\n  server one {to} send-proxy check inter 200ms\n\
         listen two\n  bind 127.0.0.1:{second}\n  server two {to} send-proxy-v2 check inter 200ms\n"
    );
    std::fs::write(&file, text).expect("file");
    let child = Command::new(haproxy).arg("-db").arg("-f").arg(&file).spawn();
    let _ended = Ended(child.expect("it starts"));
    for port in [first, second] {
        await_passed_on(&proxies, port);
    }
}

/// Waits until a proxy at this port has passed a client on as whom it is.
fn await_passed_on(proxies: &ForProxies, port: u16) {
    let served = wait_until(|| {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        let here = stream.local_addr().expect("address").port();
        let mut client = Client::over(stream);
        let hello = client.try_reply().map(|_| client.command("EHLO client.example").text());
        hello.is_ok_and(|hello| hello.contains(&format!("port {here})")))
    });
    assert!(served, "{port}: {}", proxies.server.said());
}

/// Another real one: nginx, as a proxy of streams.
#[test]
fn nginx_passes_clients_on() {
    const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let Some(nginx) = tool("inbound::nginx_passes_clients_on", "nginx") else {
        return;
    };
    if !std::path::Path::new(MODULE).exists() {
        return common::skip("inbound::nginx_passes_clients_on", "its stream module is not installed");
    }
    let proxies = ForProxies::start(Setup::new(), "");
    let (port, to) = (free_port(), proxies.address);
    let aside = tempfile::tempdir().expect("directory");
    let file = aside.path().join("nginx.conf");
    let text = format!(
        "load_module {MODULE};\ndaemon off;\nmaster_process off;\nerror_log stderr;\npid {}/pid;\nevents {{}}\n\
         stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass {to}; proxy_protocol on; }} }}\n",
        aside.path().display()
    );
    std::fs::write(&file, text).expect("file");
    let mut command = Command::new(nginx);
    command
        .args(["-e", "stderr", "-p"])
        .arg(aside.path())
        .arg("-c")
        .arg(&file);
    let _ended = Ended(command.spawn().expect("it starts"));
    await_passed_on(&proxies, port);
}

/// A program of ours, which ends with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A worker has a number for each of them, and for what it has of its own.
#[test]
fn as_many_addresses_as_workers_have_numbers_for() {
    let mut ports = [(0, ""); 27];
    ports[26].0 = free_port();
    let server = listening(Setup::new(), &ports, "");
    for _ in 0..12 {
        let reply = server
            .hello()
            .deliver("a@client.example", &["test@example.com"], b"Subject: x\r\n\r\nx\r\n");
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    assert!(!server.said().contains("worker-failed"), "{}", server.said());
    let setup = Setup::new();
    let ports = "{address: 127.0.0.1, port: 0}, ".repeat(28);
    let state = setup.state().display().to_string();
    setup.write("rsmtpd.yaml", &format!("state: {state}\nlisteners: [{ports}]\n"));
    let (status, said) = setup.refuse();
    assert_eq!(status, Some(78), "{said}");
    assert!(said.contains("expected at most 27"), "{said}");
}
