//! SIGHUP: the new configuration is checked whole, then put into force; what only a start can do is named.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use crate::ipc::channel::Fault;
use crate::ipc::control::{FromHelper, ToHelper};
use crate::ipc::keeper::{Certificate, Shown};
use crate::ipc::link::Role;
use crate::log::{Event, Level};
use crate::sys::socket;
use crate::worker::refuse;
use crate::worker::served::Served;

use super::descriptors::{MASTER_DESCRIPTORS, leaves_room, raised};
use super::{Master, pool_sizes, start_keeper, startup};

/// How long the master waits for the keeper; spares serve meanwhile.
const KEEPER_PATIENCE: Duration = Duration::from_secs(5);

/// One listener.
struct Listener {
    named: SocketAddr,
    bound: SocketAddr,
    fd: OwnedFd,
    closer: OwnedFd,
}

impl Listener {
    /// Takes a socket that was bound for us, with the numbers that workers and the master have for it.
    fn new(named: SocketAddr, fd: OwnedFd) -> Result<Listener, NotOpened> {
        let refused = |error: std::io::Error| NotOpened::from(error.to_string().as_str());
        let bound = socket::local_addr(&fd).map_err(refused)?;
        if bound.ip() != named.ip() || (bound.port() != named.port() && named.port() != 0) {
            return Err("rsmtpd.yaml has changed meanwhile".into());
        }
        // The sandbox lets nobody duplicate what is numbered as a listener of workers.
        if fd.as_raw_fd() >= socket::FIRST_SHARED {
            return Err("the descriptors that a worker may have are used up".into());
        }
        let closer = socket::duplicate_at_least(&fd, MASTER_DESCRIPTORS).map_err(refused)?;
        let fd = socket::move_fd_at_least(fd, socket::FIRST_SHARED).map_err(refused)?;
        if !leaves_room(&fd) {
            return Err("too many addresses to listen on: expected at most 27".into());
        }
        Ok(Listener {
            named,
            bound,
            fd,
            closer,
        })
    }
}

/// Why a listener was not opened.
struct NotOpened {
    reason: String,
    taken: bool,
}

impl From<&str> for NotOpened {
    fn from(reason: &str) -> NotOpened {
        NotOpened {
            reason: reason.to_owned(),
            taken: false,
        }
    }
}

/// What becomes of the listeners.
struct Listeners {
    /// Those in force, by their positions in the configuration.
    kept: Vec<(usize, Listener)>,
    /// Those no longer named.
    closed: Vec<Listener>,
    /// Positions of those that cannot be opened now, and their addresses.
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
        let level = served.log_level();
        let certificates = self.renew_keeper(level);
        let served = served.with_certificates(certificates);
        let wanted = served.addresses();
        let mut listeners = self.sort_listeners(&wanted);
        self.open_absent(&mut listeners);
        if listeners.kept.is_empty() && !listeners.closed.is_empty() {
            self.stale = true;
            listeners.kept = listeners.closed.drain(..).enumerate().collect();
            self.take_listeners(listeners);
            let reason = b"none of the listeners now named can be opened";
            self.say(Level::Error, Event::new("reload-refused").quoted("reason", reason));
            return;
        }
        let delivery = served.delivery() != self.ready.served.delivery()
            || served.daemon.grace_time != self.ready.served.daemon.grace_time
            || level != self.ready.served.log_level();
        let absent: BTreeSet<usize> = listeners.absent.iter().map(|(position, _)| *position).collect();
        let keys: Vec<String> = keys
            .iter()
            .map(|key| format!("key={}", key.replace(' ', "-")))
            .collect();
        self.tell_what_waits(keys, &served.record_directories());
        if served.daemon.workers.max > self.ready.served.daemon.workers.max {
            startup::warn_about_limits(served.daemon.workers.max, &self.ready.log);
        }
        self.tell_new_notes(&served);
        self.ready.served = served.without(absent);
        self.pool.resize(pool_sizes(&self.ready.served));
        self.sources.configure(&self.ready.served);
        self.broken.clear();
        self.stale = false;
        self.ready.log.set_threshold(level);
        let order = ToHelper::Reload { level: level as u8 };
        if delivery {
            self.workers.replace(Role::Delivery);
        }
        let told =
            self.ready.helpers.logger.tell(&order, &[]) && (!delivery || self.ready.helpers.delivery.tell(&order, &[]));
        let told = told && self.ready.helpers.broker.tell(&order, &[]);
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

