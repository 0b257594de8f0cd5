//! Workers as the master sees them: forked, told apart by their Links, counted, reaped.
//!
//! What a worker says is believed only about itself: the descriptor says who speaks.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::config::Unchanged;
use crate::ipc::channel;
use crate::ipc::control::ToHelper;
use crate::ipc::link::{FromWorker, Role, ToWorker};
use crate::ipc::sources::{Source, View};
use crate::sys::process::{self, Ended};
use crate::sys::{arena, child, signals, socket};
use crate::worker::{self, Inherited};

use super::conduct::{Conduct, State};
use super::descriptors::{LENT, MASTER_DESCRIPTORS, STARTING, doors_to_lend};
use super::helpers::{Helper, Helpers};
use super::slots::{Lent, Others, Slot, Slots};
use crate::worker::served::Served;

/// What the master catches.
pub const SIGNALS: [Signal; 5] = [
    Signal::SIGHUP,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGCHLD,
    Signal::SIGUSR1,
];

/// Workers at once whose Links, voices and doors are for others after them, each at the price of five more descriptors.
pub const REUSED: usize = 1024;

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Its process.
    pub pid: Pid,
    state: State,
    /// Since when it is in its state.
    pub since: Instant,
    /// The generation of the configuration it was forked with.
    pub generation: u64,
    /// Its Link, and as long as another worker may have them after it, its ends of Link, voice and doors.
    pub(super) slot: Slot,
    /// The source that its client is counted for.
    pub source: Option<Source>,
    /// Whether its client may be another than who is at the other end of the connection.
    pub may_be_introduced: bool,
    /// Doors given to it since it took its client.
    pub doors: u32,
    /// How long a session may last by what it was forked with.
    session: Duration,
    /// What it may still say.
    conduct: Conduct,
    /// Its process has been reaped: its number may be another's.
    pub(super) ended: bool,
    /// It has said what it must not: nothing more of it counts.
    pub(super) captured: bool,
    /// Whether it was told to leave between connections.
    retired: bool,
    /// Whether it was ended on purpose, so that its death is no crash.
    pub dismissed: bool,
    /// Its own descriptors, until it has said that it has a table of them.
    lent: Option<Lent>,
}

impl Worker {
    /// What it does.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Serves somebody else on the same connection; the session, unless it serves nobody.
    pub(super) fn introduce(&mut self, client: SocketAddr) -> Option<String> {
        match &mut self.state {
            State::Busy { peer, session } => {
                *peer = client;
                Some(session.clone())
            }
            _ => None,
        }
    }

    /// Takes note of what it says; what is wrong with that.
    pub(super) fn judge(&mut self, message: &FromWorker) -> Result<(), &'static str> {
        self.conduct.judge(&self.state, message)
    }

    fn is_spare(&self) -> bool {
        matches!(self.state, State::Spare | State::Starting)
    }
}

/// What is left to say of a worker that has ended.
pub struct Gone {
    /// Its process.
    pub pid: Pid,
    /// What it did last.
    pub state: State,
    /// Whether it was ended on purpose.
    pub dismissed: bool,
}

/// All workers by number; numbers are never used twice. What is asked at each event is counted, not looked for:
/// there may be ten thousand.
#[derive(Debug, Default)]
pub struct Workers {
    table: BTreeMap<u32, Worker>,
    by_pid: HashMap<Pid, u32>,
    /// Who has the slot with this token; 0 for nobody.
    by_token: Vec<u32>,
    slots: Slots,
    /// By generation; those with none are left out.
    spares: BTreeMap<u64, usize>,
    starting: usize,
    /// Descriptors that those have which are starting.
    lent: usize,
    /// What is closed as soon as no worker up to this number is starting any more.
    closing: Vec<(u32, OwnedFd)>,
    last: u32,
}

impl Workers {
    /// Spares, starting ones included, of `generation`.
    pub fn spares(&self, generation: u64) -> usize {
        self.spares.get(&generation).copied().unwrap_or(0)
    }

    /// How many may be forked before those under way have begun. Several at once or none: what the master writes
    /// between two forks is copied page by page, however many it forks then.
    pub fn startable(&self) -> usize {
        if self.starting > STARTING / 2 {
            return 0;
        }
        STARTING - self.starting
    }

