//! Between a worker and the broker: questions that only somebody with sockets can answer.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A server that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name or address, as it is written there.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What a worker asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBroker {
    /// Wants a connection to a server; it has to be one that the broker's own configuration names. One at a time.
    Connect(Endpoint),
}

/// What the broker answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromBroker {
    /// The connection rides with this frame; it does not block.
    Connected {
        /// Where it leads.
        to: SocketAddr,
    },
    /// There is none. The text is for the log.
    Unreachable(String),
}
