//! Replays the corpora of the fuzz targets: whatever was once interesting stays harmless.

#[path = "fuzz/entries.rs"]
mod entries;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;

/// Runs every committed input of a target; the names of those that panicked.
fn replay(target: &str, entry: entries::Entry) -> (usize, Vec<String>) {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let mut inputs: Vec<PathBuf> = fs::read_dir(&corpus)
        .expect("a corpus")
        .map(|found| found.expect("an entry").path())
        .collect();
    inputs.sort();
    let panicked = inputs.iter().filter(|path| {
        let input = fs::read(path).expect("an input");
        panic::catch_unwind(AssertUnwindSafe(|| entry(&input))).is_err()
    });
    let names = panicked.map(|path| path.display().to_string()).collect();
    (inputs.len(), names)
}

/// How many inputs of each target are committed at least: none goes unseen.
const COMMITTED: [(&str, usize); 12] = [
    ("receiver", 8),
    ("address", 12),
    ("command", 20),
    ("parameters", 30),
    ("bdat", 8),
    ("frame", 17),
    ("keeper", 14),
    ("broker", 34),
    ("dns", 32),
    ("session", 18),
    ("proxy_header", 34),
    ("xclient", 31),
];

#[test]
fn every_committed_input_is_survived() {
    let mut panicked = Vec::new();
    for (target, entry) in entries::ENTRIES {
        let (inputs, names) = replay(target, entry);
        let known = COMMITTED.iter().find(|(name, _)| *name == target);
        let committed = known.map(|(_, count)| *count);
        assert!(
            committed.is_some_and(|least| inputs >= least),
            "{target}: {inputs} of {committed:?} inputs"
        );
        panicked.extend(names);
    }
    assert!(panicked.is_empty(), "panicked on:\n{}", panicked.join("\n"));
}

#[test]
fn every_target_has_its_binary_and_every_corpus_its_target() {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("a manifest");
    for (target, _) in entries::ENTRIES {
        assert!(
            manifest.contains(&format!("path = \"targets/{target}.rs\"")),
            "{target}"
        );
        let source = fs::read_to_string(fuzz.join(format!("targets/{target}.rs"))).expect("a target");
        assert!(source.contains(&format!("entries::{target}(input)")), "{target}");
    }
    for found in fs::read_dir(fuzz.join("corpus")).expect("corpora") {
        let name = found.expect("an entry").file_name().into_string().expect("a name");
        assert!(entries::ENTRIES.iter().any(|(target, _)| *target == name), "{name}");
    }
}
