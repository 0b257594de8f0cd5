//! Kills at any moment and at named steps: each message that was answered 250 is found afterwards, and what is there
//! although nobody was told is at most one message for each process that was killed.

mod common;

use common::{Client, Server, Setup, needs_root, tool, wait_until};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SENDERS: usize = 12;
/// In one test; more would only take longer.
const KILLS: usize = 40;
/// What is killed first, by the numbers of [`slay`]: workers, delivery, the head of delivery, the keeper, of logger and
/// keeper the heads, the master, everything; and workers and delivery again.
const FIRST: [u64; 11] = [0, 9, 21, 20, 21, 0, 21, 9, 21, 19, 9];

/// What senders were told, by the number of the message.
#[derive(Default)]
struct Told {
    accepted: BTreeSet<usize>,
    refused: BTreeMap<usize, u16>,
    unanswered: BTreeSet<usize>,
}

/// Kills so far, by what was killed.
#[derive(Debug, Default)]
struct Kills {
    workers: usize,
    delivery: usize,
    logger: usize,
    keeper: usize,
    /// Parent halves of helpers, and the master alone: the rest ends by itself.
    heads: usize,
    everything: usize,
}

impl Kills {
    fn all(&self) -> usize {
        self.workers + self.delivery + self.logger + self.keeper + self.heads + self.everything
    }

    /// How often everything was started again.
    fn starts(&self) -> usize {
        self.heads + self.everything
    }
}

/// A small generator, so that a failure can be had again.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn message(number: usize) -> Vec<u8> {
    // every twentieth is too long to travel inside a frame
    let lines = if number.is_multiple_of(20) { 1_500 } else { 10 };
    let mut text = format!("Subject: number {number}.\r\n\r\n").into_bytes();
    text.extend(
        (0..lines)
            .flat_map(|line| format!("line {line} of message {number}, fifty octets or so long\r\n").into_bytes()),
    );
    text
}

fn recipients(number: usize) -> &'static [&'static str] {
    match number % 5 {
        0 => &["test@example.com", "other@example.com"],
        1 => &["soft@example.net"],
        2 => &["other@example.com", "soft@example.net"],
        _ => &["test@example.com"],
    }
}

fn mailboxes(number: usize) -> Vec<&'static str> {
    let place = |to: &&'static str| match *to {
        "test@example.com" => "mail/example.com/test",
        "other@example.com" => "mail/example.com/other",
        _ => "quarantine/example.net/soft",
    };
    recipients(number).iter().map(place).collect()
}

/// Sends numbers until there are none left, over connections that may end at any time.
fn send(address: SocketAddr, next: &AtomicUsize, count: usize, told: &Mutex<Told>) {
    let mut client: Option<Client> = None;
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        if number >= count {
            return;
        }
        let mut one = client.take().unwrap_or_else(|| connected(address));
        let result = offer(&mut one, number);
        let mut told = told.lock().expect("lock");
        match result {
            Ok(250) => told.accepted.insert(number),
            Ok(code) => told.refused.insert(number, code).is_none(),
            Err(_) => told.unanswered.insert(number),
        };
        if result.is_ok_and(|code| code != 421) {
            client = Some(one);
        }
    }
}

