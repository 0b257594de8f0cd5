//! The unit, read as systemd reads it.

use super::{root, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The text of the shipped unit.
pub fn unit() -> String {
    fs::read_to_string(root().join("systemd/rsmtpd.service")).expect("the unit")
}

/// Every value of a key, in order.
pub fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .collect()
}

/// The words of all values of a key.
pub fn words<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    values(unit, key).into_iter().flat_map(str::split_whitespace).collect()
}

/// The calls of a SystemCallFilter= with every set expanded.
pub fn expand(analyze: &Path, names: &[&str]) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    for name in names {
        if !name.starts_with('@') {
            calls.insert((*name).to_owned());
            continue;
        }
        let mut filter = Command::new(analyze);
        filter.args(["syscall-filter", "--no-pager", name]);
        let (success, said) = run(&mut filter, b"");
        assert!(success, "{said}");
        let inner: Vec<&str> = said
            .lines()
            .skip(1)
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
            .collect();
        calls.extend(expand(analyze, &inner));
    }
    calls
}
