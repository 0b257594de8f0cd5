//! The program's own code in huge pages, so that a worker finds it mapped.
//!
//! Code in a file is mapped anew by every process that runs it, some pages at each first use, and all these pages are
//! unmapped at its end. Huge pages of anonymous memory are inherited by a fork as they are, one entry for two mebibytes.
//! Code stays code: the new pages are never writable for the program. The kernel fills them (proc_pid_mem(5)), as a
//! service manager may forbid to make memory executable that was written to.
//!
//! Nothing depends on its success: what the kernel has no huge page for stays where it is.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::ptr;

use super::checked;

/// What a huge page is on x86-64, and on 64-bit Arm with pages of 4 KiB.
const HUGE: usize = 2 * 1024 * 1024;

/// Moves the code and the constants of the program to huge pages; how many octets of them.
///
/// # Errors
/// What open(2), mmap(2) and write(2) say. The program is whole then, too.
pub fn to_huge_pages() -> io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut moved = 0;
    for part in parts(&maps, to_huge_pages as *const () as usize) {
        moved += part.relocate()?;
    }
    Ok(moved)
}

/// A line of /proc/self/maps (proc_pid_maps(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    range: Range<usize>,
    rights: &'a str,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Mapping<'a>> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let number = |hex| usize::from_str_radix(hex, 16).ok();
        Some(Mapping {
            range: number(start)?..number(end)?,
            rights: words.next()?,
            path: words.nth(3).unwrap_or_default().trim_start(),
        })
    }
}

/// A part of the program that never changes, and the room that it has up to the border of a huge page.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    range: Range<usize>,
    room: usize,
    executable: bool,
}

/// The parts of the program that has `inside` among its code, with what nobody has written to since it was loaded
/// (RELRO). Only those that begin at the border of a huge page and have nothing behind them up to another one.
fn parts(maps: &str, inside: usize) -> Vec<Part> {
    let maps: Vec<Mapping> = maps.lines().filter_map(Mapping::parse).collect();
    let Some(code) = maps.iter().position(|mapping| mapping.range.contains(&inside)) else {
        return Vec::new();
    };
    let next = |at: usize| maps.get(at + 1).map_or(usize::MAX, |next| next.range.start);
    let never_changes =
        |mapping: &Mapping| mapping.path == maps[code].path && matches!(mapping.rights, "r--p" | "r-xp");
    let part = |(at, mapping): (usize, &Mapping)| {
        let room = mapping.range.len().next_multiple_of(HUGE);
        let fits = mapping.range.start.is_multiple_of(HUGE) && mapping.range.start + room <= next(at);
        (fits && never_changes(mapping)).then(|| Part {
            range: mapping.range.clone(),
            room,
            executable: mapping.rights == "r-xp",
        })
    };
    maps.iter().enumerate().filter_map(part).collect()
}

impl Part {
    fn relocate(&self) -> io::Result<usize> {
        let copy = Copy::new(self.room, self.executable)?;
        // SAFETY: the kernel has just said that this range is mapped and readable, and what is there never changes.
        let octets = unsafe { std::slice::from_raw_parts(self.range.start as *const u8, self.range.len()) };
        let memory = File::options().write(true).open("/proc/self/mem")?;
        memory.write_all_at(octets, copy.start as u64)?;
        if !copy.is_huge()? {
            return Ok(0);
        }
        copy.replace(self.range.start)?;
        Ok(self.range.len())
    }
}

/// Anonymous memory at the border of a huge page that only the kernel can write to; unmapped when dropped.
struct Copy {
    start: usize,
    length: usize,
}

