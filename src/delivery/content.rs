//! The bytes of a message: fields that we put in front, then what the client sent, less its `Return-Path` fields and
//! those that were to be removed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

// A header longer than this keeps what stands behind.
const HEADER: usize = 256 * 1024;

/// Where the client's bytes are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    Bytes(&'a [u8]),
    File(&'a File, u64),
}

impl Source<'_> {
    pub(super) fn length(self) -> u64 {
        match self {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::File(_, length) => length,
        }
    }
}

/// A message that can be written many times.
#[derive(Debug)]
pub(super) struct Content<'a> {
    /// Fields of ours, then what is kept of the header before the last field that is left out: however many pieces
    /// a client makes of its header, they are put together once.
    head: Vec<u8>,
    source: Source<'a>,
    /// What follows, unchanged.
    rest: Range<u64>,
}

impl<'a> Content<'a> {
    /// `removed` are names of fields to leave out besides `Return-Path`.
    pub(super) fn new(fields: &[u8], removed: &[String], source: Source<'a>) -> io::Result<Content<'a>> {
        let mut buffer = Vec::new();
        let start = match source {
            Source::Bytes(bytes) => bytes,
            Source::File(file, length) => {
                buffer.resize(usize::try_from(length).unwrap_or(HEADER).min(HEADER), 0);
                file.read_exact_at(&mut buffer, 0)?;
                &buffer
            }
        };
        let mut head = fields.to_vec();
        let rest = without(start, removed, &mut head)..source.length();
        Ok(Content { head, source, rest })
    }

    /// The client's bytes alone, all of them.
    pub(super) fn whole(source: Source<'a>) -> Content<'a> {
        Content {
            head: Vec::new(),
            source,
            rest: 0..source.length(),
        }
    }

    /// Writes `head`, the added fields and the rest to a file at its position 0.
    pub(super) fn write(&self, head: &[u8], out: &File) -> io::Result<()> {
        let mut start = Vec::with_capacity(head.len() + self.head.len());
        start.extend_from_slice(head);
        start.extend_from_slice(&self.head);
        match self.source {
            Source::Bytes(bytes) => {
                start.extend_from_slice(slice(bytes, &self.rest));
                (&*out).write_all(&start)
            }
            Source::File(file, _) => {
                (&*out).write_all(&start)?;
                copy(file, self.rest.clone(), out)
            }
        }
    }

    /// Everything as a stream, for a peer that is no file.
    pub(super) fn reader(&self) -> Box<dyn Read + '_> {
        let head = self.head.as_slice();
        match self.source {
            Source::Bytes(bytes) => Box::new(head.chain(slice(bytes, &self.rest))),
            Source::File(file, _) => Box::new(head.chain(Part {
                file,
                range: self.rest.clone(),
            })),
        }
    }
}

fn slice<'a>(bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    bytes.get(index(range.start)..index(range.end)).unwrap_or_default()
}

struct Part<'a> {
    file: &'a File,
    range: Range<u64>,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.range.end - self.range.start)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(buffer) = buffer.get_mut(..left).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let read = self.file.read_at(buffer, self.range.start)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.range.start += read as u64;
        Ok(read)
    }
}

