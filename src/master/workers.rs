//! Workers as the master sees them: forked, told apart by their Links, counted, reaped.
//!
//! What a worker says is believed only about itself: the descriptor says who speaks.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use nix::unistd::Pid;

use crate::helper;
use crate::ipc::channel::Channel;
use crate::ipc::control::ToHelper;
use crate::ipc::link::{FromWorker, ToWorker};
use crate::sys::{process, signals, socket};
use crate::worker::{self, Inherited};

use super::helpers::Helpers;
use crate::worker::served::Served;

/// Descriptors below this are the ones a worker may keep; the master moves its own to this and above.
pub const MASTER_DESCRIPTORS: RawFd = 64;

/// What a worker does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Forked, not heard of yet.
    Starting,
    /// Waits for a client.
    Spare,
    /// Serves one.
    Busy {
        /// The client.
        peer: SocketAddr,
        /// The session's identifier.
        session: String,
    },
    /// Was told to leave, or has said that it is done.
    Leaving,
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Its process.
    pub pid: Pid,
    /// What it does.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// The generation of the configuration it was forked with.
    pub generation: u64,
    /// The master's end of its Link.
    pub link: Channel<ToWorker, FromWorker>,
    /// Whether it was ended on purpose, so that its death is no crash.
    pub dismissed: bool,
}

/// All workers by number; numbers are never used twice.
#[derive(Debug, Default)]
pub struct Workers {
    table: BTreeMap<u32, Worker>,
    next: u32,
}

impl Workers {
    /// Spares, starting ones included, of `generation`.
    pub fn spares(&self, generation: u64) -> usize {
        let waits = |w: &&Worker| w.generation == generation && matches!(w.state, State::Spare | State::Starting);
        self.table.values().filter(waits).count()
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

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Worker)> {
        self.table.iter().map(|(number, worker)| (*number, worker))
    }

    /// Forgets the worker of a process that ended.
    pub fn remove(&mut self, pid: Pid) -> Option<(u32, Worker)> {
        let number = self
            .table
            .iter()
            .find(|(_, worker)| worker.pid == pid)
            .map(|(number, _)| *number)?;
        self.table.remove(&number).map(|worker| (number, worker))
    }

    /// Tells every worker of another generation to leave: spares at once, busy ones after their connection.
    pub fn retire_others(&mut self, generation: u64) {
        self.order(ToWorker::Retire, |worker| {
            worker.generation != generation && worker.state != State::Leaving
        });
    }

    /// Tells up to `count` spares to leave.
    pub fn retire(&mut self, mut count: usize) {
        self.order(ToWorker::Retire, |worker| {
            let chosen = count > 0 && worker.state == State::Spare;
            count -= usize::from(chosen);
            chosen
        });
    }

    /// Tells every worker to leave: spares at once, busy ones at the next command boundary.
    pub fn drain(&mut self) {
        self.order(ToWorker::Refuse, |_| true);
    }

    /// Kills all that are left.
    pub fn kill(&mut self) {
        for worker in self.table.values_mut() {
            worker.dismissed = true;
            let _ = nix::sys::signal::kill(worker.pid, nix::sys::signal::Signal::SIGKILL);
        }
    }

    fn order(&mut self, order: ToWorker, mut whom: impl FnMut(&Worker) -> bool) {
        for worker in self.table.values_mut() {
            if whom(worker) {
                if worker.state == State::Spare {
                    worker.state = State::Leaving;
                }
                let _ = worker.link.send_nowait(&order, &[]);
            }
        }
    }

    /// Forks a worker; its number. Never returns in the child.
    ///
    /// # Errors
    /// No descriptors, no process, or no memory.
    pub fn fork(&mut self, served: &Served, near: &Near<'_>, helpers: &Helpers) -> io::Result<u32> {
        let (link, worker_link) = pair()?;
        let (delivery, worker_delivery) = pair()?;
        let (logger, worker_logger) = pair()?;
        let lent = [worker_link, worker_delivery, worker_logger];
        let blocked = signals::block_for_fork()?;
        match process::spawn_sharing_files(MASTER_DESCRIPTORS)? {
            process::Fork::Child => {
                std::mem::forget(blocked);
                become_worker(lent, served, near)
            }
            process::Fork::Parent(pid) => {
                drop(blocked);
                let number = self.next;
                self.next = self.next.wrapping_add(1);
                let door = ToHelper::Door {
                    worker: number,
                    pid: pid.as_raw(),
                };
                helpers.logger.tell(&door, &[logger.as_fd()]);
                helpers.delivery.tell(&door, &[delivery.as_fd()]);
                let worker = Worker {
                    pid,
                    state: State::Starting,
                    since: Instant::now(),
                    generation: served.generation,
                    link: Channel::new(link),
                    dismissed: false,
                };
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
}

/// A pair whose first end is moved out of the workers' reach.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socket::seqpacket_pair()?;
    Ok((socket::move_fd_at_least(ours, MASTER_DESCRIPTORS)?, theirs))
}

/// The child's side of the fork: keeps its own descriptors, loses all others, and serves.
fn become_worker(lent: [OwnedFd; 3], served: &Served, near: &Near<'_>) -> ! {
    let mut keep: Vec<RawFd> = vec![0, 1, 2, near.directory.as_raw_fd()];
    keep.extend(near.listeners.iter().chain(&lent).map(AsRawFd::as_raw_fd));
    if process::close_range_except(&keep).is_err() || helper::become_child("rsmtpd: worker").is_err() {
        process::exit_now(71);
    }
    let [link, delivery, logger] = lent;
    let inherited = Inherited {
        listeners: near.listeners,
        link,
        delivery,
        logger,
        directory: near.directory,
    };
    process::exit_now(worker::run(inherited, served))
}
