//! The end of a door to the keeper that a worker holds, for one handshake.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::ipc::channel::Channel;
use crate::ipc::keeper::{FromKeeper, KeyName, ToKeeper};

/// How long an answer may take: a signature is made in a millisecond, but the keeper may have to be started again.
const PATIENCE: Duration = Duration::from_secs(5);

/// The keeper did not answer, or not with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("keeper: {0}")]
pub struct Error(String);

/// A door.
#[derive(Debug)]
pub struct Client {
    door: Channel<ToKeeper, FromKeeper>,
}

impl Client {
    /// Asks through `door`.
    pub fn new(door: OwnedFd) -> Client {
        Client {
            door: Channel::new(door),
        }
    }

    /// Whether the keeper is there and has this key.
    ///
    /// # Errors
    /// It is not, or has not.
    pub fn holds(&self, key: KeyName) -> Result<(), Error> {
        match self.ask(&ToKeeper::Holds { key })? {
            FromKeeper::Held => Ok(()),
            _ => Err(Error("it has no such key".to_owned())),
        }
    }

    /// The signature of `message`, which must be of a handshake.
    ///
    /// # Errors
    /// The keeper refuses, or is not there.
    pub fn sign(&self, key: KeyName, scheme: u16, message: Vec<u8>) -> Result<Vec<u8>, Error> {
        match self.ask(&ToKeeper::Sign { key, scheme, message })? {
            FromKeeper::Signature(signature) => Ok(signature),
            _ => Err(Error("it refuses to sign".to_owned())),
        }
    }

    fn ask(&self, request: &ToKeeper) -> Result<FromKeeper, Error> {
        let asked = self.door.send(request);
        let answer = asked.and_then(|()| self.door.receive_within(PATIENCE));
        answer
            .map(|(answer, _)| answer)
            .map_err(|fault| Error(fault.to_string()))
    }
}
