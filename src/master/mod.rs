//! The master: holds the listeners, keeps spares waiting, counts, refuses with 421, reaps.
//!
//! It may assume that every helper is ready and that root is gone for good. It must never parse a client's
//! octets, hold a key or a table that grows with the traffic beyond its bounds, or start a thread.

mod hear;
mod helpers;
mod pool;
mod refuse;
mod source_limits;
pub mod startup;
mod workers;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::unistd::Pid;

use crate::ipc::control::ToHelper;
use crate::log::{Event, Level};
use crate::logger::client::Client as Log;
use crate::sys::notify::Notify;
use crate::sys::process::{self, Ended};
use crate::sys::signals::Signals;
use nix::sys::signal::Signal;

use crate::worker::served::Served;
use helpers::Helpers;
use pool::Pool;
use source_limits::SourceLimits;
use workers::{Near, State, Workers};

const SIGNALS: Token = Token(0);
const LISTENERS: usize = 1;
const WORKERS: usize = 1 << 10;

/// What start-up hands over.
pub struct Ready {
    /// The configuration in force.
    pub served: Served,
    /// Its directory, by name for messages and by descriptor for workers.
    pub path: PathBuf,
    /// The open directory.
    pub directory: OwnedFd,
    /// The listeners, non-blocking, low descriptors.
    pub listeners: Vec<OwnedFd>,
    /// Where they listen.
    pub addresses: Vec<SocketAddr>,
    /// Where mail goes, for people.
    pub destination: String,
    /// The helpers.
    pub helpers: Helpers,
    /// A voice.
    pub log: Log,
    /// The service manager.
    pub notify: Notify,
    /// Signals as a descriptor.
    pub signals: Signals,
}

/// The master's state.
struct Master {
    ready: Ready,
    poll: Poll,
    workers: Workers,
    pool: Pool,
    sources: SourceLimits,
    refusing: bool,
    refused: u64,
    served_sum: u64,
    broken: BTreeSet<u64>,
    ending: Option<Instant>,
    status: u8,
}

