//! The conversation: drives one session through its chains. Pure: events in, replies and orders out.
//!
//! It keeps what no handler may break: the order of commands, the limits, one transaction at a time, and that only a
//! [`super::Taken`] becomes a 250 after end-of-data. It may assume that its caller reads a body exactly when
//! [`Next`] says so. It must never do I/O except through the [`Ports`] it is lent.

mod end;
mod hear_out;
mod introduce;
mod recipients;
mod relay;
mod replies;
mod run;
mod secure;
mod steps;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use super::Chain;
use super::decision::{Finding, Stage};
use super::handler::BodyReader;
use super::limits::Limits;
use super::ports::{Nowhere, Ports, Records};
use crate::log::{Event, Level};
use crate::session::{Anomaly, Counters, Exchange, Session, Verdict, order};
use crate::smtp::command::{Advertised, Arguments, Command, Oddity, Verb, parse};
use crate::smtp::line::{CommandLine, LineEnding};
use crate::smtp::receiver::{BodyEnd, LineEndings, Piece};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

use replies::{NO_MAIL, bare_line_ending, turned_away};

/// What the client sends next, and so what the receiver has to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A command.
    Command,
    /// The text of a message up to CRLF.CRLF.
    Data,
    /// Exactly so many octets, possibly none (RFC 3030).
    Chunk {
        /// Octets.
        size: u64,
        /// Whether they end the message.
        last: bool,
    },
    /// A TLS handshake, behind the reply; then [`Conversation::secure`].
    StartTls,
    /// Nothing: the connection is to be closed after the reply.
    Close,
}

/// What to do after an event.
#[derive(Debug)]
pub struct Action {
    /// What the client is told; none for a chunk that is still to come and for a silent close.
    pub reply: Option<Reply>,
    /// What comes next.
    pub next: Next,
    /// Whether the receiver must forget the chunks it has seen: their message was given up or is complete.
    pub message_ended: bool,
    /// How the reply is to be held back.
    pub hold: Hold,
    /// Finished lines for the log.
    pub log: Vec<(Level, String)>,
}

/// How a reply is held back; both zero unless handlers want it otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hold {
    /// Time before its first octet.
    pub delay: Duration,
    /// Time after each of its octets.
    pub stutter: Duration,
}

/// The end of a session.
#[derive(Debug)]
pub struct Summary {
    /// What happened how often.
    pub counters: Counters,
    /// Finished lines for the log.
    pub lines: Vec<(Level, String)>,
}

/// A BDAT chunk that is being received.
struct Chunk {
    size: u64,
    last: bool,
    /// The reply that waits for the chunk's end, where it is refused.
    refused: Option<(Verdict, Option<Reply>)>,
}

/// One session and its chains.
pub struct Conversation<'c> {
    session: Session,
    chain: &'c Chain,
    limits: Limits,
    readers: Vec<Option<Box<dyn BodyReader>>>,
    sink_failure: Option<String>,
    /// Why there is no copy of the message that passes.
    copy_failure: Option<String>,
    chunk: Option<Chunk>,
    in_body: bool,
    now: i64,
    ended: bool,
    /// What the entries of the last list found, for one of them that only looks on.
    findings: Vec<Finding>,
    /// QUIT was accepted.
    quit: bool,
    /// What a client that the greeting refused hears to everything but QUIT, which is all that it has left (RFC 5321 §3.1).
    turned_away: Option<Reply>,
    /// The refusal that waits for the end of a text which may come all the same.
    hearing_out: Option<Reply>,
    message_ended: bool,
    by: Option<String>,
    /// For the reply that comes next.
    hold: Hold,
    log: Vec<(Level, String)>,
}

