//! The end of a logger's door that the other processes hold.
//!
//! Saying a line never waits: what the logger has no room for is counted and the count goes with the next
//! line that finds room.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::log::ToLogger;
use crate::log::{self, Event, Level};

/// A speaker's voice.
#[derive(Debug)]
pub struct Client {
    door: Mutex<Channel<ToLogger, ()>>,
    lost: AtomicU64,
    threshold: AtomicU8,
}

impl Client {
    /// Speaks through `door`, and keeps lines below `threshold` to itself.
    pub fn new(door: OwnedFd, threshold: Level) -> Client {
        Client {
            door: Mutex::new(Channel::new(door)),
            lost: AtomicU64::new(0),
            threshold: AtomicU8::new(threshold as u8),
        }
    }

    /// Speaks through `door` from now on: the logger behind the old one is gone.
    pub fn rejoin(&self, door: OwnedFd) {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = Channel::new(door);
    }

    /// Keeps lines below `threshold` to itself from now on.
    pub fn set_threshold(&self, threshold: Level) {
        self.threshold.store(threshold as u8, Ordering::Relaxed);
    }

    /// Whether lines of this level are kept.
    pub fn says(&self, level: Level) -> bool {
        level as u8 <= self.threshold.load(Ordering::Relaxed)
    }

    /// Says one event.
    pub fn say(&self, level: Level, event: Event) {
        if self.says(level) {
            self.line(level, event.text());
        }
    }

    /// Says one finished line.
    pub fn line(&self, level: Level, text: String) {
        if !self.says(level) {
            return;
        }
        let text = log::cut(text);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let text = Event::new("lines-lost").field("count", lost).text();
            if self.send(Level::Warning, text).is_err() {
                self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                return;
            }
        }
        if self.send(level, text).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send(&self, level: Level, text: String) -> Result<(), Fault> {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        door.send_nowait(
            &ToLogger::Line {
                level: level as u8,
                text,
            },
            &[],
        )
    }
}
