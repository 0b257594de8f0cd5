//! Verdicts of policies beside the protocol's own handlers.

use super::*;
use crate::chain::error::HandlerError;
use crate::chain::handler::{Facts, Handler};
use crate::chain::opinion::Outcome;
use crate::chain::{Context, Effect, Link, Mode, OnError};
use crate::session::{At, Verdict};

pub(super) type Judge = fn(&Context<'_>) -> Result<Outcome, HandlerError>;

struct Policy(Judge);

static FACTS: Facts = Facts {
    id: "policy",
    module: "policy",
    class: "Policy",
    verbs: &[],
    decides: &[Verdict::Reject],
    always_refuses: false,
    taker: false,
    about: "a test",
};

impl Handler for Policy {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        (self.0)(context)
    }
}

pub(super) fn link(id: &str, mode: Mode, judge: Judge) -> Link {
    Link {
        id: id.into(),
        facts: &FACTS,
        handler: Box::new(Policy(judge)),
        mode,
        timeout: std::time::Duration::from_secs(1),
        on_error: OnError::Defer,
    }
}

/// A chain with an entry in front of those of a verb.
pub(super) fn prepend(chain: &mut Chain, verb: &str, link: Link) {
    match chain.verbs.iter_mut().find(|(name, _)| name == verb) {
        Some((_, links)) => links.insert(0, link),
        None => chain.verbs.push((verb.to_owned(), vec![link])),
    }
}

/// The standard chain with a policy in front of the entries of a verb.
pub(super) fn peer(verb: &str, mode: Mode, judge: Judge) -> Peer {
    let mut chain = configured::shipped(&directory());
    prepend(&mut chain, verb, link("policy", mode, judge));
    Peer::on(chain, |limits| {
        limits.maximum_errors = 50;
        limits.maximum_messages = 50;
    })
}

pub(super) fn reject(at: At) -> Outcome {
    Outcome {
        at,
        ..Outcome::reject(Reply::new(550, Some(Status(5, 7, 1)), "policy"))
    }
}

#[test]
fn a_verdict_at_open_bites_at_every_rcpt() {
    let mut peer = peer("__OPEN__", Mode::Enforce, |_| Ok(reject(At::Rcpt))).hello();
    for _ in 0..2 {
        assert!(peer.say("MAIL FROM:<>").starts_with("250 "));
        assert_eq!(peer.say("RCPT TO:<user@example.com>"), "550 5.7.1 policy\r\n");
        assert!(peer.say("RCPT TO:<postmaster@example.com>").starts_with("250 "));
        assert!(peer.say("RSET").starts_with("250 "));
    }
}

#[test]
fn a_verdict_of_one_transaction_ends_with_it() {
    let mut peer = peer("MAIL", Mode::Enforce, |context| {
        let first = context.transaction().is_some_and(|transaction| transaction.number == 1);
        Ok(if first { reject(At::EndOfData) } else { Outcome::none() })
    })
    .hello();
    peer.begin(&["user", "soft"]);
    assert_eq!(peer.data("x\r\n"), "550 5.7.1 policy\r\n");
    assert_eq!(
        peer.copies(0),
        [("soft".to_owned(), Disposition::Quarantine)],
        "the soft copy is kept all the same"
    );
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("250 "));
}

#[test]
fn only_soft_recipients_hear_no_policy() {
    let mut peer = peer("__DATA__", Mode::Enforce, |_| Ok(reject(At::Now))).hello();
    peer.begin(&["soft"]);
    assert!(peer.data("x\r\n").starts_with("250 "));
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("550 "));
    assert_eq!(peer.delivery.commits.len(), 1);
}

/// A verdict and nothing else.
fn verdict(verdict: Verdict) -> Outcome {
    Outcome {
        verdict,
        ..Outcome::default()
    }
}

#[test]
fn reject_and_keep_a_copy() {
    let mut peer = peer(
        "__DATA__",
        Mode::Enforce,
        |_| Ok(reject(At::Now).with(Effect::KeepCopy)),
    )
    .hello();
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("550 "));
    assert_eq!(peer.copies(0), [("user".to_owned(), Disposition::Quarantine)]);
}

#[test]
fn quarantine_is_answered_with_250() {
    for verb in ["__OPEN__", "EHLO", "MAIL", "RCPT", "DATA", "__DATA__"] {
        let mut peer = peer(verb, Mode::Enforce, |_| Ok(verdict(Verdict::Quarantine))).hello();
        peer.begin(&["user"]);
        assert!(peer.data("x\r\n").starts_with("250 "), "{verb}");
        assert_eq!(peer.copies(0), [("user".to_owned(), Disposition::Quarantine)], "{verb}");
    }
}

#[test]
fn a_refusal_of_one_recipient_is_its_own() {
    let mut peer = peer("RCPT", Mode::Enforce, |context| {
        let other = context
            .recipient()
            .is_some_and(|recipient| recipient.address().starts_with("other"));
        Ok(if other { reject(At::EndOfData) } else { Outcome::none() })
    })
    .hello();
    peer.begin(&["other", "user"]);
    assert!(peer.data("x\r\n").starts_with("250 "));
    assert_eq!(peer.copies(0), [("user".to_owned(), Disposition::Deliver)]);
    peer.begin(&["other"]);
    assert!(peer.data("x\r\n").starts_with("550 "));
    assert_eq!(peer.delivery.commits.len(), 1);
}

