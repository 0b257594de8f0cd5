//! Confinement that cannot be undone: Landlock for paths and TCP, seccomp for calls, limits per worker.
//!
//! Assumes that root has been dropped and that the process has one thread. Must never be entered before
//! the last program is started or socket is made that the profile lacks.

mod filter;

use super::checked;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope, path_beneath_rules,
};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

/// What to do when the kernel lacks a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Fail.
    Require,
    /// Go on with the others and name the missing one.
    BestEffort,
    /// Enter nothing.
    Off,
}

/// A layer that the kernel lacks, by the name that the log shows.
pub type MissingLayer = &'static str;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    MasterAndWorker,
    Logger,
    Delivery,
    DeliveryWithPrograms,
    Broker,
    Keeper,
}

/// What a process may do once it is confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    kind: Kind,
    read: Vec<PathBuf>,
    read_write: Vec<PathBuf>,
    execute: Vec<PathBuf>,
    /// TCP ports that may be connected to.
    connect: Vec<u16>,
}

impl Profile {
    /// The master and all its workers: read below `read`; no socket made or connected, no program.
    #[must_use]
    pub fn master_and_worker(read: Vec<PathBuf>) -> Profile {
        Profile {
            kind: Kind::MasterAndWorker,
            read,
            read_write: Vec::new(),
            execute: Vec::new(),
            connect: Vec::new(),
        }
    }

    /// The logger: writes below `read_write`, connects to local sockets.
    #[must_use]
    pub fn logger(read: Vec<PathBuf>, read_write: Vec<PathBuf>) -> Profile {
        Profile {
            kind: Kind::Logger,
            read,
            read_write,
            execute: Vec::new(),
            connect: Vec::new(),
        }
    }

    /// The broker: makes sockets of the internet, connects by TCP to the ports of `connect`, and reads below `read`. No
    /// layer bounds addresses, nor UDP: seccomp cannot see where a call points, Landlock knows ports of TCP alone.
    #[must_use]
    pub fn broker(read: Vec<PathBuf>, connect: Vec<u16>) -> Profile {
        Profile {
            kind: Kind::Broker,
            read,
            read_write: Vec::new(),
            execute: Vec::new(),
            connect,
        }
    }

    /// The keeper: reads below `read`, binds any TCP port; nothing connected, no program.
    #[must_use]
    pub fn keeper(read: Vec<PathBuf>) -> Profile {
        Profile {
            kind: Kind::Keeper,
            read,
            read_write: Vec::new(),
            execute: Vec::new(),
            connect: Vec::new(),
        }
    }

    /// Delivery: as the logger, and threads. It may run programs (each of which is confined with it) where
    /// `execute` names files or directories to run and to read; empty means none.
    #[must_use]
    pub fn delivery(read: Vec<PathBuf>, read_write: Vec<PathBuf>, execute: Vec<PathBuf>) -> Profile {
        let kind = if execute.is_empty() {
            Kind::Delivery
        } else {
            Kind::DeliveryWithPrograms
        };
        Profile {
            kind,
            read,
            read_write,
            execute,
            connect: Vec::new(),
        }
    }
}

/// The names of the system calls that a profile makes or allows: what a service manager's filter must let
/// through. For delivery with programs, those of the programs come on top.
#[must_use]
pub fn calls(profile: &Profile) -> Vec<&'static str> {
    filter::names(profile.kind)
}

/// The layers that the kernel lacks; none under [`Mode::Off`]. Enters nothing.
///
/// # Errors
/// Under [`Mode::Require`] when a layer is missing.
pub fn check(mode: Mode) -> io::Result<Vec<MissingLayer>> {
    if mode == Mode::Off {
        return Ok(Vec::new());
    }
    let mut missing = missing_layers(landlock_abi());
    if !seccomp_available() {
        missing.push("seccomp");
    }
    if mode == Mode::Require && !missing.is_empty() {
        let text = format!("the kernel lacks {}", missing.join(", "));
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    Ok(missing)
}

/// Confines the process, and all that it forks, to `profile`. Answers the layers that the kernel lacks.
///
/// # Errors
/// Under [`Mode::Require`] when a layer is missing; under any mode but `Off` when a layer that exists cannot be
/// entered, as the process may then be half confined.
pub fn enter(profile: &Profile, mode: Mode) -> io::Result<Vec<MissingLayer>> {
    if mode == Mode::Off {
        return Ok(Vec::new());
    }
    let missing = check(mode)?;
    super::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    if landlock_abi() > 0 {
        enter_landlock(profile).map_err(io::Error::other)?;
    }
    if seccomp_available() {
        let programs = filter::programs(profile.kind).map_err(io::Error::other)?;
        for program in &programs {
            seccompiler::apply_filter(program).map_err(io::Error::other)?;
        }
    }
    Ok(missing)
}

/// What this kernel's version of Landlock lacks.
fn missing_layers(abi: i32) -> Vec<MissingLayer> {
    if abi < 1 {
        return vec!["Landlock"];
    }
    let since = [
        (3, "Landlock's truncate right"),
        (4, "Landlock's TCP rights"),
        (6, "Landlock's signal scope"),
    ];
    since
        .iter()
        .filter(|(first, _)| abi < *first)
        .map(|(_, name)| *name)
        .collect()
}

/// The version of Landlock that the kernel offers; 0 for none. Asked once, before workers are forked.
fn landlock_abi() -> i32 {
    const VERSION: u32 = 1;
    static ABI: OnceLock<i32> = OnceLock::new();
    *ABI.get_or_init(|| {
        let null = std::ptr::null::<libc::c_void>();
        // SAFETY: with this flag the kernel takes no attributes and only answers its version.
        let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, null, 0_usize, VERSION) };
        i32::try_from(abi).unwrap_or(0).max(0)
    })
}

