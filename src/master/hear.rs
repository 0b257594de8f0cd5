//! What workers say over their Links, and what the master does about it.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use crate::ipc::control::ToHelper;
use crate::ipc::link::{FromWorker, Role, ToWorker};
use crate::log::{Event, Level};

use super::Master;
use super::workers::{self, State};

impl Master {
    pub(super) fn hear_worker(&mut self, number: u32) {
        loop {
            let Some(worker) = self.workers.get_mut(number) else {
                return;
            };
            match worker.link.receive_nowait() {
                Ok((message, _)) => self.heard(number, message),
                // At its end the kernel tells once; its death is noticed as that of a child.
                Err(_) => return,
            }
        }
    }

    fn heard(&mut self, number: u32, message: FromWorker) {
        match message {
            FromWorker::Ready => {
                let generation = self.generation();
                let Some(worker) = self.workers.get_mut(number) else {
                    return;
                };
                let old = worker.generation != generation;
                if old {
                    let _ = worker.link.send_nowait(&ToWorker::Retire, &[]);
                }
                let starting = *worker.state() == State::Starting;
                if starting || old {
                    self.workers
                        .turn(number, if old { State::Leaving } else { State::Spare });
                }
            }
            FromWorker::Busy { peer, session } => self.taken(number, peer, session),
            FromWorker::Done => {
                let last = self.ready.served.daemon.workers.connections_per_worker <= 1;
                let state = if last { State::Leaving } else { State::Spare };
                if let Some(State::Busy { peer, .. }) = self.workers.turn(number, state) {
                    self.sources.closed(peer.ip());
                }
            }
            FromWorker::Changed { fingerprint } => self.read_changed(fingerprint),
            FromWorker::Open { helper } => self.open_door(number, helper),
        }
    }

    /// A spare took a client.
    fn taken(&mut self, number: u32, peer: SocketAddr, session: String) {
        let now = Instant::now();
        if let Some(State::Busy { peer, .. }) = self.workers.turn(number, State::Busy { peer, session }) {
            self.sources.closed(peer.ip());
        }
        let Some(worker) = self.workers.get_mut(number) else {
            return;
        };
        worker.since = now;
        self.served_sum += 1;
        if let Some(refusal) = self.sources.opened(peer.ip(), now) {
            let _ = worker.link.send_nowait(&ToWorker::Refuse, &[]);
            let event = Event::new("source-refused")
                .field("peer", peer.ip())
                .field("limit", format!("{refusal:?}").to_lowercase());
            self.say(Level::Info, event);
        }
        self.pool.taken(self.workers.spares(self.generation()), now);
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