    /// Has the keeper read its files; the certificates to be shown from now on.
    fn renew_keeper(&mut self, level: Level) -> Vec<Certificate> {
        let keeper = &self.ready.helpers.keeper;
        self.shown.clear();
        let heard = if keeper.tell(&ToHelper::Reload { level: level as u8 }, &[]) {
            start_keeper::hear(keeper, &self.ready.log, KEEPER_PATIENCE)
        } else {
            Err(Fault::WouldBlock)
        };
        heard.unwrap_or_else(|fault| {
            let event = Event::new("helper-not-renewed").field("role", Role::Keeper.name());
            self.say(Level::Error, event.quoted("fault", fault.to_string().as_bytes()));
            self.ready.served.certificates().to_vec()
        })
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
                Some(at) => kept.push((position, closed.remove(at))),
                None => absent.push((position, *address)),
            }
        }
        Listeners { kept, closed, absent }
    }

    /// Has the keeper bind what does not listen yet. Where an address is taken, perhaps by a listener of ours that is
    /// no longer named (`*` in place of one address), that one is closed first.
    fn open_absent(&mut self, listeners: &mut Listeners) {
        for (position, address) in std::mem::take(&mut listeners.absent) {
            let mut opened = self.listener(position, address);
            if let Err(NotOpened { taken: true, .. }) = opened {
                let (obstacles, others): (Vec<_>, Vec<_>) = std::mem::take(&mut listeners.closed)
                    .into_iter()
                    .partition(|listener| listener.bound.port() == address.port());
                listeners.closed = others;
                if !obstacles.is_empty() {
                    obstacles.into_iter().for_each(|listener| self.close_listener(listener));
                    opened = self.listener(position, address);
                }
            }
            match opened {
                Ok(listener) => {
                    let event = Event::new("listening").field("address", listener.bound);
                    self.say(Level::Notice, event);
                    listeners.kept.push((position, listener));
                }
                Err(not) => {
                    let event = Event::new("not-listening").field("address", address);
                    self.say(Level::Error, event.quoted("error", not.reason.as_bytes()));
                    listeners.absent.push((position, address));
                }
            }
        }
        listeners.kept.sort_by_key(|(position, _)| *position);
    }

    /// The socket address at this position of the configuration, bound by the keeper.
    fn listener(&self, position: usize, named: SocketAddr) -> Result<Listener, NotOpened> {
        let keeper = &self.ready.helpers.keeper;
        let order = ToHelper::Listen {
            position: u32::try_from(position).unwrap_or(u32::MAX),
        };
        if !keeper.tell(&order, &[]) {
            return Err("the keeper takes no orders".into());
        }
        let until = Instant::now() + KEEPER_PATIENCE;
        loop {
            let heard = keeper.hear_within(until.saturating_duration_since(Instant::now()));
            match heard.map_err(|fault| NotOpened::from(fault.to_string().as_str()))? {
                (FromHelper::Keeper(Shown::Listening), Some(fd)) => return Listener::new(named, fd),
                (FromHelper::Keeper(Shown::NotListening { reason, taken }), _) => {
                    return Err(NotOpened { reason, taken });
                }
                (FromHelper::Died(_) | FromHelper::Ready, _) => return Err("the keeper died meanwhile".into()),
                _ => {}
            }
        }
    }

    fn take_listeners(&mut self, listeners: Listeners) {
        for (_, listener) in listeners.kept {
            self.ready.named.push(listener.named);
            self.ready.addresses.push(listener.bound);
            self.ready.listeners.push(listener.fd);
            self.ready.closers.push(listener.closer);
        }
        for listener in listeners.closed {
            self.close_listener(listener);
        }
    }

    fn close_listener(&mut self, listener: Listener) {
        self.refused += refuse_waiting(&listener.fd);
        close(&listener.closer);
        self.workers.close(listener.fd);
        let event = Event::new("closed").field("address", listener.bound);
        self.say(Level::Notice, event);
    }

    /// Says what an administrator should know of files that are about to be in force, as far as it is new.
    pub(super) fn tell_new_notes(&self, served: &Served) {
        let known: BTreeSet<String> = self.ready.served.notes().collect();
        startup::say_notes(served.notes().filter(|note| !known.contains(note)), &self.ready.log);
    }

    /// Names the directories of records of a configuration that was read without a reload, as far as they are new.
    pub(super) fn tell_new_directories(&mut self) {
        let keys = self.awaiting_start.iter().filter(|what| what.starts_with("key="));
        let keys = keys.cloned().collect();
        let directories = self.ready.served.record_directories();
        self.tell_what_waits(keys, &directories);
    }

    /// Names, once each, what could not be put into force: keys, and directories that the logger has not opened.
    fn tell_what_waits(&mut self, keys: Vec<String>, directories: &[PathBuf]) {
        let new = directories.iter().filter(|path| !self.ready.records.contains(path));
        let all: BTreeSet<String> = keys.into_iter().chain(new.map(|path| named(path))).collect();
        for what in all.difference(&self.awaiting_start) {
            let (kind, value) = what.split_once('=').unwrap_or(("key", what));
            let event = Event::new("waits").field(kind, value);
            self.say(Level::Notice, event.quoted("note", b"takes effect at the next start"));
        }
        self.awaiting_start = all;
    }
}

/// A directory as it stands in a line of the log.
fn named(directory: &Path) -> String {
    let line = Event::new("waits")
        .word("directory", &directory.display().to_string())
        .text();
    line.trim_start_matches("event=waits ").to_owned()
}

/// Says 421 to clients that wait at a listener that is about to close; how many, one turn at most.
fn refuse_waiting(listener: &OwnedFd) -> u64 {
    let mut count = 0;
    while count < 64
        && let Ok((client, _)) = socket::accept(listener)
    {
        // Numbered as the sandbox allows it to be shut down.
        if let Ok(client) = raised(client) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{in_full_master, process::Ended};
    use std::net::TcpStream;

    #[test]
    fn what_is_numbered_as_workers_share_it_is_not_the_masters_end() {
        let made = || {
            let high = |fd| socket::move_fd_at_least(fd, MASTER_DESCRIPTORS);
            let listener = high(socket::listen(([127, 0, 0, 1], 0).into(), 16)?)?;
            let client = high(TcpStream::connect(socket::local_addr(&listener)?)?.into())?;
            Ok((listener, client))
        };
        let ended = in_full_master("master::reload", made, |(listener, _client)| {
            let Ok(named) = socket::local_addr(&listener) else {
                return 1;
            };
            if refuse_waiting(&listener) != 1 {
                return 2;
            }
            // As it comes from the keeper.
            let Ok(passed) = socket::duplicate_at_least(&listener, socket::FIRST_SHARED) else {
                return 3;
            };
            i32::from(Listener::new(named, passed).is_ok()) * 4
        });
        assert!(ended.is_none_or(|ended| ended == Ended::Exited(0)), "{ended:?}");
    }
}
