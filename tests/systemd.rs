//! The unit, its users and its directories, judged by systemd's own tools.

mod common;

use common::service::{expand, unit, values, words};
use common::{root, run, skip, tool};
use rsmtpd::sys::sandbox::{self, Profile};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn unit_is_clean() {
    let Some(analyze) = tool("systemd::unit_is_clean", "systemd-analyze") else {
        return;
    };
    // A copy that names the binary of this build: verify looks for it.
    let directory = tempfile::tempdir().expect("temporary directory");
    let copy = directory.path().join("rsmtpd.service");
    let text = unit().replace("/usr/sbin/rsmtpd", env!("CARGO_BIN_EXE_rsmtpd"));
    fs::write(&copy, text).expect("written");
    let mut verify = Command::new(analyze);
    verify.args(["verify", "--man=no", "--generators=no"]).arg(&copy);
    // It exits with 0 whatever it finds: what it says counts.
    let (_, said) = run(&mut verify, b"");
    let faults: Vec<&str> = said.lines().filter(|l| l.contains("rsmtpd")).collect();
    assert!(faults.is_empty(), "{said}");
}

/// The threshold admits what is equal to it: tenths of the rating.
#[test]
fn exposure_is_rated_under_three() {
    let Some(analyze) = tool("systemd::exposure", "systemd-analyze") else {
        return;
    };
    let mut security = Command::new(analyze);
    security
        .args(["security", "--offline=true", "--threshold=29", "--no-pager"])
        .arg(root().join("systemd/rsmtpd.service"));
    let (success, said) = run(&mut security, b"");
    assert!(success && said.contains("Overall exposure level"), "{said}");
}

#[test]
fn unit_is_what_the_manual_says() {
    let unit = unit();
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "Restart"), ["always"]);
    assert_eq!(values(&unit, "StartLimitIntervalSec"), ["0"]);
    let reload = values(&unit, "ExecReload");
    assert!(reload[0].ends_with(" check") && reload[1].contains("-HUP $MAINPID"));
    let capabilities: BTreeSet<&str> = words(&unit, "CapabilityBoundingSet").into_iter().collect();
    let expected = BTreeSet::from([
        "CAP_NET_BIND_SERVICE",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_CHOWN",
        "CAP_DAC_READ_SEARCH",
    ]);
    assert_eq!(capabilities, expected);
}

/// What start-up calls before and beside the sandbox, whatever libc makes of it.
const CALLS: &[&str] = &[
    "accept4",
    "bind",
    "capget",
    "capset",
    "clone",
    "close",
    "close_range",
    "copy_file_range",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "execve",
    "exit_group",
    "fcntl",
    "flock",
    "fork",
    "fstat",
    "fsync",
    "ftruncate",
    "getrandom",
    "getsockopt",
    "inotify_init1",
    "kill",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "linkat",
    "listen",
    "memfd_create",
    "mkdirat",
    "mmap",
    "newfstatat",
    "openat",
    "pipe2",
    "poll",
    "ppoll",
    "prctl",
    "prlimit64",
    "pwrite64",
    "read",
    "recvmsg",
    "rename",
    "renameat2",
    "rt_sigaction",
    "rt_sigprocmask",
    "seccomp",
    "sendmsg",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setrlimit",
    "setsockopt",
    "setuid",
    "shutdown",
    "signalfd4",
    "socket",
    "socketpair",
    "statx",
    "timerfd_create",
    "umask",
    "unlinkat",
    "utimensat",
    "vfork",
    "wait4",
    "waitid",
    "write",
    "writev",
];

/// The calls of the daemon that a filter lacks: those that every profile of its sandbox allows, those that enter
/// it, and those of start-up.
fn lacking(analyze: &Path, filter: &[&str]) -> BTreeSet<String> {
    let allowed = expand(analyze, filter);
    let mut needed: BTreeSet<String> = CALLS.iter().map(|&c| c.to_owned()).collect();
    needed.extend(called_directly());
    let (none, program) = (Vec::new, || vec!["/usr".into()]);
    for profile in [
        Profile::master_and_worker(none()),
        Profile::logger(none(), none()),
        Profile::keeper(none()),
        Profile::broker(none(), Vec::new()),
        Profile::delivery(none(), none(), none()),
        Profile::delivery(none(), none(), program()),
    ] {
        needed.extend(sandbox::calls(&profile).into_iter().map(str::to_owned));
    }
    assert!(needed.len() > 100, "{needed:?}");
    needed.difference(&allowed).cloned().collect()
}

