//! What workers say over their Links, and what the master does about it.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;

use crate::ipc::channel::Fault;
use crate::ipc::control::{FromHelper, ToHelper};
use crate::ipc::link::{FromWorker, Role, ToWorker};
use crate::log::{Event, Level};

use super::Master;
use super::helpers::Helpers;
use super::workers::{self, State};

impl Master {
    pub(super) fn hear_worker(&mut self, number: u32) {
        loop {
            let Some(worker) = self.workers.get_mut(number) else {
                return;
            };
            match worker.link.receive_within(Duration::ZERO) {
                Ok((message, _)) => self.heard(number, message),
                Err(Fault::TimedOut | Fault::WouldBlock) => return,
                Err(_) => {
                    let _ = self.poll.registry().deregister(&mut SourceFd(&worker.link.as_raw_fd()));
                    return;
                }
            }
        }
    }

    fn heard(&mut self, number: u32, message: FromWorker) {
        let now = Instant::now();
        let generation = self.generation();
        let Some(worker) = self.workers.get_mut(number) else {
            return;
        };
        match message {
            FromWorker::Ready => {
                if worker.state == State::Starting {
                    worker.state = State::Spare;
                }
                if worker.generation != generation {
                    worker.state = State::Leaving;
                    let _ = worker.link.send_nowait(&ToWorker::Retire, &[]);
                }
            }
            FromWorker::Busy { peer, session } => {
                worker.state = State::Busy { peer, session };
                worker.since = now;
                self.served_sum += 1;
                let refusal = self.sources.opened(peer.ip(), now);
                if let (Some(refusal), Some(worker)) = (refusal, self.workers.get_mut(number)) {
                    let _ = worker.link.send_nowait(&ToWorker::Refuse, &[]);
                    let event = Event::new("source-refused")
                        .field("peer", peer.ip())
                        .field("limit", format!("{refusal:?}").to_lowercase());
                    self.say(Level::Info, event);
                }
                self.pool.taken(self.workers.spares(generation), now);
            }
            FromWorker::Done => {
                let before = std::mem::replace(&mut worker.state, State::Spare);
                if let State::Busy { peer, .. } = before {
                    self.sources.closed(peer.ip());
                }
                if self.ready.served.daemon.workers.connections_per_worker <= 1
                    && let Some(worker) = self.workers.get_mut(number)
                {
                    worker.state = State::Leaving;
                } else if let Some(worker) = self.workers.get_mut(number)
                    && worker.generation != generation
                {
                    worker.state = State::Leaving;
                    let _ = worker.link.send_nowait(&ToWorker::Retire, &[]);
                }
            }
            FromWorker::Changed { fingerprint } => self.read_changed(fingerprint),
            FromWorker::Open { helper } => self.open_door(number, helper),
        }
    }

    pub(super) fn hear_helper(&mut self, number: usize) {
        let Some(role) = Helpers::ROLES.get(number).copied() else {
            return;
        };
        loop {
            let Some(helper) = self.ready.helpers.of(role) else {
                return;
            };
            match helper.hear() {
                Ok(FromHelper::Ready) => self.started_again(role),
                Ok(FromHelper::Failed(reason)) => {
                    for line in reason.lines() {
                        let event = Event::new("helper-not-renewed").field("role", role.name());
                        self.say(Level::Error, event.quoted("fault", line.as_bytes()));
                    }
                }
                Ok(FromHelper::Died(how)) if role == Role::Logger => self.unsaid = Some(how),
                Ok(FromHelper::Died(how)) => self.tell_death(role, &how),
                Err(Fault::TimedOut | Fault::WouldBlock) => return,
                Err(_) => {
                    let _ = self.poll.registry().deregister(&mut SourceFd(&helper.as_raw_fd()));
                    return;
                }
            }
        }
    }

    fn tell_death(&self, role: Role, how: &str) {
        let event = Event::new("helper-died").field("role", role.name()).field("how", how);
        self.say(Level::Critical, event);
    }

    /// A helper's working process was forked again, or replaced: makes the ways to the logger anew that it needs.
    fn started_again(&mut self, role: Role) {
        if role != Role::Logger {
            self.give_voice(role);
            return;
        }
        if let Ok((ours, theirs)) = workers::pair() {
            let own = ToHelper::Door {
                worker: 0,
                pid: nix::unistd::Pid::this().as_raw(),
            };
            if self.ready.helpers.logger.tell(&own, &[theirs.as_fd()]) {
                self.ready.log.rejoin(ours);
            }
        }
        for other in Helpers::ROLES {
            if other != Role::Logger {
                self.give_voice(other);
            }
        }
        for (number, worker) in self.workers.iter() {
            let Ok((ours, theirs)) = workers::pair() else { break };
            let door = ToHelper::Door {
                worker: number,
                pid: worker.pid.as_raw(),
            };
            if self.ready.helpers.logger.tell(&door, &[ours.as_fd()]) {
                let _ = worker.link.send_nowait(&ToWorker::Voice, &[theirs.as_fd()]);
            }
        }
        if let Some(how) = self.unsaid.take() {
            self.tell_death(role, &how);
        }
    }

    fn give_voice(&self, role: Role) {
        if let (Some(helper), Ok((ours, theirs))) = (self.ready.helpers.of(role), workers::pair()) {
            let door = ToHelper::Door {
                worker: 0,
                pid: helper.pid.as_raw(),
            };
            self.ready.helpers.logger.tell(&door, &[ours.as_fd()]);
            helper.tell(&ToHelper::Voice, &[theirs.as_fd()]);
        }
    }

    /// Makes a pair between a worker and a helper.
    fn open_door(&mut self, number: u32, role: Role) {
        let Some(worker) = self.workers.get_mut(number) else {
            return;
        };
        let pair = workers::pair();
        match (self.ready.helpers.of(role), pair) {
            (Some(helper), Ok((ours, theirs))) => {
                helper.tell(
                    &ToHelper::Door {
                        worker: number,
                        pid: worker.pid.as_raw(),
                    },
                    &[ours.as_fd()],
                );
                let _ = worker.link.send_nowait(&ToWorker::Door, &[theirs.as_fd()]);
            }
            _ => {
                let _ = worker.link.send_nowait(&ToWorker::Door, &[]);
            }
        }
    }

    /// A worker found other files than we hold: reads them once a fingerprint and renews the spares.
    fn read_changed(&mut self, fingerprint: u64) {
        if fingerprint == self.ready.served.fingerprint || self.broken.contains(&fingerprint) {
            return;
        }
        match self.ready.served.reread(self.ready.directory.as_fd()) {
            Ok(served) => {
                self.ready.served = served;
                self.broken.clear();
                self.workers.retire_others(self.generation());
                self.ready.notify.status(&self.state());
                self.say(
                    Level::Notice,
                    Event::new("configuration-read").field("generation", self.generation()),
                );
            }
            Err(faults) => {
                if self.broken.len() < 64 {
                    self.broken.insert(fingerprint);
                }
                self.tell_faults(&faults);
                self.ready.notify.status(&self.state());
            }
        }
    }

    pub(super) fn tell_faults(&self, faults: &crate::config::Faults) {
        for fault in faults.to_string().lines() {
            self.say(
                Level::Error,
                Event::new("configuration-broken").quoted("fault", fault.as_bytes()),
            );
        }
    }
}
