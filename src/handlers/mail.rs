//! MAIL (RFC 5321 §4.1.1.2): accepts every reverse-path that is well-formed and in order; the conversation sees to both.
//!
//! Notes: reads none, writes none.

use crate::chain::{Answer, Facts};
use crate::session::Verdict;
use crate::smtp::status::Status;

/// The handler.
pub struct Mail;

impl Answer for Mail {
    const FACTS: &'static Facts = &Facts {
        id: "mail",
        module: "mail",
        class: "MailHandler",
        verbs: &["MAIL"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "250 for every well-formed reverse-path",
    };
    const REPLY: (u16, Option<Status>) = (250, Some(Status::SENDER_OK));
    const MESSAGE: &'static str = "sender OK";
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn accepts_senders_and_the_null_path() {
        for path in ["<a@client.example>", "<>"] {
            assert_eq!(
                Peer::greeted().say(&format!("MAIL FROM:{path}")),
                "250 2.1.0 sender OK\r\n"
            );
        }
    }

    #[test]
    fn needs_a_hello() {
        assert!(
            Peer::open()
                .say("MAIL FROM:<a@client.example>")
                .starts_with("503 5.5.1")
        );
    }
}
