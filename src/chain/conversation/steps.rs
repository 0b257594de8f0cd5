//! One command, from its chain to the reply.

use super::end::refused_by_each;
use super::replies::{refusal, too_big, too_many_recipients};
use super::run::{Ran, keep_in};
use super::{Chunk, Conversation, Next};
use crate::chain::decision::Stage;
use crate::chain::outcome::unavailable;
use crate::chain::ports::Ports;
use crate::chain::{Action, Link};
use crate::config::Mode;
use crate::session::{Anomaly, At, BodyFacts, Disposition, Exchange, Hello, Kept, Recipient, Transaction, Verdict};
use crate::smtp::command::{Arguments, Fault, Verb};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// Recipients of a session that may be put off by full transactions before each counts as an error.
const OVERSHOOT: u32 = 1000;

/// Whether the transaction had no room for the recipient.
pub(super) fn is_put_off(exchange: &Exchange) -> bool {
    let status = exchange.fault.as_ref().and_then(|fault| fault.status);
    status == Some(Status::TOO_MANY_RECIPIENTS)
}

pub(super) fn stage_of(verb: &Verb) -> Stage {
    match verb {
        Verb::Helo | Verb::Ehlo => Stage::Hello,
        Verb::Mail => Stage::Mail,
        Verb::Rcpt => Stage::Rcpt,
        Verb::Data | Verb::Bdat => Stage::Data,
        _ => Stage::Other,
    }
}

impl<'c> Conversation<'c> {
    /// Runs the chain of a command and answers it.
    pub(super) fn step(&mut self, mut exchange: Exchange, ports: &mut Ports<'_>) -> Action {
        if let Some(reply) = self.session_limit(&exchange.command.verb) {
            return self.finish_early(&exchange, Some(reply), Next::Close, ports);
        }
        if exchange.fault.is_none() {
            exchange.fault = self.limit(&exchange);
        }
        if exchange.fault.is_none() && exchange.command.verb == Verb::StartTls {
            exchange.fault = self.tls_missing(ports);
        }
        let links = self.links_of(&exchange.command.verb);
        let stage = stage_of(&exchange.command.verb);
        let mut recipient = self.begin(&exchange, ports);
        let ran = self.run(links, stage, Some(&exchange), recipient.as_mut(), None, ports);
        self.by = ran.decision.by.clone().filter(|_| exchange.fault.is_none());
        let action = match stage {
            Stage::Hello => self.hello(links, &exchange, &ran, ports),
            Stage::Mail => self.mail(links, &exchange, &ran, ports),
            Stage::Rcpt => self.rcpt(links, &exchange, &ran, recipient, ports),
            Stage::Data if exchange.command.verb == Verb::Bdat => self.bdat(links, &exchange, &ran, ports),
            Stage::Data => self.data(links, &exchange, &ran, ports),
            _ => self.other(links, &exchange, &ran, ports),
        };
        self.concluded(links, stage, Some(&exchange), action.reply.as_ref(), ports);
        action
    }

