//! The doors of workers: what they ask, and what is under way for each.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use crate::ipc::broker::{Answer, Endpoint, FromBroker, MOST_QUESTIONS, ToBroker};
use crate::ipc::channel::{Channel, Fault};
use crate::ipc::numbered::Numbered;
use crate::log::{Event, Level};

use super::connect::{Connecting, LookingUp, Step};
use super::{Broker, HELD};

/// Who waits for an answer of the DNS.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waiting {
    /// A worker, by its door, which gave its question this number.
    Worker(usize, u64),
    /// The connection being made for this door.
    Connection(usize),
}

/// The connection that a worker waits for.
enum Wanted {
    /// Asked for what we do not know, at this time.
    Unknown(Instant),
    LookingUp(LookingUp),
    Connecting(Connecting),
}

/// A worker's end, seen from here.
pub(super) struct Door {
    channel: Channel<Numbered<FromBroker>, Numbered<ToBroker>>,
    /// None where one has it after the other.
    worker: Option<u32>,
    /// By the number of the question.
    wanted: Option<(u64, Wanted)>,
    /// Questions that are open.
    questions: usize,
}

impl Door {
    /// Whether anything is under way that only this process can finish.
    pub(super) fn is_busy(&self) -> bool {
        let wanted = matches!(self.wanted, Some((_, Wanted::LookingUp(_) | Wanted::Connecting(_))));
        wanted || self.questions > 0
    }

    /// When something is late, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.wanted.as_ref()?.1 {
            Wanted::Unknown(at) => Some(*at + HELD),
            Wanted::LookingUp(_) => None,
            Wanted::Connecting(connecting) => Some(connecting.deadline()),
        }
    }
}

impl Broker {
    pub(super) fn admit(&mut self, fd: OwnedFd, worker: Option<u32>) -> io::Result<()> {
        let token = self.next;
        self.next += 2;
        self.poll
            .registry()
            .register(&mut SourceFd(&fd.as_raw_fd()), Token(token), Interest::READABLE)?;
        let door = Door {
            channel: Channel::new(fd),
            worker,
            wanted: None,
            questions: 0,
        };
        self.doors.insert(token, door);
        Ok(())
    }

    pub(super) fn hear_door(&mut self, token: usize) {
        while let Some(door) = self.doors.get_mut(&token) {
            let Numbered { number, words } = match door.channel.receive_nowait() {
                Ok((asked, _)) => asked,
                Err(Fault::WouldBlock) => return,
                Err(Fault::Closed) => {
                    self.doors.remove(&token);
                    return;
                }
                Err(_) => return self.breach(token, "frame"),
            };
            match words {
                ToBroker::Connect(_) if door.wanted.is_some() => {
                    return self.breach(token, "two connections at once");
                }
                ToBroker::Connect(endpoint) => self.connect(token, number, &endpoint),
                ToBroker::Resolve(_) if door.questions >= MOST_QUESTIONS => {
                    return self.breach(token, "too many questions at once");
                }
                ToBroker::Resolve(question) => {
                    door.questions += 1;
                    let waiting = Waiting::Worker(token, number);
                    self.resolver
                        .ask(question, waiting, self.poll.registry(), Instant::now());
                    self.answer_questions();
                }
            }
        }
    }

    /// A worker does what none of ours does; one that has the door after others may not have done all of it.
    fn breach(&mut self, token: usize, what: &str) {
        if let Some(door) = self.doors.remove(&token) {
            let event = Event::new("broker-breach").quoted("what", what.as_bytes());
            match door.worker {
                Some(worker) => (self.place.log)(Level::Critical, event.field("worker", worker)),
                None => (self.place.log)(Level::Warning, event.field("worker", "one-after-the-other")),
            }
        }
    }

    fn connect(&mut self, token: usize, number: u64, endpoint: &Endpoint) {
        if !self.place.settings.endpoints.contains(endpoint) {
            return self.unknown(token, number, endpoint);
        }
        if let Some(addresses) = self.place.hosts.addresses(&endpoint.host) {
            let addresses = addresses.into_iter().map(|ip| (ip, endpoint.port).into());
            return self.connect_to(token, number, addresses.collect());
        }
        let (looking_up, questions) = LookingUp::begin(endpoint);
        if let Some(door) = self.doors.get_mut(&token) {
            door.wanted = Some((number, Wanted::LookingUp(looking_up)));
        }
        for question in questions {
            let waiting = Waiting::Connection(token);
            self.resolver
                .ask(question, waiting, self.poll.registry(), Instant::now());
        }
        self.answer_questions();
    }

