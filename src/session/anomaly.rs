//! What was odd about a client. Research lives on it; no anomaly by itself refuses anything.

use crate::smtp::command::Oddity;

/// One departure from what RFC 5321 and its extensions prescribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anomaly {
    /// Something about a command's line: case, spacing, brackets, an unknown parameter.
    Command(Oddity),
    /// It used an extension that its HELO was not offered: the keyword of a parameter, or BDAT.
    NotOffered(String),
    /// It talked before the greeting (RFC 5321 §3.1).
    EarlyTalk,
    /// It sent on behind a command that must end a group, or PIPELINING was not offered (RFC 2920 §3.1).
    IllegalPipelining(String),
    /// It sent the body before the 354 (RFC 2920 §3.1).
    DataBeforeReply,
    /// It went on behind the end of the data before our reply, without PIPELINING.
    TalkedAfterDot,
    /// Lines of a body that end in LF alone, how many and the first one's offset.
    BareLf {
        /// How many.
        count: u64,
        /// Offset of the first bare LF or CR of the body.
        first: Option<u64>,
    },
    /// CR without LF in a body, how many and the first one's offset.
    BareCr {
        /// How many.
        count: u64,
        /// Offset of the first bare LF or CR of the body.
        first: Option<u64>,
    },
    /// Something that some servers take for the end of the data.
    EndOfDataLookalike {
        /// Its offset in the body.
        offset: u64,
    },
    /// Lines over the text line limit.
    LongLines(u64),
    /// NUL in a body.
    Nul,
    /// Size of a BDAT chunk that was not the last (RFC 3030).
    ChunkBoundary(u64),
    /// SIZE= was announced and a different size sent.
    SizeMismatch {
        /// As announced.
        announced: u64,
        /// As received.
        received: u64,
    },
    /// It sent so many octets behind STARTTLS before our reply: a command put there by somebody on the way would have been
    /// executed inside TLS (RFC 3207 §6).
    PlaintextBehindStartTls(u64),
    /// It began as a proxy does that speaks for somebody else, though nobody has asked for a PROXY header.
    UnaskedProxyHeader,
    /// It is to begin with a PROXY header, and did not.
    NoProxyHeader,
    /// It said XCLIENT, and may not speak for others.
    UnauthorizedXclient,
    /// The client went away instead of saying QUIT.
    NoQuit,
}

impl Anomaly {
    /// A short word for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Anomaly::Command(oddity) => oddity.name(),
            Anomaly::NotOffered(_) => "not_offered",
            Anomaly::EarlyTalk => "early_talk",
            Anomaly::IllegalPipelining(_) => "illegal_pipelining",
            Anomaly::DataBeforeReply => "data_before_reply",
            Anomaly::TalkedAfterDot => "talked_after_dot",
            Anomaly::BareLf { .. } => "bare_lf",
            Anomaly::BareCr { .. } => "bare_cr",
            Anomaly::EndOfDataLookalike { .. } => "end_of_data_lookalike",
            Anomaly::LongLines(_) => "long_lines",
            Anomaly::Nul => "nul",
            Anomaly::ChunkBoundary(_) => "chunk_boundary",
            Anomaly::SizeMismatch { .. } => "size_mismatch",
            Anomaly::PlaintextBehindStartTls(_) => "plaintext_behind_starttls",
            Anomaly::UnaskedProxyHeader => "unasked_proxy_header",
            Anomaly::NoProxyHeader => "no_proxy_header",
            Anomaly::UnauthorizedXclient => "unauthorized_xclient",
            Anomaly::NoQuit => "no_quit",
        }
    }
}

/// An anomaly and where in the session it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Number of the command, from 1; 0 before the first.
    pub command: u32,
    /// Number of the transaction, 0 outside of one.
    pub transaction: u32,
    /// What was seen.
    pub anomaly: Anomaly,
}
