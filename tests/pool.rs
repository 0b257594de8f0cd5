//! The pool of workers from outside: how many there are, who is turned away and how, what a crash costs, and that
//! nothing is left behind. Processes are looked up in /proc.

mod common;

use common::{Client, PATIENCE, Server, Setup, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

/// One process: its id, its parent's, its state and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: i32,
    parent: i32,
    state: char,
    name: String,
}

fn processes() -> Vec<Process> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut rest = rest.split_whitespace();
        Some(Process {
            pid,
            state: rest.next()?.chars().next()?,
            parent: rest.next()?.parse().ok()?,
            name: name.to_owned(),
        })
    })
    .collect()
}

/// The master's workers, dead ones that wait to be reaped included.
fn workers(server: &Server) -> Vec<Process> {
    let mut found = processes();
    found.retain(|process| process.parent == server.pid() && process.name.starts_with("rsmtpd: worker"));
    found
}

/// Every process of the server, the master and its descendants.
fn family(server: &Server) -> BTreeSet<i32> {
    let all = processes();
    let mut family = BTreeSet::from([server.pid()]);
    for _ in 0..4 {
        let children = all.iter().filter(|p| family.contains(&p.parent)).map(|p| p.pid);
        family = family.iter().copied().chain(children).collect();
    }
    family
}

/// What the master says of its pool: the newest line of `event=status pid=…` after a SIGUSR1.
fn status(server: &Server) -> String {
    let lines = |said: &str| said.matches("event=status pid=").count();
    let before = lines(&server.said());
    server.signal(Signal::SIGUSR1);
    assert!(wait_until(|| lines(&server.said()) > before), "no status line");
    let said = server.said();
    said.rsplit("event=status ")
        .find(|part| part.starts_with("pid="))
        .expect("a line")
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn figure(status: &str, key: &str) -> usize {
    let value = status.split(' ').find_map(|part| part.strip_prefix(&format!("{key}=")));
    value
        .unwrap_or_else(|| panic!("no {key} in {status}"))
        .parse()
        .expect("a number")
}

/// Waits until the master knows of so many busy workers and has spares again. It has heard of the connection by which
/// the start was seen, too, whose worker counts until then.
fn await_busy(server: &Server, busy: usize) {
    let mut last = String::new();
    let reached = wait_until(|| {
        last = status(server);
        figure(&last, "connections") > 0
            && figure(&last, "busy") == busy
            && (figure(&last, "spare") > 0 || figure(&last, "max") == busy)
    });
    assert!(reached, "{busy} busy workers expected: {last}");
}

fn pool(setting: &str) -> Setup {
    let mut setup = Setup::new();
    setup.set("rsmtpd.yaml", "workers", &format!("{{{setting}}}"));
    setup
}

/// A connection from this address of the loopback network.
fn from(server: &Server, source: IpAddr) -> Client {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    let IpAddr::V4(v4) = source else { panic!("IPv4 only") };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(v4, 0))).expect("bind");
    let SocketAddr::V4(to) = server.address() else {
        panic!("IPv4 only")
    };
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).expect("connect");
    Client::over(TcpStream::from(fd))
}

