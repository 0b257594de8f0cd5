//! Files without a name, and what tells whether a file has changed.
//!
//! Every descriptor made here is close-on-exec. Nothing here follows a symbolic link in the last component
//! when it makes a name.

use super::checked;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Opens a directory, to name files relative to it.
///
/// # Errors
/// What open(2) says.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the path ends in NUL; the descriptor made is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(checked(libc::open(path.as_ptr(), flags))?) })
}

/// A file (mode 0600, read and write) on the file system of `dir` that has no name yet.
///
/// # Errors
/// `Unsupported` (EOPNOTSUPP) where the file system cannot; what open(2) says.
pub fn open_tmpfile(dir: impl AsFd) -> io::Result<File> {
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
    let here = c".".as_ptr();
    // SAFETY: the path ends in NUL; the descriptor made is owned by nobody else.
    Ok(unsafe { File::from_raw_fd(checked(libc::openat(dir.as_fd().as_raw_fd(), here, flags, 0o600))?) })
}

/// Gives a nameless file its name in `dir`, in one step; an existing name is never replaced.
///
/// # Errors
/// `AlreadyExists` when the name is taken; what linkat(2) says.
pub fn link_tmpfile(file: impl AsFd, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))?;
    let name = CString::new(name.as_bytes())?;
    let dir = dir.as_fd().as_raw_fd();
    // SAFETY: both paths end in NUL and live through the call.
    let linked = checked(unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            dir,
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    });
    match linked {
        // Without /proc: by the descriptor itself, which the kernel allows to whoever opened the file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let fd = file.as_fd().as_raw_fd();
            // SAFETY: as above; the empty path means `fd` itself.
            checked(unsafe { libc::linkat(fd, c"".as_ptr(), dir, name.as_ptr(), libc::AT_EMPTY_PATH) }).map(drop)
        }
        other => other.map(drop),
    }
}

/// What differs when a file was changed or replaced. Times in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// The device that holds it.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length in octets.
    pub size: u64,
    /// When its content changed.
    pub modified: i128,
    /// When its inode changed.
    pub changed: i128,
}

/// The fingerprint of `name` in `dir` (of what a symbolic link points to), without opening it.
///
/// # Errors
/// `NotFound` when there is none; what fstatat(2) says.
pub fn fingerprint(dir: impl AsFd, name: &OsStr) -> io::Result<Fingerprint> {
    let name = CString::new(name.as_bytes())?;
    // SAFETY: stat is plain data that the call fills; the name ends in NUL.
    let stat = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        checked(libc::fstatat(dir.as_fd().as_raw_fd(), name.as_ptr(), &raw mut stat, 0))?;
        stat
    };
    let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Ok(Fingerprint {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: time(stat.st_mtime, stat.st_mtime_nsec),
        changed: time(stat.st_ctime, stat.st_ctime_nsec),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_nameless_file_gets_its_name_once() {
        let directory = tempfile::tempdir().unwrap();
        let dir = open_directory(directory.path()).unwrap();
        let mut file = open_tmpfile(&dir).unwrap();
        file.write_all(b"text").unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        link_tmpfile(&file, &dir, OsStr::new("named")).unwrap();
        assert_eq!(std::fs::read(directory.path().join("named")).unwrap(), b"text");
        let second = open_tmpfile(&dir).unwrap();
        let taken = link_tmpfile(&second, &dir, OsStr::new("named")).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_change_changes_the_fingerprint() {
        let directory = tempfile::tempdir().unwrap();
        let dir = open_directory(directory.path()).unwrap();
        let name = OsStr::new("worker.yaml");
        assert_eq!(fingerprint(&dir, name).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(directory.path().join(name), "a: 1").unwrap();
        let first = fingerprint(&dir, name).unwrap();
        assert_eq!(first, fingerprint(&dir, name).unwrap());
        std::fs::write(directory.path().join("other"), "a: 2").unwrap();
        std::fs::rename(directory.path().join("other"), directory.path().join(name)).unwrap();
        assert_ne!(first, fingerprint(&dir, name).unwrap());
        assert_eq!(first.size, 4);
    }
}
