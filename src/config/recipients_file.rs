//! `simple_recipient_validator.yaml` and the lists it names: read into [`Recipients`].

use super::directory::Directory;
use super::fault::Fault;
use super::load::Value;
use super::recipients::{
    DomainRecipients, List, Recipient, Recipients, Table, Tagging, canonical, is_tagging_character,
};
use super::section::{Field, Section};

/// An alias's target, kept until every entry is known.
struct Target<'a> {
    field: Field<'a>,
    /// In its canonical form.
    domain: String,
    /// Lower case.
    local: String,
}

/// Reads the document; `directory` gives the recipients files, whose faults go to `faults`.
pub(super) fn read(root: &Field<'_>, directory: &mut Directory, faults: &mut Vec<Fault>) -> Recipients {
    let mut all = Recipients::default();
    let Some(section) = root.section() else {
        return all;
    };
    let mut soft = false;
    section.read("allow_soft_delivery", &mut soft, Field::boolean);
    let tagging = read_tagging(&section, &Tagging::default());
    let domains = section.get("domains").and_then(|field| field.section());
    let mut targets = Vec::new();
    if let Some(domains) = &domains {
        for (name, at, value) in domains.all() {
            let (key, name) = (canonical(&name), name.to_lowercase());
            if !is_domain(&name) {
                at.expected("a domain");
            } else if all.domains.contains_key(&key) {
                at.fault("expected each domain once, found it again".to_owned());
            } else {
                let mut domain = DomainRecipients {
                    name,
                    allow_soft_delivery: soft,
                    tagging: tagging.clone(),
                    ..DomainRecipients::default()
                };
                if value.node().value != Value::Null {
                    read_domain(&mut domain, &value, directory, faults, &mut targets);
                }
                all.first_domain.get_or_insert_with(|| key.clone());
                all.domains.insert(key, domain);
            }
        }
    }
    section.finish();
    if all.domains.is_empty() {
        root.fault("expected domains with at least one domain, found none".to_owned());
    }
    check_targets(&all, &targets);
    spell_targets(&mut all);
    all
}

fn read_domain<'a>(
    domain: &mut DomainRecipients,
    field: &Field<'a>,
    directory: &mut Directory,
    faults: &mut Vec<Fault>,
    targets: &mut Vec<Target<'a>>,
) {
    let Some(section) = field.section() else {
        return;
    };
    section.read("allow_soft_delivery", &mut domain.allow_soft_delivery, Field::boolean);
    domain.tagging = read_tagging(&section, &domain.tagging);
    for item in section
        .get("recipients")
        .and_then(|f| f.items(false))
        .unwrap_or_default()
    {
        read_recipient(domain, &item, targets);
    }
    if let Some(file) = section.get("recipients_file") {
        domain.list = read_list(&file, &domain.name, directory, faults);
    }
    section.finish();
}

fn read_tagging(section: &Section<'_>, outer: &Tagging) -> Tagging {
    let mut tagging = outer.clone();
    section.read("allow_tagging", &mut tagging.allow, Field::boolean);
    section.read("tagging_characters", &mut tagging.characters, |field| {
        let found = field.scalar().filter(|text| text.chars().all(is_tagging_character));
        if found.is_none() {
            field.expected("characters out of !#$%&'*+-/=?^_`{|}~");
        }
        found
    });
    tagging
}

/// `- name`, `- name: {options}`, or the original's `- name:` with the options beside it.
fn read_recipient<'a>(domain: &mut DomainRecipients, item: &Field<'a>, targets: &mut Vec<Target<'a>>) {
    let mut entry = Recipient {
        enabled: true,
        tagging: domain.tagging.clone(),
        alias: false,
        deliver_to: Vec::new(),
    };
    let mut named = item.clone();
    let name = match &item.node().value {
        Value::Map(_) => {
            let Some(section) = item.section() else {
                return;
            };
            let Some((name, at, value)) = section.first() else {
                item.expected("a recipient's name");
                return;
            };
            named = at;
            if let (Some(inner), false) = (value.as_ref().and_then(Field::section), section.has_more()) {
                read_options(&mut entry, &inner, targets);
                inner.finish();
            } else {
                read_options(&mut entry, &section, targets);
            }
            section.finish();
            Some(name)
        }
        _ => item.scalar(),
    };
    let Some(name) = name.filter(|name| is_local_part(name)) else {
        named.expected("a recipient's name without its domain");
        return;
    };
    let key = name.to_lowercase();
    if key == "*" {
        if entry.deliver_to.is_empty() {
            named.fault("expected deliver_to, because a catch-all needs a mailbox, found none".to_owned());
        } else if domain.catch_all.replace(entry).is_some() {
            named.fault("expected each recipient once, found it again".to_owned());
        }
        return;
    }
    if key == "postmaster" && !entry.enabled {
        named.fault("expected postmaster to be enabled (RFC 5321 4.5.1), found enabled: no".to_owned());
    }
    if entry.deliver_to.is_empty() {
        entry.deliver_to.push((domain.name.clone(), name));
    }
    if domain.recipients.insert(key, entry).is_some() {
        named.fault("expected each recipient once, found it again".to_owned());
    }
}

