//! The original's own configuration, unchanged but for the path of the delivery program and the name server to ask, served
//! by the real binary: each fault that the original had is named here and does not come back. Where the files are not at
//! hand, this is said.

mod common;

use common::back_end::{BackEnd, Does, Script};
use common::certificates::{self, ECDSA};
use common::dns::{Dns, Says};
use common::secure::{Secure, hear, say, starttls};
use common::{Client, Server, Setup, skip, tool, wait_until};
use rsmtpd::cli::from_python::DEVIATIONS;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Takes whatever comes, but for test@example.net: writes what it was called with and what it read.
const LDA: &str = r#"case "$*" in *test@example.net*) exit 75;; esac
printf '%s\n' "$@" >"$d/$$.args"
cat >"$d/$$.tmp"
mv "$d/$$.tmp" "$d/$$.in"
"#;

/// A name that the name server never answers.
const SILENT: &str = "silent.example";

struct Original {
    server: Server,
    /// The name server that it asks.
    names: Dns,
    version: String,
    /// The files as the original had them.
    files: PathBuf,
    /// What the delivery program leaves.
    left: TempDir,
}

fn versions() -> Vec<PathBuf> {
    let below = std::env::var_os("RSMTPD_ORIGINAL_CONFIG").map(PathBuf::from);
    let entries = below.iter().filter_map(|below| fs::read_dir(below).ok()).flatten();
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("rsmtpd.yaml").is_file())
        .collect();
    found.sort();
    found
}

