//! Memory of a worker: fresh pages, one after the other, rather than holes in the heap that it inherited.
//!
//! After a fork every page that a process writes is copied. The master's heap has its free blocks scattered over
//! many pages, and a session would write a little into most of them. So a worker allocates from one block that the
//! master has never touched, upwards; what does not fit there any more comes from the system's allocator, so that a
//! long session is bounded as ever. Nothing changes for the other processes.
//!
//! It assumes that the process that called [`begin`] has one thread. It must never hand out memory twice.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Octets of the block: the read buffer and an ordinary session several times over. Unused pages cost nothing.
const SIZE: usize = 256 * 1024;
/// Longer ones come from the system's allocator, which gives them back when they are freed.
const LONGEST: usize = 80 * 1024;

#[repr(C, align(4096))]
struct Block(UnsafeCell<[u8; SIZE]>);

// SAFETY: memory of the block is reached only through pointers that `Arena` has handed out, each to one owner.
unsafe impl Sync for Block {}

static BLOCK: Block = Block(UnsafeCell::new([0; SIZE]));

/// The allocator of the program.
struct Arena {
    /// Offset of the first free octet; [`SIZE`] where nothing is to be had: before [`begin`].
    next: AtomicUsize,
    /// Offset from which on nothing was ever handed out: zeroes.
    fresh: AtomicUsize,
}

#[global_allocator]
static ARENA: Arena = Arena {
    next: AtomicUsize::new(SIZE),
    fresh: AtomicUsize::new(0),
};

/// Allocates from the block from now on. For a process with one thread, right after its fork.
pub fn begin() {
    if ARENA.next.load(Relaxed) == SIZE && ARENA.fresh.load(Relaxed) == 0 {
        ARENA.next.store(0, Relaxed);
    }
}

impl Arena {
    fn base() -> usize {
        BLOCK.0.get().addr()
    }

    /// The offset of memory of the block.
    fn offset(pointer: *mut u8) -> Option<usize> {
        let offset = pointer.addr().wrapping_sub(Arena::base());
        (offset < SIZE).then_some(offset)
    }

    /// Takes memory of the block, and says whether it is all zeroes.
    fn take(&self, layout: Layout) -> Option<(*mut u8, bool)> {
        let next = self.next.load(Relaxed);
        if next == SIZE || layout.size() > LONGEST || layout.align() > 4096 {
            return None;
        }
        let start = next.next_multiple_of(layout.align());
        let end = start.checked_add(layout.size()).filter(|&end| end < SIZE)?;
        let fresh = self.fresh.load(Relaxed);
        self.next.store(end, Relaxed);
        self.fresh.store(fresh.max(end), Relaxed);
        // SAFETY: start lies inside the block.
        let pointer = unsafe { BLOCK.0.get().cast::<u8>().add(start) };
        Some((pointer, start >= fresh))
    }
}

// SAFETY: memory comes from the system's allocator or from the block. In the block each part lies between `next`
// before and after it was taken, and `next` goes back only over the last part, when that is given back: no two overlap.
// Relaxed atomics do, as the block is used by processes with one thread alone.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some((pointer, _)) => pointer,
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some((pointer, true)) => pointer,
            Some((pointer, false)) => {
                // SAFETY: `take` gave that many octets.
                unsafe { pointer.write_bytes(0, layout.size()) };
                pointer
            }
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match Arena::offset(pointer) {
            Some(start) if start + layout.size() == self.next.load(Relaxed) => self.next.store(start, Relaxed),
            Some(_) => {}
            // SAFETY: what is not of the block is the system's; the rest is the caller's promise.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(start) = Arena::offset(pointer) else {
            // SAFETY: what is not of the block is the system's; the rest is the caller's promise.
            return unsafe { System.realloc(pointer, layout, size) };
        };
        let last = start + layout.size() == self.next.load(Relaxed);
        if size <= layout.size() || (last && size <= LONGEST && start + size < SIZE) {
            if last {
                self.next.store(start + size, Relaxed);
                self.fresh.store(self.fresh.load(Relaxed).max(start + size), Relaxed);
            }
            return pointer;
        }
        // SAFETY: the caller's promises: the alignment is one, and size is not too long for it.
        unsafe {
            let other = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !other.is_null() {
                other.copy_from_nonoverlapping(pointer, layout.size());
                self.dealloc(pointer, layout);
            }
            other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::in_child;
    use super::super::process::Ended;
    use super::*;

    #[test]
    fn memory_is_whole_apart_and_zeroed_and_the_system_follows() {
        let before = vec![7_u8; 100];
        let ended = in_child(move || {
            begin();
            let mut all: Vec<Vec<u8>> = Vec::new();
            let mut inside = 0;
            for number in 0..2000_usize {
                let mut one = vec![0; number % 700];
                if one.iter().any(|&octet| octet != 0) {
                    return 1;
                }
                one.fill(number as u8);
                inside += usize::from(Arena::offset(one.as_mut_ptr()).is_some());
                all.push(one);
                if number % 3 == 0 {
                    all.swap_remove(number % all.len());
                }
            }
            let mut grown: Vec<u8> = Vec::new();
            (0..300_000_u32).for_each(|number| grown.push(number as u8));
            let whole = all.iter().all(|one| one.iter().all(|octet| octet == &one[0]));
            let counted = grown.iter().zip(0..300_000_u32).all(|(octet, number)| *octet == number as u8);
            let mut inherited = before;
            inherited.extend_from_slice(&[8; 5000]);
            let kept = inherited[..100] == [7; 100] && inherited[100..] == [8; 5000];
            i32::from(!(whole && counted && kept && inside > 100 && inside < 2000))
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn what_was_last_taken_and_given_back_is_taken_again() {
        let ended = in_child(|| {
            begin();
            let first = Box::new([1_u8; 5000]);
            let address = first.as_ptr().addr();
            drop(first);
            let second = Box::new([2_u8; 5000]);
            i32::from(second.as_ptr().addr() != address)
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn other_processes_are_as_they_were() {
        let mut one = vec![1_u8; 10];
        assert!(Arena::offset(one.as_mut_ptr()).is_none());
    }
}
