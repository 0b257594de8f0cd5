//! Delivery seen from outside: every agent, every way an agent can end, what the sender reads, and where each message
//! is afterwards.

mod common;

use common::{Client, Server, Setup, assert_same_message, messages_below, needs_root, run, tool, wait_until};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

const MESSAGE: &[u8] = b"Subject: hello\r\n\r\n.\r\nbody\r\n";
const FROM: &str = "sender@example.org";

/// Recipients `a`, `b` … of example.com besides those of every test, and a retry every second.
fn setup(recipients: &[&str], delivery: &str) -> Setup {
    let mut setup = Setup::new();
    let names: String = recipients.iter().map(|name| format!("      - {name}\n")).collect();
    setup.write(
        "simple_recipient_validator.yaml",
        &format!(
            "allow_soft_delivery: no\ndomains:\n  example.com:\n    recipients:\n{names}  example.net:\n    \
             allow_soft_delivery: yes\n    recipients:\n      - test\n"
        ),
    );
    let retry = if delivery.contains("retry:") {
        ""
    } else {
        "retry: {first: 1s, longest: 1s}\n"
    };
    setup.write("delivery.yaml", &format!("{retry}{delivery}\n"));
    setup.set("worker.yaml", "maximum_errors", "1000");
    setup
}

/// A directory that the delivery user may write to, whoever that is.
fn shared() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("mode");
    directory
}

/// A delivery agent in shell; `$d` is its directory.
fn agent(directory: &Path, script: &str) -> PathBuf {
    let path = directory.join("agent");
    let text = format!("#!/bin/sh\nd={}\n{script}\n", directory.display());
    fs::write(&path, text).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    path
}

fn lda(path: &Path, more: &str) -> String {
    format!("agent: dovecot_lda\n{more}\ndovecot_lda:\n  path: {}", path.display())
}

fn spool(server: &mut Server, arguments: &[&str]) -> (bool, String) {
    let config = server.setup().config();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rsmtpd"));
    command.arg("-c").arg(config).arg("spool").args(arguments);
    run(&mut command, b"")
}

fn code(client: &mut Client, to: &[&str]) -> (u16, String) {
    let reply = client.deliver(FROM, to, MESSAGE);
    (reply.code, reply.text())
}

#[test]
fn every_exit_status_is_told_as_the_table_says() {
    let directory = shared();
    let path = agent(
        directory.path(),
        r#"n=${USER%%@*}; cat >/dev/null; case $n in x*) exit ${n#x};; *) kill -$n $$;; esac"#,
    );
    let mut names: Vec<String> = (64..=78)
        .chain([0, 1, 2, 63, 79, 126, 127, 255])
        .map(|n| format!("x{n}"))
        .collect();
    names.extend(["KILL", "SEGV", "TERM"].map(str::to_owned));
    let list: Vec<&str> = names.iter().map(String::as_str).collect();
    let server = setup(&list, &lda(&path, "")).start();
    let mut client = server.hello();
    for name in &names {
        let expected = match name.as_str() {
            "x0" => (250, "2.0.0"),
            "x65" => (554, "5.6.0"),
            "x67" => (550, "5.1.1"),
            "x77" => (552, "5.2.2"),
            "x64" | "x70" | "x71" | "x72" | "x73" | "x74" | "x78" | "x126" | "x127" => (451, "4.3.5"),
            _ => (451, "4.3.0"),
        };
        let (found, text) = code(&mut client, &[&format!("{name}@example.com")]);
        assert_eq!(found, expected.0, "{name}: {text}");
        assert!(text.starts_with(expected.1), "{name}: {text}");
    }
    assert!(wait_until(|| server.said().contains("at=configuration")));
}

#[test]
fn an_agent_that_is_not_there_is_our_fault() {
    let server = setup(&["a"], &lda(Path::new("/nonexistent/lda"), "")).start();
    let (code, text) = code(&mut server.hello(), &["a@example.com"]);
    assert!(code == 451 && text.starts_with("4.3.5"), "{code} {text}");
    assert!(wait_until(|| server
        .said()
        .contains("ended=NotStarted at=configuration")));
}

#[test]
fn the_agent_gets_its_arguments_and_a_home() {
    let script = r#"n=${USER%%@*}; printf '%s\n' "$@" >"$d/$n.args"; env >"$d/$n.env"; cat >"$d/$n.in""#;
    let check = |delivery: &str, home: &dyn Fn(&Setup) -> String, user: bool| {
        let directory = shared();
        let path = agent(directory.path(), script);
        let setup = setup(&["Alice"], &(lda(&path, "") + delivery));
        let home = home(&setup);
        let server = setup.start();
        let mut client = server.hello();
        assert_eq!(client.deliver("", &["aLICE@Example.COM"], MESSAGE).code, 250);
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).expect("written");
        let user = if user { "-d\nAlice@example.com\n" } else { "" };
        assert_eq!(read("Alice.args"), format!("-e\n-f\n\n-a\naLICE@Example.COM\n{user}"));
        let env = read("Alice.env");
        assert!(env.contains(&format!("HOME={home}\n")), "{env}");
        assert!(env.contains("USER=Alice@example.com\n"), "{env}");
        assert_same_message(read("Alice.in").as_bytes(), MESSAGE);
        assert!(read("Alice.in").starts_with("Return-Path: <>\r\nDelivered-To: Alice@example.com\r\nReceived: "));
    };
    let default = |setup: &Setup| format!("{}/mail/example.com/alice", setup.state().display());
    check("", &default, false);
    check(
        "\n  home: /srv/%d/u/%n",
        &|_| "/srv/example.com/u/alice".to_owned(),
        false,
    );
    check("\n  userdb: yes", &default, true);
}

