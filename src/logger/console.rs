//! Lines for standard error: a terminal, a pipe or a socket whose reader may sleep.
//!
//! Nobody but its reader may suffer from that: it is waited for once, and not again until it has read.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};

/// How long a reader may take to make room.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many octets find room in a pipe or a socket where there is any (PIPE_BUF, pipe(7)); a terminal may take fewer, and
/// its reader then be waited for.
const PIECE: usize = 4096;

/// What is known of the reader.
#[derive(Debug, Default)]
pub(super) struct Console {
    sleeps: bool,
    /// Whether it is a file, once that was asked.
    is_file: Option<bool>,
}

impl Console {
    /// Writes whole lines, always to the same descriptor; how many could not be.
    pub(super) fn write(&mut self, mut to: impl Write + AsFd, lines: &[u8]) -> u64 {
        let is_file = *self.is_file.get_or_insert_with(|| never_full(to.as_fd()));
        let end = Instant::now() + if self.sleeps { Duration::ZERO } else { PATIENCE };
        let mut rest = lines;
        while !rest.is_empty() {
            let length = if is_file { rest.len() } else { whole_lines(rest) };
            let (piece, after) = rest.split_at(length);
            if !(is_file || self.has_room(to.as_fd(), end)) || to.write_all(piece).is_err() {
                return count(rest);
            }
            rest = after;
        }
        0
    }

    /// Whether a piece can be written, now or before `end`.
    fn has_room(&mut self, fd: BorrowedFd<'_>, end: Instant) -> bool {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], wait) {
                Err(Errno::EINTR) => {}
                other => {
                    self.sleeps = other == Ok(0);
                    return other.is_ok_and(|ready| ready > 0);
                }
            }
        }
    }
}

/// Whether nobody has to read what is written there for more to find room.
fn never_full(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|about| {
        let kind = SFlag::from_bits_truncate(about.st_mode & SFlag::S_IFMT.bits());
        kind == SFlag::S_IFREG
    })
}

/// The octets of as many whole lines as make a piece; at least those of one.
fn whole_lines(lines: &[u8]) -> usize {
    let ends = |part: &[u8]| part.iter().rposition(|&octet| octet == b'\n');
    let first = || lines.iter().position(|&octet| octet == b'\n');
    let end = lines.get(..PIECE).map_or_else(|| ends(lines), ends).or_else(first);
    end.map_or(lines.len(), |end| end + 1)
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|&&octet| octet == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read as _};

    fn lines(count: usize) -> Vec<u8> {
        (0..count)
            .flat_map(|number| format!("{number:099}\n").into_bytes())
            .collect()
    }

    #[test]
    fn a_reader_that_sleeps_is_waited_for_once_and_hears_whole_lines() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut console = Console::default();
        let began = Instant::now();
        let lost = console.write(&writer, &lines(10_000));
        assert!((1..10_000).contains(&lost), "{lost}");
        assert!(began.elapsed() >= PATIENCE);
        let began = Instant::now();
        for _ in 0..100 {
            assert_eq!(console.write(&writer, &lines(3)), 3);
        }
        assert!(began.elapsed() < PATIENCE, "not again");
        let mut heard = vec![0; 100 * (10_000 - lost as usize)];
        reader.read_exact(&mut heard).unwrap();
        assert!(heard == lines(10_000 - lost as usize), "its beginning, and whole");
        assert_eq!(console.write(&writer, &lines(3)), 0, "it reads again");
        drop(reader);
        assert_eq!(console.write(&writer, &lines(3)), 3);
    }

    #[test]
    fn a_slow_reader_hears_all() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (wanted, mut heard) = (lines(10_000), Vec::new());
        std::thread::scope(|scope| {
            let said = scope.spawn(|| reader.read_to_end(&mut heard).unwrap());
            let mut console = Console::default();
            // Each call with its own patience.
            assert!(wanted.chunks(50_000).all(|some| console.write(&writer, some) == 0));
            drop(writer);
            said.join().unwrap();
        });
        assert!(heard == wanted);
    }

    #[test]
    fn a_file_and_a_long_line_are_written_as_they_are() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(Console::default().write(&file, &lines(1000)), 0);
        assert_eq!(file.metadata().unwrap().len(), 100_000);
        let (mut reader, writer) = io::pipe().unwrap();
        let long = [&b"x".repeat(PIECE * 2)[..], b"\nend\n"].concat();
        assert_eq!(Console::default().write(&writer, &long), 0);
        drop(writer);
        let mut heard = Vec::new();
        reader.read_to_end(&mut heard).unwrap();
        assert!(heard == long);
        file.flush().unwrap();
    }
}
