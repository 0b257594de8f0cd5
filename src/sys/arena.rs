//! Memory by purpose, so that a fork copies few pages: what lasts, what the master changes, what a worker needs.
//!
//! After a fork every page that either process writes is copied, and a heap that has read the configuration has its
//! free blocks scattered over all its pages. So what is allocated at start, and lasts, comes from one block, upwards;
//! what the master changes while it serves lies where no fork copies it; and a worker allocates from a block that
//! nobody has touched. What does not fit comes from the system's allocator, so that a
//! long session is bounded as ever.
//!
//! It must never hand out memory twice. What is given back inside a block is used again if it was the last; in a worker's
//! block short parts are used again in any case.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use apart::Apart;

mod apart;

/// Octets for what lasts: a huge page on x86-64, and on 64-bit Arm with pages of 4 KiB.
const LASTING: usize = 2 * 1024 * 1024;
/// Where a worker's block ends: its read buffer and an ordinary session several times over. Unused pages cost nothing.
const SIZE: usize = LASTING + 256 * 1024;
/// Longer ones come from the system's allocator, which gives them back when they are freed.
const LONGEST: usize = 80 * 1024;

/// A worker's short parts have sizes of so many octets, twice as many, and so on: what is given back then fits another.
const STEP: usize = 16;
/// How many such sizes there are.
const STEPS: usize = 64;

/// The allocator of the program. All offsets are into its block. A worker's part of it is for a process with one thread:
/// there is nobody to wait for, and each of some thousand times costs.
struct Arena {
    /// Where the block begins, at the border of a huge page; 0 before it is made.
    start: AtomicUsize,
    /// Of the first free octet.
    next: AtomicUsize,
    /// Where the part in use ends; 0 for none.
    end: AtomicUsize,
    /// From here on nothing was ever handed out: zeroes.
    fresh: AtomicUsize,
    /// The first free part of each short size in a worker's block, chained through their first words; 0 for none.
    free: [AtomicUsize; STEPS],
    /// Memory that no fork copies, and whether it is in use.
    apart: Apart,
    is_apart: AtomicBool,
}

/// How a part of the block lies there.
struct Part<'a> {
    size: usize,
    align: usize,
    /// The first of its like that was given back.
    like: Option<&'a AtomicUsize>,
}

#[global_allocator]
static ARENA: Arena = Arena {
    start: AtomicUsize::new(0),
    next: AtomicUsize::new(0),
    end: AtomicUsize::new(0),
    fresh: AtomicUsize::new(0),
    free: [const { AtomicUsize::new(0) }; STEPS],
    apart: Apart::new(),
    is_apart: AtomicBool::new(false),
};

/// What is allocated from now on lasts as long as the process, and should not change once children are forked.
pub fn lasting() {
    ARENA.prepare();
    ARENA.end.store(LASTING, SeqCst);
}

/// Nothing that lasts is to change from now on: puts it into a huge page where the kernel has one, which a fork copies in
/// one step, and whoever writes to it splits for itself. Once, and not as a rule for this memory, which would be a mapping
/// of its own then, beside a worker's: each costs at every fork.
pub fn settle() {
    let start = ARENA.start.load(SeqCst);
    if start != 0 {
        // SAFETY: memory of our own, whose content stays; without success its pages stay small.
        unsafe { libc::madvise(ptr::with_exposed_provenance_mut(start), LASTING, libc::MADV_COLLAPSE) };
    }
}

/// What is allocated from now on comes from the system's allocator.
pub fn ordinary() {
    ARENA.is_apart.store(false, SeqCst);
    ARENA.end.store(0, SeqCst);
}

/// What is allocated from now on is left out of every fork: no child may look at it. Of a process with one thread.
pub fn apart() {
    ARENA.end.store(0, SeqCst);
    ARENA.is_apart.store(ARENA.apart.prepare(), SeqCst);
}

/// What `work` allocates is inherited by forks and may change later, whatever is usual now: it comes from the system's
/// allocator. Of a worker nobody inherits anything.
#[inline(never)] // what it calls is rare, and would make the stack of every worker longer
pub fn inherited<T>(work: impl FnOnce() -> T) -> T {
    if ARENA.end.load(SeqCst) == SIZE {
        return work();
    }
    let is_apart = ARENA.is_apart.swap(false, SeqCst);
    let end = ARENA.end.swap(0, SeqCst);
    let result = work();
    ARENA.end.store(end, SeqCst);
    ARENA.is_apart.store(is_apart, SeqCst);
    result
}

