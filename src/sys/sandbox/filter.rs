//! The seccomp filters: which system calls a profile has, and with which arguments.
//!
//! Listed is what glibc calls, from the host's libraries or from within a static program; other C libraries use older calls.
//! Known calls that are not listed kill the process; numbers newer than this build answer ENOSYS, as libc
//! tries new calls first and falls back.

use super::Kind;
use crate::sys::socket::{CLIENT_FD, FIRST_CONTROL, FIRST_SHARED};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, Ge, Gt, Lt, MaskedEq, Ne};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, sock_filter};
use std::collections::BTreeMap;

type Call = (&'static str, libc::c_long);
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The newest call that this build knows.
const NEWEST: libc::c_long = libc::SYS_mseal;

macro_rules! calls {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), libc::$name)),*] };
}

/// Calls of every profile, with any argument.
const COMMON: &[Call] = calls! {
    SYS_accept4, SYS_brk, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_close,
    SYS_close_range, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2,
    SYS_eventfd2, SYS_exit, SYS_exit_group, SYS_faccessat, SYS_faccessat2, SYS_fdatasync,
    SYS_fstat, SYS_fsync, SYS_ftruncate, SYS_futex, SYS_getcwd, SYS_getdents64, SYS_getegid, SYS_geteuid,
    SYS_getgid, SYS_getpeername, SYS_getpid, SYS_getppid, SYS_getrandom, SYS_getresgid, SYS_getresuid,
    SYS_getrusage, SYS_getsockname, SYS_getsockopt, SYS_gettid, SYS_gettimeofday, SYS_getuid, SYS_kill,
    SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_lseek, SYS_madvise, SYS_memfd_create,
    SYS_mremap, SYS_munmap, SYS_nanosleep, SYS_newfstatat, SYS_pipe2, SYS_ppoll, SYS_pread64, SYS_preadv,
    SYS_pselect6, SYS_pwrite64, SYS_pwritev, SYS_read, SYS_readlinkat, SYS_readv, SYS_recvfrom, SYS_recvmsg,
    SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction, SYS_rt_sigpending, SYS_rt_sigprocmask, SYS_rt_sigreturn,
    SYS_rt_sigtimedwait, SYS_sched_getaffinity, SYS_sched_yield, SYS_set_robust_list, SYS_set_tid_address,
    SYS_sigaltstack, SYS_signalfd4, SYS_statx, SYS_sysinfo, SYS_tgkill, SYS_timerfd_create,
    SYS_timerfd_gettime, SYS_timerfd_settime, SYS_umask, SYS_uname, SYS_wait4, SYS_waitid, SYS_write,
    SYS_writev,
};

/// Older forms of calls of [`COMMON`], which glibc still uses where the architecture has them.
#[cfg(target_arch = "x86_64")]
const OLDER: &[Call] = calls! {
    SYS_access, SYS_epoll_wait, SYS_getrlimit, SYS_pipe, SYS_poll, SYS_readlink, SYS_select, SYS_time,
};
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Call] = &[];

/// What the logger and delivery do to files, in the directories that Landlock leaves them.
const FILES: &[Call] = calls! {
    SYS_chdir, SYS_copy_file_range, SYS_dup, SYS_dup3, SYS_fallocate, SYS_fchdir, SYS_fchmod, SYS_fchmodat, SYS_fchown, SYS_fadvise64,
    SYS_flock, SYS_fstatfs, SYS_getgroups, SYS_linkat, SYS_mkdirat, SYS_openat, SYS_renameat2, SYS_sendfile,
    SYS_statfs, SYS_symlinkat, SYS_unlinkat, SYS_utimensat,
};
#[cfg(target_arch = "x86_64")]
const OLDER_FILES: &[Call] = calls! {
    SYS_chmod, SYS_dup2, SYS_link, SYS_lstat, SYS_mkdir, SYS_rename, SYS_renameat, SYS_rmdir, SYS_stat, SYS_unlink,
};
#[cfg(not(target_arch = "x86_64"))]
const OLDER_FILES: &[Call] = &[];

/// Sockets of all helpers; which ones can be made is another question.
const SOCKETS: &[Call] = calls! {
    SYS_connect, SYS_sendmsg, SYS_sendto, SYS_setsockopt, SYS_shutdown,
};

/// What the keeper does to sockets: it binds listeners, and passes them on.
const LISTENERS: &[Call] = calls! {
    SYS_bind, SYS_listen, SYS_sendmsg, SYS_sendto, SYS_setsockopt,
};

/// Calls allowed with some arguments only.
const BY_ARGUMENT: &[Call] = calls! {
    SYS_clone, SYS_fcntl, SYS_ioctl, SYS_mmap, SYS_mprotect, SYS_openat, SYS_prctl, SYS_prlimit64,
    SYS_sendmsg, SYS_sendto, SYS_setsockopt, SYS_shutdown, SYS_socketpair,
};

