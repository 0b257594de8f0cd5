//! The seccomp filters: which system calls a profile has, and with which arguments.
//!
//! Known calls that are not listed kill the process; numbers newer than this build answer ENOSYS, as libc
//! tries new calls first and falls back.

use super::Kind;
use crate::sys::socket::{CLIENT_FD, FIRST_CONTROL};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, Ge, MaskedEq, Ne};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, sock_filter,
};
use std::collections::BTreeMap;

type Call = (&'static str, libc::c_long);
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The newest call that this build knows.
const NEWEST: libc::c_long = libc::SYS_mseal;

macro_rules! calls {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), paste_number!($name))),*] };
}
macro_rules! paste_number {
    ($name:ident) => {
        number::$name
    };
}
/// The numbers by the names of the calls themselves.
mod number {
    #![allow(non_upper_case_globals)]
    macro_rules! numbers {
        ($($name:ident = $number:ident),* $(,)?) => {
            $(pub(super) const $name: libc::c_long = libc::$number;)*
        };
    }
    numbers! { accept4 = SYS_accept4, acct = SYS_acct, add_key = SYS_add_key, bpf = SYS_bpf, brk = SYS_brk, chdir = SYS_chdir, chroot = SYS_chroot, clock_adjtime = SYS_clock_adjtime, clock_getres = SYS_clock_getres, clock_gettime = SYS_clock_gettime, clock_nanosleep = SYS_clock_nanosleep, clock_settime = SYS_clock_settime, clone = SYS_clone, clone3 = SYS_clone3, close = SYS_close, close_range = SYS_close_range, connect = SYS_connect, copy_file_range = SYS_copy_file_range, delete_module = SYS_delete_module, dup = SYS_dup, dup3 = SYS_dup3, epoll_create1 = SYS_epoll_create1, epoll_ctl = SYS_epoll_ctl, epoll_pwait = SYS_epoll_pwait, epoll_pwait2 = SYS_epoll_pwait2, eventfd2 = SYS_eventfd2, execve = SYS_execve, exit = SYS_exit, exit_group = SYS_exit_group, faccessat = SYS_faccessat, faccessat2 = SYS_faccessat2, fadvise64 = SYS_fadvise64, fallocate = SYS_fallocate, fchdir = SYS_fchdir, fchmod = SYS_fchmod, fchmodat = SYS_fchmodat, fchown = SYS_fchown, fcntl = SYS_fcntl, fdatasync = SYS_fdatasync, finit_module = SYS_finit_module, flock = SYS_flock, fsconfig = SYS_fsconfig, fsmount = SYS_fsmount, fsopen = SYS_fsopen, fstat = SYS_fstat, fstatfs = SYS_fstatfs, fsync = SYS_fsync, ftruncate = SYS_ftruncate, futex = SYS_futex, getcwd = SYS_getcwd, getdents64 = SYS_getdents64, getegid = SYS_getegid, geteuid = SYS_geteuid, getgid = SYS_getgid, getgroups = SYS_getgroups, getpeername = SYS_getpeername, getpid = SYS_getpid, getppid = SYS_getppid, getrandom = SYS_getrandom, getresgid = SYS_getresgid, getresuid = SYS_getresuid, getrusage = SYS_getrusage, getsockname = SYS_getsockname, getsockopt = SYS_getsockopt, gettid = SYS_gettid, gettimeofday = SYS_gettimeofday, getuid = SYS_getuid, init_module = SYS_init_module, io_uring_enter = SYS_io_uring_enter, io_uring_register = SYS_io_uring_register, io_uring_setup = SYS_io_uring_setup, ioctl = SYS_ioctl, kexec_load = SYS_kexec_load, keyctl = SYS_keyctl, kill = SYS_kill, landlock_add_rule = SYS_landlock_add_rule, landlock_create_ruleset = SYS_landlock_create_ruleset, landlock_restrict_self = SYS_landlock_restrict_self, linkat = SYS_linkat, lseek = SYS_lseek, madvise = SYS_madvise, memfd_create = SYS_memfd_create, mkdirat = SYS_mkdirat, mmap = SYS_mmap, mount = SYS_mount, move_mount = SYS_move_mount, mprotect = SYS_mprotect, mremap = SYS_mremap, munmap = SYS_munmap, nanosleep = SYS_nanosleep, newfstatat = SYS_newfstatat, open_tree = SYS_open_tree, openat = SYS_openat, openat2 = SYS_openat2, perf_event_open = SYS_perf_event_open, pidfd_getfd = SYS_pidfd_getfd, pipe2 = SYS_pipe2, pivot_root = SYS_pivot_root, ppoll = SYS_ppoll, prctl = SYS_prctl, pread64 = SYS_pread64, preadv = SYS_preadv, prlimit64 = SYS_prlimit64, process_madvise = SYS_process_madvise, process_vm_readv = SYS_process_vm_readv, process_vm_writev = SYS_process_vm_writev, pselect6 = SYS_pselect6, ptrace = SYS_ptrace, pwrite64 = SYS_pwrite64, pwritev = SYS_pwritev, quotactl = SYS_quotactl, read = SYS_read, readlinkat = SYS_readlinkat, readv = SYS_readv, reboot = SYS_reboot, recvfrom = SYS_recvfrom, recvmsg = SYS_recvmsg, renameat2 = SYS_renameat2, request_key = SYS_request_key, restart_syscall = SYS_restart_syscall, rseq = SYS_rseq, rt_sigaction = SYS_rt_sigaction, rt_sigpending = SYS_rt_sigpending, rt_sigprocmask = SYS_rt_sigprocmask, rt_sigreturn = SYS_rt_sigreturn, rt_sigtimedwait = SYS_rt_sigtimedwait, sched_getaffinity = SYS_sched_getaffinity, sched_yield = SYS_sched_yield, seccomp = SYS_seccomp, sendfile = SYS_sendfile, sendmsg = SYS_sendmsg, sendto = SYS_sendto, set_robust_list = SYS_set_robust_list, set_tid_address = SYS_set_tid_address, setdomainname = SYS_setdomainname, sethostname = SYS_sethostname, setns = SYS_setns, setpgid = SYS_setpgid, setsid = SYS_setsid, setsockopt = SYS_setsockopt, settimeofday = SYS_settimeofday, shutdown = SYS_shutdown, sigaltstack = SYS_sigaltstack, signalfd4 = SYS_signalfd4, socket = SYS_socket, socketpair = SYS_socketpair, statfs = SYS_statfs, statx = SYS_statx, swapoff = SYS_swapoff, swapon = SYS_swapon, symlinkat = SYS_symlinkat, sysinfo = SYS_sysinfo, tgkill = SYS_tgkill, timerfd_create = SYS_timerfd_create, timerfd_gettime = SYS_timerfd_gettime, timerfd_settime = SYS_timerfd_settime, umask = SYS_umask, umount2 = SYS_umount2, uname = SYS_uname, unlinkat = SYS_unlinkat, unshare = SYS_unshare, userfaultfd = SYS_userfaultfd, utimensat = SYS_utimensat, wait4 = SYS_wait4, waitid = SYS_waitid, write = SYS_write, writev = SYS_writev }
    #[cfg(target_arch = "x86_64")]
    numbers! { access = SYS_access, chmod = SYS_chmod, dup2 = SYS_dup2, epoll_wait = SYS_epoll_wait, fork = SYS_fork, getrlimit = SYS_getrlimit, link = SYS_link, lstat = SYS_lstat, mkdir = SYS_mkdir, open = SYS_open, pipe = SYS_pipe, poll = SYS_poll, readlink = SYS_readlink, rename = SYS_rename, renameat = SYS_renameat, rmdir = SYS_rmdir, select = SYS_select, stat = SYS_stat, time = SYS_time, unlink = SYS_unlink }
}

