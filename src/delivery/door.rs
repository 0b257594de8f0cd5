//! A worker's end of a door, as all threads hold it.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// The lock, also when a thread panicked while it held it: what is inside is a plain collection.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
