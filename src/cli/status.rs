//! `rsmtpd status`: asks the master by SIGUSR1 and prints what delivery wrote down.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Failure, exit};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints the state of the daemon that holds the configured state directory.
pub fn run(config: Option<&std::path::Path>) -> Result<(), Failure> {
    let state = super::check::state_directory(config)?;
    let lock = state.join("lock");
    let text = fs::read_to_string(&lock).map_err(|error| {
        let message = format!("{}: {error}", lock.display());
        match error.kind() {
            std::io::ErrorKind::NotFound => no_daemon(&state),
            std::io::ErrorKind::PermissionDenied => Failure::new(exit::NOPERM, message),
            _ => Failure::new(exit::OSERR, message),
        }
    })?;
    let master: i32 = text
        .trim()
        .parse()
        .map_err(|_| Failure::new(exit::UNAVAILABLE, format!("{}: no process id", lock.display())))?;
    if fs::File::open(&lock).is_ok_and(|file| file.try_lock().is_ok()) {
        return Err(no_daemon(&state));
    }
    let answer = state.join(crate::delivery::status::FILE);
    let written = || fs::metadata(&answer).and_then(|metadata| metadata.modified()).ok();
    let before = written();
    match kill(Pid::from_raw(master), Signal::SIGUSR1) {
        Ok(()) => {}
        // The rest of it is still ending.
        Err(Errno::ESRCH) => return Err(no_daemon(&state)),
        Err(errno) => {
            let message = format!("cannot ask process {master}: {}", errno.desc());
            return Err(Failure::new(exit::NOPERM, message));
        }
    }
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if written() != before {
            let text = fs::read_to_string(&answer).map_err(|error| Failure::new(exit::OSERR, error))?;
            return super::print(text.as_bytes());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Failure::new(
        exit::UNAVAILABLE,
        format!("process {master} did not answer within {} s", PATIENCE.as_secs()),
    ))
}

fn no_daemon(state: &std::path::Path) -> Failure {
    let message = format!("no daemon is running on the state directory {}", state.display());
    Failure::new(exit::UNAVAILABLE, message)
}
