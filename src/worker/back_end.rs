//! The connection to the server behind a proxy, which the broker makes for us.
//!
//! It may assume nothing about what comes from there: replies are bounded, in time and in octets, and none counts that
//! came before its command. All octets pass [`Connection::read`] and [`Connection::write`].

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::broker::client::{Client, Error};
use crate::chain::{BackEndLost, BackEndPatience, BackEndPort};
use crate::ipc::broker::Endpoint;
use crate::ipc::link::Role;
use crate::smtp::reply::Reply;
use crate::smtp::transparency::Transparency;

use super::link::Link;

/// Octets of one reply at most.
const REPLY: usize = 64 * 1024;
/// Octets of a message that are gathered before they are written.
const BLOCK: usize = 32 * 1024;

/// The server behind a proxy, once there is a connection to it.
pub struct BackEnd {
    link: Rc<Link>,
    broker: Option<Client>,
    connection: Option<Connection>,
}

struct Connection {
    stream: TcpStream,
    patience: BackEndPatience,
    /// Octets of replies that were not understood yet.
    input: Vec<u8>,
    /// Octets of a message that were not written yet.
    output: Vec<u8>,
    text: Option<Transparency>,
}

impl BackEnd {
    /// Not connected yet; `link` asks for the door to the broker when it is needed.
    pub fn new(link: Rc<Link>) -> BackEnd {
        BackEnd {
            link,
            broker: None,
            connection: None,
        }
    }

    fn connect(&mut self, to: &Endpoint, patience: Duration) -> Result<OwnedFd, BackEndLost> {
        let kept = self.broker.take();
        let was_kept = kept.is_some();
        let asked = match kept {
            Some(broker) => Ok(broker),
            None => self.door(),
        };
        let broker = asked?;
        let mut answer = broker.connect(to, patience);
        self.broker = Some(broker);
        // A broker that ended, or has left the place to another one: nothing is lost yet.
        let gone = matches!(answer, Err(Error::Channel(crate::ipc::channel::Fault::Closed)));
        if gone || (was_kept && matches!(answer, Err(Error::Channel(_)))) {
            let broker = self.door()?;
            answer = broker.connect(to, patience);
            self.broker = Some(broker);
        }
        if !matches!(answer, Ok(_) | Err(Error::Unreachable(_))) {
            self.broker = None;
        }
        answer.map_err(lost)
    }

    fn door(&self) -> Result<Client, BackEndLost> {
        let door = self.link.open(Role::Broker);
        door.map(Client::new).map_err(|error| {
            BackEndLost::new(match error.kind() {
                io::ErrorKind::NotConnected => "the broker was not started with the daemon: restart needed".to_owned(),
                _ => format!("no way to the broker: {error}"),
            })
        })
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
}

fn lost(error: impl std::fmt::Display) -> BackEndLost {
    BackEndLost::new(error.to_string())
}

impl BackEndPort for BackEnd {
    fn open(&mut self, to: &Endpoint, preface: &[u8], patience: BackEndPatience) -> Result<Reply, BackEndLost> {
        self.connection = None;
        let stream = TcpStream::from(self.connect(to, patience.connect)?);
        self.connection = Some(Connection {
            stream,
            patience,
            input: Vec::new(),
            output: Vec::new(),
            text: None,
        });
        self.using(|connection| {
            let end = Instant::now() + patience.command;
            connection.write(preface, end)?;
            connection.reply(end)
        })
    }

    fn is_open(&self) -> bool {
        self.connection.is_some()
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
        if self.input.is_empty() && !self.is_ready(PollFlags::POLLIN, Instant::now())? {
            return Ok(None);
        }
        let reply = self.reply(Instant::now() + self.patience.command)?;
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
        self.reply(end)
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

    fn read(&mut self, end: Instant) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("it closed the connection")),
                Ok(length) => {
                    self.input.extend_from_slice(buffer.get(..length).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::POLLIN, end)?,
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self, mut octets: &[u8], end: Instant) -> io::Result<()> {
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
        if self.is_ready(what, end)? {
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