#[test]
fn a_hanging_agent_is_killed_and_holds_up_no_other() {
    let directory = shared();
    let path = agent(
        directory.path(),
        r#"case $USER in hang*) sleep 300 & echo $! >>"$d/pids"; sleep 300;; esac; cat >/dev/null"#,
    );
    let server = setup(&["hang", "a"], &lda(&path, "timeout: 4s\nlda_jobs: 2")).start();
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(code(&mut server.hello(), &["hang@example.com"]).0, 451));
        }
        assert!(wait_until(|| directory.path().join("pids").exists()), "an agent hangs");
        let mut client = server.hello();
        for _ in 0..5 {
            assert_eq!(code(&mut client, &["a@example.com"]).0, 250);
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "the others waited");
    });
    server.await_said("ended=TimedOut", 1);
    let pids = fs::read_to_string(directory.path().join("pids")).expect("pids");
    for pid in pids.lines() {
        let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(
            wait_until(|| !state().contains(") S")),
            "its child {pid} lives: {}",
            state()
        );
    }
}

#[test]
fn a_loud_agent_is_logged_within_bounds() {
    let directory = shared();
    let path = agent(
        directory.path(),
        r#"printf 'first \033[31m line\n'; yes yyyyyyyyyyyyyyyy | head -c 5000000; exit 75"#,
    );
    let server = setup(&["a"], &lda(&path, "")).start();
    assert_eq!(code(&mut server.hello(), &["a@example.com"]).0, 451);
    assert!(wait_until(|| server.said().contains("event=agent-ended")));
    let said = server.said();
    let line = said
        .lines()
        .find(|line| line.contains("event=agent-ended"))
        .expect("line");
    assert!(line.contains("first \\x1b[31m line"), "{line}");
    assert!(line.len() < 2300, "{} octets", line.len());
}

#[test]
fn when_some_have_it_the_rest_waits_or_has_failed() {
    let directory = shared();
    let path = agent(
        directory.path(),
        r#"case $USER in full*) exit 77;; wait*) test -e "$d/go" || exit 75;; esac; cat >>"$d/${USER%@*}.in""#,
    );
    let mut server = setup(&["ok", "full", "wait"], &lda(&path, "")).start();
    let mut client = server.hello();
    let (ok, full, wait) = ("ok@example.com", "full@example.com", "wait@example.com");
    assert_eq!(code(&mut client, &[full]).0, 552);
    assert_eq!(code(&mut client, &[full, wait]).0, 451);
    assert!(
        spool(&mut server, &["list"]).1.is_empty(),
        "nothing is kept when nobody has it"
    );
    assert_eq!(code(&mut client, &[ok, full, wait]).0, 250);
    let listed = spool(&mut server, &["list"]).1;
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains("spool ") && listed.contains("wait@example.com=") && listed.contains("failed "));
    assert!(wait_until(|| server.said().contains("event=deferred")), "tried again");
    fs::write(directory.path().join("go"), "").expect("go");
    let waited = directory.path().join("wait.in");
    assert!(wait_until(
        || waited.exists() && spool(&mut server, &["list"]).1.lines().count() == 1
    ));
    assert_same_message(&fs::read(waited).expect("read"), MESSAGE);
    assert_same_message(&fs::read(directory.path().join("ok.in")).expect("read"), MESSAGE);
    server.await_said("event=failed", 1);
}

#[test]
fn what_is_too_old_goes_to_failed_and_can_be_tried_from_there() {
    let directory = shared();
    let path = agent(directory.path(), r#"test -e "$d/go" || exit 75; cat >>"$d/in""#);
    let mut server = setup(&["a", "b"], &lda(&path, "acknowledge: spooled\ngive_up: 2s")).start();
    assert_eq!(code(&mut server.hello(), &["a@example.com", "b@example.com"]).0, 250);
    assert!(
        wait_until(|| spool(&mut server, &["list"]).1.starts_with("failed ")),
        "{}",
        server.said()
    );
    let listed = spool(&mut server, &["list"]).1;
    assert_eq!(listed.lines().count(), 1, "{listed}");
    let id = listed.split(' ').nth(1).expect("id").to_owned();
    server.await_said(&format!("event=failed id={id} recipients=2"), 1);
    fs::write(directory.path().join("go"), "").expect("go");
    assert!(spool(&mut server, &["retry", &id]).0);
    assert!(wait_until(|| spool(&mut server, &["list"]).1.is_empty()));
    let text = fs::read_to_string(directory.path().join("in")).expect("delivered");
    assert_eq!(text.matches("Subject: hello").count(), 2);
}

#[test]
fn a_full_spool_survives_a_restart_and_each_message_comes_once() {
    let directory = shared();
    let path = agent(directory.path(), r#"test -e "$d/go" || exit 75; cat >"$d/$$.in""#);
    let server = setup(&["a"], &lda(&path, "acknowledge: spooled")).start();
    let mut client = server.hello();
    for number in 0..100 {
        let message = format!("Subject: number {number}.\r\n\r\nx\r\n");
        assert_eq!(client.deliver(FROM, &["a@example.com"], message.as_bytes()).code, 250);
    }
    drop(client);
    let setup = server.into_setup();
    assert!(fs::read_dir(setup.state().join("spool")).expect("spool").count() > 200);
    fs::write(directory.path().join("go"), "").expect("go");
    let mut server = setup.start();
    assert!(
        wait_until(|| spool(&mut server, &["list"]).1.is_empty()),
        "{}",
        server.said()
    );
    let all: Vec<String> = fs::read_dir(directory.path())
        .expect("directory")
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "in"))
        .map(|entry| fs::read_to_string(entry.path()).expect("text"))
        .collect();
    assert_eq!(all.len(), 100);
    for number in 0..100 {
        let mine = all
            .iter()
            .filter(|text| text.contains(&format!("number {number}.")))
            .count();
        assert_eq!(mine, 1, "message {number}");
    }
}

