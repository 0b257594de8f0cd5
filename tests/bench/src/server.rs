//! A server under measurement: started in a cgroup of its own, so that the CPU time of all of its processes is known,
//! also of those that have ended, and nothing else is ever signalled.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::aids::Aids;
use crate::load;

/// Longer files are removed as soon as they are counted.
const SHORT: u64 = 64 * 1024;

/// How to start one, and where its mail goes.
#[derive(Clone, Debug)]
pub struct Server {
    pub name: String,
    pub port: u16,
    /// Where it relays what it gets to the sink.
    pub proxy: u16,
    pub aids: Aids,
    /// Directories `new` below it hold what was delivered.
    pub mail: PathBuf,
    /// Stays in the foreground.
    pub command: Vec<String>,
    pub log: PathBuf,
    pub cgroup: PathBuf,
    /// Short messages that were there the last time.
    pub found: Cell<u64>,
}

/// A running one.
pub struct Running<'a> {
    pub server: &'a Server,
    child: Child,
}

impl Server {
    /// Starts it and waits for its greeting.
    pub fn start(&self) -> io::Result<Running<'_>> {
        fs::create_dir_all(&self.cgroup)?;
        let log = File::create(&self.log)?;
        let join = format!("echo $$ >'{}/cgroup.procs' && exec \"$@\"", self.cgroup.display());
        let child = Command::new("/bin/sh")
            .args(["-c", &join, "sh"])
            .args(&self.command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir("/")
            .process_group(0)
            .spawn()?;
        let mut running = Running { server: self, child };
        let begun = Instant::now();
        while !load::answers(self.port) {
            let gone = running.child.try_wait()?.is_some() && self.processes().is_empty();
            if gone || begun.elapsed() > Duration::from_secs(20) {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                running.stop()?;
                return Err(io::Error::other(format!(
                    "{} does not answer on port {}: {said}",
                    self.name, self.port
                )));
            }
            sleep(Duration::from_millis(100));
        }
        running.settle(Duration::from_secs(10))?;
        Ok(running)
    }

    fn processes(&self) -> Vec<i32> {
        let list = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// CPU seconds of all processes so far.
    pub fn cpu(&self) -> io::Result<f64> {
        if let Ok(nanos) = fs::read_to_string(self.cgroup.join("cpuacct.usage")) {
            return nanos
                .trim()
                .parse::<f64>()
                .map(|nanos| nanos / 1e9)
                .map_err(io::Error::other);
        }
        let stat = fs::read_to_string(self.cgroup.join("cpu.stat"))?;
        let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        let micros = micros.and_then(|micros| micros.parse::<f64>().ok());
        micros
            .map(|micros| micros / 1e6)
            .ok_or_else(|| io::Error::other("no usage_usec in cpu.stat"))
    }

    /// Proportional set size of all processes, in KiB, and how many they are.
    pub fn memory(&self) -> (u64, usize) {
        let processes = self.processes();
        let pss = |pid: &i32| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        (processes.iter().filter_map(pss).sum(), processes.len())
    }

    /// Messages delivered since the last time. Long ones are removed; short ones stay until the end, as ext4 takes long
    /// to find an inode among many that were deleted a moment ago, and that time is not the server's.
    pub fn collect(&self) -> io::Result<u64> {
        fn below(directory: &Path, is_new: bool, short: &mut u64, long: &mut u64) -> io::Result<()> {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    below(&entry.path(), entry.file_name() == "new", short, long)?;
                } else if is_new && entry.metadata()?.len() > SHORT {
                    fs::remove_file(entry.path())?;
                    *long += 1;
                } else if is_new {
                    *short += 1;
                }
            }
            Ok(())
        }
        let (mut short, mut long) = (0, 0);
        if self.mail.exists() {
            below(&self.mail, false, &mut short, &mut long)?;
        }
        Ok(short - self.found.replace(short) + long)
    }
}

impl Running<'_> {
    /// Waits until it has gone quiet: queues are empty, spares are forked.
    pub fn settle(&self, most: Duration) -> io::Result<()> {
        let begun = Instant::now();
        let mut quiet_since = begun;
        let mut last = self.server.cpu()?;
        while begun.elapsed() < most && quiet_since.elapsed() < Duration::from_millis(600) {
            sleep(Duration::from_millis(100));
            let cpu = self.server.cpu()?;
            if cpu - last > 0.002 {
                quiet_since = Instant::now();
            }
            last = cpu;
        }
        Ok(())
    }

    /// Ends every process in the cgroup.
    pub fn stop(mut self) -> io::Result<()> {
        // The server ends its own processes when its first one is told to; what is left is told, too.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let rounds = [(Signal::SIGTERM, 3), (Signal::SIGTERM, 5), (Signal::SIGKILL, 5)];
        for (round, (signal, patience)) in rounds.into_iter().enumerate() {
            let begun = Instant::now();
            if round > 0 {
                for pid in self.server.processes() {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
            while !self.server.processes().is_empty() && begun.elapsed() < Duration::from_secs(patience) {
                let _ = self.child.try_wait();
                sleep(Duration::from_millis(50));
            }
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir(&self.server.cgroup);
        if self.server.processes().is_empty() {
            return Ok(());
        }
        Err(io::Error::other(format!("{} cannot be ended", self.server.name)))
    }
}