/// A connection that has been greeted, however long that takes.
fn connected(address: SocketAddr) -> Client {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if let Ok(stream) = TcpStream::connect(address) {
            let mut client = Client::over(stream);
            if client.try_reply().is_ok_and(|reply| reply.code == 220) {
                client.send(b"EHLO client.example\r\n");
                if client.try_reply().is_ok_and(|reply| reply.code == 250) {
                    return client;
                }
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("no greeting for a minute");
}

/// One transaction; the code that ended it, or that there was no reply.
fn offer(client: &mut Client, number: usize) -> Result<u16, ()> {
    let mut say = |text: &[u8]| {
        client.send(text);
        client.try_reply().map(|reply| reply.code).map_err(drop)
    };
    let code = say(b"MAIL FROM:<sender@example.org>\r\n")?;
    if code != 250 {
        return Ok(code);
    }
    for recipient in recipients(number) {
        let code = say(format!("RCPT TO:<{recipient}>\r\n").as_bytes())?;
        if code != 250 {
            return Ok(code);
        }
    }
    let code = say(b"DATA\r\n")?;
    if code != 354 {
        return Ok(code);
    }
    let mut text = message(number);
    text.extend(b".\r\n");
    say(&text)
}

/// Where each message is, how often; and the identifiers by which the server knows it.
struct Found {
    copies: BTreeMap<(usize, String), usize>,
    ids: BTreeMap<usize, BTreeSet<String>>,
}

fn find(state: &Path) -> Found {
    let (mut copies, mut ids) = (BTreeMap::new(), BTreeMap::<_, BTreeSet<_>>::new());
    for mailbox in [
        "mail/example.com/test",
        "mail/example.com/other",
        "quarantine/example.net/soft",
    ] {
        for text in common::messages_below(&state.join(mailbox)) {
            let text = String::from_utf8(text).expect("text");
            let number = text
                .split("Subject: number ")
                .nth(1)
                .and_then(|rest| rest.split('.').next());
            let number: usize = number.and_then(|n| n.parse().ok()).expect("a number");
            let sent = String::from_utf8(message(number)).expect("text");
            assert!(text.ends_with(&sent), "message {number} is damaged");
            *copies.entry((number, mailbox.to_owned())).or_insert(0) += 1;
            let id = text
                .split(" id ")
                .nth(1)
                .map(|rest| rest.split([';', ' ', '\r']).next().unwrap_or_default());
            ids.entry(number).or_default().insert(id.expect("an id").to_owned());
        }
    }
    Found { copies, ids }
}

fn setup(mut setup: Setup, delivery: &str) -> Setup {
    setup.write(
        "delivery.yaml",
        &format!("{delivery}\nretry: {{first: 1s, longest: 1s}}\n"),
    );
    setup.set("worker.yaml", "maximum_errors", "10000");
    setup
}

fn slain(pid: i32) -> bool {
    kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
}

/// Kills something until `over`, and starts again what has ended; the server at the end, what it said, what was killed.
fn slay(mut server: Server, over: &AtomicBool, dice: &mut Dice) -> (Server, String, Kills) {
    let mut kills = Kills::default();
    let mut said = String::new();
    // a helper that dies again and again is forked again later and later: a whole restart begins anew
    let mut deaths = 0;
    while !over.load(Ordering::SeqCst) || kills.all() < FIRST.len() {
        if kills.all() >= KILLS {
            break;
        }
        thread::sleep(Duration::from_millis(40 + dice.throw(160)));
        let what = match () {
            () if deaths > 4 => 19,
            // a short run has some of each that matters
            () if kills.all() < FIRST.len() => FIRST[kills.all()],
            () => dice.throw(22),
        };
        let again = match what {
            0..=8 => {
                let all = server.processes();
                let workers: Vec<_> = all.iter().filter(|one| one.name == "rsmtpd: worker").collect();
                let at = dice.throw(workers.len().max(1) as u64) as usize;
                kills.workers += usize::from(workers.get(at).is_some_and(|worker| slain(worker.pid)));
                false
            }
            9..=16 => {
                kills.delivery += usize::from(slain(server.working_half("delivery")));
                deaths += 1;
                false
            }
            17 | 18 => {
                kills.logger += usize::from(slain(server.working_half("logger")));
                deaths += 1;
                false
            }
            20 => {
                kills.keeper += usize::from(slain(server.working_half("keeper")));
                deaths += 1;
                false
            }
            21 => {
                let roles = ["delivery", "logger", "keeper"];
                let head = roles.get(kills.heads % 4).map(|role| server.helper(role).0);
                kills.heads += usize::from(slain(head.unwrap_or(server.pid())));
                true
            }
            _ => {
                let _ = killpg(Pid::from_raw(server.pid()), Signal::SIGKILL);
                kills.everything += 1;
                true
            }
        };
        if again {
            // else the port is still held
            assert!(
                wait_until(|| server.has_ended() && server.processes().is_empty()),
                "{:?}",
                server.processes()
            );
            deaths = 0;
            said += &server.said();
            let address = server.address();
            server = server.into_setup().start();
            assert_eq!(server.address(), address, "the senders know no other");
        }
    }
    (server, said, kills)
}

/// Lines that tell of an interrupted message, by its identifier.
fn interrupted(said: &str) -> BTreeSet<String> {
    ids(said, &["event=interrupted "])
}

/// The identifiers in lines of these events.
fn ids(said: &str, events: &[&str]) -> BTreeSet<String> {
    let lines = said
        .lines()
        .filter(|line| events.iter().any(|event| line.contains(event)));
    lines
        .filter_map(|line| line.split(" id=").nth(1))
        .map(|rest| rest.split(' ').next().unwrap_or_default().to_owned())
        .collect()
}

/// Messages in the spool. A kill may leave a body whose envelope is gone, as its message is delivered.
fn spooled(state: &Path) -> usize {
    let entries = fs::read_dir(state.join("spool")).into_iter().flatten().flatten();
    let envelope = |path: &Path| path.is_file() && path.extension().is_none_or(|ending| ending != "body");
    entries.filter(|entry| envelope(&entry.path())).count()
}

fn under_kills(delivery: &str, count: usize, seed: u64) -> (Told, Found, Kills, String) {
    // A killed process leaves its pages to the kernel: where they go from there is another matter.
    let server = setup(Setup::in_memory(), delivery).start();
    let address = server.address();
    let (next, over, told) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(Told::default()));
    let (server, mut said, kills) = thread::scope(|scope| {
        let slayer = scope.spawn(|| slay(server, &over, &mut Dice(seed)));
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| scope.spawn(|| send(address, &next, count, &told)))
            .collect();
        for sender in senders {
            sender.join().expect("a sender");
        }
        over.store(true, Ordering::SeqCst);
        slayer.join().expect("the slayer")
    });
    let _ = server.working_half("delivery");
    assert!(
        wait_until(|| spooled(&server.state()) == 0),
        "the spool is not empty:\n{}",
        server.said()
    );
    let state = server.state();
    server.signal(Signal::SIGTERM);
    let mut server = server;
    server.wait();
    assert!(fs::read_dir(state.join("failed")).expect("failed").next().is_none());
    said += &server.said();
    let found = find(&state);
    (told.into_inner().expect("lock"), found, kills, said)
}

