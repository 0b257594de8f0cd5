//! Towards the logger: lines, one way; and records, by doors that a worker asks for.

use serde::{Deserialize, Serialize};

use super::record::Record;

/// What anybody tells the logger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToLogger {
    /// One event.
    Line {
        /// Syslog severity (RFC 5424), 0 emergency to 7 debug.
        level: u8,
        /// `key=value` words; no line breaks.
        text: String,
    },
    /// Several events of one moment, each by severity and text.
    Lines(Vec<(u8, String)>),
    /// Octets for a file.
    Record(Record),
    /// Wants to know whether its records are written; answered by [`super::record::FromLogger`].
    Sync,
}
