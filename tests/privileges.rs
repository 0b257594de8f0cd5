//! What the processes of a daemon that was started as root may do: their users and capabilities as the kernel
//! sees them, calls made from within them, and the unit's rights. Needs root.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "privileges/calls.rs"]
mod calls;
mod common;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "privileges/puppet.rs"]
mod puppet;
#[path = "privileges/unit.rs"]
mod unit;

use common::processes::Process;
use common::{Client, Server, Setup, needs_root, tool, wait_until};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// systemd's dynamic range.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// Runs what follows with accounts of its own: $1 is the directory with its passwd and group.
const WITH_ACCOUNTS: &str =
    r#"mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group && shift && exec "$@""#;

/// The service users of the tests, which nobody else has.
const USERS: [(&str, u32); 5] = [
    ("rsmtpd", 48_611),
    ("rsmtpd-log", 48_612),
    ("rsmtpd-mail", 48_613),
    ("rsmtpd-keeper", 48_614),
    ("rsmtpd-broker", 48_615),
];

/// The processes of a daemon; of the broker there is one half alone while nothing is to be reached.
const ALL: [&str; 6] = [
    "rsmtpd: broker",
    "rsmtpd: deliver",
    "rsmtpd: keeper",
    "rsmtpd: logger",
    "rsmtpd: master",
    "rsmtpd: worker",
];

/// What the keeper keeps of root: DAC_READ_SEARCH and NET_BIND_SERVICE, as bits.
const OF_THE_KEEPER: u64 = 1 << 2 | 1 << 10;

/// Whether `test` can have a mount namespace.
fn namespaces(test: &str) -> bool {
    needs_root(test) && tool(test, "unshare").is_some() && {
        let made = std::process::Command::new("unshare").args(["-m", "true"]).status();
        let possible = made.is_ok_and(|status| status.success());
        if !possible {
            common::skip(test, "no mount namespace");
        }
        possible
    }
}

/// The setup on a machine whose accounts are the present ones without any of ours, and `users`.
fn with_accounts(setup: Setup, users: &[(&str, u32)]) -> Setup {
    let directory = setup.config().with_file_name("etc");
    fs::create_dir(&directory).expect("etc");
    for (file, rest) in [("passwd", ":/:/usr/sbin/nologin"), ("group", "")] {
        let present = fs::read_to_string(Path::new("/etc").join(file)).expect("accounts");
        let mut text: String = present
            .lines()
            .filter(|line| !line.starts_with("rsmtpd"))
            .map(|line| format!("{line}\n"))
            .collect();
        for (name, id) in users {
            text += &match file {
                "passwd" => format!("{name}:x:{id}:{id}:{rest}\n"),
                _ => format!("{name}:x:{id}:\n"),
            };
        }
        fs::write(directory.join(file), text).expect("accounts");
    }
    let words = [
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        WITH_ACCOUNTS,
        "sh",
    ];
    let directory = directory.display().to_string();
    setup.under(words.into_iter().map(str::to_owned).chain([directory]))
}

/// The state directory where every role's user can reach its own part of it.
fn reachable(setup: Setup) -> Setup {
    let parent = setup.state().parent().expect("parent").to_path_buf();
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).expect("mode");
    setup
}

/// A setup whose broker works.
fn whole(setup: Setup) -> Setup {
    setup.write("hello.yaml", "look_up: yes\n");
    setup
}

/// Waits until the spares are there, then answers all processes by role.
fn processes(server: &Server, spares: usize) -> BTreeMap<String, Vec<Process>> {
    let mut by_name: BTreeMap<String, Vec<Process>> = BTreeMap::new();
    let complete = wait_until(|| {
        by_name.clear();
        for process in Process::tree(server.pid()) {
            by_name.entry(process.name.clone()).or_default().push(process);
        }
        by_name.get("rsmtpd: worker").is_some_and(|w| w.len() >= spares)
    });
    assert!(complete, "{by_name:?}");
    let names: Vec<&str> = by_name.keys().map(String::as_str).collect();
    assert_eq!(names, ALL);
    by_name
}

/// That nothing of root is left in any process, and which user each role has.
fn assert_dropped(by_name: &BTreeMap<String, Vec<Process>>) -> BTreeMap<&str, u32> {
    assert_dropped_but(by_name, 0)
}

