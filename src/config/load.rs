//! YAML text in, a tree of nodes out: the only file that names the YAML crate.
//!
//! The crate tells a position only with an error, so nodes carry a serial number, and [`locate`] reads the text a second time
//! and fails on purpose at the node asked for. That costs nothing while the files are right.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, Visitor};

/// A value of a configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Place in the order of reading; what [`locate`] takes.
    pub(super) serial: usize,
    /// What is there.
    pub value: Value,
}

/// The content of a [`Node`]. Mappings keep their order and their duplicate keys.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~`, or nothing.
    Null,
    /// `true` or `false`; the other YAML 1.1 words arrive as text.
    Boolean(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// Text, quoted or not.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping.
    Map(Vec<(Node, Node)>),
}

impl fmt::Display for Node {
    /// As a fault names it after "found".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Null => f.write_str("nothing"),
            Value::Boolean(value) => write!(f, "{value}"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Text(text) if text.chars().count() > 80 => {
                let start: String = text.chars().take(80).collect();
                write!(f, "{start:?}…")
            }
            Value::Text(text) => write!(f, "{text:?}"),
            Value::List(_) => f.write_str("a list"),
            Value::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// Why a text is no YAML document, and where.
#[derive(Debug)]
pub(super) struct SyntaxFault {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

/// Brackets that may be open at once. The YAML crate allows 128 levels, and comes to that verdict in a time that grows with the
/// square of their number; room is left for brackets in text and comments.
const MOST_OPEN: i64 = 1000;

/// Reads one document. An empty one is an empty mapping.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxFault> {
    if let Some((line, column)) = opens_too_many(text) {
        return Err(SyntaxFault {
            line,
            column,
            message: format!("more than {MOST_OPEN} open brackets"),
        });
    }
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    {
        return Ok(Node {
            serial: 0,
            value: Value::Map(Vec::new()),
        });
    }
    let reading = Reading {
        next: Cell::new(0),
        target: None,
    };
    let document = Seed(&reading).deserialize(serde_yaml::Deserializer::from_str(text));
    document
        .map(|node| match node.value {
            Value::Null => Node {
                value: Value::Map(Vec::new()),
                ..node
            },
            _ => node,
        })
        .map_err(|error| {
            let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
            let whole = error.to_string();
            let message = match whole.rfind(" at line ") {
                Some(end) => whole.get(..end).unwrap_or_default().to_owned(),
                None => whole,
            };
            SyntaxFault { line, column, message }
        })
}

/// Line and column, from 1, of the bracket that is one too many.
fn opens_too_many(text: &str) -> Option<(usize, usize)> {
    let mut open = 0;
    for (at, octet) in text.bytes().enumerate() {
        match octet {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open -= 1,
            _ => {}
        }
        if open > MOST_OPEN {
            return Some(position(text.as_bytes(), at));
        }
    }
    None
}

/// Line, and column in octets, from 1, of the octet at `at`.
pub(super) fn position(text: &[u8], at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.iter().filter(|&&octet| octet == b'\n').count();
    let column = before.iter().rev().take_while(|&&octet| octet != b'\n').count();
    (line + 1, column + 1)
}

/// Line and column of a node that [`parse`] made of this very text.
pub(super) fn locate(text: &str, serial: usize) -> (usize, usize) {
    let reading = Reading {
        next: Cell::new(0),
        target: Some(serial),
    };
    match Seed(&reading).deserialize(serde_yaml::Deserializer::from_str(text)) {
        Err(error) => error.location().map_or((1, 1), |at| (at.line(), at.column())),
        Ok(_) => (1, 1),
    }
}

/// One walk through a document.
struct Reading {
    next: Cell<usize>,
    target: Option<usize>,
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a Reading);

struct NodeVisitor<'a> {
    reading: &'a Reading,
    serial: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let serial = self.0.next.get();
        self.0.next.set(serial.saturating_add(1));
        deserializer.deserialize_any(NodeVisitor {
            reading: self.0,
            serial,
        })
    }
}

impl NodeVisitor<'_> {
    fn node<E: serde::de::Error>(&self, value: Value) -> Result<Node, E> {
        self.check()?;
        Ok(Node {
            serial: self.serial,
            value,
        })
    }

    fn check<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.reading.target == Some(self.serial) {
            Err(E::custom("here"))
        } else {
            Ok(())
        }
    }
}

impl<'de> Visitor<'de> for NodeVisitor<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain YAML without tags")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.node(Value::Boolean(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Node, E> {
        self.node(Value::Integer(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        self.node(Value::Integer(value.into()))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Node, E> {
        self.node(Value::Integer(value))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Node, E> {
        self.node(Value::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        self.node(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Node, E> {
        self.node(Value::Text(value.to_owned()))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(A::Error::custom("a tag, where none is known"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        self.check()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Seed(self.reading))? {
            items.push(item);
        }
        Ok(Node {
            serial: self.serial,
            value: Value::List(items),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        self.check()?;
        let mut entries = Vec::new();
        while let Some(key) = access.next_key_seed(Seed(self.reading))? {
            let value = access.next_value_seed(Seed(self.reading))?;
            entries.push((key, value));
        }
        Ok(Node {
            serial: self.serial,
            value: Value::Map(entries),
        })
    }
}
