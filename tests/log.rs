//! Every line of the log, over real sessions of good, bad and hostile clients: one event a line, in the form that the manual
//! promises, at a level that fits.

mod common;

use common::{Server, Setup, wait_until};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// One line of a log file, taken apart.
struct Line {
    level: String,
    event: String,
    fields: BTreeMap<String, String>,
}

/// Takes a line apart, or says what is wrong with it.
fn parse(line: &str) -> Result<Line, String> {
    if line.len() > 2048 + 80 || !line.bytes().all(|octet| (b' '..=b'~').contains(&octet)) {
        return Err("too long, or not printable ASCII".into());
    }
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().ok_or("too few words");
    let (time, level, origin, mut rest) = (word()?, word()?, word()?, word()?);
    time.parse::<jiff::Timestamp>().map_err(|error| error.to_string())?;
    let pid = origin.strip_prefix("rsmtpd[").and_then(|o| o.strip_suffix("]:"));
    if pid.is_none_or(|pid| pid.parse::<u32>().is_err()) {
        return Err("no process id".into());
    }
    let mut fields = BTreeMap::new();
    let mut first = None;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or("a word that is no field")?;
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            return Err(format!("{key:?} is no key"));
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (value, after) = after.split_once(' ').unwrap_or((after, ""));
                if value.is_empty() || value.contains(['"', '\\']) {
                    return Err(format!("{key}: {value:?} has to be quoted"));
                }
                (value.to_owned(), after)
            }
        };
        if value.len() > 256 + 3 {
            return Err(format!("{key} is not cut"));
        }
        first.get_or_insert_with(|| key.to_owned());
        if fields.insert(key.to_owned(), value).is_some() {
            return Err(format!("{key} stands twice"));
        }
        rest = after;
    }
    if first.as_deref() != Some("event") {
        return Err("event does not come first".into());
    }
    Ok(Line {
        level: level.to_owned(),
        event: fields.remove("event").unwrap_or_default(),
        fields,
    })
}

/// The value up to the closing quote, one character an octet, and what follows the space behind it.
fn unquote(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let after = &text[at + 1..];
                let after = after.strip_prefix(' ').unwrap_or(after);
                return Ok((value, after));
            }
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('r') => value.push('\r'),
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some(c @ ('"' | '\\')) => value.push(c),
                Some('x') => {
                    let digits: String = chars.by_ref().take(2).map(|(_, c)| c).collect();
                    let octet = u8::from_str_radix(&digits, 16).map_err(|_| "a broken escape")?;
                    value.push(char::from(octet));
                }
                _ => return Err("an unknown escape".into()),
            },
            _ => value.push(c),
        }
    }
    Err("a quote without an end".into())
}

/// Sessions that reach as many lines as clients can.
fn talk(server: &Server) {
    let mut client = server.hello();
    let message = b"Subject: log\r\n\r\nSecret of the body.\r\n";
    assert_eq!(
        client
            .deliver("a@example.org", &["test@example.com", "other@example.com"], message)
            .code,
        250
    );
    let soft = client.deliver("a@example.org", &["nobody@example.net"], message);
    assert_eq!(soft.code, 250, "{soft:?}");
    for line in [
        "MAIL FROM:<x@example.org> BOGUS=\"\\",
        "AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=",
        "MAIL FROM:<\"a \\\" b\"@example.org>",
        "RCPT TO:<\"event=fake level=critical\"@example.com>",
        "RCPT TO:<nobody@example.com>",
        "RCPT TO:<test@elsewhere.example>",
        "RCPT TO:<\"\"@example.com>",
        "X\x1b[31mred\x07",
        "VRFY \u{fc}\u{20ac}\u{1f600}",
        "RSET",
    ] {
        let _ = client.command(line);
    }
    client.send(b"NOOP \xff\xfe\x00\x80 bare\nNOOP\r\n");
    let _ = client.reply();
    let _ = client.command(&format!("MAIL FROM:<{}@example.org>", "y".repeat(900)));
    let _ = client.command(&"z".repeat(5000));
    let _ = client.command("QUIT");

    let mut hostile = server.connect();
    hostile.send(b"EHLO \"]\\ event=x\x1b]0;title\x07\r\nNOOP\r\n");
    let _ = hostile.try_reply();
    let _ = hostile.try_reply();
    drop(hostile);
    drop(server.connect());
}

