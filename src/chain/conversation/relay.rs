//! A session that is relayed to another server: its replies are the answers to whatever the chain has nothing against.
//!
//! What the protocol itself refuses, and what a handler refuses, the other server never hears of; what a handler delays,
//! it hears of when the time is over, unless the client's connection broke. The octets of a
//! message go there as they come; its end only when everybody here agreed, and where somebody did not the connection
//! is closed, so that the message never ends. A lost back end is 421, and the log says how far the session was.

use super::end::{refused_by_each, saved};
use super::replies::refusal;
use super::run::Ran;
use super::steps::stage_of;
use super::{Action, Conversation, Next};
use crate::chain::Link;
use crate::chain::decision::Stage;
use crate::chain::effect::Effect;
use crate::chain::error::HandlerError;
use crate::chain::handler::Passing;
use crate::chain::outcome::relayed;
use crate::chain::ports::{ClientGone, Ports};
use crate::ipc::delivery::{Body, Commit};
use crate::log::Level;
use crate::session::{Exchange, Transaction, Verdict};
use crate::smtp::command::Verb;
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

type Answer = (Verdict, Option<Reply>, Next);

/// What a reply of the other server means here. After 421 it closes.
fn meaning(reply: Reply) -> Answer {
    let (verdict, next) = match reply.code {
        421 => (Verdict::Disconnect, Next::Close),
        400..=499 => (Verdict::Defer, Next::Command),
        500..=599 => (Verdict::Reject, Next::Command),
        _ => (Verdict::Accept, Next::Command),
    };
    (verdict, Some(reply), next)
}

fn lost() -> Answer {
    let reply = Reply::new(421, Some(Status(4, 3, 0)), "service not available, closing connection");
    (Verdict::Disconnect, Some(reply), Next::Close)
}

impl<'c> Conversation<'c> {
    /// The verdict and the reply to a client that has just come.
    pub(super) fn greeted(&mut self, links: &'c [Link], ran: &Ran, ports: &mut Ports<'_>) -> (Verdict, Option<Reply>) {
        let decision = &ran.decision;
        match links.iter().find(|link| link.is_relay()) {
            Some(link) if decision.verdict < Verdict::Defer => {
                let (verdict, reply, _) = self.pass_on(link, Passing::Client, None, ports);
                (verdict, reply)
            }
            _ => (decision.verdict, decision.reply.clone()),
        }
    }

    /// The chain's answer to a command; where it has nothing against it and relays, the other server's.
    pub(super) fn answer_or_relay(
        &mut self,
        links: &'c [Link],
        exchange: &Exchange,
        ran: &Ran,
        ok: &Reply,
        ports: &mut Ports<'_>,
    ) -> Answer {
        match links.iter().find(|link| link.is_relay()) {
            Some(link) if exchange.fault.is_none() && ran.decision.verdict < Verdict::Defer => {
                self.pass_on(link, Passing::Command, Some(exchange), ports)
            }
            _ => self.answer(exchange, ran, ok),
        }
    }

    /// The answer to DATA or BDAT, before anything of the body is taken.
    pub(super) fn admit(
        &mut self,
        links: &'c [Link],
        exchange: &Exchange,
        ran: &Ran,
        ok: &Reply,
        ports: &mut Ports<'_>,
    ) -> Answer {
        if let Some(link) = links.iter().find(|link| link.is_relay()) {
            return self.admit_relayed(link, exchange, ran, ok, ports);
        }
        let mut answered = self.answer(exchange, ran, ok);
        if self.postpone(exchange, ran) {
            answered = (Verdict::Accept, None, Next::Command);
        }
        if answered.0.is_positive()
            && let Some(refused) = self.refused_by_each()
        {
            answered = refused;
        }
        answered
    }

    /// The answer to DATA, or to the first BDAT of a message, which the other server hears as DATA.
    fn admit_relayed(
        &mut self,
        link: &'c Link,
        exchange: &Exchange,
        ran: &Ran,
        ok: &Reply,
        ports: &mut Ports<'_>,
    ) -> Answer {
        if exchange.fault.is_some() || ran.decision.verdict >= Verdict::Defer {
            return self.answer(exchange, ran, ok);
        }
        if let Some(refused) = self.refused_by_each() {
            return refused;
        }
        let begun = self.session.transaction.as_ref().is_some_and(Transaction::is_chunking);
        if exchange.command.verb == Verb::Bdat && begun {
            return (Verdict::Accept, None, Next::Command);
        }
        let answer = self.pass_on(link, Passing::Command, Some(exchange), ports);
        match &answer.1 {
            // It was to let the text come.
            Some(reply) if reply.is_positive() && reply.code != 354 => {
                let error = HandlerError::Failed(format!("back end: DATA was answered {}", reply.code));
                ports.back_end.give_up();
                self.log_lost(Verb::Data.name(), &error);
                lost()
            }
            _ => answer,
        }
    }

