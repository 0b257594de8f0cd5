//! Certificates that openssl makes, and their entries in rsmtpd.yaml.

use super::{Setup, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kinds of keys, as arguments of `openssl req`.
pub const ECDSA: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
/// As [`ECDSA`].
pub const RSA: &[&str] = &["-newkey", "rsa:2048"];

/// The files of a certificate chain and of its key.
pub type Pair = (PathBuf, PathBuf);

/// Makes a certificate for `name` that is signed by itself, in a directory and with a key of our own alone.
pub fn make(directory: &Path, name: &str, kind: &[&str]) -> Pair {
    let (chain, key) = (directory.join("chain.pem"), directory.join("key.pem"));
    fs::create_dir_all(directory).expect("directory");
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).expect("mode");
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-days", "30"]).args(kind);
    command.args([
        "-subj",
        &format!("/CN={name}"),
        "-addext",
        &format!("subjectAltName=DNS:{name}"),
    ]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&chain);
    let (made, said) = run(&mut command, b"");
    assert!(made, "{said}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mode");
    (chain, key)
}

/// The entry of a certificate in rsmtpd.yaml.
pub fn entry(domain: &str, name: &str, (chain, key): &Pair) -> String {
    format!(
        "\n    - {{domain_match: {domain}, server_name: {name}, pem_file: {}, key_file: {}}}",
        chain.display(),
        key.display()
    )
}

/// The block of these entries in rsmtpd.yaml.
pub fn block(entries: &str) -> String {
    format!("\n  enabled: yes\n  certificates:{entries}")
}

/// Enables TLS with these entries.
pub fn enable(setup: &mut Setup, entries: &str) {
    setup.set("rsmtpd.yaml", "tls", &block(entries));
}
