//! `rsmtpd chain`: per verb, the handlers in order, what each may decide, entries that can never run.

use std::path::Path;

use crate::chain::configured;

use super::{Failure, check};

/// Prints the chain `name`, or the one worker.yaml names; then what is wrong, if anything is.
pub fn run(config: Option<&Path>, name: Option<&str>) -> Result<(), Failure> {
    let also: Vec<String> = name.map(str::to_owned).into_iter().collect();
    let directory = check::directory(config)?;
    let (configuration, chains, faults) = configured::read(&directory, &also).map_err(|found| check::faults(&found))?;
    let name = name.unwrap_or(&configuration.worker.command_handler);
    if let Some(chain) = chains.get(name) {
        print!("{}", chain.explain());
    }
    if faults.0.is_empty() {
        Ok(())
    } else {
        Err(check::faults(&faults))
    }
}
