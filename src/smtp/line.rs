//! Command lines (RFC 5321 §2.3.8, §4.5.3.1.4): collects octets up to a line feed.
//! It may assume nothing about the input and never keeps more than the limit.

use super::limits::LineEndings;

/// What ended a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnding {
    /// CR LF, the only correct one.
    CrLf,
    /// LF alone.
    Lf,
}

/// One command line, its terminator removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The octets of the line, cut off when too long. With strict line endings a line that
    /// ended in a bare LF keeps it, so that [`parse`](super::command::parse) refuses it.
    pub bytes: Vec<u8>,
    /// What ended it.
    pub ending: LineEnding,
    /// More octets, terminator included, than the limit allows.
    pub too_long: bool,
}

/// The half line between two feeds.
#[derive(Debug, Default)]
pub(super) struct HalfLine {
    kept: Vec<u8>,
    octets: usize,
    after_cr: bool,
}

impl HalfLine {
    /// Consumes a prefix of `input`, at most up to and including the first LF.
    pub(super) fn feed(&mut self, input: &[u8], limit: usize, endings: LineEndings) -> (usize, Option<CommandLine>) {
        let end = input.iter().position(|b| *b == b'\n');
        let text = end.and_then(|n| input.get(..n)).unwrap_or(input);
        let room = limit.saturating_sub(self.kept.len()).min(text.len());
        self.kept.extend_from_slice(text.get(..room).unwrap_or_default());
        self.octets = self.octets.saturating_add(text.len());
        if let Some(last) = text.last() {
            self.after_cr = *last == b'\r';
        }
        if end.is_none() {
            return (text.len(), None);
        }
        let half = std::mem::take(self);
        (text.len() + 1, Some(half.finish(limit, endings)))
    }

    fn finish(mut self, limit: usize, endings: LineEndings) -> CommandLine {
        let too_long = self.octets.saturating_add(1) > limit;
        let ending = if self.after_cr {
            LineEnding::CrLf
        } else {
            LineEnding::Lf
        };
        if too_long {
            self.kept.truncate(limit.saturating_sub(2));
        } else if self.after_cr {
            self.kept.pop();
        } else if matches!(endings, LineEndings::Strict) {
            self.kept.push(b'\n');
        }
        CommandLine {
            bytes: self.kept,
            ending,
            too_long,
        }
    }
}
