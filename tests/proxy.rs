//! The proxy in front of a back end: what each side hears.

mod common;

use common::back_end::{BackEnd, Does, Script};
use common::certificates::{ECDSA, Pair, RSA, make, pins, signed};
use common::{Client, Server, Setup, stuffed, tool};
use std::io::Write;

/// A proxy in front of `back_end`; `more` goes into proxy.yaml.
fn proxy_with(back_end: &BackEnd, more: &str) -> Server {
    let mut setup = Setup::new();
    setup.set("worker.yaml", "command_handler", "proxy");
    let address = back_end.address();
    let text = format!("host: {}\nport: {}\n{more}", address.ip(), address.port());
    setup.write("proxy.yaml", &text);
    setup.whatever_it_says().start()
}

fn proxy(script: Script) -> (Server, BackEnd) {
    let back_end = BackEnd::start(script);
    (proxy_with(&back_end, ""), back_end)
}

fn begun(client: &mut Client) {
    assert_eq!(client.command("MAIL FROM:<a@client.example>").code, 250);
    assert_eq!(client.command("RCPT TO:<test@example.com>").code, 250);
}

#[test]
fn a_session_goes_through_whole() {
    let (server, back_end) = proxy(Script::default());
    let mut client = server.connect();
    assert_eq!(client.reply().text(), "back.example ready");
    assert_eq!(
        client.command("EHLO client.example").lines[0],
        "back.example at your service"
    );
    let message = b"Subject: x\r\n\r\n.dot\r\n..\r\nh\xe4\xff\r\n";
    assert_eq!(
        client
            .deliver("a@client.example", &["test@example.com", "other@example.com"], message)
            .text(),
        "2.0.0 back end has it"
    );
    assert_eq!(client.command("QUIT").text(), "2.0.0 bye");
    let expected = [
        "EHLO client.example",
        "MAIL FROM:<a@client.example>",
        "RCPT TO:<test@example.com>",
        "RCPT TO:<other@example.com>",
        "DATA",
        "QUIT",
    ];
    let lines: Vec<String> = back_end.heard().pop().expect("a connection").lines;
    assert_eq!(lines, expected);
    assert_eq!(back_end.messages(), [[stuffed(message), b".\r\n".to_vec()].concat()]);
}

/// Where the chain wants it, what passed is a file as well.
#[test]
fn a_copy_is_kept_of_what_passes() {
    let back_end = BackEnd::start(Script::default());
    let mut setup = Setup::new();
    setup.set("worker.yaml", "command_handler", "proxy");
    let address = back_end.address();
    setup.write(
        "proxy.yaml",
        &format!("host: {}\nport: {}\n", address.ip(), address.port()),
    );
    let chain = "__DATA__:\n  - handler: proxy\n  - handler: post_data_reset\n__DEFAULT__:\n  - handler: proxy\n";
    setup.write("command_handler_proxy.yaml", chain);
    setup.write("post_data_reset.yaml", "keep_data_file: yes\n");
    let server = setup.start();
    let mut client = server.hello();
    let long = [
        b"Subject: x\r\n\r\n.dot\r\n".to_vec(),
        b"0123456789abcdef\r\n".repeat(20_000),
    ]
    .concat();
    for message in [b"x\r\n".to_vec(), long] {
        let reply = client.deliver("a@client.example", &["test@example.com"], &message);
        assert_eq!(reply.text(), "2.0.0 back end has it");
        let expected = [b"Return-Path: <a@client.example>\r\n".to_vec(), message].concat();
        let copies = std::fs::read_dir(server.state().join("copies")).expect("copies");
        let mut copies = copies.map(|entry| std::fs::read(entry.expect("copy").path()).expect("text"));
        assert!(copies.any(|copy| copy == expected));
    }
}

/// The commands of a whole session with one recipient, each with what the back end does there instead.
const STEPS: [(&str, &str); 7] = [
    ("OPEN", "at=greeting |hello=false messages=0"),
    ("EHLO client", "at=EHLO |hello=false messages=0"),
    (
        "MAIL",
        "at=MAIL |hello=true from=\"<a@client.example>\" recipients=0 body=false octets=0 messages=0",
    ),
    (
        "RCPT",
        "at=RCPT |hello=true from=\"<a@client.example>\" recipients=0 body=false octets=0 messages=0",
    ),
    (
        "DATA",
        "at=DATA |hello=true from=\"<a@client.example>\" recipients=1 body=false octets=0 messages=0",
    ),
    (
        "END",
        "at=end-of-data |may have taken the message|recipients=1 body=true octets=17 messages=0",
    ),
    ("NOOP", "at=NOOP |hello=true messages=1"),
];

/// That the log says how far the session was.
fn assert_told(server: &Server, step: &str, state: &str) {
    server.await_said("event=back-end-lost", 1);
    let told = |line: &str| line.contains("event=back-end-lost") && state.split('|').all(|words| line.contains(words));
    assert!(server.said().lines().any(told), "{step}: {}", server.said());
}

/// Says all of a session until it ends; the last reply and whether the message was taken.
fn session(client: &mut Client) -> (common::Reply, bool) {
    let mut last = client.reply();
    let mut taken = false;
    for line in [
        "EHLO client.example",
        "MAIL FROM:<a@client.example>",
        "RCPT TO:<test@example.com>",
        "DATA",
        "Subject: x\r\n\r\nx\r\n.",
        "NOOP",
    ] {
        if last.code >= 400 {
            break;
        }
        last = client.command(line);
        taken |= line.ends_with('.') && last.code == 250;
    }
    (last, taken)
}

