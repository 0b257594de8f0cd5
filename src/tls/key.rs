//! A private key that is elsewhere: the keeper signs.

use std::sync::Arc;

use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use crate::ipc::keeper::{Certificate, KeyName};
use crate::keeper::client::Client;

/// The key of a certificate.
#[derive(Debug)]
pub(super) struct Key {
    keeper: Arc<Client>,
    name: KeyName,
    algorithm: SignatureAlgorithm,
    schemes: Vec<u16>,
}

impl Key {
    /// Of `certificate`; `keeper` signs.
    pub(super) fn of(certificate: &Certificate, keeper: Arc<Client>) -> Key {
        Key {
            keeper,
            name: certificate.key,
            algorithm: SignatureAlgorithm::from(certificate.algorithm),
            schemes: certificate.schemes.clone(),
        }
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let mut own = self.schemes.iter().map(|scheme| SignatureScheme::from(*scheme));
        let scheme = own.find(|scheme| offered.contains(scheme))?;
        Some(Box::new(Remote {
            keeper: Arc::clone(&self.keeper),
            name: self.name,
            scheme,
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
}

/// One signature of one handshake.
#[derive(Debug)]
struct Remote {
    keeper: Arc<Client>,
    name: KeyName,
    scheme: SignatureScheme,
}

impl Signer for Remote {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.keeper.sign(self.name, u16::from(self.scheme), message.to_vec());
        signature.map_err(|error| Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
