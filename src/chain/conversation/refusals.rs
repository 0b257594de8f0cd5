//! Refusals that are the conversation's own, and those that stand in for what a handler left unsaid.

use crate::chain::{Chain, Found};
use crate::session::Verdict;
use crate::smtp::address::ForwardPath;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

impl Chain {
    /// The answer to a recipient that nobody took: fail closed.
    pub(super) fn closed(&self, path: &ForwardPath) -> Reply {
        match self.directory.look_up(path) {
            Found::ForeignDomain => Reply::new(550, Some(Status::REFUSED), "relaying not allowed"),
            _ => Reply::new(550, Some(Status::UNKNOWN_MAILBOX), "no such mailbox"),
        }
    }
}

/// 452 4.5.3 (RFC 5321 §4.5.3.1.10): the client sends the others their own copy.
pub(super) fn too_many_recipients() -> Reply {
    Reply::new(452, Some(Status::TOO_MANY_RECIPIENTS), "too many recipients")
}

/// 552 5.3.4 (RFC 1870 §6).
pub(super) fn too_big() -> Reply {
    Reply::new(552, Some(Status::TOO_BIG), "message too big")
}

/// A negative reply for a verdict, whatever the handler gave.
pub(super) fn refusal(verdict: Verdict, given: Option<Reply>) -> Reply {
    let fits = |reply: &Reply| match verdict {
        Verdict::Defer => (400..500).contains(&reply.code),
        Verdict::Reject => (500..600).contains(&reply.code),
        _ => (400..600).contains(&reply.code) || reply.code == 221,
    };
    given.filter(fits).unwrap_or_else(|| match verdict {
        Verdict::Defer => Reply::new(451, Some(Status::GREYLISTED), "try again later"),
        Verdict::Disconnect => Reply::new(421, Some(Status(4, 7, 0)), "closing connection"),
        _ => Reply::new(550, Some(Status::REFUSED), "refused by policy"),
    })
}