/// Every 250 is there; the two kinds of what kills may leave are counted apart, and bounded.
fn account(told: &Told, found: &Found, kills: &Kills, said: &str, spooled: bool) {
    for &number in &told.accepted {
        for mailbox in mailboxes(number) {
            let there = found.copies.contains_key(&(number, mailbox.to_owned()));
            assert!(
                there,
                "message {number} was answered 250 and is not in {mailbox}; {kills:?}"
            );
        }
    }
    for (number, mailbox) in found.copies.keys() {
        assert!(
            mailboxes(*number).contains(&mailbox.as_str()),
            "message {number} in {mailbox}"
        );
    }
    let interrupted = interrupted(said);
    // What a worker that was killed did not tell is there as delivered.
    let stored = ids(said, &["event=interrupted ", "event=delivered ", "event=quarantined "]);
    let among =
        |number: usize, known: &BTreeSet<String>| found.ids.get(&number).is_some_and(|ids| !ids.is_disjoint(known));
    let twice: BTreeSet<usize> = found
        .copies
        .iter()
        .filter(|(_, n)| **n > 1)
        .map(|((number, _), _)| *number)
        .collect();
    let untold: BTreeSet<usize> = found
        .ids
        .keys()
        .copied()
        .filter(|number| !told.accepted.contains(number))
        .collect();
    let unlogged = untold.iter().filter(|number| !among(**number, &stored)).count();
    println!(
        "{} accepted, {} refused, {} unanswered; {} twice, {} there without a 250 ({unlogged} of them not in the log); {kills:?}",
        told.accepted.len(),
        told.refused.len(),
        told.unanswered.len(),
        twice.len(),
        untold.len(),
    );
    // each process killed had one message at most between its record and the sender's reading of it
    let processes = kills.workers + kills.delivery + kills.starts() * (SENDERS + 1);
    assert!(untold.len() <= processes, "{untold:?} without a 250; {kills:?}");
    // each has its line with the id; only a killed logger loses what it has not written yet
    let lost = (kills.starts() + kills.logger) * SENDERS;
    assert!(unlogged <= lost, "{unlogged} are not in the log; {kills:?}");
    if spooled {
        let silent: Vec<_> = twice.iter().filter(|number| !among(**number, &interrupted)).collect();
        assert!(
            silent.len() <= kills.logger + kills.starts(),
            "{silent:?} are there twice and not in the log; {kills:?}"
        );
    } else {
        assert!(twice.is_empty(), "{twice:?} are there twice without any retry");
    }
    let each = kills.delivery > 1 && kills.workers > 1 && kills.keeper > 0 && kills.heads > 3 && kills.everything > 0;
    assert!(each, "{kills:?}");
}

