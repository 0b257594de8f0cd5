//! Going to the background: the caller's terminal gets its prompt back once the daemon is ready.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::process::{self, Fork};

/// What the foreground process ends with when the daemon ends before it is ready (EX_OSERR).
const FAILED: i32 = 71;

/// The daemon's side: somebody waits in the foreground until it is released.
#[derive(Debug)]
pub struct Waiting {
    pipe: PipeWriter,
}

impl Waiting {
    /// The daemon is ready: the foreground process ends with status 0.
    pub fn release(self) {
        self.end(0);
    }

    /// The foreground process ends with this status. Dropped without a word, that one ends with 71.
    pub fn end(mut self, status: u8) {
        let _ = self.pipe.write_all(&[status]);
    }
}

/// Forks. The child leads a session of its own, and keeps nothing of the caller's: standard input and output are the null
/// device, standard error is a pipe. The parent copies that to the caller's standard error until [`Waiting::release`], and
/// never returns.
///
/// # Errors
/// What open(2), pipe(2), fork(2) and setsid(2) say.
pub fn detach() -> io::Result<Waiting> {
    let (answer, pipe) = io::pipe()?;
    let (words, stderr) = io::pipe()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    match process::fork()? {
        Fork::Parent(_) => {
            drop((pipe, stderr));
            process::exit_now(wait(answer, words))
        }
        Fork::Child => {
            drop((answer, words));
            setsid()?;
            dup2_stdin(&null)?;
            dup2_stdout(&null)?;
            dup2_stderr(&stderr)?;
            Ok(Waiting { pipe })
        }
    }
}

/// Copies `words` to standard error until `answer` gives the exit status.
fn wait(mut answer: PipeReader, mut words: PipeReader) -> i32 {
    let mut status = [0];
    loop {
        let mut ready = [
            PollFd::new(answer.as_fd(), PollFlags::POLLIN),
            PollFd::new(words.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return FAILED,
            Ok(_) => {}
        }
        if ready[0].any().unwrap_or(true) {
            let told = matches!(answer.read(&mut status), Ok(1));
            // Said before the answer; its other end may stay open in a process that takes its time to end.
            let _ = fcntl(&words, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            let _ = io::copy(&mut words, &mut io::stderr());
            return if told { status[0].into() } else { FAILED };
        }
        let mut buffer = [0; 4096];
        match words.read(&mut buffer) {
            // All ends are closed, so that of the answer is too.
            Ok(0) | Err(_) => {
                return answer
                    .read(&mut status)
                    .map_or(FAILED, |read| if read == 1 { status[0].into() } else { FAILED });
            }
            Ok(read) => {
                let _ = io::stderr().write_all(buffer.get(..read).unwrap_or_default());
            }
        }
    }
}

/// Raises the soft limit of open descriptors to the hard one, where that may be.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// How many descriptors this process may have.
pub fn descriptor_limit() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

/// How many processes the user of this one may have; none for any number.
pub fn process_limit() -> Option<u64> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    let (soft, _) = getrlimit(Resource::RLIMIT_NPROC).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}
