//! The accounts that the configuration names: whether they exist, and are none of root's.
//!
//! The same here for a start and for `rsmtpd check`, whoever runs it. Assumes that programs may be started (getent): before
//! the sandbox.

use std::fmt;
use std::io;

use crate::config::{Daemon, Delivery, Fault, Place};
use crate::sys::privilege::{self, Identity};

/// An account as the configuration names it.
#[derive(Debug)]
pub(super) struct Named<'a> {
    /// The file whose keys `user` and `group` are.
    file: &'static str,
    /// The user unless another is named: where it is missing, a start as root takes a number of its own for it from
    /// systemd's dynamic range, and says so.
    usual: &'static str,
    user: &'a str,
    user_place: Option<&'a Place>,
    group: Option<&'a str>,
    group_place: Option<&'a Place>,
}

impl<'a> Named<'a> {
    /// That of master and workers.
    pub(super) fn service(daemon: &'a Daemon) -> Named<'a> {
        Named {
            file: "rsmtpd.yaml",
            usual: "rsmtpd",
            user: &daemon.user,
            user_place: daemon.user_place.as_ref(),
            group: daemon.group.as_deref(),
            group_place: daemon.group_place.as_ref(),
        }
    }

    /// That of delivery.
    pub(super) fn delivery(delivery: &'a Delivery) -> Named<'a> {
        Named {
            file: "delivery.yaml",
            usual: "rsmtpd-mail",
            user: &delivery.user,
            user_place: delivery.user_place.as_ref(),
            group: delivery.group.as_deref(),
            group_place: delivery.group_place.as_ref(),
        }
    }

    /// The account; none where a usual one is missing, or the fault of naming it.
    ///
    /// # Errors
    /// The system does not say.
    pub(super) fn find(&self) -> io::Result<Result<Option<Identity>, Fault>> {
        let Some(mut identity) = privilege::lookup_user(self.user)? else {
            return Ok(if self.user == self.usual {
                Ok(None)
            } else {
                Err(self.fault("user", &format!("expected an existing user, found {:?}", self.user)))
            });
        };
        if identity.uid == 0 {
            let message = format!("expected an unprivileged user, found {:?}", self.user);
            return Ok(Err(self.fault("user", &message)));
        }
        if let Some(group) = self.group {
            let Some(found) = privilege::lookup_group(group)? else {
                return Ok(Err(
                    self.fault("group", &format!("expected an existing group, found {group:?}"))
                ));
            };
            identity.gid = found;
        }
        if identity.gid == 0 {
            let (key, found) = match self.group {
                Some(group) => ("group", format!("{group:?}")),
                None => ("user", format!("{:?}, whose group is root's", self.user)),
            };
            return Ok(Err(
                self.fault(key, &format!("expected an unprivileged group, found {found}"))
            ));
        }
        Ok(Ok(Some(identity)))
    }

    /// A fault of `key` at its place; what nobody says is the default of the file.
    fn fault(&self, key: &str, message: &str) -> Fault {
        let place = if key == "user" {
            self.user_place
        } else {
            self.group_place
        };
        place.map_or_else(
            || Fault {
                file: self.file.to_owned(),
                line: 0,
                column: 0,
                key: key.to_owned(),
                message: message.to_owned(),
            },
            |place| place.fault(message),
        )
    }
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: user: {:?}", self.file, self.user)
    }
}

/// What would end a start as root for the accounts that these name, in the order of the files; and what should be known
/// although it would not.
pub fn judge(daemon: &Daemon, delivery: &Delivery) -> (Vec<Fault>, Vec<String>) {
    let (mut faults, mut notes) = (Vec::new(), Vec::new());
    for named in [Named::service(daemon), Named::delivery(delivery)] {
        match named.find() {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => notes.push(format!(
                "{}: user: {} does not exist: started as root, an unprivileged number is taken in its place",
                named.file, named.user
            )),
            Ok(Err(fault)) => faults.push(fault),
            Err(error) => notes.push(format!(
                "{}: user: {} was not looked up: {error}",
                named.file, named.user
            )),
        }
    }
    (faults, notes)
}