#[test]
fn a_mailbox_that_cannot_be_written_waits_alone() {
    let mut server = setup(&["a", "b"], "agent: maildir").start();
    let mail = server.setup().state().join("mail/example.com");
    let mut client = server.hello();
    assert_eq!(code(&mut client, &["a@example.com"]).0, 250);
    fs::write(mail.join("b"), "in the way").expect("file");
    assert_eq!(code(&mut client, &["b@example.com"]).0, 451);
    assert_eq!(
        code(&mut client, &["a@example.com", "b@example.com", "x@example.net"]).0,
        250
    );
    assert_eq!(
        messages_below(&server.setup().state().join("quarantine/example.net/soft")).len(),
        1
    );
    assert!(spool(&mut server, &["list"]).1.contains("b@example.com=waiting"));
    fs::remove_file(mail.join("b")).expect("removed");
    assert_same_message(&server.await_mail("b@example.com", 1)[0], MESSAGE);
    assert!(wait_until(|| !spool(&mut server, &["list"]).1.contains("spool ")));
    assert_eq!(
        (server.mail("a@example.com").len(), server.mail("b@example.com").len()),
        (2, 1)
    );
}

#[test]
fn odd_names_stay_in_their_directory() {
    let long = "l".repeat(64);
    let names = ["Up.Case", "o'neil/../x", "a!b", "_x+=-9", &long];
    let server = setup(&names, "agent: maildir").start();
    let mut client = server.hello();
    for (to, path) in [
        ("uP.cASE", "up.case"),
        ("\"O'Neil/../x\"", "o%27neil%2F..%2Fx"),
        ("a!b", "a%21b"),
        ("_x+=-9", "_x+=-9"),
        (&long, &long),
    ] {
        let reply = client.deliver(FROM, &[&format!("{to}@example.com")], MESSAGE);
        assert_eq!(reply.code, 250, "{to}: {reply:?}");
        assert_eq!(server.mail(&format!("{path}@example.com")).len(), 1, "{to}");
    }
}

#[test]
fn an_operator_can_tend_everything_that_is_kept() {
    let directory = shared();
    let path = agent(
        directory.path(),
        r#"case $USER in full*) exit 77;; wait*) exit 75;; esac; cat >>"$d/in""#,
    );
    let mut server = setup(&["ok", "full", "wait"], &lda(&path, "retry: {first: 1h}")).start();
    let mut client = server.hello();
    let to = [
        "ok@example.com",
        "full@example.com",
        "wait@example.com",
        "soft@example.net",
    ];
    let odd = b"Subject: \x1b[2J\xc2\x9b odd\r\n\r\nbody\r\n";
    assert_eq!(client.deliver(FROM, &to, odd).code, 250);
    let (success, listed) = spool(&mut server, &["list"]);
    assert!(success);
    let id = listed.split(' ').nth(1).expect("id").to_owned();
    let soft = listed
        .lines()
        .find_map(|line| line.strip_prefix("quarantine "))
        .expect("soft");
    let soft = soft.split(' ').next().expect("path").to_owned();
    for (arguments, said) in [
        (["show", "nothing"], "no message"),
        (["drop", "../lock"], "no message"),
        (["drop", "quarantine/../lock"], "no message"),
        (["retry", "journal"], "no message"),
        (["show", &id], "is in spool and in failed"),
        (["drop", &id], "is in spool and in failed"),
    ] {
        let (success, text) = spool(&mut server, &arguments);
        assert!(!success && text.contains(said), "{arguments:?}: {text}");
    }
    for name in [format!("spool/{id}"), format!("failed/{id}"), soft.clone()] {
        let (success, text) = spool(&mut server, &["show", &name]);
        assert!(
            success && text.contains("Subject: \x1b[2J") && text.contains("size="),
            "{text}"
        );
    }
    assert!(spool(&mut server, &["retry", &soft]).0);
    assert!(wait_until(
        || fs::read_to_string(directory.path().join("in")).is_ok_and(|t| t.matches(" odd").count() == 2)
    ));
    assert!(spool(&mut server, &["retry", "all"]).0);
    assert!(wait_until(|| spool(&mut server, &["list"])
        .1
        .matches("attempts=")
        .count()
        == 2));
    assert!(
        spool(&mut server, &["drop", &format!("spool/{id}")]).0 || spool(&mut server, &["list"]).1.contains("failed")
    );
    for line in spool(&mut server, &["list"]).1.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(wait_until(|| spool(
            &mut server,
            &["drop", &format!("{}/{}", words[0], words[1])]
        )
        .0));
    }
    assert!(spool(&mut server, &["list"]).1.is_empty());
}

