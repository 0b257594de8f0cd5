//! What a forked child does to its signals, and how its end is told.

use std::fmt;

use nix::sys::signal::Signal;

use super::process::Ended;

/// Ignores `signals` from now on, also in children.
pub fn ignore(signals: &[Signal]) {
    for signal in signals {
        // SAFETY: ignoring a signal runs no code of ours.
        let _ = unsafe { libc::signal(*signal as i32, libc::SIG_IGN) };
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exited(status) => write!(f, "exit-{status}"),
            Ended::Signaled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "{}", signal.as_str().to_ascii_lowercase()),
                Err(_) => write!(f, "signal-{number}"),
            },
        }
    }
}