/// Calls of every profile, with any argument.
const COMMON: &[Call] = calls![
    accept4,
    brk,
    clock_getres,
    clock_gettime,
    clock_nanosleep,
    close,
    close_range,
    dup,
    dup3,
    epoll_create1,
    epoll_ctl,
    epoll_pwait,
    epoll_pwait2,
    eventfd2,
    exit,
    exit_group,
    faccessat,
    faccessat2,
    fallocate,
    fdatasync,
    fstat,
    fsync,
    ftruncate,
    futex,
    getcwd,
    getdents64,
    getegid,
    geteuid,
    getgid,
    getpeername,
    getpid,
    getppid,
    getrandom,
    getresgid,
    getresuid,
    getrusage,
    getsockname,
    getsockopt,
    gettid,
    gettimeofday,
    getuid,
    kill,
    landlock_create_ruleset,
    landlock_restrict_self,
    lseek,
    madvise,
    memfd_create,
    mremap,
    munmap,
    nanosleep,
    newfstatat,
    pipe2,
    ppoll,
    pread64,
    preadv,
    pselect6,
    pwrite64,
    pwritev,
    read,
    readlinkat,
    readv,
    recvfrom,
    recvmsg,
    restart_syscall,
    rseq,
    rt_sigaction,
    rt_sigpending,
    rt_sigprocmask,
    rt_sigreturn,
    rt_sigtimedwait,
    sched_yield,
    set_robust_list,
    set_tid_address,
    sigaltstack,
    signalfd4,
    statx,
    sysinfo,
    tgkill,
    timerfd_create,
    timerfd_gettime,
    timerfd_settime,
    umask,
    uname,
    wait4,
    waitid,
    write,
    writev,
];

