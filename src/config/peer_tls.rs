//! TLS towards a server that a handler reaches: when, by which name, and how that server proves who it is.
//!
//! The file of authorities is public; it is read with the configuration, so whoever reads that must be able to read it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use super::section::{Field, Section};

/// Octets of a file of authorities at most; those of whole systems have a quarter of a million.
const LONGEST: u64 = 4 * 1024 * 1024;
/// Pins at most: the one in use, and those that will be.
const MOST_PINS: usize = 16;

/// Whether TLS is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PeerTlsMode {
    /// Never.
    #[default]
    None,
    /// Where the server offers STARTTLS (RFC 3207) and does not refuse it; nothing is verified.
    Opportunistic,
    /// By STARTTLS, or not at all.
    Required,
    /// From the first octet, or not at all.
    Implicit,
}

/// SHA-256 of a certificate, or of its public key (SubjectPublicKeyInfo, RFC 5280 §4.1.2.7), in DER.
pub type Pin = [u8; 32];

/// Authorities (RFC 5280 §6.1.1) out of a file.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// The file, to be read again with the configuration.
    pub path: PathBuf,
    /// What it holds.
    pub roots: Arc<RootCertStore>,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Authorities) -> bool {
        self.path == other.path && self.roots.roots == other.roots.roots
    }
}

impl Eq for Authorities {}

/// How a server proves who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Proof {
    /// It need not.
    #[default]
    None,
    /// By a certificate for its name that one of these has signed, or somebody whom they have.
    Authorities(Authorities),
    /// By one of these.
    Pins(Vec<Pin>),
}

/// The keys `tls`, `tls_name`, `tls_ca_file` and `tls_pins` of a handler's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerTls {
    /// Whether TLS is spoken.
    pub mode: PeerTlsMode,
    /// The name that is asked for and verified; none: that by which the server is reached.
    pub name: Option<String>,
    authorities: Option<Authorities>,
    pins: Vec<Pin>,
}

impl PeerTls {
    /// Reads the keys that are there; `host` is the server's name where `tls_name` is none.
    pub fn read(&mut self, section: &Section<'_>, host: &str) {
        let mut place = section.field().clone();
        section.read("tls", &mut self.mode, |field| {
            place = field.clone();
            field.choice(&[
                ("no", PeerTlsMode::None),
                ("opportunistic", PeerTlsMode::Opportunistic),
                ("required", PeerTlsMode::Required),
                ("implicit", PeerTlsMode::Implicit),
            ])
        });
        section.read("tls_name", &mut self.name, |field| name(field).map(Some));
        // A key that is wrong is complained of once.
        let mut verified = self.authorities.is_some() || !self.pins.is_empty();
        section.read("tls_ca_file", &mut self.authorities, |field| {
            verified = true;
            authorities(field).map(Some)
        });
        section.read("tls_pins", &mut self.pins, |field| {
            let pins = pins(field);
            verified |= !pins.as_ref().is_some_and(Vec::is_empty);
            pins
        });
        if let Some(fault) = self.contradiction(verified, host) {
            place.fault(fault.to_owned());
        }
    }

    /// What is wrong with the keys together; `verified` says whether any is there that says how.
    fn contradiction(&self, verified: bool, host: &str) -> Option<&'static str> {
        match self.mode {
            PeerTlsMode::None | PeerTlsMode::Opportunistic if verified => Some(
                "expected required or implicit beside tls_ca_file and tls_pins, which count with these, found another",
            ),
            PeerTlsMode::Required | PeerTlsMode::Implicit if !verified => {
                Some("expected tls_ca_file or tls_pins to verify the server by, found neither")
            }
            _ if self.authorities.is_some() && !self.pins.is_empty() => {
                Some("expected tls_ca_file or tls_pins, found both")
            }
            PeerTlsMode::None => None,
            _ if self.name.is_none() && ServerName::try_from(host).is_err() => {
                Some("expected tls_name, as host can be in no certificate, found none")
            }
            _ => None,
        }
    }

    /// How the server is to prove who it is.
    pub fn proof(&self) -> Proof {
        match &self.authorities {
            Some(authorities) => Proof::Authorities(authorities.clone()),
            None if self.pins.is_empty() => Proof::None,
            None => Proof::Pins(self.pins.clone()),
        }
    }

    /// The file of authorities.
    pub fn file(&self) -> Option<&Path> {
        self.authorities.as_ref().map(|authorities| authorities.path.as_path())
    }
}

fn name(field: &Field<'_>) -> Option<String> {
    let found = field
        .scalar()
        .filter(|text| ServerName::try_from(text.as_str()).is_ok());
    if found.is_none() {
        field.expected("a host name or an IP address");
    }
    found
}

fn authorities(field: &Field<'_>) -> Option<Authorities> {
    let path = field.path()?;
    match Authorities::read(&path) {
        Ok(authorities) => Some(authorities),
        Err(reason) => {
            field.fault(format!(
                "expected a file of certificates in PEM, found {}: {reason}",
                path.display()
            ));
            None
        }
    }
}

