//! Start-up that cannot succeed: each step says what is wrong and ends with its own exit status, and leaves
//! nothing running. And what start-up makes of a kernel that lacks a layer of the sandbox.

mod common;

use common::processes::Process;
use common::{Server, Setup, is_root, skip, tool, wait_until};
use nix::sys::signal::Signal;
use rsmtpd::sys::sandbox;
use seccompiler::{SeccompAction, SeccompFilter};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

/// sysexits(3), as the manual names them.
const USAGE: i32 = 64;
const OSERR: i32 = 71;
const NOPERM: i32 = 77;
const CONFIG: i32 = 78;

/// A setup whose directories every user can reach.
fn setup() -> Setup {
    let setup = Setup::new();
    let parent = setup.config().parent().expect("parent").to_path_buf();
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).expect("mode");
    setup
}

/// That `setup` ends with `status` and says each of `words`, in one message without a backtrace.
fn assert_refuses(name: &str, setup: &Setup, status: i32, words: &[&str]) {
    let (ended, said) = setup.refuse();
    assert_eq!(ended, Some(status), "{name}: {said}");
    for word in words {
        assert!(said.contains(word), "{name}: no {word:?} in: {said}");
    }
    assert!(
        !said.contains("panicked") && !said.contains("listening on"),
        "{name}: {said}"
    );
    let lines = said
        .lines()
        .filter(|l| !l.contains("warning: not started as root") && !l.ends_with(": 1 fault"));
    assert_eq!(lines.count(), 1, "{name}: {said}");
}

#[test]
fn arguments_and_files() {
    let broken = setup().arguments(["--no-such-option"]);
    let (status, said) = broken.refuse();
    assert_eq!(
        (status, said.contains("--no-such-option")),
        (Some(USAGE), true),
        "{said}"
    );
    let setup = setup();
    fs::remove_file(setup.config().join("worker.yaml")).expect("removed");
    fs::write(
        setup.config().join("hello.yaml"),
        "advertise_pipelining_extension: maybe\n",
    )
    .expect("written");
    let (status, said) = setup.refuse();
    assert_eq!(status, Some(CONFIG), "{said}");
    assert!(
        said.contains("hello.yaml:1:33: advertise_pipelining_extension: expected"),
        "{said}"
    );
    fs::remove_dir_all(setup.config()).expect("removed");
    let directory = setup.config().display().to_string();
    assert_refuses("no configuration", &setup, CONFIG, &[&directory]);
}

#[test]
fn addresses() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("port");
    let port = taken.local_addr().expect("address").port().to_string();
    let place = format!("127.0.0.1:{port}");
    let busy = setup().arguments(["-p", &port]);
    assert_refuses("port in use", &busy, OSERR, &[&place, "in use"]);
    let foreign = setup().arguments(["-a", "192.0.2.1"]);
    assert_refuses("address of another", &foreign, OSERR, &["192.0.2.1", "cannot listen"]);
    let many = setup();
    let items: Vec<String> = (1..=28).map(|n| format!("{{address: 127.0.1.{n}, port: 1}}")).collect();
    many.write("rsmtpd.yaml", &format!("listeners: [{}]\n", items.join(", ")));
    assert_refuses(
        "too many",
        &many,
        CONFIG,
        &["listeners", "at most 27 sockets, found 28"],
    );
    if is_root() {
        return skip("start_up::addresses", "root may bind any port");
    }
    let low = setup().arguments(["-p", "25"]);
    assert_refuses("low port", &low, NOPERM, &["127.0.0.1:25", "Permission denied"]);
}

