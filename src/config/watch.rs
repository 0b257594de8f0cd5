//! Has the configuration changed? One stat a file, through the directory held open; no file is opened. Or a single call,
//! as long as the kernel, which watches the files, has reported nothing.
//!
//! What the kernel reports is believed where it reports everything: on file systems of this machine ([`reports_changes`]),
//! of files that are in the directory themselves, not by links to others. It does not report what is written through a
//! mapping (mmap(2)) before that is unmapped, nor a file system that is mounted over a file: both are seen when the
//! files are looked at again.

use std::hash::{Hash as _, Hasher as _};
use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, SFlag, fstatat};
use nix::sys::statfs::{self, FsType};
use siphasher::sip::SipHasher13;

use crate::sys::inotify::Inotify;

/// What stat says of a set of files. Equal fingerprints: nothing changed. Missing files count too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint(Vec<Option<Stamp>>);

/// A shorter way to see that nothing has changed: files that are missing stay so while their directory is as it was.
#[derive(Debug)]
pub struct Unchanged {
    directory: Place,
    present: Vec<(String, Stamp)>,
    watch: Option<u64>,
}

/// File systems that report each change to every process of the machine. Elsewhere (NFS, FUSE and the like) others may
/// change files, and under overlayfs those below it.
const REPORTING: [FsType; 6] = [
    statfs::EXT4_SUPER_MAGIC, // ext2 and ext3, too
    statfs::XFS_SUPER_MAGIC,
    statfs::BTRFS_SUPER_MAGIC,
    statfs::TMPFS_MAGIC,
    statfs::F2FS_SUPER_MAGIC,
    FsType(0x2fc1_2fc1), // ZFS
];

/// Whether the kernel sees all changes of files in this directory.
pub fn reports_changes(directory: BorrowedFd<'_>) -> bool {
    statfs::fstatfs(directory).is_ok_and(|found| REPORTING.contains(&found.filesystem_type()))
}

/// For so long a directory may change once more without showing it: the times of some file systems are no finer.
const COARSEST: Duration = Duration::from_secs(2);

impl Unchanged {
    /// The files of these `names`, as long as their fingerprint is `expected`; none where it is not, or while that
    /// cannot be told yet. With a watch by `inotify` that has this number, if it can see each change.
    pub fn of<S: AsRef<str>>(
        directory: BorrowedFd<'_>,
        names: &[S],
        expected: u64,
        watch: Option<(&mut Inotify, u64)>,
    ) -> Option<Unchanged> {
        Unchanged::watched(directory, names, expected, COARSEST, watch)
    }

    /// First all is watched, then looked at, then it is asked whether anything was reported. A change before the look is
    /// seen by that, as the fingerprint is not the expected one; a later one is reported by the time that its maker's
    /// call returns. That each name is the one of the file that is watched for it is seen after the watch was set: had it
    /// become so in between, the directory, which is watched first, would have reported that.
    fn watched<S: AsRef<str>>(
        directory: BorrowedFd<'_>,
        names: &[S],
        expected: u64,
        since: Duration,
        watch: Option<(&mut Inotify, u64)>,
    ) -> Option<Unchanged> {
        let watch = watch.and_then(|(inotify, number)| {
            inotify.watch(directory, names).ok()?;
            Some((inotify, number))
        });
        let mut found = Unchanged::settled(directory, names, expected, since)?;
        found.watch = watch
            .filter(|(inotify, _)| found.can_be_watched(directory) && inotify.is_quiet())
            .map(|(_, number)| number);
        Some(found)
    }

