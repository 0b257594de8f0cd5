//! The working process: a dispatcher on the control channel, a fixed pool of threads on all doors.
//!
//! All writers share one epoll; a door is armed for one event at a time, so one message of it is under way at once
//! and no thread is bound to a door. Slow agents have threads of their own ([`super::agents`]).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{Shutdown, shutdown};

use crate::helper::{Heard, Seat, Turn};
use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::{FromHelper, ToHelper};
use crate::ipc::delivery::{FromDelivery, ToDelivery};
use crate::log::{Event, Level};
use crate::sys::socket;

use super::agents::{self, Queues};
use super::journal::{self, Slot};
use super::{Log, Settings, file, maildir, spool, status, writer};

/// A worker's end, seen from here.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) channel: Channel<FromDelivery, ToDelivery>,
    /// The body under way, if it was staged.
    pub(super) staged: Mutex<Option<std::fs::File>>,
    token: u64,
    worker: u32,
}

/// All doors by token, and the newest one of each worker.
#[derive(Debug, Default)]
struct Doors {
    all: HashMap<u64, Arc<Door>>,
    newest: HashMap<u32, u64>,
}

impl Doors {
    /// Takes a door; the one that its worker had before, which it has given up.
    fn insert(&mut self, door: &Arc<Door>) -> Option<Arc<Door>> {
        self.all.insert(door.token, Arc::clone(door));
        let before = self.newest.insert(door.worker, door.token);
        before.and_then(|token| self.all.remove(&token))
    }

    fn remove(&mut self, door: &Door) {
        self.all.remove(&door.token);
        if self.newest.get(&door.worker) == Some(&door.token) {
            self.newest.remove(&door.worker);
        }
    }
}

/// What all threads know.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) log: Log,
    pub(super) queues: Queues,
    pub(super) draining: AtomicBool,
    /// Work under way must end at once.
    pub(super) ending: AtomicBool,
    /// The state is being written down.
    telling: AtomicBool,
    /// Held from a message's last record to its answer: a kill falls between the two of one message at most.
    pub(super) answering: Mutex<()>,
    epoll: Epoll,
    doors: Mutex<Doors>,
    next: AtomicU64,
    busy: AtomicUsize,
}

/// How long a process that takes over waits for its way to the logger.
const VOICE_PATIENCE: Duration = Duration::from_secs(5);

/// The lock, also when a thread panicked while it held it: what is inside is a plain collection.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const ARMED: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLONESHOT);

impl Shared {
    pub(super) fn log(&self, level: Level, event: Event) {
        (self.log)(level, event);
    }

    /// Waits for the door's next frame.
    pub(super) fn rearm(&self, door: &Arc<Door>) {
        if self
            .epoll
            .modify(&door.channel, &mut EpollEvent::new(ARMED, door.token))
            .is_err()
        {
            self.close(door);
        }
    }

    /// Answers and waits for the next frame; a worker that does not read loses its door.
    pub(super) fn answer(&self, door: &Arc<Door>, answer: &FromDelivery) {
        if self.tell(door, answer) {
            self.rearm(door);
        }
    }

    /// Answers; whether it could be sent. If not, the door is closed.
    pub(super) fn tell(&self, door: &Arc<Door>, answer: &FromDelivery) -> bool {
        match door.channel.send_nowait(answer, &[]) {
            Ok(()) => true,
            Err(fault) => {
                if !matches!(fault, Fault::Closed) {
                    let event = Event::new("unanswered").field("worker", door.worker);
                    self.log(Level::Error, event.word("reason", &fault.to_string()));
                }
                self.close(door);
                false
            }
        }
    }

    pub(super) fn close(&self, door: &Arc<Door>) {
        let _ = self.epoll.delete(&door.channel);
        held(&self.doors).remove(door);
    }