/// The original's files in place of the shipped ones, and a place for the program's traces.
fn files(version: &Path) -> (Setup, TempDir) {
    let left = tempfile::tempdir().expect("directory");
    fs::set_permissions(left.path(), fs::Permissions::from_mode(0o777)).expect("mode");
    let program = left.path().join("lda");
    fs::write(&program, format!("#!/bin/sh\nd={}\n{LDA}", left.path().display())).expect("program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("mode");
    let setup = Setup::new();
    for entry in fs::read_dir(setup.config()).expect("configuration") {
        fs::remove_file(entry.expect("file").path()).expect("removed");
    }
    for entry in fs::read_dir(version).expect("original") {
        let path = entry.expect("file").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("name")
            .to_owned();
        setup.write(&name, &fs::read_to_string(&path).expect("text"));
    }
    setup.write(
        "dovecot_delivery.yaml",
        &format!("dovecot_lda_path: {}\n", program.display()),
    );
    (setup, left)
}

fn start(version: &Path) -> Original {
    let (setup, left) = files(version);
    Original::start(setup, left, version)
}

impl Original {
    fn start(mut setup: Setup, left: TempDir, version: &Path) -> Original {
        let below = setup.aside().display().to_string();
        setup.variable("XDG_STATE_HOME", &below);
        let port = setup.port().to_string();
        let names = Dns::start(&[(SILENT, Says::Silence)]);
        let text = format!(
            "{}\nnameservers: [\"{}\"]\n",
            setup.read("rsmtpd.yaml"),
            names.address()
        );
        setup.write("rsmtpd.yaml", &text);
        Original {
            names,
            server: setup.arguments(["-a", "localhost", "-p", &port]).start(),
            version: version.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            files: version.to_path_buf(),
            left,
        }
    }

    /// Another one of this version, with its two certificates; none, said by name, without openssl.
    fn with_tls(&self, test: &str) -> Option<Original> {
        tool(test, "openssl")?;
        let (setup, left) = files(&self.files);
        let mut text = setup.read("rsmtpd.yaml").replace("enabled: false", "enabled: true");
        for name in ["mail.example.com", "mail.example.net"] {
            let (chain, key) = certificates::make(&setup.aside().join(name), name, ECDSA);
            text = text.replace(&format!("/path/to/{name}.pem"), &chain.display().to_string());
            text = text.replace(&format!("/path/to/{name}.key"), &key.display().to_string());
        }
        setup.write("rsmtpd.yaml", &text);
        Some(Original::start(setup, left, &self.files))
    }

    /// What its transaction log holds of a session that sends ahead, with 8-bit text; at the end there is `wanted`.
    fn recorded(&self, wanted: &[&[u8]]) {
        let (setup, left) = files(&self.files);
        let records = left.path().join("records");
        fs::create_dir(&records).expect("directory");
        fs::set_permissions(&records, fs::Permissions::from_mode(0o1777)).expect("mode");
        setup.write("transaction_log.yaml", &format!("log_path: {}\n", records.display()));
        let file = "command_handler_standard_server.yaml";
        let entry = "  - module: rsmtpd.handlers.transaction_log\n    class: TransactionLog\n";
        let mut chain = String::new();
        for line in setup.read(file).split_inclusive('\n') {
            if line.trim().is_empty() && chain.contains("class:") {
                chain.push_str(entry);
            }
            chain.push_str(line);
        }
        setup.write(file, &(chain + "\n" + entry));
        let original = Original::start(setup, left, &self.files);
        let mut client = original.server.connect();
        assert_eq!(client.reply().code, 220);
        client.send(b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<test@example.com>\r\nDATA\r\n");
        for code in [250, 250, 250, 354] {
            assert_eq!(client.reply().code, code);
        }
        client.send(b"Subject: gr\xfc\xdfe\r\n\r\nx\r\n.\r\n");
        assert_eq!(client.reply().code, 250);
        assert_eq!(client.command("QUIT").code, 221);
        let read = || {
            let entries = fs::read_dir(&records).expect("directory").flatten();
            entries
                .flat_map(|entry| fs::read(entry.path()).unwrap_or_default())
                .collect::<Vec<u8>>()
        };
        let has = |wanted: &[u8]| read().windows(wanted.len()).any(|window| window == wanted);
        for wanted in wanted {
            assert!(
                wait_until(|| has(wanted)),
                "{}\n{}",
                String::from_utf8_lossy(wanted),
                String::from_utf8_lossy(&read())
            );
        }
    }

    fn state(&mut self) -> PathBuf {
        self.server.setup().aside().join("rsmtpd")
    }

    /// What the program has been given so far: its arguments and its input.
    fn delivered(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(self.left.path()).expect("directory");
        let paths = entries.map(|entry| entry.expect("entry").path());
        let inputs = paths.filter(|path| path.extension().is_some_and(|kind| kind == "in"));
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("file")).into_owned();
        inputs
            .map(|path| (read(&path.with_extension("args")), read(&path)))
            .collect()
    }

    /// Forgets what was delivered.
    fn forget(&self) {
        for entry in fs::read_dir(self.left.path()).expect("directory") {
            let path = entry.expect("entry").path();
            if path.extension().is_some() {
                fs::remove_file(path).expect("removed");
            }
        }
    }

    fn hello(&self) -> Client {
        self.server.hello()
    }

    /// A client whose text is awaited.
    fn in_data(&self) -> Client {
        let mut client = self.hello();
        let lines = [
            ("MAIL FROM:<a@client.example>", 250),
            ("RCPT TO:<test@example.com>", 250),
            ("DATA", 354),
        ];
        codes(&mut client, &lines);
        client
    }
}

fn codes(client: &mut Client, lines: &[(&str, u16)]) {
    for (line, code) in lines {
        assert_eq!(client.command(line).code, *code, "{line}");
    }
}

/// A message under TLS, and the reply to it.
fn deliver(secure: &mut Secure, to: &str, text: &str) -> String {
    for (line, code) in [
        ("MAIL FROM:<a@client.example>".to_owned(), "250 "),
        (format!("RCPT TO:<{to}>"), "250 "),
        ("DATA".to_owned(), "354 "),
    ] {
        let reply = say(secure, &line);
        assert!(reply.starts_with(code), "{line}: {reply}");
    }
    secure.write_all(format!("{text}\r\n.\r\n").as_bytes()).expect("sent");
    hear(secure)
}

type Check = fn(&mut Original);

/// The original's faults by number and name, and how to see that they are gone.
const FAULTS: &[(u32, &str, Check)] = &[
    (1, "the second message of a connection fails", |o| {
        let mut client = o.hello();
        for text in ["one", "two"] {
            let message = format!("Subject: {text}\r\n\r\n{text}\r\n");
            let reply = client.deliver("a@client.example", &["test@example.com"], message.as_bytes());
            assert_eq!(reply.code, 250, "{text}");
        }
        assert_eq!(o.delivered().len(), 2);
    }),
    (2, "dots stay doubled", |o| {
        let mut client = o.in_data();
        client.send(b"Subject: x\r\n\r\n..dot\r\n.\r\n");
        assert_eq!(client.reply().code, 250);
        assert!(o.delivered()[0].1.ends_with("\r\n.dot\r\n"), "{:?}", o.delivered());
    }),
    (3, "white space or a bare line feed behind a dot ends the data", |o| {
        let mut client = o.in_data();
        client.send(b"Subject: x\r\n\r\nx\r\n. \t\r\ny\r\n.\nRSET\r\n");
        assert!(client.is_quiet());
        client.send(b".\r\n");
        assert_eq!(client.reply().code, 250);
        assert!(o.delivered()[0].1.ends_with("RSET\r\n"), "{:?}", o.delivered());
    }),
    (4, "a message without an accepted MAIL", |o| {
        let mut client = o.hello();
        codes(
            &mut client,
            &[
                ("RCPT TO:<test@example.com>", 503),
                ("MAIL FROM:<a b>", 501),
                ("RCPT TO:<test@example.com>", 503),
                ("DATA", 503),
                ("MAIL FROM:<a@client.example>", 250),
                ("MAIL FROM:<b@client.example>", 503),
            ],
        );
    }),
    (5, "a recipient for research makes delivery fail for all", |o| {
        let mut client = o.hello();
        let to = ["nobody@example.com", "test@example.com", "webmaster@example.com"];
        let reply = client.deliver("a@client.example", &to, b"Subject: x\r\n\r\nx\r\n");
        assert_eq!(reply.code, 250);
        assert_eq!(o.delivered().len(), 1, "one mailbox, one copy");
        let soft = common::messages_below(&o.state().join("quarantine/example.com/soft"));
        assert_eq!(soft.len(), 1);
        let both = ["test@example.com", "test@example.net"];
        let reply = client.deliver("a@client.example", &both, b"Subject: x\r\n\r\ny\r\n");
        assert_eq!(reply.code, 250, "who has it must not get it twice");
        assert_eq!(o.delivered().len(), 2);
    }),
    (6, "RSET, NOOP, HELP and VRFY do not work", |o| {
        codes(
            &mut o.hello(),
            &[("RSET", 250), ("NOOP", 250), ("HELP", 214), ("VRFY test", 252)],
        );
    }),
    (7, "addresses that are none for it", |o| {
        codes(
            &mut o.hello(),
            &[
                ("MAIL FROM:a@client.example SIZE=100", 250),
                ("RCPT TO:<TEST@EXAMPLE.COM>", 250),
                ("RCPT TO:<postmaster>", 250),
                ("RCPT TO:<@relay.example:test@example.com>", 250),
                ("RCPT TO:<a@[192.0.2.1]>", 550),
            ],
        );
    }),
    (8, "STARTTLS changes nothing and is there twice", |o| {
        let Some(o) = o.with_tls("original: 8") else { return };
        let mut client = o.server.connect();
        assert_eq!(client.reply().code, 220);
        let offered = |text: &str| text.lines().any(|line| line.ends_with("STARTTLS"));
        assert!(
            client
                .command("EHLO client.example")
                .lines
                .iter()
                .any(|line| offered(line))
        );
        codes(
            &mut client,
            &[
                ("MAIL FROM:<before@client.example>", 250),
                ("RCPT TO:<test@example.com>", 250),
            ],
        );
        let mut secure = starttls(client, "mail.example.com").expect("handshake");
        assert!(say(&mut secure, "DATA").starts_with("503 "));
        assert!(
            say(&mut secure, "MAIL FROM:<a@client.example>").starts_with("503 "),
            "EHLO is forgotten"
        );
        let hello = say(&mut secure, "EHLO client.example");
        assert!(hello.starts_with("250-") && !offered(&hello), "{hello}");
        assert!(say(&mut secure, "RCPT TO:<test@example.com>").starts_with("503 "));
        assert!(say(&mut secure, "STARTTLS").starts_with("503 "));
        let reply = deliver(&mut secure, "test@example.com", "Subject: x\r\n\r\nx");
        assert!(reply.starts_with("250 "), "{reply}");
        let (_, input) = o.delivered().remove(0);
        assert!(
            input.contains(" with ESMTPS id ") && !input.contains("TLS disabled"),
            "{input}"
        );
        // A handshake that fails harms nobody else.
        let mut other = o.hello();
        assert_eq!(other.command("STARTTLS").code, 220);
        other.send(b"no TLS at all\r\n");
        assert!(other.is_closed() || other.is_closed());
        assert!(say(&mut secure, "NOOP").starts_with("250 "));
        assert_eq!(o.hello().command("NOOP").code, 250);
        assert!(!o.server.said().contains("crashed"), "{}", o.server.said());
    }),
    (9, "a certificate is chosen by any part of a name", |o| {
        let Some(o) = o.with_tls("original: 9") else { return };
        for (asked, ours) in [
            ("mail.example.net", "mail.example.net"),
            ("MAIL.Example.NET", "mail.example.net"),
            ("evil.example.net.attacker.org", "mail.example.com"),
            ("badexample.net", "mail.example.com"),
            ("mail.example.network", "mail.example.com"),
            ("mail.example.com", "mail.example.com"),
        ] {
            let mut secure = starttls(o.hello(), asked).expect("handshake");
            let shown = secure.conn.peer_certificates().expect("certificates")[0].to_vec();
            let has = |name: &str| shown.windows(name.len()).any(|window| window == name.as_bytes());
            assert!(has(ours), "{asked}: another certificate");
            let reply = say(&mut secure, "QUIT");
            assert!(reply.contains(ours), "{asked}: {reply}");
        }
    }),
    (
        10,
        "lines with 8-bit octets are missing in the log, and replies in it are templates",
        |o| {
            o.recorded(&[
                b"Subject: gr\xfc\xdfe\r\n\r\nx\r\n\r\n< ",
                b"< 220 mail.example.com RSMTPD v",
                b"\r\n< 250-Hello client.example (127.0.0.1 port ",
                b" End of DATA\r\n< 250 2.0.0 ",
            ]);
        },
    ),
    (
        11,
        "the delivery program is told too little, and trace fields are none",
        |o| {
            let reply = o.hello().deliver(
                "a@client.example",
                &["webmaster@example.com"],
                b"Subject: x\r\n\r\nx\r\n",
            );
            assert_eq!(reply.code, 250);
            let (arguments, input) = o.delivered().remove(0);
            assert!(arguments.contains("-d\ntest@example.com\n"), "{arguments}");
            assert!(arguments.contains("-f\na@client.example\n"), "{arguments}");
            assert!(arguments.contains("-a\nwebmaster@example.com\n"), "{arguments}");
            assert!(input.matches("Return-Path:").count() <= 1, "{input}");
            let received = input.split("Received: ").nth(1).unwrap_or_default();
            assert!(
                received.contains("by mail.example.com") && received.contains(";\r\n\t"),
                "{input}"
            );
        },
    ),
    (12, "a SIZE above the limit is accepted", |o| {
        codes(&mut o.hello(), &[("MAIL FROM:<a@client.example> SIZE=999999999", 552)]);
    }),
    (13, "no limits at all", |o| {
        let mut client = o.hello();
        let last = (0..100)
            .map(|_| client.command("RCPT TO:<").code)
            .find(|code| *code != 501 && *code != 503);
        assert_eq!(last, Some(421));
    }),
    (14, "a long line leaves the connection hanging", |o| {
        let mut client = o.hello();
        client.send(&[vec![b'x'; 40 * 1024], b"\r\n".to_vec()].concat());
        assert_eq!(client.reply().code, 500);
        assert_eq!(client.command("NOOP").code, 250);
    }),
    (15, "replies are cut off", |o| {
        o.server.setup().set("worker.yaml", "maximum_harmless_commands", "5001");
        let mut client = o.hello();
        client.send("NOOP\r\n".repeat(5000).as_bytes());
        for number in 0..5000 {
            assert_eq!(client.reply().code, 250, "{number}");
        }
    }),
    (16, "IPv6 is not served", |o| {
        let port = o.server.address().port();
        let Ok(stream) = std::net::TcpStream::connect(("::1", port)) else {
            return skip("original: 16", "no IPv6 on this machine");
        };
        let mut client = Client::over(stream);
        assert_eq!(client.reply().code, 220);
        assert_eq!(client.command("EHLO client.example").code, 250);
    }),
    (17, "EHLO waits for name servers", |o| {
        let mut client = o.server.connect();
        assert_eq!(client.reply().code, 220);
        let began = Instant::now();
        assert_eq!(client.command("EHLO name.that.does.not.exist.example").code, 250);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        o.server
            .await_said("symbol=HELO_FORWARD value=\"none\" score=0 error=false", 1);
        // Whoever names what nobody answers waits alone, and nobody has to.
        let mut slow = o.server.connect();
        assert_eq!(slow.reply().code, 220);
        slow.send(format!("EHLO {SILENT}\r\n").as_bytes());
        assert!(wait_until(|| o
            .names
            .asked()
            .iter()
            .any(|asked| asked.ends_with(SILENT))));
        let began = Instant::now();
        codes(&mut o.hello(), &[("NOOP", 250)]);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        let own = o.server.setup().read("hello.yaml");
        o.server.setup().write("hello.yaml", &format!("{own}\nlook_up: no\n"));
        let asks_nobody = || {
            let mut client = o.server.connect();
            let began = Instant::now();
            client.reply().code == 220
                && client.command(&format!("EHLO {SILENT}")).code == 250
                && began.elapsed() < Duration::from_secs(1)
        };
        assert!(wait_until(asks_nobody));
        o.server.setup().write("hello.yaml", &own);
    }),
    (18, "root's groups stay", |o| {
        if !common::is_root() {
            return skip("original: 18", "needs root");
        }
        for process in o.server.processes() {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
            let of = |key: &str| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(key))
                    .unwrap_or_default()
                    .to_owned()
            };
            assert!(
                !of("Uid:").split_whitespace().any(|id| id == "0"),
                "{}: {status}",
                process.name
            );
            assert!(
                !of("Groups:").split_whitespace().any(|id| id == "0"),
                "{}: {status}",
                process.name
            );
        }
    }),
    (19, "all connections share the name that TLS has chosen", |o| {
        let Some(o) = o.with_tls("original: 19") else { return };
        let mut first = starttls(o.hello(), "mail.example.com").expect("handshake");
        let mut second = starttls(o.hello(), "mail.example.net").expect("handshake");
        let mut plain = o.hello();
        for (secure, ours) in [(&mut first, "mail.example.com"), (&mut second, "mail.example.net")] {
            assert!(say(secure, "EHLO client.example").starts_with("250-"));
            let reply = say(secure, "QUIT");
            assert!(reply.contains(ours), "{reply}");
        }
        assert!(plain.command("QUIT").text().contains("mail.example.com"));
    }),
    (20, "what fails lets mail in", |o| {
        let reply = o
            .hello()
            .deliver("a@client.example", &["test@example.net"], b"Subject: x\r\n\r\nx\r\n");
        assert_eq!(reply.code, 451);
    }),
    (21, "errors hide their cause", |o| {
        let before = o.server.setup().read("greeting.yaml");
        o.server.setup().write("greeting.yaml", "mesage: x\n");
        assert_eq!(o.hello().command("NOOP").code, 250, "the last good set is served");
        o.server.await_said("greeting.yaml:1:1: mesage: expected message", 1);
        o.server.setup().write("greeting.yaml", &before);
    }),
    (22, "EHLO without a name, and in the midst of a transaction", |o| {
        codes(
            &mut o.hello(),
            &[
                ("EHLO", 501),
                ("HELO", 501),
                ("MAIL FROM:<a@client.example>", 250),
                ("EHLO client.example", 250),
                ("RCPT TO:<test@example.com>", 503),
            ],
        );
    }),
    (23, "552 closes the connection", |o| {
        let mut client = o.hello();
        codes(
            &mut client,
            &[("MAIL FROM:<a@client.example> SIZE=999999999", 552), ("NOOP", 250)],
        );
    }),
    (
        24,
        "whether more was sent ahead is known for the first command alone",
        |o| {
            o.recorded(&[
                b" [buffer: full] EHLO client.example\r\n",
                b" [buffer: full] MAIL FROM:<a@client.example>\r\n",
                b" [buffer: full] RCPT TO:<test@example.com>\r\n",
                b" [buffer: empty] DATA\r\n< 354 ",
                b" [buffer: empty] QUIT\r\n< 221 ",
            ]);
        },
    ),
    (
        25,
        "a proxy offers what it cannot carry, and takes long replies for short ones",
        |o| {
            let offered = "DSN BINARYMIME XCLIENT XFORWARD AUTH ETRN BURL FUTURERELEASE MT-PRIORITY X-OWN";
            let mut script = Script::default().rule("NOOP", Does::Says("250-first\r\n250 second"));
            script
                .ehlo
                .extend(["AUTH PLAIN LOGIN", "XCLIENT NAME ADDR", "FUTURERELEASE 1 2"]);
            script.ehlo.extend([
                "DSN",
                "BINARYMIME",
                "XFORWARD",
                "ETRN",
                "BURL imap",
                "MT-PRIORITY",
                "X-OWN",
            ]);
            let back_end = BackEnd::start(script);
            let (setup, left) = files(&o.files);
            setup.write("worker.yaml", "command_handler: proxy\n");
            let address = back_end.address();
            setup.write(
                "proxy.yaml",
                &format!("host: {}\nport: {}\n", address.ip(), address.port()),
            );
            setup.write("transaction_log.yaml", "log_path: null\n");
            let proxy = Original::start(setup, left, &o.files);
            let mut client = proxy.server.connect();
            assert!(client.reply().text().starts_with("back.example ready"));
            let hello = client.command("EHLO client.example");
            let names: Vec<&str> = hello.lines[1..]
                .iter()
                .filter_map(|line| line.split(' ').next())
                .collect();
            for name in offered.split(' ') {
                assert!(!names.contains(&name), "{name}: {names:?}");
            }
            for name in ["SIZE", "8BITMIME", "SMTPUTF8", "PIPELINING", "CHUNKING"] {
                assert!(names.contains(&name), "{name}: {names:?}");
            }
            assert_eq!(client.command("NOOP").lines, ["first", "second"]);
            // What is offered is carried.
            client.send(b"MAIL FROM:<gr\xc3\xbc\xc3\x9fe@client.example> SMTPUTF8\r\nRCPT TO:<test@example.com>\r\n");
            assert_eq!((client.reply().code, client.reply().code), (250, 250));
            client.send(b"BDAT 3\r\n.\r\nBDAT 3 LAST\r\nx\r\n");
            assert_eq!((client.reply().code, client.reply().code), (250, 250));
            assert_eq!(client.command("QUIT").code, 221);
            let messages = back_end.messages();
            assert!(
                messages.len() == 1 && messages[0].ends_with(b"x\r\n.\r\n"),
                "{messages:?}"
            );
        },
    ),
    (26, "replies of several lines are mixed up", |o| {
        let mut client = o.server.connect();
        assert_eq!(client.reply().code, 220);
        let reply = client.command("EHLO client.example");
        assert!(reply.code == 250 && reply.lines.len() > 3, "{reply:?}");
    }),
    (27, "messages lie about for all to read", |o| {
        o.server.setup().write("post_data_reset.yaml", "keep_data_file: True\n");
        let reply = o
            .hello()
            .deliver("a@client.example", &["test@example.com"], b"Subject: x\r\n\r\nkept\r\n");
        assert_eq!(reply.code, 250);
        let copies = o.state().join("copies");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&copies), 0o700);
        let files: Vec<PathBuf> = fs::read_dir(&copies)
            .expect("copies")
            .map(|entry| entry.expect("copy").path())
            .collect();
        assert_eq!(files.len(), 1);
        assert_eq!(mode(&files[0]), 0o600);
        let text = fs::read_to_string(&files[0]).expect("copy");
        assert!(
            text.starts_with("Return-Path: <a@client.example>\r\nReceived: "),
            "{text}"
        );
        assert!(text.ends_with("\r\nkept\r\n"), "{text}");
        let name = files[0].file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(name.starts_with("rsmtpd-") && name.ends_with(".txt"), "{name}");
        o.server
            .setup()
            .write("post_data_reset.yaml", "keep_data_file: False\n");
    }),
    (28, "an external filter sees one recipient", |o| {
        let (setup, left) = files(&o.files);
        let seen = left.path().join("seen");
        let program = left.path().join("filter");
        let text = format!("#!/bin/sh\nprintf '%s ' \"$@\" >>{}\necho 99\n", seen.display());
        fs::write(&program, text).expect("program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("mode");
        let own = format!("command: {}\nreject_threshold: 98\n", program.display());
        setup.write("external_content_filter.yaml", &own);
        let file = "command_handler_standard_server.yaml";
        let entry = "  - module: rsmtpd.handlers.external_content_filter\n    class: ExternalContentFilter\n";
        let delivery = "  - module: rsmtpd.handlers.dovecot_delivery\n";
        setup.write(file, &setup.read(file).replace(delivery, &format!("{entry}{delivery}")));
        let (listed, said) = setup.run("check");
        assert!(
            listed && said.contains("external_content_filter: not yet available"),
            "{said}"
        );
        let filtered = Original::start(setup, left, &o.files);
        let both = ["test@example.com", "webmaster@example.com", "nobody@example.com"];
        let reply = filtered
            .hello()
            .deliver("a@client.example", &both, b"Subject: x\r\n\r\nx\r\n");
        // Until it can be told of all it is told of none, and decides nothing.
        assert_eq!(reply.code, 250);
        assert!(!seen.exists(), "{:?}", fs::read_to_string(&seen));
    }),
    (29, "SPF refuses too much", |o| {
        codes(&mut o.hello(), &[("MAIL FROM:<a@softfail.example>", 250)]);
    }),
    (30, "words anywhere make a notification", |o| {
        let phishing = b"X-Status: system error\r\nReceived: from server by daemon; failed\r\nSubject: pay now\r\n\r\n\
            http://server.example/system/error/status\r\n";
        let reply = o.hello().deliver("", &["test@example.com"], phishing);
        assert_eq!(reply.code, if o.version == "0.6.0" { 550 } else { 250 });
        let notice = b"Subject: Undeliverable\r\n\r\nThe mail system reports an error.\r\n";
        assert_eq!(o.hello().deliver("", &["test@example.com"], notice).code, 250);
    }),
];

