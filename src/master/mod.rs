//! The master: holds the listeners, keeps spares waiting, counts, refuses with 421, reaps.
//!
//! It may assume that every helper is ready and that root is gone for good. It must never parse a client's
//! octets, hold a key or a table that grows with the traffic beyond its bounds, or start a thread.

pub mod accounts;
mod conduct;
mod descriptors;
mod ending;
mod hear;
mod hear_helpers;
mod helpers;
mod pool;
mod reload;
mod slots;
mod source_limits;
mod sources;
mod start_broker;
mod start_delivery;
mod start_keeper;
pub mod startup;
mod turn_away;
mod watch;
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
use crate::ipc::keeper::Certificate;
use crate::ipc::link::Role;
use crate::log::{Event, Level};
use crate::logger::client::Client as Log;
use crate::sys::inotify::Inotify;
use crate::sys::notify::Notify;
use crate::sys::signals::Signals;
use crate::sys::{arena, child};
use crate::tls;
use nix::sys::signal::Signal;

use crate::worker::served::Served;
use conduct::State;
use ending::Ending;
use helpers::Helpers;
use pool::Pool;
use sources::Sources;
use turn_away::Door;
use watch::Watch;
use workers::{Near, Workers};

const SIGNALS: Token = Token(0);
const LISTENERS: usize = 1;
const HELPERS: usize = 1 << 10;
const WORKERS: usize = 1 << 11;

/// Between two looks for workers that should have ended.
const OVERSIGHT: Duration = Duration::from_secs(60);

/// What start-up hands over.
pub struct Ready {
    /// The configuration in force.
    pub served: Served,
    /// Its directory, by name for messages and by descriptor for workers.
    pub path: PathBuf,
    /// The open directory.
    pub directory: OwnedFd,
    /// What reports changes in it.
    pub inotify: Option<Inotify>,
    /// The listeners, non-blocking, numbered from [`FIRST_SHARED`](crate::sys::socket::FIRST_SHARED) on.
    pub listeners: Vec<OwnedFd>,
    /// The same once more, by descriptors that no worker has: to close them for all.
    pub closers: Vec<OwnedFd>,
    /// The addresses that the configuration names for them.
    pub named: Vec<SocketAddr>,
    /// Where they listen: the same, but for ports that the kernel chose.
    pub addresses: Vec<SocketAddr>,
    /// Where mail goes, for people.
    pub destination: String,
    /// The directories of records that the logger was started with.
    pub records: Vec<PathBuf>,
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
    sources: Sources,
    door: Door,
    /// Workers that have more to say than fitted into their turn.
    unheard: BTreeSet<u32>,
    refused: u64,
    served_sum: u64,
    broken: BTreeSet<u64>,
    watch: Watch,
    /// The last reload was refused.
    stale: bool,
    /// What waits for the next start, as it was logged.
    awaiting_start: BTreeSet<String>,
    /// What a keeper that was started again has shown so far.
    shown: Vec<Certificate>,
    /// How the logger ended, until another can write it down.
    unsaid: Option<String>,
    ending: Option<Ending>,
    /// When to look next for workers that should have ended.
    overseen: Instant,
    gone: BTreeSet<Role>,
    status: u8,
}

