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
    // The file of another session may have these words before.
    await_text(&directory, b" End of DATA\r\n");
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
    let text = String::from_utf8_lossy(&await_text(&directory, b"\"line\":\"quit\"")).into_owned();
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
        parts.clone().count() >= 3 && parts.all(|line| line.contains("\"tls\":")),
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

/// Mounts a small file system of its own at $1 and runs the rest there.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o size=256k,mode=1777 none "$1" && shift && exec "$@""#;

/// The setup with a small disk at `directory`, which others see below the process's root only.
fn on_a_small_disk(setup: Setup, directory: &Path) -> Setup {
    let words = [
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        ON_A_SMALL_DISK,
        "sh",
    ];
    let words = words.into_iter().map(str::to_owned);
    setup.under(words.chain([directory.display().to_string()]))
}

/// The small disk as it is seen from here.
fn seen(server: &Server, directory: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", server.pid(), directory.display()))
}

/// Of the last number behind `key` in lines with `words`, the sum.
fn sum(said: &str, words: &str, key: &str) -> u64 {
    let lines = said.lines().filter(|line| line.contains(words));
    let numbers = lines.filter_map(|line| {
        line.split(&format!(" {key}="))
            .nth(1)?
            .split(' ')
            .next()?
            .parse::<u64>()
            .ok()
    });
    numbers.sum()
}

fn mail_is_put_off(server: &Server) -> bool {
    server.hello().command("MAIL FROM:<a@client.example>").code == 451
}

