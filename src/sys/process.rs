//! Processes: fork, end, wait, and which descriptors a child keeps.
//!
//! Assumes that the process that forks has one thread: a fork beside threads may leave a lock held for
//! ever in the child. Must never run exit handlers in a child: it ends by [`exit_now`].

use super::{checked, uninterrupted};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Which of the two processes the caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The parent, and its child's process id.
    Parent(Pid),
    /// The child.
    Child,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It ended with this exit status.
    Exited(i32),
    /// A signal of this number ended it.
    Signaled(i32),
}

/// Forks. The caller must have one thread; block signals around it with
/// [`block_for_fork`](super::signals::block_for_fork).
///
/// # Errors
/// What fork(2) says: `WouldBlock` at the limit of processes.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the processes of this daemon fork with one thread (tests: the child only probes and ends), so
    // the child finds no lock held by a thread that it does not have.
    match checked(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid))),
    }
}

/// Forks at a cost that does not grow with the number of open descriptors: the child is cloned with the
/// parent's table and takes a table of its own without the descriptors from `first` on, as its first act.
///
/// The parent does not wait for that (it would wait for the scheduler, at every connection): until the child has
/// said something or is dead, the parent must not close what the child is to have, which must be numbered below
/// `first`. What the parent opens meanwhile the child may have, too: it should close all but its own.
///
/// # Errors
/// What clone(2) says.
pub fn spawn_sharing_files(first: RawFd) -> io::Result<Fork> {
    let flags = libc::c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with a null stack this is a fork that shares the descriptor table; all
    // pointers are null and unused under these flags. One thread, as for `fork`. It passes libc by, which
    // matters to its handlers around fork, needed beside other threads alone, and to the thread id that it
    // remembers: of what is called here only abort(3) uses it, and ends by an illegal instruction then.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        if close_from_unshare(first).is_err() {
            exit_now(71);
        }
        return Ok(Fork::Child);
    }
    Ok(Fork::Parent(Pid::from_raw(pid as libc::pid_t)))
}

/// Closes every descriptor from `first` on, whoever left it open. For the first act of a program: it must own none yet.
///
/// # Errors
/// What close_range(2) says; the kernel is older than 5.9 then, or hidden by a filter.
pub fn close_from(first: RawFd) -> io::Result<()> {
    close_between(first, libc::c_uint::MAX, 0)
}

/// Closes every descriptor from `first` on, after taking a descriptor table of its own if it is shared.
///
/// # Errors
/// What close_range(2) says.
pub fn close_from_unshare(first: RawFd) -> io::Result<()> {
    close_between(first, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)
}

/// Closes every descriptor but those of `keep`. Whoever owns a closed one must forget it (or never return).
///
/// # Errors
/// What close_range(2) says.
pub fn close_range_except(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd >= 0).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first: RawFd = 0;
    for fd in keep {
        if fd > first {
            close_between(first, (fd - 1) as libc::c_uint, 0)?;
        }
        first = fd.saturating_add(1);
    }
    close_between(first, libc::c_uint::MAX, 0)
}

fn close_between(first: RawFd, last: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: no pointer is passed. Closing nothing that another part of the process owns is the documented duty of
    // the callers, which run as the first act of a child or of the program. By number, so that old C libraries do too.
    let returned = unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last, flags) };
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Ends the process at once: no exit handlers, no destructors, nothing flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no condition.
    unsafe { libc::_exit(code) }
}

/// Takes one ended child, if there is one, without waiting.
pub fn reap() -> Option<(Pid, Ended)> {
    wait_for(-1, libc::WNOHANG).ok().flatten()
}

/// Waits for one child to end.
///
/// # Errors
/// What waitpid(2) says: no such child.
pub fn wait(child: Pid) -> io::Result<Ended> {
    match wait_for(child.as_raw(), 0)? {
        Some((_, ended)) => Ok(ended),
        None => Err(io::Error::other("the child has not ended")),
    }
}

/// Whether a child has ended, or is none any more.
pub fn has_ended(child: Pid) -> bool {
    !matches!(wait_for(child.as_raw(), libc::WNOHANG), Ok(None))
}

