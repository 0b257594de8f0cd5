//! The end of the session by QUIT (RFC 5321 §4.1.1.10).
//!
//! Notes: reads none, writes none.

use crate::chain::{Answer, Facts};
use crate::session::Verdict;
use crate::smtp::status::Status;

/// The handler.
pub struct Quit;

impl Answer for Quit {
    const FACTS: &'static Facts = &Facts {
        id: "quit",
        module: "quit",
        class: "Quit",
        verbs: &["QUIT"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "221, then the connection is closed",
    };
    const REPLY: (u16, Option<Status>) = (221, Some(Status::OK));
    const MESSAGE: &'static str = "<server_name> closing connection";
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn says_goodbye_and_closes() {
        let mut peer = Peer::open();
        assert_eq!(peer.say("QUIT"), "221 2.0.0 mail.example.com closing connection\r\n");
        assert!(peer.is_closed());
    }

    #[test]
    fn an_argument_is_a_fault() {
        let mut peer = Peer::open();
        assert!(peer.say("QUIT now").starts_with("501 "));
        assert!(!peer.is_closed());
    }
}
