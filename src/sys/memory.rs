//! Memory that processes share, in sealed memfds; no descriptor stays open.
//!
//! A table of words that one process writes and its children read is mapped twice: the writable mapping is made
//! before the seal and is not inherited, the read-only one can never be made writable. Octets that nobody
//! changes any more are mapped once. Neither costs anything at a fork.

use super::checked;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The writable end: of the process that made it, no child has it.
#[derive(Debug)]
pub struct SealedTable {
    map: Map,
    owner: u32,
}

/// The read-only end, inherited by every child.
#[derive(Debug)]
pub struct Shared {
    map: Map,
}

#[derive(Debug)]
struct Map {
    start: NonNull<AtomicU64>,
    words: usize,
}

impl SealedTable {
    /// A table of `words` zeroes, and its readers' end.
    ///
    /// # Errors
    /// `InvalidInput` for no words or too many; what memfd_create(2) and mmap(2) say.
    pub fn new(words: usize) -> io::Result<(SealedTable, Shared)> {
        let size = words
            .checked_mul(8)
            .filter(|size| *size > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let length = libc::off_t::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        let fd = memfd()?;
        // SAFETY: no pointer is passed.
        checked(unsafe { libc::ftruncate(fd.as_raw_fd(), length) })?;
        let writable = Map::new(&fd, words, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the range is exactly the mapping just made; it only leaves it out of forks.
        checked(unsafe { libc::madvise(writable.start.as_ptr().cast(), size, libc::MADV_DONTFORK) })?;
        let seals = libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: no pointer is passed.
        checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        let readable = Map::new(&fd, words, libc::PROT_READ)?;
        Ok((
            SealedTable {
                map: writable,
                owner: std::process::id(),
            },
            Shared { map: readable },
        ))
    }

    /// Writes one word. Nothing happens past the end, or in another process than the one that made it.
    pub fn store(&self, index: usize, value: u64) {
        if self.owner == std::process::id()
            && let Some(word) = self.map.word(index)
        {
            word.store(value, Ordering::Release);
        }
    }
}

impl Drop for SealedTable {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            self.map.unmap();
        }
    }
}

impl Shared {
    /// Reads one word; none past the end.
    #[must_use]
    pub fn load(&self, index: usize) -> Option<u64> {
        // Of memory that cannot be written, Rust defines relaxed loads alone; the fence makes it an acquiring one.
        let value = self.map.word(index).map(|word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        value
    }

    /// How many words the table has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.words
    }

    /// Never true: a table has at least one word.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.words == 0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.map.unmap();
    }
}

/// Octets that never change, in pages that children share with their parent.
#[derive(Debug)]
pub struct SealedOctets {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is read-only for every process, so any thread may look at it.
unsafe impl Send for SealedOctets {}
// SAFETY: as above.
unsafe impl Sync for SealedOctets {}

impl SealedOctets {
    /// A copy of `octets`.
    ///
    /// # Errors
    /// `InvalidInput` for none; what memfd_create(2), write(2) and mmap(2) say: limits of descriptors, of the size of
    /// files, of memory.
    pub fn new(octets: &[u8]) -> io::Result<SealedOctets> {
        if octets.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut file = File::from(memfd()?);
        file.write_all(octets)?;
        let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: no pointer is passed.
        checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        let start = map(file.as_raw_fd(), octets.len(), libc::PROT_READ)?;
        Ok(SealedOctets {
            start: start.cast(),
            length: octets.len(),
        })
    }
}

impl AsRef<[u8]> for SealedOctets {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the mapping is readable, `length` octets long as the sealed file is, lives as long as `self`, and
        // nobody can write to it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for SealedOctets {
    fn drop(&mut self) {
        // SAFETY: the range is exactly this mapping, whose owner is being dropped.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Gives memory that was freed back to the kernel, which would have to copy its page tables at each fork.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: has no condition.
    let _ = unsafe { libc::malloc_trim(0) };
}

fn memfd() -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name ends in NUL; the descriptor made is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(checked(libc::memfd_create(c"table".as_ptr(), flags))?) })
}

fn map(fd: RawFd, length: usize, protection: libc::c_int) -> io::Result<NonNull<libc::c_void>> {
    let null = std::ptr::null_mut();
    // SAFETY: the kernel chooses a free range; the callers' files are at least as long as the mapping.
    let start = unsafe { libc::mmap(null, length, protection, libc::MAP_SHARED, fd, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

impl Map {
    fn new(fd: &OwnedFd, words: usize, protection: libc::c_int) -> io::Result<Map> {
        let start = map(fd.as_raw_fd(), words * 8, protection)?.cast();
        Ok(Map { start, words })
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        // SAFETY: the index lies inside a live mapping of page alignment, whose size is sealed. Other
        // processes access it by atomic operations only; of a read-only mapping only relaxed loads are made.
        (index < self.words).then(|| unsafe { self.start.add(index).as_ref() })
    }

    fn unmap(&self) {
        // SAFETY: the range is exactly this mapping, whose owner is being dropped.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::in_child;
    use super::super::process::Ended;
    use super::*;

    #[test]
    fn a_child_reads_what_the_owner_writes() {
        let (table, shared) = SealedTable::new(1000).unwrap();
        table.store(999, 42);
        table.store(1000, 1);
        let ended = in_child(|| {
            table.store(999, 7); // not its owner
            i32::from(shared.load(999) != Some(42) || shared.load(1000).is_some() || shared.len() != 1000)
        });
        assert_eq!(ended, Ended::Exited(0));
        assert_eq!(shared.load(999), Some(42));
        assert!(SealedTable::new(0).is_err() && SealedTable::new(usize::MAX).is_err());
    }

    #[test]
    fn a_child_reads_sealed_octets_and_nobody_writes_them() {
        let octets: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        let sealed = SealedOctets::new(&octets).unwrap();
        let ended = in_child(|| i32::from(sealed.as_ref() != octets));
        assert_eq!(ended, Ended::Exited(0));
        // SAFETY: changes the protection of a mapping that this test owns.
        let upgraded = unsafe { libc::mprotect(sealed.start.as_ptr().cast(), 64, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(upgraded, -1);
        assert!(SealedOctets::new(&[]).is_err());
    }

    #[test]
    fn a_child_has_no_writable_mapping() {
        let (table, shared) = SealedTable::new(8).unwrap();
        let absent = in_child(|| {
            // SAFETY: deliberately a write to a range that the child does not have: it must die of it.
            unsafe { table.map.start.as_ptr().cast::<u64>().write_volatile(1) };
            0
        });
        assert_eq!(absent, Ended::Signaled(libc::SIGSEGV));
        // SAFETY: changes the protection of a mapping that this test owns.
        let upgraded =
            unsafe { libc::mprotect(shared.map.start.as_ptr().cast(), 64, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(upgraded, -1);
    }
}
