//! What a fresh clone does with `cargo run`: no argument, the shipped configuration, a user's own state directory.

mod common;

use common::{Client, SHIPPED_PORT, Server, Setup, is_root, messages_below, run, skip, tool, wait_until};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

const MESSAGE: &[u8] = b"Subject: first\r\n\r\nbody\r\n";
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// The id of nobody, whom these tests become as root.
const NOBODY: u32 = 65_534;

/// The port is one for all.
static PORT: Mutex<()> = Mutex::new(());

/// Whether the shipped configuration is what will be read, and its port is free.
fn possible(test: &str) -> bool {
    if Path::new("/etc/rsmtpd").exists() {
        skip(test, "/etc/rsmtpd exists and comes before ./config");
        return false;
    }
    let free = || {
        let free = |address| TcpListener::bind((address, SHIPPED_PORT)).is_ok();
        LOOPBACKS.into_iter().all(free)
    };
    let free = wait_until(free);
    if !free {
        skip(test, "port 8025 is not free on 127.0.0.1 and ::1");
    }
    free
}

/// The setup run as an ordinary user, and a home of his; none where root cannot become one who reads the checkout.
fn ordinary(test: &str) -> Option<(Setup, PathBuf)> {
    let setup = Setup::new();
    let home = setup.aside().join("home");
    fs::create_dir(&home).expect("home");
    if !is_root() {
        return Some((setup, home));
    }
    let setpriv = tool(test, "setpriv")?;
    chown(&home, Some(NOBODY), Some(NOBODY)).expect("owner");
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let reached = Command::new(&setpriv)
        .args(words)
        .args(["test", "-x"])
        .arg(common::binary())
        .status();
    if !reached.is_ok_and(|status| status.success()) {
        skip(test, "an ordinary user cannot reach the checkout");
        return None;
    }
    let words = words.map(Into::into);
    let setup = setup.under([setpriv.into_os_string()].into_iter().chain(words));
    Some((setup, home))
}

/// Starts it, unless somebody else took the port just now.
fn start(test: &str, setup: Setup) -> Option<Server> {
    match setup.start_cloned() {
        Ok(server) => Some(server),
        Err(said) if said.contains("in use") => {
            skip(test, "port 8025 was taken meanwhile");
            None
        }
        Err(said) => panic!("it did not start: {said}"),
    }
}

/// That it says where it listens and where mail goes, and that mail over both addresses and by the line to paste goes
/// there.
fn assert_delivers_below(server: &Server, state: &Path) {
    let said = server.said();
    let mail = format!("mail goes to {}/mail/<domain>/<local part>/", state.display());
    for words in [
        "listening on 127.0.0.1:8025",
        "listening on [::1]:8025",
        &mail,
        "example.com",
    ] {
        assert!(said.contains(words), "no {words:?} in: {said}");
    }
    for address in LOOPBACKS {
        let stream = TcpStream::connect(SocketAddr::new(address, SHIPPED_PORT)).expect("connection");
        let mut client = Client::over(stream);
        assert_eq!(client.reply().code, 220);
        assert_eq!(client.command("EHLO client.example").code, 250);
        let reply = client.deliver("a@example.org", &["test@example.com"], MESSAGE);
        assert_eq!(reply.code, 250, "{address}: {reply:?}");
    }
    let stored = messages_below(&state.join("mail/example.com/test"));
    assert_eq!(stored.len(), 2, "{}", server.said());
    for message in &stored {
        common::assert_same_message(message, MESSAGE);
    }
    assert_pasted(server, state);
    let mode = fs::metadata(state).expect("state").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{}", state.display());
}

/// The line to paste sends what it says.
fn assert_pasted(server: &Server, state: &Path) {
    if tool("first_run::the line to paste", "python3").is_none() {
        return;
    }
    let said = server.said();
    let line = said.split_once("paste:\n").and_then(|(_, rest)| rest.lines().next());
    let line = line.unwrap_or_else(|| panic!("no line to paste: {said}"));
    let (success, output) = run(Command::new("sh").args(["-c", line]), b"");
    assert!(success, "{line}: {output}");
    let stored = messages_below(&state.join("mail/example.com/postmaster"));
    assert_eq!(stored.len(), 1, "{}", server.said());
    assert!(String::from_utf8_lossy(&stored[0]).contains("Subject: first mail"));
}

#[test]
fn mail_goes_below_the_users_state() {
    let name = "first_run::mail_goes_below_the_users_state";
    let _turn = PORT.lock().unwrap_or_else(PoisonError::into_inner);
    if !possible(name) {
        return;
    }
    let Some((setup, home)) = ordinary(name) else { return };
    let Some(server) = start(name, setup.cloned_by(&home)) else {
        return;
    };
    assert_delivers_below(&server, &home.join(".local/state/rsmtpd"));
}

#[test]
fn xdg_state_home_comes_before_the_home() {
    let name = "first_run::xdg_state_home_comes_before_the_home";
    let _turn = PORT.lock().unwrap_or_else(PoisonError::into_inner);
    if !possible(name) {
        return;
    }
    let Some((setup, home)) = ordinary(name) else { return };
    let mut setup = setup.cloned_by(&home);
    let elsewhere = home.join("elsewhere");
    setup.variable("XDG_STATE_HOME", elsewhere.to_str().expect("UTF-8"));
    let Some(server) = start(name, setup) else { return };
    assert_delivers_below(&server, &elsewhere.join("rsmtpd"));
    assert!(!home.join(".local").exists());
}

/// In a mount namespace that has a /var/lib of its own.
#[test]
fn roots_mail_goes_below_var_lib() {
    let name = "first_run::roots_mail_goes_below_var_lib";
    if !common::needs_root(name) || tool(name, "unshare").is_none() {
        return;
    }
    if !run(Command::new("unshare").args(["-m", "true"]), b"").0 {
        return skip(name, "no mount namespace");
    }
    let _turn = PORT.lock().unwrap_or_else(PoisonError::into_inner);
    if !possible(name) {
        return;
    }
    let setup = Setup::new();
    let (home, lib) = (setup.aside().join("home"), setup.aside().join("lib"));
    for directory in [&home, &lib] {
        fs::create_dir(directory).expect("directory");
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("mode");
    }
    let own = r#"mount --bind "$1" /var/lib && shift && exec "$@""#;
    let lib_name = lib.to_str().expect("UTF-8").to_owned();
    let setup = setup.under([
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        own,
        "sh",
        &lib_name,
    ]);
    let Some(server) = start(name, setup.cloned_by(&home)) else {
        return;
    };
    let said = server.said();
    assert!(said.contains("mail goes to /var/lib/rsmtpd/mail/"), "{said}");
    let mut client = server.hello();
    let reply = client.deliver("a@example.org", &["test@example.com"], MESSAGE);
    assert_eq!(reply.code, 250, "{reply:?}");
    let stored = messages_below(&lib.join("rsmtpd/mail/example.com/test"));
    assert_eq!(stored.len(), 1, "{}", server.said());
    common::assert_same_message(&stored[0], MESSAGE);
}
