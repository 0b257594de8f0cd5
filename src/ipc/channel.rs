//! A typed end of a seqpacket pair: values in, values out, at most one descriptor beside each.
//!
//! Knows nothing of what is said. Whatever is no frame ends the conversation: the caller drops the channel.

use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame;
use crate::sys::arena;
use crate::sys::socket::{recv_frame, recv_frame_nowait, recv_signed_frame, send_frame, send_frame_nowait};

thread_local! {
    // One buffer a thread, not one a channel: the master holds a channel per worker.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Leaves the buffer of before a fork alone: another is made where the process keeps what it needs.
pub fn forget_buffer() {
    BUFFER.with_borrow_mut(|buffer| std::mem::forget(std::mem::take(buffer)));
}

type Receive<T> = fn(BorrowedFd<'_>, &mut [u8]) -> io::Result<(usize, Option<T>)>;

/// Why nothing was received or sent.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The other end is gone.
    #[error("the other end has closed the channel")]
    Closed,
    /// The other end is gone and has not read all that was sent; said by [`Channel::answer_within`] alone.
    #[error("the other end has closed the channel unheard")]
    Unheard,
    /// The time given has passed.
    #[error("the other end did not answer in time")]
    TimedOut,
    /// Nothing is there yet (non-blocking receive), or there is no room (non-blocking send).
    #[error("nothing to read, or no room to write")]
    WouldBlock,
    /// Not a frame of this boundary, or a value too long for one.
    #[error(transparent)]
    Frame(#[from] frame::Fault),
    /// Anything else the kernel said.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::WouldBlock => Fault::WouldBlock,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => Fault::Closed,
            _ => Fault::Io(error),
        }
    }
}

/// One end that sends `S` and receives `R`.
#[derive(Debug)]
pub struct Channel<S, R> {
    fd: OwnedFd,
    types: PhantomData<fn(S) -> R>,
}

impl<S, R> Channel<S, R> {
    /// Takes a seqpacket descriptor.
    pub fn new(fd: OwnedFd) -> Channel<S, R> {
        Channel { fd, types: PhantomData }
    }
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<S, R> AsRawFd for Channel<S, R> {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl<S: Serialize, R: DeserializeOwned> Channel<S, R> {
    /// Sends, waiting for room.
    ///
    /// # Errors
    /// [`Fault::Closed`] when the other end is gone, [`Fault::Frame`] when the value is too long.
    pub fn send(&self, value: &S) -> Result<(), Fault> {
        self.send_with(value, &[])
    }

    /// Sends with a descriptor beside it (only ever towards a less trusted process).
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_with(&self, value: &S, fds: &[BorrowedFd<'_>]) -> Result<(), Fault> {
        let bytes = frame::encode(value)?;
        Ok(retried(|| send_frame(self.fd.as_fd(), &bytes, fds))?)
    }

    /// Sends or gives up at once with [`Fault::WouldBlock`].
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_nowait(&self, value: &S, fds: &[BorrowedFd<'_>]) -> Result<(), Fault> {
        let bytes = frame::encode(value)?;
        Ok(retried(|| send_frame_nowait(self.fd.as_fd(), &bytes, fds))?)
    }

    /// As [`Channel::send`], for at most `limit`.
    ///
    /// # Errors
    /// [`Fault::TimedOut`] when there was no room.
    pub fn send_within(&self, value: &S, limit: Duration) -> Result<(), Fault> {
        let end = Instant::now() + limit;
        loop {
            match self.send_nowait(value, &[]) {
                Err(Fault::WouldBlock) => {}
                other => return other,
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::TimedOut);
            }
            let wait = PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(Fault::Io(error.into())),
            }
        }
    }

    /// Waits for the next value and the descriptor that came with it.
    ///
    /// # Errors
    /// [`Fault::Closed`] at end of file; [`Fault::WouldBlock`] on a non-blocking descriptor without input.
    pub fn receive(&self) -> Result<(R, Option<OwnedFd>), Fault> {
        self.receive_by(|fd, buffer| recv_frame(fd, buffer))
    }

    /// As [`Channel::receive`], but [`Fault::WouldBlock`] at once when nothing is there.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub fn receive_nowait(&self) -> Result<(R, Option<OwnedFd>), Fault> {
        self.receive_by(|fd, buffer| recv_frame_nowait(fd, buffer))
    }

    /// As [`Channel::receive_nowait`], with the process that sent the value, or what is none, where the kernel was asked
    /// to tell.
    ///
    /// # Errors
    /// As [`Channel::receive`], but for [`Fault::Frame`].
    pub fn receive_signed_nowait(&self) -> Result<(Result<R, frame::Fault>, Option<u32>), Fault> {
        self.heard_by(|fd, buffer| recv_signed_frame(fd, buffer), &mut false)
    }

    fn receive_by<T>(&self, call: Receive<T>) -> Result<(R, Option<T>), Fault> {
        let (value, beside) = self.heard_by(call, &mut false)?;
        Ok((value?, beside))
    }

    /// Notes in `unheard` when the other end has closed before it had read all of ours.
    fn heard_by<T>(&self, call: Receive<T>, unheard: &mut bool) -> Result<(Result<R, frame::Fault>, Option<T>), Fault> {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                // Zeroes from the allocator, which knows where nobody has written: a `resize` would touch every page.
                *buffer = arena::inherited(|| vec![0; frame::MAXIMUM]);
            }
            let (length, fd) = match retried(|| call(self.fd.as_fd(), buffer)) {
                // Said once; what the other end sent is still there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    *unheard = true;
                    retried(|| call(self.fd.as_fd(), buffer))?
                }
                result => result?,
            };
            match buffer.get(..length) {
                None | Some([]) => Err(Fault::Closed),
                Some(bytes) => Ok((frame::decode(bytes), fd)),
            }
        })
    }

    /// As [`Channel::receive`], for at most `limit`.
    ///
    /// # Errors
    /// [`Fault::TimedOut`] when nothing came.
    pub fn receive_within(&self, limit: Duration) -> Result<(R, Option<OwnedFd>), Fault> {
        self.await_input(limit)?;
        self.receive()
    }

    /// The answer to what was asked last, for which it is taken if it `fits`; others, to somebody who had this end
    /// before us, are thrown away.
    ///
    /// # Errors
    /// [`Fault::Unheard`] when the other end closed without having read what was asked; [`Fault::TimedOut`] when no such
    /// answer came.
    pub fn answer_within(&self, limit: Duration, fits: impl Fn(&R) -> bool) -> Result<R, Fault> {
        let end = Instant::now() + limit;
        let mut unheard = false;
        loop {
            self.await_input(end.saturating_duration_since(Instant::now()))?;
            match self.heard_by(|fd, buffer| recv_frame(fd, buffer), &mut unheard) {
                Ok((answer, _)) => {
                    let answer = answer?;
                    if fits(&answer) {
                        return Ok(answer);
                    }
                }
                // Frames are read in the order they were sent, ours the last.
                Err(Fault::Closed) if unheard => return Err(Fault::Unheard),
                Err(fault) => return Err(fault),
            }
        }
    }

    fn await_input(&self, limit: Duration) -> Result<(), Fault> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, wait) {
                Ok(0) if left.as_millis() <= PollTimeout::MAX.as_millis().unwrap_or(0).into() => {
                    return Err(Fault::TimedOut);
                }
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(Fault::Io(error.into())),
            }
        }
    }
}

fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::Read;

    fn pair() -> (Channel<u32, String>, Channel<String, u32>) {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (Channel::new(a), Channel::new(b))
    }

    #[test]
    fn values_and_a_descriptor_arrive_together() {
        let (a, b) = pair();
        a.send(&7).unwrap();
        assert_eq!(b.receive().unwrap().0, 7);
        let (mut reader, writer) = std::io::pipe().unwrap();
        b.send_with(&"here".to_owned(), &[writer.as_fd()]).unwrap();
        drop(writer);
        let (text, fd) = a.receive_within(Duration::from_secs(5)).unwrap();
        assert_eq!(text, "here");
        drop(fd.unwrap());
        let mut rest = Vec::new();
        assert_eq!(reader.read_to_end(&mut rest).unwrap(), 0);
    }

    #[test]
    fn an_end_that_is_gone_or_silent_is_told_apart() {
        let (a, b) = pair();
        assert!(matches!(
            a.receive_within(Duration::from_millis(20)),
            Err(Fault::TimedOut)
        ));
        assert!(matches!(a.receive_nowait(), Err(Fault::WouldBlock)));
        drop(b);
        assert!(matches!(a.receive(), Err(Fault::Closed)));
        assert!(matches!(a.send(&1), Err(Fault::Closed)));
    }

    #[test]
    fn an_answer_of_before_does_not_hide_that_ours_was_not_heard() {
        for heard in [true, false] {
            let (a, b) = pair();
            a.send(&7).unwrap();
            assert_eq!(b.receive().unwrap().0, 7);
            a.send(&8).unwrap();
            if heard {
                assert_eq!(b.receive().unwrap().0, 8);
            }
            b.send(&"7".to_owned()).unwrap();
            drop(b);
            let answer = a.answer_within(Duration::from_secs(5), |answer| answer == "8");
            assert_eq!(matches!(answer, Err(Fault::Unheard)), !heard, "{answer:?}");
            assert_eq!(matches!(answer, Err(Fault::Closed)), heard, "{answer:?}");
        }
    }

    #[test]
    fn last_words_are_heard_though_ours_were_not() {
        let (a, b) = pair();
        a.send(&7).unwrap();
        b.send(&"first".to_owned()).unwrap();
        b.send(&"last".to_owned()).unwrap();
        drop(b);
        assert_eq!(a.receive().unwrap().0, "first");
        assert_eq!(a.receive_within(Duration::ZERO).unwrap().0, "last");
        assert!(matches!(a.receive(), Err(Fault::Closed)));
    }
}
