//! The end of a logger's door that the other processes hold.
//!
//! Saying a line never waits: what the logger has no room for is counted and the count goes with the next
//! line that finds room.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::log::ToLogger;
use crate::log::{self, Event, Level};

/// A speaker's voice.
#[derive(Debug)]
pub struct Client {
    door: Channel<ToLogger, ()>,
    lost: AtomicU64,
    threshold: Level,
}

impl Client {
    /// Speaks through `door`, and keeps lines below `threshold` to itself.
    pub fn new(door: OwnedFd, threshold: Level) -> Client {
        Client {
            door: Channel::new(door),
            lost: AtomicU64::new(0),
            threshold,
        }
    }

    /// Whether lines of this level are kept.
    pub fn says(&self, level: Level) -> bool {
        level <= self.threshold
    }

    /// Says one event.
    pub fn say(&self, level: Level, event: Event) {
        if level <= self.threshold {
            self.line(level, event.text());
        }
    }

    /// Says one finished line.
    pub fn line(&self, level: Level, text: String) {
        if level > self.threshold {
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
        self.door.send_nowait(
            &ToLogger::Line {
                level: level as u8,
                text,
            },
            &[],
        )
    }
}
