//! HELP (RFC 5321 §4.1.1.8): the verbs that have a chain.
//!
//! Notes: reads none, writes none.

use crate::chain::registry::Material;
use crate::chain::{Context, Facts, Handler, HandlerError, Outcome};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// Who it is.
pub const FACTS: Facts = Facts {
    id: "help",
    class: "HelpHandler",
    verbs: &["HELP"],
    decides: &[Verdict::Accept],
    taker: false,
    about: "214 and the verbs served",
};

/// `help.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// First line of the reply; the verbs follow on the second one.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "<server_name> knows these commands:".into(),
        }
    }
}

struct Help {
    config: Config,
}

/// Makes one from its settings.
pub fn make(material: &mut Material) -> Box<dyn Handler> {
    let mut config = Config::default();
    material.settings.text("message", &mut config.message);
    Box::new(Help { config })
}

impl Handler for Help {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let mut reply = Reply::new(214, Some(Status::OK), context.expand(&self.config.message));
        reply.lines.push(context.verbs().join(" "));
        Ok(Outcome::accept(reply))
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn lists_the_verbs() {
        let reply = Peer::open().say("HELP");
        assert!(reply.starts_with("214-2.0.0 mail.example.com"), "{reply}");
        assert!(reply.contains("214 2.0.0 HELO EHLO MAIL RCPT DATA"), "{reply}");
    }
}
