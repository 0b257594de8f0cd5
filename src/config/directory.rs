//! The configuration directory, held open: files are read and watched by name inside it, whatever its path becomes.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::watch::{Fingerprint, Stamp};

/// No configuration file is longer, in octets; lists of recipients are the long ones.
const LONGEST: u64 = 64 * 1024 * 1024;

/// A directory, and the files that were looked for in it.
pub(super) struct Directory<'fd> {
    fd: BorrowedFd<'fd>,
    consulted: Vec<(String, Option<Stamp>)>,
}

impl<'fd> Directory<'fd> {
    /// Over an open directory.
    pub(super) fn new(fd: BorrowedFd<'fd>) -> Directory<'fd> {
        Directory {
            fd,
            consulted: Vec::new(),
        }
    }

    /// The text of a file; none when there is no such file. Errors: as of open and read, not UTF-8, no regular file, too long.
    pub(super) fn read(&mut self, name: &str) -> io::Result<Option<String>> {
        // Looked at before it is read: whoever edits it in between changes what the next look will find.
        if !self.consulted.iter().any(|(known, _)| known == name) {
            self.consulted.push((name.to_owned(), Stamp::of(self.fd, name)));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = match openat(self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let file = File::from(fd);
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        if about.len() > LONGEST {
            return Err(io::Error::other("longer than 64 MiB"));
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text)?;
        Ok(Some(text))
    }

    /// Every name looked for, found or not: what a change must be watched in, and how it was when it was read.
    pub(super) fn into_consulted(self) -> (Vec<String>, Fingerprint) {
        let (names, stamps): (Vec<String>, Vec<Option<Stamp>>) = self.consulted.into_iter().unzip();
        (names, stamps.into_iter().collect())
    }
}
