//! What handlers found, as a record in JSON tells it, beside what a chain's file could not make them find.

use super::verdicts::{Judge, link, reject};
use super::*;
use crate::chain::error::HandlerError;
use crate::chain::opinion::Evidence;
use crate::chain::{Mode, OnError};
use crate::session::At;

/// The findings on record of a RCPT that this policy judged before anybody else.
fn findings(mode: Mode, on_error: OnError, judge: Judge) -> String {
    let log = "RCPT: [{handler: recipient}, {handler: transaction_log, with: {log_path: /l, format: jsonl}}]";
    let (mut chain, faults) = build(log, &[]);
    assert_eq!(faults, []);
    let policy = crate::chain::Link {
        on_error,
        ..link("policy", mode, judge)
    };
    super::verdicts::prepend(&mut chain, "RCPT", policy);
    let mut peer = Peer::on(chain, |_| {}).hello();
    peer.say("MAIL FROM:<a@client.example>");
    peer.say("RCPT TO:<user@example.com>");
    let (_, text) = peer.records();
    let reply = text.lines().find(|line| line.contains(r#""event":"reply""#));
    let reply = reply.unwrap_or_else(|| panic!("no reply in {text}"));
    let (_, findings) = reply.split_once(r#""findings":"#).expect("findings");
    findings.to_owned()
}

#[test]
fn a_finding_is_recorded_with_its_weight_and_its_evidence() {
    let judge: Judge = |_| {
        let mut outcome = reject(At::Rcpt).evidence("LISTED", "127.0.0.2 \"x\"", 2.5);
        outcome.evidence.push(Evidence {
            symbol: "UNREACHABLE",
            value: "timeout".into(),
            score: f64::NAN,
            error: true,
        });
        Ok(outcome)
    };
    let evidence = r#""evidence":[{"symbol":"LISTED","value":"127.0.0.2 \"x\"","score":2.5,"error":false},{"symbol":"UNREACHABLE","value":"timeout","score":0,"error":true}]}"#;
    for (mode, enforced) in [(Mode::Enforce, true), (Mode::Observe, false)] {
        let found = findings(mode, OnError::Defer, judge);
        let expected = format!(
            r#"[{{"by":"policy","verdict":"reject","at":"rcpt","enforced":{enforced},"failed":false,{evidence},{{"by":"recipient","#
        );
        assert!(found.starts_with(&expected), "{expected}\n{found}");
    }
}

#[test]
fn when_a_finding_bites_is_recorded() {
    let judges: [(&str, Judge); 6] = [
        ("now", |_| Ok(reject(At::Now))),
        ("mail", |_| Ok(reject(At::Mail))),
        ("rcpt", |_| Ok(reject(At::Rcpt))),
        ("data", |_| Ok(reject(At::Data))),
        ("end_of_data", |_| Ok(reject(At::EndOfData))),
        ("never", |_| Ok(reject(At::Never))),
    ];
    for (name, judge) in judges {
        let found = findings(Mode::Observe, OnError::Defer, judge);
        let expected = format!(r#"[{{"by":"policy","verdict":"reject","at":"{name}","#);
        assert!(found.starts_with(&expected), "{expected}\n{found}");
    }
}

#[test]
fn a_failure_is_recorded_as_one_whatever_it_means() {
    for (on_error, verdict) in [
        (OnError::Defer, "defer"),
        (OnError::Reject, "reject"),
        (OnError::Pass, "none"),
    ] {
        let fails: Judge = |_| Err(HandlerError::Failed("broken".into()));
        let found = findings(Mode::Enforce, on_error, fails);
        let begin = format!(r#"[{{"by":"policy","verdict":"{verdict}","#);
        let end = r#","enforced":true,"failed":true,"evidence":["#;
        let (of_policy, others) = found.split_once(r#"{"by":"recipient","#).unwrap_or((&found, ""));
        assert!(of_policy.starts_with(&begin) && of_policy.contains(end), "{found}");
        assert!(!others.contains(r#""failed":true"#), "{found}");
    }
}
