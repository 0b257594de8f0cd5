//! Reading a file key by key: every key names what it expects, and what is left over or wrong becomes a fault.
//!
//! Nothing here stops at the first fault: a wrong value leaves the default in place and the reading goes on. Handlers read
//! their settings with these types as well, from the [`Part`](super::Part)s that the configuration hands over.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::duration::{format_duration, parse_duration};
use super::fault::Fault;
use super::load::{self, Node, Value};
use super::place::{Place, Source};

/// Faults reported for one file; what lies beyond is one line that counts them.
const MOST_FAULTS: usize = 100;
/// Octets read again for the positions of these faults (each costs the whole file): in a file of megabytes fewer are reported.
const MOST_READ_AGAIN: usize = 8 << 20;

/// Longest text of a reply as configured: leaves room for variables within 512 octets (RFC 5321 4.5.3.1.5).
const LONGEST_REPLY: usize = 400;

/// One file being read: its text for positions, and what was found wrong so far.
pub(super) struct File {
    source: Arc<Source>,
    faults: RefCell<Vec<Mark>>,
    notes: RefCell<Vec<Mark>>,
}

/// A fault or note before its position is known.
struct Mark {
    serial: Option<usize>,
    key: String,
    message: String,
}

impl File {
    /// A file with its whole text.
    pub(super) fn new(name: &str, text: String) -> File {
        File::over(Arc::new(Source {
            name: name.to_owned(),
            text,
        }))
    }

    /// A file that was read before.
    pub(super) fn over(source: Arc<Source>) -> File {
        File {
            source,
            faults: RefCell::default(),
            notes: RefCell::default(),
        }
    }

    /// The document, or none after a syntax fault, which is pushed to `faults`.
    pub(super) fn parse(&self, faults: &mut Vec<Fault>) -> Option<Node> {
        match load::parse(&self.source.text) {
            Ok(node) => Some(node),
            Err(syntax) => {
                faults.push(Fault {
                    file: self.source.name.clone(),
                    line: syntax.line,
                    column: syntax.column,
                    key: String::new(),
                    message: format!("expected valid YAML, found: {}", syntax.message),
                });
                None
            }
        }
    }

    /// Hands over faults and notes, with their positions.
    pub(super) fn finish(self, faults: &mut Vec<Fault>, notes: &mut Vec<Fault>) {
        let marks = self.faults.take();
        faults.extend(self.located(marks));
        let marks = self.notes.take();
        notes.extend(self.located(marks));
    }

    fn located(&self, marks: Vec<Mark>) -> Vec<Fault> {
        let most = (MOST_READ_AGAIN / self.source.text.len().max(1)).clamp(1, MOST_FAULTS);
        let beyond = marks.len().saturating_sub(most);
        let mut located: Vec<Fault> = marks
            .into_iter()
            .take(most)
            .map(|mark| {
                let (line, column) = mark
                    .serial
                    .map_or((0, 0), |serial| load::locate(&self.source.text, serial));
                Fault {
                    file: self.source.name.clone(),
                    line,
                    column,
                    key: mark.key,
                    message: mark.message,
                }
            })
            .collect();
        located.sort();
        if beyond > 0 {
            let message = format!("{beyond} more faults");
            located.push(Fault {
                file: self.source.name.clone(),
                line: 0,
                column: 0,
                key: String::new(),
                message,
            });
        }
        located
    }

    /// The document as a value of this file, without a key.
    pub(super) fn root<'a>(&'a self, node: &'a Node) -> Field<'a> {
        self.field(String::new(), node)
    }

    /// A value of this file, with the path that leads to it.
    pub(super) fn field<'a>(&'a self, path: String, node: &'a Node) -> Field<'a> {
        Field { file: self, path, node }
    }
}

/// A value with the path that leads to it.
#[derive(Clone)]
pub struct Field<'a> {
    file: &'a File,
    path: String,
    node: &'a Node,
}

