//! `rsmtpd spool`: messages that wait, have failed, or are in quarantine.

use std::fs;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use clap::Subcommand;

use crate::delivery::spool_list::{self, Listed};
use crate::sys::privilege::{self, Identity};

use super::{Failure, check, exit, safe};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Print one line a message
    List,
    /// Print a message; on a terminal control characters are escaped
    Show {
        /// As `list` prints it, if need be with spool/, failed/ or quarantine/ in front
        id: String,
    },
    /// Try a message again now; one in quarantine is delivered to its recipient
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

/// Recipients that a line names; of more it says how many.
const NAMED: usize = 10;

/// Does it to the configured state directory.
pub fn run(config: Option<&Path>, action: &Action) -> Result<(), Failure> {
    let state = check::state_directory(config)?;
    let failed = |error: io::Error| failure(&state, &error);
    become_owner(&state).map_err(failed)?;
    let result = match action {
        Action::List => match spool_list::list(&state) {
            Ok(listed) => return super::print(listed.iter().map(line).collect::<String>().as_bytes()),
            Err(error) => Err(error),
        },
        Action::Show { id } => spool_list::show(&state, id, &mut |listed, text| {
            super::complain(line(listed).trim_end());
            print(text)
        }),
        Action::Retry { id } if id == "all" => retry_all(&state),
        Action::Retry { id } => spool_list::retry(&state, id),
        Action::Drop { id } => spool_list::drop(&state, id),
    };
    match result {
        // whoever reads has seen enough
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(failed),
    }
}

/// Root becomes the owner of the state directory for good, so that nothing is left there that delivery may not touch.
fn become_owner(state: &Path) -> io::Result<()> {
    let data = fs::metadata(state)?;
    if privilege::is_root() && data.uid() != 0 {
        privilege::drop_to(&Identity::numeric(data.uid(), data.gid()), &[])?;
    }
    Ok(())
}

fn failure(state: &Path, error: &io::Error) -> Failure {
    let (status, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (exit::NOINPUT, ""),
        io::ErrorKind::InvalidInput => (exit::USAGE, ""),
        io::ErrorKind::InvalidData => (exit::DATAERR, ""),
        io::ErrorKind::ResourceBusy => (exit::TEMPFAIL, ", try again later"),
        io::ErrorKind::PermissionDenied => (exit::NOPERM, "; run this as root, or as the user of delivery.yaml"),
        _ => (exit::OSERR, ""),
    };
    Failure::new(status, format!("{}: {error}{remedy}", state.display()))
}

fn line(listed: &Listed) -> String {
    let since = jiff::Timestamp::from_second(listed.since).map_or_else(|_| "-".to_owned(), |at| at.to_string());
    let named = listed.recipients.iter().take(NAMED);
    let mut recipients: Vec<String> = named
        .map(|(recipient, state)| format!("{}={state}", safe(recipient, &[])))
        .collect();
    if listed.recipients.len() > NAMED {
        recipients.push(format!("and {} more", listed.recipients.len() - NAMED));
    }
    let mut line = format!(
        "{} {} size={} since={since} attempts={} from=<{}> {}",
        listed.tree,
        safe(&listed.id, &[]),
        listed.size,
        listed.attempts,
        safe(&listed.sender, &[]),
        recipients.join(" "),
    );
    if let Some(fault) = &listed.fault {
        line.push_str(&format!(" fault={fault:?}"));
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// A message as it is; on a terminal made safe, line by line.
fn print(text: &mut dyn Read) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if !out.is_terminal() {
        io::copy(text, &mut out)?;
        return out.flush();
    }
    let mut text = BufReader::new(text);
    let mut line = Vec::new();
    loop {
        line.clear();
        if text.by_ref().take(16 * 1024).read_until(b'\n', &mut line)? == 0 {
            return out.flush();
        }
        let ended = line.ends_with(b"\n");
        let bytes = line.strip_suffix(b"\n").unwrap_or(&line);
        let bytes = bytes.strip_suffix(b"\r").filter(|_| ended).unwrap_or(bytes);
        let shown = safe(&String::from_utf8_lossy(bytes), &['\t']);
        write!(out, "{shown}{}", if ended { "\n" } else { "" })?;
    }
}

fn retry_all(state: &Path) -> io::Result<()> {
    let mut damaged = Ok(());
    for listed in spool_list::list(state)? {
        if listed.tree != "quarantine" {
            match spool_list::retry(state, &format!("{}/{}", listed.tree, listed.id)) {
                // delivered meanwhile, or just being tried
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {}
                // the others are to be tried all the same
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    super::complain(&format!("rsmtpd: {}/{}: {error}", listed.tree, listed.id));
                    damaged = Err(error);
                }
                other => other?,
            }
        }
    }
    damaged
}
