//! VRFY (RFC 5321 §3.5.3): never tells who exists.
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// `verify.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the reply.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "Cannot verify the user, but will try to deliver".into(),
        }
    }
}

/// The handler.
pub struct Verify {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for Verify {
    type Settings = Config;
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

    fn new(config: Config, _: &Arc<dyn Directory>) -> Verify {
        Verify { config }
    }
}

impl Handler for Verify {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let text = context.expand(&self.config.message);
        Ok(Outcome::accept(Reply::new(252, Some(Status(2, 5, 2)), text)))
    }
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
