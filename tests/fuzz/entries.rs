//! What is done with the input of each fuzz target, and what must hold of it.
//!
//! Included by the targets and by `tests/corpora.rs`, so that a committed input is replayed by exactly what found it.
//! The first octet of most inputs chooses settings; the rest is what a client, or a process of ours, would send.
#![allow(dead_code)] // each target uses a part of it

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rsmtpd::chain::{
    Action, BodySink, Chain, Conversation, DeliveryError, DeliveryPort, Directory, Found, Limits as SessionLimits,
    Next, Nowhere, Ports, RecordError, Records, TlsPort, configured,
};
use rsmtpd::config::Certificate;
use rsmtpd::ipc::delivery::{Body, Commit, Disposition, FromDelivery, Outcome, RecipientResult, ToDelivery};
use rsmtpd::ipc::record::Record;
use rsmtpd::ipc::{control, frame, keeper as keeper_types, link, log};
use rsmtpd::keeper::keys::Keys;
use rsmtpd::session::{Mailbox as Place, Session, TlsFacts};
use rsmtpd::smtp::{
    Advertised, Arguments, BodyEnd, CommandLine, Domain, Event, ForwardPath, Limits, LineEnding, LineEndings, Mailbox,
    Receiver, Reply, parse, proxy_header as header, xclient as introduction,
};

#[path = "outside.rs"]
mod outside;
pub(crate) use outside::{broker, dns};

/// What is done with one input; panics where something does not hold.
pub(crate) type Entry = fn(&[u8]);

/// Every target by name.
pub(crate) const ENTRIES: [(&str, Entry); 12] = [
    ("receiver", receiver),
    ("address", address),
    ("command", command),
    ("parameters", parameters),
    ("bdat", bdat),
    ("frame", frame),
    ("keeper", keeper),
    ("broker", broker),
    ("dns", dns),
    ("session", session),
    ("proxy_header", proxy_header),
    ("xclient", xclient),
];

// ---- the receiver ----------------------------------------------------------

/// What a receiver gave, bodies whole.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Line(CommandLine),
    /// The octets and the tally; an unfinished body has none.
    Body(Vec<u8>, Option<BodyEnd>),
}

fn line_endings(choice: u8) -> LineEndings {
    match choice & 3 {
        0 => LineEndings::Normalize,
        1 => LineEndings::Strict,
        2 => LineEndings::Note,
        _ => LineEndings::Normalize,
    }
}

fn receiver_limits(choice: u8) -> Limits {
    Limits {
        command_line: if choice & 4 == 0 { 512 } else { 16 },
        text_line: if choice & 8 == 0 { 1000 } else { 10 },
        message_size: if choice & 16 == 0 { 0 } else { 40 },
        line_endings: line_endings(choice),
    }
}

/// Cuts `input` into pieces whose lengths follow from `seed`; with 0 it stays whole.
fn pieces(input: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9);
    let mut rest = input;
    let mut cut = Vec::new();
    while state != 0 && !rest.is_empty() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        // Mostly very short ones: boundaries inside CRLF.CRLF are what matters.
        let length = if state & 0x300 == 0 {
            1 + state as usize % 64
        } else {
            1 + state as usize % 3
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        cut.push(piece);
        rest = after;
    }
    if !rest.is_empty() || cut.is_empty() {
        cut.push(rest);
    }
    cut
}

/// The smallest server: `DATA` begins a text, `BDAT n` and `BDAT n LAST` begin chunks.
fn receive(limits: Limits, pieces: &[&[u8]]) -> Vec<Seen> {
    let mut receiver = Receiver::new(limits);
    let mut seen = Vec::new();
    let mut body: Option<Vec<u8>> = None;
    for piece in pieces {
        let mut rest = *piece;
        let mut again = false;
        loop {
            let (used, event) = receiver.feed(rest);
            assert!(used <= rest.len(), "consumed more than there was");
            assert!(again || used > 0 || event.is_some() || rest.is_empty(), "no progress");
            rest = &rest[used..];
            again = false;
            match event {
                None => {
                    assert!(rest.is_empty(), "left octets without an event");
                    break;
                }
                Some(Event::Command(line)) => {
                    assert!(line.bytes.len() <= limits.command_line);
                    again = begin(&mut receiver, &line, &mut body);
                    seen.push(Seen::Line(line));
                }
                Some(Event::BodyChunk(piece)) => {
                    assert!(!piece.octets.is_empty(), "an empty piece of a body");
                    assert!(!piece.sent.concat().is_empty(), "a piece out of nothing");
                    body.as_mut().expect("a body was begun").extend_from_slice(piece.octets);
                }
                Some(Event::BodyEnd(end)) => {
                    let octets = body.take().expect("a body was begun");
                    check_end(limits, &octets, &end);
                    seen.push(Seen::Body(octets, Some(end)));
                }
            }
        }
    }
    seen.extend(body.map(|octets| Seen::Body(octets, None)));
    seen
}

