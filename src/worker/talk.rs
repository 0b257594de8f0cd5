//! One connection: octets in, conversation, octets out.
//!
//! All rules are the conversation's; this file moves octets, keeps time and obeys the master.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Poll;

use crate::chain::{Action, Conversation, Hold, Next, Ports};
use crate::config::ListenerTls;
use crate::ipc::sources::View;
use crate::keeper;
use crate::log::{Event, Level};
use crate::logger::client::Client as Log;
use crate::session::{Anomaly, Session};
use crate::smtp::proxy_header;
use crate::smtp::receiver::{Event as Input, Receiver};
use crate::smtp::reply::Reply;
use crate::sys::random;

use super::back_end::BackEnd;
use super::body::{Delivery, Staging};
use super::broker::Broker;
use super::deadlines::{Deadlines, Late};
use super::link::{Link, Order};
use super::records::{Recorder, now_micros};
use super::served::Served;
use super::transport::{Heard, Transport};

mod header;
mod secure;
mod waiting;
use header::Front;
use secure::Keys;
use waiting::Waiting;

/// Size of the read buffer in octets; only pages that are read into cost anything.
const BUFFER: usize = 64 * 1024;
/// Replies gathered before they are written in any case, in octets.
const BATCH: usize = 16 * 1024;
/// How long a reply is written octet by octet; then the rest of it comes at once. Clients wait five minutes.
const LONGEST_STUTTER: Duration = Duration::from_secs(240);

/// Who talks with whom.
pub struct Ends<'a> {
    /// Where the master is heard, and nobody else yet.
    pub poll: Poll,
    /// The session's identifier.
    pub session: String,
    /// The client.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// The number of the listener in the configuration.
    pub listener: usize,
    /// The broker, as this worker reaches it.
    pub broker: Rc<RefCell<Broker>>,
    /// A door to the keeper that is lent to others after us.
    pub keeper: Option<Arc<keeper::client::Client>>,
    /// The sources that are refused.
    pub refused: &'a View,
}

/// A new session identifier: 60 random bits in base 32, lower case.
///
/// # Errors
/// The kernel gives no random numbers.
pub fn identifier() -> io::Result<String> {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bits = random::number()?;
    let mut text = String::with_capacity(12);
    for _ in 0..12 {
        if let Some(&digit) = DIGITS.get((bits & 31) as usize) {
            text.push(char::from(digit));
        }
        bits >>= 5;
    }
    Ok(text)
}

struct Talk<'a> {
    transport: Transport,
    receiver: Receiver,
    conversation: Box<Conversation<'a>>,
    staging: Staging,
    back_end: BackEnd<'a>,
    broker: Rc<RefCell<Broker>>,
    recorder: Recorder<'a>,
    delivery: Rc<RefCell<Delivery>>,
    keys: Keys<'a>,
    front: Front<'a>,
    /// TLS comes before the greeting.
    begins_with_tls: bool,
    deadlines: Deadlines,
    out: Vec<u8>,
    /// Why there is no client any more: its connection broke while a command was delayed.
    lost: Option<io::Error>,
    link: &'a Link,
    log: &'a Log,
    in_body: bool,
}

/// What is left of a connection; a process that ends need not clear it away.
pub struct Ended<'a> {
    _talk: Option<Box<Talk<'a>>>,
}

/// Serves `client` until it or we end it.
///
/// # Errors
/// The client's socket cannot be used. A broken connection is no error but an end.
///
/// # Panics
/// With a panic of the session, after the client was told.
pub fn serve<'a>(
    client: OwnedFd,
    ends: Ends<'a>,
    served: &'a Served,
    link: &'a Rc<Link>,
    delivery: &Rc<RefCell<Delivery>>,
    log: &'a Log,
) -> io::Result<Ended<'a>> {
    let mut talk = prepare(client, ends, served, link, delivery, log)?;
    if let Some(talk) = &mut talk {
        converse(talk);
    }
    Ok(Ended { _talk: talk })
}

/// The dialogue before its first word; none where no chain serves the listener. On the heap and from a function of its
/// own, so that the stack which its making takes is what the dialogue uses: each page that a worker touches costs.
#[inline(never)]
fn prepare<'a>(
    client: OwnedFd,
    ends: Ends<'a>,
    served: &'a Served,
    link: &'a Rc<Link>,
    delivery: &Rc<RefCell<Delivery>>,
    log: &'a Log,
) -> io::Result<Option<Box<Talk<'a>>>> {
    let recorder = Recorder::new(Rc::clone(link), log, &ends.session);
    let back_end = BackEnd::new(Rc::clone(&ends.broker), log, &ends.session);
    let Some(mut conversation) = conversation(&ends, served) else {
        return Ok(None);
    };
    let front = Front::new(served, ends.listener, ends.refused, ends.peer.ip());
    if front.may_introduce(ends.peer.ip()) {
        conversation.may_introduce();
    }
    Ok(Some(Box::new(Talk {
        transport: Transport::new(client, ends.poll)?,
        receiver: Receiver::new(served.receiver_limits()),
        conversation,
        staging: Staging::new(Rc::clone(delivery)),
        back_end,
        broker: ends.broker,
        recorder,
        delivery: Rc::clone(delivery),
        keys: Keys::new(link, served.certificates(), ends.keeper),
        front,
        begins_with_tls: served.tls(ends.listener) == ListenerTls::Implicit,
        deadlines: Deadlines::new(served.patience(), Instant::now()),
        out: Vec::with_capacity(1024),
        lost: None,
        link,
        log,
        in_body: false,
    })))
}