#[test]
fn on_a_terminal_a_message_is_harmless() {
    let Some(script) = tool("delivery::on_a_terminal_a_message_is_harmless", "script") else {
        return;
    };
    let mut server = setup(&["a"], "agent: maildir").start();
    let odd = b"Subject: \x1b[2J\xc2\x9b\xe2\x80\xae odd\x07\r\n\r\nt\xc3\xa4b\tbody\r\n";
    assert_eq!(server.hello().deliver(FROM, &["s@example.net"], odd).code, 250);
    let listed = spool(&mut server, &["list"]).1;
    let id = listed.split(' ').nth(1).expect("id").to_owned();
    let config = server.setup().config();
    let line = format!(
        "{} -c {} spool show {id}",
        env!("CARGO_BIN_EXE_rsmtpd"),
        config.display()
    );
    let (success, said) = run(Command::new(script).args(["-qec", &line, "/dev/null"]), b"");
    assert!(success, "{said}");
    assert!(!said.contains(['\x1b', '\u{9b}', '\u{202e}', '\x07']), "{said:?}");
    assert!(
        said.contains("Subject: \\u{1b}[2J\\u{9b}\\u{202e} odd\\u{7}") && said.contains("täb\tbody"),
        "{said}"
    );
}

#[test]
fn root_tends_the_spool_as_its_owner_and_strangers_do_not() {
    if !needs_root("delivery::root_tends_the_spool_as_its_owner_and_strangers_do_not") {
        return;
    }
    let directory = shared();
    let path = agent(directory.path(), r#"test -e "$d/go" || exit 75; cat >>"$d/in""#);
    let mut server = setup(&["a"], &lda(&path, "acknowledge: spooled\ngive_up: 1s")).start();
    assert_eq!(code(&mut server.hello(), &["a@example.com"]).0, 250);
    assert!(wait_until(|| spool(&mut server, &["list"]).1.starts_with("failed ")));
    let config = server.setup().config();
    let mut stranger = Command::new("setpriv");
    stranger.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        env!("CARGO_BIN_EXE_rsmtpd"),
        "-c",
    ]);
    let (success, said) = run(stranger.arg(config).args(["spool", "list"]), b"");
    assert!(
        !success && said.contains("Permission denied") && said.contains("run this as root"),
        "{said}"
    );
    fs::write(directory.path().join("go"), "").expect("go");
    assert!(spool(&mut server, &["retry", "all"]).0, "moved by root");
    assert!(
        wait_until(|| spool(&mut server, &["list"]).1.is_empty()),
        "delivered by delivery: {}",
        server.said()
    );
    assert!(fs::read_to_string(directory.path().join("in")).is_ok_and(|text| text.contains("hello")));
}

/// A small file system for the state, taken away at the end.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, size: &str) -> Option<Small> {
        fs::create_dir_all(at).ok()?;
        let options = format!("size={size},mode=0700,uid=65533,gid=65533");
        let (success, _) = run(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(at),
            b"",
        );
        success.then(|| Small(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(&self.0), b"");
    }
}

/// A 250 that waits for nothing but the spool needs room there: without, the sender keeps the message, and nothing of it
/// stays. What is in the spool already stays there when there is no room in `failed/`, and goes there once there is.
#[test]
fn without_space_in_the_spool_the_sender_keeps_the_message() {
    const NAME: &str = "delivery::without_space_in_the_spool_the_sender_keeps_the_message";
    if !needs_root(NAME) {
        return;
    }
    let directory = shared();
    let path = agent(
        directory.path(),
        r#"cat >/dev/null; [ -e "$d/refuse" ] && exit 67; exit 75"#,
    );
    let setup = setup(&["a", "b"], &lda(&path, "acknowledge: spooled"));
    let Some(small) = Small::mount(&setup.state(), "1m") else {
        common::skip(NAME, "cannot mount a file system");
        return;
    };
    let mut server = setup.start();
    let state = server.setup().state();
    let mut client = server.hello();
    let text = |name: &str, lines: usize| {
        let head = format!("Subject: {name}\r\n\r\n");
        [head.as_bytes(), &b"0123456789abcdef\r\n".repeat(lines)].concat()
    };
    let entries = |tree: &str| {
        let found = fs::read_dir(state.join(tree)).into_iter().flatten().flatten();
        found.filter(|entry| entry.path().is_file()).count()
    };
    assert_eq!(client.deliver(FROM, &["a@example.com"], &text("kept", 2_000)).code, 250);
    let kept = entries("spool");
    assert!(kept > 0, "deferred");
    let big = client.deliver(FROM, &["a@example.com"], &text("big", 100_000));
    assert!(big.code == 452 && big.text().starts_with("4.3.1"), "staged: {big:?}");
    let filler = state.join("filler");
    let fill = || {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&filler)
            .expect("filler");
        while file.write_all(&[0; 4096]).is_ok() {}
    };
    fill();
    let inline = client.deliver(FROM, &["a@example.com", "b@example.com"], &text("inline", 1_000));
    assert!(
        inline.code == 452 && inline.text().starts_with("4.3.1"),
        "inline: {inline:?}"
    );
    assert_eq!(entries("spool"), kept, "nothing of those that were refused stays");
    // The agent refuses for good now, and there is no room to keep what it refuses.
    fill();
    fs::write(directory.path().join("refuse"), "").expect("refuse");
    let told = |said: &str| said.contains("event=spool-failed");
    assert!(wait_until(|| told(&server.said())), "{}", server.said());
    assert_eq!((entries("spool"), entries("failed")), (kept, 0), "{}", server.said());
    fs::remove_file(&filler).expect("removed");
    let moved = wait_until(|| entries("spool") == 0 && entries("failed") > 0);
    assert!(moved, "{}", server.said());
    let list = spool(&mut server, &["list"]).1;
    assert!(list.lines().count() == 1 && list.contains("failed"), "{list}");
    drop((client, server));
    drop(small);
}