#[test]
fn every_line_is_one_event_that_can_be_taken_apart() {
    let mut setup = Setup::new();
    let path = setup.config().with_file_name("log.d");
    fs::create_dir(&path).expect("directory");
    std::os::unix::fs::chown(&path, Some(61185), None)
        .or_else(|_| fs::metadata(&path).map(drop))
        .expect("owner");
    let path = path.join("rsmtpd.log");
    setup.set("rsmtpd.yaml", "log_path", &path.display().to_string());
    setup.set("rsmtpd.yaml", "log_level", "debug");
    let mut server = setup.start();
    talk(&server);
    let text = || fs::read_to_string(&path).unwrap_or_default();
    assert!(
        wait_until(|| text().matches("event=disconnect").count() >= 4),
        "{}",
        text()
    );
    let held = server.hello();
    let daemon = server.setup().read("rsmtpd.yaml");
    server
        .setup()
        .write("rsmtpd.yaml", &format!("{daemon}background: yes\n"));
    server.signal(Signal::SIGHUP);
    assert!(wait_until(|| text().contains("event=reloaded")), "{}", text());
    server.signal(Signal::SIGUSR1);
    for what in ["pid=", "next_start=yes key=background\n", "worker="] {
        let line = format!("event=status {what}");
        assert!(wait_until(|| text().contains(&line)), "{}", text());
    }
    drop(held);
    server
        .setup()
        .set("worker.yaml", "maximum_errors", "\"\\e[1m \\\" none\"");
    drop(server.connect().try_reply());
    assert!(
        wait_until(|| text().contains("event=configuration-broken")),
        "{}",
        text()
    );
    server.signal(Signal::SIGTERM);
    server.wait();
    let text = text();

    let mut levels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut sessions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let parsed = parse(line).unwrap_or_else(|why| panic!("{why}:\n{line}"));
        if let Some(session) = parsed.fields.get("session") {
            sessions.entry(session.clone()).or_default().push(parsed.event.clone());
        }
        levels.entry(parsed.event).or_default().insert(parsed.level);
    }
    for (event, expected) in [
        ("listening", "notice"),
        ("reloaded", "notice"),
        ("status", "notice"),
        ("stopping", "notice"),
        ("stopped", "notice"),
        ("configuration-broken", "error"),
        ("connect", "info"),
        ("disconnect", "info"),
        ("message", "info"),
        ("recipient", "info"),
        ("reject", "info"),
        ("delivered", "info"),
        ("command", "debug"),
        ("reply", "debug"),
    ] {
        let found = levels.get(event).unwrap_or_else(|| panic!("no {event}:\n{text}"));
        assert_eq!(found, &BTreeSet::from([expected.to_owned()]), "{event}");
    }
    let manual = common::manual::events();
    for (event, found) in &levels {
        let named = manual
            .get(event)
            .unwrap_or_else(|| panic!("{event} is not in the manual"));
        let strange: Vec<&String> = found.iter().filter(|level| !named.contains(level)).collect();
        assert!(strange.is_empty(), "{event} is {strange:?}, by the manual {named:?}");
    }
    for (session, events) in &sessions {
        let first = events
            .iter()
            .find(|event| !["command", "reply"].contains(&event.as_str()));
        assert_eq!(first.map(String::as_str), Some("connect"), "{session}: {events:?}");
        let ends = events.iter().filter(|event| *event == "disconnect").count();
        assert_eq!(ends, 1, "{session}: {events:?}");
    }
    assert!(sessions.len() >= 4, "{sessions:?}");
    for secret in ["Secret of the body", "AHVzZXIA"] {
        assert!(!text.contains(secret), "{secret} is in the log:\n{text}");
    }
}
