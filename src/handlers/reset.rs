//! RSET (RFC 5321 §4.1.1.5). The conversation drops the transaction when this is accepted.
//!
//! Notes: reads none, writes none.

use crate::chain::registry::Material;
use crate::chain::{Context, Facts, Handler, HandlerError, Outcome};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// Who it is.
pub const FACTS: Facts = Facts {
    id: "reset",
    class: "ResetHandler",
    verbs: &["RSET"],
    decides: &[Verdict::Accept],
    taker: false,
    about: "250; the transaction is dropped",
};

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

struct Reset {
    config: Config,
}

/// Makes one from its settings.
pub fn make(material: &mut Material) -> Box<dyn Handler> {
    let mut config = Config::default();
    material.settings.text("message", &mut config.message);
    Box::new(Reset { config })
}

impl Handler for Reset {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

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
