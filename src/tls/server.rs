//! The server's side of one connection: octets of the client in, octets for it out, plaintext on the other side.

use std::io::{self, Read};
use std::sync::Arc;

use rustls::crypto::ring::{self, cipher_suite as suite};
use rustls::server::{
    Accepted, AcceptedAlert, Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConnectionData,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CipherSuite, ConnectionCommon, Error, ServerConfig, ServerConnection, SignatureAlgorithm,
    SignatureScheme, SupportedCipherSuite,
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

/// Cipher suites, the best first. All are as strong as they need to be; that with SHA-256, which every client of TLS 1.3
/// has (RFC 8446 §9.1) and processors compute themselves, makes the cheapest handshake.
static SUITES: [SupportedCipherSuite; 9] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Why a handshake, or a connection after it, came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In words.
    pub error: String,
    /// The alert that we sent or received.
    pub alert: String,
}

/// What was chosen when the client had said what it wants.
#[derive(Debug)]
struct Chosen {
    certified: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Chosen {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.certified))
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

/// How far a connection is.
enum State {
    /// Waits for the ClientHello.
    Hello(Acceptor, Arc<Client>),
    /// Has answered it.
    Answered(ServerConnection),
    /// Nothing will come of it.
    Failed,
}

/// One connection under TLS, or on the way there.
pub struct Server {
    state: State,
    /// The first octets of the client.
    hello: Vec<u8>,
    /// The name that it asked for.
    name: Option<String>,
    /// Our name where the certificate was shown.
    server_name: String,
    out: Vec<u8>,
}

impl Server {
    /// Waits for a ClientHello; `keeper` signs.
    pub fn new(keeper: Arc<Client>) -> Server {
        Server {
            state: State::Hello(Acceptor::default(), keeper),
            hello: Vec::new(),
            name: None,
            server_name: String::new(),
            out: Vec::new(),
        }
    }

