//! The connection to the server behind a proxy, which the broker makes for us.
//!
//! It may assume nothing about what comes from there: replies are bounded, in time and in octets, and none counts that
//! came before its command. All octets pass [`Connection::read`] and [`Connection::write`].

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::chain::{BackEndLost, BackEndPatience, BackEndPort};
use crate::ipc::broker::Endpoint;
use crate::smtp::reply::Reply;
use crate::smtp::transparency::Transparency;

use super::broker::Broker;

/// Octets of one reply at most.
const REPLY: usize = 64 * 1024;
/// Octets of a message that are gathered before they are written.
const BLOCK: usize = 32 * 1024;

/// The server behind a proxy, once there is a connection to it.
pub struct BackEnd {
    broker: Rc<RefCell<Broker>>,
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
    /// Not connected yet; `broker` connects.
    pub fn new(broker: Rc<RefCell<Broker>>) -> BackEnd {
        BackEnd {
            broker,
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
}

fn lost(error: impl std::fmt::Display) -> BackEndLost {
    BackEndLost::new(error.to_string())
}

impl BackEndPort for BackEnd {
    fn open(&mut self, to: &Endpoint, preface: &[u8], patience: BackEndPatience) -> Result<Reply, BackEndLost> {
        self.connection = None;
        let connected = self.broker.borrow_mut().connect(to, patience.connect);
        let stream = TcpStream::from(connected.map_err(lost)?);
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
