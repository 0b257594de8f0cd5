//! NOOP (RFC 5321 §4.1.1.9): does nothing, whatever its argument.
//!
//! Notes: reads none, writes none.

use crate::chain::{Answer, Facts};
use crate::session::Verdict;
use crate::smtp::status::Status;

/// The handler.
pub struct Noop;

impl Answer for Noop {
    const FACTS: &'static Facts = &Facts {
        id: "noop",
        module: "noop",
        class: "NoopHandler",
        verbs: &["NOOP"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "250 and nothing else",
    };
    const REPLY: (u16, Option<Status>) = (250, Some(Status::OK));
    const MESSAGE: &'static str = "OK";
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn ignores_its_argument() {
        assert_eq!(Peer::open().say("NOOP whatever <x>"), "250 2.0.0 OK\r\n");
    }
}