    /// What handlers want to be delayed the other server hears of when the time is over, rather than the client of the
    /// reply.
    fn hold_back(&mut self, ports: &mut Ports<'_>) -> Result<(), ClientGone> {
        let delay = std::mem::take(&mut self.hold.delay);
        if delay.is_zero() {
            return Ok(());
        }
        ports.pause.pause(delay)
    }

    fn pass_on(&mut self, link: &'c Link, what: Passing, exchange: Option<&Exchange>, ports: &mut Ports<'_>) -> Answer {
        if self.hold_back(ports).is_err() {
            ports.back_end.give_up();
            return (Verdict::Drop, None, Next::Close);
        }
        let stage = match what {
            Passing::Client => Stage::Open,
            Passing::Command => exchange.map_or(Stage::Other, |exchange| stage_of(&exchange.command.verb)),
            Passing::End => Stage::EndOfData,
        };
        let passed = self.with_context(link, stage, exchange, None, ports, |context| {
            link.handler.pass_on(context, what)
        });
        self.by = Some(link.id.clone());
        match passed {
            Ok(reply) => meaning(reply),
            Err(error) => {
                ports.back_end.give_up();
                let at = match what {
                    Passing::Client => "greeting",
                    Passing::Command => exchange.map_or("command", |exchange| exchange.command.verb.name()),
                    Passing::End => "end-of-data",
                };
                self.log_lost(at, &error);
                lost()
            }
        }
    }

    /// Begins the text with the fields that handlers have added so far.
    pub(super) fn begin_text(&mut self, ports: &mut Ports<'_>) {
        if self.chain.relays()
            && let Some(transaction) = &self.session.transaction
        {
            let fields = transaction.fields.concat();
            if !fields.is_empty()
                && let Err(error) = ports.back_end.text(fields.as_bytes())
            {
                self.sink_failure = Some(error.to_string());
            }
            // The header goes there as it comes.
            self.log_dropped(transaction.removed.len());
        }
    }

    /// Puts octets of a body where they go.
    ///
    /// # Errors
    /// Why they could not.
    pub(super) fn store(&mut self, octets: &[u8], ports: &mut Ports<'_>) -> Result<(), String> {
        if !self.chain.relays() {
            return ports.body.write(octets).map_err(|error| error.to_string());
        }
        if self.copy_failure.is_none()
            && self.chain.saves_copies()
            && let Err(error) = ports.body.write(octets)
        {
            self.copy_failure = Some(error.to_string());
            ports.body.reset();
        }
        ports.back_end.text(octets).map_err(|error| error.to_string())
    }

    /// Has delivery save what went to the other server. It is nobody's mail: that it fails is said in the log, and
    /// changes nothing for the client.
    fn save_copy(&mut self, ports: &mut Ports<'_>) {
        let failure = self.copy_failure.take();
        let body = failure.map_or_else(|| ports.body.finish().map_err(|error| error.to_string()), Err);
        let committed = body.and_then(|body| match self.copy(body, ports.now) {
            Some(copy) => ports.delivery.commit(copy).map_err(|error| error.to_string()),
            None => Err("no transaction".to_owned()),
        });
        if let Err(error) = committed {
            let line = self.event("copy-failed").quoted("error", error.as_bytes());
            self.log.push((Level::Error, line.text()));
        }
    }

    fn copy(&self, body: Body, now: i64) -> Option<Commit> {
        let session = &self.session;
        let transaction = session.transaction.as_ref()?;
        let hello = session.hello.as_ref().map(|hello| hello.name.clone());
        Some(Commit {
            id: transaction.id.clone(),
            reverse_path: transaction.reverse_path.address(),
            recipients: vec![saved()],
            fields: transaction.fields.concat().into_bytes(),
            removed: Vec::new(),
            body,
            smtputf8: transaction.parameters.smtputf8,
            received_at: now.div_euclid(1_000_000),
            peer: session.peer.ip().to_string(),
            helo: hello.unwrap_or_default(),
        })
    }

