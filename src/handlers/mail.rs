//! MAIL (RFC 5321 §4.1.1.2): accepts every reverse-path that is well-formed and in order; the conversation sees to both.
//!
//! Notes: reads none, writes none.

use crate::chain::registry::Material;
use crate::chain::{Context, Facts, Handler, HandlerError, Outcome};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// Who it is.
pub const FACTS: Facts = Facts {
    id: "mail",
    class: "MailHandler",
    verbs: &["MAIL"],
    decides: &[Verdict::Accept],
    taker: false,
    about: "250 for every well-formed reverse-path",
};

/// `mail.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the reply.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "sender OK".into(),
        }
    }
}

struct Mail {
    config: Config,
}

/// Makes one from its settings.
pub fn make(material: &mut Material) -> Box<dyn Handler> {
    let mut config = Config::default();
    material.settings.text("message", &mut config.message);
    Box::new(Mail { config })
}

impl Handler for Mail {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let text = context.expand(&self.config.message);
        Ok(Outcome::accept(Reply::new(250, Some(Status::SENDER_OK), text)))
    }
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
