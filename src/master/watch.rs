//! How workers see, in a short way, that no file of the configuration has changed: found by the master from time to
//! time, inherited by those that it forks then.
//!
//! It may assume nothing of what a worker does. One that was taken over can neither read nor cause the kernel's reports,
//! nor change the number of the watch that counts: it cannot hide a change from the others.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use crate::config::Unchanged;
use crate::ipc::sources::Refused;
use crate::sys::arena;
use crate::sys::inotify::Inotify;
use crate::worker::served::Served;

use super::Master;

/// Between two looks: so long what no watch reports may stay unseen, while new workers come.
const AGAIN: Duration = Duration::from_secs(1);

/// What was found.
#[derive(Debug)]
pub(super) struct Watch {
    /// Of which generation, and how a worker sees that its files have not changed.
    found: Option<(u64, Unchanged)>,
    /// Of the last watch: numbers are never used twice.
    number: u64,
    /// When to look again.
    again: Instant,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Watch {
        Watch {
            found: None,
            number: 0,
            again: now,
        }
    }

    /// For workers that are forked now.
    pub(super) fn unchanged(&self) -> Option<&Unchanged> {
        self.found.as_ref().map(|(_, unchanged)| unchanged)
    }

    /// Looks whether what was found is still so, and if not, for what is: at once for another generation, and from time
    /// to time, as files that are not ours may come and go beside them.
    fn look(
        &mut self,
        served: &Served,
        directory: &OwnedFd,
        inotify: Option<&mut Inotify>,
        refused: &Refused,
        now: Instant,
    ) {
        let is_another = self
            .found
            .take_if(|(generation, _)| *generation != served.generation)
            .is_some();
        if now < self.again && !is_another {
            return;
        }
        self.again = now + AGAIN;
        let is_quiet = inotify.as_ref().is_none_or(|inotify| inotify.is_quiet());
        let same = |unchanged: &Unchanged| is_quiet && unchanged.looks_same(directory.as_fd());
        if self.unchanged().is_some_and(same) {
            return;
        }
        // From here on nobody believes an earlier watch, so that what it reported can be forgotten.
        refused.set_watch(0);
        self.number += 1;
        let watch = inotify.map(|inotify| (inotify, self.number));
        let found = served.unchanged(directory.as_fd(), watch);
        if let Some(number) = found.as_ref().and_then(Unchanged::watch) {
            refused.set_watch(number);
        }
        self.found = found.map(|unchanged| (served.generation, unchanged));
    }
}

impl Master {
    /// Before workers are forked.
    pub(super) fn settle(&mut self, now: Instant) {
        let ready = &mut self.ready;
        let refused = self.sources.table();
        arena::inherited(|| {
            self.watch
                .look(&ready.served, &ready.directory, ready.inotify.as_mut(), refused, now)
        });
    }
}
