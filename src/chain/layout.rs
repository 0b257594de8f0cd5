//! A chain file as it was read: names and settings, not yet handlers.

use std::time::Duration;

use super::decision::{Combine, Evaluate, Mode, OnError};
use super::settings::Value;

/// One entry of a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The handler's id, or a module or class name of the original.
    pub handler: String,
    /// Name of this entry; the handler's where it is absent.
    pub id: Option<String>,
    /// Settings of this entry, over those of the handler's file.
    pub with: Option<Value>,
    /// Whether it decides.
    pub mode: Mode,
    /// How long it may wait for others.
    pub timeout: Duration,
    /// What it counts as when it fails.
    pub on_error: OnError,
}

impl Entry {
    /// An entry with nothing but its handler.
    pub fn new(handler: impl Into<String>) -> Entry {
        Entry {
            handler: handler.into(),
            id: None,
            with: None,
            mode: Mode::Enforce,
            timeout: Duration::from_secs(30),
            on_error: OnError::Defer,
        }
    }
}

/// A chain file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layout {
    /// How much of a chain runs.
    pub evaluate: Evaluate,
    /// Which verdict wins.
    pub combine: Combine,
    /// Verbs and their entries, in the order of the file.
    pub verbs: Vec<(String, Vec<Entry>)>,
}

impl Layout {
    /// What a server without a chain file runs.
    pub fn standard() -> Layout {
        let plain = [
            ("__OPEN__", "greeting"),
            ("HELO", "hello"),
            ("EHLO", "hello"),
            ("MAIL", "mail"),
            ("RCPT", "recipient"),
            ("DATA", "data"),
            ("BDAT", "data"),
            ("__DATA__", "delivery"),
            ("RSET", "reset"),
            ("NOOP", "noop"),
            ("HELP", "help"),
            ("VRFY", "verify"),
            ("QUIT", "quit"),
            ("__DEFAULT__", "unknown_command"),
        ];
        let verbs = plain
            .iter()
            .map(|(verb, handler)| ((*verb).to_owned(), vec![Entry::new(*handler)]))
            .collect();
        Layout {
            verbs,
            ..Layout::default()
        }
    }
}
