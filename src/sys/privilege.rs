//! Gives up root for good, and proves it.
//!
//! Assumes one thread: ids are taken for the whole process, capabilities for the calling thread. Must
//! never go on after a step that failed: every caller ends the process on an error.

use super::accounts::Accounts;
use super::prctl;
pub use caps::Capability;
use nix::unistd::{Gid, Uid};
use std::io;

/// The range from which systemd takes dynamic user ids.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// A user to run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The numeric user id.
    pub uid: u32,
    /// The numeric id of its only group.
    pub gid: u32,
    /// Its name, or the number where it has none.
    pub name: String,
}

impl Identity {
    /// An identity by its numbers, without a name.
    #[must_use]
    pub fn numeric(uid: u32, gid: u32) -> Identity {
        Identity {
            uid,
            gid,
            name: uid.to_string(),
        }
    }
}

/// Whether the process runs with user id 0.
#[must_use]
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// The user of this name, none if there is no such user.
///
/// # Errors
/// As [`Accounts::user`].
pub fn lookup_user(name: &str) -> io::Result<Option<Identity>> {
    let user = Accounts::of_system().user(name)?;
    Ok(user.map(|user| Identity {
        uid: user.uid,
        gid: user.gid,
        name: user.name,
    }))
}

/// The number of the group of this name, none if there is no such group.
///
/// # Errors
/// As [`Accounts::group`].
pub fn lookup_group(name: &str) -> io::Result<Option<u32>> {
    Accounts::of_system().group(name)
}

/// The first `count` numbers of systemd's dynamic range that no user and no group has, nor `other`: unprivileged
/// identities for a machine without the service users. The same are answered until users are added.
///
/// # Errors
/// As [`Accounts::free`]; `NotFound` when the range is used up.
pub fn dynamic_identities(count: usize, other: Option<u32>) -> io::Result<Vec<Identity>> {
    let accounts = Accounts::of_system();
    let numbers: Vec<u32> = DYNAMIC.filter(|number| Some(*number) != other).collect();
    let mut free = Vec::new();
    for some in numbers.chunks(count.max(1)) {
        if free.len() >= count {
            break;
        }
        free.extend(accounts.free(some)?);
    }
    if free.len() < count {
        let kind = io::ErrorKind::NotFound;
        return Err(io::Error::new(kind, "not enough dynamic user ids are free"));
    }
    free.truncate(count);
    Ok(free.into_iter().map(|id| Identity::numeric(id, id)).collect())
}

/// Becomes `identity` for good, with no capabilities but those of `keep`, no supplementary groups,
/// no_new_privs and not dumpable; then proves it by trying to return.
///
/// Without root nothing is changed but capabilities (those of `keep` stay if the process has them) and the
/// same proof is made; `identity` must then be the process's own.
///
/// # Errors
/// `InvalidInput` for user or group 0, or for a `keep` that leads back to root; `PermissionDenied` when
/// another identity is asked for without root, or when the proof fails; what a refused call says. The process
/// must end then.
pub fn drop_to(identity: &Identity, keep: &[Capability]) -> io::Result<()> {
    let root = is_root();
    if (root && (identity.uid == 0 || identity.gid == 0)) || keep.iter().any(leads_to_root) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "this identity is root, or can return to it",
        ));
    }
    if !root && identity.uid != Uid::effective().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "only root can take another identity",
        ));
    }
    let wanted = keep
        .iter()
        .fold(0_u64, |mask, capability| mask | 1 << capability.index())
        & capabilities()?.1;
    if root {
        forget_bounding_set(wanted);
        prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(wanted != 0))?;
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
    }
    set_capabilities(wanted)?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    super::process::set_dumpable(false)?;
    prove(identity, wanted, root)
}

fn leads_to_root(capability: &Capability) -> bool {
    use Capability as C;
    matches!(
        capability,
        C::CAP_SETUID
            | C::CAP_SETGID
            | C::CAP_SETPCAP
            | C::CAP_SETFCAP
            | C::CAP_SYS_ADMIN
            | C::CAP_SYS_PTRACE
            | C::CAP_SYS_MODULE
            | C::CAP_SYS_RAWIO
            | C::CAP_DAC_OVERRIDE
            | C::CAP_FOWNER
            | C::CAP_CHOWN
    )
}

