//! Records that must be whole: octets for a file that the logger writes. They wait for room, unlike lines.

use serde::{Deserialize, Serialize};

use super::bytes;

/// The most octets in one frame.
pub const PIECE: usize = 32 * 1024;
/// The most octets that are appended as one, in however many frames.
pub const WHOLE: usize = 512 * 1024;

/// Octets for the end of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The file's directory, one of those that the logger has opened at its start.
    pub directory: String,
    /// The file's name there: letters, digits, `.`, `:`, `-`, `_`.
    pub file: String,
    /// The file grows to so many octets at most.
    pub limit: u64,
    /// What is to be appended; at most [`PIECE`].
    #[serde(with = "bytes")]
    pub octets: Vec<u8>,
    /// Whether the next record of this door belongs to it: they are appended as one.
    pub more: bool,
}

/// What the logger answers to a question about the records of a door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromLogger {
    /// All of them are in their files.
    Written,
    /// One is not, with the first reason.
    Lost(String),
}
