//! MAIL (RFC 5321 §4.1.1.2): accepts every reverse-path that is well-formed and in order; the conversation sees to both.
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

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

/// The handler.
pub struct Mail {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for Mail {
    type Settings = Config;
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

    fn new(config: Config, _: &Arc<dyn Directory>) -> Mail {
        Mail { config }
    }
}

impl Handler for Mail {
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
