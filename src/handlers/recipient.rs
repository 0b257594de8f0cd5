//! RCPT (RFC 5321 §4.1.1.3): asks the configured recipients who exists and where the mail goes.
//!
//! A soft recipient is accepted as any other and its copy goes to the quarantine. Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Effect, Facts, Found, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// `recipient.yaml`; who exists is in `simple_recipient_validator.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the 250.
    pub message: String,
    /// Text of the 550 for a mailbox that does not exist.
    pub unknown: String,
    /// Text of the 550 for a mailbox that is switched off.
    pub disabled: String,
    /// Text of the 550 for a domain that is not ours.
    pub foreign: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "recipient OK".into(),
            unknown: "no such mailbox".into(),
            disabled: "this mailbox no longer exists".into(),
            foreign: "relaying not allowed".into(),
        }
    }
}

/// The handler.
pub struct Recipient {
    config: Config,
    directory: Arc<dyn Directory>,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
        section.read("unknown", &mut self.unknown, Field::reply);
        section.read("disabled", &mut self.disabled, Field::reply);
        section.read("foreign", &mut self.foreign, Field::reply);
    }
}

impl Kind for Recipient {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "recipient",
        module: "recipient",
        class: "RecipientHandler",
        verbs: &["RCPT"],
        decides: &[Verdict::Accept, Verdict::Quarantine, Verdict::Reject],
        always_refuses: false,
        taker: false,
        about: "accepts configured recipients, refuses unknown and foreign ones",
    };

    fn new(config: Config, directory: &Arc<dyn Directory>) -> Recipient {
        Recipient {
            config,
            directory: Arc::clone(directory),
        }
    }
}

impl Recipient {
    fn accepted(&self, context: &Context<'_>) -> Reply {
        Reply::new(250, Some(Status::RECIPIENT_OK), context.expand(&self.config.message))
    }
}

impl Handler for Recipient {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let Some(recipient) = context.recipient() else {
            return Ok(Outcome::none());
        };
        let refuse = |status, text: &str| Ok(Outcome::reject(Reply::new(550, Some(status), context.expand(text))));
        match self.directory.look_up(&recipient.forward_path) {
            Found::Valid(mailboxes) => Ok(Outcome::accept(self.accepted(context)).with(Effect::Route(mailboxes))),
            Found::Soft(mailbox) => {
                let mut outcome = Outcome::accept(self.accepted(context)).with(Effect::Route(vec![mailbox]));
                outcome.verdict = Verdict::Quarantine;
                Ok(outcome.evidence("SOFT_RECIPIENT", "", 0.0))
            }
            Found::Disabled => refuse(Status::MAILBOX_DISABLED, &self.config.disabled),
            Found::UnknownMailbox => refuse(Status::UNKNOWN_MAILBOX, &self.config.unknown),
            Found::ForeignDomain => refuse(Status::REFUSED, &self.config.foreign),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn each_kind_has_its_answer() {
        let mut peer = Peer::greeted();
        assert!(peer.say("MAIL FROM:<>").starts_with("250 "));
        for (address, reply) in [
            ("user@example.com", "250 2.1.5 recipient OK\r\n"),
            ("soft@example.com", "250 2.1.5 recipient OK\r\n"),
            ("nobody@example.com", "550 5.1.1 no such mailbox\r\n"),
            ("disabled@example.com", "550 5.2.1 this mailbox no longer exists\r\n"),
            ("user@elsewhere.example", "550 5.7.1 relaying not allowed\r\n"),
        ] {
            assert_eq!(peer.say(&format!("RCPT TO:<{address}>")), reply);
        }
    }
}
