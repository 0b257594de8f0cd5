//! What is to confine the processes; the layers follow.

use std::io;
use std::path::{Path, PathBuf};

/// How much confinement there must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All of it.
    Require,
    /// What the kernel has.
    BestEffort,
    /// None.
    Off,
}

/// What a process may do.
#[derive(Debug, Clone)]
pub struct Profile;

impl Profile {
    /// The master's and the workers'.
    pub fn master_and_worker(_: &Path) -> Profile {
        Profile
    }

    /// The logger's.
    pub fn logger(_: Option<&Path>) -> Profile {
        Profile
    }

    /// The delivery process's.
    pub fn delivery(_: &Path, _: &Path, _: &[PathBuf]) -> Profile {
        Profile
    }
}

/// What a worker may use at most.
#[derive(Debug, Clone, Copy)]
pub struct WorkerLimits {
    /// Octets of the longest file.
    pub file_size: u64,
}

/// Enters the profile; names of missing layers.
///
/// # Errors
/// A layer is missing that must not.
pub fn enter(_: &Profile, _: Mode) -> io::Result<Vec<String>> {
    Ok(Vec::new())
}

/// Enters a worker's own layer.
///
/// # Errors
/// A layer is missing that must not.
pub fn worker_layer(_: &WorkerLimits, _: Mode) -> io::Result<Vec<String>> {
    Ok(Vec::new())
}
