//! What is known of a message's body while it arrives: counts, and the number of hops in its header.
//!
//! Reads the octets once as they pass and keeps none but the beginning of the current header line.

use crate::smtp::receiver::BodyEnd;

/// Octets of a line that are enough to know the field's name.
const NAME: usize = 9;

/// Facts about one body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// `Received` fields in the header.
    pub received: u32,
    header: Header,
}

/// The scanner's state: how much of the current header line it has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Header {
    ended: bool,
    length: usize,
    start: [u8; NAME],
}

impl BodyFacts {
    /// Nothing has come yet; `chunked` by BDAT.
    pub fn new(chunked: bool) -> BodyFacts {
        BodyFacts {
            chunked,
            ..BodyFacts::default()
        }
    }

    /// Looks at the next octets of the body, dot-stuffing removed.
    pub fn chunk(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while !self.header.ended && !rest.is_empty() {
            let end = rest.iter().position(|&octet| octet == b'\n');
            let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            self.part_of_line(line);
            let Some(end) = end else { return };
            self.line_ended();
            rest = rest.get(end.saturating_add(1)..).unwrap_or_default();
        }
    }

    fn part_of_line(&mut self, part: &[u8]) {
        let header = &mut self.header;
        for (place, octet) in header.start.iter_mut().skip(header.length).zip(part) {
            *place = *octet;
        }
        header.length = header.length.saturating_add(part.len());
    }

    fn line_ended(&mut self) {
        let header = &mut self.header;
        let seen = header.start.get(..header.length.min(NAME)).unwrap_or_default();
        if seen.eq_ignore_ascii_case(b"received:") || (header.length >= NAME && is_received_with_space(seen)) {
            self.received = self.received.saturating_add(1);
        }
        header.ended = header.length == 0 || (header.length == 1 && seen == b"\r");
        header.length = 0;
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

/// `Received :` with white space before the colon, as RFC 5322 §4.5.2 obliges to understand.
fn is_received_with_space(start: &[u8]) -> bool {
    start
        .get(..8)
        .is_some_and(|name| name.eq_ignore_ascii_case(b"received"))
        && start.get(8).is_some_and(|octet| matches!(octet, b' ' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(parts: &[&[u8]]) -> u32 {
        let mut facts = BodyFacts::default();
        for part in parts {
            facts.chunk(part);
        }
        facts.received
    }

    #[test]
    fn counts_received_in_the_header_only() {
        let message = b"Received: a\r\n b\r\nrecEIVED : c\r\nReceived-SPF: no\r\nX: y\r\n\r\nReceived: body\r\n";
        assert_eq!(hops(&[message]), 2);
        assert_eq!(hops(&[b"\r\nReceived: x\r\n"]), 0);
        assert_eq!(hops(&[b"Receive: x\r\nReceived\r\n"]), 0);
    }

    #[test]
    fn any_split_gives_the_same_count() {
        let message: &[u8] = b"Received: a\r\nReceived: b\r\nSubject: x\r\n\r\nReceived: body\r\n";
        for at in 0..message.len() {
            let (left, right) = message.split_at(at);
            assert_eq!(hops(&[left, right]), 2, "split at {at}");
        }
        let single: Vec<&[u8]> = message.chunks(1).collect();
        assert_eq!(hops(&single), 2);
    }
}
