//! Signals as a readable descriptor, through signal-hook: the handler writes an octet, the event loop reads.
//!
//! A handler survives a fork, and its pipe would wake the parent: a child must call [`reset_in_child`] first,
//! with signals held back since before the fork ([`block_for_fork`]).

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::socket;

/// The signals that a process waits for; poll its descriptor for input.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

impl Signals {
    /// Catches `signals`; descriptors of `min` and above are used.
    ///
    /// # Errors
    /// What socketpair(2) and sigaction(2) say.
    pub fn new(signals: &[Signal], min: RawFd) -> io::Result<Signals> {
        let (read, write) = UnixStream::pair()?;
        let moved = |end: UnixStream| -> io::Result<UnixStream> {
            let end = UnixStream::from(socket::move_fd_at_least(OwnedFd::from(end), min)?);
            end.set_nonblocking(true)?;
            Ok(end)
        };
        let numbers = signals.iter().map(|signal| *signal as i32);
        let delivery = SignalDelivery::with_pipe(moved(read)?, moved(write)?, SignalOnly, numbers)?;
        Ok(Signals { delivery })
    }

    /// Every signal that came since the last call, once each: after SIGCHLD, reap until nobody is left.
    #[must_use]
    pub fn take(&mut self) -> Vec<Signal> {
        self.delivery
            .pending()
            .filter_map(|number| Signal::try_from(number).ok())
            .collect()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.delivery.get_read().as_raw_fd()
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
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
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
    block_in_child(&[])
}

/// Gives a child a mask of nothing but `blocked`: of these it never hears, as long as it lets them be. Forget a
/// [`Blocked`] that it inherited.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn block_in_child(blocked: &[Signal]) -> io::Result<()> {
    let set: SigSet = blocked.iter().copied().collect();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
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
            let Ok(mut signals) = Signals::new(&[Signal::SIGHUP, Signal::SIGTERM], 3) else {
                return 1;
            };
            if !signals.take().is_empty() {
                return 2;
            }
            let _ = process::kill(process::id(), libc::SIGHUP);
            i32::from(signals.take() != [Signal::SIGHUP] || !signals.take().is_empty())
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn a_child_that_resets_dies_of_its_signals() {
        let ended = in_child(|| {
            let Ok(_signals) = Signals::new(&[Signal::SIGTERM], 3) else {
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
            let _ = reset_in_child(); // a test beside this one may have caught it
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
