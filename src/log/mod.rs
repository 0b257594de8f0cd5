//! One structured line an event: `event=reject session=6f1c peer=192.0.2.7 code=550`.
//!
//! Values that a client gave are quoted and escaped and cut, so that one event is always one line of
//! printable ASCII. This module makes text; the logger process writes it.

use std::fmt::Write as _;

/// Longest client-given value, in octets before escaping.
pub const VALUE_MAX: usize = 256;
/// Longest line handed to the logger, in octets.
pub const LINE_MAX: usize = 2048;

/// How grave an event is; the numbers are syslog's (RFC 5424 §6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A person must act.
    Critical = 2,
    /// We failed.
    Error = 3,
    /// Degraded, but working.
    Warning = 4,
    /// Start, stop, reload.
    Notice = 5,
    /// What a client did and was told.
    Info = 6,
    /// For developers.
    Debug = 7,
}

impl Level {
    /// The level with this syslog number; anything unknown is `Debug`.
    pub fn from_number(number: u8) -> Level {
        match number {
            0..=2 => Level::Critical,
            3 => Level::Error,
            4 => Level::Warning,
            5 => Level::Notice,
            6 => Level::Info,
            _ => Level::Debug,
        }
    }

    /// Its name, as in rsmtpd.yaml.
    pub fn name(self) -> &'static str {
        match self {
            Level::Critical => "critical",
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Notice => "notice",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// An event under construction.
#[derive(Debug, Clone)]
pub struct Event {
    text: String,
}

impl Event {
    /// Begins the line `event=name`.
    pub fn new(name: &str) -> Event {
        let mut text = String::with_capacity(160);
        text.push_str("event=");
        text.push_str(name);
        Event { text }
    }

    /// Adds a value of ours: a number, an address, a fixed word.
    #[must_use]
    pub fn field(mut self, key: &str, value: impl std::fmt::Display) -> Event {
        let _ = write!(self.text, " {key}={value}");
        self
    }

    /// Adds a value that may come from a client or a file: quoted, escaped, cut at [`VALUE_MAX`].
    #[must_use]
    pub fn quoted(mut self, key: &str, value: &[u8]) -> Event {
        let _ = write!(self.text, " {key}=\"");
        escape(value, &mut self.text);
        self.text.push('"');
        self
    }

    /// Adds a value that others made: as it is where it is one plain word, else as [`Event::quoted`].
    #[must_use]
    pub fn word(self, key: &str, value: &str) -> Event {
        let plain = |octet: u8| octet.is_ascii_graphic() && !matches!(octet, b'"' | b'\\' | b'=');
        if !value.is_empty() && value.len() <= VALUE_MAX && value.bytes().all(plain) {
            self.field(key, value)
        } else {
            self.quoted(key, value.as_bytes())
        }
    }

    /// The finished line, without a line end.
    pub fn text(self) -> String {
        cut(self.text)
    }
}

/// A line of at most [`LINE_MAX`] octets: one that is longer loses whole fields at its end, and says so by `cut=yes`.
pub fn cut(mut line: String) -> String {
    const MARK: &str = " cut=yes";
    if line.len() <= LINE_MAX {
        return line;
    }
    let (mut end, mut quoted, mut escaped) = (0, false, false);
    for (at, octet) in line.bytes().enumerate().take(LINE_MAX - MARK.len() + 1) {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b' ' if !quoted => end = at,
            _ => {}
        }
    }
    line.truncate(end);
    line.push_str(MARK);
    line
}

/// Appends `value` with control octets, quotes, backslashes and non-ASCII octets escaped.
fn escape(value: &[u8], text: &mut String) {
    for &octet in value.iter().take(VALUE_MAX) {
        match octet {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(octet));
            }
            b' '..=b'~' => text.push(char::from(octet)),
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            _ => {
                let _ = write!(text, "\\x{octet:02x}");
            }
        }
    }
    if value.len() > VALUE_MAX {
        text.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_value_stays_on_one_line() {
        let line = Event::new("reject")
            .field("code", 550)
            .quoted("from", b"a\r\nevent=\"x\"\xff")
            .text();
        assert_eq!(line, "event=reject code=550 from=\"a\\r\\nevent=\\\"x\\\"\\xff\"");
    }

    #[test]
    fn long_values_and_lines_are_cut() {
        let line = Event::new("x").quoted("v", &[b'a'; 300]).text();
        assert!(line.ends_with("aaa...\"") && line.len() < 300);
        let mut event = Event::new("x");
        for _ in 0..20 {
            event = event.quoted("v", &[0xff; 256]);
        }
        let value = format!(" v=\"{}\"", "\\xff".repeat(256));
        assert_eq!(event.text(), format!("event=x{value} cut=yes"));
        let words = format!("event=x{}", " word=one".repeat(1000));
        let short = cut(words);
        assert!((LINE_MAX - 16..=LINE_MAX).contains(&short.len()), "{}", short.len());
        assert!(short.ends_with(" word=one cut=yes"), "{short}");
        assert_eq!(cut("x".repeat(5000)), " cut=yes");
    }

    #[test]
    fn levels_have_their_names() {
        assert_eq!(Level::from_number(4).name(), "warning");
        assert_eq!(Level::from_number(6), Level::Info);
    }

    #[test]
    fn a_word_is_quoted_only_when_it_must_be() {
        let word = |text: &str| Event::new("x").word("k", text).text().split_off("event=x k=".len());
        assert_eq!(word("postmaster@example.com"), "postmaster@example.com");
        assert_eq!(word(""), "\"\"");
        assert_eq!(word("a b=\"c\""), "\"a b=\\\"c\\\"\"");
        assert_eq!(word("\u{fc}\n"), "\"\\xc3\\xbc\\n\"");
        assert_eq!(word(&"x".repeat(300)).len(), 256 + 5);
    }
}