/// Calls of the master alone, allowed with descriptors that no worker has.
const WATCHES: &[Call] = calls! { SYS_inotify_add_watch, SYS_inotify_rm_watch };

/// Known calls that answer ENOSYS: libc tries them first.
const ABSENT: &[Call] = calls! { SYS_clone3, SYS_openat2 };

/// What not even delivery and the programs that it runs may call.
const FORBIDDEN: &[Call] = calls! {
    SYS_acct, SYS_add_key, SYS_bpf, SYS_chroot, SYS_clock_adjtime, SYS_clock_settime, SYS_delete_module,
    SYS_finit_module, SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_init_module, SYS_io_uring_enter,
    SYS_io_uring_register, SYS_io_uring_setup, SYS_kexec_load, SYS_keyctl, SYS_mount, SYS_move_mount,
    SYS_open_tree, SYS_perf_event_open, SYS_pidfd_getfd, SYS_pivot_root, SYS_process_madvise,
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_ptrace, SYS_quotactl, SYS_reboot, SYS_request_key,
    SYS_setdomainname, SYS_sethostname, SYS_setns, SYS_settimeofday, SYS_swapoff, SYS_swapon, SYS_umount2,
    SYS_unshare, SYS_userfaultfd,
};

/// Calls made while the sandbox is entered.
const ENTERING: &[Call] = calls! {
    SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self, SYS_prctl, SYS_seccomp,
};

/// The names of the calls that a profile makes or allows, sorted.
pub(super) fn names(kind: Kind) -> Vec<&'static str> {
    let mut lists = vec![COMMON, BY_ARGUMENT, ENTERING, OLDER];
    match kind {
        Kind::MasterAndWorker => lists.push(WATCHES),
        Kind::Keeper => lists.extend([LISTENERS, calls! { SYS_socket }]),
        Kind::Broker => lists.extend([SOCKETS, calls! { SYS_socket }]),
        _ => lists.extend([FILES, OLDER_FILES, SOCKETS, calls! { SYS_socket }]),
    }
    if kind == Kind::DeliveryWithPrograms {
        lists.push(calls! { SYS_execve, SYS_setpgid, SYS_setsid });
    }
    let mut names: Vec<_> = lists
        .concat()
        .into_iter()
        .map(|(name, _)| name.trim_start_matches("SYS_"))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The filters of a profile, to be installed in this order.
pub(super) fn programs(kind: Kind) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    if kind == Kind::DeliveryWithPrograms {
        return with_programs();
    }
    let mut rules = Rules::new();
    allow(&mut rules, &[COMMON, OLDER]);
    // Only the process that talks to clients shares sockets whose state others must not change.
    let first_own = if kind == Kind::MasterAndWorker { CLIENT_FD } else { 0 };
    by_argument(&mut rules, first_own)?;
    match kind {
        Kind::MasterAndWorker => {
            forks(&mut rules)?;
            duplicates(&mut rules, vec![int(0, Gt, 2)?, int(0, Lt, FIRST_SHARED.into())?])?;
            // The master's; a worker has none of these.
            duplicates(&mut rules, descriptor(FIRST_CONTROL)?)?;
            worker_sockets(&mut rules)?;
            watches(&mut rules)?;
        }
        Kind::Broker => {
            duplicates(&mut rules, Vec::new())?;
            allow(&mut rules, &[SOCKETS]);
            rules.insert(libc::SYS_socket, internet_sockets()?);
        }
        Kind::Keeper => {
            duplicates(&mut rules, Vec::new())?;
            allow(&mut rules, &[LISTENERS]);
            let listener = |family: libc::c_int| {
                let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
                rule(vec![
                    argument(0, Eq, family as u64)?,
                    int(1, Eq, kind.into())?,
                    int(2, Eq, 0)?,
                ])
            };
            rules.insert(
                libc::SYS_socket,
                vec![listener(libc::AF_INET)?, listener(libc::AF_INET6)?],
            );
        }
        Kind::Logger | Kind::Delivery | Kind::DeliveryWithPrograms => {
            duplicates(&mut rules, Vec::new())?;
            allow(&mut rules, &[FILES, OLDER_FILES, SOCKETS]);
            rules.insert(
                libc::SYS_socket,
                vec![rule(vec![argument(0, Eq, libc::AF_UNIX as u64)?])?],
            );
        }
    }
    if kind == Kind::Delivery {
        let thread = libc::CLONE_THREAD as u64;
        let thread = rule(vec![argument(0, MaskedEq(NAMESPACES | thread), thread)?])?;
        rules.insert(libc::SYS_clone, vec![thread]);
    }
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture()?)?;
    let mut program = BpfProgram::try_from(filter)?;
    answer_enosys(&mut program);
    Ok(vec![program])
}

