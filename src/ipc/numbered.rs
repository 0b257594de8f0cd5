//! Questions over a door that is lent to one worker after the other.

use serde::{Deserialize, Serialize};

/// A question with a number, or the answer to it with the same one. A door is lent to one worker after the other: none can
/// guess another's number, and so have an answer given to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// Random.
    pub number: u64,
    /// What is asked or answered.
    pub words: T,
}