/// The same, where the bounding set stays `bounding`: to take from it needs a capability that the unit withholds,
/// and with no_new_privs nothing can be gained from it.
fn assert_dropped_but(by_name: &BTreeMap<String, Vec<Process>>, bounding: u64) -> BTreeMap<&str, u32> {
    let mut users: BTreeMap<&str, u32> = BTreeMap::new();
    for (name, processes) in by_name {
        for process in processes {
            let user = process.users[0];
            assert!(user != 0 && process.users == [user; 4], "{process:?}");
            let group = process.groups[0];
            assert!(group != 0 && process.groups == [group; 4], "{process:?}");
            assert_eq!(process.supplementary, [0_u32; 0], "{process:?}");
            let kept = if name == "rsmtpd: keeper" { OF_THE_KEEPER } else { 0 };
            assert_eq!(process.capabilities, [0, kept, kept, bounding | kept, 0], "{process:?}");
            assert!(process.no_new_privs && !process.dumpable(), "{process:?}");
            // The parent half of a helper waits for its child, or to fork one, and reads nothing: it has no filter.
            let has_child = processes.iter().any(|p| p.parent == process.pid);
            let asleep = name == "rsmtpd: broker" && processes.len() == 1;
            let parent_half = process.seccomp == 0 && (has_child || asleep);
            assert!(process.seccomp == 2 || parent_half, "{process:?}");
            assert_eq!(*users.entry(name).or_insert(user), user, "{process:?}");
        }
    }
    assert_eq!(users["rsmtpd: master"], users["rsmtpd: worker"]);
    let different: BTreeSet<u32> = users.values().copied().collect();
    assert_eq!(different.len(), users.len() - 1, "{users:?}");
    users
}

