//! Chain files: entries with settings of their own, order, what is refused, what is printed.

use super::verdicts::{link, prepend, reject};
use super::*;
use crate::chain::error::HandlerError;
use crate::chain::opinion::Outcome;
use crate::chain::{Evaluate, Mode, OnError};
use crate::session::{At, Verdict};

fn faults(text: &str) -> Vec<String> {
    build(text, &[]).1.iter().map(ToString::to_string).collect()
}

#[test]
fn a_chain_is_explained_in_the_order_of_a_session() {
    let text = "__CLOSE__: []\nXYZ:\n  - handler: noop\nETRN:\n  - handler: noop\nQUIT:\n  - handler: quit\n";
    let explained = build(text, &[]).0.explain();
    let verbs: Vec<&str> = explained
        .lines()
        .skip(1)
        .filter(|line| !line.starts_with(' '))
        .collect();
    let expected = "__OPEN__,HELO,EHLO,STARTTLS,MAIL,RCPT,DATA (and BDAT),__DATA__,RSET,NOOP,HELP,VRFY,XYZ,ETRN,QUIT,__DEFAULT__,__CLOSE__";
    assert_eq!(verbs.join(","), expected, "{explained}");
}

#[test]
fn one_handler_stands_twice_with_different_settings() {
    let twice = "__OPEN__:\n  - {handler: greeting, with: {message: one}}\n  - {handler: greeting, id: second, with: {message: \
                 two}}\n";
    assert_eq!(Peer::chained(twice).opened(), "220 one\r\n", "the first of equals");
    let last = Peer::chained(&format!("_chain: {{combine: last}}\n{twice}"));
    assert_eq!(last.opened(), "220 two\r\n");
    let off = twice.replace(
        "handler: greeting, with: {message: one}",
        "handler: greeting, mode: off",
    );
    assert_eq!(Peer::chained(&off).opened(), "220 two\r\n");
    let chain = build(twice, &[]).0.explain();
    assert!(
        chain.contains("  1. greeting: ") && chain.contains("  2. second (greeting): "),
        "{chain}"
    );
}

#[test]
fn with_goes_over_the_file_key_by_key() {
    let files = [("hello", "message: from the file\nadvertise_pipelining_extension: no\n")];
    let (chain, faults) = build(
        "HELO:\n  - handler: hello\nEHLO:\n  - {handler: hello, with: {message: Hi}}\n",
        &files,
    );
    assert_eq!(faults, []);
    let mut peer = Peer::on(chain, |_| {});
    assert_eq!(peer.say("HELO x.example"), "250 from the file\r\n");
    let reply = peer.say("EHLO x.example");
    assert!(
        reply.starts_with("250-Hi\r\n") && !reply.contains("PIPELINING"),
        "{reply}"
    );
}

#[test]
fn faults_of_settings_name_file_line_and_column() {
    let files = [("hello", "advertise_pipelining_extension: often\nmesage: x\n")];
    let text = "__OPEN__:\n  - handler: greeting\n    with:\n      message: [1]\n__DATA__:\n  - {handler: delivery, with: {a: b}}\n";
    let (_, faults) = build(text, &files);
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    for expected in [
        "hello.yaml:1:33: advertise_pipelining_extension: expected yes or no, found \"often\"",
        "hello.yaml:2:1: mesage: expected message, advertise_pipelining_extension or look_up, found an unknown key",
        "chain.yaml:4:16: __OPEN__[0].with.message: expected a line of text, found a list",
        "chain.yaml:6:31: __DATA__[0].with: expected nothing, because delivery takes no settings here, found a mapping",
    ] {
        assert!(faults.iter().any(|fault| fault == expected), "{expected}\n{faults:#?}");
    }
}

#[test]
fn handlers_in_wrong_places_are_faults() {
    for (text, expected) in [
        (
            "__DATA__:\n  - handler: delivery\n  - {handler: delivery, id: again}\n",
            "chain.yaml:3:5: __DATA__[1]: expected one handler that takes the message, found again besides delivery",
        ),
        (
            "__DATA__:\n  - {handler: delivery, mode: off}\n",
            "chain.yaml:1:1: __DATA__: expected a handler in __DATA__ that takes the message, as DATA is answered, found none",
        ),
        (
            "__DATA__:\n  - {handler: delivery, mode: observe}\n",
            "chain.yaml:2:5: __DATA__[0]: expected mode enforce or off, as delivery takes messages, found observe",
        ),
        (
            "__DATA__:\n  - {handler: delivery, timeout: 5s}\n",
            "chain.yaml:2:34: __DATA__[0].timeout: expected no timeout, as delivery waits for as long as delivery.yaml says, \
             found one",
        ),
        (
            "__DATA__:\n  - {handler: delivery, on_error: pass}\n",
            "chain.yaml:2:5: __DATA__[0]: expected on_error: defer, as delivery takes messages, found another",
        ),
        (
            "MAIL:\n  - handler: quit\n",
            "chain.yaml:2:5: MAIL[0]: expected quit only in QUIT, found it in MAIL",
        ),
        (
            "__CLOSE__:\n  - handler: unknown_command\n",
            "chain.yaml:2:5: __CLOSE__[0]: expected unknown_command only in commands and __DEFAULT__, found it in __CLOSE__",
        ),
    ] {
        assert_eq!(faults(text), [expected]);
    }
    let behind = faults("__DATA__:\n  - handler: delivery\n  - handler: unknown_command\n");
    let expected = "chain.yaml:3:5: __DATA__[1]: expected delivery, which takes the message, as the last one, found unknown_command \
                    behind it";
    assert!(behind.iter().any(|fault| fault == expected), "{behind:#?}");
    let off = "__DATA__:\n  - handler: delivery\n  - {handler: delivery, id: spare, mode: off}\n";
    assert_eq!(faults(off), [""; 0], "what is off is in nobody's way");
}

