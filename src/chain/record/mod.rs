//! Records of a session for research: what the client said, what it was told, the text of its messages. Common to the
//! handlers that write them.
//!
//! They only look on: what is written never influences what is decided, but where an entry requires its records, and says
//! by failing that they are lost. The file and its name are chosen here; the logger writes them, and holds the worker up
//! while it has no room. Nothing here may be kept of a text but the piece that passes.

mod classic;
mod json;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::tz::TimeZone;

use super::context::Context;
use super::decision::Stage;
use super::error::HandlerError;
use super::handler::{BodyReader, InVain};
use super::opinion::Outcome;
use super::ports::Records;
use super::settings::Settings;
use crate::config::{Field, Place, Section};
use crate::ipc::record::{PIECE, Record};
use crate::session::{Anomaly, Session};
use crate::smtp::command::Verb;
use crate::smtp::receiver::Piece;
use crate::smtp::reply::Reply;

/// Octets of a text in one event at most.
const TEXT: usize = PIECE / 2;

/// The local time zone, found by the master's first chain; workers could read no file of it.
static ZONE: OnceLock<TimeZone> = OnceLock::new();

/// How records look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As the original wrote them, a file a connection.
    Classic,
    /// One JSON object an event and line, one file.
    Jsonl,
}

/// `transaction_log.yaml`, `command_log.yaml`, `response_log.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `log_path`: the directory; none (`null`, or empty) writes nothing. Default /var/log/rsmtpd, and none in a chain in
    /// the original's form, as there.
    pub log_path: Option<PathBuf>,
    /// Where `log_path` says that there is none.
    pub nowhere: Option<Place>,
    /// `format`: default classic.
    pub format: Format,
    /// `required`: whether a message is put off whose records cannot be written. Default no.
    pub required: bool,
    /// `maximum_size_in_mb`: of one file, 1 to 1048576; nothing is added beyond. Default 1024.
    pub maximum_size_in_mb: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            log_path: Some("/var/log/rsmtpd".into()),
            nowhere: None,
            format: Format::Classic,
            required: false,
            maximum_size_in_mb: 1024,
        }
    }
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        let empty = |field: &Field<'_>| field.scalar().is_some_and(|text| text.is_empty());
        let nowhere = match section.get("log_path") {
            Some(field) if empty(&field) => Some(field.place()),
            Some(field) => {
                if let Some(path) = field.path() {
                    (self.log_path, self.nowhere) = (Some(path), None);
                }
                None
            }
            None => section.null("log_path"),
        };
        if nowhere.is_some() {
            (self.log_path, self.nowhere) = (None, nowhere);
        }
        section.read("format", &mut self.format, |field| {
            field.choice(&[("classic", Format::Classic), ("jsonl", Format::Jsonl)])
        });
        section.read("required", &mut self.required, Field::boolean);
        section.read("maximum_size_in_mb", &mut self.maximum_size_in_mb, |field| {
            field.integer(1..=1_048_576)
        });
    }

    fn as_original(&mut self) {
        self.log_path = None;
    }
}

/// What of a session is recorded, besides the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Commands and replies.
    Transactions,
    /// Commands.
    Commands,
    /// Replies.
    Responses,
}

impl Which {
    fn commands(self) -> bool {
        self != Which::Responses
    }

    fn replies(self) -> bool {
        self != Which::Commands
    }
}

/// One handler's way of recording.
pub struct Log {
    which: Which,
    name: &'static str,
    config: Config,
    zone: &'static TimeZone,
}

impl Log {
    /// Records `which` for the handler called `name`.
    pub fn new(which: Which, name: &'static str, config: Config) -> Log {
        Log {
            which,
            name,
            config,
            zone: ZONE.get_or_init(TimeZone::system),
        }
    }

    /// The directory.
    pub fn directory(&self) -> Option<&Path> {
        self.config.log_path.as_deref()
    }

