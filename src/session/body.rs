//! What is known of a message's body while it arrives: counts, and the number of hops in its header.
//!
//! Reads the octets once as they pass and keeps none of them.

use crate::message::HeaderScan;
use crate::smtp::receiver::BodyEnd;

/// Facts about one body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyFacts {
    /// Whether it comes in BDAT chunks.
    pub chunked: bool,
    /// Chunks or DATA blocks completed.
    pub chunks: u32,
    /// Octets announced by the BDAT commands so far.
    pub announced: u64,
    /// Octets received, as RFC 1870 counts them.
    pub octets: u64,
    /// Whether the size limit was passed.
    pub too_big: bool,
    /// Lines that end in LF alone.
    pub bare_lf: u64,
    /// CR without LF.
    pub bare_cr: u64,
    /// Lines over the text line limit.
    pub long_lines: u64,
    /// Whether there was a NUL.
    pub has_nul: bool,
    /// Whether strict line endings were asked for and not kept.
    pub strict_violation: bool,
    header: HeaderScan,
}

impl BodyFacts {
    /// Nothing has come yet; `chunked` by BDAT.
    pub fn new(chunked: bool) -> BodyFacts {
        BodyFacts {
            chunked,
            chunks: 0,
            announced: 0,
            octets: 0,
            too_big: false,
            bare_lf: 0,
            bare_cr: 0,
            long_lines: 0,
            has_nul: false,
            strict_violation: false,
            header: HeaderScan::received(),
        }
    }

    /// Looks at the next octets of the body, dot-stuffing removed.
    pub fn chunk(&mut self, octets: &[u8]) {
        self.header.feed(octets);
    }

    /// `Received` fields so far: the servers it has passed (RFC 5321 §6.3).
    pub fn received(&self) -> u32 {
        self.header.count()
    }

    /// Adds what the receiver found in a DATA body or in one chunk.
    pub fn end(&mut self, end: &BodyEnd) {
        self.chunks = self.chunks.saturating_add(1);
        self.octets = self.octets.saturating_add(end.octets);
        self.too_big |= end.too_big;
        self.bare_lf = self.bare_lf.saturating_add(end.bare_lf);
        self.bare_cr = self.bare_cr.saturating_add(end.bare_cr);
        self.long_lines = self.long_lines.saturating_add(end.long_lines);
        self.has_nul |= end.has_nul;
        self.strict_violation |= end.strict_violation;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_received_in_the_header_only() {
        let mut facts = BodyFacts::new(false);
        for part in [&b"Received: a\r\n b\r\nrecEI"[..], b"VED : c\r\n\r\nReceived: body\r\n"] {
            facts.chunk(part);
        }
        assert_eq!(facts.received(), 2);
    }
}
