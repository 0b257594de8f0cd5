//! NOOP (RFC 5321 §4.1.1.9): does nothing, whatever its argument.
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

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

/// The handler.
pub struct Noop {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for Noop {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "noop",
        module: "noop",
        class: "NoopHandler",
        verbs: &["NOOP"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "250 and nothing else",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> Noop {
        Noop { config }
    }
}

impl Handler for Noop {
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
