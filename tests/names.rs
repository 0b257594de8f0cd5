//! What the DNS says of a client and of a back end, through the broker, from a name server of our own.

mod common;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::back_end::{BackEnd, Script};
use common::dns::{Dns, Says};
use common::{Server, Setup, wait_until};
use nix::sys::signal::Signal;

const REVERSE: &str = "1.0.0.127.in-addr.arpa";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn set_servers(setup: &mut Setup, servers: &[&Dns]) {
    let list: Vec<String> = servers.iter().map(|dns| format!("\"{}\"", dns.address())).collect();
    setup.set("rsmtpd.yaml", "nameservers", &format!("[{}]", list.join(", ")));
}

/// A server that looks clients up at `servers`.
fn looking(servers: &[&Dns]) -> Server {
    let mut setup = Setup::new();
    setup.write("hello.yaml", "look_up: yes\n");
    set_servers(&mut setup, servers);
    setup.start()
}

/// Says EHLO with this name; the lines of evidence that follow it.
fn evidence(server: &Server, name: &str) -> Vec<String> {
    let before = server.said().matches("symbol=HELO_FORWARD").count();
    let mut client = server.connect();
    client.reply();
    assert_eq!(client.command(&format!("EHLO {name}")).code, 250);
    client.command("QUIT");
    server.await_said("symbol=HELO_FORWARD", before + 1);
    let said = server.said();
    let forward = said
        .lines()
        .rfind(|line| line.contains("symbol=HELO_FORWARD"))
        .expect("evidence");
    let session = forward
        .split(' ')
        .find(|word| word.starts_with("session="))
        .expect("a session");
    // Its last line comes behind all others.
    server.await_said(&format!("event=disconnect {session}"), 1);
    let said = server.said();
    let of_session = |line: &&str| line.contains(session) && line.contains("symbol=HELO_");
    said.lines().filter(of_session).map(str::to_owned).collect()
}

fn has(lines: &[String], symbol: &str, value: &str, error: bool) -> bool {
    let words = [format!("symbol={symbol} value=\"{value}\""), format!("error={error}")];
    lines.iter().any(|line| words.iter().all(|words| line.contains(words)))
}

#[test]
fn forward_reverse_and_confirmed() {
    let dns = Dns::start(&[
        (REVERSE, Says::Names(vec!["zz.other.example", "mx.client.example"])),
        (
            "mx.client.example",
            Says::Addresses(vec![ip("127.0.0.1"), ip("2001:db8::1")]),
        ),
        (
            "mail.client.example",
            Says::Addresses(vec![ip("192.0.2.1"), ip("127.0.0.9"), ip("::1")]),
        ),
    ]);
    let server = looking(&[&dns]);
    let lines = evidence(&server, "mail.client.example");
    assert!(has(&lines, "HELO_FORWARD", "127.0.0.9", false), "{lines:?}");
    assert!(has(&lines, "HELO_REVERSE", "mx.client.example", false), "{lines:?}");
    assert!(has(&lines, "HELO_CONFIRMED", "yes", false), "{lines:?}");
    let asked = dns.asked().len();
    let lines = evidence(&server, "MAIL.client.example");
    assert!(has(&lines, "HELO_FORWARD", "127.0.0.9", false), "{lines:?}");
    assert_eq!(dns.asked().len(), asked, "the answers still hold");
    assert!(has(&evidence(&server, "nobody.example"), "HELO_FORWARD", "none", false));
    let mut client = server.hello();
    assert_eq!(
        client
            .deliver("a@b.example", &["test@example.com"], b"Subject: x\r\n\r\nx\r\n")
            .code,
        250
    );
    let mail = server.await_mail("test@example.com", 1);
    let text = String::from_utf8_lossy(&mail[0]).into_owned();
    assert!(
        text.contains("from client.example (mx.client.example [127.0.0.1])"),
        "{text}"
    );
}

/// A daemon that had nobody to ask at its start learns to by a reload, or by an edit alone, and by a second one whom.
#[test]
fn a_reload_begins_to_look_clients_up() {
    let knows = |address| [("mail.client.example", Says::Addresses(vec![ip(address)]))];
    let (first, second) = (Dns::start(&knows("127.0.0.9")), Dns::start(&knows("127.0.0.8")));
    for by_reload in [true, false] {
        let mut setup = Setup::new();
        set_servers(&mut setup, &[&first]);
        let mut server = setup.start();
        server.hello().command("QUIT");
        server.signal(Signal::SIGHUP);
        server.await_said("event=reloaded", 1);
        assert_eq!(brokers(&server), 1, "it has work before there is any");
        server.setup().write("hello.yaml", "look_up: yes\n");
        if by_reload {
            server.signal(Signal::SIGHUP);
            server.await_said("event=reloaded", 2);
        }
        let lines = evidence(&server, "mail.client.example");
        assert!(has(&lines, "HELO_FORWARD", "127.0.0.9", false), "{lines:?}");
        assert_eq!(brokers(&server), 2);
        let text = server.setup().read("rsmtpd.yaml");
        let text = text.replace(&first.address().to_string(), &second.address().to_string());
        server.setup().write("rsmtpd.yaml", &text);
        let before = server.said().matches("event=reloaded").count();
        server.signal(Signal::SIGHUP);
        server.await_said("event=reloaded", before + 1);
        // The one before answers until its successor has read the configuration.
        assert!(wait_until(|| has(
            &evidence(&server, "mail.client.example"),
            "HELO_FORWARD",
            "127.0.0.8",
            false
        )));
        server.stop();
        assert!(!server.said().contains("next start"), "{}", server.said());
        assert!(!server.said().contains("helper-"), "{}", server.said());
    }
}