/// Delivery that runs programs: those are not ours, so only what none of them needs is taken away.
fn with_programs() -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let mut forbidden = Rules::new();
    allow(&mut forbidden, &[FORBIDDEN]);
    let kill = SeccompFilter::new(
        forbidden,
        SeccompAction::Allow,
        SeccompAction::KillProcess,
        architecture()?,
    )?;
    let mut refused = Rules::new();
    refused.insert(
        libc::SYS_socket,
        vec![rule(vec![argument(0, Ne, libc::AF_UNIX as u64)?])?],
    );
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
    ];
    let mut clone = Vec::new();
    for flag in namespaces {
        let flag = flag as u64;
        clone.push(rule(vec![argument(0, MaskedEq(flag), flag)?])?);
    }
    refused.insert(libc::SYS_clone, clone);
    let refuse = SeccompFilter::new(
        refused,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        architecture()?,
    )?;
    let mut absent = Rules::new();
    allow(&mut absent, &[ABSENT]); // the flags of clone3 lie in memory, where a filter cannot look
    let absent = SeccompFilter::new(
        absent,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        architecture()?,
    )?;
    Ok(vec![kill.try_into()?, refuse.try_into()?, absent.try_into()?])
}

const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

fn architecture() -> Result<seccompiler::TargetArch, seccompiler::BackendError> {
    std::env::consts::ARCH.try_into()
}

fn allow(rules: &mut Rules, lists: &[&[Call]]) {
    for (_, number) in lists.iter().flat_map(|list| list.iter()) {
        rules.insert(*number, Vec::new());
    }
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions)
}

/// A condition on all 64 bits of an argument.
fn argument(
    index: u8,
    operator: seccompiler::SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, Qword, operator, value)
}

/// A condition on an `int`, of which the kernel reads the lower half only.
fn int(
    index: u8,
    operator: seccompiler::SeccompCmpOp,
    value: i64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, Dword, operator, value as u64 & u64::from(u32::MAX))
}

/// A non-negative descriptor of at least `first`.
fn descriptor(first: i32) -> Result<Vec<SeccompCondition>, seccompiler::BackendError> {
    Ok(vec![int(0, Ge, first.into())?])
}

/// The rules that every profile with an allow-list shares.
fn by_argument(rules: &mut Rules, first_own: i32) -> Result<(), seccompiler::BackendError> {
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(
            number,
            vec![rule(vec![argument(2, MaskedEq(libc::PROT_EXEC as u64), 0)?])?],
        );
    }
    let written = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
    let read_only = rule(vec![int(2, MaskedEq(written as u64), 0)?])?;
    rules.insert(libc::SYS_openat, vec![read_only]);
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![int(0, Eq, 0)?])?]);
    rules.insert(
        libc::SYS_socketpair,
        vec![rule(vec![int(0, Eq, libc::AF_UNIX.into())?])?],
    );
    let mut fcntl = vec![rule(
        [descriptor(first_own)?, vec![int(1, Eq, libc::F_SETFL.into())?]].concat(),
    )?];
    for command in [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_ADD_SEALS,
        libc::F_GET_SEALS,
    ] {
        fcntl.push(rule(vec![int(1, Eq, command.into())?])?);
    }
    rules.insert(libc::SYS_fcntl, fcntl);
    let mut ioctl = vec![rule(
        [descriptor(first_own)?, vec![int(1, Eq, libc::FIONBIO as i64)?]].concat(),
    )?];
    for command in [libc::TCGETS, libc::FIONREAD, libc::TIOCOUTQ] {
        ioctl.push(rule(vec![int(1, Eq, command as i64)?])?);
    }
    rules.insert(libc::SYS_ioctl, ioctl);
    let mut prctl = vec![rule(vec![
        int(0, Eq, libc::PR_SET_DUMPABLE.into())?,
        argument(1, Eq, 0)?,
    ])?];
    for option in [
        libc::PR_SET_NAME,
        libc::PR_GET_NAME,
        libc::PR_SET_PDEATHSIG,
        libc::PR_GET_PDEATHSIG,
        libc::PR_GET_DUMPABLE,
        libc::PR_SET_NO_NEW_PRIVS,
        libc::PR_GET_NO_NEW_PRIVS,
        libc::PR_SET_VMA,
    ] {
        prctl.push(rule(vec![int(0, Eq, option.into())?])?);
    }
    rules.insert(libc::SYS_prctl, prctl);
    Ok(())
}