/// Whether the receiver has to be asked again without input: a chunk may be empty.
fn begin(receiver: &mut Receiver, line: &CommandLine, body: &mut Option<Vec<u8>>) -> bool {
    let all = Advertised {
        size_limit: 0,
        smtputf8: true,
        eightbit: true,
        chunking: true,
        tolerant: false,
    };
    let command = parse(line, &all);
    match (command.verb.name(), command.parsed) {
        ("DATA", Ok(_)) => receiver.begin_data(),
        (_, Ok(Arguments::Bdat { size, last: false })) => receiver.begin_chunk(size),
        (_, Ok(Arguments::Bdat { size, last: true })) => receiver.begin_last_chunk(size),
        ("RSET", Ok(_)) => {
            receiver.end_message();
            return false;
        }
        _ => return false,
    }
    *body = Some(Vec::new());
    true
}

fn check_end(limits: Limits, octets: &[u8], end: &BodyEnd) {
    assert_eq!(end.too_big, limits.message_size > 0 && end.octets > limits.message_size);
    if end.too_big {
        assert!(
            octets.len() as u64 <= limits.message_size,
            "more than the limit was handed on"
        );
    } else {
        assert_eq!(octets.len() as u64, end.octets);
        assert_eq!(octets.contains(&0), end.has_nul);
    }
    assert_eq!(end.first_bare.is_some(), end.bare_cr + end.bare_lf > 0);
    let strict = limits.line_endings == LineEndings::Strict;
    assert_eq!(end.strict_violation, strict && end.first_bare.is_some());
    assert!(end.lookalikes.len() <= 16);
}

/// The text of a message and what follows it, the simple way: nothing but CRLF.CRLF ends it.
fn text_and_rest(input: &[u8], endings: LineEndings) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    let mut at = 0;
    let mut line_start = true;
    loop {
        let rest = &input[at..];
        if line_start && rest.starts_with(b".\r\n") {
            return Some((text, &rest[3..]));
        }
        if line_start && rest.starts_with(b".") && rest.len() > 1 {
            at += 1;
            line_start = false;
            continue;
        }
        let normal = endings != LineEndings::Strict;
        line_start = rest.starts_with(b"\r\n");
        let (used, octets): (usize, &[u8]) = match rest {
            [b'\r', b'\n', ..] => (2, b"\r\n"),
            [b'\r' | b'.'] | [] => return None,
            [b'\r', ..] if normal => (1, b" "),
            [b'\n', ..] if normal => (1, b"\r\n"),
            _ => (1, &rest[..1]),
        };
        at += used;
        text.extend_from_slice(octets);
    }
}

/// First octet: limits. Second: where it is cut. Rest: what a client sends.
pub(crate) fn receiver(input: &[u8]) {
    let [choice, seed, wire @ ..] = input else { return };
    let limits = receiver_limits(*choice);
    let whole = receive(limits, &[wire]);
    assert_eq!(
        receive(limits, &pieces(wire, *seed)),
        whole,
        "the events depend on how the octets came"
    );

    // Once more as nothing but text, against the simple way.
    let unlimited = Limits {
        message_size: 0,
        ..limits
    };
    let sent = [b"DATA\r\n", wire].concat();
    let simple = text_and_rest(wire, limits.line_endings);
    match (receive(unlimited, &[&sent]).as_slice(), simple) {
        ([Seen::Line(_), Seen::Body(text, Some(_)), ..], Some((expected, _))) => assert_eq!(*text, expected),
        ([Seen::Line(_), Seen::Body(_, None)], None) => {}
        (other, simple) => panic!("received {other:?} where the simple way gives {simple:?}"),
    }
}

