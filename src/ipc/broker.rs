//! Between a worker and the broker: questions that only somebody with sockets can answer.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Questions that a worker may have open at once.
pub const MOST_QUESTIONS: usize = 16;

/// A server that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name or address, as it is written there.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A question to the DNS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Question {
    /// IPv4 addresses of a name.
    A(String),
    /// IPv6 addresses of a name.
    Aaaa(String),
    /// Names of an address.
    Ptr(IpAddr),
}

/// What the DNS says. That there is nothing and that nobody knows are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Addresses, one or more.
    Addresses(Vec<IpAddr>),
    /// Names without their last dot, one or more; whatever their owner put there, in printable ASCII.
    Names(Vec<String>),
    /// The name exists and has nothing of this kind.
    NoData,
    /// There is no such name.
    NoName,
    /// No server answered in time.
    TimedOut,
    /// Servers answered, but could not say; the text is for the log.
    Failed(String),
}

impl Answer {
    /// Why nothing is known; none where something is, be it that there is nothing.
    pub fn error(&self) -> Option<&str> {
        match self {
            Answer::TimedOut => Some("no answer in time"),
            Answer::Failed(reason) => Some(reason),
            _ => None,
        }
    }

    /// The addresses, if it is some.
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Answer::Addresses(addresses) => addresses,
            _ => &[],
        }
    }

    /// The names, if it is some.
    pub fn names(&self) -> &[String] {
        match self {
            Answer::Names(names) => names,
            _ => &[],
        }
    }
}

/// What a worker asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBroker {
    /// Wants a connection to a server; it has to be one that the broker's own configuration names. One at a time.
    Connect(Endpoint),
    /// Wants to know something; several at once are welcome.
    Resolve(Question),
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
    /// What the DNS says.
    Answer(Answer),
}
