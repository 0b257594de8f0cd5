//! What a thread is about to make visible for one message, so that a kill can be told from success at the next start.
//!
//! A slot is one small file, overwritten in place. As long as a message is *open* every file that appeared for it is
//! undone at the next start, since nobody was told 250; of these the slot is not synced: a killed process leaves its pages
//! to the kernel, and after a power loss the boot identifier differs and nothing whole is undone, only told. Agents cannot
//! be undone, so each attempt is recorded before and after, and told; of these it is synced, before the agent begins and
//! once more before the answer, so that a power loss does not hide them.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Log, file, names};
use crate::log::{Event, Level};

const OPEN: u8 = b'O';
const DONE: u8 = b'D';
const CLOSED: u8 = b'C';
const HEAD: usize = 1 + 8 + 8;
// what one write cannot leave half done
const PAGE: usize = 4096;

/// A thread's slot, locked as long as it lives.
#[derive(Debug)]
pub(super) struct Slot {
    file: File,
    boot: String,
    note: RefCell<Note>,
}

/// What the slot says: lines of one letter, a space and a word.
#[derive(Debug, Default)]
struct Note {
    text: Vec<u8>,
    files: Vec<PathBuf>,
    /// Whether an agent had something of the message whose end is not on disk yet.
    unsynced: bool,
}

/// This boot's identifier.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

fn directory(state: &Path) -> PathBuf {
    state.join("spool/journal")
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600);
    options.open(path)
}

impl Slot {
    /// Takes the first slot that no living process holds.
    pub(super) fn take(state: &Path) -> io::Result<Slot> {
        let directory = directory(state);
        file::make_directory(&directory)?;
        for number in 0..10_000 {
            let path = directory.join(number.to_string());
            let is_new = !path.exists();
            let file = open(&path, true)?;
            if file.try_lock().is_ok() {
                if is_new {
                    // what is synced later is the file's bytes alone
                    file.sync_all()?;
                    file::sync_directory(&path)?;
                }
                let (boot, note) = (boot_id(), RefCell::default());
                return Ok(Slot { file, boot, note });
            }
        }
        Err(io::Error::other("every journal slot is held"))
    }

    /// Another message: nothing is noted for it yet.
    pub(super) fn begin(&self, id: &str) {
        *self.note.borrow_mut() = Note {
            text: format!("{}\n{id}\n", self.boot).into_bytes(),
            ..Note::default()
        };
    }

    /// Notes that `paths` (below the state directory) appear from now on.
    pub(super) fn appearing(&self, paths: &[PathBuf]) -> io::Result<()> {
        let mut note = self.note.borrow_mut();
        for path in paths {
            note.text.extend_from_slice(b"F ");
            note.text.extend_from_slice(path.as_os_str().as_encoded_bytes());
            note.text.push(b'\n');
        }
        note.files.extend_from_slice(paths);
        self.write(&note.text)
    }

    /// Notes that an agent begins to work for these recipients; on disk when this returns.
    pub(super) fn agent_begins(&self, recipients: &[String]) -> io::Result<()> {
        let mut note = self.note.borrow_mut();
        for recipient in recipients {
            note.text.extend_from_slice(format!("T {recipient}\n").as_bytes());
        }
        self.write(&note.text)?;
        self.file.sync_data()?;
        note.unsynced = false;
        Ok(())
    }

    /// Notes how an agent ended for the recipient; on disk with the next one's beginning, or by [`Slot::sync`].
    pub(super) fn agent_ended(&self, recipient: &str, delivered: bool) -> io::Result<()> {
        let letter = if delivered { "D" } else { "N" };
        let mut note = self.note.borrow_mut();
        note.text
            .extend_from_slice(format!("{letter} {recipient}\n").as_bytes());
        note.unsynced = true;
        self.write(&note.text)
    }

