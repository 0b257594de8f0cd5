//! The daemon under the rights that its unit gives it: user, capabilities, no_new_privs, umask, read-only file
//! system and filter of system calls, all taken from the unit itself.

use super::{USERS, assert_delivers, assert_dropped_but, namespaces, processes, with_accounts};
use crate::common::service::{expand, unit, values, words};
use crate::common::{Server, Setup, run, skip, tool, wait_until};
use nix::sys::signal::Signal;
use seccompiler::{SeccompAction, SeccompFilter};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

/// CHOWN, DAC_READ_SEARCH, SETGID, SETUID and NET_BIND_SERVICE, as bits.
const BOUNDING: u64 = 1 | 1 << 2 | 1 << 6 | 1 << 7 | 1 << 10;

/// What systemd does before it starts the daemon. $1: the directory of the setup; what is writable below it,
/// up to `--`.
const AS_THE_UNIT: &str = r#"set -e
directory=$1; shift
mount --bind "$directory" "$directory"
while test "$1" != --; do mount --bind "$directory/$1" "$directory/$1"; shift; done; shift
mount -o remount,bind,ro "$directory"
mount -o remount,bind,ro /
umask "$1"; shift
exec "$@""#;

/// The setup under the unit's rights; `writable` are the directories of ReadWritePaths=, below its own.
fn under_the_unit(setup: Setup, writable: &[&str], notify: &Path) -> Setup {
    let unit = unit();
    let mut bounding = String::from("-all");
    for name in words(&unit, "CapabilityBoundingSet") {
        bounding += &format!(",+{}", name.trim_start_matches("CAP_").to_ascii_lowercase());
    }
    assert_eq!(values(&unit, "NoNewPrivileges"), ["yes"]);
    let directory = setup.config().parent().expect("parent").display().to_string();
    let mut more = vec!["sh".to_owned(), "-c".into(), AS_THE_UNIT.into(), "sh".into(), directory];
    more.extend(writable.iter().map(|name| (*name).to_owned()));
    more.extend(["--".to_owned(), values(&unit, "UMask").concat()]);
    more.extend(["setpriv", "--no-new-privs", "--inh-caps", "-all", "--bounding-set"].map(str::to_owned));
    more.push(bounding);
    more.extend(["env".to_owned(), format!("NOTIFY_SOCKET={}", notify.display())]);
    with_accounts(setup, &USERS).then_under(more)
}

/// The unit's filter of system calls, with what the launcher needs to make the unit's file system; none, said
/// by name, where the numbers of the calls are not known.
fn filter(test: &str) -> Option<seccompiler::BpfProgram> {
    let analyze = tool(test, "systemd-analyze")?;
    let header = [
        "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "/usr/include/asm/unistd_64.h",
    ];
    let Some(header) = header.iter().find_map(|path| fs::read_to_string(path).ok()) else {
        skip(
            test,
            "no asm/unistd_64.h (linux-libc-dev) with the numbers of system calls",
        );
        return None;
    };
    let numbers: BTreeMap<&str, i64> = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '))
        .filter_map(|(name, number)| Some((name, number.trim().parse().ok()?)))
        .collect();
    let unit = unit();
    assert_eq!(values(&unit, "SystemCallErrorNumber"), ["EPERM"]);
    let mut allowed = expand(&analyze, &words(&unit, "SystemCallFilter"));
    allowed.extend(["mount", "unshare"].map(str::to_owned));
    let rules: BTreeMap<i64, Vec<_>> = allowed
        .iter()
        .filter_map(|name| Some((*numbers.get(name.as_str())?, Vec::new())))
        .collect();
    assert!(rules.len() > 200, "{rules:?}");
    let refused = SeccompAction::Errno(nix::libc::EPERM as u32);
    let architecture = std::env::consts::ARCH.try_into().expect("architecture");
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, architecture).expect("filter");
    Some(filter.try_into().expect("program"))
}

/// Starts below the filter, which this thread and all that it starts keep.
fn start_below(filter: &seccompiler::BpfProgram, setup: Setup) -> (Server, (bool, String)) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            seccompiler::apply_filter(filter).expect("filtered");
            let checked = setup.run("check"); // ExecReload's first half has the same rights
            (setup.start(), checked)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

