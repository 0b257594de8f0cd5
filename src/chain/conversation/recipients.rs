//! RCPT: who becomes a recipient of the transaction, and what becomes of whom nobody took.

use super::replies::too_many_recipients;
use super::run::{Ran, copies};
use super::steps::is_put_off;
use super::{Conversation, Next};
use crate::chain::effect::Effect;
use crate::chain::ports::Ports;
use crate::chain::{Action, Link};
use crate::ipc::delivery as ipc;
use crate::session::{Disposition, Exchange, Mailbox, Recipient, Verdict};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

impl<'c> Conversation<'c> {
    pub(super) fn rcpt(
        &mut self,
        links: &'c [Link],
        exchange: &Exchange,
        ran: &Ran,
        recipient: Option<Recipient>,
        ports: &mut Ports<'_>,
    ) -> Action {
        let relayed = links.iter().any(Link::is_relay);
        let mut mailboxes = Vec::new();
        for effect in ran.effects() {
            if let Effect::Route(route) = effect {
                mailboxes.clone_from(route);
            }
        }
        let ok = Reply::new(250, Some(Status::RECIPIENT_OK), "recipient OK");
        let (mut verdict, mut reply, mut next) = self.answer_or_relay(links, exchange, ran, &ok, ports);
        // RFC 5321 §4.5.1: no policy refuses postmaster where the mailbox is ours. A message may still be refused for its
        // form, at its end: for its size, its line endings, or as a loop (§6.3).
        let exempt = recipient.as_ref().is_some_and(Recipient::is_postmaster) && !mailboxes.is_empty() && !relayed;
        if exempt && !verdict.is_positive() && exchange.fault.is_none() {
            (verdict, reply, next) = (Verdict::Accept, Some(ok), Next::Command);
        }
        // Copies are delivery's concern.
        if verdict.is_positive() && !relayed && !self.has_room(recipient.as_ref(), &mailboxes) {
            (verdict, reply, next) = (Verdict::Defer, Some(too_many_recipients()), Next::Command);
        }
        let routed = !mailboxes.is_empty() || relayed;
        match recipient {
            Some(recipient) if verdict.is_positive() && routed && self.session.transaction.is_some() => {
                self.add_recipient(recipient, mailboxes, verdict, exempt, ran);
            }
            recipient => {
                if let (Some(recipient), true) = (&recipient, verdict.is_positive() || verdict == Verdict::None) {
                    reply = Some(self.chain.closed(&recipient.forward_path));
                }
                self.count_refused(recipient.is_some(), exchange);
            }
        }
        self.finish(exchange, reply, next, ports)
    }

    /// Whether the transaction has room for the copies of one more recipient; the first one always fits.
    fn has_room(&self, recipient: Option<&Recipient>, mailboxes: &[Mailbox]) -> bool {
        let (copies, octets) = recipient.map_or((0, 0), |one| copies(one, mailboxes));
        self.session.transaction.as_ref().is_none_or(|transaction| {
            transaction.recipients.is_empty()
                || (transaction.copies + copies <= ipc::RECIPIENTS
                    && transaction.copies_octets + octets <= ipc::RECIPIENTS_OCTETS)
        })
    }

    fn add_recipient(
        &mut self,
        mut recipient: Recipient,
        mailboxes: Vec<Mailbox>,
        verdict: Verdict,
        exempt: bool,
        ran: &Ran,
    ) {
        let Some(transaction) = &mut self.session.transaction else {
            return;
        };
        let (copies, octets) = copies(&recipient, &mailboxes);
        transaction.copies += copies;
        transaction.copies_octets += octets;
        recipient.mailboxes = mailboxes;
        // Postmaster's mail reaches postmaster, whatever policies make of it.
        if verdict == Verdict::Quarantine && !exempt {
            recipient.disposition = Disposition::Quarantine;
        }
        if !exempt {
            recipient.kept.clone_from(&ran.decision.waiting);
        }
        transaction.recipients.push(recipient);
        self.session.counters.recipient_accepted();
        self.apply(ran);
    }

    fn count_refused(&mut self, well_formed: bool, exchange: &Exchange) {
        if well_formed && let Some(transaction) = &mut self.session.transaction {
            transaction.refused = transaction.refused.saturating_add(1);
        }
        self.session.counters.recipient_refused(is_put_off(exchange));
    }
}
