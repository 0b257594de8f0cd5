//! `command_handler_NAME.yaml`: which handlers see which command, in which order.

use std::time::Duration;

use super::fault::Fault;
use super::load::{Node, Value};
use super::part::Part;
use super::place::Place;
use super::section::{Field, alternatives};

/// What the configuration must know of a handler; the registry of handlers says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandlerName {
    /// Its name in YAML.
    pub id: &'static str,
    /// The original's module below `rsmtpd.handlers`.
    pub module: &'static str,
    /// The original's class.
    pub class: &'static str,
    /// Whether it takes settings, and so may have a file.
    pub has_settings: bool,
}

/// Entries of a chain file in all; each is located with one more reading of the file.
const MOST_ENTRIES: usize = 500;

impl HandlerName {
    /// The names of its file, in the order in which the original looks for them.
    pub fn files(&self) -> Vec<String> {
        let mut files = vec![
            format!("rsmtpd.handlers.{}.yaml", self.id),
            format!("{}.yaml", self.id),
            format!("rsmtpd.handlers.{}.yaml", self.module),
            format!("{}.yaml", self.module),
        ];
        if self.id == self.module {
            files.truncate(2);
        }
        files.push(format!("{}.yaml", self.class));
        files
    }
}

/// Modules of the original, by the last part of their name, that chains do without for now: accepted, without an opinion.
/// The class is not looked at: the original's own chain file names a wrong one.
const NOT_YET: &[&str] = &["spf_validator", "domain_validator", "external_content_filter"];

/// Whether this is a settings file of a handler of the original that is not built yet.
pub(super) fn is_not_yet(file: &str) -> bool {
    let stem = file.strip_suffix(".yaml").unwrap_or(file);
    NOT_YET.contains(&stem.strip_prefix("rsmtpd.handlers.").unwrap_or(stem))
}

/// One chain file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChainFile {
    /// In the order of the file. A verb without a key takes `__DEFAULT__`.
    pub verbs: Vec<VerbEntries>,
    /// `_chain: evaluate`: default all.
    pub evaluate: Evaluate,
    /// `_chain: combine`: default severity; last where [`ChainFile::original`].
    pub combine: Combine,
    /// Whether every entry has the original's form, module and class: then `__OPEN__` and `__DATA__` without a list
    /// take `__DEFAULT__` as well, as far as its handlers make sense there.
    pub original: bool,
}

/// The list of one verb.
#[derive(Debug, Clone, PartialEq)]
pub struct VerbEntries {
    /// The verb in upper case, `__OPEN__`, `__DATA__`, `__DEFAULT__` or `__CLOSE__`.
    pub verb: String,
    /// Its handlers, in order.
    pub entries: Vec<Entry>,
    /// The verb in its file.
    pub at: Place,
}

/// Who still runs once a verdict stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Evaluate {
    /// Every handler, though one has refused, for research.
    #[default]
    All,
    /// After the first refusal that bites only those that observe.
    UntilDecided,
}

/// Which verdict counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Combine {
    /// The most severe one; of equals the first.
    #[default]
    Severity,
    /// The last one, as in the Python original.
    Last,
}

/// One handler in a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// `handler`: its id.
    pub handler: &'static str,
    /// `id`: name of the entry in logs, unique in its verb. Default: the handler's name, from its second entry on with `#2`, `#3`.
    pub id: String,
    /// `with`: as written, settings that differ from the handler's file.
    pub with: Option<Part>,
    /// `mode`: default enforce.
    pub mode: Mode,
    /// `timeout`: for all that the handler waits for, 1s to 5m. Default 10s.
    pub timeout: Duration,
    /// Where `timeout` was given.
    pub timeout_at: Option<Place>,
    /// `on_error`: what its failure means. Default defer.
    pub on_error: OnError,
    /// The entry in its file.
    pub at: Place,
}

/// Whether a handler's verdict counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It counts.
    #[default]
    Enforce,
    /// It runs and is recorded, and never influences.
    Observe,
    /// The handler does not run.
    Off,
}

/// What the failure of a handler means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// 451 4.3.0.
    #[default]
    Defer,
    /// No opinion.
    Pass,
    /// 554 5.3.0.
    Reject,
}

impl Entry {
    /// A handler with all defaults.
    fn plain(handler: &'static str, at: Place) -> Entry {
        Entry {
            handler,
            id: handler.to_owned(),
            with: None,
            mode: Mode::Enforce,
            timeout: Duration::from_secs(10),
            timeout_at: None,
            on_error: OnError::Defer,
            at,
        }
    }
}