#[test]
fn a_back_end_lost_at_any_step_is_421_and_never_250() {
    for (step, state) in STEPS {
        let (server, back_end) = proxy(Script::default().rule(step, Does::Closes));
        let mut client = server.connect();
        let (last, taken) = session(&mut client);
        assert_eq!(last.code, 421, "{step}: {last:?}");
        assert!(client.is_closed(), "{step}");
        let ended = step == "NOOP" || step == "END";
        assert_eq!(
            (taken, back_end.messages().len()),
            (step == "NOOP", usize::from(ended)),
            "{step}"
        );
        assert_told(&server, step, state);
        assert_eq!(
            session(&mut server.connect()).0.code,
            421,
            "{step}: and the next client"
        );
    }
}

/// In the middle of a text it has taken nothing, and the log says how much went there.
#[test]
fn a_back_end_lost_in_a_text_is_421() {
    let (server, back_end) = proxy(Script::default().rule("TEXT", Does::Closes));
    let mut client = server.hello();
    begun(&mut client);
    assert_eq!(client.command("DATA").code, 354);
    let text = b"0123456789\r\n".repeat(100_000);
    let _ = client.stream().write_all(&[text.as_slice(), b".\r\n"].concat());
    assert_eq!(client.reply().code, 421);
    assert!(client.is_closed());
    server.await_said("event=back-end-lost", 1);
    let said = server.said();
    let told = said
        .lines()
        .find(|line| line.contains("back-end-lost"))
        .expect("a line");
    assert!(
        told.contains("recipients=1 body=true octets=") && !told.contains("may have taken"),
        "{told}"
    );
    assert!(back_end.messages().is_empty() && !said.contains("event=message "));
}

#[test]
fn a_back_end_that_hangs_is_421_in_time() {
    for step in ["OPEN", "MAIL", "DATA", "END"] {
        let back_end = BackEnd::start(Script::default().rule(step, Does::Hangs));
        let server = proxy_with(&back_end, "command_timeout: 1s\ndata_timeout: 1s\n");
        let (last, taken) = session(&mut server.connect());
        assert_eq!((last.code, taken), (421, false), "{step}: {last:?}");
        server.await_said("it took too long", 1);
    }
}

#[test]
fn a_back_end_that_is_not_there_or_never_was() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("port")
        .local_addr()
        .expect("address");
    for (host, said) in [("127.0.0.1", "refused"), ("nowhere.invalid", "nowhere.invalid: ")] {
        let mut setup = Setup::new();
        setup.set("worker.yaml", "command_handler", "proxy");
        setup.write("proxy.yaml", &format!("host: {host}\nport: {}\n", closed.port()));
        let server = setup.whatever_it_says().start();
        let mut client = server.connect();
        assert_eq!(client.reply().code, 421, "{host}");
        assert!(client.is_closed());
        server.await_said("event=back-end-lost", 1);
        server.await_said(said, 1);
    }
}

#[test]
fn what_the_back_end_says_is_what_the_client_reads() {
    let (server, back_end) = proxy(
        Script::default()
            .rule("RCPT TO:<gone@", Does::Says("550-5.1.1 no such\r\n550 5.1.1 user"))
            .rule("RCPT TO:<busy@", Does::Says("450 4.2.0 later"))
            .rule("VRFY", Does::Says("252 2.0.0 who ßknows\x07")),
    );
    let mut client = server.connect();
    client.reply();
    let hello = client.command("EHLO client.example").lines;
    assert_eq!(hello[1..], Script::default().ehlo[1..], "each is one that we serve");
    assert_eq!(client.command("MAIL FROM:<> BODY=8BITMIME SIZE=100 SMTPUTF8").code, 250);
    let gone = client.command("RCPT TO:<gone@example.com>");
    assert_eq!((gone.code, gone.text()), (550, "5.1.1 no such\n5.1.1 user".into()));
    assert_eq!(client.command("RCPT TO:<busy@example.com>").code, 450);
    client.send("RCPT TO:<grüße@example.com>\r\n".as_bytes());
    assert_eq!(client.reply().code, 250);
    assert_eq!(client.command("VRFY test").text(), "2.0.0 who ?knows");
    assert_eq!(client.command("QUIT").code, 221);
    let lines = back_end.lines();
    assert!(
        lines.contains(&"MAIL FROM:<> SIZE=100 BODY=8BITMIME SMTPUTF8".to_owned()),
        "{lines:?}"
    );
    assert!(lines.contains(&"RCPT TO:<grüße@example.com>".to_owned()), "{lines:?}");
}

/// Everything in one piece: each command is answered, in order, and none overtakes the message.
#[test]
fn a_pipelined_session_and_chunks() {
    let (server, back_end) = proxy(Script::default());
    let mut client = server.connect();
    client.send(
        b"EHLO client.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<test@example.com>\r\nBDAT 7\r\n.\r\nab\r\n\
          BDAT 3 LAST\r\n\n.\nNOOP\r\nQUIT\r\n",
    );
    let codes: Vec<u16> = (0..8).map(|_| client.reply().code).collect();
    assert_eq!(codes, [220, 250, 250, 250, 250, 250, 250, 221]);
    assert_eq!(back_end.messages(), [b"..\r\nab\r\n\r\n..\r\n.\r\n".to_vec()]);
}

