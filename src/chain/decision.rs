//! From findings to a decision: pure, the same input gives the same decision.
//!
//! Severity is ordered as [`Verdict`] is. Observed findings never influence; enforced ones do when their time has come.

use super::opinion::Outcome;
use crate::config::Combine;
use crate::session::{At, Kept, Verdict};
use crate::smtp::reply::Reply;

/// The step that a decision is for; ordered as in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A command outside of the path of a transaction, and the close.
    Other,
    /// The greeting.
    Open,
    /// HELO, EHLO.
    Hello,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, BDAT.
    Data,
    /// The whole message.
    EndOfData,
}

impl Stage {
    /// Whether a verdict with this `at` bites here. `Now` always does.
    pub fn is_due(self, at: At) -> bool {
        match at {
            At::Now => true,
            At::Mail => self >= Stage::Mail,
            At::Rcpt => self >= Stage::Rcpt,
            At::Data => self >= Stage::Data,
            At::EndOfData => self >= Stage::EndOfData,
            At::Never => false,
        }
    }
}

/// What one entry found in one run.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The entry's id.
    pub by: String,
    /// Whether it counts.
    pub enforced: bool,
    /// Whether the handler failed, and this is what its failure counts as.
    pub failed: bool,
    /// What it returned.
    pub outcome: Outcome,
}

/// The decision for one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// The verdict; `None` when nobody had one.
    pub verdict: Verdict,
    /// Entry whose verdict it is.
    pub by: Option<String>,
    /// The reply that goes with it, where somebody gave one.
    pub reply: Option<Reply>,
    /// Verdicts whose time comes later.
    pub waiting: Vec<Kept>,
    /// What it would be if observed entries counted and everything bit now.
    pub would_be: Verdict,
}

/// Decides. `kept` are the verdicts of the enclosing scopes. They, and what failed handlers count as, are weighed by their
/// severity however the others are combined: no later word of somebody else makes a failure good.
pub fn decide(stage: Stage, combine: Combine, kept: &[Kept], findings: &[Finding]) -> Decision {
    let mut decision = Decision::default();
    let mut first_accept: Option<&Reply> = None;
    for finding in findings {
        let outcome = &finding.outcome;
        decision.would_be = decision.would_be.max(outcome.verdict);
        if !finding.enforced || outcome.verdict == Verdict::None || outcome.at == At::Never {
            continue;
        }
        if !stage.is_due(outcome.at) {
            decision.waiting.push(Kept {
                by: finding.by.clone(),
                verdict: outcome.verdict,
                reply: outcome.reply.clone(),
                at: outcome.at,
                of_hello: stage == Stage::Hello,
            });
            continue;
        }
        if outcome.verdict == Verdict::Accept && first_accept.is_none() {
            first_accept = outcome.reply.as_ref();
        }
        if !(finding.failed && combine == Combine::Last) {
            let reply = outcome.reply.as_ref();
            weigh(&mut decision, combine, &finding.by, outcome.verdict, reply);
        }
    }
    let failed = findings.iter().filter(|finding| {
        let counts = finding.enforced && stage.is_due(finding.outcome.at);
        finding.failed && counts && combine == Combine::Last
    });
    for finding in failed {
        let (verdict, reply) = (finding.outcome.verdict, finding.outcome.reply.as_ref());
        weigh(&mut decision, Combine::Severity, &finding.by, verdict, reply);
    }
    let due = kept.iter().filter(|kept| kept.at != At::Now && stage.is_due(kept.at));
    let mut earlier = Decision::default();
    for one in due {
        let reply = one.reply.as_ref();
        weigh(&mut earlier, Combine::Severity, &one.by, one.verdict, reply);
    }
    // Of equals the earlier one counts.
    if earlier.verdict > Verdict::None && earlier.verdict >= decision.verdict {
        (decision.verdict, decision.by, decision.reply) = (earlier.verdict, earlier.by, earlier.reply);
    }
    decision.would_be = decision.would_be.max(decision.verdict);
    // The client must not be able to tell quarantine from acceptance.
    if decision.verdict == Verdict::Quarantine
        && let Some(accept) = first_accept
    {
        decision.reply = Some(accept.clone());
    }
    decision
}

