//! Chains of handlers, and the conversation that runs them.
//!
//! For each verb a list of handlers looks at the command; what they find is turned into one decision, the decision into a
//! reply and, per recipient, a disposition: four things, recorded apart. Nothing here does I/O: octets come in as events
//! of the receiver, replies go out as values, and the rest of the world is behind [`ports::Ports`]. Chains must never
//! trust a handler with the protocol: order, limits and the meaning of a 250 are kept by [`Conversation`] itself.

pub mod answer;
pub mod configured;
pub mod context;
pub mod conversation;
pub mod decision;
pub mod directory;
pub mod effect;
pub mod error;
mod explain;
pub mod handler;
pub mod limits;
pub mod logging;
pub mod opinion;
pub mod outcome;
pub mod ports;
pub mod record;
pub mod registry;
pub mod settings;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use crate::config::{Combine, Evaluate, Mode, OnError};
pub use answer::Answer;
pub use context::Context;
pub use conversation::{Action, Conversation, Hold, Next, Summary};
pub use decision::Decision;
pub use directory::{Directory, Found};
pub use effect::{Effect, FieldName, HeaderField};
pub use error::HandlerError;
pub use handler::{BodyReader, Facts, Handler, InVain, Kind, Passing, Reach};
pub use limits::Limits;
pub use logging::Logged;
pub use opinion::{Evidence, Outcome};
pub use outcome::{Message, Refusal, Taken};
pub use ports::{
    BackEndLost, BackEndPatience, BackEndPort, BackEndTls, BackEndWay, BodySink, ClientGone, DeliveryError,
    DeliveryPort, Nowhere, PausePort, Ports, RecordError, Records, ResolverPort, TlsPort,
};
pub use settings::Settings;

use crate::config::{ChainFile, Entry, Fault, Part, Place, VerbEntries};

/// One handler in its place.
pub struct Link {
    /// Name of the entry.
    pub id: String,
    /// Who its handler is.
    pub facts: &'static Facts,
    /// The handler.
    pub handler: Box<dyn Handler>,
    /// Whether it decides.
    pub mode: Mode,
    /// How long it may wait for others.
    pub timeout: Duration,
    /// What it counts as when it fails.
    pub on_error: OnError,
}

impl Link {
    /// Whether messages go to it.
    pub(crate) fn is_taker(&self) -> bool {
        self.facts.taker && self.mode != Mode::Off
    }

    /// Whether commands and messages go through it to another server.
    pub(crate) fn is_relay(&self) -> bool {
        self.facts.relays() && self.mode != Mode::Off
    }

