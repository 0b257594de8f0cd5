//! Delivery through Dovecot itself: its delivery agent and its LMTP server, with a configuration of their own, into real
//! Maildirs, as an unprivileged mail user.

mod common;

use common::{Server, Setup, assert_same_message, is_root, messages_below, needs_root, skip, tool, wait_until};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Whom mail belongs to: nobody in particular, and not root.
const USER: u32 = 61_999;
const LDA: &str = "/usr/lib/dovecot/dovecot-lda";
const MESSAGE: &[u8] = b"From: a@example.org\r\nSubject: hello\r\n\r\n.\r\nbody\r\n";

/// A directory that belongs to the mail user, or to us where we are not root.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    if is_root() {
        chown(directory.path(), Some(USER), Some(USER)).expect("owner");
    }
    directory
}

fn owner() -> (u32, u32) {
    if is_root() {
        return (USER, USER);
    }
    (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw())
}

/// A configuration that touches nothing outside `base`; mail is in `~/Maildir`, a quarter of a megabyte at most.
fn configure(base: &Path, more: &str) -> PathBuf {
    let (uid, gid) = owner();
    let name = |id: u32| {
        let found = nix::unistd::User::from_uid(id.into()).ok().flatten();
        found.map_or_else(|| id.to_string(), |user| user.name)
    };
    let group = nix::unistd::Group::from_gid(gid.into()).ok().flatten();
    let group = group.map_or_else(|| gid.to_string(), |group| group.name);
    let text = format!(
        "base_dir = {base}/run\nstate_dir = {base}/state\nlog_path = {base}/log\nssl = no\nprotocols = lmtp\n\
         first_valid_uid = 1\nfirst_valid_gid = 1\npostmaster_address = postmaster@example.com\nhostname = mail.example.com\n\
         mail_location = maildir:~/Maildir\nmail_plugins = quota\nlda_mailbox_autocreate = yes\nquota_full_tempfail = no\n\
         default_internal_user = {user}\ndefault_login_user = {user}\ndefault_internal_group = {group}\n\
         mail_uid = {uid}\nmail_gid = {gid}\n\
         plugin {{\n  quota = maildir:User quota\n  quota_rule = *:storage=256K\n  quota_grace = 0\n}}\n{more}\n",
        base = base.display(),
        user = name(uid),
    );
    let path = base.join("dovecot.conf");
    fs::write(&path, text).expect("configuration");
    path
}

fn setup(recipients: &[&str], delivery: &str) -> Setup {
    let mut setup = Setup::new();
    let names: String = recipients.iter().map(|name| format!("      - {name}\n")).collect();
    setup.write(
        "simple_recipient_validator.yaml",
        &format!("domains:\n  example.com:\n    recipients:\n{names}"),
    );
    setup.write("delivery.yaml", &format!("retry: {{first: 1s}}\n{delivery}\n"));
    setup.set("worker.yaml", "maximum_errors", "1000");
    if is_root() {
        // the owner of the state directory is whom delivery runs as
        fs::create_dir(setup.state()).expect("state");
        fs::set_permissions(setup.state(), fs::Permissions::from_mode(0o700)).expect("mode");
        chown(setup.state(), Some(USER), Some(USER)).expect("owner");
    }
    setup
}

/// The agent with our configuration: rsmtpd gives it nothing but what it needs.
fn wrapped(base: &Path) -> PathBuf {
    let path = base.join("lda");
    let text = format!("#!/bin/sh\nexec {LDA} -c {}/dovecot.conf \"$@\"\n", base.display());
    fs::write(&path, text).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    path
}

fn big() -> Vec<u8> {
    [
        b"Subject: big\r\n\r\n".as_slice(),
        &b"0123456789abcdef\r\n".repeat(12_000),
    ]
    .concat()
}

/// What both agents must do, whose mail is in `home(name)/Maildir`.
fn deliver_all(server: &Server, home: &dyn Fn(&str) -> PathBuf) {
    let mut client = server.hello();
    let mail = |name: &str| messages_below(&home(name).join("Maildir"));
    for (from, to) in [
        ("sender@example.org", vec!["alice@example.com"]),
        ("", vec!["alice@example.com", "Bob@example.com"]),
    ] {
        let reply = client.deliver(from, &to, MESSAGE);
        assert_eq!(reply.code, 250, "{reply:?}\n{}", server.said());
    }
    assert_eq!((mail("alice").len(), mail("bob").len()), (2, 1));
    for stored in mail("alice").iter().chain(&mail("bob")) {
        let text = String::from_utf8_lossy(stored);
        assert_eq!(text.matches("Return-Path:").count(), 1, "{text}");
        assert!(common::with_crlf(stored).ends_with(MESSAGE), "{text}");
    }
    assert_eq!(
        client.deliver("s@example.org", &["alice@example.com"], &big()).code,
        250,
        "within the quota"
    );
    let reply = client.deliver("s@example.org", &["alice@example.com"], &big());
    assert!(
        reply.code == 552 && reply.text().starts_with("5.2.2"),
        "over quota: {reply:?}\n{}",
        server.said()
    );
    let reply = client.deliver("s@example.org", &["alice@example.com", "bob@example.com"], &big());
    assert_eq!(reply.code, 250, "bob has room: {reply:?}");
    assert_eq!((mail("alice").len(), mail("bob").len()), (3, 2));
    let failed = fs::read_dir(server.state().join("failed")).expect("failed").count();
    assert_eq!(failed, 2, "alice's copy, envelope and body");
}

