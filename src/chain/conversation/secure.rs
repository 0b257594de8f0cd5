//! STARTTLS (RFC 3207): when it can be had, and what a session is after it.

use super::Conversation;
use crate::chain::ports::Ports;
use crate::log::Level;
use crate::session::{TlsFacts, TlsFailure};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

impl Conversation<'_> {
    /// Why STARTTLS cannot be followed (RFC 3207 §4).
    pub(super) fn tls_missing(&mut self, ports: &mut Ports<'_>) -> Option<Reply> {
        if !self.limits.starttls {
            return Some(Reply::new(502, Some(Status::INVALID_COMMAND), "STARTTLS not offered"));
        }
        let reason = ports.tls.ready().err()?;
        let line = self.event("tls-unavailable").quoted("error", reason.as_bytes());
        self.log.push((Level::Error, line.text()));
        Some(Reply::new(454, Some(Status(4, 7, 0)), "TLS not available now"))
    }

    /// TLS protects the connection from now on: the session begins anew, without a greeting (RFC 3207 §4.2).
    pub fn secure(&mut self, tls: TlsFacts, ports: &mut Ports<'_>) -> Vec<(Level, String)> {
        self.forget_transaction(ports);
        self.message_ended = false; // the owner of the connection has forgotten all of it
        let mut event = self
            .event("tls")
            .field("version", tls.version)
            .field("cipher", &tls.cipher);
        if let Some(group) = tls.group {
            event = event.field("group", group);
        }
        if let Some(name) = &tls.sni {
            event = event.quoted("sni", name.as_bytes());
        }
        let event = event.field("server_name", &tls.server_name);
        if self.session.introduced.attributes.is_some() {
            ports.back_end.give_up(); // it knows another client
        }
        self.session.secure(tls);
        self.shaken(ports);
        vec![(Level::Info, event.text())]
    }

    /// The handshake came to nothing: the connection is about to end.
    pub fn insecure(&mut self, failure: TlsFailure, ports: &mut Ports<'_>) {
        self.session.tls_failure = Some(failure);
        self.shaken(ports);
    }
}