/// First octet: limits. Second: where it is cut. Then chunks: an octet of length, one of LAST and RSET, the octets.
pub(crate) fn bdat(input: &[u8]) {
    let [choice, seed, chunks_as_input @ ..] = input else {
        return;
    };
    let limits = receiver_limits(choice & !4);
    let mut rest = chunks_as_input;
    let mut wire = Vec::new();
    let mut chunks = Vec::new();
    while let [length, flags, octets @ ..] = rest {
        let (chunk, after) = octets.split_at(usize::from(*length).min(octets.len()));
        let last = flags & 3 == 1;
        let word = if last { " LAST" } else { "" };
        wire.extend_from_slice(format!("BDAT {}{word}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        if flags & 3 == 2 {
            wire.extend_from_slice(b"RSET\r\n");
        }
        chunks.push((chunk, flags & 3 == 2));
        rest = after;
    }
    let whole = receive(limits, &[&wire]);
    assert_eq!(
        receive(limits, &pieces(&wire, *seed)),
        whole,
        "the events depend on how the octets came"
    );
    let mut seen = whole.into_iter();
    for (chunk, reset) in chunks {
        let (Some(Seen::Line(_)), Some(Seen::Body(octets, Some(end)))) = (seen.next(), seen.next()) else {
            panic!("a chunk without an end");
        };
        let canonical = limits.line_endings == LineEndings::Strict || end.first_bare.is_none();
        if canonical && !end.too_big {
            assert_eq!(octets, chunk, "a chunk was changed");
        }
        if reset {
            assert!(matches!(seen.next(), Some(Seen::Line(_))));
        }
    }
    assert_eq!(seen.next(), None);
}

// ---- commands --------------------------------------------------------------

/// A mailbox, a domain, a local part.
pub(crate) fn address(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(mailbox) = text.parse::<Mailbox>() {
        let formatted = mailbox.to_string();
        assert_eq!(formatted.parse::<Mailbox>().as_ref(), Ok(&mailbox), "{formatted}");
        let quoted = Mailbox::new(mailbox.local_part(), mailbox.domain().clone());
        assert_eq!(quoted.as_ref(), Ok(&mailbox));
        assert!(!formatted.contains(['\r', '\n', '\0']), "{formatted:?}");
    }
    if let Ok(domain) = text.parse::<Domain>() {
        assert_eq!(domain.to_string().parse::<Domain>(), Ok(domain.clone()));
        if let Ok(mailbox) = Mailbox::new(text, domain) {
            assert_eq!(mailbox.to_string().parse::<Mailbox>(), Ok(mailbox));
        }
    }
    if let Ok(mailbox) = Mailbox::new(text, Domain::Name("example.com".into()))
        && !text.is_empty()
    {
        assert_eq!(mailbox.to_string().parse::<Mailbox>(), Ok(mailbox));
    }
}

fn advertised(choice: u8) -> Advertised {
    Advertised {
        size_limit: if choice & 1 == 0 { 0 } else { 1000 },
        smtputf8: choice & 2 != 0,
        eightbit: choice & 4 != 0,
        chunking: choice & 8 != 0,
        tolerant: false,
    }
}

fn parse_line(line: &CommandLine, advertised: &Advertised) {
    let command = parse(line, advertised);
    match &command.parsed {
        Err(fault) => {
            assert!((400..600).contains(&fault.code), "{fault:?}");
            assert_eq!(fault.code / 100, u16::from(fault.status.0), "{fault:?}");
        }
        Ok(Arguments::Mail {
            reverse_path,
            parameters,
        }) => {
            let mut again = format!("MAIL FROM:{reverse_path}");
            if let Some(size) = parameters.size {
                again += &format!(" SIZE={size}");
            }
            match parameters.body {
                Some(rsmtpd::smtp::Body::SevenBit) => again += " BODY=7BIT",
                Some(rsmtpd::smtp::Body::EightBitMime) => again += " BODY=8BITMIME",
                None => {}
            }
            if parameters.smtputf8 {
                again += " SMTPUTF8";
            }
            let second = parse(&command_line(again.as_bytes()), advertised);
            assert_eq!(second.parsed, command.parsed, "{again}");
            assert!(
                second.oddities.iter().all(|oddity| command.oddities.contains(oddity)),
                "{again}"
            );
        }
        Ok(Arguments::Rcpt { forward_path, .. }) => {
            let again = format!("RCPT TO:{forward_path}");
            assert_eq!(
                parse(&command_line(again.as_bytes()), advertised).parsed,
                command.parsed,
                "{again}"
            );
        }
        Ok(_) => {}
    }
}

fn command_line(bytes: &[u8]) -> CommandLine {
    CommandLine {
        bytes: bytes.to_vec(),
        ending: LineEnding::CrLf,
        too_long: false,
    }
}

/// First octet: what is offered and how the line ended. Rest: a command line.
pub(crate) fn command(input: &[u8]) {
    let [choice, bytes @ ..] = input else { return };
    let ending = if choice & 16 == 0 {
        LineEnding::CrLf
    } else {
        LineEnding::Lf
    };
    let line = CommandLine {
        bytes: bytes.to_vec(),
        ending,
        too_long: choice & 32 != 0,
    };
    parse_line(&line, &advertised(*choice));
}

/// First octet: what is offered and which command. Rest: its parameters.
pub(crate) fn parameters(input: &[u8]) {
    let [choice, bytes @ ..] = input else { return };
    let before: &[u8] = match choice & 48 {
        0 => b"MAIL FROM:<a@example.org> ",
        16 => b"RCPT TO:<a@example.org> ",
        32 => b"BDAT ",
        _ => "MAIL FROM:<ä@example.org> ".as_bytes(),
    };
    parse_line(&command_line(&[before, bytes].concat()), &advertised(*choice));
}

// ---- frames ----------------------------------------------------------------

/// First octet: the boundary. Rest: a frame.
pub(crate) fn frame(input: &[u8]) {
    fn read<T>(bytes: &[u8])
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        if let Ok(value) = frame::decode::<T>(bytes) {
            let encoded = frame::encode(&value).expect("what was a frame fits into one");
            assert!(encoded.len() <= bytes.len(), "the shortest form is longer");
            assert_eq!(frame::decode::<T>(&encoded), Ok(value));
        }
    }
    let [choice, bytes @ ..] = input else { return };
    match choice % 9 {
        0 => read::<ToDelivery>(bytes),
        1 => read::<FromDelivery>(bytes),
        2 => read::<link::FromWorker>(bytes),
        3 => read::<link::ToWorker>(bytes),
        4 => read::<control::ToHelper>(bytes),
        5 => read::<control::FromHelper>(bytes),
        6 => read::<log::ToLogger>(bytes),
        7 => read::<keeper_types::ToKeeper>(bytes),
        _ => read::<keeper_types::FromKeeper>(bytes),
    }
}

