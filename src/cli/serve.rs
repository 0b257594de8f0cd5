//! `rsmtpd [serve]`: reads the configuration, starts every process, becomes the master.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use crate::chain::configured;
use crate::config;
use crate::ipc::broker::Endpoint;
use crate::logger::Destination;
use crate::master::startup::{self, Plan};
use crate::master::{self, Ready};
use crate::sys::{detach, image, process};
use crate::worker::served::Served;

use super::{Failure, Overrides, check, exit};

/// How many recipients the first lines name.
const RECIPIENTS: usize = 6;

/// Serves until a signal ends it.
pub fn run(config: Option<&Path>, overrides: &Overrides) -> Result<(), Failure> {
    // Nothing is passed by number: what the caller left open would take our numbers, and last as long as we do.
    process::close_from(3).map_err(|error| Failure::new(exit::OSERR, format!("close_range(2): {error}")))?;
    let directory = check::directory(config)?;
    let faults = |found| check::faults(Some(&directory), &found);
    let (mut configuration, chains) = configured::load(&directory, &[]).map_err(faults)?;
    let said = said(overrides);
    said.apply(&mut configuration.daemon);
    let background = configuration.daemon.background;
    let destination = destination(&configuration.daemon, background);
    let opened = config::open_directory(&directory).map_err(faults)?;
    let served = Served::new(configuration, said, &chains);
    let state = check::state_of(&served.daemon);
    let plan = Plan {
        directory: directory.clone(),
        state,
        destination,
    };
    let waiting = background
        .then(detach::detach)
        .transpose()
        .map_err(|error| Failure::new(exit::OSERR, error))?;
    // Faster if it works, and the same if not.
    let _ = image::to_huge_pages();
    let ready = match startup::start(served, opened, &plan) {
        Ok(ready) => ready,
        Err(error) => {
            let failure = Failure::new(status_of(&error), explain(&error));
            failure.say();
            if let Some(waiting) = waiting {
                waiting.end(failure.status);
            }
            return Err(Failure::new(failure.status, ""));
        }
    };
    announce(&ready);
    if let Some(waiting) = waiting {
        waiting.release();
    }
    match master::run(ready) {
        Ok(0) => Ok(()),
        Ok(status) => Err(Failure::new(status, "")),
        Err(error) => Err(Failure::new(exit::OSERR, error)),
    }
}

/// The exit status that says most about why start-up failed.
fn status_of(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<startup::Misconfigured>().is_some() {
        return exit::CONFIG;
    }
    let denied = error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let errno = cause.downcast_ref::<nix::errno::Errno>();
        kind == Some(io::ErrorKind::PermissionDenied)
            || matches!(errno, Some(nix::errno::Errno::EPERM | nix::errno::Errno::EACCES))
    });
    if denied { exit::NOPERM } else { exit::OSERR }
}

/// The chain of causes, and what helps against the commonest.
fn explain(error: &anyhow::Error) -> String {
    let denied = error
        .downcast_ref::<io::Error>()
        .is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied);
    let text = format!("{error:#}");
    if denied && text.starts_with("cannot listen") {
        format!("{text}; ports below 1024 need a start as root or CAP_NET_BIND_SERVICE")
    } else if denied && text.starts_with("state directory") {
        format!("{text}; another can be named as state in rsmtpd.yaml")
    } else {
        text
    }
}

/// What the command line says.
fn said(overrides: &Overrides) -> config::Overrides {
    config::Overrides {
        address: overrides.address.clone(),
        port: overrides.port,
        user: overrides.user.clone(),
        group: overrides.group.clone(),
        background: overrides.background,
        log_path: overrides.log_path.clone(),
        log_level: overrides.log_level,
    }
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
    let reach = ready.served.reach();
    for Endpoint { host, port } in &reach.endpoints {
        let _ = writeln!(text, "rsmtpd: relays to {host} port {port}");
    }
    if !ready.served.takes_mail() {
        text.push_str(match reach.endpoints.as_slice() {
            [] => "rsmtpd: ready; accepts no mail (RFC 7504)\n",
            _ => "rsmtpd: ready\n",
        });
        let _ = io::stderr().write_all(text.as_bytes());
        return;
    }
    let _ = writeln!(text, "rsmtpd: mail goes to {}", ready.destination);
    let recipients = ready.served.recipients();
    let _ = writeln!(text, "rsmtpd: recipients: {}", recipients.summary(RECIPIENTS));
    // One that begins with SMTP.
    let is_plain = |listener: &usize| {
        !ready.served.is_for_proxies(*listener) && ready.served.tls(*listener) != config::ListenerTls::Implicit
    };
    let plain = (0..ready.addresses.len()).find(is_plain);
    let address = plain.and_then(|listener| ready.addresses.get(listener));
    if let (Some(address), Some(domain)) = (address, recipients.first_domain()) {
        let _ = writeln!(text, "rsmtpd: ready; to send a test message, paste:");
        let _ = writeln!(text, "{}", test_line(address, &format!("postmaster@{domain}")));
    } else {
        text.push_str("rsmtpd: ready\n");
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
