//! `rsmtpd chain`: per verb, the handlers in order, what each may decide, entries that can never run.

use std::path::Path;

use crate::config::Configuration;
use crate::worker::served;

use super::{Failure, check, exit};

/// Prints the chain `name`, or the one worker.yaml names. A chain that nothing names yet can be looked at too.
pub fn run(config: Option<&Path>, name: Option<&str>) -> Result<(), Failure> {
    let directory = check::directory(config)?;
    let faults = |found| check::faults(Some(&directory), &found);
    if let Some(name) = name
        && !Configuration::chain_names(&directory).iter().any(|known| known == name)
    {
        let message = format!("{}: no command_handler_{name}.yaml", directory.display());
        return Err(Failure::new(exit::NOINPUT, message));
    }
    let named: Vec<String> = name.map(str::to_owned).into_iter().collect();
    let configuration = Configuration::load_with(&directory, &named).map_err(faults)?;
    let chain = served::build(&configuration, name).map_err(faults)?;
    super::print(chain.explain().as_bytes())
}