    /// Whether the handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        match &self.state {
            State::Hello(..) => true,
            State::Answered(connection) => connection.is_handshaking(),
            State::Failed => true,
        }
    }

    fn connection_mut(&mut self) -> Option<&mut ConnectionCommon<ServerConnectionData>> {
        match &mut self.state {
            State::Answered(connection) => Some(connection),
            _ => None,
        }
    }

    /// Reads what the client sent; 0 is the end of the connection.
    ///
    /// # Errors
    /// Of `from`.
    pub fn take(&mut self, from: &mut impl Read) -> io::Result<usize> {
        match &mut self.state {
            State::Hello(acceptor, _) => acceptor.read_tls(&mut Tee {
                from,
                copy: &mut self.hello,
            }),
            State::Answered(connection) => connection.read_tls(from),
            State::Failed => Ok(0),
        }
    }

    /// As [`Server::digest`] of what a handshake begins with; a ClientHello is answered with one of `certificates`.
    ///
    /// # Errors
    /// As of [`Server::digest`]; the client wants what we have not, or the keeper did not sign.
    pub fn shake(&mut self, certificates: &Certificates) -> Result<(), Failure> {
        if let State::Hello(acceptor, keeper) = &mut self.state {
            let keeper = Arc::clone(keeper);
            match accept(acceptor) {
                Ok(None) => return Ok(()),
                Ok(Some(accepted)) => self.answer(accepted, keeper, certificates)?,
                Err(refused) => {
                    self.state = State::Failed;
                    return Err(self.refused(refused));
                }
            }
        }
        self.digest()
    }

    /// Understands what was read. After a failure there may be an alert to send, and nothing else will come.
    ///
    /// # Errors
    /// The client broke the protocol, or said so of us.
    pub fn digest(&mut self) -> Result<(), Failure> {
        let before = self.out.len();
        let result = match &mut self.state {
            State::Answered(connection) => connection.process_new_packets().map(drop),
            _ => Ok(()),
        };
        self.collect();
        result.map_err(|error| self.failure(&error, before))
    }

    /// Says the ServerHello and what follows it. In a function of its own, for the sake of the stack: keys are agreed upon
    /// far below, and what lies in between are pages that no worker has touched yet.
    #[inline(never)]
    fn answer(
        &mut self,
        accepted: Box<Accepted>,
        keeper: Arc<Client>,
        certificates: &Certificates,
    ) -> Result<(), Failure> {
        self.state = State::Failed;
        let config = self.choose(&accepted.client_hello(), keeper, certificates);
        let config = config.map_err(|error| self.failure(&error, self.out.len()))?;
        match accepted.into_connection(Arc::new(config)) {
            Ok(connection) => self.state = State::Answered(connection),
            Err(refused) => return Err(self.refused(refused)),
        }
        Ok(())
    }

    #[inline(never)]
    fn choose(
        &mut self,
        hello: &ClientHello<'_>,
        keeper: Arc<Client>,
        certificates: &Certificates,
    ) -> Result<ServerConfig, Error> {
        self.name = hello.server_name().map(str::to_owned);
        let chosen = certificates.choose(hello.server_name(), |one| fits(one, hello));
        // The default has no more in common with the client, but the alert then says so.
        let Some(certificate) = certificates.get(chosen.unwrap_or(0)) else {
            return Err(Error::General("there is no certificate".to_owned()));
        };
        self.server_name.clone_from(&certificate.server_name);
        config(certificate, keeper)
    }

    fn refused(&mut self, (error, mut alert): (Error, AcceptedAlert)) -> Failure {
        let before = self.out.len();
        let _ = alert.write_all(&mut self.out); // memory takes everything
        self.failure(&error, before)
    }

    /// Why nothing comes of it; what is to be said of that is in `out` from `before` on.
    fn failure(&self, error: &Error, before: usize) -> Failure {
        Failure {
            alert: match error {
                Error::AlertReceived(alert) => format!("received {alert:?}"),
                _ => sent_alert(self.out.get(before..).unwrap_or_default()),
            },
            error: error.to_string(),
        }
    }

    /// Plaintext of the client; none when there is none, 0 when it has said that it sends no more.
    ///
    /// # Errors
    /// The connection ended without a word (RFC 8446 §6.1).
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.connection_mut()
            .map_or(Ok(None), |connection| plain::read(connection, buffer))
    }

    /// Whether there is plaintext of the client.
    pub fn has_plaintext(&mut self) -> bool {
        self.connection_mut().is_some_and(plain::is_there)
    }

    /// Takes plaintext for the client; how much of it.
    ///
    /// # Errors
    /// The handshake has not come so far.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match &mut self.state {
            State::Answered(connection) => plain::write(connection, octets, &mut self.out),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says that nothing more will be written.
    pub fn close(&mut self) {
        if let Some(connection) = self.connection_mut() {
            connection.send_close_notify();
        }
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
        if let State::Answered(connection) = &mut self.state {
            plain::collect(connection, &mut self.out);
        }
    }

    /// The first octets that the client sent.
    pub fn hello(&self) -> &[u8] {
        &self.hello
    }

    /// The name that the client asked for.
    pub fn sni(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What came of the handshake; none before its end.
    pub fn facts(&self) -> Option<TlsFacts> {
        let State::Answered(connection) = &self.state else {
            return None;
        };
        let agreed = negotiated(connection)?;
        Some(TlsFacts {
            version: agreed.version,
            cipher: agreed.cipher,
            group: agreed.group,
            sni: self.name.clone(),
            server_name: self.server_name.clone(),
            hello: self.hello.clone(),
        })
    }
}

/// The whole ClientHello, once it is there.
#[inline(never)]
fn accept(acceptor: &mut Acceptor) -> Result<Option<Box<Accepted>>, (Error, AcceptedAlert)> {
    Ok(acceptor.accept()?.map(Box::new))
}

/// To show `certificate`; `keeper` signs for it.
fn config(certificate: &Certificate, keeper: Arc<Client>) -> Result<ServerConfig, Error> {
    let mut provider = ring::default_provider();
    provider.cipher_suites = SUITES.to_vec();
    let chain = certificate.chain.iter().map(|one| CertificateDer::from(one.0.clone()));
    let key = Arc::new(Key::of(certificate, keeper));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Chosen {
            certified: Arc::new(CertifiedKey::new(chain.collect(), key)),
        }));
    config.ignore_client_order = true;
    // Another process serves the next connection: there is nothing to resume.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
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
