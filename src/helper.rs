//! The parent of a helper's working process: forks it, forks it again when it dies.
//!
//! It drops to the helper's user first, so that neither half ever has more than that user may. It reads
//! nothing: the control channel is inherited by the working process, which serves it. When the working
//! process ends of its own accord, the channel has ended and so has the helper.

use std::time::{Duration, Instant};

use crate::log::{Event, Level};
use crate::logger;
use crate::sys::process::{self, Ended, Fork};

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
        let ended = match process::fork_single_threaded() {
            Ok(Fork::Child) => {
                process::die_with_parent();
                process::exit_now(work(first));
            }
            Ok(Fork::Parent(child)) => process::wait_for(child),
            Err(error) => {
                log.say(Level::Error, Event::new("fork-failed").field("role", name).quoted("error", error.to_string().as_bytes()));
                Err(error)
            }
        };
        match ended {
            Ok(Ended::Status(0)) => process::exit_now(0),
            Ok(Ended::Status(status)) if first && status == EX_CONFIG => process::exit_now(status),
            Ok(how) => log.say(Level::Critical, Event::new("helper-died").field("role", name).quoted("how", how.to_string().as_bytes())),
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