/// That a message is delivered, and is of the delivery user alone.
fn assert_delivers(server: &Server, owner: u32) {
    let reply = server
        .hello()
        .deliver("a@example.org", &["test@example.com"], b"Subject: x\r\n\r\ntext\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    assert_eq!(server.await_mail("test@example.com", 1).len(), 1);
    let maildir = server.maildir("test@example.com");
    let mut paths: Vec<_> = maildir.ancestors().take(4).map(Path::to_path_buf).collect();
    let state = paths[3].clone();
    paths.extend(
        fs::read_dir(maildir.join("new"))
            .expect("new")
            .flatten()
            .map(|e| e.path()),
    );
    paths.extend(["lock", "spool", "failed", "quarantine"].map(|name| state.join(name)));
    for path in paths {
        let metadata = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(metadata.uid(), owner, "{}", path.display());
        assert_eq!(metadata.mode() & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn without_the_service_users_each_role_has_a_dynamic_id() {
    if !namespaces("privileges::without_the_service_users") {
        return;
    }
    let mut server = with_accounts(whole(reachable(Setup::new().low_port())), &[]).start();
    let by_name = processes(&server, 8);
    let users = assert_dropped(&by_name);
    for user in users.values() {
        assert!(DYNAMIC.contains(user), "{users:?}");
    }
    assert_delivers(&server, users["rsmtpd: deliver"]);
    let said = server.said();
    let warnings: Vec<&str> = said
        .lines()
        .filter(|l| l.contains("service-users-missing") || l.contains("warning"))
        .collect();
    assert_eq!(warnings.len(), 1, "{said}");
    for id in users.values() {
        assert!(warnings[0].contains(&id.to_string()), "{said}");
    }

    // The owner of what is there stays its owner, even where the ids have moved on by then, and no other
    // role takes his.
    let state = server.setup().state();
    let config = server.setup().config();
    let owner = users["rsmtpd: master"];
    server.stop();
    let changed = std::process::Command::new("chown")
        .args(["-R", &format!("{owner}:{owner}")])
        .arg(&state)
        .status();
    assert!(changed.is_ok_and(|status| status.success()));
    let setup = with_accounts(reachable(Setup::new().low_port()), &[]);
    fs::copy(config.join("worker.yaml"), setup.config().join("worker.yaml")).expect("copy");
    fs::rename(&state, setup.state()).expect("moved");
    let server = setup.start();
    let by_name = processes(&server, 8);
    let users = assert_dropped(&by_name);
    assert_eq!(users["rsmtpd: deliver"], owner);
    assert_eq!(server.mail("test@example.com").len(), 1);
}

#[test]
fn each_service_user_has_its_role() {
    if !namespaces("privileges::each_service_user_has_its_role") {
        return;
    }
    let mut setup = reachable(Setup::new().low_port());
    // Nobody listens there, and says so at once.
    setup.set("rsmtpd.yaml", "nameservers", "[\"127.0.0.1:1\"]");
    let mut server = with_accounts(setup, &USERS).start();
    // Its broker works from a reload on, without root by then.
    assert_eq!(processes(&server, 8)["rsmtpd: broker"].len(), 1);
    server.setup().write("hello.yaml", "look_up: yes\n");
    server.signal(nix::sys::signal::Signal::SIGHUP);
    server.await_said("event=reloaded", 1);
    server.hello();
    let by_name = processes(&server, 8);
    assert_eq!(by_name["rsmtpd: broker"].len(), 2);
    let users = assert_dropped(&by_name);
    assert_eq!(users["rsmtpd: master"], 48_611);
    assert_eq!(users["rsmtpd: logger"], 48_612);
    assert_eq!(users["rsmtpd: deliver"], 48_613);
    assert_eq!(users["rsmtpd: keeper"], 48_614);
    assert_eq!(users["rsmtpd: broker"], 48_615);
    assert_delivers(&server, 48_613);
    assert!(!server.said().contains("missing"), "{}", server.said());
}

/// Several listeners that only root may bind, of both families: all are bound before root is gone, and each is served by
/// workers that have nothing of it.
#[test]
fn several_privileged_listeners_of_both_families() {
    let name = "privileges::several_privileged_listeners_of_both_families";
    if !namespaces(name) {
        return;
    }
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return common::skip(name, "this machine has no IPv6");
    }
    let setup = reachable(Setup::new());
    let free = |port: &u16| {
        let wildcards = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        wildcards
            .into_iter()
            .all(|address| TcpListener::bind((address, *port)).is_ok())
    };
    // Beyond those that other tests take, from the top.
    let mut ports = (600..700).rev().filter(free);
    let (first, second) = (ports.next().expect("a port"), ports.next().expect("another"));
    let sockets: [SocketAddr; 5] = [
        (Ipv4Addr::LOCALHOST, first).into(),
        (Ipv6Addr::LOCALHOST, first).into(),
        (Ipv4Addr::new(127, 0, 0, 2), first).into(),
        (Ipv6Addr::LOCALHOST, second).into(),
        (Ipv4Addr::LOCALHOST, second).into(),
    ];
    let mut text = format!(
        "server_name: mail.example.com\nstate: {}\nlisteners:\n",
        setup.state().display()
    );
    for socket in sockets {
        text += &format!("  - {{address: \"{}\", port: {}}}\n", socket.ip(), socket.port());
    }
    setup.write("hello.yaml", "look_up: yes\n");
    let server = Server::start_with(with_accounts(setup, &USERS), &text, sockets[4]);
    let by_name = processes(&server, 8);
    assert_eq!(assert_dropped(&by_name)["rsmtpd: worker"], USERS[0].1);
    for (count, socket) in (1..).zip(sockets) {
        assert!(
            server.said().contains(&format!("listening on {socket}\n")),
            "{}",
            server.said()
        );
        let stream = TcpStream::connect(socket).unwrap_or_else(|e| panic!("{socket}: {e}"));
        let mut client = Client::over(stream);
        assert_eq!(
            (client.reply().code, client.command("EHLO client.example").code),
            (220, 250)
        );
        let reply = client.deliver("a@example.org", &["test@example.com"], b"Subject: x\r\n\r\ntext\r\n");
        assert_eq!(reply.code, 250, "{socket}: {reply:?}");
        assert_eq!(server.mail("test@example.com").len(), count);
    }
}

/// A getent(1) of a directory service: it knows two accounts, and the first numbers of the dynamic range.
const GETENT: &str = "#!/bin/sh
case $* in
'passwd directory-user') echo 'directory-user:*:48631:48632:::' ;;
'group directory-group') echo 'directory-group:*:48633:' ;;
'passwd 6'*) echo 'one:*:61184:1:::'; exit 2 ;;
'group 6'*) echo 'two:*:61185:'; exit 2 ;;
*) exit 2 ;;
esac
";

/// Copies it first: nobody may have a program open for writing.
const WITH_GETENT: &str =
    r#"cp "$1" "$1.copy" && chmod 755 "$1.copy" && mount --bind "$1.copy" /usr/bin/getent && shift && exec "$@""#;

