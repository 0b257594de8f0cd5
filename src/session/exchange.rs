//! One command and what the protocol itself has to say about it.

use crate::smtp::command::Command;
use crate::smtp::line::LineEnding;
use crate::smtp::reply::Reply;

/// One command of the client.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Its line as it came, without what ended it; cut off where it was too long.
    pub line: Vec<u8>,
    /// The command, parsed.
    pub command: Command,
    /// How its line ended.
    pub ending: LineEnding,
    /// Whether more input was there already when it was read.
    pub pipelined: bool,
    /// The reply that the protocol demands in place of any positive one: a fault of syntax, order or a limit.
    pub fault: Option<Reply>,
}
