//! VRFY (RFC 5321 §3.5.3): never tells who exists.
//!
//! Notes: reads none, writes none.

use crate::chain::registry::Material;
use crate::chain::{Context, Facts, Handler, HandlerError, Outcome};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// Who it is.
pub const FACTS: Facts = Facts {
    id: "verify",
    class: "VerifyAttemptDelivery",
    verbs: &["VRFY"],
    decides: &[Verdict::Accept],
    taker: false,
    about: "252, whoever is asked for",
};

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

struct Verify {
    config: Config,
}

/// Makes one from its settings.
pub fn make(material: &mut Material) -> Box<dyn Handler> {
    let mut config = Config::default();
    material.settings.text("message", &mut config.message);
    Box::new(Verify { config })
}

impl Handler for Verify {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

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