impl<'c> Conversation<'c> {
    /// Before the greeting.
    pub fn new(session: Session, chain: &'c Chain, limits: Limits) -> Conversation<'c> {
        Conversation {
            session,
            chain,
            limits,
            readers: Vec::new(),
            sink_failure: None,
            copy_failure: None,
            chunk: None,
            in_body: false,
            now: 0,
            ended: false,
            findings: Vec::new(),
            quit: false,
            turned_away: None,
            hearing_out: None,
            message_ended: false,
            by: None,
            hold: Hold::default(),
            log: Vec::new(),
        }
    }

    /// The session so far.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Records something odd that only the owner of the connection can see.
    pub fn observe(&mut self, anomaly: Anomaly) {
        self.session.observe(anomaly);
    }

    /// The greeting, by `__OPEN__`. A client that it rejects is kept until its QUIT (RFC 5321 §3.1).
    pub fn open(&mut self, ports: &mut Ports<'_>) -> Action {
        self.session.began = ports.now;
        self.now = ports.now;
        let mut event = self.event("connect").field("port", self.session.peer.port());
        event = self.tell_proxy(event.field("local", self.session.local));
        self.log.push((Level::Info, event.text()));
        self.greet(None, ports)
    }

    /// Greets a client: one that has just come, or one of whom XCLIENT speaks.
    fn greet(&mut self, exchange: Option<&Exchange>, ports: &mut Ports<'_>) -> Action {
        let chain = self.chain;
        let links = chain.stage_links("__OPEN__");
        let ran = self.run(links, Stage::Open, exchange, None, None, ports);
        let (verdict, reply) = self.greeted(links, &ran, ports);
        self.keep(Stage::Open, &ran);
        self.session.greeted();
        let positive = Reply::new(220, None, format!("{} service ready", self.session.server_name));
        let mut reply = match verdict {
            Verdict::Accept | Verdict::Quarantine => Some(reply.unwrap_or(positive)),
            Verdict::Drop => None,
            Verdict::None => Some(Reply::new(421, Some(Status(4, 3, 0)), "service not available")),
            _ => Some(reply.unwrap_or_else(|| Reply::new(554, Some(Status(5, 7, 1)), "no service for you"))),
        };
        if let Some(reply) = &mut reply {
            reply.status = None; // RFC 2034 §3
        }
        self.turned_away = reply.as_ref().filter(|_| verdict == Verdict::Reject).map(turned_away);
        let next = if verdict.is_positive() || self.turned_away.is_some() {
            Next::Command
        } else {
            Next::Close
        };
        self.concluded(links, Stage::Open, exchange, reply.as_ref(), ports);
        self.act(reply, next)
    }

    /// One command line. `pipelined` says whether more input was there already.
    pub fn command(&mut self, line: CommandLine, pipelined: bool, ports: &mut Ports<'_>) -> Action {
        self.now = ports.now;
        if self.ended {
            return self.act(None, Next::Close);
        }
        let command = parse(&line, &self.advertised());
        self.session.counters.command_read(&command);
        for oddity in &command.oddities {
            self.session.observe(Anomaly::Command(oddity.clone()));
        }
        self.note_line_ending(&command);
        if self.session.hello.as_ref().is_some_and(|hello| !hello.esmtp) {
            self.observe_unoffered(&command);
        }
        if pipelined && self.is_illegal_pipelining(&command.verb) {
            self.session
                .observe(Anomaly::IllegalPipelining(command.verb.name().to_owned()));
        }
        if command.verb == Verb::Xclient {
            self.note_xclient();
        }
        let fault = match &self.turned_away {
            Some(reply) if command.verb != Verb::Quit => Some(reply.clone()),
            _ => order(&self.session, &command),
        };
        let exchange = Exchange {
            line: line.bytes,
            command,
            ending: line.ending,
            pipelined,
            fault,
        };
        if self.limits.line_endings == LineEndings::Strict && line.ending == LineEnding::Lf {
            return self.finish_early(&exchange, Some(bare_line_ending()), Next::Close, ports);
        }
        // RFC 7504 §3: behind a 521 the session goes on, to be refused at each step.
        let goes_on = self.turned_away.as_ref().is_none_or(|reply| reply.code == NO_MAIL);
        if !goes_on && exchange.fault.is_some() {
            let fault = exchange.fault.clone();
            return self.finish_early(&exchange, fault, Next::Command, ports);
        }
        if exchange.command.verb == Verb::Xclient && self.limits.xclient && self.turned_away.is_none() {
            return self.introduce(exchange, ports);
        }
        self.step(exchange, ports)
    }

    /// A piece of the body under way.
    pub fn chunk(&mut self, piece: Piece<'_>, ports: &mut Ports<'_>) {
        let refused = self.chunk.as_ref().is_some_and(|chunk| chunk.refused.is_some());
        if refused || self.ended || !self.in_body {
            return;
        }
        if self.hearing_out.is_some() {
            for reader in self.readers.iter_mut().flatten() {
                reader.chunk(piece, ports.records);
            }
            return;
        }
        let Some(body) = self.session.body_mut() else {
            return;
        };
        body.chunk(piece.octets);
        for reader in self.readers.iter_mut().flatten() {
            reader.chunk(piece, ports.records);
        }
        if self.sink_failure.is_none()
            && let Err(error) = self.store(piece.octets, ports)
        {
            self.sink_failure = Some(error);
            ports.body.reset();
        }
    }

    /// The end of DATA or of a chunk.
    pub fn body_end(&mut self, end: BodyEnd, ports: &mut Ports<'_>) -> Action {
        if self.ended || !self.in_body {
            return self.act(None, if self.ended { Next::Close } else { Next::Command });
        }
        self.now = ports.now;
        self.in_body = false;
        self.end_of_body(&end, ports)
    }

    /// The end of the connection: `__CLOSE__` runs, the transaction under way is dropped.
    pub fn close(&mut self, reason: &str, records: &mut dyn Records) -> Summary {
        let chain = self.chain;
        let (mut delivery, mut body, mut back_end, mut resolver) = (Nowhere, Nowhere, Nowhere, Nowhere);
        let (mut tls, mut pause) = (Nowhere, Nowhere);
        let ports = &mut Ports {
            delivery: &mut delivery,
            body: &mut body,
            back_end: &mut back_end,
            resolver: &mut resolver,
            records,
            tls: &mut tls,
            pause: &mut pause,
            now: self.now,
        };
        let reason = if self.quit { "quit" } else { reason };
        if reason == "lost" {
            self.session.observe(Anomaly::NoQuit);
        }
        let links = chain.links("__CLOSE__").unwrap_or_default();
        self.run(links, Stage::Other, None, None, Some(reason), ports);
        self.ending(reason, None, ports);
        let counters = self.session.counters;
        let line = self
            .event("disconnect")
            .field("reason", reason)
            .field("commands", counters.commands)
            .field("messages", counters.messages)
            .field("octets", counters.octets)
            .field("recipients", counters.recipients)
            .field("refused", counters.rejected_recipients)
            .field("errors", counters.errors)
            .field("anomalies", self.session.anomalies.len())
            .field("odd", self.session.odd())
            .field("ms", ports.now.saturating_sub(self.session.began).max(0) / 1000);
        self.log.push((Level::Info, line.text()));
        self.ended = true;
        self.session.reset();
        Summary {
            counters,
            lines: std::mem::take(&mut self.log),
        }
    }

    /// A last reply that was not the chain's to give: the owner of the connection ends it.
    pub fn farewell(&mut self, reason: &str, reply: &Reply, ports: &mut Ports<'_>) {
        self.ending(reason, Some(reply), ports);
    }

    /// What the client may use at this point. SMTPUTF8 is asked for by MAIL and holds for its transaction
    /// (RFC 6531 §3.5).
    fn advertised(&self) -> Advertised {
        let transaction = self.session.transaction.as_ref();
        // What the server behind a proxy does not know is not passed on to it.
        let served = |keyword| !self.chain.relays() || self.session.offers(keyword);
        Advertised {
            size_limit: self.limits.message_size,
            smtputf8: served("SMTPUTF8") && transaction.is_none_or(|transaction| transaction.parameters.smtputf8),
            eightbit: served("8BITMIME"),
            chunking: self.serves_chunks(),
            tolerant: self.limits.tolerate_unadvertised_params,
        }
    }

    /// Extensions are served after HELO too; who uses them then was never offered them.
    fn observe_unoffered(&mut self, command: &Command) {
        let used = match &command.parsed {
            Ok(Arguments::Mail { parameters, .. }) => [
                ("SIZE", parameters.size.is_some()),
                ("BODY", parameters.body.is_some()),
                ("SMTPUTF8", parameters.smtputf8),
            ],
            Ok(Arguments::Bdat { .. }) => [("BDAT", true), ("", false), ("", false)],
            _ => return,
        };
        for (keyword, _) in used.iter().filter(|(_, used)| *used) {
            self.session.observe(Anomaly::NotOffered((*keyword).to_owned()));
        }
    }

    /// With `line_endings: note`, what a command had of bare CR and LF goes to the log as evidence.
    fn note_line_ending(&mut self, command: &Command) {
        if self.limits.line_endings != LineEndings::Note {
            return;
        }
        for (oddity, symbol) in [(Oddity::BareLf, "BARE_LF"), (Oddity::BareCr, "BARE_CR")] {
            if command.oddities.contains(&oddity) {
                let line = self.event("evidence").field("by", "protocol").field("symbol", symbol);
                let line = line.word("verb", command.verb.name());
                self.log.push((Level::Info, line.text()));
            }
        }
    }

    fn serves_chunks(&self) -> bool {
        self.chain.chunk_links().is_some()
    }

    /// RFC 2920 §3.1: these end a group of commands, and nothing may be grouped where PIPELINING is not offered.
    fn is_illegal_pipelining(&self, verb: &Verb) -> bool {
        match verb {
            Verb::Bdat => false,
            Verb::Mail | Verb::Rcpt | Verb::Rset => !self.session.offers("PIPELINING"),
            _ => true,
        }
    }

    /// An event of this session.
    fn event(&self, name: &str) -> Event {
        let event = Event::new(name).field("session", &self.session.id);
        let event = match &self.session.transaction {
            Some(transaction) => event.field("tx", transaction.number),
            None => event,
        };
        event.field("peer", self.session.peer.ip())
    }

    fn act(&mut self, reply: Option<Reply>, next: Next) -> Action {
        self.ended |= next == Next::Close;
        self.in_body = matches!(next, Next::Data | Next::Chunk { .. });
        let message_ended = std::mem::take(&mut self.message_ended);
        // What BDAT is held back for waits with its reply, which comes behind the chunk.
        let hold = match reply {
            Some(_) => std::mem::take(&mut self.hold),
            None => Hold::default(),
        };
        Action {
            reply,
            next,
            message_ended,
            hold,
            log: std::mem::take(&mut self.log),
        }
    }
}
