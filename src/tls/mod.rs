//! TLS towards clients (RFC 3207, RFC 8314): versions 1.2 and 1.3, without session tickets, with keys that the keeper has;
//! and as a client, towards the server behind a proxy.
//!
//! Everything here is octets in, octets out: the socket is the owner's. It may assume that certificates come from the
//! keeper. It must never hold a private key, and never show a certificate for a name that is not its own but the default.

pub mod certificates;
pub mod client;
mod key;
mod plain;
pub mod server;

use rustls::{CommonState, NamedGroup, ProtocolVersion};

pub use certificates::Certificates;
pub use client::Client;
pub use server::{Failure, Server};

/// What two sides agreed upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// As OpenSSL writes it, e.g. `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its name in the registry of IANA.
    pub cipher: String,
    /// The group of the key exchange by its name in the registry of IANA.
    pub group: Option<&'static str>,
}

fn negotiated(state: &CommonState) -> Option<Negotiated> {
    let version = match state.protocol_version()? {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => return None,
    };
    let cipher = state.negotiated_cipher_suite()?.suite();
    let group = state.negotiated_key_exchange_group();
    Some(Negotiated {
        version,
        cipher: cipher.as_str().unwrap_or_default().replace("TLS13_", "TLS_"),
        group: group.and_then(|group| match group.name() {
            NamedGroup::secp256r1 => Some("secp256r1"),
            NamedGroup::secp384r1 => Some("secp384r1"),
            NamedGroup::X25519 => Some("x25519"),
            _ => None,
        }),
    })
}

/// Has the library look at the processor, which is slow, once for all processes that are forked from this one.
pub fn prepare() {
    ring::digest::digest(&ring::digest::SHA256, b"");
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut [0]);
}
