//! TLS: STARTTLS and TLS from the first octet, certificates by name, keys that only the keeper has.

mod common;

use common::certificates::{self, ECDSA, Pair, RSA, block, enable, entry, make};
use common::messages::{Shape, assert_each_once, message, stored};
use common::relay::Relay;
use common::secure::{self, hear, say, shake_hands, shake_hands_by, starttls};
use common::{Client, Server, Setup, run, tool, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn one_pair(setup: &Setup) -> Pair {
    make(&setup.aside().join("one"), "mail.example.com", ECDSA)
}

/// A server with one certificate; none, said by name, without openssl.
fn server(test: &str) -> Option<Server> {
    tool(test, "openssl")?;
    let mut setup = Setup::new();
    let pair = one_pair(&setup);
    enable(&mut setup, &entry(".example.com", "tls.example.com", &pair));
    Some(setup.start())
}

/// Speaks through `openssl s_client`.
fn s_client(address: SocketAddr, arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.arg("s_client").arg("-connect").arg(address.to_string());
    command.args(["-crlf", "-quiet", "-ign_eof"]).args(arguments);
    run(&mut command, input.as_bytes())
}

/// No line begins with Q or R, which s_client takes for its own.
const MESSAGE: &str = "EHLO client.example\nMAIL FROM:<a@client.example>\nrcpt TO:<test@example.com>\nDATA\n\
                       Subject: secret\n\nhello\n.\nquit\n";

#[test]
fn a_message_comes_by_each_version() {
    let Some(server) = server("tls::a_message_comes_by_each_version") else {
        return;
    };
    for (number, version) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
        let (_, said) = s_client(server.address(), &["-starttls", "smtp", version], MESSAGE);
        assert!(said.contains("250 2.0.0 "), "{said}");
        let mail = server.await_mail("test@example.com", number + 1);
        assert_eq!(mail.len(), number + 1);
    }
    let mail = server.mail("test@example.com");
    let all: String = mail
        .iter()
        .map(|one| String::from_utf8_lossy(one).into_owned())
        .collect();
    assert_eq!(all.matches("by tls.example.com with ESMTPS id ").count(), 2, "{all}");
    assert!(
        all.contains("\ttls TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 ") && all.contains(" (TLSv1.2);"),
        "{all}"
    );
    assert!(
        all.contains("\ttls TLS_AES_128_GCM_SHA256 group x25519 (TLSv1.3);"),
        "{all}"
    );
    // Older ones are refused, and their words are on record.
    let old = ["-starttls", "smtp", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    let (_, said) = s_client(server.address(), &old, "quit\n");
    assert!(!said.contains("250 "), "{said}");
    server.await_said("event=tls-failed", 1);
    server.await_said("alert=\"sent ", 1);
    server.await_said("event=tls-hello", 1);
}

#[test]
fn other_clients_deliver() {
    let test = "tls::other_clients_deliver";
    let Some(server) = server(test) else { return };
    let mut sent = 0;
    if let Some(swaks) = tool(test, "swaks") {
        let mut command = Command::new(swaks);
        command.args(["--tls", "--server", &server.address().to_string()]);
        command.args([
            "--from",
            "a@client.example",
            "--to",
            "test@example.com",
            "--ehlo",
            "client.example",
        ]);
        let (delivered, said) = run(&mut command, b"");
        if said.contains("requires Net::SSLeay") {
            common::skip(test, "swaks has no TLS (libnet-ssleay-perl is not installed)");
        } else {
            assert!(delivered && said.contains("TLS started"), "{said}");
            sent += 1;
        }
    }
    if let Some(python) = tool(test, "python3") {
        let script = format!(
            "import smtplib, ssl\nc = smtplib.SMTP('127.0.0.1', {})\nc.starttls(context=ssl._create_unverified_context())\n\
             c.sendmail('a@client.example', 'test@example.com', 'Subject: x\\r\\n\\r\\n' + 'x' * 60 + '\\r\\n' * 3)\nc.quit()\n",
            server.address().port()
        );
        let (delivered, said) = run(Command::new(python).arg("-c").arg(script), b"");
        assert!(delivered, "{said}");
        sent += 1;
    }
    server.await_mail("test@example.com", sent);
    assert!(server.said().matches("reason=quit").count() > sent, "{}", server.said());
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
    listener.local_addr().expect("address").port()
}

/// rsmtpd.yaml with these listeners and this block.
fn daemon(setup: &Setup, listeners: &str, tls: &str) -> String {
    let state = setup.state();
    let state = state.display();
    format!("listeners:\n{listeners}server_name: mail.example.com\nstate: {state}\ntls: {tls}\n")
}

#[test]
fn listeners_differ() {
    let test = "tls::listeners_differ";
    if tool(test, "openssl").is_none() {
        return;
    }
    let setup = Setup::new();
    let pair = one_pair(&setup);
    let [none, offering, implicit] = [free_port(), free_port(), free_port()];
    let listeners = format!(
        "  - {{address: 127.0.0.1, port: {none}, tls: none}}\n  - {{address: 127.0.0.1, port: {implicit}, tls: implicit}}\n  \
         - {{address: 127.0.0.1, port: {offering}, tls: starttls}}\n"
    );
    let text = daemon(
        &setup,
        &listeners,
        &block(&entry(".example.com", "tls.example.com", &pair)),
    );
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let server = Server::start_with(setup, &text, local(offering));
    assert!(server.hello_text().contains("STARTTLS"));
    let mut plain = Client::over(TcpStream::connect(local(none)).expect("connection"));
    plain.reply();
    assert!(!plain.command("EHLO x").text().contains("STARTTLS"));
    assert_eq!(plain.command("STARTTLS").code, 502);
    assert!(!plain.command("HELP").text().contains("STARTTLS"));
    let (_, said) = s_client(local(implicit), &[], MESSAGE);
    assert!(
        said.contains("220 tls.example.com") && said.contains("250 2.0.0 "),
        "{said}"
    );
    assert!(!said.contains("STARTTLS"), "{said}");
    let mail = server.await_mail("test@example.com", 1);
    assert!(String::from_utf8_lossy(&mail[0]).contains("with ESMTPS id"));
    // Whoever speaks SMTP there is not answered in clear.
    let mut lost = TcpStream::connect(local(implicit)).expect("connection");
    lost.write_all(b"EHLO client.example\r\nMAIL FROM:<a@b.example>\r\n")
        .expect("sent");
    let mut heard = Vec::new();
    let _ = lost.read_to_end(&mut heard);
    assert!(
        !heard.windows(3).any(|word| word == b"220" || word == b"250"),
        "{heard:?}"
    );
    server.await_said("event=tls-failed", 1);
    server.await_said("hex=45484c4f20", 1);
}

#[test]
fn the_session_begins_anew() {
    let Some(server) = server("tls::the_session_begins_anew") else {
        return;
    };
    let mut client = server.hello();
    assert_eq!(client.command("STARTTLS now").code, 501);
    assert_eq!(client.command("MAIL FROM:<a@client.example>").code, 250);
    assert_eq!(client.command("RCPT TO:<test@example.com>").code, 250);
    let mut secure = starttls(client, "mail.example.com").expect("handshake");
    assert!(say(&mut secure, "DATA").starts_with("503 "));
    assert!(say(&mut secure, "MAIL FROM:<a@client.example>").starts_with("503 "));
    let hello = say(&mut secure, "EHLO client.example");
    assert!(
        hello.starts_with("250-tls.example.com ") && !hello.contains("STARTTLS"),
        "{hello}"
    );
    assert!(say(&mut secure, "STARTTLS").starts_with("503 5.5.1 "));
    assert!(say(&mut secure, "MAIL FROM:<a@client.example>").starts_with("250 "));
    assert!(say(&mut secure, "RCPT TO:<test@example.com>").starts_with("250 "));
    assert!(say(&mut secure, "DATA").starts_with("354 "));
    let body: String = (0..60_000)
        .map(|line| format!("line {line} of a long message, with some more text\r\n"))
        .collect();
    secure.write_all(b"Subject: long\r\n\r\n").expect("sent");
    secure.write_all(body.as_bytes()).expect("sent");
    assert!(say(&mut secure, ".").starts_with("250 "));
    // All at once, inside TLS, is no offence.
    secure
        .write_all(b"RSET\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<test@example.com>\r\n")
        .expect("sent");
    for _ in 0..3 {
        assert!(hear(&mut secure).starts_with("250 "));
    }
    assert!(say(&mut secure, "QUIT").starts_with("221 "));
    assert_eq!(secure.read(&mut [0]).expect("a close_notify"), 0);
    let mail = server.await_mail("test@example.com", 1);
    assert!(mail[0].ends_with(body.as_bytes()));
    server.await_said("odd=none", 1);
}

#[test]
fn plaintext_behind_the_command_is_never_executed() {
    let Some(server) = server("tls::plaintext_behind_the_command") else {
        return;
    };
    for split in [false, true] {
        let mut client = server.hello();
        let injected = b"EHLO evil.example\r\nMAIL FROM:<evil@evil.example>\r\nRCPT TO:<test@example.com>\r\n";
        let command = b"STARTTLS\r\n";
        if split {
            client.send(&[&b"NOOP\r\nSTART"[..]].concat());
            client.send(&[&b"TLS\r\n"[..], injected].concat());
            assert_eq!(client.reply().code, 250);
        } else {
            client.send(&[&command[..], injected].concat());
        }
        assert_eq!(client.reply().code, 220);
        let stream = client.stream().try_clone().expect("stream");
        let mut secure = shake_hands(stream, "mail.example.com").expect("handshake");
        // The first reply inside is that to the first command inside, and nothing is known of the others.
        assert!(say(&mut secure, "RCPT TO:<test@example.com>").starts_with("503 "));
        assert!(say(&mut secure, "NOOP").starts_with("250 2.0.0 OK"));
        assert!(say(&mut secure, "QUIT").starts_with("221 "));
    }
    server.await_said("event=plaintext-dropped", 2);
    server.await_said("illegal_pipelining,plaintext_behind_starttls", 2);
    assert!(!server.said().contains("evil.example\" "), "{}", server.said());
}

#[test]
fn nothing_is_given_to_resume_a_session_with() {
    let Some(server) = server("tls::nothing_is_given_to_resume") else {
        return;
    };
    for version in [&TLS12, &TLS13] {
        let config = secure::config(&[version]);
        for _ in 0..3 {
            let mut client = server.hello();
            assert_eq!(client.command("STARTTLS").code, 220);
            let stream = client.stream().try_clone().expect("stream");
            let mut secure = shake_hands_by(config.clone(), stream, "mail.example.com").expect("handshake");
            assert!(say(&mut secure, "QUIT").starts_with("221 "));
            assert_eq!(secure.read(&mut [0]).expect("a close_notify"), 0);
            assert_eq!(secure.conn.protocol_version(), Some(version.version));
            assert_eq!(secure.conn.tls13_tickets_received(), 0);
            assert_eq!(secure.conn.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
    // The number of a session would do as well, if another connection had the luck to meet the same worker.
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-starttls",
            "smtp",
            version,
            "-crlf",
            "-ign_eof",
            "-connect",
        ]);
        let (_, said) = run(command.arg(server.address().to_string()), b"quit\n");
        assert!(said.contains("221 2.0.0 "), "{said}");
        assert!(!said.to_ascii_lowercase().contains("session ticket"), "{said}");
        let numbers = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Session-ID:"))
            .collect::<Vec<_>>();
        assert!(numbers.iter().all(|number| number.trim().is_empty()), "{said}");
        assert_eq!(numbers.len(), usize::from(version == "-tls1_2"), "{said}");
    }
}

#[test]
fn a_failed_handshake_is_recorded_and_harms_nobody() {
    let Some(server) = server("tls::a_failed_handshake") else {
        return;
    };
    // Garbage; a client that trusts nobody; one that offers nothing that we have; one that goes away.
    let mut client = server.hello();
    assert_eq!(client.command("STARTTLS").code, 220);
    client.send(b"this is no TLS at all\r\n");
    assert!(client.is_closed() || client.is_closed());
    server.await_said("hex=74686973206973206e6f20544c53", 1);
    let trusting_nobody = ["-starttls", "smtp", "-verify_return_error"];
    s_client(server.address(), &trusting_nobody, "quit\n");
    server.await_said("alert=\"received ", 1);
    s_client(
        server.address(),
        &["-starttls", "smtp", "-tls1_2", "-cipher", "AES128-SHA"],
        "quit\n",
    );
    server.await_said("alert=\"sent HandshakeFailure\"", 1);
    let mut client = server.hello();
    assert_eq!(client.command("STARTTLS").code, 220);
    drop(client);
    server.await_said("event=tls-failed", 4);
    let said = server.said();
    let hellos = said
        .lines()
        .filter(|line| line.contains("event=tls-hello") && line.contains("offset=0 "));
    assert!(hellos.count() >= 3, "{said}");
    assert!(said.contains("hex=1603"), "{said}");
    assert!(!said.contains("crashed") && !said.contains("worker-failed"), "{said}");
    let mut secure = starttls(server.hello(), "mail.example.com").expect("handshake");
    assert!(say(&mut secure, "NOOP").starts_with("250 "));
}

/// Says what Python is shown for a name: our name in the reply to EHLO, and the certificate in PEM.
const SHOWN: &str = r#"
import smtplib, ssl, sys
port, name, suite = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl._create_unverified_context()
if suite:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
client = smtplib.SMTP('127.0.0.1', port)
client.ehlo('client.example')
client.putcmd('STARTTLS')
assert client.getreply()[0] == 220
client.sock = context.wrap_socket(client.sock, server_hostname=name or None)
client.file = None
text = client.ehlo('client.example')[1].decode()
print(text.split()[0])
print(ssl.DER_cert_to_PEM_cert(client.sock.getpeercert(True)))
"#;

#[test]
fn certificates_go_by_name_and_kind() {
    let test = "tls::certificates_go_by_name_and_kind";
    let (Some(_), Some(python)) = (tool(test, "openssl"), tool(test, "python3")) else {
        return;
    };
    let mut setup = Setup::new();
    let kinds = [("com", ECDSA), ("com", RSA), ("net", ECDSA), ("net", RSA)];
    let mut entries = String::new();
    let mut files = Vec::new();
    for (number, (top, kind)) in kinds.into_iter().enumerate() {
        let name = format!("mail.example.{top}");
        let pair = make(&setup.aside().join(number.to_string()), &name, kind);
        entries += &entry(&format!(".example.{top}"), &name, &pair);
        files.push(pair.0);
    }
    enable(&mut setup, &entries);
    let server = setup.start();
    let normal = |text: &str| text.split_whitespace().collect::<String>();
    for (name, suite, expected) in [
        ("mail.example.com", "", 0),
        ("mail.example.net", "", 2),
        ("MX.Example.NET", "", 2),
        ("mail.example.net", "ECDHE-RSA-AES128-GCM-SHA256", 3),
        ("mail.example.net", "ECDHE-ECDSA-AES128-GCM-SHA256", 2),
        ("", "", 0),
        ("", "ECDHE-RSA-AES256-GCM-SHA384", 1),
        ("other.example.org", "", 0),
        ("evil.example.net.attacker.org", "", 0),
        ("evilexample.net", "", 0),
    ] {
        let mut command = Command::new(&python);
        command.args(["-c", SHOWN, &server.address().port().to_string(), name, suite]);
        let (ran, said) = run(&mut command, b"");
        assert!(ran, "{name:?}: {said}");
        let (ours, shown) = said.split_once('\n').expect("two parts");
        let file = fs::read_to_string(&files[expected]).expect("certificate");
        assert_eq!(
            ours.trim(),
            ["mail.example.com", "mail.example.net"][expected / 2],
            "{name:?}"
        );
        assert_eq!(normal(shown), normal(&file), "{name:?} {suite}");
    }
}

/// Postfix that would rather keep mail than send it in clear, and asks for a name.
#[test]
fn postfix_relays_by_starttls_alone() {
    let test = "tls::postfix_relays_by_starttls_alone";
    if !common::needs_root(test) || tool(test, "unshare").is_none() || tool(test, "openssl").is_none() {
        return;
    }
    let mut setup = Setup::new();
    let pairs = [("com", ECDSA), ("net", RSA)].map(|(top, kind)| {
        let name = format!("mail.example.{top}");
        (
            make(&setup.aside().join(top), &name, kind),
            format!(".example.{top}"),
            name,
        )
    });
    let entries = pairs.iter().map(|(pair, domain, name)| entry(domain, name, pair));
    enable(&mut setup, &entries.collect::<String>());
    let server = setup.start();
    let mut all = Vec::new();
    for (asked, shown, pinned) in [
        ("mail.example.com", 0, false),
        ("mail.example.net", 1, true),
        ("mail.example.org", 0, false),
    ] {
        let (pair, _, ours) = &pairs[shown];
        let mut more = format!("smtp_tls_servername = {asked}\nsmtp_tls_security_level = encrypt");
        if pinned {
            more += "\nsmtp_tls_security_level = fingerprint\nsmtp_tls_fingerprint_digest = sha256\n";
            more += &format!("smtp_tls_fingerprint_cert_match = {}", certificates::pins(pair)[0]);
        }
        let Some(relay) = Relay::start_with("postfix", server.address(), &more, &[]) else {
            return;
        };
        let mut client = relay.connect();
        let shape = Shape {
            longest_line: 998,
            awkward_end: true,
        };
        for number in 0..20 {
            let mut one = message(asked, number, shape);
            one.hops = 2;
            let reply = client.deliver("sender@example.org", &one.recipients, &one.bytes);
            assert_eq!(reply.code, 250, "{reply:?}");
            all.push(one);
        }
        let files: usize = all.iter().map(|message| message.recipients.len()).sum();
        assert!(wait_until(|| stored(&server) >= files), "{asked}: {}", server.said());
        let mail = server.mail("test@example.com");
        let by = format!("by {ours} with ESMTPS id ");
        assert!(
            mail.iter().any(|one| String::from_utf8_lossy(one).contains(&by)),
            "{by}"
        );
    }
    assert_each_once(&server, &all);
    for mail in server.mail("test@example.com") {
        assert!(String::from_utf8_lossy(&mail).contains(" with ESMTPS id "));
    }
}

#[test]
fn a_broken_pair_is_named_and_the_old_one_stays() {
    let test = "tls::a_broken_pair_is_named";
    let Some(server) = server(test) else { return };
    let (chain, key) = {
        let directory = server.state().parent().expect("parent").join("one");
        (directory.join("chain.pem"), directory.join("key.pem"))
    };
    let good = fs::read(&key).expect("key");
    let other = make(&chain.with_file_name("other"), "mail.example.com", ECDSA);
    let mut reloads = 0;
    let mut renew = |content: &[u8], words: &str| {
        fs::write(&key, content).expect("key");
        server.signal(Signal::SIGHUP);
        reloads += 1;
        server.await_said("event=reloaded", reloads);
        let line = format!("event=certificate-broken path=\"{}\" reason=\"{words}", key.display());
        assert!(server.said().contains(&line), "{line}\n{}", server.said());
        let mut secure = starttls(server.hello(), "mail.example.com").expect("handshake");
        assert!(say(&mut secure, "NOOP").starts_with("250 "));
    };
    renew(&fs::read(&other.1).expect("key"), "is not the key of ");
    renew(b"no key", "has no private key in PEM");
    renew(&vec![b'x'; 300_000], "is longer than ");
    fs::remove_file(&key).expect("removed");
    server.signal(Signal::SIGHUP);
    server.await_said("cannot be read: No such file", 1);
    starttls(server.hello(), "mail.example.com").expect("handshake");
    fs::write(&key, good).expect("key");
    assert_eq!(server.said().matches("kept=yes").count(), 4, "{}", server.said());
    assert!(!server.said().contains("kept=no"));
}

#[test]
fn what_lies_elsewhere_waits_for_a_restart_and_what_is_broken_is_not_offered() {
    let test = "tls::what_lies_elsewhere";
    if tool(test, "openssl").is_none() {
        return;
    }
    let mut setup = Setup::new();
    let missing = (setup.aside().join("no/chain.pem"), setup.aside().join("no/key.pem"));
    enable(&mut setup, &entry(".example.com", "tls.example.com", &missing));
    let mut server = setup.start();
    server.await_said("event=tls-off", 1);
    assert!(!server.hello_text().contains("STARTTLS"));
    assert_eq!(server.hello().command("STARTTLS").code, 502);
    let port = server.address().port();
    let pair = one_pair(server.setup());
    let text = daemon(
        server.setup(),
        &format!("  - {{address: 127.0.0.1, port: {port}}}\n"),
        &block(&entry(".example.com", "tls.example.com", &pair)),
    );
    server.setup().write("rsmtpd.yaml", &text);
    server.signal(Signal::SIGHUP);
    server.await_said("event=reloaded", 1);
    assert!(server.said().contains("(restart needed)"), "{}", server.said());
    let mut server = server
        .into_setup()
        .start_as_written(SocketAddr::from(([127, 0, 0, 1], port)));
    starttls(server.hello(), "mail.example.com").expect("handshake");
    // Off and on again.
    let off = text.replace("enabled: yes", "enabled: no");
    server.setup().write("rsmtpd.yaml", &off);
    server.signal(Signal::SIGHUP);
    assert!(wait_until(|| !server.hello_text().contains("STARTTLS")));
    server.setup().write("rsmtpd.yaml", &text);
    server.signal(Signal::SIGHUP);
    assert!(wait_until(|| server.hello_text().contains("STARTTLS")));
}

#[test]
fn a_dead_keeper_is_replaced_and_a_stuck_one_is_454() {
    let Some(server) = server("tls::a_dead_keeper") else {
        return;
    };
    let mut during = starttls(server.hello(), "mail.example.com").expect("handshake");
    let keeper = Pid::from_raw(server.working_half("keeper"));
    kill(keeper, Signal::SIGKILL).expect("killed");
    server.await_said("event=helper-died role=keeper how=sigkill", 1);
    assert!(say(&mut during, "EHLO client.example").starts_with("250"));
    let mut secure = starttls(server.hello(), "mail.example.com").expect("handshake");
    assert!(say(&mut secure, "NOOP").starts_with("250 "));
    let keeper = Pid::from_raw(server.working_half("keeper"));
    kill(keeper, Signal::SIGSTOP).expect("stopped");
    // Whoever was lent a door that others were answered through says 220 at first.
    let mut client = server.hello();
    assert!(
        wait_until(|| {
            let code = client.command("STARTTLS").code;
            if code == 220 {
                client = server.hello();
            }
            code == 454
        }),
        "{}",
        server.said()
    );
    assert_eq!(
        client
            .deliver("a@client.example", &["test@example.com"], b"Subject: x\r\n\r\nx\r\n")
            .code,
        250
    );
    server.await_said("event=tls-unavailable", 1);
    kill(keeper, Signal::SIGCONT).expect("continued");
    let mut secure = starttls(client, "mail.example.com").expect("handshake");
    assert!(say(&mut secure, "NOOP").starts_with("250 "));
    assert!(!server.said().contains("worker-crashed"), "{}", server.said());
}

/// The first certificate of a file.
fn certificate(chain: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(chain).expect("certificate")
}

/// Waits until it is this certificate that a new connection is shown.
fn await_shown(server: &Server, expected: &CertificateDer<'_>) {
    let shows = || {
        let mut secure = starttls(server.hello(), "mail.example.com").expect("handshake");
        let shown = secure::shown(&secure);
        assert!(say(&mut secure, "QUIT").starts_with("221 "));
        shown == *expected
    };
    assert!(wait_until(shows), "the new certificate is not shown\n{}", server.said());
}

/// Puts copies of a pair in the place of another, as tools that renew do: written aside, then renamed.
fn install(from: &Pair, to: &Pair) {
    let put = |from: &Path, to: &Path| {
        let aside = to.with_extension("new");
        fs::copy(from, &aside).expect("copy");
        fs::rename(&aside, to).expect("rename");
    };
    put(&from.0, &to.0);
    put(&from.1, &to.1);
}

#[test]
fn a_hundred_renewals_under_load_fail_no_handshake() {
    let test = "tls::a_hundred_renewals";
    if tool(test, "openssl").is_none() {
        return;
    }
    let mut setup = Setup::new();
    setup.set("rsmtpd.yaml", "workers", "{per_source: 0, per_source_rate: 0}");
    let pairs = ["a", "b"].map(|name| make(&setup.aside().join(name), "mail.example.com", ECDSA));
    let certificates = pairs.each_ref().map(|pair| certificate(&pair.0));
    assert_ne!(certificates[0], certificates[1]);
    let live = one_pair(&setup);
    install(&pairs[0], &live);
    enable(&mut setup, &entry(".example.com", "tls.example.com", &live));
    let server = Arc::new(setup.start());
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (server, over, done) = (Arc::clone(&server), Arc::clone(&over), Arc::clone(&done));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let mut secure = starttls(server.hello(), "mail.example.com").expect("handshake");
                    assert!(say(&mut secure, "QUIT").starts_with("221 "));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let began = Instant::now();
    for round in 1..=100 {
        install(&pairs[round % 2], &live);
        server.signal(Signal::SIGHUP);
        server.await_said("event=reloaded", round);
        let before = done.load(Ordering::Relaxed);
        assert!(wait_until(|| done.load(Ordering::Relaxed) > before));
        await_shown(&server, &certificates[round % 2]);
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no failed handshake");
    }
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
    assert!(done.load(Ordering::Relaxed) >= 100);
    let said = server.said();
    assert!(
        !said.contains("tls-failed") && !said.contains("tls-unavailable"),
        "{said}"
    );
    assert!(!said.contains("certificate-broken"), "{said}");
}

#[test]
fn files_of_root_alone_are_read() {
    let test = "tls::files_of_root_alone_are_read";
    if !common::needs_root(test) {
        return;
    }
    // Made so by `make`; the configuration names them by links, as certbot's layout does.
    let Some(_) = tool(test, "openssl") else { return };
    let mut setup = Setup::new();
    let archive = make(&setup.aside().join("archive"), "mail.example.com", RSA);
    let live = setup.aside().join("live");
    fs::create_dir(&live).expect("directory");
    let links = (live.join("fullchain.pem"), live.join("privkey.pem"));
    for (target, link) in [(&archive.0, &links.0), (&archive.1, &links.1)] {
        std::os::unix::fs::symlink(target, link).expect("link");
    }
    certificates::enable(&mut setup, &entry("example.com", "tls.example.com", &links));
    let server = setup.start();
    await_shown(&server, &certificate(&archive.0));
    // A renewal makes new files beside the old ones and turns the links.
    let next = make(&archive.0.with_file_name("next"), "mail.example.com", RSA);
    let renewed = certificate(&next.0);
    assert_ne!(renewed, certificate(&archive.0));
    for (number, (from, link)) in [(&next.0, &links.0), (&next.1, &links.1)].into_iter().enumerate() {
        let target = archive.0.with_file_name(format!("{number}-2.pem"));
        fs::rename(from, &target).expect("rename");
        fs::remove_file(link).expect("removed");
        std::os::unix::fs::symlink(&target, link).expect("link");
    }
    server.signal(Signal::SIGHUP);
    server.await_said("event=reloaded", 1);
    assert!(!server.said().contains("certificate-broken"), "{}", server.said());
    await_shown(&server, &renewed);
    let (_, said) = s_client(server.address(), &["-starttls", "smtp"], "quit\n");
    assert!(said.contains("221 "), "{said}");
}
