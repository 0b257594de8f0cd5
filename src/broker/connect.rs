//! One connection being made: its addresses are looked up, and tried in turn until one takes it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::ipc::broker::{Answer, Endpoint, Question};

/// How long one address may take.
const EACH: Duration = Duration::from_secs(10);
/// Addresses that are tried.
const MOST: usize = 8;

/// The addresses of a server being looked up.
#[derive(Debug)]
pub(super) struct LookingUp {
    host: String,
    port: u16,
    /// Questions that are open.
    open: usize,
    found: Vec<IpAddr>,
    reason: Option<String>,
}

impl LookingUp {
    /// The questions to ask.
    pub(super) fn begin(endpoint: &Endpoint) -> (LookingUp, [Question; 2]) {
        let questions = [
            Question::A(endpoint.host.clone()),
            Question::Aaaa(endpoint.host.clone()),
        ];
        let looking_up = LookingUp {
            host: endpoint.host.clone(),
            port: endpoint.port,
            open: questions.len(),
            found: Vec::new(),
            reason: None,
        };
        (looking_up, questions)
    }

    /// Takes an answer; once all are there the addresses, IPv4 first, or why there are none.
    pub(super) fn answered(&mut self, answer: &Answer) -> Option<Result<Vec<SocketAddr>, String>> {
        self.open = self.open.saturating_sub(1);
        self.found.extend_from_slice(answer.addresses());
        if let Some(reason) = answer.error() {
            self.reason = Some(reason.to_owned());
        }
        if self.open > 0 {
            return None;
        }
        if self.found.is_empty() {
            let reason = self.reason.as_deref().unwrap_or("no address");
            return Some(Err(format!("{}: {reason}", self.host)));
        }
        self.found.sort();
        Some(Ok(self
            .found
            .iter()
            .map(|ip| SocketAddr::new(*ip, self.port))
            .collect()))
    }
}

/// What became of it.
pub(super) enum Step {
    /// Nothing yet: call again when the socket or the deadline says so.
    Wait,
    /// It leads there.
    Connected(OwnedFd, SocketAddr),
    /// No address took it; the last reason.
    Failed(String),
}

/// A connection being made.
pub(super) struct Connecting {
    addresses: Vec<SocketAddr>,
    under_way: Option<(TcpStream, SocketAddr)>,
    deadline: Instant,
    reason: String,
}

impl Connecting {
    /// To one of `addresses`, the first first.
    pub(super) fn new(mut addresses: Vec<SocketAddr>, now: Instant) -> Connecting {
        addresses.truncate(MOST);
        addresses.reverse();
        Connecting {
            addresses,
            under_way: None,
            deadline: now,
            reason: "no address".to_owned(),
        }
    }

    /// When the address under way is given up.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Goes on. The socket is watched as `token` meanwhile.
    pub(super) fn step(&mut self, registry: &Registry, token: Token, now: Instant) -> Step {
        loop {
            if let Some((mut stream, to)) = self.under_way.take() {
                match outcome(&stream) {
                    None if now < self.deadline => {
                        self.under_way = Some((stream, to));
                        return Step::Wait;
                    }
                    Some(Ok(())) => {
                        let _ = registry.deregister(&mut stream);
                        let _ = stream.set_nodelay(true);
                        return Step::Connected(OwnedFd::from(std::net::TcpStream::from(stream)), to);
                    }
                    None => self.reason = format!("{to}: no answer in time"),
                    Some(Err(error)) => self.reason = format!("{to}: {error}"),
                }
            }
            let Some(to) = self.addresses.pop() else {
                return Step::Failed(std::mem::take(&mut self.reason));
            };
            let started = TcpStream::connect(to).and_then(|mut stream| {
                registry.register(&mut stream, token, Interest::WRITABLE)?;
                Ok(stream)
            });
            match started {
                Ok(stream) => {
                    self.deadline = now + EACH;
                    self.under_way = Some((stream, to));
                    return Step::Wait;
                }
                Err(error) => self.reason = format!("{to}: {error}"),
            }
        }
    }
}

/// Whether the connection stands, or why it never will; none while that is open.
fn outcome(stream: &TcpStream) -> Option<io::Result<()>> {
    if let Ok(Some(error)) | Err(error) = stream.take_error() {
        return Some(Err(error));
    }
    match stream.peer_addr() {
        Ok(_) => Some(Ok(())),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
        Err(error) => Some(Err(error)),
    }
}
