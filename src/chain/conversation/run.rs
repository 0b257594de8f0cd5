//! Running the entries of one chain.

use std::time::Duration;

use super::{Action, Conversation, Next};
use crate::chain::Link;
use crate::chain::context::Context;
use crate::chain::decision::{Decision, Finding, Stage, decide};
use crate::chain::effect::Effect;
use crate::chain::error::HandlerError;
use crate::chain::handler::Handler;
use crate::chain::opinion::{Evidence, Outcome};
use crate::chain::outcome::unavailable;
use crate::chain::ports::Ports;
use crate::config::{Evaluate, Mode, OnError};
use crate::ipc::delivery as ipc;
use crate::log::Level;
use crate::session::{At, Exchange, Kept, Recipient, Verdict};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// What a run gave.
pub(super) struct Ran {
    pub(super) findings: Vec<Finding>,
    pub(super) decision: Decision,
}

impl Ran {
    /// Effects of enforced entries, in order.
    pub(super) fn effects(&self) -> impl Iterator<Item = &Effect> {
        self.findings
            .iter()
            .filter(|finding| finding.enforced)
            .flat_map(|finding| &finding.outcome.effects)
    }
}

impl<'c> Conversation<'c> {
    /// Runs the judging entries of a chain and decides.
    pub(super) fn run(
        &mut self,
        links: &'c [Link],
        stage: Stage,
        exchange: Option<&Exchange>,
        mut recipient: Option<&mut Recipient>,
        reason: Option<&str>,
        ports: &mut Ports<'_>,
    ) -> Ran {
        let mut kept = self.session.kept.clone();
        kept.extend(
            self.session
                .transaction
                .iter()
                .flat_map(|transaction| transaction.kept.iter().cloned()),
        );
        let combine = self.chain.combine;
        // RFC 5321 §4.5.1: nobody else's verdict may keep the recipients' handler from taking postmaster.
        let spare = self.chain.evaluate == Evaluate::UntilDecided
            && !recipient.as_deref().is_some_and(Recipient::is_postmaster);
        let mut findings: Vec<Finding> = Vec::new();
        self.findings.clear();
        let mut readers = std::mem::take(&mut self.readers);
        for (number, link) in links.iter().enumerate() {
            if link.mode == Mode::Off || link.facts.taker || is_skipped(&findings, &link.id) {
                continue;
            }
            let so_far = decide(stage, combine, &kept, &findings).verdict;
            if spare && so_far >= Verdict::Defer && link.mode == Mode::Enforce {
                continue;
            }
            let reader = if stage == Stage::EndOfData {
                readers.get_mut(number).and_then(Option::take)
            } else {
                None
            };
            let mut context = self.context(link, stage, exchange, reason, ports);
            context.recipient = recipient.as_deref_mut();
            context.decided = so_far;
            let result = match reader {
                Some(reader) => reader.end(&mut context),
                None => link.handler.handle(&mut context),
            };
            let failed = result.is_err();
            let outcome = result.unwrap_or_else(|error| self.failed(link, &error));
            findings.push(Finding {
                by: link.id.clone(),
                enforced: link.mode == Mode::Enforce,
                failed,
                outcome,
            });
        }
        if stage != Stage::EndOfData {
            self.readers = readers;
        }
        let decision = decide(stage, combine, &kept, &findings);
        if links.iter().any(|link| link.facts.decides_nothing()) {
            self.findings.clone_from(&findings);
        }
        self.record(&findings);
        let ran = Ran { findings, decision };
        self.hold(stage, &ran);
        ran
    }

