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

extern "C" fn nothing(_: libc::c_int) {}

/// Ignores `signals` from now on, but not in the programs that are started: a caught signal has its default action
/// there again, an ignored one stays ignored (signal(7)).
pub fn ignore_but_in_programs(signals: &[Signal]) {
    let handler: extern "C" fn(libc::c_int) = nothing;
    for signal in signals {
        // SAFETY: the handler does nothing, which is safe at any point.
        let _ = unsafe { libc::signal(*signal as i32, handler as libc::sighandler_t) };
    }
}

/// Gives `signals` their default action.
pub fn reset(signals: &[Signal]) {
    for signal in signals {
        // SAFETY: the default action runs no code of ours.
        let _ = unsafe { libc::signal(*signal as i32, libc::SIG_DFL) };
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

/// Leaves the stack for signals, which the standard library has made for a stack overflow, out of forks: a child that
/// calls [`reset`] has no use for it.
pub fn keep_signal_stack() {
    // SAFETY: a null pointer and plain data to be filled.
    let stack = unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        if libc::sigaltstack(std::ptr::null(), &raw mut stack) != 0 || stack.ss_flags & libc::SS_DISABLE != 0 {
            return;
        }
        stack
    };
    // SAFETY: advice about memory that is for this purpose alone, which children no longer have.
    unsafe { libc::madvise(stack.ss_sp, stack.ss_size, libc::MADV_DONTFORK) };
}
