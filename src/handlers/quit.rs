//! The end of the session by QUIT (RFC 5321 §4.1.1.10).
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// `quit.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the farewell.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "<server_name> closing connection".into(),
        }
    }
}

/// The handler.
pub struct Quit {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for Quit {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "quit",
        module: "quit",
        class: "Quit",
        verbs: &["QUIT"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "221, then the connection is closed",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> Quit {
        Quit { config }
    }
}

impl Handler for Quit {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let text = context.expand(&self.config.message);
        Ok(Outcome::accept(Reply::new(221, Some(Status::OK), text)))
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn says_goodbye_and_closes() {
        let mut peer = Peer::open();
        assert_eq!(peer.say("QUIT"), "221 2.0.0 mail.example.com closing connection\r\n");
        assert!(peer.is_closed());
    }

    #[test]
    fn an_argument_is_a_fault() {
        let mut peer = Peer::open();
        assert!(peer.say("QUIT now").starts_with("501 "));
        assert!(!peer.is_closed());
    }
}
