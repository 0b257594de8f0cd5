//! Dialogues with fake ports: no sockets, the real receiver.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::*;
use crate::chain::{
    BackEndLost, BackEndPort, BackEndTls, BackEndWay, BodySink, Chain, ClientGone, DeliveryError, DeliveryPort, Found,
    PausePort, RecordError, ResolverPort, TlsPort, configured, registry,
};
use crate::config::{ChainFile, Fault, Part};
use crate::ipc::broker::{Answer, Question};
use crate::ipc::delivery::{Body, Commit, Disposition, Outcome, RecipientResult};
use crate::ipc::record::Record;
use crate::session::{Mailbox, TlsFacts};
use crate::smtp::address::ForwardPath;
use crate::smtp::receiver::{Event as Input, Limits as ReceiverLimits, Receiver};

/// Delivery that keeps what it gets, and answers as it was told.
#[derive(Default)]
struct FakeDelivery {
    commits: Vec<Commit>,
    down: bool,
    failing: Vec<(String, RecipientResult)>,
}

impl DeliveryPort for FakeDelivery {
    fn commit(&mut self, commit: Commit) -> Result<Outcome, DeliveryError> {
        if self.down {
            return Err(DeliveryError::new("down"));
        }
        let results = commit.recipients.iter().map(|copy| {
            let failing = self.failing.iter().find(|(mailbox, _)| *mailbox == copy.mailbox);
            match (failing, copy.disposition) {
                (Some((_, result)), _) => result.clone(),
                (None, Disposition::Deliver) => RecipientResult::Delivered,
                (None, Disposition::Quarantine) => RecipientResult::Quarantined,
                (None, Disposition::Discard | Disposition::Copy) => RecipientResult::Discarded,
            }
        });
        let outcome = Outcome {
            results: results.collect(),
        };
        self.commits.push(commit);
        Ok(outcome)
    }
}

/// Signs unless it is silent.
#[derive(Default)]
struct FakeKeeper {
    silent: bool,
}

impl TlsPort for FakeKeeper {
    fn ready(&mut self) -> Result<(), String> {
        if self.silent { Err("silent".to_owned()) } else { Ok(()) }
    }
}

#[derive(Default)]
struct FakeBody {
    octets: Vec<u8>,
    full: bool,
}

