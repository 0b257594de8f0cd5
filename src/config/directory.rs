//! The configuration directory, held open: files are read and watched by name inside it, whatever its path becomes.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::load::position;
use super::recipients::Earlier;
use super::watch::{Fingerprint, Stamp};

/// No configuration file is longer, in octets; lists of recipients are the long ones.
const LONGEST: u64 = 64 * 1024 * 1024;

/// What some editors put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A directory, and the files that were looked for in it.
pub(super) struct Directory<'fd> {
    fd: BorrowedFd<'fd>,
    consulted: Vec<(String, Option<Stamp>)>,
    /// What was read from it before.
    pub(super) earlier: Earlier<'fd>,
}

/// Why a file cannot be read.
pub(super) struct Unreadable {
    /// From 1; 0 where it is the whole file.
    pub(super) line: usize,
    /// From 1; 0 where it is the whole file.
    pub(super) column: usize,
    /// `expected …, found …`.
    pub(super) message: String,
}

impl Unreadable {
    fn whole(message: impl Into<String>) -> Unreadable {
        Unreadable {
            line: 0,
            column: 0,
            message: message.into(),
        }
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Unreadable {
        Unreadable::whole(format!("expected a readable file, found: {error}"))
    }
}

impl<'fd> Directory<'fd> {
    /// Over an open directory.
    pub(super) fn new(fd: BorrowedFd<'fd>, earlier: Earlier<'fd>) -> Directory<'fd> {
        Directory {
            fd,
            consulted: Vec::new(),
            earlier,
        }
    }

    /// How a file is now, or was when it was first looked at; none when there is no such file. A change is looked for in it
    /// from now on.
    pub(super) fn look_at(&mut self, name: &str) -> Option<Stamp> {
        if let Some((_, stamp)) = self.consulted.iter().find(|(known, _)| known == name) {
            return stamp.clone();
        }
        let stamp = Stamp::of(self.fd, name);
        self.consulted.push((name.to_owned(), stamp.clone()));
        stamp
    }

    /// The text of a file; none when there is no such file. Errors: as of open and read, a link that leads out or nowhere, no
    /// regular file, too long, not UTF-8.
    pub(super) fn read(&mut self, name: &str) -> Result<Option<String>, Unreadable> {
        // Looked at before it is read: whoever edits it in between changes what the next look will find.
        self.look_at(name);
        let fd = match self.open(name) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) if self.is_link(name) => {
                return Err(Unreadable::whole("expected a file, found a link to nothing"));
            }
            Err(Errno::ENOENT) => return Ok(None),
            // The sandbox refuses with EACCES what RESOLVE_BENEATH refuses with EXDEV.
            Err(Errno::EXDEV | Errno::EACCES) if self.is_link(name) => {
                return Err(Unreadable::whole(
                    "expected a readable file in the directory itself, found a link that leads out of it",
                ));
            }
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        let file = File::from(fd);
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(Unreadable::whole("expected a regular file, found another kind"));
        }
        if about.len() > LONGEST {
            return Err(Unreadable::whole("expected at most 64 MiB, found more"));
        }
        let mut octets = Vec::new();
        file.take(LONGEST).read_to_end(&mut octets)?;
        if octets.starts_with(BYTE_ORDER_MARK) {
            octets.drain(..BYTE_ORDER_MARK.len());
        }
        String::from_utf8(octets).map(Some).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let octets = error.as_bytes();
            let (line, column) = position(octets, at);
            let octet = octets.get(at).copied().unwrap_or_default();
            Unreadable {
                line,
                column,
                message: format!("expected UTF-8 text, found octet 0x{octet:02x}"),
            }
        })
    }

    /// Opens a file without following a link out of the directory: what the sandbox would refuse later is refused at once.
    fn open(&self, name: &str) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH);
        match openat2(self.fd, name, how) {
            // Not within a sandbox, whose filter cannot look into its argument; in ours Landlock holds the line.
            Err(Errno::ENOSYS | Errno::EPERM) => openat(self.fd, name, flags, Mode::empty()),
            other => other,
        }
    }

    fn is_link(&self, name: &str) -> bool {
        fstatat(self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|about| about.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits())
    }

    /// Every name looked for, found or not: what a change must be watched in, and how it was when it was read.
    pub(super) fn into_consulted(self) -> (Vec<String>, Fingerprint) {
        let (names, stamps): (Vec<String>, Vec<Option<Stamp>>) = self.consulted.into_iter().unzip();
        (names, stamps.into_iter().collect())
    }
}
