//! The parent of a helper's working process: forks it, forks it again when it dies, and lets a fresh one take
//! its place on a reload.
//!
//! It drops to the helper's user first, so that neither half ever has more than that user may. It reads nothing
//! that comes from outside: the control channel is inherited by the working process, which serves it. The parent
//! only says on it that the working process died, and sees, while it sleeps, that there is something to read. When
//! the working process ends of its own accord, the channel has ended and so has the helper.

mod seat;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::{FromHelper, ToHelper};
use crate::sys::process::{self, Ended, Fork};
use crate::sys::{child, signals, socket};

use seat::{FromWorking, ToWorking};
pub use seat::{Heard, Seat, Turn};

/// The exit status of a working process that cannot start with this configuration (EX_CONFIG).
pub const EX_CONFIG: i32 = 78;
/// The exit status of one whose event loop broke (EX_SOFTWARE).
pub const EX_SOFTWARE: i32 = 70;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A working process as its parent sees it.
struct Working {
    pid: Pid,
    channel: Channel<ToWorking, FromWorking>,
}

/// All working processes of one helper: at most one serves, one may come, others finish what they began.
struct Line<'a> {
    control: OwnedFd,
    work: &'a dyn Fn(Seat) -> i32,
    /// What the last one that became ready wants its successors to know.
    memory: Vec<u8>,
    serving: Option<Working>,
    coming: Option<Working>,
    leaving: Vec<Working>,
    /// A reload was asked for while one was under way.
    again: bool,
}

/// Keeps one process at `work` until it ends with status 0; never returns.
pub fn keep(control: OwnedFd, work: &dyn Fn(Seat) -> i32) -> ! {
    keep_from(Turn::First, control, work)
}

/// As [`keep`], but forks the first one only when the master has something for it to read: until then this half is all
/// there is of the helper.
pub fn keep_asleep(control: OwnedFd, work: &dyn Fn(Seat) -> i32) -> ! {
    let ready = control.try_clone().map(Channel::<FromHelper, ToHelper>::new);
    if !ready.is_ok_and(|master| master.send(&FromHelper::Ready).is_ok()) {
        process::exit_now(EX_SOFTWARE);
    }
    loop {
        let mut fds = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        let heard = match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => process::exit_now(EX_SOFTWARE),
            Ok(_) => fds.iter().filter_map(PollFd::revents).collect::<PollFlags>(),
        };
        if heard.contains(PollFlags::POLLHUP) {
            process::exit_now(0);
        }
        if heard.contains(PollFlags::POLLIN) {
            keep_from(Turn::Again, control, work);
        }
    }
}

fn keep_from(mut turn: Turn, control: OwnedFd, work: &dyn Fn(Seat) -> i32) -> ! {
    let mut line = Line {
        control,
        work,
        memory: Vec::new(),
        serving: None,
        coming: None,
        leaving: Vec::new(),
        again: false,
    };
    let mut pause = PAUSE_MIN;
    loop {
        let began = Instant::now();
        line.serving = line.fork(turn).ok();
        while line.serving.is_some() {
            match line.next() {
                Some(Ended::Exited(0)) => line.finish(0),
                Some(Ended::Exited(status)) if turn == Turn::First && status == EX_CONFIG => line.finish(status),
                Some(how) => line.say(FromHelper::Died(how.to_string())),
                None => {}
            }
        }
        turn = Turn::Again;
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
        if line.abandoned() {
            line.finish(0);
        }
    }
}

