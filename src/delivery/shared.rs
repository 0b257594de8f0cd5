//! What all threads of the working process know: the doors under one epoll, the queues, and whether the end is near.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{Shutdown, shutdown};

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::delivery::FromDelivery;
use crate::log::{Event, Level};

use super::door::{Door, Doors, Holder, held};
use super::queues::Queues;
use super::{Log, Settings};

/// What all threads know.
pub(super) struct Shared {
    pub(super) settings: Settings,
    log: Log,
    pub(super) queues: Queues,
    pub(super) draining: AtomicBool,
    /// Work under way must end at once.
    pub(super) ending: AtomicBool,
    /// The state is being written down.
    pub(super) telling: AtomicBool,
    /// Held from a message's last record to its answer: a kill falls between the two of one message at most.
    pub(super) answering: Mutex<()>,
    epoll: Epoll,
    doors: Mutex<Doors>,
    next: AtomicU64,
    busy: AtomicUsize,
}

const ARMED: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLONESHOT);

impl Shared {
    /// Nothing is under way yet.
    pub(super) fn new(settings: Settings, log: Log) -> io::Result<Shared> {
        Ok(Shared {
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
        })
    }

    /// Waits until some worker has said something, and takes its door: nobody else hears it until it is armed again.
    /// None where it has closed meanwhile.
    pub(super) fn next_door(&self) -> Result<Option<Arc<Door>>, Errno> {
        let mut events = [EpollEvent::empty()];
        match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        let token = events.first().map_or(u64::MAX, EpollEvent::data);
        Ok(held(&self.doors).all.get(&token).cloned())
    }

    /// No door says anything more: what a worker sends from now on fails on its side.
    pub(super) fn stop_listening(&self) {
        let doors: Vec<Arc<Door>> = held(&self.doors).all.values().cloned().collect();
        for door in doors {
            let _ = shutdown(door.channel.as_raw_fd(), Shutdown::Read);
        }
    }

    /// Whether something must be finished before the process may end.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst) > 0
    }

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

    /// Answers; whether it could be sent, which it can until the last copy of the other end is closed. If not, the door is
    /// closed as well.
    pub(super) fn tell(&self, door: &Arc<Door>, answer: &FromDelivery) -> bool {
        match door.channel.send_nowait(answer, &[]) {
            Ok(()) => true,
            Err(fault) => {
                if !matches!(fault, Fault::Closed) {
                    let event = door.holder.note(Event::new("unanswered"));
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

    /// Serves its holder through this door. A worker of its own has no other: what one worker can make us keep is what
    /// one door can, and what one that is lent can, of which the master gives it one at most.
    pub(super) fn open(&self, fd: OwnedFd, holder: Holder) -> io::Result<()> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let door = Arc::new(Door {
            channel: Channel::new(fd),
            staged: Mutex::new(None),
            token,
            holder,
            waits: AtomicBool::new(false),
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

    /// Whether nothing is under way and no worker is left.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_busy() && held(&self.doors).all.is_empty()
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
