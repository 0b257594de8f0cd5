//! Going to the background: the caller's terminal gets its prompt back once the daemon is ready.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use super::process::{self, Fork};

/// The daemon's side: somebody waits in the foreground until it is released.
#[derive(Debug)]
pub struct Waiting {
    pipe: io::PipeWriter,
    null: File,
}

impl Waiting {
    /// The daemon is ready: it lets go of the terminal, and the foreground process ends with status 0. Dropped without
    /// it, that one ends with 71.
    pub fn release(mut self) {
        let _ = replace_standard_streams(&self.null);
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
            let null = File::options().read(true).write(true).open("/dev/null")?;
            Ok(Waiting { pipe: writer, null })
        }
    }
}

/// Lets go of the terminal, or of whoever waits for the end of our output.
///
/// # Errors
/// /dev/null cannot be opened.
pub fn silence() -> io::Result<()> {
    replace_standard_streams(&File::options().read(true).write(true).open("/dev/null")?)
}

fn replace_standard_streams(null: &File) -> io::Result<()> {
    nix::unistd::dup2_stdin(null)?;
    nix::unistd::dup2_stdout(null)?;
    Ok(nix::unistd::dup2_stderr(null)?)
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