impl Authorities {
    /// Reads a file of certificates in PEM.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn read(path: &Path) -> Result<Authorities, String> {
        let octets = content(path).map_err(|error| match error.kind() {
            // Once confined the daemon reads only where it did at the start.
            io::ErrorKind::PermissionDenied => format!("{error} (in a directory that is new, restart needed)"),
            _ => error.to_string(),
        })?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&octets) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        if roots.is_empty() {
            return Err("no certificate in it".to_owned());
        }
        Ok(Authorities {
            path: path.to_path_buf(),
            roots: Arc::new(roots),
        })
    }
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("no regular file"));
    }
    let mut octets = Vec::new();
    if file.take(LONGEST + 1).read_to_end(&mut octets)? as u64 > LONGEST {
        return Err(io::Error::other("more than 4 MiB"));
    }
    Ok(octets)
}

fn pins(field: &Field<'_>) -> Option<Vec<Pin>> {
    let items = field.items(true)?;
    if items.len() > MOST_PINS {
        field.expected(&format!("at most {MOST_PINS} pins"));
        return None;
    }
    items.iter().map(pin).collect()
}

/// 64 digits of base 16; `openssl x509 -fingerprint` puts colons between them.
fn pin(field: &Field<'_>) -> Option<Pin> {
    let found = field.scalar().and_then(|text| {
        let digits: Option<Vec<u32>> = text.chars().filter(|&c| c != ':').map(|c| c.to_digit(16)).collect();
        let octets = digits?.chunks(2).map(octet).collect::<Option<Vec<u8>>>()?;
        Pin::try_from(octets).ok()
    });
    if found.is_none() {
        field.expected("a SHA-256 in 64 digits of base 16");
    }
    found
}

fn octet(digits: &[u32]) -> Option<u8> {
    match digits {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Part;

    fn read(text: &str) -> (PeerTls, Vec<String>) {
        let (mut tls, mut faults) = (PeerTls::default(), Vec::new());
        let part = Part::parse("p.yaml", text).expect("YAML");
        part.read(&mut faults, |field| {
            let section = field.section().expect("keys");
            tls.read(&section, "back.example");
            section.finish();
        });
        (tls, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn pins_with_colons_and_without() {
        let plain = "0123456789abcdef".repeat(4);
        let colons: Vec<&str> = ["AB"; 32].to_vec();
        let (tls, faults) = read(&format!(
            "tls: implicit\ntls_pins:\n  - \"{plain}\"\n  - {}\n",
            colons.join(":")
        ));
        assert_eq!(faults, [""; 0]);
        let Proof::Pins(pins) = tls.proof() else {
            panic!("{tls:?}");
        };
        assert_eq!((pins[0][..3].to_vec(), pins[1]), (vec![0x01, 0x23, 0x45], [0xab; 32]));
        for bad in ["abc", "[a, b]", &"0g".repeat(32), &"00".repeat(33), "ü"] {
            let (_, faults) = read(&format!("tls: required\ntls_pins: {bad}\n"));
            assert!(
                faults[0].contains("expected a SHA-256 in 64 digits of base 16"),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn what_is_not_verified_is_not_called_so() {
        let pin = "ab".repeat(32);
        for (text, words) in [
            (
                "tls: required\n".to_owned(),
                "p.yaml:1:6: tls: expected tls_ca_file or tls_pins",
            ),
            (
                "tls: implicit\n".to_owned(),
                "p.yaml:1:6: tls: expected tls_ca_file or tls_pins",
            ),
            (
                format!("tls: opportunistic\ntls_pins: {pin}\n"),
                "p.yaml:1:6: tls: expected required or implicit",
            ),
            (
                format!("tls_pins: {pin}\n"),
                "p.yaml:1:1: expected required or implicit",
            ),
            (
                "tls: starttls\n".to_owned(),
                "expected no, opportunistic, required or implicit",
            ),
            ("tls_name: a b\n".to_owned(), "tls_name: expected a host name"),
            (
                "tls: required\ntls_ca_file: ca.pem\n".to_owned(),
                "p.yaml:2:14: tls_ca_file: expected an absolute path",
            ),
            (
                "tls: required\ntls_ca_file: /nowhere/ca.pem\n".to_owned(),
                "p.yaml:2:14: tls_ca_file: expected a file of certificates in PEM, found /nowhere/ca.pem: No such file",
            ),
            (
                "tls: required\ntls_ca_file: /dev\n".to_owned(),
                "found /dev: no regular file",
            ),
            (
                "tls: required\ntls_ca_file: /etc/passwd\n".to_owned(),
                "found /etc/passwd: no certificate in it",
            ),
        ] {
            let (_, faults) = read(&text);
            assert!(faults.len() == 1 && faults[0].contains(words), "{text}: {faults:?}");
        }
        assert_eq!(
            read("tls:\ntls_name:\ntls_ca_file:\ntls_pins:\n"),
            (PeerTls::default(), Vec::new())
        );
        let (tls, faults) = read("tls: opportunistic\n");
        assert_eq!(
            (tls.mode, tls.proof(), faults.len()),
            (PeerTlsMode::Opportunistic, Proof::None, 0)
        );
    }
}