/// Fails unless every id reads back, root is refused, and no capability is left but those of `wanted`.
fn prove(identity: &Identity, wanted: u64, was_root: bool) -> io::Result<()> {
    let broken = |what: &str| {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("not dropped: {what}"),
        ))
    };
    let (users, groups) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
    if [users.real, users.effective, users.saved]
        .iter()
        .any(|uid| uid.as_raw() != identity.uid)
    {
        return broken("user ids");
    }
    if was_root
        && [groups.real, groups.effective, groups.saved]
            .iter()
            .any(|gid| gid.as_raw() != identity.gid)
    {
        return broken("group ids");
    }
    if was_root && !nix::unistd::getgroups()?.is_empty() {
        return broken("supplementary groups");
    }
    let root = Uid::from_raw(0);
    if identity.uid != 0 && (nix::unistd::setuid(root).is_ok() || nix::unistd::setresuid(root, root, root).is_ok()) {
        return broken("root can be regained");
    }
    if groups.real.as_raw() != 0 && nix::unistd::setgid(Gid::from_raw(0)).is_ok() {
        return broken("the group of root can be regained");
    }
    if capabilities()? != (wanted, wanted, 0) {
        return broken("capabilities");
    }
    if prctl(libc::PR_GET_NO_NEW_PRIVS, 0)? != 1 {
        return broken("no_new_privs");
    }
    Ok(())
}

/// Takes all but `keep` out of the bounding set. Refused without CAP_SETPCAP: then no_new_privs alone keeps
/// a program from gaining them.
fn forget_bounding_set(keep: u64) {
    for index in (0..64_u64).filter(|index| keep & (1 << index) == 0) {
        let _ = prctl(libc::PR_CAPBSET_DROP, index as libc::c_ulong);
    }
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits a set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWords {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The effective, permitted and inheritable sets. Not through the caps crate: its hash sets would seed the
/// random state that every forked process then repeats.
fn capabilities() -> io::Result<(u64, u64, u64)> {
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let mut words = [CapabilityWords::default(); 2];
    // SAFETY: header and words have the kernel's layout for this version and live through the call.
    let returned = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    let [low, high] = words;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok((
        join(low.effective, high.effective),
        join(low.permitted, high.permitted),
        join(low.inheritable, high.inheritable),
    ))
}

fn set_capabilities(mask: u64) -> io::Result<()> {
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let word = |bits: u64| {
        let bits = (bits & u64::from(u32::MAX)) as u32;
        CapabilityWords {
            effective: bits,
            permitted: bits,
            inheritable: 0,
        }
    };
    let words = [word(mask), word(mask >> 32)];
    // SAFETY: as in `capabilities`; the call only reads.
    let returned = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::in_child;
    use super::super::process::Ended;
    use super::*;

    #[test]
    fn root_is_given_up_for_good() {
        if !is_root() {
            super::super::skip("root_is_given_up_for_good", "needs root");
            return;
        }
        let ended = in_child(|| {
            let [identity, other] = &dynamic_identities(2, None).unwrap()[..] else {
                return 1;
            };
            drop_to(identity, &[]).unwrap();
            assert_eq!(Uid::effective().as_raw(), identity.uid);
            assert!(std::fs::read("/etc/shadow").is_err());
            assert!(nix::unistd::setgroups(&[Gid::from_raw(0)]).is_err());
            assert_eq!(capabilities().unwrap(), (0, 0, 0));
            drop_to(identity, &[]).unwrap(); // only the proof
            assert!(drop_to(other, &[]).is_err());
            0
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn kept_capabilities_work_and_no_others() {
        if !is_root() {
            super::super::skip("kept_capabilities_work_and_no_others", "needs root");
            return;
        }
        let ended = in_child(|| {
            let keep = [Capability::CAP_NET_BIND_SERVICE, Capability::CAP_DAC_READ_SEARCH];
            drop_to(&dynamic_identities(1, None).unwrap()[0], &keep).unwrap();
            assert!(std::fs::read("/etc/shadow").is_ok());
            assert_eq!(capabilities().unwrap().1.count_ones(), 2);
            assert!(nix::unistd::chown("/etc/hostname", Some(Uid::from_raw(61_184)), None).is_err());
            0
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn what_leads_back_to_root_is_refused() {
        let ended = in_child(|| {
            let me = Identity::numeric(Uid::effective().as_raw(), Gid::effective().as_raw());
            assert!(drop_to(&me, &[Capability::CAP_SETUID]).is_err());
            assert!(!is_root() || drop_to(&Identity::numeric(0, 0), &[]).is_err());
            0
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn dynamic_identities_differ_and_are_free() {
        let five = dynamic_identities(5, None).unwrap();
        assert!(five.iter().all(|identity| DYNAMIC.contains(&identity.uid)));
        assert!(five.is_sorted_by_key(|identity| identity.uid));
        let uids: Vec<u32> = five.iter().map(|identity| identity.uid).collect();
        assert_eq!(Accounts::of_system().free(&uids).unwrap(), uids);
        assert_eq!(dynamic_identities(4, Some(uids[0])).unwrap(), five[1..]);
        assert_eq!(dynamic_identities(0, None).unwrap(), []);
        let all = DYNAMIC.count();
        assert!(dynamic_identities(all + 1, None).is_err());
        assert_eq!(lookup_user("root").unwrap().unwrap().uid, 0);
        assert!(lookup_user("no-such-user-here").unwrap().is_none());
        assert_eq!(lookup_group("root").unwrap(), Some(0));
        assert!(lookup_group("no-such-group-here").unwrap().is_none());
    }
}