#[test]
fn without_space_the_sender_keeps_the_message() {
    const NAME: &str = "delivery::without_space_the_sender_keeps_the_message";
    if !needs_root(NAME) {
        return;
    }
    let setup = setup(&["a", "b"], "agent: maildir");
    let Some(small) = Small::mount(&setup.state(), "1m") else {
        common::skip(NAME, "cannot mount a file system");
        return;
    };
    let mut server = setup.start();
    let mut client = server.hello();
    assert_eq!(code(&mut client, &["a@example.com"]).0, 250);
    let big = [
        b"Subject: big\r\n\r\n".as_slice(),
        &b"0123456789abcdef\r\n".repeat(100_000),
    ]
    .concat();
    let reply = client.deliver(FROM, &["a@example.com"], &big);
    assert!(
        reply.code == 452 && reply.text().starts_with("4.3.1"),
        "staged: {reply:?}"
    );
    let filler = server.setup().state().join("filler");
    let fill = |_: &mut Client| {
        let mut file = fs::File::create(&filler).expect("filler");
        while file.write_all(&[0; 4096]).is_ok() {}
    };
    fill(&mut client);
    let inline = [
        b"Subject: inline\r\n\r\n".as_slice(),
        &b"0123456789abcdef\r\n".repeat(2_000),
    ]
    .concat();
    let reply = client.deliver(FROM, &["a@example.com", "b@example.com"], &inline);
    assert!(
        reply.code == 452 && reply.text().starts_with("4.3.1"),
        "inline: {reply:?}"
    );
    fs::remove_file(&filler).expect("removed");
    assert_eq!(
        client.deliver(FROM, &["b@example.com"], &inline).code,
        250,
        "space again"
    );
    assert_eq!(
        (server.mail("a@example.com").len(), server.mail("b@example.com").len()),
        (1, 1)
    );
    drop((client, server));
    drop(small);
}

/// What is synced before a 250: the calls of the delivery process between the message's beginning and its answer.
#[test]
fn a_250_comes_after_the_disk() {
    const NAME: &str = "delivery::a_250_comes_after_the_disk";
    let Some(strace) = tool(NAME, "strace") else { return };
    if !needs_root(NAME) {
        return;
    }
    for delivery in ["agent: maildir", "agent: maildir\nacknowledge: spooled"] {
        for memory in [false, true] {
            let setup = setup(&["a"], delivery);
            let small = memory.then(|| Small::mount(&setup.state(), "8m"));
            if matches!(small, Some(None)) {
                common::skip(NAME, "cannot mount a file system");
                return;
            }
            let server = setup.start();
            let mut client = server.hello();
            assert_eq!(code(&mut client, &["a@example.com"]).0, 250, "mailbox made");
            server.await_mail("a@example.com", 1);
            let trace = traced(
                &strace,
                &server,
                "write,linkat,fsync,fdatasync,sendmsg,sendto",
                "linkat",
                || {
                    assert_eq!(code(&mut client, &["a@example.com"]).0, 250);
                    server.await_mail("a@example.com", 2);
                },
            );
            check_order(&trace, memory);
            drop((client, server, small));
        }
    }
}

/// The calls of the delivery process while `act` runs, until one of them is `last`.
fn traced(strace: &Path, server: &Server, calls: &str, last: &str, act: impl FnOnce()) -> String {
    let directory = shared();
    let trace = directory.path().join("trace");
    let half = server.working_half("delivery");
    let mut tracer = Command::new(strace)
        .args(["-f", "-y", "-qq", "-e", &format!("trace={calls}")])
        .args(["-p", &half.to_string(), "-o"])
        .arg(&trace)
        .spawn()
        .expect("strace");
    let read = || fs::read_to_string(&trace).unwrap_or_default();
    assert!(wait_until(|| is_traced(half)), "strace has not attached to each thread");
    act();
    assert!(wait_until(|| read().contains(last)), "{last}:\n{}", read());
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(tracer.id()).expect("pid")),
        nix::sys::signal::Signal::SIGINT,
    );
    let _ = tracer.wait();
    read()
}

/// Whether each thread of the process has a tracer.
fn is_traced(process: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("process");
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status"));
        status.is_ok_and(|text| !text.contains("TracerPid:\t0\n"))
    })
}

