//! STARTTLS (RFC 3207): lets the handshake begin. The conversation refuses it where TLS is not offered, is active already, or
//! cannot be had because nobody would sign.
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// `starttls.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the reply.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "Ready to start TLS".into(),
        }
    }
}

/// The handler.
pub struct StartTls {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for StartTls {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "starttls",
        module: "starttls",
        class: "StartTLS",
        verbs: &["STARTTLS"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "220, then a TLS handshake",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> StartTls {
        StartTls { config }
    }
}

impl Handler for StartTls {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let text = context.expand(&self.config.message);
        Ok(Outcome::accept(Reply::new(220, Some(Status::OK), text)))
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn is_refused_where_it_is_not_offered() {
        let mut peer = Peer::open();
        assert!(peer.say("STARTTLS now").starts_with("501 5.5.4 "));
        assert_eq!(peer.say("STARTTLS"), "502 5.5.1 STARTTLS not offered\r\n");
        assert!(!peer.say("EHLO client.example").contains("STARTTLS"));
    }
}
