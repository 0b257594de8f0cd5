//! Each probe runs in a forked child inside the sandbox: it ends with a code, or dies by SIGSYS.

use super::super::process::{self, Ended, Fork};
use super::super::{in_child, skip};
use super::super::{memory, signals, socket};
use super::*;
use std::io::Write;
use std::path::Path;

const KILLED: Ended = Ended::Signaled(libc::SIGSYS);
const DONE: Ended = Ended::Exited(0);
const LIMITS: Limits = Limits {
    file_size: 1 << 20,
    address_space: 1 << 40,
    cpu_seconds: 60,
};

/// Whether the kernel has every layer; else what is not proved is said.
fn confined() -> bool {
    let complete = check(Mode::Require);
    if let Err(error) = &complete {
        skip("sys::sandbox", &error.to_string());
    }
    complete.is_ok()
}

/// Runs `probe` inside the profile of the master and its workers.
fn as_master(read: &Path, probe: impl FnOnce() -> i32) -> Ended {
    let profile = Profile::master_and_worker(vec![read.to_path_buf()]);
    in_child(|| match enter(&profile, Mode::BestEffort) {
        Ok(_) => probe(),
        Err(_) => 99,
    })
}

/// Runs `probe` as a worker: in the profile, without high descriptors, with the worker's own layer.
fn as_worker(probe: impl FnOnce() -> i32) -> Ended {
    as_master(Path::new("/nonexistent"), || {
        let _ = process::close_from_unshare(socket::FIRST_CONTROL);
        match worker_layer(&LIMITS) {
            Ok(_) => probe(),
            Err(_) => 98,
        }
    })
}

/// 0 when the raw call was refused with an error.
fn refused(returned: libc::c_long) -> i32 {
    i32::from(returned >= 0)
}

#[test]
fn calls_that_a_worker_must_not_have_kill_it() {
    if !confined() {
        return;
    }
    let watches = [
        ("inotify_init1", libc::SYS_inotify_init1, [0; 5]),
        ("inotify_add_watch", libc::SYS_inotify_add_watch, [63, 0, 2, 0, 0]),
        ("inotify_rm_watch", libc::SYS_inotify_rm_watch, [63, 1, 0, 0, 0]),
        ("epoll_ctl of what is shared", libc::SYS_epoll_ctl, [30, 1, 1, 0, 0]),
    ];
    for (name, number, arguments) in refused_calls().into_iter().chain(watches) {
        let [a, b, c, d, e] = arguments;
        // SAFETY: a probe without pointers, or with null ones; the filter refuses it by number and arguments
        // before the kernel looks further.
        let probe = || 50 + refused(unsafe { libc::syscall(number, a, b, c, d, e, 0_usize) });
        assert_eq!(as_worker(probe), KILLED, "{name}");
    }
}

