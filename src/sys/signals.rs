//! Signals as a readable descriptor (signalfd): blocked for good, read in the event loop.
//!
//! No handler is ever installed, so a signal to a child can wake nobody's loop but its own. A child
//! must call [`reset_in_child`] first; it must never read its parent's descriptor.

use super::{checked, counted};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The signals that a process waits for; poll its descriptor for input.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks `signals` and makes the (non-blocking) descriptor from which they are read.
    ///
    /// # Errors
    /// What sigprocmask(2) and signalfd(2) say.
    pub fn new(signals: &[Signal]) -> io::Result<Signals> {
        let set: SigSet = signals.iter().copied().collect();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set lives through the call; -1 asks for a new descriptor, which nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(checked(libc::signalfd(-1, set.as_ref(), flags))?) };
        Ok(Signals { fd })
    }

    /// The next pending signal, or none. Signals of one number that came together count as one: after
    /// SIGCHLD, reap until nobody is left.
    #[must_use]
    pub fn next(&self) -> Option<Signal> {
        // SAFETY: signalfd_siginfo is plain data; the buffer is as long as the length says.
        let number = unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            counted(libc::read(
                self.fd.as_raw_fd(),
                (&raw mut info).cast(),
                size,
            ))
            .ok()?;
            info.ssi_signo
        };
        Signal::try_from(i32::try_from(number).ok()?).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Signals held back around a fork; the former mask returns when it is dropped.
#[derive(Debug)]
pub struct Blocked {
    before: SigSet,
}

/// Blocks every signal until the result is dropped, so that none reaches a child before it is ready.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn block_for_fork() -> io::Result<Blocked> {
    let mut before = SigSet::empty();
    pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    Ok(Blocked { before })
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// Gives a child the default action of every signal (but SIGPIPE and SIGXFSZ stay ignored) and an empty mask.
/// Forget a [`Blocked`] that the child inherited (`std::mem::forget`), or its drop brings the mask back.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn reset_in_child() -> io::Result<()> {
    for signal in Signal::iterator() {
        if !matches!(
            signal,
            Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGPIPE | Signal::SIGXFSZ
        ) {
            // SAFETY: the default action runs no code of ours.
            let _ = unsafe { libc::signal(signal as i32, libc::SIG_DFL) };
        }
    }
    ignore_write_failures();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Ignores SIGPIPE and SIGXFSZ: a failed write says so by its error.
pub fn ignore_write_failures() {
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: ignoring a signal runs no code of ours.
        let _ = unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::in_child;
    use super::super::process::{self, Ended};
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_in_the_loop() {
        let ended = in_child(|| {
            let Ok(signals) = Signals::new(&[Signal::SIGHUP, Signal::SIGTERM]) else {
                return 1;
            };
            if signals.next().is_some() {
                return 2;
            }
            let _ = process::kill(process::id(), libc::SIGHUP);
            i32::from(signals.next() != Some(Signal::SIGHUP) || signals.next().is_some())
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn a_child_that_resets_dies_of_its_signals() {
        let ended = in_child(|| {
            let Ok(_signals) = Signals::new(&[Signal::SIGTERM]) else {
                return 1;
            };
            let Ok(blocked) = block_for_fork() else {
                return 2;
            };
            std::mem::forget(blocked);
            if reset_in_child().is_err() {
                return 3;
            }
            let _ = process::kill(process::id(), libc::SIGPIPE);
            let _ = process::kill(process::id(), libc::SIGTERM);
            0
        });
        assert_eq!(ended, Ended::Signaled(libc::SIGTERM));
    }

    #[test]
    fn signals_wait_while_a_fork_is_made() {
        let ended = in_child(|| {
            let Ok(blocked) = block_for_fork() else {
                return 1;
            };
            let _ = process::kill(process::id(), libc::SIGTERM);
            std::hint::black_box(&blocked);
            drop(blocked);
            0
        });
        assert_eq!(ended, Ended::Signaled(libc::SIGTERM));
    }
}
