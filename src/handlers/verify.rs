//! VRFY (RFC 5321 §3.5.3): never tells who exists.
//!
//! Notes: reads none, writes none.

use crate::chain::{Answer, Facts};
use crate::session::Verdict;
use crate::smtp::status::Status;

/// The handler.
pub struct Verify;

impl Answer for Verify {
    const FACTS: &'static Facts = &Facts {
        id: "verify",
        module: "verify_attempt_delivery",
        class: "VerifyAttemptDelivery",
        verbs: &["VRFY"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "252, whoever is asked for",
    };
    const REPLY: (u16, Option<Status>) = (252, Some(Status(2, 5, 2)));
    const MESSAGE: &'static str = "Cannot verify the user, but will try to deliver";
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn tells_nothing() {
        let mut peer = Peer::open();
        assert!(peer.say("VRFY user").starts_with("252 2.5.2"));
        assert_eq!(peer.say("VRFY user"), peer.say("VRFY nobody"));
    }
}
