//! The text of a message: transparency, its end, and what its line endings are like
//! (RFC 5321 §2.3.8, §4.1.1.4, §4.5.2).
//!
//! Only CRLF.CRLF ends it, in every mode; the first CRLF may be that of the DATA line.
//! Clean text is handed on as slices of the input; nothing is copied or allocated.

use super::limits::{Limits, LineEndings};

const CR: u8 = b'\r';
const LF: u8 = b'\n';
const CRLF: &[u8] = b"\r\n";
/// Octets that are checked at once.
const BLOCK: usize = 512;
/// Lookalikes that are noted.
const LOOKALIKES: usize = 16;

/// What is known of a body, or of one chunk of it, at its end. Offsets count the octets
/// as they were received, from the first after the DATA or BDAT command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyEnd {
    /// Octets of the message as handed on: without stuffed dots and terminator (RFC 1870 §5).
    pub octets: u64,
    /// More than the limit; what exceeds it was consumed, not handed on.
    pub too_big: bool,
    /// LF without CR before it.
    pub bare_lf: u64,
    /// CR without LF after it.
    pub bare_cr: u64,
    /// Where the first of either stood.
    pub first_bare: Option<u64>,
    /// Where dots stood alone between line ends that were not both CRLF; the first sixteen.
    pub lookalikes: Vec<u64>,
    /// Lines longer than the limit.
    pub long_lines: u64,
    /// It contained a NUL.
    pub has_nul: bool,
    /// Bare CR or LF although line endings are strict: refuse it.
    pub strict_violation: bool,
}

/// The outcome of scanning some input.
#[derive(Debug)]
pub(super) enum Step<'a> {
    More,
    Octets(&'a [u8]),
    End,
}

/// What precedes the next octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A CRLF, or the beginning.
    LineStart,
    /// Anything else.
    Line,
    /// A CR that was not handed on yet.
    Cr,
    /// A CR at the end of the previous chunk, handed on.
    CrSent,
    /// CRLF and a dot, not handed on.
    Dot,
    /// CRLF, a dot and a CR, none but the CRLF handed on.
    DotCr,
    /// A bare CR or LF.
    AfterBare,
    /// A bare CR or LF, and a dot.
    BareDot,
}

/// Scans one body, or the chunks of one.
#[derive(Debug)]
pub(super) struct BodyScan {
    limits: Limits,
    transparent: bool,
    state: State,
    line: u64,
    offset: u64,
    end: BodyEnd,
}

impl BodyScan {
    pub(super) fn new(limits: Limits) -> BodyScan {
        BodyScan {
            limits,
            transparent: false,
            state: State::LineStart,
            line: 0,
            offset: 0,
            end: BodyEnd::default(),
        }
    }

    /// Begins a message; `transparent` where dots are stuffed (DATA).
    pub(super) fn begin(&mut self, transparent: bool) {
        *self = BodyScan {
            transparent,
            ..BodyScan::new(self.limits)
        };
    }

