//! What a working process holds: the control channel, and a word with its parent half.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::{FromHelper, ToHelper};

/// How a working process came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The daemon starts.
    First,
    /// The one before died; or there was none, and now there is something to do.
    Again,
    /// The one before serves until this one is ready.
    Instead,
}

/// From a working process to its parent half.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorking {
    /// Can take over; what those after it shall know.
    Ready(Vec<u8>),
    /// Wants to be replaced by one that has read the configuration again.
    Reload,
}

/// From the parent half to a working process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorking {
    /// Serve the control channel from now on.
    Begin,
    /// Leave it to another; finish what is under way and end.
    Leave,
}

/// What a working process hears.
#[derive(Debug)]
pub enum Heard {
    /// The master speaks.
    Master(ToHelper, Option<OwnedFd>),
    /// Another has taken over: touch the control channel no more.
    Leave,
}

/// The place of one working process.
#[derive(Debug)]
pub struct Seat {
    /// Towards the master.
    pub control: Channel<FromHelper, ToHelper>,
    parent: Option<Channel<FromWorking, ToWorking>>,
    /// How it came to be.
    pub turn: Turn,
    /// What the one before it wanted it to know; empty if nothing.
    pub memory: Vec<u8>,
}

impl Seat {
    pub(super) fn new(control: OwnedFd, parent: OwnedFd, turn: Turn, memory: Vec<u8>) -> Seat {
        Seat {
            control: Channel::new(control),
            parent: Some(Channel::new(parent)),
            turn,
            memory,
        }
    }

    /// The first of its line, without a parent half: nobody replaces it.
    pub fn alone(control: OwnedFd) -> Seat {
        Seat {
            control: Channel::new(control),
            parent: None,
            turn: Turn::First,
            memory: Vec::new(),
        }
    }

    /// Says that this process can take over, and waits until it may. `memory` is for those that come after it.
    /// False when the parent half is gone.
    pub fn take_over(&self, memory: Vec<u8>) -> bool {
        let Some(parent) = &self.parent else { return true };
        if self.turn != Turn::Instead {
            return true;
        }
        parent.send(&FromWorking::Ready(memory)).is_ok() && matches!(parent.receive(), Ok((ToWorking::Begin, _)))
    }

    /// Tells the master that `what` failed, so that this process cannot start; its exit status.
    pub fn give_up(&self, what: &str, error: &io::Error) -> i32 {
        let _ = self.control.send_nowait(&FromHelper::failed(what, error), &[]);
        super::EX_CONFIG
    }

    /// Tells the master that the configuration is broken, so that this process cannot start; its exit status.
    pub fn refuse(&self, faults: &impl std::fmt::Display) -> i32 {
        let (reason, errno) = (faults.to_string(), 0);
        let _ = self.control.send_nowait(&FromHelper::Failed { reason, errno }, &[]);
        super::EX_CONFIG
    }

    /// Asks the parent half for a successor.
    pub fn ask_to_be_replaced(&self) {
        if let Some(parent) = &self.parent {
            let _ = parent.send_nowait(&FromWorking::Reload, &[]);
        }
    }

    /// What becomes readable when something is said.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let parent = self.parent.iter().map(AsRawFd::as_raw_fd);
        std::iter::once(self.control.as_raw_fd()).chain(parent).collect()
    }

    /// The next thing said, waiting at most `limit`.
    ///
    /// # Errors
    /// [`Fault::TimedOut`]; [`Fault::Closed`] when the master, or the parent half, is gone.
    pub fn hear(&self, limit: Duration) -> Result<Heard, Fault> {
        let mut fds = vec![PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.parent
                .iter()
                .map(|parent| PollFd::new(parent.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(Errno::EINTR) => return Err(Fault::TimedOut),
            Ok(_) => {}
            Err(error) => return Err(Fault::Io(error.into())),
        }
        // The parent first: who has been replaced must not take another frame of the master's.
        if let Some(parent) = &self.parent
            && fds.get(1).and_then(PollFd::any) == Some(true)
        {
            return match parent.receive_nowait() {
                Ok((ToWorking::Leave, _)) => Ok(Heard::Leave),
                Ok((ToWorking::Begin, _)) | Err(Fault::WouldBlock) => Err(Fault::TimedOut),
                Err(fault) => Err(fault),
            };
        }
        match self.control.receive_nowait() {
            Ok((message, fd)) => Ok(Heard::Master(message, fd)),
            Err(Fault::WouldBlock) => Err(Fault::TimedOut),
            Err(fault) => Err(fault),
        }
    }
}