// ---- the keeper ------------------------------------------------------------

thread_local! {
    /// One ECDSA key, which is no secret.
    static KEYS: Keys = {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = |name: &str| {
            let beside = here.join(name);
            if beside.exists() { beside } else { here.join("tests/fuzz").join(name) }
        };
        let named = Certificate {
            domain_match: ".example.com".into(),
            server_name: "mail.example.com".into(),
            pem_file: file("keeper.pem"),
            key_file: file("keeper.key"),
        };
        let mut keys = Keys::default();
        assert!(keys.renew(&[named], None).is_empty());
        keys
    };
}

/// What a TLS server signs, written down once more: the forms of RFC 8446 and RFC 8422.
fn is_of_a_handshake(message: &[u8]) -> bool {
    let verify = [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify\0"].concat();
    let hash = message.len().wrapping_sub(verify.len());
    let exchange = match message.get(64..68) {
        Some([3, 0, 0x17, 65]) => message.len() == 133 && message[68] == 4,
        Some([3, 0, 0x18, 97]) => message.len() == 165 && message[68] == 4,
        Some([3, 0, 0x1d, 32]) => message.len() == 100,
        _ => false,
    };
    exchange || (message.starts_with(&verify) && [32, 48].contains(&hash))
}

/// First octet: whether the rest is a frame as a worker may send it, or what it wants signed by the one key there is; then
/// two octets are the scheme.
pub(crate) fn keeper(input: &[u8]) {
    let [choice, bytes @ ..] = input else { return };
    KEYS.with(|keys| {
        let request = match (choice & 1, bytes) {
            (0, frame) => frame::decode::<keeper_types::ToKeeper>(frame).ok(),
            (_, [high, low, message @ ..]) => Some(keeper_types::ToKeeper::Sign {
                key: keys.certificates().next().expect("one").key,
                scheme: u16::from_be_bytes([*high, *low]),
                message: message.to_vec(),
            }),
            _ => None,
        };
        let Some(request) = request else { return };
        let answer = keys.answer(&request);
        assert!(frame::encode(&answer).is_ok());
        let known = keys.certificates().next().expect("one").key;
        match (answer, request) {
            (keeper_types::FromKeeper::Signature(_), keeper_types::ToKeeper::Sign { key, scheme, message }) => {
                assert!(key == known && scheme == 0x0403, "by another key, or another scheme");
                assert!(is_of_a_handshake(&message), "signed what is of no handshake");
            }
            (keeper_types::FromKeeper::Signature(_), _) => panic!("signed what it was not asked to"),
            (keeper_types::FromKeeper::Held, request) => {
                assert_eq!(request, keeper_types::ToKeeper::Holds { key: known });
            }
            (keeper_types::FromKeeper::Refused, keeper_types::ToKeeper::Sign { key, scheme, message }) => {
                assert!(
                    key != known || scheme != 0x0403 || !is_of_a_handshake(&message),
                    "refused a handshake"
                );
            }
            (keeper_types::FromKeeper::Refused, request) => {
                assert_ne!(request, keeper_types::ToKeeper::Holds { key: known });
            }
        }
    });
}

// ---- sessions --------------------------------------------------------------

/// Knows user, other, an alias of both, one in quarantine and one that is switched off.
struct FewUsers;

impl Directory for FewUsers {
    fn look_up(&self, path: &ForwardPath) -> Found {
        let place = |mailbox: &str| Place {
            domain: "example.com".into(),
            mailbox: mailbox.into(),
        };
        let ForwardPath::Mailbox(mailbox) = path else {
            return Found::Valid(vec![place("postmaster")]);
        };
        if mailbox.domain().to_string() != "example.com" {
            return Found::ForeignDomain;
        }
        match mailbox.local_part() {
            name @ ("user" | "other" | "postmaster") => Found::Valid(vec![place(name)]),
            "alias" => Found::Valid(vec![place("user"), place("other")]),
            name @ "soft" => Found::Soft(place(name)),
            "disabled" => Found::Disabled,
            _ => Found::UnknownMailbox,
        }
    }
}

/// Delivery that fails as it is told, and checks what it gets.
struct Mailboxes {
    choice: u8,
    commits: Vec<Commit>,
}

impl DeliveryPort for Mailboxes {
    fn commit(&mut self, commit: Commit) -> Result<Outcome, DeliveryError> {
        check_commit(&commit);
        let results = commit
            .recipients
            .iter()
            .map(|copy| match (self.choice & 3, copy.disposition) {
                (_, Disposition::Discard) => RecipientResult::Discarded,
                (_, Disposition::Quarantine) => RecipientResult::Quarantined,
                (1, _) if copy.mailbox == "user" => RecipientResult::Permanent {
                    code: 552,
                    status: [5, 2, 2],
                    text: "over\r\nquota".into(),
                },
                (2, _) if copy.mailbox == "other" => RecipientResult::Temporary {
                    code: 451,
                    status: [4, 2, 0],
                    text: "later".into(),
                },
                _ => RecipientResult::Delivered,
            });
        let outcome = Outcome {
            results: results.collect(),
        };
        self.commits.push(commit);
        if self.choice & 3 == 3 {
            Err(DeliveryError::new("gone"))
        } else {
            Ok(outcome)
        }
    }
}

fn check_commit(commit: &Commit) {
    assert!(!commit.recipients.is_empty(), "a message for nobody");
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    assert!(!commit.id.is_empty() && commit.id.chars().all(plain), "{}", commit.id);
    assert!(commit.recipients.iter().all(|copy| copy.domain == "example.com"));
    let fields = String::from_utf8(commit.fields.clone()).expect("fields are UTF-8");
    assert!(
        fields.starts_with("Received: ") && fields.ends_with("\r\n"),
        "{fields:?}"
    );
    assert!(
        !fields
            .replace("\r\n", "")
            .contains(|c: char| c.is_control() && c != '\t'),
        "{fields:?}"
    );
    let unfolded = fields.replace("\r\n ", " ").replace("\r\n\t", "\t");
    assert!(
        unfolded.trim_end().lines().all(|line| line.contains(": ")),
        "{fields:?}"
    );
}

/// A body in memory, on a disk of so many octets.
struct Memory {
    octets: Vec<u8>,
    room: usize,
}

/// Records nobody writes.
struct Lost;

impl Records for Lost {
    fn write(&mut self, _: Record) -> Result<(), RecordError> {
        Err(RecordError(String::new()))
    }

    fn sync(&mut self) -> Result<(), RecordError> {
        Err(RecordError(String::new()))
    }

    fn now(&self) -> i64 {
        0
    }
}

impl BodySink for Memory {
    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        if self.octets.len() + octets.len() > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.octets.extend_from_slice(octets);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<Body> {
        Ok(Body::Inline(std::mem::take(&mut self.octets)))
    }

    fn reset(&mut self) {
        self.octets.clear();
    }
}

/// Signs, or does not.
struct Signer(bool);

impl TlsPort for Signer {
    fn ready(&mut self) -> Result<(), String> {
        if self.0 { Ok(()) } else { Err("nobody signs".to_owned()) }
    }
}

/// One connection: the octets that the client reads, and what was handed to delivery.
struct Connection<'c> {
    conversation: Conversation<'c>,
    receiver: Receiver,
    delivery: Mailboxes,
    body: Memory,
    written: Vec<u8>,
    codes: Vec<u16>,
    closed: bool,
    in_body: bool,
}