/// What some servers take for the end of a message reaches the back end as part of its text.
#[test]
fn nothing_is_smuggled() {
    for lookalike in [
        &b"\n.\n"[..],
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\r\n\0.\r\n",
    ] {
        for endings in ["normalize", "note"] {
            let back_end = BackEnd::start(Script::default());
            let mut setup = Setup::new();
            setup.set("worker.yaml", "command_handler", "proxy");
            setup.set("worker.yaml", "line_endings", endings);
            setup.write(
                "proxy.yaml",
                &format!("host: 127.0.0.1\nport: {}\n", back_end.address().port()),
            );
            let server = setup.start();
            let mut client = server.hello();
            begun(&mut client);
            assert_eq!(client.command("DATA").code, 354);
            client.send(
                &[
                    b"a",
                    lookalike,
                    b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<evil@y.example>\r\n.\r\n",
                ]
                .concat(),
            );
            assert_eq!(client.reply().code, 250);
            assert_eq!(client.command("QUIT").code, 221);
            let messages = back_end.messages();
            assert_eq!(messages.len(), 1);
            let text = messages[0].strip_suffix(b"\r\n.\r\n").expect("one end");
            let bare = |at: usize| match text[at] {
                b'\n' => at == 0 || text[at - 1] != b'\r',
                b'\r' => text.get(at + 1) != Some(&b'\n'),
                _ => false,
            };
            assert!(!(0..text.len()).any(bare), "{:?}", String::from_utf8_lossy(text));
            assert!(!text.windows(5).any(|five| five == b"\r\n.\r\n"));
            assert!(!back_end.lines().iter().any(|line| line.contains("evil")));
        }
    }
}

/// A message of 20 MiB passes without being kept: the worker never has more than a piece of it.
#[test]
fn a_long_message_is_streamed() {
    let (server, back_end) = proxy(Script::default());
    let mut client = server.hello();
    // How much memory the program itself takes depends on how it was built and on the kernel's pages.
    let peak = || {
        let workers = server.children(server.pid(), "rsmtpd: worker");
        let peaks = workers.iter().map(|pid| common::processes::peak_memory(*pid));
        peaks.max().expect("a worker")
    };
    let before = peak();
    let line = [b".".to_vec(), vec![b'x'; 2046], b"\r\n".to_vec()].concat();
    let message = line.repeat(20 << 20 >> 11);
    assert_eq!(client.deliver("a@b.example", &["test@example.com"], &message).code, 250);
    let grown = peak().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} octets");
    assert_eq!(back_end.messages(), [[stuffed(&message), b".\r\n".to_vec()].concat()]);
}

/// Refused here at its end, a message that went there already is not taken there, and the session goes on.
#[test]
fn a_message_too_big_is_refused_and_the_next_one_taken() {
    let back_end = BackEnd::start(Script::default());
    let mut setup = Setup::new();
    setup.set("worker.yaml", "command_handler", "proxy");
    setup.set("worker.yaml", "maximum_message_size_in_mb", "1");
    setup.write(
        "proxy.yaml",
        &format!("host: 127.0.0.1\nport: {}\n", back_end.address().port()),
    );
    let server = setup.start();
    let mut client = server.hello();
    let message = b"0123456789\r\n".repeat(100_000);
    let reply = client.deliver("a@b.example", &["test@example.com"], &message);
    assert_eq!(reply.code, 552, "{reply:?}");
    assert_eq!(client.deliver("a@b.example", &["test@example.com"], b"x\r\n").code, 250);
    assert_eq!(back_end.messages(), [b"x\r\n.\r\n".to_vec()]);
}

#[test]
fn the_back_end_learns_who_the_client_is() {
    for (how, length) in [("v1", 0), ("v2", 28)] {
        let listening = BackEnd::start(Script {
            preface: if how == "v1" { 6 } else { length },
            ..Script::default()
        });
        let server = proxy_with(&listening, &format!("send_proxy: {how}\n"));
        let mut client = server.connect();
        let local = client.stream().local_addr().expect("address");
        if how == "v1" {
            // The rest of the line is read as a command.
            client.reply();
            let heard = listening.heard();
            let mine = format!(" 127.0.0.1 127.0.0.1 {} {}", local.port(), server.address().port());
            let found = heard
                .iter()
                .any(|one| one.lines.iter().any(|line| line.ends_with(&mine)));
            assert!(found && heard.iter().all(|one| one.preface == b"PROXY "), "{heard:?}");
            continue;
        }
        assert_eq!(client.reply().code, 220);
        let port = local.port().to_be_bytes();
        let wanted = [
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01"[..],
            &port,
        ]
        .concat();
        let heard = listening.heard();
        assert!(heard.iter().any(|one| one.preface.starts_with(&wanted)), "{heard:?}");
    }
    let (server, back_end) = proxy(knowing());
    let mut client = server.connect();
    assert_eq!(client.reply().text(), "back.example ready");
    assert!(!client.command("EHLO client.example").text().contains("XCLIENT"));
    let told = told(&server, &mut client);
    assert_eq!(back_end.lines(), ["EHLO client.example", &told, "EHLO client.example"]);
    assert_eq!(client.command("NOOP").code, 250);
    assert_eq!(back_end.lines().len(), 4);
}

