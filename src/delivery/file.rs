//! Files that have no name until they are whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};
use nix::unistd::linkat;

static COUNT: AtomicU64 = AtomicU64::new(0);

/// A number that no other file of this process has.
pub(super) fn next_number() -> u64 {
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// What is in a directory, sorted; nothing where there is none.
pub(super) fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?,
    };
    paths.sort();
    Ok(paths)
}

/// An open file that appears under a name by [`Unnamed::link`] only; dropped before that, it leaves nothing.
#[derive(Debug)]
pub(super) struct Unnamed {
    pub(super) file: File,
    // on file systems without O_TMPFILE, the name it has meanwhile
    temporary: Option<PathBuf>,
    // once it is linked: what is left to do is to sync the file itself, and with it its name
    syncs_its_name: bool,
}

impl Unnamed {
    /// A new file in the file system of `directory`, open for reading and writing, mode 0600.
    pub(super) fn create(directory: &Path) -> io::Result<Unnamed> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        match options.clone().custom_flags(OFlag::O_TMPFILE.bits()).open(directory) {
            Ok(file) => {
                return Ok(Unnamed {
                    file,
                    temporary: None,
                    syncs_its_name: false,
                });
            }
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {}
            Err(error) => return Err(error),
        }
        let path = directory.join(format!(".{}.{}.tmp", std::process::id(), next_number()));
        let file = options.create_new(true).open(&path)?;
        Ok(Unnamed {
            file,
            temporary: Some(path),
            syncs_its_name: false,
        })
    }

    /// The file alone, never to be linked.
    pub(super) fn into_file(self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Gives it the name `path` (on the same file system), which must be free. Durable after [`Unnamed::sync`] only.
    pub(super) fn link(&mut self, path: &Path) -> io::Result<()> {
        self.syncs_its_name = self.temporary.is_none() && syncs_its_name(&self.file);
        if !self.syncs_its_name {
            self.file.sync_all()?;
        }
        match &self.temporary {
            None => {
                let here = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                linkat(AT_FDCWD, here.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?;
            }
            Some(temporary) => {
                fs::hard_link(temporary, path)?;
                fs::remove_file(temporary)?;
                self.temporary = None;
            }
        }
        Ok(())
    }

    /// Waits until its bytes and its name `path` are on disk.
    pub(super) fn sync(&self, path: &Path) -> io::Result<()> {
        if self.syncs_its_name {
            return self.file.sync_all();
        }
        // the bytes were synced before the name appeared
        sync_directory(path)
    }
}

/// Whether fsync of a file just linked syncs its directory entry as well, as on ext4 and XFS, where both are in the
/// same transaction of the journal. Elsewhere the file is synced first, and the directory after.
fn syncs_its_name(file: &File) -> bool {
    // As wide as any: the type differs between C libraries.
    const XFS: i128 = 0x5846_5342;
    fstatfs(file).is_ok_and(|found| {
        let kind = found.filesystem_type();
        kind == EXT4_SUPER_MAGIC || i128::from(kind.0) == XFS
    })
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            let _ = fs::remove_file(path);
        }
    }
}

/// Syncs the directory that `path` is in.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes `directory` and what is missing above it, 0700, durably.
pub(super) fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directory(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => sync_directory(directory),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
