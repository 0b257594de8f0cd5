//! What the kernel offers, in the kernel's terms: the only module where `unsafe` is allowed.
//!
//! It imports nothing of ours. It may assume that a process that forks has one thread. It must never
//! decide: every choice (which user, which directories, which limits) is its caller's.
#![allow(unsafe_code)]

pub mod accounts;
pub mod arena;
pub mod child;
pub mod detach;
pub mod file;
pub mod image;
pub mod inotify;
pub mod memory;
pub mod notify;
pub mod privilege;
pub mod process;
pub mod random;
pub mod sandbox;
pub mod signals;
pub mod socket;

use std::io;

/// The result of a C call that answers -1 and `errno` on failure.
fn checked(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(returned)
    }
}

/// Like [`checked`], for calls that answer a count.
fn counted(returned: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// prctl(2) for an option whose one argument is a number. What the kernel reads is as wide as a register, so
/// every argument is.
fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<libc::c_int> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: no pointer is passed: callers pass options that take none.
    checked(unsafe { libc::prctl(option, argument, NONE, NONE, NONE) })
}

/// Repeats a call that a signal interrupted.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Says on the real standard error that `test` is skipped, and why.
#[cfg(test)]
fn skip(test: &str, missing: &str) {
    use io::Write as _;
    let _ = writeln!(io::stderr(), "skipped: {test}: {missing}");
}

/// Runs `body` in a forked child that is confined as the master is, once no number is left below those that workers
/// share, with what was `made` before (by higher numbers), and answers how it ended. None where the kernel cannot
/// confine it, which is said.
#[cfg(test)]
pub(crate) fn in_full_master<T>(
    test: &str,
    make: impl FnOnce() -> io::Result<T>,
    body: impl FnOnce(T) -> i32,
) -> Option<process::Ended> {
    use std::{fs::File, iter, os::fd::AsRawFd};
    if let Err(error) = sandbox::check(sandbox::Mode::Require) {
        skip(test, &error.to_string());
        return None;
    }
    Some(in_child(|| {
        let made = process::close_from(3).and_then(|()| make());
        let null = || File::open("/dev/null").ok();
        let is_low = |file: &File| file.as_raw_fd() < socket::FIRST_SHARED;
        let _taken: Vec<File> = iter::from_fn(null).take_while(is_low).collect();
        let confined = sandbox::enter(&sandbox::Profile::master_and_worker(Vec::new()), sandbox::Mode::Require);
        match (made, confined) {
            (Ok(made), Ok(_)) => body(made),
            _ => 99,
        }
    }))
}

/// Runs `body` in a forked child and answers how it ended: each probe of the tests is such a child.
#[cfg(test)]
pub(crate) fn in_child(body: impl FnOnce() -> i32) -> process::Ended {
    match process::fork().expect("fork") {
        process::Fork::Child => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
            process::exit_now(code)
        }
        process::Fork::Parent(child) => process::wait(child).expect("wait"),
    }
}