/// Older forms of calls of [`COMMON`], which C libraries still use where the architecture has them.
#[cfg(target_arch = "x86_64")]
const OLDER: &[Call] = calls![
    access, dup2, epoll_wait, fork, getrlimit, pipe, poll, readlink, select, time
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Call] = &[];

/// What the logger and delivery do to files, in the directories that Landlock leaves them.
const FILES: &[Call] = calls![
    chdir,
    copy_file_range,
    fchdir,
    fchmod,
    fchmodat,
    fchown,
    fadvise64,
    flock,
    fstatfs,
    getgroups,
    linkat,
    mkdirat,
    openat,
    renameat2,
    sendfile,
    statfs,
    symlinkat,
    unlinkat,
    utimensat,
];
#[cfg(target_arch = "x86_64")]
const OLDER_FILES: &[Call] = calls![
    chmod, link, mkdir, open, rename, renameat, rmdir, stat, lstat, unlink
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_FILES: &[Call] = &[];

/// Local sockets, of the logger and of delivery.
const LOCAL_SOCKETS: &[Call] = calls![connect, sendmsg, sendto, setsockopt, shutdown];

/// Calls allowed with some arguments only.
const BY_ARGUMENT: &[Call] = calls![
    clone,
    fcntl,
    ioctl,
    mmap,
    mprotect,
    openat,
    prctl,
    prlimit64,
    sched_getaffinity,
    sendmsg,
    sendto,
    setsockopt,
    shutdown,
    socketpair,
];

/// Known calls that answer ENOSYS: libc tries them first.
const ABSENT: &[Call] = calls![clone3, openat2];

/// What not even delivery and the programs that it runs may call.
const FORBIDDEN: &[Call] = calls![
    acct,
    add_key,
    bpf,
    chroot,
    clock_adjtime,
    clock_settime,
    delete_module,
    finit_module,
    fsconfig,
    fsmount,
    fsopen,
    init_module,
    io_uring_enter,
    io_uring_register,
    io_uring_setup,
    kexec_load,
    keyctl,
    mount,
    move_mount,
    open_tree,
    perf_event_open,
    pidfd_getfd,
    pivot_root,
    process_madvise,
    process_vm_readv,
    process_vm_writev,
    ptrace,
    quotactl,
    reboot,
    request_key,
    setdomainname,
    sethostname,
    setns,
    settimeofday,
    swapoff,
    swapon,
    umount2,
    unshare,
    userfaultfd,
];

/// Calls made while the sandbox is entered.
const ENTERING: &[Call] = calls![
    landlock_create_ruleset,
    landlock_add_rule,
    landlock_restrict_self,
    prctl,
    seccomp
];

/// The names of the calls that a profile makes or allows, sorted.
pub(super) fn names(kind: Kind) -> Vec<&'static str> {
    let mut lists = vec![COMMON, BY_ARGUMENT, ENTERING, OLDER];
    if kind != Kind::MasterAndWorker {
        lists.extend([FILES, OLDER_FILES, LOCAL_SOCKETS, calls![socket]]);
    }
    if kind == Kind::DeliveryWithPrograms {
        lists.push(calls![execve, setpgid, setsid]);
    }
    let mut names: Vec<_> = lists.concat().into_iter().map(|(name, _)| name).collect();
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
    by_argument(&mut rules)?;
    match kind {
        Kind::MasterAndWorker => worker_sockets(&mut rules)?,
        Kind::Logger | Kind::Delivery | Kind::DeliveryWithPrograms => {
            allow(&mut rules, &[FILES, OLDER_FILES, LOCAL_SOCKETS]);
            rules.insert(
                libc::SYS_socket,
                vec![rule(vec![argument(0, Eq, libc::AF_UNIX as u64)?])?],
            );
        }
    }
    if kind == Kind::Delivery {
        let thread = rule(vec![argument(0, MaskedEq(NAMESPACES), 0)?])?;
        rules.insert(libc::SYS_clone, vec![thread]);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        architecture()?,
    )?;
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
    Ok(vec![
        kill.try_into()?,
        refuse.try_into()?,
        absent.try_into()?,
    ])
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
fn by_argument(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    let fork = libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    let mut clone = Vec::new();
    for flags in [fork, libc::CLONE_FILES | libc::SIGCHLD, libc::SIGCHLD] {
        clone.push(rule(vec![argument(0, Eq, flags as u64)?])?);
    }
    rules.insert(libc::SYS_clone, clone);
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(
            number,
            vec![rule(vec![argument(
                2,
                MaskedEq(libc::PROT_EXEC as u64),
                0,
            )?])?],
        );
    }
    let written =
        libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
    let read_only = rule(vec![int(2, MaskedEq(written as u64), 0)?])?;
    rules.insert(libc::SYS_openat, vec![read_only]);
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![int(0, Eq, 0)?])?]);
    rules.insert(
        libc::SYS_sched_getaffinity,
        vec![rule(vec![int(0, Eq, 0)?])?],
    );
    rules.insert(
        libc::SYS_socketpair,
        vec![rule(vec![int(0, Eq, libc::AF_UNIX.into())?])?],
    );
    let mut fcntl = vec![rule(
        [
            descriptor(CLIENT_FD)?,
            vec![int(1, Eq, libc::F_SETFL.into())?],
        ]
        .concat(),
    )?];
    for command in [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_ADD_SEALS,
        libc::F_GET_SEALS,
    ] {
        fcntl.push(rule(vec![int(1, Eq, command.into())?])?);
    }
    rules.insert(libc::SYS_fcntl, fcntl);
    let mut ioctl = vec![rule(
        [
            descriptor(CLIENT_FD)?,
            vec![int(1, Eq, libc::FIONBIO as i64)?],
        ]
        .concat(),
    )?];
    for command in [libc::TCGETS, libc::FIONREAD] {
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

/// Sockets of the process that talks to clients: none can be made or connected, and what others share
/// cannot be changed.
fn worker_sockets(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    let null_address = rule(vec![argument(4, Eq, 0)?])?;
    rules.insert(libc::SYS_sendto, vec![null_address]);
    rules.insert(libc::SYS_sendmsg, vec![rule(descriptor(FIRST_CONTROL)?)?]);
    rules.insert(libc::SYS_shutdown, vec![rule(descriptor(CLIENT_FD)?)?]);
    let socket = [
        libc::SO_KEEPALIVE,
        libc::SO_LINGER,
        libc::SO_RCVBUF,
        libc::SO_RCVTIMEO,
        libc::SO_SNDBUF,
        libc::SO_SNDTIMEO,
    ];
    let tcp = [
        libc::TCP_CORK,
        libc::TCP_KEEPCNT,
        libc::TCP_KEEPIDLE,
        libc::TCP_KEEPINTVL,
        libc::TCP_NODELAY,
        libc::TCP_QUICKACK,
        libc::TCP_USER_TIMEOUT,
    ];
    let mut options = Vec::new();
    for (level, names) in [
        (libc::SOL_SOCKET, &socket[..]),
        (libc::IPPROTO_TCP, &tcp[..]),
    ] {
        for name in names {
            let option = vec![int(1, Eq, level.into())?, int(2, Eq, (*name).into())?];
            options.push(rule([descriptor(CLIENT_FD)?, option].concat())?);
        }
    }
    rules.insert(libc::SYS_setsockopt, options);
    Ok(())
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
    if let Some(load) = program
        .iter()
        .position(|step| step.code == LOAD_WORD && step.k == 0)
    {
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
        ] {
            assert!(!worker.contains(&call), "{call}");
        }
        let all = [
            COMMON,
            OLDER,
            FILES,
            OLDER_FILES,
            LOCAL_SOCKETS,
            BY_ARGUMENT,
            ENTERING,
        ]
        .concat();
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