    fn connect_to(&mut self, token: usize, number: u64, addresses: Vec<SocketAddr>) {
        if let Some(door) = self.doors.get_mut(&token) {
            let connecting = Connecting::new(addresses, Instant::now());
            door.wanted = Some((number, Wanted::Connecting(connecting)));
            self.step(token);
        }
    }

    /// Asked for what the configuration did not name when we read it. If it was changed since, a successor may know it.
    fn unknown(&mut self, token: usize, number: u64, endpoint: &Endpoint) {
        if !self.asked && !(self.place.changed)() {
            let Endpoint { host, port } = endpoint;
            let text = format!("{host} port {port}: the configuration names no such server");
            return self.answer(token, number, FromBroker::Unreachable(text));
        }
        if !self.asked {
            self.asked = true;
            self.place.seat.ask_to_be_replaced();
        }
        if let Some(door) = self.doors.get_mut(&token) {
            door.wanted = Some((number, Wanted::Unknown(Instant::now())));
        }
    }

    /// Answers what a worker wanted of us beside questions.
    fn answer(&mut self, token: usize, number: u64, words: FromBroker) {
        if let Some(door) = self.doors.get_mut(&token) {
            door.wanted = None;
            if door.channel.send_nowait(&Numbered { number, words }, &[]).is_err() {
                self.doors.remove(&token);
            }
        }
    }

    /// Hands on what the DNS has said.
    pub(super) fn answer_questions(&mut self) {
        for (waiting, answer) in self.resolver.take() {
            match waiting {
                Waiting::Worker(token, number) => self.answer_question(token, number, answer),
                Waiting::Connection(token) => self.looked_up(token, &answer),
            }
        }
    }

    fn answer_question(&mut self, token: usize, number: u64, answer: Answer) {
        if let Some(door) = self.doors.get_mut(&token) {
            door.questions = door.questions.saturating_sub(1);
            let words = FromBroker::Answer(answer);
            let told = door.channel.send_nowait(&Numbered { number, words }, &[]);
            if told.is_err() {
                self.doors.remove(&token);
            }
        }
    }

    fn looked_up(&mut self, token: usize, answer: &Answer) {
        let Some(door) = self.doors.get_mut(&token) else {
            return;
        };
        let Some((number, Wanted::LookingUp(looking_up))) = &mut door.wanted else {
            return;
        };
        let number = *number;
        match looking_up.answered(answer) {
            None => {}
            Some(Ok(addresses)) => self.connect_to(token, number, addresses),
            Some(Err(reason)) => self.answer(token, number, FromBroker::Unreachable(reason)),
        }
    }

    /// Goes on with a connection being made.
    pub(super) fn step(&mut self, token: usize) {
        let Some(door) = self.doors.get_mut(&token) else {
            return;
        };
        let Some((number, Wanted::Connecting(connecting))) = &mut door.wanted else {
            return;
        };
        let number = *number;
        match connecting.step(self.poll.registry(), Token(token + 1), Instant::now()) {
            Step::Wait => {}
            Step::Connected(fd, to) => {
                door.wanted = None;
                let words = FromBroker::Connected { to };
                let told = door.channel.send_nowait(&Numbered { number, words }, &[fd.as_fd()]);
                if told.is_err() {
                    self.doors.remove(&token);
                }
            }
            Step::Failed(reason) => self.answer(token, number, FromBroker::Unreachable(reason)),
        }
    }

    /// Gives up what takes too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_late = |door: &Door| door.deadline().is_some_and(|at| at <= now);
        let late: Vec<usize> = self
            .doors
            .iter()
            .filter(|(_, door)| is_late(door))
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            let wanted = self.doors.get(&token).and_then(|door| door.wanted.as_ref());
            if let Some((number, Wanted::Unknown(_))) = wanted {
                let number = *number;
                self.asked = false;
                let text = "the configuration that the broker has read names no such server".to_owned();
                self.answer(token, number, FromBroker::Unreachable(text));
            } else {
                self.step(token);
            }
        }
    }
}
