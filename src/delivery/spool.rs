//! Messages on disk that wait for their mailbox (`spool/`) or have given up (`failed/`).
//!
//! An entry is two files: `ID.body`, locked by whoever works on the entry, and `ID`, its envelope: a head of fixed
//! layout that is overwritten in place, one state byte per recipient, then what never changes, with its checksum.
//! The body is on disk before the envelope has a name, so an entry is whole or is not there.

use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::ipc::delivery::{Body, Commit};

use super::content::{Content, Source};
use super::file::{self, Unnamed};
use super::journal::Slot;
use super::names;

/// The tree of waiting messages.
pub const SPOOL: &str = "spool";
/// The tree of messages that could not be delivered.
pub const FAILED: &str = "failed";

const MAGIC: &[u8; 8] = b"rsmtpd1\n";
const HEAD: usize = 40;
pub(super) const KICK: &str = "spool/journal/.retry";

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Where one recipient of an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not delivered.
    Waiting,
    /// An agent was started and its end not recorded.
    Trying,
    /// Delivered.
    Delivered,
    /// Refused for good.
    Refused,
}

impl State {
    fn byte(self) -> u8 {
        match self {
            State::Waiting => b'W',
            State::Trying => b'T',
            State::Delivered => b'D',
            State::Refused => b'R',
        }
    }

    fn of(byte: u8) -> Option<State> {
        [State::Waiting, State::Trying, State::Delivered, State::Refused]
            .into_iter()
            .find(|s| s.byte() == byte)
    }

    /// The word in lists.
    pub fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Trying => "trying",
            State::Delivered => "delivered",
            State::Refused => "refused",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    commit: Commit,
    body_sum: u64,
    spooled_at: i64,
}

/// An entry, open.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub id: String,
    /// The message's envelope; its body says the length only.
    pub commit: Commit,
    /// Each recipient's state.
    pub states: Vec<State>,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next one is due, seconds since 1970.
    pub next: i64,
    /// When it was spooled, seconds since 1970.
    pub spooled_at: i64,
    body_sum: u64,
    envelope: File,
    pub(super) body: File,
    path: PathBuf,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("spool entry is damaged: {what}"))
}

pub(super) fn body_path(envelope: &Path) -> PathBuf {
    let mut path = envelope.as_os_str().to_owned();
    path.push(".body");
    PathBuf::from(path)
}

fn sum_of(file: &File) -> io::Result<u64> {
    let mut hasher = SipHasher13::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hasher.finish()),
            read => {
                hasher.write(buffer.get(..read).unwrap_or_default());
                at += read as u64;
            }
        }
    }
}

/// A message to be put on disk.
#[derive(Debug)]
pub(super) struct Fresh<'a> {
    pub(super) commit: &'a Commit,
    pub(super) source: Source<'a>,
    /// Indices into `commit.recipients`.
    pub(super) which: &'a [usize],
    /// Attempts so far.
    pub(super) attempts: u32,
    /// When the next is due, seconds since 1970.
    pub(super) next: i64,
}

/// An entry that is on disk; nobody else works on it while this lives.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) name: String,
    _lock: File,
}

/// Puts the message on disk below `state/tree`. Body and envelope are synced when this returns. The slot is told of
/// both before they appear.
pub(super) fn store(state: &Path, tree: &str, fresh: &Fresh<'_>, slot: Option<&Slot>) -> io::Result<Stored> {
    let directory = state.join(tree);
    file::make_directory(&directory)?;
    let mut body = Unnamed::create(&directory)?;
    // fields are kept in the envelope; the body as received
    match fresh.source {
        Source::Bytes(bytes) => (&body.file).write_all(bytes)?,
        Source::File(..) => Content::whole(fresh.source).write(b"", &body.file)?,
    }
    let mut envelope = Unnamed::create(&directory)?;
    (&envelope.file).write_all(&envelope_bytes(fresh, sum_of(&body.file)?)?)?;
    publish(state, tree, &fresh.commit.id, slot, &mut envelope, &mut body)
}

