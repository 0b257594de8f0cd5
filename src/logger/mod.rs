//! The logger process: takes lines from the other processes, writes them to syslog, a file or standard error; and records
//! for files of their own.
//!
//! It may assume that the master tells the truth about who speaks through a door. It must never let one
//! speaker hold up another or drown it, wait for a syslog daemon, or believe a line's own word about its origin.

mod allowance;
pub mod client;
mod console;
mod records;
mod sink;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

pub use records::{Files, existing};
pub use sink::{Destination, Sink};

use allowance::Allowance;

use crate::helper::{Seat, Turn};
use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::{FromHelper, ToHelper};
use crate::ipc::frame;
use crate::ipc::log::ToLogger;
use crate::ipc::record::{FromLogger, Record};
use crate::log::{Event, Level};
use crate::sys::socket;

/// The master's end of a logger's control channel.
type Control = Channel<FromHelper, ToHelper>;
/// The logger's end of a speaker's door.
type Door = Channel<FromLogger, ToLogger>;

const CONTROL: Token = Token(usize::MAX);
/// Lines taken from one door before the others have their turn, however many come together; what an honest worker says
/// while we rest is less.
const TURN: usize = 256;
/// A pause between two rounds of lines that follow each other within [`BUSY`]: under load the lines of many sessions
/// are taken in one go, and no speaker has to wake us for each.
const REST: Duration = Duration::from_millis(5);
const BUSY: Duration = Duration::from_millis(20);
/// Rounds after the master is gone, in which all is heard that was said before; not what a process says without end.
const LAST_ROUNDS: u32 = 64;

struct Speaker {
    door: Door,
    /// The process that spoke last.
    pid: u32,
    /// It said what is not understood: nothing of it counts any more, but of the next one.
    is_muted: bool,
    records: records::Door,
    /// Of a worker's lines; those of other processes are as many as the work they do for all.
    allowance: Option<Allowance>,
}

impl Speaker {
    /// Takes note of which process speaks: one that comes after another has nothing of what that one left.
    fn is_now(&mut self, sender: Option<u32>, files: &mut Files, sink: &mut Sink) {
        if let Some(sender) = sender.filter(|sender| *sender != self.pid) {
            self.is_gone(files, sink);
            self.pid = sender;
            self.is_muted = false;
            self.records = records::Door::default();
            if let Some(allowance) = &mut self.allowance {
                *allowance = Allowance::new(Instant::now());
            }
        }
    }

    /// What was said is not understood: it is not heard any more, if it is known who it was.
    fn mute(&mut self, sender: Option<u32>, why: &frame::Fault, sink: &mut Sink) {
        let event = Event::new("not-understood");
        let event = match sender {
            Some(_) if std::mem::replace(&mut self.is_muted, true) => return,
            None if !self.allowance.as_mut().is_none_or(Allowance::admit) => return,
            Some(pid) => event.field("pid", pid),
            None => event,
        };
        let line = event.quoted("reason", why.to_string().as_bytes()).text();
        sink.write(Level::Warning, std::process::id(), &line);
    }

    /// The process says no more: tells what was lost of it.
    fn is_gone(&mut self, files: &mut Files, sink: &mut Sink) {
        self.tell_lost(sink);
        files.left(&self.records);
        if let Some(reason) = &self.records.lost {
            let event = Event::new("records-lost").field("count", self.records.count);
            let line = event.quoted("reason", reason.as_bytes()).text();
            sink.write(Level::Error, self.pid, &one_line(&line));
        }
    }

    /// Writes a line of its, unless that is too unimportant or too much.
    fn write(&mut self, threshold: Level, level: u8, text: &str, sink: &mut Sink) {
        let level = Level::from_number(level);
        if level <= threshold && self.allowance.as_mut().is_none_or(Allowance::admit) {
            sink.write(level, self.pid, &one_line(text));
        }
    }

    /// Takes a record of its; says so where it is the first that is lost.
    fn record(&mut self, record: Record, files: &mut Files, sink: &mut Sink) {
        let file = record.file.clone();
        if files.take(&mut self.records, record) {
            let reason = self.records.lost.clone().unwrap_or_default();
            let line = Event::new("record-lost").quoted("file", file.as_bytes());
            let line = line.quoted("reason", reason.as_bytes()).text();
            sink.write(Level::Error, self.pid, &one_line(&line));
        }
    }