/// Serves until told to end; the exit status of the daemon.
///
/// # Errors
/// The event loop cannot be made.
pub fn run(ready: Ready) -> io::Result<u8> {
    // What a first use sets up for all later ones is set up here, not in every worker.
    getrandom::u64().map_err(io::Error::other)?;
    let poll = Poll::new()?;
    poll.registry()
        .register(&mut SourceFd(&ready.signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
    let now = Instant::now();
    let pool = Pool::new(pool_sizes(&ready.served), now);
    let sources = SourceLimits::new(source_limits(&ready.served));
    let mut master = Master {
        ready,
        poll,
        workers: Workers::default(),
        pool,
        sources,
        refusing: false,
        refused: 0,
        served_sum: 0,
        broken: BTreeSet::new(),
        ending: None,
        status: 0,
    };
    master.fill(now);
    master.ready.notify.ready("serving");
    master.serve()
}

fn pool_sizes(served: &Served) -> pool::Sizes {
    let workers = &served.daemon.workers;
    pool::Sizes {
        min_spare: workers.min_spare,
        max_spare: workers.max_spare,
        max: workers.max,
    }
}

fn source_limits(served: &Served) -> source_limits::Limits {
    let workers = &served.daemon.workers;
    source_limits::Limits {
        concurrent: workers.per_source,
        per_minute: workers.per_source_rate,
        trusted: workers.trusted.clone(),
    }
}

impl Master {
    fn serve(&mut self) -> io::Result<u8> {
        let mut events = Events::with_capacity(64);
        loop {
            let now = Instant::now();
            if let Some(status) = self.ended(now) {
                return Ok(status);
            }
            let patience = self.patience(now);
            match self.poll.poll(&mut events, patience) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other?,
            }
            for event in &events {
                match event.token() {
                    SIGNALS => self.hear_signals(),
                    Token(number) if number >= WORKERS => self.hear_worker((number - WORKERS) as u32),
                    Token(number) => self.turn_away(number - LISTENERS),
                }
            }
            self.fill(Instant::now());
        }
    }

    /// The exit status when there is nothing left to wait for.
    fn ended(&mut self, now: Instant) -> Option<u8> {
        let until = self.ending?;
        if now >= until && !self.workers.is_empty() {
            self.say(
                Level::Warning,
                Event::new("workers-killed").field("count", self.workers.len()),
            );
            self.workers.kill();
            self.ending = Some(now + Duration::from_secs(5));
            return None;
        }
        if !self.workers.is_empty() {
            return None;
        }
        self.say(
            Level::Notice,
            Event::new("stopped").field("connections", self.served_sum),
        );
        Some(self.status)
    }

    fn patience(&mut self, now: Instant) -> Option<Duration> {
        let advice = self.pool.advise(
            self.workers.spares(self.generation()),
            self.workers.busy(self.generation()),
            now,
        );
        let at = match (advice.again, self.ending) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        at.map(|at| at.saturating_duration_since(now))
    }

    fn generation(&self) -> u64 {
        self.ready.served.generation
    }

    fn say(&self, level: Level, event: Event) {
        self.ready.log.say(level, event);
    }

    /// Brings the number of spares to what the pool advises.
    fn fill(&mut self, now: Instant) {
        if self.ending.is_some() {
            return;
        }
        let generation = self.generation();
        let advice = self
            .pool
            .advise(self.workers.spares(generation), self.workers.busy(generation), now);
        self.workers.retire(advice.retire);
        for _ in 0..advice.fork.min(self.workers.startable()) {
            let near = Near {
                listeners: &self.ready.listeners,
                directory: &self.ready.directory,
            };
            let forked = self.workers.fork(&self.ready.served, &near, &self.ready.helpers);
            match forked.and_then(|number| self.attend(number)) {
                Ok(()) => {}
                Err(error) => {
                    self.pool.trouble(now);
                    self.say(
                        Level::Error,
                        Event::new("fork-failed").quoted("error", error.to_string().as_bytes()),
                    );
                    break;
                }
            }
        }
        self.watch_listeners(advice.refuse);
    }

    fn attend(&mut self, number: u32) -> io::Result<()> {
        let Some(worker) = self.workers.get_mut(number) else {
            return Ok(());
        };
        let token = Token(WORKERS + number as usize);
        self.poll
            .registry()
            .register(&mut SourceFd(&worker.link.as_raw_fd()), token, Interest::READABLE)
    }

    /// Starts or stops to turn clients away ourselves.
    fn watch_listeners(&mut self, refuse: bool) {
        if refuse == self.refusing {
            return;
        }
        self.refusing = refuse;
        for (number, listener) in self.ready.listeners.iter().enumerate() {
            let fd = listener.as_raw_fd();
            let registry = self.poll.registry();
            let _ = if refuse {
                registry.register(&mut SourceFd(&fd), Token(LISTENERS + number), Interest::READABLE)
            } else {
                registry.deregister(&mut SourceFd(&fd))
            };
        }
        if refuse {
            self.say(
                Level::Warning,
                Event::new("pool-exhausted")
                    .field("workers", self.workers.len())
                    .quoted("remedy", b"raise workers.max, or lower session_timeout"),
            );
            for number in 0..self.ready.listeners.len() {
                self.turn_away(number);
            }
        }
    }

    fn turn_away(&mut self, listener: usize) {
        if !self.refusing {
            return;
        }
        let Some(listener) = self.ready.listeners.get(listener) else {
            return;
        };
        self.refused += refuse::all(listener.as_fd());
    }

    fn hear_signals(&mut self) {
        for signal in self.ready.signals.take() {
            match signal {
                Signal::SIGCHLD => self.reap(),
                Signal::SIGHUP => self.reload(),
                Signal::SIGUSR1 => self.tell_status(),
                Signal::SIGTERM | Signal::SIGINT => self.stop(),
                _ => {}
            }
        }
    }

    fn reap(&mut self) {
        while let Some((pid, how)) = process::reap() {
            if let Some(role) = self.ready.helpers.role_of(pid) {
                if self.ending.is_none() {
                    self.say(Level::Critical, Event::new("helper-gone").field("role", role.name()));
                    self.status = 70;
                    self.stop_within(Duration::from_secs(5));
                }
            } else if let Some((_, worker)) = self.workers.remove(pid) {
                // Closing its Link, which has no other descriptor, ends the watch over it.
                self.buried(&worker, how);
            }
        }
    }

    fn buried(&mut self, worker: &workers::Worker, how: Ended) {
        let peer = match worker.state() {
            State::Busy { peer, .. } => Some(*peer),
            _ => None,
        };
        if let Some(peer) = peer {
            self.sources.closed(peer.ip());
        }
        if how == Ended::Exited(0) || worker.dismissed {
            return;
        }
        let now = Instant::now();
        self.pool.trouble(now);
        let mut event = Event::new("worker-crashed").field("pid", worker.pid).field("how", how);
        if let (Some(peer), State::Busy { session, .. }) = (peer, worker.state()) {
            self.sources.penalise(peer.ip(), now);
            event = event.field("peer", peer.ip()).quoted("session", session.as_bytes());
        }
        self.say(Level::Critical, event);
    }

    fn reload(&mut self) {
        self.ready.notify.reloading();
        match self.ready.served.reload(&self.ready.path, self.ready.directory.as_fd()) {
            Ok(served) => {
                for key in self.ready.served.needs_restart(&served) {
                    self.say(
                        Level::Notice,
                        Event::new("takes-effect-at-next-start").field("key", key),
                    );
                }
                self.ready.served = served;
                self.pool.resize(pool_sizes(&self.ready.served));
                self.sources.configure(source_limits(&self.ready.served));
                self.broken.clear();
                self.ready.helpers.logger.tell(&ToHelper::Reload, &[]);
                self.ready.helpers.delivery.tell(&ToHelper::Reload, &[]);
                self.workers.retire_others(self.generation());
                self.say(
                    Level::Notice,
                    Event::new("reloaded").field("generation", self.generation()),
                );
            }
            Err(faults) => {
                self.tell_faults(&faults);
                self.say(Level::Error, Event::new("reload-refused"));
            }
        }
        self.ready.notify.ready("serving");
    }

    fn tell_status(&mut self) {
        let text = self.status_text();
        for line in text.lines() {
            self.ready.log.line(Level::Notice, format!("event=status {line}"));
        }
        self.ready.helpers.delivery.tell(&ToHelper::Status { text }, &[]);
    }

    fn status_text(&self) -> String {
        use std::fmt::Write as _;
        let generation = self.generation();
        let mut text = format!(
            "pid={} spare={} busy={} max={} connections={} refused={} generation={generation} configuration={}\n",
            Pid::this(),
            self.workers.spares(generation),
            self.workers.busy(generation),
            self.ready.served.daemon.workers.max,
            self.served_sum,
            self.refused,
            if self.broken.is_empty() { "good" } else { "broken" },
        );
        for (_, worker) in self
            .workers
            .iter()
            .filter(|(_, w)| matches!(w.state(), State::Busy { .. }))
            .take(200)
        {
            if let State::Busy { peer, session } = worker.state() {
                let _ = writeln!(
                    text,
                    "worker pid={} peer={peer} session={session} seconds={}",
                    worker.pid,
                    worker.since.elapsed().as_secs()
                );
            }
        }
        text
    }

    /// First time: drain with a grace time. Second time: end at once.
    fn stop(&mut self) {
        if self.ending.is_some() {
            self.workers.kill();
            self.ending = Some(Instant::now());
        } else {
            self.ready.notify.stopping();
            self.stop_within(self.ready.served.daemon.grace_time);
        }
    }

    fn stop_within(&mut self, grace: Duration) {
        self.say(
            Level::Notice,
            Event::new("stopping").field("workers", self.workers.len()),
        );
        self.ending = Some(Instant::now() + grace);
        self.watch_listeners(false);
        self.ready.listeners.clear();
        self.workers.drain();
    }
}
