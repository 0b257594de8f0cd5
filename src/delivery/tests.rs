//! The whole process over its channels, with real files and programs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Client, Error};
use super::envelope::tests::{commit, recipient};
use super::{Acknowledge, Agent, Log, Place, Settings, outcome, run, spool, spool_list};
use crate::helper::Seat;
use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::{FromHelper, ToHelper};
use crate::ipc::delivery::{Body, Commit, Disposition, FromDelivery, RecipientResult, ToDelivery};
use crate::sys::socket;

const MESSAGE: &[u8] = b"Return-Path: <forged@x>\r\nSubject: \xff\0\r\n\r\n.\r\nbody\n\rend";

fn pair() -> (OwnedFd, OwnedFd) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

struct Running {
    control: Option<Channel<ToHelper, FromHelper>>,
    thread: Option<JoinHandle<i32>>,
    state: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(settings: Settings) -> Running {
        let (ours, theirs) = pair();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let log: Log = Arc::new(move |level, event| {
            let line = format!("{} {}", level.name(), event.text());
            sink.lock().unwrap().push(line);
        });
        let state = settings.state.clone();
        let thread = std::thread::spawn(move || {
            run(Place {
                seat: Seat::alone(theirs),
                settings,
                log,
                rejoin: Box::new(drop),
            })
        });
        let control = Channel::new(ours);
        assert_eq!(
            control.receive_within(Duration::from_secs(10)).unwrap().0,
            FromHelper::Ready
        );
        Running {
            control: Some(control),
            thread: Some(thread),
            state,
            lines,
        }
    }

    fn client(&self) -> Client {
        static WORKERS: AtomicU32 = AtomicU32::new(1);
        let worker = WORKERS.fetch_add(1, Ordering::Relaxed);
        Client::new(self.door(worker), Duration::from_secs(20))
    }

    fn door(&self, worker: u32) -> OwnedFd {
        self.offer(&ToHelper::Door { worker, pid: 1 })
    }

    /// A door as the master lends it.
    fn lent(&self) -> OwnedFd {
        self.offer(&ToHelper::LentDoor)
    }

    fn offer(&self, door: &ToHelper) -> OwnedFd {
        use std::os::fd::AsFd;
        let (ours, theirs) = pair();
        self.control
            .as_ref()
            .unwrap()
            .send_with(door, &[theirs.as_fd()])
            .unwrap();
        ours
    }

    fn deliver(&self, commit: Commit) -> Vec<RecipientResult> {
        self.client().commit(commit).unwrap().results
    }

    fn files(&self, mailbox: &str) -> Vec<Vec<u8>> {
        let Ok(entries) = fs::read_dir(self.state.join(mailbox).join("new")) else {
            return Vec::new();
        };
        entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
    }

    fn logged(&self, words: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(words))
    }

    fn await_that(&self, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(15);
        while !condition() {
            assert!(Instant::now() < end, "{what}: {:?}", self.lines.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.control.take());
        let status = self.thread.take().unwrap().join().unwrap();
        if !std::thread::panicking() {
            assert_eq!(status, 0);
        }
    }
}

/// As [`settings`], but nothing is tried again unless somebody asks.
fn patient(state: &Path) -> Settings {
    Settings {
        retry_first: Duration::from_secs(3600),
        ..settings(state)
    }
}

fn settings(state: &Path) -> Settings {
    Settings {
        writers: 2,
        lda_jobs: 2,
        retry_first: Duration::from_secs(1),
        ..Settings::new(state)
    }
}

fn expected(mailbox: &str) -> Vec<u8> {
    let head = format!(
        "Return-Path: <sender@example.net>\r\nDelivered-To: {mailbox}@example.org\r\nReceived: from x\r\n\tby y\r\n"
    );
    [head.as_bytes(), &MESSAGE["Return-Path: <forged@x>\r\n".len()..]].concat()
}

fn lda(state: &Path, script: &str) -> Settings {
    let path = state.join("lda");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let home = format!("{}/home/%d/%n", state.display());
    Settings {
        agent: Agent::DovecotLda {
            path,
            userdb: false,
            home,
        },
        ..settings(state)
    }
}

