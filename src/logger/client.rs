//! The end of a logger's door that the other processes hold.
//!
//! Saying a line never waits: what the logger has no room for is counted and the count goes with the next
//! line that finds room.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::ipc::channel::Channel;
use crate::ipc::log::{SHORT, TOGETHER, ToLogger};
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
        if self.says(level) {
            let (level, text) = (level as u8, log::cut(text));
            self.send(1, &ToLogger::Line { level, text });
        }
    }

    /// Says finished lines of one moment, in their order.
    pub fn lines(&self, lines: Vec<(Level, String)>) {
        let few = lines.len() <= TOGETHER && lines.iter().all(|(_, text)| text.len() <= SHORT);
        if lines.len() < 2 || !few {
            return lines.into_iter().for_each(|(level, text)| self.line(level, text));
        }
        let said = lines.into_iter().filter(|(level, _)| self.says(*level));
        let lines: Vec<(u8, String)> = said.map(|(level, text)| (level as u8, text)).collect();
        if !lines.is_empty() {
            self.send(lines.len() as u64, &ToLogger::Lines(lines));
        }
    }

    /// Sends so many lines; before them how many were lost, if any were.
    fn send(&self, lines: u64, message: &ToLogger) {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let (level, text) = (
                Level::Warning as u8,
                Event::new("lines-lost").field("count", lost).text(),
            );
            if door.send_nowait(&ToLogger::Line { level, text }, &[]).is_err() {
                self.lost.fetch_add(lost + lines, Ordering::Relaxed);
                return;
            }
        }
        if door.send_nowait(message, &[]).is_err() {
            self.lost.fetch_add(lines, Ordering::Relaxed);
        }
    }
}