impl<'a> Field<'a> {
    /// The value itself.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        Place {
            source: Arc::clone(&self.file.source),
            path: self.path.clone(),
            serial: self.node.serial,
        }
    }

    /// Records that something else was expected here.
    pub fn expected(&self, expected: &str) {
        self.fault(format!("expected {expected}, found {}", self.node));
    }

    /// Records a fault in its own words.
    pub fn fault(&self, message: String) {
        let mark = Mark {
            serial: Some(self.node.serial),
            key: self.path.clone(),
            message,
        };
        self.file.faults.borrow_mut().push(mark);
    }

    /// Records something the administrator should know, which is no fault.
    pub fn note(&self, message: String) {
        let mark = Mark {
            serial: Some(self.node.serial),
            key: self.path.clone(),
            message,
        };
        self.file.notes.borrow_mut().push(mark);
    }

    /// YAML 1.1 truth: yes, no, on, off, true, false, y, n in any case.
    pub fn boolean(&self) -> Option<bool> {
        let found = match &self.node.value {
            Value::Boolean(value) => Some(*value),
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" | "y" => Some(true),
                "no" | "off" | "false" | "n" => Some(false),
                _ => None,
            },
            _ => None,
        };
        if found.is_none() {
            self.expected("yes or no");
        }
        found
    }

    /// A whole number of the range.
    pub fn integer<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Option<T> {
        let found = match &self.node.value {
            Value::Integer(value) => u64::try_from(*value)
                .ok()
                .filter(|value| range.contains(value))
                .and_then(|value| T::try_from(value).ok()),
            _ => None,
        };
        if found.is_none() {
            self.expected(&format!("{} to {}", range.start(), range.end()));
        }
        found
    }

    /// Text of at least one character, on one line.
    pub fn text(&self) -> Option<String> {
        let found = self
            .scalar()
            .filter(|text| !text.is_empty() && !text.chars().any(char::is_control));
        if found.is_none() {
            self.expected("a line of text");
        }
        found
    }

    /// The text of a reply: one line of ASCII (RFC 5321 4.2) that leaves room for response variables.
    pub fn reply(&self) -> Option<String> {
        let text = self.text()?;
        if !text.is_ascii() {
            self.expected("a line of ASCII text");
            return None;
        }
        if text.len() > LONGEST_REPLY {
            self.fault(format!("expected at most {LONGEST_REPLY} octets, found {}", text.len()));
            return None;
        }
        Some(text)
    }

    /// A path from the root.
    pub fn path(&self) -> Option<PathBuf> {
        let found = self.scalar().map(PathBuf::from).filter(|path| path.is_absolute());
        if found.is_none() {
            self.expected("an absolute path");
        }
        found
    }

    /// Any scalar as text: a name may look like a number or a truth value.
    pub fn scalar(&self) -> Option<String> {
        match &self.node.value {
            Value::Text(text) => Some(text.clone()),
            Value::Integer(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Boolean(value) => Some(value.to_string()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// `90`, `30s`, `5m`, `1h`, `5d`, or several of these together, within the range.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let found = match &self.node.value {
            Value::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            Value::Text(text) => parse_duration(text),
            _ => None,
        };
        let found = found.filter(|duration| range.contains(duration));
        if found.is_none() {
            let (from, to) = (format_duration(*range.start()), format_duration(*range.end()));
            self.expected(&format!("a duration of {from} to {to}"));
        }
        found
    }

    /// One of some words.
    pub fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = match &self.node.value {
            // `off` among the words is text to serde_yaml, but `false` is what YAML 1.1 tools write for it.
            Value::Boolean(false) => Some("off".to_owned()),
            _ => self.scalar(),
        };
        let found = text.and_then(|text| words.iter().find(|(word, _)| *word == text));
        if found.is_none() {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.expected(&alternatives(&names));
        }
        found.map(|(_, value)| *value)
    }

    /// The items of a list; a single scalar counts as a list of one where `single` says so.
    pub fn items(&self, single: bool) -> Option<Vec<Field<'a>>> {
        match &self.node.value {
            Value::List(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, node)| Field {
                        file: self.file,
                        path: format!("{}[{index}]", self.path),
                        node,
                    })
                    .collect(),
            ),
            Value::Null | Value::Map(_) => {
                self.expected("a list");
                None
            }
            _ if single => Some(vec![self.clone()]),
            _ => {
                self.expected("a list");
                None
            }
        }
    }

    /// The mapping that is here; call [`Section::finish`] when all keys are read.
    pub fn section(&self) -> Option<Section<'a>> {
        match &self.node.value {
            Value::Map(entries) => Some(Section {
                field: self.clone(),
                entries,
                known: RefCell::default(),
                ignored: RefCell::default(),
            }),
            _ => {
                self.expected("keys with values");
                None
            }
        }
    }
}

/// A mapping whose keys are asked for one by one.
pub struct Section<'a> {
    field: Field<'a>,
    entries: &'a [(Node, Node)],
    known: RefCell<Vec<&'static str>>,
    ignored: RefCell<BTreeSet<usize>>,
}

