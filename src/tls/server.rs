//! The server's side of one connection: octets of the client in, octets for it out, plaintext on the other side.

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CipherSuite, Error, ServerConfig, ServerConnection, SignatureAlgorithm, SignatureScheme,
};
use rustls_pki_types::CertificateDer;

use super::certificates::Certificates;
use super::key::Key;
use super::{negotiated, plain};
use crate::ipc::keeper::Certificate;
use crate::keeper::client::Client;
use crate::session::TlsFacts;

/// Octets of a ClientHello that are kept: a TLS record.
const HELLO: usize = 16 * 1024;

/// Why a handshake, or a connection after it, came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In words.
    pub error: String,
    /// The alert that we sent or received.
    pub alert: String,
}

/// What is chosen when the client has said what it wants.
#[derive(Debug)]
struct Choice {
    certificates: Certificates,
    keeper: Arc<Client>,
    /// Position of the certificate that was chosen.
    chosen: OnceLock<usize>,
    /// The name that the client asked for.
    name: OnceLock<String>,
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            let _ = self.name.set(name.to_owned());
        }
        let chosen = self.certificates.choose(hello.server_name(), |one| fits(one, &hello));
        // The default has no more in common with the client, but the alert then says so.
        let chosen = chosen.unwrap_or(0);
        let certificate = self.certificates.get(chosen)?;
        let _ = self.chosen.set(chosen);
        let chain = certificate.chain.iter().map(|one| CertificateDer::from(one.0.clone()));
        let key = Key::of(certificate, Arc::clone(&self.keeper));
        Some(Arc::new(CertifiedKey::new(chain.collect(), Arc::new(key))))
    }
}

/// Whether the client can verify what the certificate's key signs, in a cipher suite that it has.
fn fits(certificate: &Certificate, hello: &ClientHello<'_>) -> bool {
    let offered = hello.signature_schemes();
    let mut schemes = certificate.schemes.iter();
    let rsa = SignatureAlgorithm::from(certificate.algorithm) == SignatureAlgorithm::RSA;
    let fits = |suite: &CipherSuite| match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => true,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => rsa,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => !rsa,
        _ => false,
    };
    schemes.any(|scheme| offered.contains(&SignatureScheme::from(*scheme))) && hello.cipher_suites().iter().any(fits)
}

/// One connection under TLS, or on the way there.
pub struct Server {
    connection: ServerConnection,
    choice: Arc<Choice>,
    hello: Vec<u8>,
    out: Vec<u8>,
}

impl Server {
    /// Waits for a ClientHello; `keeper` signs for `certificates`.
    ///
    /// # Errors
    /// What rustls has against our settings.
    pub fn new(certificates: Certificates, keeper: Client) -> Result<Server, Error> {
        let choice = Arc::new(Choice {
            certificates,
            keeper: Arc::new(keeper),
            chosen: OnceLock::new(),
            name: OnceLock::new(),
        });
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Choice>::clone(&choice);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        // Another process serves the next connection: there is nothing to resume.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Server {
            connection: ServerConnection::new(Arc::new(config))?,
            choice,
            hello: Vec::new(),
            out: Vec::new(),
        })
    }

    /// Whether the handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Reads what the client sent; 0 is the end of the connection.
    ///
    /// # Errors
    /// Of `from`.
    pub fn take(&mut self, from: &mut impl Read) -> io::Result<usize> {
        // Nothing was answered yet: this is the ClientHello.
        if self.connection.is_handshaking() && self.choice.chosen.get().is_none() {
            let mut tee = Tee {
                from,
                copy: &mut self.hello,
            };
            return self.connection.read_tls(&mut tee);
        }
        self.connection.read_tls(from)
    }

    /// Understands what was read. After a failure there may be an alert to send, and nothing else will come.
    ///
    /// # Errors
    /// The client broke the protocol, wants what we have not, or said so of us; the keeper did not sign.
    pub fn digest(&mut self) -> Result<(), Failure> {
        let result = self.connection.process_new_packets();
        let before = self.out.len();
        self.collect();
        result.map(drop).map_err(|error| Failure {
            alert: match &error {
                Error::AlertReceived(alert) => format!("received {alert:?}"),
                _ => sent_alert(self.out.get(before..).unwrap_or_default()),
            },
            error: error.to_string(),
        })
    }

    /// Plaintext of the client; none when there is none, 0 when it has said that it sends no more.
    ///
    /// # Errors
    /// The connection ended without a word (RFC 8446 §6.1).
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        plain::read(&mut self.connection, buffer)
    }

    /// Whether there is plaintext of the client.
    pub fn has_plaintext(&mut self) -> bool {
        plain::is_there(&mut self.connection)
    }

    /// Takes plaintext for the client; how much of it.
    ///
    /// # Errors
    /// None that is known.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        plain::write(&mut self.connection, octets, &mut self.out)
    }

    /// Says that nothing more will be written.
    pub fn close(&mut self) {
        self.connection.send_close_notify();
        self.collect();
    }

    /// What is to be sent to the client.
    pub fn pending(&self) -> &[u8] {
        &self.out
    }

    /// That many octets of it were sent.
    pub fn sent(&mut self, length: usize) {
        self.out.drain(..length.min(self.out.len()));
    }

    fn collect(&mut self) {
        plain::collect(&mut self.connection, &mut self.out);
    }

    /// The first octets that the client sent.
    pub fn hello(&self) -> &[u8] {
        &self.hello
    }

    /// The name that the client asked for.
    pub fn sni(&self) -> Option<&str> {
        self.choice.name.get().map(String::as_str)
    }

    /// What came of the handshake; none before its end.
    pub fn facts(&self) -> Option<TlsFacts> {
        let chosen = self.choice.certificates.get(*self.choice.chosen.get()?)?;
        let agreed = negotiated(&self.connection)?;
        Some(TlsFacts {
            version: agreed.version,
            cipher: agreed.cipher,
            group: agreed.group,
            sni: self.sni().map(str::to_owned),
            server_name: chosen.server_name.clone(),
            hello: self.hello.clone(),
        })
    }
}

/// The alert at the end of `out`, if it can be read: after a ServerHello of TLS 1.3 it is encrypted.
fn sent_alert(out: &[u8]) -> String {
    const ALERT: u8 = 21;
    match out {
        [.., ALERT, 3, _, 0, 2, _, description] => format!("sent {:?}", AlertDescription::from(*description)),
        [] => "none".to_owned(),
        _ => "sent".to_owned(),
    }
}

/// Keeps the beginning of what is read through it.
struct Tee<'a, R> {
    from: &'a mut R,
    copy: &'a mut Vec<u8>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        let room = HELLO.saturating_sub(self.copy.len());
        let read = buffer.get(..length.min(room)).unwrap_or_default();
        self.copy.extend_from_slice(read);
        Ok(length)
    }
}