/// A back end that trusts us with more than the client, and takes XCLIENT from us.
fn knowing() -> Script {
    Script {
        ehlo: vec!["back.example", "XCLIENT NAME ADDR PORT DESTPORT", "8BITMIME"],
        ..Script::default()
    }
}

/// What it is told of the client.
fn told(server: &Server, client: &mut Client) -> String {
    let (mine, port) = (client.stream().local_addr().expect("address"), server.address().port());
    let mine = mine.port();
    format!("XCLIENT NAME=[UNAVAILABLE] ADDR=127.0.0.1 PORT={mine} DESTPORT={port}")
}

/// That on each connection nothing was done as us: nothing but EHLO and QUIT comes before XCLIENT, and STARTTLS in clear.
fn assert_nothing_was_done_as_us(back_end: &BackEnd, case: &str) {
    for heard in back_end.heard() {
        let as_us = heard.lines.iter().take_while(|line| !line.starts_with("XCLIENT "));
        let harmless = |line: &String| line == "QUIT" || line == "STARTTLS" || line.starts_with("EHLO ");
        assert!(as_us.clone().all(harmless), "{case}: {heard:?}");
    }
}

#[test]
fn no_command_is_the_first_to_act_as_us() {
    for first in [
        "EHLO c",
        "HELO c",
        "NOOP",
        "RSET",
        "VRFY x",
        "EXPN x",
        "HELP",
        "MAIL FROM:<>",
        "QUIT",
    ] {
        let (server, back_end) = proxy(knowing());
        let mut client = server.connect();
        assert_eq!(client.reply().code, 220);
        client.send(format!("{first}\r\nEHLO c\r\nMAIL FROM:<a@b.example>\r\n").as_bytes());
        client.reply();
        if first != "QUIT" {
            assert_eq!((client.reply().code, client.reply().code), (250, 250), "{first}");
            assert_eq!(
                back_end
                    .lines()
                    .iter()
                    .filter(|line| line.starts_with("XCLIENT"))
                    .count(),
                1
            );
        }
        assert_nothing_was_done_as_us(&back_end, first);
    }
}

/// A back end that cannot say now whether it takes XCLIENT is not taken for one that does not: the client would have our
/// rights there.
#[test]
fn who_the_client_is_is_not_left_out_in_passing() {
    for first in ["EHLO client.example", "HELO client.example", "NOOP"] {
        let (server, back_end) = proxy(knowing().rule("EHLO", Does::Says("451 4.3.0 not now")));
        let mut client = server.connect();
        assert_eq!(client.reply().code, 220);
        client.send(format!("{first}\r\nMAIL FROM:<a@b.example>\r\nVRFY x\r\nRSET\r\nQUIT\r\n").as_bytes());
        let codes: Vec<u16> = (0..5).map(|_| client.reply().code).collect();
        assert_eq!(codes, [451, 503, 451, 451, 221], "{first}");
        assert_nothing_was_done_as_us(&back_end, first);
        let (server, back_end) = proxy(knowing().rule("EHLO", Does::Says("421 4.3.2 bye")));
        let mut client = server.connect();
        assert_eq!((client.reply().code, client.command(first).code), (220, 421));
        assert!(client.is_closed(), "{first}");
        assert_nothing_was_done_as_us(&back_end, first);
    }
    // The client's own name may be refused; that says nothing of XCLIENT.
    for refusal in [
        "451 4.7.1 who",
        "501 5.5.2 no name",
        "502 5.5.1 no",
        "550 5.7.1 not you",
    ] {
        let (server, back_end) = proxy(knowing().rule("EHLO client", Does::Says(refusal)));
        let mut client = server.connect();
        client.reply();
        let code = client.command("EHLO client.example").code;
        assert_eq!(code.to_string(), refusal[..3]);
        assert_eq!(client.command("HELO client.example").code, 250);
        assert_eq!(client.command("MAIL FROM:<a@b.example>").code, 250);
        let told = told(&server, &mut client);
        let lines = back_end.lines();
        assert_eq!(lines[1..4], ["EHLO mail.example.com", &told, "EHLO client.example"]);
        assert_nothing_was_done_as_us(&back_end, refusal);
    }
    // Ours is refused: it takes EHLO from others, and may serve them by XCLIENT.
    let (server, back_end) = proxy(knowing().rule("EHLO mail", Does::Says("550 5.7.1 not you")));
    let mut client = server.connect();
    assert_eq!((client.reply().code, client.command("HELO c").code), (220, 421));
    server.await_said("our EHLO was answered 550", 1);
    assert_nothing_was_done_as_us(&back_end, "ours");
    // One that knows no EHLO knows no XCLIENT.
    let (server, back_end) = proxy(knowing().rule("EHLO", Does::Says("502 5.5.1 no")));
    let mut client = server.connect();
    assert_eq!(client.reply().code, 220);
    assert_eq!(client.command("EHLO client.example").code, 502);
    assert_eq!(client.command("HELO client.example").code, 250);
    let expected = ["EHLO client.example", "EHLO mail.example.com", "HELO client.example"];
    assert_eq!(back_end.lines(), expected);
}

