//! What an operator does with the spool, `failed/` and quarantine: list, show, retry, drop. Works on the directories
//! under the entries' locks, beside a running delivery process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::ipc::delivery::{Body, Commit, Disposition, Recipient};

use super::content::{Content, Source};
use super::file::{self, Unnamed};
use super::maildir::QUARANTINE;
use super::spool::{Entry, FAILED, Fresh, KICK, SPOOL, body_path, ids, now, store};
use super::{envelope, names};

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
                .map(|(recipient, state)| (recipient.address(), state.name()))
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
    let mut all = entries(state)?;
    quarantined(state, &mut all)?;
    Ok(all)
}

/// Everything in the spool and in `failed/`, as [`list`].
pub(super) fn entries(state: &Path) -> io::Result<Vec<Listed>> {
    let mut all = Vec::new();
    for tree in [SPOOL, FAILED] {
        for id in ids(state, tree)? {
            let fault = match Entry::open_with(state, tree, &id, false) {
                Ok(Some(entry)) => {
                    all.push(Listed::of(tree, &entry));
                    continue;
                }
                // gone since
                Ok(None) if !state.join(tree).join(&id).exists() => continue,
                Ok(None) => "its body is missing".to_owned(),
                Err(error) => error.to_string(),
            };
            let fault = Some(fault);
            let blank = Listed::blank(tree, &id);
            all.push(Listed { fault, ..blank });
        }
    }
    Ok(all)
}

/// How many messages are in quarantine, where there may be very many: none of them is looked at.
pub(super) fn count_quarantined(state: &Path) -> io::Result<usize> {
    let mut count = 0;
    for domain in file::children(&state.join(QUARANTINE))? {
        for local in file::children(&domain)? {
            for place in ["new", "cur"] {
                match fs::read_dir(local.join(place)) {
                    Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                    entries => count += entries?.count(),
                }
            }
        }
    }
    Ok(count)
}

fn quarantined(state: &Path, all: &mut Vec<Listed>) -> io::Result<()> {
    let root = state.join(QUARANTINE);
    for domain in file::children(&root)? {
        for local in file::children(&domain)? {
            for place in ["new", "cur"] {
                for path in file::children(&local.join(place))? {
                    let id = path.strip_prefix(&root).unwrap_or(&path);
                    match of_quarantine(&root, id) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        listed => all.push(listed?),
                    }
                }
            }
        }
    }
    Ok(())
}

fn of_quarantine(root: &Path, id: &Path) -> io::Result<Listed> {
    let data = fs::metadata(root.join(id))?;
    let mut parts = id.components().map(|part| part.as_os_str().to_string_lossy());
    let (domain, local) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    Ok(Listed {
        size: data.len(),
        since: data.modified().ok().and_then(seconds).unwrap_or(0),
        recipients: vec![(format!("{local}@{domain}"), "quarantined")],
        ..Listed::blank(QUARANTINE, &id.to_string_lossy())
    })
}

