//! A host that accepts no mail at all (RFC 7504): 521 to whoever connects.
//!
//! Either the connection is closed with the greeting, or it stays open and every command hears 521, until the client's
//! QUIT; DATA then hears 354, for the sake of clients that send their text whatever they are told, and 521 at its end.
//! Nothing of such a text is kept. Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Effect, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::command::Verb;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// `reject_all.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whether the connection is closed with the first 521.
    pub close_connection: bool,
    /// Text of the 521.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            close_connection: true,
            message: "<server_name> does not accept mail".into(),
        }
    }
}

/// The handler.
pub struct RejectAll {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("close_connection", &mut self.close_connection, Field::boolean);
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for RejectAll {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "reject_all",
        module: "reject_all",
        class: "RejectAll",
        verbs: Facts::ANYWHERE,
        decides: &[Verdict::Reject, Verdict::Disconnect],
        always_refuses: true,
        taker: false,
        about: "521, as this host accepts no mail",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> RejectAll {
        RejectAll { config }
    }
}

impl Handler for RejectAll {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        if context.reason().is_some() {
            return Ok(Outcome::none()); // nobody is left to be told
        }
        let verb = context.exchange().map(|exchange| &exchange.command.verb);
        // Whoever wants to leave may do so in the ordinary way (RFC 7504 §3).
        if verb == Some(&Verb::Quit) && !self.config.close_connection {
            let text = context.expand("<server_name> closing connection");
            return Ok(Outcome::accept(Reply::new(221, Some(Status::OK), text)));
        }
        let is_data = verb == Some(&Verb::Data);
        let text = context.expand(&self.config.message);
        let mut outcome = Outcome::reject(Reply::new(521, Some(Status::SYSTEM_REFUSES), text));
        if self.config.close_connection {
            outcome.verdict = Verdict::Disconnect;
        } else if is_data {
            outcome = outcome.with(Effect::HearOut);
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    const REFUSED: &str = "521 5.3.2 mail.example.com does not accept mail\r\n";
    const CHAIN: &str =
        "__OPEN__: [{handler: reject_all}]\nQUIT: [{handler: quit}]\n__DEFAULT__: [{handler: reject_all}]\n";

    fn open(settings: &str) -> Peer {
        Peer::only(CHAIN, &[("reject_all", settings)])
    }

    #[test]
    fn the_greeting_ends_it() {
        let peer = open("");
        assert_eq!(peer.opened(), "521 mail.example.com does not accept mail\r\n");
        assert!(peer.is_closed());
    }

    #[test]
    fn everything_but_quit_is_refused_in_a_connection_that_stays() {
        let mut peer = open("close_connection: no");
        assert_eq!(peer.opened(), "521 mail.example.com does not accept mail\r\n");
        assert_eq!(
            peer.say("EHLO client.example"),
            "521 mail.example.com does not accept mail\r\n"
        );
        for line in ["MAIL FROM:<a@client.example>", "RCPT TO:<user@example.com>", "BURN x"] {
            assert_eq!(peer.say(line), REFUSED, "{line}");
        }
        assert!(!peer.is_closed());
        assert_eq!(peer.say("QUIT"), "221 2.0.0 mail.example.com closing connection\r\n");
        assert!(peer.is_closed());
    }

    #[test]
    fn a_text_is_heard_out_and_kept_nowhere() {
        let mut peer = open("close_connection: no");
        for _ in 0..2 {
            assert!(peer.say("DATA").starts_with("354 "));
            assert_eq!(peer.say("Subject: x\r\n\r\nMAIL FROM:<a@client.example>\r\n."), REFUSED);
        }
        assert_eq!(peer.messages(), 0);
        assert_eq!(peer.say("DATA now"), REFUSED);
        assert_eq!(peer.say("QUIT"), "221 2.0.0 mail.example.com closing connection\r\n");
    }

    #[test]
    fn it_refuses_quit_only_where_it_closes_and_has_its_own_words() {
        let chain = "__DEFAULT__: [{handler: reject_all}]\n__OPEN__: [{handler: reject_all}]\n";
        let mut peer = Peer::only(chain, &[("reject_all", "close_connection: no\nmessage: go away")]);
        assert_eq!(peer.opened(), "521 go away\r\n");
        assert_eq!(peer.say("NOOP"), "521 5.3.2 go away\r\n");
        assert_eq!(peer.say("QUIT"), "221 2.0.0 mail.example.com closing connection\r\n");
    }

    #[test]
    fn behind_a_greeting_that_accepts_no_mail_no_chain_accepts_any() {
        let mut peer = Peer::chained("__OPEN__: [{handler: reject_all, with: {close_connection: no}}]");
        assert_eq!(peer.say("NOOP"), REFUSED);
        assert_eq!(
            peer.say("EHLO client.example"),
            "521 mail.example.com does not accept mail\r\n"
        );
        assert_eq!(peer.say("MAIL FROM:<a@client.example>"), REFUSED);
    }
}
