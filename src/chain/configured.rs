//! From a configuration to a chain: the one place where the two meet.

use std::sync::Arc;

use super::{Chain, ChainFault, Combine, Directory, Entry, Evaluate, Found, Layout, Mode, OnError, Value};
use crate::config::{self, ChainFile, Configuration, Fault, Faults, Lookup, Node, Recipients};
use crate::session::Mailbox;
use crate::smtp::address::{Domain, ForwardPath};

/// Where mail for soft recipients goes below the quarantine, one box a domain.
const SOFT_MAILBOX: &str = "soft";

/// Builds the chain of this name, with the handlers' files and the recipients of `configuration`.
///
/// # Errors
/// Every fault, with the chain's file name.
pub fn build(configuration: &Configuration, name: &str) -> Result<Chain, Faults> {
    let file = format!("command_handler_{name}.yaml");
    let Some(chain) = configuration.chains.get(name) else {
        return Err(Faults(vec![fault(
            &file,
            0,
            "",
            "expected a chain of this name, found none",
        )]));
    };
    let directory: Arc<dyn Directory> = Arc::new(Known(configuration.recipients.clone()));
    let files = |handler: &str| settings_file(configuration, handler);
    Chain::build(&layout(chain), &files, &directory).map_err(|faults| located(&file, chain, &faults))
}

fn located(file: &str, chain: &ChainFile, faults: &[ChainFault]) -> Faults {
    let one = |found: &ChainFault| {
        let (verb, number) = &found.place;
        let line = chain
            .verbs
            .get(verb)
            .and_then(|entries| entries.get(*number))
            .map_or(0, |entry| entry.line);
        let key = if found.key.is_empty() {
            verb.clone()
        } else {
            format!("{verb}.{}", found.key)
        };
        fault(file, line, &key, &found.message)
    };
    Faults(faults.iter().map(one).collect())
}

fn fault(file: &str, line: usize, key: &str, message: &str) -> Fault {
    Fault {
        file: file.to_owned(),
        line,
        column: usize::from(line > 0),
        key: key.to_owned(),
        message: message.to_owned(),
    }
}

fn layout(chain: &ChainFile) -> Layout {
    let entry = |entry: &config::Entry| Entry {
        handler: entry.handler.clone(),
        id: Some(entry.id.clone()),
        with: entry.with.as_ref().map(value),
        mode: match entry.mode {
            config::Mode::Enforce => Mode::Enforce,
            config::Mode::Observe => Mode::Observe,
            config::Mode::Off => Mode::Off,
        },
        timeout: entry.timeout,
        on_error: match entry.on_error {
            config::OnError::Defer => OnError::Defer,
            config::OnError::Pass => OnError::Pass,
            config::OnError::Reject => OnError::Reject,
        },
    };
    Layout {
        evaluate: match chain.evaluate {
            config::Evaluate::All => Evaluate::All,
            config::Evaluate::UntilDecided => Evaluate::UntilDecided,
        },
        combine: match chain.combine {
            config::Combine::Severity => Combine::Severity,
            config::Combine::Last => Combine::Last,
        },
        verbs: chain
            .verbs
            .iter()
            .map(|(verb, entries)| (verb.clone(), entries.iter().map(entry).collect()))
            .collect(),
    }
}

fn settings_file(configuration: &Configuration, handler: &str) -> Option<Value> {
    let text = |text: &str| Value::Text(text.to_owned());
    match handler {
        "greeting" => Some(Value::Map(vec![(
            "message".to_owned(),
            text(&configuration.greeting.message),
        )])),
        "hello" => Some(Value::Map(vec![
            ("message".to_owned(), text(&configuration.hello.message)),
            (
                "advertise_pipelining_extension".to_owned(),
                Value::Boolean(configuration.hello.advertise_pipelining_extension),
            ),
        ])),
        _ => None,
    }
}

fn value(node: &Node) -> Value {
    match &node.value {
        config::Value::Null => Value::Null,
        config::Value::Boolean(value) => Value::Boolean(*value),
        config::Value::Integer(value) => Value::Integer(*value),
        config::Value::Float(value) => Value::Text(value.to_string()),
        config::Value::Text(text) => Value::Text(text.clone()),
        config::Value::List(items) => Value::List(items.iter().map(value).collect()),
        config::Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|(key, content)| (key_text(key), value(content)))
                .collect(),
        ),
    }
}

fn key_text(key: &Node) -> String {
    match &key.value {
        config::Value::Text(text) => text.clone(),
        _ => key.to_string(),
    }
}

/// The configured recipients as the chain asks for them.
struct Known(Recipients);

impl Directory for Known {
    fn look_up(&self, path: &ForwardPath) -> Found {
        let (local, domain) = match path {
            ForwardPath::Postmaster => ("postmaster", String::new()),
            ForwardPath::Mailbox(mailbox) => match mailbox.domain() {
                Domain::Name(name) => (mailbox.local_part(), name.clone()),
                _ => return Found::ForeignDomain,
            },
        };
        match self.0.lookup(local, &domain) {
            Lookup::Valid { deliver_to } => Found::Valid(
                deliver_to
                    .into_iter()
                    .map(|(domain, mailbox)| Mailbox { domain, mailbox })
                    .collect(),
            ),
            Lookup::Soft => Found::Soft(Mailbox {
                domain: domain.to_lowercase(),
                mailbox: SOFT_MAILBOX.to_owned(),
            }),
            Lookup::Disabled => Found::Disabled,
            Lookup::Unknown => Found::UnknownMailbox,
            Lookup::ForeignDomain => Found::ForeignDomain,
        }
    }
}
