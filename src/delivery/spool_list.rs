//! What an operator does with the spool, `failed/` and quarantine: list, show, retry, drop. Works on the directories
//! under the entries' locks, beside a running delivery process.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::file;
use super::spool::{Entry, FAILED, KICK, SPOOL, ids, now, store};

/// One line of `spool list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `spool`, `failed` or `quarantine`.
    pub tree: &'static str,
    /// The entry's name; in quarantine, the path of the file below it.
    pub id: String,
    /// Octets of the body, or of the file.
    pub size: u64,
    /// When it arrived, seconds since 1970.
    pub since: i64,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next is due, seconds since 1970.
    pub next: i64,
    /// The reverse-path.
    pub sender: String,
    /// Each recipient with its state.
    pub recipients: Vec<(String, &'static str)>,
    /// What is wrong with the entry, if something is.
    pub fault: Option<String>,
}

impl Listed {
    fn blank(tree: &'static str, id: &str) -> Listed {
        let (id, sender) = (id.to_owned(), String::new());
        Listed {
            tree,
            id,
            size: 0,
            since: 0,
            attempts: 0,
            next: 0,
            sender,
            recipients: Vec::new(),
            fault: None,
        }
    }

    fn of(tree: &'static str, entry: &Entry) -> Listed {
        let recipients = entry.commit.recipients.iter().zip(&entry.states);
        Listed {
            size: entry.body.metadata().map_or(0, |data| data.len()),
            since: entry.spooled_at,
            attempts: entry.attempts,
            next: entry.next,
            sender: entry.commit.reverse_path.clone(),
            recipients: recipients
                .map(|(r, state)| (format!("{}@{}", r.mailbox, r.domain), state.name()))
                .collect(),
            ..Listed::blank(tree, &entry.id)
        }
    }
}

/// Everything in the spool, in `failed/` and in quarantine.
///
/// # Errors
/// What the disk says about the directories; a damaged entry is listed with its fault.
pub fn list(state: &Path) -> io::Result<Vec<Listed>> {
    let mut all = Vec::new();
    for tree in [SPOOL, FAILED] {
        for id in ids(state, tree)? {
            match Entry::open_with(state, tree, &id, false) {
                Ok(Some(entry)) => all.push(Listed::of(tree, &entry)),
                Ok(None) => {}
                Err(error) => all.push(Listed {
                    fault: Some(error.to_string()),
                    ..Listed::blank(tree, &id)
                }),
            }
        }
    }
    quarantined(state, &mut all)?;
    Ok(all)
}

fn quarantined(state: &Path, all: &mut Vec<Listed>) -> io::Result<()> {
    let root = state.join(super::maildir::QUARANTINE);
    for domain in children(&root)? {
        for local in children(&domain)? {
            let address = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let recipient = format!("{}@{}", address(&local), address(&domain));
            for place in ["new", "cur"] {
                for path in children(&local.join(place))? {
                    let data = fs::metadata(&path)?;
                    let id = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
                    all.push(Listed {
                        size: data.len(),
                        since: data.modified().ok().and_then(seconds).unwrap_or(0),
                        recipients: vec![(recipient.clone(), "quarantined")],
                        ..Listed::blank(super::maildir::QUARANTINE, &id)
                    });
                }
            }
        }
    }
    Ok(())
}

fn seconds(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

pub(super) fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?,
    };
    paths.sort();
    Ok(paths)
}

fn missing(id: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("no entry {id}, or delivery works on it now"),
    )
}

fn quarantine_file(state: &Path, id: &str) -> io::Result<Option<PathBuf>> {
    let mut all = Vec::new();
    quarantined(state, &mut all)?;
    Ok(all
        .iter()
        .find(|listed| listed.id == id)
        .map(|listed| PathBuf::from(&listed.id)))
}

/// One entry's line and its message.
///
/// # Errors
/// Not found, damage, or what the disk says.
pub fn show(state: &Path, id: &str) -> io::Result<(Listed, Vec<u8>)> {
    for tree in [SPOOL, FAILED] {
        if let Some(entry) = Entry::open_with(state, tree, id, false)? {
            return Ok((Listed::of(tree, &entry), entry.text()?));
        }
    }
    let listed = list(state)?
        .into_iter()
        .find(|listed| listed.id == id)
        .ok_or_else(|| missing(id))?;
    let text = fs::read(state.join(super::maildir::QUARANTINE).join(&listed.id))?;
    Ok((listed, text))
}

/// Makes an entry due now: one of the spool at once, one of `failed/` by moving it to the spool, one in quarantine
/// by moving it into the recipient's Maildir below `mail/`.
///
/// # Errors
/// Not found, busy, or what the disk says.
pub fn retry(state: &Path, id: &str) -> io::Result<()> {
    if let Some(path) = quarantine_file(state, id)? {
        let target = state.join(super::maildir::MAIL).join(&path);
        let mailbox = target.parent().and_then(Path::parent).ok_or_else(|| missing(id))?;
        for part in ["tmp", "new", "cur"] {
            file::make_directory(&mailbox.join(part))?;
        }
        return fs::rename(state.join(super::maildir::QUARANTINE).join(&path), target);
    }
    if let Some(mut entry) = Entry::open(state, SPOOL, id)? {
        entry.schedule(entry.attempts, 0)?;
        return kick(state);
    }
    let entry = Entry::open(state, FAILED, id)?.ok_or_else(|| missing(id))?;
    let which: Vec<usize> = (0..entry.commit.recipients.len()).collect();
    store(state, SPOOL, &entry.commit, entry.checked_body()?, &which, 0)?;
    entry.remove()?;
    kick(state)
}

/// Removes an entry for good.
///
/// # Errors
/// Not found, busy, or what the disk says.
pub fn drop(state: &Path, id: &str) -> io::Result<()> {
    if let Some(path) = quarantine_file(state, id)? {
        return fs::remove_file(state.join(super::maildir::QUARANTINE).join(path));
    }
    for tree in [SPOOL, FAILED] {
        if let Some(entry) = Entry::open(state, tree, id)? {
            return entry.remove();
        }
    }
    Err(missing(id))
}

fn kick(state: &Path) -> io::Result<()> {
    let path = state.join(KICK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    (&file).write_all(now().to_string().as_bytes())
}
