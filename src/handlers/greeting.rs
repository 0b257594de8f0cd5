//! The greeting (RFC 5321 §3.1), at `__OPEN__`.
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::reply::Reply;

/// `greeting.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the greeting; the first word should be the server's name.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "<server_name> RSMTPD v<version> service ready".into(),
        }
    }
}

/// The handler.
pub struct Greeting {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for Greeting {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "greeting",
        module: "greeting",
        class: "GreetingHandler",
        verbs: &["__OPEN__"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "220 and the name of the server",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> Greeting {
        Greeting { config }
    }
}

impl Handler for Greeting {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let text = context.expand(&self.config.message);
        Ok(Outcome::accept(Reply::new(220, None, text)))
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn names_the_server() {
        let expected = format!(
            "220 mail.example.com RSMTPD v{} service ready\r\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(Peer::new().opened(), expected);
    }
}
