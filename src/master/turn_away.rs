//! Turning clients away when no worker can be had for them: the master accepts them itself and says 421.
//!
//! Listeners are watched only meanwhile. Where descriptors have run out as well, one is kept in reserve: a
//! client that can be neither accepted nor told would keep its listener ready for ever.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Token};
use nix::sys::eventfd::EventFd;

use crate::log::{Event, Level};
use crate::sys::socket;
use crate::worker::refuse;

use super::descriptors::{is_fixed, raised};
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
struct Reserve(Option<OwnedFd>);

impl Reserve {
    /// A client that waits on `listener`, numbered as the sandbox allows it to be shut down. One whose number cannot be
    /// changed is lost.
    fn accept(&mut self, listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let client = match socket::accept(listener) {
            Err(error) if is_exhausted(&error) && self.0.take().is_some() => socket::accept(listener),
            other => other,
        };
        let (client, _) = client?;
        if client.as_raw_fd() >= socket::FIRST_CONTROL || is_fixed(&client) {
            return raised(client);
        }
        // The move needs a second descriptor for a moment.
        match socket::duplicate_at_least(&client, socket::FIRST_CONTROL) {
            Err(_) if self.0.take().is_some() => socket::duplicate_at_least(&client, socket::FIRST_CONTROL),
            other => other,
        }
    }

    /// Takes a descriptor again, after the client's was closed.
    fn restore(&mut self) {
        if self.0.is_none() {
            self.0 = Reserve::take().ok();
        }
    }

    /// Numbered so that a client can have its place.
    fn take() -> io::Result<OwnedFd> {
        raised(EventFd::new()?.into())
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
        Ok(Door {
            closed: false,
            waiting: Vec::new(),
            again: None,
            reserve: Reserve(Some(Reserve::take()?)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Ended;
    use crate::sys::{in_child, in_full_master};
    use nix::sys::resource::{Resource, setrlimit};
    use std::io::Read as _;
    use std::net::TcpStream;

    /// With every descriptor taken, a client is still accepted, and the reserve is there for the next.
    #[test]
    fn the_reserve_answers_where_no_descriptor_is_left() {
        let listener = socket::listen(([127, 0, 0, 1], 0).into(), 16).unwrap();
        let there = socket::local_addr(&listener).unwrap();
        let mut clients: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(there).unwrap()).collect();
        let ended = in_child(|| {
            let mut door = Door::new().unwrap();
            let highest = door.reserve.0.as_ref().map_or(0, AsRawFd::as_raw_fd) as u64;
            setrlimit(Resource::RLIMIT_NOFILE, highest + 1, highest + 1).unwrap();
            let mut all = Vec::new();
            while let Ok(fd) = socket::duplicate_at_least(&listener, 0) {
                all.push(fd);
            }
            if !is_exhausted(&socket::accept(&listener).unwrap_err()) {
                return 1;
            }
            for _ in 0..3 {
                let Ok(client) = door.reserve.accept(listener.as_fd()) else {
                    return 2;
                };
                refuse::client(client, refuse::FULL);
                door.reserve.restore();
            }
            i32::from(door.reserve.0.is_none()) * 3
        });
        assert_eq!(ended, Ended::Exited(0));
        for client in &mut clients {
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, refuse::FULL);
        }
    }

    /// Where a client's number is one that the sandbox lets nobody duplicate, the master lives, and looks again later.
    #[test]
    fn a_client_numbered_as_what_workers_share_is_not_the_masters_end() {
        let made = || {
            let listener = socket::listen(([127, 0, 0, 1], 0).into(), 16)?;
            let listener = socket::move_fd_at_least(listener, socket::FIRST_CONTROL)?;
            let client = TcpStream::connect(socket::local_addr(&listener)?)?;
            let client = socket::move_fd_at_least(client.into(), socket::FIRST_CONTROL)?;
            Ok((Door::new()?, listener, client))
        };
        let ended = in_full_master("master::turn_away", made, |(mut door, listener, _client)| {
            let accepted = door.reserve.accept(listener.as_fd());
            door.reserve.0 = None;
            door.reserve.restore();
            i32::from(!accepted.is_err_and(|error| is_exhausted(&error)))
        });
        assert!(ended.is_none_or(|ended| ended == Ended::Exited(0)), "{ended:?}");
    }
}
