//! What the conversation needs from its surroundings: the way to delivery, a place for the body, the server behind a
//! proxy, the DNS, a way to TLS, the time and its passing.

use std::io;
use std::time::Duration;

use crate::config::PeerTls;
use crate::ipc::broker::{Answer, Endpoint, Question};
use crate::ipc::delivery::{Body, Commit, Outcome};
use crate::ipc::record::Record;
use crate::smtp::reply::Reply;

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
/// How long the server behind a proxy may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackEndPatience {
    /// To be reached, its name looked up.
    pub connect: Duration,
    /// To answer a command, from the connection on to its greeting included.
    pub command: Duration,
    /// To take the next part of a message, and to answer it at its end.
    pub data: Duration,
}

/// The server behind a proxy did not take part as it should; there is no connection to it any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("back end: {0}")]
pub struct BackEndLost(String);

impl BackEndLost {
    /// With the reason, for the log.
    pub fn new(reason: impl Into<String>) -> BackEndLost {
        BackEndLost(reason.into())
    }
}

/// What protects the connection to the server behind a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackEndTls {
    /// As OpenSSL writes it, e.g. `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its name in the registry of IANA.
    pub cipher: String,
    /// The group of the key exchange by its name in the registry of IANA.
    pub group: Option<&'static str>,
    /// By what the server proved who it is: `ca` or `pin`, `no` where that was not asked for.
    pub verified: &'static str,
}

/// The server behind a proxy: one connection at a time. After an error there is none.
pub trait BackEndPort {
    /// Connects, in place of a connection there was. Gives the greeting; where it was 220, what follows is under TLS if
    /// `way` wants that, and the server has heard nothing yet that counts.
    ///
    /// # Errors
    /// It cannot be reached, does not greet, or is not to be had under the TLS that is demanded.
    fn open(&mut self, way: &BackEndWay<'_>) -> Result<Reply, BackEndLost>;

    /// Whether there is a connection.
    fn is_open(&self) -> bool;

    /// What protects the connection; none in clear, and where there is no connection.
    fn tls(&self) -> Option<&BackEndTls>;

    /// Whether whoever opened the connection has said that there is nothing left to tell the server about whom it serves.
    /// Each begins without that; before it, what a client may do there is what this host may.
    fn is_introduced(&self) -> bool;

    /// Says that, of the connection there is.
    fn set_introduced(&mut self);

    /// Says one line, given without its CRLF, and gives the reply to it.
    ///
    /// # Errors
    /// The connection was lost, or what came is no reply to this line.
    fn command(&mut self, line: &[u8]) -> Result<Reply, BackEndLost>;

    /// Passes on octets of a message: the reply to DATA was 354.
    ///
    /// # Errors
    /// The connection was lost.
    fn text(&mut self, octets: &[u8]) -> Result<(), BackEndLost>;

    /// Ends the message and gives the reply to it.
    ///
    /// # Errors
    /// The connection was lost; whether the message was taken is not known.
    fn end_text(&mut self) -> Result<Reply, BackEndLost>;

    /// Closes the connection. A message under way never gets its end, so that it is not taken.
    fn give_up(&mut self);
}

/// The way to the DNS.
pub trait ResolverPort {
    /// The answers to `questions`, in their order, waiting at most `patience` for all of them; what is left of it after
    /// that stays there.
    fn resolve(&mut self, questions: &[Question], patience: &mut Duration) -> Vec<Answer>;
}

/// Reaches nothing: for the end of a session, and where nothing is to be reached.
pub struct Nowhere;

impl DeliveryPort for Nowhere {
    fn commit(&mut self, _: Commit) -> Result<Outcome, DeliveryError> {
        Err(DeliveryError::new("the session has ended"))
    }
}

impl BodySink for Nowhere {
    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn finish(&mut self) -> io::Result<Body> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn reset(&mut self) {}
}

impl BackEndPort for Nowhere {
    fn open(&mut self, _: &BackEndWay<'_>) -> Result<Reply, BackEndLost> {
        Err(BackEndLost::new("the session has ended"))
    }

    fn is_open(&self) -> bool {
        false
    }

    fn tls(&self) -> Option<&BackEndTls> {
        None
    }

    fn is_introduced(&self) -> bool {
        false
    }

    fn set_introduced(&mut self) {}

    fn command(&mut self, _: &[u8]) -> Result<Reply, BackEndLost> {
        Err(BackEndLost::new("the session has ended"))
    }

    fn text(&mut self, _: &[u8]) -> Result<(), BackEndLost> {
        Err(BackEndLost::new("the session has ended"))
    }

    fn end_text(&mut self) -> Result<Reply, BackEndLost> {
        Err(BackEndLost::new("the session has ended"))
    }

    fn give_up(&mut self) {}
}

impl TlsPort for Nowhere {
    fn ready(&mut self) -> Result<(), String> {
        Err("the session has ended".to_owned())
    }
}

impl ResolverPort for Nowhere {
    fn resolve(&mut self, questions: &[Question], _: &mut Duration) -> Vec<Answer> {
        let none = |_| Answer::Failed("the session has ended".to_owned());
        questions.iter().map(none).collect()
    }
}

impl PausePort for Nowhere {
    fn pause(&mut self, _: Duration) -> Result<(), ClientGone> {
        Ok(())
    }
}

/// The client's connection broke while it waited; the session is over, and nobody is to hear of its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientGone;

/// The session's time.
pub trait PausePort {
    /// Lets time pass, less of it where the session or the daemon has to end before; what was answered before is not held
    /// back with it.
    ///
    /// # Errors
    /// There is nobody any more to go on for.
    fn pause(&mut self, time: Duration) -> Result<(), ClientGone>;
}

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
    /// The server behind a proxy.
    pub back_end: &'a mut dyn BackEndPort,
    /// The DNS.
    pub resolver: &'a mut dyn ResolverPort,
    /// The way to files of records.
    pub records: &'a mut dyn Records,
    /// The way to a handshake.
    pub tls: &'a mut dyn TlsPort,
    /// The session's time.
    pub pause: &'a mut dyn PausePort,
    /// Unix time in microseconds.
    pub now: i64,
}

/// How to come to the server behind a proxy.
#[derive(Debug, Clone, Copy)]
pub struct BackEndWay<'a> {
    /// Where it is.
    pub to: &'a Endpoint,
    /// Goes out before anything else, TLS included.
    pub preface: &'a [u8],
    /// Whether it is to be spoken to under TLS.
    pub tls: &'a PeerTls,
    /// Our name, for an EHLO before STARTTLS.
    pub name: &'a str,
    /// How long it may take.
    pub patience: BackEndPatience,
}
