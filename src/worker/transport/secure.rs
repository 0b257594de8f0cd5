//! The same socket under TLS.

use std::io::{self, Read as _, Write as _};
use std::time::Instant;

use mio::net::TcpStream;

use super::{Heard, Transport};
use crate::session::TlsFacts;
use crate::sys::socket;
use crate::tls::{Certificates, Failure, Server};

/// Octets of plaintext that are dropped at most; who sends more has the rest taken for a handshake, which fails.
const MOST_DROPPED: usize = 1 << 20;

/// What came of waiting for a handshake.
#[derive(Debug)]
pub enum Shaken {
    /// It is done.
    Done(TlsFacts),
    /// It failed.
    Failed(Failure),
    /// The client closed its side.
    Lost,
    /// The deadline passed.
    Late,
    /// The master has something to say; wait again.
    Master,
}

impl Transport {
    /// Drops what the client has said without being read; how many octets.
    #[inline(never)] // the buffer would be on the stack of every dialogue
    pub fn drop_input(&mut self) -> usize {
        let (mut dropped, mut buffer) = (0, [0; 1024]);
        while dropped < MOST_DROPPED {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(length) => dropped += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // What comes later is announced.
                    self.more = self.closed;
                    break;
                }
            }
        }
        dropped
    }

    /// What comes next is a handshake: [`Transport::shake_hands`].
    pub fn begin_tls(&mut self, server: Server) {
        self.tls = Some(Box::new(server));
    }

    /// The TLS, once it has begun.
    pub fn tls(&self) -> Option<&Server> {
        self.tls.as_deref()
    }

    /// Shakes hands, showing one of `certificates`, and waits until `deadline` at most.
    ///
    /// # Errors
    /// The connection broke.
    pub fn shake_hands(&mut self, certificates: &Certificates, deadline: Instant) -> io::Result<Shaken> {
        loop {
            self.push(deadline)?;
            let Some(tls) = self.tls.as_mut().filter(|tls| tls.is_handshaking()) else {
                let facts = self.tls.as_ref().and_then(|tls| tls.facts());
                return Ok(facts.map_or(Shaken::Lost, Shaken::Done));
            };
            if std::mem::take(&mut self.more) {
                let mut from = Drained::new(&mut self.stream);
                match tls.take(&mut from) {
                    Ok(0) => return Ok(Shaken::Lost),
                    Ok(_) => {
                        self.more = self.closed || !from.is_empty;
                        if let Err(failure) = tls.shake(certificates) {
                            // The alert, if the client takes it at once.
                            let _ = self.stream.write(tls.pending());
                            return Ok(Shaken::Failed(failure));
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.more = self.closed,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => self.more = true,
                    Err(error) => return Err(error),
                }
            } else if std::mem::take(&mut self.link_ready) {
                return Ok(Shaken::Master);
            } else if !self.wait(deadline)? {
                return Ok(Shaken::Late);
            }
        }
    }

    pub(super) fn read_secure(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<Heard> {
        loop {
            if let Some(length) = self.plaintext(buffer)? {
                return Ok(Heard::Octets(length));
            }
            if self.more {
                if self.pull()? == Some(0) {
                    return Ok(Heard::Octets(0));
                }
                self.push(deadline)?;
                continue;
            }
            if std::mem::take(&mut self.link_ready) {
                return Ok(Heard::Master);
            }
            if !self.wait(deadline)? {
                return Ok(Heard::Late);
            }
        }
    }

    /// Whether there is plaintext, or can be had without waiting.
    pub(super) fn has_secure_input(&mut self) -> bool {
        self.more = true;
        self.has_more_secure()
    }

    /// Whether there is plaintext, or can be had of what was announced.
    pub(super) fn has_more_secure(&mut self) -> bool {
        // A half record, or none, stays for the next read.
        while self.more {
            if self.tls.as_mut().is_some_and(|tls| tls.has_plaintext()) {
                return true;
            }
            match self.pull() {
                Ok(Some(0)) | Err(_) => return false,
                Ok(_) => {}
            }
        }
        self.tls.as_mut().is_some_and(|tls| tls.has_plaintext())
    }

    pub(super) fn write_last_secure(&mut self, mut octets: &[u8], deadline: Instant) -> io::Result<()> {
        while let Some(tls) = self.tls.as_mut().filter(|_| !octets.is_empty()) {
            let taken = tls.write(octets)?;
            octets = octets.get(taken..).unwrap_or_default();
            if octets.is_empty() {
                tls.close();
                if let Ok(sent) = socket::send_before_end(&self.stream, tls.pending()) {
                    tls.sent(sent);
                }
            }
            self.push(deadline)?;
        }
        Ok(())
    }

    pub(super) fn write_secure(&mut self, mut octets: &[u8], deadline: Instant) -> io::Result<()> {
        while !octets.is_empty() {
            let Some(tls) = &mut self.tls else { return Ok(()) };
            let taken = tls.write(octets)?;
            octets = octets.get(taken..).unwrap_or_default();
            self.push(deadline)?;
        }
        Ok(())
    }

    /// Says that nothing more will be written, if the client takes it at once.
    pub(super) fn finish_secure(&mut self) {
        if let Some(tls) = self.tls.as_mut().filter(|tls| !tls.is_handshaking()) {
            tls.close();
            if !tls.pending().is_empty() {
                let _ = self.stream.write(tls.pending());
            }
        }
    }

    fn plaintext(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match &mut self.tls {
            Some(tls) => tls.read(buffer),
            None => Ok(None),
        }
    }

    /// Reads what the socket has into TLS: how much, none if nothing is there; 0 is the end.
    fn pull(&mut self) -> io::Result<Option<usize>> {
        let Some(tls) = &mut self.tls else { return Ok(None) };
        self.more = false;
        let mut from = Drained::new(&mut self.stream);
        match tls.take(&mut from) {
            Ok(length) => {
                self.more = self.closed || !from.is_empty;
                tls.digest()
                    .map_err(|failure| io::Error::new(io::ErrorKind::InvalidData, failure.error))?;
                Ok(Some(length))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.more = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes what TLS has to say.
    fn push(&mut self, deadline: Instant) -> io::Result<()> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| !tls.pending().is_empty()) {
            match self.stream.write(tls.pending()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => tls.sent(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch_for_room()?;
                    if !self.wait(deadline)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Notes whether a read has found less than there was room for: the socket had no more then, and epoll(7) announces what
/// comes.
struct Drained<'a> {
    stream: &'a mut TcpStream,
    is_empty: bool,
}

impl Drained<'_> {
    fn new(stream: &mut TcpStream) -> Drained<'_> {
        Drained {
            stream,
            is_empty: false,
        }
    }
}

impl io::Read for Drained<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer)?;
        self.is_empty = length < buffer.len();
        Ok(length)
    }
}