/// More processes. Who works for others makes none: its parent half does, which has no filter.
fn forks(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    let fork = libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    let mut clone = Vec::new();
    for flags in [fork, libc::CLONE_FILES | libc::SIGCHLD, libc::SIGCHLD] {
        clone.push(rule(vec![argument(0, Eq, flags as u64)?])?);
    }
    rules.insert(libc::SYS_clone, clone);
    Ok(())
}

/// Another number for a descriptor of which `which` holds. A worker that could give a listener the number of
/// the client could shut it down for all.
fn duplicates(rules: &mut Rules, which: Vec<SeccompCondition>) -> Result<(), seccompiler::BackendError> {
    let fcntl = rules.entry(libc::SYS_fcntl).or_default();
    for command in [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC] {
        let command = vec![int(1, Eq, command.into())?];
        fcntl.push(rule([which.clone(), command].concat())?);
    }
    Ok(())
}

/// Sockets of the process that talks to clients: none can be made or connected, and what others share
/// cannot be changed.
fn worker_sockets(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    let null_address = rule(vec![argument(4, Eq, 0)?])?;
    rules.insert(libc::SYS_sendto, vec![null_address]);
    rules.insert(libc::SYS_sendmsg, vec![rule(descriptor(FIRST_CONTROL)?)?]);
    rules.insert(libc::SYS_shutdown, vec![rule(descriptor(CLIENT_FD)?)?]);
    // The master's, which has the logger told who speaks.
    let signed = vec![
        int(1, Eq, libc::SOL_SOCKET.into())?,
        int(2, Eq, libc::SO_PASSCRED.into())?,
    ];
    rules.insert(
        libc::SYS_setsockopt,
        vec![rule([descriptor(FIRST_CONTROL)?, signed].concat())?],
    );
    Ok(())
}

/// Watches over files: a worker makes none, and has others nowhere notice what it likes.
fn watches(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    for (_, number) in WATCHES {
        rules.insert(*number, vec![rule(descriptor(FIRST_CONTROL)?)?]);
    }
    let unshared = [int(0, Lt, FIRST_SHARED.into())?, int(0, Ge, CLIENT_FD.into())?];
    let mut epoll = Vec::new();
    for condition in unshared {
        epoll.push(rule(vec![condition])?);
    }
    rules.insert(libc::SYS_epoll_ctl, epoll);
    Ok(())
}

/// Sockets of the internet for TCP and UDP, none that see the packets of others.
fn internet_sockets() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    const KIND: u64 = 0xf; // the rest are flags
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            rules.push(rule(vec![
                int(0, Eq, family.into())?,
                int(1, MaskedEq(KIND), kind.into())?,
            ])?);
        }
    }
    Ok(rules)
}

/// Puts before the rules: numbers of the x32 form kill, numbers newer than [`NEWEST`] and those of [`ABSENT`]
/// answer ENOSYS. The crate's programs have one answer for all that is not listed.
fn answer_enosys(program: &mut BpfProgram) {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32: u32 = 0x4000_0000;
    let instruction = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let enosys = u32::from(SeccompAction::Errno(libc::ENOSYS as u32));
    let mut checks = vec![
        instruction(JUMP_IF_AT_LEAST, 1, X32),
        instruction(RETURN, 0, u32::from(SeccompAction::KillProcess)),
        instruction(JUMP_IF_AT_LEAST, 1, NEWEST as u32 + 1),
        instruction(RETURN, 0, enosys),
    ];
    for (_, number) in ABSENT {
        checks.push(instruction(JUMP_IF_EQUAL, 1, *number as u32));
        checks.push(instruction(RETURN, 0, enosys));
    }
    // All jumps of the program are relative and stay behind the one load of the call's number (offset 0).
    if let Some(load) = program.iter().position(|step| step.code == LOAD_WORD && step.k == 0) {
        program.splice(load + 1..load + 1, checks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_calls_are_in_no_allow_list() {
        let worker = names(Kind::MasterAndWorker);
        for call in [
            "execve",
            "socket",
            "connect",
            "bind",
            "ptrace",
            "unshare",
            "io_uring_setup",
            "sched_setaffinity",
            "inotify_init1",
        ] {
            assert!(!worker.contains(&call), "{call}");
        }
        let all = [COMMON, OLDER, FILES, OLDER_FILES, SOCKETS, BY_ARGUMENT, ENTERING].concat();
        assert!(FORBIDDEN.iter().all(|call| !all.contains(call)));
    }

    #[test]
    fn the_check_for_new_numbers_stands_before_the_rules() {
        let programs = programs(Kind::MasterAndWorker).unwrap();
        let load = programs[0]
            .iter()
            .position(|step| step.code == 0x20 && step.k == 0)
            .unwrap();
        assert_eq!(programs[0][load + 3].k, NEWEST as u32 + 1);
        assert_eq!(self::programs(Kind::DeliveryWithPrograms).unwrap().len(), 3);
    }
}
