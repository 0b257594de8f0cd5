//! The text of a message on its way to another server (RFC 5321 §2.3.8, §4.5.2): every line end a CRLF, dots at
//! the beginning of lines doubled, one end.
//!
//! It may assume nothing about the octets: whatever comes in, what goes out has no CR or LF but in CRLF and no
//! CRLF.CRLF before its end, so that no two servers can disagree about where the message ends.

/// Where the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineStart,
    Line,
    /// Behind a CR that was not handed on yet.
    Cr,
}

/// A text under way.
#[derive(Clone, Debug)]
pub struct Transparency {
    state: State,
}

impl Transparency {
    /// At the beginning of a text.
    pub fn begin() -> Transparency {
        Transparency {
            state: State::LineStart,
        }
    }

    /// Appends the next octets to `out`. A bare LF becomes a CRLF and a bare CR a space, as in what is delivered here.
    pub fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        out.reserve(octets.len().saturating_add(8));
        let mut rest = octets;
        while let Some((&first, behind)) = rest.split_first() {
            if self.state == State::Cr && first != b'\n' {
                out.push(b' ');
                self.state = State::Line;
            }
            match first {
                b'\r' => {
                    self.state = State::Cr;
                    rest = behind;
                }
                b'\n' => {
                    out.extend_from_slice(b"\r\n");
                    self.state = State::LineStart;
                    rest = behind;
                }
                _ => {
                    if self.state == State::LineStart && first == b'.' {
                        out.push(b'.');
                    }
                    let end = rest.iter().position(|octet| matches!(octet, b'\r' | b'\n'));
                    let (run, after) = rest.split_at_checked(end.unwrap_or(rest.len())).unwrap_or((rest, b""));
                    out.extend_from_slice(run);
                    self.state = State::Line;
                    rest = after;
                }
            }
        }
    }

    /// Appends the end of the text, behind a line that is complete.
    pub fn end(mut self, out: &mut Vec<u8>) {
        if self.state == State::Cr {
            out.push(b' ');
            self.state = State::Line;
        }
        if self.state == State::Line {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::receiver::{Event, Limits, LineEndings, Receiver};
    use proptest::prelude::*;

    fn sent(parts: &[&[u8]]) -> Vec<u8> {
        let (mut text, mut out) = (Transparency::begin(), Vec::new());
        for part in parts {
            text.push(part, &mut out);
        }
        text.end(&mut out);
        out
    }

    /// What a receiver that knows CRLF alone makes of it, which has to be one text and nothing behind it.
    fn received(octets: &[u8]) -> Vec<u8> {
        let mut receiver = Receiver::new(Limits {
            command_line: 512,
            text_line: 1000,
            message_size: 0,
            line_endings: LineEndings::Strict,
        });
        receiver.begin_data();
        let (mut body, mut rest) = (Vec::new(), octets);
        loop {
            let (used, event) = receiver.feed(rest);
            rest = &rest[used..];
            match event {
                Some(Event::BodyChunk(piece)) => body.extend_from_slice(piece.octets),
                Some(Event::BodyEnd(end)) => {
                    assert!(rest.is_empty() && end.first_bare.is_none() && !end.strict_violation);
                    return body;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn dots_are_doubled_and_line_ends_made_whole() {
        for (text, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b".\r\n..\r\na.\r\n", b"..\r\n...\r\na.\r\n.\r\n"),
            (b"a\n.\nb\r.\r\r\n", b"a\r\n..\r\nb . \r\n.\r\n"),
            (b"a\r\n.\r", b"a\r\n.. \r\n.\r\n"),
            (b"\0\xff\r\n", b"\0\xff\r\n.\r\n"),
        ] {
            assert_eq!(sent(&[text]), wire, "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn no_lookalike_of_an_end_passes() {
        for between in [
            &b"\n.\n"[..],
            b"\n.\r\n",
            b"\r\n.\n",
            b"\r.\r",
            b"\r.\r\n",
            b"\r\n.\r",
            b"\n.\r",
            b"\r\n.\r\r\n",
            b"\r\n.\r\n",
        ] {
            let text = [b"a", between, b"MAIL FROM:<x@y>\r\n"].concat();
            let body = received(&sent(&[&text]));
            assert!(body.ends_with(b"MAIL FROM:<x@y>\r\n"));
        }
    }

    proptest! {
        #[test]
        fn any_octets_in_any_pieces_arrive_as_one_text(
            text in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), any::<u8>()], 0..200),
            at in 0_usize..200,
        ) {
            let whole = sent(&[&text]);
            let (left, right) = text.split_at(at.min(text.len()));
            prop_assert_eq!(&sent(&[left, right]), &whole);
            let body = received(&whole);
            if !text.iter().any(|octet| matches!(octet, b'\r' | b'\n')) && !text.is_empty() {
                prop_assert_eq!(body, [&text[..], b"\r\n"].concat());
            }
        }
    }
}
