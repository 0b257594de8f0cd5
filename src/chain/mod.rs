//! Chains of handlers, and the conversation that runs them.
//!
//! For each verb a list of handlers looks at the command; what they find is turned into one decision, the decision into a
//! reply and, per recipient, a disposition: four things, recorded apart. Nothing here does I/O: octets come in as events
//! of the receiver, replies go out as values, and the rest of the world is behind [`ports::Ports`]. Chains must never
//! trust a handler with the protocol: order, limits and the meaning of a 250 are kept by [`Conversation`] itself.

pub mod configured;
pub mod context;
pub mod conversation;
pub mod decision;
pub mod directory;
pub mod handler;
pub mod layout;
pub mod limits;
pub mod outcome;
pub mod ports;
pub mod registry;
pub mod settings;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

pub use context::Context;
pub use conversation::{Action, Conversation, Next, Summary};
pub use decision::{Combine, Decision, Evaluate, Mode, OnError};
pub use directory::{Directory, Found};
pub use handler::{BodyReader, Effect, Evidence, Facts, Handler, HandlerError, Outcome};
pub use layout::{Entry, Layout};
pub use limits::Limits;
pub use outcome::{Message, Taken};
pub use ports::{BodySink, DeliveryError, DeliveryPort, Ports};
pub use settings::{SettingFault, Value};

/// One handler in its place.
pub struct Link {
    /// Name of the entry.
    pub id: String,
    /// The handler.
    pub handler: Box<dyn Handler>,
    /// Whether it decides.
    pub mode: Mode,
    /// How long it may wait for others.
    pub timeout: Duration,
    /// What it counts as when it fails.
    pub on_error: OnError,
}

/// A fault of a chain file or of a handler's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainFault {
    /// The handler whose settings file it is in; none for the chain file.
    pub handler: Option<&'static str>,
    /// The verb, and the number of the entry from 0.
    pub place: (String, usize),
    /// The key, "" for the whole entry.
    pub key: String,
    /// `expected …, found …`.
    pub message: String,
}

