//! The answer to `rsmtpd status`: what the master says of its workers, and what waits in the spool.

use std::fs;
use std::io;
use std::path::Path;

use super::spool;
use super::spool_list::{count_quarantined, entries};

/// The file in the state directory that `rsmtpd status` reads.
pub const FILE: &str = "status";

/// Writes the master's lines and ours, as a whole or not at all.
///
/// # Errors
/// What the disk says.
pub fn write(state: &Path, masters: &str) -> io::Result<()> {
    let text = format!("{masters}{}", waiting(state)?);
    let fresh = state.join(".status");
    let _ = fs::remove_file(&fresh);
    fs::write(&fresh, text)?;
    fs::rename(fresh, state.join(FILE))
}

/// How many messages wait, and since when the oldest does.
fn waiting(state: &Path) -> io::Result<String> {
    let all = entries(state)?;
    let count = |tree: &str| all.iter().filter(|listed| listed.tree == tree).count();
    let oldest = all
        .iter()
        .filter(|listed| listed.tree == spool::SPOOL)
        .map(|listed| listed.since)
        .min();
    let oldest = oldest.map_or_else(|| "none".to_owned(), |since| since.to_string());
    let (waiting, failed, quarantine) = (count(spool::SPOOL), count(spool::FAILED), count_quarantined(state)?);
    Ok(format!(
        "spool={waiting} oldest={oldest} failed={failed} quarantine={quarantine}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_replaces_the_one_before() {
        let state = tempfile::tempdir().unwrap();
        write(state.path(), "spare=1\n").unwrap();
        write(state.path(), "spare=2\n").unwrap();
        let text = fs::read_to_string(state.path().join(FILE)).unwrap();
        assert_eq!(text, "spare=2\nspool=0 oldest=none failed=0 quarantine=0\n");
        for (place, name) in [("new", "a"), ("new", "b"), ("cur", "c"), ("tmp", "d")] {
            let directory = state.path().join("quarantine/example.com/trap").join(place);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(name), "x").unwrap();
        }
        write(state.path(), "spare=3\n").unwrap();
        let text = fs::read_to_string(state.path().join(FILE)).unwrap();
        assert_eq!(text, "spare=3\nspool=0 oldest=none failed=0 quarantine=3\n");
    }
}
