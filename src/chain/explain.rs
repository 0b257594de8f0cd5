//! The chains for people: what `rsmtpd chain` prints.

use std::fmt::Write as _;

use super::{Chain, Combine, Evaluate, Link, Mode, OnError};

/// The order of a session, whatever the file's is. Verbs that may come at any time stand in the middle, as in the file.
const BEFORE: &[&str] = &[
    "__OPEN__", "HELO", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "__DATA__", "RSET",
];
const BEHIND: &[&str] = &["QUIT", "__DEFAULT__", "__CLOSE__"];

fn place(verb: &str) -> usize {
    let at = |list: &[&str]| list.iter().position(|one| *one == verb);
    let behind = || at(BEHIND).map(|at| BEFORE.len().saturating_add(1).saturating_add(at));
    at(BEFORE).or_else(behind).unwrap_or(BEFORE.len())
}

impl Chain {
    /// Per verb the entries in order, what each may decide, and those that can never run.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        let evaluate = match self.evaluate {
            Evaluate::All => "all",
            Evaluate::UntilDecided => "until_decided",
        };
        let combine = match self.combine {
            Combine::Severity => "severity",
            Combine::Last => "last",
        };
        let _ = writeln!(text, "evaluate: {evaluate}, combine: {combine}");
        let mut verbs: Vec<&(String, Vec<Link>)> = self.verbs.iter().collect();
        verbs.sort_by_key(|(verb, _)| place(verb));
        for (verb, links) in verbs {
            let also = if verb == "DATA" && self.links("BDAT").is_none() {
                " (and BDAT)"
            } else {
                ""
            };
            let _ = writeln!(text, "{verb}{also}");
            for (number, link) in links.iter().enumerate() {
                let _ = write!(text, "  {}. ", number.saturating_add(1));
                describe(&mut text, link);
                if let Some(reason) = self.never(verb, links.get(..number).unwrap_or_default(), link) {
                    let _ = write!(text, "; never runs: {reason}");
                }
                text.push('\n');
            }
        }
        text
    }

    /// Why an entry can never run; `before` are those in front of it.
    fn never(&self, verb: &str, before: &[Link], link: &Link) -> Option<String> {
        if link.mode == Mode::Off {
            return Some("mode is off".to_owned());
        }
        if verb == "__DATA__" {
            if self.chunk_links().is_none() {
                return Some("neither DATA nor BDAT has handlers".to_owned());
            }
            if let Some(taker) = before.iter().find(|one| one.is_taker()) {
                return Some(format!("it stands behind {}, which takes the message", taker.id));
            }
        }
        let refuses = |one: &&Link| one.mode == Mode::Enforce && one.facts.always_refuses;
        let refusing = before.iter().find(refuses)?;
        let spared = self.evaluate == Evaluate::UntilDecided && link.mode == Mode::Enforce;
        spared.then(|| format!("it stands behind {}, which always refuses", refusing.id))
    }
}

fn describe(text: &mut String, link: &Link) {
    let facts = link.facts;
    let decides: Vec<&str> = facts.decides.iter().map(|verdict| verdict.name()).collect();
    text.push_str(&link.id);
    if link.id != facts.id {
        let _ = write!(text, " ({})", facts.id);
    }
    let _ = write!(text, ": {}; may decide: {}", facts.about, decides.join(", "));
    if facts.taker {
        text.push_str("; takes the message");
    }
    match link.on_error {
        OnError::Defer => {}
        OnError::Pass => text.push_str("; no opinion if it fails"),
        OnError::Reject => text.push_str("; reject if it fails"),
    }
    if link.mode == Mode::Observe {
        text.push_str("; only observed");
    }
}
