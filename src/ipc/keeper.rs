//! Between a worker and the keeper: a signature for a handshake. Between the keeper and the master: certificates, which
//! are public, and listeners.

use serde::{Deserialize, Serialize};

use super::bytes;

/// The SHA-256 of a public key (its SubjectPublicKeyInfo, RFC 5280 §4.1): what a private key is named by.
pub type KeyName = [u8; 32];

/// What a worker asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToKeeper {
    /// Asks whether this key could sign; answered by `Held` or `Refused`.
    Holds {
        /// The key.
        key: KeyName,
    },
    /// Wants a signature; answered by `Signature` or `Refused`.
    Sign {
        /// The key.
        key: KeyName,
        /// The SignatureScheme (RFC 8446 §4.2.3).
        scheme: u16,
        /// What a TLS server signs in a handshake, and nothing else.
        #[serde(with = "bytes")]
        message: Vec<u8>,
    },
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromKeeper {
    /// The key is there.
    Held,
    /// The signature.
    Signature(#[serde(with = "bytes")] Vec<u8>),
    /// There is no such key, it cannot sign so, or the message is not of a handshake.
    Refused,
}

/// What the keeper shows the master on its control channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    /// The next certificate in the order of the configuration.
    Certificate(Certificate),
    /// Files that cannot be used.
    Broken {
        /// Which.
        path: String,
        /// Why.
        reason: String,
        /// Whether the pair read before stays in use.
        kept: bool,
    },
    /// That was all there is to a start or a reload.
    Done,
    /// A socket that listens rides with this frame.
    Listening,
    /// None does.
    NotListening {
        /// Why.
        reason: String,
        /// Whether another socket has the address.
        taken: bool,
    },
}

/// A certificate without its private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The names that it is for, as configured.
    pub domain_match: String,
    /// Our name where it was shown.
    pub server_name: String,
    /// Its key.
    pub key: KeyName,
    /// The SignatureAlgorithm of the key (RFC 5246 §7.4.1.4.1).
    pub algorithm: u8,
    /// The SignatureSchemes that the key can sign by, the best first.
    pub schemes: Vec<u16>,
    /// The chain in DER, the server's own first.
    pub chain: Vec<Chained>,
}

/// One certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chained(#[serde(with = "bytes")] pub Vec<u8>);