/// Copies within the kernel (`copy_file_range`, by the standard library). The file is opened anew: the position of
/// the one that a worker holds as well is the worker's to move.
fn copy(from: &File, range: Range<u64>, mut to: &File) -> io::Result<()> {
    let mut own = File::open(format!("/proc/self/fd/{}", from.as_raw_fd()))?;
    own.seek(SeekFrom::Start(range.start))?;
    let wanted = range.end - range.start;
    let copied = io::copy(&mut (&own).take(wanted), &mut to)?;
    // else the worker has made its file shorter
    if copied == wanted {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Appends to `kept` what is neither a `Return-Path` field nor one of those in `removed`, up to the last such field in
/// the header with which `start` begins; where the rest begins.
fn without(start: &[u8], removed: &[String], kept: &mut Vec<u8>) -> u64 {
    let mut from = 0;
    let mut at = 0;
    let mut removing = false;
    while let Some(rest) = start.get(at..).filter(|rest| !rest.is_empty()) {
        let line = match rest.iter().position(|&byte| byte == b'\n') {
            Some(end) => rest.get(..=end).unwrap_or(rest),
            None => rest,
        };
        if matches!(line, b"\r\n" | b"\n") {
            break;
        }
        let folded = matches!(line.first(), Some(b' ' | b'\t'));
        let remove = if folded {
            removing
        } else {
            is_field(line, "Return-Path") || removed.iter().any(|name| is_field(line, name))
        };
        if remove && !removing {
            kept.extend_from_slice(start.get(from..at).unwrap_or_default());
        }
        at += line.len();
        if remove {
            from = at;
        }
        removing = remove;
    }
    from as u64
}

/// Whether a line begins the field of this name; white space may stand before the colon (RFC 5322 4.5).
fn is_field(line: &[u8], name: &str) -> bool {
    let Some((start, rest)) = line.split_at_checked(name.len()) else {
        return false;
    };
    let colon = rest.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    start.eq_ignore_ascii_case(name.as_bytes()) && colon == Some(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header made to be taken to pieces: a thread of delivery has a small stack, and each piece costs calls.
    #[test]
    fn a_header_in_thousands_of_pieces_costs_neither_stack_nor_calls() {
        let pieces = HEADER / 20;
        let body = [b"Return-Path:<>\r\nA:\r\n".repeat(pieces), b"\r\ntext\r\n".to_vec()].concat();
        let expected = [b"X: y\r\n".to_vec(), b"A:\r\n".repeat(pieces), b"\r\ntext\r\n".to_vec()].concat();
        let small = std::thread::Builder::new().stack_size(128 * 1024);
        let work = move || both_ways(&body, &[]);
        assert!(small.spawn(work).unwrap().join().unwrap() == expected);
    }

    fn both_ways(body: &[u8], removed: &[String]) -> Vec<u8> {
        let staged = tempfile::tempfile().unwrap();
        staged.write_all_at(body, 0).unwrap();
        let mut all = Vec::new();
        for source in [Source::Bytes(body), Source::File(&staged, body.len() as u64)] {
            let content = Content::new(b"X: y\r\n", removed, source).unwrap();
            let out = tempfile::tempfile().unwrap();
            content.write(b"Return-Path: <>\r\n", &out).unwrap();
            let mut written = vec![0; usize::try_from(out.metadata().unwrap().len()).unwrap()];
            out.read_exact_at(&mut written, 0).unwrap();
            let mut streamed = Vec::new();
            content.reader().read_to_end(&mut streamed).unwrap();
            assert_eq!(written, [b"Return-Path: <>\r\n".as_slice(), &streamed].concat());
            all.push(streamed);
        }
        assert_eq!(all[0], all[1]);
        all.remove(0)
    }

    #[test]
    fn only_return_path_fields_go() {
        for (body, expected) in [
            ("", ""),
            ("\r\nReturn-Path: <kept>\r\n", "\r\nReturn-Path: <kept>\r\n"),
            (
                "A: b\r\nReturn-Path: <x>\r\n\t(folded)\r\nC: d\r\n\r\nbody",
                "A: b\r\nC: d\r\n\r\nbody",
            ),
            ("return-PATH : <x>\nRETURN-path:\n y\nC: d\n\nbody\n", "C: d\n\nbody\n"),
            ("Return-Path: <x>", ""),
            ("Return-Path-Not: <x>\r\n\r\n", "Return-Path-Not: <x>\r\n\r\n"),
            ("no header at all", "no header at all"),
        ] {
            assert_eq!(
                both_ways(body.as_bytes(), &[]),
                [b"X: y\r\n", expected.as_bytes()].concat(),
                "{body:?}"
            );
        }
    }

    #[test]
    fn fields_that_were_to_be_removed_go_wherever_they_stand() {
        let body =
            b"X-Spam: a\r\nA: b\r\nx-spam :\r\n folded\r\nReturn-Path: <>\r\nX-Spammer: c\r\n\r\nX-Spam: body\r\n";
        assert_eq!(
            both_ways(body, &["X-Spam".to_owned()]),
            b"X: y\r\nA: b\r\nX-Spammer: c\r\n\r\nX-Spam: body\r\n"
        );
    }

    #[test]
    fn a_file_that_shrank_is_an_error() {
        let staged = tempfile::tempfile().unwrap();
        staged.write_all_at(&[b'x'; 300_000], 0).unwrap();
        let content = Content::new(b"", &[], Source::File(&staged, 300_000)).unwrap();
        staged.set_len(10).unwrap();
        assert!(content.write(b"", &tempfile::tempfile().unwrap()).is_err());
    }
}
