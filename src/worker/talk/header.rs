//! What comes before the greeting on a listener for proxies: a PROXY header, and with it the client.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Talk;
use crate::ipc::link::{FromWorker, INTRODUCTIONS};
use crate::ipc::sources::View;
use crate::log::{Event, Level};
use crate::session::Anomaly;
use crate::smtp::proxy_header::{self, Header, LONGEST, Subject};
use crate::worker::link::{Link, Order};
use crate::worker::served::Served;
use crate::worker::transport::Heard;

/// How long a header may take. A proxy has it ready before it connects.
const PATIENCE: Duration = Duration::from_secs(5);
/// Octets of what is no header in a line of the log.
const SHOWN: usize = 64;

/// Who may stand in front of the client, and whom the master counts for it.
pub(super) struct Front<'a> {
    served: &'a Served,
    refused: &'a View,
    /// A PROXY header comes before everything else.
    pub(super) begins_with_header: bool,
    /// The client that the master counts.
    counted: IpAddr,
    /// How often the master is still told of another.
    introductions: u8,
}

impl<'a> Front<'a> {
    /// For a connection of `peer` on a listener.
    pub(super) fn new(served: &'a Served, listener: usize, refused: &'a View, peer: IpAddr) -> Front<'a> {
        Front {
            served,
            refused,
            begins_with_header: served.is_for_proxies(listener),
            counted: peer,
            introductions: INTRODUCTIONS,
        }
    }

    /// Whether whoever is at the other end says the commands, and may say XCLIENT among them.
    pub(super) fn may_introduce(&self, peer: IpAddr) -> bool {
        !self.begins_with_header && self.served.may_introduce(peer)
    }

    /// Tells the master whom the connection is about.
    fn report(&mut self, client: SocketAddr, link: &Link) {
        if self.introductions > 0 {
            self.introductions -= 1;
            self.counted = client.ip();
            link.report(&FromWorker::Client { peer: client });
        }
    }
}

impl Talk<'_> {
    /// Takes the header and what it says; nothing behind it is read. A reason when the connection ends.
    #[inline(never)] // or every dialogue had room for a header on its stack, of which each page costs
    pub(super) fn begin_with_header(&mut self) -> io::Result<Option<&'static str>> {
        let until = (Instant::now() + PATIENCE).min(self.deadlines.end());
        let mut buffer = [0; LONGEST];
        let mut length = 0;
        loop {
            match self.transport.look(&mut buffer, length, until)? {
                Heard::Octets(0) => return Ok(self.no_header("the connection ended", buffer.get(..length))),
                Heard::Octets(more) => {
                    length = more;
                    match proxy_header::parse(buffer.get(..length).unwrap_or_default()) {
                        Ok(None) => {}
                        Ok(Some((header, length))) => {
                            self.transport.skip(length)?;
                            return self.proxied(header);
                        }
                        Err(fault) => return Ok(self.no_header(&fault.to_string(), buffer.get(..length))),
                    }
                }
                Heard::Late => return Ok(self.no_header("it took too long", buffer.get(..length))),
                Heard::Master => {
                    self.link.listen();
                    if self.link.order() == Order::Leave {
                        return Ok(Some("shutdown"));
                    }
                }
            }
        }
    }

    /// Says nothing to whoever it is: no SMTP has begun.
    fn no_header(&mut self, error: &str, said: Option<&[u8]>) -> Option<&'static str> {
        let said = said.unwrap_or_default();
        let session = self.conversation.session();
        let event = Event::new("no-proxy-header")
            .field("session", &session.id)
            .field("peer", session.peer.ip())
            .quoted("error", error.as_bytes())
            .field("octets", said.len())
            .quoted("text", said.get(..SHOWN).unwrap_or(said));
        self.log.say(Level::Info, event);
        self.conversation.observe(Anomaly::NoProxyHeader);
        Some("no-proxy-header")
    }

    fn proxied(&mut self, header: Header) -> io::Result<Option<&'static str>> {
        // Whom it does not name could be anybody: only what is said of itself, or of a client, tells who it is that speaks.
        let is_known = header.subject != Subject::Unknown;
        self.conversation.proxied(header);
        let client = self.conversation.session().peer;
        if is_known && self.front.served.may_introduce(client.ip()) {
            self.conversation.may_introduce();
        }
        self.front.report(client, self.link);
        if self.front.refused.refuses(client.ip(), Instant::now()).is_none() {
            self.deadlines.answered(Instant::now());
            return Ok(None);
        }
        if self.begins_with_tls {
            return Ok(Some("refused"));
        }
        let text = "4.3.2 Too many connections from your network";
        self.farewell(421, text, "refused").map(Some)
    }

    /// Tells the master when the connection is about another client than it counts.
    pub(super) fn report_client(&mut self) {
        let client = self.conversation.session().peer;
        if client.ip() != self.front.counted && !client.ip().is_unspecified() {
            self.front.report(client, self.link);
        }
    }
}
