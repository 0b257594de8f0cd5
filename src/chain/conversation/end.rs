//! The end of a body: judges, the decision, the one taker, the reply.

use std::collections::HashMap;

use super::replies::{bare_line_ending, refusal, too_big};
use super::run::Ran;
use super::{Action, Conversation, Next};
use crate::chain::decision::Stage;
use crate::chain::effect::Effect;
use crate::chain::error::HandlerError;
use crate::chain::outcome::{Message, unavailable};
use crate::chain::ports::Ports;
use crate::ipc::delivery::{self as ipc, RecipientResult};
use crate::log::{Event, Level};
use crate::session::{Anomaly, Disposition, Recipient, Transaction, Verdict};
use crate::smtp::receiver::{BodyEnd, LineEndings};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

impl Conversation<'_> {
    /// DATA or a chunk is complete.
    pub(super) fn end_of_body(&mut self, end: &BodyEnd, ports: &mut Ports<'_>) -> Action {
        self.session.counters.text_received(end.octets);
        if let Some(refusal) = self.hearing_out.take() {
            return self.heard_out(refusal, ports);
        }
        let chunk = self.chunk.take();
        if let Some(chunk) = &chunk
            && let Some((verdict, reply)) = &chunk.refused
        {
            let close = matches!(verdict, Verdict::Disconnect | Verdict::Drop);
            let reply = reply.clone();
            return self.body_refused(reply, if close { Next::Close } else { Next::Command }, ports);
        }
        self.observe_body(end);
        let Some(body) = self.session.body_mut() else {
            return self.body_refused(Some(unavailable()), Next::Command, ports);
        };
        body.end(end);
        let limit = self.limits.message_size;
        body.too_big |= limit > 0 && body.octets > limit;
        let (too_long, strict, received, octets) = (body.too_big, body.strict_violation, body.received(), body.octets);
        if strict && self.limits.line_endings == LineEndings::Strict {
            return self.body_refused(Some(bare_line_ending()), Next::Close, ports);
        }
        if too_long {
            return self.body_refused(Some(too_big()), Next::Command, ports);
        }
        if let Some(error) = self.sink_failure.take() {
            return if self.chain.relays() {
                self.text_lost(&error, ports)
            } else {
                self.sink_failed(&error, ports)
            };
        }
        if let Some(chunk) = chunk
            && !chunk.last
        {
            self.session.observe(Anomaly::ChunkBoundary(chunk.size));
            let reply = Reply::new(250, Some(Status::OK), format!("{} octets received", chunk.size));
            self.body_concluded(&reply, ports);
            return self.act(Some(reply), Next::Command);
        }
        // For postmaster as well: a loop is a matter of the message's form, and would never end there either.
        if received >= self.limits.maximum_received {
            let reply = Reply::new(554, Some(Status::LOOP), "too many hops, this message is looping");
            return self.body_refused(Some(reply), Next::Command, ports);
        }
        self.observe_size(octets);
        self.judge(ports)
    }

    fn observe_body(&mut self, end: &BodyEnd) {
        let first = end.first_bare;
        if end.bare_lf > 0 {
            self.session.observe(Anomaly::BareLf {
                count: end.bare_lf,
                first,
            });
        }
        if end.bare_cr > 0 {
            self.session.observe(Anomaly::BareCr {
                count: end.bare_cr,
                first,
            });
        }
        for &offset in &end.lookalikes {
            self.session.observe(Anomaly::EndOfDataLookalike { offset });
        }
        if end.long_lines > 0 {
            self.session.observe(Anomaly::LongLines(end.long_lines));
        }
        if end.has_nul {
            self.session.observe(Anomaly::Nul);
        }
        if self.limits.line_endings == LineEndings::Note {
            self.note_line_endings(end);
        }
    }

    /// With `line_endings: note`: what bare CR and LF there was, as evidence with offsets.
    fn note_line_endings(&mut self, end: &BodyEnd) {
        let first = end.first_bare.unwrap_or(0);
        let bare = [("BARE_LF", end.bare_lf), ("BARE_CR", end.bare_cr)];
        let bare = bare.into_iter().filter(|(_, count)| *count > 0);
        let bare = bare.map(|(symbol, count)| (symbol, format!("count={count} offset={first}")));
        let lookalikes = end
            .lookalikes
            .iter()
            .map(|offset| ("EOD_LOOKALIKE", format!("offset={offset}")));
        for (symbol, value) in bare.chain(lookalikes) {
            let line = self
                .event("evidence")
                .field("by", "protocol")
                .field("symbol", symbol)
                .quoted("value", value.as_bytes());
            self.log.push((Level::Info, line.text()));
        }
    }

    fn observe_size(&mut self, received: u64) {
        let announced = self
            .session
            .transaction
            .as_ref()
            .and_then(|transaction| transaction.parameters.size);
        if let Some(announced) = announced
            && announced != received
            && announced > 0
        {
            self.session.observe(Anomaly::SizeMismatch { announced, received });
        }
    }

    /// Refuses the message under way and forgets it.
    pub(super) fn body_refused(&mut self, mut reply: Option<Reply>, mut next: Next, ports: &mut Ports<'_>) -> Action {
        ports.back_end.give_up();
        self.log_message(self.event("reject"), reply.as_ref(), None, &[]);
        (reply, next) = self.count_refused_message(reply, next);
        if let Some(reply) = &reply {
            self.body_concluded(reply, ports);
        }
        self.forget_transaction(ports);
        self.message_ended = true;
        self.act(reply, next)
    }

    /// Tells the entries of `__DATA__` the reply to a body, or to a chunk of it.
    fn body_concluded(&mut self, reply: &Reply, ports: &mut Ports<'_>) {
        let chain = self.chain;
        let links = chain.stage_links("__DATA__");
        self.concluded(links, Stage::EndOfData, None, Some(reply), ports);
    }

    fn sink_failed(&mut self, error: &str, ports: &mut Ports<'_>) -> Action {
        let line = self.event("body-failed").quoted("error", error.as_bytes());
        self.log.push((Level::Error, line.text()));
        let reply = Reply::new(
            452,
            Some(Status::SYSTEM_FULL),
            "no space for the message, try again later",
        );
        self.log_message(self.event("defer"), Some(&reply), None, &[]);
        self.body_concluded(&reply, ports);
        self.forget_transaction(ports);
        self.message_ended = true;
        self.act(Some(reply), Next::Command)
    }

    /// The judges of `__DATA__`, then the taker.
    fn judge(&mut self, ports: &mut Ports<'_>) -> Action {
        let chain = self.chain;
        let links = chain.stage_links("__DATA__");
        let ran = self.run(links, Stage::EndOfData, None, None, None, ports);
        if let Some(link) = links.iter().find(|link| link.is_relay()) {
            return self.judge_relayed(links, link, &ran, ports);
        }
        self.apply(&ran);
        let settled = match &self.session.transaction {
            Some(transaction) => settle(transaction, &ran),
            None => return self.body_refused(Some(unavailable()), Next::Command, ports),
        };
        if ran.decision.would_be >= Verdict::Defer && settled.refused.is_none() {
            let line = self.event("would-be").field("verdict", ran.decision.would_be.name());
            self.log.push((Level::Info, line.text()));
        }
        let mut copies = settled.copies;
        if ran.effects().any(|effect| *effect == Effect::SaveCopy) {
            copies.push(saved());
        }
        let taken = if copies.is_empty() {
            ports.body.reset();
            Err(unavailable())
        } else {
            self.hand_over(copies, ports)
        };
        let (mut reply, mut next, by) = match settled.refused {
            Some(refused) => {
                let close = matches!(refused.verdict, Verdict::Disconnect | Verdict::Drop);
                let reply = (refused.verdict != Verdict::Drop).then(|| refusal(refused.verdict, refused.reply));
                (reply, if close { Next::Close } else { Next::Command }, refused.by)
            }
            None => (Some(taken.unwrap_or_else(|reply| reply)), Next::Command, None),
        };
        if reply.as_ref().is_some_and(Reply::is_positive) {
            self.session.counters.message_accepted();
        } else {
            self.log_message(self.event("refused"), reply.as_ref(), by.as_deref(), &ran.findings);
            (reply, next) = self.count_refused_message(reply, next);
        }
        self.concluded(links, Stage::EndOfData, None, reply.as_ref(), ports);
        self.forget_transaction(ports);
        self.message_ended = true;
        self.act(reply, next)
    }

    /// A message that was not taken is an error of the client's; with too many of them the session ends.
    pub(super) fn count_refused_message(&mut self, reply: Option<Reply>, next: Next) -> (Option<Reply>, Next) {
        self.session.counters.error();
        if self.session.counters.errors > self.limits.maximum_errors && next != Next::Close {
            let reply = Reply::new(421, Some(Status(4, 7, 0)), "too many errors");
            return (Some(reply), Next::Close);
        }
        (reply, next)
    }

    /// Gives the copies to the taker; its 250 is the only one after end-of-data.
    fn hand_over(&mut self, copies: Vec<ipc::Recipient>, ports: &mut Ports<'_>) -> Result<Reply, Reply> {
        let id = self
            .session
            .transaction
            .as_ref()
            .map(|transaction| transaction.id.clone())
            .unwrap_or_default();
        let chain = self.chain;
        let mut links = chain.links("__DATA__").unwrap_or_default().iter();
        let Some(link) = links.find(|link| link.is_taker()) else {
            return Err(unavailable());
        };
        let body = match ports.body.finish() {
            Ok(body) => body,
            Err(error) => {
                let line = self.event("body-failed").quoted("error", error.to_string().as_bytes());
                self.log.push((Level::Error, line.text()));
                return Err(Reply::new(
                    452,
                    Some(Status::SYSTEM_FULL),
                    "no space for the message, try again later",
                ));
            }
        };
        let message = Message {
            id: id.clone(),
            copies: copies.clone(),
            body,
        };
        let result = self.with_context(link, Stage::EndOfData, None, None, ports, |context| {
            link.handler.take(context, message)
        });
        match result {
            Ok(taken) => {
                self.log_taken(&copies, taken.results());
                Ok(taken.reply(&id))
            }
            Err(refusal) => {
                if let Some(fault) = refusal.fault {
                    self.log_failure(link, &HandlerError::Failed(fault));
                }
                Err(refusal.reply)
            }
        }
    }

    pub(super) fn log_taken(&mut self, copies: &[ipc::Recipient], results: &[RecipientResult]) {
        let Some(transaction) = &self.session.transaction else {
            return;
        };
        let octets = transaction.body.as_ref().map_or(0, |body| body.octets);
        let mut event = self.event("message").field("id", &transaction.id);
        if let Some(hello) = &self.session.hello {
            event = event.quoted("helo", hello.name.as_bytes());
        }
        event = event
            .quoted("from", transaction.reverse_path.to_string().as_bytes())
            .field("octets", octets)
            .field("recipients", transaction.recipients.len());
        if !transaction.labels.is_empty() {
            event = event.quoted("labels", transaction.labels.join(",").as_bytes());
        }
        let mut lines = vec![(Level::Info, event.text())];
        let saved = |copy: &&ipc::Recipient| copy.disposition == ipc::Disposition::Copy;
        for (copy, result) in copies.iter().zip(results).filter(|(copy, _)| !saved(copy)) {
            let (word, text) = match result {
                RecipientResult::Delivered => ("delivered", ""),
                RecipientResult::Spooled => ("spooled", ""),
                RecipientResult::Quarantined => ("quarantined", ""),
                RecipientResult::Discarded => ("discarded", ""),
                RecipientResult::Temporary { text, .. } => ("temporary", text.as_str()),
                RecipientResult::Permanent { text, .. } => ("permanent", text.as_str()),
            };
            let line = self
                .event("recipient")
                .field("id", &transaction.id)
                .quoted("to", copy.original.as_bytes())
                .quoted("mailbox", copy.address().as_bytes())
                .field("result", word);
            let line = if text.is_empty() {
                line
            } else {
                line.quoted("text", text.as_bytes())
            };
            lines.push((Level::Info, line.text()));
        }
        self.log.extend(lines);
    }

    pub(super) fn log_message(
        &mut self,
        event: Event,
        reply: Option<&Reply>,
        by: Option<&str>,
        findings: &[crate::chain::decision::Finding],
    ) {
        let mut event = event.field("verb", "__DATA__");
        if let Some(reply) = reply {
            event = event.field("code", reply.code);
            if let Some(status) = reply.status {
                event = event.field("status", status);
            }
        }
        if let Some(by) = by {
            event = event.field("by", by);
        }
        event = event.field("findings", findings.len());
        self.log.push((Level::Info, event.text()));
    }
}