#[test]
fn each_recipient_finds_the_message_byte_for_byte() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(settings(state.path()));
    assert_eq!(
        running.deliver(commit("m1", &["bob", "Ann"], MESSAGE)),
        [RecipientResult::Delivered, RecipientResult::Delivered]
    );
    assert_eq!(running.files("mail/example.org/bob"), [expected("bob")]);
    assert_eq!(running.files("mail/example.org/ann"), [expected("Ann")]);
    assert!(running.logged("event=delivered id=m1 rcpt=bob@example.org agent=maildir"));
    let mode = fs::metadata(state.path().join("mail/example.org/bob"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn removed_fields_are_in_no_copy() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(settings(state.path()));
    let commit = Commit {
        removed: vec!["X-Spam".into()],
        ..commit("r1", &["bob", "eve"], &[b"X-Spam: no\r\n", MESSAGE].concat())
    };
    assert_eq!(running.deliver(commit).len(), 2);
    for mailbox in ["bob", "eve"] {
        assert_eq!(
            running.files(&format!("mail/example.org/{mailbox}")),
            [expected(mailbox)]
        );
    }
}

#[test]
fn a_long_body_is_staged_and_its_length_checked() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(settings(state.path()));
    let client = running.client();
    let body = [MESSAGE, &vec![b'x'; 1_000_000]].concat();
    let mut file = client.begin(body.len() as u64).unwrap();
    file.write_all(&body).unwrap();
    let length = body.len() as u64;
    let staged = |id: &str, length| Commit {
        body: Body::Staged { length },
        ..commit(id, &["bob"], b"")
    };
    assert_eq!(
        client.commit(staged("m1", length)).unwrap().results,
        [RecipientResult::Delivered]
    );
    assert_eq!(
        running.files("mail/example.org/bob"),
        [[expected("bob"), vec![b'x'; 1_000_000]].concat()]
    );
    assert!(
        matches!(client.commit(staged("m2", length)), Err(Error::Refused(_))),
        "a staged body serves once"
    );
    client.begin(0).unwrap().write_all(b"abc").unwrap();
    assert!(matches!(client.commit(staged("m3", 4)), Err(Error::Refused(_))));
    let results = client.commit(commit("m4", &["bob"], b"x")).unwrap().results;
    assert_eq!(results, [RecipientResult::Delivered], "the door still serves");
}

/// Each answer brings a descriptor: a worker that does not read must not make us keep more than a few of them.
#[test]
fn a_worker_that_does_not_read_its_answers_loses_its_door() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(settings(state.path()));
    let door = Channel::<ToDelivery, FromDelivery>::new(running.door(1000));
    for _ in 0..100 {
        let begin = ToDelivery::Begin { size_hint: 0 };
        if door.send(&begin).is_err() {
            break;
        }
    }
    running.await_that("its end", || door.send(&ToDelivery::Begin { size_hint: 0 }).is_err());
    let mut staged = 0;
    while let Ok((answer, Some(_))) = door.receive() {
        assert_eq!(answer, FromDelivery::Staged);
        staged += 1;
    }
    assert_eq!(staged, 1);
    assert!(running.logged("event=unread"));
}

#[test]
fn a_worker_has_one_door_at_a_time() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(settings(state.path()));
    let first = Client::new(running.door(1000), Duration::from_secs(20));
    drop(first.begin(0).unwrap());
    let other = running.client();
    let second = Client::new(running.door(1000), Duration::from_secs(20));
    running.await_that("the first one's end", || first.is_closed());
    for client in [second, other] {
        let results = client.commit(commit("m1", &["bob"], b"x")).unwrap().results;
        assert_eq!(results, [RecipientResult::Delivered]);
    }
}

