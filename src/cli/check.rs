//! `rsmtpd check`: every fault of every file, as `file:line:column: key: expected …, found …`, and of the accounts that they
//! name: whoever runs it hears what a start as root would say.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use crate::chain::{configured, registry};
use crate::config::{self, Configuration, Faults};
use crate::master::accounts;

use super::{Failure, exit};

/// Prints the faults, or that there are none. Chains that nothing names yet are checked as well.
pub fn run(config: Option<&Path>) -> Result<(), Failure> {
    let directory = directory(config)?;
    let faults = |found| faults(Some(&directory), &found);
    let every = Configuration::chain_names(&directory);
    let (configuration, _, mut found) = configured::read(&directory, &every).map_err(faults)?;
    let (unusable, missing) = accounts::judge(&configuration.daemon, &configuration.delivery);
    found.0.extend(unusable);
    if !found.0.is_empty() {
        return Err(faults(found));
    }
    let mut text = String::new();
    let notes = configuration.notes.iter().map(ToString::to_string);
    for note in notes
        .chain(missing)
        .chain(configuration.unread(&directory, &registry::names()))
    {
        text.push_str(&format!("note: {note}\n"));
    }
    text.push_str(&format!("{}: no faults\n", directory.display()));
    super::print(text.as_bytes())
}

/// The configuration directory that is in force.
pub fn directory(config: Option<&Path>) -> Result<PathBuf, Failure> {
    config::discover(config).map_err(|found| faults(None, &found))
}

/// The state directory that the configuration names.
pub fn state_directory(config: Option<&Path>) -> Result<PathBuf, Failure> {
    let directory = directory(config)?;
    let faults = |found| faults(Some(&directory), &found);
    let opened = config::open_directory(&directory).map_err(faults)?;
    // No more than that: it is wanted most when another file is broken.
    let (daemon, _) = Configuration::load_delivery_set(opened.as_fd()).map_err(faults)?;
    Ok(state_of(&daemon))
}

/// Prints the faults one a line; the failure to exit with, which counts them and names their directory.
pub fn faults(directory: Option<&Path>, found: &Faults) -> Failure {
    super::complain(&found.to_string());
    let count = match found.0.len() {
        1 => "1 fault".to_owned(),
        more => format!("{more} faults"),
    };
    let message = directory.map_or_else(String::new, |directory| format!("{}: {count}", directory.display()));
    Failure::new(exit::CONFIG, message)
}

/// The state directory in force: the configured one, /var/lib/rsmtpd for root, else below the user's state.
pub fn state_of(daemon: &config::Daemon) -> PathBuf {
    if let Some(state) = &daemon.state {
        return state.clone();
    }
    // What is not absolute is to be ignored, says the XDG Base Directory Specification.
    let set = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(state) = set("XDG_STATE_HOME") {
        return state.join("rsmtpd");
    }
    match set("HOME") {
        Some(home) if !nix::unistd::geteuid().is_root() => home.join(".local/state/rsmtpd"),
        _ => PathBuf::from("/var/lib/rsmtpd"),
    }
}
