//! System calls made from within a running process, by the hand of a debugger: the process is what the
//! daemon made of it, with every wall that it has, and the test chooses what it calls, as an attacker would
//! who has taken it over.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::libc::{c_long, user_regs_struct};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was made.
    Returned(i64),
    /// It was refused with this error.
    Refused(Errno),
    /// The process was killed for it.
    Killed(Signal),
}

/// One argument of a call.
#[derive(Debug, Clone)]
pub enum Argument {
    /// A number.
    Number(i64),
    /// A pointer to these octets.
    Octets(Vec<u8>),
}

/// A stopped process. It goes on where it was when this is dropped.
pub struct Puppet {
    pid: Pid,
    before: user_regs_struct,
    alive: bool,
    /// Whether a child of its ended, of which it has not heard.
    bereaved: bool,
}

/// The instruction that enters the kernel: `syscall`.
const ENTER: [u8; 2] = [0x0f, 0x05];

impl Puppet {
    /// Stops a process that waits in a system call; says why it cannot.
    pub fn take(pid: i32) -> Result<Puppet, String> {
        let id = Pid::from_raw(pid);
        ptrace::attach(id).map_err(|error| format!("ptrace: {error}"))?;
        match waitpid(id, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Stopped(_, Signal::SIGSTOP)) => {}
            other => return Err(format!("not stopped: {other:?}")),
        }
        let before = ptrace::getregs(id).map_err(|error| format!("registers: {error}"))?;
        let puppet = Puppet {
            pid: id,
            before,
            alive: true,
            bereaved: false,
        };
        let mut instruction = [0; 2];
        let memory = OpenOptions::new().read(true).open(format!("/proc/{pid}/mem"));
        let read = memory.and_then(|memory| memory.read_exact_at(&mut instruction, before.rip - 2));
        match read {
            Ok(()) if instruction == ENTER => Ok(puppet),
            other => Err(format!("not in a system call: {other:?} {instruction:x?}")),
        }
    }

    /// Makes one call. After [`Outcome::Killed`] there is nobody left to make another.
    pub fn call(&mut self, number: c_long, arguments: &[Argument]) -> Outcome {
        assert!(self.alive, "it is dead");
        let mut values = [0_u64; 6];
        let mut below = self.before.rsp - 256; // what is under way keeps its red zone
        for (value, argument) in values.iter_mut().zip(arguments) {
            *value = match argument {
                Argument::Number(number) => number.cast_unsigned(),
                Argument::Octets(octets) => {
                    below = (below - octets.len() as u64) & !15;
                    self.write(below, octets);
                    below
                }
            };
        }
        let [rdi, rsi, rdx, r10, r8, r9] = values;
        let registers = user_regs_struct {
            rip: self.before.rip - 2,
            rax: number.cast_unsigned(),
            orig_rax: u64::MAX, // no call to be restarted
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.before
        };
        ptrace::setregs(self.pid, registers).expect("registers");
        match self.step() {
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => {
                let returned = ptrace::getregs(self.pid).expect("registers").rax.cast_signed();
                match returned {
                    -4095..=-1 => Outcome::Refused(Errno::from_raw((-returned) as i32)),
                    value => Outcome::Returned(value),
                }
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                self.alive = false;
                Outcome::Killed(signal)
            }
            other => panic!("after call {number}: {other:?}"),
        }
    }

    /// Lets it do one instruction. A child of its that ends meanwhile comes in before that, and is told of later.
    fn step(&mut self) -> nix::Result<WaitStatus> {
        loop {
            ptrace::step(self.pid, None)?;
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Stopped(_, Signal::SIGCHLD)) => self.bereaved = true,
                other => return other,
            }
        }
    }

    fn write(&self, at: u64, octets: &[u8]) {
        let memory = OpenOptions::new().write(true).open(format!("/proc/{}/mem", self.pid));
        memory
            .and_then(|memory| memory.write_all_at(octets, at))
            .expect("memory of the process");
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        if self.alive {
            let _ = ptrace::setregs(self.pid, self.before);
            let _ = ptrace::detach(self.pid, self.bereaved.then_some(Signal::SIGCHLD));
        }
    }
}