/// Where the conversation of a connection reaches the outside, at this time.
macro_rules! ports {
    ($connection:expr, $signer:expr, $now:expr) => {
        Ports {
            delivery: &mut $connection.delivery,
            body: &mut $connection.body,
            back_end: &mut Nowhere,
            resolver: &mut Nowhere,
            records: &mut Lost,
            tls: $signer,
            pause: &mut Nowhere,
            now: $now,
        }
    };
}

impl<'c> Connection<'c> {
    fn open(chain: &'c Chain, choice: u8) -> Connection<'c> {
        Connection::with(chain, choice, None)
    }

    /// XCLIENT is served where `front` is something, and to this client if it says so.
    fn with(chain: &'c Chain, choice: u8, front: Option<bool>) -> Connection<'c> {
        let limits = SessionLimits {
            message_size: 300,
            maximum_recipients: 3,
            maximum_messages: 4,
            maximum_errors: 8,
            maximum_unknown_commands: 4,
            maximum_harmless_commands: 12,
            maximum_received: 2,
            tolerate_unadvertised_params: choice & 128 != 0,
            starttls: choice & 64 != 0,
            xclient: front.is_some(),
            line_endings: line_endings(choice >> 3),
        };
        let receiver = Receiver::new(Limits {
            command_line: 512,
            text_line: 80,
            message_size: limits.message_size,
            line_endings: limits.line_endings,
        });
        let peer = ([192, 0, 2, 7], 4711).into();
        let local = ([192, 0, 2, 1], 25).into();
        let mut connection = Connection {
            conversation: Conversation::new(
                Session::new("s1".into(), peer, local, "mail.example.com"),
                chain,
                limits,
            ),
            receiver,
            delivery: Mailboxes {
                choice,
                commits: Vec::new(),
            },
            body: Memory {
                octets: Vec::new(),
                room: if choice & 4 == 0 { 1000 } else { 100 },
            },
            written: Vec::new(),
            codes: Vec::new(),
            closed: false,
            in_body: false,
        };
        if front == Some(true) {
            connection.conversation.may_introduce();
        }
        let action = connection.call(|conversation, ports| conversation.open(ports));
        connection.act(action);
        connection
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Conversation<'c>, &mut Ports<'_>) -> T) -> T {
        let signer = &mut Signer(self.delivery.choice & 32 == 0);
        call(&mut self.conversation, &mut ports!(self, signer, 1_700_000_000_000_000))
    }

    fn say(&mut self, mut input: &[u8], more: bool) {
        let mut again = true;
        while !self.closed && (again || !input.is_empty()) {
            let (used, event) = self.receiver.feed(input);
            input = &input[used..];
            let commits = self.delivery.commits.len();
            let signer = &mut Signer(self.delivery.choice & 32 == 0);
            let mut ports = ports!(self, signer, 1_700_000_001_000_000);
            let (action, ends_message) = match event {
                None => return assert!(input.is_empty(), "left octets without an event"),
                Some(Event::Command(line)) => {
                    assert!(!self.in_body, "a command inside a body");
                    (
                        self.conversation.command(line, more || !input.is_empty(), &mut ports),
                        false,
                    )
                }
                Some(Event::BodyChunk(piece)) => {
                    assert!(self.in_body, "a body where none was begun");
                    self.conversation.chunk(piece, &mut ports);
                    continue;
                }
                Some(Event::BodyEnd(end)) => (self.conversation.body_end(end, &mut ports), true),
            };
            self.check_acceptance(&action, ends_message, commits);
            again = matches!(action.next, Next::Chunk { .. });
            self.act(action);
        }
    }

    /// Delivery is asked only at the end of a body, and only what it took is told 250.
    fn check_acceptance(&self, action: &Action, ends_message: bool, commits: usize) {
        let new = &self.delivery.commits[commits..];
        assert!(
            new.len() <= 1 && (ends_message || new.is_empty()),
            "delivered out of order"
        );
        let accepted = ends_message && action.reply.as_ref().is_some_and(|reply| reply.code == 250);
        if let Some(commit) = new.first() {
            let down = self.delivery.choice & 3 == 3;
            assert!(!(accepted && down), "250 although delivery is gone");
            let id = action
                .reply
                .iter()
                .flat_map(|reply| &reply.lines)
                .any(|line| line.contains(&commit.id));
            assert!(!accepted || id, "250 without the identifier");
        } else if accepted && action.message_ended {
            panic!("250 although nothing was handed over");
        }
    }

    fn act(&mut self, action: Action) {
        for (_, line) in &action.log {
            assert!(!line.contains(char::is_control), "a log line could be forged: {line:?}");
        }
        if action.message_ended {
            self.receiver.end_message();
        }
        if let Some(reply) = action.reply {
            let from = self.written.len();
            reply.to_wire(&mut self.written);
            self.codes.push(reply.code);
            check_reply(&self.written[from..], reply.code);
        }
        self.in_body = matches!(action.next, Next::Data | Next::Chunk { .. });
        match action.next {
            Next::Command => {}
            Next::Data => self.receiver.begin_data(),
            Next::Chunk { size, last: false } => self.receiver.begin_chunk(size),
            Next::Chunk { size, last: true } => self.receiver.begin_last_chunk(size),
            Next::StartTls => self.secure(),
            Next::Close => self.closed = true,
        }
    }
}

impl Connection<'_> {
    /// What follows counts as said inside TLS.
    fn secure(&mut self) {
        assert!(self.delivery.choice & 96 == 64, "a handshake where TLS cannot be had");
        assert!(self.conversation.session().tls.is_none(), "TLS inside TLS");
        let facts = TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256".into(),
            group: None,
            sni: Some("x\r\ny".into()),
            server_name: "tls.example.com".into(),
            hello: Vec::new(),
        };
        let lines = self.call(|conversation, ports| conversation.secure(facts, ports));
        for (_, line) in &lines {
            assert!(!line.contains(char::is_control), "a log line could be forged: {line:?}");
        }
        let session = self.conversation.session();
        assert!(session.hello.is_none() && session.transaction.is_none() && session.offered.is_empty());
        self.receiver.reset();
    }
}

