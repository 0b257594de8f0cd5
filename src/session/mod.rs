//! What is known about one connection while it lasts: owned scopes, no I/O, no clock.
//!
//! [`Session`] lives as long as the connection, [`Transaction`] from MAIL to the end of the data, [`Recipient`] as long as
//! its transaction, [`Exchange`] for one command. A scope is dropped whole, so nothing of a former transaction can reach
//! the next one. Handlers see these values through shared references only; the conversation alone changes them.
//! This module must never read a clock, the network or the configuration.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod anomaly;
pub mod body;
pub mod counters;
pub mod exchange;
pub mod introduced;
pub mod kept;
pub mod notes;
pub mod order;
pub mod recipient;
pub mod tls;
pub mod transaction;

use std::net::SocketAddr;

pub use anomaly::{Anomaly, Observed};
pub use body::BodyFacts;
pub use counters::Counters;
pub use exchange::Exchange;
pub use introduced::Introduced;
pub use kept::{At, Kept, Verdict};
pub use notes::{Note, Notes, OfRecipient, OfSession, OfTransaction};
pub use order::order;
pub use recipient::{Disposition, Mailbox, Recipient};
pub use tls::{TlsFacts, TlsFailure};
pub use transaction::Transaction;

use crate::smtp::address::ReversePath;
use crate::smtp::params::MailParameters;

/// At most this many anomalies are kept for a session; a hostile client must not grow the worker.
const MAXIMUM_ANOMALIES: usize = 256;

/// What the client called itself (RFC 5321 §4.1.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Whether it said EHLO.
    pub esmtp: bool,
    /// The name or address literal as sent.
    pub name: String,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    /// Identifier, unique among all sessions.
    pub id: String,
    /// The client's address. One that nobody knows is 0.0.0.0.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// Who else is at the other end of the connection and speaks for the client, if anybody.
    pub introduced: Introduced,
    /// The name this server gives itself.
    pub server_name: String,
    /// The last accepted HELO or EHLO.
    pub hello: Option<Hello>,
    /// The mail transaction under way.
    pub transaction: Option<Transaction>,
    /// What was odd about the client, in order: the first 256, and the first of each kind.
    pub anomalies: Vec<Observed>,
    /// Anomalies that were not kept.
    pub anomalies_dropped: u32,
    /// Notes of handlers about the connection.
    pub notes: Notes<OfSession>,
    /// Verdicts that bite later, in every transaction of the session.
    pub kept: Vec<Kept>,
    /// Counts so far.
    pub counters: Counters,
    /// Unix time of the greeting in microseconds, 0 before it.
    pub began: i64,
    /// Extensions named in the reply to the last EHLO, one line each.
    pub offered: Vec<String>,
    /// The TLS that protects it.
    pub tls: Option<TlsFacts>,
    /// The handshake that failed, and ends it.
    pub tls_failure: Option<TlsFailure>,
    /// How many of `kept` the greeting found: they are about the connection, not about what the client said.
    kept_at_greeting: usize,
}

impl Session {
    /// A session at its very beginning.
    pub fn new(id: String, peer: SocketAddr, local: SocketAddr, server_name: impl Into<String>) -> Session {
        Session {
            id,
            peer,
            local,
            introduced: Introduced::new(peer, local),
            server_name: server_name.into(),
            hello: None,
            transaction: None,
            anomalies: Vec::new(),
            anomalies_dropped: 0,
            notes: Notes::new(),
            kept: Vec::new(),
            counters: Counters::default(),
            began: 0,
            offered: Vec::new(),
            tls: None,
            tls_failure: None,
            kept_at_greeting: 0,
        }
    }

    /// The name the client gave, or its address and port as `[ip:port]` before HELO.
    pub fn client_name(&self) -> String {
        match &self.hello {
            Some(hello) => hello.name.clone(),
            None if self.introduced.helo().is_some() => self.introduced.helo().unwrap_or_default().to_owned(),
            None => format!("[{}:{}]", self.peer.ip(), self.peer.port()),
        }
    }