#[inline(never)] // for the same reason
fn conversation<'a>(ends: &Ends<'_>, served: &'a Served) -> Option<Box<Conversation<'a>>> {
    let session = Session::new(ends.session.clone(), ends.peer, ends.local, served.server_name());
    let limits = served.limits(ends.listener);
    Some(Box::new(Conversation::new(
        session,
        served.chain(ends.listener)?,
        limits,
    )))
}

/// The whole dialogue and its last lines in the log.
fn converse(talk: &mut Talk<'_>) {
    let reason = match catch_unwind(AssertUnwindSafe(|| talk.run())) {
        Ok(Ok(reason)) => reason,
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => "timeout",
        Ok(Err(_)) => "lost",
        Err(panic) => {
            // What was answered before stays: a 250 among it is a promise. The process ends of this.
            let _ = talk.farewell(421, "4.3.0 Internal error, closing connection", "panicked");
            talk.transport.finish();
            resume_unwind(panic);
        }
    };
    talk.transport.finish();
    talk.log
        .lines(talk.conversation.close(reason, &mut talk.recorder).lines);
    talk.recorder.finish();
}

impl Talk<'_> {
    /// The whole dialogue; why it ended.
    fn run(&mut self) -> io::Result<&'static str> {
        if self.front.begins_with_header
            && let Some(reason) = self.begin_with_header()?
        {
            return Ok(reason);
        }
        if self.begins_with_tls
            && let Some(reason) = self.begin_with_tls()?
        {
            return Ok(reason);
        }
        if self.transport.has_input() {
            self.conversation.observe(Anomaly::EarlyTalk);
        }
        let action = self.with_ports(|conversation, ports| conversation.open(ports));
        if let Some(reason) = self.act(action)? {
            self.flush_last()?;
            return Ok(reason);
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            self.flush()?;
            if self.link.refuses(&self.conversation.session().id) && !self.in_body {
                return self.farewell(421, "4.3.2 Too many connections from your network", "refused");
            }
            if self.link.order() == Order::Leave && !self.in_body {
                return self.farewell(421, "4.3.2 Service shutting down", "shutdown");
            }
            match self.transport.read(&mut buffer, self.deadlines.next())? {
                Heard::Octets(0) => return Ok("lost"),
                Heard::Octets(length) => {
                    let now = Instant::now();
                    self.deadlines.heard(length, now);
                    let input = buffer.get(..length).unwrap_or_default();
                    if self.conversation.session().counters.commands == 0 && proxy_header::looks_like(input) {
                        self.conversation.observe(Anomaly::UnaskedProxyHeader);
                    }
                    if let Some(reason) = self.digest(input)? {
                        self.flush_last()?;
                        return Ok(reason);
                    }
                    // What took us long is not the client's fault: its time begins with our reply.
                    self.flush()?;
                    if let Some(late) = self.deadlines.late(Instant::now()) {
                        return self.give_up(late);
                    }
                }
                Heard::Late => {
                    let late = self.deadlines.late(Instant::now()).unwrap_or(Late::Silent);
                    return self.give_up(late);
                }
                Heard::Master => self.link.listen(),
            }
        }
    }

    /// Feeds what was read; a reason when the connection ends.
    fn digest(&mut self, mut input: &[u8]) -> io::Result<Option<&'static str>> {
        // An event may follow without further input: the end of a chunk that has just been filled.
        let mut more = true;
        while more || !input.is_empty() {
            let (used, event) = self.receiver.feed(input);
            more = event.is_some();
            input = input.get(used..).unwrap_or_default();
            let Some(event) = event else { continue };
            let action = match event {
                Input::Command(line) => {
                    trace_command(self.log, &self.conversation.session().id, &line.bytes);
                    let pipelined = !input.is_empty() || self.transport.has_more();
                    self.with_ports(|conversation, ports| conversation.command(line, pipelined, ports))
                }
                Input::BodyChunk(piece) => {
                    self.with_ports(|conversation, ports| conversation.chunk(piece, ports));
                    continue;
                }
                Input::BodyEnd(end) => {
                    let more = !input.is_empty() || self.transport.has_more();
                    if more && !self.conversation.session().offers("PIPELINING") {
                        self.conversation.observe(Anomaly::TalkedAfterDot);
                    }
                    self.flush()?;
                    self.with_ports(|conversation, ports| conversation.body_end(end, ports))
                }
            };
            let handshake = action.next == Next::StartTls;
            if let Some(reason) = self.act(action)? {
                return Ok(Some(reason));
            }
            if handshake {
                return self.start_tls(input);
            }
            if self.out.len() > BATCH {
                self.flush()?;
            }
        }
        Ok(None)
    }

    fn with_ports<T>(&mut self, call: impl FnOnce(&mut Conversation<'_>, &mut Ports<'_>) -> T) -> T {
        let mut port = Rc::clone(&self.delivery);
        let mut resolver = Rc::clone(&self.broker);
        let mut waiting = Waiting {
            transport: &mut self.transport,
            deadlines: &mut self.deadlines,
            out: &mut self.out,
            link: self.link,
            lost: &mut self.lost,
        };
        let mut ports = Ports {
            delivery: &mut port,
            body: &mut self.staging,
            back_end: &mut self.back_end,
            resolver: &mut resolver,
            records: &mut self.recorder,
            tls: &mut self.keys,
            pause: &mut waiting,
            now: now_micros(),
        };
        call(&mut self.conversation, &mut ports)
    }

    /// Does what the conversation wants; a reason when it wants to end.
    fn act(&mut self, action: Action) -> io::Result<Option<&'static str>> {
        self.log.lines(action.log);
        if let Some(error) = self.lost.take() {
            return Err(error);
        }
        self.report_client();
        if let Some(reply) = action.reply {
            trace_reply(self.log, &self.conversation.session().id, &reply);
            if action.hold == Hold::default() {
                reply.to_wire(&mut self.out);
            } else {
                self.hold_back(&reply, action.hold)?;
            }
        }
        if action.message_ended {
            self.receiver.end_message();
        }
        let now = Instant::now();
        self.in_body = match action.next {
            Next::Command | Next::StartTls => false,
            Next::Data => {
                self.receiver.begin_data();
                true
            }
            Next::Chunk { size, last } => {
                if last {
                    self.receiver.begin_last_chunk(size);
                } else {
                    self.receiver.begin_chunk(size);
                }
                true
            }
            Next::Close => return Ok(Some("closed")),
        };
        self.deadlines.in_body(self.in_body, now);
        Ok(None)
    }

    /// Writes a reply late, or slowly. What was answered before is not held back with it.
    fn hold_back(&mut self, reply: &Reply, hold: Hold) -> io::Result<()> {
        self.flush()?;
        self.pause(hold.delay)?;
        let mut octets = Vec::new();
        reply.to_wire(&mut octets);
        let slow_until = Instant::now() + LONGEST_STUTTER;
        let mut rest = octets.as_slice();
        while let Some((first, behind)) = rest.split_first()
            && !hold.stutter.is_zero()
            && Instant::now() < slow_until
            && self.link.order() != Order::Leave
        {
            self.transport
                .write(std::slice::from_ref(first), self.deadlines.next())?;
            self.deadlines.answered(Instant::now());
            rest = behind;
            self.pause(hold.stutter)?;
        }
        self.out.extend_from_slice(rest);
        Ok(())
    }

    fn waiting(&mut self) -> Waiting<'_> {
        Waiting {
            transport: &mut self.transport,
            deadlines: &mut self.deadlines,
            out: &mut self.out,
            link: self.link,
            lost: &mut self.lost,
        }
    }

    fn pause(&mut self, time: Duration) -> io::Result<()> {
        self.waiting().pass(time)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.waiting().flush()
    }

    /// As [`Talk::flush`] before the end.
    fn flush_last(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.transport.write_last(&self.out, self.deadlines.next())?;
            self.out.clear();
        }
        Ok(())
    }

    fn give_up(&mut self, late: Late) -> io::Result<&'static str> {
        match late {
            Late::Silent => self.farewell(421, "4.4.2 Timeout, closing connection", "timeout"),
            Late::Session => self.farewell(421, "4.4.2 Connection lasted too long", "session-timeout"),
            Late::TooSlow => self.farewell(421, "4.4.2 Data comes too slowly", "too-slow"),
        }
    }

    /// One last reply; a client that does not take it at once goes without.
    fn farewell(&mut self, code: u16, text: &str, reason: &'static str) -> io::Result<&'static str> {
        let reply = Reply::new(code, None, text);
        reply.to_wire(&mut self.out);
        self.transport
            .write(&self.out, Instant::now() + Duration::from_secs(1))?;
        self.out.clear();
        self.with_ports(|conversation, ports| conversation.farewell(reason, &reply, ports));
        Ok(reason)
    }
}

/// For debugging: the command as it came. What an AUTH command says is a password.
fn trace_command(log: &Log, session: &str, line: &[u8]) {
    if log.says(Level::Debug) {
        let verb = line.split(|octet| *octet == b' ').next().unwrap_or_default();
        let shown = if verb.eq_ignore_ascii_case(b"AUTH") { verb } else { line };
        log.say(
            Level::Debug,
            Event::new("command").field("session", session).quoted("line", shown),
        );
    }
}

/// For debugging: the reply, its first line.
fn trace_reply(log: &Log, session: &str, reply: &Reply) {
    if log.says(Level::Debug) {
        let event = Event::new("reply").field("session", session).field("code", reply.code);
        let text = reply.lines.first().map_or("", String::as_str);
        log.say(Level::Debug, event.quoted("text", text.as_bytes()));
    }
}

#[cfg(test)]
mod tests;
