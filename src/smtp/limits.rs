//! How long lines and messages may be, and what becomes of bare CR and LF.

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
