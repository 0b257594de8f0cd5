//! Has the configuration changed? One stat a file, through the directory held open; no file is opened.

use std::hash::{Hash as _, Hasher as _};
use std::os::fd::BorrowedFd;

use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use siphasher::sip::SipHasher13;

/// What stat says of a set of files. Equal fingerprints: nothing changed. Missing files count too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint(Vec<Option<Stamp>>);

/// One file as stat tells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
}

impl Stamp {
    /// None for a file that is missing or cannot be looked at.
    pub(super) fn of(directory: BorrowedFd<'_>, name: &str) -> Option<Stamp> {
        let stat = fstatat(directory, name, AtFlags::empty()).ok()?;
        Some(Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified_seconds: stat.st_mtime,
            modified_nanoseconds: stat.st_mtime_nsec,
        })
    }
}

impl Stamp {
    /// In octets.
    pub(super) fn size(&self) -> i64 {
        self.size
    }
}

impl FromIterator<Option<Stamp>> for Fingerprint {
    fn from_iter<I: IntoIterator<Item = Option<Stamp>>>(stamps: I) -> Fingerprint {
        Fingerprint(stamps.into_iter().collect())
    }
}

impl Fingerprint {
    /// Of these names in the directory, links followed. A name that cannot be looked at counts as missing.
    pub fn of<S: AsRef<str>>(directory: BorrowedFd<'_>, names: &[S]) -> Fingerprint {
        names.iter().map(|name| Stamp::of(directory, name.as_ref())).collect()
    }

    /// The same as one number, equal in every process of this build; for messages between processes.
    pub fn number(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}
