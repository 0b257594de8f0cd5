//! Between a worker and delivery: a message is offered once, whole, and answered once, per recipient.

use serde::{Deserialize, Serialize};

use super::bytes;

/// The longest body that travels inside a [`Commit`]; a longer one is staged in a file.
pub const INLINE_BODY: usize = 48 * 1024;

/// The most recipients of one [`Commit`].
pub const RECIPIENTS: usize = 1000;

/// Octets that the recipients of one [`Commit`] may take together, as [`Recipient::octets`] counts them: what else an
/// envelope has fits beside them into a frame. A hundred of the longest addresses do.
pub const RECIPIENTS_OCTETS: usize = 52 * 1024;

/// What a worker asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDelivery {
    /// Wants a nameless file for a long body; answered by `Staged` or `Full`. A door that one worker after the other has
    /// is closed for it: the file would outlive its worker.
    Begin {
        /// Octets that the client declared (RFC 1870), or 0.
        size_hint: u64,
    },
    /// Wants the message delivered; answered by `Outcome` or `Refused`.
    Commit(Commit),
}

/// What delivery answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDelivery {
    /// The file for the body rides with this frame, open for writing, empty.
    Staged,
    /// There is no space for it: 452 4.3.1.
    Full,
    /// What became of each recipient of a message.
    Outcome {
        /// The message's identifier: a door may have been another worker's before, and its answer come late.
        id: String,
        /// As many as it had.
        outcome: Outcome,
    },
    /// The request broke a rule; nothing was done.
    Refused {
        /// The message's identifier.
        id: String,
        /// For the log.
        reason: String,
    },
}

/// One message with its envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Identifier of the message: letters, digits, `.`, `-`, `_`; it names files.
    pub id: String,
    /// The reverse-path without brackets; "" is the null one.
    pub reverse_path: String,
    /// At least one.
    pub recipients: Vec<Recipient>,
    /// Header fields that we add, in order, each ended by CRLF: those of effects, then our `Received`.
    #[serde(with = "bytes")]
    pub fields: Vec<u8>,
    /// Names of header fields that are left out of the message as received.
    pub removed: Vec<String>,
    /// The message as received.
    pub body: Body,
    /// Whether the transaction used SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// Seconds since 1970.
    pub received_at: i64,
    /// The client's address, for records.
    pub peer: String,
    /// What the client called itself, for records.
    pub helo: String,
}

/// One recipient of a [`Commit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The address as the client wrote it in RCPT.
    pub original: String,
    /// The configured spelling of the domain.
    pub domain: String,
    /// The configured spelling of the local part: the mailbox.
    pub mailbox: String,
    /// What to do with the message for this one.
    pub disposition: Disposition,
}

impl Recipient {
    /// The final mailbox's address.
    pub fn address(&self) -> String {
        format!("{}@{}", self.mailbox, self.domain)
    }
}

/// What to do with a message for one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Disposition {
    /// To the mailbox, by the agent.
    Deliver,
    /// To the quarantine, for research.
    Quarantine,
    /// Nowhere.
    Discard,
    /// To no recipient: a copy for research in the directory of copies. Its result is always `Discarded`.
    Copy,
}

impl Commit {
    /// Octets that all but an inline body takes in a frame, or a few more.
    pub fn envelope_octets(&self) -> usize {
        let recipients = self
            .recipients
            .iter()
            .map(|r| Recipient::octets(&r.original, &r.domain, &r.mailbox));
        let removed = self.removed.iter().map(|name| name.len() + LENGTH);
        let words = [&self.id, &self.reverse_path, &self.peer, &self.helo].map(|word| word.len() + LENGTH);
        let fixed = self.fields.len() + 64;
        recipients.chain(removed).chain(words).sum::<usize>() + fixed
    }
}

/// Octets of the length in front of a text in a frame, at most.
const LENGTH: usize = 3;

impl Recipient {
    /// Octets that a recipient of these words takes in a frame.
    pub fn octets(original: &str, domain: &str, mailbox: &str) -> usize {
        original.len() + domain.len() + mailbox.len() + 3 * LENGTH + 1
    }
}

/// Where the body of a [`Commit`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Here; at most [`INLINE_BODY`] octets.
    Inline(#[serde(with = "bytes")] Vec<u8>),
    /// In the file of the last `Staged` on this channel.
    Staged {
        /// Octets written there; must be the file's length.
        length: u64,
    },
}

/// The answer to a [`Commit`]: results in the order of its recipients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// As many as there were recipients.
    pub results: Vec<RecipientResult>,
}

/// What became of the message for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecipientResult {
    /// In the mailbox, on disk.
    Delivered,
    /// In the spool, on disk.
    Spooled,
    /// In the quarantine, on disk.
    Quarantined,
    /// Thrown away on purpose.
    Discarded,
    /// Not now (RFC 5321 4yz).
    Temporary {
        /// Reply code.
        code: u16,
        /// Enhanced status (RFC 3463).
        status: [u16; 3],
        /// Text for the client.
        text: String,
    },
    /// Not ever (RFC 5321 5yz).
    Permanent {
        /// Reply code.
        code: u16,
        /// Enhanced status (RFC 3463).
        status: [u16; 3],
        /// Text for the client.
        text: String,
    },
}