impl BodySink for FakeBody {
    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        if self.full {
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

/// A back end that takes everything but what it was told to refuse, and keeps what it hears.
#[derive(Default)]
struct FakeBackEnd {
    open: bool,
    introduced: bool,
    tls: Option<BackEndTls>,
    /// An extension that it has no more.
    lacks: &'static str,
    said: Vec<String>,
    /// As of [`FakePauses`].
    order: Rc<RefCell<Vec<String>>>,
    text: Vec<u8>,
    taken: Vec<Vec<u8>>,
    /// Beginnings of lines, `OPEN` and `END`, and the replies to them; 0 is none.
    told: Vec<(&'static str, u16)>,
    /// As `told` and before it, as long as it takes the client for us.
    told_us: Vec<(&'static str, u16)>,
    /// It takes XCLIENT and has heard it.
    knows_client: bool,
    /// What it has heard before that, but for what harms nobody.
    as_us: Vec<String>,
    /// It waits for a text.
    taking: bool,
}

impl FakeBackEnd {
    fn answer(&mut self, line: &str, usual: u16) -> Result<Reply, BackEndLost> {
        self.said.push(line.to_owned());
        self.order.borrow_mut().push(line.to_owned());
        let us = self.told_us.iter().filter(|_| !self.knows_client);
        let told = us.chain(&self.told).find(|(start, _)| line.starts_with(start));
        match told.map_or(usual, |(_, code)| *code) {
            0 => {
                self.open = false;
                Err(BackEndLost::new("gone"))
            }
            code if line.starts_with("EHLO") && code == 250 => {
                let lines = [
                    "back.example",
                    "SIZE 500",
                    "8BITMIME",
                    "XCLIENT NAME ADDR",
                    "AUTH PLAIN",
                    "DSN",
                ];
                let lines = lines.iter().filter(|line| **line != self.lacks);
                Ok(Reply::multi(250, None, lines.map(|line| (*line).to_owned()).collect()))
            }
            code => Ok(Reply::new(code, None, format!("back end on {line}"))),
        }
    }
}

impl BackEndPort for FakeBackEnd {
    fn open(&mut self, _: &BackEndWay<'_>) -> Result<Reply, BackEndLost> {
        (self.open, self.introduced, self.knows_client, self.taking) = (true, false, false, false);
        self.text.clear();
        self.answer("OPEN", 220)
    }

    fn is_open(&self) -> bool {
        self.open
    }

    fn tls(&self) -> Option<&BackEndTls> {
        self.tls.as_ref().filter(|_| self.open)
    }

    fn is_introduced(&self) -> bool {
        self.open && self.introduced
    }

    fn set_introduced(&mut self) {
        self.introduced = true;
    }

    fn command(&mut self, line: &[u8]) -> Result<Reply, BackEndLost> {
        let line = String::from_utf8_lossy(line).into_owned();
        assert!(self.open, "{line}: there is no connection");
        // In no test may a client do anything with the rights that we have there.
        let harmless = ["EHLO ", "XCLIENT", "QUIT"].iter().any(|start| line.starts_with(start));
        assert!(self.introduced || harmless, "{line}: {:?}", self.said);
        if !self.knows_client && !harmless {
            self.as_us.push(line.clone());
        }
        let usual = match line.split(' ').next() {
            Some("DATA") => 354,
            Some("QUIT") => 221,
            Some("XCLIENT") => 220,
            _ => 250,
        };
        let reply = self.answer(&line, usual)?;
        self.knows_client |= line.starts_with("XCLIENT") && (200..300).contains(&reply.code);
        self.taking = reply.code == 354;
        Ok(reply)
    }

    fn text(&mut self, octets: &[u8]) -> Result<(), BackEndLost> {
        if self.told.contains(&("TEXT", 0)) || !self.taking {
            self.open = false;
            return Err(BackEndLost::new("gone"));
        }
        self.text.extend_from_slice(octets);
        Ok(())
    }

    fn end_text(&mut self) -> Result<Reply, BackEndLost> {
        let text = std::mem::take(&mut self.text);
        if !std::mem::take(&mut self.taking) {
            return Err(BackEndLost::new("it waits for no message"));
        }
        let reply = self.answer("END", 250)?;
        if reply.is_positive() {
            self.taken.push(text);
        }
        Ok(reply)
    }

    fn give_up(&mut self) {
        self.open = false;
        self.text.clear();
    }
}

/// Time that passes at once, and what the back end had heard by then.
#[derive(Default)]
struct FakePauses {
    /// What happened: pauses as `pause SECONDS`, and what the back end heard.
    order: Rc<RefCell<Vec<String>>>,
    /// The client leaves while it waits.
    left: bool,
}

impl PausePort for FakePauses {
    fn pause(&mut self, time: Duration) -> Result<(), ClientGone> {
        self.order.borrow_mut().push(format!("pause {}", time.as_secs()));
        if self.left { Err(ClientGone) } else { Ok(()) }
    }
}

/// A DNS that knows what it was told.
#[derive(Default)]
struct FakeResolver {
    known: Vec<(Question, Answer)>,
    asked: usize,
}

impl ResolverPort for FakeResolver {
    fn resolve(&mut self, questions: &[Question], _: &mut Duration) -> Vec<Answer> {
        self.asked += questions.len();
        let answer = |question: &Question| self.known.iter().find(|(known, _)| known == question);
        let answers = questions.iter().map(answer);
        answers
            .map(|found| found.map_or(Answer::NoName, |(_, answer)| answer.clone()))
            .collect()
    }
}

/// Records in memory.
#[derive(Default)]
pub(crate) struct FakeRecords {
    files: std::collections::BTreeMap<String, Vec<u8>>,
    pub(crate) broken: bool,
}

impl FakeRecords {
    /// All that is in the files.
    pub(crate) fn octets(&self) -> Vec<u8> {
        self.files.values().flatten().copied().collect()
    }
}

impl Records for FakeRecords {
    fn write(&mut self, record: Record) -> Result<(), RecordError> {
        self.sync()?;
        let path = format!("{}/{}", record.directory, record.file);
        self.files.entry(path).or_default().extend(record.octets);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), RecordError> {
        if self.broken {
            return Err(RecordError("broken".to_owned()));
        }
        Ok(())
    }

    fn now(&self) -> i64 {
        1_700_000_002_000_000
    }
}

struct FakeDirectory;

impl crate::chain::Directory for FakeDirectory {
    fn look_up(&self, path: &ForwardPath) -> Found {
        let ForwardPath::Mailbox(mailbox) = path else {
            return Found::Valid(vec![place("postmaster")]);
        };
        if mailbox.domain().to_string() != "example.com" {
            return Found::ForeignDomain;
        }
        match mailbox.local_part() {
            name @ ("user" | "other" | "third" | "fourth" | "postmaster") => Found::Valid(vec![place(name)]),
            "alias" => Found::Valid(vec![place("user"), place("other")]),
            name @ "soft" => Found::Soft(place(name)),
            "disabled" => Found::Disabled,
            _ => Found::UnknownMailbox,
        }
    }
}

pub(crate) fn directory() -> Arc<dyn crate::chain::Directory> {
    Arc::new(FakeDirectory)
}

/// The standard chains with those of `text` in place of theirs, and handlers' files.
fn build(text: &str, files: &[(&'static str, &str)]) -> (Chain, Vec<Fault>) {
    let mut faults = Vec::new();
    let standard = include_str!("../../../config/command_handler_standard_server.yaml");
    let mut parse = |name, text| ChainFile::parse(name, text, &registry::names(), &mut faults).expect("YAML");
    let (mut file, own) = (parse("standard.yaml", standard), parse("chain.yaml", text));
    file.verbs.retain(|list| own.entries(&list.verb).is_none());
    file.verbs.extend(own.verbs);
    (file.evaluate, file.combine) = (own.evaluate, own.combine);
    let part = |(id, text): &(&'static str, &str)| (*id, Part::parse(&format!("{id}.yaml"), text).expect("YAML"));
    let files = files.iter().map(part).collect();
    let chain = Chain::build(&file, &files, &directory(), &mut faults);
    (chain, faults)
}

/// A chain that relays, with an entry in front that delays MAIL.
pub(crate) fn relaying_slowly() -> Chain {
    let text = "__DEFAULT__: [{handler: proxy}]\nMAIL: [{handler: proxy}]\n";
    let mut faults = Vec::new();
    let file = ChainFile::parse("chain.yaml", text, &registry::names(), &mut faults).expect("YAML");
    let mut chain = Chain::build(&file, &Default::default(), &directory(), &mut faults);
    assert_eq!(faults, []);
    let judge = |_: &crate::chain::Context<'_>| {
        Ok(crate::chain::Outcome::none().with(crate::chain::Effect::Delay(Duration::from_secs(200))))
    };
    verdicts::prepend(
        &mut chain,
        "MAIL",
        verdicts::link("slow", crate::chain::Mode::Enforce, judge),
    );
    chain
}

fn place(mailbox: &str) -> Mailbox {
    Mailbox {
        domain: "example.com".into(),
        mailbox: mailbox.into(),
    }
}

/// A client and the server it talks to.
pub(crate) struct Peer {
    conversation: Conversation<'static>,
    receiver: Receiver,
    delivery: FakeDelivery,
    body: FakeBody,
    back_end: FakeBackEnd,
    resolver: FakeResolver,
    pub(crate) records: FakeRecords,
    keeper: FakeKeeper,
    pauses: FakePauses,
    closed: bool,
    greeting: String,
    log: Vec<String>,
    held: Vec<Hold>,
}

/// Where the conversation of a peer reaches the outside, at this time.
macro_rules! ports {
    ($peer:expr, $now:expr) => {
        Ports {
            delivery: &mut $peer.delivery,
            body: &mut $peer.body,
            back_end: &mut $peer.back_end,
            resolver: &mut $peer.resolver,
            records: &mut $peer.records,
            tls: &mut $peer.keeper,
            pause: &mut $peer.pauses,
            now: $now,
        }
    };
}

impl Peer {
    /// Connected to the standard chain, with small limits.
    pub(crate) fn new() -> Peer {
        Peer::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Limits)) -> Peer {
        Peer::on(configured::shipped(&directory()), change)
    }

    /// Connected to the chains of a file, which stand in place of the standard ones.
    pub(crate) fn chained(text: &str) -> Peer {
        let (chain, faults) = build(text, &[]);
        assert_eq!(faults, []);
        Peer::on(chain, |limits| limits.maximum_errors = 50)
    }

    /// Connected to a server that serves XCLIENT to others.
    pub(crate) fn with_xclient() -> Peer {
        Peer::with(|limits| limits.xclient = true)
    }

    /// A server in front that may speak for others.
    pub(crate) fn in_front() -> Peer {
        Peer::in_front_of("NOOP: [{handler: noop}]")
    }

    /// The same, connected to the chains of a file, which stand in place of the standard ones.
    pub(crate) fn in_front_of(text: &str) -> Peer {
        let (chain, faults) = build(text, &[]);
        assert_eq!(faults, []);
        let change = |limits: &mut Limits| (limits.xclient, limits.starttls) = (true, true);
        Peer::prepared(chain, change, |peer| peer.conversation.may_introduce())
    }

    /// Behind a proxy with this header, connected to the chains of a file, which stand in place of the standard ones.
    pub(crate) fn behind(header: crate::smtp::proxy_header::Header, text: &str) -> Peer {
        let (chain, faults) = build(text, &[]);
        assert_eq!(faults, []);
        Peer::prepared(chain, |_| {}, |peer| peer.conversation.proxied(header))
    }

    /// Connected to the chains of a file and no others, whose handlers have these files.
    pub(crate) fn only(text: &str, files: &[(&'static str, &str)]) -> Peer {
        Peer::only_with(text, files, |limits| limits.maximum_errors = 50)
    }

    /// The same without files, where STARTTLS can be had.
    pub(crate) fn offering_tls(text: &str) -> Peer {
        Peer::only_with(text, &[], |limits| limits.starttls = true)
    }

    fn only_with(text: &str, files: &[(&'static str, &str)], change: impl FnOnce(&mut Limits)) -> Peer {
        let mut faults = Vec::new();
        let file = ChainFile::parse("chain.yaml", text, &registry::names(), &mut faults).expect("YAML");
        let part = |(id, text): &(&'static str, &str)| (*id, Part::parse(&format!("{id}.yaml"), text).expect("YAML"));
        let files = files.iter().map(part).collect();
        let chain = Chain::build(&file, &files, &directory(), &mut faults);
        assert_eq!(faults, []);
        Peer::on(chain, change)
    }

    fn on(chain: Chain, change: impl FnOnce(&mut Limits)) -> Peer {
        Peer::prepared(chain, change, |_| {})
    }

    fn prepared(chain: Chain, change: impl FnOnce(&mut Limits), prepare: impl FnOnce(&mut Peer)) -> Peer {
        let mut limits = Limits {
            message_size: 1000,
            maximum_recipients: 3,
            maximum_messages: 3,
            maximum_errors: 6,
            maximum_unknown_commands: 2,
            maximum_harmless_commands: 1000,
            maximum_received: 3,
            tolerate_unadvertised_params: false,
            starttls: false,
            xclient: false,
            line_endings: LineEndings::Normalize,
        };
        change(&mut limits);
        let receiver = Receiver::new(ReceiverLimits {
            command_line: 512,
            text_line: 1000,
            message_size: limits.message_size,
            line_endings: limits.line_endings,
        });
        let session = crate::session::tests::session();
        let mut peer = Peer {
            conversation: Conversation::new(session, Box::leak(Box::new(chain)), limits),
            receiver,
            delivery: FakeDelivery::default(),
            body: FakeBody::default(),
            back_end: FakeBackEnd::default(),
            resolver: FakeResolver::default(),
            records: FakeRecords::default(),
            keeper: FakeKeeper::default(),
            pauses: FakePauses::default(),
            closed: false,
            greeting: String::new(),
            log: Vec::new(),
            held: Vec::new(),
        };
        peer.back_end.order = Rc::clone(&peer.pauses.order);
        prepare(&mut peer);
        let action = peer.conversation.open(&mut ports!(peer, 1_700_000_000_000_000));
        peer.greeting = peer.act(action);
        peer
    }

    /// The back end is under TLS from now on.
    pub(crate) fn protect_back_end(&mut self, tls: BackEndTls) {
        self.back_end.tls = Some(tls);
    }

    /// The greeting.
    pub(crate) fn opened(&self) -> &str {
        &self.greeting
    }

    /// Connected.
    pub(crate) fn open() -> Peer {
        Peer::new()
    }

    /// After EHLO.
    pub(crate) fn greeted() -> Peer {
        Peer::new().hello()
    }

    fn hello(mut self) -> Peer {
        assert!(self.say("EHLO client.example").starts_with("250"));
        self
    }

    /// After MAIL and RCPT for user@example.com.
    pub(crate) fn with_recipient() -> Peer {
        Peer::greeted().envelope(&["user"])
    }

    fn envelope(mut self, users: &[&str]) -> Peer {
        self.begin(users);
        self
    }

    pub(crate) fn begin(&mut self, users: &[&str]) {
        let reply = self.say("MAIL FROM:<a@client.example>");
        assert!(reply.starts_with("250 "), "{reply}");
        for user in users {
            assert!(
                self.say(&format!("RCPT TO:<{user}@example.com>")).starts_with("250 "),
                "{user}"
            );
        }
    }

    /// Sends a line and returns the replies.
    pub(crate) fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes())
    }

    /// Sends DATA and a text, and returns the reply to it.
    pub(crate) fn data(&mut self, text: &str) -> String {
        let reply = self.say("DATA");
        assert!(reply.starts_with("354 "), "{reply}");
        self.send(format!("{text}.\r\n").as_bytes())
    }

    pub(crate) fn send(&mut self, mut input: &[u8]) -> String {
        let mut out = String::new();
        let mut pending = true;
        while (pending || !input.is_empty()) && !self.closed {
            let (used, event) = self.receiver.feed(input);
            input = &input[used..];
            let mut ports = ports!(self, 1_700_000_001_000_000);
            let action = match event {
                None => {
                    pending = false;
                    continue;
                }
                Some(Input::Command(line)) => self.conversation.command(line, !input.is_empty(), &mut ports),
                Some(Input::BodyChunk(piece)) => {
                    self.conversation.chunk(piece, &mut ports);
                    continue;
                }
                Some(Input::BodyEnd(end)) => self.conversation.body_end(end, &mut ports),
            };
            pending = matches!(action.next, Next::Chunk { .. });
            let handshake = action.next == Next::StartTls;
            out.push_str(&self.act(action));
            if handshake {
                self.shake_hands();
                return out;
            }
        }
        out
    }

    /// As the owner of the connection does it: what came behind the command is dropped.
    fn shake_hands(&mut self) {
        let facts = TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256".into(),
            group: Some("x25519"),
            sni: Some("tls.example.com".into()),
            server_name: "tls.example.com".into(),
            hello: b"\x16\x03\x01\xff".to_vec(),
        };
        let ports = &mut ports!(self, 1_700_000_001_000_000);
        let lines = self.conversation.secure(facts, ports);
        self.log
            .extend(lines.into_iter().map(|(level, line)| format!("{level:?} {line}")));
        self.receiver.reset();
    }

    /// As the owner of the connection tells of a handshake that failed.
    pub(crate) fn fail_handshake(&mut self, failure: crate::session::TlsFailure) {
        let mut ports = Ports {
            delivery: &mut self.delivery,
            body: &mut self.body,
            back_end: &mut self.back_end,
            resolver: &mut self.resolver,
            records: &mut self.records,
            tls: &mut self.keeper,
            pause: &mut self.pauses,
            now: 1_700_000_001_000_000,
        };
        self.conversation.insecure(failure, &mut ports);
    }

    fn act(&mut self, action: Action) -> String {
        if action.message_ended {
            self.receiver.end_message();
        }
        match action.next {
            Next::Command => {}
            Next::Data => self.receiver.begin_data(),
            Next::Chunk { size, last: false } => self.receiver.begin_chunk(size),
            Next::Chunk { size, last: true } => self.receiver.begin_last_chunk(size),
            Next::StartTls => {}
            Next::Close => self.closed = true,
        }
        self.log
            .extend(action.log.into_iter().map(|(level, line)| format!("{level:?} {line}")));
        if action.reply.is_some() {
            self.held.push(action.hold);
        }
        let mut out = Vec::new();
        if let Some(reply) = action.reply {
            reply.to_wire(&mut out);
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    /// What the DNS answers from now on; all else does not exist.
    pub(crate) fn knows(&mut self, known: &[(Question, Answer)]) {
        self.resolver.known = known.to_vec();
    }

    /// How many questions the DNS was asked.
    pub(crate) fn asked(&self) -> usize {
        self.resolver.asked
    }

    /// Lines of the log that contain these words.
    pub(crate) fn logged(&self, words: &str) -> Vec<String> {
        self.log.iter().filter(|line| line.contains(words)).cloned().collect()
    }

    /// The session so far.
    pub(crate) fn session(&self) -> &Session {
        self.conversation.session()
    }

    /// Whether the server has closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Names of the files of records, and all that is in them.
    pub(crate) fn records(&self) -> (Vec<String>, String) {
        let files = &self.records.files;
        let text = files.values().map(|octets| String::from_utf8_lossy(octets));
        (files.keys().cloned().collect(), text.collect())
    }

    /// The end of the connection.
    pub(crate) fn close(&mut self, reason: &str) -> Summary {
        self.conversation.close(reason, &mut self.records)
    }

    /// How many messages delivery has got.
    pub(crate) fn messages(&self) -> usize {
        self.delivery.commits.len()
    }

    /// What the first message was handed over for.
    pub(crate) fn dispositions(&self) -> Vec<Disposition> {
        let commit = self.delivery.commits.first();
        let copies = commit.into_iter().flat_map(|commit| &commit.recipients);
        copies.map(|copy| copy.disposition).collect()
    }

    /// The header fields added to a message.
    pub(crate) fn fields(&self, number: usize) -> String {
        String::from_utf8_lossy(&self.delivery.commits[number].fields).into_owned()
    }

    fn copies(&self, number: usize) -> Vec<(String, Disposition)> {
        let commit = &self.delivery.commits[number];
        commit
            .recipients
            .iter()
            .map(|copy| (copy.mailbox.clone(), copy.disposition))
            .collect()
    }

    /// The text of a message that stayed in memory.
    pub(crate) fn text(&self, number: usize) -> String {
        match &self.delivery.commits[number].body {
            Body::Inline(octets) => String::from_utf8_lossy(octets).into_owned(),
            Body::Staged { .. } => String::new(),
        }
    }
}

fn codes(replies: &str) -> Vec<String> {
    replies
        .lines()
        .filter(|line| line.as_bytes().get(3) == Some(&b' '))
        .map(|line| line[..3].to_owned())
        .collect()
}

#[test]
fn order_of_commands() {
    let mut peer = Peer::with(|limits| limits.maximum_errors = 100);
    for (line, code) in [
        ("MAIL FROM:<a@b.example>", "503"),
        ("RCPT TO:<user@example.com>", "503"),
        ("DATA", "503"),
        ("NOOP", "250"),
        ("EHLO client.example", "250"),
        ("RCPT TO:<user@example.com>", "503"),
        ("DATA", "503"),
        ("MAIL FROM:<a@b.example>", "250"),
        ("MAIL FROM:<a@b.example>", "503"),
        ("DATA", "503"),
        ("RCPT TO:<nobody@example.com>", "550"),
        ("DATA", "554"),
        ("RCPT TO:<user@example.com>", "250"),
        ("EHLO client.example", "250"),
        ("RCPT TO:<user@example.com>", "503"),
        ("MAIL FROM:broken", "501"),
        ("MAIL FROM:<a@b.example>", "250"),
        ("RSET", "250"),
        ("RSET now", "501"),
    ] {
        let reply = peer.say(line);
        assert_eq!(codes(&reply), [code], "{line}: {reply}");
    }
}

#[test]
fn a_message_is_delivered_and_the_next_has_nothing_of_it() {
    let mut peer = Peer::with_recipient();
    assert_eq!(
        peer.data("Subject: 1\r\n\r\n..dot\r\n"),
        "250 2.0.0 6f1c-1 accepted\r\n"
    );
    assert_eq!(peer.text(0), "Subject: 1\r\n\r\n.dot\r\n");
    assert!(peer.say("RCPT TO:<user@example.com>").starts_with("503"));
    peer.begin(&["other"]);
    assert_eq!(peer.data("2\r\n"), "250 2.0.0 6f1c-2 accepted\r\n");
    assert_eq!(peer.copies(1), [("other".to_owned(), Disposition::Deliver)]);
    assert_eq!(peer.text(1), "2\r\n");
}

#[test]
fn a_pipelined_group_is_answered_in_order() {
    let mut peer = Peer::greeted();
    let replies = peer.send(
        b"MAIL FROM:<>\r\nRCPT TO:<nobody@example.com>\r\nRCPT TO:<user@example.com>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n",
    );
    assert_eq!(codes(&replies), ["250", "550", "250", "354", "250", "221"]);
    assert!(
        peer.conversation
            .session()
            .anomalies
            .iter()
            .any(|seen| seen.anomaly == Anomaly::DataBeforeReply)
    );
}

#[test]
fn limits_of_a_transaction() {
    let mut peer = Peer::greeted();
    assert!(peer.say("MAIL FROM:<> SIZE=1001").starts_with("552 5.3.4"));
    peer.begin(&["user", "other", "third"]);
    assert!(peer.say("RCPT TO:<fourth@example.com>").starts_with("452 4.5.3"));
    assert!(peer.data(&"0123456789\r\n".repeat(100)).starts_with("552 5.3.4"));
    assert!(peer.delivery.commits.is_empty());
    peer.begin(&["user"]);
    assert!(
        peer.data("Received: a\r\nReceived: b\r\nReceived: c\r\n\r\n")
            .starts_with("554 5.4.6")
    );
    peer.begin(&["user"]);
    assert!(peer.data("Received: a\r\nReceived: b\r\n\r\n").starts_with("250 "));
}

#[test]
fn limits_of_a_session() {
    let mut peer = Peer::greeted();
    for _ in 0..3 {
        peer.begin(&["user"]);
        assert!(peer.data("x\r\n").starts_with("250 "));
    }
    assert!(peer.say("MAIL FROM:<>").starts_with("421 4.7.0") && peer.is_closed());

    let mut peer = Peer::greeted();
    for _ in 0..2 {
        assert!(peer.say("WIZ").starts_with("500 5.5.1"));
    }
    assert!(peer.say("WIZ").starts_with("421 4.7.0") && peer.is_closed());

    let mut peer = Peer::greeted();
    for _ in 0..6 {
        assert!(peer.say("DATA").starts_with("503 "));
    }
    assert!(peer.say("DATA").starts_with("421 4.7.0") && peer.is_closed());
}

#[test]
fn recipients_share_an_answer_but_not_a_fate() {
    let permanent = || RecipientResult::Permanent {
        code: 552,
        status: [5, 2, 2],
        text: "over quota".into(),
    };
    let mut peer = Peer::greeted().envelope(&["user", "soft", "alias"]);
    peer.delivery.failing.push(("other".into(), permanent()));
    assert!(peer.data("x\r\n").starts_with("250 "));
    let expected = [
        ("user", Disposition::Deliver),
        ("soft", Disposition::Quarantine),
        ("other", Disposition::Deliver),
    ];
    assert_eq!(
        peer.copies(0),
        expected.map(|(name, disposition)| (name.to_owned(), disposition))
    );
    peer.begin(&["other", "soft"]);
    assert_eq!(peer.data("x\r\n"), "552 5.2.2 over quota\r\n");
    peer.delivery.down = true;
    peer.begin(&["soft"]);
    assert!(peer.data("x\r\n").starts_with("451 4.3.0"));
}

#[test]
fn a_full_disk_is_452_and_the_session_goes_on() {
    let mut peer = Peer::with_recipient();
    peer.body.full = true;
    assert!(peer.data("x\r\n").starts_with("452 4.3.1"));
    peer.body.full = false;
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("250 "));
}

#[test]
fn chunks_make_a_message() {
    let mut peer = Peer::with_recipient();
    assert!(peer.send(b"BDAT 5\r\nab\r\n.").starts_with("250 2.0.0"));
    assert!(peer.say("DATA").starts_with("503 5.5.1"));
    assert!(peer.say("RCPT TO:<other@example.com>").starts_with("503 5.5.1"));
    assert!(peer.say("MAIL FROM:<>").starts_with("503 5.5.1"));
    assert!(
        peer.send(b"BDAT 2\r\n\r\nBDAT 0 LAST\r\n")
            .ends_with("250 2.0.0 6f1c-1 accepted\r\n")
    );
    assert_eq!(peer.text(0), "ab\r\n.\r\n");
    assert_eq!(codes(&peer.send(b"BDAT 4 LAST\r\nQUITNOOP\r\n")), ["503", "250"]);
}

#[test]
fn a_refused_chunk_is_swallowed() {
    let mut peer = Peer::greeted();
    assert_eq!(codes(&peer.send(b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")), ["503", "250"]);
    peer.begin(&["user"]);
    let mut chunk = b"BDAT 2000\r\n".to_vec();
    chunk.extend(std::iter::repeat_n(b'x', 2000));
    chunk.extend_from_slice(b"NOOP\r\n");
    assert_eq!(codes(&peer.send(&chunk)), ["552", "250"]);
    assert!(peer.say("BDAT 0 LAST").starts_with("503 "));
    assert!(
        peer.say("BDAT x").starts_with("503 ") && peer.is_closed(),
        "how much to skip is unknown"
    );
    let mut peer = Peer::with_recipient();
    assert!(peer.say("BDAT x").starts_with("501 ") && peer.is_closed());
}

#[test]
fn the_line_of_a_message_names_the_client_and_leaves_out_what_is_not_there() {
    let mut peer = Peer::with(|_| {});
    peer.say("EHLO a\" code=250 \\b");
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("250 "), "{:#?}", peer.log);
    let line = peer.log.iter().find(|line| line.contains("event=message"));
    let line = line.expect("a line");
    assert!(line.contains(r#" helo="a\" code=250 \\b" from="#), "{line}");
    assert!(!line.contains("labels"), "{line}");
}

#[test]
fn strict_line_endings_end_the_session() {
    let mut peer = Peer::with(|limits| limits.line_endings = LineEndings::Strict).hello();
    peer.begin(&["user"]);
    assert!(peer.data("a\nb\r\n").starts_with("550 5.5.2") && peer.is_closed());
    assert!(peer.delivery.commits.is_empty());
}

#[test]
fn quit_closes_and_the_summary_counts() {
    let mut peer = Peer::with_recipient();
    peer.data("x\r\n");
    assert!(peer.say("QUIT").starts_with("221 ") && peer.is_closed());
    let summary = peer.close("quit");
    assert_eq!((summary.counters.messages, summary.counters.recipients), (1, 1));
    assert!(
        summary
            .lines
            .iter()
            .any(|(_, line)| line.contains("event=disconnect") && line.contains("reason=quit"))
    );
}

mod chains;
mod effects;
mod introduction;
mod protocol;
mod recorded;
mod relays;
mod tls;
mod verdicts;
