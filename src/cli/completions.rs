//! `rsmtpd completions SHELL`.

use std::io;

use super::Failure;

/// Prints the script for `shell` to standard output.
pub fn run(shell: clap_complete::Shell, command: &mut clap::Command) -> Result<(), Failure> {
    clap_complete::generate(shell, command, "rsmtpd", &mut io::stdout());
    Ok(())
}