/// Whether an entry `id` is there with the same message for the same recipients.
pub(super) fn has(state: &Path, tree: &str, id: &str, fresh: &Fresh<'_>) -> io::Result<bool> {
    let Some(entry) = Entry::open_with(state, tree, id, false)? else {
        return Ok(false);
    };
    let which = fresh
        .which
        .iter()
        .filter_map(|&index| fresh.commit.recipients.get(index));
    let same = entry.commit.recipients.iter().eq(which) && entry.commit.received_at == fresh.commit.received_at;
    Ok(same && entry.checked_body()?.length() == fresh.source.length())
}

fn envelope_bytes(fresh: &Fresh<'_>, body_sum: u64) -> io::Result<Vec<u8>> {
    let commit = fresh.commit;
    let which = fresh.which.iter();
    let kept = Commit {
        recipients: which
            .filter_map(|&index| commit.recipients.get(index).cloned())
            .collect(),
        body: Body::Staged {
            length: fresh.source.length(),
        },
        id: commit.id.clone(),
        reverse_path: commit.reverse_path.clone(),
        fields: commit.fields.clone(),
        removed: commit.removed.clone(),
        peer: commit.peer.clone(),
        helo: commit.helo.clone(),
        ..*commit
    };
    let states = vec![State::Waiting.byte(); kept.recipients.len()];
    let record = Record {
        commit: kept,
        body_sum,
        spooled_at: now(),
    };
    let rest = postcard::to_stdvec(&record).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEAD + states.len() + rest.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&u32::try_from(states.len()).map_err(io::Error::other)?.to_le_bytes());
    bytes.extend_from_slice(&fresh.attempts.to_le_bytes());
    bytes.extend_from_slice(&fresh.next.to_le_bytes());
    bytes.extend_from_slice(&(rest.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&names::checksum(&rest).to_le_bytes());
    bytes.extend_from_slice(&states);
    bytes.extend_from_slice(&rest);
    Ok(bytes)
}

fn publish(
    state: &Path,
    tree: &str,
    id: &str,
    slot: Option<&Slot>,
    envelope: &mut Unnamed,
    body: &mut Unnamed,
) -> io::Result<Stored> {
    let lock = body.file.try_clone()?;
    lock.try_lock().map_err(io::Error::other)?;
    for number in 0..100 {
        let name = names::entry(id, number);
        let path = Path::new(tree).join(&name);
        let (path, full) = (body_path(&path), state.join(&path));
        if body_path(&full).exists() || full.exists() {
            continue;
        }
        if let Some(slot) = slot {
            slot.appearing(&[path, Path::new(tree).join(&name)])?;
        }
        match body.link(&body_path(&full)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            result => result?,
        }
        let result = body
            .sync(&body_path(&full))
            .and_then(|()| envelope.link(&full))
            .and_then(|()| envelope.sync(&full));
        if let Err(error) = result {
            let _ = fs::remove_file(&full);
            let _ = fs::remove_file(body_path(&full));
            return Err(error);
        }
        return Ok(Stored { name, _lock: lock });
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

impl Entry {
    /// Opens and locks; `None` when somebody else works on it or it is gone.
    ///
    /// # Errors
    /// Damage, or what the disk says.
    pub fn open(state: &Path, tree: &str, id: &str) -> io::Result<Option<Entry>> {
        Entry::open_with(state, tree, id, true)
    }

    pub(super) fn open_with(state: &Path, tree: &str, id: &str, lock: bool) -> io::Result<Option<Entry>> {
        if !names::is_entry(id) {
            return Ok(None);
        }
        let path = state.join(tree).join(id);
        let open = |path: &Path| OpenOptions::new().read(true).write(lock).open(path);
        let body = match open(&body_path(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        if lock && body.try_lock().is_err() {
            return Ok(None);
        }
        // opened after the lock: whoever held it before may have removed the entry
        let envelope = match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        read_entry(id, path, envelope, body).map(Some)
    }

    /// The body file, checked against its length and checksum.
    pub(super) fn checked_body(&self) -> io::Result<Source<'_>> {
        let Body::Staged { length } = self.commit.body else {
            return Err(damaged("no length"));
        };
        if self.body.metadata()?.len() != length || sum_of(&self.body)? != self.body_sum {
            return Err(damaged("body"));
        }
        Ok(Source::File(&self.body, length))
    }

    /// Another handle of the body.
    pub(super) fn body_handle(&self) -> io::Result<File> {
        self.body.try_clone()
    }

    /// Waits until what was recorded is on disk.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.envelope.sync_data()
    }

    /// Records a recipient's state; durably when it is final.
    ///
    /// # Errors
    /// What the disk says.
    pub fn set_state(&mut self, index: usize, state: State) -> io::Result<()> {
        if let Some(old) = self.states.get_mut(index) {
            *old = state;
            self.envelope.write_all_at(&[state.byte()], (HEAD + index) as u64)?;
            if matches!(state, State::Delivered | State::Refused) {
                self.envelope.sync_data()?;
            }
        }
        Ok(())
    }

    /// Records durably how many attempts there were and when the next one is due.
    ///
    /// # Errors
    /// What the disk says.
    pub fn schedule(&mut self, attempts: u32, next: i64) -> io::Result<()> {
        (self.attempts, self.next) = (attempts, next);
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&attempts.to_le_bytes());
        bytes[4..].copy_from_slice(&next.to_le_bytes());
        self.envelope.write_all_at(&bytes, 12)?;
        self.sync()
    }

    /// Removes the entry.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        fs::remove_file(body_path(&self.path))
    }
}

