//! RSET (RFC 5321 §4.1.1.5). The conversation drops the transaction when this is accepted.
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// `reset.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the reply.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config { message: "OK".into() }
    }
}

/// The handler.
pub struct Reset {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for Reset {
    type Settings = Config;
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

    fn new(config: Config, _: &Arc<dyn Directory>) -> Reset {
        Reset { config }
    }
}

impl Handler for Reset {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let text = context.expand(&self.config.message);
        Ok(Outcome::accept(Reply::new(250, Some(Status::OK), text)))
    }
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
