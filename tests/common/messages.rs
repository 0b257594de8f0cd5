//! Messages that a client, a relay or a server is tempted to change, and the
//! proof that each is in its mailboxes once, byte for byte.

use std::collections::BTreeMap;

use super::{Server, with_crlf};

/// What a message may contain so that a client hands it over unchanged.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Octets of the longest line, without CRLF.
    pub longest_line: usize,
    /// Whether there may be no body, or a dot alone as last line.
    pub awkward_end: bool,
}

/// One message and the mailboxes it is for.
#[derive(Clone)]
pub struct Message {
    /// What follows `Message-ID: <`, up to the `@`.
    pub id: String,
    /// Lines end in CRLF.
    pub bytes: Vec<u8>,
    /// As in RCPT.
    pub recipients: Vec<&'static str>,
    /// Servers that it passes, ours included: so many Received fields are put in front.
    pub hops: usize,
}

/// Recipients as in RCPT, and the mailbox of each.
const RECIPIENTS: [(&str, &str); 5] = [
    ("test@example.com", "test@example.com"),
    ("other@example.com", "other@example.com"),
    ("MIXED.case@Example.COM", "mixed.case@example.com"),
    ("test@example.net", "test@example.net"),
    ("other+tag@example.com", "other@example.com"),
];

/// Message `number` of `sender`: ten kinds of body, one to four recipients.
pub fn message(sender: &str, number: usize, shape: Shape) -> Message {
    let id = format!("{sender}-{number}");
    let recipients: Vec<&str> = match number % 7 {
        0 => vec![RECIPIENTS[4].0],
        1 => vec![RECIPIENTS[1].0, RECIPIENTS[3].0],
        2 => RECIPIENTS[..4].iter().map(|r| r.0).collect(),
        n => vec![RECIPIENTS[n % 4].0],
    };
    let mut bytes = format!(
        "From: Sender <sender@example.org>\r\nTo: undisclosed-recipients:;\r\n\
         Subject: {sender}\r\n number {number}\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\
         Message-ID: <{id}@example.org>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    .into_bytes();
    body(number, shape, &mut bytes);
    Message {
        id,
        bytes,
        recipients,
        hops: 1,
    }
}

fn body(number: usize, shape: Shape, to: &mut Vec<u8>) {
    match number % 10 {
        3 | 5 if !shape.awkward_end => to.extend(b".\r\n..\r\n.leading\r\nend\r\n"),
        0 => to.extend(b"Short.\r\n"),
        1 => to.extend("Smørrebrød, 芥末, żółć\r\n".as_bytes()),
        2 => {
            to.extend(0x80..=0xffu8);
            to.extend(b"\r\n\xff\xfe\xfd\r\n");
        }
        3 => to.extend(b".\r\n..\r\n...\r\n.leading\r\n..two\r\n. \r\n .\r\nQUIT\r\n.\r\n"),
        4 => {
            for length in [shape.longest_line - 1, shape.longest_line] {
                to.push(b'.');
                to.extend((1..length).map(|at| b'a' + (at % 26) as u8));
                to.extend(b"\r\n");
            }
        }
        5 => {} // no body
        6 => to.extend(b"\r\n\r\n\r\n"),
        7 => to.extend(b"From the start of a line\r\n>From quoted\r\ntrailing \t \r\n\t \r\n\x0b\x0c\x08\x7f\r\n"),
        8 => to.extend(b"=2E=0D=0A--boundary--\r\n250 not a reply\r\nBDAT 5 LAST\r\nMAIL FROM:<>\r\n"),
        _ => {
            let mut seed = number as u64 + 1;
            for _ in 0..(number % 400) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                to.extend(format!(".{seed:064x}{:>1$}\r\n", "", (seed >> 58) as usize).bytes());
            }
        }
    }
}

/// That each message is in each of its mailboxes exactly once and unchanged,
/// and nothing else is anywhere. Returns how many files that are.
pub fn assert_each_once(server: &Server, sent: &[Message]) -> usize {
    let mut expected: BTreeMap<&str, BTreeMap<&str, &Message>> = BTreeMap::new();
    for message in sent {
        for recipient in &message.recipients {
            let mailbox = RECIPIENTS
                .iter()
                .find(|(address, _)| address == recipient)
                .expect("known")
                .1;
            let twice = expected.entry(mailbox).or_default().insert(&message.id, message);
            assert!(twice.is_none(), "{} is sent twice to {mailbox}", message.id);
        }
    }
    let mut files = 0;
    for (mailbox, mut missing) in expected {
        for stored in server.mail(mailbox) {
            let stored = with_crlf(&stored);
            let id = id_of(&stored);
            let Some(message) = missing.remove(id.as_str()) else {
                panic!("{mailbox}: {id:?} is there twice, or was never sent");
            };
            assert_unchanged(&stored, message, mailbox);
            files += 1;
        }
        let names: Vec<&&str> = missing.keys().take(20).collect();
        assert!(
            missing.is_empty(),
            "{mailbox}: {} are missing: {names:?}",
            missing.len()
        );
    }
    files
}

/// How many messages are in all mailboxes.
pub fn stored(server: &Server) -> usize {
    let mut mailboxes: Vec<&str> = RECIPIENTS.iter().map(|(_, mailbox)| *mailbox).collect();
    mailboxes.sort_unstable();
    mailboxes.dedup();
    mailboxes
        .iter()
        .flat_map(|mailbox| ["new", "cur"].map(|part| server.maildir(mailbox).join(part)))
        .map(|directory| std::fs::read_dir(directory).map_or(0, Iterator::count))
        .sum()
}

fn id_of(stored: &[u8]) -> String {
    const FIELD: &[u8] = b"\r\nMessage-ID: <";
    let at = stored.windows(FIELD.len()).position(|w| w == FIELD);
    let rest = stored
        .get(at.expect("a Message-ID") + FIELD.len()..)
        .unwrap_or_default();
    let id = rest.split(|&b| b == b'@').next().unwrap_or_default();
    String::from_utf8_lossy(id).into_owned()
}

fn assert_unchanged(stored: &[u8], message: &Message, mailbox: &str) {
    let sent = message.bytes.as_slice();
    let Some(front) = stored.strip_suffix(sent) else {
        panic!(
            "{mailbox}: the message differs\n--- stored:\n{}\n--- sent:\n{}",
            stored.escape_ascii(),
            sent.escape_ascii()
        );
    };
    let front = String::from_utf8_lossy(front);
    let fields: Vec<String> = front
        .lines()
        .filter(|line| !line.starts_with([' ', '\t']))
        .map(|line| line.split(':').next().unwrap_or_default().to_ascii_lowercase())
        .collect();
    let mut order = vec!["return-path", "delivered-to"];
    order.extend(vec!["received"; message.hops]);
    assert_eq!(fields, order, "{mailbox}: the fields in front are\n{front}");
}
