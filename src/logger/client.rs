//! The end of a logger's door that the other processes hold.
//!
//! Saying a line never waits: what the logger has no room for is counted and the count goes with the next
//! line that finds room.

use std::cell::Cell;
use std::os::fd::OwnedFd;

use crate::ipc::channel::Channel;
use crate::ipc::log::ToLogger;
use crate::log::{Event, LINE_MAX, Level};

/// A speaker's voice.
#[derive(Debug)]
pub struct Client {
    door: Channel<ToLogger, ()>,
    lost: Cell<u64>,
    threshold: Level,
}

impl Client {
    /// Speaks through `door`, and keeps lines below `threshold` to itself.
    pub fn new(door: OwnedFd, threshold: Level) -> Client {
        Client { door: Channel::new(door), lost: Cell::new(0), threshold }
    }

    /// Says one event.
    pub fn say(&self, level: Level, event: Event) {
        if level <= self.threshold {
            self.line(level, event.text());
        }
    }

    /// Says one finished line.
    pub fn line(&self, level: Level, mut text: String) {
        if level > self.threshold {
            return;
        }
        if text.len() > LINE_MAX {
            text = text.chars().take(LINE_MAX / 4).collect();
        }
        let lost = self.lost.get();
        if lost > 0 {
            let text = Event::new("lines-lost").field("count", lost).text();
            if self.door.send_nowait(&ToLogger::Line { level: Level::Warning as u8, text }, &[]).is_err() {
                self.lost.set(lost.saturating_add(1));
                return;
            }
            self.lost.set(0);
        }
        if self.door.send_nowait(&ToLogger::Line { level: level as u8, text }, &[]).is_err() {
            self.lost.set(self.lost.get().saturating_add(1));
        }
    }
}