    /// Workers that have not ended and are not spares of `generation`.
    pub fn busy(&self, generation: u64) -> usize {
        self.table.len() - self.spares(generation)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The worker with this number.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Worker> {
        self.table.get_mut(&number)
    }

    /// The number of the worker with this process.
    pub fn number(&self, pid: Pid) -> Option<u32> {
        self.by_pid.get(&pid).copied()
    }

    /// The number of the worker whose Link has this token.
    pub(super) fn at(&self, token: usize) -> Option<u32> {
        self.by_token.get(token).copied().filter(|number| *number != 0)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Worker)> {
        self.table.iter().map(|(number, worker)| (*number, worker))
    }

    /// Takes note of what a worker does now; what it did before.
    pub fn change(&mut self, number: u32, state: State) -> Option<State> {
        let many = self.table.len() > REUSED;
        let worker = self.table.get_mut(&number)?;
        let was_spare = worker.is_spare();
        let before = std::mem::replace(&mut worker.state, state);
        let lent = worker.lent.take().map(|lent| lent.count());
        if lent.is_some() && many {
            worker.slot.is_the_last_ones();
        }
        worker.since = Instant::now();
        let (is_spare, generation) = (worker.is_spare(), worker.generation);
        self.count(generation, was_spare, is_spare);
        self.begun(lent);
        Some(before)
    }

    /// Closes a listener that workers had. One that is starting shares the master's table of descriptors until it has
    /// its own: it must find no other file under a number that it knows.
    pub fn close(&mut self, listener: OwnedFd) {
        self.closing.push((self.last, listener));
        self.begun(None);
    }

    /// A worker that was starting, if it was, and had so many descriptors, has a table of its own, or is gone.
    fn begun(&mut self, lent: Option<usize>) {
        if let Some(lent) = lent {
            self.starting -= 1;
            self.lent -= lent;
        }
        let table = &self.table;
        let starts = |last: u32| table.range(..=last).any(|(_, worker)| worker.lent.is_some());
        let none = self.starting == 0;
        self.closing.retain(|(last, _)| !none && starts(*last));
    }

    /// A worker waits for a client. It is a spare unless it was told to leave, or is of another generation than
    /// `generation` and is told now.
    pub fn ready(&mut self, number: u32, generation: u64) {
        let Some(worker) = self.table.get(&number) else {
            return;
        };
        let stays = !worker.retired && worker.generation == generation;
        self.change(number, if stays { State::Spare } else { State::Leaving });
        if !stays {
            self.order(&ToWorker::Retire, |at, worker| at == number && !worker.retired);
        }
    }

    /// Forgets a worker that ended as `how` says; what it had is another's from now on if it ended as it should.
    pub fn remove(&mut self, number: u32, how: Ended) -> Option<Gone> {
        let worker = self.table.remove(&number)?;
        self.by_pid.remove(&worker.pid);
        if let Some(number) = self.by_token.get_mut(worker.slot.token) {
            *number = 0;
        }
        self.count(worker.generation, worker.is_spare(), false);
        self.begun(worker.lent.as_ref().map(Lent::count));
        if is_regular(how) && !worker.captured {
            self.slots.put_back(worker.slot, how == Ended::Exited(0));
        } else {
            self.slots.close(worker.slot);
        }
        Some(Gone {
            pid: worker.pid,
            state: worker.state,
            dismissed: worker.dismissed,
        })
    }

    fn count(&mut self, generation: u64, before: bool, after: bool) {
        let spares = self.spares.entry(generation).or_default();
        *spares = (*spares + usize::from(after)).saturating_sub(usize::from(before));
        if *spares == 0 {
            self.spares.remove(&generation);
        }
    }

    /// Tells every worker of another generation to leave: spares at once, busy ones after their connection.
    pub fn retire_others(&mut self, generation: u64) {
        self.order(&ToWorker::Retire, |_, worker| {
            worker.generation != generation && !worker.retired
        });
    }

    /// Tells up to `count` spares to leave.
    pub fn retire(&mut self, mut count: usize) {
        if count == 0 {
            return;
        }
        self.order(&ToWorker::Retire, |_, worker| {
            let chosen = count > 0 && worker.state == State::Spare;
            count -= usize::from(chosen);
            chosen
        });
    }

    /// Tells every worker to leave: spares at once, busy ones at the next command boundary.
    pub fn drain(&mut self) {
        self.order(&ToWorker::Drain, |_, _| true);
    }

    /// Workers that have been at one client, or about to leave, for longer than a session may last, by what they were
    /// forked with or by `session`, and `more`.
    pub fn overdue(&self, session: Duration, more: Duration, now: Instant) -> Vec<u32> {
        let late = |worker: &Worker| {
            let stays = worker.captured || worker.state == State::Spare;
            !stays && now.saturating_duration_since(worker.since) > worker.session.max(session) + more
        };
        self.iter()
            .filter(|(_, worker)| late(worker))
            .map(|(number, _)| number)
            .collect()
    }

    /// Kills all that are left.
    pub fn kill(&mut self) {
        for worker in self.table.values_mut() {
            worker.dismissed = true;
            let _ = process::kill(worker.pid, libc::SIGKILL);
            worker.slot.close_doors();
        }
    }

    /// Gives an order that makes a worker leave.
    fn order(&mut self, order: &ToWorker, mut whom: impl FnMut(u32, &Worker) -> bool) {
        let mut waiting = Vec::new();
        for (number, worker) in &mut self.table {
            if whom(*number, worker) {
                worker.retired = true;
                if worker.state == State::Spare {
                    waiting.push(*number);
                }
                let _ = worker.slot.link.send_nowait(order, &[]);
            }
        }
        for number in waiting {
            self.change(number, State::Leaving);
        }
    }

    /// Another process of this helper answers from now on: no door to an earlier one is lent again.
    pub(super) fn replace(&mut self, helper: Role) {
        self.slots.replace(helper);
        let workers = self.table.values_mut();
        workers.for_each(|worker| worker.slot.forget_door(helper));
    }

    /// The logger was started again: gives every worker a new way to it.
    pub(super) fn give_voices(&mut self, logger: &Helper) {
        self.slots.clear();
        for (number, worker) in &mut self.table {
            let door = ToHelper::Door {
                worker: *number,
                pid: worker.pid.as_raw(),
            };
            if worker.slot.give_voice(logger, &door).is_err() {
                return;
            }
        }
    }

    /// Forks, with what the child has of `slot`, and signals held back.
    fn spawn(&self, slot: &Slot) -> io::Result<(Lent, signals::Blocked, process::Fork)> {
        let lent = slot.lend(doors_to_lend(self.starting, self.lent))?.below(LENT)?;
        let blocked = signals::block_for_fork()?;
        Ok((lent, blocked, process::spawn_sharing_files(MASTER_DESCRIPTORS)?))
    }

    /// Forks a worker; its number. Never returns in the child.
    ///
    /// # Errors
    /// No descriptors, no process, or no memory; more under way than [`Workers::startable`] allows.
    pub fn fork(&mut self, served: &Served, near: &Near<'_>, helpers: &Helpers) -> io::Result<u32> {
        let (slot, others) = self.slots.take()?;
        let (lent, blocked, forked) = match self.spawn(&slot) {
            Ok(spawned) => spawned,
            Err(error) => {
                self.slots.close(slot);
                return Err(error);
            }
        };
        match forked {
            process::Fork::Child => {
                std::mem::forget(blocked);
                become_worker(lent, served, near)
            }
            process::Fork::Parent(pid) => {
                drop(blocked);
                // 0 is no worker.
                let number = self.last.wrapping_add(1).max(1);
                self.last = number;
                tell(helpers, &others, number, pid);
                self.lent += lent.count();
                let worker = Worker {
                    pid,
                    state: State::Starting,
                    since: Instant::now(),
                    generation: served.generation,
                    slot,
                    source: None,
                    may_be_introduced: false,
                    doors: 0,
                    session: served.patience().session,
                    conduct: Conduct::new(served.daemon.workers.connections_per_worker),
                    ended: false,
                    captured: false,
                    retired: false,
                    dismissed: false,
                    lent: Some(lent),
                };
                self.starting += 1;
                self.count(worker.generation, false, true);
                self.by_pid.insert(pid, number);
                self.by_token.resize(self.by_token.len().max(worker.slot.token + 1), 0);
                if let Some(holder) = self.by_token.get_mut(worker.slot.token) {
                    *holder = number;
                }
                self.table.insert(number, worker);
                Ok(number)
            }
        }
    }
}

/// What every worker inherits as it is: low descriptors of the master.
pub struct Near<'a> {
    /// The listeners.
    pub listeners: &'a [OwnedFd],
    /// The configuration directory.
    pub directory: &'a OwnedFd,
    /// How to see that nothing has changed in it, if there is a short way.
    pub unchanged: Option<&'a Unchanged>,
    /// What is ready when a watch over it reports a change, if there is one.
    pub sign: Option<BorrowedFd<'a>>,
    /// The sources that are refused: memory, no descriptor.
    pub refused: &'a View,
}