fn read_options<'a>(entry: &mut Recipient, section: &Section<'a>, targets: &mut Vec<Target<'a>>) {
    entry.tagging = read_tagging(section, &entry.tagging);
    section.read("enabled", &mut entry.enabled, Field::boolean);
    let Some(field) = section.get("deliver_to") else {
        return;
    };
    entry.alias = true;
    let items = field.items(true).unwrap_or_default();
    if items.is_empty() {
        field.fault("expected at least one address, found none".to_owned());
    }
    for item in items {
        let address = item.scalar().unwrap_or_default();
        match address.rsplit_once('@') {
            Some((local, at)) if is_local_part(local) && local != "*" && is_domain(&at.to_lowercase()) => {
                let mailbox = (at.to_lowercase(), local.to_owned());
                targets.push(Target {
                    field: item,
                    domain: canonical(at),
                    local: local.to_lowercase(),
                });
                entry.deliver_to.push(mailbox);
            }
            _ => item.expected("an address with its domain"),
        }
    }
}

/// Aliases go one level deep: a target must not be an alias itself.
fn check_targets(all: &Recipients, targets: &[Target<'_>]) {
    for target in targets {
        let Some(domain) = all.domains.get(&target.domain) else {
            target
                .field
                .note("is no address of these domains; mail goes to its mailbox all the same".to_owned());
            continue;
        };
        match domain.recipients.get(&target.local) {
            Some(entry) if !entry.enabled => target.field.expected("a recipient that is enabled"),
            Some(entry) if entry.alias => target.field.expected("a recipient that is no alias itself"),
            Some(_) => {}
            None if domain.listed(&target.local).is_some() => {}
            None => {
                target
                    .field
                    .note("is not among the recipients; mail goes to its mailbox all the same".to_owned());
            }
        }
    }
}

/// Gives each alias's targets the spelling of their own entries, so that one mailbox has one name.
fn spell_targets(all: &mut Recipients) {
    let known = all.clone();
    for domain in all.domains.values_mut() {
        for entry in domain
            .recipients
            .values_mut()
            .chain(domain.catch_all.as_mut())
            .filter(|entry| entry.alias)
        {
            for (at, local) in &mut entry.deliver_to {
                let Some(domain) = known.domains.get(&canonical(at)) else {
                    continue;
                };
                at.clone_from(&domain.name);
                if let Some(spelling) = domain.spelling(&local.to_lowercase()) {
                    *local = spelling;
                }
            }
            let mut seen = Vec::new();
            entry.deliver_to.retain(|mailbox| {
                let new = !seen.contains(mailbox);
                seen.push(mailbox.clone());
                new
            });
        }
    }
}

/// One local part, or address of this domain, a line; `#` begins a comment line.
fn read_list(field: &Field<'_>, domain: &str, directory: &mut Directory, faults: &mut Vec<Fault>) -> Option<List> {
    let name = field
        .scalar()
        .filter(|name| !name.is_empty() && !name.starts_with('.') && !name.chars().any(|c| c == '/' || c.is_control()));
    let Some(name) = name else {
        field.expected("the name of a file in the configuration directory");
        return None;
    };
    let stamp = directory.look_at(&name);
    if let Some(list) = directory.earlier.list(domain, &name, stamp.as_ref()) {
        return Some(list);
    }
    let text = match directory.read(&name) {
        Ok(Some(text)) => text,
        Ok(None) => {
            field.fault(format!(
                "expected a file in the configuration directory, found no {name}"
            ));
            return None;
        }
        Err(why) if why.line > 0 => {
            faults.push(Fault {
                file: name,
                line: why.line,
                column: why.column,
                key: String::new(),
                message: why.message,
            });
            return None;
        }
        Err(why) => {
            field.fault(format!("{name}: {}", why.message));
            return None;
        }
    };
    let table = table(&name, &text, domain, faults);
    Some(List {
        file: name,
        stamp,
        table,
    })
}

/// What stands in the list of this name.
fn table(name: &str, text: &str, domain: &str, faults: &mut Vec<Fault>) -> Table {
    let mut names = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let local = match line.rsplit_once('@') {
            Some((local, at)) if canonical(at) == canonical(domain) => local,
            _ => line,
        };
        if is_local_part(local) && local != "*" {
            names.push(local);
        } else if faults.len() < 100 {
            faults.push(Fault {
                file: name.to_owned(),
                line: index + 1,
                column: 1,
                key: String::new(),
                message: format!(
                    "expected a recipient of {domain}, found {:?}",
                    line.chars().take(80).collect::<String>()
                ),
            });
        }
    }
    Table::new(names)
}

fn is_local_part(name: &str) -> bool {
    (1..=64).contains(&name.len()) && !name.contains('@') && !name.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// `name` in lower case.
fn is_domain(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .chars()
                    .all(|c| c.is_alphanumeric() || c == '-' || c == '_' || !c.is_ascii())
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}
