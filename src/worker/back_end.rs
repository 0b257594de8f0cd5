//! The connection to the server behind a proxy, which the broker makes for us.
//!
//! It may assume nothing about what comes from there: replies are bounded, in time and in octets, and none counts that
//! came before its command, or in clear before TLS. All octets pass [`Connection::receive`] and [`Connection::write`].

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::chain::{BackEndLost, BackEndPatience, BackEndPort, BackEndTls, BackEndWay};
use crate::config::{PeerTlsMode, Proof};
use crate::log::{Event, Level};
use crate::logger::client::Client as Log;
use crate::smtp::reply::Reply;
use crate::smtp::transparency::Transparency;
use crate::tls;

use super::broker::Broker;

/// Octets of one reply at most.
const REPLY: usize = 64 * 1024;
/// Octets of a message that are gathered before they are written.
const BLOCK: usize = 32 * 1024;

/// The server behind a proxy, once there is a connection to it.
pub struct BackEnd<'a> {
    broker: Rc<RefCell<Broker>>,
    log: &'a Log,
    session: String,
    /// Elsewhere: few sessions have one, and each page of a worker's stack costs.
    connection: Option<Box<Connection>>,
}

struct Connection {
    stream: TcpStream,
    tls: Option<tls::Client>,
    /// What was agreed upon with it.
    agreed: Option<BackEndTls>,
    /// The other side knows whom it serves, as far as it ever will.
    introduced: bool,
    patience: BackEndPatience,
    /// Octets of replies that were not understood yet.
    input: Vec<u8>,
    /// Octets of a message that were not written yet.
    output: Vec<u8>,
    text: Option<Transparency>,
}

impl<'a> BackEnd<'a> {
    /// Not connected yet; `broker` connects. What was agreed upon is said to `log`, of `session`.
    pub fn new(broker: Rc<RefCell<Broker>>, log: &'a Log, session: &str) -> BackEnd<'a> {
        BackEnd {
            broker,
            log,
            session: session.to_owned(),
            connection: None,
        }
    }

    /// Lets `call` use the connection, which is closed if that fails.
    fn using<T>(&mut self, call: impl FnOnce(&mut Connection) -> io::Result<T>) -> Result<T, BackEndLost> {
        let Some(connection) = &mut self.connection else {
            return Err(BackEndLost::new("not connected"));
        };
        call(connection).map_err(|error| {
            self.connection = None;
            lost(error)
        })
    }

    /// Keeps and says what protects the connection.
    fn say_tls(&mut self, proof: &Proof) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let Some(agreed) = connection.tls.as_ref().and_then(tls::Client::negotiated) else {
            return;
        };
        let verified = match proof {
            Proof::None => "no",
            Proof::Authorities(_) => "ca",
            Proof::Pins(_) => "pin",
        };
        let event = Event::new("back-end-tls").field("session", &self.session);
        let event = event.field("version", agreed.version).field("cipher", &agreed.cipher);
        let event = event.field("group", agreed.group.unwrap_or("none"));
        self.log.say(Level::Info, event.field("verified", verified));
        connection.agreed = Some(BackEndTls {
            version: agreed.version,
            cipher: agreed.cipher,
            group: agreed.group,
            verified,
        });
    }
}

fn lost(error: impl std::fmt::Display) -> BackEndLost {
    BackEndLost::new(error.to_string())
}