/// What is allocated from now on is a worker's: called once, right after the fork.
pub fn worker() {
    ARENA.prepare();
    ARENA.is_apart.store(false, SeqCst);
    ARENA.next.store(LASTING, SeqCst);
    ARENA.fresh.store(LASTING, SeqCst);
    ARENA.end.store(SIZE, SeqCst);
}

impl Arena {
    /// Makes the block, once; where the kernel refuses, everything comes from the system's allocator.
    fn prepare(&self) {
        if self.start.load(SeqCst) != 0 {
            return;
        }
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new memory at an address that the kernel chooses.
        let found = unsafe { libc::mmap(ptr::null_mut(), LASTING + SIZE, rights, flags, -1, 0) };
        if found == libc::MAP_FAILED {
            return;
        }
        let found = found.expose_provenance();
        let start = found.next_multiple_of(LASTING);
        for (outside, length) in [(found, start - found), (start + SIZE, found + LASTING - start)] {
            if length > 0 {
                // SAFETY: of the memory just made what lies outside the block, which nobody knows of.
                unsafe { libc::munmap(ptr::with_exposed_provenance_mut(outside), length) };
            }
        }
        self.start.store(start, SeqCst);
    }

    /// The offset of memory of the block.
    fn offset(pointer: *mut u8) -> Option<usize> {
        let start = ARENA.start.load(SeqCst);
        let offset = pointer.addr().wrapping_sub(start);
        (start != 0 && offset < SIZE).then_some(offset)
    }

    /// A block that no fork copies, if such are wanted now.
    fn take_apart(&self, layout: Layout) -> Option<*mut u8> {
        self.is_apart.load(SeqCst).then(|| self.apart.take(layout)).flatten()
    }

