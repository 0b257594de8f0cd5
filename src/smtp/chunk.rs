//! BDAT chunks (RFC 3030): exactly so many octets, in which dots mean nothing.

use super::data::{BodyScan, Step};

/// A chunk that is being received.
#[derive(Debug)]
pub(super) struct Chunk {
    remaining: u64,
    last: bool,
}

impl Chunk {
    pub(super) fn new(octets: u64, last: bool) -> Chunk {
        Chunk {
            remaining: octets,
            last,
        }
    }

    /// Consumes at most the rest of the chunk.
    pub(super) fn scan<'a>(&mut self, body: &mut BodyScan, input: &'a [u8]) -> (usize, Step<'a>) {
        let room = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let ours = input.get(..room).unwrap_or(input);
        let (used, step) = body.scan(ours);
        self.remaining = self.remaining.saturating_sub(used as u64);
        match step {
            Step::More if self.remaining == 0 => (used, body.finish_chunk(self.last).map_or(Step::End, Step::Octets)),
            step => (used, step),
        }
    }
}