#[test]
fn every_fault_is_named_once() {
    let numbers: Vec<u32> = FAULTS.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=30).collect::<Vec<u32>>());
}

#[test]
fn the_faults_of_the_original_are_gone() {
    if versions().is_empty() {
        return skip(
            "original",
            "RSMTPD_ORIGINAL_CONFIG does not name the original's configuration",
        );
    }
    for version in versions() {
        let mut original = start(&version);
        for (number, name, check) in FAULTS {
            original.forget();
            let shown = format!("{}: {number} {name}", original.version);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&mut original)));
            assert!(outcome.is_ok(), "{shown}\n{}", original.server.said());
        }
    }
}

#[test]
fn its_mode_that_rejects_all_mail_works() {
    for version in versions() {
        let (setup, left) = files(&version);
        setup.write("worker.yaml", "command_handler: reject_all\n");
        setup.write("reject_all.yaml", "close_connection: no\n");
        let mut original = Original::start(setup, left, &version);
        let mut client = original.server.connect();
        assert_eq!(client.reply().code, 521);
        codes(
            &mut client,
            &[
                ("EHLO client.example", 521),
                ("MAIL FROM:<a@client.example>", 521),
                ("DATA", 354),
            ],
        );
        client.send(b"x\r\n.\r\n");
        assert_eq!(client.reply().code, 521);
        assert_eq!(client.command("QUIT").code, 221);
        original
            .server
            .setup()
            .write("reject_all.yaml", "close_connection: yes\n");
        assert!(wait_until(|| {
            let mut client = original.server.connect();
            client.reply().code == 521 && client.is_closed()
        }));
    }
}

