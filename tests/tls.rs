//! TLS: STARTTLS and TLS from the first octet, certificates by name, keys that only the keeper has.

mod common;

use common::{Server, Setup, run, tool};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kinds of keys, as arguments of `openssl req`.
const ECDSA: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// Makes a certificate for `name` by itself; the files of the chain and of the key.
fn make(directory: &Path, name: &str, kind: &[&str]) -> (PathBuf, PathBuf) {
    let (chain, key) = (directory.join("chain.pem"), directory.join("key.pem"));
    std::fs::create_dir_all(directory).expect("directory");
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
    (chain, key)
}

/// The entry of a certificate in rsmtpd.yaml.
fn entry(domain: &str, name: &str, (chain, key): &(PathBuf, PathBuf)) -> String {
    format!(
        "\n    - {{domain_match: {domain}, server_name: {name}, pem_file: {}, key_file: {}}}",
        chain.display(),
        key.display()
    )
}

fn with_certificates(setup: &mut Setup, entries: &str) {
    setup.set(
        "rsmtpd.yaml",
        "tls",
        &format!("\n  enabled: yes\n  certificates:{entries}"),
    );
}

/// A server with one certificate.
fn server() -> Server {
    let mut setup = Setup::new();
    let pair = make(&setup.aside().join("one"), "mail.example.com", ECDSA);
    with_certificates(&mut setup, &entry(".example.com", "mail.example.com", &pair));
    setup.start()
}

/// Speaks through `openssl s_client`.
fn s_client(server: &Server, arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("openssl");
    command
        .arg("s_client")
        .arg("-connect")
        .arg(server.address().to_string());
    command.args(["-crlf", "-quiet", "-ign_eof"]).args(arguments);
    run(&mut command, input.as_bytes())
}

const MESSAGE: &str = "EHLO client.example\nMAIL FROM:<a@client.example>\nrcpt TO:<test@example.com>\nDATA\n\
                       Subject: secret\n\nhello\n.\nquit\n";

#[test]
fn a_message_comes_by_starttls() {
    if tool("tls::a_message_comes_by_starttls", "openssl").is_none() {
        return;
    }
    let server = server();
    let (_, said) = s_client(&server, &["-starttls", "smtp"], MESSAGE);
    assert!(said.contains("250 2.0.0 "), "{said}");
    let mail = server.await_mail("test@example.com", 1);
    let text = String::from_utf8_lossy(&mail[0]).into_owned();
    assert!(
        text.contains(" with ESMTPS id ") && text.contains("\ttls TLS_AES_"),
        "{text}"
    );
}