/// Without its identity the client would have our rights there.
#[test]
fn xclient_is_taken_or_the_client_is_not_served() {
    for first in ["EHLO client.example", "HELO client.example", "NOOP"] {
        // Not every server answers as Postfix does.
        let (server, back_end) = proxy(knowing().rule("XCLIENT", Does::Says("250 2.0.0 fine")));
        let mut client = server.connect();
        assert_eq!((client.reply().code, client.command(first).code), (220, 250));
        assert_nothing_was_done_as_us(&back_end, first);
        for does in [Does::Says("550 5.7.0 no"), Does::Says("354 go on"), Does::Closes] {
            let (server, back_end) = proxy(knowing().rule("XCLIENT", does));
            let mut client = server.connect();
            assert_eq!((client.reply().code, client.command(first).code), (220, 421));
            assert!(client.is_closed());
            server.await_said("event=back-end-lost", 1);
            assert!(back_end.lines().last().expect("lines").starts_with("XCLIENT "));
        }
        // Put off, each attempt is another connection.
        let (server, back_end) = proxy(knowing().rule("XCLIENT", Does::Says("450 4.7.1 later")));
        let mut client = server.connect();
        assert_eq!((client.reply().code, client.command(first).code), (220, 450));
        for line in ["RSET", "EHLO client.example", "HELO client.example"] {
            assert_eq!(client.command(line).code, 450, "{line}");
        }
        assert_eq!(client.command("QUIT").code, 221);
        let heard = back_end.heard();
        assert_eq!(heard.len(), 4);
        assert!(
            heard
                .iter()
                .all(|one| one.lines.last().is_some_and(|line| line.starts_with("XCLIENT ")))
        );
        assert_nothing_was_done_as_us(&back_end, first);
    }
}

/// What was said of the client ends with the connection on which it was said.
#[test]
fn each_connection_is_told_of_the_client() {
    let (server, back_end) = proxy(knowing());
    let mut client = server.hello();
    for again in ["NOOP", "HELO again", "EHLO again"] {
        begun(&mut client);
        client.send(b"BDAT 3\r\na\r\nRSET\r\n");
        assert_eq!((client.reply().code, client.reply().code), (250, 250));
        assert_eq!(client.command(again).code, 250);
        assert_nothing_was_done_as_us(&back_end, again);
    }
    let told = told(&server, &mut client);
    let heard = back_end.heard();
    assert_eq!(heard.len(), 4);
    assert!(heard.iter().all(|one| one.lines[1] == told), "{heard:?}");
}

/// What a back end offers in clear is not what it offers under TLS, and XCLIENT is not said before that.
#[test]
fn the_client_is_introduced_under_tls() {
    let setup = Setup::new();
    let Some([_, leaf, _]) = authorities("proxy::the_client_is_introduced_under_tls", &setup) else {
        return;
    };
    let pin = &pins(&leaf)[0];
    for (mode, implicit) in [("opportunistic", false), ("required", false), ("implicit", true)] {
        for first in ["EHLO client.example", "HELO client.example", "NOOP"] {
            let script = Script {
                implicit,
                ..knowing().tls(&leaf)
            };
            let back_end = BackEnd::start(script);
            let proof = if mode == "opportunistic" {
                String::new()
            } else {
                format!("tls_pins: {pin}\n")
            };
            let server = proxy_tls(Setup::new(), &back_end, &format!("tls: {mode}\n{proof}"));
            let mut client = server.connect();
            assert_eq!((client.reply().code, client.command(first).code), (220, 250), "{mode}");
            let heard = back_end.heard().pop().expect("a connection");
            let (clear, _) = heard.tls.expect("TLS");
            let told = told(&server, &mut client);
            let ours = if first.starts_with("EHLO") {
                first
            } else {
                "EHLO mail.example.com"
            };
            assert_eq!(heard.lines[clear..], [ours, &told, first], "{mode}");
        }
    }
}

/// Where TLS is required nobody refuses a client for good who has not proved who he is.
#[test]
fn a_refusal_in_clear_is_not_the_back_ends() {
    let keys = format!("tls: required\ntls_pins: {}\n", "ab".repeat(32));
    for (greeting, code) in [("554 5.7.1 go away", 421), ("250 hello", 421), ("450 4.3.2 later", 450)] {
        let back_end = BackEnd::start(Script::default().rule("OPEN", Does::Says(greeting)));
        let server = proxy_tls(Setup::new(), &back_end, &keys);
        let mut client = server.connect();
        assert_eq!(client.reply().code, code, "{greeting}");
        assert!(client.is_closed(), "{greeting}");
        assert_eq!(back_end.lines(), [""; 0]);
    }
}

/// An edit of proxy.yaml counts at the next connection, though the broker has to read it by itself first.
#[test]
fn an_edit_takes_effect_at_the_next_connection() {
    let (mut server, first) = proxy(Script::default());
    let second = BackEnd::start(Script::default().rule("OPEN", Does::Says("220 the second")));
    let text = format!("host: 127.0.0.1\nport: {}\n", second.address().port());
    server.setup().write("proxy.yaml", &text);
    assert_eq!(server.connect().reply().text(), "the second");
    let text = format!("host: localhost\nport: {}\n", first.address().port());
    server.setup().write("proxy.yaml", &text);
    server.signal(nix::sys::signal::Signal::SIGHUP);
    server.await_said("event=reloaded", 1);
    assert_eq!(server.connect().reply().text(), "back.example ready");
}

