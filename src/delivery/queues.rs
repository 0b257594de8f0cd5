//! What waits for a thread that may be slow: bounded, and so shared out that what is slow holds up no other.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::sync::{Condvar, Mutex, PoisonError, Weak};
use std::time::Instant;

use crate::ipc::delivery::{Commit, Disposition, Recipient};

use super::door::{Door, held};

/// A message of a door that waits for a thread.
#[derive(Debug)]
pub(super) struct Job {
    /// Closed meanwhile where nobody is to have an answer.
    pub(super) door: Weak<Door>,
    pub(super) commit: Commit,
    pub(super) staged: Option<File>,
    /// When the worker must have its answer: it waits hardly longer, and then tells the client 451.
    pub(super) end: Instant,
}

impl Job {
    fn mailboxes(&self) -> impl Iterator<Item = String> {
        let real = |recipient: &&Recipient| recipient.disposition == Disposition::Deliver;
        self.commit.recipients.iter().filter(real).map(Recipient::address)
    }
}

#[derive(Debug, Default)]
struct Waiting {
    fresh: VecDeque<Job>,
    due: VecDeque<String>,
    known: HashSet<String>,
    // what threads are at
    mailboxes: HashMap<String, usize>,
    retries: usize,
}

/// What a thread is to do next.
pub(super) enum Next {
    Fresh(Box<Job>),
    Due(String),
}

/// What waits for an agent: messages of doors, bounded, and names of spool entries.
///
/// So that what is slow holds up no other, neither one mailbox nor the spool has more than half of the threads.
#[derive(Debug, Default)]
pub(super) struct Queues {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

impl Waiting {
    fn take_due(&mut self, share: usize) -> Option<Next> {
        if self.retries >= share {
            return None;
        }
        let id = self.due.pop_front()?;
        self.known.remove(&id);
        self.retries += 1;
        Some(Next::Due(id))
    }

    fn take_fresh(&mut self, share: usize) -> Option<Next> {
        let busy = |mailbox: &String| self.mailboxes.get(mailbox).is_some_and(|&count| count >= share);
        let at = self
            .fresh
            .iter()
            .position(|job| !job.mailboxes().any(|name| busy(&name)))?;
        let job = self.fresh.remove(at)?;
        for mailbox in job.mailboxes() {
            *self.mailboxes.entry(mailbox).or_default() += 1;
        }
        Some(Next::Fresh(Box::new(job)))
    }

    fn finished(&mut self, next: &Next) {
        match next {
            Next::Due(_) => self.retries = self.retries.saturating_sub(1),
            Next::Fresh(job) => {
                for mailbox in job.mailboxes() {
                    if let Some(count) = self.mailboxes.get_mut(&mailbox) {
                        *count -= 1;
                        if *count == 0 {
                            self.mailboxes.remove(&mailbox);
                        }
                    }
                }
            }
        }
    }
}

impl Queues {
    /// Takes the job, or gives it back when `bound` are waiting.
    pub(super) fn offer(&self, job: Job, bound: usize) -> Result<(), Box<Job>> {
        let mut waiting = held(&self.waiting);
        if waiting.fresh.len() >= bound.max(1) {
            return Err(Box::new(job));
        }
        waiting.fresh.push_back(job);
        self.more.notify_one();
        Ok(())
    }

    /// An entry's time has come.
    pub(super) fn due(&self, id: String) {
        let mut waiting = held(&self.waiting);
        if waiting.known.insert(id.clone()) {
            waiting.due.push_back(id);
            self.more.notify_one();
        }
    }

    /// Waits for the next; it must be told when that is finished.
    pub(super) fn next(&self, prefer_due: bool, share: usize) -> Next {
        let mut waiting = held(&self.waiting);
        loop {
            let found = if prefer_due {
                waiting.take_due(share).or_else(|| waiting.take_fresh(share))
            } else {
                waiting.take_fresh(share).or_else(|| waiting.take_due(share))
            };
            if let Some(next) = found {
                return next;
            }
            waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What [`Queues::next`] gave is done.
    pub(super) fn finished(&self, next: &Next) {
        held(&self.waiting).finished(next);
        self.more.notify_all();
    }
}