impl Line<'_> {
    fn fork(&mut self, turn: Turn) -> io::Result<Working> {
        let (ours, theirs) = socket::seqpacket_pair()?;
        match process::fork()? {
            Fork::Parent(pid) => Ok(Working {
                pid,
                channel: Channel::new(ours),
            }),
            Fork::Child => {
                let _ = process::set_pdeathsig(libc::SIGKILL);
                drop(ours);
                let siblings = (
                    self.serving.take(),
                    self.coming.take(),
                    std::mem::take(&mut self.leaving),
                );
                drop(siblings);
                let Ok(control) = self.control.try_clone() else {
                    process::exit_now(EX_SOFTWARE)
                };
                let memory = std::mem::take(&mut self.memory);
                process::exit_now((self.work)(Seat::new(control, theirs, turn, memory)))
            }
        }
    }

    /// Waits for the next thing that one of them says or does; how the serving one ended, if it did.
    fn next(&mut self) -> Option<Ended> {
        let all = || self.serving.iter().chain(&self.coming).chain(&self.leaving);
        let mut watched: Vec<PollFd<'_>> = all()
            .map(|working| PollFd::new(working.channel.as_fd(), PollFlags::POLLIN))
            .collect();
        if poll(&mut watched, PollTimeout::NONE).is_err() {
            return None;
        }
        let ready = watched.iter().position(|fd| fd.any() == Some(true));
        let pid = ready.and_then(|at| all().nth(at)).map(|working| working.pid)?;
        if let Some(at) = self.leaving.iter().position(|working| working.pid == pid) {
            self.hear_leaving(at);
            return None;
        }
        if self.coming.as_ref().is_some_and(|working| working.pid == pid) {
            self.hear_coming();
            return None;
        }
        self.hear_serving()
    }

    fn hear_leaving(&mut self, at: usize) {
        match self.leaving.get(at).map(|working| working.channel.receive_nowait()) {
            // The master's word had reached it before it knew that it was replaced; its successor may be older.
            Some(Ok((FromWorking::Reload, _))) => return self.replace(),
            None | Some(Ok(_) | Err(Fault::WouldBlock)) => return,
            Some(Err(_)) => {}
        }
        let gone = self.leaving.swap_remove(at);
        if let Ok(how) = process::wait(gone.pid)
            && how != Ended::Exited(0)
        {
            self.say(FromHelper::Died(how.to_string()));
        }
    }

    fn hear_serving(&mut self) -> Option<Ended> {
        let serving = self.serving.as_ref()?;
        match serving.channel.receive_nowait() {
            Ok((FromWorking::Reload, _)) => self.replace(),
            Ok(_) | Err(Fault::WouldBlock) => {}
            Err(_) => {
                let how = process::wait(serving.pid).ok();
                self.serving = None;
                if self.coming.is_some() && how != Some(Ended::Exited(0)) {
                    // Its successor is on the way: no need to fork another.
                    if let Some(how) = how {
                        self.say(FromHelper::Died(how.to_string()));
                    }
                    while self.coming.is_some() {
                        self.hear_coming();
                    }
                    if self.serving.is_some() {
                        return None;
                    }
                }
                return how;
            }
        }
        None
    }

    /// Forks one that shall take over when it is ready.
    fn replace(&mut self) {
        if self.coming.is_some() {
            self.again = true;
            return;
        }
        match self.fork(Turn::Instead) {
            Ok(fresh) => self.coming = Some(fresh),
            Err(error) => self.say(FromHelper::failed("fork", &error)),
        }
    }

    fn hear_coming(&mut self) {
        let Some(fresh) = self.coming.take() else { return };
        match fresh.channel.receive() {
            Ok((FromWorking::Ready(memory), _)) => {
                self.memory = memory;
                if let Some(old) = self.serving.take() {
                    let _ = old.channel.send_nowait(&ToWorking::Leave, &[]);
                    self.leaving.push(old);
                }
                let _ = fresh.channel.send_nowait(&ToWorking::Begin, &[]);
                self.serving = Some(fresh);
            }
            Ok(_) => self.coming = Some(fresh),
            Err(_) => {
                // One that found a fault has said so itself.
                if let Ok(how) = process::wait(fresh.pid)
                    && how != Ended::Exited(EX_CONFIG)
                {
                    self.say(FromHelper::Failed {
                        reason: format!("the fresh process ended: {how}"),
                        errno: 0,
                    });
                }
            }
        }
        if self.coming.is_none() && std::mem::take(&mut self.again) {
            self.replace();
        }
    }

    /// Tells the master, without waiting for it.
    fn say(&self, what: FromHelper) {
        if let Ok(control) = self.control.try_clone() {
            let _ = Channel::<FromHelper, ToHelper>::new(control).send_nowait(&what, &[]);
        }
    }

    /// Whether the master has closed its end.
    fn abandoned(&self) -> bool {
        let mut fds = [PollFd::new(self.control.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        polled.is_ok()
            && fds
                .iter()
                .any(|fd| fd.revents().is_some_and(|r| r.contains(PollFlags::POLLHUP)))
    }

    /// Ends once those that are leaving have.
    fn finish(&self, status: i32) -> ! {
        for working in &self.leaving {
            let _ = process::wait(working.pid);
        }
        process::exit_now(status)
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

#[cfg(test)]
mod tests;