#[test]
fn entries_that_can_never_run_are_named() {
    let text = "_chain: {evaluate: until_decided}\nNOOP:\n  - {handler: noop, mode: off}\n  - handler: unknown_command\n  - \
                {handler: noop, id: late}\n  - {handler: noop, id: watching, mode: observe, on_error: pass}\n";
    let chain = build(text, &[]).0.explain();
    for expected in [
        "evaluate: until_decided, combine: severity\n",
        "DATA (and BDAT)\n",
        "  1. noop: 250 and nothing else; may decide: accept; never runs: mode is off\n",
        "  2. unknown_command: 500 for unknown commands, 502 for known ones that are not served; may decide: reject\n",
        "  3. late (noop): 250 and nothing else; may decide: accept; never runs: it stands behind unknown_command, which always \
         refuses\n",
        "  4. watching (noop): 250 and nothing else; may decide: accept; no opinion if it fails; only observed\n",
    ] {
        assert!(chain.contains(expected), "{expected}\n{chain}");
    }
    assert!(
        !build(&text.replace("until_decided", "all"), &[])
            .0
            .explain()
            .contains("stands behind")
    );
    let behind = build(
        "__DATA__:\n  - handler: delivery\n  - {handler: delivery, id: again}\n",
        &[],
    );
    assert!(
        behind
            .0
            .explain()
            .contains("never runs: it stands behind delivery, which takes the message")
    );
}

#[test]
fn verbs_keep_the_order_of_the_file() {
    let chain = configured::shipped(&directory());
    let verbs: Vec<&str> = chain.verbs().iter().map(String::as_str).collect();
    let expected = [
        "HELO", "EHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "HELP", "VRFY", "QUIT", "STARTTLS",
    ];
    assert_eq!(verbs, expected);
}

#[test]
fn until_decided_spares_all_but_those_that_observe() {
    for (evaluate, runs) in [(Evaluate::All, "abc"), (Evaluate::UntilDecided, "ac")] {
        let mut chain = configured::shipped(&directory());
        chain.evaluate = evaluate;
        prepend(
            &mut chain,
            "NOOP",
            link("c", Mode::Observe, |_| Ok(reject(At::Now).evidence("RAN", "c", 0.0))),
        );
        prepend(
            &mut chain,
            "NOOP",
            link("b", Mode::Enforce, |_| Ok(Outcome::none().evidence("RAN", "b", 0.0))),
        );
        prepend(
            &mut chain,
            "NOOP",
            link("a", Mode::Enforce, |_| Ok(reject(At::Now).evidence("RAN", "a", 0.0))),
        );
        let mut peer = Peer::on(chain, |_| {});
        assert_eq!(peer.say("NOOP"), "550 5.7.1 policy\r\n");
        let ran: String = peer
            .log
            .iter()
            .filter_map(|line| line.split_once("by=")?.1.chars().next())
            .collect();
        assert!(ran.starts_with(runs), "{evaluate:?} {ran}");
        assert_eq!(ran.contains('b'), evaluate == Evaluate::All);
    }
}

#[test]
fn until_decided_leaves_postmaster_alone() {
    let mut chain = configured::shipped(&directory());
    chain.evaluate = Evaluate::UntilDecided;
    prepend(
        &mut chain,
        "RCPT",
        link("policy", Mode::Enforce, |_| Ok(reject(At::Now))),
    );
    let mut peer = Peer::on(chain, |_| {}).hello();
    peer.say("MAIL FROM:<>");
    assert!(peer.say("RCPT TO:<user@example.com>").starts_with("550 5.7.1 policy"));
    assert!(peer.say("RCPT TO:<postmaster@example.com>").starts_with("250 "));
    assert!(peer.say("RCPT TO:<Postmaster>").starts_with("250 "));
}

#[test]
fn the_last_reply_wins_where_it_is_asked_for() {
    let verdicts = |combine| {
        let mut chain = build(&format!("_chain: {{combine: {combine}}}\n"), &[]).0;
        prepend(
            &mut chain,
            "MAIL",
            link("policy", Mode::Enforce, |_| Ok(reject(At::Now))),
        );
        Peer::on(chain, |_| {}).hello().say("MAIL FROM:<>")
    };
    assert_eq!(verdicts("severity"), "550 5.7.1 policy\r\n");
    assert_eq!(verdicts("last"), "250 2.1.0 sender OK\r\n");
}

