//! `rsmtpd [serve]`: reads the configuration, starts every process, becomes the master.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

use crate::config;
use crate::logger::Destination;
use crate::master::startup::{self, Plan};
use crate::master::{self, Ready};
use crate::sys::{arena, detach};
use crate::worker::served::Served;

use super::{Failure, Overrides, check, exit};

/// Serves until a signal ends it.
pub fn run(config: Option<&Path>, overrides: &Overrides) -> Result<(), Failure> {
    let directory = check::directory(config)?;
    let mut configuration = config::Configuration::load(&directory).map_err(|faults| check::faults(&faults))?;
    apply(overrides, &mut configuration.daemon)?;
    let background = configuration.daemon.background;
    let destination = destination(&configuration.daemon, background);
    let opened = config::open_directory(&directory).map_err(|faults| check::faults(&faults))?;
    let served = Served::new(configuration, opened.as_fd()).map_err(|faults| check::faults(&faults))?;
    let state = check::state_of(&served.daemon);
    let plan = Plan {
        directory,
        state,
        destination,
    };
    let waiting = background
        .then(detach::detach)
        .transpose()
        .map_err(|error| Failure::new(exit::OSERR, error))?;
    let ready =
        startup::start(served, opened, &plan).map_err(|error| Failure::new(exit::OSERR, format!("{error:#}")))?;
    announce(&ready);
    if let Some(waiting) = waiting {
        waiting.release();
    }
    arena::ordinary();
    match master::run(ready) {
        Ok(0) => Ok(()),
        Ok(status) => Err(Failure::new(status, "")),
        Err(error) => Err(Failure::new(exit::OSERR, error)),
    }
}

/// Lets the command line have the last word.
fn apply(overrides: &Overrides, daemon: &mut config::Daemon) -> Result<(), Failure> {
    if overrides.address.is_some() || overrides.port.is_some() {
        daemon.listeners.clear();
    }
    if let Some(address) = &overrides.address {
        daemon.address.clone_from(address);
        if daemon
            .listening()
            .iter()
            .all(|listener| listener.addresses().is_empty())
        {
            let message = format!("--address: expected an IP address, localhost or *, found {address:?}");
            return Err(Failure::new(exit::USAGE, message));
        }
    }
    if let Some(port) = overrides.port {
        daemon.port = port;
    }
    if let Some(user) = &overrides.user {
        daemon.user.clone_from(user);
        daemon.group = None;
    }
    if let Some(group) = &overrides.group {
        daemon.group = Some(group.clone());
    }
    daemon.background |= overrides.background;
    if let Some(path) = &overrides.log_path {
        daemon.log_path = Some(path.clone());
    }
    if let Some(level) = overrides.log_level {
        daemon.log_level = level.into();
    }
    Ok(())
}

/// The log file if one is named; syslog in the background or under a service manager; else standard error.
fn destination(daemon: &config::Daemon, background: bool) -> Destination {
    match &daemon.log_path {
        Some(path) => Destination::File(path.clone()),
        None if background || std::env::var_os("NOTIFY_SOCKET").is_some() => Destination::Syslog("/dev/log".into()),
        None => Destination::Stderr,
    }
}

/// The first lines on standard error: where we listen, where mail goes, for whom, and how to send the first.
fn announce(ready: &Ready) {
    let mut text = String::new();
    for address in &ready.addresses {
        let _ = writeln!(text, "rsmtpd: listening on {address}");
    }
    let _ = writeln!(text, "rsmtpd: mail goes to {}", ready.destination);
    let recipients = ready.served.recipients();
    let domains: Vec<&str> = recipients.domains().collect();
    let _ = writeln!(text, "rsmtpd: recipients of {}", domains.join(", "));
    if let (Some(address), Some(domain)) = (ready.addresses.first(), recipients.first_domain()) {
        let _ = writeln!(text, "rsmtpd: ready; to send a test message, paste:");
        let _ = writeln!(text, "{}", test_line(address, &format!("postmaster@{domain}")));
    }
    // One write, so that no line of the logger falls between.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A line for the shell that sends a message with Python's smtplib, which every Debian has.
fn test_line(address: &SocketAddr, recipient: &str) -> String {
    format!(
        "python3 -c 'import smtplib; smtplib.SMTP(\"{}\", {}).sendmail(\"you@example.org\", \"{recipient}\", \
         \"Subject: first mail\\r\\n\\r\\nIt works.\\r\\n\")'",
        address.ip(),
        address.port()
    )
}