/// A verdict that refuses the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) verdict: Verdict,
    pub(super) reply: Option<Reply>,
    pub(super) by: Option<String>,
}

/// What is to become of a message: copies for the taker, and the refusal where there is one.
struct Settled {
    copies: Vec<ipc::Recipient>,
    refused: Option<Refused>,
}

/// Turns the decision into copies and an answer. Soft and trap recipients are kept whatever was decided; postmaster is
/// refused by no verdict (the message's form, as its size and whether it loops, was judged before); a recipient's own
/// verdict concerns its copy only.
fn settle(transaction: &Transaction, ran: &Ran) -> Settled {
    let decision = &ran.decision;
    let keep_copy = ran.effects().any(|effect| *effect == Effect::KeepCopy);
    let denied = decision.verdict >= Verdict::Defer;
    let mut copies = Copies::default();
    let mut first: Option<Refused> = None;
    let mut welcome = 0_usize;
    for recipient in &transaction.recipients {
        let soft = recipient.disposition != Disposition::Deliver;
        let postmaster = recipient.is_postmaster();
        let refused = if soft || postmaster {
            None
        } else if denied {
            Some(Refused {
                verdict: decision.verdict,
                reply: decision.reply.clone(),
                by: decision.by.clone(),
            })
        } else {
            own_refusal(recipient, Stage::EndOfData)
        };
        let disposition = match (&refused, recipient.disposition) {
            (Some(_), _) if keep_copy => Some(ipc::Disposition::Quarantine),
            (Some(_), _) => None,
            (None, Disposition::Discard) => Some(ipc::Disposition::Discard),
            (None, Disposition::Quarantine) => Some(ipc::Disposition::Quarantine),
            (None, Disposition::Deliver) if is_quarantined(recipient, decision.verdict) && !postmaster => {
                Some(ipc::Disposition::Quarantine)
            }
            (None, Disposition::Deliver) => Some(ipc::Disposition::Deliver),
        };
        if refused.is_none() && !soft {
            welcome = welcome.saturating_add(1);
        }
        if let Some(refused) = refused {
            first.get_or_insert(refused);
        }
        if let Some(disposition) = disposition {
            copies.add(recipient, disposition);
        }
    }
    // What the chain decided is what real recipients' sender hears; a recipient's own refusal only if nobody got it.
    let refused = if denied { first } else { first.filter(|_| welcome == 0) };
    Settled {
        copies: copies.list,
        refused,
    }
}

