//! What outlives a worker: its Link and its way to the logger, which the next worker takes over.
//!
//! Making these pairs, telling the logger of one and closing them again costs about as much as a short session. What
//! a worker leaves in them is taken out before another one gets them; where anything is odd they are closed. It must
//! never give the ends of one worker to another while the first one lives.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::ToHelper;
use crate::ipc::link::{FromWorker, ToWorker};
use crate::sys::socket;

use super::descriptors::{MASTER_DESCRIPTORS, pair};
use super::helpers::Helper;

/// Slots kept for workers to come.
const SPARE: usize = 64;
/// Orders that a worker may have left unread.
const UNREAD: usize = 16;

/// A pair for a worker's voice; both ends out of the workers' reach.
fn voice() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pair()?;
    Ok((ours, socket::move_fd_at_least(theirs, MASTER_DESCRIPTORS)?))
}

/// The ends of one worker after the other.
#[derive(Debug)]
pub(super) struct Slot {
    /// By which events of its Link are told apart.
    pub(super) token: usize,
    /// Whether the master is told of what comes over the Link.
    pub(super) watched: bool,
    /// The master's end of the Link.
    pub(super) link: Channel<ToWorker, FromWorker>,
    /// The worker's ends; none where they are not for another one.
    theirs: Option<Theirs>,
}

/// The ends of a worker.
#[derive(Debug)]
struct Theirs {
    link: Channel<FromWorker, ToWorker>,
    /// The way to the logger.
    voice: OwnedFd,
}

impl Slot {
    fn new(token: usize) -> io::Result<(Slot, OwnedFd)> {
        let (link, theirs) = pair()?;
        let (logger, voice) = voice()?;
        let slot = Slot {
            token,
            watched: false,
            link: Channel::new(link),
            theirs: Some(Theirs {
                link: Channel::new(socket::move_fd_at_least(theirs, MASTER_DESCRIPTORS)?),
                voice,
            }),
        };
        Ok((slot, logger))
    }

    /// The worker's ends once more, by the lowest free numbers: Link and voice.
    ///
    /// # Errors
    /// No descriptors.
    pub(super) fn lend(&self) -> io::Result<[OwnedFd; 2]> {
        let theirs = self.theirs.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok([
            socket::duplicate_at_least(&theirs.link, 0)?,
            socket::duplicate_at_least(&theirs.voice, 0)?,
        ])
    }

    /// Its worker, which has its ends, is the last one: where there are very many, each costs the master one descriptor
    /// and not three.
    pub(super) fn is_the_last_ones(&mut self) {
        self.theirs = None;
    }

    /// The logger was started again: gives the worker another way to it.
    ///
    /// # Errors
    /// No descriptors.
    pub(super) fn give_voice(&mut self, logger: &Helper, door: &ToHelper) -> io::Result<()> {
        let (ours, theirs) = voice()?;
        if logger.tell(door, &[ours.as_fd()]) {
            let _ = self.link.send_nowait(&ToWorker::Voice, &[theirs.as_fd()]);
        }
        // A worker chooses the number of what it is passed, so that the sandbox does not keep that as it was.
        self.theirs = None;
        Ok(())
    }

    /// Takes out what a worker that has ended left unread. False when there is more than any of ours leaves, or when
    /// the logger, which had no room for its end perhaps, would hear nothing of the next one.
    fn is_clean(&self) -> bool {
        let silent = matches!(self.link.receive_nowait(), Err(Fault::WouldBlock));
        let Some(theirs) = &self.theirs else { return false };
        let said = socket::recv_frame_nowait(&theirs.voice, &mut [0]);
        let is_heard = said.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        silent && is_heard && (0..UNREAD).any(|_| matches!(theirs.link.receive_nowait(), Err(Fault::WouldBlock)))
    }
}

/// The slots that nobody has.
#[derive(Debug, Default)]
pub(super) struct Slots {
    free: Vec<Slot>,
    /// Tokens of slots that were closed: as many are in use as there are slots.
    tokens: Vec<usize>,
    next: usize,
}

