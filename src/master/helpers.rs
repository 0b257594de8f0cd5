//! The helpers as the master sees them: a control channel and the process of its parent half.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::unistd::Pid;

use crate::helper;
use crate::ipc::channel::Channel;
use crate::ipc::control::{FromHelper, ToHelper};
use crate::ipc::link::Role;
use crate::logger::client::Client as Log;
use crate::sys::privilege::{self, Identity};
use crate::sys::{arena, process, signals};

use super::workers::pair;

/// How long a helper may take to say that it is ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// One helper.
#[derive(Debug)]
pub struct Helper {
    /// Its parent half.
    pub pid: Pid,
    control: Channel<ToHelper, FromHelper>,
}

impl Helper {
    /// Forks `role` under `identity` (None: stay who we are) and waits until it is ready.
    ///
    /// # Errors
    /// It could not be forked, or said why it cannot start.
    pub fn start(
        role: Role,
        identity: Option<&Identity>,
        log: impl FnOnce() -> io::Result<Log>,
        work: &dyn Fn(OwnedFd, bool) -> i32,
    ) -> io::Result<Helper> {
        let (ours, theirs) = pair()?;
        let blocked = signals::block_for_fork()?;
        match process::fork()? {
            process::Fork::Child => {
                std::mem::forget(blocked);
                arena::ordinary();
                drop(ours);
                if helper::become_child(&format!("rsmtpd: {}", role.name())).is_err() {
                    process::exit_now(71);
                }
                if let Some(identity) = identity
                    && privilege::drop_to(identity, &[]).is_err()
                {
                    process::exit_now(71);
                }
                let Ok(log) = log() else { process::exit_now(71) };
                helper::keep(role.name(), &log, &|first| match theirs.try_clone() {
                    Ok(control) => work(control, first),
                    Err(_) => 71,
                })
            }
            process::Fork::Parent(pid) => {
                drop((theirs, blocked));
                let helper = Helper {
                    pid,
                    control: Channel::new(ours),
                };
                match helper.control.receive_within(PATIENCE) {
                    Ok((FromHelper::Ready, _)) => Ok(helper),
                    Ok((FromHelper::Failed(reason), _)) => Err(io::Error::other(format!("{}: {reason}", role.name()))),
                    Err(error) => Err(io::Error::other(format!("{} did not start: {error}", role.name()))),
                }
            }
        }
    }

    /// Says something, waiting for room; a helper that is gone is noticed by its death, not here.
    pub fn tell(&self, message: &ToHelper, fds: &[BorrowedFd<'_>]) {
        let _ = self.control.send_with(message, fds);
    }
}

/// All of them.
#[derive(Debug)]
pub struct Helpers {
    /// Writes logs.
    pub logger: Helper,
    /// Keeps mail.
    pub delivery: Helper,
}

impl Helpers {
    /// The role of the helper whose parent half was `pid`.
    pub fn role_of(&self, pid: Pid) -> Option<Role> {
        [(&self.logger, Role::Logger), (&self.delivery, Role::Delivery)]
            .into_iter()
            .find_map(|(helper, role)| (helper.pid == pid).then_some(role))
    }

    /// The helper of this role.
    pub fn of(&self, role: Role) -> Option<&Helper> {
        match role {
            Role::Logger => Some(&self.logger),
            Role::Delivery => Some(&self.delivery),
            Role::Master | Role::Worker => None,
        }
    }
}
