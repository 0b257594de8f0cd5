//! STARTTLS (RFC 3207): lets the handshake begin. The conversation refuses it where TLS is not offered, is active already, or
//! cannot be had because nobody would sign.
//!
//! Notes: reads none, writes none.

use crate::chain::{Answer, Facts};
use crate::session::Verdict;
use crate::smtp::status::Status;

/// The handler.
pub struct StartTls;

impl Answer for StartTls {
    const FACTS: &'static Facts = &Facts {
        id: "starttls",
        module: "starttls",
        class: "StartTLS",
        verbs: &["STARTTLS"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "220, then a TLS handshake",
    };
    const REPLY: (u16, Option<Status>) = (220, Some(Status::OK));
    const MESSAGE: &'static str = "Ready to start TLS";
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn is_refused_where_it_is_not_offered() {
        let mut peer = Peer::open();
        assert!(peer.say("STARTTLS now").starts_with("501 5.5.4 "));
        assert_eq!(peer.say("STARTTLS"), "502 5.5.1 STARTTLS not offered\r\n");
        assert!(!peer.say("EHLO client.example").contains("STARTTLS"));
    }
}