struct Manager {
    socket: UnixDatagram,
    heard: String,
}

impl Manager {
    fn hears(&mut self, text: &str) -> bool {
        let mut buffer = [0; 4096];
        wait_until(|| {
            while let Ok(length) = self.socket.recv(&mut buffer) {
                self.heard += &String::from_utf8_lossy(&buffer[..length]);
                self.heard.push('\n');
            }
            self.heard.contains(text)
        })
    }
}

fn directory(path: PathBuf, mode: u32, owner: u32) {
    fs::create_dir(&path).expect("directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
    chown(&path, Some(owner), Some(owner)).expect("owner");
}

/// A life under the unit: ready, a mail, a reload, the end.
fn lives(test: &str, writable: &[&str], prepare: impl Fn(&Path)) {
    if !namespaces(test) || tool(test, "setpriv").is_none() {
        return;
    }
    let Some(filter) = filter(test) else {
        return;
    };
    let mut setup = Setup::new().low_port();
    let base = setup.config().parent().expect("parent").to_path_buf();
    prepare(&base);
    let parent = setup.state();
    let parent = parent.parent().expect("parent");
    let (state, log) = if writable.contains(&"state") {
        (parent.join("state"), parent.join("log/rsmtpd.log"))
    } else {
        (parent.join("lib/state"), parent.join("log/rsmtpd.log"))
    };
    setup.place_state(&state);
    setup.set("rsmtpd.yaml", "log_path", &log.display().to_string());
    let notify = base.join("notify");
    let socket = UnixDatagram::bind(&notify).expect("notify socket");
    socket.set_nonblocking(true).expect("non-blocking");
    let mut manager = Manager {
        socket,
        heard: String::new(),
    };
    let setup = under_the_unit(setup, writable, &notify);
    let (mut server, (checked, said)) = start_below(&filter, setup);
    assert!(checked, "check: {said}");
    assert!(server.address().port() < 1024);
    assert!(manager.hears("READY=1"), "{}", manager.heard);
    let by_name = processes(&server, 8);
    let users = assert_dropped_but(&by_name, BOUNDING);
    assert_eq!(users["rsmtpd: deliver"], 48_613);
    assert_delivers(&server, 48_613);
    assert!(
        said_in(&log, "event=listening") && !said_in(&log, "missing"),
        "{}",
        server.said()
    );
    let metadata = fs::metadata(&log).expect("log");
    assert_eq!((metadata.uid(), metadata.mode() & 0o037), (48_612, 0), "{metadata:?}");
    assert_eq!(fs::metadata(&state).expect("state").mode() & 0o777, 0o700);

    manager.heard.clear();
    fs::rename(&log, log.with_extension("1")).expect("rotated");
    server.signal(Signal::SIGHUP);
    assert!(
        manager.hears("RELOADING=1") && manager.hears("READY=1"),
        "{}",
        manager.heard
    );
    assert!(wait_until(
        || said_in(&log, "event=reloaded") || said_in(&log.with_extension("1"), "event=reloaded")
    ));
    assert_eq!(server.hello().command("NOOP").code, 250);
    server.signal(Signal::SIGTERM);
    assert!(manager.hears("STOPPING=1"), "{}", manager.heard);
    assert_eq!(server.wait(), Some(0), "{}", server.said());
    let name = format!("-s{}", server.pid());
    let (left, who) = run(Command::new("ps").args(["-o", "pid,comm", &name]), b"");
    assert!(!left || who.lines().count() <= 1, "left over: {who}");
}

fn said_in(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|said| said.contains(text))
}

#[test]
fn with_the_directories_of_tmpfiles() {
    lives(
        "privileges::with_the_directories_of_tmpfiles",
        &["state", "log"],
        |base| {
            directory(base.join("state"), 0o700, 48_613);
            directory(base.join("log"), 0o750, 48_612);
        },
    );
}

#[test]
fn with_directories_of_root() {
    lives("privileges::with_directories_of_root", &["lib", "log"], |base| {
        directory(base.join("lib"), 0o755, 0);
        directory(base.join("log"), 0o755, 0);
    });
}