/// What a worker asks for itself ends no door that it was lent, which the next one is to have.
#[test]
fn a_lent_door_is_no_workers_own() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(settings(state.path()));
    let lent: Vec<Client> = (0..3)
        .map(|_| Client::new(running.lent(), Duration::from_secs(20)))
        .collect();
    let own = Client::new(running.door(0), Duration::from_secs(20));
    drop(own.begin(0).unwrap());
    for (number, client) in lent.iter().chain([&own]).enumerate() {
        let results = client
            .commit(commit(&format!("m{number}"), &["bob"], b"x"))
            .unwrap()
            .results;
        assert_eq!(results, [RecipientResult::Delivered], "{number}");
    }
}

/// A file would be kept with it by nobody's fault but that of a worker which has ended long ago.
#[test]
fn a_lent_door_holds_no_file() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(settings(state.path()));
    let lent = Channel::<ToDelivery, FromDelivery>::new(running.lent());
    lent.send(&ToDelivery::Begin { size_hint: 1 }).unwrap();
    let answer = lent.receive_within(Duration::from_secs(20));
    assert!(matches!(answer, Err(Fault::Closed)), "{answer:?}");
    assert!(running.logged("event=begin-refused door=lent"));
}

/// What a worker that has ended left on its way, and the next one with the same door: the message of that one reaches
/// its mailbox once, and what it is told is about its own.
fn offer_after(running: &Running, lent: OwnedFd, body: &[u8]) {
    let begun = Instant::now();
    let client = Client::new(lent, Duration::from_secs(20));
    let results = match client.commit(commit("next", &["bob"], body)) {
        Ok(outcome) => outcome.results,
        Err(Error::Untaken(untaken)) => running.deliver(*untaken),
        Err(error) => panic!("{error:?} {:?}", running.lines.lock().unwrap()),
    };
    assert_eq!(results, [RecipientResult::Delivered]);
    assert!(begun.elapsed() < Duration::from_secs(10), "it had to wait");
}

#[test]
fn an_answer_left_unread_is_no_harm_to_the_next_message() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(settings(state.path()));
    let door = Channel::<ToDelivery, FromDelivery>::new(running.lent());
    door.send(&ToDelivery::Commit(commit("before", &["eve"], b"x")))
        .unwrap();
    running.await_that("its answer", || socket::has_input(&door));
    door.send(&ToDelivery::Commit(commit("next", &["bob"], b"x"))).unwrap();
    running.await_that("the door's end", || running.logged("event=unread door=lent"));
    let is_next = |answer: &FromDelivery| matches!(answer, FromDelivery::Outcome { id, .. } if id == "next");
    let answer = door.answer_within(Duration::from_secs(20), is_next);
    assert!(matches!(answer, Err(Fault::Unheard)), "{answer:?}");
    assert!(running.files("mail/example.org/bob").is_empty());
}

