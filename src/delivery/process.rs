//! The working process: a dispatcher on the control channel, a fixed pool of threads on all doors.
//!
//! All writers share one epoll; a door is armed for one event at a time, so one message of it is under way at once
//! and no thread is bound to a door. Slow agents have threads of their own ([`super::agents`]); while one of them has a
//! message, its door is armed to see whether another is sent, so that two threads may hear of that one: none waits for it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::helper::{Heard, Seat, Turn};
use crate::ipc::channel::Fault;
use crate::ipc::control::{FromHelper, ToHelper};
use crate::log::{Event, Level};
use crate::sys::socket;

use super::door::Holder;
use super::journal::{self, Slot};
use super::queues::Next;
use super::shared::Shared;
use super::{Log, Settings, file, maildir, retry, spool, status, writer};

/// How long a process that takes over waits for its way to the logger.
const VOICE_PATIENCE: Duration = Duration::from_secs(5);

/// How long it waits for the master's next word at a time; nothing depends on it.
const A_WHILE: Duration = Duration::from_secs(60);

/// What a delivery process has from its start-up.
pub struct Place {
    /// Its channels.
    pub seat: Seat,
    /// What it works by.
    pub settings: Settings,
    /// Its voice.
    pub log: Log,
    /// Gives the voice a new way to the logger.
    pub rejoin: Box<dyn Fn(OwnedFd)>,
}

/// Works until the master is gone, or until another has taken over; returns the exit status. Says `Ready` or `Failed`
/// first.
pub fn run(place: Place) -> i32 {
    let Place {
        seat,
        settings,
        log,
        rejoin,
    } = place;
    // Who comes later says so first: the answer is a way to the logger, which may have changed meanwhile.
    let mut early = Vec::new();
    if seat.turn != Turn::First {
        if seat.control.send_nowait(&FromHelper::Ready, &[]).is_err() {
            return 70;
        }
        match await_voice(&seat, &rejoin) {
            Some(heard) => early = heard,
            // Workers see the doors closed that came meanwhile, and ask for others.
            None => return 0,
        }
    }
    let shared = match start(settings, log) {
        Ok(shared) => shared,
        Err(error) => {
            let _ = seat
                .control
                .send_nowait(&FromHelper::failed("cannot start", &error), &[]);
            return 70;
        }
    };
    if seat.turn == Turn::First && seat.control.send(&FromHelper::Ready).is_err() {
        return 70;
    }
    for (message, fd) in early {
        obey(&shared, &seat, &rejoin, message, fd);
    }
    listen(&shared, &seat, &rejoin)
}

/// Does what the master says until the end; the exit status.
fn listen(shared: &Arc<Shared>, seat: &Seat, rejoin: &dyn Fn(OwnedFd)) -> i32 {
    loop {
        match seat.hear(A_WHILE) {
            Ok(Heard::Master(message, fd)) => obey(shared, seat, rejoin, message, fd),
            Ok(Heard::Leave) => return leave(shared),
            Err(Fault::TimedOut) => {}
            Err(Fault::Closed) => {
                finish(shared);
                return 0;
            }
            Err(fault) => {
                let event = Event::new("control-broken").word("reason", &fault.to_string());
                shared.log(Level::Critical, event);
                finish(shared);
                return 70;
            }
        }
    }
}

/// The master is gone: what is under way has the grace time.
fn finish(shared: &Shared) {
    shared.draining.store(true, Ordering::SeqCst);
    await_idleness(shared, shared.settings.grace);
    // agents still running are killed; what they were at is recorded, and told at the next start
    shared.ending.store(true, Ordering::SeqCst);
    await_idleness(shared, Duration::from_millis(500));
}