type Probe = (&'static str, libc::c_long, [libc::c_long; 5]);

fn refused_calls() -> Vec<Probe> {
    let long = libc::c_long::from;
    let (exec, thread) = (long(libc::PROT_EXEC), long(libc::CLONE_VM | libc::CLONE_THREAD));
    let namespace = long(libc::CLONE_NEWUSER | libc::SIGCHLD);
    let (parent, inet) = (long(process::id().as_raw()), long(libc::AF_INET));
    vec![
        ("socket", libc::SYS_socket, [inet, long(libc::SOCK_DGRAM), 0, 0, 0]),
        ("connect", libc::SYS_connect, [1, 0, 0, 0, 0]),
        ("bind", libc::SYS_bind, [1, 0, 0, 0, 0]),
        ("execve", libc::SYS_execve, [0; 5]),
        ("execveat", libc::SYS_execveat, [0; 5]),
        ("ptrace", libc::SYS_ptrace, [16, parent, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [parent, 0, 0, 0, 0]),
        ("unshare", libc::SYS_unshare, [long(libc::CLONE_NEWUSER), 0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        ("mmap exec", libc::SYS_mmap, [0, 4096, exec, 0x22, -1]),
        ("mprotect exec", libc::SYS_mprotect, [0, 4096, exec, 0, 0]),
        ("thread", libc::SYS_clone, [thread, 0, 0, 0, 0]),
        ("namespace", libc::SYS_clone, [namespace, 0, 0, 0, 0]),
        ("prlimit64", libc::SYS_prlimit64, [parent, 0, 0, 0, 0]),
        ("sched_setaffinity", libc::SYS_sched_setaffinity, [0; 5]),
        ("sched_setscheduler", libc::SYS_sched_setscheduler, [parent, 0, 0, 0, 0]),
        ("setpriority", libc::SYS_setpriority, [0, parent, 0, 0, 0]),
        ("ioprio_set", libc::SYS_ioprio_set, [1, parent, 0, 0, 0]),
        ("setuid", libc::SYS_setuid, [0; 5]),
        ("sendmsg", libc::SYS_sendmsg, [1, 0, 0, 0, 0]),
        ("sendto elsewhere", libc::SYS_sendto, [1, 0, 0, 0, 4096]),
        ("shutdown", libc::SYS_shutdown, [1, 2, 0, 0, 0]),
        (
            "setsockopt",
            libc::SYS_setsockopt,
            [63, long(libc::IPPROTO_TCP), long(libc::TCP_NODELAY), 0, 0],
        ),
        (
            "SO_ATTACH_FILTER",
            libc::SYS_setsockopt,
            [63, long(libc::SOL_SOCKET), long(libc::SO_ATTACH_FILTER), 0, 0],
        ),
        (
            "SO_PASSCRED",
            libc::SYS_setsockopt,
            [63, long(libc::SOL_SOCKET), long(libc::SO_PASSCRED), 0, 0],
        ),
        ("F_SETFL", libc::SYS_fcntl, [1, long(libc::F_SETFL), 0, 0, 0]),
        ("F_SETOWN", libc::SYS_fcntl, [63, long(libc::F_SETOWN), parent, 0, 0]),
        ("dumpable", libc::SYS_prctl, [long(libc::PR_SET_DUMPABLE), 1, 0, 0, 0]),
        ("seccomp", libc::SYS_seccomp, [1, 0, 0, 0, 0]),
        (
            "open for writing",
            libc::SYS_openat,
            [-100, 0, long(libc::O_WRONLY), 0, 0],
        ),
        ("pidfd_open", libc::SYS_pidfd_open, [parent, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0; 5]),
        // Space behind a file's end, which its limit of size does not bind.
        ("fallocate", libc::SYS_fallocate, [1, 1, 0, 1 << 30, 0]),
    ]
}

#[test]
fn what_the_walls_refuse_without_killing() {
    if !confined() {
        return;
    }
    let parent = process::id();
    assert_eq!(as_worker(|| i32::from(process::kill(parent, 0).is_ok())), DONE);
    assert_eq!(as_worker(|| i32::from(std::fs::read("/etc/passwd").is_ok())), DONE);
    // SAFETY: no pointer is passed.
    let newer = as_worker(|| unsafe {
        let returned = libc::syscall(libc::SYS_mseal + 300);
        i32::from(!(returned == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)))
    });
    assert_eq!(newer, DONE);
    let files = as_worker(|| {
        // What other tests have open at the moment.
        let _ = process::close_from_unshare(3);
        let Ok(one) = std::io::pipe() else { return 2 };
        let held: Vec<_> = (0..100).map_while(|_| one.0.try_clone().ok()).collect();
        i32::from(held.len() >= 64)
    });
    assert_eq!(files, DONE);
}

#[test]
fn a_worker_cannot_fork_even_without_root() {
    if !confined() {
        return;
    }
    if !super::super::privilege::is_root() {
        return skip("sys::sandbox::a_worker_cannot_fork_even_without_root", "needs root");
    }
    let identity = super::super::privilege::dynamic_identities(8, None).unwrap().remove(7);
    let ended = in_child(|| {
        super::super::privilege::drop_to(&identity, &[]).unwrap();
        enter(&Profile::master_and_worker(Vec::new()), Mode::Require).unwrap();
        let sibling = match process::fork().unwrap() {
            Fork::Parent(pid) => pid,
            Fork::Child => loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
            },
        };
        let reachable = process::kill(sibling, 0).is_ok(); // the master can
        let worker = in_child(|| {
            worker_layer(&LIMITS).unwrap();
            let fork = match process::fork() {
                Ok(Fork::Child) => process::exit_now(0),
                other => other.is_ok(),
            };
            i32::from(fork) + 2 * i32::from(process::kill(sibling, 0).is_ok())
        });
        let _ = process::kill(sibling, libc::SIGKILL);
        let _ = process::wait(sibling);
        if reachable && worker == DONE { 0 } else { 1 }
    });
    assert_eq!(ended, DONE);
}

/// A table of descriptors of its own, accept, answer, write into what the master lends.
fn life_of_a_worker(listener: &OwnedFd, others: OwnedFd, master: &OwnedFd, shared: &memory::Shared) {
    signals::reset_in_child().unwrap();
    process::set_name("worker").unwrap();
    process::set_pdeathsig(libc::SIGKILL).unwrap();
    process::close_from_unshare(900).unwrap();
    drop(others);
    let (accepted, _) = socket::accept(listener).unwrap();
    let accepted = socket::place_client(accepted).unwrap();
    worker_layer(&LIMITS).unwrap();
    let mut stream = std::net::TcpStream::from(accepted);
    stream.set_nonblocking(true).unwrap();
    stream.write_all(b"220 ready\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let (_, file) = socket::recv_frame(master, &mut [0; 32]).unwrap();
    let mut file = std::fs::File::from(file.unwrap());
    file.write_all(&vec![b'x'; 300_000]).unwrap();
    file.set_len(200_000).unwrap();
    super::super::random::number().unwrap();
    assert_eq!(shared.load(0), Some(5));
    let _ = std::time::SystemTime::now();
    socket::send_frame(master, b"Done", &[]).unwrap();
}

/// Has `poll` tell of `signals`.
fn hear(poll: &mio::Poll, signals: &signals::Signals) {
    let number = signals.as_raw_fd();
    let mut source = mio::unix::SourceFd(&number);
    let readable = mio::Interest::READABLE;
    poll.registry().register(&mut source, mio::Token(0), readable).unwrap();
}

#[test]
fn the_work_of_master_and_worker_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("worker.yaml"), "text").unwrap();
    let listener = socket::listen("127.0.0.1:0".parse().unwrap(), 8).unwrap();
    let there = socket::local_addr(&listener).unwrap();
    let mut spool = tempfile::tempfile().unwrap();
    let client = std::net::TcpStream::connect(there).unwrap();
    let ended = as_master(directory.path(), || {
        // Descriptors of other tests would take the numbers that a worker may have.
        let keep = [0, 1, 2, listener.as_raw_fd(), spool.as_raw_fd(), client.as_raw_fd()];
        process::close_range_except(&keep).unwrap();
        // the pattern of life: signals, poll, read the configuration, fork by clone, accept, answer, end
        let (table, shared) = memory::SealedTable::new(4).unwrap();
        let mut signals = signals::Signals::new(&[nix::sys::signal::Signal::SIGCHLD], 64).unwrap();
        let (ours, theirs) = socket::seqpacket_pair().unwrap();
        let ours = socket::move_fd_at_least(ours, socket::FIRST_CONTROL).unwrap();
        let mut poll = mio::Poll::new().unwrap();
        hear(&poll, &signals);
        assert_eq!(
            std::fs::read_to_string(directory.path().join("worker.yaml")).unwrap(),
            "text"
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        table.store(0, 5);
        let blocked = signals::block_for_fork().unwrap();
        match process::spawn_sharing_files(900).unwrap() {
            Fork::Child => {
                std::mem::forget(blocked);
                life_of_a_worker(&listener, ours, &theirs, &shared);
                process::exit_now(0);
            }
            Fork::Parent(worker) => {
                drop(blocked);
                socket::send_frame(&ours, b"Staged", &[std::os::fd::AsFd::as_fd(&spool)]).unwrap();
                assert_eq!(socket::recv_frame(&ours, &mut [0; 32]).unwrap().0, 4);
                drop(theirs);
                let mut events = mio::Events::with_capacity(8);
                // The handler may interrupt the wait that it ends.
                let patience = Some(std::time::Duration::from_secs(5));
                while let Err(error) = poll.poll(&mut events, patience) {
                    assert_eq!(error.kind(), std::io::ErrorKind::Interrupted);
                }
                assert!(!signals.take().is_empty());
                assert_eq!(process::reap(), Some((worker, DONE)));
                0
            }
        }
    });
    assert_eq!(ended, DONE);
    assert_eq!(std::io::read_to_string(&client).unwrap(), "220 ready\r\n");
    std::io::Seek::rewind(&mut spool).unwrap();
    assert_eq!(spool.metadata().unwrap().len(), 200_000);
}

#[test]
fn what_outlives_a_worker_can_be_lent_to_the_next() {
    let ended = as_master(Path::new("/nonexistent"), || {
        // Descriptors of other tests would take the numbers that a worker may have.
        process::close_range_except(&[0, 1, 2]).unwrap();
        let (ours, _theirs) = socket::seqpacket_pair().unwrap();
        let ours = socket::move_fd_at_least(ours, socket::FIRST_CONTROL).unwrap();
        socket::tell_senders(&ours).unwrap();
        let lent = socket::duplicate_at_least(&ours, 0).unwrap();
        i32::from(lent.as_raw_fd() >= socket::FIRST_SHARED)
    });
    assert_eq!(ended, DONE);
}

#[test]
fn logger_and_delivery_work_below_their_directories() {
    let directory = tempfile::tempdir().unwrap();
    let local = directory.path().join("log");
    let _receiver = std::os::unix::net::UnixDatagram::bind(&local).unwrap();
    let here = vec![directory.path().to_path_buf()];
    let logger = Profile::logger(Vec::new(), here.clone());
    let walls = confined();
    let work = |threads: bool| {
        let target = directory.path().join("file");
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&target)
            .unwrap();
        file.write_all(b"line\n").unwrap();
        file.sync_all().unwrap();
        std::fs::rename(&target, directory.path().join("renamed")).unwrap();
        std::fs::remove_file(directory.path().join("renamed")).unwrap();
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        socket.connect(&local).unwrap();
        socket.send(b"line").unwrap();
        assert!(!walls || std::fs::write(std::env::temp_dir().join("rsmtpd-outside"), "x").is_err());
        assert!(!threads || std::thread::spawn(|| 3).join().is_ok_and(|three| three == 3));
        0
    };
    assert_eq!(
        in_child(|| enter(&logger, Mode::BestEffort).map_or(99, |_| work(false))),
        DONE
    );
    let delivery = Profile::delivery(Vec::new(), here.clone(), Vec::new());
    let links = || {
        process::set_dumpable(false).unwrap();
        let dir = super::super::file::open_directory(directory.path()).unwrap();
        let nameless = super::super::file::open_tmpfile(&dir).unwrap();
        super::super::file::link_tmpfile(&nameless, &dir, std::ffi::OsStr::new("linked")).unwrap();
        work(true)
    };
    assert_eq!(
        in_child(|| enter(&delivery, Mode::BestEffort).map_or(99, |_| links())),
        DONE
    );
    if confined() {
        let exec = || {
            std::process::Command::new("/bin/true")
                .status()
                .is_ok_and(|status| status.success())
        };
        let ran = in_child(|| enter(&delivery, Mode::BestEffort).map_or(99, |_| i32::from(exec())));
        assert_eq!(ran, KILLED, "not even the process for it");
    }
}

#[test]
fn delivery_runs_the_programs_of_its_profile() {
    let directory = tempfile::tempdir().unwrap();
    let here = vec![directory.path().to_path_buf()];
    let system = ["/bin", "/usr", "/lib", "/lib64"].map(PathBuf::from).to_vec();
    let profile = Profile::delivery(vec!["/etc".into(), "/dev/null".into()], here, system);
    let run = |program: &str, argument: &Path| {
        let mut command = std::process::Command::new(program);
        let command = command
            .arg(argument)
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command.output().map_or(99, |output| output.status.code().unwrap_or(97))
    };
    let inside = directory.path().join("made");
    assert_eq!(
        in_child(|| enter(&profile, Mode::BestEffort).map_or(99, |_| run("/bin/mkdir", &inside))),
        DONE
    );
    if confined() {
        let outside = &std::env::temp_dir().join("rsmtpd-outside");
        let ended = in_child(|| enter(&profile, Mode::BestEffort).map_or(99, |_| run("/bin/mkdir", outside)));
        assert_eq!(ended, Ended::Exited(1));
        // SAFETY: no pointer is passed.
        let internet = || refused(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) }.into());
        assert_eq!(
            in_child(|| enter(&profile, Mode::BestEffort).map_or(99, |_| internet())),
            DONE
        );
        // SAFETY: no pointer is passed.
        let unshare = || refused(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into());
        assert_eq!(
            in_child(|| enter(&profile, Mode::BestEffort).map_or(99, |_| unshare())),
            KILLED
        );
    }
}

#[test]
fn missing_layers_are_named() {
    assert_eq!(missing_layers(0), ["Landlock"]);
    assert_eq!(missing_layers(4), ["Landlock's signal scope"]);
    assert!(missing_layers(7).is_empty());
    assert_eq!(
        in_child(|| enter(&Profile::master_and_worker(vec![]), Mode::Off).map_or(1, |m| m.len() as i32)),
        DONE
    );
    let names = calls(&Profile::master_and_worker(Vec::new()));
    assert!(names.contains(&"seccomp") && names.contains(&"landlock_restrict_self") && names.is_sorted());
}
