//! `rsmtpd check`: every fault of every file, as `file:line:column: key: expected …, found …`.

use std::path::{Path, PathBuf};

use crate::config::{self, Configuration, Faults};
use crate::master::served::Served;

use super::{Failure, exit};

/// Prints the faults, or that there are none.
pub fn run(config: Option<&Path>) -> Result<(), Failure> {
    let directory = directory(config)?;
    let configuration = Configuration::load(&directory).map_err(|found| faults(&found))?;
    Served::new(configuration, &directory).map_err(|found| faults(&found))?;
    println!("{}: no faults", directory.display());
    Ok(())
}

/// The configuration directory that is in force.
pub fn directory(config: Option<&Path>) -> Result<PathBuf, Failure> {
    config::discover(config).map_err(|error| Failure::new(exit::CONFIG, error))
}

/// The state directory that the configuration names.
pub fn state_directory(config: Option<&Path>) -> Result<PathBuf, Failure> {
    let configuration = Configuration::load(&directory(config)?).map_err(|found| faults(&found))?;
    Ok(configuration.state_directory())
}

/// Prints the faults one a line; the failure to exit with.
pub fn faults(found: &Faults) -> Failure {
    eprintln!("{found}");
    Failure::new(exit::CONFIG, "")
}