/// Serves until told to end; the exit status of the daemon.
///
/// # Errors
/// The event loop cannot be made.
pub fn run(ready: Ready) -> io::Result<u8> {
    // What a first use sets up for all later ones is set up here, not in every worker.
    tls::prepare();
    arena::ordinary();
    arena::settle();
    child::keep_signal_stack();
    let poll = Poll::new()?;
    poll.registry()
        .register(&mut SourceFd(&ready.signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
    let now = Instant::now();
    let pool = Pool::new(pool_sizes(&ready.served), now);
    let sources = Sources::new(&ready.served, now)?;
    let door = Door::new()?;
    // From here on workers inherit what a reload brings, and nothing else that is new.
    arena::apart();
    let mut master = Master {
        ready,
        poll,
        workers: Workers::default(),
        pool,
        sources,
        door,
        unheard: BTreeSet::new(),
        refused: 0,
        served_sum: 0,
        broken: BTreeSet::new(),
        watch: Watch::new(now),
        stale: false,
        awaiting_start: BTreeSet::new(),
        shown: Vec::new(),
        unsaid: None,
        ending: None,
        overseen: now + OVERSIGHT,
        gone: BTreeSet::new(),
        status: 0,
    };
    for (number, role) in Helpers::ROLES.into_iter().enumerate() {
        if let Some(helper) = master.ready.helpers.of(role) {
            let token = Token(HELPERS + number);
            let registry = master.poll.registry();
            registry.register(&mut SourceFd(&helper.as_raw_fd()), token, Interest::READABLE)?;
        }
    }
    master.fill(now);
    master.ready.notify.ready(&master.state());
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

impl Master {
    fn serve(&mut self) -> io::Result<u8> {
        let mut events = Events::with_capacity(64);
        loop {
            let now = Instant::now();
            if let Some(status) = self.ended(now) {
                // Whoever still lives is not to believe a watch that ends with us.
                self.sources.table().set_watch(0);
                return Ok(status);
            }
            if now >= self.overseen {
                self.overseen = now + OVERSIGHT;
                self.end_overdue(now);
            }
            let patience = self.patience(now);
            match self.poll.poll(&mut events, patience) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other?,
            }
            // Deaths first, as far as they are known: delivery is to see one before it has an answer for whoever died.
            if events.iter().any(|event| event.token() == SIGNALS) {
                self.hear_signals();
            }
            for event in &events {
                match event.token() {
                    SIGNALS => {}
                    Token(number) if number >= WORKERS => {
                        // None: told of a worker that has been buried meanwhile.
                        if let Some(number) = self.workers.at(number - WORKERS) {
                            self.hear_worker(number);
                        }
                    }
                    Token(number) if number >= HELPERS => arena::inherited(|| self.hear_helper(number - HELPERS)),
                    Token(number) => self.door.knocked(number - LISTENERS),
                }
            }
            for number in std::mem::take(&mut self.unheard) {
                self.hear_worker(number);
            }
            self.turn_away(Instant::now());
            self.fill(Instant::now());
        }
    }

    fn patience(&mut self, now: Instant) -> Option<Duration> {
        if !self.unheard.is_empty() {
            return Some(Duration::ZERO);
        }
        let advice = self.pool.advise(
            self.workers.spares(self.generation()),
            self.workers.busy(self.generation()),
            now,
        );
        let at = [
            advice.again,
            self.ending.map(|ending| ending.until),
            (self.workers.busy(self.generation()) > 0).then_some(self.overseen),
            self.door.behind(now),
        ]
        .into_iter()
        .flatten()
        .min();
        at.map(|at| at.saturating_duration_since(now))
    }

    fn generation(&self) -> u64 {
        self.ready.served.generation
    }

    /// One line on how we are, for the service manager.
    fn state(&self) -> String {
        format!(
            "generation {}, {} listeners, configuration {}",
            self.generation(),
            self.ready.listeners.len(),
            self.configuration_state()
        )
    }

    /// Whether the files are what is in force, would be at the next connection, or are broken.
    fn configuration_state(&self) -> &'static str {
        let found = self.ready.served.found(self.ready.directory.as_fd());
        if self.stale || self.broken.contains(&found) {
            "broken"
        } else if found == self.ready.served.fingerprint {
            "good"
        } else {
            "changed"
        }
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
        let forks = advice.fork.min(self.workers.startable());
        if forks > 0 {
            self.settle(now);
        }
        for _ in 0..forks {
            let near = Near {
                listeners: &self.ready.listeners,
                directory: &self.ready.directory,
                unchanged: self.watch.unchanged(),
                sign: self.ready.inotify.as_ref().map(Inotify::sign),
                refused: self.sources.view(),
            };
            let forked = self.workers.fork(&self.ready.served, &near, &self.ready.helpers);
            match forked.and_then(|number| self.attend(number)) {
                Ok(()) => {}
                Err(error) => {
                    self.pool.fork_failed(now);
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
        if !worker.slot.watched {
            let token = Token(WORKERS + worker.slot.token);
            let registry = self.poll.registry();
            registry.register(&mut SourceFd(&worker.slot.link.as_raw_fd()), token, Interest::READABLE)?;
            worker.slot.watched = true;
        }
        Ok(())
    }

    fn hear_signals(&mut self) {
        let signals = self.ready.signals.take();
        if signals.contains(&Signal::SIGCHLD) {
            self.reap();
        }
        for signal in signals {
            match signal {
                Signal::SIGHUP => arena::inherited(|| self.reload()),
                Signal::SIGUSR1 => self.tell_status(),
                Signal::SIGTERM | Signal::SIGINT => self.stop(),
                _ => {}
            }
        }
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
            self.configuration_state(),
        );
        for what in &self.awaiting_start {
            let _ = writeln!(text, "next_start=yes {what}");
        }
        for (_, worker) in self
            .workers
            .iter()
            .filter(|(_, w)| matches!(w.state(), State::Busy { .. }))
            .take(200)
        {
            if let State::Busy { peer, session } = worker.state() {
                let _ = writeln!(
                    text,
                    "worker={} peer={peer} session={session} seconds={}",
                    worker.pid,
                    worker.since.elapsed().as_secs()
                );
            }
        }
        text
    }
}