#[test]
fn every_deviation_is_listed() {
    let listed = |directory: &Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rsmtpd"));
        common::run(command.args(["check", "--from-python"]).arg(directory), b"")
    };
    for version in versions() {
        let (setup, _left) = files(&version);
        let (success, said) = listed(&setup.config());
        assert!(success, "{said}");
        let has_spf = version.ends_with("0.6.0");
        assert_eq!(said.contains("spf_validator: not yet available"), has_spf, "{said}");
        for words in ["mail_spool_dir is not used", "the last reply counts", "in general:"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        shows_every_one(&said);
    }
    let (success, said) = listed(&common::root().join("config"));
    assert!(success, "{said}");
    shows_every_one(&said);
}

fn shows_every_one(said: &str) {
    for (one, number) in DEVIATIONS.iter().zip(1..) {
        let (original, here, why) = (one.original, one.here, one.why);
        let shown = format!("  {number}. original: {original}\n     here: {here}\n     why: {why}\n");
        assert!(said.contains(&shown), "{shown}\n{said}");
    }
}

/// Words by which the deviation that is about a fault can be told from all others: of what the original did, and of what
/// happens here.
const WORDS: [(u32, &str, &str); 30] = [
    (1, "second message of a connection", "any number of messages"),
    (2, "dots doubled", "taken out"),
    (3, "a dot before a bare line feed", "only <CR><LF>.<CR><LF>"),
    (4, "after a refused MAIL", "503"),
    (5, "one recipient accepted for research", "quarantine"),
    (6, "RSET, NOOP and HELP", "they work"),
    (7, "<postmaster>, address literals", "understood"),
    (8, "after STARTTLS it was offered again", "before TLS is forgotten"),
    (9, "any part of the name", "whole labels"),
    (10, "each line with 8-bit octets", "every octet"),
    (11, "dovecot-lda was told the mailbox alone", "original recipient"),
    (12, "SIZE above the limit", "552"),
    (13, "nothing timed out", "limits for errors"),
    (14, "more than 32 KiB", "500 for a command"),
    (15, "cut off", "written whole"),
    (16, "only IPv4", "both families"),
    (17, "waited for name servers", "a process of its own asks"),
    (18, "supplementary groups", "no process with user id 0"),
    (19, "shared by all connections", "belongs to its connection"),
    (20, "failed had no opinion", "451"),
    (21, "faults in the messages of the log", "names handler, file, line"),
    (22, "without a name were accepted", "501"),
    (23, "552 closed", "may go on"),
    (24, "sent ahead", "for every one"),
    (25, "extensions that it could not carry", "what is carried"),
    (26, "numbers or text", "one value"),
    (27, "/var/tmp", "mode 0600"),
    (28, "external filter", "not yet available"),
    (29, "SPF softfail", "no opinion"),
    (30, "three words anywhere", "RFC 3464"),
];

