//! The taker of `__DATA__`: hands the message to the delivery process and turns what became of it into the answer.
//!
//! In front of the body go the fields that effects added, then our one `Received` (RFC 5321 §4.4), whose `for` names the
//! recipient only where there is a single one. Times are local, with their offset. Notes: reads [`ClientName`], writes none.

use std::sync::{Arc, OnceLock};

use crate::chain::outcome::{Message, Refusal, Taken, fold};
use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome};
use crate::handlers::hello::ClientName;
use crate::ipc::delivery::Commit;
use crate::session::{Session, Transaction, Verdict};
use crate::smtp::address::{ForwardPath, Mailbox};
use crate::smtp::trace::{Tls, Trace, With, received};
use jiff::tz::TimeZone;

/// The local time zone. The master's first chain finds it; workers inherit it, they could read no file of it.
static ZONE: OnceLock<TimeZone> = OnceLock::new();

/// The handler.
pub struct Delivery {
    zone: &'static TimeZone,
}

impl Kind for Delivery {
    type Settings = ();
    const FACTS: &'static Facts = &Facts {
        id: "delivery",
        module: "dovecot_delivery",
        class: "DeliveryHandler",
        verbs: &["__DATA__"],
        decides: &[Verdict::Accept, Verdict::Defer, Verdict::Reject],
        always_refuses: false,
        taker: true,
        about: "hands the message over to the delivery process",
    };

    fn new((): (), _: &Arc<dyn Directory>) -> Delivery {
        Delivery {
            zone: ZONE.get_or_init(TimeZone::system),
        }
    }
}

impl Handler for Delivery {
    fn handle(&self, _: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        Ok(Outcome::none())
    }

    fn take(&self, context: &mut Context<'_>, message: Message) -> Result<Taken, Refusal> {
        let now = context.now();
        let session = context.session();
        let Some(transaction) = &session.transaction else {
            return Err(Refusal::failed("no transaction"));
        };
        let copies = message.copies.clone();
        let commit = Commit {
            fields: fields(session, transaction, &date(now, self.zone)),
            removed: transaction.removed.clone(),
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
            Err(error) => Err(Refusal::failed(error.to_string())),
        }
    }
}

fn fields(session: &Session, transaction: &Transaction, date: &str) -> Vec<u8> {
    let mut fields = transaction.fields.concat();
    let name = session.hello.as_ref().map(|hello| hello.name.as_str());
    let looked_up = session.notes.get::<ClientName>().and_then(ClientName::confirmed);
    let trace = Trace {
        helo: name.unwrap_or_default(),
        peer_name: looked_up.or(session.introduced.name()),
        peer: session.peer.ip(),
        by: &session.server_name,
        with: With {
            extended: session.is_esmtp(),
            utf8: transaction.parameters.smtputf8,
            tls: session.tls.is_some(),
            ..With::default()
        },
        tls: session.tls.as_ref().map(|tls| Tls {
            version: tls.version,
            cipher: &tls.cipher,
            group: tls.group,
        }),
        id: &transaction.id,
        recipient: single(transaction),
        date,
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

/// RFC 5322 §3.3: local time and its offset, which has no seconds there.
fn date(micros: i64, zone: &TimeZone) -> String {
    let time = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let offset = zone.to_offset(time).seconds();
    let whole = jiff::tz::Offset::from_seconds(offset - offset % 60).unwrap_or(jiff::tz::Offset::UTC);
    let time = time.to_zoned(TimeZone::fixed(whole));
    time.strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn dates_are_those_of_mail() {
        let date = |seconds: i64, zone: &str| {
            let zone = jiff::tz::TimeZone::posix(zone).unwrap();
            super::date(seconds * 1_000_000, &zone)
        };
        assert_eq!(date(1_700_000_000, "UTC0"), "Tue, 14 Nov 2023 22:13:20 +0000");
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        assert_eq!(date(1_700_000_000, berlin), "Tue, 14 Nov 2023 23:13:20 +0100");
        assert_eq!(date(1_690_000_000, berlin), "Sat, 22 Jul 2023 06:26:40 +0200");
        assert_eq!(date(1_700_000_000, "<-0330>3:30"), "Tue, 14 Nov 2023 18:43:20 -0330");
        assert_eq!(date(1_700_000_000, "LMT-0:53:28"), "Tue, 14 Nov 2023 23:06:20 +0053");
        assert_eq!(date(0, "UTC0"), "Thu, 01 Jan 1970 00:00:00 +0000");
    }

    #[test]
    fn one_recipient_is_named_and_several_are_not() {
        let mut peer = Peer::with_recipient();
        assert!(
            peer.data("Subject: x\r\n\r\nhello\r\n")
                .starts_with("250 2.0.0 6f1c-1 accepted")
        );
        let fields = peer.fields(0);
        assert!(
            fields.starts_with("Received: from client.example ([192.0.2.7])\r\n"),
            "{fields}"
        );
        assert!(
            fields.contains("with ESMTP id 6f1c-1") && fields.contains("for <user@example.com>"),
            "{fields}"
        );
        peer.say("MAIL FROM:<>");
        peer.say("RCPT TO:<user@example.com>");
        peer.say("RCPT TO:<other@example.com>");
        peer.data("x\r\n");
        assert!(!peer.fields(1).contains("for <"));
    }
}
