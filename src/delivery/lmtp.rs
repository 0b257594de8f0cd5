//! A client of LMTP (RFC 2033) on a Unix socket; the connection is kept between messages.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::ipc::delivery::{Commit, Recipient, RecipientResult};

use super::content::Content;
use super::outcome;

const LINE: u64 = 4096;

/// A connection that has said LHLO.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    smtputf8: bool,
    eightbit: bool,
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
    fn open(socket: &Path, timeout: Duration) -> io::Result<Connection> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut connection = Connection {
            stream: BufReader::new(stream),
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

/// One message in one transaction; results in the order of `recipients`. After an error the connection is useless,
/// and whatever was sent counts as not delivered.
pub(super) fn transact(
    kept: &mut Option<Connection>,
    socket: &Path,
    timeout: Duration,
    commit: &Commit,
    recipients: &[&Recipient],
    content: &Content<'_>,
) -> io::Result<Vec<RecipientResult>> {
    // a kept connection may have been closed meanwhile: nothing is lost by another one before DATA
    let begun = kept
        .take()
        .and_then(|mut connection| connection.mail(commit).ok().map(|reply| (connection, reply)));
    let (mut connection, reply) = match begun {
        Some((connection, reply)) if reply.code != 421 => (connection, reply),
        _ => {
            let mut connection = Connection::open(socket, timeout)?;
            let reply = connection.mail(commit)?;
            (connection, reply)
        }
    };
    if !reply.positive() {
        let _ = connection.command("RSET");
        return Ok(vec![reply.result(); recipients.len()]);
    }
    let mut results = Vec::with_capacity(recipients.len());
    for recipient in recipients {
        results.push(connection.command(&format!("RCPT TO:<{}>", path(recipient)))?.result());
    }
    if results.contains(&RecipientResult::Delivered) {
        let go = connection.command("DATA")?;
        let accepted = go.code == 354;
        if accepted {
            send_stuffed(content.reader(), connection.stream.get_mut())?;
        }
        for result in results
            .iter_mut()
            .filter(|result| **result == RecipientResult::Delivered)
        {
            *result = if accepted {
                connection.reply()?.result()
            } else {
                not_positive(&go)
            };
        }
    } else {
        connection.command("RSET")?;
    }
    *kept = Some(connection);
    Ok(results)
}

fn not_positive(reply: &Reply) -> RecipientResult {
    if reply.positive() {
        outcome::local_error()
    } else {
        reply.result()
    }
}

/// The message with dots doubled at line starts, every LF as CRLF, and the final dot.
fn send_stuffed(mut reader: impl Read, stream: &mut UnixStream) -> io::Result<()> {
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
