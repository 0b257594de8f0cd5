//! Between a worker and the master: a pair that no other worker has while this one lives, so the descriptor says who
//! speaks. End of file tells the worker that the master is gone; of a worker's end the master hears as its parent.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::sources::Limit;

/// A kind of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Holds the listeners and counts.
    Master,
    /// Serves one client.
    Worker,
    /// Writes logs.
    Logger,
    /// Keeps the spool and fills mailboxes.
    Delivery,
    /// Connects where workers cannot.
    Broker,
    /// Holds private keys, signs for handshakes, binds ports.
    Keeper,
}

impl Role {
    /// The name in process titles and logs.
    pub fn name(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Worker => "worker",
            Role::Logger => "logger",
            Role::Delivery => "delivery",
            Role::Broker => "broker",
            Role::Keeper => "keeper",
        }
    }
}

/// One for each helper whose doors are lent to one worker after the other.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Doors<T> {
    /// For delivery.
    pub delivery: T,
    /// For the keeper.
    pub keeper: T,
    /// For the broker.
    pub broker: T,
}

impl<T> Doors<T> {
    /// Whose doors they are.
    pub const ROLES: [Role; 3] = [Role::Delivery, Role::Keeper, Role::Broker];

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.delivery, &self.keeper, &self.broker].into_iter()
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.delivery, &mut self.keeper, &mut self.broker].into_iter()
    }

    /// The one for `role`, if there is one.
    pub fn of_mut(&mut self, role: Role) -> Option<&mut T> {
        match role {
            Role::Delivery => Some(&mut self.delivery),
            Role::Keeper => Some(&mut self.keeper),
            Role::Broker => Some(&mut self.broker),
            _ => None,
        }
    }

    /// What `make` makes of each.
    ///
    /// # Errors
    /// Of `make`.
    pub fn try_map<U, E>(&self, mut make: impl FnMut(&T) -> Result<U, E>) -> Result<Doors<U>, E> {
        Ok(Doors {
            delivery: make(&self.delivery)?,
            keeper: make(&self.keeper)?,
            broker: make(&self.broker)?,
        })
    }
}

/// How often a worker reports another client on one connection; further ones are not counted.
pub const INTRODUCTIONS: u8 = 64;

/// What a worker reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Waits for a client.
    Ready,
    /// Turned one away before the greeting, without reading from it, and waits on.
    Refused {
        /// The client.
        peer: SocketAddr,
        /// The limit that its source has reached.
        limit: Limit,
    },
    /// Turned one away that is no proxy, on a listener for those.
    NoProxy {
        /// Who it was.
        peer: SocketAddr,
    },
    /// Has one.
    Busy {
        /// Who is at the other end of the connection.
        peer: SocketAddr,
        /// The session's identifier.
        session: String,
        /// Whether that is a proxy, and the client still to be told.
        is_proxy: bool,
    },
    /// Was told whom the connection is about, by a PROXY header or XCLIENT.
    Client {
        /// The client.
        peer: SocketAddr,
    },
    /// Found other configuration files than it was forked with.
    Changed {
        /// Of the set it found.
        fingerprint: u64,
    },
    /// Wants a door to a helper.
    Open {
        /// Which one.
        helper: Role,
    },
    /// Waits no longer for what it asked over the door that it was lent: nothing is to be answered there any more.
    Close {
        /// To which helper.
        helper: Role,
    },
    /// The client is gone; the worker ends, or says that it is ready again. After its last one it just ends.
    Done,
}

/// What the master orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Leave between connections.
    Retire,
    /// The door rides with this frame; none does when the helper is not there.
    Door,
    /// The door that was lent is closed for the helper; what came over it before is still there.
    Closed,
    /// A new way to the logger rides with this frame: the logger has started again.
    Voice,
    /// The service ends: answer 421 at the next command boundary, then leave.
    Drain,
    /// The client of this session is one too many: answer it 421 at the next command boundary.
    Refuse {
        /// The session's identifier; it may be over already.
        session: String,
    },
}
