//! HELP (RFC 5321 §4.1.1.8): the verbs that have a chain.
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

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

/// The handler.
pub struct Help {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for Help {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "help",
        module: "help",
        class: "HelpHandler",
        verbs: &["HELP"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "214 and the verbs served",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> Help {
        Help { config }
    }
}

impl Handler for Help {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let mut reply = Reply::new(214, Some(Status::OK), context.expand(&self.config.message));
        let served = |verb: &&String| *verb != "STARTTLS" || context.tls_available();
        let verbs: Vec<&str> = context.verbs().iter().filter(served).map(String::as_str).collect();
        reply.lines.push(verbs.join(" "));
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
