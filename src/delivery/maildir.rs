//! Messages into Maildirs below the state directory: all files of a message are written, then all linked, then all
//! synced; a failure on the way leaves none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use super::content::Content;
use super::file::{self, Unnamed};
use super::journal::Slot;
use super::names;

/// The tree of mailboxes.
pub const MAIL: &str = "mail";
/// The tree of messages kept for research.
pub(super) const QUARANTINE: &str = "quarantine";

/// A file that is whole and not yet in its mailbox.
#[derive(Debug)]
pub(super) struct Written {
    file: Unnamed,
    /// Below the state directory.
    path: PathBuf,
}

/// `<tree>/<domain>/<local part>` below the state directory.
pub(super) fn mailbox(tree: &str, domain: &str, local: &str) -> PathBuf {
    Path::new(tree).join(names::part(domain)).join(names::part(local))
}

/// Writes one copy for the mailbox.
pub(super) fn write(state: &Path, mailbox: &Path, id: &str, head: &[u8], content: &Content<'_>) -> io::Result<Written> {
    let new = mailbox.join("new");
    let directory = state.join(&new);
    let file = match Unnamed::create(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for part in ["tmp", "cur", "new"] {
                file::make_directory(&state.join(mailbox).join(part))?;
            }
            Unnamed::create(&directory)?
        }
        result => result?,
    };
    content.write(head, &file.file)?;
    Ok(Written {
        file,
        path: new.join(name(id)),
    })
}

/// Gives all files their names and waits until they are on disk; the slot is told before. A failure leaves none.
pub(super) fn place(state: &Path, slot: &Slot, mut files: Vec<Written>) -> io::Result<()> {
    let paths: Vec<PathBuf> = files.iter().map(|written| written.path.clone()).collect();
    slot.appearing(&paths)?;
    let linked = files
        .iter_mut()
        .try_for_each(|written| written.file.link(&state.join(&written.path)));
    let synced = linked.and_then(|()| {
        files
            .iter()
            .try_for_each(|written| written.file.sync(&state.join(&written.path)))
    });
    if synced.is_err() {
        for path in &paths {
            let _ = fs::remove_file(state.join(path));
        }
    }
    synced
}

/// A name that no other delivery on this host uses (`time.unique.host`).
fn name(id: &str) -> String {
    static HOST: OnceLock<String> = OnceLock::new();
    let host = HOST.get_or_init(|| {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let tame = |c: char| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') {
                c
            } else {
                '_'
            }
        };
        let host: String = host.trim().chars().take(64).map(tame).collect();
        if host.is_empty() { "localhost".to_owned() } else { host }
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (process, number) = (std::process::id(), file::next_number());
    format!(
        "{}.M{:06}P{process}Q{number}_{id}.{host}",
        now.as_secs(),
        now.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::content::Source;

    #[test]
    fn a_failed_link_leaves_no_copy_at_all() {
        let state = tempfile::tempdir().unwrap();
        let slot = Slot::take(state.path()).unwrap();
        slot.begin("m1");
        let content = Content::new(b"", Source::Bytes(b"A: b\r\n\r\nx\r\n")).unwrap();
        let mut files: Vec<Written> = ["a", "b"]
            .iter()
            .map(|name| write(state.path(), &mailbox(MAIL, "d", name), "m1", b"", &content).unwrap())
            .collect();
        files[1].path = PathBuf::from("mail/d/b/missing/file");
        place(state.path(), &slot, files).unwrap_err();
        assert_eq!(fs::read_dir(state.path().join("mail/d/a/new")).unwrap().count(), 0);
    }

    #[test]
    fn names_are_unique_and_flat() {
        let (one, two) = (name("m"), name("m"));
        assert_ne!(one, two);
        assert!(!one.contains(['/', ':']) && !one.starts_with('.'));
    }
}
