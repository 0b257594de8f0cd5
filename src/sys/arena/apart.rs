//! Memory that a fork leaves out (MADV_DONTFORK): what the master changes for each worker.
//!
//! A page that the master writes to after a fork is copied, and the worker keeps the old one: pages of tables that no
//! worker ever reads. Blocks have the sizes of powers of two; one that is given back is the first to be taken again.

use std::alloc::Layout;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Octets of the region; unused pages cost nothing.
const SIZE: usize = 16 * 1024 * 1024;
/// The smallest block, as a power of two.
const LEAST: u32 = 4;
/// How many sizes there are: up to 512 KiB.
const SIZES: usize = 16;

/// A region of blocks. Of a process with one thread: free blocks are chained through their first word.
pub(super) struct Apart {
    /// Where it begins; 0 before it is made.
    start: AtomicUsize,
    /// The first octet that was never taken.
    next: AtomicUsize,
    /// The first free block of each size, 0 for none.
    free: [AtomicUsize; SIZES],
}

impl Apart {
    pub(super) const fn new() -> Apart {
        Apart {
            start: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            free: [const { AtomicUsize::new(0) }; SIZES],
        }
    }

    /// Makes the region; false where the kernel refuses.
    pub(super) fn prepare(&self) -> bool {
        if self.start.load(SeqCst) != 0 {
            return true;
        }
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new memory at an address that the kernel chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), SIZE, rights, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return false;
        }
        // SAFETY: advice about the memory just made.
        if unsafe { libc::madvise(start, SIZE, libc::MADV_DONTFORK) } != 0 {
            // SAFETY: nobody knows of it.
            unsafe { libc::munmap(start, SIZE) };
            return false;
        }
        self.start.store(start.expose_provenance(), SeqCst);
        self.next.store(start.expose_provenance(), SeqCst);
        true
    }

    /// Which size a block of `layout` has; none if it is too long.
    fn size(layout: Layout) -> Option<usize> {
        let octets = layout.size().max(layout.align()).max(1 << LEAST);
        let index = (octets.next_power_of_two().ilog2() - LEAST) as usize;
        (index < SIZES && layout.align() <= 4096).then_some(index)
    }

    /// A block for `layout`; none when it is too long, or all are taken.
    pub(super) fn take(&self, layout: Layout) -> Option<*mut u8> {
        let index = Apart::size(layout)?;
        let head = self.free.get(index)?;
        let first = head.load(SeqCst);
        if first != 0 {
            let block = ptr::with_exposed_provenance_mut::<usize>(first);
            // SAFETY: a free block holds the address of the next one, and is as long as a word at least.
            head.store(unsafe { block.read() }, SeqCst);
            return Some(block.cast());
        }
        let octets = 1_usize << (index as u32 + LEAST);
        let start = self.next.load(SeqCst).next_multiple_of(octets.min(4096));
        let end = start.checked_add(octets)?;
        if end > self.start.load(SeqCst) + SIZE {
            return None;
        }
        self.next.store(end, SeqCst);
        Some(ptr::with_exposed_provenance_mut(start))
    }

    /// Whether `pointer` is a block of this region.
    pub(super) fn has(&self, pointer: *mut u8) -> bool {
        let start = self.start.load(SeqCst);
        start != 0 && pointer.addr().wrapping_sub(start) < SIZE
    }

    /// Takes back a block that [`Apart::take`] gave for the same layout.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub(super) unsafe fn give_back(&self, pointer: *mut u8, layout: Layout) {
        if let Some(head) = Apart::size(layout).and_then(|index| self.free.get(index)) {
            // SAFETY: the block is ours again, aligned for a word and as long at least.
            unsafe { pointer.cast::<usize>().write(head.load(SeqCst)) };
            head.store(pointer.expose_provenance(), SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_apart_and_taken_again() {
        let region = Apart::new();
        assert!(region.prepare());
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        let blocks: Vec<*mut u8> = (1..3000)
            .map(|size| {
                let block = region.take(layout(size)).unwrap();
                // SAFETY: the block has that many octets.
                unsafe { block.write_bytes(size as u8, size) };
                block
            })
            .collect();
        for (block, size) in blocks.iter().zip(1..3000) {
            // SAFETY: written above.
            let octets = unsafe { std::slice::from_raw_parts(*block, size) };
            assert!(region.has(*block) && octets.iter().all(|octet| *octet == size as u8));
        }
        let last = *blocks.last().unwrap();
        // SAFETY: not used again.
        unsafe { region.give_back(last, layout(2999)) };
        assert_eq!(region.take(layout(2500)), Some(last));
        assert!(!region.has(ptr::null_mut()));
    }

    #[test]
    fn what_is_too_long_or_too_much_is_not_given() {
        let region = Apart::new();
        assert!(region.prepare());
        assert!(region.take(Layout::from_size_align(SIZE, 8).unwrap()).is_none());
        let half = Layout::from_size_align(512 * 1024, 8).unwrap();
        let given = (0..100).filter(|_| region.take(half).is_some()).count();
        assert!((30..=32).contains(&given), "{given}");
    }
}
