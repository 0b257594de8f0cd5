//! STARTTLS and implicit TLS: the way to the keeper, and the handshake.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Talk;
use crate::chain::TlsPort;
use crate::ipc::link::Role;
use crate::keeper::client::Client;
use crate::log::{Event, Level};
use crate::logger::client::Client as Log;
use crate::session::{Anomaly, TlsFailure};
use crate::tls::{Certificates, Failure, Server};
use crate::worker::link::{Link, Order};
use crate::worker::transport::Shaken;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Octets of a ClientHello in one line of the log.
const HELLO_IN_LINE: usize = 800;

/// The door to the keeper for a handshake that is about to begin: one that the master has lent, or another.
pub(in crate::worker) struct Keys<'a> {
    link: &'a Rc<Link>,
    certificates: &'a Certificates,
    lent: Option<Arc<Client>>,
    door: Option<Arc<Client>>,
}

impl<'a> Keys<'a> {
    /// Of `certificates`; `link` gets a door where `lent` is none or leads nowhere.
    pub(in crate::worker) fn new(
        link: &'a Rc<Link>,
        certificates: &'a Certificates,
        lent: Option<Arc<Client>>,
    ) -> Keys<'a> {
        Keys {
            link,
            certificates,
            lent,
            door: None,
        }
    }
}

impl TlsPort for Keys<'_> {
    fn ready(&mut self) -> Result<(), String> {
        let default = self.certificates.first().ok_or("no certificate can be used")?;
        // All who had it before were answered. To ask costs as much as the signature, and would tell of a keeper that is
        // stopped, no more: that is noticed at the handshake as well, and the next worker asks through a door of its own.
        if let Some(lent) = self.lent.take_if(|lent| lent.is_open()) {
            self.door = Some(lent);
            return Ok(());
        }
        let door = self.link.open(Role::Keeper);
        let door = Client::new(door.map_err(|error| format!("no way to the keeper: {error}"))?);
        door.holds(default.key).map_err(|error| error.to_string())?;
        self.door = Some(Arc::new(door));
        Ok(())
    }
}

impl Talk<'_> {
    /// The handshake behind a 220, which is not sent yet; `rest` came behind the command. A reason when the connection ends.
    pub(super) fn start_tls(&mut self, rest: &[u8]) -> io::Result<Option<&'static str>> {
        let behind = rest.len() + self.transport.drop_input();
        if behind > 0 {
            let anomaly = Anomaly::PlaintextBehindStartTls(behind as u64);
            let event = Event::new("plaintext-dropped")
                .field("session", &self.conversation.session().id)
                .field("octets", behind)
                .quoted("text", rest);
            self.log.say(Level::Info, event);
            self.conversation.observe(anomaly);
        }
        self.flush()?;
        self.shake_hands()
    }

    /// TLS from the first octet. A reason when the connection ends.
    pub(super) fn begin_with_tls(&mut self) -> io::Result<Option<&'static str>> {
        if let Err(error) = self.keys.ready() {
            let event = Event::new("tls-unavailable")
                .field("session", &self.conversation.session().id)
                .quoted("error", error.as_bytes());
            self.log.say(Level::Error, event);
            return Ok(Some("tls-unavailable"));
        }
        self.shake_hands()
    }

    fn shake_hands(&mut self) -> io::Result<Option<&'static str>> {
        let keeper = self.keys.door.take().ok_or(io::ErrorKind::NotConnected)?;
        self.transport.begin_tls(Server::new(keeper));
        let until = (Instant::now() + PATIENCE).min(self.deadlines.end());
        loop {
            match self.transport.shake_hands(self.keys.certificates, until)? {
                Shaken::Done(facts) => {
                    hello(self.log, Level::Debug, &self.conversation.session().id, &facts.hello);
                    let lines = self.with_ports(|conversation, ports| conversation.secure(facts, ports));
                    for (level, line) in lines {
                        self.log.line(level, line);
                    }
                    self.receiver.reset();
                    self.deadlines.answered(Instant::now());
                    return Ok(None);
                }
                Shaken::Master => {
                    self.link.listen();
                    if self.link.order() == Order::Leave {
                        return Ok(Some("shutdown"));
                    }
                }
                Shaken::Failed(failure) => {
                    self.tell_failure(failure);
                    return Ok(Some("tls-failed"));
                }
                Shaken::Late => return self.given_up("it took too long", "timeout"),
                Shaken::Lost => return self.given_up("the client closed the connection", "lost"),
            }
        }
    }

    fn given_up(&mut self, error: &str, reason: &'static str) -> io::Result<Option<&'static str>> {
        self.tell_failure(Failure {
            error: error.to_owned(),
            alert: "none".to_owned(),
        });
        Ok(Some(reason))
    }

    /// Records why a handshake failed, and what the client had said.
    fn tell_failure(&mut self, failure: Failure) {
        let session = self.conversation.session();
        let server = self.transport.tls();
        let failure = TlsFailure {
            error: failure.error,
            alert: failure.alert,
            sni: server.and_then(Server::sni).map(str::to_owned),
            hello: server.map_or(Vec::new(), |server| server.hello().to_vec()),
        };
        let mut event = Event::new("tls-failed")
            .field("session", &session.id)
            .field("peer", session.peer.ip())
            .quoted("alert", failure.alert.as_bytes())
            .quoted("error", failure.error.as_bytes());
        if let Some(name) = &failure.sni {
            event = event.quoted("sni", name.as_bytes());
        }
        self.log.say(Level::Info, event);
        hello(self.log, Level::Info, &session.id, &failure.hello);
        self.with_ports(|conversation, ports| conversation.insecure(failure, ports));
    }
}

/// The octets of a ClientHello in hexadecimal, in as many lines as it takes.
fn hello(log: &Log, level: Level, session: &str, octets: &[u8]) {
    if !log.says(level) {
        return;
    }
    for (number, part) in octets.chunks(HELLO_IN_LINE).enumerate() {
        let hex: String = part.iter().map(|octet| format!("{octet:02x}")).collect();
        let event = Event::new("tls-hello")
            .field("session", session)
            .field("offset", number * HELLO_IN_LINE)
            .field("of", octets.len())
            .field("hex", hex);
        log.say(level, event);
    }
}