impl Copy {
    fn new(length: usize, executable: bool) -> io::Result<Copy> {
        let reserved = map(0, length + HUGE, libc::PROT_NONE, libc::MAP_NORESERVE)?;
        let start = reserved.next_multiple_of(HUGE);
        unmap(reserved, start - reserved)?;
        unmap(start + length, reserved + HUGE - start)?;
        let copy = Copy { start, length };
        let rights = libc::PROT_READ | if executable { libc::PROT_EXEC } else { 0 };
        map(start, length, rights, libc::MAP_FIXED)?;
        // SAFETY: advice about memory of our own.
        checked(unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_HUGEPAGE) })?;
        Ok(copy)
    }

    /// Whether all of it is huge pages.
    fn is_huge(&self) -> io::Result<bool> {
        let header = format!("{:x}-{:x} ", self.start, self.start + self.length);
        let maps = fs::read_to_string("/proc/self/smaps")?;
        let mut ours = maps.lines().skip_while(|line| !line.starts_with(&header));
        let size = ours.find_map(|line| line.strip_prefix("AnonHugePages:"));
        let kib = size.and_then(|size| size.trim().strip_suffix(" kB")?.parse().ok());
        Ok(kib == Some(self.length / 1024))
    }

    /// Moves it to `place`, instead of what is there.
    fn replace(self, place: usize) -> io::Result<()> {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let (start, place) = (self.start as *mut libc::c_void, place as *mut libc::c_void);
        // SAFETY: at `place` are the same octets, and nothing else up to the end of the copy. The kernel puts the one for
        // the other in a single step; this very code runs there.
        let moved = unsafe { libc::mremap(start, self.length, self.length, flags, place) };
        if moved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = unmap(self.start, self.length);
    }
}

/// Private anonymous memory; with MAP_FIXED in the place of what the caller has reserved at `start`.
fn map(start: usize, length: usize, rights: libc::c_int, flags: libc::c_int) -> io::Result<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: what it replaces, if anything, is memory of the caller's that nothing points to.
    let start = unsafe { libc::mmap(ptr::without_provenance_mut(start), length, rights, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(start as usize)
}

fn unmap(start: usize, length: usize) -> io::Result<()> {
    if length > 0 {
        // SAFETY: callers give back memory of their own that nothing points to.
        checked(unsafe { libc::munmap(start as *mut libc::c_void, length) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55e623000000-55e623118000 r--p 00000000 fe:00 7                          /usr/sbin/a daemon
55e623200000-55e6236bb000 r-xp 00200000 fe:00 7                          /usr/sbin/a daemon
55e623800000-55e623812000 r--p 00800000 fe:00 7                          /usr/sbin/a daemon
55e623c01000-55e623c12000 r--p 00801000 fe:00 7                          /usr/sbin/a daemon
55e623c12000-55e623c14000 rw-p 00812000 fe:00 7                          /usr/sbin/a daemon
7f288c534000-7f288c55a000 r--p 00000000 fe:00 8                          /usr/lib/libc.so.6
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn parts_are_what_never_changes() {
        let found = parts(MAPS, 0x55e6_2320_1000);
        let constants = Part {
            range: 0x55e6_2300_0000..0x55e6_2311_8000,
            room: HUGE,
            executable: false,
        };
        let code = Part {
            range: 0x55e6_2320_0000..0x55e6_236b_b000,
            room: 3 * HUGE,
            executable: true,
        };
        let more_constants = Part {
            range: 0x55e6_2380_0000..0x55e6_2381_2000,
            room: HUGE,
            executable: false,
        };
        assert_eq!(found, [constants, code, more_constants]);
        assert_eq!(parts(MAPS, 0x1000), []);
    }

    #[test]
    fn a_part_without_room_stays() {
        let inside = 0x55e6_2320_1000;
        let close = MAPS.replace("55e623800000", "55e6236bb000");
        assert_eq!(parts(&close, inside).len(), 1);
        let odd = MAPS.replace("55e623000000", "55e623001000");
        assert_eq!(parts(&odd, inside).len(), 2);
    }

    #[test]
    fn what_was_moved_runs_on() {
        let ended = super::super::in_child(|| {
            to_huge_pages().unwrap();
            // A part that is there for certain, whatever the linker made of the rest.
            let copy = Copy::new(HUGE, true).unwrap();
            let memory = File::options().write(true).open("/proc/self/mem").unwrap();
            memory.write_all_at(b"octets", copy.start as u64).unwrap();
            let place = Copy::new(HUGE, false).unwrap();
            let start = place.start;
            std::mem::forget(place);
            copy.replace(start).unwrap();
            // SAFETY: mapped just now, and readable.
            let octets = unsafe { std::slice::from_raw_parts(start as *const u8, 6) };
            i32::from(octets != b"octets")
        });
        assert_eq!(ended, super::super::process::Ended::Exited(0));
    }
}
