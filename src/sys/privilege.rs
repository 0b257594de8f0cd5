//! Giving up root: groups, then group, then user, then capabilities, then the proof that there is no way back.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Gid, Group, Uid, User, getresgid, getresuid, setgid, setgroups, setresgid, setresuid, setuid};

/// Whom a process becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    uid: Uid,
    gid: Gid,
}

/// systemd's range of dynamic users, from which a role without an account takes a number.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61184..=65519;

impl Identity {
    /// By numbers.
    #[must_use]
    pub fn numeric(uid: u32, gid: u32) -> Identity {
        Identity {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
        }
    }

    /// The user id.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// The group id.
    #[must_use]
    pub fn gid(&self) -> Gid {
        self.gid
    }

    /// Whether it is root's, or of root's group.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid.is_root() || self.gid.as_raw() == 0
    }
}

/// The account of this name, or number, with `group` in place of its own; none when there is no such account.
///
/// # Errors
/// The account data base cannot be read, or has no such group.
pub fn lookup(name: &str, group: Option<&str>) -> io::Result<Option<Identity>> {
    let Some(user) = User::from_name(name)? else {
        return Ok(None);
    };
    let gid = match group {
        None => user.gid,
        Some(group) => Group::from_name(group)?
            .map(|group| group.gid)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no group {group:?}")))?,
    };
    Ok(Some(Identity { uid: user.uid, gid }))
}

/// The `nth` number of the dynamic range that no account has.
///
/// # Errors
/// The account data base cannot be read, or the range is used up.
pub fn dynamic_identity(nth: usize) -> io::Result<Identity> {
    let mut free = DYNAMIC.filter(|&number| {
        matches!(User::from_uid(Uid::from_raw(number)), Ok(None))
            && matches!(Group::from_gid(Gid::from_raw(number)), Ok(None))
    });
    let number = free
        .nth(nth)
        .ok_or_else(|| io::Error::other("no free user id between 61184 and 65519"))?;
    Ok(Identity::numeric(number, number))
}

/// Becomes `identity` for good, keeping only `keep` of the capabilities.
///
/// # Errors
/// A step failed, or the way back is still open. The caller must end then.
pub fn drop_to(identity: &Identity, keep: &[Capability]) -> io::Result<()> {
    if identity.is_root() {
        return Err(io::Error::other("root is no identity to drop to"));
    }
    if !keep.is_empty() {
        caps::securebits::set_keepcaps(true).map_err(io::Error::other)?;
    }
    for capability in caps::runtime::thread_all_supported()
        .into_iter()
        .filter(|one| !keep.contains(one))
    {
        // Without CAP_SETPCAP the bounding set is left as the service manager made it.
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
    setgroups(&[])?;
    setresgid(identity.gid, identity.gid, identity.gid)?;
    setresuid(identity.uid, identity.uid, identity.uid)?;
    let kept: CapsHashSet = keep.iter().copied().collect();
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
    caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(io::Error::other)?;
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    nix::sys::prctl::set_no_new_privs()?;
    prove(identity, &kept)
}

/// Tries to come back, and reads back who we are.
fn prove(identity: &Identity, kept: &CapsHashSet) -> io::Result<()> {
    if setuid(Uid::from_raw(0)).is_ok() || setgid(Gid::from_raw(0)).is_ok() {
        return Err(io::Error::other("root could be regained"));
    }
    let (users, groups) = (getresuid()?, getresgid()?);
    let is_user = [users.real, users.effective, users.saved]
        .iter()
        .all(|uid| *uid == identity.uid);
    let is_group = [groups.real, groups.effective, groups.saved]
        .iter()
        .all(|gid| *gid == identity.gid);
    let others = nix::unistd::getgroups()?;
    let permitted = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    if is_user && is_group && others.is_empty() && permitted == *kept {
        Ok(())
    } else {
        Err(io::Error::other("not who we should have become"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::in_child;
    use super::super::process::Ended;
    use super::*;

    #[test]
    fn root_is_given_up_for_good() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let ended = in_child(|| {
            let Ok(identity) = dynamic_identity(3) else { return 1 };
            if drop_to(&identity, &[]).is_err() {
                return 2;
            }
            i32::from(setuid(Uid::from_raw(0)).is_ok() || nix::unistd::getuid() != identity.uid())
        });
        assert_eq!(ended, Ended::Exited(0));
        assert_eq!(
            in_child(|| i32::from(drop_to(&Identity::numeric(0, 7), &[]).is_err())),
            Ended::Exited(1)
        );
    }

    #[test]
    fn numbers_without_an_account_differ() {
        let (a, b) = (dynamic_identity(0).unwrap(), dynamic_identity(1).unwrap());
        assert!(a != b && DYNAMIC.contains(&a.uid().as_raw()) && !a.is_root());
        assert_eq!(lookup("no-such-user-here", None).unwrap(), None);
    }
}
