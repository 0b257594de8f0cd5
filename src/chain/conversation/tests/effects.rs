//! Every effect, from the handler to what becomes of it.

use std::time::Duration;

use super::verdicts::{link, peer, prepend, reject};
use super::*;
use crate::chain::opinion::Outcome;
use crate::chain::{Effect, FieldName, HeaderField, Mode};
use crate::session::At;

fn with_fields() -> Result<Outcome, crate::chain::HandlerError> {
    Ok(Outcome::none()
        .with(Effect::AddField(HeaderField::new(
            "X-Found",
            "something\r\nX-Not: else",
        )?))
        .with(Effect::RemoveField(FieldName::new("X-Spam")?))
        .with(Effect::Label("odd".into())))
}

#[test]
fn fields_and_labels_of_each_stage_reach_delivery_and_the_log() {
    for verb in ["MAIL", "RCPT", "DATA", "__DATA__"] {
        let mut peer = peer(verb, Mode::Enforce, |_| with_fields()).hello();
        peer.begin(&["user"]);
        assert!(peer.data("x\r\n").starts_with("250 "));
        let fields = peer.fields(0);
        assert!(
            fields.starts_with("X-Found: something X-Not: else\r\nReceived: "),
            "{verb}: {fields}"
        );
        assert_eq!(peer.delivery.commits[0].removed, ["X-Spam"], "{verb}");
        let labelled = |line: &String| line.contains("event=message") && line.contains("labels=odd");
        assert!(
            peer.log.iter().any(|line| labelled(&line.replace('"', ""))),
            "{verb}: {:#?}",
            peer.log
        );
        peer.say("MAIL FROM:<>");
        let transaction = peer.conversation.session().transaction.as_ref();
        assert!(
            transaction.is_none_or(|transaction| transaction.labels.len() < 2),
            "{verb}: of this message alone"
        );
    }
}

#[test]
fn effects_of_observed_entries_do_not_happen() {
    let mut peer = peer("MAIL", Mode::Observe, |_| {
        Ok(with_fields()?
            .with(Effect::Delay(Duration::from_secs(9)))
            .with(Effect::Skip("mail".into())))
    })
    .hello();
    peer.begin(&["user"]);
    peer.data("x\r\n");
    assert!(peer.fields(0).starts_with("Received: ") && peer.delivery.commits[0].removed.is_empty());
    assert!(peer.held.iter().all(|hold| *hold == Hold::default()));
}

#[test]
fn effects_of_chunks_happen_once() {
    let mut peer = peer("DATA", Mode::Enforce, |_| with_fields()).hello();
    peer.begin(&["user"]);
    peer.send(b"BDAT 2\r\nx\nBDAT 0\r\nBDAT 0 LAST\r\n");
    assert_eq!(peer.fields(0).matches("X-Found").count(), 1);
}

#[test]
fn too_many_fields_are_left_out_and_the_message_is_delivered() {
    let mut peer = peer("MAIL", Mode::Enforce, |_| {
        let mut outcome = Outcome::none();
        for _ in 0..100 {
            outcome = outcome.with(Effect::AddField(HeaderField::new("X-Long", &"x".repeat(900))?));
        }
        Ok(outcome)
    })
    .hello();
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("250 "));
    assert!(peer.fields(0).len() <= 48 * 1024);
    assert!(
        peer.log
            .iter()
            .any(|line| line.starts_with("Error ") && line.contains("event=fields-dropped"))
    );
}

#[test]
fn replies_are_held_back_at_every_step() {
    let held = |verb, wire: &[&str]| {
        let mut peer = peer(verb, Mode::Enforce, |_| {
            let delay = Effect::Delay(Duration::from_secs(3));
            Ok(Outcome::none()
                .with(delay)
                .with(Effect::Stutter(Duration::from_secs(999))))
        })
        .hello();
        let before = peer.held.len();
        for line in wire {
            peer.say(line);
        }
        (peer.held[0], peer.held[before..].to_vec())
    };
    let slow = Hold {
        delay: Duration::from_secs(3),
        stutter: Duration::from_secs(240),
    };
    assert_eq!(held("__OPEN__", &[]).0, slow);
    assert_eq!(held("NOOP", &["NOOP", "RSET"]).1, [slow, Hold::default()]);
    let envelope = ["MAIL FROM:<>", "RCPT TO:<user@example.com>"];
    let chunk = [&envelope[..], &["BDAT 3\r\nabc"]].concat();
    assert_eq!(held("DATA", &chunk).1[2], slow, "with the reply behind the chunk");
}

#[test]
fn what_was_taken_is_acknowledged_at_once() {
    let judge: super::verdicts::Judge = |context| {
        let delay = Effect::Delay(Duration::from_secs(3));
        let first = context.transaction().is_some_and(|transaction| transaction.number == 1);
        Ok(if first { Outcome::none() } else { reject(At::Now) }.with(delay))
    };
    let mut peer = peer("__DATA__", Mode::Enforce, judge).hello();
    for (reply, hold) in [("250 ", 0), ("550 ", 3)] {
        peer.begin(&["user"]);
        assert!(peer.data("x\r\n").starts_with(reply));
        assert_eq!(peer.held.last().map(|hold| hold.delay.as_secs()), Some(hold));
    }
}

#[test]
fn a_skipped_entry_does_not_run_in_this_exchange() {
    let mut chain = configured::shipped(&directory());
    prepend(
        &mut chain,
        "NOOP",
        link("strict", Mode::Enforce, |_| Ok(reject(At::Now))),
    );
    prepend(
        &mut chain,
        "NOOP",
        link("friends", Mode::Enforce, |context| {
            let friend = context
                .exchange()
                .is_some_and(|exchange| exchange.command.argument == b"friend");
            let outcome = Outcome::none();
            Ok(if friend {
                outcome.with(Effect::Skip("strict".into()))
            } else {
                outcome
            })
        }),
    );
    let mut peer = Peer::on(chain, |_| {});
    assert!(peer.say("NOOP friend").starts_with("250 "));
    assert!(peer.say("NOOP").starts_with("550 "));
}

#[test]
fn a_taker_cannot_be_skipped() {
    let mut peer = peer("__DATA__", Mode::Enforce, |_| {
        Ok(Outcome::none().with(Effect::Skip("delivery".into())))
    })
    .hello();
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("250 "));
    assert_eq!(peer.delivery.commits.len(), 1);
}

#[test]
fn the_last_route_counts() {
    let mut chain = configured::shipped(&directory());
    if let Some((_, links)) = chain.verbs.iter_mut().find(|(verb, _)| verb == "RCPT") {
        links.push(link("router", Mode::Enforce, |_| {
            Ok(Outcome::none().with(Effect::Route(vec![place("other")])))
        }));
    }
    let mut peer = Peer::on(chain, |_| {}).hello();
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("250 "));
    assert_eq!(peer.copies(0), [("other".to_owned(), Disposition::Deliver)]);
}
