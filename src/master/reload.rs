//! SIGHUP: the new configuration is checked whole, then put into force; what only a start can do is named.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{Shutdown, shutdown};

use crate::ipc::control::ToHelper;
use crate::log::{Event, Level};
use crate::sys::socket;
use crate::worker::refuse;
use crate::worker::served::Served;

use super::workers::MASTER_DESCRIPTORS;
use super::{Master, pool_sizes};

/// One listener.
struct Listener {
    named: SocketAddr,
    bound: SocketAddr,
    fd: OwnedFd,
    closer: OwnedFd,
}

/// What becomes of the listeners.
struct Listeners {
    /// Those in force, in the order of the configuration.
    kept: Vec<Listener>,
    /// Those no longer named.
    closed: Vec<Listener>,
    /// Positions of those that only the next start will have, and their addresses.
    absent: Vec<(usize, SocketAddr)>,
}

impl Master {
    pub(super) fn reload(&mut self) {
        if self.ending.is_some() {
            return;
        }
        self.ready.notify.reloading();
        let directory = self.ready.directory.as_fd();
        match self.ready.served.reload(&self.ready.path, directory) {
            Ok((served, keys)) => self.put_into_force(served, &keys),
            Err(faults) => {
                self.stale = true;
                self.tell_faults(&faults);
                self.say(Level::Error, Event::new("reload-refused"));
            }
        }
        self.ready.notify.ready(&self.state());
    }

    fn put_into_force(&mut self, served: Served, keys: &[&'static str]) {
        let wanted = served.addresses();
        if !wanted.iter().any(|address| self.ready.named.contains(address)) {
            self.stale = true;
            let reason = b"none of the listeners now named is open, and new ones take effect at the next start";
            self.say(Level::Error, Event::new("reload-refused").quoted("reason", reason));
            return;
        }
        let level = served.log_level();
        let delivery = served.delivery() != self.ready.served.delivery()
            || served.daemon.grace_time != self.ready.served.daemon.grace_time
            || level != self.ready.served.log_level();
        let listeners = self.sort_listeners(&wanted);
        let absent: BTreeSet<usize> = listeners.absent.iter().map(|(position, _)| *position).collect();
        let mut keys = keys.to_vec();
        if self.ready.helpers.broker.is_none() && !served.reach().is_empty() {
            keys.push("broker");
        }
        self.tell_what_waits(&keys, &listeners.absent);
        self.ready.served = served.without(absent);
        self.pool.resize(pool_sizes(&self.ready.served));
        self.sources.configure(&self.ready.served);
        self.broken.clear();
        self.stale = false;
        self.ready.log.set_threshold(level);
        let order = ToHelper::Reload { level: level as u8 };
        let told =
            self.ready.helpers.logger.tell(&order, &[]) && (!delivery || self.ready.helpers.delivery.tell(&order, &[]));
        let told = told
            && self
                .ready
                .helpers
                .broker
                .as_ref()
                .is_none_or(|broker| broker.tell(&order, &[]));
        if !told {
            self.say(Level::Error, Event::new("helper-not-told"));
        }
        // Told to leave before their listener closes, so that none of them finds it closed.
        self.workers.retire_others(self.generation());
        self.take_listeners(listeners);
        self.say(
            Level::Notice,
            Event::new("reloaded").field("generation", self.generation()),
        );
    }

    /// Sorts what listens now by what shall.
    fn sort_listeners(&mut self, wanted: &[SocketAddr]) -> Listeners {
        self.watch_listeners(false);
        let ready = &mut self.ready;
        let addresses = ready.named.drain(..).zip(ready.addresses.drain(..));
        let sockets = ready.listeners.drain(..).zip(ready.closers.drain(..));
        let mut closed: Vec<Listener> = addresses
            .zip(sockets)
            .map(|((named, bound), (fd, closer))| Listener {
                named,
                bound,
                fd,
                closer,
            })
            .collect();
        let (mut kept, mut absent) = (Vec::new(), Vec::new());
        for (position, address) in wanted.iter().enumerate() {
            match closed.iter().position(|listener| listener.named == *address) {
                Some(at) => kept.push(closed.remove(at)),
                None => absent.push((position, *address)),
            }
        }
        Listeners { kept, closed, absent }
    }

    fn take_listeners(&mut self, listeners: Listeners) {
        for listener in listeners.kept {
            self.ready.named.push(listener.named);
            self.ready.addresses.push(listener.bound);
            self.ready.listeners.push(listener.fd);
            self.ready.closers.push(listener.closer);
        }
        for listener in listeners.closed {
            self.refused += refuse_waiting(&listener.fd);
            close(&listener.closer);
            let event = Event::new("closed").field("address", listener.bound);
            self.say(Level::Notice, event);
        }
    }

    /// Names, once each, what this reload could not put into force.
    fn tell_what_waits(&mut self, keys: &[&'static str], absent: &[(usize, SocketAddr)]) {
        let keys = keys.iter().map(|key| format!("key={}", key.replace(' ', "-")));
        let addresses = absent.iter().map(|(_, address)| format!("address={address}"));
        let all: BTreeSet<String> = keys.chain(addresses).collect();
        for what in all.difference(&self.awaiting_start) {
            let text = format!("event=waits {what} note=\"takes effect at the next start\"");
            self.ready.log.line(Level::Notice, text);
        }
        self.awaiting_start = all;
    }
}

/// Says 421 to clients that wait at a listener that is about to close; how many, one turn at most.
fn refuse_waiting(listener: &OwnedFd) -> u64 {
    let mut count = 0;
    while count < 64
        && let Ok((client, _)) = socket::accept(listener)
    {
        // Numbered as the sandbox allows it to be shut down.
        if let Ok(client) = socket::move_fd_at_least(client, MASTER_DESCRIPTORS) {
            refuse::client(client, refuse::FULL);
        }
        count += 1;
    }
    count
}

/// Closes a listener for every process that holds it, at once.
pub(super) fn close(closer: &OwnedFd) {
    let _ = shutdown(closer.as_raw_fd(), Shutdown::Both);
}