#[test]
fn observed_verdicts_change_nothing() {
    let mut peer = peer("RCPT", Mode::Observe, |_| Ok(reject(At::Now))).hello();
    peer.begin(&["user"]);
    assert!(
        peer.log
            .iter()
            .any(|line| line.contains("event=observed") && line.contains("verdict=reject"))
    );
}

#[test]
fn a_failed_handler_defers() {
    let mut peer = peer("MAIL", Mode::Enforce, |_| Err(HandlerError::Failed("broken".into()))).hello();
    assert!(peer.say("MAIL FROM:<>").starts_with("451 4.3.0"));
    assert!(
        peer.say("RCPT TO:<user@example.com>").starts_with("503 "),
        "no transaction was opened"
    );
}

#[test]
fn an_acceptance_opens_no_relay_and_cures_no_fault() {
    let accept: Judge = |_| Ok(Outcome::accept(Reply::new(250, Some(Status(2, 0, 0)), "fine")));
    let mut peer = peer("RCPT", Mode::Enforce, accept).hello();
    assert!(peer.say("RCPT TO:<user@example.com>").starts_with("503 "));
    assert!(peer.say("MAIL FROM:<>").starts_with("250 "));
    assert!(peer.say("RCPT TO:<a@elsewhere.example>").starts_with("550 5.7.1"));
}

#[test]
fn drop_closes_without_a_word() {
    let mut peer = peer("MAIL", Mode::Enforce, |_| Ok(verdict(Verdict::Drop))).hello();
    assert_eq!(peer.say("MAIL FROM:<>"), "");
    assert!(peer.is_closed());
}

#[test]
fn a_refusal_at_data_waits_for_a_soft_copy() {
    let mut peer = peer("DATA", Mode::Enforce, |_| Ok(reject(At::Now))).hello();
    peer.begin(&["user"]);
    assert!(peer.say("DATA").starts_with("550 5.7.1"));
    assert!(peer.say("RSET").starts_with("250 "));
    peer.begin(&["user", "soft", "postmaster"]);
    assert!(peer.data("x\r\n").starts_with("550 5.7.1"));
    let kept = [
        ("soft".to_owned(), Disposition::Quarantine),
        ("postmaster".to_owned(), Disposition::Deliver),
    ];
    assert_eq!(peer.copies(0), kept);
    assert!(
        peer.log
            .iter()
            .any(|line| line.contains("event=reject") && line.contains("by=policy"))
    );
}

#[test]
fn postmaster_is_not_quarantined_at_any_step() {
    for verb in ["__OPEN__", "EHLO", "MAIL", "RCPT", "DATA", "__DATA__"] {
        let mut peer = peer(verb, Mode::Enforce, |_| Ok(verdict(Verdict::Quarantine))).hello();
        peer.begin(&["postmaster", "user"]);
        assert!(peer.data("x\r\n").starts_with("250 "), "{verb}");
        let copies = [
            ("postmaster".to_owned(), Disposition::Deliver),
            ("user".to_owned(), Disposition::Quarantine),
        ];
        assert_eq!(peer.copies(0), copies, "{verb}");
    }
}

#[test]
fn a_verdict_bites_at_the_step_it_names_and_in_every_transaction() {
    for (at, refused) in [
        (At::Mail, "MAIL"),
        (At::Rcpt, "RCPT"),
        (At::Data, "DATA"),
        (At::EndOfData, "x"),
    ] {
        let mut chain = configured::shipped(&directory());
        let judge: Judge = match at {
            At::Mail => |_| Ok(reject(At::Mail)),
            At::Rcpt => |_| Ok(reject(At::Rcpt)),
            At::Data => |_| Ok(reject(At::Data)),
            _ => |_| Ok(reject(At::EndOfData)),
        };
        prepend(&mut chain, "__OPEN__", link("policy", Mode::Enforce, judge));
        let mut peer = Peer::on(chain, |limits| limits.maximum_errors = 50).hello();
        for _ in 0..2 {
            for line in ["MAIL FROM:<>", "RCPT TO:<user@example.com>", "DATA", "x\r\n."] {
                let reply = peer.say(line);
                let bites = line.starts_with(refused);
                assert_eq!(reply.starts_with("550 5.7.1 policy"), bites, "{at:?} {line}: {reply}");
                if bites {
                    break;
                }
            }
            peer.say("RSET");
        }
        assert!(peer.delivery.commits.is_empty());
    }
}

#[test]
fn recipients_refused_one_by_one_refuse_the_data() {
    let judge: Judge = |context| {
        let other = context
            .recipient()
            .is_some_and(|one| one.address().starts_with("other"));
        Ok(if other { reject(At::Data) } else { Outcome::none() })
    };
    for chunked in [false, true] {
        let mut peer = peer("RCPT", Mode::Enforce, judge).hello();
        peer.begin(&["other"]);
        let reply = if chunked {
            peer.send(b"BDAT 3 LAST\r\nx\r\n")
        } else {
            peer.say("DATA")
        };
        assert_eq!(reply, "550 5.7.1 policy\r\n");
        peer.say("RSET");
        for beside in ["user", "soft", "postmaster"] {
            peer.begin(&["other", beside]);
            assert!(peer.say("DATA").starts_with("354 "), "{beside}");
            peer.say("x\r\n.");
            peer.say("RSET");
        }
        assert_eq!(peer.delivery.commits.len(), 3);
    }
}
