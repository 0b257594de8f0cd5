//! Private keys with the certificates that belong to them: read from files, named by their public halves, used to sign.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::{Error as PemError, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::shape::is_of_a_handshake;
use crate::config;
use crate::ipc::keeper::{Certificate, Chained, FromKeeper, KeyName, ToKeeper};

/// Octets of a file at most.
const LONGEST_FILE: u64 = 256 * 1024;
/// Octets of a chain at most: it has to fit into one frame, and a client has to read it at every handshake.
const LONGEST_CHAIN: usize = 32 * 1024;
/// What keys can sign by, the best first.
const SCHEMES: [SignatureScheme; 9] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// Why a pair cannot be used.
#[derive(Debug)]
pub struct Broken {
    /// The file at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Broken {
    fn new(path: &Path, reason: impl std::fmt::Display) -> Broken {
        Broken {
            path: path.to_path_buf(),
            reason: reason.to_string(),
        }
    }
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Pair {
    named: config::Certificate,
    /// What everybody may know of it.
    pub certificate: Certificate,
    key: Arc<dyn SigningKey>,
}

impl Pair {
    /// Reads the files of a pair, which must lie below one of `reach` (none: anywhere).
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn read(named: &config::Certificate, reach: Option<&[PathBuf]>) -> Result<Pair, Broken> {
        let chain = content(&named.pem_file, reach)?;
        let key = content(&named.key_file, reach)?;
        Pair::of(named, &chain, &key)
    }

    /// The pair in the text of its files.
    ///
    /// # Errors
    /// As [`Pair::read`].
    pub fn of(named: &config::Certificate, chain: &[u8], key: &[u8]) -> Result<Pair, Broken> {
        let of_chain = |reason: String| Broken::new(&named.pem_file, reason);
        let of_key = |reason: String| Broken::new(&named.key_file, reason);
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| of_chain(format!("is no PEM file: {error}")))?;
        if chain.is_empty() {
            return Err(of_chain("has no certificate in PEM".to_owned()));
        }
        if chain.iter().map(|one| one.len()).sum::<usize>() > LONGEST_CHAIN {
            return Err(of_chain(format!(
                "has more than {LONGEST_CHAIN} octets of certificates"
            )));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            of_key(match error {
                PemError::NoItemsFound => "has no private key in PEM without a passphrase".to_owned(),
                other => format!("is no PEM file: {other}"),
            })
        })?;
        let key = any_supported_type(&key)
            .map_err(|_| of_key("has no RSA, ECDSA (P-256, P-384) or Ed25519 key that can be used".to_owned()))?;
        let pair = CertifiedKey::new(chain, key);
        pair.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => of_key(format!("is not the key of {}", named.pem_file.display())),
            other => of_chain(format!("has no usable certificate: {other}")),
        })?;
        let Some(public) = pair.key.public_key() else {
            return Err(of_key("has a key without a public half".to_owned()));
        };
        let schemes = SCHEMES
            .iter()
            .filter(|&&scheme| pair.key.choose_scheme(&[scheme]).is_some());
        let certificate = Certificate {
            domain_match: named.domain_match.clone(),
            server_name: named.server_name.clone(),
            key: name(public.as_ref()),
            algorithm: u8::from(pair.key.algorithm()),
            schemes: schemes.map(|&scheme| u16::from(scheme)).collect(),
            chain: pair.cert.iter().map(|one| Chained(one.to_vec())).collect(),
        };
        Ok(Pair {
            named: named.clone(),
            certificate,
            key: pair.key,
        })
    }
}

/// The name of the key whose public half this is.
fn name(public: &[u8]) -> KeyName {
    let digest = ring::digest::digest(&ring::digest::SHA256, public);
    digest.as_ref().try_into().unwrap_or_default()
}

fn content(path: &Path, reach: Option<&[PathBuf]>) -> Result<Vec<u8>, Broken> {
    let broken = |error: io::Error| Broken::new(path, format!("cannot be read: {error}"));
    let target = fs::canonicalize(path).map_err(broken)?;
    if reach.is_some_and(|reach| !reach.iter().any(|directory| target.starts_with(directory))) {
        let outside = format!(
            "lies in {}, outside the directories known at the start (restart needed)",
            target.parent().unwrap_or(&target).display()
        );
        return Err(Broken::new(path, outside));
    }
    // A pipe must not hold us up.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(broken)?;
    if !file.metadata().map_err(broken)?.is_file() {
        return Err(Broken::new(path, "is no regular file"));
    }
    let mut content = Vec::new();
    file.take(LONGEST_FILE + 1).read_to_end(&mut content).map_err(broken)?;
    if content.len() as u64 > LONGEST_FILE {
        return Err(Broken::new(path, format!("is longer than {LONGEST_FILE} octets")));
    }
    Ok(content)
}

/// The pairs in force, and those that were before the last reload.
#[derive(Default)]
pub struct Keys {
    now: Vec<Pair>,
    before: Vec<Pair>,
}

impl Keys {
    /// Takes `wanted` into force as far as it can be read. For what cannot, the pair from the same files stays, if there
    /// was one. Answers what is broken, and whether a pair stays for it.
    pub fn renew(&mut self, wanted: &[config::Certificate], reach: Option<&[PathBuf]>) -> Vec<(Broken, bool)> {
        let mut next: Vec<Pair> = Vec::new();
        let mut faults = Vec::new();
        for named in wanted {
            match Pair::read(named, reach) {
                Ok(pair) => next.push(pair),
                Err(broken) => {
                    let same = |pair: &&Pair| {
                        (&pair.named.pem_file, &pair.named.key_file) == (&named.pem_file, &named.key_file)
                    };
                    let old = self.now.iter().find(same).cloned();
                    faults.push((broken, old.is_some()));
                    next.extend(old.map(|old| old.renamed(named)));
                }
            }
        }
        self.before = std::mem::replace(&mut self.now, next);
        faults
    }

    /// Those in force, in the order of the configuration.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.now.iter().map(|pair| &pair.certificate)
    }

    /// The answer to a worker.
    pub fn answer(&self, request: &ToKeeper) -> FromKeeper {
        match request {
            ToKeeper::Holds { key } => self.find(key).map(|_| FromKeeper::Held),
            ToKeeper::Sign { key, scheme, message } if is_of_a_handshake(message) => {
                let scheme = SignatureScheme::from(*scheme);
                let signer = self.find(key).and_then(|pair| pair.key.choose_scheme(&[scheme]));
                signer
                    .and_then(|signer| signer.sign(message).ok())
                    .map(FromKeeper::Signature)
            }
            ToKeeper::Sign { .. } => None,
        }
        .unwrap_or(FromKeeper::Refused)
    }

    fn find(&self, key: &KeyName) -> Option<&Pair> {
        let mut all = self.now.iter().chain(&self.before);
        all.find(|pair| pair.certificate.key == *key)
    }
}

impl Pair {
    /// The same pair with what the configuration says of it now.
    fn renamed(mut self, named: &config::Certificate) -> Pair {
        self.certificate.domain_match.clone_from(&named.domain_match);
        self.certificate.server_name.clone_from(&named.server_name);
        self.named = named.clone();
        self
    }
}
