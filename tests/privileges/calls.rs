//! What each role's process is refused, called from within the very processes that the daemon started.

use super::puppet::Argument::{self, Number, Octets};
use super::puppet::{Outcome, Puppet};
use super::{processes, reachable, whole};
use crate::common::processes::Process;
use crate::common::{PATIENCE, Setup, certificates, needs_root, skip, tool, wait_until};
use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Instant;

const KILLED: Outcome = Outcome::Killed(Signal::SIGSYS);

fn refused(error: Errno) -> Outcome {
    Outcome::Refused(error)
}

/// A name, a call, its arguments, how it has to end.
type Row = (&'static str, c_long, Vec<Argument>, Outcome);

fn numbers(values: &[i64]) -> Vec<Argument> {
    values.iter().copied().map(Number).collect()
}

fn path(name: &str) -> Argument {
    Octets([name.as_bytes(), b"\0"].concat())
}

fn words(values: &[u64]) -> Argument {
    Octets(values.iter().flat_map(|value| value.to_ne_bytes()).collect())
}

/// An address of 127.0.0.1, port 25.
fn internet() -> Argument {
    Octets(vec![2, 0, 0, 25, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
}

const READ: i64 = libc::O_RDONLY as i64;
const HERE: i64 = libc::AT_FDCWD as i64;
const STREAM: i64 = libc::SOCK_STREAM as i64;
const INET: i64 = libc::AF_INET as i64;
const FORK: i64 = libc::SIGCHLD as i64;

/// Who and what a worker would reach for.
#[derive(Clone, Copy)]
struct Around {
    master: i64,
    sibling: i64,
    listener: i64,
    link: i64,
    voice: i64,
    /// A descriptor that nobody else has.
    own: i64,
    /// What tells all workers that a file of the configuration has changed.
    sign: i64,
}

/// What no process of the daemon may do once it runs, whatever its role: it dies of it.
fn deadly_for_all(other: i64) -> Vec<Row> {
    let own = numbers(&[0, 0, 0]);
    let calls = [
        ("ptrace", libc::SYS_ptrace, numbers(&[16, other, 0, 0])),
        (
            "process_vm_readv",
            libc::SYS_process_vm_readv,
            numbers(&[other, 0, 0, 0, 0, 0]),
        ),
        (
            "process_vm_writev",
            libc::SYS_process_vm_writev,
            numbers(&[other, 0, 0, 0, 0, 0]),
        ),
        (
            "io_uring_setup",
            libc::SYS_io_uring_setup,
            vec![Number(1), words(&[0; 15])],
        ),
        ("bpf", libc::SYS_bpf, vec![Number(0), words(&[0; 16]), Number(128)]),
        ("keyctl", libc::SYS_keyctl, numbers(&[0, -2, 0])),
        (
            "unshare users",
            libc::SYS_unshare,
            numbers(&[libc::CLONE_NEWUSER.into()]),
        ),
        ("setns", libc::SYS_setns, own.clone()),
        ("mount", libc::SYS_mount, numbers(&[0; 5])),
        ("chroot", libc::SYS_chroot, vec![path("/")]),
        ("perf_event_open", libc::SYS_perf_event_open, numbers(&[0; 5])),
        ("userfaultfd", libc::SYS_userfaultfd, numbers(&[0])),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, own.clone()),
        ("reboot", libc::SYS_reboot, own),
    ];
    let row = |(name, number, arguments)| (name, number, arguments, KILLED);
    calls.into_iter().map(row).collect()
}

/// What a worker dies of.
fn deadly_for_workers(around: Around) -> Vec<Row> {
    let Around {
        master,
        sibling,
        listener,
        link,
        voice,
        own: _,
        sign,
    } = around;
    let (exec, map) = (libc::PROT_EXEC as i64, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64);
    let thread =
        (libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as i64;
    let (socket, tcp) = (libc::SOL_SOCKET.into(), libc::IPPROTO_TCP.into());
    let one = || Octets(vec![1, 0, 0, 0]);
    let limits = |pid| vec![Number(pid), Number(7), Number(0), words(&[0, 0])];
    let cpus = |pid| vec![Number(pid), Number(8), words(&[1])];
    let calls = vec![
        ("socket", libc::SYS_socket, numbers(&[INET, STREAM, 0])),
        (
            "datagram socket",
            libc::SYS_socket,
            numbers(&[INET, libc::SOCK_DGRAM.into(), 0]),
        ),
        (
            "local socket",
            libc::SYS_socket,
            numbers(&[libc::AF_UNIX.into(), STREAM, 0]),
        ),
        (
            "connect",
            libc::SYS_connect,
            vec![Number(listener), internet(), Number(16)],
        ),
        ("bind", libc::SYS_bind, vec![Number(listener), internet(), Number(16)]),
        ("listen", libc::SYS_listen, numbers(&[listener, 0])),
        (
            "execve",
            libc::SYS_execve,
            vec![path("/bin/true"), Number(0), Number(0)],
        ),
        (
            "execveat",
            libc::SYS_execveat,
            vec![Number(0), path(""), Number(0), Number(0), Number(0x1000)],
        ),
        ("mmap to execute", libc::SYS_mmap, numbers(&[0, 4096, exec, map, -1, 0])),
        ("mprotect to execute", libc::SYS_mprotect, numbers(&[0, 4096, exec])),
        ("pkey_mprotect", libc::SYS_pkey_mprotect, numbers(&[0, 4096, exec, -1])),
        ("thread", libc::SYS_clone, numbers(&[thread, 0, 0, 0, 0])),
        ("vfork", libc::SYS_vfork, vec![]),
        (
            "fork into a namespace",
            libc::SYS_clone,
            numbers(&[FORK | i64::from(libc::CLONE_NEWUSER), 0]),
        ),
        ("prlimit of the master", libc::SYS_prlimit64, limits(master)),
        ("prlimit of a sibling", libc::SYS_prlimit64, limits(sibling)),
        (
            "sched_setaffinity of the master",
            libc::SYS_sched_setaffinity,
            cpus(master),
        ),
        (
            "sched_setaffinity of a sibling",
            libc::SYS_sched_setaffinity,
            cpus(sibling),
        ),
        (
            "sched_setscheduler",
            libc::SYS_sched_setscheduler,
            vec![Number(master), Number(5), words(&[0])],
        ),
        ("setpriority", libc::SYS_setpriority, numbers(&[0, master, 19])),
        ("ioprio_set", libc::SYS_ioprio_set, numbers(&[1, sibling, 0])),
        ("pidfd_open", libc::SYS_pidfd_open, numbers(&[sibling, 0])),
        ("kcmp", libc::SYS_kcmp, numbers(&[master, sibling, 0, 0, 0])),
        (
            "rt_sigqueueinfo",
            libc::SYS_rt_sigqueueinfo,
            vec![Number(master), Number(1), words(&[0; 16])],
        ),
        (
            "sendmsg with a descriptor",
            libc::SYS_sendmsg,
            vec![Number(link), passing(0), Number(0)],
        ),
        ("sendmmsg", libc::SYS_sendmmsg, numbers(&[3, 0, 1, 0])),
        (
            "sendto elsewhere",
            libc::SYS_sendto,
            vec![Number(3), one(), Number(1), Number(0), internet(), Number(16)],
        ),
        ("shutdown of a listener", libc::SYS_shutdown, numbers(&[listener, 2])),
        (
            "a listener as the client, by fcntl",
            libc::SYS_fcntl,
            numbers(&[listener, libc::F_DUPFD.into(), 63]),
        ),
        (
            "the same, close-on-exec",
            libc::SYS_fcntl,
            numbers(&[listener, libc::F_DUPFD_CLOEXEC.into(), 63]),
        ),
        ("the same by dup2", libc::SYS_dup2, numbers(&[listener, 63])),
        ("the same by dup3", libc::SYS_dup3, numbers(&[listener, 63, 0])),
        ("the same by dup", libc::SYS_dup, numbers(&[listener])),
        (
            "standard error as the client",
            libc::SYS_fcntl,
            numbers(&[2, libc::F_DUPFD_CLOEXEC.into(), 63]),
        ),
        (
            "its Link, which the next worker has, as the client",
            libc::SYS_fcntl,
            numbers(&[link, libc::F_DUPFD_CLOEXEC.into(), 63]),
        ),
        (
            "its voice, which the next worker has, as the client",
            libc::SYS_fcntl,
            numbers(&[voice, libc::F_DUPFD_CLOEXEC.into(), 63]),
        ),
        (
            "listener waits",
            libc::SYS_fcntl,
            numbers(&[listener, libc::F_SETFL.into(), 0]),
        ),
        (
            "listener waits, by ioctl",
            libc::SYS_ioctl,
            vec![Number(listener), Number(0x5421), Octets(vec![0; 4])],
        ),
        (
            "owner of a listener",
            libc::SYS_fcntl,
            numbers(&[listener, libc::F_SETOWN.into(), master]),
        ),
        (
            "option of a listener",
            libc::SYS_setsockopt,
            vec![Number(listener), Number(tcp), Number(1), one(), Number(4)],
        ),
        (
            "packet filter",
            libc::SYS_setsockopt,
            vec![
                Number(63),
                Number(socket),
                Number(libc::SO_ATTACH_FILTER.into()),
                words(&[0, 0]),
                Number(16),
            ],
        ),
        ("another watch over files", libc::SYS_inotify_init1, numbers(&[0])),
        (
            "watches of the others",
            libc::SYS_inotify_add_watch,
            vec![Number(sign), path("/"), Number(2)],
        ),
        ("the end of one", libc::SYS_inotify_rm_watch, numbers(&[sign, 1])),
        (
            "what the others take for a change",
            libc::SYS_epoll_ctl,
            vec![Number(sign), Number(1), Number(listener), words(&[1, 0])],
        ),
        (
            "what tells of changes, by another number",
            libc::SYS_fcntl,
            numbers(&[sign, libc::F_DUPFD_CLOEXEC.into(), 0]),
        ),
        ("TIOCSTI", libc::SYS_ioctl, vec![Number(0), Number(0x5412), one()]),
        (
            "dumpable again",
            libc::SYS_prctl,
            numbers(&[libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0]),
        ),
        ("another filter", libc::SYS_seccomp, numbers(&[1, 0, 0])),
        ("setuid", libc::SYS_setuid, numbers(&[0])),
        ("setresuid", libc::SYS_setresuid, numbers(&[0, 0, 0])),
        ("setgroups", libc::SYS_setgroups, numbers(&[0, 0])),
        ("capset", libc::SYS_capset, numbers(&[0, 0])),
        (
            "open for writing",
            libc::SYS_openat,
            vec![Number(HERE), path("/tmp/x"), Number(0o101), Number(0o600)],
        ),
        ("old open", libc::SYS_open, vec![path("/etc/passwd"), Number(READ)]),
        ("old fork", libc::SYS_fork, vec![]),
        ("creat", libc::SYS_creat, vec![path("/tmp/x"), Number(0o600)]),
        (
            "unlink",
            libc::SYS_unlinkat,
            vec![Number(HERE), path("/tmp/x"), Number(0)],
        ),
        (
            "rename",
            libc::SYS_renameat2,
            vec![Number(HERE), path("/tmp/x"), Number(HERE), path("/tmp/y"), Number(0)],
        ),
        (
            "mkdir",
            libc::SYS_mkdirat,
            vec![Number(HERE), path("/tmp/x"), Number(0o700)],
        ),
        (
            "chmod",
            libc::SYS_fchmodat,
            vec![Number(HERE), path("/tmp/x"), Number(0o777)],
        ),
        ("x32 form of getpid", 0x4000_0000 + libc::SYS_getpid, vec![]),
    ];
    let row = |(name, number, arguments)| (name, number, arguments, KILLED);
    calls.into_iter().map(row).collect()
}

/// A msghdr that passes descriptor `number`; its parts are never looked at where the call is refused.
fn passing(number: u64) -> Argument {
    words(&[0, 0, number, 0, 0, 0, 0])
}

/// What a worker may ask for in vain.
fn vain_for_workers(around: Around) -> Vec<Row> {
    let Around {
        master,
        sibling,
        own,
        sign,
        ..
    } = around;
    let open = |name: &str| vec![Number(HERE), path(name), Number(READ)];
    let memory = |pid| format!("/proc/{pid}/mem");
    vec![
        ("open", libc::SYS_openat, open("/etc/passwd"), refused(Errno::EACCES)),
        (
            "open of memory",
            libc::SYS_openat,
            open(&memory(sibling)),
            refused(Errno::EACCES),
        ),
        (
            "open of the master's memory",
            libc::SYS_openat,
            open(&memory(master)),
            refused(Errno::EACCES),
        ),
        (
            "open of its own memory",
            libc::SYS_openat,
            open("/proc/self/mem"),
            refused(Errno::EACCES),
        ),
        (
            "reports of changes, taken away from the others",
            libc::SYS_read,
            vec![Number(sign), Octets(vec![0; 4096]), Number(4096)],
            refused(Errno::EINVAL),
        ),
        (
            "openat2",
            libc::SYS_openat2,
            numbers(&[HERE, 0, 0, 0]),
            refused(Errno::ENOSYS),
        ),
        (
            "clone",
            libc::SYS_clone,
            numbers(&[FORK, 0, 0, 0, 0]),
            refused(Errno::EAGAIN),
        ),
        (
            "clone3",
            libc::SYS_clone3,
            vec![words(&[0; 8]), Number(64)],
            refused(Errno::ENOSYS),
        ),
        (
            "kill the master",
            libc::SYS_kill,
            numbers(&[master, 15]),
            refused(Errno::EPERM),
        ),
        (
            "kill a sibling",
            libc::SYS_kill,
            numbers(&[sibling, 9]),
            refused(Errno::EPERM),
        ),
        (
            // Answers 0 when it has reached nobody: the master would tell its status.
            "signal to everybody",
            libc::SYS_kill,
            numbers(&[-1, libc::SIGUSR1.into()]),
            Outcome::Returned(0),
        ),
        (
            "look for a sibling",
            libc::SYS_kill,
            numbers(&[sibling, 0]),
            refused(Errno::EPERM),
        ),
        (
            "tgkill a sibling",
            libc::SYS_tgkill,
            numbers(&[sibling, sibling, 9]),
            refused(Errno::EPERM),
        ),
        (
            "more processes",
            libc::SYS_prlimit64,
            vec![Number(0), Number(6), words(&[10, 10]), Number(0)],
            refused(Errno::EPERM),
        ),
        (
            "a descriptor from which sendmsg is allowed",
            libc::SYS_fcntl,
            numbers(&[own, libc::F_DUPFD_CLOEXEC.into(), 64]),
            refused(Errno::EINVAL),
        ),
        (
            "sendmsg there",
            libc::SYS_sendmsg,
            vec![Number(64), passing(0), Number(0)],
            refused(Errno::EBADF),
        ),
        (
            "a call newer than the build",
            460 + 40,
            numbers(&[0; 6]),
            refused(Errno::ENOSYS),
        ),
    ]
}

/// The processes of this name, of which `count` must be there.
fn named(master: i32, name: &str, count: usize) -> Vec<Process> {
    let mut found = Vec::new();
    wait_until(|| {
        found = Process::tree(master);
        found.retain(|process| process.name == name);
        found.len() >= count
    });
    assert!(found.len() >= count, "{name}: {found:?}");
    found
}

/// Takes a process once it waits in a call; none, said by name, where there is no tracing.
fn take(test: &str, pid: i32) -> Option<Puppet> {
    let end = Instant::now() + PATIENCE;
    loop {
        match Puppet::take(pid) {
            Ok(puppet) => return Some(puppet),
            Err(error) if error.starts_with("ptrace") => {
                skip(test, &error);
                return None;
            }
            Err(error) => assert!(Instant::now() < end, "{pid}: {error}"),
        }
    }
}

#[test]
fn a_worker_that_was_taken_over_reaches_nothing() {
    let test = "privileges::a_worker_that_was_taken_over";
    if !needs_root(test) {
        return;
    }
    let mut setup = reachable(Setup::new());
    setup.set("rsmtpd.yaml", "workers", "{min_spare: 100, max_spare: 110}");
    let server = setup.start();
    let by_name = processes(&server, 100);
    let mut victims = by_name["rsmtpd: worker"].iter().map(|worker| worker.pid);
    let (master, sibling) = (i64::from(server.pid()), i64::from(victims.next().expect("a sibling")));
    let worker = &by_name["rsmtpd: worker"][1];
    let [listener, link, voice, own, sign] = descriptors_of(worker);
    let around = Around {
        master,
        sibling,
        listener,
        link,
        voice,
        own,
        sign,
    };
    let mut failed = Vec::new();
    let mut check = |puppet: &mut Puppet, (name, number, arguments, expected): Row| {
        let outcome = puppet.call(number, &arguments);
        if outcome != expected {
            failed.push(format!("{name}: {outcome:?} instead of {expected:?}"));
        }
    };
    let Some(mut puppet) = take(test, worker.pid) else {
        return;
    };
    assert_eq!(puppet.call(libc::SYS_getpid, &[]), Outcome::Returned(worker.pid.into()));
    for row in vain_for_workers(around) {
        check(&mut puppet, row);
    }
    drop(puppet);
    let mut victims = victims.skip(1);
    let mut deadly = deadly_for_workers(around);
    deadly.extend(deadly_for_all(sibling));
    for row in deadly {
        let Some(mut puppet) = victims.next().and_then(|pid| take(test, pid)) else {
            panic!("no worker left");
        };
        check(&mut puppet, row);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // Neither the sibling nor the master has felt anything, and the one that asked in vain goes on.
    for pid in [server.pid(), worker.pid, sibling as i32] {
        assert!(Process::read(pid).is_some_and(|process| process.name.starts_with("rsmtpd: ")));
    }
    assert!(wait_until(
        || server.said().contains("event=worker-crashed") && server.said().contains("how=sigsys")
    ));
    assert_eq!(server.hello().command("NOOP").code, 250);
    assert!(!server.said().contains("event=status"), "{}", server.said());
}

/// The numbers that a spare has for a listener, its Link and its voice, for something that nobody else has, and for what
/// all have to tell of changes.
fn descriptors_of(worker: &Process) -> [i64; 5] {
    let (mut listener, mut pairs, mut own, mut sign) = (None, Vec::new(), None, None);
    let local = local_sockets();
    for (number, link) in worker.descriptors() {
        let text = link.to_string_lossy();
        let inode = text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        match inode {
            _ if number < 3 => {}
            Some(inode) if local.iter().any(|known| known == inode) => pairs.push(i64::from(number)),
            Some(_) => listener = Some(i64::from(number)),
            None if text.contains("eventpoll") && number < 30 => own = Some(i64::from(number)),
            None if text.contains("eventpoll") => sign = Some(i64::from(number)),
            None => {}
        }
    }
    let [link, voice] = pairs[..] else {
        panic!("a Link and a voice: {pairs:?}");
    };
    [
        listener.expect("a listener"),
        link,
        voice,
        own.expect("what it waits with"),
        sign.expect("what tells of changes"),
    ]
}

/// The inodes of all local sockets.
fn local_sockets() -> Vec<String> {
    let table = fs::read_to_string("/proc/net/unix").expect("local sockets");
    let inode = |line: &str| line.split_whitespace().nth(6).map(str::to_owned);
    table.lines().skip(1).filter_map(inode).collect()
}

/// Deaths of one helper in a row: its parent half pauses longer after each.
const DEATHS: usize = 3;

/// That the working half of a helper of `setup` is refused what `rows` say, given the master's number; after a deadly
/// one its parent makes another.
fn helper_is_refused(test: &str, name: &str, setup: impl Fn() -> Setup, rows: impl Fn(i64) -> Vec<Row>) {
    if !needs_root(test) {
        return;
    }
    let mut failed = Vec::new();
    let (mut next, mut count) = (0, usize::MAX);
    while next < count {
        let server = reachable(setup()).start();
        let working = |not: i32| {
            let mut pid = None;
            wait_until(|| {
                let halves = named(server.pid(), name, 1);
                let half = halves.iter().find(|p| p.seccomp == 2 && p.pid != not);
                pid = half.map(|p| p.pid);
                pid.is_some()
            });
            pid.expect("the working half")
        };
        let rows = rows(server.pid().into());
        count = rows.len();
        let (mut pid, mut deaths) = (working(0), 0);
        for (call, number, arguments, expected) in rows.into_iter().skip(next) {
            let Some(mut puppet) = take(test, pid) else {
                return;
            };
            let outcome = puppet.call(number, &arguments);
            if outcome != expected {
                failed.push(format!("{call}: {outcome:?} instead of {expected:?}"));
            }
            drop(puppet);
            next += 1;
            if matches!(outcome, Outcome::Killed(_)) {
                deaths += 1;
                if deaths == DEATHS {
                    break;
                }
                pid = working(pid);
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn vain_for_helpers(other: i64) -> Vec<Row> {
    let open = |name: &str, flags| vec![Number(HERE), path(name), Number(flags), Number(0o600)];
    vec![
        (
            "open",
            libc::SYS_openat,
            open("/etc/passwd", READ),
            refused(Errno::EACCES),
        ),
        (
            "old open",
            libc::SYS_open,
            vec![path("/etc/passwd"), Number(READ)],
            KILLED,
        ),
        (
            "make a file",
            libc::SYS_openat,
            open("/tmp/rsmtpd-made", 0o101),
            refused(Errno::EACCES),
        ),
        (
            "kill the master",
            libc::SYS_kill,
            numbers(&[other, 15]),
            refused(Errno::EPERM),
        ),
        (
            "clone3",
            libc::SYS_clone3,
            vec![words(&[0; 8]), Number(64)],
            refused(Errno::ENOSYS),
        ),
        // A few that end it; the whole list is the worker's.
        ("internet socket", libc::SYS_socket, numbers(&[INET, STREAM, 0]), KILLED),
        ("fork", libc::SYS_fork, vec![], KILLED),
        ("fork by clone", libc::SYS_clone, numbers(&[FORK, 0, 0, 0, 0]), KILLED),
        (
            "execve",
            libc::SYS_execve,
            vec![path("/bin/true"), Number(0), Number(0)],
            KILLED,
        ),
        (
            "prlimit of the master",
            libc::SYS_prlimit64,
            numbers(&[other, 7, 0, 0]),
            KILLED,
        ),
        ("ptrace", libc::SYS_ptrace, numbers(&[16, other, 0, 0]), KILLED),
    ]
}

#[test]
fn delivery_has_no_network_and_no_program() {
    helper_is_refused(
        "privileges::delivery_has_no_network",
        "rsmtpd: deliver",
        Setup::new,
        vain_for_helpers,
    );
}

#[test]
fn the_logger_has_no_network_no_program_and_no_thread() {
    let rows = |master| {
        let thread = (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as i64;
        let mut rows = vain_for_helpers(master);
        rows.push(("thread", libc::SYS_clone, numbers(&[thread, 0, 0, 0, 0]), KILLED));
        rows
    };
    let test = "privileges::the_logger_has_no_network";
    helper_is_refused(test, "rsmtpd: logger", Setup::new, rows);
}

#[test]
fn the_keeper_reads_what_it_was_named_and_reaches_nobody() {
    let rows = |master| {
        let open = |name: &str, flags| vec![Number(HERE), path(name), Number(flags), Number(0o600)];
        let plain = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as i64;
        let datagram = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as i64;
        let local = libc::AF_UNIX.into();
        let thread = (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as i64;
        vec![
            // It has the capability to read it, and the sandbox does not let it.
            (
                "open",
                libc::SYS_openat,
                open("/etc/shadow", READ),
                refused(Errno::EACCES),
            ),
            ("kill", libc::SYS_kill, numbers(&[master, 15]), refused(Errno::EPERM)),
            ("make", libc::SYS_openat, open("/tmp/rsmtpd-made", 0o101), KILLED),
            (
                "connect",
                libc::SYS_connect,
                vec![Number(0), internet(), Number(16)],
                KILLED,
            ),
            ("datagrams", libc::SYS_socket, numbers(&[INET, datagram, 0]), KILLED),
            ("local socket", libc::SYS_socket, numbers(&[local, plain, 0]), KILLED),
            (
                "execve",
                libc::SYS_execve,
                vec![path("/bin/true"), Number(0), Number(0)],
                KILLED,
            ),
            ("thread", libc::SYS_clone, numbers(&[thread, 0, 0, 0, 0]), KILLED),
            ("setuid", libc::SYS_setuid, numbers(&[0]), KILLED),
            ("ptrace", libc::SYS_ptrace, numbers(&[16, master, 0, 0]), KILLED),
            ("fork", libc::SYS_fork, vec![], KILLED),
            ("fork by clone", libc::SYS_clone, numbers(&[FORK, 0, 0, 0, 0]), KILLED),
        ]
    };
    let test = "privileges::the_keeper_reads_what";
    helper_is_refused(test, "rsmtpd: keeper", Setup::new, rows);
}

/// What the broker dies of: all that it needs is to make sockets of the internet, and to connect them.
fn deadly_for_the_broker(master: i64) -> Vec<Row> {
    let thread = (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as i64;
    let own = |kind: libc::c_int| i64::from(kind | libc::SOCK_CLOEXEC);
    let calls = vec![
        (
            "execve",
            libc::SYS_execve,
            vec![path("/bin/true"), Number(0), Number(0)],
        ),
        ("fork", libc::SYS_fork, vec![]),
        ("fork by clone", libc::SYS_clone, numbers(&[FORK, 0, 0, 0, 0])),
        ("vfork", libc::SYS_vfork, vec![]),
        ("thread", libc::SYS_clone, numbers(&[thread, 0, 0, 0, 0])),
        (
            "open for writing",
            libc::SYS_openat,
            vec![Number(HERE), path("/tmp/rsmtpd-made"), Number(0o101), Number(0o600)],
        ),
        ("old open", libc::SYS_open, vec![path("/etc/passwd"), Number(READ)]),
        (
            "unlink",
            libc::SYS_unlinkat,
            vec![Number(HERE), path("/tmp/x"), Number(0)],
        ),
        ("bind", libc::SYS_bind, vec![Number(0), internet(), Number(16)]),
        ("listen", libc::SYS_listen, numbers(&[0, 0])),
        (
            "local socket",
            libc::SYS_socket,
            numbers(&[libc::AF_UNIX.into(), own(libc::SOCK_STREAM), 0]),
        ),
        (
            "raw socket",
            libc::SYS_socket,
            numbers(&[INET, own(libc::SOCK_RAW), libc::IPPROTO_TCP.into()]),
        ),
        (
            "packet socket",
            libc::SYS_socket,
            numbers(&[libc::AF_PACKET.into(), own(libc::SOCK_DGRAM), 0]),
        ),
        (
            "netlink socket",
            libc::SYS_socket,
            numbers(&[libc::AF_NETLINK.into(), own(libc::SOCK_RAW), 0]),
        ),
        (
            "prlimit of the master",
            libc::SYS_prlimit64,
            numbers(&[master, 7, 0, 0]),
        ),
        ("setuid", libc::SYS_setuid, numbers(&[0])),
        ("capset", libc::SYS_capset, numbers(&[0, 0])),
        (
            "mprotect to execute",
            libc::SYS_mprotect,
            numbers(&[0, 4096, libc::PROT_EXEC.into()]),
        ),
    ];
    let row = |(name, number, arguments)| (name, number, arguments, KILLED);
    let own = calls.into_iter().map(row);
    own.chain(deadly_for_all(master).into_iter().take(3)).collect()
}

#[test]
fn the_broker_makes_sockets_and_nothing_else() {
    let rows = |master: i64| {
        let open = |name: &str| vec![Number(HERE), path(name), Number(READ), Number(0)];
        let denied = refused(Errno::EACCES);
        let mut rows = vec![
            ("open", libc::SYS_openat, open("/etc/passwd"), denied),
            (
                "memory of the master",
                libc::SYS_openat,
                open(&format!("/proc/{master}/mem")),
                denied,
            ),
            ("its own memory", libc::SYS_openat, open("/proc/self/mem"), denied),
            (
                "kill the master",
                libc::SYS_kill,
                numbers(&[master, 15]),
                refused(Errno::EPERM),
            ),
            (
                "clone3",
                libc::SYS_clone3,
                vec![words(&[0; 8]), Number(64)],
                refused(Errno::ENOSYS),
            ),
        ];
        rows.extend(deadly_for_the_broker(master));
        rows
    };
    let test = "privileges::the_broker_makes_sockets";
    helper_is_refused(test, "rsmtpd: broker", || whole(Setup::new()), rows);
}

/// Broken into, it reaches the ports that the configuration names and no other, by TCP.
#[test]
fn the_broker_connects_to_ports_of_the_configuration_alone() {
    let test = "privileges::the_broker_connects_to_ports";
    if !needs_root(test) {
        return;
    }
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (named, other) = (listen(), listen());
    let port = |listener: &std::net::TcpListener| listener.local_addr().expect("address").port();
    let mut setup = whole(reachable(Setup::new()));
    setup.set(
        "rsmtpd.yaml",
        "nameservers",
        &format!("[\"127.0.0.1:{}\"]", port(&named)),
    );
    let server = setup.start();
    let Some(mut puppet) = take(test, server.working_half("broker")) else {
        return;
    };
    let Outcome::Returned(socket) = puppet.call(libc::SYS_socket, &numbers(&[INET, STREAM, 0])) else {
        panic!("no socket");
    };
    let mut connect = |port: u16| {
        let [high, low] = port.to_be_bytes();
        let address = Octets(vec![2, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        puppet.call(libc::SYS_connect, &[Number(socket), address, Number(16)])
    };
    assert_eq!(connect(port(&other)), refused(Errno::EACCES));
    assert_eq!(connect(server.address().port()), refused(Errno::EACCES));
    assert_eq!(connect(port(&named)), Outcome::Returned(0));
}

#[test]
fn a_key_is_the_keepers_alone() {
    let test = "privileges::a_key_is_the_keepers_alone";
    if !needs_root(test) || tool(test, "openssl").is_none() {
        return;
    }
    let mut setup = whole(reachable(Setup::new()));
    let pair = certificates::make(&setup.aside().join("keys"), "mail.example.com", certificates::ECDSA);
    certificates::enable(
        &mut setup,
        &certificates::entry(".example.com", "mail.example.com", &pair),
    );
    let key = pair.1.display().to_string();
    // Only modes protect a key in the one directory that workers see.
    let copy = setup.config().join("copy.key");
    std::fs::copy(&pair.1, &copy).expect("copy");
    let server = setup.start();
    assert!(server.hello_text().contains("STARTTLS"));
    let by_name = processes(&server, 8);
    let worker = by_name["rsmtpd: worker"][0].pid;
    for pid in [server.pid(), worker, server.working_half("broker")] {
        let Some(mut puppet) = take(test, pid) else { return };
        for path_of_key in [key.as_str(), &copy.display().to_string()] {
            let open = vec![Number(HERE), path(path_of_key), Number(READ)];
            assert_eq!(
                puppet.call(libc::SYS_openat, &open),
                refused(Errno::EACCES),
                "{path_of_key}"
            );
        }
        let memory = format!("/proc/{}/mem", server.working_half("keeper"));
        let open = vec![Number(HERE), path(&memory), Number(READ)];
        assert_eq!(puppet.call(libc::SYS_openat, &open), refused(Errno::EACCES));
    }
    let Some(mut keeper) = take(test, server.working_half("keeper")) else {
        return;
    };
    let open = vec![Number(HERE), path(&key), Number(READ)];
    assert!(matches!(keeper.call(libc::SYS_openat, &open), Outcome::Returned(_)));
}

#[test]
fn delivery_that_runs_programs_has_no_network_either() {
    let test = "privileges::delivery_that_runs_programs";
    if !needs_root(test) {
        return;
    }
    let mut setup = reachable(Setup::new());
    setup.set("delivery.yaml", "agent", "dovecot_lda");
    let server = setup.start();
    let halves = named(server.pid(), "rsmtpd: deliver", 2);
    let half = halves.iter().find(|p| p.seccomp == 2).expect("the working half");
    let Some(mut puppet) = take(test, half.pid) else {
        return;
    };
    for (name, family) in [
        ("IPv4", libc::AF_INET),
        ("IPv6", libc::AF_INET6),
        ("netlink", libc::AF_NETLINK),
    ] {
        let outcome = puppet.call(libc::SYS_socket, &numbers(&[family.into(), STREAM, 0]));
        assert_eq!(outcome, refused(Errno::EPERM), "{name}");
    }
    let namespace = FORK | i64::from(libc::CLONE_NEWUSER);
    let outcome = puppet.call(libc::SYS_clone, &numbers(&[namespace, 0, 0, 0, 0]));
    assert_eq!(outcome, refused(Errno::EPERM));
    drop(puppet);
    let master = server.pid().into();
    for row in deadly_for_all(master).into_iter().take(4) {
        let halves = named(server.pid(), "rsmtpd: deliver", 2);
        let Some(half) = halves.iter().find(|p| p.seccomp == 2) else {
            continue;
        };
        let Some(mut puppet) = take(test, half.pid) else { return };
        let (name, number, arguments, expected) = row;
        assert_eq!(puppet.call(number, &arguments), expected, "{name}");
    }
}

#[test]
fn the_master_reads_its_configuration_and_nothing_else() {
    let test = "privileges::the_master_reads_its_configuration";
    if !needs_root(test) {
        return;
    }
    let server = reachable(Setup::new()).start();
    let Some(mut puppet) = take(test, server.pid()) else {
        return;
    };
    let open = |name: &str| vec![Number(HERE), path(name), Number(READ)];
    assert_eq!(
        puppet.call(libc::SYS_openat, &open("/etc/passwd")),
        refused(Errno::EACCES)
    );
    assert_eq!(puppet.call(libc::SYS_kill, &numbers(&[1, 0])), refused(Errno::EPERM));
    assert_eq!(puppet.call(libc::SYS_setresuid, &numbers(&[0, 0, 0])), KILLED);
}