/// Hands the other ends of what is new to where they lead.
fn tell(helpers: &Helpers, others: &Others, worker: u32, pid: Pid) {
    let door = ToHelper::Door {
        worker,
        pid: pid.as_raw(),
    };
    if let Some(voice) = &others.logger {
        helpers.logger.offer(&door, voice.as_fd());
    }
    for (helper, end) in [
        (&helpers.delivery, &others.doors.delivery),
        (&helpers.keeper, &others.doors.keeper),
        (&helpers.broker, &others.doors.broker),
    ] {
        if let Some(end) = end {
            helper.offer(&ToHelper::LentDoor, end.as_fd());
        }
    }
}

/// Whether a worker that ended so has come to the end of its work.
pub fn is_regular(how: Ended) -> bool {
    matches!(how, Ended::Exited(0 | worker::WITHOUT_DOOR))
}

/// The child's side of the fork: keeps its own descriptors, loses all others, and serves.
fn become_worker(lent: Lent, served: &Served, near: &Near<'_>) -> ! {
    arena::worker();
    channel::forget_buffer();
    let Ok(Lent {
        link,
        voice: logger,
        doors,
    }) = out_of_reach(&lent)
    else {
        process::exit_now(71);
    };
    // Closed below.
    std::mem::forget(lent);
    let mut keep: Vec<RawFd> = vec![0, 1, 2, near.directory.as_raw_fd()];
    let own = [&link, &logger].into_iter().chain(doors.iter().flatten());
    keep.extend(near.listeners.iter().chain(own).map(AsRawFd::as_raw_fd));
    keep.extend(near.sign.as_ref().map(AsRawFd::as_raw_fd));
    if process::close_range_except(&keep).is_err() || deafen().is_err() {
        process::exit_now(71);
    }
    let inherited = Inherited {
        listeners: near.listeners,
        link,
        logger,
        doors,
        directory: near.directory,
        unchanged: near.unchanged,
        sign: near.sign,
        refused: near.refused,
    };
    process::exit_now(worker::run(inherited, served))
}

