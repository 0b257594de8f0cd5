//! The taker of `__DATA__`: hands the message to the delivery process and turns what became of it into the answer.
//!
//! In front of the body go the fields that effects added, then our one `Received` (RFC 5321 §4.4), whose `for` names the
//! recipient only where there is a single one. Times are UTC. Notes: reads none, writes none.

use crate::chain::outcome::{Message, Refusal, Taken, fold, unavailable};
use crate::chain::registry::Material;
use crate::chain::{Context, Facts, Handler, HandlerError, Outcome};
use crate::ipc::delivery::Commit;
use crate::session::{Session, Transaction, Verdict};
use crate::smtp::address::{ForwardPath, Mailbox};
use crate::smtp::trace::{Trace, With, received};

/// Who it is.
pub const FACTS: Facts = Facts {
    id: "delivery",
    class: "DeliveryHandler",
    verbs: &["__DATA__"],
    decides: &[Verdict::Accept, Verdict::Defer, Verdict::Reject],
    taker: true,
    about: "hands the message over to the delivery process",
};

struct Delivery;

/// Makes one; it has no settings here, the agents are in `delivery.yaml`.
pub fn make(_: &mut Material) -> Box<dyn Handler> {
    Box::new(Delivery)
}

impl Handler for Delivery {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn handle(&self, _: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        Ok(Outcome::none())
    }

    fn take(&self, context: &mut Context<'_>, message: Message) -> Result<Taken, Refusal> {
        let now = context.now();
        let session = context.session();
        let Some(transaction) = &session.transaction else {
            return Err(unavailable().into());
        };
        let copies = message.copies.clone();
        let commit = Commit {
            fields: fields(session, transaction, now),
            id: message.id,
            reverse_path: transaction.reverse_path.address(),
            recipients: message.copies,
            body: message.body,
            smtputf8: transaction.parameters.smtputf8,
            received_at: now.div_euclid(1_000_000),
            peer: session.peer.ip().to_string(),
            helo: session
                .hello
                .as_ref()
                .map(|hello| hello.name.clone())
                .unwrap_or_default(),
        };
        match context.delivery().commit(commit) {
            Ok(outcome) => Ok(fold(&copies, outcome.results)?),
            Err(error) => Err(Refusal {
                reply: unavailable(),
                fault: Some(error.to_string()),
            }),
        }
    }
}

fn fields(session: &Session, transaction: &Transaction, now: i64) -> Vec<u8> {
    let mut fields = transaction.fields.concat();
    let name = session.hello.as_ref().map(|hello| hello.name.as_str());
    let trace = Trace {
        helo: name.unwrap_or_default(),
        peer_name: None,
        peer: session.peer.ip(),
        by: &session.server_name,
        with: With {
            extended: session.is_esmtp(),
            utf8: transaction.parameters.smtputf8,
            ..With::default()
        },
        id: &transaction.id,
        recipient: single(transaction),
        date: &date(now),
    };
    fields.push_str(&received(&trace));
    fields.into_bytes()
}

/// The recipient where there is only one: more would tell each who else got it.
fn single(transaction: &Transaction) -> Option<&Mailbox> {
    match transaction.recipients.as_slice() {
        [one] => match &one.forward_path {
            ForwardPath::Mailbox(mailbox) => Some(mailbox),
            ForwardPath::Postmaster => None,
        },
        _ => None,
    }
}

/// RFC 5322 §3.3, in UTC.
fn date(micros: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn dates_are_those_of_mail() {
        assert_eq!(super::date(1_700_000_000_000_000), "Tue, 14 Nov 2023 22:13:20 +0000");
    }

    #[test]
    fn one_recipient_is_named_and_several_are_not() {
        let mut peer = Peer::with_recipient();
        assert!(
            peer.data("Subject: x\r\n\r\nhello\r\n")
                .starts_with("250 2.0.0 6f1c.1 accepted")
        );
        let fields = peer.fields(0);
        assert!(
            fields.starts_with("Received: from client.example ([192.0.2.7])\r\n"),
            "{fields}"
        );
        assert!(
            fields.contains("with ESMTP id 6f1c.1") && fields.contains("for <user@example.com>"),
            "{fields}"
        );
        peer.say("MAIL FROM:<>");
        peer.say("RCPT TO:<user@example.com>");
        peer.say("RCPT TO:<other@example.com>");
        peer.data("x\r\n");
        assert!(!peer.fields(1).contains("for <"));
    }
}
