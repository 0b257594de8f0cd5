//! A worker's end of a door, as all threads hold it.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ipc::channel::Channel;
use crate::ipc::delivery::{FromDelivery, ToDelivery};
use crate::log::Event;

/// A worker's end, seen from here.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) channel: Channel<FromDelivery, ToDelivery>,
    /// The body under way, if it was staged.
    pub(super) staged: Mutex<Option<File>>,
    pub(super) token: u64,
    pub(super) holder: Holder,
    /// A message of it is with a thread that may be slow.
    pub(super) waits: AtomicBool,
}

/// Who is at the other end of a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// The worker of this number, which has asked for it.
    Worker(u32),
    /// Whomever the master lends it to.
    OneAfterTheOther,
}

impl Holder {
    /// Says in `event` whose door it is about.
    pub(super) fn note(self, event: Event) -> Event {
        match self {
            Holder::Worker(number) => event.field("worker", number),
            Holder::OneAfterTheOther => event.field("door", "lent"),
        }
    }
}

/// All doors by token, and the newest one of each worker that has asked for any.
#[derive(Debug, Default)]
pub(super) struct Doors {
    pub(super) all: HashMap<u64, Arc<Door>>,
    newest: HashMap<u32, u64>,
}

impl Doors {
    /// Takes a door; the one that its worker has asked for before, which it has given up.
    pub(super) fn insert(&mut self, door: &Arc<Door>) -> Option<Arc<Door>> {
        self.all.insert(door.token, Arc::clone(door));
        let Holder::Worker(number) = door.holder else {
            return None;
        };
        let before = self.newest.insert(number, door.token)?;
        self.all.remove(&before)
    }

    pub(super) fn remove(&mut self, door: &Door) {
        self.all.remove(&door.token);
        if let Holder::Worker(number) = &door.holder
            && self.newest.get(number) == Some(&door.token)
        {
            self.newest.remove(number);
        }
    }
}

/// The lock, also when a thread panicked while it held it: what is inside is a plain collection.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