    /// Tells it whether its records are written, if it listens.
    fn answer(&self) {
        let answer = match &self.records.lost {
            None => FromLogger::Written,
            Some(reason) => FromLogger::Lost(reason.clone()),
        };
        let _ = self.door.send_nowait(&answer, &[]);
    }

    /// Says how many of its lines were too many.
    fn tell_lost(&mut self, sink: &mut Sink) {
        if let Some(count) = self.allowance.as_mut().and_then(Allowance::lost) {
            let line = Event::new("lines-lost").field("count", count).field("reason", "flood");
            sink.write(Level::Warning, self.pid, &line.text());
        }
    }
}

struct Logger {
    poll: Poll,
    control: Control,
    sink: Sink,
    files: Files,
    speakers: BTreeMap<usize, Speaker>,
    ready: BTreeSet<usize>,
    next: usize,
    threshold: Level,
}

/// Serves until the control channel ends; the exit status of the process.
///
/// # Errors
/// The event loop cannot be made, or the control channel is broken.
pub fn run(seat: Seat, sink: Sink, files: Files, threshold: Level) -> io::Result<()> {
    let poll = Poll::new()?;
    let (first, control) = (seat.turn == Turn::First, seat.control);
    poll.registry()
        .register(&mut SourceFd(&control.as_raw_fd()), CONTROL, Interest::READABLE)?;
    let mut logger = Logger {
        poll,
        control,
        sink,
        files,
        speakers: BTreeMap::new(),
        ready: BTreeSet::new(),
        next: 0,
        threshold,
    };
    // Who comes later has lost all doors; the master makes them anew when it hears this.
    let ready = &FromHelper::Ready;
    let said = if first {
        logger.control.send(ready)
    } else {
        logger.control.send_nowait(ready, &[])
    };
    said.map_err(io::Error::other)?;
    logger.serve()
}