    /// Lends a context to something that is no judging run: a body's beginning, the taker, the conclusion.
    pub(super) fn with_context<T>(
        &mut self,
        link: &Link,
        stage: Stage,
        exchange: Option<&Exchange>,
        reason: Option<&str>,
        ports: &mut Ports<'_>,
        call: impl FnOnce(&mut Context<'_>) -> T,
    ) -> T {
        call(&mut self.context(link, stage, exchange, reason, ports))
    }

    /// What an entry may know and touch, without a recipient and with nothing decided.
    fn context<'a>(
        &'a mut self,
        link: &Link,
        stage: Stage,
        exchange: Option<&'a Exchange>,
        reason: Option<&'a str>,
        ports: &'a mut Ports<'_>,
    ) -> Context<'a> {
        Context {
            session: &mut self.session,
            recipient: None,
            exchange,
            limits: &self.limits,
            chunking: self.chain.chunk_links().is_some(),
            verbs: self.chain.verbs(),
            delivery: &mut *ports.delivery,
            back_end: &mut *ports.back_end,
            resolver: &mut *ports.resolver,
            records: &mut *ports.records,
            stage,
            findings: &self.findings,
            now: ports.now,
            timeout: link.timeout,
            decided: Verdict::None,
            reason,
        }
    }

    /// Tells every entry the final reply.
    pub(super) fn concluded(
        &mut self,
        links: &'c [Link],
        stage: Stage,
        exchange: Option<&Exchange>,
        reply: Option<&Reply>,
        ports: &mut Ports<'_>,
    ) {
        for link in links.iter().filter(|link| link.mode != Mode::Off) {
            self.with_context(link, stage, exchange, None, ports, |context| {
                link.handler.concluded(context, reply);
            });
        }
    }

    /// Tells whoever writes records how the connection ends.
    pub(super) fn ending(&mut self, reason: &str, reply: Option<&Reply>, ports: &mut Ports<'_>) {
        self.tell_recorders(Some(reason), ports, |handler, context| {
            handler.concluded(context, reply)
        });
    }

    /// Tells whoever writes records that a handshake is done, or has failed.
    pub(super) fn shaken(&mut self, ports: &mut Ports<'_>) {
        self.tell_recorders(None, ports, |handler, context| handler.shaken(context));
    }

    /// Tells whoever writes records, each once wherever it stands.
    fn tell_recorders(
        &mut self,
        reason: Option<&str>,
        ports: &mut Ports<'_>,
        tell: impl Fn(&dyn Handler, &mut Context<'_>),
    ) {
        self.findings.clear();
        let chain = self.chain;
        let mut told: Vec<&str> = Vec::new();
        for link in chain.every_link().filter(|link| link.mode != Mode::Off) {
            if link.handler.records().is_some() && !told.contains(&link.facts.id) {
                told.push(link.facts.id);
                self.with_context(link, Stage::Other, None, reason, ports, |context| {
                    tell(link.handler.as_ref(), context);
                });
            }
        }
    }

    /// As [`Conversation::finish`], for a command that its chain never got.
    pub(super) fn finish_early(
        &mut self,
        exchange: &Exchange,
        reply: Option<Reply>,
        next: Next,
        ports: &mut Ports<'_>,
    ) -> Action {
        self.findings.clear();
        self.by = None;
        let action = self.finish(exchange, reply, next, ports);
        let links = self.links_of(&exchange.command.verb);
        self.concluded(links, Stage::Other, Some(exchange), action.reply.as_ref(), ports);
        action
    }

    /// One line for a command that was refused, or not answered.
    pub(super) fn log_refusal(&mut self, verb: &str, exchange: &Exchange, reply: Option<&Reply>) {
        let event = match reply.map(|reply| reply.code) {
            None => self.event("drop"),
            Some(500..) => self.event("reject"),
            Some(_) => self.event("defer"),
        };
        // Client-given: a verb that we do not know may hold anything.
        let mut event = event.word("verb", verb);
        if let Some(reply) = reply {
            event = event.field("code", reply.code);
            if let Some(status) = reply.status {
                event = event.field("status", status);
            }
        }
        event = match self.by.take() {
            Some(by) => event.field("by", by),
            None => event.field("by", "protocol"),
        };
        // What a client says with AUTH is a password.
        if !verb.eq_ignore_ascii_case("AUTH") && !exchange.command.argument.is_empty() {
            event = event.quoted("argument", &exchange.command.argument);
        }
        self.log.push((Level::Info, event.text()));
    }

    /// What the effects want the reply to wait for.
    fn hold(&mut self, stage: Stage, ran: &Ran) {
        // RFC 1047: a client that hears nothing may send a message again that was taken.
        if stage == Stage::EndOfData && ran.decision.verdict < Verdict::Defer {
            return;
        }
        let hold = &mut self.hold;
        for effect in ran.effects() {
            match effect {
                Effect::Delay(time) => hold.delay = hold.delay.max(*time).min(LONGEST_HOLD),
                Effect::Stutter(time) => hold.stutter = hold.stutter.max(*time).min(LONGEST_HOLD),
                _ => {}
            }
        }
    }

    /// Logs that a handler could not do its work.
    pub(super) fn log_failure(&mut self, link: &Link, error: &HandlerError) {
        let line = self
            .event("handler-failed")
            .field("handler", link.facts.id)
            .field("by", &link.id)
            .quoted("error", error.to_string().as_bytes());
        self.log.push((Level::Error, line.text()));
    }

    fn failed(&mut self, link: &Link, error: &HandlerError) -> Outcome {
        self.log_failure(link, error);
        let mut outcome = match link.on_error {
            OnError::Pass => Outcome::none(),
            OnError::Defer => Outcome::defer(unavailable()),
            OnError::Reject => Outcome::reject(Reply::new(554, Some(Status(5, 3, 0)), "local error")),
        };
        outcome.evidence.push(Evidence {
            symbol: "HANDLER_FAILED",
            value: error.to_string(),
            score: 0.0,
            error: true,
        });
        outcome
    }

    /// One line for each entry that found something worth recording.
    fn record(&mut self, findings: &[Finding]) {
        for finding in findings {
            for evidence in &finding.outcome.evidence {
                let line = self
                    .event("evidence")
                    .field("by", &finding.by)
                    .field("symbol", evidence.symbol)
                    .quoted("value", evidence.value.as_bytes())
                    .field("score", evidence.score)
                    .field("error", evidence.error);
                self.log.push((Level::Info, line.text()));
            }
            let observed = !finding.enforced && finding.outcome.verdict > Verdict::Accept;
            if observed {
                let verdict = finding.outcome.verdict.name();
                let line = self
                    .event("observed")
                    .field("by", &finding.by)
                    .field("verdict", verdict);
                self.log.push((Level::Info, line.text()));
            }
        }
    }

    /// Keeps what bites later, and a quarantine that is to hold until the message is there, in the scope of the stage.
    pub(super) fn keep(&mut self, stage: Stage, ran: &Ran) {
        let mut waiting: Vec<Kept> = ran.decision.waiting.clone();
        if ran.decision.verdict == Verdict::Quarantine {
            waiting.push(Kept {
                by: ran.decision.by.clone().unwrap_or_default(),
                verdict: Verdict::Quarantine,
                reply: None,
                at: At::EndOfData,
                of_hello: stage == Stage::Hello,
            });
        }
        let scope = match (stage, &mut self.session.transaction) {
            (Stage::Mail | Stage::Data, Some(transaction)) => &mut transaction.kept,
            (Stage::Mail | Stage::Data | Stage::Rcpt | Stage::EndOfData, _) => return,
            _ => &mut self.session.kept,
        };
        for kept in waiting {
            keep_in(scope, kept);
        }
    }

    /// Applies effects that concern the transaction.
    pub(super) fn apply(&mut self, ran: &Ran) {
        let mut dropped = 0_usize;
        let Some(transaction) = &mut self.session.transaction else {
            return;
        };
        for effect in ran.effects() {
            match effect {
                Effect::AddField(field) => {
                    let length: usize = transaction.fields.iter().map(String::len).sum();
                    if length.saturating_add(field.as_str().len()) > MOST_FIELDS {
                        dropped = dropped.saturating_add(1);
                    } else {
                        transaction.fields.push(field.as_str().to_owned());
                    }
                }
                Effect::RemoveField(name) => add_word(&mut transaction.removed, name.as_str()),
                Effect::Label(label) => add_word(&mut transaction.labels, label),
                Effect::Delay(_)
                | Effect::Stutter(_)
                | Effect::Route(_)
                | Effect::KeepCopy
                | Effect::SaveCopy
                | Effect::HearOut
                | Effect::Skip(_) => {}
            }
        }
        if dropped > 0 {
            let line = self.event("fields-dropped").field("count", dropped);
            self.log.push((Level::Error, line.text()));
        }
    }
}