    /// Whether the client said EHLO.
    pub fn is_esmtp(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.esmtp)
    }

    /// Whether the reply to EHLO named this extension.
    pub fn offers(&self, keyword: &str) -> bool {
        self.offered.iter().any(|line| {
            line.split(' ')
                .next()
                .is_some_and(|word| word.eq_ignore_ascii_case(keyword))
        })
    }

    /// Records something odd about the client.
    pub(crate) fn observe(&mut self, anomaly: Anomaly) {
        // The first of its kind is kept in any case: a thousand chunks must not hide what came after them.
        let is_new = || self.anomalies.iter().all(|seen| seen.anomaly.name() != anomaly.name());
        if self.anomalies.len() < MAXIMUM_ANOMALIES || is_new() {
            let transaction = self.transaction.as_ref().map_or(0, |transaction| transaction.number);
            self.anomalies.push(Observed {
                command: self.counters.commands,
                transaction,
                anomaly,
            });
        } else {
            self.anomalies_dropped = self.anomalies_dropped.saturating_add(1);
        }
    }

    /// What was odd about the client, each kind once in the order of its first time, joined by commas;
    /// `none` where nothing was.
    pub fn odd(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for seen in &self.anomalies {
            let name = seen.anomaly.name();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            names.push("none");
        }
        names.join(",")
    }

    /// What was found so far is about the connection as such, and outlives STARTTLS.
    pub(crate) fn greeted(&mut self) {
        self.kept_at_greeting = self.kept.len();
        self.notes.keep();
    }

    /// TLS protects the session from now on: what the client said before is forgotten (RFC 3207 §4.2). What was odd about it
    /// stays on record, and so do the counts, which are limits.
    pub(crate) fn secure(&mut self, tls: TlsFacts) {
        self.reset();
        self.hello = None;
        self.offered.clear();
        self.kept.truncate(self.kept_at_greeting);
        self.notes.forget();
        (self.peer, self.local) = self.introduced.forget_xclient();
        self.server_name.clone_from(&tls.server_name);
        self.tls = Some(tls);
    }

    /// Forgets the transaction, its recipients, notes and kept verdicts.
    pub(crate) fn reset(&mut self) {
        self.transaction = None;
    }

    /// The body of the transaction under way.
    pub(crate) fn body_mut(&mut self) -> Option<&mut BodyFacts> {
        self.transaction.as_mut()?.body.as_mut()
    }

    /// Takes an accepted HELO or EHLO, and the extensions that its reply named, one line each: what was concluded about the
    /// former name and the transaction are gone (RFC 5321 §4.1.4).
    pub(crate) fn greet(&mut self, hello: Hello, offered: Vec<String>) {
        self.reset();
        self.kept.retain(|kept| !kept.of_hello);
        self.hello = Some(hello);
        self.offered = offered;
    }

    /// Begins a transaction, the next in number.
    pub(crate) fn begin_transaction(&mut self, reverse_path: ReversePath, parameters: MailParameters) {
        let number = self.counters.transactions.saturating_add(1);
        self.counters.transactions = number;
        self.transaction = Some(Transaction::new(&self.id, number, reverse_path, parameters));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A session from 192.0.2.7:4711 to 127.0.0.1:8025.
    pub(crate) fn session() -> Session {
        let peer = SocketAddr::from(([192, 0, 2, 7], 4711));
        let local = SocketAddr::from(([127, 0, 0, 1], 8025));
        Session::new("6f1c".into(), peer, local, "mail.example.com")
    }

    #[test]
    fn anomalies_are_bounded() {
        let mut session = session();
        for _ in 0..1000 {
            session.observe(Anomaly::EarlyTalk);
        }
        assert_eq!(session.anomalies.len(), MAXIMUM_ANOMALIES);
        assert_eq!(session.anomalies_dropped, 1000 - MAXIMUM_ANOMALIES as u32);
        for _ in 0..3 {
            session.observe(Anomaly::Nul);
        }
        assert_eq!(session.anomalies.len(), MAXIMUM_ANOMALIES + 1);
        assert_eq!(session.odd(), "early_talk,nul");
    }

    #[test]
    fn client_name_before_and_after_hello() {
        let mut session = session();
        assert_eq!(session.client_name(), "[192.0.2.7:4711]");
        let hello = Hello {
            esmtp: true,
            name: "client.example".into(),
        };
        session.greet(hello, Vec::new());
        assert_eq!(session.client_name(), "client.example");
        assert!(session.is_esmtp());
    }
}