impl ChainFile {
    /// Reads a chain file that names some of `handlers`; what is wrong goes to `faults`.
    ///
    /// # Errors
    /// It is no YAML document.
    pub fn parse(
        name: &str,
        text: &str,
        handlers: &[HandlerName],
        faults: &mut Vec<Fault>,
    ) -> Result<ChainFile, Fault> {
        let part = Part::parse(name, text)?;
        Ok(part.read(faults, |root| ChainFile::read(root, handlers)))
    }

    /// Reads the document of a chain file.
    pub(super) fn read(root: &Field<'_>, handlers: &[HandlerName]) -> ChainFile {
        let mut chain = ChainFile::default();
        let Some(section) = root.section() else {
            return chain;
        };
        let keys = section.all();
        if keys.iter().all(|(name, _, _)| name == "_chain") {
            root.fault("expected handlers for at least one verb, found none".to_owned());
        }
        chain.original = is_original(&keys);
        if chain.original {
            chain.combine = Combine::Last;
        }
        let mut seen: Vec<String> = Vec::new();
        for (name, at, value) in keys {
            if name == "_chain" {
                if value.node().value != Value::Null {
                    chain.read_options(&value);
                }
            } else if !is_verb(&name) {
                at.fault(format!(
                    "expected a verb, __OPEN__, __DATA__, __DEFAULT__, __CLOSE__ or _chain, found {}",
                    at.node()
                ));
            } else {
                let verb = name.to_ascii_uppercase();
                let known = chain.verbs.iter().map(|list| list.entries.len()).sum();
                let entries = read_entries(&value, handlers, MOST_ENTRIES.saturating_sub(known));
                if seen.contains(&verb) {
                    at.fault(format!("expected {verb} once, found it again"));
                } else if let Some(entries) = entries {
                    chain.verbs.push(VerbEntries {
                        verb: verb.clone(),
                        entries,
                        at: at.place(),
                    });
                }
                seen.push(verb);
            }
        }
        chain.complete(root, handlers);
        chain
    }

    /// Gives a chain in the original's form that takes mail what RFC 5321 §4.5.1 demands and the original's lacked.
    fn complete(&mut self, root: &Field<'_>, handlers: &[HandlerName]) {
        if !self.original || self.entries("MAIL").is_none() {
            return;
        }
        for (verb, id) in [("RSET", "reset"), ("NOOP", "noop"), ("HELP", "help")] {
            let known = handlers.iter().find(|known| known.id == id);
            if let (Some(known), None) = (known, self.entries(verb)) {
                self.verbs.push(VerbEntries {
                    verb: verb.to_owned(),
                    entries: vec![Entry::plain(known.id, root.place())],
                    at: root.place(),
                });
            }
        }
    }

    /// Whether some entry names the handler.
    pub fn uses(&self, handler: &str) -> bool {
        let mut entries = self.verbs.iter().flat_map(|verb| &verb.entries);
        entries.any(|entry| entry.handler == handler)
    }

    /// The entries of exactly this verb.
    pub fn entries(&self, verb: &str) -> Option<&[Entry]> {
        let found = self.verbs.iter().find(|list| list.verb == verb)?;
        Some(&found.entries)
    }

    /// The lists of `__OPEN__` and `__DATA__` that a chain in the original's form leaves to `__DEFAULT__`: its entries
    /// that `fit` there.
    pub fn implied(&self, fit: impl Fn(&Entry, &str) -> bool) -> Vec<VerbEntries> {
        let default = self.verbs.iter().find(|list| list.verb == "__DEFAULT__");
        let Some(default) = default.filter(|_| self.original) else {
            return Vec::new();
        };
        let missing = ["__OPEN__", "__DATA__"]
            .into_iter()
            .filter(|verb| self.entries(verb).is_none());
        let lists = missing.map(|verb| VerbEntries {
            verb: verb.to_owned(),
            entries: default
                .entries
                .iter()
                .filter(|entry| fit(entry, verb))
                .cloned()
                .collect(),
            at: default.at.clone(),
        });
        lists.filter(|list| !list.entries.is_empty()).collect()
    }

    fn read_options(&mut self, field: &Field<'_>) {
        let Some(section) = field.section() else {
            return;
        };
        section.read("evaluate", &mut self.evaluate, |f| {
            f.choice(&[("all", Evaluate::All), ("until_decided", Evaluate::UntilDecided)])
        });
        section.read("combine", &mut self.combine, |f| {
            f.choice(&[("severity", Combine::Severity), ("last", Combine::Last)])
        });
        section.finish();
    }
}

/// Whether there are entries, all of them with a module.
fn is_original(keys: &[(String, Field<'_>, Field<'_>)]) -> bool {
    let mut entries = keys
        .iter()
        .filter(|(name, _, _)| name != "_chain")
        .filter_map(|(_, _, value)| match &value.node().value {
            Value::List(items) => Some(items),
            _ => None,
        })
        .flatten()
        .peekable();
    let has_module = |node: &Node| match &node.value {
        Value::Map(pairs) => pairs
            .iter()
            .any(|(key, _)| key.value == Value::Text("module".to_owned())),
        _ => false,
    };
    entries.peek().is_some() && entries.all(has_module)
}

