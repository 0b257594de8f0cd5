//! The client's socket: octets with a deadline, and an ear for the master.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::sys::socket;
use crate::tls::Server;

mod secure;

pub use secure::Shaken;

const CLIENT: Token = Token(0);
/// What announces the master in the events of [`listening`].
pub const LINK: Token = Token(usize::MAX);

/// An event loop with an ear for the master.
///
/// # Errors
/// No event loop can be made.
pub fn listening(link: &impl AsRawFd) -> io::Result<Poll> {
    let poll = Poll::new()?;
    poll.registry()
        .register(&mut SourceFd(&link.as_raw_fd()), LINK, Interest::READABLE)?;
    Ok(poll)
}

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// So many octets were read; none means that the client closed its side.
    Octets(usize),
    /// The deadline passed.
    Late,
    /// The master has something to say, or is gone.
    Master,
}

/// A client's connection.
pub struct Transport {
    stream: TcpStream,
    /// The TLS over it.
    tls: Option<Box<Server>>,
    poll: Poll,
    events: Events,
    /// The last read did not take all there is, or the client has closed its side.
    more: bool,
    /// The client has closed its side: nothing will announce that again.
    closed: bool,
    /// Events tell when there is room to write.
    watches_room: bool,
    link_ready: bool,
    /// Both directions are closed: nothing can be said any more.
    broken: bool,
}

impl Transport {
    /// Serves `stream`, which must not block, nor wait for more before it sends; `poll` hears the master and nobody else.
    ///
    /// # Errors
    /// The kernel takes no more to listen to.
    pub fn new(stream: OwnedFd, poll: Poll) -> io::Result<Transport> {
        let mut stream = TcpStream::from_std(stream.into());
        poll.registry().register(&mut stream, CLIENT, Interest::READABLE)?;
        Ok(Transport {
            stream,
            tls: None,
            poll,
            events: Events::with_capacity(4),
            more: false,
            closed: false,
            watches_room: false,
            link_ready: false,
            broken: false,
        })
    }