impl BackEndPort for BackEnd<'_> {
    fn open(&mut self, way: &BackEndWay<'_>) -> Result<Reply, BackEndLost> {
        self.connection = None;
        let connected = self.broker.borrow_mut().connect(way.to, way.patience.connect);
        let stream = TcpStream::from(connected.map_err(lost)?);
        self.connection = Some(Box::new(Connection {
            stream,
            tls: None,
            agreed: None,
            introduced: false,
            patience: way.patience,
            input: Vec::new(),
            output: Vec::new(),
            text: None,
        }));
        let greeting = self.using(|connection| connection.begin(way))?;
        let wanted = matches!(way.tls.mode, PeerTlsMode::Opportunistic | PeerTlsMode::Required);
        if wanted && greeting.code == 220 {
            match self.using(|connection| connection.starttls(way))? {
                None => {}
                // Beyond this nothing may go out that has to be protected.
                Some(reason) if way.tls.mode == PeerTlsMode::Required => {
                    self.connection = None;
                    return Err(lost(format!("TLS is required, and {reason}")));
                }
                Some(reason) => {
                    let event = Event::new("back-end-plain").field("session", &self.session);
                    self.log.say(Level::Notice, event.quoted("reason", reason.as_bytes()));
                }
            }
        } else if way.tls.mode == PeerTlsMode::Required {
            self.connection = None;
            // Whoever is in between could have said it: that is no reason to refuse a client for good.
            if !greeting.is_temporary() {
                let code = greeting.code;
                return Err(lost(format!("TLS is required, and the greeting in clear was {code}")));
            }
        }
        self.say_tls(&way.tls.proof());
        Ok(greeting)
    }

    fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    fn tls(&self) -> Option<&BackEndTls> {
        self.connection.as_ref()?.agreed.as_ref()
    }

    fn is_introduced(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.introduced)
    }

    fn set_introduced(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.introduced = true;
        }
    }

    fn command(&mut self, line: &[u8]) -> Result<Reply, BackEndLost> {
        self.using(|connection| connection.command(line))
    }

    fn text(&mut self, octets: &[u8]) -> Result<(), BackEndLost> {
        self.using(|connection| connection.text(octets))
    }

    fn end_text(&mut self) -> Result<Reply, BackEndLost> {
        self.using(Connection::end_text)
    }

    fn give_up(&mut self) {
        self.connection = None;
    }
}

impl Connection {
    /// Comes to the greeting.
    fn begin(&mut self, way: &BackEndWay<'_>) -> io::Result<Reply> {
        self.write(way.preface, Instant::now() + self.patience.command)?;
        if way.tls.mode == PeerTlsMode::Implicit {
            self.shake_hands(way)?;
        }
        self.reply(Instant::now() + self.patience.command)
    }

    /// Begins TLS (RFC 3207); the reason where the other side does not offer it, or refuses.
    fn starttls(&mut self, way: &BackEndWay<'_>) -> io::Result<Option<String>> {
        let hello = self.command(format!("EHLO {}", way.name).as_bytes())?;
        let offered = |line: &String| line.trim_end().eq_ignore_ascii_case("STARTTLS");
        let (said, asked) = match hello.code {
            250 if hello.lines.iter().skip(1).any(offered) => (self.command(b"STARTTLS")?, "STARTTLS"),
            250 => return Ok(Some("STARTTLS is not offered".to_owned())),
            _ => (hello, "EHLO"),
        };
        match said.code {
            220 if asked == "STARTTLS" => {}
            400..=599 if said.code != 421 => return Ok(Some(format!("{asked} was answered {}", said.code))),
            code => return Err(io::Error::other(format!("{asked} was answered {code}"))),
        }
        // Whoever is in between could have put it there, to be read as if it were protected.
        if !self.input.is_empty() {
            return Err(io::Error::other("it said more behind its reply to STARTTLS"));
        }
        self.shake_hands(way)?;
        Ok(None)
    }

