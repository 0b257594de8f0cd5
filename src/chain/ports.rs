//! What the conversation needs from its surroundings: the way to delivery, a place for the body, a way to TLS, the time.

use std::io;

use crate::ipc::delivery::{Body, Commit, Outcome};
use crate::ipc::record::Record;

/// The way to delivery. The body was staged by the owner of the port.
pub trait DeliveryPort {
    /// Hands a message over and waits for what became of it.
    ///
    /// # Errors
    /// Delivery is silent, full or gone; nothing may be assumed kept.
    fn commit(&mut self, commit: Commit) -> Result<Outcome, DeliveryError>;
}

/// Delivery did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("delivery: {0}")]
pub struct DeliveryError(String);

impl DeliveryError {
    /// With the reason, for the log.
    pub fn new(reason: impl Into<String>) -> DeliveryError {
        DeliveryError(reason.into())
    }
}

/// Where the octets of a body go.
pub trait BodySink {
    /// Takes the next octets.
    ///
    /// # Errors
    /// No space, or no delivery: the client is told 452 4.3.1.
    fn write(&mut self, octets: &[u8]) -> io::Result<()>;

    /// The whole body; the sink is empty afterwards.
    ///
    /// # Errors
    /// As [`BodySink::write`].
    fn finish(&mut self) -> io::Result<Body>;

    /// Forgets what was written.
    fn reset(&mut self);
}

/// The way to files of records, which somebody else writes.
pub trait Records {
    /// Hands octets over, and waits while there is no room for them.
    ///
    /// # Errors
    /// They are lost; so are those behind them in this session.
    fn write(&mut self, record: Record) -> Result<(), RecordError>;

    /// Waits until all that was handed over is in its file.
    ///
    /// # Errors
    /// Something of it was lost.
    fn sync(&mut self) -> Result<(), RecordError>;

    /// Unix time in microseconds, now rather than when the event came.
    fn now(&self) -> i64;
}

/// Records were lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("records: {0}")]
pub struct RecordError(pub String);

/// The way to the keeper of private keys.
pub trait TlsPort {
    /// Whether a handshake can begin: somebody is there who would sign.
    ///
    /// # Errors
    /// Why not, for the log; the client is told 454 4.7.0.
    fn ready(&mut self) -> Result<(), String>;
}

/// All of them, for the time of one call.
pub struct Ports<'a> {
    /// The way to delivery.
    pub delivery: &'a mut dyn DeliveryPort,
    /// The body under way.
    pub body: &'a mut dyn BodySink,
    /// The way to files of records.
    pub records: &'a mut dyn Records,
    /// The way to a handshake.
    pub tls: &'a mut dyn TlsPort,
    /// Unix time in microseconds.
    pub now: i64,
}