#[test]
fn as_many_listeners_as_there_may_be_work() {
    let setup = setup();
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("port")
        .port();
    let state = setup.state().display().to_string();
    let mut items = format!("state: {state}\nlisteners:\n");
    for last in 1..=27 {
        items += &format!("  - {{address: 127.0.1.{last}, port: {port}}}\n");
    }
    let server = Server::start_with(setup, &items, ([127, 0, 1, 27], port).into());
    let mut client = server.hello();
    let reply = client.deliver("a@example.org", &["test@example.com"], b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
}

#[test]
fn state_directory() {
    let parent = setup();
    let file = parent.config().join("hello.yaml").join("state");
    parent.write(
        "rsmtpd.yaml",
        &format!("address: 127.0.0.1\nport: 0\nstate: {}\n", file.display()),
    );
    assert_refuses(
        "below a file",
        &parent,
        OSERR,
        &[&file.parent().expect("parent").display().to_string()],
    );

    let server = setup().start();
    let state = server.state().display().to_string();
    let second = setup();
    second.write("rsmtpd.yaml", &format!("address: 127.0.0.1\nport: 0\nstate: {state}\n"));
    assert_refuses(
        "held by another",
        &second,
        OSERR,
        &[&state, "another rsmtpd holds the lock"],
    );

    let closed = setup();
    fs::create_dir(closed.state()).expect("state");
    fs::set_permissions(closed.state(), fs::Permissions::from_mode(0o500)).expect("mode");
    let state = closed.state().display().to_string();
    let mut words = vec![state.as_str(), "Permission denied"];
    if is_root() {
        words.push("belongs to user id 0");
    }
    assert_refuses("not writable", &closed, NOPERM, &words);
}

#[test]
fn log_file() {
    let missing = setup().arguments(["-l", "/nonexistent/rsmtpd.log"]);
    assert_refuses(
        "no directory",
        &missing,
        OSERR,
        &["/nonexistent/rsmtpd.log", "No such file"],
    );
    let setup = setup();
    let log = setup.config().with_file_name("log");
    fs::create_dir(&log).expect("log");
    let name = log.display().to_string();
    assert_refuses(
        "a directory",
        &setup.arguments(["-l", &name]),
        OSERR,
        &[&name, "s a directory"],
    );
    if is_root() {
        return;
    }
    let denied = self::setup().arguments(["-l", "/etc/rsmtpd-test.log"]);
    assert_refuses(
        "denied",
        &denied,
        NOPERM,
        &["/etc/rsmtpd-test.log", "Permission denied"],
    );
}

#[test]
fn users() {
    if !common::needs_root("start_up::users") {
        return;
    }
    for (case, arguments, said) in [
        (
            "user",
            &["--user", "no-such-user"][..],
            "command line: --user: expected an existing user, found \"no-such-user\"",
        ),
        (
            "root",
            &["--user", "root"],
            "command line: --user: expected an unprivileged user, found \"root\"",
        ),
        (
            "group",
            &["--user", "nobody", "--group", "no-such-group"],
            "command line: --group: expected an existing group, found \"no-such-group\"",
        ),
        (
            "root's group",
            &["--user", "nobody", "--group", "root"],
            "command line: --group: expected an unprivileged group, found \"root\"",
        ),
    ] {
        assert_refuses(case, &setup().arguments(arguments), CONFIG, &[said]);
    }
    for (file, name, said) in ACCOUNTS {
        let mut named = setup();
        named.set(file, "user", name);
        assert_refuses(file, &named, CONFIG, &[&placed(&named, file, said)]);
    }
}

/// What a file may not name, with what is said of it.
const ACCOUNTS: [(&str, &str, &str); 4] = [
    (
        "rsmtpd.yaml",
        "no-such-user",
        "user: expected an existing user, found \"no-such-user\"",
    ),
    (
        "rsmtpd.yaml",
        "root",
        "user: expected an unprivileged user, found \"root\"",
    ),
    (
        "delivery.yaml",
        "no-such-user",
        "user: expected an existing user, found \"no-such-user\"",
    ),
    (
        "delivery.yaml",
        "root",
        "user: expected an unprivileged user, found \"root\"",
    ),
];

/// `said` with the position of the value of `user`.
fn placed(setup: &Setup, file: &str, said: &str) -> String {
    let text = std::fs::read_to_string(setup.config().join(file)).expect("file");
    let line = text.lines().position(|line| line.starts_with("user: ")).expect("user") + 1;
    format!("{file}:{line}:7: {said}")
}

/// The first lines say where mail goes, and for whom: a few by name, a catch-all, a list by its number, and how many more.
#[test]
fn the_first_lines_say_where_mail_goes_and_for_whom() {
    let served = setup();
    let names: String = ('a'..='e').map(|name| format!("      - {name}\n")).collect();
    served.write("users.txt", "anna\nzoe\n");
    served.write(
        "simple_recipient_validator.yaml",
        &format!(
            "domains:\n  example.com:\n    recipients:\n{names}      - gone: {{enabled: no}}\n  example.net:\n    \
             recipients:\n      - '*': {{deliver_to: a@example.com}}\n  example.org:\n    recipients_file: users.txt\n  \
             example.edu: {{}}\n  example.info: {{recipients: [x]}}\n"
        ),
    );
    let mut server = served.start();
    let said = server.said();
    let mail = format!(
        "rsmtpd: mail goes to {}/mail/<domain>/<local part>/\n",
        server.setup().state().display()
    );
    let whom = "rsmtpd: recipients: a@example.com, b@example.com, c@example.com, d@example.com, e@example.com, \
                postmaster@example.edu and 4 more\n";
    assert!(said.contains(&format!("{mail}{whom}")), "{said}");
}

/// Whoever runs it, `check` says what a start as root would end with.
#[test]
fn check_knows_the_accounts() {
    for (file, name, said) in ACCOUNTS {
        let mut named = setup();
        named.set(file, "user", name);
        let (status, out, err) = check(&named);
        assert_eq!((status, out.as_str()), (Some(78), ""), "{err}");
        assert_eq!(err.lines().next(), Some(placed(&named, file, said).as_str()), "{err}");
    }
    let mut group = setup();
    group.set("delivery.yaml", "user", "nobody");
    group.set("delivery.yaml", "group", "no-such-group");
    let (status, _, err) = check(&group);
    assert_eq!(status, Some(78), "{err}");
    assert!(
        err.contains(":8: group: expected an existing group, found \"no-such-group\""),
        "{err}"
    );
    assert_eq!(check(&setup()).0, Some(0), "the usual users may be missing");
}

/// How `check` of it ends and what it says.
fn check(setup: &Setup) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rsmtpd"));
    let ended = command
        .arg("-c")
        .arg(setup.config())
        .arg("check")
        .output()
        .expect("started");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (ended.status.code(), text(&ended.stdout), text(&ended.stderr))
}

