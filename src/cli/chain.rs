//! `rsmtpd chain`: per verb, the handlers in order, what each may decide, entries that can never run.

use std::path::Path;

use crate::config::Configuration;
use crate::worker::served;

use super::{Failure, check};

/// Prints the chain `name`, or the one worker.yaml names.
pub fn run(config: Option<&Path>, name: Option<&str>) -> Result<(), Failure> {
    let configuration = Configuration::load(&check::directory(config)?).map_err(|found| check::faults(&found))?;
    let chain = served::build(&configuration, name).map_err(|found| check::faults(&found))?;
    print!("{}", chain.explain());
    Ok(())
}
