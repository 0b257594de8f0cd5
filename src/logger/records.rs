//! Files of records: appended to as workers ask, in directories that were opened at the start and nowhere else.
//!
//! Nothing that a worker says is believed but the size that a file may have: names are flat, files ours and not the log. A
//! record is in its file whole or not at all. What cannot be written is lost, and said to whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::ipc::record::{Record, WHOLE};

/// Files held open at once; with more sessions than that they are opened again for each record.
const OPEN: usize = 512;

/// The directories, and the files that are open in them.
#[derive(Debug, Default)]
pub struct Files {
    directories: BTreeMap<String, OwnedFd>,
    open: BTreeMap<(String, String), File>,
    /// The log's file, and those of the directories that have it.
    log: Option<(String, BTreeSet<String>)>,
}

/// What one door has brought of a record that is not whole, and what was lost.
#[derive(Debug, Default)]
pub struct Door {
    partial: Vec<u8>,
    too_long: bool,
    /// Why the first record was lost.
    pub lost: Option<String>,
    /// How many were.
    pub count: u64,
    /// The last file that was written to.
    last: Option<(String, String)>,
}

impl Files {
    /// Opens directories; those that cannot be, with the reason.
    pub fn open(directories: &[PathBuf]) -> (Files, Vec<(PathBuf, io::Error)>) {
        let mut files = Files::default();
        let mut failed = Vec::new();
        for path in directories {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            match (path.to_str(), open(path, flags, Mode::empty())) {
                (Some(name), Ok(directory)) => {
                    files.directories.insert(name.to_owned(), directory);
                }
                (None, _) => failed.push((path.clone(), io::ErrorKind::InvalidFilename.into())),
                (_, Err(errno)) => failed.push((path.clone(), errno.into())),
            }
        }
        (files, failed)
    }

    /// Never writes to this file, nor to what it was renamed to.
    pub fn keep_from(&mut self, log: &Path) {
        let (Some(parent), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
            return;
        };
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let Ok(parent) = parent.metadata() else { return };
        // The same directory may have several names.
        let is_parent = |directory: &OwnedFd| {
            let about = nix::sys::stat::fstat(directory);
            about.is_ok_and(|about| (about.st_dev, about.st_ino) == (parent.dev(), parent.ino()))
        };
        let same = self.directories.iter().filter(|(_, directory)| is_parent(directory));
        self.log = Some((name.to_owned(), same.map(|(directory, _)| directory.clone()).collect()));
    }

    fn is_log(&self, directory: &str, name: &str) -> bool {
        self.log.as_ref().is_some_and(|(log, directories)| {
            directories.contains(directory) && name.strip_prefix(log.as_str()).is_some_and(is_rotation)
        })
    }

    /// Closes every file: each is opened by its name when there is more for it.
    pub fn reopen(&mut self) {
        self.open.clear();
    }

    /// Closes the file that a door wrote to last: where it was the door's own, nothing more is to come.
    pub fn left(&mut self, door: &Door) {
        if let Some(last) = &door.last {
            self.open.remove(last);
        }
    }

    /// Takes a record of a door; whether it is the first one that was lost.
    pub fn take(&mut self, door: &mut Door, record: Record) -> bool {
        let Record {
            directory,
            file,
            limit,
            octets,
            more,
        } = record;
        door.too_long |= door.partial.len().saturating_add(octets.len()) > WHOLE;
        if !door.too_long {
            door.partial.extend(octets);
        }
        if more {
            return false;
        }
        let whole = std::mem::take(&mut door.partial);
        let written = if std::mem::take(&mut door.too_long) {
            Err(io::Error::other("a record is too long"))
        } else {
            self.append(&directory, &file, limit, &whole)
        };
        door.last = Some((directory, file));
        match written {
            Ok(()) => false,
            Err(error) => {
                door.count = door.count.saturating_add(1);
                let first = door.lost.is_none();
                door.lost.get_or_insert_with(|| error.to_string());
                first
            }
        }
    }

    fn append(&mut self, directory: &str, name: &str, limit: u64, octets: &[u8]) -> io::Result<()> {
        let mut file = self.file(directory, name)?;
        let before = file.metadata()?.len();
        if before.saturating_add(octets.len() as u64) > limit {
            return Err(io::Error::other(format!("{directory}/{name} has reached its size")));
        }
        let written = file.write_all(octets);
        if written.is_err() {
            // Half a record is worse than none; if even that fails, its end is missing.
            let _ = file.set_len(before);
        }
        written
    }