/// Gives what the next worker is to have numbers that the sandbox lets nobody duplicate: a worker that was taken over
/// could else give it the client's, by which it may be shut down and changed for good.
fn out_of_reach(lent: &Lent) -> io::Result<Lent> {
    let copy = |end: &OwnedFd| socket::duplicate_at_least(end, socket::FIRST_SHARED);
    let moved = Lent {
        link: copy(&lent.link)?,
        voice: copy(&lent.voice)?,
        doors: lent.doors.try_map(|door| door.as_ref().map(copy).transpose())?,
    };
    moved.below(socket::CLIENT_FD)
}

/// A worker is told to end over its Link, and has no children. To block the master's signals, which come to it as well,
/// is a single call: it never looks whether any are pending.
fn deafen() -> io::Result<()> {
    // Caught by the standard library, to tell of a stack overflow.
    child::reset(&[Signal::SIGSEGV, Signal::SIGBUS]);
    signals::block_in_child(&SIGNALS)?;
    process::set_name("rsmtpd: worker")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(state: State, since: Instant, slot: Slot) -> Worker {
        Worker {
            pid: Pid::from_raw(1),
            state,
            since,
            generation: 1,
            slot,
            source: None,
            may_be_introduced: false,
            doors: 0,
            session: Duration::from_secs(600),
            conduct: Conduct::new(1),
            ended: false,
            captured: false,
            retired: false,
            dismissed: false,
            lent: None,
        }
    }

    fn busy() -> State {
        State::Busy {
            peer: ([192, 0, 2, 1], 25).into(),
            session: "a".to_owned(),
        }
    }

    /// The master's own copy of a door must not let a helper believe that somebody hears it.
    #[test]
    fn nobody_is_told_over_the_doors_of_a_worker_that_was_killed() {
        for (how, is_open) in [
            (Ended::Exited(0), true),
            (Ended::Exited(1), false),
            (Ended::Signaled(libc::SIGKILL), false),
        ] {
            let mut slots = Slots::default();
            let (mut slot, _logger) = slots.take().unwrap();
            slot.note_door(Role::Delivery);
            slots.put_back(slot, true);
            let (slot, others) = slots.take().unwrap();
            let delivery = others.doors.delivery.unwrap();
            let mut workers = Workers::default();
            workers.table.insert(1, worker(busy(), Instant::now(), slot));
            workers.by_pid.insert(Pid::from_raw(1), 1);
            workers.ended(Pid::from_raw(1), how);
            assert!(workers.table[&1].ended);
            assert_eq!(socket::send_frame(&delivery, b"x", &[]).is_ok(), is_open, "{how:?}");
        }
    }

    #[test]
    fn a_worker_that_outlasts_every_session_is_overdue() {
        let now = Instant::now();
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let mut workers = Workers::default();
        for (number, state) in [State::Spare, busy(), State::Leaving, busy()].into_iter().enumerate() {
            let mut worker = worker(state, now, Slots::default().take().unwrap().0);
            // The last one is of an earlier configuration.
            worker.session = minutes(if number == 3 { 90 } else { 10 });
            workers.table.insert(number as u32, worker);
        }
        let overdue = |after| workers.overdue(minutes(60), minutes(30), now + minutes(after));
        assert!(overdue(90).is_empty());
        assert_eq!(overdue(91), [1, 2]);
        assert_eq!(overdue(121), [1, 2, 3]);
    }
}