    /// Serves a worker through this door, and through no other: what one worker can make us keep is what one door can.
    fn open(&self, fd: OwnedFd, worker: u32) -> io::Result<()> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let door = Arc::new(Door {
            channel: Channel::new(fd),
            staged: Mutex::new(None),
            token,
            worker,
        });
        let before = held(&self.doors).insert(&door);
        if let Some(before) = before {
            let _ = self.epoll.delete(&before.channel);
        }
        self.epoll
            .add(&door.channel, EpollEvent::new(ARMED, token))
            .map_err(|error| {
                held(&self.doors).remove(&door);
                io::Error::from(error)
            })
    }

    fn obey(self: &Arc<Self>, seat: &Seat, rejoin: &dyn Fn(OwnedFd), message: ToHelper, fd: Option<OwnedFd>) {
        match (message, fd) {
            (ToHelper::Door { worker, .. }, Some(fd)) => {
                if let Err(error) = self.open(fd, worker) {
                    let event = Event::new("door-failed").field("worker", worker);
                    self.log(Level::Error, event.word("reason", &error.to_string()));
                }
            }
            (ToHelper::Door { worker, .. }, None) => {
                let event = Event::new("door-refused").field("worker", worker);
                self.log(Level::Error, event.word("reason", "no descriptor is free"));
            }
            (ToHelper::Voice, Some(fd)) => rejoin(fd),
            (ToHelper::Reload { .. }, _) => seat.ask_to_be_replaced(),
            (ToHelper::Drain, _) => self.draining.store(true, Ordering::SeqCst),
            (ToHelper::Status { text }, _) => {
                // To look through a large spool takes long, and doors must not wait for it.
                self.tell_status(text);
            }
            _ => {}
        }
    }

    /// Writes the state down, unless that is under way.
    fn tell_status(self: &Arc<Self>, text: String) {
        if self.telling.swap(true, Ordering::SeqCst) {
            return;
        }
        let shared = Arc::clone(self);
        let tell = move || {
            if let Err(error) = status::write(&shared.settings.state, &text) {
                let event = Event::new("status-failed").word("reason", &error.to_string());
                shared.log(Level::Error, event);
            }
            shared.telling.store(false, Ordering::SeqCst);
        };
        if thread("status".to_owned(), tell).is_err() {
            self.telling.store(false, Ordering::SeqCst);
        }
    }

    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::SeqCst) == 0 && held(&self.doors).all.is_empty()
    }

    /// Another process has taken over: answers what was asked before, takes nothing more, and ends. What a worker
    /// sends from now on fails on its side, so that it knows that it must go to the other.
    fn leave(&self) -> i32 {
        self.draining.store(true, Ordering::SeqCst);
        let doors: Vec<Arc<Door>> = held(&self.doors).all.values().cloned().collect();
        for door in doors {
            let _ = shutdown(door.channel.as_raw_fd(), Shutdown::Read);
        }
        let end = Instant::now() + self.settings.grace + self.settings.timeout;
        while !self.is_idle() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.ending.store(true, Ordering::SeqCst);
        0
    }

    /// Ends what is under way: within the grace time of itself, then at once.
    fn finish(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let end = Instant::now() + self.settings.grace;
        while self.busy.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        // agents still running are killed; what they were at is recorded, and told at the next start
        self.ending.store(true, Ordering::SeqCst);
        let end = Instant::now() + Duration::from_millis(500);
        while self.busy.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Marks that something must be finished before the process may end.
    pub(super) fn work(&self) -> Work<'_> {
        self.busy.fetch_add(1, Ordering::SeqCst);
        Work(&self.busy)
    }
}

/// Something under way; over when dropped.
pub(super) struct Work<'a>(&'a AtomicUsize);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

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

/// Works until the master says `Drain` or is gone, or until another has taken over; returns the exit status. Says
/// `Ready` or `Failed` first.
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
        shared.obey(&seat, &rejoin, message, fd);
    }
    let mut status = 0;
    loop {
        let patience = if shared.draining.load(Ordering::SeqCst) {
            100
        } else {
            60_000
        };
        match seat.hear(Duration::from_millis(patience)) {
            Ok(Heard::Master(message, fd)) => shared.obey(&seat, &rejoin, message, fd),
            Ok(Heard::Leave) => return shared.leave(),
            Err(Fault::TimedOut) => {}
            Err(Fault::Closed) => break,
            Err(fault) => {
                let event = Event::new("control-broken").word("reason", &fault.to_string());
                shared.log(Level::Critical, event);
                status = 70;
                break;
            }
        }
        if shared.draining.load(Ordering::SeqCst) && shared.is_idle() {
            return 0;
        }
    }
    shared.finish();
    status
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
    let shared = Arc::new(Shared {
        settings,
        log,
        queues: Queues::default(),
        draining: AtomicBool::new(false),
        ending: AtomicBool::new(false),
        telling: AtomicBool::new(false),
        answering: Mutex::default(),
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        doors: Mutex::default(),
        next: AtomicU64::new(0),
        busy: AtomicUsize::new(0),
    });
    for number in 0..shared.settings.writers.max(1) {
        let (slot, shared) = (Slot::take(&shared.settings.state)?, Arc::clone(&shared));
        thread(format!("writer-{number}"), move || write(&shared, &slot))?;
    }
    agents::start(&shared)?;
    Ok(shared)
}

pub(super) fn thread(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name)
        .stack_size(512 * 1024)
        .spawn(body)
        .map(drop)
}

fn write(shared: &Arc<Shared>, slot: &Slot) {
    let mut events = [EpollEvent::empty()];
    loop {
        match shared.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => {
                shared.log(Level::Critical, Event::new("epoll-failed").word("reason", error.desc()));
                return;
            }
        }
        let token = events.first().map_or(u64::MAX, EpollEvent::data);
        let Some(door) = held(&shared.doors).all.get(&token).cloned() else {
            continue;
        };
        let work = shared.work();
        match door.channel.receive() {
            Ok(_) if socket::has_unread(&door.channel) => {
                shared.log(Level::Error, Event::new("unread").field("worker", door.worker));
                shared.close(&door);
            }
            Ok((request, None)) => writer::serve(shared, slot, &door, request),
            Ok((_, Some(_))) => shared.close(&door),
            Err(fault) => {
                if !matches!(fault, Fault::Closed) {
                    let event = Event::new("door-broken").field("worker", door.worker);
                    shared.log(Level::Error, event.word("reason", &fault.to_string()));
                }
                shared.close(&door);
            }
        }
        drop(work);
    }
}
