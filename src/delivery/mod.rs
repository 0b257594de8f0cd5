//! From a message that a worker offers to files in mailboxes, or to the agent that fills them.
//!
//! A process of its own user. Whatever a worker sends may be hostile: [`envelope`] checks every field, no path is
//! made of one that [`names`] has not encoded, and a body is copied into files that no worker ever held.
//! Nothing is answered as taken before it is on disk: in every mailbox, in the spool, in `failed/` or in quarantine.
//! It never opens an internet socket.

mod agents;
pub mod client;
mod content;
mod copies;
mod door;
pub mod envelope;
mod file;
mod journal;
mod lda;
mod lmtp;
mod maildir;
pub mod names;
pub mod outcome;
mod process;
mod queues;
mod retry;
mod shared;
pub mod spool;
pub mod spool_list;
pub mod status;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::log::{Event, Level};

pub use maildir::MAIL;
pub use process::{Place, run};

/// Takes what this process has to say.
pub type Log = Arc<dyn Fn(Level, Event) + Send + Sync>;

/// Who puts messages into mailboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Agent {
    /// This process, into `mail/<domain>/<local part>/`.
    Maildir,
    /// `dovecot-lda`, one run per recipient.
    DovecotLda {
        /// Absolute path of the program.
        path: PathBuf,
        /// Whether Dovecot looks the user up (`-d`).
        userdb: bool,
        /// HOME of the run, with `%d` (domain) and `%n` (local part).
        home: String,
    },
    /// An LMTP server (RFC 2033) on a Unix socket.
    Lmtp {
        /// Path of the socket.
        socket: PathBuf,
    },
}

/// When a message counts as taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acknowledge {
    /// When the agent has it.
    Delivered,
    /// When the spool has it.
    Spooled,
}

/// What the process works by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Who puts messages into mailboxes.
    pub agent: Agent,
    /// The state directory, 0700.
    pub state: PathBuf,
    /// When a message counts as taken.
    pub acknowledge: Acknowledge,
    /// Threads that write files; at least 1.
    pub writers: usize,
    /// Runs of a program, or LMTP transactions, at once; at least 1.
    pub lda_jobs: usize,
    /// Messages that may wait for one of those; beyond it 451 4.3.2.
    pub queue: usize,
    /// For one run or one LMTP transaction.
    pub timeout: Duration,
    /// How long a spooled message is tried.
    pub give_up: Duration,
    /// The wait before the second attempt; doubles with each up to `retry_most`.
    pub retry_first: Duration,
    /// The longest wait between attempts.
    pub retry_most: Duration,
    /// How long work under way may take once the master is gone.
    pub grace: Duration,
}

impl Settings {
    /// The defaults, for a state directory.
    pub fn new(state: &Path) -> Settings {
        Settings {
            agent: Agent::Maildir,
            state: state.to_path_buf(),
            acknowledge: Acknowledge::Delivered,
            writers: 8,
            lda_jobs: std::thread::available_parallelism().map_or(2, std::num::NonZero::get) * 2,
            queue: 100,
            timeout: Duration::from_secs(60),
            give_up: Duration::from_secs(5 * 86_400),
            retry_first: Duration::from_secs(60),
            retry_most: Duration::from_secs(3_600),
            grace: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests;
