//! A stub resolver (RFC 1034 §5.3.1): asks the name servers of the configuration, by UDP, and by TCP what does not fit.
//!
//! Each attempt has a socket, and so a port, of its own, which hears one server only; what comes there counts only if
//! it repeats the question and its number. Everything is bounded: questions, attempts, time, octets.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};

use crate::ipc::broker::{Answer, Question};
use crate::sys::{random, socket};

use super::cache::Cache;
use super::message::{self, Reading};

/// Questions that are open at once.
const MOST: usize = 512;
/// How long the first and the second round over the servers wait for each.
const ROUNDS: [Duration; 2] = [Duration::from_millis(1500), Duration::from_millis(3000)];
/// Servers that are asked.
const MOST_SERVERS: usize = 3;
/// Octets of a datagram that are read; we announce less (RFC 6891).
const DATAGRAM: usize = 4096;
/// Messages of others that one attempt listens to.
const MOST_FOREIGN: u32 = 32;

/// One socket.
enum Wire {
    Udp(UdpSocket),
    Tcp {
        stream: TcpStream,
        out: Vec<u8>,
        input: Vec<u8>,
    },
}

/// A question under way, for all who asked it.
struct Query<W> {
    question: Question,
    waiting: Vec<W>,
    wire: Option<Wire>,
    id: u16,
    /// Attempts begun.
    attempt: usize,
    deadline: Instant,
    foreign: u32,
    /// Why a server could not say.
    failed: Option<String>,
}

/// The resolver; `W` names who waits for an answer.
pub(super) struct Resolver<W> {
    servers: Vec<SocketAddr>,
    cache: Cache,
    queries: BTreeMap<usize, Query<W>>,
    by_question: HashMap<Question, usize>,
    next: usize,
    first: usize,
    /// Answers that came, for whom.
    done: Vec<(W, Answer)>,
}

impl<W> Resolver<W> {
    /// Asks `servers`; its sockets get tokens from `first` on.
    pub(super) fn new(mut servers: Vec<SocketAddr>, first: usize) -> Resolver<W> {
        servers.truncate(MOST_SERVERS);
        Resolver {
            servers,
            cache: Cache::default(),
            queries: BTreeMap::new(),
            by_question: HashMap::new(),
            next: 0,
            first,
            done: Vec::new(),
        }
    }

    /// Asks; the answer comes with [`Resolver::take`].
    pub(super) fn ask(&mut self, question: Question, waiting: W, registry: &Registry, now: Instant) {
        let question = canonical(question);
        if let Some(answer) = self.cache.get(&question, now) {
            self.done.push((waiting, answer.clone()));
            return;
        }
        if let Some(query) = self.by_question.get(&question).and_then(|at| self.queries.get_mut(at)) {
            query.waiting.push(waiting);
            return;
        }
        if self.queries.len() >= MOST {
            self.done
                .push((waiting, Answer::Failed("too many questions at once".to_owned())));
            return;
        }
        let at = self.next;
        self.next += 1;
        self.by_question.insert(question.clone(), at);
        let query = Query {
            question,
            waiting: vec![waiting],
            wire: None,
            id: 0,
            attempt: 0,
            deadline: now,
            foreign: 0,
            failed: None,
        };
        self.queries.insert(at, query);
        self.attempt(at, registry, now);
    }

    /// Answers that have come since the last call.
    pub(super) fn take(&mut self) -> Vec<(W, Answer)> {
        std::mem::take(&mut self.done)
    }

