//! Which descriptors are the master's own: a worker is forked with those below and loses the rest.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use crate::sys::socket;

/// Descriptors below this are the ones a worker may keep; the master moves its own to this and above.
pub const MASTER_DESCRIPTORS: RawFd = 64;

/// A pair whose first end is moved out of the workers' reach.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socket::seqpacket_pair()?;
    Ok((socket::move_fd_at_least(ours, MASTER_DESCRIPTORS)?, theirs))
}
