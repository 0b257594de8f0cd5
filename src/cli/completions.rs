//! `rsmtpd completions SHELL`.

use super::Failure;

/// Prints the script for `shell` to standard output.
pub fn run(shell: clap_complete::Shell, command: &mut clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "rsmtpd", &mut script);
    super::print(&script)
}
