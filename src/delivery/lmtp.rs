//! A client of LMTP (RFC 2033) on a Unix socket; the connection is kept between messages.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::ipc::delivery::{Commit, Recipient, RecipientResult};

use super::content::Content;
use super::outcome;

const LINE: u64 = 4096;

/// A connection that has said LHLO.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<Timed>,
    smtputf8: bool,
    eightbit: bool,
}

/// A stream that ends at a time, however slowly its peer trickles.
#[derive(Debug)]
struct Timed {
    stream: UnixStream,
    end: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Some(left))
    }
}

/// A socket's time-out is told as "would block".
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reply {
    code: u16,
    lines: Vec<String>,
}

impl Reply {
    fn positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Its meaning for a recipient, with the server's own words.
    fn result(&self) -> RecipientResult {
        let text = self.lines.last().map_or("", String::as_str);
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = first.split('.').map(str::parse::<u16>);
        let status = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(class)), Some(Ok(subject)), Some(Ok(detail)), None) => Some([class, subject, detail]),
            _ => None,
        };
        let text = if status.is_some() { rest } else { text };
        let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        match self.code {
            200..300 => RecipientResult::Delivered,
            500..600 => RecipientResult::Permanent {
                code: self.code,
                status: status.unwrap_or([5, 0, 0]),
                text,
            },
            400..500 => RecipientResult::Temporary {
                code: self.code,
                status: status.unwrap_or([4, 0, 0]),
                text,
            },
            _ => outcome::local_error(),
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Connection {
    fn open(socket: &Path, end: Instant) -> io::Result<Connection> {
        let stream = UnixStream::connect(socket)?;
        let mut connection = Connection {
            stream: BufReader::new(Timed { stream, end }),
            smtputf8: false,
            eightbit: false,
        };
        if !connection.reply()?.positive() {
            return Err(broken("LMTP server does not greet"));
        }
        let hello = connection.command("LHLO localhost")?;
        if !hello.positive() {
            return Err(broken("LMTP server refuses LHLO"));
        }
        let offers = |word: &str| hello.lines.iter().any(|line| line.eq_ignore_ascii_case(word));
        (connection.smtputf8, connection.eightbit) = (offers("SMTPUTF8"), offers("8BITMIME"));
        Ok(connection)
    }

    fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            (&mut self.stream).take(LINE).read_until(b'\n', &mut line)?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let Some(line) = line.strip_suffix('\n') else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let code = line
                .get(..3)
                .and_then(|code| code.parse().ok())
                .ok_or_else(|| broken("LMTP reply has no code"))?;
            lines.push(line.get(4..).unwrap_or_default().trim_end().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
            if lines.len() > 100 {
                return Err(broken("LMTP reply has no end"));
            }
        }
    }

    fn mail(&mut self, commit: &Commit) -> io::Result<Reply> {
        let mut line = format!("MAIL FROM:<{}>", commit.reverse_path);
        if self.eightbit {
            line.push_str(" BODY=8BITMIME");
        }
        if commit.smtputf8 && self.smtputf8 {
            line.push_str(" SMTPUTF8");
        }
        self.command(&line)
    }
}

/// The address for RCPT, quoted where RFC 5321 wants it.
fn path(recipient: &Recipient) -> String {
    let atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || !c.is_ascii();
    let local = &recipient.mailbox;
    let plain = local.chars().all(atom) && !local.starts_with('.') && !local.ends_with('.') && !local.contains("..");
    if plain {
        return format!("{local}@{}", recipient.domain);
    }
    format!(
        "\"{}\"@{}",
        local.replace('\\', "\\\\").replace('"', "\\\""),
        recipient.domain
    )
}

/// One message for some recipients of it.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) socket: &'a Path,
    /// All must be over by then.
    pub(super) end: Instant,
    pub(super) commit: &'a Commit,
    pub(super) recipients: &'a [&'a Recipient],
    pub(super) content: &'a Content<'a>,
}

/// One message in one transaction. `results`, in the order of the recipients, is written as far as the server has
/// spoken; what it has not answered stays as it was, also when the connection breaks half-way.
pub(super) fn transact(
    kept: &mut Option<Connection>,
    order: &Order<'_>,
    results: &mut [RecipientResult],
) -> io::Result<()> {
    let (mut connection, reply) = begin(kept.take(), order)?;
    if !reply.positive() {
        results.fill(not_positive(&reply));
        return Ok(());
    }
    let mut open = Vec::with_capacity(results.len());
    for (recipient, result) in order.recipients.iter().zip(results) {
        let reply = connection.command(&format!("RCPT TO:<{}>", path(recipient)))?;
        if reply.positive() {
            open.push(result);
        } else {
            *result = reply.result();
        }
    }
    if open.is_empty() {
        connection.command("RSET")?;
        *kept = Some(connection);
        return Ok(());
    }
    let go = connection.command("DATA")?;
    if go.code == 354 {
        send_stuffed(order.content.reader(), connection.stream.get_mut())?;
    }
    for result in open {
        *result = if go.code == 354 {
            connection.reply()?.result()
        } else {
            not_positive(&go)
        };
    }
    *kept = Some(connection);
    Ok(())
}

/// MAIL on the kept connection, or on a new one: that one may have been closed meanwhile, and nothing is lost or sent
/// twice by another before DATA.
fn begin(kept: Option<Connection>, order: &Order<'_>) -> io::Result<(Connection, Reply)> {
    if let Some(mut connection) = kept {
        connection.stream.get_mut().end = order.end;
        match connection.mail(order.commit) {
            Ok(reply) if reply.code != 421 => return Ok((connection, reply)),
            _ => {}
        }
    }
    let mut connection = Connection::open(order.socket, order.end)?;
    let reply = connection.mail(order.commit)?;
    Ok((connection, reply))
}

fn not_positive(reply: &Reply) -> RecipientResult {
    if reply.positive() {
        outcome::local_error()
    } else {
        reply.result()
    }
}

/// The message with dots doubled at line starts, every LF as CRLF, and the final dot.
fn send_stuffed(mut reader: impl Read, stream: &mut Timed) -> io::Result<()> {
    let mut input = vec![0; 32 * 1024];
    let mut output = Vec::with_capacity(34 * 1024);
    let mut last = b'\n';
    loop {
        let read = reader.read(&mut input)?;
        for &byte in input.get(..read).unwrap_or_default() {
            if byte == b'.' && last == b'\n' {
                output.push(b'.');
            }
            if byte == b'\n' && last != b'\r' {
                output.push(b'\r');
            }
            output.push(byte);
            last = byte;
        }
        if read == 0 {
            output.extend_from_slice(if last == b'\n' { b".\r\n" } else { b"\r\n.\r\n" });
        }
        stream.write_all(&output)?;
        output.clear();
        if read == 0 {
            return Ok(());
        }
    }
}
