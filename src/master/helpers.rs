//! The helpers as the master sees them: a control channel and the process of its parent half.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::Pid;

use crate::helper::{self, EX_SOFTWARE, Seat};
use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::{FromHelper, ToHelper};
use crate::ipc::link::Role;
use crate::sys::privilege::{self, Capability, Identity};
use crate::sys::{arena, process, signals};

use super::descriptors::pair;

/// How long a helper may take to say that it is ready.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// One helper.
#[derive(Debug)]
pub struct Helper {
    /// Its parent half.
    pub pid: Pid,
    control: Channel<ToHelper, FromHelper>,
    /// Nothing was said to it yet, and so nothing works there: what will reads everything afresh.
    asleep: Cell<bool>,
}

impl Helper {
    /// Forks `role` under `identity` (None: stay who we are) and waits until it is ready. Of the descriptors that are
    /// open it keeps those of `lent` alone, and of root what `capabilities` say: a listener that it held would stay
    /// open for ever. `prepare` runs once, under the new identity.
    ///
    /// # Errors
    /// It could not be forked, or said why it cannot start.
    pub fn start(
        role: Role,
        identity: Option<&Identity>,
        capabilities: &[Capability],
        lent: &[RawFd],
        prepare: impl FnOnce() -> io::Result<()>,
        work: &dyn Fn(Seat) -> i32,
    ) -> io::Result<Helper> {
        Helper::fork(role, identity, capabilities, lent, |control| {
            if let Err(error) = prepare() {
                give_up(control, "lock", &error);
            }
            helper::keep(control, work)
        })
    }

    /// The same for one that nobody needs yet: its parent half alone, which forks the one that works for the first
    /// door.
    ///
    /// # Errors
    /// It could not be forked.
    pub fn start_asleep(
        role: Role,
        identity: Option<&Identity>,
        lent: &[RawFd],
        work: &dyn Fn(Seat) -> i32,
    ) -> io::Result<Helper> {
        let helper = Helper::fork(role, identity, &[], lent, |control| helper::keep_asleep(control, work))?;
        helper.asleep.set(true);
        Ok(helper)
    }

    fn fork(
        role: Role,
        identity: Option<&Identity>,
        capabilities: &[Capability],
        lent: &[RawFd],
        keep: impl FnOnce(OwnedFd),
    ) -> io::Result<Helper> {
        let (ours, theirs) = pair()?;
        let blocked = signals::block_for_fork()?;
        match process::fork()? {
            process::Fork::Child => {
                std::mem::forget((blocked, ours));
                arena::ordinary();
                let mut kept = vec![0, 1, 2, theirs.as_raw_fd()];
                kept.extend(lent);
                if helper::become_child(&format!("rsmtpd: {}", role.name())).is_err()
                    || process::close_range_except(&kept).is_err()
                {
                    process::exit_now(71);
                }
                if let Some(identity) = identity
                    && let Err(error) = privilege::drop_to(identity, capabilities)
                {
                    give_up(theirs, "dropping root", &error);
                }
                keep(theirs);
                process::exit_now(EX_SOFTWARE)
            }
            process::Fork::Parent(pid) => {
                drop((theirs, blocked));
                let helper = Helper {
                    pid,
                    control: Channel::new(ours),
                    asleep: Cell::new(false),
                };
                match helper.control.receive_within(PATIENCE) {
                    Ok((FromHelper::Ready, _)) => Ok(helper),
                    Ok((FromHelper::Failed { reason, errno }, _)) => {
                        let kind = match errno {
                            0 => io::ErrorKind::Other,
                            errno => io::Error::from_raw_os_error(errno).kind(),
                        };
                        Err(io::Error::new(kind, format!("{}: {reason}", role.name())))
                    }
                    Ok(_) => Err(io::Error::other(format!("{} did not start", role.name()))),
                    Err(error) => Err(io::Error::other(format!("{} did not start: {error}", role.name()))),
                }
            }
        }
    }

    /// Passes a worker's door on, unless there is no room: then the worker sees its end closed, asks for another
    /// when it needs one, and the master waits for nobody.
    pub fn offer(&self, door: &ToHelper, fd: BorrowedFd<'_>) {
        self.asleep.set(false);
        let _ = self.control.send_nowait(door, &[fd]);
    }

    /// Says something without waiting; false when the helper has no room for it or is gone. One that sleeps is not
    /// woken by what it need not know.
    pub fn tell(&self, message: &ToHelper, fds: &[BorrowedFd<'_>]) -> bool {
        self.asleep.get() || self.control.send_nowait(message, fds).is_ok()
    }

    /// The next thing it says, without waiting.
    ///
    /// # Errors
    /// [`Fault::WouldBlock`] when there is nothing, [`Fault::Closed`] when it is gone.
    pub fn hear(&self) -> Result<FromHelper, Fault> {
        self.control.receive_nowait().map(|(message, _)| message)
    }

    /// The next thing it says and the descriptor beside it, waiting at most `limit`.
    ///
    /// # Errors
    /// [`Fault::TimedOut`]; [`Fault::Closed`] when it is gone.
    pub fn hear_within(&self, limit: Duration) -> Result<(FromHelper, Option<OwnedFd>), Fault> {
        self.control.receive_within(limit)
    }

    /// Ends its control channel: it finishes what is under way and exits.
    pub fn release(&self) {
        let _ = shutdown(self.control.as_raw_fd(), Shutdown::Both);
    }
}

impl AsRawFd for Helper {
    fn as_raw_fd(&self) -> RawFd {
        self.control.as_raw_fd()
    }
}

/// Tells the master why a helper cannot start, and ends it.
fn give_up(control: OwnedFd, what: &str, error: &io::Error) -> ! {
    let _ = Channel::<FromHelper, ToHelper>::new(control).send(&FromHelper::failed(what, error));
    process::exit_now(71)
}

/// All of them.
#[derive(Debug)]
pub struct Helpers {
    /// Writes logs.
    pub logger: Helper,
    /// Keeps mail.
    pub delivery: Helper,
    /// Keeps private keys.
    pub keeper: Helper,
    /// Connects; asleep while the configuration names nothing to reach.
    pub broker: Helper,
}

impl Helpers {
    /// The roles that are helpers; their positions are their tokens.
    pub const ROLES: [Role; 4] = [Role::Logger, Role::Delivery, Role::Keeper, Role::Broker];

    /// The role of the helper whose parent half was `pid`.
    pub fn role_of(&self, pid: Pid) -> Option<Role> {
        let mut all = Helpers::ROLES.into_iter();
        all.find(|role| self.of(*role).is_some_and(|helper| helper.pid == pid))
    }

    /// The helper of this role.
    pub fn of(&self, role: Role) -> Option<&Helper> {
        match role {
            Role::Logger => Some(&self.logger),
            Role::Delivery => Some(&self.delivery),
            Role::Broker => Some(&self.broker),
            Role::Keeper => Some(&self.keeper),
            Role::Master | Role::Worker => None,
        }
    }
}
