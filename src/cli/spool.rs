//! `rsmtpd spool`: messages that wait, have failed, or are in quarantine.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use clap::Subcommand;

use crate::delivery::spool::{self, Listed};

use super::{Failure, check, exit};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Print one line a message
    List,
    /// Print a message
    Show {
        /// As `list` prints it
        id: String,
    },
    /// Try a message again now; one in quarantine goes to its mailbox
    Retry {
        /// As `list` prints it, or `all`: everything in the spool and in failed/
        id: String,
    },
    /// Remove a message for good
    Drop {
        /// As `list` prints it
        id: String,
    },
}

/// Does it to the configured state directory.
pub fn run(config: Option<&Path>, action: &Action) -> Result<(), Failure> {
    let state = check::state_directory(config)?;
    let result = match action {
        Action::List => match spool::list(&state) {
            Ok(listed) => return super::print(listed.iter().map(line).collect::<String>().as_bytes()),
            Err(error) => Err(error),
        },
        Action::Show { id } => match spool::show(&state, id) {
            // Mail is hostile; a pipe gets it as it is.
            Ok((_, text)) if io::stdout().is_terminal() => {
                let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
                return super::print(super::printable(&text).as_bytes());
            }
            Ok((_, text)) => return super::print(&text),
            Err(error) => Err(error),
        },
        Action::Retry { id } if id == "all" => retry_all(&state),
        Action::Retry { id } => spool::retry(&state, id),
        Action::Drop { id } => spool::drop(&state, id),
    };
    result.map_err(|error| {
        let status = match error.kind() {
            io::ErrorKind::NotFound => exit::NOINPUT,
            io::ErrorKind::PermissionDenied => exit::NOPERM,
            _ => exit::OSERR,
        };
        Failure::new(status, format!("{}: {error}", state.display()))
    })
}

fn line(listed: &Listed) -> String {
    let since = jiff::Timestamp::from_second(listed.since).map_or_else(|_| "-".to_owned(), |at| at.to_string());
    let recipients: Vec<String> = listed
        .recipients
        .iter()
        .map(|(recipient, state)| format!("{}={state}", recipient.escape_debug()))
        .collect();
    let mut line = format!(
        "{} {} size={} since={since} attempts={} from=<{}> {}",
        listed.tree,
        listed.id.escape_debug(),
        listed.size,
        listed.attempts,
        listed.sender.escape_debug(),
        recipients.join(" "),
    );
    if let Some(fault) = &listed.fault {
        line.push_str(&format!(" fault={fault:?}"));
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

fn retry_all(state: &Path) -> io::Result<()> {
    for listed in spool::list(state)? {
        if listed.tree != "quarantine" {
            match spool::retry(state, &listed.id) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    Ok(())
}