fn source(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

fn greeted(mut client: Client) -> Client {
    assert_eq!(client.reply().code, 220);
    client
}

const FULL: &str = "4.3.2 Too many connections, try again later";
const SOURCE: &str = "4.3.2 Too many connections from your network, try again later";

/// The client reads 421 with this text instead of a greeting, then the end.
fn assert_refused(mut client: Client, text: &str) {
    let reply = client.reply();
    assert_eq!((reply.code, reply.text().as_str()), (421, text));
    assert!(client.is_closed());
}

#[test]
fn spares_wait_between_the_bounds_and_the_maximum_holds() {
    let server = pool("min_spare: 2, max_spare: 4, max: 6").start();
    assert!(wait_until(|| workers(&server).len() == 2), "{:?}", workers(&server));
    let mut held = Vec::new();
    for number in 1..=6 {
        held.push(greeted(server.connect()));
        await_busy(&server, number);
        let count = workers(&server).len();
        assert!((number..=6).contains(&count), "{count} workers for {number} clients");
    }
    let refused = Instant::now();
    for _ in 0..20 {
        assert_refused(server.connect(), FULL);
    }
    assert!(refused.elapsed() < PATIENCE);
    assert_eq!(workers(&server).len(), 6);
    assert_eq!(held[0].command("NOOP").code, 250, "who was there stays");
    drop(held);
    assert!(wait_until(|| figure(&status(&server), "busy") == 0));
    let spares = figure(&status(&server), "spare");
    assert!((2..=4).contains(&spares), "{spares} spares");
    greeted(server.connect());
    assert!(server.said().contains("event=pool-exhausted"));
}

#[test]
fn clients_beyond_one_turn_at_the_maximum_are_all_answered() {
    let server = pool("min_spare: 1, max_spare: 1, max: 1").start();
    await_busy(&server, 0);
    let _held = greeted(server.connect());
    await_busy(&server, 1);
    kill(Pid::from_raw(server.pid()), Signal::SIGSTOP).expect("stop");
    let waiting: Vec<Client> = (0..300).map(|_| server.connect()).collect();
    kill(Pid::from_raw(server.pid()), Signal::SIGCONT).expect("continue");
    for client in waiting {
        assert_refused(client, FULL);
    }
}

#[test]
fn a_client_that_talks_first_reads_its_refusal_too() {
    let server = pool("min_spare: 1, max_spare: 1, max: 1").start();
    await_busy(&server, 0);
    let _held = greeted(server.connect());
    await_busy(&server, 1);
    for _ in 0..20 {
        let mut client = server.connect();
        client.send(b"EHLO client.example\r\nMAIL FROM:<a@example.org>\r\n");
        assert_eq!(client.reply().text(), FULL);
    }
}

#[test]
fn a_source_holds_so_many_connections_and_reads_421_instead_of_a_greeting() {
    let server = pool("per_source: 2, per_source_rate: 0, trusted: []").start();
    let first = greeted(from(&server, source(2)));
    let _second = greeted(from(&server, source(2)));
    await_busy(&server, 2);
    for _ in 0..50 {
        assert_refused(from(&server, source(2)), SOURCE);
    }
    let _other = greeted(from(&server, source(3)));
    await_busy(&server, 3);
    drop(first);
    await_busy(&server, 2);
    greeted(from(&server, source(2)));
    let said = server.said();
    let told = said.matches("event=source-refused").count();
    assert!(said.contains("event=source-refused peer=127.0.0.2 limit=per_source count=1"));
    assert!((1..=7).contains(&told), "{told} lines for 50 refusals");
}

#[test]
fn a_source_opens_so_many_connections_in_a_minute() {
    let server = pool("per_source: 0, per_source_rate: 5, trusted: []").start();
    for _ in 0..5 {
        let mut client = greeted(from(&server, source(2)));
        assert_eq!(client.command("QUIT").code, 221);
    }
    await_busy(&server, 0);
    assert_refused(from(&server, source(2)), SOURCE);
    greeted(from(&server, source(3)));
    assert!(wait_until(|| server.said().contains("limit=per_source_rate")));
}

#[test]
fn refusing_a_source_costs_no_worker() {
    let server = pool("min_spare: 2, max_spare: 2, max: 3, per_source: 1, per_source_rate: 0, trusted: []").start();
    let _held = greeted(from(&server, source(2)));
    await_busy(&server, 1);
    assert!(wait_until(|| figure(&status(&server), "spare") == 2));
    let these = || workers(&server).iter().map(|worker| worker.pid).collect::<Vec<_>>();
    let before = these();
    for _ in 0..100 {
        assert_refused(from(&server, source(2)), SOURCE);
    }
    assert_eq!(these(), before);
    greeted(from(&server, source(3)));
}

/// Many at once are greeted before the master has heard of them: it then sends away those that are too many.
#[test]
fn the_master_looks_again_at_those_who_were_faster() {
    let server = pool("min_spare: 8, max_spare: 8, per_source: 1, per_source_rate: 0, trusted: []").start();
    await_busy(&server, 0);
    kill(Pid::from_raw(server.pid()), Signal::SIGSTOP).expect("stop");
    let mut clients: Vec<Client> = (0..4).map(|_| greeted(from(&server, source(2)))).collect();
    kill(Pid::from_raw(server.pid()), Signal::SIGCONT).expect("continue");
    let mut refused = 0;
    assert!(
        wait_until(|| status(&server).contains("busy=1 ")),
        "{}",
        status(&server)
    );
    for client in &mut clients {
        client.send(b"NOOP\r\n");
        let reply = client.reply();
        match reply.code {
            250 => {}
            421 => {
                refused += 1;
                assert!(
                    reply.text().starts_with("4.3.2 Too many connections from your network"),
                    "{reply:?}"
                );
            }
            _ => panic!("{reply:?}"),
        }
    }
    assert_eq!(refused, 3);
}

#[test]
fn trusted_networks_are_not_limited() {
    let server = pool("max: 50, per_source: 1, per_source_rate: 1, trusted: [127.0.0.0/29]").start();
    let held: Vec<Client> = (0..10).map(|_| greeted(from(&server, source(2)))).collect();
    await_busy(&server, held.len());
    let _one = greeted(from(&server, source(9)));
    await_busy(&server, held.len() + 1);
    assert_refused(from(&server, source(9)), SOURCE);
}

/// Changes `rsmtpd.yaml` in place and reloads.
fn edit(server: &mut Server, from: &str, to: &str) {
    let text = server.setup().read("rsmtpd.yaml");
    assert!(text.contains(from), "{text}");
    server.setup().write("rsmtpd.yaml", &text.replace(from, to));
    server.signal(Signal::SIGHUP);
}

#[test]
fn a_reload_changes_limits_and_trust_at_once() {
    let mut server = pool("per_source: 1, per_source_rate: 0, trusted: []").start();
    let _held = greeted(from(&server, source(2)));
    await_busy(&server, 1);
    assert_refused(from(&server, source(2)), SOURCE);
    edit(&mut server, "per_source: 1", "per_source: 2");
    assert!(wait_until(|| server.said().contains("event=reloaded generation=2")));
    let _second = greeted(from(&server, source(2)));
    await_busy(&server, 2);
    assert_refused(from(&server, source(2)), SOURCE);
    edit(&mut server, "trusted: []", "trusted: [127.0.0.2]");
    assert!(wait_until(|| server.said().contains("event=reloaded generation=3")));
    greeted(from(&server, source(2)));
}

#[test]
fn a_crash_costs_one_connection_and_its_source_a_minute() {
    let server = pool("trusted: []").start();
    let mut other = greeted(from(&server, source(3)));
    for (last, signal) in [(4, Signal::SIGSEGV), (5, Signal::SIGKILL), (6, Signal::SIGSYS)] {
        let before: BTreeSet<i32> = workers(&server).iter().map(|p| p.pid).collect();
        let client = greeted(from(&server, source(last)));
        await_busy(&server, 2);
        let victim = victim(&server, &format!("127.0.0.{last}"));
        assert!(before.contains(&victim) || workers(&server).iter().any(|p| p.pid == victim));
        kill(Pid::from_raw(victim), signal).expect("the worker is there");
        let mut client = client;
        assert!(client.is_closed());
        let how = signal.as_str().to_ascii_lowercase();
        let line = format!("event=worker-crashed pid={victim} how={how} peer=127.0.0.{last} session=");
        assert!(wait_until(|| server.said().contains(&line)), "{line}");
        assert_refused(from(&server, source(last)), SOURCE);
        assert_eq!(other.command("NOOP").code, 250);
    }
    greeted(from(&server, source(7)));
}

/// The process that serves this peer, as the master says.
fn victim(server: &Server, peer: &str) -> i32 {
    let mut found = None;
    let known = wait_until(|| {
        status(server);
        let said = server.said();
        let line = said
            .lines()
            .rfind(|line| line.contains("worker=") && line.contains(&format!("peer={peer}:")));
        found = line.and_then(|line| line.split("worker=").nth(1)?.split(' ').next()?.parse().ok());
        found.is_some()
    });
    assert!(known, "nobody serves {peer}");
    found.unwrap_or_default()
}

/// A spare that dies while it waits costs nobody anything.
#[test]
fn spares_that_are_killed_are_replaced() {
    let server = pool("min_spare: 4, max_spare: 4").start();
    assert!(wait_until(|| workers(&server).len() == 4));
    for _ in 0..3 {
        for spare in workers(&server) {
            let _ = kill(Pid::from_raw(spare.pid), Signal::SIGKILL);
        }
        assert!(wait_until(|| workers(&server)
            .iter()
            .filter(|w| w.state != 'Z')
            .count()
            == 4));
        // The pause after a crash may answer with 421, but somebody answers, and soon a worker does.
        assert!(wait_until(|| server.connect().reply().code == 220));
    }
}

/// Whoever makes workers crash must not make the master fork all the time: it waits, longer each time, and whoever comes
/// meanwhile reads why.
#[test]
fn crashes_throttle_forking() {
    const PAUSES: [u64; 6] = [100, 200, 400, 800, 1000, 1000];
    let server = pool("min_spare: 1, max_spare: 1").start();
    await_busy(&server, 0);
    for (round, least) in PAUSES.into_iter().map(Duration::from_millis).enumerate() {
        let alive = || workers(&server).into_iter().find(|worker| worker.state != 'Z');
        let mut victim = None;
        assert!(wait_until(|| {
            victim = alive();
            victim.is_some()
        }));
        let victim = victim.map_or(0, |worker| worker.pid);
        let killed = Instant::now();
        kill(Pid::from_raw(victim), Signal::SIGKILL).expect("the worker is there");
        server.await_said("event=worker-crashed", round + 1);
        if round + 1 == PAUSES.len() {
            let reply = server.connect().reply();
            let refused = reply.code == 421 && reply.text() == FULL;
            assert!(refused || killed.elapsed() > least, "{reply:?}");
        }
        assert!(wait_until(|| alive().is_some_and(|worker| worker.pid != victim)));
        let waited = killed.elapsed();
        assert!(
            waited >= least,
            "forked {waited:?} after crash {round}, {least:?} expected"
        );
        assert!(waited < least * 2 + PATIENCE / 4, "forked only after {waited:?}");
    }
    assert!(wait_until(|| server.connect().reply().code == 220), "it goes on");
}

#[test]
fn connections_in_one_worker_leak_nothing_into_the_next() {
    let server = pool("min_spare: 1, max_spare: 1, max: 1, connections_per_worker: 5").start();
    let pid = |server: &Server| workers(server).iter().map(|p| p.pid).collect::<Vec<_>>();
    assert!(wait_until(|| pid(&server).len() == 1));
    for life in 0..3 {
        let worker = pid(&server);
        for number in 0..5 {
            let mut client = server.connect();
            // The only worker may still be between two clients, or be followed by another just now.
            while client.reply().code == 421 {
                assert!(wait_until(|| figure(&status(&server), "spare") == 1));
                client = server.connect();
            }
            if number < 4 {
                assert_eq!(pid(&server), worker, "life {life}, connection {number}");
            }
            assert_eq!(client.command("EHLO client.example").code, 250);
            // No transaction, no body and no chunk of the one before is left.
            assert_eq!(client.command("RCPT TO:<test@example.com>").code, 503);
            assert_eq!(client.command("MAIL FROM:<a@example.org>").code, 250);
            assert_eq!(client.command("RCPT TO:<test@example.com>").code, 250);
            match number % 3 {
                0 => client.send(b"BDAT 200000\r\n"),
                1 => client.send(b"DATA\r\nSubject: half\r\n"),
                _ => {}
            }
            if number % 3 == 0 {
                client.send(&vec![b'x'; 150_000]);
            }
            drop(client);
            assert!(
                wait_until(|| figure(&status(&server), "busy") == 0),
                "{}",
                status(&server)
            );
        }
        assert!(wait_until(|| pid(&server).len() == 1 && pid(&server) != worker));
    }
    assert!(server.mail("test@example.com").is_empty());
    let mut client = server.hello();
    let message = b"Subject: whole\r\n\r\nbody\r\n";
    assert_eq!(
        client.deliver("a@example.org", &["test@example.com"], message).code,
        250
    );
    let mail = server.await_mail("test@example.com", 1);
    common::assert_same_message(&mail[0], message);
}

/// A reload tells workers to leave between connections, whatever they do just then.
#[test]
fn retired_workers_finish_and_leave_while_clients_come() {
    let server = pool("min_spare: 4, max_spare: 4, connections_per_worker: 1000").start();
    let mut held = server.hello();
    for round in 2..12 {
        server.signal(Signal::SIGHUP);
        for _ in 0..20 {
            let mut client = server.hello();
            assert_eq!(client.command("QUIT").code, 221);
        }
        let line = format!("event=reloaded generation={round}");
        assert!(wait_until(|| server.said().contains(&line)), "{line}");
    }
    assert_eq!(held.command("NOOP").code, 250);
    drop(held);
    let mut last = String::new();
    let settled = wait_until(|| {
        last = status(&server);
        figure(&last, "busy") == 0 && workers(&server).len() == 4
    });
    assert!(settled, "{last} {:?}", workers(&server));
    assert!(!server.said().contains("event=worker-crashed"));
}

/// Sets a soft and hard limit of a running process; false where that is not allowed.
fn limit(pid: i32, resource: &str, value: u32) -> bool {
    let limits = format!("--{resource}={value}");
    let pid = format!("--pid={pid}");
    Command::new("prlimit")
        .args([pid, limits])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// The processor time that a process has used, in clock ticks.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let figures: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    figures.get(10..12).map_or(0, |times| times.iter().sum())
}

/// At a limit of the kernel, clients are answered, nothing spins, and the service recovers.
fn outlasts(test: &str, resource: &str, value: u32) {
    let server = pool("min_spare: 2, max_spare: 2, max: 500").start();
    await_busy(&server, 0);
    if !limit(server.pid(), resource, value) {
        return common::skip(test, "prlimit(1) cannot limit the server");
    }
    let mut held = Vec::new();
    let refused = wait_until(|| {
        let mut client = server.connect();
        let reply = client.reply();
        let refused = reply.code == 421;
        assert!(refused || reply.code == 220, "{reply:?}");
        if refused {
            assert_eq!(reply.text(), FULL);
            assert!(client.is_closed());
        }
        held.push(client);
        refused
    });
    assert!(refused, "no 421 with {} connections", held.len());
    let (before, began) = (ticks(server.pid()), Instant::now());
    for _ in 0..10 {
        let mut client = server.connect();
        let code = client.reply().code;
        assert!(code == 421 || code == 220, "{code}");
    }
    assert!(wait_until(|| began.elapsed() > Duration::from_secs(1)));
    let used = ticks(server.pid()) - before;
    assert!(
        used < 50,
        "{used} hundredths of a second of processor time in one second"
    );
    assert!(server.said().contains("event=fork-failed"));
    drop(held);
    assert!(wait_until(|| figure(&status(&server), "busy") == 0));
}

#[test]
fn out_of_descriptors() {
    outlasts("out_of_descriptors", "nofile", 90);
}

#[test]
fn out_of_processes() {
    outlasts("out_of_processes", "nproc", 1);
}

#[test]
fn nothing_is_left_behind_by_a_thousand_connections() {
    let mut server = pool("min_spare: 2, max_spare: 8").start();
    let settle = |server: &Server| {
        assert!(wait_until(|| {
            let said = status(server);
            figure(&said, "busy") == 0 && figure(&said, "spare") <= 8 && workers(server).len() == figure(&said, "spare")
        }));
    };
    let serve = |server: &Server, count: usize| {
        for number in 0..count {
            let mut client = server.connect();
            assert_eq!(client.reply().code, 220);
            if number % 10 == 0 {
                client.command("EHLO client.example");
                let text = format!("Subject: {number}\r\n\r\nbody\r\n");
                assert_eq!(
                    client
                        .deliver("a@example.org", &["test@example.com"], text.as_bytes())
                        .code,
                    250
                );
            }
            assert_eq!(client.command("QUIT").code, 221);
        }
    };
    serve(&server, 50);
    settle(&server);
    let before = descriptors(&server);
    serve(&server, 1000);
    settle(&server);
    match (before, descriptors(&server)) {
        (Some((spares, before)), Some((more, after))) => {
            // What a worker had stays for another one: four descriptors of the master, one of the logger, one of delivery.
            // There are as many of these as workers lived at once, which is fewer than twice the spares.
            let most = before + 6 * 16;
            assert!(after <= most, "{before} with {spares} spares, {after} with {more}");
        }
        _ => assert!(!common::needs_root(
            "nothing_is_left_behind_by_a_thousand_connections: descriptors"
        )),
    }
    let family = family(&server);
    let zombies = || {
        processes()
            .into_iter()
            .filter(|p| family.contains(&p.parent) && p.state == 'Z')
            .count()
    };
    assert!(wait_until(|| zombies() == 0), "zombies are left");
    assert!(family.len() >= 9, "{family:?}");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(), Some(0));
    let left = || {
        processes()
            .into_iter()
            .filter(|p| family.contains(&p.pid))
            .collect::<Vec<_>>()
    };
    assert!(wait_until(|| left().is_empty()), "{:?}", left());
}