#[test]
fn ten_thousand_messages_under_kills() {
    let (told, found, kills, said) = under_kills("agent: maildir", 10_000, 1);
    assert!(
        told.accepted.len() > 8_000,
        "{} accepted; {kills:?}",
        told.accepted.len()
    );
    account(&told, &found, &kills, &said, false);
}

#[test]
fn the_spool_under_kills() {
    let (told, found, kills, said) = under_kills("agent: maildir\nacknowledge: spooled", 2_000, 2);
    assert!(
        told.accepted.len() > 1_000,
        "{} accepted; {kills:?}",
        told.accepted.len()
    );
    account(&told, &found, &kills, &said, true);
}

/// Recipients that are refused: unknown, disabled, of somebody else.
const STRANGERS: [&str; 3] = ["nobody@example.com", "gone@example.com", "someone@elsewhere.example"];

/// A transaction that is refused, or given up by its sender, in one of six ways by its number; the last way alone is
/// accepted, for those recipients that exist.
fn refused(client: &mut Client, number: usize) {
    let mut say = |text: &[u8], code: u16| {
        client.send(text);
        let reply = client.reply();
        assert_eq!(reply.code, code, "number {number}: {reply:?}");
    };
    say(b"MAIL FROM:<sender@example.org>\r\n", 250);
    for stranger in STRANGERS {
        say(format!("RCPT TO:<{stranger}>\r\n").as_bytes(), 550);
    }
    let way = number % 6;
    if way == 0 {
        return say(b"DATA\r\n", 554);
    }
    for recipient in recipients(number) {
        say(format!("RCPT TO:<{recipient}>\r\n").as_bytes(), 250);
    }
    if way == 1 {
        let part = message(number);
        say(&[format!("BDAT {}\r\n", part.len()).as_bytes(), &part].concat(), 250);
        return say(b"RSET\r\n", 250);
    }
    say(b"DATA\r\n", 354);
    let text = message(number);
    match way {
        2 => client.send(&text),
        3 => say(
            &[
                &text,
                &b"and more of the same in a line\r\n".repeat(40_000)[..],
                b".\r\n",
            ]
            .concat(),
            552,
        ),
        4 => say(
            &[&b"Received: from a by b; today\r\n".repeat(101), &text, &b".\r\n"[..]].concat(),
            554,
        ),
        _ => say(&[&text, &b".\r\n"[..]].concat(), 250),
    }
}

/// Every file below a directory, with its path.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => files(&path),
            path => fs::read(&path).ok().map(|text| (path, text)).into_iter().collect(),
        })
        .collect()
}

/// Nothing twice, nothing that was refused, in no place.
#[test]
fn without_kills_the_sums_are_exact() {
    const COUNT: usize = 1_000;
    const MORE: usize = 240;
    for delivery in ["agent: maildir", "agent: maildir\nacknowledge: spooled"] {
        let mut setup = setup(Setup::in_memory(), delivery);
        setup.set("worker.yaml", "maximum_message_size_in_mb", "1");
        let mut server = setup.start();
        let address = server.address();
        let (next, told) = (AtomicUsize::new(0), Mutex::new(Told::default()));
        thread::scope(|scope| {
            for sender in 0..SENDERS {
                let (next, told) = (&next, &told);
                scope.spawn(move || {
                    for number in (COUNT..COUNT + MORE).skip(sender).step_by(SENDERS) {
                        refused(&mut connected(address), number);
                    }
                    send(address, next, COUNT, told);
                });
            }
        });
        let told = told.into_inner().expect("lock");
        assert_eq!(
            (told.accepted.len(), told.refused.len(), told.unanswered.len()),
            (COUNT, 0, 0)
        );
        let accepted = (0..COUNT).chain((COUNT..COUNT + MORE).filter(|number| number % 6 == 5));
        let expected: BTreeMap<_, _> = accepted
            .flat_map(|number| {
                mailboxes(number)
                    .into_iter()
                    .map(move |mailbox| ((number, mailbox.to_owned()), 1))
            })
            .collect();
        let state = server.state();
        assert!(wait_until(|| find(&state).copies == expected), "{delivery}");
        assert!(wait_until(|| spooled(&state) == 0), "{delivery}");
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait(), Some(0));
        assert_eq!(find(&state).copies, expected, "{delivery}: after the end");
        let messages = files(&state).into_iter().filter(|(_, text)| {
            let subject = b"Subject: number ";
            text.windows(subject.len()).any(|part| part == subject)
        });
        // Wherever it is: there is no file with a message but those that were counted.
        let messages: Vec<PathBuf> = messages.map(|(path, _)| path).collect();
        assert_eq!(messages.len(), expected.len(), "{delivery}: {messages:?}");
    }
}