impl Logger {
    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut ending = false;
        let mut last_rounds = LAST_ROUNDS;
        let mut rounds = Instant::now();
        loop {
            if !ending && self.ready.is_empty() && rounds.elapsed() < BUSY {
                std::thread::sleep(REST);
            }
            let timeout = (ending || !self.ready.is_empty()).then_some(Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let mut control = false;
            for event in &events {
                match event.token() {
                    CONTROL => control = true,
                    Token(number) => {
                        self.ready.insert(number);
                    }
                }
            }
            if control && !ending {
                ending = !self.hear_master()?;
            }
            let mut lines = false;
            for number in std::mem::take(&mut self.ready) {
                lines |= self.hear_speaker(number);
            }
            self.sink.flush();
            if lines {
                rounds = Instant::now();
            }
            if ending {
                last_rounds -= 1;
                if self.ready.is_empty() || last_rounds == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Takes what the master says; false when it is gone or wants us to end.
    fn hear_master(&mut self) -> io::Result<bool> {
        loop {
            match self.control.receive_nowait() {
                Ok((ToHelper::Door { worker, pid }, Some(fd))) => {
                    if let Err(error) = self.admit(Door::new(fd), worker, pid) {
                        self.refuse(pid, &error);
                    }
                }
                Ok((ToHelper::Door { pid, .. }, None)) => {
                    self.refuse(pid, &io::Error::other("no descriptor is free"));
                }
                Ok((ToHelper::Reload { level }, _)) => {
                    self.threshold = Level::from_number(level);
                    self.files.reopen();
                    if let Err(error) = self.sink.reopen() {
                        let line = Event::new("log-reopen-failed")
                            .quoted("error", error.to_string().as_bytes())
                            .text();
                        self.sink.write(Level::Error, std::process::id(), &line);
                    }
                }
                Ok(_) => {}
                Err(Fault::WouldBlock) => return Ok(true),
                Err(Fault::Closed) => return Ok(false),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    fn admit(&mut self, door: Door, worker: u32, pid: i32) -> io::Result<()> {
        // A helper's parent and its working process have the same door. So has one worker after the other; the master
        // has asked for that before the first one could speak.
        if worker == 0 {
            socket::tell_senders(&door)?;
        }
        let number = self.next;
        self.next += 1;
        self.poll
            .registry()
            .register(&mut SourceFd(&door.as_raw_fd()), Token(number), Interest::READABLE)?;
        self.speakers.insert(
            number,
            Speaker {
                door,
                pid: pid.unsigned_abs(),
                is_muted: false,
                records: records::Door::default(),
                allowance: (worker != 0).then(|| Allowance::new(Instant::now())),
            },
        );
        Ok(())
    }

    /// Says that a process will not be heard.
    fn refuse(&mut self, pid: i32, why: &io::Error) {
        let event = Event::new("door-refused").field("pid", pid);
        let line = event.quoted("reason", why.to_string().as_bytes()).text();
        self.sink.write(Level::Error, std::process::id(), &line);
    }

    /// Writes what a speaker has said; whether it was anything.
    fn hear_speaker(&mut self, number: usize) -> bool {
        let Some(speaker) = self.speakers.get_mut(&number) else {
            return false;
        };
        if speaker.allowance.as_mut().is_some_and(|one| one.renew(Instant::now())) {
            speaker.tell_lost(&mut self.sink);
        }
        let mut taken = 0;
        while taken < TURN {
            let (said, sender) = match speaker.door.receive_signed_nowait() {
                Ok(heard) => heard,
                Err(Fault::WouldBlock) => return taken > 0,
                // Whose it was, nobody knows.
                Err(Fault::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    (Err(frame::Fault::TooLong), None)
                }
                Err(_) => {
                    self.left(number);
                    return taken > 0;
                }
            };
            speaker.is_now(sender, &mut self.files, &mut self.sink);
            taken += 1;
            match said {
                _ if speaker.is_muted => {}
                Ok(ToLogger::Line { level, text }) => speaker.write(self.threshold, level, &text, &mut self.sink),
                Ok(ToLogger::Lines(lines)) => {
                    taken += lines.len().saturating_sub(1);
                    for (level, text) in lines {
                        speaker.write(self.threshold, level, &text, &mut self.sink);
                    }
                }
                Ok(ToLogger::Record(record)) => speaker.record(record, &mut self.files, &mut self.sink),
                Ok(ToLogger::Sync) => speaker.answer(),
                // Another may have the door after it, and is to be heard.
                Err(fault) => speaker.mute(sender, &fault, &mut self.sink),
            }
        }
        self.ready.insert(number);
        true
    }

    /// A speaker is gone.
    fn left(&mut self, number: usize) {
        let Some(mut speaker) = self.speakers.remove(&number) else {
            return;
        };
        speaker.is_gone(&mut self.files, &mut self.sink);
    }
}

/// The text with anything that is not printable ASCII replaced: a speaker that was taken over can forge
/// values, but neither lines nor terminal sequences.
fn one_line(text: &str) -> String {
    text.chars()
        .take(crate::log::LINE_MAX)
        .map(|c| if (' '..='~').contains(&c) { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::log::TOGETHER;
    use crate::sys::socket;

    /// A logger that writes to `path`, and the doors of speakers with these numbers.
    fn logger(path: &std::path::Path, workers: &[u32]) -> (Logger, Vec<Channel<ToLogger, FromLogger>>) {
        let (control, _) = socket::seqpacket_pair().unwrap();
        let mut logger = Logger {
            poll: Poll::new().unwrap(),
            control: Control::new(control),
            sink: Sink::open(Destination::File(path.to_path_buf())).unwrap(),
            files: Files::default(),
            speakers: BTreeMap::new(),
            ready: BTreeSet::new(),
            next: 0,
            threshold: Level::Info,
        };
        // What the kernel says of the sender.
        let pid = std::process::id();
        let mut doors = Vec::new();
        for worker in workers {
            let (ours, theirs) = socket::seqpacket_pair().unwrap();
            socket::tell_senders(&ours).unwrap();
            logger.admit(Door::new(ours), *worker, pid as i32).unwrap();
            doors.push(Channel::new(theirs));
        }
        (logger, doors)
    }

    #[test]
    fn who_floods_loses_its_own_lines_and_others_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (mut logger, mut doors) = logger(&path, &[7, 8, 0]);
        let say = |door: &Channel<ToLogger, FromLogger>, text: &str| {
            let (level, text) = (Level::Info as u8, text.to_owned());
            door.send_nowait(&ToLogger::Line { level, text }, &[]).is_ok()
        };
        let more = 1000;
        for count in 0..allowance::LINES + more {
            assert!(say(&doors[0], "event=flood") && say(&doors[2], "event=work"));
            if count % 1000 == 0 {
                assert!(say(&doors[1], "event=other"));
            }
            for speaker in 0..3 {
                logger.hear_speaker(speaker);
            }
        }
        doors.remove(0);
        logger.hear_speaker(0);
        logger.sink.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        // On a slow machine the next window may have begun.
        assert!((allowance::LINES..=allowance::LINES + more).contains(&(count("event=flood") as u32)));
        assert_eq!(count("event=work"), (allowance::LINES + more) as usize);
        assert_eq!(count("event=other"), 21);
        let lost: usize = text
            .lines()
            .filter(|line| line.contains(" event=lines-lost ") && line.ends_with(" reason=flood"))
            .filter_map(|line| line.split("count=").nth(1)?.split(' ').next()?.parse::<usize>().ok())
            .sum();
        assert_eq!(count("event=flood") + lost, (allowance::LINES + more) as usize);
    }

    #[test]
    fn who_has_the_door_next_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (mut logger, _doors) = logger(&directory.path().join("log"), &[7]);
        let speaker = logger.speakers.get_mut(&0).unwrap();
        let all = (0..allowance::LINES + 5).filter(|_| speaker.allowance.as_mut().unwrap().admit());
        assert_eq!(all.count(), allowance::LINES as usize);
        speaker.is_now(Some(41), &mut logger.files, &mut logger.sink);
        assert!(speaker.allowance.as_mut().unwrap().admit());
        logger.sink.flush();
        let text = std::fs::read_to_string(directory.path().join("log")).unwrap();
        let mine = format!(
            "warning rsmtpd[{}]: event=lines-lost count=5 reason=flood\n",
            std::process::id()
        );
        assert!(text.ends_with(&mine), "{text}");
    }

    /// As many lines as may go together.
    fn together() -> ToLogger {
        ToLogger::Lines(vec![(Level::Info as u8, "event=flood".into()); TOGETHER])
    }

    #[test]
    fn lines_that_came_together_count_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (mut logger, doors) = logger(&path, &[7]);
        for _ in 0..2 * TURN / TOGETHER {
            doors[0].send_nowait(&together(), &[]).unwrap();
        }
        let count = || {
            let text = std::fs::read_to_string(&path).unwrap();
            text.lines().filter(|line| line.contains("event=flood")).count()
        };
        for turn in 1..=2 {
            logger.hear_speaker(0);
            logger.sink.flush();
            assert_eq!(count(), turn * TURN, "the others have their turn");
        }
        let said = logger.speakers[&0].allowance.as_ref().map(Allowance::said);
        assert_eq!(said, Some(2 * TURN as u32));
    }

    #[test]
    fn who_says_too_much_at_once_is_heard_no_longer_and_named_but_the_next_one_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (mut logger, doors) = logger(&path, &[7, 8]);
        // One that ended had the door before.
        logger.speakers.get_mut(&0).unwrap().pid = 4_000_000;
        let many = ToLogger::Lines(vec![(Level::Info as u8, String::new()); TOGETHER + 1]);
        doors[0].send_nowait(&many, &[]).unwrap();
        socket::send_frame(&doors[0], &vec![1; frame::MAXIMUM + 1], &[]).unwrap();
        doors[0].send_nowait(&together(), &[]).unwrap();
        doors[1].send_nowait(&together(), &[]).unwrap();
        for speaker in 0..2 {
            logger.hear_speaker(speaker);
        }
        // The signature of the next one differs.
        logger.speakers.get_mut(&0).unwrap().pid = 4_000_001;
        doors[0].send_nowait(&together(), &[]).unwrap();
        logger.hear_speaker(0);
        logger.sink.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        let (first, others) = text.split_once('\n').unwrap();
        let pid = std::process::id();
        let wanted = format!(" warning rsmtpd[{pid}]: event=not-understood pid={pid} reason=\"frame is malformed\"");
        assert!(first.ends_with(&wanted), "{first}");
        assert_eq!(others.lines().count(), 2 * TOGETHER, "{text}");
    }

    #[test]
    fn records_of_one_process_do_not_become_those_of_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (mut logger, mut doors) = logger(&path.join("log"), &[7]);
        logger.files = Files::open(&[path.to_path_buf()]).0;
        let record = |octets: &[u8], more| Record {
            directory: path.to_str().unwrap().into(),
            file: "records".into(),
            limit: 100,
            octets: octets.to_vec(),
            more,
        };
        // One that ended had the door before: it lost a record, and left another unfinished.
        let speaker = logger.speakers.get_mut(&0).unwrap();
        speaker.pid = 4_000_000;
        assert!(logger.files.take(&mut speaker.records, record(&[b'x'; 101], false)));
        assert!(!logger.files.take(&mut speaker.records, record(b"former", true)));
        doors[0]
            .send_nowait(&ToLogger::Record(record(b"mine", false)), &[])
            .unwrap();
        doors[0].send_nowait(&ToLogger::Sync, &[]).unwrap();
        logger.hear_speaker(0);
        assert_eq!(std::fs::read(path.join("records")).unwrap(), b"mine");
        assert_eq!(doors[0].receive_nowait().unwrap().0, FromLogger::Written);
        doors.clear();
        logger.hear_speaker(0);
        logger.sink.flush();
        let text = std::fs::read_to_string(path.join("log")).unwrap();
        assert!(
            text.contains(" error rsmtpd[4000000]: event=records-lost count=1 "),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn who_never_falls_silent_does_not_keep_the_logger_from_its_end() {
        use std::sync::Barrier;
        use std::sync::atomic::{AtomicBool, Ordering};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (mut logger, doors) = logger(&path, &[0, 1, 2, 3, 4, 5, 6]);
        let (control, master) = socket::seqpacket_pair().unwrap();
        logger.control = Control::new(control);
        let control = logger.control.as_raw_fd();
        let registry = logger.poll.registry();
        registry
            .register(&mut SourceFd(&control), CONTROL, Interest::READABLE)
            .unwrap();
        let last = || {
            let (level, text) = (Level::Info as u8, "event=last".into());
            doors[0].send_nowait(&ToLogger::Line { level, text }, &[]).is_ok()
        };
        let count = (0..100_000).take_while(|_| last()).count();
        drop(master);
        let (over, full, began) = (AtomicBool::new(false), Barrier::new(doors.len()), Instant::now());
        // It has more to do for each than who says it.
        let record = ToLogger::Record(Record {
            directory: directory.path().to_str().unwrap().into(),
            file: "records".into(),
            limit: 1 << 20,
            octets: vec![b'x'],
            more: false,
        });
        logger.files = Files::open(&[directory.path().to_path_buf()]).0;
        let frame = crate::ipc::frame::encode(&record).unwrap();
        let flood = |door: &Channel<ToLogger, FromLogger>| {
            while socket::send_frame_nowait(door, &frame, &[]).is_ok() {}
            full.wait();
            while !over.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(20) {
                let _ = socket::send_frame_nowait(door, &frame, &[]);
            }
            over.load(Ordering::Relaxed)
        };
        let flooded = std::thread::scope(|scope| {
            let floods: Vec<_> = doors.iter().skip(1).map(|door| scope.spawn(|| flood(door))).collect();
            full.wait();
            logger.serve().unwrap();
            over.store(true, Ordering::Relaxed);
            floods.into_iter().all(|flood| flood.join().unwrap())
        });
        assert!(flooded, "ended while it was told more");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| line.ends_with("event=last")).count(), count);
    }

    #[test]
    fn a_line_cannot_become_two() {
        assert_eq!(one_line("event=a\nevent=b\x1b[1m"), "event=a?event=b?[1m");
    }
}
