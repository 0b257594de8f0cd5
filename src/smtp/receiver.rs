//! The receiver: the octets of one connection in, commands and message bodies out.
//!
//! It may assume that its caller says when a body begins, and it must never look past
//! the event that it returns: what follows may have to be read in another way.

use super::chunk::Chunk;
use super::data::{BodyScan, Step};
use super::line::{CommandLine, HalfLine};

pub use super::data::BodyEnd;
pub use super::limits::{Limits, LineEndings};

/// A piece of a message, as it is and as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Octets of the message, dot-unstuffed and with line endings as configured; never empty.
    pub octets: &'a [u8],
    /// What the client sent for them, one part behind the other: with stuffed dots and bare CR and LF, without the end of
    /// data. All pieces of a message give all of it, up to where it was too big.
    pub sent: [&'a [u8]; 2],
}

/// What the receiver found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A command line.
    Command(CommandLine),
    /// A piece of the message.
    BodyChunk(Piece<'a>),
    /// The end of DATA, or of one BDAT chunk; commands follow.
    BodyEnd(BodyEnd),
}

#[derive(Debug)]
enum Mode {
    Command,
    Data,
    Chunk(Chunk),
}

/// Splits the octets of a connection into events.
#[derive(Debug)]
pub struct Receiver {
    limits: Limits,
    mode: Mode,
    line: HalfLine,
    body: BodyScan,
}

impl Receiver {
    /// A receiver that waits for a command.
    pub fn new(limits: Limits) -> Receiver {
        Receiver {
            limits,
            mode: Mode::Command,
            line: HalfLine::default(),
            body: BodyScan::new(limits),
        }
    }

