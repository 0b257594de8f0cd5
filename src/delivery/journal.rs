//! What a thread is about to make visible, so that a kill can be told from success at the next start.
//!
//! A slot is one small file, overwritten in place, never synced: a killed process leaves its pages to the kernel,
//! and after a power loss the boot identifier differs and nothing is undone, only told.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Log, file, level, names, quoted};

const LINKING: u8 = b'L';
const DONE: u8 = b'D';
const ANSWERED: u8 = b'A';
const HEAD: usize = 1 + 8 + 8;

/// A thread's slot, locked as long as it lives.
#[derive(Debug)]
pub(super) struct Slot {
    file: File,
    boot: String,
}

/// This boot's identifier.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

fn directory(state: &Path) -> PathBuf {
    state.join("spool/journal")
}

impl Slot {
    /// Takes the first slot that no living process holds.
    pub(super) fn take(state: &Path) -> io::Result<Slot> {
        let directory = directory(state);
        file::make_directory(&directory)?;
        for number in 0..10_000 {
            let path = directory.join(number.to_string());
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            if file.try_lock().is_ok() {
                return Ok(Slot { file, boot: boot_id() });
            }
        }
        Err(io::Error::other("every journal slot is held"))
    }

    /// Records that `paths` (below the state directory) appear from now on for message `id`.
    /// Without paths: that an agent works on it.
    pub(super) fn begin(&self, id: &str, paths: &[&Path]) -> io::Result<()> {
        let mut text = format!("{}\n{id}\n", self.boot).into_bytes();
        for path in paths {
            text.extend_from_slice(path.as_os_str().as_encoded_bytes());
            text.push(b'\n');
        }
        let mut record = Vec::with_capacity(HEAD + text.len());
        record.push(LINKING);
        record.extend_from_slice(&(text.len() as u64).to_le_bytes());
        record.extend_from_slice(&names::checksum(&text).to_le_bytes());
        record.extend_from_slice(&text);
        self.file.write_all_at(&record, 0)
    }

    /// Records that all of them are on disk, or none.
    pub(super) fn done(&self) -> io::Result<()> {
        self.file.write_all_at(&[DONE], 0)
    }

    /// Records that the worker has been told.
    pub(super) fn answered(&self) {
        let _ = self.file.write_all_at(&[ANSWERED], 0);
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
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.try_lock().is_err() {
            continue;
        }
        if let Some((state_then, boot_then, id, paths)) = read(&file) {
            settle(state, log, state_then, boot_then == boot, &id, &paths);
        }
        file.set_len(0)?;
    }
    Ok(())
}

fn read(file: &File) -> Option<(u8, String, String, Vec<PathBuf>)> {
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, 0).ok()?;
    let (state, rest) = head.split_first()?;
    let (length, sum) = rest.split_at_checked(8)?;
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    if length as u64 > file.metadata().ok()?.len() {
        return None;
    }
    let mut text = vec![0; length];
    file.read_exact_at(&mut text, HEAD as u64).ok()?;
    if names::checksum(&text) != u64::from_le_bytes(sum.try_into().ok()?) {
        return None;
    }
    let text = String::from_utf8(text).ok()?;
    let mut lines = text.lines();
    let (boot, id) = (lines.next()?.to_owned(), lines.next()?.to_owned());
    Some((*state, boot, id, lines.map(PathBuf::from).collect()))
}

fn settle(state: &Path, log: &Log, then: u8, same_boot: bool, id: &str, paths: &[PathBuf]) {
    let id = quoted(id);
    match then {
        LINKING if paths.is_empty() => {
            log(
                level::WARNING,
                format!("event=interrupted id={id} at=agent note=\"the agent may have succeeded\""),
            );
        }
        LINKING if same_boot => {
            let removed = paths
                .iter()
                .filter(|path| fs::remove_file(state.join(path)).is_ok())
                .count();
            log(
                level::WARNING,
                format!(
                    "event=interrupted id={id} at=linking files={} removed={removed}",
                    paths.len()
                ),
            );
        }
        LINKING => log(
            level::WARNING,
            format!("event=interrupted id={id} at=linking boot=earlier note=\"may be delivered without a 250\""),
        ),
        DONE => log(
            level::WARNING,
            format!("event=interrupted id={id} at=answer note=\"delivered, the answer may not have been sent\""),
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn logged(state: &Path) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let log: Log = Arc::new(move |_, text| sink.lock().unwrap().push(text));
        recover(state, &log).unwrap();
        lines.lock().unwrap().drain(..).collect()
    }

    #[test]
    fn what_was_begun_is_undone_and_what_was_done_stays() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("one"), "x").unwrap();
        fs::write(state.path().join("two"), "x").unwrap();
        let slot = Slot::take(state.path()).unwrap();
        slot.begin("m1", &[Path::new("one")]).unwrap();
        assert!(logged(state.path()).is_empty(), "a living process's slot is left alone");
        drop(slot);
        assert!(logged(state.path())[0].contains("id=m1 at=linking files=1 removed=1"));
        assert!(!state.path().join("one").exists());
        assert!(logged(state.path()).is_empty(), "told once");

        let slot = Slot::take(state.path()).unwrap();
        slot.begin("m2", &[Path::new("two")]).unwrap();
        slot.done().unwrap();
        drop(slot);
        assert!(logged(state.path())[0].contains("id=m2 at=answer"));
        assert!(state.path().join("two").exists());

        let slot = Slot::take(state.path()).unwrap();
        slot.begin("m3", &[Path::new("two")]).unwrap();
        slot.done().unwrap();
        slot.answered();
        drop(slot);
        assert!(logged(state.path()).is_empty());
    }

    #[test]
    fn another_boot_undoes_nothing() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("one"), "x").unwrap();
        let mut slot = Slot::take(state.path()).unwrap();
        slot.boot = "earlier".into();
        slot.begin("m1", &[Path::new("one")]).unwrap();
        drop(slot);
        assert!(logged(state.path())[0].contains("boot=earlier"));
        assert!(state.path().join("one").exists());
    }
}
