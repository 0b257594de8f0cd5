//! RSET (RFC 5321 §4.1.1.5). The conversation drops the transaction when this is accepted.
//!
//! Notes: reads none, writes none.

use crate::chain::{Answer, Facts};
use crate::session::Verdict;
use crate::smtp::status::Status;

/// The handler.
pub struct Reset;

impl Answer for Reset {
    const FACTS: &'static Facts = &Facts {
        id: "reset",
        module: "reset",
        class: "ResetHandler",
        verbs: &["RSET"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "250; the transaction is dropped",
    };
    const REPLY: (u16, Option<Status>) = (250, Some(Status::OK));
    const MESSAGE: &'static str = "OK";
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn drops_the_transaction() {
        let mut peer = Peer::greeted();
        assert!(peer.say("MAIL FROM:<a@client.example>").starts_with("250 "));
        assert_eq!(peer.say("RSET"), "250 2.0.0 OK\r\n");
        assert!(peer.say("RCPT TO:<user@example.com>").starts_with("503 5.5.1"));
    }
}