    /// Sees to it that what is noted of agents is on disk: before the answer.
    pub(super) fn sync(&self) -> io::Result<()> {
        if std::mem::take(&mut self.note.borrow_mut().unsynced) {
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        let mut record = Vec::with_capacity(HEAD + text.len());
        record.push(OPEN);
        record.extend_from_slice(&(text.len() as u64).to_le_bytes());
        record.extend_from_slice(&names::checksum(text).to_le_bytes());
        record.extend_from_slice(text);
        let (head, tail) = record.split_at(HEAD);
        if record.len() <= PAGE {
            return self.file.write_all_at(&record, 0);
        }
        // until the head is there the old one holds, whose text is a beginning of this one
        self.file.write_all_at(tail, HEAD as u64)?;
        self.file.write_all_at(head, 0)
    }

    /// Records that all that appeared is on disk and stays. Who is killed from here on leaves it so; what a power loss
    /// leaves is told as if the answer might not have been sent.
    pub(super) fn done(&self) -> io::Result<()> {
        self.file.write_all_at(&[DONE], 0)
    }

    /// Records that nothing is open any more: the worker has been told, or the spool's own record says it.
    pub(super) fn close(&self) {
        let mut note = self.note.borrow_mut();
        note.files.clear();
        let end = note.text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1);
        let end = end.map_or(0, |(at, _)| at + 1);
        note.text.truncate(end);
        let _ = self.file.write_all_at(&[CLOSED], 0);
    }

    /// Removes what appeared: nobody was told 250 for it.
    pub(super) fn undo(&self, state: &Path) {
        let files = std::mem::take(&mut self.note.borrow_mut().files);
        // a spool entry is gone with its envelope, which appeared last
        for path in files.iter().rev() {
            let _ = fs::remove_file(state.join(path));
        }
        self.close();
    }
}

/// Undoes what a killed process had begun in this boot and not finished: nobody was told 250 for it.
/// Slots held by a living process are left alone. Each case is logged with its message's identifier.
pub(super) fn recover(state: &Path, log: &Log) -> io::Result<()> {
    let directory = directory(state);
    file::make_directory(&directory)?;
    let boot = boot_id();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
        {
            continue;
        }
        let file = open(&path, false)?;
        if file.try_lock().is_err() {
            continue;
        }
        if let Some(found) = read(&file) {
            found.settle(state, log, found.boot == boot);
        }
        file.set_len(0)?;
    }
    Ok(())
}

/// A slot as a killed process left it.
struct Found {
    then: u8,
    boot: String,
    id: String,
    files: Vec<PathBuf>,
    /// Recipients that an agent had, and whether its success was recorded.
    agents: Vec<(String, bool)>,
    /// A power loss came into the writing: what can be read is told, and nothing undone.
    torn: bool,
}

fn read(file: &File) -> Option<Found> {
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, 0).ok()?;
    let (then, rest) = head.split_first()?;
    let (length, sum) = rest.split_at_checked(8)?;
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let written = usize::try_from(file.metadata().ok()?.len()).ok()?.saturating_sub(HEAD);
    let mut text = vec![0; length.min(written)];
    file.read_exact_at(&mut text, HEAD as u64).ok()?;
    let torn = text.len() != length || names::checksum(&text) != u64::from_le_bytes(sum.try_into().ok()?);
    // each line is ended: what is not was cut off
    text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    let mut found = Found {
        then: *then,
        boot: lines.next()?.to_owned(),
        id: lines.next()?.to_owned(),
        files: Vec::new(),
        agents: Vec::new(),
        torn,
    };
    for line in lines {
        match line.split_once(' ') {
            Some(("F", path)) => found.files.push(PathBuf::from(path)),
            Some(("T", recipient)) => found.agents.push((recipient.to_owned(), false)),
            Some((letter @ ("D" | "N"), recipient)) => {
                found.agents.retain(|(other, _)| other != recipient);
                if letter == "D" {
                    found.agents.push((recipient.to_owned(), true));
                }
            }
            _ => found.torn = true,
        }
    }
    Some(found)
}