/// Octets of the header fields added to a message at most; delivery takes a little more.
const MOST_FIELDS: usize = 40 * 1024;
/// Labels, and names of removed fields, of a message at most.
const MOST_WORDS: usize = 64;
/// The longest that a reply is held back: a client waits five minutes for most of them (RFC 5321 §4.5.3.2).
const LONGEST_HOLD: Duration = Duration::from_secs(240);

fn add_word(words: &mut Vec<String>, word: &str) {
    if words.len() < MOST_WORDS && !words.iter().any(|known| known.eq_ignore_ascii_case(word)) {
        words.push(word.to_owned());
    }
}

/// Puts a verdict into a scope. An entry has one verdict for each step there, the most severe it gave: a client that
/// repeats a command can neither make the scope grow nor get rid of what was found.
pub(super) fn keep_in(scope: &mut Vec<Kept>, kept: Kept) {
    let same = |other: &&mut Kept| other.by == kept.by && other.at == kept.at && other.of_hello == kept.of_hello;
    match scope.iter_mut().find(same) {
        Some(known) if known.verdict < kept.verdict => *known = kept,
        Some(_) => {}
        None => scope.push(kept),
    }
}

fn is_skipped(findings: &[Finding], id: &str) -> bool {
    findings
        .iter()
        .filter(|finding| finding.enforced)
        .flat_map(|finding| &finding.outcome.effects)
        .any(|effect| matches!(effect, Effect::Skip(skipped) if skipped == id))
}

/// How many copies a recipient stands for, and their octets in the envelope.
pub(super) fn copies(recipient: &Recipient, mailboxes: &[crate::session::Mailbox]) -> (usize, usize) {
    let address = recipient.address();
    let octets = mailboxes
        .iter()
        .map(|one| ipc::Recipient::octets(&address, &one.domain, &one.mailbox));
    (mailboxes.len(), octets.sum())
}
