//! `rsmtpd check`: every fault of every file, as `file:line:column: key: expected …, found …`.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use crate::config::{self, Configuration, Faults};
use crate::worker::served::Served;

use super::{Failure, exit};

/// Prints the faults, or that there are none.
pub fn run(config: Option<&Path>) -> Result<(), Failure> {
    let directory = directory(config)?;
    let configuration = Configuration::load(&directory).map_err(|found| faults(&found))?;
    let opened = config::open_directory(&directory).map_err(|found| faults(&found))?;
    Served::new(configuration, config::Overrides::default(), opened.as_fd()).map_err(|found| faults(&found))?;
    println!("{}: no faults", directory.display());
    Ok(())
}

/// The configuration directory that is in force.
pub fn directory(config: Option<&Path>) -> Result<PathBuf, Failure> {
    config::discover(config).map_err(|found| faults(&found))
}

/// The state directory that the configuration names.
pub fn state_directory(config: Option<&Path>) -> Result<PathBuf, Failure> {
    let opened = config::open_directory(&directory(config)?).map_err(|found| faults(&found))?;
    // No more than that: it is wanted most when another file is broken.
    let (daemon, _) = Configuration::load_delivery_set(opened.as_fd()).map_err(|found| faults(&found))?;
    Ok(state_of(&daemon))
}

/// Prints the faults one a line; the failure to exit with.
pub fn faults(found: &Faults) -> Failure {
    eprintln!("{found}");
    Failure::new(exit::CONFIG, "")
}

/// The state directory in force: the configured one, /var/lib/rsmtpd for root, else below the user's state.
pub fn state_of(daemon: &config::Daemon) -> PathBuf {
    if let Some(state) = &daemon.state {
        return state.clone();
    }
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(state) = set("XDG_STATE_HOME") {
        return state.join("rsmtpd");
    }
    match set("HOME") {
        Some(home) if !nix::unistd::geteuid().is_root() => home.join(".local/state/rsmtpd"),
        _ => PathBuf::from("/var/lib/rsmtpd"),
    }
}