fn is_verb(name: &str) -> bool {
    matches!(name, "__OPEN__" | "__DATA__" | "__DEFAULT__" | "__CLOSE__")
        || (!name.is_empty() && name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// The entries of one verb; none when all of them are not yet available, so that `__DEFAULT__` takes the verb.
fn read_entries(field: &Field<'_>, handlers: &[HandlerName], room: usize) -> Option<Vec<Entry>> {
    let items = field.items(false)?;
    if items.len() > room {
        let (most, found) = (MOST_ENTRIES, items.len());
        field.fault(format!(
            "expected at most {most} entries in all lists, found {found} more here"
        ));
        return None;
    }
    let mut entries: Vec<Entry> = Vec::new();
    for item in &items {
        let Some((mut entry, id)) = read_entry(item, handlers) else {
            continue;
        };
        if let Some((at, id)) = id {
            if entries.iter().any(|other| other.id == id) {
                at.fault(format!("expected an id of its own, found {id:?} again"));
            }
            entry.id = id;
        } else {
            let mut number = 1;
            while entries.iter().any(|other| other.id == entry.id) {
                number += 1;
                entry.id = format!("{}#{number}", entry.handler);
            }
        }
        entries.push(entry);
    }
    (items.is_empty() || !entries.is_empty()).then_some(entries)
}

type WithId<'a> = Option<(Field<'a>, String)>;

fn read_entry<'a>(item: &Field<'a>, handlers: &[HandlerName]) -> Option<(Entry, WithId<'a>)> {
    let section = item.section()?;
    let handler = match (section.get("handler"), section.get("module"), section.get("class")) {
        (Some(handler), None, None) => known_handler(&handler, handlers),
        (Some(handler), _, _) => {
            handler.fault("expected handler or module and class, found both".to_owned());
            None
        }
        (None, Some(module), class) => {
            let class = class.and_then(|class| class.text());
            original_handler(&module, class.as_deref(), handlers)
        }
        (None, None, _) => {
            item.fault("expected a handler, found none".to_owned());
            None
        }
    };
    let id = section.get("id").and_then(|field| Some((field.clone(), field.text()?)));
    let mut mode = Mode::Enforce;
    section.read("mode", &mut mode, |f| {
        f.choice(&[
            ("enforce", Mode::Enforce),
            ("observe", Mode::Observe),
            ("off", Mode::Off),
        ])
    });
    let mut timeout = Duration::from_secs(10);
    let mut timeout_at = None;
    section.read("timeout", &mut timeout, |f| {
        timeout_at = Some(f.place());
        f.duration(Duration::from_secs(1)..=Duration::from_secs(300))
    });
    let mut on_error = OnError::Defer;
    section.read("on_error", &mut on_error, |f| {
        f.choice(&[
            ("defer", OnError::Defer),
            ("pass", OnError::Pass),
            ("reject", OnError::Reject),
        ])
    });
    let with = section.get("with");
    section.finish();
    let handler = handler?;
    let entry = Entry {
        handler,
        id: handler.to_owned(),
        with: with.map(|field| field.part()),
        mode,
        timeout,
        timeout_at,
        on_error,
        at: item.place(),
    };
    Some((entry, id))
}

fn known_handler(field: &Field<'_>, handlers: &[HandlerName]) -> Option<&'static str> {
    let name = field.scalar();
    let found = handlers.iter().find(|known| name.as_deref() == Some(known.id));
    if found.is_none() {
        let ids: Vec<&str> = handlers.iter().map(|known| known.id).collect();
        field.fault(format!(
            "expected {}, found the unknown handler {}",
            alternatives(&ids),
            field.node()
        ));
    }
    found.map(|known| known.id)
}

/// The handler of a module; the class tells several in one module apart, and is otherwise not looked at.
fn original_handler(field: &Field<'_>, class: Option<&str>, handlers: &[HandlerName]) -> Option<&'static str> {
    let module = field.text()?;
    let name = module.strip_prefix("rsmtpd.handlers.").unwrap_or(&module);
    let of_module = || handlers.iter().filter(|known| known.module == name);
    let found = of_module()
        .find(|known| Some(known.class) == class)
        .or_else(|| of_module().next());
    if let Some(known) = found {
        return Some(known.id);
    }
    if NOT_YET.contains(&name) {
        field.note(format!("{name}: not yet available, accepted without an opinion"));
    } else {
        field.fault(format!(
            "expected a module of rsmtpd.handlers that is available, found the unknown handler {module:?}"
        ));
    }
    None
}