/// That an agent is about to have the message is on disk before it runs, and what came of it before the 250, or before
/// the spool counts on it: otherwise a power loss would hide that a message may be there twice.
#[test]
fn an_agents_run_is_on_disk_before_and_after() {
    const NAME: &str = "delivery::an_agents_run_is_on_disk_before_and_after";
    let Some(strace) = tool(NAME, "strace") else { return };
    if !needs_root(NAME) {
        return;
    }
    for (acknowledge, last) in [("delivered", "\"C\", 1, 0)"), ("spooled", ".body")] {
        let directory = shared();
        let path = agent(directory.path(), r#"cat >>"$d/in""#);
        let server = setup(&["a"], &lda(&path, &format!("acknowledge: {acknowledge}"))).start();
        let mut client = server.hello();
        let there = |count| {
            let text = fs::read_to_string(directory.path().join("in")).unwrap_or_default();
            text.matches("Subject: hello").count() == count
        };
        let calls = "pwrite64,fdatasync,execve,sendmsg,sendto,unlink,unlinkat";
        let trace = traced(&strace, &server, calls, last, || {
            assert_eq!(code(&mut client, &["a@example.com"]).0, 250);
            assert!(wait_until(|| there(1)), "not delivered");
        });
        check_record(&trace, acknowledge == "delivered");
    }
}

/// record → sync → agent → record → sync → answer, or the entry's removal. The record is the thread's own before a 250, and
/// the entry's after.
fn check_record(trace: &str, answered: bool) {
    let calls: Vec<&str> = trace.lines().collect();
    let is_record = |line: &str| line.contains("/spool/") && line.contains("/spool/journal/") == answered;
    // that all is done is told alike with and without its mark
    let is_mark = |line: &str| line.contains("\"D\", 1, 0)");
    let is = |line: &str, call: &str| line.contains(&format!(" {call}(")) && is_record(line) && !is_mark(line);
    let run = calls.iter().position(|line| line.contains("execve(")).expect("agent");
    let (before, after) = calls.split_at(run);
    let order = |part: &[&str]| {
        let written = part.iter().rposition(|line| is(line, "pwrite64"))?;
        part.iter().skip(written).position(|line| is(line, "fdatasync"))
    };
    assert!(order(before).is_some(), "not on disk before the agent:\n{trace}");
    let end = if answered {
        ["sendmsg(", "sendto("]
    } else {
        ["unlink(", "unlinkat("]
    };
    let mut ends = after
        .iter()
        .enumerate()
        .filter(|(_, line)| end.iter().any(|call| line.contains(call)));
    // lines of the log are sent before the answer
    let end = if answered { ends.next_back() } else { ends.next() };
    let after = &after[..end.expect("end").0];
    assert!(order(after).is_some(), "not on disk after the agent:\n{trace}");
}

/// bytes → name → sync (the name's too) → answer, for the thread that linked first.
fn check_order(trace: &str, directory_too: bool) {
    let first = trace.lines().find(|line| line.contains("linkat(")).expect("a link");
    let thread = first.split_whitespace().next().expect("thread").to_owned();
    let mine: Vec<&str> = trace
        .lines()
        .filter(|line| line.split_whitespace().next() == Some(&thread))
        .collect();
    let answer = mine
        .iter()
        .skip_while(|line| !line.contains("linkat("))
        .position(|line| line.contains("sendmsg(") || line.contains("sendto("))
        .expect("an answer")
        + mine.iter().position(|line| line.contains("linkat(")).expect("a link");
    // from the writing of the message's bytes on; the answer and the log lines end it
    let before = &mine[..answer];
    for (at, link) in before.iter().enumerate().filter(|(_, line)| line.contains("linkat(")) {
        let name = link.split('"').nth(3).expect("name");
        let parent = Path::new(name).parent().expect("parent").display().to_string();
        let written = before[..at].iter().any(|line| line.contains("write("));
        assert!(written, "{link}: nothing written before\n{}", mine.join("\n"));
        let after = &before[at..];
        let file = |line: &&str| line.contains("fsync(") && !line.contains(&format!("<{parent}>"));
        if directory_too {
            let synced_before = before[..at].iter().any(&file);
            let directory = after
                .iter()
                .any(|line| line.contains("fsync(") && line.contains(&format!("<{parent}>")));
            assert!(synced_before && directory, "{link}\n{}", mine.join("\n"));
        } else {
            assert!(after.iter().any(&file), "{link}\n{}", mine.join("\n"));
        }
    }
}

/// An LMTP server on a Unix socket whose every connection is led by `serve`.
fn lmtp(directory: &Path, serve: impl Fn(usize, Lmtp) + Send + Sync + 'static) -> PathBuf {
    let socket = directory.join("lmtp");
    let listener = UnixListener::bind(&socket).expect("socket");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).expect("mode");
    let serve = std::sync::Arc::new(serve);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let serve = std::sync::Arc::clone(&serve);
            thread::spawn(move || {
                serve(
                    number,
                    Lmtp {
                        reader: BufReader::new(stream.try_clone().expect("stream")),
                        stream,
                    },
                );
            });
        }
    });
    socket
}

/// One connection of it.
struct Lmtp {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Lmtp {
    fn say(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes());
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(String::from_utf8_lossy(&line).trim_end().to_owned()),
        }
    }

    /// Speaks as a good server does up to the end of a message; its recipients and its lines. None at the end.
    fn message(&mut self, refuse: impl Fn(&str) -> Option<&'static str>) -> Option<(Vec<String>, Vec<String>)> {
        let mut recipients = Vec::new();
        loop {
            let line = self.line()?;
            if let Some(path) = line.strip_prefix("RCPT TO:") {
                let reply = refuse(path);
                if reply.is_none() {
                    recipients.push(path.trim_matches(['<', '>']).to_owned());
                }
                self.say(&format!("{}\r\n", reply.unwrap_or("250 2.1.5 Ok")));
            } else if line.starts_with("LHLO") {
                self.say("250-hello\r\n250-PIPELINING\r\n250 8BITMIME\r\n");
            } else if line == "DATA" {
                self.say("354 Go\r\n");
                let mut lines = Vec::new();
                loop {
                    match self.line()?.as_str() {
                        "." => return Some((recipients, lines)),
                        line => lines.push(line.strip_prefix('.').unwrap_or(line).to_owned()),
                    }
                }
            } else {
                self.say("250 2.0.0 Ok\r\n");
            }
        }
    }
}

fn over_lmtp(socket: &Path) -> String {
    format!("agent: lmtp\ntimeout: 3s\nlmtp:\n  socket: {}", socket.display())
}

