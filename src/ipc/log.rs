//! Towards the logger: lines, one way; and records, by doors that a worker asks for.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::record::Record;

/// The most lines in one frame.
pub const TOGETHER: usize = 16;
/// The most octets of each line that goes together with others.
pub const SHORT: usize = 2048;

/// What anybody tells the logger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToLogger {
    /// One event.
    Line {
        /// Syslog severity (RFC 5424), 0 emergency to 7 debug.
        level: u8,
        /// `key=value` words; no line breaks.
        text: String,
    },
    /// Several events of one moment, each by severity and text; at most [`TOGETHER`].
    Lines(#[serde(deserialize_with = "few")] Vec<(u8, String)>),
    /// Octets for a file.
    Record(Record),
    /// Wants to know whether its records are written; answered by [`super::record::FromLogger`].
    Sync,
}

/// At most [`TOGETHER`] lines; more are no value.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(u8, String)>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = Vec<(u8, String)>;
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "at most {TOGETHER} lines")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut told: A) -> Result<Self::Value, A::Error> {
            let mut lines = Vec::with_capacity(told.size_hint().unwrap_or_default().min(TOGETHER));
            while let Some(line) = told.next_element()? {
                if lines.len() == TOGETHER {
                    return Err(A::Error::invalid_length(TOGETHER + 1, &self));
                }
                lines.push(line);
            }
            Ok(lines)
        }
    }
    deserializer.deserialize_seq(Few)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::frame;

    fn lines(count: usize) -> ToLogger {
        ToLogger::Lines(vec![(6, "x".repeat(SHORT)); count])
    }

    #[test]
    fn a_frame_holds_as_many_lines_as_may_go_together_and_no_more() {
        let most = lines(TOGETHER);
        assert_eq!(frame::decode(&frame::encode(&most).unwrap()), Ok(most));
        let empty = ToLogger::Lines(vec![(6, String::new()); TOGETHER + 1]);
        for one_more in [lines(TOGETHER + 1), empty] {
            let bytes = frame::encode(&one_more).unwrap();
            assert_eq!(frame::decode::<ToLogger>(&bytes), Err(frame::Fault::Malformed));
        }
    }

    #[test]
    fn a_number_of_lines_that_are_not_there_is_refused() {
        let mut bytes = frame::encode(&lines(0)).unwrap();
        assert_eq!(bytes.pop(), Some(0));
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(frame::decode::<ToLogger>(&bytes), Err(frame::Fault::Malformed));
    }
}