#[test]
fn through_the_delivery_agent() {
    const NAME: &str = "dovecot::through_the_delivery_agent";
    if tool(NAME, LDA).is_none() {
        return;
    }
    let base = directory();
    configure(base.path(), "");
    let delivery = format!(
        "agent: dovecot_lda\ndovecot_lda:\n  path: {}",
        wrapped(base.path()).display()
    );
    let server = setup(&["alice", "bob"], &delivery).start();
    let mail = server.state().join("mail/example.com");
    deliver_all(&server, &|name| mail.join(name));
    let stored = messages_below(&mail.join("bob/Maildir"));
    let first = stored
        .iter()
        .find(|text| text.windows(5).any(|w| w == b"hello"))
        .expect("it");
    assert!(
        first.starts_with(b"Return-Path: <>\nDelivered-To: bob@example.com\nReceived: "),
        "{}",
        String::from_utf8_lossy(first)
    );
    assert_same_message(first, MESSAGE);
}

#[test]
fn a_broken_configuration_is_ours() {
    const NAME: &str = "dovecot::a_broken_configuration_is_ours";
    if tool(NAME, LDA).is_none() {
        return;
    }
    let base = directory();
    configure(base.path(), "no_such_setting = yes");
    let delivery = format!(
        "agent: dovecot_lda\ndovecot_lda:\n  path: {}",
        wrapped(base.path()).display()
    );
    let server = setup(&["alice"], &delivery).start();
    let reply = server.hello().deliver("s@example.org", &["alice@example.com"], MESSAGE);
    assert!((400..500).contains(&reply.code), "{reply:?}");
    assert!(
        wait_until(|| server.said().contains("no_such_setting")),
        "{}",
        server.said()
    );
}

/// Dovecot's master, ended with its children.
struct Dovecot(Child);

impl Drop for Dovecot {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGTERM);
        wait_until(|| !matches!(self.0.try_wait(), Ok(None)));
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[test]
fn through_the_lmtp_server() {
    const NAME: &str = "dovecot::through_the_lmtp_server";
    if tool(NAME, "/usr/lib/dovecot/lmtp").is_none() {
        return;
    }
    let (Some(dovecot), true) = (tool(NAME, "dovecot"), needs_root(NAME)) else {
        return;
    };
    if nix::unistd::User::from_name("dovecot").ok().flatten().is_none() {
        return skip(NAME, "there is no user dovecot");
    }
    let base = directory();
    let homes = base.path().join("homes");
    let services = format!(
        "default_internal_user = dovecot\ndefault_login_user = dovenull\ndefault_internal_group = dovecot\n\
         passdb {{\n  driver = static\n  args = nopassword=y\n}}\n\
         userdb {{\n  driver = passwd-file\n  args = {base}/users\n}}\n\
         service lmtp {{\n  unix_listener {base}/lmtp {{\n    mode = 0666\n  }}\n}}\n\
         service anvil {{\n  chroot =\n}}\nservice stats {{\n  chroot =\n}}\n",
        base = base.path().display(),
    );
    let users: String = ["alice", "bob"]
        .iter()
        .map(|name| format!("{name}@example.com::{USER}:{USER}::{}/{name}::\n", homes.display()))
        .collect();
    fs::write(base.path().join("users"), users).expect("users");
    fs::create_dir(&homes).expect("homes");
    chown(&homes, Some(USER), Some(USER)).expect("owner");
    let configuration = configure(base.path(), &services);
    let output = fs::File::create(base.path().join("output")).expect("output");
    let child = Command::new(dovecot)
        .args(["-F", "-c"])
        .arg(&configuration)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("output"))
        .stderr(output)
        .process_group(0)
        .spawn()
        .expect("dovecot");
    let _running = Dovecot(child);
    let said = || {
        let read = |name: &str| fs::read_to_string(base.path().join(name)).unwrap_or_default();
        read("output") + &read("log")
    };
    let socket = base.path().join("lmtp");
    assert!(wait_until(|| socket.exists()), "{}", said());
    let delivery = format!("agent: lmtp\nlmtp:\n  socket: {}", socket.display());
    let server = setup(&["alice", "bob", "carol"], &delivery).start();
    let reply = server.hello().deliver("s@example.org", &["carol@example.com"], MESSAGE);
    assert!(
        reply.code == 550 && reply.text().starts_with("5.1.1"),
        "{reply:?} {}",
        said()
    );
    deliver_all(&server, &|name| homes.join(name));
}