#[test]
fn a_message_under_way_is_no_harm_to_the_next_one() {
    for _ in 0..20 {
        let state = tempfile::tempdir().unwrap();
        let running = Running::start(settings(state.path()));
        let lent = running.lent();
        let before = Channel::<ToDelivery, FromDelivery>::new(lent.try_clone().unwrap());
        let names: Vec<String> = (0..20).map(|number| format!("eve{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        before
            .send(&ToDelivery::Commit(commit("before", &names, b"x")))
            .unwrap();
        offer_after(&running, lent, MESSAGE);
        assert_eq!(running.files("mail/example.org/bob"), [expected("bob")]);
    }
}

#[test]
fn a_message_that_an_agent_is_slow_with_holds_up_no_other_of_its_door() {
    let state = tempfile::tempdir().unwrap();
    let script = r#"case $USER in eve*) until test -e "${0%/*}/go"; do sleep 0.1; done;; esac; cat >"${0%/*}/$USER""#;
    let running = Running::start(Settings {
        timeout: Duration::from_secs(30),
        ..lda(state.path(), script)
    });
    let lent = running.lent();
    let before = Channel::<ToDelivery, FromDelivery>::new(lent.try_clone().unwrap());
    before
        .send(&ToDelivery::Commit(commit("before", &["eve"], b"x")))
        .unwrap();
    drop(before);
    offer_after(&running, lent, MESSAGE);
    assert_eq!(fs::read(state.path().join("bob@example.org")).unwrap(), expected("bob"));
    fs::write(state.path().join("go"), "").unwrap();
    running.await_that("its end", || running.logged("event=abandoned id=before"));
}

#[test]
fn soft_recipients_go_to_quarantine_and_a_broken_mailbox_holds_up_no_other() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(patient(state.path()));
    let mut message = commit("m1", &["bob", "broken"], MESSAGE);
    message.recipients.push(recipient("soft", Disposition::Quarantine));
    message.recipients.push(recipient("none", Disposition::Discard));
    fs::create_dir_all(state.path().join("mail/example.org")).unwrap();
    fs::write(state.path().join("mail/example.org/broken"), "a file").unwrap();
    let results = running.deliver(message);
    assert_eq!(
        results,
        [
            RecipientResult::Delivered,
            RecipientResult::Spooled,
            RecipientResult::Quarantined,
            RecipientResult::Discarded
        ]
    );
    assert_eq!(running.files("quarantine/example.org/soft"), [expected("soft")]);
    let listed = spool_list::list(state.path()).unwrap();
    assert_eq!(
        listed.iter().map(|entry| entry.tree).collect::<Vec<_>>(),
        ["spool", "quarantine"]
    );
    assert_eq!(listed[0].recipients[0].0, "broken@example.org");
    fs::remove_file(state.path().join("mail/example.org/broken")).unwrap();
    spool_list::retry(state.path(), "m1").unwrap();
    running.await_that("retried", || {
        running.files("mail/example.org/broken") == [expected("broken")]
    });
    running.await_that("spool empty", || spool::ids(state.path(), "spool").unwrap().is_empty());
    spool_list::retry(state.path(), &listed[1].id).unwrap();
    running.await_that("released from quarantine", || {
        running.files("mail/example.org/soft") == [expected("soft")]
    });
    assert!(running.files("quarantine/example.org/soft").is_empty());
}

#[test]
fn all_entries_of_one_long_id_are_found() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(patient(state.path()));
    fs::create_dir_all(state.path().join("mail/example.org")).unwrap();
    fs::write(state.path().join("mail/example.org/broken"), "a file").unwrap();
    let id = "x".repeat(80);
    for _ in 0..12 {
        let results = running.deliver(commit(&id, &["bob", "broken"], MESSAGE));
        assert_eq!(results, [RecipientResult::Delivered, RecipientResult::Spooled]);
    }
    let names: Vec<String> = spool_list::list(state.path())
        .unwrap()
        .into_iter()
        .map(|entry| entry.id)
        .collect();
    assert_eq!(names.len(), 12, "{names:?}");
    spool_list::drop(state.path(), &format!("{id}.11")).unwrap();
    fs::remove_file(state.path().join("mail/example.org/broken")).unwrap();
    for name in names.iter().filter(|name| !name.ends_with(".11")) {
        spool_list::retry(state.path(), name).unwrap();
    }
    running.await_that("spool empty", || spool::ids(state.path(), "spool").unwrap().is_empty());
    assert_eq!(running.files("mail/example.org/broken").len(), 11);
}

