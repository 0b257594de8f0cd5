//! Replies (RFC 5321 §4.2, RFC 2034): values to octets and back.
//! Whatever text comes in, what goes out is lines of printable characters under one code.

use super::status::Status;

/// The longest reply line, CRLF included (RFC 5321 §4.5.3.1.5).
const LINE: usize = 512;

/// A reply of one or more lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Reply code, 200 to 599.
    pub code: u16,
    /// Enhanced status code, written on each line; none for banner, EHLO and 3xx.
    pub status: Option<Status>,
    /// Texts of the lines.
    pub lines: Vec<String>,
}

/// Octets that are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an SMTP reply: {0}")]
pub struct ReplyFault(pub &'static str);

impl Reply {
    /// A reply of one line.
    pub fn new(code: u16, status: impl Into<Option<Status>>, text: impl Into<String>) -> Reply {
        Reply {
            code,
            status: status.into(),
            lines: vec![text.into()],
        }
    }

    /// A reply of several lines.
    pub fn multi(code: u16, status: impl Into<Option<Status>>, lines: Vec<String>) -> Reply {
        Reply {
            code,
            status: status.into(),
            lines,
        }
    }

    /// 2xx or 3xx.
    pub fn is_positive(&self) -> bool {
        matches!(self.code, 200..=399)
    }

    /// 4xx.
    pub fn is_temporary(&self) -> bool {
        matches!(self.code, 400..=499)
    }

    /// Appends the reply in ASCII: control characters are left out, others made `?`.
    pub fn to_wire(&self, out: &mut Vec<u8>) {
        let class = self.code / 100;
        let status = match (class, self.status) {
            (2 | 4 | 5, Some(status)) => {
                format!("{}.{}.{} ", class, status.1, status.2)
            }
            _ => String::new(),
        };
        let room = LINE - "250-".len() - "\r\n".len() - status.len();
        let mut pieces = Vec::new();
        for line in &self.lines {
            wrap(clean(line), room, &mut pieces);
        }
        if pieces.is_empty() {
            pieces.push(String::new());
        }
        let last = pieces.len() - 1;
        for (index, piece) in pieces.iter().enumerate() {
            let separator = if index == last { ' ' } else { '-' };
            let line = format!("{:03}{separator}{status}{piece}\r\n", self.code % 1000);
            out.extend_from_slice(line.as_bytes());
        }
    }

    /// Reads a reply from the beginning of `input` and returns it with its length; `None`
    /// when it is not complete. A status code that stands on each line becomes the status.
    pub fn parse(input: &[u8]) -> Result<Option<(Reply, usize)>, ReplyFault> {
        let mut used = 0;
        let mut code = None;
        let mut lines = Vec::new();
        for line in input.split_inclusive(|b| *b == b'\n') {
            let Some(text) = line.strip_suffix(b"\n") else {
                return Ok(None);
            };
            used += line.len();
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            let (this, more, text) = split_line(text)?;
            if *code.get_or_insert(this) != this {
                return Err(ReplyFault("the code changes between lines"));
            }
            lines.push(String::from_utf8_lossy(text).into_owned());
            if !more {
                let status = common_status(this, &mut lines);
                return Ok(Some((
                    Reply {
                        code: this,
                        status,
                        lines,
                    },
                    used,
                )));
            }
        }
        Ok(None)
    }
}

fn split_line(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyFault> {
    let (digits, rest) = line.split_at_checked(3).ok_or(ReplyFault("a line is too short"))?;
    let [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'] = digits else {
        return Err(ReplyFault("a line does not begin with a code"));
    };
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match rest {
        [] => Ok((code, false, rest)),
        [b' ', text @ ..] => Ok((code, false, text)),
        [b'-', text @ ..] => Ok((code, true, text)),
        _ => Err(ReplyFault("no space or hyphen after the code")),
    }
}

/// Takes the enhanced status code off the lines if all have the same, of the code's class.
fn common_status(code: u16, lines: &mut [String]) -> Option<Status> {
    let split = |line: &str| {
        let (word, text) = line.split_once(' ').unwrap_or((line, ""));
        Status::parse(word).map(|status| (status, text.to_owned()))
    };
    let (status, _) = split(lines.first()?)?;
    let mut texts = Vec::with_capacity(lines.len());
    for line in lines.iter() {
        match split(line) {
            Some((same, text)) if same == status => texts.push(text),
            _ => return None,
        }
    }
    if u16::from(status.0) != code / 100 {
        return None;
    }
    for (line, text) in lines.iter_mut().zip(texts) {
        *line = text;
    }
    Some(status)
}

fn clean(line: &str) -> String {
    let kept = line.chars().filter(|c| !c.is_control());
    kept.map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

/// Cuts a text into lines of at most `room` octets, at a space where there is one.
fn wrap(mut text: String, room: usize, lines: &mut Vec<String>) {
    while text.len() > room {
        let mut end = room;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let head = text.get(..end).unwrap_or_default();
        let end = head.rfind(' ').filter(|at| *at > 0).map_or(end, |at| at + 1);
        let rest = text.split_off(end);
        lines.push(std::mem::replace(&mut text, rest).trim_end().to_owned());
    }
    lines.push(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.to_wire(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_line_carries_code_and_status() {
        let lines = vec!["one".to_owned(), "two".to_owned()];
        let reply = Reply::multi(250, Status::OK, lines.clone());
        assert_eq!(wire(&reply), "250-2.0.0 one\r\n250 2.0.0 two\r\n");
        assert_eq!(wire(&Reply::multi(250, None, lines)), "250-one\r\n250 two\r\n");
        assert_eq!(wire(&Reply::new(354, Status::OK, "Go on")), "354 Go on\r\n");
        assert_eq!(wire(&Reply::new(450, Status(5, 7, 1), "x")), "450 4.7.1 x\r\n");
        assert_eq!(wire(&Reply::multi(221, None, vec![])), "221 \r\n");
    }

    #[test]
    fn text_cannot_break_out_of_its_line() {
        let reply = Reply::new(550, Status::REFUSED, "a\r\n250 ok\0\u{7f}\u{e4}");
        assert_eq!(wire(&reply), "550 5.7.1 a250 ok?\r\n");
    }

    #[test]
    fn long_text_goes_on_in_further_lines() {
        let text = "word ".repeat(300);
        let out = wire(&Reply::new(550, Status::REFUSED, text.as_str()));
        assert!(out.lines().count() > 2);
        assert!(out.split_inclusive('\n').all(|line| line.len() <= LINE));
        let long = wire(&Reply::new(250, None, "x".repeat(2000)));
        assert!(long.split_inclusive('\n').all(|line| line.len() <= LINE));
        assert_eq!(long.matches('x').count(), 2000);
    }

    #[test]
    fn reads_replies_of_others() {
        assert_eq!(Reply::parse(b"250-a\r\n250 "), Ok(None));
        let (reply, used) = Reply::parse(b"452 4.2.2 Full\r\n250 x").unwrap().unwrap();
        assert_eq!((reply, used), (Reply::new(452, Status::MAILBOX_FULL, "Full"), 16));
        assert!(Reply::parse(b"250-a\r\n251 b\r\n").is_err());
        assert!(Reply::parse(b"25\r\n").is_err());
        assert!(Reply::parse(b"hello\r\n").is_err());
        assert!(Reply::parse(b"250_a\r\n").is_err());
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(
            class in prop::sample::select(vec![2u16, 4, 5]),
            rest in 0u16..100,
            status in prop::option::of((0u16..1000, 0u16..1000)),
            lines in prop::collection::vec("[A-Za-z][ -~]{0,80}", 1..5),
        ) {
            let status = status.map(|(b, c)| Status(class as u8, b, c));
            let reply = Reply::multi(class * 100 + rest, status, lines);
            let out = wire(&reply);
            prop_assert_eq!(Reply::parse(out.as_bytes()), Ok(Some((reply, out.len()))));
        }

        #[test]
        fn whatever_the_text_lines_are_short_printable_and_of_one_code(
            code in 200u16..600,
            status in prop::option::of((0u16..1000, 0u16..1000)),
            lines in prop::collection::vec("\\PC{0,40}|[ -~\r\n\u{0}\u{85}\u{e4}\u{1f600}]{0,1200}", 0..4),
        ) {
            let reply = Reply::multi(code, status.map(|(b, c)| Status(9, b, c)), lines);
            let out = wire(&reply);
            prop_assert!(out.ends_with("\r\n"));
            let count = out.split_inclusive("\r\n").count();
            for (number, line) in out.split_inclusive("\r\n").enumerate() {
                prop_assert!(line.len() <= LINE);
                let separator = if number + 1 == count { ' ' } else { '-' };
                let begin = format!("{code}{separator}");
                prop_assert!(line.starts_with(&begin), "{line:?}");
                let text = line.strip_suffix("\r\n").unwrap();
                prop_assert!(!text.contains(char::is_control) && text.is_ascii(), "{line:?}");
            }
        }

        #[test]
        fn never_fails_on_any_octets(input in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Reply::parse(&input);
        }
    }
}
