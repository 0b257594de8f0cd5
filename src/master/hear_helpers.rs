//! What helpers say on their control channels, and what the master does about it.

use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;

use crate::ipc::channel::Fault;
use crate::ipc::control::{FromHelper, ToHelper};
use crate::ipc::keeper::Shown;
use crate::ipc::link::Role;
use crate::log::{Event, Level};

use super::helpers::Helpers;
use super::{Master, descriptors, start_keeper};

impl Master {
    /// Takes what a helper has said.
    pub(super) fn hear_helper(&mut self, number: usize) {
        let Some(role) = Helpers::ROLES.get(number).copied() else {
            return;
        };
        loop {
            let Some(helper) = self.ready.helpers.of(role) else {
                return;
            };
            match helper.hear() {
                Ok(FromHelper::Ready) => self.started_again(role),
                Ok(FromHelper::Keeper(shown)) => self.hear_keeper(shown),
                Ok(FromHelper::Failed { reason, .. }) => {
                    for line in reason.lines() {
                        let event = Event::new("helper-not-renewed").field("role", role.name());
                        self.say(Level::Error, event.quoted("fault", line.as_bytes()));
                    }
                }
                Ok(FromHelper::Died(how)) if role == Role::Logger => self.unsaid = Some(how),
                Ok(FromHelper::Died(how)) => self.tell_death(role, &how),
                Err(Fault::TimedOut | Fault::WouldBlock) => return,
                Err(_) => {
                    let _ = self.poll.registry().deregister(&mut SourceFd(&helper.as_raw_fd()));
                    return;
                }
            }
        }
    }

    /// A keeper that was started again has read its files, which may have changed since the last reload.
    fn hear_keeper(&mut self, shown: Shown) {
        match shown {
            Shown::Certificate(certificate) => self.shown.push(certificate),
            Shown::Broken { path, reason, kept } => start_keeper::tell_broken(&self.ready.log, &path, &reason, kept),
            Shown::Done => {
                let certificates = std::mem::take(&mut self.shown);
                if self.ready.served.renew_certificates(certificates) {
                    self.workers.retire_others(self.generation());
                    let event = Event::new("certificates-read").field("generation", self.generation());
                    self.say(Level::Notice, event);
                }
            }
            // The answer to a question that was given up.
            Shown::Listening | Shown::NotListening { .. } => {}
        }
    }

    fn tell_death(&self, role: Role, how: &str) {
        let event = Event::new("helper-died").field("role", role.name()).field("how", how);
        self.say(Level::Critical, event);
    }

    /// A helper's working process was forked again, or replaced: makes the ways to the logger anew that it needs.
    fn started_again(&mut self, role: Role) {
        match role {
            Role::Logger => {}
            Role::Keeper => {
                self.workers.replace(role);
                // It shows its certificates anew.
                return self.shown.clear();
            }
            Role::Delivery | Role::Broker => {
                self.workers.replace(role);
                return self.give_voice(role);
            }
            _ => return self.give_voice(role),
        }
        if let Ok((ours, theirs)) = descriptors::pair() {
            let own = ToHelper::Door {
                worker: 0,
                pid: nix::unistd::Pid::this().as_raw(),
            };
            if self.ready.helpers.logger.tell(&own, &[theirs.as_fd()]) {
                self.ready.log.rejoin(ours);
            }
        }
        for other in Helpers::ROLES {
            if !matches!(other, Role::Logger | Role::Keeper) {
                self.give_voice(other);
            }
        }
        self.workers.give_voices(&self.ready.helpers.logger);
        if let Some(how) = self.unsaid.take() {
            self.tell_death(role, &how);
        }
    }

    fn give_voice(&self, role: Role) {
        if let (Some(helper), Ok((ours, theirs))) = (self.ready.helpers.of(role), descriptors::pair()) {
            let door = ToHelper::Door {
                worker: 0,
                pid: helper.pid.as_raw(),
            };
            self.ready.helpers.logger.tell(&door, &[ours.as_fd()]);
            helper.tell(&ToHelper::Voice, &[theirs.as_fd()]);
        }
    }
}
