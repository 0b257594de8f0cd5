//! One accepted recipient of a transaction.

use super::kept::Kept;
use super::notes::{Notes, OfRecipient};
use crate::smtp::address::ForwardPath;

/// What becomes of the message for one recipient, whatever the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Disposition {
    /// Into the mailbox.
    #[default]
    Deliver,
    /// Into the quarantine, for research.
    Quarantine,
    /// Nowhere.
    Discard,
}

/// A final mailbox as it is configured: several recipients may lead to one, and one to several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    /// Domain, in the configured spelling.
    pub domain: String,
    /// Local part, in the configured spelling.
    pub mailbox: String,
}

/// One RCPT.
#[derive(Debug)]
pub struct Recipient {
    /// The path as sent.
    pub forward_path: ForwardPath,
    /// Where its copy goes.
    pub disposition: Disposition,
    /// The final mailboxes, after tags and aliases.
    pub mailboxes: Vec<Mailbox>,
    /// Notes of handlers about this recipient.
    pub notes: Notes<OfRecipient>,
    /// Verdicts about this recipient that bite when the message is there.
    pub kept: Vec<Kept>,
}

impl Recipient {
    /// A recipient that no handler has seen yet.
    pub fn new(forward_path: ForwardPath) -> Recipient {
        Recipient {
            forward_path,
            disposition: Disposition::Deliver,
            mailboxes: Vec::new(),
            notes: Notes::new(),
            kept: Vec::new(),
        }
    }

    /// The address as sent, without brackets.
    pub fn address(&self) -> String {
        match &self.forward_path {
            ForwardPath::Postmaster => "Postmaster".to_owned(),
            ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
        }
    }

    /// Whether it is a postmaster address (RFC 5321 §4.5.1); whether of a domain of ours is the chain's to say.
    pub fn is_postmaster(&self) -> bool {
        match &self.forward_path {
            ForwardPath::Postmaster => true,
            ForwardPath::Mailbox(mailbox) => mailbox.local_part().eq_ignore_ascii_case("postmaster"),
        }
    }
}