    fn saves_copies(&self) -> bool {
        self.mode == Mode::Enforce && self.handler.saves_copies()
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
    /// Makes the handlers of a chain file. `files` holds the handlers' own files by id. To `faults` go those of the
    /// handlers' settings, and handlers in the wrong place: where they make no sense, two takers, a judge behind the taker,
    /// no taker although DATA is answered.
    pub fn build(
        file: &ChainFile,
        files: &BTreeMap<&'static str, Part>,
        directory: &Arc<dyn Directory>,
        faults: &mut Vec<Fault>,
    ) -> Chain {
        let make = |list: &VerbEntries, faults: &mut Vec<Fault>| {
            let links = list.entries.iter();
            let links = links.filter_map(|entry| make_link(&list.verb, entry, file.original, files, directory, faults));
            (list.verb.clone(), links.collect())
        };
        let mut verbs: Vec<(String, Vec<Link>)> = file.verbs.iter().map(|list| make(list, faults)).collect();
        for list in file.implied(|entry, verb| facts_of(entry).is_some_and(|facts| fits(facts, verb))) {
            verbs.push(make(&list, faults));
        }
        check_takers(file, faults);
        check_relays(file, faults);
        Chain {
            evaluate: file.evaluate,
            combine: file.combine,
            offered: offered(&verbs),
            verbs,
            directory: Arc::clone(directory),
        }
    }

    /// The entries of exactly this chain.
    pub fn links(&self, verb: &str) -> Option<&[Link]> {
        self.verbs
            .iter()
            .find(|(name, _)| name == verb)
            .map(|(_, links)| links.as_slice())
    }

    /// The entries for BDAT: its own, else those of DATA; in a relaying chain else those of `__DEFAULT__`.
    pub fn chunk_links(&self) -> Option<&[Link]> {
        let own = self.links("BDAT").or_else(|| self.links("DATA"));
        own.or_else(|| self.relaying_default())
    }

    /// The entries for `__OPEN__` or `__DATA__`: its own; in a relaying chain else those of `__DEFAULT__`.
    pub fn stage_links(&self, name: &str) -> &[Link] {
        let own = self.links(name).or_else(|| self.relaying_default());
        own.unwrap_or_default()
    }

    fn relaying_default(&self) -> Option<&[Link]> {
        let links = self.links("__DEFAULT__")?;
        links.iter().any(Link::is_relay).then_some(links)
    }

    /// Whether its sessions are relayed to another server.
    pub fn relays(&self) -> bool {
        self.stage_links("__DATA__").iter().any(Link::is_relay)
    }

    /// Whether an entry may want a copy of a message for itself.
    pub fn saves_copies(&self) -> bool {
        self.stage_links("__DATA__").iter().any(Link::saves_copies)
    }

    /// What `file`, which it was built from, says in vain.
    pub fn notes(&self, file: &ChainFile) -> Vec<Fault> {
        let mut notes = self.copies_in_vain(file);
        let mut said: Vec<&str> = Vec::new();
        for (entry, link) in self.entries_with_links(file) {
            let Some(vain) = link.handler.in_vain().filter(|_| link.mode != Mode::Off) else {
                continue;
            };
            // Each setting once, and a default once a handler, however many lists it stands in.
            let id = link.facts.id;
            if vain.at.is_none() && said.contains(&id) {
                continue;
            }
            said.push(id);
            let note = vain.at.unwrap_or(&entry.at).fault(format!("{id} {}", vain.what));
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        notes
    }

    fn entries_with_links<'a>(&'a self, file: &'a ChainFile) -> impl Iterator<Item = (&'a Entry, &'a Link)> {
        file.verbs.iter().flat_map(|list| {
            let links = self.links(&list.verb).unwrap_or_default();
            let link = |entry: &Entry| links.iter().find(|link| link.id == entry.id);
            list.entries.iter().filter_map(move |entry| Some((entry, link(entry)?)))
        })
    }

    fn copies_in_vain(&self, file: &ChainFile) -> Vec<Fault> {
        let entries = file.entries("__DATA__").unwrap_or_default();
        let links = self.links("__DATA__").unwrap_or_default();
        if links.iter().any(Link::is_taker) {
            return Vec::new();
        }
        let saving = |entry: &&Entry| links.iter().any(|link| link.id == entry.id && link.saves_copies());
        let note = |entry: &Entry| {
            entry
                .at
                .fault(format!("{} keeps no copies: no message is taken here", entry.id))
        };
        entries.iter().filter(saving).map(note).collect()
    }

    /// What its handlers want to reach beyond this host.
    pub fn reach(&self) -> Reach {
        let mut reach = Reach::default();
        let links = self.verbs.iter().flat_map(|(_, links)| links);
        for link in links.filter(|link| link.mode != Mode::Off) {
            reach.add(link.handler.reach());
        }
        reach
    }

    /// Verbs of clients that have a chain, in the order of the file; BDAT also where DATA's serves it.
    pub fn verbs(&self) -> &[String] {
        &self.offered
    }

    /// Whether messages are handed over to somebody here.
    pub fn takes_mail(&self) -> bool {
        let takes = |link: &Link| link.is_taker() && !link.is_relay();
        self.links("__DATA__").is_some_and(|links| links.iter().any(takes))
    }

    fn every_link(&self) -> impl Iterator<Item = &Link> {
        self.verbs.iter().flat_map(|(_, links)| links)
    }

    /// The directories that handlers want records written to.
    pub fn record_directories(&self) -> impl Iterator<Item = &Path> {
        let links = self.every_link();
        links
            .filter(|link| link.mode != Mode::Off)
            .filter_map(|link| link.handler.records())
    }
}

fn offered(verbs: &[(String, Vec<Link>)]) -> Vec<String> {
    let names = verbs
        .iter()
        .map(|(verb, _)| verb)
        .filter(|verb| !verb.starts_with("__"));
    let mut offered: Vec<String> = names.cloned().collect();
    if let Some(data) = offered.iter().position(|verb| verb == "DATA")
        && !offered.iter().any(|verb| verb == "BDAT")
    {
        offered.insert(data.saturating_add(1), "BDAT".to_owned());
    }
    // A proxy shakes hands itself.
    let default = verbs.iter().find(|(verb, _)| verb == "__DEFAULT__");
    let relays = default.is_some_and(|(_, links)| links.iter().any(Link::is_relay));
    if relays && !offered.iter().any(|verb| verb == "STARTTLS") {
        offered.push("STARTTLS".to_owned());
    }
    offered
}

fn facts_of(entry: &Entry) -> Option<&'static Facts> {
    registry::find(entry.handler).map(|registered| registered.facts)
}

