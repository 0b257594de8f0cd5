//! One mail transaction, from MAIL to the end of the data (RFC 5321 §3.3).

use super::body::BodyFacts;
use super::kept::Kept;
use super::notes::{Notes, OfTransaction};
use super::recipient::Recipient;
use crate::smtp::address::ReversePath;
use crate::smtp::params::MailParameters;

/// A mail transaction.
#[derive(Debug)]
pub struct Transaction {
    /// `<session>-<n>`, also the message's id: an atom, as the trace field wants it (RFC 5321 §4.4).
    pub id: String,
    /// Which of the session's transactions, from 1.
    pub number: u32,
    /// Who is to hear of failures.
    pub reverse_path: ReversePath,
    /// Parameters of MAIL.
    pub parameters: MailParameters,
    /// Recipients accepted so far, in order.
    pub recipients: Vec<Recipient>,
    /// Copies that they stand for, where each mailbox of a recipient is one.
    pub copies: usize,
    /// Octets of these copies in the envelope.
    pub copies_octets: usize,
    /// RCPT commands refused.
    pub refused: u32,
    /// Notes of handlers about the transaction.
    pub notes: Notes<OfTransaction>,
    /// Verdicts that bite later in this transaction.
    pub kept: Vec<Kept>,
    /// Header fields that handlers had added: complete, folded, each ending with CRLF.
    pub fields: Vec<String>,
    /// Names of header fields that handlers had removed from the message as it came.
    pub removed: Vec<String>,
    /// Words that handlers put on the message.
    pub labels: Vec<String>,
    /// Set by the first DATA or BDAT: how the body came so far.
    pub body: Option<BodyFacts>,
}

impl Transaction {
    /// A transaction without recipients.
    pub fn new(session: &str, number: u32, reverse_path: ReversePath, parameters: MailParameters) -> Transaction {
        Transaction {
            id: format!("{session}-{number}"),
            number,
            reverse_path,
            parameters,
            recipients: Vec::new(),
            copies: 0,
            copies_octets: 0,
            refused: 0,
            notes: Notes::new(),
            kept: Vec::new(),
            fields: Vec::new(),
            removed: Vec::new(),
            labels: Vec::new(),
            body: None,
        }
    }

    /// Whether BDAT chunks have arrived and the last one not yet.
    pub fn is_chunking(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.chunked)
    }
}