#[test]
fn a_full_disk_blocks_mail_only_where_it_is_required() {
    let test = "records::a_full_disk";
    if !common::needs_root(test) || tool(test, "unshare").is_none() {
        return;
    }
    let (setup, directory) = setup("jsonl", "");
    let mut server = on_a_small_disk(setup, &directory).start();
    let file = seen(&server, &directory).join("transaction_log.jsonl");
    let big = [b"Subject: x\r\n\r\n".to_vec(), b"0123456789abcdef\r\n".repeat(40_000)].concat();
    session(&server, &big);
    server.await_said(
        "event=record-lost file=\"transaction_log.jsonl\" reason=\"No space left on device",
        1,
    );
    server.await_said("event=records-lost count=", 1);
    assert!(
        sum(&server.said(), "event=records-lost", "count") > 10,
        "{}",
        server.said()
    );
    session(&server, b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(server.await_mail("test@example.com", 2).len(), 2);
    let whole = |text: &str| {
        text.lines()
            .all(|line| line.starts_with("{\"time\":") && line.ends_with('}'))
    };
    let text = fs::read_to_string(&file).expect("records");
    assert!(whole(&text) && text.ends_with('\n'), "no half line is left");

    let text = server.setup().read("transaction_log.yaml") + "required: yes\n";
    server.setup().write("transaction_log.yaml", &text);
    assert!(wait_until(|| mail_is_put_off(&server)));
    let written = fs::OpenOptions::new().write(true).open(&file);
    written.and_then(|file| file.set_len(0)).expect("room again");
    assert!(wait_until(|| !mail_is_put_off(&server)));
    session(&server, b"Subject: y\r\n\r\nx\r\n");
    assert_eq!(server.await_mail("test@example.com", 3).len(), 3);
    let there = wait_until(|| fs::read_to_string(&file).is_ok_and(|text| text.contains("Subject: y")));
    assert!(there && whole(&fs::read_to_string(&file).expect("records")));
}

#[test]
fn a_limit_on_the_size_of_files_blocks_no_mail() {
    let test = "records::a_limit_on_the_size_of_files";
    if tool(test, "prlimit").is_none() {
        return;
    }
    let (setup, directory) = setup("jsonl", "");
    let server = setup.under(["prlimit", "--fsize=8388608"]).start();
    let big = [b"Subject: x\r\n\r\n".to_vec(), b"0123456789abcdef\r\n".repeat(300_000)].concat();
    for _ in 0..2 {
        session(&server, &big);
    }
    server.await_said("reason=\"File too large", 1);
    server.await_said("event=records-lost count=", 1);
    assert_eq!(server.await_mail("test@example.com", 2).len(), 2);
    let text = fs::read_to_string(directory.join("transaction_log.jsonl")).expect("records");
    assert!(text.lines().all(|line| line.ends_with('}')));
    assert!(!server.said().contains("event=helper-died"), "{}", server.said());
}

#[test]
fn a_full_log_blocks_no_mail_and_says_what_is_missing() {
    let test = "records::a_full_log";
    if !common::needs_root(test) || tool(test, "unshare").is_none() {
        return;
    }
    let (setup, directory) = setup("jsonl", "");
    let log = directory.join("rsmtpd.log");
    let setup = setup.arguments(["-l".into(), log.clone().into_os_string()]);
    let server = on_a_small_disk(setup, &directory).start();
    let (log, filler) = (seen(&server, &log), seen(&server, &directory.join("filler")));
    let filled = fs::write(&filler, vec![0; 1 << 20]);
    assert!(filled.is_err(), "the disk is full");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    // More lines than its last page may still have room for.
    for _ in 0..40 {
        session(&server, b"Subject: x\r\n\r\nx\r\n");
    }
    fs::remove_file(&filler).expect("room again");
    assert!(wait_until(|| {
        session(&server, b"Subject: x\r\n\r\nx\r\n");
        read().contains("event=lines-lost count=")
    }));
    assert!(
        read()
            .lines()
            .all(|line| line.contains(" rsmtpd[") && line.contains("event=")),
        "{}",
        read()
    );
}

/// A session whose message is half said, and a logger that is stopped.
fn half_a_message(server: &Server) -> (common::Client, i32) {
    let mut client = server.hello();
    assert_eq!(client.command("MAIL FROM:<a@client.example>").code, 250);
    assert_eq!(client.command("RCPT TO:<test@example.com>").code, 250);
    assert_eq!(client.command("DATA").code, 354);
    let logger = server.working_half("logger");
    kill(logger, Signal::SIGSTOP);
    client.send(b"Subject: x\r\n\r\nhalf a message\r\n");
    (client, logger)
}

fn kill(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signal");
}

#[test]
fn a_logger_that_is_killed_blocks_no_mail_and_losses_are_counted() {
    let (setup, directory) = setup("jsonl", "");
    let server = setup.start();
    let mut others: Vec<_> = (0..4).map(|_| server.hello()).collect();
    let read = || fs::read_to_string(directory.join("transaction_log.jsonl")).unwrap_or_default();
    assert!(wait_until(
        || read().matches("\"verb\":\"EHLO\",\"code\":250").count() == 4
    ));
    let (mut client, logger) = half_a_message(&server);
    // It takes no more, but nobody waits for it: these records lie in its doors.
    for other in &mut others {
        let reply = other.deliver("a@client.example", &["test@example.com"], b"Subject: y\r\n\r\nx\r\n");
        assert_eq!(reply.code, 250);
    }
    kill(logger, Signal::SIGKILL);
    server.await_said("event=helper-died role=logger how=sigkill", 1);
    client.send(b".\r\n");
    assert_eq!(client.reply().code, 250);
    for client in others.iter_mut().chain([&mut client]) {
        assert_eq!(client.command("QUIT").code, 221);
    }
    // The fifth loses nothing where the logger had answered all of it before it was stopped.
    server.await_said("event=record-lost session=", 4);
    server.await_said("event=records-lost session=", 4);
    assert_eq!(server.await_mail("test@example.com", 5).len(), 5);
    // Nothing is missing that was not counted; what came later is there.
    assert!(wait_until(|| read().matches("\"reason\":\"quit\"").count() >= 5));
    let ended = read().matches("\"event\":\"end_of_data\"").count() as u64;
    let counted = sum(&server.said(), "event=records-lost session=", "unconfirmed");
    assert!(ended == 1 && counted >= 4, "{ended} {counted}\n{}", server.said());
    session(&server, b"Subject: after\r\n\r\nx\r\n");
    await_text(&directory, b"Subject: after");
}

#[test]
fn records_that_a_killed_logger_had_put_off_the_message_that_requires_them() {
    let (setup, _) = setup("jsonl", "required: yes\n");
    let server = setup.start();
    let (mut client, logger) = half_a_message(&server);
    kill(logger, Signal::SIGKILL);
    client.send(b".\r\n");
    assert_eq!(client.reply().code, 451);
    server.await_said("event=helper-died role=logger how=sigkill", 1);
    session(&server, b"Subject: after\r\n\r\nx\r\n");
    assert_eq!(server.await_mail("test@example.com", 1).len(), 1);
}

#[test]
fn records_that_go_nowhere_are_named_once() {
    let (setup, directory) = setup("classic", "");
    setup.write("transaction_log.yaml", "format: classic\nlog_path: null\n");
    let vain = "transaction_log writes nothing: expected the directory for its records in log_path, found none";
    let note = format!("transaction_log.yaml:2:11: log_path: {vain}");
    let (fine, text) = setup.run("check");
    assert!(fine && text.matches(&format!("note: {note}\n")).count() == 1, "{text}");
    let mut server = setup.start();
    let line = format!("event=configuration-note note=\"{note}\"");
    server.await_said(&line, 1);
    server.signal(Signal::SIGHUP);
    server.await_said("event=reloaded", 1);
    // A directory, and none again, which is news; an empty one is none.
    let directory = format!("log_path: {}\n", directory.display());
    for (number, text) in [(2, directory.as_str()), (3, "log_path: ''\n")] {
        server.setup().write("transaction_log.yaml", text);
        server.signal(Signal::SIGHUP);
        server.await_said("event=reloaded", number);
    }
    session(&server, b"Subject: x\r\n\r\nx\r\n");
    server.stop();
    let said = server.said();
    assert_eq!(said.matches(&line).count(), 1, "{said}");
    let empty = format!("transaction_log.yaml:1:11: log_path: {vain}");
    assert_eq!(said.matches(&empty).count(), 1, "{said}");
    assert_eq!(said.matches("configuration-note").count(), 2, "{said}");
}

#[test]
fn another_directory_waits_for_the_next_start_and_is_named_once() {
    let (setup, directory) = setup("jsonl", "");
    let mut server = setup.start();
    let other = directory.with_file_name("others");
    let text = format!("log_path: {}\nformat: jsonl\n", other.display());
    server.setup().write("transaction_log.yaml", &text);
    let line = format!(
        "event=waits directory={} note=\"takes effect at the next start\"",
        other.display()
    );
    // Seen by the next connection, and once more by a reload, and said once.
    assert!(wait_until(|| {
        session(&server, b"Subject: x\r\n\r\nx\r\n");
        server.said().contains(&line)
    }));
    server.signal(Signal::SIGHUP);
    server.await_said("event=reloaded", 1);
    session(&server, b"Subject: x\r\n\r\nx\r\n");
    server.await_said("was not there at the start (restart needed)", 1);
    assert_eq!(server.said().matches(&line).count(), 1, "{}", server.said());
    assert!(
        server
            .setup()
            .run("status")
            .1
            .contains(&format!("directory={}", other.display()))
    );
}