    /// Octets that were consumed but not handed on yet: the last ones of the input so far.
    pub(super) fn held_back(&self) -> &'static [u8] {
        match self.state {
            State::Cr => b"\r",
            State::Dot => b".",
            State::DotCr => b".\r",
            State::LineStart | State::Line | State::CrSent | State::AfterBare | State::BareDot => b"",
        }
    }

    /// Begins a chunk that may continue the line of the one before.
    pub(super) fn continue_chunk(&mut self) {
        let (state, line) = (self.state, self.line);
        self.begin(false);
        (self.state, self.line) = (state, line);
    }

    /// The tally, at the end.
    pub(super) fn take_end(&mut self) -> BodyEnd {
        let mut end = std::mem::take(&mut self.end);
        let strict = matches!(self.limits.line_endings, LineEndings::Strict);
        end.strict_violation = strict && end.first_bare.is_some();
        if self.transparent {
            self.begin(false);
        }
        end
    }

    /// Consumes a prefix of `input`; all of it when the answer is `More`.
    pub(super) fn scan<'a>(&mut self, input: &'a [u8]) -> (usize, Step<'a>) {
        let mut consumed = 0;
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let Some(first) = rest.first() else {
                return (consumed, Step::More);
            };
            let (used, step) = self.step(rest, *first);
            consumed += used;
            self.offset += used as u64;
            match step {
                Step::End => return (consumed, Step::End),
                Step::More => {}
                Step::Octets(octets) => {
                    let kept = self.count(octets);
                    if !kept.is_empty() {
                        return (consumed, Step::Octets(kept));
                    }
                }
            }
        }
    }

    /// Ends a chunk: a CR in suspense is handed on, as a bare one if nothing can follow.
    pub(super) fn finish_chunk(&mut self, last: bool) -> Option<&'static [u8]> {
        let octets = match (self.state, last) {
            (State::Cr, true) => self.bare_cr(1),
            (State::Cr, false) => {
                self.state = State::CrSent;
                self.line += 1;
                b"\r"
            }
            _ => {
                if last {
                    (self.state, self.line) = (State::LineStart, 0);
                }
                return None;
            }
        };
        let kept = self.count(octets);
        (!kept.is_empty()).then_some(kept)
    }

    /// Handles what the state demands before a run of text can begin.
    fn step<'a>(&mut self, rest: &'a [u8], first: u8) -> (usize, Step<'a>) {
        match (self.state, first) {
            (State::LineStart, b'.') if self.transparent => {
                self.state = State::Dot;
                (1, Step::More)
            }
            (State::Cr, LF) => {
                self.end_line(2);
                (1, Step::Octets(CRLF))
            }
            (State::CrSent, LF) => {
                self.end_line(1);
                (1, Step::Octets(b"\n"))
            }
            (State::Cr, _) => (0, Step::Octets(self.bare_cr(1))),
            (State::CrSent, _) => {
                self.note_bare(1);
                self.end.bare_cr += 1;
                self.state = State::AfterBare;
                (0, Step::More)
            }
            (State::Dot, CR) => {
                self.state = State::DotCr;
                (1, Step::More)
            }
            (State::Dot, LF) => {
                self.lookalike(1);
                (1, Step::Octets(self.bare_lf()))
            }
            (State::Dot, _) => {
                self.state = State::Line;
                self.run(rest)
            }
            (State::DotCr, LF) => (1, Step::End),
            (State::DotCr, _) => {
                self.lookalike(2);
                (0, Step::Octets(self.bare_cr(1)))
            }
            _ => self.run(rest),
        }
    }

    /// The longest run of octets that go on unchanged, or the replacement of a bare one.
    fn run<'a>(&mut self, rest: &'a [u8]) -> (usize, Step<'a>) {
        let mut pos = 0;
        let mut checked = 0;
        while let Some(octet) = rest.get(pos).copied() {
            if pos >= checked {
                if let Some(used) = self.clean_block(rest, pos, octet) {
                    pos += used;
                    continue;
                }
                checked = pos + BLOCK;
            }
            match (self.state, octet) {
                (State::LineStart, b'.') if self.transparent => break,
                (State::AfterBare, b'.') if self.transparent => {
                    self.state = State::BareDot;
                    self.line += 1;
                    pos += 1;
                }
                (State::BareDot, CR | LF) => {
                    self.state = State::Line;
                    self.note_lookalike((self.offset + pos as u64).saturating_sub(1));
                }
                (_, LF) if pos == 0 => return (1, Step::Octets(self.bare_lf())),
                (_, LF) => break,
                (_, CR) => match rest.get(pos + 1) {
                    Some(&LF) => {
                        self.end_line(2);
                        pos += 2;
                    }
                    Some(_) if pos == 0 => return (1, Step::Octets(self.bare_cr(0))),
                    Some(_) => break,
                    None => {
                        self.state = State::Cr;
                        let text = rest.get(..pos).unwrap_or_default();
                        return (pos + 1, Step::Octets(text));
                    }
                },
                _ => {
                    let text = rest.get(pos..).unwrap_or_default();
                    let end = text.iter().position(|b| matches!(*b, CR | LF));
                    let length = end.unwrap_or(text.len());
                    self.state = State::Line;
                    self.line += length as u64;
                    pos += length;
                }
            }
        }
        (pos, Step::Octets(rest.get(..pos).unwrap_or_default()))
    }

    /// Passes over a block at `pos` in which all line ends are CRLF and no line begins with
    /// a dot, in one branch-free sweep; returns its length.
    fn clean_block(&mut self, rest: &[u8], pos: usize, first: u8) -> Option<usize> {
        let ready = matches!(self.state, State::LineStart | State::Line);
        if !ready || matches!(first, b'.' | LF) || self.limits.text_line < BLOCK {
            return None;
        }
        let window = rest.get(pos..=pos.checked_add(BLOCK)?)?;
        let (block, next) = (window.get(..BLOCK)?, window.get(1..)?);
        let dot = if self.transparent { b'.' } else { LF };
        let mut odd = 0;
        for (a, b) in block.iter().zip(next) {
            odd |= u8::from((*a == CR) != (*b == LF)) | u8::from((*a == LF) & (*b == dot));
        }
        if odd != 0 {
            return None;
        }
        // A CR at the end has its LF after it; taking both leaves no state to carry.
        let length = BLOCK + usize::from(block.last() == Some(&CR));
        let block = window.get(..length)?;
        match block.iter().position(|b| *b == LF) {
            Some(at) => {
                self.end_line(at as u64 + 1);
                let tail = block.iter().rev().position(|b| *b == LF).unwrap_or(0);
                self.line = tail as u64;
            }
            None => self.line += length as u64,
        }
        self.state = if self.line == 0 { State::LineStart } else { State::Line };
        Some(length)
    }

    /// Counts octets that are handed on and cuts off what exceeds the limit.
    fn count<'a>(&mut self, octets: &'a [u8]) -> &'a [u8] {
        let limit = self.limits.message_size;
        let room = if limit == 0 {
            u64::MAX
        } else {
            limit.saturating_sub(self.end.octets)
        };
        self.end.octets += octets.len() as u64;
        self.end.too_big |= limit != 0 && self.end.octets > limit;
        self.end.has_nul |= octets.contains(&0);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        octets.get(..room).unwrap_or(octets)
    }

    /// A line ends after `more` octets, its terminator included.
    fn end_line(&mut self, more: u64) {
        let limit = self.limits.text_line as u64;
        self.end.long_lines += u64::from(self.line + more > limit);
        self.line = 0;
        self.state = State::LineStart;
    }

    /// A bare LF at the offset: what to hand on.
    fn bare_lf(&mut self) -> &'static [u8] {
        self.note_bare(0);
        self.end.bare_lf += 1;
        self.end_line(2);
        self.state = State::AfterBare;
        if self.strict() { b"\n" } else { CRLF }
    }

    /// A bare CR `back` octets before the offset: what to hand on.
    fn bare_cr(&mut self, back: u64) -> &'static [u8] {
        self.note_bare(back);
        self.end.bare_cr += 1;
        self.line += 1;
        self.state = State::AfterBare;
        if self.strict() { b"\r" } else { b" " }
    }

    fn strict(&self) -> bool {
        matches!(self.limits.line_endings, LineEndings::Strict)
    }

    fn note_bare(&mut self, back: u64) {
        let at = self.offset.saturating_sub(back);
        self.end.first_bare.get_or_insert(at);
    }

    fn lookalike(&mut self, back: u64) {
        self.note_lookalike(self.offset.saturating_sub(back));
    }

    fn note_lookalike(&mut self, at: u64) {
        if self.end.lookalikes.len() < LOOKALIKES {
            self.end.lookalikes.push(at);
        }
    }
}
