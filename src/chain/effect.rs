//! What a handler may want to happen besides the reply. Each effect is carried out, or does not exist.

use std::time::Duration;

use super::error::HandlerError;
use crate::session::Mailbox;

/// No line of a header field is longer where it can be folded (RFC 5322 §2.1.1).
const FOLD: usize = 78;
/// No line of a header field is ever longer.
const LONGEST: usize = 998;

/// Something besides the reply that is to happen. Effects of entries that are only observed do not.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// From MAIL on: adds a header field in front of the message.
    AddField(HeaderField),
    /// From MAIL on: takes every header field of this name out of the message as it came.
    RemoveField(FieldName),
    /// The reply waits so long; of several the longest counts, four minutes at most. A message that was taken is
    /// acknowledged without delay: the client might give up and send it again (RFC 1047). Where the command goes to the
    /// server behind a proxy it is the command that waits, and never goes there if the connection breaks meanwhile.
    Delay(Duration),
    /// As [`Effect::Delay`], but the time passes between the octets of the reply, always, so long after each.
    Stutter(Duration),
    /// From MAIL on: puts a word on the message, for its line in the log.
    Label(String),
    /// RCPT only: the recipient's final mailboxes. An accepted recipient needs one.
    Route(Vec<Mailbox>),
    /// `__DATA__` only: keeps a copy in the quarantine though the message is refused.
    KeepCopy,
    /// `__DATA__` only: saves the message as a file of its own in the directory of copies, whatever becomes of it.
    SaveCopy,
    /// DATA only, beside a refusal: the text may come all the same (354), is kept nowhere, and its end is answered with
    /// the refusal.
    HearOut,
    /// The entry with this id, further down in the same list, does not run in this exchange. A taker runs all the same.
    Skip(String),
}

/// The name of a header field that may be removed: no trace field (RFC 5321 §4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldName(String);

impl FieldName {
    /// Checks the name.
    ///
    /// # Errors
    /// It is no field name (RFC 5322 §3.6.8), or that of a trace field.
    pub fn new(name: &str) -> Result<FieldName, HandlerError> {
        let trace = ["received", "return-path"];
        if !is_name(name) || trace.iter().any(|one| name.eq_ignore_ascii_case(one)) {
            return Err(HandlerError::Failed(format!("no field {name:?} may be removed")));
        }
        Ok(FieldName(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A header field that may be added: folded, without anything that could end it early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderField(String);

impl HeaderField {
    /// Makes a field. Control characters in the value become spaces, anything beyond ASCII a question mark.
    ///
    /// # Errors
    /// `name` is no field name (RFC 5322 §3.6.8).
    pub fn new(name: &str, value: &str) -> Result<HeaderField, HandlerError> {
        if !is_name(name) {
            return Err(HandlerError::Failed(format!("{name:?} is no field name")));
        }
        let clean: String = value
            .chars()
            .map(|character| match character {
                character if character.is_control() => ' ',
                character if character.is_ascii() => character,
                _ => '?',
            })
            .collect();
        let mut text = format!("{name}:");
        let mut column = text.len();
        for word in clean.split(' ').filter(|word| !word.is_empty()) {
            for part in word.as_bytes().chunks(LONGEST - FOLD) {
                if column > name.len() + 1 && column + 1 + part.len() > FOLD {
                    text.push_str("\r\n");
                    column = 0;
                }
                text.push(' ');
                text.push_str(&String::from_utf8_lossy(part));
                column += 1 + part.len();
            }
        }
        text.push_str("\r\n");
        Ok(HeaderField(text))
    }

    /// The whole field with its CRLF.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name(name: &str) -> bool {
    (1..=FOLD - 2).contains(&name.len()) && name.bytes().all(|byte| (33..=126).contains(&byte) && byte != b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_stays_one_field() {
        let field = |value: &str| HeaderField::new("X-Note", value).unwrap().as_str().to_owned();
        assert_eq!(field("a b"), "X-Note: a b\r\n");
        assert_eq!(field("a\r\nBcc: x\r\n\r\nbody"), "X-Note: a Bcc: x body\r\n");
        assert_eq!(field("ü\0"), "X-Note: ?\r\n");
        assert_eq!(field(""), "X-Note:\r\n");
        for length in [1, 60, 77, 78, 900, 5000] {
            let text = field(&format!("{} {}", "a".repeat(length), "b".repeat(length)));
            let lines: Vec<&str> = text.split_terminator("\r\n").collect();
            assert!(lines.iter().all(|line| line.len() <= LONGEST), "{length}");
            assert!(lines.iter().skip(1).all(|line| line.starts_with(' ') && line.len() > 1));
            let letters = text.chars().filter(|c| matches!(c, 'a' | 'b')).count();
            assert_eq!(letters, 2 * length);
        }
    }

    #[test]
    fn only_names_are_names() {
        for bad in ["", "a:", "a b", "ü", "a\r\nb"] {
            assert!(
                HeaderField::new(bad, "x").is_err() && FieldName::new(bad).is_err(),
                "{bad}"
            );
        }
        assert!(FieldName::new("RECEIVED").is_err() && FieldName::new("Return-Path").is_err());
        assert_eq!(FieldName::new("X-Spam").unwrap().as_str(), "X-Spam");
    }
}
