//! The daemon's processes as the kernel sees them, in /proc.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// What the kernel calls it: 15 octets.
    pub name: String,
    /// Real, effective, saved and file-system user.
    pub users: Vec<u32>,
    /// The same of groups.
    pub groups: Vec<u32>,
    /// Supplementary groups.
    pub supplementary: Vec<u32>,
    /// Inheritable, permitted, effective, bounding and ambient capabilities.
    pub capabilities: Vec<u64>,
    /// Whether exec can give it nothing.
    pub no_new_privs: bool,
    /// 0 without a filter of system calls, 2 with.
    pub seccomp: u32,
}

impl Process {
    /// What /proc says now; none when it has ended.
    pub fn read(pid: i32) -> Option<Process> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).unwrap_or_default()
        };
        let numbers = |name: &str| field(name).split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
        let capabilities = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .map(|name| u64::from_str_radix(field(name), 16).unwrap_or(u64::MAX))
            .to_vec();
        Some(Process {
            pid,
            parent: field("PPid").parse().ok()?,
            name: field("Name").to_owned(),
            users: numbers("Uid"),
            groups: numbers("Gid"),
            supplementary: numbers("Groups"),
            capabilities,
            no_new_privs: field("NoNewPrivs") == "1",
            seccomp: field("Seccomp").parse().unwrap_or(0),
        })
    }

    /// `pid` and all its descendants.
    pub fn tree(pid: i32) -> Vec<Process> {
        let mut left: Vec<Process> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(Process::read)
            .collect();
        let mut found = Vec::new();
        let mut next = vec![pid];
        while let Some(pid) = next.pop() {
            let (these, rest) = left.into_iter().partition(|p| p.pid == pid || p.parent == pid);
            left = rest;
            for process in these {
                if process.pid != pid {
                    next.push(process.pid);
                }
                found.push(process);
            }
        }
        found
    }

    /// Whether processes of the same user may look into it: the files of one that is not dumpable are root's.
    pub fn dumpable(&self) -> bool {
        let owner = fs::metadata(format!("/proc/{}/environ", self.pid)).map(|m| m.uid());
        // One that has ended meanwhile nobody looks into.
        owner.is_ok_and(|owner| owner != 0)
    }

    /// What each of its descriptors is.
    pub fn descriptors(&self) -> Vec<(i32, PathBuf)> {
        let directory = format!("/proc/{}/fd", self.pid);
        fs::read_dir(Path::new(&directory))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                Some((number, fs::read_link(entry.path()).ok()?))
            })
            .collect()
    }
}

/// The most physical memory that a process has had at once, in octets; 0 when it has ended.
pub fn peak_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}
