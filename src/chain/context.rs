//! Everything a handler may know and touch: no other way leads outside.

use std::time::Duration;

use super::decision::{Finding, Stage};
use super::limits::Limits;
use super::ports::{BackEndPort, BackEndTls, DeliveryPort, Records, ResolverPort};
use crate::ipc::broker::{Answer, Question};
use crate::session::{
    Exchange, Hello, Note, OfRecipient, OfSession, OfTransaction, Recipient, Session, Transaction, Verdict,
};
use crate::smtp::command::Arguments;

/// One run of one handler.
pub struct Context<'a> {
    pub(super) session: &'a mut Session,
    pub(super) recipient: Option<&'a mut Recipient>,
    pub(super) exchange: Option<&'a Exchange>,
    pub(super) limits: &'a Limits,
    pub(super) chunking: bool,
    pub(super) verbs: &'a [String],
    pub(super) delivery: &'a mut dyn DeliveryPort,
    pub(super) back_end: &'a mut dyn BackEndPort,
    pub(super) resolver: &'a mut dyn ResolverPort,
    pub(super) records: &'a mut dyn Records,
    pub(super) stage: Stage,
    pub(super) findings: &'a [Finding],
    pub(super) now: i64,
    pub(super) timeout: Duration,
    pub(super) decided: Verdict,
    pub(super) reason: Option<&'a str>,
}

impl Context<'_> {
    /// The connection.
    pub fn session(&self) -> &Session {
        self.session
    }

    /// The transaction; at MAIL already the one that begins if MAIL succeeds.
    pub fn transaction(&self) -> Option<&Transaction> {
        self.session.transaction.as_ref()
    }

    /// The recipient that RCPT names, when it is well-formed and in order.
    pub fn recipient(&self) -> Option<&Recipient> {
        self.recipient.as_deref()
    }

    /// The command; none at the greeting and at the close.
    pub fn exchange(&self) -> Option<&Exchange> {
        self.exchange
    }

    /// The last accepted HELO or EHLO.
    pub fn hello(&self) -> Option<&Hello> {
        self.session.hello.as_ref()
    }

    /// The session's limits.
    pub fn limits(&self) -> &Limits {
        self.limits
    }

    /// Whether BDAT is served.
    pub fn chunking(&self) -> bool {
        self.chunking
    }

    /// Whether STARTTLS is there to be used: offered, served by a chain, and not used yet (RFC 3207 §4.2).
    pub fn tls_available(&self) -> bool {
        self.limits.starttls && self.session.tls.is_none() && self.verbs.iter().any(|verb| verb == "STARTTLS")
    }

    /// Whether XCLIENT is served to whoever says the commands.
    pub fn xclient_available(&self) -> bool {
        self.limits.xclient && self.session.introduced.may_introduce
    }

    /// Verbs that have a chain, in the order of the file.
    pub fn verbs(&self) -> &[String] {
        self.verbs
    }

    /// The most severe enforced verdict of this step so far.
    pub fn decided(&self) -> Verdict {
        self.decided
    }

    /// Why the connection ends, in `__CLOSE__`.
    pub fn reason(&self) -> Option<&str> {
        self.reason
    }

    /// Unix time in microseconds.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// How long to wait for others at most.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The way to delivery.
    pub fn delivery(&mut self) -> &mut dyn DeliveryPort {
        self.delivery
    }

    /// Asks the DNS, and waits for as long as the entry may still wait; the answers in the order of the questions.
    pub fn resolve(&mut self, questions: &[Question]) -> Vec<Answer> {
        self.resolver.resolve(questions, &mut self.timeout)
    }

    /// The server behind a proxy.
    pub fn back_end(&mut self) -> &mut dyn BackEndPort {
        self.back_end
    }

    /// What protects the connection to it, while there is one.
    pub fn back_end_tls(&self) -> Option<&BackEndTls> {
        self.back_end.tls()
    }

    /// The way to files of records.
    pub fn records(&mut self) -> &mut dyn Records {
        self.records
    }

    /// The step under way.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What every entry of the list found, once it is concluded: known to lists with an entry that only looks on.
    pub fn findings(&self) -> &[Finding] {
        self.findings
    }

    /// Writes a note about the connection.
    pub fn note_session<N: Note<Scope = OfSession>>(&mut self, note: N) {
        self.session.notes.put(note);
    }

    /// Writes a note about the transaction; lost where there is none.
    pub fn note_transaction<N: Note<Scope = OfTransaction>>(&mut self, note: N) {
        if let Some(transaction) = &mut self.session.transaction {
            transaction.notes.put(note);
        }
    }

    /// Writes a note about the recipient of this RCPT; lost elsewhere.
    pub fn note_recipient<N: Note<Scope = OfRecipient>>(&mut self, note: N) {
        if let Some(recipient) = &mut self.recipient {
            recipient.notes.put(note);
        }
    }

    /// The name in the HELO or EHLO under way, else the last accepted one, else `[ip:port]`.
    fn client_name(&self) -> String {
        match self.exchange.map(|exchange| &exchange.command.parsed) {
            Some(Ok(Arguments::Hello(name))) => name.as_str().to_owned(),
            _ => self.session.client_name(),
        }
    }

    /// Fills in `<server_name>`, `<version>`, `<client.ip>`, `<client.port>` and `<client.advertised_name>`; other angle
    /// brackets stay. What a client gave is not searched again.
    pub fn expand(&self, template: &str) -> String {
        let session = &self.session;
        let mut text = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(start) = rest.find('<') {
            let (before, from) = rest.split_at(start);
            text.push_str(before);
            let name = from.find('>').and_then(|end| from.get(..=end)).unwrap_or_default();
            let value = match name {
                "<server_name>" => Some(session.server_name.clone()),
                "<version>" => Some(env!("CARGO_PKG_VERSION").to_owned()),
                "<client.ip>" => Some(session.peer.ip().to_string()),
                "<client.port>" => Some(session.peer.port().to_string()),
                "<client.advertised_name>" => Some(self.client_name()),
                _ => None,
            };
            match value {
                Some(value) => {
                    text.push_str(&value);
                    rest = from.get(name.len()..).unwrap_or_default();
                }
                None => {
                    text.push('<');
                    rest = from.get(1..).unwrap_or_default();
                }
            }
        }
        text.push_str(rest);
        text
    }
}