    /// The files in a directory that has not changed for so long.
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
            watch: None,
        };
        (Fingerprint(stamps).number() == expected).then_some(found)
    }

    /// Whether a watch over the directory and these files, by their names and not through links, sees each change.
    fn can_be_watched(&self, directory: BorrowedFd<'_>) -> bool {
        let is_itself = |(name, stamp): &(String, Stamp)| {
            let found = fstatat(directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            let is_file = |stat: &FileStat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
            let is_here = !name.contains('/') && stamp.device == self.directory.stamp.device;
            is_here && found.is_ok_and(|stat| is_file(&stat) && Stamp::from(stat) == *stamp)
        };
        self.present.iter().all(is_itself)
    }

    /// The number of its watch, if it has one.
    pub fn watch(&self) -> Option<u64> {
        self.watch
    }

    /// Whether all is as it was. Where it has a watch, and that with its number `is_quiet`, no file is looked at.
    pub fn holds(&self, directory: BorrowedFd<'_>, is_quiet: impl FnOnce(u64) -> bool) -> bool {
        self.watch.is_some_and(is_quiet) || self.looks_same(directory)
    }

    /// Whether all looks as it did.
    pub fn looks_same(&self, directory: BorrowedFd<'_>) -> bool {
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
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::sys::inotify::is_quiet;

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
            |path| symlink("a.yaml", path.join("c.yaml")),
        ];
        for (number, change) in changes.iter().enumerate() {
            let (path, directory) = directory();
            let unchanged = settled(&directory).unwrap();
            assert!(unchanged.looks_same(directory.as_fd()));
            change(path.path()).unwrap();
            assert!(!unchanged.looks_same(directory.as_fd()), "{number}");
        }
    }

    /// A watch that has this number, if what it is to see can be.
    fn watched(directory: &File, inotify: &mut Inotify, number: u64) -> Unchanged {
        let expected = Fingerprint::of(directory.as_fd(), &NAMES).number();
        let watch = Some((inotify, number));
        Unchanged::watched(directory.as_fd(), &NAMES, expected, Duration::ZERO, watch).unwrap()
    }

    /// Whether this is seen by the kernel's report alone.
    fn is_reported(change: impl FnOnce(&std::path::Path) -> std::io::Result<()>) -> Option<bool> {
        let (path, directory) = directory();
        if !reports_changes(directory.as_fd()) {
            return None;
        }
        let mut inotify = Inotify::new(0).unwrap();
        let unchanged = watched(&directory, &mut inotify, 7);
        assert_eq!(unchanged.watch(), Some(7));
        let is_quiet = || is_quiet([inotify.sign()]);
        assert!(is_quiet());
        change(path.path()).unwrap();
        let seen = !is_quiet();
        assert!(seen || unchanged.holds(directory.as_fd(), |number| number == 7 && is_quiet()));
        Some(seen)
    }

    #[test]
    fn each_change_of_a_file_is_reported() {
        type Change = fn(&std::path::Path) -> std::io::Result<()>;
        let changes: [Change; 13] = [
            |path| fs::write(path.join("c.yaml"), ""),
            |path| fs::write(path.join("a.yaml"), "a: 22\n"),
            |path| fs::write(path.join("a.yaml"), "a: 2\n"),
            |path| File::options().append(true).open(path.join("a.yaml"))?.write_all(b"#"),
            |path| File::options().write(true).open(path.join("a.yaml"))?.set_len(2),
            |path| fs::remove_file(path.join("b.yaml")),
            |path| fs::rename(path.join("a.yaml"), path.join("c.yaml")),
            |path| fs::rename(path.join("a.yaml"), path.join("b.yaml")),
            |path| {
                fs::write(path.join("new"), "a: 3\n").and_then(|()| fs::rename(path.join("new"), path.join("a.yaml")))
            },
            |path| fs::set_permissions(path.join("a.yaml"), fs::Permissions::from_mode(0o600)),
            |path| fs::set_permissions(path, fs::Permissions::from_mode(0o700)),
            |path| symlink("a.yaml", path.join("c.yaml")),
            |path| File::open(path.join("a.yaml"))?.set_modified(SystemTime::now()),
        ];
        for (number, change) in changes.iter().enumerate() {
            assert_ne!(is_reported(change), Some(false), "{number}");
        }
    }

    #[test]
    fn to_read_is_no_change() {
        let read = |path: &std::path::Path| {
            fs::read(path.join("a.yaml"))?;
            fs::read_dir(path)?.for_each(drop);
            fs::metadata(path.join("b.yaml")).map(drop)
        };
        assert_ne!(is_reported(read), Some(true));
    }

    /// What was reported stays so, and an earlier watch is told by its number from one that came after it.
    #[test]
    fn a_watch_is_set_anew_once_it_has_reported_anything() {
        let (path, directory) = directory();
        let mut inotify = Inotify::new(0).unwrap();
        let first = watched(&directory, &mut inotify, 1);
        fs::write(path.path().join("a.yaml"), "a: 22\n").unwrap();
        assert!(!inotify.is_quiet() && !is_quiet([inotify.sign()]));
        assert!(!inotify.is_quiet() && !is_quiet([inotify.sign()]));
        let second = watched(&directory, &mut inotify, 2);
        assert!(inotify.is_quiet() && is_quiet([inotify.sign()]));
        let counts = |number| number == 2 && is_quiet([inotify.sign()]);
        assert!(!first.holds(directory.as_fd(), counts));
        assert!(second.holds(directory.as_fd(), counts));
        // Files that are no longer watched report nothing.
        let (_, elsewhere) = self::directory();
        watched(&elsewhere, &mut inotify, 3);
        fs::write(path.path().join("a.yaml"), "a: 3\n").unwrap();
        assert!(inotify.is_quiet());
    }

    #[test]
    fn what_changes_elsewhere_has_no_watch() {
        let (path, directory) = directory();
        let mut inotify = Inotify::new(0).unwrap();
        let aside = tempfile::tempdir().unwrap();
        let target = aside.path().join("c.yaml");
        fs::write(&target, "a: 1\n").unwrap();
        symlink(&target, path.path().join("c.yaml")).unwrap();
        let mut linked = watched(&directory, &mut inotify, 1);
        assert_eq!(linked.watch(), None, "a link");
        fs::remove_file(path.path().join("c.yaml")).unwrap();
        linked = watched(&directory, &mut inotify, 1);
        assert_eq!(linked.watch(), Some(1));
        fs::create_dir(path.path().join("under")).unwrap();
        fs::rename(&target, path.path().join("under/c.yaml")).unwrap();
        let names = ["a.yaml", "under/c.yaml"];
        let expected = Fingerprint::of(directory.as_fd(), &names).number();
        let watch = Some((&mut inotify, 1));
        let under = Unchanged::watched(directory.as_fd(), &names, expected, Duration::ZERO, watch).unwrap();
        assert_eq!(under.watch(), None, "another directory");
        assert!(
            !reports_changes(File::open("/proc").unwrap().as_fd()),
            "nobody writes there"
        );
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
            if !unchanged.looks_same(directory.as_fd()) {
                break;
            }
            assert!(std::time::Instant::now() < until, "never seen");
        }
    }

    #[test]
    fn what_may_change_unseen_is_not_believed() {
        let (path, directory) = directory();
        let expected = Fingerprint::of(directory.as_fd(), &NAMES).number();
        let now = Unchanged::of(directory.as_fd(), &NAMES, expected, None);
        assert!(now.is_none(), "changed just now, whatever its time says");
        assert!(settled(&directory).is_some());
        let other = Unchanged::settled(directory.as_fd(), &NAMES, 1, Duration::ZERO);
        assert!(other.is_none(), "others");
        symlink("elsewhere/c.yaml", path.path().join("c.yaml")).unwrap();
        assert!(settled(&directory).is_none(), "a link to a file that may come");
        fs::remove_file(path.path().join("c.yaml")).unwrap();
        assert!(settled(&directory).is_some());
    }
}