fn read_entry(id: &str, path: PathBuf, envelope: File, body: File) -> io::Result<Entry> {
    let length = envelope.metadata()?.len();
    if length > 1 << 20 {
        return Err(damaged("too long"));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    envelope.read_exact_at(&mut bytes, 0)?;
    let number = |at: usize| -> io::Result<u64> {
        let eight = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        eight.map(u64::from_le_bytes).ok_or_else(|| damaged("head"))
    };
    if !bytes.starts_with(MAGIC) {
        return Err(damaged("head"));
    }
    let counts = number(8)?;
    let (recipients, attempts) = ((counts & 0xffff_ffff) as usize, (counts >> 32) as u32);
    let (next, rest_length, sum) = (number(16)?.cast_signed(), number(24)?, number(32)?);
    let states = bytes.get(HEAD..HEAD + recipients).ok_or_else(|| damaged("states"))?;
    let rest = bytes.get(HEAD + recipients..).unwrap_or_default();
    if rest.len() as u64 != rest_length || names::checksum(rest) != sum {
        return Err(damaged("envelope"));
    }
    let record: Record = postcard::from_bytes(rest).map_err(|_| damaged("envelope"))?;
    let states: Option<Vec<State>> = states.iter().map(|&byte| State::of(byte)).collect();
    let states = states.filter(|states| states.len() == record.commit.recipients.len());
    Ok(Entry {
        id: id.to_owned(),
        states: states.ok_or_else(|| damaged("states"))?,
        attempts,
        next,
        spooled_at: record.spooled_at,
        body_sum: record.body_sum,
        commit: record.commit,
        envelope,
        body,
        path,
    })
}

/// The names of all entries below `state/tree`.
///
/// # Errors
/// What the disk says; a tree that is not there has none.
pub fn ids(state: &Path, tree: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(state.join(tree)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().filter(|id| names::is_entry(id))
            && entry.file_type()?.is_file()
        {
            ids.push(id.to_owned());
        }
    }
    ids.sort();
    Ok(ids)
}

/// What stands there of the last time that somebody asked for a retry.
pub(super) fn kicked(state: &Path) -> Option<Vec<u8>> {
    fs::read(state.join(KICK)).ok()
}

/// Removes bodies that never got an envelope: their message was not acknowledged. Young ones may be under way.
pub(super) fn remove_orphans(state: &Path, tree: &str) -> io::Result<()> {
    for path in file::children(&state.join(tree))? {
        let Some(envelope) = path.to_str().and_then(|path| path.strip_suffix(".body")) else {
            continue;
        };
        let age = fs::metadata(&path)?.modified()?.elapsed().unwrap_or_default();
        if age.as_secs() > 3_600 && !Path::new(envelope).exists() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
