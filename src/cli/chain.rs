//! `rsmtpd chain`: per verb, the handlers in order, what each may decide, entries that can never run.

use std::path::Path;

use crate::chain::configured;
use crate::config::Configuration;

use super::{Failure, check, exit};

/// Prints the chain `name`, or the one worker.yaml names; then what is wrong, if anything is. A chain that nothing names yet
/// can be looked at too.
pub fn run(config: Option<&Path>, name: Option<&str>) -> Result<(), Failure> {
    let directory = check::directory(config)?;
    if let Some(name) = name
        && !Configuration::chain_names(&directory).iter().any(|known| known == name)
    {
        let message = format!("{}: no command_handler_{name}.yaml", directory.display());
        return Err(Failure::new(exit::NOINPUT, message));
    }
    let faults = |found| check::faults(Some(&directory), &found);
    let named: Vec<String> = name.map(str::to_owned).into_iter().collect();
    let (configuration, chains, found) = configured::read(&directory, &named).map_err(faults)?;
    let name = name.unwrap_or(&configuration.worker.command_handler);
    if let Some(chain) = chains.get(name) {
        super::print(chain.explain().as_bytes())?;
    }
    if found.0.is_empty() { Ok(()) } else { Err(faults(found)) }
}