#[test]
fn users_of_a_directory_service_count() {
    let test = "privileges::users_of_a_directory_service";
    if !namespaces(test) || tool(test, "/usr/bin/getent").is_none() {
        return;
    }
    let mut setup = reachable(Setup::new());
    setup.set("delivery.yaml", "user", "directory-user");
    setup.set("delivery.yaml", "group", "directory-group");
    let script = setup.config().with_file_name("getent");
    fs::write(&script, GETENT).expect("getent");
    let words = ["sh", "-c", WITH_GETENT, "sh"].map(Into::into);
    let server = with_accounts(setup, &[])
        .then_under(words.into_iter().chain([script.into_os_string()]))
        .start();
    let by_name = processes(&server, 8);
    let users = assert_dropped(&by_name);
    assert_eq!(by_name["rsmtpd: deliver"][0].groups, [48_633; 4]);
    let mut invented: Vec<u32> = users.values().copied().filter(|user| *user != 48_631).collect();
    invented.sort_unstable();
    invented.dedup();
    assert_eq!(invented.first(), Some(&61_186), "{users:?}");
    assert_delivers(&server, 48_631);
}

#[test]
fn the_users_of_the_configuration_and_the_command_line_count() {
    if !namespaces("privileges::the_users_of_the_configuration") {
        return;
    }
    let mut setup = reachable(Setup::new());
    setup.set("delivery.yaml", "user", "vmail");
    let users = [
        ("smtp", 48_621),
        ("rsmtpd-log", 48_622),
        ("vmail", 48_623),
        ("rsmtpd-keeper", 48_624),
    ];
    let server = with_accounts(setup, &users)
        .arguments(["--user", "smtp", "--group", "vmail"])
        .start();
    let by_name = processes(&server, 8);
    let users = assert_dropped(&by_name);
    assert_eq!(users["rsmtpd: worker"], 48_621);
    assert_eq!(by_name["rsmtpd: worker"][0].groups, [48_623; 4]);
    assert_delivers(&server, 48_623);
}

#[test]
fn a_log_file_belongs_to_the_logger() {
    if !namespaces("privileges::a_log_file_belongs_to_the_logger") {
        return;
    }
    let setup = reachable(Setup::new());
    let (roots, loggers) = (setup.state().with_file_name("log"), setup.state().with_file_name("own"));
    for directory in [&roots, &loggers] {
        fs::create_dir(directory).expect("directory");
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("mode");
    }
    // In a directory of the logger, a link that waits for root to follow it.
    let secret = setup.state().with_file_name("secret");
    fs::write(&secret, "").expect("secret");
    std::os::unix::fs::symlink(&secret, loggers.join("linked.log")).expect("link");
    std::os::unix::fs::chown(&loggers, Some(48_612), Some(48_612)).expect("owner");
    let path = roots.join("rsmtpd.log");
    let setup = with_accounts(setup, &USERS);
    let setup = setup.arguments(["-l".into(), path.clone().into_os_string()]);
    let mut server = setup.start();
    assert_eq!(fs::metadata(&path).expect("log").uid(), 48_612);
    assert_eq!(server.hello().command("QUIT").code, 221);
    assert!(wait_until(
        || fs::read_to_string(&path).is_ok_and(|t| t.contains("event=listening"))
    ));
    server.stop();
    let setup = with_accounts(reachable(Setup::new()), &USERS);
    let linked = loggers.join("linked.log").into_os_string();
    let (status, said) = setup.arguments(["-l".into(), linked]).refuse();
    assert_eq!(
        (status, fs::metadata(&secret).expect("secret").uid()),
        (Some(77), 0),
        "{said}"
    );
}

#[test]
fn a_worker_with_a_client_has_no_listener_and_nothing_of_the_master() {
    if !needs_root("privileges::a_worker_with_a_client") {
        return;
    }
    let server = Setup::new().start();
    let _client: Client = server.hello();
    let by_name = processes(&server, 8);
    let sockets = |process: &Process| {
        let mut sockets = process.descriptors();
        sockets.retain(|(_, link)| link.to_string_lossy().starts_with("socket:"));
        sockets
    };
    let (serving, others): (Vec<_>, Vec<_>) = by_name["rsmtpd: worker"]
        .iter()
        .map(sockets)
        .partition(|sockets| sockets.iter().any(|(number, _)| *number == 63));
    let [serving] = serving.as_slice() else {
        panic!("{serving:?}")
    };
    // Its Link and its voice, with numbers that the sandbox lets nobody duplicate, and the client.
    let numbers: Vec<i32> = serving.iter().map(|(number, _)| *number).collect();
    assert!(matches!(numbers[..], [30..63, 31..63, 63]), "{serving:?}");
    for (number, link) in others.iter().flatten() {
        let shared = serving.iter().any(|(_, own)| own == link);
        assert!(!shared, "{number} {link:?}: {serving:?}");
    }
}