    /// Moves what was allocated for `layout` to memory of `size` octets.
    ///
    /// # Safety
    /// As of [`GlobalAlloc::realloc`].
    unsafe fn elsewhere(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises.
        unsafe {
            let other = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !other.is_null() {
                other.copy_from_nonoverlapping(pointer, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
            other
        }
    }

    /// How a part for `layout` lies in the block: a worker's so that each can be one of the short ones when it is given
    /// back, whatever it was before.
    fn part(&self, layout: Layout, is_workers: bool) -> Part<'_> {
        let steps = layout.size().div_ceil(STEP);
        let is_short = is_workers && steps <= STEPS && layout.align() <= STEP;
        Part {
            size: if is_short { steps * STEP } else { layout.size() },
            align: if is_workers {
                layout.align().max(STEP)
            } else {
                layout.align()
            },
            like: if is_short {
                self.free.get(steps.wrapping_sub(1))
            } else {
                None
            },
        }
    }

    /// Takes memory of the block; with it the number of its first octets that may not be zero.
    fn take(&self, layout: Layout) -> Option<(*mut u8, usize)> {
        let block = self.start.load(SeqCst);
        if block == 0 || layout.size() > LONGEST || layout.align() > 4096 {
            return None;
        }
        let limit = self.end.load(SeqCst);
        let part = self.part(layout, limit == SIZE);
        if let Some(free) = part.like {
            let first = free.load(Relaxed);
            if first != 0 {
                let again = ptr::with_exposed_provenance_mut::<u8>(block + first);
                // SAFETY: what was given back is at least a word long, and as aligned, and holds where the next one is.
                free.store(unsafe { again.cast::<usize>().read() }, Relaxed);
                return Some((again, layout.size()));
            }
        }
        let place = |next: usize| {
            let start = next.next_multiple_of(part.align);
            let end = start.checked_add(part.size)?;
            (end < limit).then_some((start, end))
        };
        let (start, end) = if limit == SIZE {
            let (start, end) = place(self.next.load(Relaxed))?;
            self.next.store(end, Relaxed);
            (start, end)
        } else {
            let next = self
                .next
                .fetch_update(SeqCst, SeqCst, |next| place(next).map(|(_, end)| end));
            place(next.ok()?)?
        };
        // Whoever used this memory before has raised the mark before giving it back.
        let used = self.raise(end).saturating_sub(start).min(layout.size());
        Some((ptr::with_exposed_provenance_mut(block + start), used))
    }

    /// Nothing below `end` is new any more; up to where nothing was before.
    fn raise(&self, end: usize) -> usize {
        if end <= LASTING {
            return self.fresh.fetch_max(end, SeqCst);
        }
        let before = self.fresh.load(Relaxed);
        if end > before {
            self.fresh.store(end, Relaxed);
        }
        before
    }

    /// Moves the end of a part that was the last; whether it was.
    fn resize(&self, end: usize, new: usize) -> bool {
        let moved = if end > LASTING {
            let is_last = self.next.load(Relaxed) == end;
            if is_last {
                self.next.store(new, Relaxed);
            }
            is_last
        } else {
            self.next.compare_exchange(end, new, SeqCst, SeqCst).is_ok()
        };
        if moved {
            self.raise(new);
        }
        moved
    }
}

// SAFETY: memory comes from the system's allocator or from the block. In the block a part is new, between `next` before and
// after it was taken, or of a list of parts that were given back. `next` goes back over the last part alone, when that is
// given back or becomes shorter. A part in a list is never the last one and keeps its place: `next` stays behind it, as
// only parts behind it can become the last. It is at least as long as the size whose list it is in, which is reckoned from
// the layout that it is given back with: never more than what was reserved for it, as a part grows by being the last or by
// being moved. So no two overlap.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(block) = self.take_apart(layout) {
            return block;
        }
        match self.take(layout) {
            Some((pointer, _)) => pointer,
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Some(block) = self.take_apart(layout) {
            // SAFETY: a block for this layout.
            unsafe { block.write_bytes(0, layout.size()) };
            return block;
        }
        match self.take(layout) {
            Some((pointer, used)) => {
                // SAFETY: `take` gave at least that many octets.
                unsafe { pointer.write_bytes(0, used) };
                pointer
            }
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.apart.has(pointer) {
            // SAFETY: the caller's promise.
            return unsafe { self.apart.give_back(pointer, layout) };
        }
        match Arena::offset(pointer) {
            Some(start) => {
                let part = self.part(layout, start >= LASTING);
                if !self.resize(start + part.size, start)
                    && let Some(free) = part.like
                {
                    // SAFETY: the caller gives up at least a word, as aligned. A worker has one thread.
                    unsafe { pointer.cast::<usize>().write(free.load(Relaxed)) };
                    free.store(start, Relaxed);
                }
            }
            // SAFETY: what is not of the block is the system's; the rest is the caller's promise.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if self.apart.has(pointer) {
            // SAFETY: the caller's promises: the alignment is one, and size is not too long for it.
            return unsafe { self.elsewhere(pointer, layout, size) };
        }
        let Some(start) = Arena::offset(pointer) else {
            // SAFETY: what is not of the block is the system's; the rest is the caller's promise.
            return unsafe { System.realloc(pointer, layout, size) };
        };
        // SAFETY: the caller's promise.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let [part, wanted] = [layout, wanted].map(|layout| self.part(layout, start >= LASTING));
        let (end, new) = (start + part.size, start + wanted.size);
        if wanted.size <= part.size {
            self.resize(end, new);
            return pointer;
        }
        if size <= LONGEST && new < self.end.load(SeqCst) && self.resize(end, new) {
            return pointer;
        }
        // SAFETY: the caller's promises: the alignment is one, and size is not too long for it.
        unsafe { self.elsewhere(pointer, layout, size) }
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
            worker();
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
            let counted = grown
                .iter()
                .zip(0..300_000_u32)
                .all(|(octet, number)| *octet == number as u8);
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
            worker();
            let first = Box::new([1_u8; 5000]);
            let address = first.as_ptr().addr();
            drop(first);
            let second = Box::new([2_u8; 5000]);
            i32::from(second.as_ptr().addr() != address)
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn what_is_given_back_before_the_last_is_taken_again_by_its_like() {
        let ended = in_child(|| {
            worker();
            for size in [1, 15, 16, 100, 1000, STEP * STEPS] {
                let (one, _last) = (vec![1_u8; size], vec![1_u8; 2 * STEP * STEPS]);
                let address = one.as_ptr().addr();
                drop(one);
                let (other, again) = (vec![2_u8; size + STEP], vec![0_u8; size]);
                if again.as_ptr().addr() != address || other.as_ptr().addr() == address || again != vec![0; size] {
                    return 1;
                }
            }
            0
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn short_parts_are_taken_again_whole_and_apart() {
        let ended = in_child(|| {
            worker();
            let mut all: Vec<Vec<u8>> = Vec::with_capacity(600);
            let mut state = 1_usize;
            for number in 0..200_000_usize {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (what, size) = (state >> 60, (state >> 33) % 1100);
                let at = (state >> 44) % all.len().max(1);
                match what {
                    _ if all.len() < 20 => all.push(vec![number as u8; size]),
                    0..6 if all.len() < 500 => all.push(vec![number as u8; size]),
                    6..8 => {
                        let zeroes = vec![0_u8; size];
                        if zeroes.iter().any(|octet| *octet != 0) {
                            return 1;
                        }
                    }
                    8..10 => {
                        let mark = all[at].first().copied().unwrap_or_default();
                        all[at].resize(size, mark);
                        all[at].shrink_to_fit();
                    }
                    _ => drop(all.swap_remove(at)),
                }
                if !all[at % all.len()].iter().all(|octet| *octet == all[at % all.len()][0]) {
                    return 2;
                }
            }
            let whole = all.iter().all(|one| one.iter().all(|octet| *octet == one[0]));
            let words: Vec<Box<usize>> = (0..100).map(Box::new).collect();
            let aligned = words
                .iter()
                .all(|word| (&raw const **word).addr().is_multiple_of(align_of::<usize>()));
            i32::from(!(whole && aligned)) * 3
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn memory_that_lasts_is_apart_from_the_heap_and_from_a_workers() {
        let mut one = vec![1_u8; 10];
        assert!(Arena::offset(one.as_mut_ptr()).is_none());
        let ended = in_child(|| {
            lasting();
            let mut lasts = vec![2_u8; 100];
            ordinary();
            let mut ordinary = vec![3_u8; 100];
            worker();
            let mut workers = vec![0_u8; 64 * 1024];
            let at = [&mut lasts, &mut ordinary, &mut workers].map(|one| Arena::offset(one.as_mut_ptr()));
            let apart =
                at[0].is_some_and(|at| at < LASTING) && at[1].is_none() && at[2].is_some_and(|at| at >= LASTING);
            lasts.extend_from_slice(&[2; 100]);
            let whole = lasts == [2; 200] && ordinary == [3; 100] && workers.iter().all(|octet| *octet == 0);
            i32::from(!(apart && whole))
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn memory_apart_is_in_no_child_and_stays_its_own() {
        let ended = in_child(|| {
            apart();
            let mut here: Vec<u8> = Vec::new();
            (0..100_000_u32).for_each(|number| here.push(number as u8));
            let is_apart = ARENA.apart.has(here.as_mut_ptr());
            let zeroed = vec![0_u8; 3000];
            ordinary();
            let mut there = here.clone();
            // Grown and given back in another mode than the one that it came from.
            here.extend_from_slice(&[1; 50_000]);
            let moved = ARENA.apart.has(here.as_mut_ptr()) || ARENA.apart.has(there.as_mut_ptr());
            let whole = there.iter().zip(&here).all(|(one, other)| one == other);
            let zeroes = zeroed.iter().all(|octet| *octet == 0);
            let address = zeroed.as_ptr();
            // SAFETY: the process ends of it, which is what is asked.
            let seen = in_child(|| unsafe { address.read_volatile() }.into());
            i32::from(!(is_apart && !moved && whole && zeroes && seen == Ended::Signaled(libc::SIGSEGV)))
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn threads_get_memory_of_their_own() {
        let ended = in_child(|| {
            lasting();
            let threads: Vec<_> = (0..4_u8)
                .map(|mark| {
                    std::thread::spawn(move || {
                        let all: Vec<Vec<u8>> = (0..500).map(|length| vec![mark; length % 90]).collect();
                        all.iter().all(|one| one.iter().all(|octet| *octet == mark))
                    })
                })
                .collect();
            i32::from(!threads.into_iter().all(|thread| thread.join().unwrap_or(false)))
        });
        assert_eq!(ended, Ended::Exited(0));
    }
}
