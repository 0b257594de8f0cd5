//! A worker's end of a door, as all threads hold it.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ipc::channel::Channel;
use crate::ipc::delivery::{FromDelivery, ToDelivery};

/// A worker's end, seen from here.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) channel: Channel<FromDelivery, ToDelivery>,
    /// The body under way, if it was staged.
    pub(super) staged: Mutex<Option<File>>,
    pub(super) token: u64,
    pub(super) worker: u32,
}

/// All doors by token, and the newest one of each worker.
#[derive(Debug, Default)]
pub(super) struct Doors {
    pub(super) all: HashMap<u64, Arc<Door>>,
    newest: HashMap<u32, u64>,
}

impl Doors {
    /// Takes a door; the one that its worker had before, which it has given up.
    pub(super) fn insert(&mut self, door: &Arc<Door>) -> Option<Arc<Door>> {
        self.all.insert(door.token, Arc::clone(door));
        let before = self.newest.insert(door.worker, door.token);
        before.and_then(|token| self.all.remove(&token))
    }

    pub(super) fn remove(&mut self, door: &Door) {
        self.all.remove(&door.token);
        if self.newest.get(&door.worker) == Some(&door.token) {
            self.newest.remove(&door.worker);
        }
    }
}

/// The lock, also when a thread panicked while it held it: what is inside is a plain collection.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