/// Runs `work` as on a kernel that has none of these calls: here and in all that is started from here.
fn without<T: Send>(calls: &[i64], work: impl FnOnce() -> T + Send) -> T {
    let rules: BTreeMap<i64, Vec<_>> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let absent = SeccompAction::Errno(nix::libc::ENOSYS as u32);
    let architecture = std::env::consts::ARCH.try_into().expect("architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, architecture).expect("filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("program");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            seccompiler::apply_filter(&program).expect("filtered");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

const LAYERS: [(&str, i64); 2] = [
    ("Landlock", nix::libc::SYS_landlock_create_ruleset),
    ("seccomp", nix::libc::SYS_seccomp),
];

/// Whether this kernel has every layer, so that a missing one is the test's doing.
fn complete(test: &str) -> bool {
    let complete = sandbox::check(sandbox::Mode::Require);
    if let Err(error) = &complete {
        skip(test, &error.to_string());
    }
    complete.is_ok()
}

#[test]
fn a_missing_layer_stops_require() {
    if !complete("start_up::a_missing_layer_stops_require") {
        return;
    }
    for (layer, call) in LAYERS {
        without(&[call], || {
            let mut setup = setup();
            setup.set("rsmtpd.yaml", "sandbox", "require");
            let began = std::time::Instant::now();
            assert_refuses(layer, &setup, OSERR, &["sandbox: require", "the kernel lacks", layer]);
            assert!(began.elapsed().as_secs() < 10, "{layer}");
            assert!(!setup.state().exists(), "{layer}");
        });
    }
}

#[test]
fn a_missing_layer_is_one_warning() {
    if !complete("start_up::a_missing_layer_is_one_warning") {
        return;
    }
    for (layer, call) in LAYERS {
        let server = without(&[call], || setup().start());
        assert_delivers(&server);
        let said = server.said();
        let warnings: Vec<&str> = said.lines().filter(|l| l.contains("sandbox-layer-missing")).collect();
        assert_eq!(warnings.len(), 1, "{layer}: {said}");
        assert!(warnings[0].ends_with(&format!("layer=\"{layer}\"")), "{said}");
        // The other layers are there. One filter is the test's own.
        let filters = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap_or_default();
        let expected = if layer == "seccomp" {
            "Seccomp_filters:\t1"
        } else {
            "Seccomp_filters:\t2"
        };
        assert!(filters.contains(expected), "{layer}: {filters}");
    }
}

#[test]
fn whole_or_off_says_nothing() {
    if !complete("start_up::whole_or_off_says_nothing") {
        return;
    }
    for (mode, seccomp) in [("require", 2), ("best_effort", 2), ("off", 0)] {
        let mut setup = setup();
        setup.set("rsmtpd.yaml", "sandbox", mode);
        let server = setup.start();
        assert_delivers(&server);
        let processes = Process::tree(server.pid());
        let worker = |p: &&Process| p.name == "rsmtpd: worker";
        assert!(processes.iter().any(|p| worker(&p)), "{processes:?}");
        for process in processes.iter().filter(worker) {
            assert_eq!(process.seccomp, seccomp, "{mode}: {process:?}");
        }
        assert!(!server.said().contains("sandbox"), "{}", server.said());
    }
}

/// The soft and hard limit of this name in /proc/PID/limits.
fn limits_of(pid: i32, name: &str) -> [String; 2] {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let mut words = line.unwrap_or_else(|| panic!("no {name} in {text}")).split_whitespace();
    [(); 2].map(|()| words.next().unwrap_or_default().to_owned())
}

/// What the layer of each worker bounds, with a client and without.
#[test]
fn each_worker_has_its_limits() {
    let mut setup = setup();
    setup.set("worker.yaml", "maximum_message_size_in_mb", "3");
    let workers = "{min_spare: 2, max_spare: 2}";
    setup.set("rsmtpd.yaml", "workers", workers);
    let server = setup.start();
    let _client = server.hello();
    let busy_and_spare = || server.children(server.pid(), "rsmtpd: worker");
    assert!(wait_until(|| busy_and_spare().len() == 3), "{:?}", busy_and_spare());
    // The file may be twice the largest message, for what is added to it. Descriptors end where the master's begin.
    let expected = [
        ("Max core file size", 0),
        ("Max file size", 6 << 20),
        ("Max address space", 512 << 20),
        ("Max cpu time", 600),
        ("Max processes", 0),
        ("Max open files", 64),
    ];
    for (name, limit) in expected {
        // One that the tests themselves were given is not raised.
        let [_, own] = limits_of(nix::unistd::getpid().as_raw(), name);
        let limit = own.parse().map_or(limit, |own: u64| own.min(limit)).to_string();
        // A spare takes them on as it begins.
        let all = || {
            busy_and_spare()
                .into_iter()
                .map(|pid| limits_of(pid, name))
                .collect::<Vec<_>>()
        };
        let bounded = || all().iter().all(|both| *both == [limit.as_str(); 2]);
        assert!(wait_until(bounded), "{name}: {limit} expected, {:?}", all());
        let [_, master] = limits_of(server.pid(), name);
        assert!(
            master != limit || own == limit,
            "{name} is bounded for the master already"
        );
    }
}

fn assert_delivers(server: &Server) {
    let mut client = server.hello();
    let reply = client.deliver("a@example.org", &["test@example.com"], b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    let _ = client.command("QUIT");
    assert_eq!(server.await_mail("test@example.com", 1).len(), 1);
    assert!(wait_until(|| server.said().contains("event=disconnect")));
}

#[test]
fn a_worker_of_several_connections_keeps_its_sandbox() {
    let mut setup = setup();
    let workers = "{min_spare: 1, max_spare: 1, connections_per_worker: 3}";
    setup.set("rsmtpd.yaml", "workers", workers);
    let server = setup.start();
    for _ in 0..7 {
        let mut client = server.hello();
        let reply = client.deliver("a@example.org", &["test@example.com"], b"Subject: x\r\n\r\nx\r\n");
        assert_eq!((reply.code, client.command("QUIT").code), (250, 221), "{reply:?}");
        assert!(client.is_closed());
    }
    assert_eq!(server.await_mail("test@example.com", 7).len(), 7);
    assert!(!server.said().contains("worker-crashed"), "{}", server.said());
}

/// The shell sets the limits, then becomes the server.
fn within(limits: &str) -> Setup {
    setup().under(["/bin/sh", "-c", &format!("{limits}; exec \"$@\""), "sh"])
}

/// The sandbox kills a master that duplicates a descriptor numbered as those that workers share: what the caller left
/// open must not push its own up to there.
#[test]
fn what_the_caller_left_open_is_no_burden() {
    const AT_ONCE: usize = 24;
    // sh(1) knows numbers of one digit alone.
    let Some(bash) = tool("start_up::what_the_caller_left_open_is_no_burden", "bash") else {
        return;
    };
    for last in [6, 20, 29] {
        let left = format!("for n in {{3..{last}}}; do eval \"exec $n</dev/null\"; done; exec \"$@\"");
        let server = setup().under([bash.as_os_str(), "-c".as_ref(), left.as_ref(), "bash".as_ref()]);
        let server = server.start();
        for mut client in [(); AT_ONCE].map(|()| server.connect()) {
            assert_eq!(
                (client.reply().code, client.command("EHLO client.example").code),
                (220, 250)
            );
            let reply = client.deliver("a@example.org", &["test@example.com"], b"Subject: x\r\n\r\nx\r\n");
            assert_eq!((reply.code, client.command("QUIT").code), (250, 221), "{reply:?}");
        }
        assert_eq!(server.await_mail("test@example.com", AT_ONCE).len(), AT_ONCE);
        let said = server.said();
        assert!(
            !said.contains("fork-failed") && !said.contains("worker-crashed"),
            "{said}"
        );
    }
}

#[test]
fn more_workers_than_the_system_allows_are_warned_of() {
    let mut setup = within("ulimit -n 600");
    setup.set("rsmtpd.yaml", "workers", "{max: 500}");
    let server = setup.start();
    let expected = "event=limit-too-low limit=nofile value=600 needed=3256 workers_max=500 remedy=";
    server.await_said(expected, 1);
    assert_delivers(&server);
    drop(server);
    let mut setup = within("ulimit -n 600");
    setup.set("rsmtpd.yaml", "workers", "{max: 57}");
    let server = setup.start();
    assert_delivers(&server);
    assert!(!server.said().contains("limit=nofile"), "{}", server.said());
    let mut server = server;
    let text = server.setup().read("rsmtpd.yaml").replace("{max: 57}", "{max: 58}");
    server.setup().write("rsmtpd.yaml", &text);
    server.signal(Signal::SIGHUP);
    server.await_said(
        "event=limit-too-low limit=nofile value=600 needed=604 workers_max=58",
        1,
    );
}
