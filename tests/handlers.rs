//! Every handler is described four times: in the registry, by its YAML file, in the manual, and by its code. They agree.

mod common;

use common::root;
use rsmtpd::chain::registry::{self, Registered};
use rsmtpd::config::Part;
use std::fs;

fn read(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

/// A shipped file with the keys that stand behind `#` switched on.
fn switched_on(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|text| line(text) + "\n").collect()
}

/// The keys of a file with their values as text; a truth value as it is written.
fn shown(part: &Part) -> Vec<(String, String)> {
    part.read(&mut Vec::new(), |root| {
        let section = root.section().expect("keys");
        let pairs = section.all();
        pairs
            .iter()
            .map(|(key, _, value)| (key.clone(), value.scalar().unwrap_or_default()))
            .collect()
    })
}

/// The section of a handler in the manual.
fn section<'a>(page: &'a str, id: &str) -> Option<&'a str> {
    let begin = page.find(&format!("\n.Ss {id}\n"))? + 1;
    let rest = &page[begin..];
    let end = rest[1..]
        .find("\n.Ss ")
        .or_else(|| rest.find("\n.Sh "))
        .map_or(rest.len(), |at| at + 1);
    Some(&rest[..end])
}

/// The keys that the section lists behind the name of the file, with what it says of each.
fn listed(section: &str, file: &str) -> Option<Vec<(String, String)>> {
    let rest = &section[section.find(&format!(".Pa {file}"))?..];
    let list = rest.split(".Bl ").nth(1)?.split("\n.El").next()?;
    let items = list.split("\n.It Cm ").skip(1);
    Some(
        items
            .map(|item| item.split_once('\n').unwrap_or((item, "")))
            .map(|(key, text)| (key.to_owned(), text.to_owned()))
            .collect(),
    )
}

/// Whether the text ends with `Default VALUE.`, in mark-up or in words.
fn says_default(text: &str, value: &str) -> bool {
    let value = if value.is_empty() { "none" } else { value };
    let plain = text.replace("\n", " ").replace("\\-", "-").replace("\\&", "");
    plain.ends_with(&format!("Default .Ql {value} .")) || plain.ends_with(&format!("Default {value}."))
}

fn differences(handler: &Registered, page: &str) -> Vec<String> {
    let id = handler.facts.id;
    let (keys, file) = (handler.keys(), format!("{id}.yaml"));
    let mut wrong = Vec::new();
    let code = format!("src/handlers/{id}.rs");
    if !read(&code).is_some_and(|text| text.starts_with("//! ") && text.contains("Notes: ") && text.contains("#[test]"))
    {
        wrong.push(format!(
            "{code} is missing, or has no description, no word on notes, or no tests"
        ));
    }
    let Some(section) = section(page, id) else {
        wrong.push(format!("{id} has no section in rsmtpd-handlers.7"));
        return wrong;
    };
    if keys.is_empty() {
        // delivery.yaml is the delivery process's.
        if id != "delivery" && read(&format!("config/{file}")).is_some() {
            wrong.push(format!("config/{file} is shipped, but {id} has no settings"));
        }
        return wrong;
    }
    let Some(text) = read(&format!("config/{file}")) else {
        wrong.push(format!("config/{file} is missing"));
        return wrong;
    };
    let mut faults = Vec::new();
    let part = Part::parse(&file, &switched_on(&text)).unwrap_or_else(|fault| panic!("{fault}"));
    if !handler.says_default(&part, &mut faults) {
        wrong.push(format!(
            "config/{file} shows something else than the defaults of {code}"
        ));
    }
    wrong.extend(faults.iter().map(ToString::to_string));
    let shown = shown(&part);
    if shown.iter().map(|(key, _)| key.as_str()).ne(keys.iter().copied()) {
        wrong.push(format!(
            "config/{file} shows {shown:?} instead of {keys:?} in this order"
        ));
    }
    let Some(listed) = listed(section, &file) else {
        wrong.push(format!("{id} in rsmtpd-handlers.7 does not list the keys of {file}"));
        return wrong;
    };
    if listed.iter().map(|(key, _)| key.as_str()).ne(keys.iter().copied()) {
        wrong.push(format!(
            "{id} in rsmtpd-handlers.7 lists {listed:?} instead of {keys:?}"
        ));
    }
    for (key, value) in &shown {
        let said = listed.iter().find(|(name, _)| name == key);
        if !said.is_some_and(|(_, text)| says_default(text, value)) {
            wrong.push(format!(
                "{id} in rsmtpd-handlers.7 does not end {key} with: Default {value}."
            ));
        }
    }
    wrong
}

fn page() -> String {
    read("man/rsmtpd-handlers.7").expect("the manual")
}

#[test]
fn code_yaml_and_manual_agree() {
    let page = page();
    let wrong: Vec<String> = registry::HANDLERS
        .iter()
        .flat_map(|one| differences(one, &page))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_manual_has_the_handlers_in_the_order_of_the_registry_and_no_other() {
    let page = page();
    let handlers = page
        .split(".Sh HANDLERS")
        .nth(1)
        .and_then(|rest| rest.split("\n.Sh ").next());
    let sections: Vec<&str> = handlers
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix(".Ss "))
        .collect();
    let ids: Vec<&str> = registry::HANDLERS.iter().map(|one| one.facts.id).collect();
    assert_eq!(sections, ids);
}

#[test]
fn every_file_of_a_handler_is_in_the_registry() {
    let mut files: Vec<String> = fs::read_dir(root().join("src/handlers"))
        .expect("handlers")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".rs")?.to_owned()))
        .filter(|name| name != "mod")
        .collect();
    files.sort();
    let mut ids: Vec<&str> = registry::HANDLERS.iter().map(|one| one.facts.id).collect();
    ids.sort_unstable();
    assert_eq!(files, ids);
}

/// The test above would notice each kind of drift.
#[test]
fn drift_is_noticed() {
    let page = page();
    let hello = registry::find("hello").expect("hello");
    assert_eq!(differences(hello, &page), [""; 0]);
    for (from, to) in [
        (".Ss hello", ".Ss helo"),
        (".It Cm advertise_pipelining_extension", ".It Cm advertise_pipelining"),
        ("can be told apart.\nDefault yes.", "can be told apart.\nDefault no."),
        (".Pa hello.yaml", ".Pa helo.yaml"),
    ] {
        let drifted = page.replacen(from, to, usize::MAX);
        assert_ne!(drifted, page, "{from} is not there");
        assert_ne!(differences(hello, &drifted), [""; 0], "{from}");
    }
    let mut faults = Vec::new();
    let other = Part::parse("hello.yaml", "advertise_pipelining_extension: no\n").expect("YAML");
    assert!(!hello.says_default(&other, &mut faults) && faults.is_empty());
}
