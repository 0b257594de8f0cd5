//! The greeting (RFC 5321 §3.1), at `__OPEN__`.
//!
//! Notes: reads none, writes none.

use crate::chain::registry::Material;
use crate::chain::{Context, Facts, Handler, HandlerError, Outcome};
use crate::session::Verdict;
use crate::smtp::reply::Reply;

/// Who it is.
pub const FACTS: Facts = Facts {
    id: "greeting",
    class: "GreetingHandler",
    verbs: &["__OPEN__"],
    decides: &[Verdict::Accept],
    taker: false,
    about: "220 and the name of the server",
};

/// `greeting.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the greeting; the first word should be the server's name.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "<server_name> service ready".into(),
        }
    }
}

struct Greeting {
    config: Config,
}

/// Makes one from its settings.
pub fn make(material: &mut Material) -> Box<dyn Handler> {
    let mut config = Config::default();
    material.settings.text("message", &mut config.message);
    Box::new(Greeting { config })
}

impl Handler for Greeting {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

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
        assert_eq!(Peer::new().opened(), "220 mail.example.com service ready\r\n");
    }
}