/// A way of delivery, and the system calls at which it is killed: which, and how often one message may make them.
#[derive(Clone, Copy)]
struct Case {
    agent: Agent,
    spooled: bool,
    /// Messages too long for a frame.
    staged: bool,
    calls: &'static [(&'static str, usize)],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Agent {
    Maildir,
    Lda,
    Lmtp,
}

/// A delivery agent: it puts what it reads into a Maildir at its home.
const AGENT: &str = r#"#!/bin/sh
mkdir -p "$HOME/tmp" "$HOME/new" && cat >"$HOME/tmp/$$" && mv "$HOME/tmp/$$" "$HOME/new/$$.$(date +%s%N)"
"#;

impl Case {
    fn delivery(self, setup: &Setup) -> String {
        let aside = setup.aside();
        let agent = match self.agent {
            Agent::Maildir => "agent: maildir".to_owned(),
            Agent::Lda => {
                let path = aside.join("agent");
                fs::write(&path, AGENT).expect("agent");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
                format!("agent: dovecot_lda\ndovecot_lda: {{path: {}}}", path.display())
            }
            Agent::Lmtp => {
                let path = aside.join("lmtp");
                let listener = UnixListener::bind(&path).expect("socket");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("mode");
                let state = setup.state();
                // It ends with the test.
                thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        let state = state.clone();
                        thread::spawn(move || serve_lmtp(stream, &state));
                    }
                });
                format!("agent: lmtp\nlmtp: {{socket: {}}}", path.display())
            }
        };
        agent + if self.spooled { "\nacknowledge: spooled" } else { "" }
    }

    /// The number of the message for the `nth` moment: an agent is for recipients that exist.
    fn number(self, nth: usize) -> usize {
        match (self.agent, self.staged) {
            (_, true) => nth * 20,
            (Agent::Maildir, false) => nth,
            (_, false) => nth * 5 + 3,
        }
    }
}

/// An LMTP server that puts what it reads into Maildirs, then says so for each recipient; none at the end.
fn serve_lmtp(mut stream: UnixStream, state: &Path) -> Option<()> {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut recipients: Vec<String> = Vec::new();
    stream.write_all(b"220 hello\r\n").ok()?;
    loop {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then_some(())?;
        let replies = match line.trim_end() {
            "DATA" => {
                stream.write_all(b"354 go\r\n").ok()?;
                let mut text = String::new();
                loop {
                    let mut line = String::new();
                    (reader.read_line(&mut line).ok()? > 0).then_some(())?;
                    match line.as_str() {
                        ".\r\n" => break,
                        line => text += line.strip_prefix('.').unwrap_or(line),
                    }
                }
                for recipient in &recipients {
                    let (local, domain) = recipient.split_once('@')?;
                    let new = state.join("mail").join(domain).join(local).join("new");
                    fs::create_dir_all(&new).ok()?;
                    let file = FILES.fetch_add(1, Ordering::SeqCst);
                    fs::write(new.join(format!("{file}")), &text).ok()?;
                }
                recipients.drain(..).count()
            }
            line => {
                let path = line.strip_prefix("RCPT TO:<").and_then(|rest| rest.split_once('>'));
                recipients.extend(path.map(|(path, _)| path.to_owned()));
                1
            }
        };
        stream.write_all("250 2.0.0 ok\r\n".repeat(replies).as_bytes()).ok()?;
    }
}