    fn file(&mut self, directory: &str, name: &str) -> io::Result<&File> {
        let key = (directory.to_owned(), name.to_owned());
        if !self.open.contains_key(&key) {
            let Some(opened) = self.directories.get(directory) else {
                return Err(io::Error::other(format!(
                    "{directory} was not there at the start (restart needed)"
                )));
            };
            if self.is_log(directory, name) {
                return Err(io::Error::other(format!("{directory}/{name} is the log")));
            }
            if self.open.len() >= OPEN {
                self.open.clear();
            }
            let file = open_in(opened, name)?;
            self.open.insert(key.clone(), file);
        }
        self.open.get(&key).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Opens or makes a file, which must be an ordinary one of ours with no other name: in a directory like /tmp anybody
/// may have put another there.
fn open_in(directory: &OwnedFd, name: &str) -> io::Result<File> {
    if !is_name(name) {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o640);
    let opened = match openat(directory, name, flags | OFlag::O_CREAT | OFlag::O_EXCL, mode) {
        Err(Errno::EEXIST) => openat(directory, name, flags, Mode::empty()),
        other => other,
    };
    let file = File::from(opened?);
    let about = file.metadata()?;
    if !about.is_file() || about.uid() != nix::unistd::geteuid().as_raw() || about.nlink() > 1 {
        return Err(io::Error::other(format!("{name} is there already and not ours")));
    }
    Ok(file)
}

/// Whether it is what follows the name of a file that was rotated: nothing, a number, a date.
fn is_rotation(end: &str) -> bool {
    let number = end.strip_prefix(['.', '-']);
    end.is_empty() || number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
}

/// Letters, digits, `.`, `:`, `-`, `_`, and no dot in front.
fn is_name(name: &str) -> bool {
    let tame = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_".contains(&byte);
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(tame)
}

/// Those of `wanted` that are directories, each once.
pub fn existing(wanted: &[PathBuf]) -> impl Iterator<Item = &Path> {
    wanted.iter().map(PathBuf::as_path).filter(|path| path.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn record(directory: &Path, file: &str, octets: &[u8], more: bool) -> Record {
        Record {
            directory: directory.to_str().unwrap().to_owned(),
            file: file.into(),
            limit: 20,
            octets: octets.to_vec(),
            more,
        }
    }

    #[test]
    fn records_are_appended_whole_and_files_rotated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (mut files, failed) = Files::open(&[path.to_path_buf()]);
        assert!(failed.is_empty());
        let (mut one, mut two) = (Door::default(), Door::default());
        assert!(!files.take(&mut one, record(path, "a", b"1", true)));
        assert!(!files.take(&mut two, record(path, "a", b"2;", false)));
        assert!(!files.take(&mut one, record(path, "a", b"1;", false)));
        assert_eq!(fs::read(path.join("a")).unwrap(), b"2;11;");
        assert_eq!(
            fs::metadata(path.join("a")).unwrap().permissions().mode() & 0o777,
            0o640
        );
        fs::rename(path.join("a"), path.join("a.1")).unwrap();
        files.reopen();
        assert!(!files.take(&mut one, record(path, "a", b"3;", false)));
        assert_eq!(fs::read(path.join("a")).unwrap(), b"3;");
        files.left(&one);
        assert!(files.open.is_empty());
    }

    #[test]
    fn what_must_not_be_written_is_lost_and_said_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (mut files, _) = Files::open(&[path.to_path_buf()]);
        symlink("target", path.join("link")).unwrap();
        fs::write(path.join("two"), "").unwrap();
        fs::hard_link(path.join("two"), path.join("names")).unwrap();
        fs::create_dir(path.join("directory")).unwrap();
        for name in [
            "",
            ".",
            "..",
            "../x",
            ".hidden",
            "a/b",
            "a b",
            "link",
            "names",
            "directory",
            &"x".repeat(129),
        ] {
            let mut door = Door::default();
            assert!(files.take(&mut door, record(path, name, b"x", false)), "{name}");
            assert!(door.lost.is_some(), "{name}");
            assert!(!files.take(&mut door, record(path, name, b"x", false)), "said once");
            assert_eq!(door.count, 2, "and counted");
        }
        assert!(!path.join("target").exists());
        let mut door = Door::default();
        assert!(!files.take(&mut door, record(path, "full", &[b'x'; 20], false)));
        assert!(files.take(&mut door, record(path, "full", b"x", false)));
        assert_eq!(fs::metadata(path.join("full")).unwrap().len(), 20);
        let mut door = Door::default();
        let elsewhere = Path::new("/nowhere");
        assert!(files.take(&mut door, record(elsewhere, "x", b"x", false)));
        assert!(door.lost.unwrap().contains("restart needed"));
    }

    #[test]
    fn the_log_is_no_file_of_records() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let log = path.join("rsmtpd.log");
        fs::write(&log, "line\n").unwrap();
        let (mut files, _) = Files::open(&[path.to_path_buf()]);
        files.keep_from(&log);
        for name in ["rsmtpd.log", "rsmtpd.log.1", "rsmtpd.log-20260101"] {
            let mut door = Door::default();
            assert!(files.take(&mut door, record(path, name, b"forged\n", false)), "{name}");
        }
        assert_eq!(fs::read(&log).unwrap(), b"line\n");
        assert_eq!(fs::read_dir(path).unwrap().count(), 1);
        let mut door = Door::default();
        for name in ["rsmtpd.log.jsonl", "rsmtpd.jsonl", "rsmtpd.logs"] {
            assert!(!files.take(&mut door, record(path, name, b"x", false)), "{name}");
        }
        let other = tempfile::tempdir().unwrap();
        let (mut files, _) = Files::open(&[other.path().to_path_buf()]);
        files.keep_from(&log);
        assert!(!files.take(&mut door, record(other.path(), "rsmtpd.log", b"x", false)));
    }

    #[test]
    fn a_record_without_an_end_is_not_collected_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (mut files, _) = Files::open(&[path.to_path_buf()]);
        let mut door = Door::default();
        for _ in 0..100 {
            assert!(!files.take(&mut door, record(path, "a", &[b'x'; 32 * 1024], true)));
            assert!(door.partial.len() <= WHOLE);
        }
        assert!(files.take(&mut door, record(path, "a", b"", false)));
        assert!(
            !files.take(&mut door, record(path, "a", b"next", false)),
            "the first loss is said already"
        );
        assert_eq!(fs::read(path.join("a")).unwrap(), b"next");
    }
}
