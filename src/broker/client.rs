//! A worker's end: the only way by which it gets a connection.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::ipc::broker::{Endpoint, FromBroker, ToBroker};
use crate::ipc::channel::{Channel, Fault};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker could not make one.
    #[error("{0}")]
    Unreachable(String),
    /// The broker is gone, silent, or does not speak as agreed. When it is gone another door leads to its successor.
    #[error("broker: {0}")]
    Channel(#[from] Fault),
    /// An answer to another question.
    #[error("the broker gave an answer that fits no question")]
    Confused,
}

/// Speaks with the broker over one door.
#[derive(Debug)]
pub struct Client {
    channel: Channel<ToBroker, FromBroker>,
}

impl Client {
    /// Over `door`.
    pub fn new(door: OwnedFd) -> Client {
        Client {
            channel: Channel::new(door),
        }
    }

    /// A connection to `endpoint`, waiting for it at most `patience`. It does not block.
    ///
    /// # Errors
    /// There is none. The client is of no more use then, unless the broker itself said [`Error::Unreachable`].
    pub fn connect(&self, endpoint: &Endpoint, patience: Duration) -> Result<OwnedFd, Error> {
        self.channel.send(&ToBroker::Connect(endpoint.clone()))?;
        match self.channel.receive_within(patience)? {
            (FromBroker::Connected { .. }, Some(fd)) => Ok(fd),
            (FromBroker::Unreachable(reason), None) => Err(Error::Unreachable(reason)),
            _ => Err(Error::Confused),
        }
    }
}