fn check_reply(written: &[u8], code: u16) {
    let text = String::from_utf8_lossy(written);
    assert!(
        written.split_inclusive(|b| *b == b'\n').all(|line| line.len() <= 512),
        "{text}"
    );
    assert!(
        written.iter().all(|b| matches!(b, b'\r' | b'\n' | b' '..=b'~')),
        "{text:?}"
    );
    match Reply::parse(written) {
        Ok(Some((reply, length))) => assert_eq!((reply.code, length), (code, written.len()), "{text}"),
        other => panic!("{other:?}: {text}"),
    }
}

thread_local! {
    /// Built once: every session of a worker shares its chain.
    static CHAIN: Rc<Chain> = {
        let directory: Arc<dyn Directory> = Arc::new(FewUsers);
        Rc::new(configured::shipped(&directory))
    };
}

/// First octet: line endings, room, and how delivery fails. Second: where it is cut. Rest: what a client sends.
pub(crate) fn session(input: &[u8]) {
    let [choice, seed, wire @ ..] = input else { return };
    let chain = CHAIN.with(Rc::clone);
    let mut whole = Connection::open(&chain, *choice);
    whole.say(wire, false);
    let mut cut = Connection::open(&chain, *choice);
    for piece in pieces(wire, *seed) {
        cut.say(piece, false);
    }
    assert_eq!(cut.codes, whole.codes, "the replies depend on how the octets came");
    assert_eq!(cut.delivery.commits.len(), whole.delivery.commits.len());
    for (one, other) in cut.delivery.commits.iter().zip(&whole.delivery.commits) {
        assert_eq!((&one.body, &one.recipients), (&other.body, &other.recipients));
    }
    for connection in [&mut whole, &mut cut] {
        for (_, line) in connection.conversation.close("lost", &mut Lost).lines {
            assert!(!line.contains(char::is_control), "a log line could be forged: {line:?}");
        }
    }
}

