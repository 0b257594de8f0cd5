//! Towards the logger: lines, one way.

use serde::{Deserialize, Serialize};

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
}