    pub(super) fn links_of(&self, verb: &Verb) -> &'c [Link] {
        let chain = self.chain;
        let own = match verb {
            Verb::Bdat => chain.chunk_links(),
            other => chain.links(other.name()),
        };
        own.or_else(|| chain.links("__DEFAULT__")).unwrap_or_default()
    }

    /// Limits of the session: beyond them it ends.
    pub(super) fn session_limit(&self, verb: &Verb) -> Option<Reply> {
        let counters = &self.session.counters;
        let text = if *verb == Verb::Mail && counters.transactions >= self.limits.maximum_messages {
            "too many messages in one session"
        } else if *verb != Verb::Quit && counters.harmless_commands > self.limits.maximum_harmless_commands {
            "too many commands without a message"
        } else {
            return None;
        };
        Some(Reply::new(421, Some(Status(4, 7, 0)), text))
    }

    /// Limits of the transaction, as a fault of the exchange.
    fn limit(&self, exchange: &Exchange) -> Option<Reply> {
        match &exchange.command.parsed {
            Ok(Arguments::Mail { parameters, .. }) => {
                let limit = self.limits.message_size;
                let size = parameters.size.unwrap_or(0);
                (limit > 0 && size > limit).then(too_big)
            }
            Ok(Arguments::Rcpt { .. }) => {
                let recipients = self
                    .session
                    .transaction
                    .as_ref()
                    .map_or(0, |transaction| transaction.recipients.len());
                let full = recipients >= usize::try_from(self.limits.maximum_recipients).unwrap_or(usize::MAX);
                full.then(too_many_recipients)
            }
            _ => None,
        }
    }

    /// Opens what the command opens if it succeeds, so that handlers can see and note it.
    fn begin(&mut self, exchange: &Exchange, ports: &mut Ports<'_>) -> Option<Recipient> {
        if exchange.fault.is_some() {
            return None;
        }
        match &exchange.command.parsed {
            Ok(Arguments::Mail {
                reverse_path,
                parameters,
            }) => {
                self.session.begin_transaction(reverse_path.clone(), parameters.clone());
                ports.body.reset();
                None
            }
            Ok(Arguments::Rcpt { forward_path, .. }) => Some(Recipient::new(forward_path.clone())),
            _ => None,
        }
    }

    fn hello(&mut self, links: &'c [Link], exchange: &Exchange, ran: &Ran, ports: &mut Ports<'_>) -> Action {
        let ok = Reply::new(250, None, "hello");
        let (verdict, reply, next) = self.answer_or_relay(links, exchange, ran, &ok, ports);
        if verdict.is_positive()
            && let Ok(Arguments::Hello(name)) = &exchange.command.parsed
        {
            self.forget_transaction(ports);
            let esmtp = exchange.command.verb == Verb::Ehlo;
            let name = name.as_str().to_owned();
            let lines = reply.iter().filter(|_| esmtp);
            let offered = lines.flat_map(|reply| reply.lines.iter().skip(1)).cloned().collect();
            self.session.greet(Hello { esmtp, name }, offered);
        }
        self.keep(Stage::Hello, ran);
        self.finish(exchange, reply, next, ports)
    }

    fn mail(&mut self, links: &'c [Link], exchange: &Exchange, ran: &Ran, ports: &mut Ports<'_>) -> Action {
        let ok = Reply::new(250, Some(Status::SENDER_OK), "sender OK");
        let (verdict, reply, next) = self.answer_or_relay(links, exchange, ran, &ok, ports);
        let opened = exchange.fault.is_none();
        if verdict.is_positive() {
            self.apply(ran);
            self.keep(Stage::Mail, ran);
        }
        let action = self.finish(exchange, reply, next, ports);
        if opened && !verdict.is_positive() {
            self.session.reset();
        }
        action
    }

    fn data(&mut self, links: &'c [Link], exchange: &Exchange, ran: &Ran, ports: &mut Ports<'_>) -> Action {
        let ok = Reply::new(354, None, "end data with <CR><LF>.<CR><LF>");
        let (verdict, reply, next) = self.admit(links, exchange, ran, &ok, ports);
        if let Some(refusal) = self.to_hear_out(exchange, ran, verdict, reply.as_ref()) {
            self.begin_body(false, exchange, ports);
            self.hearing_out = Some(refusal);
            return self.finish(exchange, Some(ok), Next::Data, ports);
        }
        if !verdict.is_positive() || exchange.fault.is_some() {
            return self.finish(exchange, reply, next, ports);
        }
        if exchange.pipelined {
            self.session.observe(Anomaly::DataBeforeReply);
        }
        self.apply(ran);
        self.keep(Stage::Data, ran);
        self.begin_body(false, exchange, ports);
        // Only a 354 lets the text come.
        let reply = reply.filter(|reply| reply.code == 354).unwrap_or(ok);
        self.finish(exchange, Some(reply), Next::Data, ports)
    }

    fn bdat(&mut self, links: &'c [Link], exchange: &Exchange, ran: &Ran, ports: &mut Ports<'_>) -> Action {
        let Ok(Arguments::Bdat { size, last }) = exchange.command.parsed else {
            // How much to skip is unknown, and what follows must not be read as commands.
            let next = if exchange.command.argument.is_empty() {
                Next::Command
            } else {
                Next::Close
            };
            let (_, reply, _) = self.answer(exchange, ran, &unavailable());
            return self.finish(exchange, reply, next, ports);
        };
        let ok = Reply::new(250, Some(Status::OK), "OK");
        let (verdict, reply, _) = self.admit(links, exchange, ran, &ok, ports);
        let welcome = verdict.is_positive() && exchange.fault.is_none();
        let mut refused = (!welcome).then_some((verdict, reply));
        if refused.is_none() {
            self.keep(Stage::Data, ran);
            // Handlers see every chunk; what they want done to the message is done once.
            if !self.session.transaction.as_ref().is_some_and(Transaction::is_chunking) {
                self.apply(ran);
                self.begin_body(true, exchange, ports);
            }
            refused = self.announce(size).map(|reply| (Verdict::Reject, Some(reply)));
        }
        self.chunk = Some(Chunk { size, last, refused });
        self.act(None, Next::Chunk { size, last })
    }

    /// Policy refuses the body, but a soft recipient or postmaster is to get it: the verdict waits for its end, where it
    /// concerns the others only.
    pub(super) fn postpone(&mut self, exchange: &Exchange, ran: &Ran) -> bool {
        let decision = &ran.decision;
        let Some(transaction) = &mut self.session.transaction else {
            return false;
        };
        let mut recipients = transaction.recipients.iter();
        let concerned = recipients.any(|one| one.is_postmaster() || one.disposition != Disposition::Deliver);
        if exchange.fault.is_some() || decision.verdict < Verdict::Defer || !concerned {
            return false;
        }
        let kept = Kept {
            by: decision.by.clone().unwrap_or_default(),
            verdict: decision.verdict,
            reply: decision.reply.clone(),
            at: At::EndOfData,
            of_hello: false,
        };
        keep_in(&mut transaction.kept, kept);
        true
    }

    /// What the client is told where every recipient refuses the message by a verdict of its own.
    pub(super) fn refused_by_each(&mut self) -> Option<(Verdict, Option<Reply>, Next)> {
        let refused = refused_by_each(self.session.transaction.as_ref()?, Stage::Data)?;
        self.by = refused.by;
        let reply = (refused.verdict != Verdict::Drop).then(|| refusal(refused.verdict, refused.reply));
        let close = matches!(refused.verdict, Verdict::Disconnect | Verdict::Drop);
        Some((refused.verdict, reply, if close { Next::Close } else { Next::Command }))
    }

    /// Counts announced octets: a chunk beyond the limit is refused before any of it is kept.
    fn announce(&mut self, size: u64) -> Option<Reply> {
        let body = self.session.body_mut()?;
        body.announced = body.announced.saturating_add(size);
        let limit = self.limits.message_size;
        body.too_big |= limit > 0 && body.announced > limit;
        body.too_big.then(too_big)
    }

    fn other(&mut self, links: &'c [Link], exchange: &Exchange, ran: &Ran, ports: &mut Ports<'_>) -> Action {
        let verb = &exchange.command.verb;
        let relayed = links.iter().any(Link::is_relay) && !matches!(verb, Verb::Other(_));
        let known = self.chain.links(verb.name()).is_some() || relayed;
        if !known {
            self.session.counters.unknown_command();
        }
        let ok = match verb {
            Verb::StartTls => Reply::new(220, Some(Status::OK), "ready to start TLS"),
            _ => Reply::new(250, Some(Status::OK), "OK"),
        };
        let (verdict, mut reply, mut next) = self.answer_or_relay(links, exchange, ran, &ok, ports);
        let done = verdict.is_positive() && exchange.fault.is_none();
        if done && *verb == Verb::Rset {
            self.forget_transaction(ports);
        }
        if done && *verb == Verb::Quit {
            self.quit = true;
            next = Next::Close;
        }
        if done && *verb == Verb::StartTls {
            // Only a 220 lets the handshake come.
            reply = reply.filter(|reply| reply.code == 220).or(Some(ok));
            next = Next::StartTls;
        }
        self.keep(Stage::Other, ran);
        self.finish(exchange, reply, next, ports)
    }

    fn begin_body(&mut self, chunked: bool, exchange: &Exchange, ports: &mut Ports<'_>) {
        ports.body.reset();
        self.sink_failure = None;
        self.copy_failure = None;
        if let Some(transaction) = &mut self.session.transaction {
            transaction.body = Some(BodyFacts::new(chunked));
        }
        let chain = self.chain;
        let links = chain.stage_links("__DATA__");
        let mut readers = Vec::with_capacity(links.len());
        for link in links {
            let reader = match link.mode {
                Mode::Off => None,
                _ => self.with_context(link, Stage::Data, Some(exchange), None, ports, |context| {
                    link.handler.body(context)
                }),
            };
            readers.push(reader);
        }
        self.readers = readers;
        self.begin_text(ports);
    }

    /// Drops the transaction and whatever has come of its body.
    pub(super) fn forget_transaction(&mut self, ports: &mut Ports<'_>) {
        if let Some(transaction) = &self.session.transaction {
            self.message_ended |= transaction.body.is_some();
            ports.body.reset();
        }
        self.readers.clear();
        self.sink_failure = None;
        self.session.reset();
    }

    /// The decision as verdict, reply and what follows; an acceptance of a faulty command becomes its fault.
    pub(super) fn answer(&self, exchange: &Exchange, ran: &Ran, ok: &Reply) -> (Verdict, Option<Reply>, Next) {
        let decision = &ran.decision;
        let verdict = decision.verdict;
        // What is no command at all is not the chain's to judge.
        let no_command = exchange.command.parsed == Err(Fault::BAD_OCTET);
        if let Some(fault) = &exchange.fault
            && (verdict <= Verdict::Quarantine || no_command)
        {
            return (Verdict::None, Some(fault.clone()), Next::Command);
        }
        let given = decision.reply.clone();
        match verdict {
            Verdict::None => (verdict, Some(unavailable()), Next::Command),
            Verdict::Accept | Verdict::Quarantine => {
                (verdict, Some(given.unwrap_or_else(|| ok.clone())), Next::Command)
            }
            Verdict::Defer | Verdict::Reject => (verdict, Some(refusal(verdict, given)), Next::Command),
            Verdict::Disconnect => (verdict, Some(refusal(verdict, given)), Next::Close),
            Verdict::Drop => (verdict, None, Next::Close),
        }
    }

    /// Counts and logs a reply, and ends a session with too many errors.
    pub(super) fn finish(
        &mut self,
        exchange: &Exchange,
        mut reply: Option<Reply>,
        mut next: Next,
        ports: &mut Ports<'_>,
    ) -> Action {
        let verb = &exchange.command.verb;
        if reply.as_ref().is_none_or(|reply| reply.code >= 400) {
            self.log_refusal(verb.name(), exchange, reply.as_ref());
        }
        let negative = reply.as_ref().is_some_and(|reply| reply.code >= 400);
        if negative && self.is_error(exchange) {
            self.session.counters.error();
        }
        let counters = self.session.counters;
        let too_many = if counters.unknown_commands > self.limits.maximum_unknown_commands {
            Some("too many unknown commands")
        } else if counters.errors > self.limits.maximum_errors {
            Some("too many errors")
        } else {
            None
        };
        if let (Some(text), true, true) = (too_many, negative, next != Next::Close) {
            reply = Some(Reply::new(421, Some(Status(4, 7, 0)), text));
            next = Next::Close;
            self.forget_transaction(ports);
        }
        if let (Verb::Helo | Verb::Ehlo, Some(reply)) = (verb, &mut reply) {
            reply.status = None; // RFC 2034 §3
        }
        self.act(reply, next)
    }

    /// Whether a refusal counts as the client's error. Recipients do once more are refused than a transaction may have,
    /// and those beyond the limit, which a client may send in good faith (RFC 5321 §4.5.3.1.10), only far beyond it.
    fn is_error(&self, exchange: &Exchange) -> bool {
        let counters = self.session.counters;
        match exchange.command.verb {
            Verb::Rcpt if exchange.command.parsed.is_err() => true,
            Verb::Rcpt if is_put_off(exchange) => counters.put_off_recipients > OVERSHOOT,
            Verb::Rcpt => {
                let refused = counters.rejected_recipients.saturating_sub(counters.put_off_recipients);
                refused > self.limits.maximum_recipients
            }
            _ => true,
        }
    }
}
