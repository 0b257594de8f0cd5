//! Going to the background: the caller's terminal gets its prompt back once the daemon is ready.

use std::io::{self, Read as _, Write as _};

use super::process::{self, Fork};

/// The daemon's side: somebody waits in the foreground until it is released.
#[derive(Debug)]
pub struct Waiting {
    pipe: io::PipeWriter,
}

impl Waiting {
    /// The daemon is ready: the foreground process ends with status 0. Dropped without it, that one ends with 71.
    pub fn release(mut self) {
        let _ = self.pipe.write_all(b"r");
    }
}

/// Forks; the parent waits for the child's [`Waiting::release`] and never returns, the child leads a session
/// of its own.
///
/// # Errors
/// What pipe(2), fork(2) and setsid(2) say.
pub fn detach() -> io::Result<Waiting> {
    let (mut reader, writer) = io::pipe()?;
    match process::fork()? {
        Fork::Parent(_) => {
            drop(writer);
            let mut answer = [0];
            let ready = matches!(reader.read(&mut answer), Ok(1));
            process::exit_now(if ready { 0 } else { 71 })
        }
        Fork::Child => {
            nix::unistd::setsid()?;
            Ok(Waiting { pipe: writer })
        }
    }
}

/// Raises the soft limit of open descriptors to the hard one; the limit in force.
pub fn raise_descriptor_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}