fn await_idleness(shared: &Shared, patience: Duration) {
    let end = Instant::now() + patience;
    while shared.is_busy() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn obey(shared: &Arc<Shared>, seat: &Seat, rejoin: &dyn Fn(OwnedFd), message: ToHelper, fd: Option<OwnedFd>) {
    match (message, fd) {
        (ToHelper::Door { worker, .. }, fd) => open(shared, fd, Holder::Worker(worker)),
        (ToHelper::LentDoor, fd) => open(shared, fd, Holder::OneAfterTheOther),
        (ToHelper::Voice, Some(fd)) => rejoin(fd),
        (ToHelper::Reload { .. }, _) => seat.ask_to_be_replaced(),
        (ToHelper::Status { text }, _) => {
            // To look through a large spool takes long, and doors must not wait for it.
            tell_status(shared, text);
        }
        _ => {}
    }
}

fn open(shared: &Shared, fd: Option<OwnedFd>, holder: Holder) {
    let event = match fd.map(|fd| shared.open(fd, holder)) {
        Some(Ok(())) => return,
        Some(Err(error)) => holder
            .note(Event::new("door-failed"))
            .word("reason", &error.to_string()),
        None => holder
            .note(Event::new("door-refused"))
            .word("reason", "no descriptor is free"),
    };
    shared.log(Level::Error, event);
}

/// Writes the state down, unless that is under way.
fn tell_status(shared: &Arc<Shared>, text: String) {
    if shared.telling.swap(true, Ordering::SeqCst) {
        return;
    }
    let telling = Arc::clone(shared);
    let tell = move || {
        if let Err(error) = status::write(&telling.settings.state, &text) {
            let event = Event::new("status-failed").word("reason", &error.to_string());
            telling.log(Level::Error, event);
        }
        telling.telling.store(false, Ordering::SeqCst);
    };
    if thread("status".to_owned(), tell).is_err() {
        shared.telling.store(false, Ordering::SeqCst);
    }
}

/// Another process has taken over: answers what was asked before, takes nothing more, and ends. What a worker
/// sends from now on fails on its side, so that it knows that it must go to the other.
fn leave(shared: &Shared) -> i32 {
    shared.draining.store(true, Ordering::SeqCst);
    shared.stop_listening();
    let end = Instant::now() + shared.settings.grace + shared.settings.timeout;
    while !shared.is_idle() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    shared.ending.store(true, Ordering::SeqCst);
    0
}

/// Waits for the way to the logger; what else the master said meanwhile. None when another has taken over already,
/// which is to read the configuration once more if we were told to.
fn await_voice(seat: &Seat, rejoin: &dyn Fn(OwnedFd)) -> Option<Vec<(ToHelper, Option<OwnedFd>)>> {
    let end = Instant::now() + VOICE_PATIENCE;
    let mut early = Vec::new();
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        match seat.hear(left) {
            Ok(Heard::Master(ToHelper::Voice, Some(fd))) => {
                rejoin(fd);
                break;
            }
            Ok(Heard::Master(ToHelper::Reload { .. }, _)) => seat.ask_to_be_replaced(),
            Ok(Heard::Master(message, fd)) => early.push((message, fd)),
            Err(Fault::TimedOut) => {}
            Ok(Heard::Leave) => return None,
            Err(_) => break,
        }
    }
    Some(early)
}

fn start(settings: Settings, log: Log) -> io::Result<Arc<Shared>> {
    for tree in [maildir::MAIL, maildir::QUARANTINE, spool::SPOOL, spool::FAILED] {
        file::make_directory(&settings.state.join(tree))?;
    }
    journal::recover(&settings.state, &log)?;
    for tree in [spool::SPOOL, spool::FAILED] {
        spool::remove_orphans(&settings.state, tree)?;
    }
    let shared = Arc::new(Shared::new(settings, log)?);
    for number in 0..shared.settings.writers.max(1) {
        let (slot, shared) = (Slot::take(&shared.settings.state)?, Arc::clone(&shared));
        thread(format!("writer-{number}"), move || write(&shared, &slot))?;
    }
    start_slow(&shared)?;
    Ok(shared)
}

/// The threads for what may be slow: agents, and whatever the spool has due.
fn start_slow(shared: &Arc<Shared>) -> io::Result<()> {
    let share = (shared.settings.lda_jobs / 2).max(1);
    for number in 0..shared.settings.lda_jobs.max(1) {
        let (slot, shared) = (Slot::take(&shared.settings.state)?, Arc::clone(shared));
        thread(format!("agent-{number}"), move || {
            let mut connection = None;
            let mut turn = false;
            loop {
                turn = !turn;
                let next = shared.queues.next(turn, share);
                let work = shared.work();
                match &next {
                    Next::Fresh(job) => writer::run(&shared, &slot, &mut connection, job),
                    Next::Due(id) => retry::retry(&shared, &slot, &mut connection, id),
                }
                drop(work);
                shared.queues.finished(&next);
            }
        })?;
    }
    let shared = Arc::clone(shared);
    thread("retry".to_owned(), move || retry::watch(&shared))
}

fn thread(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name)
        .stack_size(512 * 1024)
        .spawn(body)
        .map(drop)
}

fn write(shared: &Arc<Shared>, slot: &Slot) {
    loop {
        let door = match shared.next_door() {
            Ok(Some(door)) => door,
            Ok(None) => continue,
            Err(error) => {
                shared.log(Level::Critical, Event::new("epoll-failed").word("reason", error.desc()));
                return;
            }
        };
        let work = shared.work();
        // A worker of ours waits for its answer: who sends now has the door after it, and is not to wait for an agent.
        if door.waits.load(Ordering::SeqCst) {
            if socket::has_input(&door.channel) {
                shared.close(&door);
            }
            continue;
        }
        // Whoever sends before he has read an answer does not read; or that was to a worker which had the door before and
        // is gone. What is there now is not read here: its sender sees so, and goes to another door.
        if socket::has_unread(&door.channel) && socket::has_input(&door.channel) {
            shared.log(Level::Error, door.holder.note(Event::new("unread")));
            shared.close(&door);
            continue;
        }
        match door.channel.receive_nowait() {
            Ok((request, None)) => writer::serve(shared, slot, &door, request),
            Ok((_, Some(_))) => shared.close(&door),
            // Another thread has it, and arms the door again.
            Err(Fault::WouldBlock) => {}
            Err(fault) => {
                if !matches!(fault, Fault::Closed) {
                    let event = door.holder.note(Event::new("door-broken"));
                    shared.log(Level::Error, event.word("reason", &fault.to_string()));
                }
                shared.close(&door);
            }
        }
        drop(work);
    }
}