#[test]
fn a_failure_counts_as_configured_and_is_logged_by_name() {
    for (on_error, reply) in [
        (OnError::Defer, "451 4.3.0 local error, try again later\r\n"),
        (OnError::Pass, "250 2.1.0 sender OK\r\n"),
        (OnError::Reject, "554 5.3.0 local error\r\n"),
    ] {
        let mut failing = link("lists", Mode::Enforce, |context| {
            assert_eq!(context.timeout(), std::time::Duration::from_secs(1));
            Err(HandlerError::TimedOut("a list".into()))
        });
        failing.on_error = on_error;
        let mut chain = configured::shipped(&directory());
        prepend(&mut chain, "MAIL", failing);
        let mut peer = Peer::on(chain, |_| {}).hello();
        assert_eq!(peer.say("MAIL FROM:<>"), reply);
        let failed = peer.log.iter().find(|line| line.contains("event=handler-failed"));
        let line = failed.expect("logged");
        assert!(
            line.starts_with("Error ") && line.contains("handler=policy by=lists"),
            "{line}"
        );
        assert!(
            peer.log
                .iter()
                .any(|line| line.contains("symbol=HANDLER_FAILED") && line.contains("error=true"))
        );
    }
}

#[test]
fn delivery_that_fails_is_logged_and_keeps_nothing() {
    let mut peer = Peer::with_recipient();
    peer.delivery.down = true;
    assert!(peer.data("x\r\n").starts_with("451 4.3.0"));
    let failed = peer.log.iter().find(|line| line.contains("event=handler-failed"));
    let line = failed.expect("logged");
    assert!(
        line.starts_with("Error ") && line.contains("handler=delivery") && line.contains("down"),
        "{line}"
    );
}

#[test]
fn nobody_s_answer_is_451() {
    let mut peer = Peer::chained("NOOP: []\nMAIL: []\n").hello();
    assert!(peer.say("NOOP").starts_with("451 4.3.0"));
    assert!(peer.say("MAIL FROM:<>").starts_with("451 4.3.0"));
    let mut peer = Peer::chained("RCPT: []\n").hello();
    peer.say("MAIL FROM:<>");
    assert!(peer.say("RCPT TO:<user@example.com>").starts_with("550 5.1.1"));
    assert!(peer.say("RCPT TO:<user@elsewhere.example>").starts_with("550 5.7.1"));
}

#[test]
fn no_reply_names_a_handler() {
    let mut chain = configured::shipped(&directory());
    let none = |_: &crate::chain::Context<'_>| {
        Ok(Outcome {
            verdict: Verdict::Reject,
            ..Outcome::none()
        })
    };
    prepend(&mut chain, "MAIL", link("secret_list", Mode::Enforce, none));
    let mut peer = Peer::on(chain, |_| {}).hello();
    assert_eq!(peer.say("MAIL FROM:<>"), "550 5.7.1 refused by policy\r\n");
}

#[test]
fn what_a_client_repeats_does_not_grow_the_session() {
    let mut chain = configured::shipped(&directory());
    prepend(
        &mut chain,
        "NOOP",
        link("a", Mode::Enforce, |_| Ok(reject(At::EndOfData))),
    );
    prepend(
        &mut chain,
        "DATA",
        link("b", Mode::Enforce, |_| Ok(reject(At::EndOfData))),
    );
    let mut peer = Peer::on(chain, |_| {}).hello();
    peer.begin(&["user"]);
    for _ in 0..50 {
        peer.say("NOOP");
        assert!(peer.say("BDAT 0").starts_with("250 "));
    }
    let session = peer.conversation.session();
    assert_eq!(session.kept.len(), 1);
    assert_eq!(
        session.transaction.as_ref().map(|transaction| transaction.kept.len()),
        Some(1)
    );
    assert!(peer.say("BDAT 0 LAST").starts_with("550 "));
}

#[test]
fn what_was_found_at_ehlo_ends_with_the_next_one() {
    let mut chain = configured::shipped(&directory());
    prepend(
        &mut chain,
        "EHLO",
        link("names", Mode::Enforce, |context| {
            let bad = context
                .exchange()
                .is_some_and(|exchange| exchange.command.argument.starts_with(b"bad"));
            Ok(if bad { reject(At::Mail) } else { Outcome::none() })
        }),
    );
    let mut peer = Peer::on(chain, |_| {});
    assert!(peer.say("EHLO bad.example").starts_with("250"));
    for _ in 0..2 {
        assert!(peer.say("MAIL FROM:<>").starts_with("550 5.7.1"));
    }
    assert!(peer.say("EHLO good.example").starts_with("250"));
    assert!(peer.say("MAIL FROM:<>").starts_with("250 "));
}
