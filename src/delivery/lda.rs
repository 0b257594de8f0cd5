//! One run of `dovecot-lda`: absolute path, an environment of three words, the message as standard input.

use std::fs::File;
use std::io::{self, PipeReader, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::ipc::delivery::Recipient;

use super::names;
use super::outcome::Ended;

// What is kept of the output; the rest is read and thrown away.
const OUTPUT: usize = 2048;

/// How to run it.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) path: &'a Path,
    pub(super) userdb: bool,
    pub(super) home: &'a str,
    pub(super) sender: &'a str,
    pub(super) recipient: &'a Recipient,
    pub(super) timeout: Duration,
    /// Set when this process must be gone at once, and its children with it.
    pub(super) ending: &'a AtomicBool,
}

impl Run<'_> {
    /// Runs it on `message`; returns how it ended and the beginning of what it wrote.
    /// It is killed with all its children when its time is up.
    pub(super) fn on(&self, mut message: &File) -> io::Result<(Ended, String)> {
        if !self.path.is_absolute() || message.metadata()?.len() == 0 {
            return Ok((
                Ended::NotStarted,
                "path is not absolute, or the message is empty".to_owned(),
            ));
        }
        message.rewind()?;
        let (reader, writer) = io::pipe()?;
        let user = self.recipient.address();
        let mut command = Command::new(self.path);
        // without -e, over quota would be exit status 0 and a bounce
        command
            .arg("-e")
            .arg("-f")
            .arg(self.sender)
            .arg("-a")
            .arg(&self.recipient.original);
        if self.userdb {
            command.arg("-d").arg(&user);
        }
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.home_directory())
            .env("USER", &user)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::from(message.try_clone()?))
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Ok((Ended::NotStarted, error.to_string())),
        };
        // the command holds the pipe's writing end
        drop(command);
        watch(child, reader, Instant::now() + self.timeout, self.ending)
    }

    fn home_directory(&self) -> String {
        let mut home = String::new();
        let mut rest = self.home.chars();
        while let Some(letter) = rest.next() {
            match (letter, rest.clone().next()) {
                ('%', Some('d')) => home.push_str(&names::part(&self.recipient.domain)),
                ('%', Some('n')) => home.push_str(&names::part(&self.recipient.mailbox)),
                ('%', Some('%')) => home.push('%'),
                _ => {
                    home.push(letter);
                    continue;
                }
            }
            rest.next();
        }
        home
    }
}

fn watch(mut child: Child, mut reader: PipeReader, end: Instant, ending: &AtomicBool) -> io::Result<(Ended, String)> {
    let mut output = Vec::new();
    let mut open = true;
    let mut nap = Duration::from_micros(200);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= end || ending.load(Ordering::SeqCst) {
            break None;
        }
        if open {
            open = read_some(&mut reader, &mut output, Duration::from_millis(20))?;
        } else {
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(20));
        }
    };
    let ended = match status {
        Some(status) => {
            while open && read_some(&mut reader, &mut output, Duration::ZERO)? && Instant::now() < end {
                if !ready(&reader, Duration::ZERO)? {
                    break;
                }
            }
            ended(status)
        }
        None => {
            if let Ok(id) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
            }
            child.wait()?;
            Ended::TimedOut
        }
    };
    Ok((ended, String::from_utf8_lossy(&output).trim().to_owned()))
}

fn ready(reader: &PipeReader, wait: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
    match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(false),
        Ok(_) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Whether there may be more.
fn read_some(reader: &mut PipeReader, output: &mut Vec<u8>, wait: Duration) -> io::Result<bool> {
    if !ready(reader, wait)? {
        return Ok(true);
    }
    let mut buffer = [0; 4096];
    let read = reader.read(&mut buffer)?;
    let room = OUTPUT.saturating_sub(output.len()).min(read);
    output.extend_from_slice(buffer.get(..room).unwrap_or_default());
    Ok(read > 0)
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, signal) => Ended::Signal(signal.unwrap_or(0)),
    }
}
