//! Running the entries of one chain.

use super::Conversation;
use crate::chain::Link;
use crate::chain::context::Context;
use crate::chain::decision::{Decision, Evaluate, Finding, Mode, OnError, Stage, decide};
use crate::chain::handler::{Effect, Evidence, HandlerError, Outcome};
use crate::chain::outcome::unavailable;
use crate::chain::ports::Ports;
use crate::log::Level;
use crate::session::{Exchange, Kept, Recipient, Verdict};
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
        let mut findings: Vec<Finding> = Vec::new();
        let mut readers = std::mem::take(&mut self.readers);
        for (number, link) in links.iter().enumerate() {
            if link.mode == Mode::Off || link.handler.facts().taker || is_skipped(&findings, &link.id) {
                continue;
            }
            let so_far = decide(stage, combine, &kept, &findings).verdict;
            if self.chain.evaluate == Evaluate::UntilDecided && so_far >= Verdict::Defer {
                break;
            }
            let reader = if stage == Stage::EndOfData {
                readers.get_mut(number).and_then(Option::take)
            } else {
                None
            };
            let mut context = Context {
                session: &mut self.session,
                recipient: recipient.as_deref_mut(),
                exchange,
                limits: &self.limits,
                chunking: self.chain.links("BDAT").or_else(|| self.chain.links("DATA")).is_some(),
                verbs: self.chain.verbs(),
                delivery: &mut *ports.delivery,
                now: ports.now,
                timeout: link.timeout,
                decided: so_far,
                reason,
            };
            let result = match reader {
                Some(reader) => reader.end(&mut context),
                None => link.handler.handle(&mut context),
            };
            let outcome = result.unwrap_or_else(|error| self.failed(link, &error));
            findings.push(Finding {
                by: link.id.clone(),
                enforced: link.mode == Mode::Enforce,
                outcome,
            });
        }
        if stage != Stage::EndOfData {
            self.readers = readers;
        }
        let decision = decide(stage, combine, &kept, &findings);
        self.record(&findings);
        Ran { findings, decision }
    }

    /// Lends a context to something that is no judging run: a body's beginning, the taker, the conclusion.
    pub(super) fn with_context<T>(
        &mut self,
        link: &Link,
        exchange: Option<&Exchange>,
        ports: &mut Ports<'_>,
        call: impl FnOnce(&mut Context<'_>) -> T,
    ) -> T {
        let mut context = Context {
            session: &mut self.session,
            recipient: None,
            exchange,
            limits: &self.limits,
            chunking: true,
            verbs: self.chain.verbs(),
            delivery: &mut *ports.delivery,
            now: ports.now,
            timeout: link.timeout,
            decided: Verdict::None,
            reason: None,
        };
        call(&mut context)
    }

    /// Tells every entry the final reply.
    pub(super) fn concluded(
        &mut self,
        links: &'c [Link],
        exchange: Option<&Exchange>,
        reply: Option<&Reply>,
        ports: &mut Ports<'_>,
    ) {
        for link in links.iter().filter(|link| link.mode != Mode::Off) {
            self.with_context(link, exchange, ports, |context| link.handler.concluded(context, reply));
        }
    }

    fn failed(&mut self, link: &Link, error: &HandlerError) -> Outcome {
        let text = error.to_string();
        let line = self
            .event("handler-failed")
            .field("handler", &link.id)
            .quoted("error", text.as_bytes());
        self.log.push((Level::Error, line.text()));
        let mut outcome = match link.on_error {
            OnError::Pass => Outcome::none(),
            OnError::Defer => Outcome::defer(unavailable()),
            OnError::Reject => Outcome::reject(Reply::new(554, Some(Status(5, 3, 0)), "local error")),
        };
        outcome.evidence.push(Evidence {
            symbol: "HANDLER_FAILED",
            value: text,
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
                at: crate::session::At::EndOfData,
                of_hello: stage == Stage::Hello,
            });
        }
        match (stage, &mut self.session.transaction) {
            (Stage::Mail | Stage::Data, Some(transaction)) => transaction.kept.extend(waiting),
            (Stage::Mail | Stage::Data | Stage::Rcpt | Stage::EndOfData, _) => {}
            _ => self.session.kept.extend(waiting),
        }
        self.session.kept.truncate(MAXIMUM_KEPT);
    }

    /// Applies effects that concern the transaction.
    pub(super) fn apply(&mut self, ran: &Ran) {
        let Some(transaction) = &mut self.session.transaction else {
            return;
        };
        for effect in ran.effects() {
            match effect {
                Effect::AddField(field) => transaction.fields.push(field.clone()),
                Effect::Label(label) if !transaction.labels.contains(label) => transaction.labels.push(label.clone()),
                Effect::Label(_) | Effect::Route(_) | Effect::KeepCopy | Effect::Skip(_) => {}
            }
        }
    }
}

/// Verdicts kept for a session at most.
const MAXIMUM_KEPT: usize = 256;

fn is_skipped(findings: &[Finding], id: &str) -> bool {
    findings
        .iter()
        .filter(|finding| finding.enforced)
        .flat_map(|finding| &finding.outcome.effects)
        .any(|effect| matches!(effect, Effect::Skip(skipped) if skipped == id))
}