#[test]
fn lmtp_is_told_per_recipient_over_kept_connections() {
    let directory = shared();
    let (tell, told): (Sender<(usize, Vec<String>)>, Receiver<_>) = channel();
    let tell = std::sync::Mutex::new(tell);
    let socket = lmtp(directory.path(), move |number, mut server| {
        server.say("220 hello\r\n");
        while let Some((recipients, lines)) = server.message(|path| path.contains("none").then_some("550 5.1.1 Nobody"))
        {
            for recipient in &recipients {
                server.say(if recipient.contains("full") {
                    "552-5.2.2 Quota\r\n552 5.2.2 \x07Mailbox \u{fc} is full\r\n"
                } else if recipient.contains("slow") {
                    "450 4.2.1 Later\r\n"
                } else {
                    "250 2.0.0 Saved\r\n"
                });
            }
            assert_eq!(lines.last().map(String::as_str), Some("body"));
            tell.lock().expect("lock").send((number, recipients)).expect("told");
        }
    });
    let delivery = over_lmtp(&socket) + "\nlda_jobs: 1\nretry: {first: 1h}";
    let mut server = setup(&["a", "b", "none", "full", "slow"], &delivery).start();
    let mut client = server.hello();
    let all = ["none", "full", "slow", "a", "b"].map(|name| format!("{name}@example.com"));
    let to = |names: &[usize]| names.iter().map(|&at| all[at].as_str()).collect::<Vec<_>>();
    assert!(code(&mut client, &to(&[0])).1.starts_with("5.1.1 Nobody"));
    let (full, text) = code(&mut client, &to(&[1]));
    assert!(
        full == 552 && text.starts_with("5.2.2") && !text.contains('\x07'),
        "{text}"
    );
    assert_eq!(code(&mut client, &to(&[2, 1, 0])).0, 451);
    assert_eq!(code(&mut client, &to(&[3, 4])).0, 250);
    assert!(spool(&mut server, &["list"]).1.is_empty());
    assert_eq!(code(&mut client, &to(&[0, 1, 2, 3])).0, 250);
    let listed = spool(&mut server, &["list"]).1;
    assert!(
        listed.contains("slow@example.com=") && listed.contains("none@example.com=waiting full@example.com="),
        "{listed}"
    );
    let transactions: Vec<_> = (0..4)
        .map(|_| told.recv_timeout(common::PATIENCE).expect("told"))
        .collect();
    assert!(
        transactions.iter().all(|(number, _)| *number == 0),
        "one connection: {transactions:?}"
    );
    assert_eq!(
        transactions[3].1,
        ["full@example.com", "slow@example.com", "a@example.com"]
    );
}

/// A header of nothing but fields that are left out must cost delivery no more than any other.
#[test]
fn lmtp_takes_a_header_made_of_thousands_of_pieces() {
    let directory = shared();
    let (tell, told) = channel();
    let tell = std::sync::Mutex::new(tell);
    let socket = lmtp(directory.path(), move |_, mut server| {
        server.say("220 hello\r\n");
        while let Some((_, lines)) = server.message(|_| None) {
            server.say("250 2.0.0 Saved\r\n");
            tell.lock().expect("lock").send(lines).expect("told");
        }
    });
    let server = setup(&["a"], &over_lmtp(&socket)).start();
    let before = server.working_half("delivery");
    let message = [b"Return-Path:<>\r\nA:\r\n".repeat(12_000), b"\r\nbody\r\n".to_vec()].concat();
    let reply = server.hello().deliver(FROM, &["a@example.com"], &message);
    assert_eq!(reply.code, 250, "{}", server.said());
    let lines = told.recv_timeout(common::PATIENCE).expect("told");
    assert_eq!(lines.iter().filter(|line| *line == "A:").count(), 12_000);
    assert!(!lines.iter().any(|line| line.starts_with("Return-Path")));
    assert_eq!(server.working_half("delivery"), before);
}

