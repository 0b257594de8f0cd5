//! The broker: connects where the configuration says, and asks the DNS, for workers, which cannot.
//!
//! It may assume that the master tells the truth about who asks through a door, of one that is lent that it is one worker
//! after the other. It must never connect anywhere but to
//! what the configuration names that it has read itself, wait for one worker while others ask, or read from a
//! connection that it hands over.
//!
//! Its sandbox holds it to the first by the numbers of TCP ports alone: the kernel can bound neither the addresses that
//! it connects to nor where it sends UDP, without which there is no DNS. Broken into, it could send datagrams
//! anywhere, and reach these ports on any host; the packet filter of the host can bound both, by its user.

mod cache;
pub mod client;
mod connect;
mod doors;
mod hosts;
pub mod message;
mod resolver;
mod servers;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use crate::helper::{EX_SOFTWARE, Heard, Seat, Turn};
use crate::ipc::broker::Endpoint;
use crate::ipc::channel::Fault;
use crate::ipc::control::{FromHelper, ToHelper};
use crate::log::{Event, Level};

use doors::{Door, Waiting};
pub use hosts::Hosts;
use resolver::Resolver;
pub use servers::name_servers;

const SEAT: usize = 0;
/// Doors have even tokens from here on, the connections made for them the odd ones behind.
const DOORS: usize = 16;
/// Questions to the DNS have tokens from here on.
const QUESTIONS: usize = 1 << 40;
/// How long a worker is kept waiting that asks for what only a successor of ours may know.
const HELD: Duration = Duration::from_secs(3);
/// How long what is under way may take once another has taken over.
const LAST: Duration = Duration::from_secs(60);

/// What the configuration says that the broker must know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where it may connect.
    pub endpoints: Vec<Endpoint>,
    /// Whom it asks for names.
    pub name_servers: Vec<SocketAddr>,
}

/// What it works with.
pub struct Place {
    /// Towards the master and the parent half.
    pub seat: Seat,
    /// What it may do.
    pub settings: Settings,
    /// Names of this machine.
    pub hosts: Hosts,
    /// Whether the files of the configuration are other ones than those that `settings` were read from.
    pub changed: Box<dyn Fn() -> bool>,
    /// Says a line.
    pub log: Box<dyn Fn(Level, Event)>,
    /// Takes a new way to the logger.
    pub rejoin: Box<dyn Fn(OwnedFd)>,
}

struct Broker {
    place: Place,
    poll: Poll,
    doors: BTreeMap<usize, Door>,
    next: usize,
    resolver: Resolver<Waiting>,
    /// A successor was asked for.
    asked: bool,
    /// Another has taken over; when patience with what is under way ends.
    leaving: Option<Instant>,
}

/// Serves until the control channel ends or another has taken over; the exit status of the process.
pub fn run(place: Place) -> i32 {
    match Broker::new(place).and_then(|mut broker| broker.serve()) {
        Ok(()) => 0,
        Err(_) => EX_SOFTWARE,
    }
}

impl Broker {
    fn new(place: Place) -> io::Result<Broker> {
        let poll = Poll::new()?;
        for fd in place.seat.descriptors() {
            poll.registry()
                .register(&mut SourceFd(&fd), Token(SEAT), Interest::READABLE)?;
        }
        let ready = &FromHelper::Ready;
        let said = match place.seat.turn {
            Turn::First => place.seat.control.send(ready),
            Turn::Again | Turn::Instead => place.seat.control.send_nowait(ready, &[]),
        };
        said.map_err(io::Error::other)?;
        let resolver = Resolver::new(place.settings.name_servers.clone(), QUESTIONS);
        Ok(Broker {
            place,
            poll,
            doors: BTreeMap::new(),
            next: DOORS,
            resolver,
            asked: false,
            leaving: None,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let now = Instant::now();
            if self.leaving.is_some() {
                self.doors.retain(|_, door| door.is_busy());
            }
            if self.leaving.is_some_and(|end| now >= end || self.is_idle()) {
                return Ok(());
            }
            let patience = self.patience().map(|at| at.saturating_duration_since(now));
            match self.poll.poll(&mut events, patience) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let tokens: Vec<usize> = events.iter().map(|event| event.token().0).collect();
            let now = Instant::now();
            for token in tokens {
                match token {
                    SEAT => {
                        if !self.hear_seat()? {
                            return Ok(());
                        }
                    }
                    token if token >= QUESTIONS => self.resolver.ready(token, self.poll.registry(), now),
                    token if token % 2 == 0 => self.hear_door(token),
                    token => self.step(token - 1),
                }
            }
            self.resolver.expire(self.poll.registry(), now);
            self.answer_questions();
            self.expire(now);
        }
    }

    /// When something is late, if nothing happens before.
    fn patience(&self) -> Option<Instant> {
        let doors = self.doors.values().filter_map(Door::deadline);
        doors.chain(self.leaving).chain(self.resolver.deadline()).min()
    }

    /// Takes what the master or the parent half says; false when this process is to end.
    fn hear_seat(&mut self) -> io::Result<bool> {
        loop {
            match self.place.seat.hear(Duration::ZERO) {
                Ok(Heard::Master(ToHelper::Door { worker, .. }, Some(fd))) => self.admit(fd, Some(worker))?,
                Ok(Heard::Master(ToHelper::LentDoor, Some(fd))) => self.admit(fd, None)?,
                Ok(Heard::Master(ToHelper::Voice, Some(fd))) => (self.place.rejoin)(fd),
                Ok(Heard::Master(ToHelper::Reload { .. }, _)) => self.place.seat.ask_to_be_replaced(),
                Ok(Heard::Master(..)) => {}
                Ok(Heard::Leave) => {
                    self.leave();
                    return Ok(true);
                }
                Err(Fault::TimedOut) => return Ok(true),
                Err(_) => return Ok(false),
            }
        }
    }

    /// Another has taken over: whoever has nothing under way is sent to it.
    fn leave(&mut self) {
        self.leaving = Some(Instant::now() + LAST);
        for fd in self.place.seat.descriptors() {
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
    }

    fn is_idle(&self) -> bool {
        !self.doors.values().any(Door::is_busy)
    }
}
