//! Records of sessions as the real daemon writes them: through its logger, into files of theirs.

mod common;

use common::{Server, Setup, certificates, tool, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CHAIN: &str = "command_handler_standard_server.yaml";

/// Records everything in `format` below a new directory.
fn setup(format: &str, more: &str) -> (Setup, PathBuf) {
    let setup = Setup::new();
    let directory = setup.aside().join("records");
    if common::is_root() {
        // As in /tmp: whoever writes records may make files here.
        fs::create_dir(&directory).expect("directory");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        fs::set_permissions(&directory, mode).expect("mode");
    }
    let text = format!("log_path: {}\nformat: {format}\n{more}", directory.display());
    setup.write("transaction_log.yaml", &text);
    let chain = setup.read(CHAIN);
    let mut recorded = String::new();
    let mut lines = chain.lines().peekable();
    while let Some(line) = lines.next() {
        recorded += &format!("{line}\n");
        let last = lines
            .peek()
            .is_none_or(|next| next.trim().is_empty() || next.starts_with("  #"));
        if line.starts_with("  - handler: ") && last {
            recorded += "  - handler: transaction_log\n";
        }
    }
    setup.write(CHAIN, &recorded);
    (setup, directory)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    found.sort();
    found
}

/// All that is in the files, once `wanted` is.
fn await_text(directory: &Path, wanted: &[u8]) -> Vec<u8> {
    let read = || {
        files(directory)
            .iter()
            .flat_map(|path| fs::read(path).unwrap_or_default())
            .collect::<Vec<u8>>()
    };
    let there = wait_until(|| read().windows(wanted.len()).any(|window| window == wanted));
    let text = read();
    assert!(
        there,
        "{}\n{}",
        String::from_utf8_lossy(wanted),
        String::from_utf8_lossy(&text)
    );
    text
}

fn session(server: &Server, message: &[u8]) {
    let mut client = server.hello();
    assert_eq!(
        client.deliver("a@client.example", &["test@example.com"], message).code,
        250
    );
    assert_eq!(client.command("QUIT").code, 221);
}

#[test]
fn the_classic_form_is_whole() {
    let (setup, directory) = setup("classic", "");
    let server = setup.start();
    let mut message = b"Subject: x\r\n\r\n".to_vec();
    for number in 0..5000_u32 {
        message.extend(format!("{number} ").as_bytes());
        message.extend(b"\xfc\xdf\xe9 text of a line of eight bits\r\n");
    }
    session(&server, &message);
    let text = await_text(&directory, b"closing connection\r\n");
    assert!(
        text.windows(message.len()).any(|window| window == message),
        "the text is there, every octet"
    );
    let text = String::from_utf8_lossy(&text).into_owned();
    for part in [
        "] EHLO ",
        "] MAIL FROM:<a@client.example>\r\n< 250 2.1.0 ",
        "] DATA\r\n< 354 ",
        " End of DATA\r\n< 250 2.0.0 ",
    ] {
        assert!(text.contains(part), "{part}");
    }
    let named = files(&directory).iter().all(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (time, rest) = name.split_once('-').unwrap_or_default();
        time.len() == 15 && rest.starts_with("127.0.0.1-") && rest.ends_with(".log")
    });
    assert!(named, "{:?}", files(&directory));
}

#[test]
fn jsonl_is_one_file_of_whole_lines_and_rotated() {
    let (setup, directory) = setup("jsonl", "");
    let server = setup.start();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let server = &server;
            scope.spawn(move || {
                session(
                    server,
                    format!("Subject: {number}\r\n\r\n{}\r\n", "x".repeat(900)).as_bytes(),
                )
            });
        }
    });
    assert!(wait_until(|| {
        let text = fs::read_to_string(directory.join("transaction_log.jsonl")).unwrap_or_default();
        text.matches("\"event\":\"close\"").count() >= 8
    }));
    let text = fs::read_to_string(directory.join("transaction_log.jsonl")).expect("records");
    for line in text.lines() {
        assert!(line.starts_with("{\"time\":\"") && line.ends_with('}'), "{line}");
        assert!(rsmtpd::config::Part::parse("line", line).is_ok(), "{line}");
    }
    fs::rename(directory.join("transaction_log.jsonl"), directory.join("old")).expect("rotated");
    server.signal(Signal::SIGHUP);
    server.await_said("event=reloaded", 1);
    session(&server, b"Subject: after\r\n\r\nx\r\n");
    assert!(wait_until(|| {
        let text = fs::read_to_string(directory.join("transaction_log.jsonl")).unwrap_or_default();
        text.contains("Subject: after") && text.contains("\"reason\":\"quit\"")
    }));
}