/// Whether an entry relays.
fn is_relay(entry: &Entry) -> bool {
    entry.mode != Mode::Off && facts_of(entry).is_some_and(Facts::relays)
}

/// Verbs that the server behind a proxy has to hear, so that it knows what the client knows.
const RELAYED: [&str; 10] = [
    "__OPEN__", "HELO", "EHLO", "MAIL", "RCPT", "DATA", "BDAT", "__DATA__", "RSET", "QUIT",
];

/// A session is relayed whole or not at all: where one list relays, every list that matters has to.
fn check_relays(file: &ChainFile, faults: &mut Vec<Fault>) {
    let all = || file.verbs.iter().flat_map(|list| &list.entries);
    let Some(first) = all().find(|entry| is_relay(entry)) else {
        return;
    };
    let relays = |list: &&VerbEntries| list.entries.iter().any(is_relay);
    for list in file.verbs.iter().filter(|list| RELAYED.contains(&list.verb.as_str())) {
        if !relays(&list) {
            let message = format!(
                "expected {} in it, as other commands go through it, found none",
                first.handler
            );
            faults.push(list.at.fault(message));
        }
    }
    // BDAT takes the list of DATA.
    let absent = |verb: &&&str| file.entries(verb).is_none() && **verb != "BDAT";
    let default = file.verbs.iter().find(|list| list.verb == "__DEFAULT__");
    if let Some(verb) = RELAYED.iter().find(absent)
        && !default.as_ref().is_some_and(relays)
    {
        let at = default.map_or(&first.at, |list| &list.at);
        let message = format!(
            "expected {} in __DEFAULT__, as {verb} has no list, found none",
            first.handler
        );
        faults.push(at.fault(message));
    }
    for list in &file.verbs {
        let mut behind = list.entries.iter().skip_while(|entry| !is_relay(entry)).skip(1);
        let judges = |entry: &&Entry| !facts_of(entry).is_some_and(Facts::decides_nothing);
        if let Some(entry) = behind.find(|entry| entry.mode != Mode::Off && judges(entry)) {
            let message = format!(
                "expected {} as the last one, found {} behind it",
                first.handler, entry.id
            );
            if list.verb != "__DATA__" {
                faults.push(entry.at.fault(message));
            }
        }
    }
}