    /// Consumes a prefix of `input` and returns its length and the event that it completed.
    /// Without an event all was consumed. Right after [`begin_chunk`](Self::begin_chunk) it
    /// has to be called even without input: a chunk may be empty.
    pub fn feed<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Event<'a>>) {
        let before = self.body.held_back();
        let (used, step) = match &mut self.mode {
            Mode::Command => {
                let limits = &self.limits;
                let (used, line) = self.line.feed(input, limits.command_line, limits.line_endings);
                return (used, line.map(Event::Command));
            }
            Mode::Data => self.body.scan(input),
            Mode::Chunk(chunk) => chunk.scan(&mut self.body, input),
        };
        let event = match step {
            Step::More => None,
            Step::Octets(octets) => {
                let kept = self.body.held_back().len();
                let now = input.get(..used.saturating_sub(kept)).unwrap_or_default();
                let sent = [before, now];
                Some(Event::BodyChunk(Piece { octets, sent }))
            }
            Step::End => {
                self.mode = Mode::Command;
                Some(Event::BodyEnd(self.body.take_end()))
            }
        };
        (used, event)
    }

    /// What follows is the text of a message up to CRLF.CRLF: 354 was decided.
    pub fn begin_data(&mut self) {
        self.body.begin(true);
        self.mode = Mode::Data;
    }

    /// What follows is a chunk of `octets` octets, and more chunks may follow it (RFC 3030).
    /// Each chunk is counted apart in its [`BodyEnd`].
    pub fn begin_chunk(&mut self, octets: u64) {
        self.body.continue_chunk();
        self.mode = Mode::Chunk(Chunk::new(octets, false));
    }

    /// As [`begin_chunk`](Self::begin_chunk), for the chunk marked LAST.
    pub fn begin_last_chunk(&mut self, octets: u64) {
        self.body.continue_chunk();
        self.mode = Mode::Chunk(Chunk::new(octets, true));
    }

    /// Forgets how the last chunk ended: its message was given up (RSET and the like).
    pub fn end_message(&mut self) {
        self.body.begin(false);
    }

    /// Forgets a half line and any body: what follows is a new conversation (STARTTLS).
    pub fn reset(&mut self) {
        self.mode = Mode::Command;
        self.line = HalfLine::default();
        self.body.begin(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::line::LineEnding;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        command_line: 512,
        text_line: 1000,
        message_size: 0,
        line_endings: LineEndings::Normalize,
    };

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Seen {
        Line(CommandLine),
        Body(Vec<u8>, BodyEnd),
    }

    /// Runs a conversation: `DATA` begins data, `BDAT n` and `BDAT n LAST` begin chunks.
    fn converse(limits: Limits, pieces: &[&[u8]]) -> Vec<Seen> {
        let mut receiver = Receiver::new(limits);
        let mut seen = Vec::new();
        let mut body = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            loop {
                let (used, event) = receiver.feed(rest);
                rest = &rest[used..];
                match event {
                    None => {
                        assert!(rest.is_empty());
                        break;
                    }
                    Some(Event::Command(line)) => {
                        let text = String::from_utf8_lossy(&line.bytes).into_owned();
                        let words: Vec<&str> = text.split(' ').collect();
                        match (words.as_slice(), words.get(1).and_then(|n| n.parse().ok())) {
                            (["DATA"], _) => receiver.begin_data(),
                            (["BDAT", _], Some(n)) => receiver.begin_chunk(n),
                            (["BDAT", _, "LAST"], Some(n)) => receiver.begin_last_chunk(n),
                            _ => {}
                        }
                        seen.push(Seen::Line(line));
                    }
                    Some(Event::BodyChunk(Piece { octets, .. })) => {
                        assert!(!octets.is_empty());
                        body.extend_from_slice(octets);
                    }
                    Some(Event::BodyEnd(end)) => {
                        seen.push(Seen::Body(std::mem::take(&mut body), end));
                    }
                }
            }
        }
        seen
    }

    /// The body of `DATA` followed by this, which has to end it and nothing more.
    fn data(limits: Limits, text: &[u8]) -> (Vec<u8>, BodyEnd) {
        let input = [b"DATA\r\n", text].concat();
        match converse(limits, &[&input]).as_slice() {
            [Seen::Line(_), Seen::Body(body, end)] => (body.clone(), end.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn command_lines_end_at_line_feeds() {
        let line = |bytes: &[u8], ending| CommandLine {
            bytes: bytes.to_vec(),
            ending,
            too_long: false,
        };
        let seen = converse(LIMITS, &[b"NOOP\r\nQU", b"IT\n\r\n\n"]);
        let expected = [
            line(b"NOOP", LineEnding::CrLf),
            line(b"QUIT", LineEnding::Lf),
            line(b"", LineEnding::CrLf),
            line(b"", LineEnding::Lf),
        ];
        assert_eq!(seen, expected.map(Seen::Line));
        let strict = Limits {
            line_endings: LineEndings::Strict,
            ..LIMITS
        };
        assert_eq!(
            converse(strict, &[b"QUIT\n"]),
            [Seen::Line(line(b"QUIT\n", LineEnding::Lf))]
        );
    }

    #[test]
    fn the_limit_of_a_command_line_counts_its_end() {
        for (length, too_long) in [(510, false), (511, true), (5000, true)] {
            let input = [vec![b'x'; length], b"\r\nNOOP\r\n".to_vec()].concat();
            let seen = converse(LIMITS, &[&input]);
            let [Seen::Line(first), Seen::Line(second)] = seen.as_slice() else {
                panic!("{seen:?}")
            };
            assert_eq!((first.too_long, first.bytes.len()), (too_long, 510));
            assert_eq!(second.bytes, b"NOOP");
        }
    }

    #[test]
    fn dots_are_unstuffed_and_only_crlf_dot_crlf_ends() {
        let cases: [(&[u8], &[u8]); 6] = [
            (b".\r\n", b""),
            (b"a\r\n.\r\n", b"a\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b".a\r\n...b\r\n.\r\n", b"a\r\n..b\r\n"),
            (b"a.\r\nb\r\n\r\n.\r\n", b"a.\r\nb\r\n\r\n"),
            (b"a\x00\xff\r\n.\r\n", b"a\x00\xff\r\n"),
        ];
        for (input, body) in cases {
            let (read, end) = data(LIMITS, input);
            assert_eq!(read, body, "{}", String::from_utf8_lossy(input));
            assert_eq!(end.octets, body.len() as u64);
            assert_eq!(end.has_nul, body.contains(&0));
            assert_eq!((end.bare_lf, end.bare_cr, end.first_bare), (0, 0, None));
            assert!(end.lookalikes.is_empty());
        }
    }

    #[test]
    fn lookalikes_end_nothing_and_are_noted() {
        // What stands between "a" and "b", what is handed on for it, and where the dot is.
        let cases: [(&[u8], &[u8], u64); 11] = [
            (b"\n.\n", b"\r\n.\r\n", 2),
            (b"\n.\r\n", b"\r\n.\r\n", 2),
            (b"\r\n.\n", b"\r\n\r\n", 3),
            (b"\r.\r", b" . ", 2),
            (b"\r.\r\n", b" .\r\n", 2),
            (b"\r\n.\r", b"\r\n ", 3),
            (b"\n.\r", b"\r\n. ", 2),
            (b"\r.\n", b" .\r\n", 2),
            (b"\r\n.\r\r\n", b"\r\n \r\n", 3),
            (b"\r\r\n.\n", b" \r\n\r\n", 4),
            (b"\r\n\n.\r\n", b"\r\n\r\n.\r\n", 4),
        ];
        for (between, handed_on, at) in cases {
            let input = [b"a", between, b"b\r\n.\r\n"].concat();
            let shown = format!("{:?}", String::from_utf8_lossy(&input));
            let (body, end) = data(LIMITS, &input);
            assert_eq!(body, [b"a", handed_on, b"b\r\n"].concat(), "{shown}");
            assert_eq!(end.lookalikes, [at], "{shown}");
            assert!(end.first_bare.is_some() && !end.strict_violation, "{shown}");
            let strict = Limits {
                line_endings: LineEndings::Strict,
                ..LIMITS
            };
            let (_, strict_end) = data(strict, &input);
            assert!(strict_end.strict_violation, "{shown}");
            assert_eq!((strict_end.lookalikes, strict_end.bare_cr), (vec![at], end.bare_cr));
        }
        let many = [b"\n.".repeat(100), b"\n\r\n.\r\n".to_vec()].concat();
        assert_eq!(data(LIMITS, &many).1.lookalikes.len(), 16);
    }

    #[test]
    fn bare_ones_are_counted_and_normalised() {
        let (body, end) = data(LIMITS, b"a\nb\rc\r\n.\r\n");
        assert_eq!(body, b"a\r\nb c\r\n");
        assert_eq!((end.bare_lf, end.bare_cr, end.first_bare), (1, 1, Some(1)));
        assert_eq!(end.octets, 8);
        let strict = Limits {
            line_endings: LineEndings::Strict,
            ..LIMITS
        };
        assert_eq!(data(strict, b"a\nb\rc\r\n.\r\n").0, b"a\nb\rc\r\n");
        assert!(!data(strict, b"a\r\n.\r\n").1.strict_violation);
    }

    #[test]
    fn big_messages_are_read_to_their_end() {
        let limits = Limits {
            message_size: 10,
            ..LIMITS
        };
        let (body, end) = data(limits, b"12345678\r\n.\r\n");
        assert_eq!((body.len(), end.octets, end.too_big), (10, 10, false));
        let (body, end) = data(limits, b"123456789\r\nabc\r\n.\r\n");
        assert_eq!(
            (body.as_slice(), end.octets, end.too_big),
            (&b"123456789\r"[..], 16, true)
        );
    }

    #[test]
    fn long_lines_are_counted_not_cut() {
        for (length, long) in [(998, 0), (999, 1), (3000, 1)] {
            let text = [b"x\r\n".repeat(300), vec![b'y'; length], b"\r\n.\r\n".to_vec()];
            let (body, end) = data(LIMITS, &text.concat());
            assert_eq!((body.len(), end.long_lines), (900 + length + 2, long));
        }
    }

    #[test]
    fn chunks_are_exact_and_know_no_dots() {
        let body = |seen: &Seen| match seen {
            Seen::Body(body, end) => (body.clone(), end.bare_cr, end.bare_lf),
            other => panic!("{other:?}"),
        };
        let seen = converse(LIMITS, &[b"BDAT 8\r\na\r\n.\r\n\r\nBDAT 0 LAST\r\n", b"NOOP\r\n"]);
        assert_eq!(seen.len(), 5);
        assert_eq!(body(&seen[1]), (b"a\r\n.\r\n\r\n"[..8].to_vec(), 0, 0));
        assert_eq!(body(&seen[3]), (vec![], 0, 0));
        // A CRLF across two chunks is one; a CR at the very end is bare.
        let seen = converse(LIMITS, &[b"BDAT 2\r\na\rBDAT 3 LAST\r\n\nb\r"]);
        assert_eq!(body(&seen[1]), (b"a\r".to_vec(), 0, 0));
        assert_eq!(body(&seen[3]), (b"\nb ".to_vec(), 1, 0));
    }

    #[test]
    fn nothing_is_left_after_a_reset() {
        let mut receiver = Receiver::new(LIMITS);
        assert_eq!(receiver.feed(b"NOO"), (3, None));
        receiver.reset();
        let (used, event) = receiver.feed(b"QUIT\r\nX");
        assert_eq!(used, 6);
        assert!(matches!(event, Some(Event::Command(line)) if line.bytes == b"QUIT"));
    }

    /// Lines of mail with what may go wrong between them, long enough for whole blocks.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let clean = "([a-z .]{0,90}\r\n){0,20}";
        let odd = "(\r\n|\r|\n|\\.|a|\0|\r\n\\.|\r\n\\.\r\n){0,12}";
        prop::collection::vec(prop_oneof![clean, odd, "x{500,1100}"], 0..6)
            .prop_map(|parts| parts.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            text in texts(),
            chunk in 0usize..80,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            step in 1usize..40,
            endings in prop::sample::select(vec![LineEndings::Strict, LineEndings::Normalize, LineEndings::Note]),
            size in prop::sample::select(vec![0u64, 7, 600]),
        ) {
            let limits = Limits { line_endings: endings, message_size: size, ..LIMITS };
            let begin = format!("EHLO x\r\nBDAT {chunk}\r\n");
            let input = [
                begin.as_bytes(), &text, b"\r\nBDAT 3 LAST\r\nabc\r\nDATA\r\n", &text,
                b"\r\n.\r\nQUIT\r\n",
            ].concat();
            let whole = converse(limits, &[&input]);
            let stepped: Vec<&[u8]> = input.chunks(step).collect();
            prop_assert_eq!(&converse(limits, &stepped), &whole);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len())).collect();
            at.extend([0, input.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|w| &input[w[0]..w[1]]).collect();
            prop_assert_eq!(&converse(limits, &pieces), &whole);
        }

        #[test]
        fn what_was_sent_is_at_hand_whole(
            text in texts(),
            chunked in any::<bool>(),
            step in 1usize..40,
            endings in prop::sample::select(vec![LineEndings::Strict, LineEndings::Normalize]),
        ) {
            let mut receiver = Receiver::new(Limits { line_endings: endings, ..LIMITS });
            let mut input = [&text[..], b"\r\n.\r\n"].concat();
            let length = if chunked {
                receiver.begin_last_chunk(input.len() as u64);
                input.len()
            } else {
                receiver.begin_data();
                let first = input.windows(5).position(|five| five == b"\r\n.\r\n").map_or(0, |at| at + 2);
                if input.starts_with(b".\r\n") { 0 } else { first }
            };
            input.truncate(if chunked { length } else { length + 3 });
            let mut seen = Vec::new();
            let mut ended = false;
            for piece in input.chunks(step).chain([&[][..]]) {
                let mut rest = piece;
                while let (used, Some(event)) = receiver.feed(rest) {
                    rest = &rest[used..];
                    match event {
                        Event::BodyChunk(piece) => seen.extend(piece.sent.concat()),
                        Event::BodyEnd(_) => ended = true,
                        Event::Command(_) => {}
                    }
                    if ended {
                        break;
                    }
                }
                if ended {
                    break;
                }
            }
            prop_assert!(ended);
            prop_assert_eq!(seen, &input[..length]);
        }

        #[test]
        fn stuffed_text_comes_out_as_it_was(lines in prop::collection::vec("[a-z.]{0,90}", 0..60)) {
            let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let dot = |line: &String| if line.starts_with('.') { "." } else { "" };
            let stuffed: String = lines.iter().map(|l| format!("{}{l}\r\n", dot(l))).collect();
            let (body, end) = data(LIMITS, format!("{stuffed}.\r\n").as_bytes());
            prop_assert_eq!(body, text.as_bytes());
            prop_assert_eq!(end.octets, text.len() as u64);
        }
    }
}