fn weigh(decision: &mut Decision, combine: Combine, by: &str, verdict: Verdict, reply: Option<&Reply>) {
    let wins = match combine {
        Combine::Severity => verdict > decision.verdict,
        Combine::Last => true,
    };
    if wins {
        decision.verdict = verdict;
        decision.by = Some(by.to_owned());
        decision.reply = reply.cloned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(by: &str, verdict: Verdict, at: At) -> Finding {
        let reply = (verdict > Verdict::Quarantine).then(|| Reply::new(550, None, by));
        let outcome = Outcome {
            verdict,
            at,
            reply,
            ..Outcome::default()
        };
        Finding {
            by: by.into(),
            enforced: true,
            failed: false,
            outcome,
        }
    }

    const ALL: [Verdict; 7] = [
        Verdict::None,
        Verdict::Accept,
        Verdict::Quarantine,
        Verdict::Defer,
        Verdict::Reject,
        Verdict::Disconnect,
        Verdict::Drop,
    ];

    #[test]
    fn the_most_severe_wins_in_either_order() {
        for left in ALL {
            for right in ALL {
                let findings = [finding("a", left, At::Now), finding("b", right, At::Now)];
                let decision = decide(Stage::Rcpt, Combine::Severity, &[], &findings);
                assert_eq!(decision.verdict, left.max(right));
                let by = match left.max(right) {
                    Verdict::None => None,
                    _ if left >= right => Some("a"),
                    _ => Some("b"),
                };
                assert_eq!(decision.by.as_deref(), by, "{left:?} {right:?}");
            }
        }
    }

    #[test]
    fn the_last_wins_when_asked_for() {
        for left in ALL {
            for right in ALL {
                let findings = [finding("a", left, At::Now), finding("b", right, At::Now)];
                let decision = decide(Stage::Rcpt, Combine::Last, &[], &findings);
                assert_eq!(decision.verdict, if right == Verdict::None { left } else { right });
            }
        }
    }

    #[test]
    fn no_later_word_makes_a_failure_or_an_earlier_verdict_good() {
        let mut failed = finding("a", Verdict::Defer, At::Now);
        failed.failed = true;
        let findings = [failed, finding("b", Verdict::Accept, At::Now)];
        let decision = decide(Stage::Mail, Combine::Last, &[], &findings);
        assert_eq!((decision.verdict, decision.by.as_deref()), (Verdict::Defer, Some("a")));
        let open = decide(
            Stage::Open,
            Combine::Last,
            &[],
            &[finding("k", Verdict::Reject, At::Rcpt)],
        );
        let accept = [finding("b", Verdict::Accept, At::Now)];
        let decision = decide(Stage::Rcpt, Combine::Last, &open.waiting, &accept);
        assert_eq!((decision.verdict, decision.by.as_deref()), (Verdict::Reject, Some("k")));
    }

    #[test]
    fn observed_findings_are_only_recorded() {
        let mut observed = finding("a", Verdict::Reject, At::Now);
        observed.enforced = false;
        let decision = decide(
            Stage::Mail,
            Combine::Severity,
            &[],
            &[observed, finding("b", Verdict::Accept, At::Now)],
        );
        assert_eq!(
            (decision.verdict, decision.would_be),
            (Verdict::Accept, Verdict::Reject)
        );
    }

    #[test]
    fn a_verdict_waits_for_its_time_and_never_bites_at_never() {
        let findings = [
            finding("a", Verdict::Reject, At::Rcpt),
            finding("n", Verdict::Drop, At::Never),
        ];
        let open = decide(Stage::Open, Combine::Severity, &[], &findings);
        assert_eq!((open.verdict, open.waiting.len()), (Verdict::None, 1));
        for (stage, verdict) in [
            (Stage::Other, Verdict::None),
            (Stage::Hello, Verdict::None),
            (Stage::Mail, Verdict::None),
            (Stage::Rcpt, Verdict::Reject),
            (Stage::Data, Verdict::Reject),
            (Stage::EndOfData, Verdict::Reject),
        ] {
            assert_eq!(
                decide(stage, Combine::Severity, &open.waiting, &[]).verdict,
                verdict,
                "{stage:?}"
            );
        }
    }

    #[test]
    fn quarantine_is_answered_as_acceptance_is() {
        let mut accept = finding("a", Verdict::Accept, At::Now);
        accept.outcome.reply = Some(Reply::new(250, None, "fine"));
        let mut quarantine = finding("q", Verdict::Quarantine, At::Now);
        quarantine.outcome.reply = Some(Reply::new(250, None, "trap"));
        let decision = decide(Stage::Rcpt, Combine::Severity, &[], &[quarantine, accept]);
        assert_eq!(decision.verdict, Verdict::Quarantine);
        assert_eq!(decision.reply.map(|reply| reply.lines), Some(vec!["fine".to_owned()]));
    }
}