/// A descriptor that can be read once the child of this id has ended. The caller must not have waited for it yet.
///
/// # Errors
/// What pidfd_open(2) says.
pub(super) fn watched(child: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed, and the descriptor that comes back is nobody else's.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, child, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

fn wait_for(which: libc::pid_t, options: libc::c_int) -> io::Result<Option<(Pid, Ended)>> {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    let pid = uninterrupted(|| checked(unsafe { libc::waitpid(which, &raw mut status, options) }))?;
    if pid == 0 {
        return Ok(None);
    }
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Signaled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    };
    Ok(Some((Pid::from_raw(pid), ended)))
}

/// Sends a signal to one process.
///
/// # Errors
/// What kill(2) says; `InvalidInput` for an id that means a group or everybody.
pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    if pid.as_raw() <= 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: no pointer is passed.
    checked(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// Asks for `signal` when the parent dies (0: none). A change of user clears it, fork does not inherit it,
/// and it does not reach a process of another user: look at the parent's id afterwards.
///
/// # Errors
/// What prctl(2) says.
pub fn set_pdeathsig(signal: i32) -> io::Result<()> {
    super::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong).map(drop)
}

/// Says whether the process may be dumped, hence traced and read by another of its user.
///
/// # Errors
/// What prctl(2) says.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    super::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable)).map(drop)
}

/// Names the process for ps(1); the kernel keeps 15 octets.
///
/// # Errors
/// `InvalidInput` for a name with a NUL; what prctl(2) says.
pub fn set_name(name: &str) -> io::Result<()> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name ends in NUL and lives through the call.
    checked(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

/// The id of this process.
#[must_use]
pub fn id() -> Pid {
    Pid::this()
}

/// The id of the parent, 1 or a reaper's when it is gone.
#[must_use]
pub fn parent_id() -> Pid {
    Pid::parent()
}

#[cfg(test)]
mod tests {
    use super::super::{in_child, socket};
    use super::*;
    use std::os::fd::{AsFd, AsRawFd};

    fn is_open(fd: RawFd) -> bool {
        // SAFETY: no pointer is passed.
        unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
    }

    #[test]
    fn a_child_ends_as_it_says() {
        assert_eq!(in_child(|| 7), Ended::Exited(7));
        let killed = in_child(|| {
            let _ = kill(id(), libc::SIGKILL);
            0
        });
        assert_eq!(killed, Ended::Signaled(libc::SIGKILL));
        assert!(kill(Pid::from_raw(-1), 0).is_err() && kill(Pid::from_raw(0), 0).is_err());
    }

    #[test]
    fn a_child_sharing_files_has_a_table_of_its_own() {
        let (parent_end, child_end) = socket::seqpacket_pair().unwrap();
        let high = socket::move_fd_at_least(parent_end.try_clone().unwrap(), 900).unwrap();
        let number = high.as_raw_fd();
        // Numbers in a test process with threads may be above 64: keep those of the pair.
        match spawn_sharing_files(900).unwrap() {
            Fork::Child => {
                let closed = !is_open(number);
                let text: &[u8] = if closed { b"own" } else { b"shared" };
                let sent = socket::send_frame(child_end.as_fd(), text, &[]);
                exit_now(i32::from(sent.is_err()))
            }
            Fork::Parent(pid) => {
                let mut buffer = [0; 16];
                let (length, _) = socket::recv_frame(&parent_end, &mut buffer).unwrap();
                drop(child_end);
                assert_eq!(&buffer[..length], b"own");
                assert!(is_open(number));
                assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
            }
        }
    }

    #[test]
    fn all_but_the_kept_descriptors_close() {
        let (a, b) = socket::seqpacket_pair().unwrap();
        let (kept, gone) = (a.as_raw_fd(), b.as_raw_fd());
        let ended = in_child(|| {
            let closed = close_range_except(&[2, kept, kept, -1]).is_ok();
            i32::from(!(closed && is_open(kept) && is_open(2) && !is_open(gone) && !is_open(0)))
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn name_and_dumpable_are_set() {
        let ended = in_child(|| {
            let done = set_name("rsmtpd: probe").is_ok() && set_dumpable(false).is_ok() && set_pdeathsig(9).is_ok();
            // SAFETY: no pointer is passed.
            let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
            let name = nix::sys::prctl::get_name().unwrap_or_default();
            i32::from(!(done && dumpable == 0 && name.as_bytes() == b"rsmtpd: probe"))
        });
        assert_eq!(ended, Ended::Exited(0));
    }
}