fn seconds(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Where an entry is: its tree, and its name there.
enum Place {
    Entry(&'static str, String),
    /// Below the quarantine.
    Quarantined(PathBuf),
}

/// Finds what an operator means: a name as `list` prints it, with or without `spool/`, `failed/` or `quarantine/`.
fn find(state: &Path, id: &str) -> io::Result<Place> {
    let (tree, name) = match id.split_once('/') {
        Some((tree, name)) if [SPOOL, FAILED, QUARANTINE].contains(&tree) => (Some(tree), name),
        _ => (None, id),
    };
    let mut found = Vec::new();
    for known in [SPOOL, FAILED] {
        let wanted = tree.is_none_or(|tree| tree == known) && names::is_entry(name);
        if wanted && fs::symlink_metadata(state.join(known).join(name)).is_ok_and(|data| data.is_file()) {
            found.push(Place::Entry(known, name.to_owned()));
        }
    }
    if tree.is_none_or(|tree| tree == QUARANTINE) && is_quarantined(state, Path::new(name)) {
        found.push(Place::Quarantined(PathBuf::from(name)));
    }
    if found.len() > 1 {
        let text = format!("{name} is in {SPOOL} and in {FAILED}: write {SPOOL}/{name} or {FAILED}/{name}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no message {id:?} is kept here"));
    found.pop().ok_or_else(missing)
}

/// Whether this is the path of a message below the quarantine, and no other.
fn is_quarantined(state: &Path, path: &Path) -> bool {
    let parts: Vec<_> = path.components().collect();
    parts.len() == 4
        && parts.iter().all(|part| matches!(part, Component::Normal(_)))
        && parts
            .get(2)
            .is_some_and(|part| ["new", "cur"].iter().any(|name| part.as_os_str() == *name))
        && fs::symlink_metadata(state.join(QUARANTINE).join(path)).is_ok_and(|data| data.is_file())
}

/// Opens and locks an entry; whoever looks through the spool lets go of it soon.
fn open(state: &Path, tree: &'static str, id: &str) -> io::Result<Entry> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        if let Some(entry) = Entry::open(state, tree, id)? {
            return Ok(entry);
        }
        if Instant::now() > end {
            let text = format!("{id}: its body is missing, or delivery works on it now");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Hands one entry's line and its message to `write`.
///
/// # Errors
/// Not found, ambiguous, damaged, what the disk says, or what `write` says.
pub fn show(state: &Path, id: &str, write: Printer<'_>) -> io::Result<()> {
    match find(state, id)? {
        Place::Entry(tree, name) => {
            let entry = Entry::open_with(state, tree, &name, false)?;
            let entry = entry.ok_or_else(|| io::Error::other(format!("{name}: its body is missing")))?;
            let content = Content::new(&entry.commit.fields, &entry.commit.removed, entry.checked_body()?)?;
            write(&Listed::of(tree, &entry), &mut content.reader())
        }
        Place::Quarantined(path) => {
            let root = state.join(QUARANTINE);
            write(&of_quarantine(&root, &path)?, &mut File::open(root.join(path))?)
        }
    }
}

/// Takes an entry's line and its message.
pub type Printer<'a> = &'a mut dyn FnMut(&Listed, &mut dyn Read) -> io::Result<()>;

/// Has an entry tried at once: one of `failed/` from the beginning, one in quarantine as if
/// it had been for a real recipient.
///
/// # Errors
/// Not found, ambiguous, busy, damaged, or what the disk says.
pub fn retry(state: &Path, id: &str) -> io::Result<()> {
    let (tree, name) = match find(state, id)? {
        Place::Quarantined(path) => return release(state, &path),
        Place::Entry(tree, name) => (tree, name),
    };
    let mut entry = open(state, tree, &name)?;
    if tree == SPOOL {
        entry.schedule(entry.attempts, 0)?;
        // Whoever looks for it now is to find it free.
        std::mem::drop(entry);
        return kick(state);
    }
    let which: Vec<usize> = (0..entry.commit.recipients.len()).collect();
    let fresh = Fresh {
        commit: &entry.commit,
        source: entry.checked_body()?,
        which: &which,
        attempts: 0,
        next: 0,
    };
    let stored = store(state, SPOOL, &fresh, None)?;
    entry.remove()?;
    std::mem::drop(stored);
    kick(state)
}

/// Puts a message of the quarantine into the spool, for whatever agent there is; it stays until it is safe there.
fn release(state: &Path, path: &Path) -> io::Result<()> {
    let from = state.join(QUARANTINE).join(path);
    let file = File::open(&from)?;
    let mut start = vec![0; 4096];
    let read = file.read_at(&mut start, 0)?;
    let start = String::from_utf8_lossy(start.get(..read).unwrap_or_default());
    let no_envelope = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it does not begin with Return-Path and Delivered-To",
        )
    };
    let mut lines = start.split_inclusive("\r\n");
    let mut value = |name: &str| {
        let line = lines.next()?;
        let value = line.strip_prefix(name)?.strip_suffix("\r\n")?;
        Some((value.to_owned(), line.len() as u64))
    };
    let (reverse_path, one) = value("Return-Path: ").ok_or_else(no_envelope)?;
    let (recipient, two) = value("Delivered-To: ").ok_or_else(no_envelope)?;
    let reverse_path = reverse_path.strip_prefix('<').and_then(|path| path.strip_suffix('>'));
    let (mailbox, domain) = recipient.rsplit_once('@').ok_or_else(no_envelope)?;
    let mut body = tempfile_of(state)?;
    (&file).seek(SeekFrom::Start(one + two))?;
    let length = io::copy(&mut &file, &mut body)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let tame = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let commit = Commit {
        id: name.chars().filter(tame).take(75).collect(),
        reverse_path: reverse_path.ok_or_else(no_envelope)?.to_owned(),
        recipients: vec![Recipient {
            original: recipient.clone(),
            domain: domain.to_owned(),
            mailbox: mailbox.to_owned(),
            disposition: Disposition::Deliver,
        }],
        fields: Vec::new(),
        removed: Vec::new(),
        body: Body::Staged { length },
        smtputf8: !recipient.is_ascii(),
        received_at: now(),
        peer: String::new(),
        helo: String::new(),
    };
    envelope::check(&commit).map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
    let fresh = Fresh {
        commit: &commit,
        source: Source::File(&body, length),
        which: &[0],
        attempts: 0,
        next: 0,
    };
    let stored = store(state, SPOOL, &fresh, None)?;
    fs::remove_file(from)?;
    std::mem::drop(stored);
    kick(state)
}

/// A file without a name, for a while.
fn tempfile_of(state: &Path) -> io::Result<File> {
    Unnamed::create(&state.join(SPOOL))?.into_file()
}

/// Removes an entry for good, also a damaged one.
///
/// # Errors
/// Not found, ambiguous, busy, or what the disk says.
pub fn drop(state: &Path, id: &str) -> io::Result<()> {
    let (tree, name) = match find(state, id)? {
        Place::Quarantined(path) => return fs::remove_file(state.join(QUARANTINE).join(path)),
        Place::Entry(tree, name) => (tree, name),
    };
    let envelope = state.join(tree).join(&name);
    let whole = body_path(&envelope).exists();
    match open(state, tree, &name) {
        Err(error) if whole && error.kind() != io::ErrorKind::InvalidData => Err(error),
        Ok(entry) => entry.remove(),
        Err(_) => {
            fs::remove_file(&envelope)?;
            match fs::remove_file(body_path(&envelope)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            }
        }
    }
}

fn kick(state: &Path) -> io::Result<()> {
    let path = state.join(KICK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    // Another text each time: the times of files do not tell two requests apart that follow each other closely.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (&file).write_all(since.as_nanos().to_string().as_bytes())
}