/// As many recipients as the configuration allows, each with an answer of its own: neither envelope nor answers may be
/// too long for what carries them, or the client would come again for ever, and its first recipient have it each time.
#[test]
fn a_thousand_recipients_are_served_and_answered_at_once() {
    let directory = shared();
    let refusal = format!("550 5.1.1 {}\r\n", "no ".repeat(60));
    let socket = lmtp(directory.path(), move |_, mut server| {
        server.say("220 hello\r\n");
        while let Some((recipients, _)) = server.message(|_| None) {
            server.say("250 2.0.0 Saved\r\n");
            (1..recipients.len()).for_each(|_| server.say(&refusal));
        }
    });
    let names: Vec<String> = (0..1000).map(|number| format!("user{number:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut setup = setup(&names, &(over_lmtp(&socket) + "\nretry: {first: 1h}"));
    setup.set("worker.yaml", "maximum_recipients", "1000");
    let mut server = setup.start();
    let to: Vec<String> = names.iter().map(|name| format!("{name}@example.com")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let message = [b"Subject: many\r\n\r\n".to_vec(), b"0123456789abcdef\r\n".repeat(2_000)].concat();
    let reply = server.hello().deliver(FROM, &to, &message);
    assert_eq!(reply.code, 250, "{reply:?}\n{}", server.said());
    // not by the log, which may lose lines where thousands come at once
    let kept = spool(&mut server, &["list"]).1;
    let named = kept.matches("@example.com=waiting").count();
    assert!(
        kept.starts_with("failed ") && kept.contains(&format!(" and {} more", 999 - named)),
        "{kept}"
    );
}

/// Recipients whose names fill an envelope: those beyond it are put off, and the others have the message.
#[test]
fn recipients_beyond_the_envelope_are_put_off() {
    let names: Vec<String> = (0..400)
        .map(|number| format!("{}{number:04}", "n".repeat(60)))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut setup = setup(&names, "acknowledge: spooled\nretry: {first: 1h}");
    setup.set("worker.yaml", "maximum_recipients", "1000");
    let server = setup.start();
    let mut client = server.hello();
    assert_eq!(client.command("MAIL FROM:<>").code, 250);
    let codes: Vec<u16> = names
        .iter()
        .map(|name| client.command(&format!("RCPT TO:<{name}@example.com>")).code)
        .collect();
    let taken = codes.iter().take_while(|code| **code == 250).count();
    assert!((100..400).contains(&taken), "{taken}");
    assert!(codes.iter().skip(taken).all(|code| *code == 452), "{codes:?}");
    assert_eq!(client.command("DATA").code, 354);
    client.send(&b"0123456789abcdef\r\n".repeat(2_000));
    client.send(b".\r\n");
    assert_eq!(client.reply().code, 250, "{}", server.said());
}

#[test]
fn lmtp_that_breaks_half_way_is_believed_as_far_as_it_spoke() {
    let directory = shared();
    let socket = lmtp(directory.path(), |number, mut server| {
        server.say("220 hello\r\n");
        while let Some((recipients, _)) = server.message(|_| None) {
            if number == 0 {
                server.say("250 2.0.0 Saved\r\n250 2.0");
                return;
            }
            for _ in recipients {
                server.say("250 2.0.0 Saved\r\n");
            }
        }
    });
    let mut server = setup(&["a", "b", "c"], &over_lmtp(&socket)).start();
    let to = ["a@example.com", "b@example.com", "c@example.com"];
    assert_eq!(code(&mut server.hello(), &to).0, 250, "a has it");
    assert!(wait_until(|| server.said().contains("event=lmtp-failed")));
    assert!(
        wait_until(|| spool(&mut server, &["list"]).1.is_empty()),
        "{}",
        server.said()
    );
    for name in to {
        let mine = format!("rcpt={name}");
        let times = || {
            let said = server.said();
            let lines = said.lines().filter(|line| line.contains("event=delivered "));
            lines.filter(|line| line.contains(&mine)).count()
        };
        assert!(wait_until(|| times() > 0), "{name}: {}", server.said());
        assert_eq!(times(), 1, "{name}: {}", server.said());
    }
}

#[test]
fn lmtp_that_hangs_babbles_or_is_away_defers() {
    for (name, babble) in [
        ("hangs at once", ""),
        ("trickles", "trickle"),
        ("speaks no LMTP", "SSH-2.0-OpenSSH\r\n"),
        ("never ends a line", "endless"),
        ("never ends a reply", "250-"),
        ("refuses", "554 go away\r\n"),
        ("closes", "close"),
    ] {
        let directory = shared();
        let socket = lmtp(directory.path(), move |_, mut server| match babble {
            "close" => {}
            "endless" => while server.stream.write_all(&[b'x'; 4096]).is_ok() {},
            "250-" => while server.stream.write_all(b"250-and so on\r\n").is_ok() {},
            "trickle" => {
                server.say("220");
                while server.stream.write_all(b" ").is_ok() {
                    thread::sleep(Duration::from_millis(200));
                }
            }
            text => {
                server.say(text);
                while server.line().is_some() {}
            }
        });
        let server = setup(&["a"], &over_lmtp(&socket)).start();
        let begun = Instant::now();
        let (code, text) = code(&mut server.hello(), &["a@example.com"]);
        assert_eq!(code, 451, "{name}: {text}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}");
        assert!(wait_until(|| server.said().contains("event=lmtp-failed")), "{name}");
    }
    let server = setup(&["a"], &over_lmtp(Path::new("/nonexistent/lmtp"))).start();
    assert_eq!(code(&mut server.hello(), &["a@example.com"]).0, 451);
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_costs_nothing() {
    let directory = shared();
    let socket = lmtp(directory.path(), |_, mut server| {
        server.say("220 hello\r\n");
        if let Some((recipients, _)) = server.message(|_| None) {
            for _ in recipients {
                server.say("250 2.0.0 Saved\r\n");
            }
        }
        server.say("421 4.3.2 idle for too long\r\n");
    });
    let server = setup(&["a"], &(over_lmtp(&socket) + "\nlda_jobs: 1")).start();
    let mut client = server.hello();
    for _ in 0..5 {
        assert_eq!(code(&mut client, &["a@example.com"]).0, 250);
    }
}

#[test]
fn beyond_the_queue_the_sender_is_told_to_come_again() {
    let directory = shared();
    let path = agent(
        directory.path(),
        r#": >"$d/begun"; until test -e "$d/go"; do sleep 0.05; done; cat >>"$d/in""#,
    );
    let server = setup(&["a"], &lda(&path, "lda_jobs: 1\nqueue: 2")).start();
    thread::scope(|scope| {
        let send = || scope.spawn(|| code(&mut server.hello(), &["a@example.com"]));
        // The first one is no longer in the queue when the others come.
        let mut senders = vec![send()];
        assert!(wait_until(|| directory.path().join("begun").exists()));
        senders.extend((0..7).map(|_| send()));
        assert!(
            wait_until(|| server.said().matches("event=overloaded").count() == 5),
            "{}",
            server.said()
        );
        fs::write(directory.path().join("go"), "").expect("go");
        let replies: Vec<_> = senders
            .into_iter()
            .map(|sender| sender.join().expect("reply"))
            .collect();
        assert_eq!(
            replies.iter().filter(|(code, _)| *code == 250).count(),
            3,
            "{replies:?}"
        );
        assert_eq!(
            replies.iter().filter(|(_, text)| text.starts_with("4.3.2")).count(),
            5,
            "{replies:?}"
        );
    });
    let text = fs::read_to_string(directory.path().join("in")).expect("delivered");
    assert_eq!(text.matches("Subject: hello").count(), 3);
}