impl Found {
    fn settle(&self, state: &Path, log: &Log, same_boot: bool) {
        let interrupted = |at: &str| Event::new("interrupted").word("id", &self.id).field("at", at);
        let tell = |event: Event| log(Level::Warning, event);
        if self.then == DONE {
            return tell(interrupted("answer").quoted("note", b"delivered, the answer may not have been sent"));
        }
        if self.then != OPEN {
            return;
        }
        for (recipient, delivered) in &self.agents {
            let note = match (delivered, same_boot) {
                (true, true) => "delivered, the answer was not sent",
                (true, false) => "delivered, the answer may not have been sent",
                (false, _) => "the agent may have succeeded",
            };
            let event = interrupted("agent").word("rcpt", recipient);
            tell(event.quoted("note", note.as_bytes()));
        }
        if self.torn {
            return tell(interrupted("record").quoted("note", b"damaged: may be delivered without a 250"));
        }
        if self.files.is_empty() {
            return;
        }
        // after a power loss this note may be older than the message's record; only an empty file was surely never
        // acknowledged, as its bytes are synced before
        let empty = |path: &Path| fs::metadata(path).is_ok_and(|data| data.len() == 0);
        let paths = self.files.iter().rev().map(|path| state.join(path));
        let removed = paths
            .filter(|path| (same_boot || empty(path)) && fs::remove_file(path).is_ok())
            .count();
        let event = interrupted("linking");
        tell(if same_boot {
            event.field("files", self.files.len()).field("removed", removed)
        } else {
            let event = event.field("boot", "earlier").field("removed", removed);
            event.quoted("note", b"may be delivered without a 250")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn logged(state: &Path) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let log: Log = Arc::new(move |_, event: Event| sink.lock().unwrap().push(event.text()));
        recover(state, &log).unwrap();
        lines.lock().unwrap().drain(..).collect()
    }

    fn open_slot(state: &Path, id: &str, files: &[&str]) -> Slot {
        let slot = Slot::take(state).unwrap();
        slot.begin(id);
        for file in files {
            fs::write(state.join(file), "x").unwrap();
            slot.appearing(&[PathBuf::from(file)]).unwrap();
        }
        slot
    }

    #[test]
    fn what_was_begun_is_undone_and_what_was_done_stays() {
        let state = tempfile::tempdir().unwrap();
        let slot = open_slot(state.path(), "m1", &["one", "two"]);
        assert!(logged(state.path()).is_empty(), "a living process's slot is left alone");
        drop(slot);
        assert!(logged(state.path())[0].contains("id=m1 at=linking files=2 removed=2"));
        assert!(!state.path().join("one").exists() && !state.path().join("two").exists());
        assert!(logged(state.path()).is_empty(), "told once");

        open_slot(state.path(), "m2", &["two"]).done().unwrap();
        assert!(logged(state.path())[0].contains("id=m2 at=answer"));
        assert!(state.path().join("two").exists());

        let slot = open_slot(state.path(), "m3", &["two"]);
        slot.done().unwrap();
        slot.close();
        drop(slot);
        assert!(logged(state.path()).is_empty());
    }

    #[test]
    fn what_was_closed_is_not_undone_with_what_comes_after() {
        let state = tempfile::tempdir().unwrap();
        let slot = open_slot(state.path(), "m1", &["one"]);
        slot.close();
        fs::write(state.path().join("two"), "x").unwrap();
        slot.appearing(&[PathBuf::from("two")]).unwrap();
        drop(slot);
        assert!(logged(state.path())[0].contains("id=m1 at=linking files=1 removed=1"));
        assert!(state.path().join("one").exists() && !state.path().join("two").exists());
    }

    #[test]
    fn each_agents_end_is_told() {
        let state = tempfile::tempdir().unwrap();
        let slot = open_slot(state.path(), "m1", &[]);
        slot.agent_begins(&["a@x".into(), "b@x".into()]).unwrap();
        slot.agent_ended("a@x", true).unwrap();
        slot.agent_ended("b@x", false).unwrap();
        slot.agent_begins(&["c@x".into()]).unwrap();
        drop(slot);
        let lines = logged(state.path());
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("rcpt=a@x note=\"delivered"), "{lines:?}");
        assert!(lines[1].contains("rcpt=c@x note=\"the agent may"), "{lines:?}");
    }

    #[test]
    fn a_long_note_is_whole_or_the_one_before() {
        let state = tempfile::tempdir().unwrap();
        let slot = open_slot(state.path(), "m1", &["one"]);
        let many: Vec<PathBuf> = (0..500).map(|n| PathBuf::from(format!("no/such/{n}"))).collect();
        slot.appearing(&many).unwrap();
        drop(slot);
        assert!(logged(state.path())[0].contains("files=501 removed=1"));
    }

    #[test]
    fn another_boot_undoes_nothing_but_empty_files() {
        let state = tempfile::tempdir().unwrap();
        let mut slot = Slot::take(state.path()).unwrap();
        slot.boot = "earlier".into();
        slot.begin("m1");
        fs::write(state.path().join("one"), "x").unwrap();
        fs::write(state.path().join("two"), "").unwrap();
        slot.appearing(&["one".into(), "two".into()]).unwrap();
        drop(slot);
        assert!(logged(state.path())[0].contains("boot=earlier removed=1"));
        assert!(state.path().join("one").exists() && !state.path().join("two").exists());
    }

    #[test]
    fn an_agents_run_is_told_after_another_boot() {
        let state = tempfile::tempdir().unwrap();
        let mut slot = Slot::take(state.path()).unwrap();
        slot.boot = "earlier".into();
        slot.begin("m1");
        slot.agent_begins(&["a@x".into()]).unwrap();
        slot.agent_ended("a@x", true).unwrap();
        slot.agent_begins(&["b@x".into()]).unwrap();
        drop(slot);
        let lines = logged(state.path());
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains("event=interrupted id=m1 at=agent rcpt=a@x note=\"delivered"),
            "{lines:?}"
        );
        assert!(
            lines[1].contains("event=interrupted id=m1 at=agent rcpt=b@x note=\"the agent may"),
            "{lines:?}"
        );

        let mut slot = Slot::take(state.path()).unwrap();
        slot.boot = "earlier".into();
        slot.begin("m2");
        slot.agent_begins(&["a@x".into()]).unwrap();
        slot.agent_ended("a@x", true).unwrap();
        slot.done().unwrap();
        drop(slot);
        assert!(logged(state.path())[0].contains("event=interrupted id=m2 at=answer"));
    }

    #[test]
    fn a_record_that_a_power_loss_tore_is_told_and_undoes_nothing() {
        let state = tempfile::tempdir().unwrap();
        for keep in [HEAD as u64 + 60, 5_000, u64::MAX] {
            let mut slot = open_slot(state.path(), "m1", &["one"]);
            slot.boot = "earlier".into();
            slot.begin("m1");
            let many: Vec<String> = (0..500).map(|n| format!("r{n}@example.org")).collect();
            slot.agent_begins(&many).unwrap();
            let length = slot.file.metadata().unwrap().len();
            if keep < length {
                slot.file.set_len(keep).unwrap();
            } else {
                slot.file.write_all_at(b"\xff\0", length - 100).unwrap();
            }
            drop(slot);
            let lines = logged(state.path());
            let told = lines.last().unwrap();
            assert!(
                told.contains("event=interrupted id=m1 at=record note=\"damaged"),
                "{keep}: {told}"
            );
            assert!(lines[0].contains("rcpt=r0@example.org "), "{keep}: {lines:?}");
            assert!(!lines.iter().any(|line| line.contains("rcpt=r2@ex ")), "{lines:?}");
            assert!(state.path().join("one").exists());
        }
    }
}
