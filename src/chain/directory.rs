//! Who exists: what the chain asks about a forward-path. The configuration answers.

use crate::session::Mailbox;
use crate::smtp::address::ForwardPath;

/// What is known about a forward-path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Delivered to these mailboxes, one or more.
    Valid(Vec<Mailbox>),
    /// Unknown, but taken into the quarantine under this name.
    Soft(Mailbox),
    /// Known and switched off.
    Disabled,
    /// A domain of ours without such a mailbox.
    UnknownMailbox,
    /// Not a domain of ours.
    ForeignDomain,
}

/// Answers who exists; reads no clock and no network.
pub trait Directory: Send + Sync {
    /// Looks a forward-path up; `<Postmaster>` alone is the first domain's.
    fn look_up(&self, path: &ForwardPath) -> Found;
}
