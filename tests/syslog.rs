//! The log by way of /dev/log: a syslog daemon that dies, comes back, or sleeps stops no worker, and lines resume.
//!
//! /dev is replaced in a mount namespace of the server's own, so it needs root.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::{Server, Setup, needs_root, run, tool, wait_until};
use nix::sys::signal::Signal;

const MESSAGE: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

/// A syslog daemon that keeps what it reads.
struct Syslog {
    socket: UnixDatagram,
    reader: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Syslog {
    /// At this path, replacing one that has died; it reads nothing yet.
    fn asleep(path: &Path) -> Syslog {
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path).expect("socket");
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("mode");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("time-out");
        Syslog {
            socket,
            reader: None,
            lines: Arc::default(),
        }
    }

    fn awake(mut self) -> Syslog {
        let (end, lines) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.lines));
        let (ended, socket) = (Arc::clone(&end), self.socket.try_clone().expect("clone"));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 8192];
            while !ended.load(Ordering::SeqCst) {
                if let Ok(length) = socket.recv(&mut buffer) {
                    let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    lines.lock().expect("not poisoned").push(line);
                }
            }
        });
        self.reader = Some((end, thread));
        self
    }

    fn said(&self) -> String {
        self.lines.lock().expect("not poisoned").join("\n")
    }

    fn await_said(&self, words: &str) {
        assert!(
            wait_until(|| self.said().contains(words)),
            "no {words:?} in:\n{}",
            self.said()
        );
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.reader.take() {
            end.store(true, Ordering::SeqCst);
            let _ = thread.join();
        }
    }
}

/// In a mount namespace of its own, with a /dev that has nothing but what is needed and the directory's `log`.
const WRAPPER: &str = "\
d=$1; shift
for n in null zero random urandom; do : > $d/$n && mount --bind /dev/$n $d/$n || exit 1; done
mount --rbind $d /dev || exit 1
exec \"$@\"";

/// With a syslog daemon that reads.
fn server(test: &str) -> Option<(Server, PathBuf, Syslog)> {
    let (setup, path, _manager) = setup(test)?;
    let syslog = Syslog::asleep(&path).awake();
    Some((setup.start(), path, syslog))
}

/// To be started with syslog as its destination; where the daemon's socket has to be; and the service manager's.
fn setup(test: &str) -> Option<(Setup, PathBuf, UnixDatagram)> {
    if !needs_root(test) {
        return None;
    }
    let unshare = tool(test, "unshare")?;
    let (can, _) = run(std::process::Command::new(&unshare).args(["-m", "true"]), b"");
    if !can {
        common::skip(test, "mount namespaces are not allowed");
        return None;
    }
    let setup = Setup::new();
    let dev = setup.aside().join("dev");
    fs::create_dir(&dev).expect("directory");
    let path = dev.join("log");
    let dev = dev.to_str().expect("UTF-8").to_owned();
    let unshare = unshare.to_str().expect("UTF-8").to_owned();
    let mut setup = setup.under([&*unshare, "-m", "sh", "-c", WRAPPER, "sh", &dev]);
    // Under a service manager lines go to syslog.
    let notify = setup.aside().join("notify");
    let manager = UnixDatagram::bind(&notify).expect("socket");
    setup.variable("NOTIFY_SOCKET", notify.to_str().expect("UTF-8"));
    Some((setup, path, manager))
}

fn deliver(server: &Server, count: usize) {
    for _ in 0..count {
        let mut client = server.hello();
        assert_eq!(
            client.deliver("a@example.org", &["test@example.com"], MESSAGE).code,
            250
        );
        assert_eq!(client.command("QUIT").code, 221);
    }
}

#[test]
fn a_syslog_daemon_that_is_started_again() {
    let Some((mut server, path, syslog)) = server("syslog::started_again") else {
        return;
    };
    syslog.await_said("event=listening");
    let said = syslog.said();
    let line = said
        .lines()
        .find(|line| line.contains("event=listening"))
        .unwrap_or_default();
    // Facility mail, severity notice; our name; the master's process id.
    assert!(
        line.starts_with("<21>") && line.contains(&format!("rsmtpd[{}]: ", server.pid())),
        "{line}"
    );
    deliver(&server, 1);
    syslog.await_said("event=delivered");
    drop(syslog);
    fs::remove_file(&path).expect("gone");
    deliver(&server, 5);
    let again = Syslog::asleep(&path).awake();
    // The next lines find it, at the latest a second later.
    assert!(
        wait_until(|| {
            deliver(&server, 1);
            again.said().contains("event=delivered")
        }),
        "{}",
        again.said()
    );
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(), Some(0));
    again.await_said("event=stopped");
}

#[test]
fn a_syslog_daemon_that_sleeps() {
    let Some((server, path, syslog)) = server("syslog::sleeps") else {
        return;
    };
    syslog.await_said("event=listening");
    drop(syslog);
    let asleep = Syslog::asleep(&path);
    deliver(&server, 40);
    let awake = asleep.awake();
    assert!(
        wait_until(|| {
            deliver(&server, 1);
            awake.said().contains("event=lines-lost count=")
        }),
        "{}",
        awake.said()
    );
    deliver(&server, 1);
    awake.await_said("event=delivered");
}

/// Nobody listens at the start: lines go to standard error, and to the daemon once there is one.
#[test]
fn a_syslog_daemon_that_comes_late() {
    let Some((setup, path, _manager)) = setup("syslog::comes_late") else {
        return;
    };
    assert!(!path.exists());
    let server = setup.start();
    server.await_said("event=listening", 1);
    deliver(&server, 1);
    server.await_said("event=delivered", 1);
    let syslog = Syslog::asleep(&path).awake();
    assert!(
        wait_until(|| {
            deliver(&server, 1);
            syslog.said().contains("event=delivered")
        }),
        "{}",
        syslog.said()
    );
    // Nothing goes both ways.
    let before = server.said();
    deliver(&server, 1);
    let mail = server.mail("test@example.com").len();
    assert!(wait_until(|| {
        let told = |said: &str| said.matches("event=delivered").count();
        told(&syslog.said()) + told(&server.said()) >= mail
    }));
    assert_eq!(server.said(), before);
}