impl std::fmt::Display for ChainFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (verb, entry) = &self.place;
        write!(f, "{verb}[{entry}]")?;
        if let Some(handler) = self.handler {
            write!(f, ": {handler}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// All chains of one listener, ready to run; shared by every connection of a worker.
pub struct Chain {
    evaluate: Evaluate,
    combine: Combine,
    verbs: Vec<(String, Vec<Link>)>,
    offered: Vec<String>,
    directory: Arc<dyn Directory>,
}

impl Chain {
    /// Makes the handlers of a chain file. `files` gives the settings file of a handler by the handler's id.
    ///
    /// # Errors
    /// Every fault found: unknown handlers, wrong settings, a taker in the wrong place, DATA that nobody would take.
    pub fn build(
        layout: &Layout,
        files: &dyn Fn(&str) -> Option<Value>,
        directory: &Arc<dyn Directory>,
    ) -> Result<Chain, Vec<ChainFault>> {
        let mut faults = Vec::new();
        let mut verbs = Vec::new();
        for (verb, entries) in &layout.verbs {
            let verb = verb.to_ascii_uppercase();
            let mut links = Vec::new();
            for (number, entry) in entries.iter().enumerate() {
                links.extend(make_link(&verb, number, entry, files, directory, &mut faults));
            }
            if verbs.iter().any(|(known, _)| *known == verb) {
                faults.push(fault(&verb, 0, "expected each verb once, found it again"));
            }
            verbs.push((verb, links));
        }
        let chain = Chain {
            evaluate: layout.evaluate,
            combine: layout.combine,
            offered: verbs
                .iter()
                .map(|(verb, _)| verb.clone())
                .filter(|verb| !verb.starts_with("__"))
                .collect(),
            verbs,
            directory: Arc::clone(directory),
        };
        chain.check_takers(&mut faults);
        if faults.is_empty() { Ok(chain) } else { Err(faults) }
    }

    fn check_takers(&self, faults: &mut Vec<ChainFault>) {
        let links = self.links("__DATA__").unwrap_or_default();
        let mut takers = links.iter().enumerate().filter(|(_, link)| is_taker(link));
        let first = takers.next();
        if let Some((second, _)) = takers.next() {
            faults.push(fault(
                "__DATA__",
                second,
                "expected one handler that takes messages, found a second one",
            ));
        }
        match first {
            None if self.verbs.iter().any(|(verb, _)| verb == "DATA" || verb == "BDAT") => {
                let message = "expected a handler that takes messages, as DATA is answered, found none";
                faults.push(fault("__DATA__", 0, message));
            }
            Some((at, _)) if at.saturating_add(1) < links.len() => {
                let message = "expected the handler that takes messages last, found one behind it";
                faults.push(fault("__DATA__", at.saturating_add(1), message));
            }
            _ => {}
        }
    }

    /// The entries of exactly this chain.
    pub fn links(&self, verb: &str) -> Option<&[Link]> {
        self.verbs
            .iter()
            .find(|(name, _)| name == verb)
            .map(|(_, links)| links.as_slice())
    }

    /// Verbs of clients that have a chain, in the order of the file.
    pub fn verbs(&self) -> &[String] {
        &self.offered
    }

    /// Who exists.
    pub fn directory(&self) -> &dyn Directory {
        self.directory.as_ref()
    }

    /// The chains for people: per verb the entries in order, what each may decide, and those that can never run.
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
        for (verb, links) in &self.verbs {
            let _ = writeln!(text, "{verb}");
            for (number, link) in links.iter().enumerate() {
                explain_link(&mut text, number.saturating_add(1), link);
            }
        }
        text
    }
}

fn explain_link(text: &mut String, number: usize, link: &Link) {
    let facts = link.handler.facts();
    let decides: Vec<_> = facts.decides.iter().map(|verdict| verdict.name()).collect();
    let _ = write!(text, "  {number}. {}", link.id);
    if link.id != facts.id {
        let _ = write!(text, " ({})", facts.id);
    }
    let _ = write!(text, ": {}; may decide: {}", facts.about, decides.join(", "));
    if facts.taker {
        text.push_str("; takes the message");
    }
    match link.mode {
        Mode::Enforce => {}
        Mode::Observe => text.push_str("; observed only"),
        Mode::Off => text.push_str("; never runs: mode is off"),
    }
    text.push('\n');
}

fn is_taker(link: &Link) -> bool {
    link.handler.facts().taker && link.mode != Mode::Off
}

fn fault(verb: &str, entry: usize, message: &str) -> ChainFault {
    ChainFault {
        handler: None,
        place: (verb.to_owned(), entry),
        key: String::new(),
        message: message.to_owned(),
    }
}

fn make_link(
    verb: &str,
    number: usize,
    entry: &Entry,
    files: &dyn Fn(&str) -> Option<Value>,
    directory: &Arc<dyn Directory>,
    faults: &mut Vec<ChainFault>,
) -> Option<Link> {
    let Some(registered) = registry::find(&entry.handler) else {
        let known: Vec<_> = registry::HANDLERS.iter().map(|one| one.facts.id).collect();
        let message = format!("expected one of {}, found {:?}", known.join(", "), entry.handler);
        faults.push(fault(verb, number, &message));
        return None;
    };
    let facts = registered.facts;
    if !facts.verbs.is_empty() && !facts.verbs.contains(&verb) {
        let message = format!(
            "expected {} only in {}, found it in {verb}",
            facts.id,
            facts.verbs.join(", ")
        );
        faults.push(fault(verb, number, &message));
    }
    if facts.taker && entry.mode == Mode::Observe {
        faults.push(fault(
            verb,
            number,
            "expected mode enforce or off for a handler that takes messages, found observe",
        ));
    }
    let file = files(facts.id);
    let settings = settings::Settings::new(file.as_ref(), entry.with.as_ref());
    let mut material = registry::Material {
        settings,
        directory: Arc::clone(directory),
    };
    let handler = (registered.make)(&mut material);
    let of_settings = material.settings.finish().into_iter().map(|found| ChainFault {
        handler: Some(facts.id),
        place: (verb.to_owned(), number),
        key: found.key,
        message: found.message,
    });
    faults.extend(of_settings);
    Some(Link {
        id: entry.id.clone().unwrap_or_else(|| facts.id.to_owned()),
        handler,
        mode: entry.mode,
        timeout: entry.timeout,
        on_error: entry.on_error,
    })
}
