//! NOOP (RFC 5321 §4.1.1.9): does nothing, whatever its argument.
//!
//! Notes: reads none, writes none.

use crate::chain::registry::Material;
use crate::chain::{Context, Facts, Handler, HandlerError, Outcome};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// Who it is.
pub const FACTS: Facts = Facts {
    id: "noop",
    class: "NoopHandler",
    verbs: &["NOOP"],
    decides: &[Verdict::Accept],
    taker: false,
    about: "250 and nothing else",
};

/// `noop.yaml`.
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

struct Noop {
    config: Config,
}

/// Makes one from its settings.
pub fn make(material: &mut Material) -> Box<dyn Handler> {
    let mut config = Config::default();
    material.settings.text("message", &mut config.message);
    Box::new(Noop { config })
}

impl Handler for Noop {
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
    fn ignores_its_argument() {
        assert_eq!(Peer::open().say("NOOP whatever <x>"), "250 2.0.0 OK\r\n");
    }
}