/// The same of those that are about no fault.
const OTHERS: [(&str, &str); 18] = [
    ("default port always replaced", "nothing else does"),
    ("unknown arguments and keys", "file, line and column"),
    ("a missing key fell back", "one default"),
    ("~/.rsmtpd was never found", "that is an error"),
    ("log_path and background", "they work"),
    ("in one file for a whole disk", "by the logger"),
    ("MAIL without FROM: and RCPT without TO: were answered 504", "501"),
    ("STARTTLS without a certificate", "502"),
    ("in another order each time, and BDAT", "CHUNKING"),
    ("bare carriage returns and line feeds", "line_endings"),
    ("a proxy that lost the server behind it answered 500", "421"),
    ("ETRN and XFORWARD", "502 where the command is known, else 500"),
    ("EHLO inside TLS", "asked anew"),
    ("a proxy said nothing of its own", "XCLIENT"),
    ("no chain file", "each is an error"),
    ("maximum_message_size_in_mb of 0 or less meant 8 MiB", "1 to 1024"),
    ("a key that stood twice", "it is an error"),
    ("any class of any Python module", "any other is an error"),
];

#[test]
fn every_deviation_is_about_what_it_says() {
    let only = |words: &str| {
        let found: Vec<_> = DEVIATIONS.iter().filter(|one| one.original.contains(words)).collect();
        assert_eq!(found.len(), 1, "{words}: {found:?}");
        found[0]
    };
    let about = |faults: &[u32], original: &str, here: &str| {
        let one = only(original);
        assert!(
            one.faults == faults && one.here.contains(here) && !one.why.is_empty(),
            "{faults:?}: {one:?}"
        );
    };
    assert_eq!(DEVIATIONS.len(), WORDS.len() + OTHERS.len());
    for ((number, original, here), (fault, name, _)) in WORDS.iter().zip(FAULTS) {
        assert_eq!(number, fault, "{name}");
        about(&[*number], original, here);
    }
    for (original, here) in OTHERS {
        about(&[], original, here);
    }
}
