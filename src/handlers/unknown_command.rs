//! Verbs without a chain: 500 for unknown ones, 502 for those of RFC 5321 and its extensions that are not served.
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::command::Verb;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// `unknown_command.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the 500.
    pub message: String,
    /// Text of the 502.
    pub not_implemented: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "command not recognized".into(),
            not_implemented: "command not implemented".into(),
        }
    }
}

/// The handler.
pub struct UnknownCommand {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
        section.read("not_implemented", &mut self.not_implemented, Field::reply);
    }
}

impl Kind for UnknownCommand {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "unknown_command",
        module: "unknown_command",
        class: "UnknownCommand",
        verbs: &[],
        decides: &[Verdict::Reject],
        always_refuses: true,
        taker: false,
        about: "500 for unknown commands, 502 for known ones that are not served",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> UnknownCommand {
        UnknownCommand { config }
    }
}

impl Handler for UnknownCommand {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let unknown = context
            .exchange()
            .is_none_or(|exchange| matches!(exchange.command.verb, Verb::Other(_)));
        let (code, text) = if unknown {
            (500, &self.config.message)
        } else {
            (502, &self.config.not_implemented)
        };
        Ok(Outcome::reject(Reply::new(
            code,
            Some(Status::INVALID_COMMAND),
            context.expand(text),
        )))
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn tells_unknown_from_not_implemented() {
        let mut peer = Peer::open();
        assert_eq!(peer.say("WIZ"), "500 5.5.1 command not recognized\r\n");
        assert_eq!(peer.say("ETRN example.com"), "502 5.5.1 command not implemented\r\n");
    }
}