    /// Reads into `buffer`, waiting until `deadline` at most. It waits first: a client that keeps in step has said
    /// nothing yet.
    ///
    /// # Errors
    /// The connection broke.
    pub fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<Heard> {
        if self.tls.is_some() {
            return self.read_secure(buffer, deadline);
        }
        loop {
            if std::mem::take(&mut self.more) {
                match self.stream.read(buffer) {
                    Ok(length) => {
                        self.more = self.closed || length == buffer.len();
                        return Ok(Heard::Octets(length));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => self.more = true,
                    Err(error) => return Err(error),
                }
            }
            if std::mem::take(&mut self.link_ready) {
                return Ok(Heard::Master);
            }
            if !self.more && !self.wait(deadline)? {
                return Ok(Heard::Late);
            }
        }
    }

    /// Looks at what the client has said, without taking it, once that is more than `known` octets; none where it will
    /// never be. The octets are the socket's, whatever they may be.
    ///
    /// # Errors
    /// The connection broke.
    pub fn look(&mut self, buffer: &mut [u8], known: usize, deadline: Instant) -> io::Result<Heard> {
        loop {
            match self.stream.peek(buffer) {
                Ok(length) if length > known => return Ok(Heard::Octets(length)),
                Ok(length) if length == 0 || self.closed => return Ok(Heard::Octets(0)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
            if std::mem::take(&mut self.link_ready) {
                return Ok(Heard::Master);
            }
            if !self.wait(deadline)? {
                return Ok(Heard::Late);
            }
        }
    }

    /// Takes so many octets that were looked at.
    ///
    /// # Errors
    /// They are not there.
    pub fn skip(&mut self, mut octets: usize) -> io::Result<()> {
        let mut buffer = [0; 512];
        while octets > 0 {
            let most = octets.min(buffer.len());
            match self.stream.read(buffer.get_mut(..most).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => octets = octets.saturating_sub(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.more = true; // what announced the header may have announced more
        Ok(())
    }

    /// Whether the client has said something that was not read yet.
    pub fn has_input(&mut self) -> bool {
        if self.tls.is_some() {
            return self.has_secure_input();
        }
        matches!(self.stream.peek(&mut [0]), Ok(1))
    }

    /// Whether the client had said more, when it was read, than was read.
    pub fn has_more(&mut self) -> bool {
        if self.tls.is_some() {
            return self.has_more_secure();
        }
        self.more && self.has_input()
    }

    /// Writes all of `octets`.
    ///
    /// # Errors
    /// The connection broke, or the client did not take them before `deadline`.
    pub fn write(&mut self, octets: &[u8], deadline: Instant) -> io::Result<()> {
        match self.tls {
            None => self.write_plain(octets, deadline),
            Some(_) => self.write_secure(octets, deadline),
        }
    }

    /// As [`Transport::write`] what [`Transport::finish`] follows at once: one packet brings the last words and the end.
    ///
    /// # Errors
    /// As of [`Transport::write`].
    pub fn write_last(&mut self, octets: &[u8], deadline: Instant) -> io::Result<()> {
        if self.tls.is_some() {
            return self.write_last_secure(octets, deadline);
        }
        let taken = match socket::send_before_end(&self.stream, octets) {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.write_plain(octets.get(taken..).unwrap_or_default(), deadline)
    }

    fn write_plain(&mut self, mut octets: &[u8], deadline: Instant) -> io::Result<()> {
        while !octets.is_empty() {
            match self.stream.write(octets) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => octets = octets.get(length..).unwrap_or_default(),
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

    /// Lets time pass until `until`; ends early when the master has something to say.
    ///
    /// # Errors
    /// The connection broke.
    pub fn pause(&mut self, until: Instant) -> io::Result<Heard> {
        loop {
            if std::mem::take(&mut self.link_ready) {
                return Ok(Heard::Master);
            }
            if self.broken {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if !self.wait(until)? {
                return Ok(Heard::Late);
            }
        }
    }

    /// Says that nothing more will be written, and reads what is still under way, so that the kernel does
    /// not reset the connection before the client has read the last reply.
    pub fn finish(&mut self) {
        self.finish_secure();
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        let mut rest = [0; 1024]; // of the stack: a page less to copy
        for _ in 0..64 {
            match self.stream.read(&mut rest) {
                Ok(length) if length > 0 => {}
                _ => return,
            }
        }
    }

    /// From now on events also say that the client takes more. Few replies are ever so long, so this is not asked
    /// for from the beginning.
    fn watch_for_room(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.watches_room, true) {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().reregister(&mut self.stream, CLIENT, both)?;
        }
        Ok(())
    }

    /// Waits for an event; false when `deadline` came first.
    fn wait(&mut self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        match self.poll.poll(&mut self.events, Some(left)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
        let gone = |event: &mio::event::Event| event.token() == CLIENT && (event.is_error() || event.is_write_closed());
        self.broken |= self.events.iter().any(gone);
        for event in self.events.iter().filter(|event| event.token() == CLIENT) {
            self.more |= event.is_readable() || event.is_error();
            self.closed |= event.is_read_closed();
        }
        self.link_ready |= self.events.iter().any(|event| event.token() == LINK);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as Tcp};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn connected() -> (Tcp, Transport, UnixStream, UnixStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Tcp::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let (master, link) = UnixStream::pair().unwrap();
        let transport = Transport::new(server.into(), listening(&link).unwrap()).unwrap();
        (client, transport, master, link)
    }

    fn in_seconds(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[test]
    fn last_words_come_whole_before_the_end() {
        for length in [1, 100, 8 << 20] {
            let (mut client, mut transport, _master, _link) = connected();
            let reading = std::thread::spawn(move || {
                let mut heard = Vec::new();
                client.read_to_end(&mut heard).map(|_| heard)
            });
            let words: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            transport.write_last(&words, in_seconds(10)).unwrap();
            transport.finish();
            assert!(reading.join().unwrap().unwrap() == words, "{length}");
        }
    }

    #[test]
    fn a_pause_lasts_and_loses_no_input() {
        let (mut client, mut transport, _master, _link) = connected();
        client.write_all(b"early").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let until = Instant::now() + Duration::from_millis(50);
        assert_eq!(transport.pause(until).unwrap(), Heard::Late);
        assert!(Instant::now() >= until);
        let mut buffer = [0; 16];
        assert_eq!(transport.read(&mut buffer, in_seconds(10)).unwrap(), Heard::Octets(5));
        assert_eq!(transport.read(&mut buffer, in_seconds(10)).unwrap(), Heard::Octets(0));
    }

    #[test]
    fn a_pause_ends_for_the_master_and_when_the_client_is_gone() {
        let (client, mut transport, mut master, _link) = connected();
        master.write_all(b"x").unwrap();
        assert_eq!(transport.pause(in_seconds(60)).unwrap(), Heard::Master);
        // Closing with unread input resets the connection.
        transport.write(b"unread", in_seconds(10)).unwrap();
        let mut first = [0];
        (&client).read_exact(&mut first).unwrap();
        drop(client);
        let end = transport.pause(in_seconds(60)).map_err(|error| error.kind());
        assert_eq!(end.unwrap_err(), io::ErrorKind::ConnectionReset);
    }
}
