//! Which descriptors are the master's own: a worker is forked with those below and loses the rest.
//!
//! The sandbox kills whoever duplicates what is numbered as workers share it. A descriptor gets such a number where
//! those below are used up; the master must never try to give it another one.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::socket;

/// Descriptors below this are the ones a worker may keep; the master moves its own to this and above.
pub const MASTER_DESCRIPTORS: RawFd = socket::FIRST_CONTROL;

/// Workers on their way are lent descriptors below this: the master needs two more to make what another one is to have.
pub(super) const LENT: RawFd = socket::FIRST_SHARED - 2;

/// Workers that may be on their way from fork to their first word at once: each is lent descriptors below [`LENT`].
pub(super) const STARTING: usize = 6;

/// Descriptors below [`LENT`] that the master has of its own.
const OWN: usize = 4;

/// How many doors can be lent to one more, where so many are starting and have so many descriptors: each that may start
/// after it is to find room for its Link and its voice.
pub(super) fn doors_to_lend(starting: usize, lent: usize) -> usize {
    let others = STARTING.saturating_sub(starting + 1);
    (LENT as usize).saturating_sub(OWN + lent + 2 * (others + 1))
}

/// Descriptors numbered as shared that each worker has of its own: its Link, its voice, three doors.
const OF_EACH_WORKER: RawFd = 5;

/// Whether a worker that has all shared numbers up to this one finds room for those of its own.
pub(super) fn leaves_room(fd: &impl AsRawFd) -> bool {
    fd.as_raw_fd() + OF_EACH_WORKER < socket::CLIENT_FD
}

/// Whether the sandbox lets nobody give this descriptor another number.
pub(super) fn is_fixed(fd: &OwnedFd) -> bool {
    (socket::FIRST_SHARED..socket::FIRST_CONTROL).contains(&fd.as_raw_fd())
}

/// Moves a descriptor out of the workers' reach.
///
/// # Errors
/// None is left there, or its number cannot be changed, which is the same: EMFILE. It is closed then.
pub(super) fn raised(fd: OwnedFd) -> io::Result<OwnedFd> {
    if is_fixed(&fd) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    socket::move_fd_at_least(fd, MASTER_DESCRIPTORS)
}

/// A pair whose first end is out of the workers' reach; the second can be brought there.
///
/// # Errors
/// No descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    // Held until there is one beyond them.
    let mut fixed = Vec::new();
    loop {
        let (ours, theirs) = socket::seqpacket_pair()?;
        if is_fixed(&ours) || is_fixed(&theirs) {
            fixed.push((ours, theirs));
        } else {
            return Ok((raised(ours)?, theirs));
        }
    }
}

/// A pair with both ends out of the workers' reach.
///
/// # Errors
/// No descriptors.
pub(super) fn raised_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pair()?;
    Ok((ours, raised(theirs)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{in_full_master, process::Ended};

    #[test]
    fn a_worker_finds_room_behind_the_last_shared_number() {
        let (end, _other) = socket::seqpacket_pair().unwrap();
        let numbered = |number| socket::duplicate_at_least(&end, number).unwrap();
        let last = numbered(57);
        if last.as_raw_fd() == 57 {
            assert!(leaves_room(&last));
        }
        assert!(!leaves_room(&numbered(58)));
    }

    #[test]
    fn pairs_are_had_where_the_low_numbers_are_used_up() {
        let made = || Ok(());
        let ended = in_full_master("master::descriptors", made, |()| {
            let (Ok(one), Ok(other)) = (pair(), raised_pair()) else {
                return 1;
            };
            let all = [one.0, other.0, other.1];
            i32::from(all.iter().any(|end| end.as_raw_fd() < MASTER_DESCRIPTORS)) * 2
        });
        assert!(ended.is_none_or(|ended| ended == Ended::Exited(0)), "{ended:?}");
    }
}
