//! The parent of a helper's working process: forks it, forks it again when it dies.
//!
//! It drops to the helper's user first, so that neither half ever has more than that user may. It reads
//! nothing: the control channel is inherited by the working process, which serves it. When the working
//! process ends of its own accord, the channel has ended and so has the helper.

use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::log::{Event, Level};
use crate::logger;
use crate::sys::process::{self, Ended, Fork};
use crate::sys::{child, signals};

/// The exit status of a working process that cannot start with this configuration (EX_CONFIG).
pub const EX_CONFIG: i32 = 78;
/// The exit status of one whose event loop broke (EX_SOFTWARE).
pub const EX_SOFTWARE: i32 = 70;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Forks `work` over and over until it ends with status 0; never returns. `log` tells of deaths.
///
/// `work` gets whether it is the first of its line, and returns its exit status.
pub fn keep(name: &'static str, log: &logger::client::Client, work: &dyn Fn(bool) -> i32) -> ! {
    let mut pause = PAUSE_MIN;
    let mut first = true;
    loop {
        let began = Instant::now();
        let ended = match process::fork() {
            Ok(Fork::Child) => {
                let _ = process::set_pdeathsig(libc::SIGKILL);
                process::exit_now(work(first));
            }
            Ok(Fork::Parent(child)) => process::wait(child),
            Err(error) => {
                log.say(
                    Level::Error,
                    Event::new("fork-failed")
                        .field("role", name)
                        .quoted("error", error.to_string().as_bytes()),
                );
                Err(error)
            }
        };
        match ended {
            Ok(Ended::Exited(0)) => process::exit_now(0),
            Ok(Ended::Exited(status)) if first && status == EX_CONFIG => process::exit_now(status),
            Ok(how) => log.say(
                Level::Critical,
                Event::new("helper-died").field("role", name).field("how", how),
            ),
            Err(_) => {}
        }
        first = false;
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The first acts of a forked child: its name, the default action of signals, deaf to those that a terminal
/// or a service manager sends to all at once. It is told to end over its channel.
///
/// # Errors
/// The kernel refused one of them.
pub fn become_child(name: &str) -> io::Result<()> {
    signals::reset_in_child()?;
    child::ignore(&[Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1]);
    process::set_name(name)
}
