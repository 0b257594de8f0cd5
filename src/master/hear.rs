//! What workers say over their Links, and what the master does about it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use nix::unistd::Pid;

use crate::ipc::channel::Fault;
use crate::ipc::control::ToHelper;
use crate::ipc::link::{FromWorker, Role, ToWorker};
use crate::ipc::sources::{Limit, Source};
use crate::log::{Event, Level};
use crate::sys::arena;
use crate::sys::process::{self, Ended};

use super::Master;
use super::conduct::State;
use super::descriptors;
use super::workers::{Workers, is_regular};

/// Reports taken from one worker before the others have their turn.
const TURN: usize = 32;
/// How long a worker may be at the last message of a session, and at its end.
const OVERTIME: Duration = Duration::from_secs(30 * 60);
/// Doors that a worker may have for one client: one to a helper, another each time that was restarted. Descriptors that
/// a worker leaves unread count against the master.
const DOORS: u32 = 32;

impl Master {
    /// Takes what a worker has said; one that says much is heard again later.
    pub(super) fn hear_worker(&mut self, number: u32) {
        for _ in 0..TURN {
            let Some(worker) = self.workers.get_mut(number) else {
                return;
            };
            if worker.captured {
                return;
            }
            match worker.slot.link.receive_nowait() {
                Ok((message, _)) => match worker.judge(&message) {
                    Ok(()) => self.heard(number, message),
                    Err(what) => return self.breach(number, what),
                },
                Err(Fault::WouldBlock) => return,
                // The kernel tells of its end once; it is buried as a child.
                Err(Fault::Closed) => return,
                Err(_) => return self.breach(number, "frame"),
            }
        }
        self.unheard.insert(number);
    }

    fn heard(&mut self, number: u32, message: FromWorker) {
        let now = Instant::now();
        let generation = self.generation();
        match message {
            FromWorker::Ready => self.workers.ready(number, generation),
            FromWorker::Refused { peer, limit } => {
                let (_, source) = self.sources.opened(peer.ip(), now);
                if let Some(source) = source {
                    self.tell_refused(peer, source, limit, now);
                    self.sources.closed(source, now);
                }
            }
            FromWorker::NoProxy { peer } => self.tell_no_proxy(peer, now),
            FromWorker::Busy {
                peer,
                session,
                is_proxy,
            } => self.busy(number, peer, session, is_proxy, now),
            FromWorker::Client { peer } => self.introduced(number, peer, now),
            FromWorker::Done => {
                self.workers.change(number, State::Leaving);
                self.forget_client(number, now);
            }
            // Its word for it is not needed.
            FromWorker::Changed { .. } => self.read_changed(),
            FromWorker::Open { helper } => self.open_door(number, helper),
            FromWorker::Close { helper } => {
                if let Some(worker) = self.workers.get_mut(number) {
                    worker.slot.end_door(helper);
                    let _ = worker.slot.link.send_nowait(&ToWorker::Closed, &[]);
                }
            }
        }
    }

    fn busy(&mut self, number: u32, peer: SocketAddr, session: String, is_proxy: bool, now: Instant) {
        let may_be_introduced = self.ready.served.may_be_introduced(peer.ip());
        let Some(worker) = self.workers.get_mut(number) else {
            return;
        };
        self.served_sum += 1;
        worker.doors = 0;
        worker.may_be_introduced = may_be_introduced;
        // What a proxy brings is its clients'.
        if !is_proxy {
            self.count(number, peer, session.clone(), now);
        }
        self.workers.change(number, State::Busy { peer, session });
        let generation = self.generation();
        self.pool.taken(self.workers.spares(generation), now);
    }

    /// A worker's connection turns out to be a client's who is not at its other end. That is believed only where it may
    /// be: else a worker that was taken over could be counted for anybody.
    fn introduced(&mut self, number: u32, peer: SocketAddr, now: Instant) {
        let Some(worker) = self.workers.get_mut(number).filter(|worker| worker.may_be_introduced) else {
            return;
        };
        if let Some(session) = worker.introduce(peer) {
            self.forget_client(number, now);
            self.count(number, peer, session, now);
        }
    }

    /// Counts a worker's client for its source; one too many is refused.
    fn count(&mut self, number: u32, peer: SocketAddr, session: String, now: Instant) {
        let Some(worker) = self.workers.get_mut(number) else {
            return;
        };
        let (beyond, source) = self.sources.opened(peer.ip(), now);
        worker.source = source;
        if let (Some(limit), Some(source)) = (beyond, source) {
            let _ = worker.slot.link.send_nowait(&ToWorker::Refuse { session }, &[]);
            self.tell_refused(peer, source, limit, now);
        }
    }

    /// Somebody who is no proxy came to a listener for proxies; it counts as a connection of its source.
    fn tell_no_proxy(&mut self, peer: SocketAddr, now: Instant) {
        self.refused += 1;
        let (_, source) = self.sources.opened(peer.ip(), now);
        let count = match source {
            Some(source) => {
                let count = self.sources.refused(source, now);
                self.sources.closed(source, now);
                count
            }
            None => Some(1),
        };
        if let Some(count) = count {
            let event = Event::new("proxy-refused")
                .field("peer", peer.ip())
                .field("count", count);
            self.say(Level::Info, event);
        }
    }