/// How much writable memory a process has that is no file's, in octets: its own, and what it has inherited.
fn written(pid: i32) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("smaps");
    let (mut writable, mut sum) = (false, 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["Anonymous:", kib, _] if writable => sum += kib.parse::<usize>().expect("a number") << 10,
            [place, rights, ..] if place.contains('-') => writable = rights.starts_with("rw"),
            _ => {}
        }
    }
    assert!(sum > 0, "{text}");
    sum
}

/// A long list of recipients is in memory once, whatever the number of workers: each has it mapped, none has a copy.
#[test]
fn a_long_list_of_recipients_is_shared() {
    const NAMES: usize = 500_000;
    if !common::needs_root("pool::a_long_list_of_recipients_is_shared") {
        return;
    }
    let setup = pool("min_spare: 4, max_spare: 4");
    let names: String = (0..NAMES).map(|number| format!("name.{number:010}\n")).collect();
    setup.write("users.txt", &names);
    let recipients = "domains:\n  example.com:\n    recipients_file: users.txt\n";
    setup.write("simple_recipient_validator.yaml", recipients);
    let server = setup.start();
    let mut client = server.hello();
    assert_eq!(client.command("MAIL FROM:<a@example.org>").code, 250);
    for (number, code) in [(0, 250), (NAMES / 2, 250), (NAMES - 1, 250), (NAMES, 550)] {
        let reply = client.command(&format!("RCPT TO:<Name.{number:010}@example.com>"));
        assert_eq!(reply.code, code, "{reply:?}");
    }
    assert!(wait_until(|| workers(&server).len() == 5), "{:?}", workers(&server));
    let mut files = BTreeSet::new();
    for worker in workers(&server) {
        // Address, rights, offset, device, inode, name.
        let maps = fs::read_to_string(format!("/proc/{}/maps", worker.pid)).expect("maps");
        let found = maps.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (from, to) = words.first()?.split_once('-')?;
            let [from, to] = [from, to].map(|place| usize::from_str_radix(place, 16).unwrap_or(0));
            let list = words.get(5)?.starts_with("/memfd:") && to - from == names.len().next_multiple_of(4096);
            (list && words.get(1) == Some(&"r--s")).then(|| words[3..5].join(" "))
        });
        files.insert(found.unwrap_or_else(|| panic!("no shared mapping of {} octets in:\n{maps}", names.len())));
        let own = written(worker.pid);
        assert!(
            own < names.len() / 2,
            "{own} octets of its own beside a list of {}",
            names.len()
        );
    }
    assert_eq!(files.len(), 1, "one file in all workers: {files:?}");
}

/// How many spares there are, and all descriptors of master, logger and delivery; none where that is not shown.
fn descriptors(server: &Server) -> Option<(usize, usize)> {
    let workers: BTreeSet<i32> = workers(server).iter().map(|p| p.pid).collect();
    let mut sum = 0;
    for pid in family(server).difference(&workers) {
        sum += fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    }
    Some((workers.len(), sum))
}
