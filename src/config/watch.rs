//! Has the configuration changed? One stat a file, through the directory held open; no file is opened.

use std::hash::{Hash as _, Hasher as _};
use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat};
use siphasher::sip::SipHasher13;

/// What stat says of a set of files. Equal fingerprints: nothing changed. Missing files count too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint(Vec<Option<Stamp>>);

/// A shorter way to see that nothing has changed: files that are missing stay so while their directory is as it was.
#[derive(Debug)]
pub struct Unchanged {
    directory: Place,
    present: Vec<(String, Stamp)>,
}

/// For so long a directory may change once more without showing it: the times of some file systems are no finer.
const COARSEST: Duration = Duration::from_secs(2);

impl Unchanged {
    /// The files of these `names`, as long as their fingerprint is `expected`; none where it is not, or while that
    /// cannot be told yet.
    pub fn of<S: AsRef<str>>(directory: BorrowedFd<'_>, names: &[S], expected: u64) -> Option<Unchanged> {
        Unchanged::settled(directory, names, expected, COARSEST)
    }

    /// The same in a directory that has not changed for so long.
    fn settled<S: AsRef<str>>(
        directory: BorrowedFd<'_>,
        names: &[S],
        expected: u64,
        since: Duration,
    ) -> Option<Unchanged> {
        let before = Place::of(directory)?;
        let changed = Duration::new(
            before.changed_seconds.try_into().ok()?,
            before.changed_nanoseconds.try_into().ok()?,
        );
        if SystemTime::UNIX_EPOCH.elapsed().ok()?.checked_sub(changed)? < since {
            return None;
        }
        let stamp = |name: &S| Stamp::of(directory, name.as_ref());
        let stamps: Vec<Option<Stamp>> = names.iter().map(stamp).collect();
        let missing =
            |(name, stamp): (&S, &Option<Stamp>)| stamp.is_none() && !is_plainly_missing(directory, name.as_ref());
        if names.iter().zip(&stamps).any(missing) {
            return None;
        }
        let present = names.iter().zip(&stamps);
        let present = present.filter_map(|(name, stamp)| Some((name.as_ref().to_owned(), stamp.clone()?)));
        let found = Unchanged {
            directory: before,
            present: present.collect(),
        };
        (Fingerprint(stamps).number() == expected).then_some(found)
    }

    /// Whether all is as it was.
    pub fn holds(&self, directory: BorrowedFd<'_>) -> bool {
        let same = |(name, before): &(String, Stamp)| Stamp::of(directory, name).as_ref() == Some(before);
        Place::of(directory).as_ref() == Some(&self.directory) && self.present.iter().all(same)
    }
}

/// Whether a file that cannot be looked at comes to be by a change of the directory itself: not by one of another
/// directory, nor of rights.
fn is_plainly_missing(directory: BorrowedFd<'_>, name: &str) -> bool {
    !name.contains('/') && fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT)
}

/// The directory as stat tells it. When it was modified anybody may set, as those do who copy it with its times; when
/// it was changed nobody.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    stamp: Stamp,
    changed_seconds: i64,
    changed_nanoseconds: i64,
}

impl Place {
    fn of(directory: BorrowedFd<'_>) -> Option<Place> {
        let stat = fstatat(directory, ".", AtFlags::empty()).ok()?;
        Some(Place {
            changed_seconds: stat.st_ctime,
            changed_nanoseconds: stat.st_ctime_nsec,
            stamp: stat.into(),
        })
    }
}

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
        fstatat(directory, name, AtFlags::empty()).ok().map(Stamp::from)
    }
}

impl From<FileStat> for Stamp {
    fn from(stat: FileStat) -> Stamp {
        Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified_seconds: stat.st_mtime,
            modified_nanoseconds: stat.st_mtime_nsec,
        }
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd as _;

    use super::*;

    const NAMES: [&str; 3] = ["a.yaml", "b.yaml", "c.yaml"];

    fn settled(directory: &File) -> Option<Unchanged> {
        let expected = Fingerprint::of(directory.as_fd(), &NAMES).number();
        Unchanged::settled(directory.as_fd(), &NAMES, expected, Duration::ZERO)
    }

    /// A directory with the first two of the files, last changed an hour ago.
    fn directory() -> (tempfile::TempDir, File) {
        let path = tempfile::tempdir().unwrap();
        for name in &NAMES[..2] {
            fs::write(path.path().join(name), "a: 1\n").unwrap();
        }
        let directory = File::open(path.path()).unwrap();
        age(&directory);
        (path, directory)
    }

    fn age(file: &File) {
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(hour_ago).unwrap();
    }

    #[test]
    fn each_change_of_a_file_is_seen() {
        type Change = fn(&std::path::Path) -> std::io::Result<()>;
        let changes: [Change; 5] = [
            |path| fs::write(path.join("c.yaml"), "").map(drop),
            |path| fs::write(path.join("a.yaml"), "a: 22\n"),
            |path| fs::remove_file(path.join("b.yaml")),
            |path| fs::rename(path.join("a.yaml"), path.join("c.yaml")),
            |path| std::os::unix::fs::symlink("a.yaml", path.join("c.yaml")),
        ];
        for (number, change) in changes.iter().enumerate() {
            let (path, directory) = directory();
            let unchanged = settled(&directory).unwrap();
            assert!(unchanged.holds(directory.as_fd()));
            change(path.path()).unwrap();
            assert!(!unchanged.holds(directory.as_fd()), "{number}");
        }
    }

    /// As rsync(1) and tar(1) leave a directory: its time is that of another one, or of an hour ago.
    #[test]
    fn a_change_is_seen_although_the_time_of_the_directory_is_set_back() {
        let (path, directory) = directory();
        let modified = directory.metadata().unwrap().modified().unwrap();
        let unchanged = settled(&directory).unwrap();
        fs::write(path.path().join("c.yaml"), "").unwrap();
        // The clock of file systems goes in steps.
        let until = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            directory.set_modified(modified).unwrap();
            if !unchanged.holds(directory.as_fd()) {
                break;
            }
            assert!(std::time::Instant::now() < until, "never seen");
        }
    }

    #[test]
    fn what_may_change_unseen_is_not_believed() {
        let (path, directory) = directory();
        let expected = Fingerprint::of(directory.as_fd(), &NAMES).number();
        let now = Unchanged::of(directory.as_fd(), &NAMES, expected);
        assert!(now.is_none(), "changed just now, whatever its time says");
        assert!(settled(&directory).is_some());
        let other = Unchanged::settled(directory.as_fd(), &NAMES, 1, Duration::ZERO);
        assert!(other.is_none(), "others");
        std::os::unix::fs::symlink("elsewhere/c.yaml", path.path().join("c.yaml")).unwrap();
        assert!(settled(&directory).is_none(), "a link to a file that may come");
        fs::remove_file(path.path().join("c.yaml")).unwrap();
        assert!(settled(&directory).is_some());
    }
}
