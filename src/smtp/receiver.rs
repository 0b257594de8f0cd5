//! The receiver: the octets of one connection in, commands and message bodies out.
//!
//! It may assume that its caller says when a body begins, and it must never look past
//! the event that it returns: what follows may have to be read in another way.

use super::chunk::Chunk;
use super::data::{BodyScan, Step};
use super::line::{CommandLine, HalfLine};
use std::borrow::Cow;

pub use super::data::BodyEnd;

/// What to do with CR and LF that stand alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEndings {
    /// Leave them, and mark the command or the body as violating the protocol.
    Strict,
    /// Make a bare LF a CRLF and a bare CR a space.
    Normalize,
    /// As `Normalize`; the caller makes evidence of what was counted.
    Note,
}

/// Limits of one connection, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest command line with its CRLF; 512 and what the offered extensions add.
    pub command_line: usize,
    /// Longest text line with its CRLF; longer ones are counted, never refused or split.
    pub text_line: usize,
    /// Largest message; 0 means no limit (RFC 1870 §4).
    pub message_size: u64,
    /// What to do with bare CR and LF.
    pub line_endings: LineEndings,
}

/// What the receiver found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A command line.
    Command(CommandLine),
    /// Octets of the message, dot-unstuffed and with line endings as configured; never empty.
    BodyChunk(Cow<'a, [u8]>),
    /// The end of DATA, or of one BDAT chunk; commands follow.
    BodyEnd(BodyEnd),
}

#[derive(Debug)]
enum Mode {
    Command,
    Data,
    Chunk(Chunk),
}

/// Splits the octets of a connection into events.
#[derive(Debug)]
pub struct Receiver {
    limits: Limits,
    mode: Mode,
    line: HalfLine,
    body: BodyScan,
}

impl Receiver {
    /// A receiver that waits for a command.
    pub fn new(limits: Limits) -> Receiver {
        Receiver {
            limits,
            mode: Mode::Command,
            line: HalfLine::default(),
            body: BodyScan::new(limits),
        }
    }

    /// Consumes a prefix of `input` and returns its length and the event that it completed.
    /// Without an event all was consumed. Right after [`begin_chunk`](Self::begin_chunk) it
    /// has to be called even without input: a chunk may be empty.
    pub fn feed<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Event<'a>>) {
        let (used, step) = match &mut self.mode {
            Mode::Command => {
                let limits = &self.limits;
                let (used, line) = self
                    .line
                    .feed(input, limits.command_line, limits.line_endings);
                return (used, line.map(Event::Command));
            }
            Mode::Data => self.body.scan(input),
            Mode::Chunk(chunk) => chunk.scan(&mut self.body, input),
        };
        let event = match step {
            Step::More => None,
            Step::Octets(octets) => Some(Event::BodyChunk(Cow::Borrowed(octets))),
            Step::End => {
                self.mode = Mode::Command;
                Some(Event::BodyEnd(self.body.take_end()))
            }
        };
        (used, event)
    }

    /// What follows is the text of a message up to CRLF.CRLF: 354 was decided.
    pub fn begin_data(&mut self) {
        self.body.begin(true);
        self.mode = Mode::Data;
    }

    /// What follows is a chunk of `octets` octets, and more chunks may follow it (RFC 3030).
    /// Each chunk is counted apart in its [`BodyEnd`].
    pub fn begin_chunk(&mut self, octets: u64) {
        self.body.continue_chunk();
        self.mode = Mode::Chunk(Chunk::new(octets, false));
    }

    /// As [`begin_chunk`](Self::begin_chunk), for the chunk marked LAST.
    pub fn begin_last_chunk(&mut self, octets: u64) {
        self.body.continue_chunk();
        self.mode = Mode::Chunk(Chunk::new(octets, true));
    }

    /// Forgets how the last chunk ended: its message was given up (RSET and the like).
    pub fn end_message(&mut self) {
        self.body.begin(false);
    }

    /// Forgets a half line and any body: what follows is a new conversation (STARTTLS).
    pub fn reset(&mut self) {
        self.mode = Mode::Command;
        self.line = HalfLine::default();
        self.body.begin(false);
    }

    /// Changes the limits, from the next command or body on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.body.set_limits(limits);
    }
}