fn seccomp_available() -> bool {
    const GET_ACTION_AVAILABLE: libc::c_uint = 2;
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    let known = seccompiler::TargetArch::try_from(std::env::consts::ARCH).is_ok();
    // SAFETY: the kernel reads one live word.
    known && unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAILABLE, 0, &raw const action) == 0 }
}

/// Directories that do not exist give no access. Rights that the kernel does not know yet are left out: what
/// is missing was named before.
fn enter_landlock(profile: &Profile) -> Result<(), landlock::RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev | AccessFs::Execute;
    let write = AccessFs::from_all(ABI::V5) & !devices;
    // A port cannot be named that is not known yet: what the keeper binds is bounded by its code alone.
    let network = match profile.kind {
        Kind::Keeper => AccessNet::ConnectTcp.into(),
        _ => AccessNet::from_all(ABI::V4),
    };
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(network)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .add_rules(path_beneath_rules(&profile.read, read))?
        .add_rules(path_beneath_rules(&profile.read_write, write))?
        .add_rules(path_beneath_rules(&profile.execute, read | AccessFs::Execute))?
        .add_rules(
            profile
                .connect
                .iter()
                .map(|port| Ok::<_, landlock::RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp))),
        )?
        .restrict_self()?;
    Ok(())
}

/// The hard limits of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest file that it may write, octets.
    pub file_size: u64,
    /// Its address space, octets.
    pub address_space: u64,
    /// Processor time, seconds.
    pub cpu_seconds: u64,
}

/// What each worker adds to the sandbox that it inherits: a Landlock domain of its own that signals and
/// abstract sockets cannot leave, no more processes, no core, 64 descriptors, the limits, not dumpable. Close the
/// descriptors that are not its own before. Answers the layers that the kernel lacks.
///
/// # Errors
/// When a layer that exists or a limit cannot be set; the worker must end then.
pub fn worker_layer(limits: &Limits) -> io::Result<Vec<MissingLayer>> {
    let missing = scope_to_self()?;
    super::process::set_dumpable(false)?;
    for (resource, limit) in [
        (libc::RLIMIT_NPROC, 0),
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_NOFILE, super::socket::FIRST_CONTROL as libc::rlim_t),
        (libc::RLIMIT_FSIZE, limits.file_size),
        (libc::RLIMIT_AS, limits.address_space),
        (libc::RLIMIT_CPU, limits.cpu_seconds),
    ] {
        lower_limit(
            |current| {
                // SAFETY: the limit lives through the call.
                checked(unsafe { libc::getrlimit(resource, current) })
            },
            limit,
            |wanted| {
                // SAFETY: as above.
                checked(unsafe { libc::setrlimit(resource, wanted) })
            },
        )?;
    }
    Ok(missing)
}

/// Sets soft and hard limit to `limit`, or to the hard limit where that is lower already (then, and only then, the
/// first attempt is refused).
fn lower_limit(
    get: impl FnOnce(&mut libc::rlimit) -> io::Result<libc::c_int>,
    limit: libc::rlim_t,
    set: impl Fn(&libc::rlimit) -> io::Result<libc::c_int>,
) -> io::Result<()> {
    let both = |limit| libc::rlimit {
        rlim_cur: limit,
        rlim_max: limit,
    };
    if set(&both(limit)).is_ok() {
        return Ok(());
    }
    let mut current = both(0);
    get(&mut current)?;
    set(&both(limit.min(current.rlim_max))).map(drop)
}

/// A Landlock domain with the scopes alone. By its two calls: this is paid at every connection.
fn scope_to_self() -> io::Result<Vec<MissingLayer>> {
    /// struct landlock_ruleset_attr since version 6.
    #[repr(C)]
    struct Attributes {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }
    const ABSTRACT_UNIX_SOCKET: u64 = 1;
    const SIGNAL: u64 = 2;
    if landlock_abi() < 6 {
        return Ok(vec!["Landlock's signal scope"]);
    }
    let attributes = Attributes {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: ABSTRACT_UNIX_SOCKET | SIGNAL,
    };
    // SAFETY: the attributes have the kernel's layout and live through the call, which makes a descriptor that
    // nobody else owns.
    let ruleset = unsafe {
        let size = size_of::<Attributes>();
        let fd = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0);
        OwnedFd::from_raw_fd(checked(fd as libc::c_int)?)
    };
    // SAFETY: no pointer is passed.
    let restricted = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    checked(restricted as libc::c_int)?;
    Ok(Vec::new())
}

#[cfg(test)]
mod tests;