/// Processes of the broker: its parent half, and what works.
fn brokers(server: &Server) -> usize {
    let processes = server.processes();
    processes.iter().filter(|one| one.name == "rsmtpd: broker").count()
}

#[test]
fn answers_by_tcp_and_after_forgeries() {
    let dns = Dns::start(&[
        ("long.example", Says::ByTcp(vec![ip("127.0.0.7")])),
        ("forged.example", Says::AfterForgeries(vec![ip("127.0.0.8")])),
    ]);
    let server = looking(&[&dns]);
    assert!(has(
        &evidence(&server, "long.example"),
        "HELO_FORWARD",
        "127.0.0.7",
        false
    ));
    assert_eq!(dns.asked_by_tcp(), 2, "A and AAAA");
    assert!(has(
        &evidence(&server, "forged.example"),
        "HELO_FORWARD",
        "127.0.0.8",
        false
    ));
    assert!(has(&evidence(&server, "forged.example"), "HELO_REVERSE", "none", false));
}

/// A server that fails or lies is no reason to give up while there is another; with none left it is an error, no answer.
#[test]
fn the_next_server_is_asked_and_failure_is_an_error() {
    let bad = Dns::start(&[
        ("a.example", Says::Failure),
        ("b.example", Says::Garbage),
        (REVERSE, Says::Failure),
    ]);
    let good = Dns::start(&[
        ("a.example", Says::Addresses(vec![ip("127.0.0.2")])),
        ("b.example", Says::Addresses(vec![ip("127.0.0.3")])),
    ]);
    let server = looking(&[&bad, &good]);
    assert!(has(&evidence(&server, "a.example"), "HELO_FORWARD", "127.0.0.2", false));
    assert!(has(&evidence(&server, "b.example"), "HELO_FORWARD", "127.0.0.3", false));
    let server = looking(&[&bad]);
    let lines = evidence(&server, "a.example");
    assert!(has(&lines, "HELO_FORWARD", "Server Failure", true), "{lines:?}");
    assert!(has(&lines, "HELO_REVERSE", "Server Failure", true), "{lines:?}");
}

/// Silence holds up its own client, for a bounded time, and no other.
#[test]
fn silence_is_a_time_out_for_who_asked_and_nobody_else() {
    let dns = Dns::start(&[
        ("slow.example", Says::Silence),
        ("fast.example", Says::Addresses(vec![ip("127.0.0.4")])),
    ]);
    let server = looking(&[&dns]);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let mut client = server.connect();
            client.reply();
            let began = Instant::now();
            assert_eq!(client.command("EHLO slow.example").code, 250);
            began.elapsed()
        });
        assert!(wait_until(|| dns
            .asked()
            .iter()
            .any(|asked| asked.ends_with("slow.example"))));
        let began = Instant::now();
        let mut client = server.connect();
        client.reply();
        assert_eq!(client.command("EHLO fast.example").code, 250);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(slow.join().expect("a reply") < Duration::from_secs(12));
    });
    server.await_said("symbol=HELO_FORWARD value=\"no answer in time\"", 1);
}

/// The time that an entry may wait is for all that it asks, however many questions follow from answers; and however often a
/// client has others asked that nobody answers, its worker asks no more at once than it may.
#[test]
fn one_deadline_holds_for_a_whole_look_up() {
    let names: Vec<String> = (0..12).map(|number| format!("slow{number}.example")).collect();
    let mut zone = vec![
        (REVERSE, Says::Names(vec!["reverse.example"])),
        ("reverse.example", Says::Silence),
    ];
    zone.extend(names.iter().map(|name| (name.as_str(), Says::Silence)));
    let dns = Dns::start(&zone);
    let mut setup = Setup::new();
    setup.write("hello.yaml", "look_up: yes\n");
    let chain = "command_handler_standard_server.yaml";
    let text = setup.read(chain);
    let limited = text.replace("- handler: hello\n", "- {handler: hello, timeout: 1s}\n");
    assert_ne!(text, limited);
    setup.write(chain, &limited);
    set_servers(&mut setup, &[&dns, &dns, &dns]);
    let mut server = setup.start();
    let mut client = server.connect();
    client.reply();
    for name in &names {
        let began = Instant::now();
        assert_eq!(client.command(&format!("EHLO {name}")).code, 250);
        let waited = began.elapsed();
        assert!(waited < Duration::from_millis(1800), "{name}: {waited:?}");
    }
    client.command("QUIT");
    server.stop();
    let said = server.said();
    assert!(
        said.contains("symbol=HELO_CONFIRMED value=\"no answer in time\""),
        "{said}"
    );
    assert!(!said.contains("broker-breach"), "{said}");
}

#[test]
fn a_back_end_is_found_by_its_name() {
    let back_end = BackEnd::start(Script::default());
    let dns = Dns::start(&[("back.example", Says::Addresses(vec![ip("127.0.0.1")]))]);
    for (host, code) in [("back.example", 220), ("nobody.example", 421)] {
        let mut setup = Setup::new().whatever_it_says();
        setup.set("worker.yaml", "command_handler", "proxy");
        set_servers(&mut setup, &[&dns]);
        setup.write(
            "proxy.yaml",
            &format!("host: {host}\nport: {}\n", back_end.address().port()),
        );
        assert_eq!(setup.start().connect().reply().code, code, "{host}");
    }
}