/// A broker that is killed is there again for the next connection, and nobody's session ends with it.
#[test]
fn a_broker_that_dies_is_forked_again() {
    let (server, _back_end) = proxy(Script::default());
    let mut client = server.hello();
    let broker = nix::unistd::Pid::from_raw(server.working_half("broker"));
    nix::sys::signal::kill(broker, nix::sys::signal::Signal::SIGKILL).expect("kill");
    server.await_said("event=helper-died role=broker", 1);
    assert_eq!(client.command("NOOP").code, 250);
    assert_eq!(server.connect().reply().code, 220);
}

/// The configuration of the standard server needs no broker: none works, until a reload makes a proxy of it.
#[test]
fn a_reload_makes_a_proxy_of_a_server() {
    let mut server = Server::start();
    let brokers = |server: &Server| {
        let processes = server.processes();
        processes.iter().filter(|one| one.name.contains("broker")).count()
    };
    assert_eq!(brokers(&server), 1, "its parent half");
    let back_end = BackEnd::start(Script::default());
    let text = format!("host: 127.0.0.1\nport: {}\n", back_end.address().port());
    server.setup().write("proxy.yaml", &text);
    server.setup().write("worker.yaml", "command_handler: proxy\n");
    server.signal(nix::sys::signal::Signal::SIGHUP);
    server.await_said("event=reloaded", 1);
    assert_eq!(server.connect().reply().text(), "back.example ready");
    assert_eq!(brokers(&server), 2);
    assert!(!server.said().contains("next start"), "{}", server.said());
}