#[test]
fn filter_allows_what_the_sandbox_calls() {
    let Some(analyze) = tool("systemd::filter", "systemd-analyze") else {
        return;
    };
    let unit = unit();
    let filter = words(&unit, "SystemCallFilter");
    assert!(filter.iter().all(|name| !name.starts_with('~')));
    let all = expand(&analyze, &filter);
    assert!(all.len() > 200, "systemd-analyze names {all:?}");
    let missing = lacking(&analyze, &filter);
    assert!(missing.is_empty(), "not in the unit's filter: {missing:?}");

    // It would be seen: whichever word of the filter is left out, what that gave is missing.
    for left_out in &filter {
        let rest: Vec<&str> = filter.iter().copied().filter(|word| word != left_out).collect();
        let missing = lacking(&analyze, &rest);
        let given = expand(&analyze, &[left_out]);
        assert!(
            missing.iter().any(|call| given.contains(call)),
            "without {left_out}: {missing:?}"
        );
    }
}

/// Every source file below a directory, but tests, which try what is forbidden.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => sources(&path),
            path => vec![path],
        })
        .collect();
    found.retain(|path| path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("tests.rs"));
    found
}

/// The calls that src/sys makes by number: `syscall(SYS_name, …)`.
fn called_directly() -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    for path in sources(&root().join("src/sys")) {
        let text = fs::read_to_string(path).unwrap_or_default();
        for part in text.split("syscall(").skip(1) {
            let name = part.trim_start().trim_start_matches("libc::");
            let name = name.strip_prefix("SYS_").unwrap_or_default();
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = name.get(..end.unwrap_or(name.len())).unwrap_or_default();
            if !name.is_empty() {
                calls.insert(name.to_owned());
            }
        }
    }
    calls
}

/// Every profile that there is: a new one must be looked at as well.
#[test]
fn no_profile_is_left_out() {
    let text = fs::read_to_string(root().join("src/sys/sandbox.rs")).expect("the profiles");
    let made: BTreeSet<&str> = text
        .split("    pub fn ")
        .skip(1)
        .filter_map(|rest| {
            rest.split_once('{')?
                .0
                .contains("-> Profile")
                .then_some(rest.split_once('(')?.0)
        })
        .collect();
    let own = fs::read_to_string(root().join("tests/systemd.rs")).expect("this file");
    let (_, looked_at) = own.split_once("fn lacking(").expect("the list");
    let (looked_at, _) = looked_at.split_once("\n}\n").expect("its end");
    assert!(made.len() > 3, "{made:?}");
    for profile in made {
        assert!(looked_at.contains(&format!("Profile::{profile}(")), "{profile}");
    }
}

#[test]
fn users_and_directories() {
    let read = |name: &str| fs::read_to_string(root().join("systemd").join(name)).expect("file");
    let (users, directories) = (read("rsmtpd.sysusers"), read("rsmtpd.tmpfiles"));
    let field = |line: &str, at| line.split_whitespace().nth(at).unwrap_or_default().to_owned();
    let known: BTreeSet<String> = users
        .lines()
        .filter(|l| l.starts_with("u "))
        .map(|l| field(l, 1))
        .collect();
    for line in directories.lines().filter(|l| l.starts_with("d ")) {
        assert!(known.contains(&field(line, 3)), "no user for: {line}");
    }
    // The users that the shipped configuration names are made.
    for file in ["rsmtpd.yaml", "delivery.yaml"] {
        let text = fs::read_to_string(root().join("config").join(file)).unwrap_or_default();
        for line in text.lines() {
            let line = line.trim_start_matches(['#', ' ']);
            if let Some(user) = line.strip_prefix("user:") {
                let user = user.split('#').next().unwrap_or_default().trim();
                let made = known.contains(user) || user.is_empty() || user == "null";
                assert!(made, "{file} names {user}, which rsmtpd.sysusers does not make");
            }
        }
    }
    let Some(sysusers) = tool("systemd::users", "systemd-sysusers") else {
        return;
    };
    let file = root().join("systemd/rsmtpd.sysusers");
    let (success, said) = run(Command::new(sysusers).arg("--dry-run").arg(file), b"");
    assert!(success, "{said}");
    let Some(tmpfiles) = tool("systemd::directories", "systemd-tmpfiles") else {
        return;
    };
    if !common::is_root() {
        return skip("systemd::directories", "creating directories needs root");
    }
    let target = tempfile::tempdir().expect("temporary directory");
    let etc = target.path().join("etc");
    fs::create_dir(&etc).expect("etc");
    let entry = |name: &str, id: u32| format!("{name}:x:{id}:{id}::/:/bin/false\n");
    let names = known.iter().zip(900..);
    let passwd: String = names.clone().map(|(name, id)| entry(name, id)).collect();
    let group: String = names.map(|(name, id)| format!("{name}:x:{id}:\n")).collect();
    fs::write(etc.join("passwd"), passwd).expect("passwd");
    fs::write(etc.join("group"), group + "adm:x:4:\n").expect("group");
    let mut create = Command::new(tmpfiles);
    create
        .arg(format!("--root={}", target.path().display()))
        .arg("--create")
        .arg(root().join("systemd/rsmtpd.tmpfiles"));
    let (success, said) = run(&mut create, b"");
    assert!(success, "{said}");
    assert!(target.path().join("var/lib/rsmtpd").is_dir(), "{said}");
}
