//! Where lines go: syslog, a file, or standard error.
//!
//! A sink never waits for long and never fails towards its caller: what cannot be written is counted, and the
//! count is written with the first line that goes through again.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

use super::console::Console;
use crate::log::Level;

/// Where the lines of this daemon are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The syslog daemon's datagram socket at this path, usually `/dev/log`.
    Syslog(PathBuf),
    /// A file, opened again on request.
    File(PathBuf),
    /// Standard error, without a time stamp.
    Stderr,
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Destination::Syslog(path) | Destination::File(path) => write!(f, "{}", path.display()),
            Destination::Stderr => f.write_str("standard error"),
        }
    }
}

impl Destination {
    /// The directory that must stay writable for it.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Destination::File(path) => path.parent(),
            Destination::Syslog(_) | Destination::Stderr => None,
        }
    }
}

/// Pause between attempts to reach a syslog daemon that is away.
const RETRY: Duration = Duration::from_secs(1);

/// Octets of lines that are held at most.
const HELD_MAX: usize = 64 * 1024;

/// An open destination.
pub struct Sink {
    destination: Destination,
    target: Target,
    lost: u64,
    retry_at: Option<Instant>,
    /// Lines for a file or standard error that [`Sink::flush`] writes, and how many.
    held: Vec<u8>,
    holding: u64,
    console: Console,
}

enum Target {
    Syslog(Logger<LoggerBackend, Formatter3164>),
    File(File),
    Stderr,
}

impl Sink {
    /// Opens `destination`. A syslog daemon that is away falls back to standard error until it is there.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub fn open(destination: Destination) -> io::Result<Sink> {
        let (target, retry_at) = match &destination {
            Destination::Syslog(path) => match connect(path) {
                Ok(logger) => (Target::Syslog(logger), None),
                Err(_) => (Target::Stderr, Some(Instant::now() + RETRY)),
            },
            Destination::File(path) => (Target::File(append(path)?), None),
            Destination::Stderr => (Target::Stderr, None),
        };
        Ok(Sink {
            destination,
            target,
            lost: 0,
            retry_at,
            held: Vec::new(),
            holding: 0,
            console: Console::default(),
        })
    }

    /// Opens the file again, after it was rotated away; the old one stays if that fails.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.flush();
        if let Destination::File(path) = &self.destination {
            self.target = Target::File(append(path)?);
        }
        Ok(())
    }

    /// Writes one line that process `pid` said; to a file or standard error at the next [`Sink::flush`].
    pub fn write(&mut self, level: Level, pid: u32, text: &str) {
        self.reconnect();
        if self.lost > 0 {
            let notice = format!("event=lines-lost count={}", self.lost);
            if !self.put(Level::Warning, std::process::id(), &notice) {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        if !self.put(level, pid, text) {
            self.lost += 1;
        }
    }

    fn reconnect(&mut self) {
        if let (Destination::Syslog(path), Some(at)) = (&self.destination, self.retry_at)
            && at <= Instant::now()
        {
            match connect(path) {
                Ok(logger) => {
                    self.flush();
                    (self.target, self.retry_at) = (Target::Syslog(logger), None);
                }
                Err(_) => self.retry_at = Some(Instant::now() + RETRY),
            }
        }
    }

    /// Whether the line went out.
    fn put(&mut self, level: Level, pid: u32, text: &str) -> bool {
        match &mut self.target {
            Target::Syslog(logger) => {
                logger.formatter.pid = pid;
                let sent = match level {
                    Level::Critical => logger.crit(text),
                    Level::Error => logger.err(text),
                    Level::Warning => logger.warning(text),
                    Level::Notice => logger.notice(text),
                    Level::Info => logger.info(text),
                    Level::Debug => logger.debug(text),
                };
                if let Err(error) = sent {
                    if !is_full(&error) {
                        self.target = Target::Stderr;
                        self.retry_at = Some(Instant::now());
                    }
                    return false;
                }
                true
            }
            Target::File(_) => {
                let now = jiff::Zoned::now();
                let now = now.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z");
                self.hold(format_args!("{now} {} rsmtpd[{pid}]: {text}\n", level.name()))
            }
            Target::Stderr => self.hold(format_args!("rsmtpd[{pid}]: {text}\n")),
        }
    }

    fn hold(&mut self, line: fmt::Arguments<'_>) -> bool {
        let held = self.held.write_fmt(line).is_ok();
        self.holding += 1;
        if self.held.len() > HELD_MAX {
            self.flush();
        }
        held
    }

    /// Writes what is held, in one call.
    pub fn flush(&mut self) {
        if self.held.is_empty() {
            return;
        }
        self.lost += match &mut self.target {
            Target::File(file) => {
                let before = file.metadata().map(|about| about.len());
                let written = file.write_all(&self.held);
                if let (Err(_), Ok(before)) = (&written, before) {
                    // Counted as lost as a whole, and nothing is glued to half a line.
                    let _ = file.set_len(before);
                }
                if written.is_err() { self.holding } else { 0 }
            }
            Target::Syslog(_) | Target::Stderr => self.console.write(io::stderr(), &self.held),
        };
        self.held.clear();
        self.holding = 0;
    }
}

fn is_full(error: &syslog::Error) -> bool {
    matches!(error, syslog::Error::Write(inner) if inner.kind() == io::ErrorKind::WouldBlock)
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn connect(path: &Path) -> io::Result<Logger<LoggerBackend, Formatter3164>> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    let formatter = Formatter3164 {
        facility: Facility::LOG_MAIL,
        hostname: None,
        process: "rsmtpd".into(),
        pid: 0,
    };
    Ok(Logger::new(LoggerBackend::Unix(socket), formatter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syslog_gets_facility_ident_and_pid_and_survives_a_restart_of_its_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let reader = UnixDatagram::bind(&path).unwrap();
        let mut sink = Sink::open(Destination::Syslog(path.clone())).unwrap();
        sink.write(Level::Info, 42, "event=one");
        let mut buffer = [0; 512];
        let length = reader.recv(&mut buffer).unwrap();
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(
            line.starts_with("<22>") && line.contains("rsmtpd[42]: event=one"),
            "{line}"
        );

        drop(reader);
        std::fs::remove_file(&path).unwrap();
        sink.write(Level::Info, 42, "event=lost");
        let reader = UnixDatagram::bind(&path).unwrap();
        reader.set_nonblocking(true).unwrap();
        sink.write(Level::Info, 42, "event=two");
        let mut said = String::new();
        while let Ok(length) = reader.recv(&mut buffer) {
            said.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        assert!(
            said.contains("event=lines-lost count=1") && said.contains("event=two"),
            "{said}"
        );
    }

    #[test]
    fn a_reader_that_sleeps_does_not_stop_us() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let _reader = UnixDatagram::bind(&path).unwrap();
        let mut sink = Sink::open(Destination::Syslog(path)).unwrap();
        for _ in 0..5000 {
            sink.write(Level::Info, 1, "event=flood");
        }
        assert!(sink.lost > 0);
    }

    #[test]
    fn a_rotated_file_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rsmtpd.log");
        let mut sink = Sink::open(Destination::File(path.clone())).unwrap();
        sink.write(Level::Info, 7, "event=old");
        std::fs::rename(&path, dir.path().join("rsmtpd.log.1")).unwrap();
        sink.reopen().unwrap();
        sink.write(Level::Info, 7, "event=new");
        sink.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with(" info rsmtpd[7]: event=new\n") && !text.contains("old"),
            "{text}"
        );
    }
}
