//! Verdicts, and those of them that bite later than they were found.
//!
//! A verdict that waits is kept in the scope where it arose (session, transaction or recipient) and bites in every
//! transaction of that scope.

use crate::smtp::reply::Reply;

/// What a handler wants to become of the command; ordered by severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Verdict {
    /// No opinion.
    #[default]
    None,
    /// Go on.
    Accept,
    /// Go on, but the message goes to the quarantine.
    Quarantine,
    /// Refuse for now (4xx).
    Defer,
    /// Refuse for good (5xx).
    Reject,
    /// Answer and close.
    Disconnect,
    /// Close without an answer.
    Drop,
}

impl Verdict {
    /// The word used in the log, the manual and YAML.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::None => "none",
            Verdict::Accept => "accept",
            Verdict::Quarantine => "quarantine",
            Verdict::Defer => "defer",
            Verdict::Reject => "reject",
            Verdict::Disconnect => "disconnect",
            Verdict::Drop => "drop",
        }
    }

    /// Whether the command succeeds with it.
    pub fn is_positive(self) -> bool {
        matches!(self, Verdict::Accept | Verdict::Quarantine)
    }
}

/// From which step on a verdict may bite; ordered as the steps of a transaction are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum At {
    /// In the exchange in which it was found.
    #[default]
    Now,
    /// At MAIL and after.
    Mail,
    /// At RCPT and after.
    Rcpt,
    /// At DATA or BDAT and after.
    Data,
    /// When the whole message is there.
    EndOfData,
    /// Recorded only.
    Never,
}

/// A verdict that bites later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The entry of the chain that found it.
    pub by: String,
    /// What it wants.
    pub verdict: Verdict,
    /// Its reply, if it brought one.
    pub reply: Option<Reply>,
    /// When it bites.
    pub at: At,
    /// Whether it depends on the name given in HELO or EHLO and ends with the next one.
    pub of_hello: bool,
}
