//! How the keeper starts, and what the master hears from it at once: certificates, and what is wrong with files.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::config::Configuration;
use crate::helper::{EX_SOFTWARE, Seat, Turn};
use crate::ipc::channel::Fault;
use crate::ipc::control::FromHelper;
use crate::ipc::keeper::{Certificate, Shown};
use crate::ipc::link::Role;
use crate::keeper::{self, Place, Settings};
use crate::log::{Event, Level};
use crate::logger::client::Client as Log;
use crate::sys::privilege::{Capability, Identity};
use crate::sys::{process, sandbox};
use crate::worker::served::Served;

use super::helpers::{Helper, PATIENCE};

/// What it keeps of root: reading keys of mode 0600, binding ports below 1024.
const CAPABILITIES: [Capability; 2] = [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_NET_BIND_SERVICE];

/// Forks it.
///
/// # Errors
/// It cannot start.
pub(super) fn start(served: &Served, directory: &OwnedFd, path: &Path, user: Option<&Identity>) -> Result<Helper> {
    let mode = served.sandbox;
    let said = served.said();
    let reread = || {
        let mut daemon = Configuration::load_daemon(directory.as_fd())?;
        said.apply(&mut daemon);
        Ok(Settings::of(&daemon))
    };
    let first = Settings::of(&served.daemon);
    let work = |seat: Seat| {
        let settings = match seat.turn {
            Turn::First => first.clone(),
            // What is broken now was not, or was named, before.
            Turn::Again | Turn::Instead => reread().unwrap_or_else(|_| first.clone()),
        };
        let mut reach = directories(settings.files());
        reach.push(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
        if let Err(error) = sandbox::enter(&sandbox::Profile::keeper(reach.clone()), mode) {
            return seat.give_up("sandbox", &error);
        }
        let place = Place {
            seat,
            settings,
            reach: (mode != sandbox::Mode::Off).then_some(reach),
            reread: &reread,
        };
        keeper::run(place).map_or(EX_SOFTWARE, |()| 0)
    };
    let prepare = || process::set_dumpable(false);
    let lent = [directory.as_raw_fd()];
    Helper::start(Role::Keeper, user, &CAPABILITIES, &lent, prepare, &work).context("starting the keeper")
}

/// What is served, with the certificates that the keeper has read.
///
/// # Errors
/// It does not show them.
pub(super) fn show(keeper: &Helper, served: Served, log: &Log) -> Result<Served> {
    let served = served.with_certificates(hear(keeper, log, PATIENCE)?);
    if !served.daemon.certificates().is_empty() && served.certificates().is_empty() {
        let event = Event::new("tls-off").quoted("reason", b"no certificate can be used");
        log.say(Level::Warning, event);
    }
    Ok(served)
}

/// The directories of files, and those that the files are in by way of symbolic links.
pub(super) fn directories<'a>(files: impl Iterator<Item = &'a Path>) -> Vec<PathBuf> {
    let mut all = BTreeSet::new();
    for file in files {
        all.extend(file.parent().and_then(|directory| directory.canonicalize().ok()));
        let target = file.canonicalize().ok();
        all.extend(target.and_then(|target| Some(target.parent()?.to_path_buf())));
    }
    all.into_iter().collect()
}

/// Hears the keeper until it has shown all; its certificates.
///
/// # Errors
/// It did not within `patience`.
pub(super) fn hear(helper: &Helper, log: &Log, patience: Duration) -> Result<Vec<Certificate>, Fault> {
    let until = Instant::now() + patience;
    let mut certificates = Vec::new();
    loop {
        let (heard, _) = helper.hear_within(until.saturating_duration_since(Instant::now()))?;
        match heard {
            FromHelper::Keeper(Shown::Done) => return Ok(certificates),
            FromHelper::Keeper(Shown::Certificate(certificate)) => certificates.push(certificate),
            FromHelper::Keeper(Shown::Broken { path, reason, kept }) => tell_broken(log, &path, &reason, kept),
            // It reads everything anew then: what came before is no answer any more.
            FromHelper::Ready => certificates.clear(),
            FromHelper::Died(how) => {
                let event = Event::new("helper-died")
                    .field("role", Role::Keeper.name())
                    .field("how", how);
                log.say(Level::Critical, event);
            }
            FromHelper::Failed { .. } | FromHelper::Keeper(_) => {}
        }
    }
}

/// Says what is wrong with a file.
pub(super) fn tell_broken(log: &Log, path: &str, reason: &str, kept: bool) {
    let event = Event::new("certificate-broken")
        .quoted("path", path.as_bytes())
        .quoted("reason", reason.as_bytes())
        .field("kept", if kept { "yes" } else { "no" });
    log.say(Level::Error, event);
}
