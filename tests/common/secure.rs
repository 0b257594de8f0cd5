//! A client's side of TLS, which takes any certificate.

use super::Client;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// Takes any certificate, but not a signature by another key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection under TLS.
pub type Secure = StreamOwned<ClientConnection, TcpStream>;

/// What shakes hands in these versions, and keeps what it is given to resume with.
pub fn config(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Arc::new(config)
}

/// Shakes hands over an open connection, or says why not.
pub fn shake_hands(stream: TcpStream, name: &str) -> std::io::Result<Secure> {
    shake_hands_by(config(rustls::DEFAULT_VERSIONS), stream, name)
}

/// The same by a configuration that others may share.
pub fn shake_hands_by(config: Arc<ClientConfig>, mut stream: TcpStream, name: &str) -> std::io::Result<Secure> {
    let name = ServerName::try_from(name.to_owned()).expect("name");
    let mut connection = ClientConnection::new(config, name).expect("client");
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// The certificate that the server has shown.
pub fn shown(secure: &Secure) -> CertificateDer<'static> {
    secure.conn.peer_certificates().expect("certificates")[0]
        .clone()
        .into_owned()
}

/// Says STARTTLS and shakes hands.
pub fn starttls(mut client: Client, name: &str) -> std::io::Result<Secure> {
    let reply = client.command("STARTTLS");
    assert_eq!(reply.code, 220, "{reply:?}");
    shake_hands(client.stream().try_clone()?, name)
}

/// Sends a line, reads one reply.
pub fn say(secure: &mut Secure, line: &str) -> String {
    secure.write_all(format!("{line}\r\n").as_bytes()).expect("sent");
    hear(secure)
}

/// Reads one reply.
pub fn hear(secure: &mut Secure) -> String {
    let (mut text, mut octet) = (String::new(), [0]);
    loop {
        assert_eq!(secure.read(&mut octet).expect("reply"), 1, "{text}");
        text.push(char::from(octet[0]));
        let last = text.lines().last().unwrap_or_default();
        if text.ends_with("\r\n") && last.as_bytes().get(3) == Some(&b' ') {
            return text;
        }
    }
}
