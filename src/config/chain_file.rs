//! `command_handler_NAME.yaml`: which handlers see which command, in which order.

use std::collections::BTreeMap;
use std::time::Duration;

use super::handler_files::{Greeting, Hello, Settings};
use super::load::{Node, Value};
use super::section::{Field, alternatives};

/// Handlers a chain may name, in the order of the manual. The registry of handlers holds the same ones.
pub const HANDLERS: &[&str] = &[
    "greeting",
    "hello",
    "mail",
    "recipient",
    "data",
    "delivery",
    "reset",
    "noop",
    "help",
    "verify",
    "quit",
    "unknown_command",
];

/// Entries of a chain file in all; each is located with one more reading of the file.
const MOST_ENTRIES: usize = 500;

/// What a handler module of the Python original is here.
enum Original {
    /// This handler.
    Handler(&'static str),
    /// Nothing: it happens anyway. The text says why.
    Implicit(&'static str),
    /// Not built yet; left out with a note, as the chain does its work without it.
    LeftOut,
}

/// Modules of the original by the last part of their name. The class is not looked at: its own chain file names a wrong one.
const ORIGINALS: &[(&str, Original)] = &[
    ("greeting", Original::Handler("greeting")),
    ("hello", Original::Handler("hello")),
    ("mail", Original::Handler("mail")),
    ("recipient", Original::Handler("recipient")),
    ("data", Original::Handler("data")),
    ("dovecot_delivery", Original::Handler("delivery")),
    ("reset", Original::Handler("reset")),
    ("quit", Original::Handler("quit")),
    ("unknown_command", Original::Handler("unknown_command")),
    ("verify_attempt_delivery", Original::Handler("verify")),
    ("data_file", Original::Implicit("delivery keeps the message itself")),
    (
        "post_data_reset",
        Original::Implicit("a transaction always ends with its data"),
    ),
    ("starttls", Original::LeftOut),
    ("spf_validator", Original::LeftOut),
    ("domain_validator", Original::LeftOut),
    ("undeliverable_notification_validator", Original::LeftOut),
];

/// One chain file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChainFile {
    /// Entries by verb in upper case, `__OPEN__`, `__DATA__`, `__DEFAULT__` or `__CLOSE__`. A verb without a key takes
    /// `__DEFAULT__`.
    pub verbs: BTreeMap<String, Vec<Entry>>,
    /// `_chain: evaluate`: default all.
    pub evaluate: Evaluate,
    /// `_chain: combine`: default severity.
    pub combine: Combine,
}

/// Who still runs once a verdict stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Evaluate {
    /// Every handler, for research.
    #[default]
    All,
    /// None but observers.
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
    /// `handler`: one of [`HANDLERS`].
    pub handler: String,
    /// `id`: name of the entry in logs, unique in its verb. Default: the handler's name, from its second entry on with `#2`, `#3`.
    pub id: String,
    /// `with`: as written, settings that differ from the handler's file.
    pub with: Option<Node>,
    /// The handler's file and `with` together.
    pub settings: Settings,
    /// `mode`: default enforce.
    pub mode: Mode,
    /// `timeout`: for all that the handler waits for, 1s to 5m. Default 10s.
    pub timeout: Duration,
    /// `on_error`: what its failure means. Default defer.
    pub on_error: OnError,
    /// Line of the entry in its file, from 1.
    pub line: usize,
}

/// Whether a handler's verdict counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It counts.
    Enforce,
    /// It is recorded only.
    Observe,
    /// The handler does not run.
    Off,
}

/// What the failure of a handler means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// 451 4.3.0.
    Defer,
    /// No opinion.
    Pass,
    /// 550.
    Reject,
}

/// The handler files that `with` starts from.
pub(super) struct FileSettings<'a> {
    pub(super) greeting: &'a Greeting,
    pub(super) hello: &'a Hello,
}