/// The sleeping half ends the daemon as that of every helper does, and ends with it.
#[test]
fn a_broker_that_never_woke_is_no_less_part_of_the_daemon() {
    let server = Server::start();
    let asleep = server.processes().into_iter().find(|one| one.name.contains("broker"));
    let pid = nix::unistd::Pid::from_raw(asleep.expect("its parent half").pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    server.await_said("event=helper-gone role=broker", 1);
    let mut server = Server::start();
    let processes = server.processes();
    server.stop();
    let left = |pid: i32| std::path::Path::new(&format!("/proc/{pid}/ns")).exists();
    assert!(common::wait_until(|| !processes.iter().any(|one| left(one.pid))));
}

/// The original's own chain file: the proxy and its log behind it, in `__DEFAULT__` alone.
#[test]
fn the_chain_of_the_original_is_a_whole_mode() {
    let back_end = BackEnd::start(Script::default());
    let mut setup = Setup::new();
    setup.set("worker.yaml", "command_handler", "proxy");
    let chain = "__DEFAULT__:\n  - module: rsmtpd.handlers.proxy\n    class: Proxy\n  - module: \
                 rsmtpd.handlers.transaction_log\n    class: TransactionLog\n";
    setup.write("command_handler_proxy.yaml", chain);
    let logs = setup.aside().join("transactions");
    std::fs::create_dir(&logs).expect("directory");
    std::fs::set_permissions(&logs, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("mode");
    setup.write("transaction_log.yaml", &format!("log_path: {}\n", logs.display()));
    setup.write(
        "proxy.yaml",
        &format!("host: 127.0.0.1\nport: {}\n", back_end.address().port()),
    );
    let server = setup.start();
    let mut client = server.hello();
    let message = b"Subject: gr\xfc\xdfe\r\n\r\nx\r\n";
    assert_eq!(
        client.deliver("a@b.example", &["test@example.com"], message).text(),
        "2.0.0 back end has it"
    );
    assert_eq!(client.command("QUIT").code, 221);
    let logged = || {
        let files = std::fs::read_dir(&logs).expect("logs").flatten();
        let texts = files.filter_map(|file| std::fs::read(file.path()).ok());
        texts.max_by_key(Vec::len).unwrap_or_default()
    };
    let has = |part: &[u8]| logged().windows(part.len()).any(|window| window == part);
    for part in [
        &b"back.example ready"[..],
        b"EHLO client.example",
        message,
        b"back end has it",
        b"221 2.0.0 bye",
    ] {
        assert!(
            common::wait_until(|| has(part)),
            "{}",
            String::from_utf8_lossy(&logged())
        );
    }
}

/// An authority, a certificate that it has signed for `back.example`, and another authority.
fn authorities(test: &str, setup: &Setup) -> Option<[Pair; 3]> {
    tool(test, "openssl")?;
    let ca = make(&setup.aside().join("ca"), "authority.example", ECDSA);
    let leaf = signed(&setup.aside().join("leaf"), "back.example", &ca);
    let other = make(&setup.aside().join("other"), "stranger.example", RSA);
    for pair in [&ca, &other] {
        let directory = pair.0.parent().expect("directory");
        std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    }
    Some([ca, leaf, other])
}

/// A proxy in front of it that speaks TLS, set up already; `keys` go into proxy.yaml.
fn proxy_tls(mut setup: Setup, back_end: &BackEnd, keys: &str) -> Server {
    setup.set("worker.yaml", "command_handler", "proxy");
    let port = back_end.address().port();
    setup.write("proxy.yaml", &format!("host: 127.0.0.1\nport: {port}\n{keys}"));
    setup.whatever_it_says().start()
}

/// What the client gets: the message is taken or the greeting is 421.
fn attempt(server: &Server) -> bool {
    let mut client = server.connect();
    let greeting = client.reply();
    if greeting.code == 421 {
        assert!(client.is_closed());
        return false;
    }
    assert_eq!(greeting.code, 220);
    assert_eq!(client.command("EHLO client.example").code, 250);
    let message = b"Subject: x\r\n\r\n.dot\r\n..\r\nh\xe4\xff\r\n";
    let reply = client.deliver("a@client.example", &["test@example.com"], message);
    assert_eq!(reply.text(), "2.0.0 back end has it");
    assert_eq!(client.command("QUIT").code, 221);
    true
}

/// What protects the way to the back end is on record with every event.
#[test]
fn records_say_what_protects_the_back_end() {
    let setup = Setup::new();
    let Some([ca, leaf, _]) = authorities("proxy::records_say_what_protects_the_back_end", &setup) else {
        return;
    };
    let logs = setup.aside().join("logs");
    std::fs::create_dir(&logs).expect("directory");
    std::fs::set_permissions(&logs, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).expect("mode");
    setup.write(
        "transaction_log.yaml",
        &format!("log_path: {}\nformat: jsonl\n", logs.display()),
    );
    let chain = "__DEFAULT__:\n  - handler: proxy\n  - handler: transaction_log\n";
    setup.write("command_handler_proxy.yaml", chain);
    let back_end = BackEnd::start(Script::default().tls(&leaf));
    let keys = format!(
        "tls: required\ntls_name: back.example\ntls_ca_file: {}\n",
        ca.0.display()
    );
    let server = proxy_tls(setup, &back_end, &keys);
    assert!(attempt(&server), "{}", server.said());
    let text = || std::fs::read_to_string(logs.join("transaction_log.jsonl")).unwrap_or_default();
    assert!(
        common::wait_until(|| text().contains("\"event\":\"close\"")),
        "{}",
        text()
    );
    let facts =
        r#""back_end_tls":{"version":"TLSv1.3","cipher":"TLS_AES_256_GCM_SHA384","group":"x25519","verified":"ca"}"#;
    for event in ["open", "command", "reply", "data", "end_of_data"] {
        let text = text();
        let mut lines = text.lines();
        let found = lines.any(|line| line.contains(&format!("\"event\":\"{event}\"")) && line.contains(facts));
        assert!(found, "{event}: {text}");
    }
}

/// Nobody but the back end that the configuration means gets anything, and nothing in clear.
#[test]
fn a_back_end_proves_who_it_is() {
    let test = "proxy::a_back_end_proves_who_it_is";
    for implicit in [false, true] {
        let setup = Setup::new();
        let Some([ca, leaf, other]) = authorities(test, &setup) else {
            return;
        };
        let file = |pair: &Pair| format!("tls_ca_file: {}\n", pair.0.display());
        let [pin, key_pin] = pins(&leaf);
        let [wrong_pin, _] = pins(&other);
        for (keys, verified, reason) in [
            (format!("{}tls_name: back.example\n", file(&ca)), "ca", ""),
            (format!("{}tls_name: back.example\n", file(&other)), "", "UnknownIssuer"),
            (
                format!("{}tls_name: front.example\n", file(&ca)),
                "",
                "certificate not valid for name",
            ),
            (file(&ca), "", "certificate not valid for name"),
            (format!("tls_pins: {pin}\n"), "pin", ""),
            (
                format!("tls_pins: [{wrong_pin}, {key_pin}]\ntls_name: front.example\n"),
                "pin",
                "",
            ),
            (format!("tls_pins: {wrong_pin}\n"), "", "has none of the pins"),
        ] {
            let mode = if implicit { "implicit" } else { "required" };
            let script = Script {
                implicit,
                ..Script::default().tls(&leaf)
            };
            let back_end = BackEnd::start(script);
            let server = proxy_tls(Setup::new(), &back_end, &format!("tls: {mode}\n{keys}"));
            let taken = attempt(&server);
            assert_eq!(taken, !verified.is_empty(), "{keys}{}", server.said());
            if taken {
                server.await_said("event=back-end-tls session=", 1);
                server.await_said(
                    &format!("version=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384 group=x25519 verified={verified}"),
                    1,
                );
                let heard = back_end.heard().pop().expect("a connection");
                let (clear, name) = heard.tls.expect("TLS");
                let before: &[&str] = if implicit {
                    &[]
                } else {
                    &["EHLO mail.example.com", "STARTTLS"]
                };
                assert_eq!(heard.lines[..clear], *before);
                assert_eq!(heard.lines[clear], "EHLO client.example");
                let wanted = keys.split("tls_name: ").nth(1).map(str::trim);
                assert_eq!(name.as_deref(), wanted);
                assert_eq!(heard.messages.len(), 1);
            } else {
                server.await_said("event=back-end-lost", 1);
                server.await_said(reason, 1);
                for heard in back_end.heard() {
                    assert!(
                        heard
                            .lines
                            .iter()
                            .all(|line| line == "STARTTLS" || line == "EHLO mail.example.com")
                    );
                }
            }
        }
    }
}

/// Opportunistic TLS goes on in clear where there is none to be had, and only there.
#[test]
fn what_is_no_tls_is_clear_text_or_421() {
    let test = "proxy::what_is_no_tls_is_clear_text_or_421";
    let setup = Setup::new();
    let Some([ca, leaf, _]) = authorities(test, &setup) else {
        return;
    };
    let with_tls = || Script::default().tls(&leaf);
    let required = format!(
        "tls: required\ntls_ca_file: {}\ntls_name: back.example\n",
        ca.0.display()
    );
    let cases = [
        // The back end; whether opportunistic TLS gets through; whether that is in clear, and why.
        (with_tls(), true, ""),
        (Script::default(), true, "STARTTLS is not offered"),
        (
            with_tls().rule("STARTTLS", Does::Says("454 4.7.0 not now")),
            true,
            "STARTTLS was answered 454",
        ),
        (
            with_tls().rule("EHLO mail", Does::Says("502 5.5.1 no")),
            true,
            "EHLO was answered 502",
        ),
        (with_tls().rule("STARTTLS", Does::Closes), false, ""),
        (with_tls().rule("STARTTLS", Does::Says("421 4.3.2 bye")), false, ""),
        (with_tls().rule("STARTTLS", Does::Says("250 fine")), false, ""),
        // Says yes, and then speaks SMTP.
        (with_tls().rule("STARTTLS", Does::Says("220 go")), false, ""),
        // What stands behind the reply would be read as the reply to the first command under TLS.
        (
            with_tls().rule("STARTTLS", Does::Says("220 go\r\n250-x\r\n250 SIZE 7")),
            false,
            "",
        ),
    ];
    for (number, (script, through, in_clear)) in cases.into_iter().enumerate() {
        let back_end = BackEnd::start(script.clone());
        let server = proxy_tls(Setup::new(), &back_end, "tls: opportunistic\nxclient: no\n");
        assert_eq!(attempt(&server), through, "{number}: {}", server.said());
        if !through {
            server.await_said("event=back-end-lost", 1);
        } else if in_clear.is_empty() {
            server.await_said("verified=no", 1);
        } else {
            server.await_said(&format!("reason=\"{in_clear}\""), 1);
            assert!(server.said().contains("event=back-end-plain session="), "{number}");
        }
        let back_end = BackEnd::start(script);
        let server = proxy_tls(Setup::new(), &back_end, &required);
        assert_eq!(attempt(&server), number == 0, "{number}: {}", server.said());
        if number > 0 {
            let lines = back_end.lines();
            let harmless =
                |line: &String| line == "EHLO mail.example.com" || line == "STARTTLS" || line.starts_with('\u{16}');
            assert!(lines.iter().take(2).all(harmless), "{number}: {lines:?}");
            assert!(!lines.iter().any(|line| line.contains("client")), "{number}: {lines:?}");
            server.await_said("event=back-end-lost", 1);
        }
        if number == 8 {
            server.await_said("it said more behind its reply to STARTTLS", 1);
        }
    }
}

/// Under TLS as without it: lost at any step is 421, and nothing counts that was said unasked.
#[test]
fn a_back_end_under_tls_is_lost_as_any_other() {
    let test = "proxy::a_back_end_under_tls_is_lost_as_any_other";
    let setup = Setup::new();
    let Some([_, leaf, _]) = authorities(test, &setup) else {
        return;
    };
    let keys = format!("tls: required\ntls_pins: {}\n", pins(&leaf)[0]);
    for (step, state) in STEPS {
        let back_end = BackEnd::start(Script::default().tls(&leaf).rule(step, Does::Closes));
        let server = proxy_tls(Setup::new(), &back_end, &keys);
        let (last, taken) = session(&mut server.connect());
        assert_eq!((last.code, taken), (421, step == "NOOP"), "{step}: {last:?}");
        assert_told(&server, step, state);
    }
    let script = Script::default()
        .tls(&leaf)
        .rule("RCPT", Does::Says("250 one\r\n250 two"));
    let back_end = BackEnd::start(script);
    let server = proxy_tls(Setup::new(), &back_end, &keys);
    assert_eq!(session(&mut server.connect()).0.code, 421);
    server.await_said("it said 250 unasked", 1);
    assert!(back_end.messages().is_empty());
}

/// The file of authorities is read again on HUP, as tools renew it; broken, the old one stays.
#[test]
fn authorities_are_renewed() {
    let test = "proxy::authorities_are_renewed";
    let setup = Setup::new();
    let Some([ca, leaf, other]) = authorities(test, &setup) else {
        return;
    };
    let live = setup.aside().join("live");
    std::fs::create_dir(&live).expect("directory");
    std::fs::set_permissions(&live, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let file = live.join("roots.pem");
    let install = |content: &[u8]| {
        let aside = file.with_extension("new");
        std::fs::write(&aside, content).expect("written");
        std::fs::rename(&aside, &file).expect("renamed");
    };
    let [ca, other] = [ca, other].map(|pair| std::fs::read(pair.0).expect("certificate"));
    install(&ca);
    let back_end = BackEnd::start(Script::default().tls(&leaf));
    let keys = format!(
        "tls: required\ntls_ca_file: {}\ntls_name: back.example\n",
        file.display()
    );
    let server = proxy_tls(setup, &back_end, &keys);
    assert!(attempt(&server));
    let hup = |content: &[u8], words: &str, count| {
        install(content);
        server.signal(nix::sys::signal::Signal::SIGHUP);
        server.await_said(words, count);
    };
    hup(&other, "event=reloaded", 1);
    assert!(!attempt(&server));
    hup(&[other.as_slice(), &ca].concat(), "event=reloaded", 2);
    assert!(attempt(&server));
    hup(b"nothing", "no certificate in it", 1);
    assert!(attempt(&server));
}
