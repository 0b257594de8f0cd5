//! The broker: connects where the configuration says, for workers, which cannot.
//!
//! It may assume that the master tells the truth about who asks through a door. It must never connect anywhere but to
//! what the configuration names that it has read itself, wait for one worker while others ask, or read from a
//! connection that it hands over.

pub mod client;
mod connect;
mod hosts;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use crate::helper::{EX_SOFTWARE, Heard, Seat, Turn};
use crate::ipc::broker::{Endpoint, FromBroker, ToBroker};
use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::{FromHelper, ToHelper};
use crate::log::{Event, Level};

use connect::{Connecting, Step};
pub use hosts::Hosts;

const SEAT: usize = 0;
/// Doors have even tokens from here on, the connections made for them the odd ones behind.
const DOORS: usize = 16;
/// How long a worker is kept waiting that asks for what only a successor of ours may know.
const HELD: Duration = Duration::from_secs(3);
/// How long what is under way may take once another has taken over.
const LAST: Duration = Duration::from_secs(60);

/// What the configuration says that the broker must know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where it may connect.
    pub endpoints: Vec<Endpoint>,
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

/// A worker's end, seen from here.
struct Door {
    channel: Channel<FromBroker, ToBroker>,
    worker: u32,
    connecting: Option<Connecting>,
    /// Asked for what we do not know, at this time.
    held: Option<Instant>,
}

struct Broker {
    place: Place,
    poll: Poll,
    doors: BTreeMap<usize, Door>,
    next: usize,
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
        Ok(Broker {
            place,
            poll,
            doors: BTreeMap::new(),
            next: DOORS,
            asked: false,
            leaving: None,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let now = Instant::now();
            if self.leaving.is_some_and(|end| now >= end || self.is_idle()) {
                return Ok(());
            }
            let patience = self.patience().map(|at| at.saturating_duration_since(now));
            match self.poll.poll(&mut events, patience) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let tokens: Vec<usize> = events.iter().map(|event| event.token().0).collect();
            for token in tokens {
                match token {
                    SEAT => {
                        if !self.hear_seat()? {
                            return Ok(());
                        }
                    }
                    token if token % 2 == 0 => self.hear_door(token),
                    token => self.step(token - 1),
                }
            }
            self.expire(Instant::now());
        }
    }

    fn is_idle(&self) -> bool {
        self.doors.values().all(|door| door.connecting.is_none())
    }

    /// When something is late, if nothing happens before.
    fn patience(&self) -> Option<Instant> {
        let doors = self.doors.values();
        let times = doors.filter_map(|door| {
            let connecting = door.connecting.as_ref().map(Connecting::deadline);
            connecting.into_iter().chain(door.held.map(|at| at + HELD)).min()
        });
        times.chain(self.leaving).min()
    }