impl ChainFile {
    /// Reads the document of a chain file.
    pub(super) fn read(root: &Field<'_>, files: &FileSettings<'_>) -> ChainFile {
        let mut chain = ChainFile::default();
        let Some(section) = root.section() else {
            return chain;
        };
        let keys = section.all();
        if keys.iter().all(|(name, _, _)| name == "_chain") {
            root.fault("expected handlers for at least one verb, found none".to_owned());
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
                let room = MOST_ENTRIES.saturating_sub(chain.verbs.values().map(Vec::len).sum());
                let entries = read_entries(&value, files, room);
                if seen.contains(&verb) {
                    at.fault(format!("expected {verb} once, found it again"));
                } else if let Some(entries) = entries {
                    chain.verbs.insert(verb.clone(), entries);
                }
                seen.push(verb);
            }
        }
        chain
    }

    /// Whether some entry names the handler.
    pub fn uses(&self, handler: &str) -> bool {
        self.verbs.values().flatten().any(|entry| entry.handler == handler)
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

fn is_verb(name: &str) -> bool {
    matches!(name, "__OPEN__" | "__DATA__" | "__DEFAULT__" | "__CLOSE__")
        || (!name.is_empty() && name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// The entries of one verb; none when all of them are implicit or left out, so that `__DEFAULT__` takes the verb.
fn read_entries(field: &Field<'_>, files: &FileSettings<'_>, room: usize) -> Option<Vec<Entry>> {
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
        let Some((mut entry, id)) = read_entry(item, files) else {
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

fn read_entry<'a>(item: &Field<'a>, files: &FileSettings<'_>) -> Option<(Entry, WithId<'a>)> {
    let section = item.section()?;
    let handler = match (section.get("handler"), section.get("module"), section.get("class")) {
        (Some(handler), None, None) => known_handler(&handler),
        (Some(handler), _, _) => {
            handler.fault("expected handler or module and class, found both".to_owned());
            None
        }
        (None, Some(module), class) => {
            if let Some(class) = class {
                class.text();
            }
            original_handler(&module)
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
    section.read("timeout", &mut timeout, |f| {
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
    let settings = read_settings(handler, with.as_ref(), files);
    let entry = Entry {
        handler: handler.to_owned(),
        id: handler.to_owned(),
        with: with.map(|field| field.node().clone()),
        settings,
        mode,
        timeout,
        on_error,
        line: item.line(),
    };
    Some((entry, id))
}

fn known_handler(field: &Field<'_>) -> Option<&'static str> {
    let name = field.scalar();
    let found = HANDLERS.iter().find(|known| name.as_deref() == Some(**known));
    if found.is_none() {
        field.fault(format!(
            "expected {}, found the unknown handler {}",
            alternatives(HANDLERS),
            field.node()
        ));
    }
    found.copied()
}

fn original_handler(field: &Field<'_>) -> Option<&'static str> {
    let module = field.text()?;
    let name = module.strip_prefix("rsmtpd.handlers.").unwrap_or(&module);
    match ORIGINALS.iter().find(|(known, _)| *known == name) {
        Some((_, Original::Handler(handler))) => Some(handler),
        Some((_, Original::Implicit(why))) => {
            field.note(format!("{name} is not needed: {why}"));
            None
        }
        Some((_, Original::LeftOut)) => {
            field.note(format!("{name} is not available yet and left out"));
            None
        }
        None => {
            field.fault(format!(
                "expected a module of rsmtpd.handlers that is available, found the unknown handler {module:?}"
            ));
            None
        }
    }
}

fn read_settings(handler: &str, with: Option<&Field<'_>>, files: &FileSettings<'_>) -> Settings {
    match handler {
        "greeting" => {
            let mut greeting = files.greeting.clone();
            if let Some(with) = with {
                greeting.read(with);
            }
            Settings::Greeting(greeting)
        }
        "hello" => {
            let mut hello = files.hello.clone();
            if let Some(with) = with {
                hello.read(with);
            }
            Settings::Hello(hello)
        }
        _ => {
            if let Some(with) = with {
                with.fault(format!(
                    "expected nothing, because {handler} takes no settings here, found {}",
                    with.node()
                ));
            }
            Settings::None
        }
    }
}
