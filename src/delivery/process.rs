//! The working process: a dispatcher on the control channel, a fixed pool of threads on all doors.
//!
//! All writers share one epoll; a door is armed for one event at a time, so one message of it is under way at once
//! and no thread is bound to a door. Slow agents have threads of their own ([`super::agents`]).

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::{FromHelper, ToHelper};
use crate::ipc::delivery::{FromDelivery, ToDelivery};

use super::agents::{self, Queues};
use super::journal::{self, Slot};
use super::{Log, Settings, file, level, maildir, quoted, spool, status, writer};

/// A worker's end, seen from here.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) channel: Channel<FromDelivery, ToDelivery>,
    /// The body under way, if it was staged.
    pub(super) staged: Mutex<Option<std::fs::File>>,
    token: u64,
    worker: u32,
}

/// What all threads know.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) log: Log,
    pub(super) queues: Queues,
    pub(super) draining: AtomicBool,
    /// Work under way must end at once.
    pub(super) ending: AtomicBool,
    /// Held from a message's last record to its answer: a kill falls between the two of one message at most.
    pub(super) answering: Mutex<()>,
    epoll: Epoll,
    doors: Mutex<HashMap<u64, Arc<Door>>>,
    next: AtomicU64,
    busy: AtomicUsize,
}

/// The lock, also when a thread panicked while it held it: what is inside is a plain collection.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const ARMED: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLONESHOT);

impl Shared {
    pub(super) fn log(&self, level: u8, text: String) {
        (self.log)(level, text);
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
                    self.log(
                        level::ERR,
                        format!(
                            "event=unanswered worker={} reason={}",
                            door.worker,
                            quoted(&fault.to_string())
                        ),
                    );
                }
                self.close(door);
                false
            }
        }
    }

    pub(super) fn close(&self, door: &Arc<Door>) {
        let _ = self.epoll.delete(&door.channel);
        held(&self.doors).remove(&door.token);
    }

    fn open(&self, fd: OwnedFd, worker: u32) -> io::Result<()> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let door = Arc::new(Door {
            channel: Channel::new(fd),
            staged: Mutex::new(None),
            token,
            worker,
        });
        held(&self.doors).insert(token, Arc::clone(&door));
        self.epoll
            .add(&door.channel, EpollEvent::new(ARMED, token))
            .map_err(|error| {
                held(&self.doors).remove(&token);
                io::Error::from(error)
            })
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

/// Works until the master says `Drain` or is gone; returns the exit status. Says `Ready` or `Failed` first.
pub fn run(control: OwnedFd, settings: Settings, log: Log) -> i32 {
    let control: Channel<FromHelper, ToHelper> = Channel::new(control);
    let shared = match start(settings, log) {
        Ok(shared) => shared,
        Err(error) => {
            let _ = control.send(&FromHelper::failed("cannot start", &error));
            return 70;
        }
    };
    if control.send(&FromHelper::Ready).is_err() {
        return 70;
    }
    let mut drained = false;
    loop {
        let received = control.receive_within(Duration::from_millis(if drained { 100 } else { 60_000 }));
        match received {
            Ok((ToHelper::Door { worker, .. }, Some(fd))) => {
                if let Err(error) = shared.open(fd, worker) {
                    shared.log(
                        level::ERR,
                        format!(
                            "event=door_failed worker={worker} reason={}",
                            quoted(&error.to_string())
                        ),
                    );
                }
            }
            Ok((ToHelper::Drain, _)) => {
                drained = true;
                shared.draining.store(true, Ordering::SeqCst);
            }
            Ok((ToHelper::Status { text }, _)) => {
                if let Err(error) = status::write(&shared.settings.state, &text) {
                    let reason = quoted(&error.to_string());
                    shared.log(level::ERR, format!("event=status_failed reason={reason}"));
                }
            }
            Ok(_) | Err(Fault::TimedOut) => {}
            Err(_) => break,
        }
        let idle = shared.busy.load(Ordering::SeqCst) == 0 && held(&shared.doors).is_empty();
        if drained && idle {
            return 0;
        }
    }
    shared.draining.store(true, Ordering::SeqCst);
    let end = Instant::now() + shared.settings.grace;
    while shared.busy.load(Ordering::SeqCst) > 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    // agents still running are killed; what they were at is recorded, and told at the next start
    shared.ending.store(true, Ordering::SeqCst);
    let end = Instant::now() + Duration::from_millis(500);
    while shared.busy.load(Ordering::SeqCst) > 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    0
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
                shared.log(
                    level::CRIT,
                    format!("event=epoll_failed reason={}", quoted(error.desc())),
                );
                return;
            }
        }
        let token = events.first().map_or(u64::MAX, EpollEvent::data);
        let Some(door) = held(&shared.doors).get(&token).cloned() else {
            continue;
        };
        let work = shared.work();
        match door.channel.receive() {
            Ok((request, None)) => writer::serve(shared, slot, &door, request),
            Ok((_, Some(_))) => shared.close(&door),
            Err(fault) => {
                if !matches!(fault, Fault::Closed) {
                    shared.log(
                        level::ERR,
                        format!(
                            "event=door_broken worker={} reason={}",
                            door.worker,
                            quoted(&fault.to_string())
                        ),
                    );
                }
                shared.close(&door);
            }
        }
        drop(work);
    }
}