impl Slots {
    /// A slot; with it the logger's end of its voice if it is new.
    ///
    /// # Errors
    /// No descriptors.
    pub(super) fn take(&mut self) -> io::Result<(Slot, Option<OwnedFd>)> {
        if let Some(slot) = self.free.pop() {
            return Ok((slot, None));
        }
        let (slot, logger) = Slot::new(self.tokens.last().copied().unwrap_or(self.next))?;
        if self.tokens.pop().is_none() {
            self.next += 1;
        }
        Ok((slot, Some(logger)))
    }

    /// Takes back the slot of a worker that has ended as it should.
    pub(super) fn put_back(&mut self, slot: Slot) {
        if self.free.len() < SPARE && slot.is_clean() {
            self.free.push(slot);
        } else {
            self.close(slot);
        }
    }

    /// Closes a slot.
    pub(super) fn close(&mut self, slot: Slot) {
        self.tokens.push(slot.token);
    }

    /// The logger was started again: closes all that nobody has.
    pub(super) fn clear(&mut self) {
        self.tokens.extend(self.free.drain(..).map(|slot| slot.token));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: ToWorker = ToWorker::Retire;

    #[test]
    fn a_slot_that_the_logger_does_not_hear_is_closed() {
        let mut slots = Slots::default();
        let (slot, logger) = slots.take().unwrap();
        drop(logger);
        slots.put_back(slot);
        assert!(slots.take().unwrap().1.is_some(), "another one");
    }

    #[test]
    fn what_one_worker_left_is_not_there_for_the_next() {
        let mut slots = Slots::default();
        let (slot, logger) = slots.take().unwrap();
        assert!(logger.is_some());
        let (token, lent) = (slot.token, slot.lend().unwrap());
        let (pipe, _other) = io::pipe().unwrap();
        slot.link.send_nowait(&ORDER, &[pipe.as_fd()]).unwrap();
        slot.link.send_nowait(&ORDER, &[]).unwrap();
        drop(lent);
        slots.put_back(slot);
        let (slot, logger) = slots.take().unwrap();
        assert!(logger.is_none());
        assert_eq!(slot.token, token);
        let [link, _voice] = slot.lend().unwrap();
        let worker: Channel<FromWorker, ToWorker> = Channel::new(link);
        assert!(matches!(worker.receive_nowait(), Err(Fault::WouldBlock)));
    }

    #[test]
    fn the_slot_of_the_last_one_is_closed() {
        let mut slots = Slots::default();
        let (mut slot, _logger) = slots.take().unwrap();
        let [link, _voice] = slot.lend().unwrap();
        slot.is_the_last_ones();
        drop(link);
        assert!(matches!(slot.link.receive_nowait(), Err(Fault::Closed)));
        slots.put_back(slot);
        let (_, logger) = slots.take().unwrap();
        assert!(logger.is_some(), "another one");
    }

    #[test]
    fn a_slot_with_words_unheard_is_closed() {
        let mut slots = Slots::default();
        let (slot, _logger) = slots.take().unwrap();
        let [link, _voice] = slot.lend().unwrap();
        Channel::<FromWorker, ToWorker>::new(link)
            .send(&FromWorker::Done)
            .unwrap();
        slots.put_back(slot);
        let (_, logger) = slots.take().unwrap();
        assert!(logger.is_some(), "another one");
    }

    #[test]
    fn a_slot_with_more_orders_than_any_is_closed() {
        let mut slots = Slots::default();
        let (slot, _logger) = slots.take().unwrap();
        for _ in 0..=UNREAD {
            slot.link.send_nowait(&ORDER, &[]).unwrap();
        }
        let token = slot.token;
        slots.put_back(slot);
        let (slot, logger) = slots.take().unwrap();
        assert!(logger.is_some());
        assert_eq!(slot.token, token);
        assert_ne!(slots.take().unwrap().0.token, token);
    }

    #[test]
    fn a_slot_without_the_ends_of_a_worker_is_closed() {
        let mut slots = Slots::default();
        let (mut slot, _logger) = slots.take().unwrap();
        slot.is_the_last_ones();
        slots.put_back(slot);
        assert!(slots.take().unwrap().1.is_some());
    }
}
