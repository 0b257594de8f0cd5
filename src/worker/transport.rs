//! The client's socket: octets with a deadline, and an ear for the master.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::socket;

use super::link::Link;

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
    link: Rc<Link>,
    /// Whether the last read filled its buffer, so that there is probably more.
    more: bool,
}

/// What may be done without waiting.
struct Ready {
    client: bool,
    link: bool,
}

impl Transport {
    /// Serves `stream`, which must not block, listening to `link` beside it.
    ///
    /// # Errors
    /// The client is gone.
    pub fn new(stream: OwnedFd, link: Rc<Link>) -> io::Result<Transport> {
        socket::set_nodelay(&stream)?;
        Ok(Transport {
            stream: stream.into(),
            link,
            more: false,
        })
    }

    /// Reads into `buffer`, waiting until `deadline` at most. It waits first: a client that keeps in step has said
    /// nothing yet.
    ///
    /// # Errors
    /// The connection broke.
    pub fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<Heard> {
        let mut ready = Ready {
            client: std::mem::take(&mut self.more),
            link: false,
        };
        loop {
            if ready.client {
                match self.stream.read(buffer) {
                    Ok(length) => {
                        self.more = length == buffer.len();
                        return Ok(Heard::Octets(length));
                    }
                    Err(error) if is_passing(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            if ready.link {
                return Ok(Heard::Master);
            }
            match self.wait(PollFlags::POLLIN, !self.link.is_gone(), deadline)? {
                Some(now) => ready = now,
                None => return Ok(Heard::Late),
            }
        }
    }

    /// Whether the client has said something that was not read yet.
    pub fn has_input(&self) -> bool {
        matches!(self.stream.peek(&mut [0]), Ok(1))
    }

    /// Writes all of `octets`.
    ///
    /// # Errors
    /// The connection broke, or the client did not take them before `deadline`.
    pub fn write(&mut self, mut octets: &[u8], deadline: Instant) -> io::Result<()> {
        while !octets.is_empty() {
            match self.stream.write(octets) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => octets = octets.get(length..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.wait(PollFlags::POLLOUT, false, deadline)?.is_none() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be written, and reads what is still under way, so that the kernel does
    /// not reset the connection before the client has read the last reply.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        let mut rest = [0; 1024];
        for _ in 0..64 {
            match self.stream.read(&mut rest) {
                Ok(length) if length > 0 => {}
                _ => return,
            }
        }
    }

    /// Waits for the client, and for the master where `master` says so; none when `deadline` came first.
    fn wait(&self, events: PollFlags, master: bool, deadline: Instant) -> io::Result<Option<Ready>> {
        let mut fds = [
            PollFd::new(self.stream.as_fd(), events),
            PollFd::new(self.link.as_fd(), PollFlags::POLLIN),
        ];
        let watched = if master { &mut fds[..] } else { &mut fds[..1] };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so as not to spin through the last millisecond.
            let milliseconds = left.as_micros().div_ceil(1000);
            match poll(watched, PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)) {
                Ok(0) if left.is_zero() => return Ok(None),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let [client, link] = fds.map(|fd| fd.any().unwrap_or(true));
        Ok(Some(Ready {
            client,
            link: master && link,
        }))
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