    /// When an attempt is to be given up, if nothing comes before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.queries.values().map(|query| query.deadline).min()
    }

    /// Gives up attempts that took too long.
    pub(super) fn expire(&mut self, registry: &Registry, now: Instant) {
        let late = |(at, query): (&usize, &Query<W>)| (query.deadline <= now).then_some(*at);
        let late: Vec<usize> = self.queries.iter().filter_map(late).collect();
        for at in late {
            self.attempt(at, registry, now);
        }
    }

    /// Something happened to the socket with this token.
    pub(super) fn ready(&mut self, token: usize, registry: &Registry, now: Instant) {
        let at = token.wrapping_sub(self.first);
        let Some(query) = self.queries.get_mut(&at) else {
            return;
        };
        loop {
            match query.receive() {
                Ok(None) => return,
                Ok(Some(octets)) => match message::read(query.id, &query.question, &octets) {
                    Reading::Answer(answer, ttl) => {
                        self.cache.put(query.question.clone(), answer.clone(), ttl, now);
                        return self.finish(at, &answer);
                    }
                    Reading::Truncated if matches!(query.wire, Some(Wire::Udp(_))) => {
                        return self.ask_by_tcp(at, registry, now);
                    }
                    Reading::Truncated => query.failed = Some("a truncated answer by TCP".to_owned()),
                    Reading::Failed(reason) => query.failed = Some(reason),
                    Reading::Foreign => {
                        query.foreign += 1;
                        if query.foreign <= MOST_FOREIGN {
                            continue;
                        }
                    }
                },
                Err(error) => query.failed = Some(error.to_string()),
            }
            return self.attempt(at, registry, now);
        }
    }

    fn finish(&mut self, at: usize, answer: &Answer) {
        if let Some(query) = self.queries.remove(&at) {
            self.by_question.remove(&query.question);
            let waiting = query.waiting.into_iter();
            self.done.extend(waiting.map(|waiting| (waiting, answer.clone())));
        }
    }

    /// Asks the next server; after the last one of the last round says why there is no answer.
    fn attempt(&mut self, at: usize, registry: &Registry, now: Instant) {
        loop {
            let Some(query) = self.queries.get_mut(&at) else {
                return;
            };
            query.wire = None;
            let attempt = query.attempt;
            query.attempt += 1;
            let count = self.servers.len().max(1);
            let (server, round) = (self.servers.get(attempt % count), ROUNDS.get(attempt / count));
            let (Some(server), Some(patience)) = (server, round) else {
                let answer = match (query.failed.take(), self.servers.is_empty()) {
                    (_, true) => Answer::Failed("no name server is known".to_owned()),
                    (Some(reason), _) => Answer::Failed(reason),
                    (None, _) => Answer::TimedOut,
                };
                return self.finish(at, &answer);
            };
            query.deadline = now + *patience;
            match query.send(*server, registry, Token(self.first + at)) {
                Ok(true) => return,
                Ok(false) => return self.finish(at, &Answer::NoName),
                Err(error) => query.failed = Some(format!("{server}: {error}")),
            }
        }
    }

    fn ask_by_tcp(&mut self, at: usize, registry: &Registry, now: Instant) {
        let Some(query) = self.queries.get_mut(&at) else {
            return;
        };
        let count = self.servers.len().max(1);
        let server = self.servers.get(query.attempt.saturating_sub(1) % count).copied();
        query.deadline = now + ROUNDS.into_iter().max().unwrap_or_default();
        let Some(server) = server else { return };
        if let Err(error) = query.connect(server, registry, Token(self.first + at)) {
            query.failed = Some(format!("{server}: {error}"));
            self.attempt(at, registry, now);
        }
    }
}

/// One spelling for what the DNS takes for one (RFC 4343).
fn canonical(question: Question) -> Question {
    let spell = |name: String| name.trim_end_matches('.').to_ascii_lowercase();
    match question {
        Question::A(name) => Question::A(spell(name)),
        Question::Aaaa(name) => Question::Aaaa(spell(name)),
        Question::Ptr(address) => Question::Ptr(address.to_canonical()),
    }
}

impl<W> Query<W> {
    /// Asks by UDP; false where there can be no such name.
    fn send(&mut self, server: SocketAddr, registry: &Registry, token: Token) -> io::Result<bool> {
        self.id = (random::number()? & 0xffff) as u16;
        self.foreign = 0;
        let Some(octets) = message::ask(self.id, &self.question) else {
            return Ok(false);
        };
        let mut socket = UdpSocket::from_std(socket::datagrams_with(server)?.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        socket.send(&octets)?;
        self.wire = Some(Wire::Udp(socket));
        Ok(true)
    }

    /// Asks the same by TCP (RFC 7766).
    fn connect(&mut self, server: SocketAddr, registry: &Registry, token: Token) -> io::Result<()> {
        self.wire = None;
        let octets = message::ask(self.id, &self.question).unwrap_or_default();
        let length = u16::try_from(octets.len()).map_err(io::Error::other)?;
        let mut stream = TcpStream::connect(server)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.wire = Some(Wire::Tcp {
            stream,
            out: [&length.to_be_bytes()[..], &octets].concat(),
            input: Vec::new(),
        });
        Ok(())
    }

    /// The next message; none while there is none.
    fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        match &mut self.wire {
            None => Ok(None),
            Some(Wire::Udp(socket)) => {
                let mut buffer = vec![0; DATAGRAM];
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        buffer.truncate(length);
                        Ok(Some(buffer))
                    }
                    Err(error) if is_patience(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Some(Wire::Tcp { stream, out, input }) => {
                if !write_some(stream, out)? {
                    return Ok(None);
                }
                read_message(stream, input)
            }
        }
    }
}

/// Writes what goes; whether that was all.
fn write_some(stream: &mut TcpStream, out: &mut Vec<u8>) -> io::Result<bool> {
    while !out.is_empty() {
        match stream.write(out) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => drop(out.drain(..length)),
            Err(error) if is_patience(&error) || error.kind() == io::ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Reads one message with its length in front: at most 64 KiB.
fn read_message(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some((head, rest)) = input.split_at_checked(2)
            && let [high, low] = head
            && let Some(message) = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))
        {
            return Ok(Some(message.to_vec()));
        }
        let mut buffer = [0; DATAGRAM];
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => input.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(error) if is_patience(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn is_patience(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