    fn shake_hands(&mut self, way: &BackEndWay<'_>) -> io::Result<()> {
        let name = way.tls.name.as_ref().unwrap_or(&way.to.host);
        let end = Instant::now() + self.patience.command;
        self.tls = Some(tls::Client::new(name, &way.tls.proof()).map_err(io::Error::other)?);
        loop {
            self.send(end)?;
            let Some(tls) = self.tls.as_mut().filter(|tls| tls.is_handshaking()) else {
                return Ok(());
            };
            match tls.take(&mut self.stream) {
                Ok(0) => return Err(io::Error::other("it closed the connection in the handshake")),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::POLLIN, end)?,
                Err(error) => {
                    // The alert; whether it is heard does not matter.
                    let _ = self.send(Instant::now());
                    return Err(error);
                }
            }
        }
    }

    fn command(&mut self, line: &[u8]) -> io::Result<Reply> {
        if self.text.is_some() || line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            return Err(io::Error::other("no command can be said here"));
        }
        if let Some(reply) = self.unasked()? {
            return Ok(reply);
        }
        let end = Instant::now() + self.patience.command;
        self.write(&[line, b"\r\n"].concat(), end)?;
        let reply = self.reply(end)?;
        if reply.code == 354 {
            self.text = Some(Transparency::begin());
        }
        Ok(reply)
    }

    /// What the other side said before it was asked: only that it closes. Anything else would be taken for the reply to
    /// what comes next.
    fn unasked(&mut self) -> io::Result<Option<Reply>> {
        let end = Instant::now() + self.patience.command;
        while self.input.is_empty() {
            // Under TLS there may be records without a word of SMTP, as tickets are.
            let kept = self.tls.as_mut().is_some_and(tls::Client::has_plaintext);
            if !kept && !self.is_ready(PollFlags::POLLIN, Instant::now())? {
                return Ok(None);
            }
            if Instant::now() >= end {
                return Err(io::Error::other("it sent records without end"));
            }
            self.receive()?;
        }
        let reply = self.reply(end)?;
        if reply.code == 421 {
            return Ok(Some(reply));
        }
        Err(io::Error::other(format!("it said {} unasked", reply.code)))
    }

    fn text(&mut self, octets: &[u8]) -> io::Result<()> {
        let Some(text) = &mut self.text else {
            return Err(io::Error::other("it waits for no message"));
        };
        // A piece is at most what was read from the client at once.
        text.push(octets, &mut self.output);
        if self.output.len() >= BLOCK {
            self.flush()?;
        }
        Ok(())
    }

    fn end_text(&mut self) -> io::Result<Reply> {
        let Some(text) = self.text.take() else {
            return Err(io::Error::other("it waits for no message"));
        };
        // Whatever was said before the end is no answer to it.
        if let Some(reply) = self.unasked()? {
            return Ok(reply);
        }
        text.end(&mut self.output);
        self.flush()?;
        let end = Instant::now() + self.patience.data;
        let reply = self.reply(end);
        reply.map_err(|error| io::Error::other(format!("{error}, and may have taken the message, which had ended")))
    }

    fn flush(&mut self) -> io::Result<()> {
        let octets = std::mem::take(&mut self.output);
        self.write(&octets, Instant::now() + self.patience.data)?;
        self.output = octets;
        self.output.clear();
        Ok(())
    }

    /// The next whole reply; what follows it is kept.
    fn reply(&mut self, end: Instant) -> io::Result<Reply> {
        loop {
            if let Some((reply, length)) = Reply::parse(&self.input).map_err(io::Error::other)? {
                self.input.drain(..length);
                return Ok(reply);
            }
            if self.input.len() > REPLY {
                return Err(io::Error::other("a reply without end"));
            }
            self.read(end)?;
        }
    }

    /// Waits for octets of replies.
    fn read(&mut self, end: Instant) -> io::Result<()> {
        while !self.receive()? {
            self.wait(PollFlags::POLLIN, end)?;
        }
        Ok(())
    }

    /// Takes octets of replies that are there; whether there were any.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let read = match &mut self.tls {
            None => self.stream.read(&mut buffer).map(Some),
            Some(tls) => under_tls(tls, &mut self.stream, &mut buffer),
        };
        match read {
            Ok(Some(0)) => Err(io::Error::other("it closed the connection")),
            Ok(Some(length)) => {
                self.input.extend_from_slice(buffer.get(..length).unwrap_or_default());
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, mut octets: &[u8], end: Instant) -> io::Result<()> {
        while !octets.is_empty() {
            let Some(tls) = &mut self.tls else {
                return self.write_raw(octets, end);
            };
            let taken = tls.write(octets)?;
            octets = octets.get(taken..).unwrap_or_default();
            self.send(end)?;
        }
        Ok(())
    }

    /// Sends what TLS has to send.
    fn send(&mut self, end: Instant) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let octets = tls.pending();
        self.write_raw(&octets, end)
    }

    fn write_raw(&mut self, mut octets: &[u8], end: Instant) -> io::Result<()> {
        while !octets.is_empty() {
            match self.stream.write(octets) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => octets = octets.get(length..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::POLLOUT, end)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait(&self, what: PollFlags, end: Instant) -> io::Result<()> {
        // Octets that come for ever and say nothing do not put the end off.
        if self.is_ready(what, end)? && Instant::now() < end {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"))
    }

    fn is_ready(&self, what: PollFlags, end: Instant) -> io::Result<bool> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Rounded up: what is left of a millisecond is waited for, not spun away.
            let wait = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.stream.as_fd(), what)];
            match poll(&mut fds, wait) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads plaintext, or records for it to come from; none where neither was enough.
fn under_tls(tls: &mut tls::Client, stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    if let Some(length) = tls.read(buffer)? {
        return Ok(Some(length));
    }
    if tls.take(stream)? == 0 {
        return Ok(Some(0));
    }
    tls.read(buffer)
}