/// The refusal of a message that all its recipients but soft ones and postmaster bring about one by one.
pub(super) fn refused_by_each(transaction: &Transaction, stage: Stage) -> Option<Refused> {
    let mut first = None;
    for recipient in &transaction.recipients {
        if recipient.disposition != Disposition::Deliver || recipient.is_postmaster() {
            return None;
        }
        let refused = own_refusal(recipient, stage)?;
        first.get_or_insert(refused);
    }
    first
}

/// The recipient's most severe kept verdict that is due, where it refuses.
fn own_refusal(recipient: &Recipient, stage: Stage) -> Option<Refused> {
    let due = recipient
        .kept
        .iter()
        .filter(|kept| stage.is_due(kept.at) && kept.verdict >= Verdict::Defer);
    let worst = due.reduce(|worst, kept| if kept.verdict > worst.verdict { kept } else { worst })?;
    Some(Refused {
        verdict: worst.verdict,
        reply: worst.reply.clone(),
        by: Some(worst.by.clone()),
    })
}

fn is_quarantined(recipient: &Recipient, decided: Verdict) -> bool {
    decided == Verdict::Quarantine || recipient.kept.iter().any(|kept| kept.verdict == Verdict::Quarantine)
}

/// The copy that is saved for research: no recipient's.
pub(super) fn saved() -> ipc::Recipient {
    ipc::Recipient {
        original: String::new(),
        domain: "copies".to_owned(),
        mailbox: "copies".to_owned(),
        disposition: ipc::Disposition::Copy,
    }
}

/// Copies by mailbox: the same mailbox gets one, the best of what its recipients say.
#[derive(Default)]
struct Copies {
    list: Vec<ipc::Recipient>,
    places: HashMap<(String, String), usize>,
}

impl Copies {
    fn add(&mut self, recipient: &Recipient, disposition: ipc::Disposition) {
        for mailbox in &recipient.mailboxes {
            let key = (mailbox.domain.clone(), mailbox.mailbox.clone());
            let place = *self.places.entry(key).or_insert(self.list.len());
            match self.list.get_mut(place) {
                Some(known) => {
                    if rank(disposition) > rank(known.disposition) {
                        known.disposition = disposition;
                    }
                }
                None => self.list.push(ipc::Recipient {
                    original: recipient.address(),
                    domain: mailbox.domain.clone(),
                    mailbox: mailbox.mailbox.clone(),
                    disposition,
                }),
            }
        }
    }
}

fn rank(disposition: ipc::Disposition) -> u8 {
    match disposition {
        ipc::Disposition::Copy | ipc::Disposition::Discard => 0,
        ipc::Disposition::Quarantine => 1,
        ipc::Disposition::Deliver => 2,
    }
}