#[test]
fn every_exit_status_of_the_agent_reaches_the_client() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(lda(state.path(), r#"exit "${USER%%@*}""#));
    for status in (64..=78).chain([0, 1, 126, 127]) {
        let results = running.deliver(commit(&format!("m{status}"), &[&status.to_string()], MESSAGE));
        assert_eq!(results, [outcome::of_agent(outcome::Ended::Exit(status))], "{status}");
    }
    assert!(running.logged("at=configuration"));
}

#[test]
fn the_agent_gets_exactly_what_it_needs() {
    let state = tempfile::tempdir().unwrap();
    let script = r#"d=${0%/*}; printf '%s\n' "$@" >"$d/args"; env | sort >"$d/env"; cat >"$d/in""#;
    let running = Running::start(lda(state.path(), script));
    let mut message = commit("m1", &["../Bob"], MESSAGE);
    message.reverse_path = String::new();
    assert_eq!(running.deliver(message), [RecipientResult::Delivered]);
    let read = |name: &str| fs::read_to_string(state.path().join(name)).unwrap();
    assert_eq!(read("args"), "-e\n-f\n\n-a\n../Bob@Example.org\n");
    let env = read("env");
    assert!(
        env.contains(&format!(
            "HOME={}/home/example.org/%2E.%2Fbob\n",
            state.path().display()
        )),
        "{env}"
    );
    assert!(env.contains("USER=../Bob@example.org\n"));
    assert!(
        fs::read(state.path().join("in"))
            .unwrap()
            .starts_with(b"Return-Path: <>\r\nDelivered-To: ../Bob@example.org\r\n")
    );
}

#[test]
fn a_hanging_agent_is_killed_and_a_loud_one_read() {
    let state = tempfile::tempdir().unwrap();
    let script = r#"case $USER in hang*) sleep 600 & sleep 600;; loud*) head -c 3000000 /dev/zero; exit 67;; esac"#;
    let running = Running::start(Settings {
        timeout: Duration::from_secs(2),
        ..lda(state.path(), script)
    });
    let begun = Instant::now();
    assert_eq!(
        running.deliver(commit("m1", &["hang"], MESSAGE)),
        [outcome::local_error()]
    );
    assert!(begun.elapsed() < Duration::from_secs(10) && running.logged("TimedOut"));
    assert_eq!(
        running.deliver(commit("m2", &["loud"], MESSAGE)),
        [outcome::of_agent(outcome::Ended::Exit(67))]
    );
}

#[test]
fn beyond_the_queue_the_client_is_told_to_come_again() {
    let state = tempfile::tempdir().unwrap();
    let running = Running::start(Settings {
        lda_jobs: 1,
        queue: 1,
        ..lda(state.path(), "sleep 1")
    });
    let results: Vec<_> = std::thread::scope(|scope| {
        let running = &running;
        let threads: Vec<_> = (0..6)
            .map(|n| scope.spawn(move || running.deliver(commit(&format!("m{n}"), &["a"], MESSAGE))))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(
        results.contains(&outcome::too_busy()) && results.contains(&RecipientResult::Delivered),
        "{results:?}"
    );
}

#[test]
fn a_mixed_outcome_is_kept_in_spool_and_failed() {
    let state = tempfile::tempdir().unwrap();
    let script = r#"case $USER in full*) exit 77;; wait*) test -e "${0%/*}/go" || exit 75;; esac; cat >>"${0%/*}/got""#;
    let running = Running::start(lda(state.path(), script));
    assert_eq!(running.deliver(commit("m0", &["full", "wait"], MESSAGE)).len(), 2);
    assert!(
        spool_list::list(state.path()).unwrap().is_empty(),
        "nothing kept when nobody has it"
    );
    let results = running.deliver(commit("m1", &["ok", "full", "wait"], MESSAGE));
    assert!(matches!(
        results[..],
        [
            RecipientResult::Delivered,
            RecipientResult::Permanent { .. },
            RecipientResult::Spooled
        ]
    ));
    let trees: Vec<_> = spool_list::list(state.path())
        .unwrap()
        .iter()
        .map(|entry| entry.tree)
        .collect();
    assert_eq!(trees, ["spool", "failed"]);
    fs::write(state.path().join("go"), "").unwrap();
    running.await_that("retried", || spool::ids(state.path(), "spool").unwrap().is_empty());
    assert_eq!(
        fs::read(state.path().join("got")).unwrap(),
        [expected("ok"), expected("wait")].concat()
    );
    let mut text = Vec::new();
    spool_list::show(state.path(), "m1", &mut |_, from| from.read_to_end(&mut text).map(drop)).unwrap();
    assert!(text.starts_with(b"Received: ") && text.ends_with(b"end"));
    spool_list::drop(state.path(), "m1").unwrap();
    assert!(spool_list::list(state.path()).unwrap().is_empty());
}

#[test]
fn a_spool_survives_a_restart_and_gives_up_into_failed() {
    let state = tempfile::tempdir().unwrap();
    let spooled = |settings| Settings {
        acknowledge: Acknowledge::Spooled,
        ..settings
    };
    {
        let running = Running::start(spooled(lda(state.path(), "exit 75")));
        assert_eq!(
            running.deliver(commit("m1", &["a"], MESSAGE)),
            [RecipientResult::Spooled]
        );
        running.await_that("tried", || running.logged("event=deferred id=m1"));
    }
    assert_eq!(spool::ids(state.path(), "spool").unwrap(), ["m1"]);
    fs::write(state.path().join("spool/half"), "rsmtpd1\nxx").unwrap();
    fs::write(state.path().join("spool/half.body"), "").unwrap();
    let give_up = Settings {
        give_up: Duration::ZERO,
        ..spooled(lda(state.path(), "exit 75"))
    };
    let running = Running::start(give_up);
    running.await_that("given up", || running.logged("critical event=failed id=m1"));
    running.await_that("moved", || spool::ids(state.path(), "failed").unwrap() == ["m1"]);
    assert!(running.logged("event=spool-damaged id=half"));
}

#[test]
fn an_interrupted_attempt_is_told_with_its_identifier() {
    let state = tempfile::tempdir().unwrap();
    let message = commit("m1", &["a"], MESSAGE);
    let Body::Inline(body) = &message.body else {
        unreachable!()
    };
    let source = super::content::Source::Bytes(body);
    let fresh = spool::Fresh {
        commit: &message,
        source,
        which: &[0],
        attempts: 0,
        next: 0,
    };
    drop(spool::store(state.path(), "spool", &fresh, None).unwrap());
    let mut entry = spool::Entry::open(state.path(), "spool", "m1").unwrap().unwrap();
    assert!(
        spool::Entry::open(state.path(), "spool", "m1").unwrap().is_none(),
        "locked"
    );
    entry.set_state(0, spool::State::Trying).unwrap();
    drop(entry);
    let running = Running::start(settings(state.path()));
    running.await_that("delivered", || running.files("mail/example.org/a") == [expected("a")]);
    assert!(running.logged("event=interrupted id=m1 at=agent rcpt=a@example.org"));
}

#[test]
fn lmtp_answers_per_recipient_over_one_connection() {
    let state = tempfile::tempdir().unwrap();
    let socket = state.path().join("lmtp");
    let listener = UnixListener::bind(&socket).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).split(b'\n');
        let mut out = stream;
        let (mut data, mut taken, mut got) = (false, Vec::new(), Vec::new());
        out.write_all(b"220 hello\r\n").unwrap();
        while let Some(Ok(line)) = lines.next() {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let reply = if data && text == "." {
                data = false;
                tell.send(std::mem::take(&mut got)).unwrap();
                taken
                    .drain(..)
                    .map(|full| if full { "552 5.2.2 Full\r\n" } else { "250 2.0.0 Ok\r\n" })
                    .collect()
            } else if data {
                got.extend_from_slice(&line);
                got.push(b'\n');
                String::new()
            } else if text == "DATA" {
                data = true;
                "354 Go\r\n".into()
            } else if text.contains("TO:<none@") {
                "550 5.1.1 Nobody\r\n".into()
            } else {
                if text.starts_with("RCPT") {
                    taken.push(text.contains("full@"));
                }
                "250-first\r\n250 8BITMIME\r\n".into()
            };
            out.write_all(reply.as_bytes()).unwrap();
        }
    });
    let running = Running::start(Settings {
        agent: Agent::Lmtp { socket },
        lda_jobs: 1,
        ..settings(state.path())
    });
    let none = outcome::permanent(550, [5, 1, 1], "Nobody");
    let full = outcome::permanent(552, [5, 2, 2], "Full");
    assert_eq!(
        running.deliver(commit("m1", &["none", "full"], MESSAGE)),
        [none.clone(), full.clone()]
    );
    assert_eq!(
        running.deliver(commit("m2", &["ok", "none", "full"], MESSAGE)),
        [RecipientResult::Delivered, none, full]
    );
    let sent = b"Received: from x\r\n\tby y\r\nSubject: \xff\0\r\n\r\n..\r\nbody\r\n\rend\r\n";
    assert_eq!(
        told.iter().take(2).collect::<Vec<_>>(),
        [sent.as_slice(), sent.as_slice()]
    );
}