    /// That it writes nothing, where it does not.
    pub fn in_vain(&self) -> Option<InVain<'_>> {
        let nowhere = InVain {
            what: "writes nothing: expected the directory for its records in log_path, found none",
            at: self.config.nowhere.as_ref(),
        };
        self.config.log_path.is_none().then_some(nowhere)
    }

    /// Nothing to say, unless records are required and lost.
    ///
    /// # Errors
    /// They are.
    pub fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        if context.stage() == Stage::Mail {
            self.require(context)?;
        }
        Ok(Outcome::none())
    }

    fn require(&self, context: &mut Context<'_>) -> Result<(), HandlerError> {
        if !self.config.required || self.config.log_path.is_none() {
            return Ok(());
        }
        let synced = context.records().sync();
        synced.map_err(|error| HandlerError::Failed(error.to_string()))
    }

    /// What sees the text of a message.
    pub fn body(&self, context: &Context<'_>) -> Option<Box<dyn BodyReader>> {
        let file = self.file(context.session())?;
        let log = Log {
            config: self.config.clone(),
            ..*self
        };
        Some(Box::new(Text {
            log,
            file,
            facts: json::Facts::of(context),
            offset: 0,
        }))
    }

    /// Writes down what was said and answered.
    pub fn concluded(&self, context: &mut Context<'_>, reply: Option<&Reply>) {
        let Some(file) = self.file(context.session()) else {
            return;
        };
        let now = context.records().now();
        let octets = match self.config.format {
            Format::Classic => self.classic(context, reply, now),
            Format::Jsonl => self.jsonl(context, reply, now),
        };
        if !octets.is_empty() {
            file.append(&octets, context.records());
        }
    }

    /// Writes down what came of a TLS handshake; the original had no such thing.
    pub fn shaken(&self, context: &mut Context<'_>) {
        if self.config.format != Format::Jsonl || !self.which.commands() {
            return;
        }
        if let Some(file) = self.file(context.session()) {
            let now = context.records().now();
            let line = json::tls(&json::Facts::of(context), now, context.session());
            file.append(&line, context.records());
        }
    }

    fn classic(&self, context: &Context<'_>, reply: Option<&Reply>, now: i64) -> Vec<u8> {
        let mut text = Vec::new();
        if context.reason().is_some() {
            // Its end is no event of the original's, but what we said last is.
            if let (Some(reply), true) = (reply, self.which.replies()) {
                classic::reply(&mut text, self.time_of_reply(now), Some(reply));
            }
            return text;
        }
        match (context.exchange(), context.stage()) {
            (None, Stage::EndOfData) => {
                classic::end_of_data(&mut text, now);
                classic::reply(&mut text, None, reply);
                return text;
            }
            (None, _) if self.which.commands() => classic::open(&mut text, context),
            (Some(exchange), _) if self.which.commands() => classic::command(&mut text, context.now(), exchange),
            _ => {}
        }
        if self.which.replies() && !is_still_to_come(context, reply) {
            classic::reply(&mut text, self.time_of_reply(now), reply);
        }
        text
    }

    /// Replies have a time of their own only where they stand alone.
    fn time_of_reply(&self, now: i64) -> Option<i64> {
        (self.which == Which::Responses).then_some(now)
    }

    fn jsonl(&self, context: &Context<'_>, reply: Option<&Reply>, now: i64) -> Vec<u8> {
        let mut text = Vec::new();
        let facts = json::Facts::of(context);
        match (context.exchange(), context.stage(), context.reason()) {
            (_, _, Some(reason)) if reply.is_none() => return json::close(&facts, now, context, reason),
            (_, _, Some(_)) => {}
            (None, Stage::EndOfData, _) => text.extend(json::end_of_data(&facts, context)),
            (None, _, _) if self.which.commands() => text.extend(json::open(&facts, context)),
            (Some(exchange), _, _) if self.which.commands() => {
                text.extend(json::command(&facts, context.now(), exchange));
            }
            _ => {}
        }
        if self.which.replies() && !is_still_to_come(context, reply) {
            text.extend(json::reply(&facts, now, context, reply));
        }
        text
    }

    /// The file of a session; none where nothing is to be written.
    fn file(&self, session: &Session) -> Option<Target> {
        let directory = self.config.log_path.as_ref()?.to_str()?.to_owned();
        let file = match self.config.format {
            Format::Classic => classic::file_name(session, self.zone),
            Format::Jsonl => format!("{}.jsonl", self.name),
        };
        let limit = self.config.maximum_size_in_mb.saturating_mul(1024 * 1024);
        Some(Target { directory, file, limit })
    }
}

/// Whether the reply waits for a chunk that the command has announced (RFC 3030).
fn is_still_to_come(context: &Context<'_>, reply: Option<&Reply>) -> bool {
    let command = context.exchange().map(|exchange| &exchange.command);
    reply.is_none() && command.is_some_and(|command| command.verb == Verb::Bdat && command.parsed.is_ok())
}

/// Whether the client spoke before it was greeted.
fn talks_early(session: &Session) -> bool {
    session.anomalies.iter().any(|seen| seen.anomaly == Anomaly::EarlyTalk)
}

/// A file to append to.
struct Target {
    directory: String,
    file: String,
    limit: u64,
}

impl Target {
    /// Appends octets as one, in pieces. What is lost is lost: the port tells it, and whoever requires it asks.
    fn append(&self, octets: &[u8], records: &mut dyn Records) {
        let mut pieces = octets.chunks(PIECE).peekable();
        while let Some(piece) = pieces.next() {
            let record = Record {
                directory: self.directory.clone(),
                file: self.file.clone(),
                limit: self.limit,
                octets: piece.to_vec(),
                more: pieces.peek().is_some(),
            };
            if records.write(record).is_err() {
                return;
            }
        }
    }
}

/// Sees a text pass by.
struct Text {
    log: Log,
    file: Target,
    facts: json::Facts,
    /// Octets that the client has sent of it.
    offset: u64,
}

impl Text {
    /// An event for what was sent, or a few for much of it. Nothing of it is kept: beyond the events there is never more
    /// than one copy, of [`TEXT`] octets.
    fn write_jsonl(&mut self, [before, now]: [&[u8]; 2], records: &mut dyn Records) {
        let room = TEXT.saturating_sub(before.len());
        let (head, rest) = now.split_at_checked(room).unwrap_or((now, &[]));
        let first = [before, head].concat();
        for text in std::iter::once(first.as_slice()).chain(rest.chunks(TEXT)) {
            if !text.is_empty() {
                let line = json::data(&self.facts, records.now(), self.offset, text);
                self.file.append(&line, records);
                self.offset = self.offset.saturating_add(text.len() as u64);
            }
        }
    }
}

impl BodyReader for Text {
    fn chunk(&mut self, piece: Piece<'_>, records: &mut dyn Records) {
        match self.log.config.format {
            // As the original, which knew nothing of transparency: the lines that the client sent.
            Format::Classic => piece.sent.iter().for_each(|part| self.file.append(part, records)),
            Format::Jsonl if self.log.which.commands() => self.write_jsonl(piece.sent, records),
            Format::Jsonl => {}
        }
    }

    fn end(self: Box<Self>, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        self.log.require(context)?;
        Ok(Outcome::none())
    }
}

#[cfg(test)]
mod tests;
