//! The command line as its user meets it: exit statuses, what goes where, and what a bad environment does.

mod common;

use common::{Server, Setup, is_root, root, skip, wait_until};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn rsmtpd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rsmtpd"));
    command
        .current_dir(root())
        .stdin(Stdio::null())
        .env_remove("NOTIFY_SOCKET");
    command
}

/// How it ends and what it says, but for the notes on users that this machine lacks.
fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let text = |octets: Vec<u8>| String::from_utf8(octets).expect("UTF-8");
    let out = text(stdout);
    let kept = out
        .split_inclusive('\n')
        .filter(|line| !line.contains(" does not exist: started as root"));
    (status.code(), kept.collect(), text(stderr))
}

fn said(arguments: &[&str]) -> (Option<i32>, String, String) {
    output(rsmtpd().args(arguments))
}

/// A copy of the shipped configuration.
fn configuration() -> TempDir {
    let copy = tempfile::tempdir().expect("temporary directory");
    for entry in fs::read_dir(root().join("config")).expect("config").flatten() {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copy");
    }
    copy
}

fn check(directory: &Path) -> (Option<i32>, String, String) {
    output(rsmtpd().arg("-c").arg(directory).arg("check"))
}

#[test]
fn a_wrong_command_line_is_status_64_and_says_so_on_standard_error() {
    let wrong: [&[&str]; 16] = [
        &["--no-such-flag"],
        &["-x"],
        &["bogus"],
        &["check", "extra"],
        &["chain", "a", "b"],
        &["spool"],
        &["spool", "bogus"],
        &["spool", "show"],
        &["status", "--fast"],
        &["completions", "tcsh"],
        &["-c"],
        &["-p", "65536"],
        &["-p", "smtp"],
        &["-a", "1.2.3"],
        &["serve", "--log-level", "loud"],
        &["-p", "2525", "check"],
    ];
    for arguments in wrong {
        let (status, out, err) = said(arguments);
        assert_eq!(status, Some(64), "{arguments:?}: {err}");
        assert!(
            out.is_empty() && !err.is_empty() && !err.contains('\x1b'),
            "{arguments:?}: {out}{err}"
        );
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let commands: [&[&str]; 8] = [
        &[],
        &["serve"],
        &["check"],
        &["chain"],
        &["spool"],
        &["spool", "retry"],
        &["status"],
        &["completions"],
    ];
    for command in commands {
        for flag in ["--help", "-h"] {
            let (status, out, err) = output(rsmtpd().args(command).arg(flag));
            assert_eq!((status, err.as_str()), (Some(0), ""), "{command:?}");
            assert!(out.contains("Usage: rsmtpd") && !out.contains('\x1b'), "{out}");
        }
    }
    for flag in ["--version", "-V"] {
        assert_eq!(said(&[flag]).1, format!("rsmtpd {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn options_of_serve_stand_before_or_behind_it() {
    let (_, before, _) = said(&["--help"]);
    let (_, behind, _) = said(&["serve", "--help"]);
    for flag in [
        "--address",
        "--port",
        "--user",
        "--group",
        "--background",
        "--log-path",
        "--log-level",
    ] {
        assert!(before.contains(flag) && behind.contains(flag), "{flag}");
    }
}

#[test]
fn every_shell_has_completions_of_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (status, out, err) = said(&["completions", shell]);
        assert_eq!(status, Some(0), "{err}");
        for word in [
            "serve",
            "check",
            "chain",
            "spool",
            "status",
            "completions",
            "log-path",
            "retry",
        ] {
            assert!(out.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_ends_no_command_in_a_panic() {
    for arguments in [&["chain"][..], &["check"], &["completions", "bash"], &["--help"]] {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let (status, _, err) = output(rsmtpd().args(arguments).stdout(writer).stderr(Stdio::piped()));
        assert_eq!((status, err.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_full_device_is_an_error() {
    for arguments in [&["chain"][..], &["check"], &["completions", "bash"]] {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let mut command = rsmtpd();
        let child = command.args(arguments).stdout(full).stderr(Stdio::piped());
        let done = child
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .expect("runs");
        let err = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(74), "{arguments:?}: {err}");
        assert!(err.starts_with("rsmtpd: standard output: No space left"), "{err}");
    }
}

#[test]
fn closed_standard_streams_do_no_harm() {
    let binary = env!("CARGO_BIN_EXE_rsmtpd");
    for line in ["check <&-", "chain >&-", "check >&- 2>&-", "check <&- >&- 2>&-"] {
        let mut shell = Command::new("sh");
        let status = shell
            .current_dir(root())
            .args(["-c", &format!("exec '{binary}' -c config {line}")])
            .status();
        assert_eq!(status.ok().and_then(|s| s.code()), Some(0), "{line}");
    }
}

#[test]
fn check_counts_the_faults_and_names_their_directory() {
    let copy = configuration();
    let name = copy.path().display();
    assert_eq!(
        check(copy.path()),
        (Some(0), format!("{name}: no faults\n"), String::new())
    );
    fs::write(copy.path().join("worker.yaml"), "maximum_errors: none\nbogus: 1\n").expect("written");
    let (status, out, err) = check(copy.path());
    assert_eq!((status, out.as_str()), (Some(78), ""));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(
        lines[0],
        "worker.yaml:1:17: maximum_errors: expected 1 to 10000, found \"none\""
    );
    assert!(
        lines[1].starts_with("worker.yaml:2:1: bogus: expected command_handler, "),
        "{err}"
    );
    assert_eq!(lines[2..], [format!("rsmtpd: {name}: 2 faults")]);
}

#[test]
fn check_reads_chains_that_nothing_names_and_notes_files_that_nothing_reads() {
    let copy = configuration();
    let name = copy.path().display();
    fs::write(copy.path().join("wroker.yaml"), "bogus: 1\n").expect("written");
    let (status, out, err) = check(copy.path());
    assert_eq!(status, Some(0), "{err}");
    assert_eq!(out, format!("note: wroker.yaml: nothing reads it\n{name}: no faults\n"));
    fs::write(
        copy.path().join("command_handler_trap.yaml"),
        "QUIT:\n  - handler: bogus\n",
    )
    .expect("written");
    let (status, _, err) = check(copy.path());
    assert_eq!(status, Some(78), "{err}");
    assert!(
        err.starts_with("command_handler_trap.yaml:2:14: QUIT[0].handler: expected greeting, "),
        "{err}"
    );
}

#[test]
fn chain_shows_a_chain_that_nothing_names_yet() {
    let copy = configuration();
    let chain = |name: &str| output(rsmtpd().arg("-c").arg(copy.path()).args(["chain", name]));
    let text = fs::read_to_string(copy.path().join("command_handler_standard_server.yaml")).expect("chain");
    fs::write(copy.path().join("command_handler_trap.yaml"), text).expect("written");
    let (status, out, err) = chain("trap");
    assert_eq!(status, Some(0), "{err}");
    assert!(out.contains("greeting") && out.contains("may decide"), "{out}");
    for missing in ["nowhere", "../x", ""] {
        let (status, out, err) = chain(missing);
        assert_eq!((status, out.as_str()), (Some(66), ""), "{err}");
        assert!(err.contains(&format!("no command_handler_{missing}.yaml")), "{err}");
    }
}

#[test]
fn the_directory_is_the_named_one_or_the_first_that_exists() {
    let home = tempfile::tempdir().expect("temporary directory");
    let here = tempfile::tempdir().expect("temporary directory");
    let found = |home: &Path| output(rsmtpd().env("HOME", home).current_dir(here.path()).arg("check"));
    if !Path::new("/etc/rsmtpd").exists() {
        let (status, _, err) = found(home.path());
        assert_eq!(status, Some(78));
        let own = home.path().join(".rsmtpd");
        let expected = format!(
            "expected one of the directories {}, /etc/rsmtpd, ./config, found none",
            own.display()
        );
        assert!(err.contains(&expected), "{err}");
        let copy = configuration();
        symlink(copy.path(), here.path().join("config")).expect("link");
        assert_eq!(found(home.path()).1, "./config: no faults\n");
    }
    let copy = configuration();
    let own = home.path().join(".rsmtpd");
    symlink(copy.path(), &own).expect("link");
    assert_eq!(found(home.path()).1, format!("{}: no faults\n", own.display()));
    for missing in ["/nowhere", "/dev/null", ""] {
        let (status, _, err) = output(rsmtpd().env("HOME", home.path()).args(["-c", missing, "check"]));
        assert!([Some(78), Some(64)].contains(&status), "{missing:?}: {err}");
    }
}

#[test]
fn a_bad_environment_is_no_trouble() {
    let (status, out, err) = output(rsmtpd().env_clear().args(["-c", "config", "check"]));
    assert_eq!((status, out.as_str()), (Some(0), "config: no faults\n"), "{err}");
    let odd = [
        ("LC_ALL", "xx_YY.bogus"),
        ("TZ", "Nowhere/Bogus"),
        ("HOME", ""),
        ("COLUMNS", "0"),
        ("TERM", ""),
    ];
    let (status, out, _) = output(rsmtpd().envs(odd).args(["-c", "config", "check"]));
    assert_eq!((status, out.as_str()), (Some(0), "config: no faults\n"));
}

/// The XDG Base Directory Specification has relative paths ignored.
#[test]
fn a_relative_state_home_is_ignored() {
    let home = tempfile::tempdir().expect("temporary directory");
    let asked = |state: &str| {
        let mut command = rsmtpd();
        command
            .env("HOME", home.path())
            .env("XDG_STATE_HOME", state)
            .args(["-c", "config", "status"]);
        output(&mut command)
    };
    let below_home = home.path().join(".local/state/rsmtpd");
    let usual = if is_root() {
        Path::new("/var/lib/rsmtpd")
    } else {
        &below_home
    };
    if !usual.exists() {
        for relative in ["state", "", "./state"] {
            let (status, _, err) = asked(relative);
            assert_eq!(status, Some(69), "{err}");
            assert!(
                err.ends_with(&format!("state directory {}\n", usual.display())),
                "{err}"
            );
        }
    }
    assert!(asked("/nowhere").2.ends_with("state directory /nowhere/rsmtpd\n"));
}

#[test]
fn the_spool_of_nothing_is_empty() {
    let state = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(state.path().join("rsmtpd")).expect("state directory");
    let spool = |arguments: &[&str]| {
        let mut command = rsmtpd();
        command
            .env("XDG_STATE_HOME", state.path())
            .args(["-c", "config", "spool"])
            .args(arguments);
        output(&mut command)
    };
    assert_eq!(spool(&["list"]), (Some(0), String::new(), String::new()));
    assert_eq!(spool(&["retry", "all"]), (Some(0), String::new(), String::new()));
    for action in ["show", "retry", "drop"] {
        for id in ["nothing", "../../etc/passwd", "", "\u{1b}[1m"] {
            let (status, out, err) = spool(&[action, id]);
            assert_eq!((status, out.as_str()), (Some(66), ""), "{action} {id:?}: {err}");
            assert!(!err.contains('\u{1b}'), "{err:?}");
        }
    }
}

#[test]
fn status_of_a_running_daemon() {
    let mut server = Server::start();
    let config = server.setup().config();
    let (status, out, err) = output(rsmtpd().arg("-c").arg(&config).arg("status"));
    assert_eq!(status, Some(0), "{err}");
    assert!(out.starts_with(&format!("pid={} spare=", server.pid())), "{out}");
    assert!(out.contains("\nspool=0 oldest=none failed=0 quarantine=0\n"), "{out}");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.wait();
    let (status, out, err) = output(rsmtpd().arg("-c").arg(&config).arg("status"));
    assert_eq!((status, out.as_str()), (Some(69), ""), "{err}");
}

/// In the background it lets go of the terminal and of pipes: who reads its output sees the end.
#[test]
fn the_background_daemon_lets_go_of_its_caller() {
    let setup = Setup::new();
    let log = setup.config().with_file_name("rsmtpd.log");
    let mut caller = rsmtpd()
        .arg("-c")
        .arg(setup.config())
        .args(["serve", "-b", "-l"])
        .arg(&log)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = Vec::new();
    let (sender, receiver) = std::sync::mpsc::channel();
    let stderr = BufReader::new(caller.stderr.take().expect("piped"));
    std::thread::spawn(move || {
        let _ = sender.send(stderr.lines().map_while(Result::ok).collect::<Vec<String>>());
    });
    let ended = wait_until(|| {
        receiver.try_recv().is_ok_and(|all| {
            lines = all;
            true
        })
    });
    let status = caller.wait().expect("ends").code();
    let pid = fs::read_to_string(setup.state().join("lock")).unwrap_or_default();
    let pid = nix::unistd::Pid::from_raw(pid.trim().parse().expect("a process id"));
    let known = ["0", "1", "2"].map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let gone = wait_until(|| nix::sys::signal::kill(pid, None).is_err());
    assert!(ended, "its standard error stays open");
    assert_eq!(status, Some(0));
    assert!(
        lines.iter().any(|line| line.starts_with("rsmtpd: listening on ")),
        "{lines:?}"
    );
    assert!(gone, "it does not end at TERM");
    if is_root() {
        assert_eq!(known[0].as_deref(), Some(Path::new("/dev/null")));
        assert_eq!(known[1].as_deref(), Some(Path::new("/dev/null")));
    } else {
        skip("commands: descriptors of the daemon", "needs root to look");
    }
}

/// What cannot start says why, names what it needed, and gives the shell its prompt back.
#[test]
fn a_start_that_fails_says_why() {
    let fails = |arguments: &[&str]| {
        let setup = Setup::new();
        let (status, out, err) = output(rsmtpd().arg("-c").arg(setup.config()).args(arguments));
        assert!(!matches!(status, Some(0) | None), "{arguments:?}: {err}");
        assert!(out.is_empty(), "{out}");
        err
    };
    for background in [&[][..], &["-b"]] {
        let with = |arguments: &[&'static str]| fails(&[background, arguments].concat());
        assert!(
            with(&["-a", "192.0.2.1"]).contains("cannot listen on 192.0.2.1:"),
            "address"
        );
        let said = with(&["-l", "/nowhere/rsmtpd.log"]);
        assert!(
            said.contains("/nowhere/rsmtpd.log: No such file or directory"),
            "{said}"
        );
        let said = with(&["-l", "/"]);
        assert!(said.contains("/: Is a directory"), "{said}");
    }
}

#[test]
fn a_log_path_on_the_command_line_is_relative_to_where_we_are() {
    let setup = Setup::new();
    let here = setup.config().join("..");
    let mut server = rsmtpd()
        .current_dir(&here)
        .arg("-c")
        .arg(setup.config())
        .args(["-l", "here.log", "--log-level", "notice"])
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let up =
        wait_until(|| fs::read_to_string(here.join("here.log")).is_ok_and(|text| text.contains("event=listening")));
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(server.id()).expect("process id")),
        nix::sys::signal::Signal::SIGTERM,
    );
    let status = server.wait().expect("ends");
    assert!(up && status.success(), "{status:?}");
}
