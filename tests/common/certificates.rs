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
    request(directory, name, kind, &[])
}

/// Makes a certificate for `name` that `authority` signs, which [`make`] has made.
pub fn signed(directory: &Path, name: &str, authority: &Pair) -> Pair {
    let (ca, key) = (authority.0.display().to_string(), authority.1.display().to_string());
    let more = [
        "-CA",
        &ca,
        "-CAkey",
        &key,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    request(directory, name, ECDSA, &more)
}

/// SHA-256 of the certificate, and of its public key, as openssl prints them.
pub fn pins(pair: &Pair) -> [String; 2] {
    let print = |script: &str| {
        let (ran, said) = run(Command::new("sh").args(["-c", script, "sh"]).arg(&pair.0), b"");
        assert!(ran, "{said}");
        said.trim().to_owned()
    };
    let fingerprint = print("openssl x509 -in \"$1\" -noout -fingerprint -sha256");
    let (_, of_certificate) = fingerprint.split_once('=').expect("a fingerprint");
    let of_key = print("openssl x509 -in \"$1\" -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum");
    let of_key = of_key.split(' ').next().expect("a digest");
    [of_certificate.to_owned(), of_key.to_owned()]
}

fn request(directory: &Path, name: &str, kind: &[&str], more: &[&str]) -> Pair {
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
    command.args(more);
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