fn check_takers(file: &ChainFile, faults: &mut Vec<Fault>) {
    let relaying = |verb| file.entries(verb).is_some_and(|entries| entries.iter().any(is_relay));
    if file.entries("__DATA__").is_none() && relaying("__DEFAULT__") {
        return;
    }
    let entries = file.entries("__DATA__").unwrap_or_default();
    let mut taker = None;
    for entry in entries.iter().filter(|entry| entry.mode != Mode::Off) {
        let takes = facts_of(entry).is_some_and(|facts| facts.taker);
        match (taker, takes) {
            (None, true) => taker = Some(&entry.id),
            (Some(first), true) => faults.push(entry.at.fault(format!(
                "expected one handler that takes the message, found {} besides {first}",
                entry.id
            ))),
            (Some(_), false) if facts_of(entry).is_some_and(Facts::decides_nothing) => {}
            (Some(first), false) => faults.push(entry.at.fault(format!(
                "expected {first}, which takes the message, as the last one, found {} behind it",
                entry.id
            ))),
            (None, false) => {}
        }
    }
    let place = |verb: &str| -> Option<&Place> {
        let list = file.verbs.iter().find(|list| list.verb == verb)?;
        // Whom nobody lets speak has nothing to hand over.
        let refuses = |entry: &Entry| facts_of(entry).is_some_and(|facts| facts.always_refuses);
        let refused = list
            .entries
            .iter()
            .any(|entry| entry.mode == Mode::Enforce && refuses(entry));
        (!refused || verb == "__DATA__").then_some(&list.at)
    };
    if let (None, Some(asking)) = (taker, place("DATA").or_else(|| place("BDAT"))) {
        let at = place("__DATA__").unwrap_or(asking);
        faults.push(at.fault("expected a handler in __DATA__ that takes the message, as DATA is answered, found none"));
    }
}

/// Whether a handler makes sense in the chain of this verb.
fn fits(facts: &Facts, verb: &str) -> bool {
    match facts.verbs {
        [] => !verb.starts_with("__") || verb == "__DEFAULT__",
        verbs => verbs == Facts::ANYWHERE || verbs.contains(&verb),
    }
}

/// What an entry may not say of a handler on whose answer a message depends.
fn check_taker(facts: &Facts, entry: &Entry, faults: &mut Vec<Fault>) {
    if entry.mode == Mode::Observe {
        faults.push(entry.at.fault(format!(
            "expected mode enforce or off, as {} takes messages, found observe",
            facts.id
        )));
    }
    if entry.on_error != OnError::Defer {
        faults.push(entry.at.fault(format!(
            "expected on_error: defer, as {} takes messages, found another",
            facts.id
        )));
    }
    if let Some(at) = &entry.timeout_at {
        faults.push(at.fault(format!(
            "expected no timeout, as {} waits for as long as {}.yaml says, found one",
            facts.id, facts.id
        )));
    }
}

fn make_link(
    verb: &str,
    entry: &Entry,
    original: bool,
    files: &BTreeMap<&'static str, Part>,
    directory: &Arc<dyn Directory>,
    faults: &mut Vec<Fault>,
) -> Option<Link> {
    let registered = registry::find(entry.handler)?;
    let facts = registered.facts;
    if !fits(facts, verb) {
        let places = match facts.verbs {
            [] => "commands and __DEFAULT__".to_owned(),
            verbs => verbs.join(", "),
        };
        faults.push(
            entry
                .at
                .fault(format!("expected {} only in {places}, found it in {verb}", facts.id)),
        );
    }
    if facts.taker {
        check_taker(facts, entry, faults);
    }
    let mut with = entry.with.as_ref();
    if registered.keys().is_empty()
        && let Some(part) = with.take()
    {
        part.read(faults, |field| {
            field.expected(&format!("nothing, because {} takes no settings here", facts.id));
        });
    }
    let material = registry::Material {
        file: files.get(facts.id),
        with,
        original,
        directory,
    };
    Some(Link {
        id: entry.id.clone(),
        facts,
        handler: registered.make(&material, faults),
        mode: entry.mode,
        timeout: entry.timeout,
        on_error: entry.on_error,
    })
}
