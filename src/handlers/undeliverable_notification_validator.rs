//! Messages from the null reverse-path that are no notifications: spam that wants no answer.
//!
//! A notification in the form of RFC 3464 (`multipart/report`) is one. Of others, three of eight words that such messages
//! use must stand in the subject or the body, each counted once. That is a hint and no proof: a forger who knows the words
//! passes, and the number found is recorded as evidence. Header fields other than the subject do not count, because those of
//! every message have such words, and an address of the web is no text. Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{BodyReader, Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Records, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::address::ReversePath;
use crate::smtp::receiver::Piece;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// What notifications say.
const WORDS: [&str; 8] = [
    "daemon",
    "error",
    "failed",
    "server",
    "status",
    "system",
    "undeliverable",
    "deliver",
];
/// How many of them are enough.
const ENOUGH: usize = 3;
/// Octets of a line that are looked at, and of the message: notifications say at the beginning what they are.
const LINE: usize = 1000;
const MESSAGE: usize = 256 * 1024;

/// `undeliverable_notification_validator.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the 550.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "message from <> does not look like a notification".into(),
        }
    }
}

/// The handler.
pub struct UndeliverableNotificationValidator {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for UndeliverableNotificationValidator {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "undeliverable_notification_validator",
        module: "undeliverable_notification_validator",
        class: "UndeliverableNotificationValidator",
        verbs: &["__DATA__"],
        decides: &[Verdict::None, Verdict::Reject],
        always_refuses: false,
        taker: false,
        about: "550 for what comes from <> and is no notification",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> UndeliverableNotificationValidator {
        UndeliverableNotificationValidator { config }
    }
}

impl Handler for UndeliverableNotificationValidator {
    fn handle(&self, _: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        Ok(Outcome::none()) // not from the null reverse-path
    }

    fn body(&self, context: &mut Context<'_>) -> Option<Box<dyn BodyReader>> {
        let from_nobody = matches!(context.transaction()?.reverse_path, ReversePath::Null);
        let text = context.expand(&self.config.message);
        from_nobody.then(|| -> Box<dyn BodyReader> {
            Box::new(Reading {
                text,
                ..Reading::default()
            })
        })
    }
}

/// What was seen of a message so far.
#[derive(Default)]
struct Reading {
    text: String,
    line: Vec<u8>,
    seen: usize,
    in_body: bool,
    field: Kept,
    is_report: bool,
    found: [bool; WORDS.len()],
}

/// The header field that a line belongs to.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kept {
    Subject,
    ContentType,
    #[default]
    Other,
}

impl Reading {
    fn line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        line.make_ascii_lowercase();
        while matches!(line.last(), Some(b'\r' | b'\n')) {
            line.pop();
        }
        if self.in_body {
            self.words(&line);
        } else if line.is_empty() {
            self.in_body = true;
        } else {
            self.header_line(&line);
        }
        line.clear();
        self.line = line;
    }

    fn header_line(&mut self, line: &[u8]) {
        if !matches!(line.first(), Some(b' ' | b'\t')) {
            self.field = match line.split(|octet| *octet == b':').next().unwrap_or_default() {
                b"subject" => Kept::Subject,
                b"content-type" => Kept::ContentType,
                _ => Kept::Other,
            };
        }
        match self.field {
            Kept::Subject => self.words(line),
            Kept::ContentType => self.is_report |= has(line, b"multipart/report"),
            Kept::Other => {}
        }
    }

    /// Notes the words that begin a word of the line, so that `undeliverable` is not `deliver` as well.
    fn words(&mut self, line: &[u8]) {
        let words = line.split(|octet| octet.is_ascii_whitespace());
        for word in words.filter(|word| !has(word, b"://") && !word.starts_with(b"www.")) {
            for part in word.split(|octet| !octet.is_ascii_alphabetic()) {
                for (known, found) in WORDS.iter().zip(&mut self.found) {
                    *found |= part.starts_with(known.as_bytes());
                }
            }
        }
    }
}

fn has(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

impl BodyReader for Reading {
    fn chunk(&mut self, piece: Piece<'_>, _: &mut dyn Records) {
        for &octet in piece.octets {
            if self.seen >= MESSAGE {
                return;
            }
            self.seen = self.seen.saturating_add(1);
            if self.line.len() < LINE {
                self.line.push(octet);
            }
            if octet == b'\n' {
                self.line();
            }
        }
    }

    fn end(mut self: Box<Self>, _: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        self.line();
        let count = self.found.iter().filter(|found| **found).count();
        let outcome = if self.is_report || count >= ENOUGH {
            Outcome::none()
        } else {
            Outcome::reject(Reply::new(550, Some(Status::REFUSED), self.text))
        };
        let outcome = outcome.evidence("NOTIFICATION_WORDS", count.to_string(), 0.0);
        Ok(outcome.evidence("NOTIFICATION_REPORT", self.is_report.to_string(), 0.0))
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    fn reply(from: &str, text: &str) -> String {
        let mut peer =
            Peer::chained("__DATA__: [{handler: undeliverable_notification_validator}, {handler: delivery}]");
        for line in [
            "EHLO client.example",
            &format!("MAIL FROM:<{from}>"),
            "RCPT TO:<user@example.com>",
        ] {
            assert!(peer.say(line).starts_with("250"), "{line}");
        }
        peer.data(&text.replace('\n', "\r\n"))
    }

    #[test]
    fn notifications_pass() {
        for text in [
            "Subject: Undeliverable mail\n\nThe mail system could not bring it: error 550\n",
            "Subject: x\n\nthe DAEMON\nfailed.\nStatus: 5.1.1\n",
            "Content-Type: multipart/report;\n report-type=delivery-status; boundary=x\n\n--x\n",
            "Content-Type: text/plain;\n x=multipart/report\n\nhello\n",
        ] {
            assert!(reply("", text).starts_with("250 "), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "Subject: cheap watches\n\nbuy now\n",
            "Subject: x\n\nerror error error daemon\n",
            "Subject: x\n\nundeliverable error\n",
            "X-Daemon: error failed system status\nSubject: x\n\nhello\n",
            "Subject: x\n\nhttp://a.example/daemon/error/failed www.daemon-error.status\n",
            "",
        ] {
            assert!(reply("", text).starts_with("550 5.7.1 "), "{text}");
        }
    }

    #[test]
    fn mail_from_somebody_is_not_looked_at() {
        assert!(reply("a@client.example", "Subject: x\n\nbuy now\n").starts_with("250 "));
    }
}
