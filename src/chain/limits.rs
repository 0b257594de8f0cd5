//! Limits of a session that the conversation keeps; RFC 5321 §4.5.3.1.

use crate::smtp::receiver::LineEndings;

/// Numbers from `worker.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest message in octets, 0 for none.
    pub message_size: u64,
    /// Recipients of one transaction; beyond them 452 4.5.3.
    pub maximum_recipients: u32,
    /// Transactions of one session, complete or not (RFC 9422 §4.1); beyond them 421 4.7.0.
    pub maximum_messages: u32,
    /// Faulty commands of one session; beyond them 421 4.7.0.
    pub maximum_errors: u32,
    /// Unknown commands of one session; beyond them 421 4.7.0.
    pub maximum_unknown_commands: u32,
    /// Commands since the last message accepted that bring none nearer; beyond them 421 4.7.0.
    pub maximum_harmless_commands: u32,
    /// `Received` fields from which on a message is a loop (RFC 5321 §6.3): 554 5.4.6, whoever it is for. That refuses
    /// postmaster's mail as well, since a loop is a matter of the message's form, like syntax and size, and of no policy.
    pub maximum_received: u32,
    /// Whether parameters of MAIL and RCPT that are not offered are ignored, instead of refused with 555.
    pub tolerate_unadvertised_params: bool,
    /// Whether STARTTLS is offered.
    pub starttls: bool,
    /// Whether XCLIENT is served, to those who may speak for others.
    pub xclient: bool,
    /// What to do with bare CR and LF.
    pub line_endings: LineEndings,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_size: 64 << 20,
            maximum_recipients: 1000,
            maximum_messages: 1000,
            maximum_errors: 20,
            maximum_unknown_commands: 5,
            maximum_harmless_commands: 1000,
            maximum_received: 100,
            tolerate_unadvertised_params: false,
            starttls: false,
            xclient: false,
            line_endings: LineEndings::Normalize,
        }
    }
}
