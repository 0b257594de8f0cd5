//! Between the master and a helper: end of file means finish, end own children, exit.

use serde::{Deserialize, Serialize};

use super::keeper::Shown;

/// What the master says to a helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHelper {
    /// A worker's door rides with this frame.
    Door {
        /// The worker's number, from 1, never used twice; 0 for a door of another process.
        worker: u32,
        /// Its process.
        pid: i32,
    },
    /// A door that is lent to one worker after the other rides with this frame; to delivery, the keeper or the broker.
    LentDoor,
    /// A new way to the logger rides with this frame: the logger has started again.
    Voice,
    /// Read the configuration again; open the log file again.
    Reload {
        /// The least grave level that is logged from now on (RFC 5424 severity).
        level: u8,
    },
    /// To the keeper: bind a socket.
    Listen {
        /// Which of the socket addresses that the configuration names, in its order.
        position: u32,
    },
    /// The master's state as text, for whoever asks the helper; empty when the helper shall log its own.
    Status {
        /// Lines of `key=value`.
        text: String,
    },
}

impl FromHelper {
    /// That `what` failed with `error`.
    pub fn failed(what: &str, error: &std::io::Error) -> FromHelper {
        FromHelper::Failed {
            reason: format!("{what}: {error}"),
            errno: error.raw_os_error().unwrap_or(0),
        }
    }
}

/// What a helper says to the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHelper {
    /// Takes doors from now on.
    Ready,
    /// Cannot start, or cannot replace the one that serves.
    Failed {
        /// What failed, for people.
        reason: String,
        /// The error number of the kernel, 0 where it was not the kernel that refused.
        errno: i32,
    },
    /// The working process ended so; another is about to start.
    Died(String),
    /// What the keeper has to show.
    Keeper(Shown),
}
