//! Between a worker and the master: a pair per worker, so the descriptor says who speaks and end of file is death.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A kind of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Holds the listeners and counts.
    Master,
    /// Serves one client.
    Worker,
    /// Writes logs.
    Logger,
    /// Keeps the spool and fills mailboxes.
    Delivery,
}

impl Role {
    /// The name in process titles and logs.
    pub fn name(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Worker => "worker",
            Role::Logger => "logger",
            Role::Delivery => "delivery",
        }
    }
}

/// What a worker reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Waits for a client.
    Ready,
    /// Has one.
    Busy {
        /// The client.
        peer: SocketAddr,
        /// The session's identifier.
        session: String,
    },
    /// Found other configuration files than it was forked with.
    Changed {
        /// Of the set it found.
        fingerprint: u64,
    },
    /// Wants a door to a helper.
    Open {
        /// Which one.
        helper: Role,
    },
    /// The client is gone, and the worker goes on. After its last connection it just ends.
    Done,
}

/// What the master orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Leave between connections.
    Retire,
    /// The door rides with this frame.
    Door,
    /// No door: the helper is not there. Also, before a greeting: answer 421.
    Refuse,
}