/// Kills delivery when it enters a system call for the `nth` time in one message: no moment is left out.
#[test]
fn killed_at_each_step() {
    const NAME: &str = "crash::killed_at_each_step";
    let Some(strace) = tool(NAME, "strace") else { return };
    if !needs_root(NAME) {
        return;
    }
    for (agent, staged, calls) in [
        (Agent::Maildir, false, CALLS),
        (Agent::Maildir, true, STAGED),
        (Agent::Lda, false, OF_LDA),
        (Agent::Lda, true, OF_LDA),
        (Agent::Lmtp, false, OF_LMTP),
        (Agent::Lmtp, true, OF_LMTP),
    ] {
        for spooled in [false, true] {
            let case = Case {
                agent,
                spooled,
                staged,
                calls,
            };
            let killed: usize = thread::scope(|scope| {
                let strace = &strace;
                let start = |(call, most): &(&'static str, usize)| {
                    let (call, most) = (*call, *most);
                    scope.spawn(move || killed_in(case, strace, call, most))
                };
                let all: Vec<_> = case.calls.iter().map(start).collect();
                all.into_iter()
                    .map(|one| one.join().expect("a server of its own"))
                    .sum()
            });
            let least = if calls.len() > 4 { 8 } else { 2 };
            println!("{agent:?}, spooled {spooled}, staged {staged}: killed at {killed} steps");
            assert!(
                killed > least,
                "{agent:?}, spooled {spooled}, staged {staged}: only killed at {killed} steps"
            );
        }
    }
}

const CALLS: &[(&str, usize)] = &[
    ("openat", 3),
    ("write", 3),
    ("pwrite64", 5),
    ("linkat", 3),
    ("fsync", 3),
    ("sendmsg", 4),
];
const STAGED: &[(&str, usize)] = &[("pwrite64", 4), ("linkat", 2), ("fsync", 2), ("sendmsg", 3)];
/// None that the agent makes, which is traced as well.
const OF_LDA: &[(&str, usize)] = &[("pwrite64", 4), ("fsync", 2), ("sendmsg", 4)];
const OF_LMTP: &[(&str, usize)] = &[("pwrite64", 4), ("sendmsg", 2), ("write", 3), ("sendto", 3)];

/// All steps of one call, with a server of their own, as a helper that dies again and again comes back later and later;
/// how often it was killed.
fn killed_in(case: Case, strace: &PathBuf, call: &str, most: usize) -> usize {
    let setup = Setup::new();
    let delivery = case.delivery(&setup);
    let server = self::setup(setup, &delivery).start();
    let mut told = BTreeSet::new();
    let killed = (1..=most).filter(|&nth| killed_at(&server, strace, call, nth, case.number(nth), &mut told));
    let killed = killed.count();
    let _ = server.working_half("delivery");
    let state = server.state();
    assert!(wait_until(|| spooled(&state) == 0), "{}", server.said());
    let found = find(&state);
    for number in (1..=most).map(|nth| case.number(nth)) {
        for mailbox in mailboxes(number) {
            let copies = found.copies.get(&(number, mailbox.to_owned())).copied().unwrap_or(0);
            let ids = found.ids.get(&number);
            let log = || ids.is_some_and(|ids| !ids.is_disjoint(&interrupted(&server.said())));
            if told.contains(&number) {
                assert!(
                    copies == 1 || (copies == 2 && log()),
                    "{delivery}: {number} {copies} times in {mailbox}, killed at {call}"
                );
            } else if copies > 0 {
                assert!(
                    wait_until(log),
                    "{delivery}: {number} is there without a word, killed at {call}: {}",
                    server.said()
                );
            }
        }
    }
    killed
}

fn killed_at(
    server: &Server,
    strace: &PathBuf,
    call: &str,
    nth: usize,
    number: usize,
    told: &mut BTreeSet<usize>,
) -> bool {
    let half = server.working_half("delivery");
    let mut client = connected(server.address());
    let mut tracer = Command::new(strace)
        .args(["-f", "-qq", "-o", "/dev/null", "-p", &half.to_string()])
        .args(["-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=SIGKILL:when={nth}")])
        .spawn()
        .expect("strace");
    // Every thread that there is now: some come and go.
    let traced = || {
        let tasks: Vec<_> = fs::read_dir(format!("/proc/{half}/task"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
            .collect();
        !tasks.is_empty() && tasks.iter().all(|text| !text.contains("TracerPid:\t0\n"))
    };
    assert!(wait_until(traced), "strace does not attach");
    if offer(&mut client, number) == Ok(250) {
        told.insert(number);
    }
    let gone = || !Path::new(&format!("/proc/{half}")).exists();
    // the answer comes before the last steps
    let end = Instant::now() + Duration::from_millis(500);
    while !gone() && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    let killed = gone();
    let _ = kill(Pid::from_raw(i32::try_from(tracer.id()).expect("pid")), Signal::SIGINT);
    let _ = tracer.wait();
    killed
}