    fn tell_refused(&mut self, peer: SocketAddr, source: Source, limit: Limit, now: Instant) {
        self.refused += 1;
        if let Some(count) = self.sources.refused(source, now) {
            let event = Event::new("source-refused")
                .field("peer", peer.ip())
                .field("limit", limit.name())
                .field("count", count);
            self.say(Level::Info, event);
        }
    }

    /// The client of a worker is gone.
    fn forget_client(&mut self, number: u32, now: Instant) -> Option<Source> {
        let source = self.workers.get_mut(number)?.source.take()?;
        self.sources.closed(source, now);
        Some(source)
    }

    /// A worker does what no worker of ours does: somebody else has taken it over.
    fn breach(&mut self, number: u32, what: &'static str) {
        if let Some(worker) = self.workers.get_mut(number) {
            worker.captured = true;
            let _ = self
                .poll
                .registry()
                .deregister(&mut SourceFd(&worker.slot.link.as_raw_fd()));
            if !worker.ended {
                let _ = process::kill(worker.pid, libc::SIGKILL);
            }
            worker.slot.close_doors();
            let event = Event::new("worker-breach")
                .field("pid", worker.pid)
                .quoted("what", what.as_bytes());
            self.say(Level::Critical, event);
        }
    }

    /// Ends workers that are at one client for longer than any of ours would be.
    pub(super) fn end_overdue(&mut self, now: Instant) {
        let session = self.ready.served.patience().session;
        for number in self.workers.overdue(session, OVERTIME, now) {
            self.breach(number, "overdue");
        }
    }

    /// Buries who has ended. That their doors are closed waits for nothing that is to be done about one of them.
    pub(super) fn reap(&mut self) {
        let ended = std::iter::from_fn(process::reap).inspect(|(pid, how)| self.workers.ended(*pid, *how));
        for (pid, how) in ended.collect::<Vec<_>>() {
            if let Some(role) = self.ready.helpers.role_of(pid) {
                self.helper_gone(role);
            } else if let Some(number) = self.workers.number(pid) {
                // Its last words may say whom it served.
                self.hear_worker(number);
                self.unheard.remove(&number);
                self.bury(number, how);
            }
        }
    }

    fn bury(&mut self, number: u32, how: Ended) {
        let now = Instant::now();
        let source = self.forget_client(number, now);
        let Some(worker) = self.workers.remove(number, how) else {
            return;
        };
        if is_regular(how) || worker.dismissed {
            return;
        }
        self.pool.crashed(now);
        let mut event = Event::new("worker-crashed").field("pid", worker.pid).field("how", how);
        if let State::Busy { peer, session } = &worker.state {
            event = event.field("peer", peer.ip()).quoted("session", session.as_bytes());
        }
        if let Some(source) = source {
            self.sources.penalise(source, now);
        }
        self.say(Level::Critical, event);
    }

    /// Makes a pair between a worker and a helper.
    fn open_door(&mut self, number: u32, role: Role) {
        let Some(worker) = self.workers.get_mut(number) else {
            return;
        };
        worker.doors = worker.doors.saturating_add(1);
        worker.slot.note_door(role);
        // Where it was lent one it has given that up; what still comes there is to fail.
        if role == Role::Broker {
            worker.slot.forget_door(role);
        }
        let pair = (worker.doors <= DOORS).then(descriptors::pair);
        match (self.ready.helpers.of(role), pair) {
            (Some(helper), Some(Ok((ours, theirs)))) => {
                let pid = worker.pid.as_raw();
                helper.offer(&ToHelper::Door { worker: number, pid }, ours.as_fd());
                let _ = worker.slot.link.send_nowait(&ToWorker::Door, &[theirs.as_fd()]);
            }
            _ => {
                let _ = worker.slot.link.send_nowait(&ToWorker::Door, &[]);
            }
        }
    }

    /// A worker found other files than we hold: reads them once a fingerprint and renews the spares.
    fn read_changed(&mut self) {
        let fingerprint = self.ready.served.found(self.ready.directory.as_fd());
        if fingerprint == self.ready.served.fingerprint || self.broken.contains(&fingerprint) {
            return;
        }
        match arena::inherited(|| self.ready.served.reread(self.ready.directory.as_fd())) {
            Ok(served) => {
                self.tell_new_notes(&served);
                self.ready.served = served;
                self.broken.clear();
                self.workers.retire_others(self.generation());
                self.ready.notify.status(&self.state());
                self.say(
                    Level::Notice,
                    Event::new("configuration-read").field("generation", self.generation()),
                );
                self.tell_new_directories();
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

impl Workers {
    /// A process has been reaped. If it was a worker that did not end as it should, nobody has its doors any more, so
    /// that helpers see at once that there is nobody left to tell.
    pub(super) fn ended(&mut self, pid: Pid, how: Ended) {
        if let Some(worker) = self.number(pid).and_then(|number| self.get_mut(number)) {
            worker.ended = true;
            if how != Ended::Exited(0) {
                worker.slot.close_doors();
            }
        }
    }
}
