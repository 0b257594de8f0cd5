//! Turning clients away when no worker can be had for them: the master accepts them itself and says 421.
//!
//! Listeners are watched only meanwhile. Where descriptors have run out as well, one is kept in reserve: a
//! client that can be neither accepted nor told would keep its listener ready for ever.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Token};
use nix::sys::epoll::{Epoll, EpollCreateFlags};

use crate::log::{Event, Level};
use crate::sys::socket;
use crate::worker::refuse;

use super::{LISTENERS, Master};

/// Clients turned away in one go, so that the master's other duties have their turn.
const TURN: usize = 64;
/// After the reserve did not help.
const PAUSE: Duration = Duration::from_millis(100);
/// The log hears of it this often at most.
const TELL: Duration = Duration::from_secs(60);

/// The listeners, as far as the master answers at them.
#[derive(Debug)]
pub(super) struct Door {
    /// Whether clients are turned away.
    closed: bool,
    /// Listeners that may have clients waiting.
    waiting: Vec<usize>,
    /// When to look again, though even the reserve did not help.
    again: Option<Instant>,
    reserve: Reserve,
    told: Option<Instant>,
    refused_before: u64,
}

/// A descriptor that is given up for the time of one accept.
#[derive(Debug)]
struct Reserve {
    of: OwnedFd,
    spare: Option<OwnedFd>,
}

impl Reserve {
    /// A client that waits on `listener`, numbered as the sandbox allows it to be shut down.
    fn accept(&mut self, listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let client = match socket::accept(listener) {
            Err(error) if is_exhausted(&error) && self.spare.take().is_some() => socket::accept(listener),
            other => other,
        };
        let (client, _) = client?;
        if client.as_raw_fd() >= socket::FIRST_CONTROL {
            return Ok(client);
        }
        // The move needs a second descriptor for a moment.
        match socket::duplicate_at_least(&client, socket::FIRST_CONTROL) {
            Err(_) if self.spare.take().is_some() => socket::duplicate_at_least(&client, socket::FIRST_CONTROL),
            other => other,
        }
    }

    /// Takes a descriptor again, after the client's was closed.
    fn restore(&mut self) {
        if self.spare.is_none() {
            self.spare = socket::duplicate_at_least(&self.of, socket::FIRST_CONTROL).ok();
        }
    }
}

/// Whether this process or the system has no descriptor left.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl Door {
    /// Open: the workers answer.
    ///
    /// # Errors
    /// There is no descriptor to keep.
    pub(super) fn new() -> io::Result<Door> {
        // any descriptor will do that workers do not share: the sandbox lets no other be duplicated
        let of = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?.0;
        let spare = socket::duplicate_at_least(&of, socket::FIRST_CONTROL)?;
        Ok(Door {
            closed: false,
            waiting: Vec::new(),
            again: None,
            reserve: Reserve { of, spare: Some(spare) },
            told: None,
            refused_before: 0,
        })
    }

    /// Somebody waits at this listener.
    pub(super) fn knocked(&mut self, listener: usize) {
        if self.closed && !self.waiting.contains(&listener) {
            self.waiting.push(listener);
        }
    }

    /// When to turn away clients that were not in the last turn; none when nobody is known to wait.
    pub(super) fn behind(&self, now: Instant) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.again.unwrap_or(now))
    }
}

impl Master {
    /// Starts or stops to turn clients away ourselves.
    pub(super) fn watch_listeners(&mut self, refuse: bool) {
        if refuse == self.door.closed {
            return;
        }
        self.door.closed = refuse;
        self.door.waiting.clear();
        self.door.again = None;
        for (number, listener) in self.ready.listeners.iter().enumerate() {
            let fd = listener.as_raw_fd();
            let registry = self.poll.registry();
            if refuse {
                let _ = registry.register(&mut SourceFd(&fd), Token(LISTENERS + number), Interest::READABLE);
                self.door.waiting.push(number);
            } else {
                let _ = registry.deregister(&mut SourceFd(&fd));
            }
        }
        let now = Instant::now();
        if refuse
            && self
                .door
                .told
                .is_none_or(|told| now.saturating_duration_since(told) >= TELL)
        {
            self.door.told = Some(now);
            let refused = self.refused - self.door.refused_before;
            self.door.refused_before = self.refused;
            self.say(
                Level::Warning,
                Event::new("pool-exhausted")
                    .field("workers", self.workers.len())
                    .field("refused", refused)
                    .quoted("remedy", b"raise workers.max, or lower session_timeout"),
            );
        }
    }

    /// Turns away clients that wait, a turn at each listener.
    pub(super) fn turn_away(&mut self, now: Instant) {
        if self.door.again.take_if(|again| *again <= now).is_none() && self.door.again.is_some() {
            return;
        }
        for number in std::mem::take(&mut self.door.waiting) {
            let Some(listener) = self.ready.listeners.get(number) else {
                continue;
            };
            let mut count = 0;
            while count < TURN {
                // Events come once: one that was not accepted because nobody waits is the last.
                match self.door.reserve.accept(listener.as_fd()) {
                    Ok(client) => refuse::client(client, refuse::FULL),
                    Err(error) => {
                        if is_exhausted(&error) {
                            self.door.waiting.push(number);
                            self.door.again = Some(now + PAUSE);
                        }
                        break;
                    }
                }
                self.door.reserve.restore();
                count += 1;
            }
            self.door.reserve.restore();
            self.refused += count as u64;
            if count == TURN {
                self.door.waiting.push(number);
            }
        }
    }
}
