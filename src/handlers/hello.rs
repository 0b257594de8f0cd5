//! HELO and EHLO (RFC 5321 §4.1.1.1): greets the client by the name it gave, and names the extensions after EHLO.
//!
//! Never refuses because of the name. Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::command::Verb;
use crate::smtp::reply::Reply;

/// Octets of text in one reply line (RFC 5321 §4.5.3.1.5), without code, separator and CRLF.
const LINE: usize = 512 - "250-".len() - "\r\n".len();

/// `hello.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// First line of the reply.
    pub message: String,
    /// Whether PIPELINING is named. It always works; a client that uses it unasked is worth noting.
    pub advertise_pipelining_extension: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "<server_name> Hello <client.advertised_name> (<client.ip> port <client.port>)".into(),
            advertise_pipelining_extension: true,
        }
    }
}

/// The handler.
pub struct Hello {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
        section.read(
            "advertise_pipelining_extension",
            &mut self.advertise_pipelining_extension,
            Field::boolean,
        );
    }
}

impl Kind for Hello {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "hello",
        module: "hello",
        class: "HelloHandler",
        verbs: &["HELO", "EHLO"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "250 and, after EHLO, the extensions",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> Hello {
        Hello { config }
    }
}

impl Hello {
    fn extensions(&self, context: &Context<'_>) -> Vec<String> {
        let limits = context.limits();
        let mut lines = Vec::with_capacity(8);
        if self.config.advertise_pipelining_extension {
            lines.push("PIPELINING".to_owned());
        }
        lines.push(format!("SIZE {}", limits.message_size));
        lines.push("8BITMIME".to_owned());
        lines.push("SMTPUTF8".to_owned());
        lines.push("ENHANCEDSTATUSCODES".to_owned());
        if context.chunking() {
            lines.push("CHUNKING".to_owned());
        }
        // A value must have a limit behind it (RFC 9422 §3): no MAILMAX where there is none.
        lines.push(match limits.maximum_messages {
            u32::MAX => format!("LIMITS RCPTMAX={}", limits.maximum_recipients),
            most => format!("LIMITS MAILMAX={most} RCPTMAX={}", limits.maximum_recipients),
        });
        if context.tls_available() {
            lines.push("STARTTLS".to_owned());
        }
        if context.verbs().iter().any(|verb| verb == "HELP") {
            lines.push("HELP".to_owned());
        }
        lines
    }
}

impl Handler for Hello {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        // One line and no more: a client takes each further one for an extension.
        let text = context
            .expand(&self.config.message)
            .chars()
            .take(LINE)
            .collect::<String>();
        let mut reply = Reply::new(250, None, text);
        if context
            .exchange()
            .is_some_and(|exchange| exchange.command.verb == Verb::Ehlo)
        {
            reply.lines.extend(self.extensions(context));
        }
        Ok(Outcome::accept(reply))
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn ehlo_names_the_extensions() {
        let reply = Peer::open().say("EHLO client.example");
        assert_eq!(
            reply,
            "250-mail.example.com Hello client.example (192.0.2.7 port 4711)\r\n250-PIPELINING\r\n250-SIZE 1000\r\n\
             250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n\
             250-LIMITS MAILMAX=3 RCPTMAX=3\r\n250 HELP\r\n"
        );
    }

    #[test]
    fn a_long_name_cannot_name_extensions() {
        let name = format!("{} STARTTLS AUTH", "x".repeat(440));
        let reply = Peer::open().say(&format!("EHLO {name}"));
        let lines: Vec<&str> = reply.lines().collect();
        assert!(lines[0].len() <= 510 && lines[1] == "250-PIPELINING", "{reply}");
        assert_eq!(Peer::open().say(&format!("HELO {name}")).lines().count(), 1);
    }

    #[test]
    fn helo_names_none() {
        let reply = Peer::open().say("HELO client.example");
        assert_eq!(
            reply,
            "250 mail.example.com Hello client.example (192.0.2.7 port 4711)\r\n"
        );
    }

    #[test]
    fn the_name_is_not_expanded_again() {
        let reply = Peer::open().say("HELO <version>");
        assert!(!reply.contains(env!("CARGO_PKG_VERSION")), "{reply}");
    }
}