    /// Takes what the master or the parent half says; false when this process is to end.
    fn hear_seat(&mut self) -> io::Result<bool> {
        loop {
            match self.place.seat.hear(Duration::ZERO) {
                Ok(Heard::Master(ToHelper::Door { worker, .. }, Some(fd))) => self.admit(fd, worker)?,
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
        self.doors.retain(|_, door| door.connecting.is_some());
    }

    fn admit(&mut self, fd: OwnedFd, worker: u32) -> io::Result<()> {
        let token = self.next;
        self.next += 2;
        self.poll
            .registry()
            .register(&mut SourceFd(&fd.as_raw_fd()), Token(token), Interest::READABLE)?;
        let door = Door {
            channel: Channel::new(fd),
            worker,
            connecting: None,
            held: None,
        };
        self.doors.insert(token, door);
        Ok(())
    }

    fn hear_door(&mut self, token: usize) {
        while let Some(door) = self.doors.get_mut(&token) {
            match door.channel.receive_nowait() {
                Ok((ToBroker::Connect(_), _)) if door.connecting.is_some() || door.held.is_some() => {
                    let worker = door.worker;
                    self.doors.remove(&token);
                    self.breach(worker, "two connections at once");
                }
                Ok((ToBroker::Connect(endpoint), _)) => self.connect(token, &endpoint),
                Err(Fault::WouldBlock) => return,
                Err(Fault::Closed) => {
                    self.doors.remove(&token);
                }
                Err(_) => {
                    let worker = door.worker;
                    self.doors.remove(&token);
                    self.breach(worker, "frame");
                }
            }
        }
    }

    /// A worker does what none of ours does.
    fn breach(&self, worker: u32, what: &str) {
        let event = Event::new("broker-breach").field("worker", worker);
        (self.place.log)(Level::Critical, event.quoted("what", what.as_bytes()));
    }

    fn connect(&mut self, token: usize, endpoint: &Endpoint) {
        if !self.place.settings.endpoints.contains(endpoint) {
            return self.unknown(token, endpoint);
        }
        match self.place.hosts.addresses(&endpoint.host) {
            Some(addresses) if !addresses.is_empty() => {
                let addresses = addresses.into_iter().map(|ip| (ip, endpoint.port).into());
                let connecting = Connecting::new(addresses.collect(), Instant::now());
                if let Some(door) = self.doors.get_mut(&token) {
                    door.connecting = Some(connecting);
                    self.step(token);
                }
            }
            _ => self.answer(
                token,
                &FromBroker::Unreachable(format!("{}: no address", endpoint.host)),
            ),
        }
    }

    /// Asked for what the configuration did not name when we read it. If it was changed since, a successor may know it.
    fn unknown(&mut self, token: usize, endpoint: &Endpoint) {
        if self.asked || (self.place.changed)() {
            if !self.asked {
                self.asked = true;
                self.place.seat.ask_to_be_replaced();
            }
            if let Some(door) = self.doors.get_mut(&token) {
                door.held = Some(Instant::now());
            }
            return;
        }
        self.refuse(token, endpoint);
    }

    fn refuse(&mut self, token: usize, endpoint: &Endpoint) {
        let Endpoint { host, port } = endpoint;
        let text = format!("{host} port {port}: the configuration names no such server");
        self.answer(token, &FromBroker::Unreachable(text));
    }

    fn answer(&mut self, token: usize, answer: &FromBroker) {
        if let Some(door) = self.doors.get_mut(&token) {
            door.connecting = None;
            door.held = None;
            if door.channel.send_nowait(answer, &[]).is_err() {
                self.doors.remove(&token);
            }
        }
    }

    /// Goes on with a connection being made.
    fn step(&mut self, token: usize) {
        let Some(door) = self.doors.get_mut(&token) else {
            return;
        };
        let Some(connecting) = &mut door.connecting else {
            return;
        };
        match connecting.step(self.poll.registry(), Token(token + 1), Instant::now()) {
            Step::Wait => {}
            Step::Connected(fd, to) => {
                door.connecting = None;
                let told = door.channel.send_nowait(&FromBroker::Connected { to }, &[fd.as_fd()]);
                if told.is_err() {
                    self.doors.remove(&token);
                }
            }
            Step::Failed(reason) => self.answer(token, &FromBroker::Unreachable(reason)),
        }
    }

    /// Gives up what takes too long.
    fn expire(&mut self, now: Instant) {
        let late = |door: &Door| {
            let connecting = door.connecting.as_ref().is_some_and(|one| one.deadline() <= now);
            (connecting, door.held.is_some_and(|at| at + HELD <= now))
        };
        let tokens: Vec<(usize, (bool, bool))> = self.doors.iter().map(|(token, door)| (*token, late(door))).collect();
        for (token, (connecting, held)) in tokens {
            if connecting {
                self.step(token);
            }
            if held {
                self.asked = false;
                let text = "the configuration that the broker has read names no such server".to_owned();
                self.answer(token, &FromBroker::Unreachable(text));
            }
        }
    }
}