    /// The other server was lost while a text went there.
    pub(super) fn text_lost(&mut self, error: &str, ports: &mut Ports<'_>) -> Action {
        ports.back_end.give_up();
        self.log_lost("text", &HandlerError::Failed(error.to_owned()));
        let (_, reply, next) = lost();
        self.body_refused(reply, next, ports)
    }

    /// The end of a message: passed on unless its judges refuse it.
    pub(super) fn judge_relayed(
        &mut self,
        links: &'c [Link],
        link: &'c Link,
        ran: &Ran,
        ports: &mut Ports<'_>,
    ) -> Action {
        self.log_too_late(ran);
        let (reply, next, by) = match self.refused_relayed(ran) {
            Some((verdict, reply, by)) => {
                ports.back_end.give_up();
                let close = matches!(verdict, Verdict::Disconnect | Verdict::Drop);
                let reply = (verdict != Verdict::Drop).then(|| refusal(verdict, reply));
                (reply, if close { Next::Close } else { Next::Command }, by)
            }
            None => {
                let (_, reply, next) = self.pass_on(link, Passing::End, None, ports);
                let by = self.by.take();
                let id = self
                    .session
                    .transaction
                    .as_ref()
                    .map(|transaction| transaction.id.clone());
                let reply = match reply.map(relayed) {
                    Some(Ok(taken)) => {
                        self.log_taken(&[], taken.results());
                        Some(taken.reply(&id.unwrap_or_default()))
                    }
                    Some(Err(refused)) => Some(refused),
                    None => None,
                };
                (reply, next, by)
            }
        };
        if ran.effects().any(|effect| *effect == Effect::SaveCopy) {
            self.save_copy(ports);
        }
        self.concluded(links, Stage::EndOfData, None, reply.as_ref(), ports);
        self.end_relayed(reply, next, by.as_deref(), ran, ports)
    }

    fn end_relayed(
        &mut self,
        mut reply: Option<Reply>,
        mut next: Next,
        by: Option<&str>,
        ran: &Ran,
        ports: &mut Ports<'_>,
    ) -> Action {
        if reply.as_ref().is_some_and(Reply::is_positive) {
            self.session.counters.message_accepted();
        } else {
            self.log_message(self.event("refused"), reply.as_ref(), by, &ran.findings);
            (reply, next) = self.count_refused_message(reply, next);
        }
        self.forget_transaction(ports);
        self.message_ended = true;
        self.act(reply, next)
    }

    /// What the judges of a message refuse it with: all of them together, or each recipient by itself.
    fn refused_relayed(&self, ran: &Ran) -> Option<(Verdict, Option<Reply>, Option<String>)> {
        let decision = &ran.decision;
        if decision.verdict >= Verdict::Defer {
            return Some((decision.verdict, decision.reply.clone(), decision.by.clone()));
        }
        let refused = refused_by_each(self.session.transaction.as_ref()?, Stage::EndOfData)?;
        Some((refused.verdict, refused.reply, refused.by))
    }

    /// The message has gone already: its header cannot be changed any more.
    fn log_too_late(&mut self, ran: &Ran) {
        let late = |effect: &&Effect| matches!(effect, Effect::AddField(_) | Effect::RemoveField(_));
        self.log_dropped(ran.effects().filter(late).count());
    }

    /// Wishes of handlers about so many fields that are not met.
    fn log_dropped(&mut self, count: usize) {
        if count > 0 {
            let line = self.event("fields-dropped").field("count", count);
            self.log.push((Level::Error, line.text()));
        }
    }

    /// How far the session was when the other server was lost.
    fn log_lost(&mut self, at: &str, error: &HandlerError) {
        let mut event = self
            .event("back-end-lost")
            .field("at", at)
            .quoted("error", error.to_string().as_bytes());
        let hello = self.session.hello.is_some();
        event = event.field("hello", hello);
        if let Some(transaction) = &self.session.transaction {
            event = event.quoted("from", transaction.reverse_path.to_string().as_bytes());
            event = event.field("recipients", transaction.recipients.len());
            let octets = transaction.body.as_ref().map(|body| body.octets);
            event = event
                .field("body", octets.is_some())
                .field("octets", octets.unwrap_or(0));
        }
        event = event.field("messages", self.session.counters.messages);
        self.log.push((Level::Error, event.text()));
    }
}