// ---- who stands in front ---------------------------------------------------

/// First octet: whether the others stand behind the beginning of a header, and of which.
pub(crate) fn proxy_header(input: &[u8]) {
    let [choice, rest @ ..] = input else { return };
    let begin: &[u8] = match choice & 7 {
        0 => b"PROXY ",
        1 => b"PROXY TCP4 192.0.2.1 ",
        2 => b"PROXY TCP6 2001:db8::1 ",
        3 => b"\r\n\r\n\0\r\nQUIT\n",
        4 => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00",
        5 => b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00",
        _ => b"",
    };
    let wire = [begin, rest].concat();
    let whole = header::parse(&wire);
    for length in 0..wire.len().min(600) {
        match header::parse(&wire[..length]) {
            Ok(None) => {}
            found => assert_eq!(found, whole, "what was found depends on how the octets came"),
        }
    }
    let Ok(Some((found, length))) = whole else {
        let most = if wire.starts_with(b"P") {
            header::LONGEST_V1
        } else {
            header::LONGEST
        };
        assert!(whole.is_err() || wire.len() < most, "waits for ever");
        return;
    };
    assert!(
        header::parse(&wire[..length - 1]) == Ok(None),
        "more was taken than is needed"
    );
    assert!(
        length
            <= if found.version == header::Version::V1 {
                header::LONGEST_V1
            } else {
                header::LONGEST
            }
    );
    if let header::Subject::Client { from, to } = found.subject {
        let again = header::parse(&header::write(found.version, from, to))
            .expect("ours")
            .expect("whole")
            .0;
        let canonical = |subject: header::Subject| match subject {
            header::Subject::Client { from, to } => {
                [from, to].map(|address| (address.ip().to_canonical(), address.port()))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(canonical(again.subject), canonical(found.subject));
    }
}

/// First octet: as of a session; 4 and 16 also whether XCLIENT is served, and to this client. Second: where it is cut. Rest:
/// what a server in front sends.
pub(crate) fn xclient(input: &[u8]) {
    let [choice, seed, wire @ ..] = input else { return };
    for line in wire.split(|octet| *octet == b'\n') {
        attributes(line);
    }
    let chain = CHAIN.with(Rc::clone);
    let front = (choice & 4 == 0).then_some(choice & 16 == 0);
    let mut whole = Connection::with(&chain, *choice, front);
    whole.say(wire, false);
    let mut cut = Connection::with(&chain, *choice, front);
    for piece in pieces(wire, *seed) {
        cut.say(piece, false);
    }
    assert_eq!(cut.codes, whole.codes, "the replies depend on how the octets came");
    for connection in [&mut whole, &mut cut] {
        let session = connection.conversation.session();
        let introduced = session.introduced.attributes.is_some();
        assert!(!introduced || front == Some(true), "spoke for others without leave");
        let via = session.introduced.via;
        assert_eq!(via, ([192, 0, 2, 7], 4711).into());
        assert!(introduced || session.peer == via, "another client out of nowhere");
        for (_, line) in connection.conversation.close("lost", &mut Lost).lines {
            assert!(!line.contains(char::is_control), "a log line could be forged: {line:?}");
        }
    }
}

/// What XCLIENT may say is short, and has nothing in it that could end a line.
fn attributes(line: &[u8]) {
    let Ok(found) = introduction::parse(line) else { return };
    for text in [&found.name, &found.helo, &found.login] {
        if let Some(text) = text.as_ref().and_then(|text| text.known()) {
            assert!(
                (1..=255).contains(&text.len()) && !text.contains(char::is_control),
                "{text:?}"
            );
        }
    }
    let mut twice = found.clone();
    twice.update(found.clone());
    assert_eq!(twice, found);
}
