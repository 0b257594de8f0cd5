//! Negative replies that are the protocol's own, whatever handlers say.

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

/// The host accepts no mail at all (RFC 7504).
pub(super) const NO_MAIL: u16 = 521;

/// What a client hears after a greeting that refused it.
pub(super) fn turned_away(greeting: &Reply) -> Reply {
    if greeting.code == NO_MAIL {
        let mut reply = greeting.clone();
        reply.status = Some(Status::SYSTEM_REFUSES);
        return reply;
    }
    let text = "no service for you, QUIT is all that is left";
    Reply::new(503, Some(Status::INVALID_COMMAND), text)
}

/// The reply to bare CR or LF where they are forbidden.
pub(super) fn bare_line_ending() -> Reply {
    Reply::new(550, Some(Status(5, 5, 2)), "bare <CR> or <LF> not allowed")
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
