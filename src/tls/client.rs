//! The client's side of one connection, to a server that the configuration names: octets of the server in, octets for it
//! out, plaintext on the other side.

use std::io::{self, Read};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Negotiated, negotiated, plain};
use crate::config::{Pin, Proof};

/// One connection under TLS, or on the way there.
pub struct Client {
    connection: ClientConnection,
    out: Vec<u8>,
}

impl Client {
    /// Begins with a ClientHello that asks for `name`, whose owner is to give `proof`.
    ///
    /// # Errors
    /// The name can be in no certificate, or what rustls has against our settings.
    pub fn new(name: &str, proof: &Proof) -> Result<Client, Error> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| Error::General(format!("{name} can be in no certificate")))?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(verifier(proof, provider)?)
            .with_no_client_auth();
        // Another process makes the next connection: there is nothing to resume.
        config.resumption = Resumption::disabled();
        let mut client = Client {
            connection: ClientConnection::new(Arc::new(config), name)?,
            out: Vec::new(),
        };
        client.collect();
        Ok(client)
    }

    /// Whether the handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Reads what the server sent, and understands it; 0 is the end of the connection.
    ///
    /// # Errors
    /// Of `from`; the server broke the protocol, or did not prove who it is. There may be an alert to send then.
    pub fn take(&mut self, from: &mut impl Read) -> io::Result<usize> {
        let length = self.connection.read_tls(from)?;
        let result = self.connection.process_new_packets();
        self.collect();
        result.map_err(|error| io::Error::other(format!("TLS: {error}")))?;
        Ok(length)
    }

    /// Plaintext of the server; none when there is none, 0 when it has said that it sends no more.
    ///
    /// # Errors
    /// The connection ended without a word (RFC 8446 §6.1).
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        plain::read(&mut self.connection, buffer)
    }

    /// Whether there is plaintext of the server.
    pub fn has_plaintext(&mut self) -> bool {
        plain::is_there(&mut self.connection)
    }

    /// Takes plaintext for the server; how much of it.
    ///
    /// # Errors
    /// None that is known.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        plain::write(&mut self.connection, octets, &mut self.out)
    }

    /// What is to be sent to the server, for good.
    pub fn pending(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// What came of the handshake; none before its end.
    pub fn negotiated(&self) -> Option<Negotiated> {
        negotiated(&self.connection)
    }

    fn collect(&mut self) {
        plain::collect(&mut self.connection, &mut self.out);
    }
}

fn verifier(proof: &Proof, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    match proof {
        Proof::Authorities(authorities) => {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(&authorities.roots), provider);
            let verifier = builder.build().map_err(|error| Error::General(error.to_string()))?;
            Ok(verifier)
        }
        Proof::Pins(pins) => Ok(Arc::new(Pinned {
            pins: Some(pins.clone()),
            provider,
        })),
        Proof::None => Ok(Arc::new(Pinned { pins: None, provider })),
    }
}

/// Takes a certificate by its hash, or by that of its key, whatever else it says; without pins any.
#[derive(Debug)]
struct Pinned {
    pins: Option<Vec<Pin>>,
    provider: Arc<CryptoProvider>,
}

fn is_pinned(pins: &[Pin], octets: &[u8]) -> bool {
    let digest = ::ring::digest::digest(&::ring::digest::SHA256, octets);
    pins.iter().any(|pin| pin == digest.as_ref())
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(pins) = &self.pins else {
            return Ok(ServerCertVerified::assertion());
        };
        let of_key = || ParsedCertificate::try_from(certificate).map(|parsed| parsed.subject_public_key_info());
        if is_pinned(pins, certificate) || of_key().is_ok_and(|key| is_pinned(pins, &key)) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General("the certificate has none of the pins".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Without pins whoever is in between has a certificate of its own to sign with, and what cannot be read of an
        // old one is no reason to go without TLS.
        if self.pins.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.pins.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