impl<'a> Section<'a> {
    /// The mapping as one value.
    pub fn field(&self) -> &Field<'a> {
        &self.field
    }

    /// The value of a key; none when it is absent or empty.
    pub fn get(&self, key: &'static str) -> Option<Field<'a>> {
        self.known.borrow_mut().push(key);
        let (_, node) = self.entries.iter().find(|(name, _)| is_text(name, key))?;
        (node.value != Value::Null).then(|| self.child(key, node))
    }

    /// Whether the key is there without a value, or with `null`.
    pub fn is_null(&self, key: &str) -> bool {
        self.null(key).is_some()
    }

    /// The place of the value of a key that is there without one, or with `null`.
    pub fn null(&self, key: &str) -> Option<Place> {
        let (_, node) = self.entries.iter().find(|(name, _)| is_text(name, key))?;
        (node.value == Value::Null).then(|| self.child(key, node).place())
    }

    /// Puts the value of a key into `place`; a wrong one is a fault and leaves the default.
    pub fn read<T>(&self, key: &'static str, place: &mut T, with: impl FnOnce(&Field<'a>) -> Option<T>) {
        if let Some(value) = self.get(key).as_ref().and_then(with) {
            *place = value;
        }
    }

    /// As `read`, for a value that may be absent.
    pub fn read_option<T>(&self, key: &'static str, place: &mut Option<T>, with: impl FnOnce(&Field<'a>) -> Option<T>) {
        if let Some(value) = self.get(key).as_ref().and_then(with) {
            *place = Some(value);
        }
    }

    /// The first entry, whose key is a name rather than a setting: name, position of the name, value unless empty.
    pub fn first(&self) -> Option<(String, Field<'a>, Option<Field<'a>>)> {
        let (key, node) = self.entries.first()?;
        self.ignored.borrow_mut().insert(0);
        let at = self.child(&key_name(key), key);
        let name = at.scalar()?;
        let value = (node.value != Value::Null).then(|| self.child(&name, node));
        Some((name, at, value))
    }

    /// Whether more than one entry is here.
    pub fn has_more(&self) -> bool {
        self.entries.len() > 1
    }

    /// Every entry as (key, position of the key, value), for mappings whose keys are names. A key that is no name, or stands
    /// twice, is a fault and left out.
    pub fn all(&self) -> Vec<(String, Field<'a>, Field<'a>)> {
        let mut found: Vec<(String, Field<'a>, Field<'a>)> = Vec::new();
        let mut names = BTreeSet::new();
        for (index, (key, node)) in self.entries.iter().enumerate() {
            self.ignored.borrow_mut().insert(index);
            let at = self.child(&key_name(key), key);
            match at.scalar() {
                None => at.expected("a name as key"),
                Some(name) if !names.insert(name.clone()) => {
                    at.fault("expected each key once, found it again".to_owned());
                }
                Some(name) => {
                    let value = self.child(&name, node);
                    found.push((name, at, value));
                }
            }
        }
        found
    }

    /// The keys asked for so far.
    pub fn known(&self) -> Vec<&'static str> {
        self.known.borrow().clone()
    }

    /// Faults for keys that nobody asked for, and for keys that stand twice.
    pub fn finish(self) {
        let known = self.known.borrow();
        let mut seen = BTreeSet::new();
        for (index, (key, _)) in self.entries.iter().enumerate() {
            let new = seen.insert(key_name(key));
            if self.ignored.borrow().contains(&index) {
                continue;
            }
            let at = self.child(&key_name(key), key);
            if !new {
                at.fault("expected each key once, found it again".to_owned());
            } else if !known.iter().any(|name| is_text(key, name)) {
                at.fault(format!("expected {}, found an unknown key", alternatives(&known)));
            }
        }
    }

    fn child(&self, key: &str, node: &'a Node) -> Field<'a> {
        let path = if self.field.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.field.path)
        };
        Field {
            file: self.field.file,
            path,
            node,
        }
    }
}

fn is_text(node: &Node, text: &str) -> bool {
    matches!(&node.value, Value::Text(found) if found == text)
}

fn key_name(key: &Node) -> String {
    match &key.value {
        Value::Text(text) => text.clone(),
        _ => key.to_string(),
    }
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn alternatives(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_in_every_spelling() {
        let text = "[yes, No, ON, off, true, False, y, n, 'yes', maybe, 1]";
        let file = File::new("x.yaml", text.to_owned());
        let node = file.parse(&mut Vec::new()).unwrap();
        let found: Vec<Option<bool>> = file
            .root(&node)
            .items(false)
            .unwrap()
            .iter()
            .map(Field::boolean)
            .collect();
        let (t, f) = (Some(true), Some(false));
        assert_eq!(found, [t, f, t, f, t, f, t, f, t, None, None]);
        let mut faults = Vec::new();
        file.finish(&mut faults, &mut Vec::new());
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            [
                "x.yaml:1:46: [9]: expected yes or no, found \"maybe\"",
                "x.yaml:1:53: [10]: expected yes or no, found 1"
            ]
        );
    }
}