#[test]
fn tls_is_on_record_with_the_hello_as_it_came() {
    let test = "records::tls_is_on_record";
    if tool(test, "openssl").is_none() {
        return;
    }
    let (mut setup, directory) = setup("jsonl", "");
    let pair = certificates::make(&setup.aside().join("keys"), "mail.example.com", certificates::ECDSA);
    certificates::enable(
        &mut setup,
        &certificates::entry(".example.com", "tls.example.com", &pair),
    );
    let server = setup.start();
    let mut command = Command::new("openssl");
    command
        .arg("s_client")
        .arg("-connect")
        .arg(server.address().to_string());
    command.args(["-crlf", "-quiet", "-ign_eof", "-starttls", "smtp", "-tls1_3"]);
    command.args(["-servername", "mx.example.com"]);
    common::run(&mut command, b"EHLO client.example\nquit\n");
    let tls = br#""tls":{"version":"TLSv1.3","cipher":"TLS_AES_"#;
    let text = String::from_utf8_lossy(&await_text(&directory, b"\"reason\":\"quit\"")).into_owned();
    let of = |event: &str| {
        let found = text
            .lines()
            .find(|line| line.contains(&format!("\"event\":\"{event}\"")));
        found.unwrap_or_else(|| panic!("{event}\n{text}")).to_owned()
    };
    // A handshake record of a ClientHello: 22 3 1 … begins so in base64.
    let shaken = of("tls");
    for part in [
        std::str::from_utf8(tls).expect("ASCII"),
        "\"sni\":\"mx.example.com\"",
        "\"server_name\":\"tls.example.com\",\"hello_base64\":\"FgMB",
    ] {
        assert!(shaken.contains(part), "{part}: {shaken}");
    }
    let session = session_of(&shaken);
    let mut parts = text.lines().filter(|line| session_of(line) == session);
    let before = parts.by_ref().take_while(|line| *line != shaken);
    assert!(before.into_iter().all(|line| !line.contains("\"tls\":")), "{text}");
    assert!(
        parts.clone().count() >= 4 && parts.all(|line| line.contains("\"tls\":")),
        "{text}"
    );

    let mut client = server.hello();
    assert_eq!(client.command("STARTTLS").code, 220);
    client.send(b"no TLS\r\n");
    assert!(client.is_closed() || client.is_closed());
    let text = await_text(&directory, b"\"reason\":\"tls-failed\"");
    let text = String::from_utf8_lossy(&text).into_owned();
    let failed = text.lines().find(|line| line.contains("\"event\":\"tls_failed\""));
    let failed = failed.expect("the failure");
    assert!(
        failed.contains("\"alert\":\"sent ") && failed.contains("\"hello_base64\":\"bm8gVExT"),
        "{failed}"
    );
}

fn session_of(line: &str) -> &str {
    let from = line.split("\"session\":\"").nth(1).unwrap_or_default();
    from.split('"').next().unwrap_or_default()
}

#[test]
fn a_full_file_blocks_mail_only_where_it_is_required() {
    let (setup, directory) = setup("jsonl", "maximum_size_in_mb: 1\n");
    fs::create_dir_all(&directory).expect("directory");
    let mut server = setup.start();
    let big = [b"Subject: x\r\n\r\n".to_vec(), b"0123456789abcdef\r\n".repeat(80_000)].concat();
    session(&server, &big);
    server.await_said("has reached its size", 1);
    session(&server, b"Subject: x\r\n\r\nx\r\n");
    let size = fs::metadata(directory.join("transaction_log.jsonl"))
        .expect("records")
        .len();
    assert!(size <= 1 << 20, "{size}");
    let text = server.setup().read("transaction_log.yaml") + "required: yes\n";
    server.setup().write("transaction_log.yaml", &text);
    assert!(wait_until(|| server
        .hello()
        .command("MAIL FROM:<a@client.example>")
        .code
        == 451));
}

#[test]
fn without_its_directory_mail_goes_on_and_the_log_says_so() {
    let (setup, directory) = setup("classic", "");
    let _ = fs::remove_dir(&directory);
    let text = format!("log_path: {}/missing/deep\n", directory.display());
    setup.write("transaction_log.yaml", &text);
    let server = setup.start();
    session(&server, b"Subject: x\r\n\r\nx\r\n");
    server.await_said("event=record-directory-missing", 1);
    server.await_said("event=record-lost", 1);
}
