//! Who speaks for whom: a proxy by a PROXY header, before anything else, or a server in front by XCLIENT.
//!
//! Whether they may was decided before any of this is called.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Notes, Session};
use crate::smtp::proxy_header::{Header, Subject};
use crate::smtp::xclient::{Attributes, Value};

/// What stands between the connection and the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduced {
    /// Who is at the other end of the connection: the client itself, unless one of the following is there.
    pub via: SocketAddr,
    /// The PROXY header.
    pub header: Option<Header>,
    /// What XCLIENT has said so far.
    pub attributes: Option<Attributes>,
    /// Whether XCLIENT is served to whoever says the commands.
    pub may_introduce: bool,
    /// Who says the commands, and the address that was connected to: what XCLIENT changes.
    speaker: (SocketAddr, SocketAddr),
}

impl Introduced {
    /// By nobody.
    pub(super) fn new(peer: SocketAddr, local: SocketAddr) -> Introduced {
        Introduced {
            via: peer,
            header: None,
            attributes: None,
            may_introduce: false,
            speaker: (peer, local),
        }
    }

    /// The name that the client gave itself, as XCLIENT has it.
    pub fn helo(&self) -> Option<&str> {
        self.attributes.as_ref()?.helo.as_ref()?.known().map(String::as_str)
    }

    /// The confirmed name of the client's address, as XCLIENT has it.
    pub fn name(&self) -> Option<&str> {
        self.attributes.as_ref()?.name.as_ref()?.known().map(String::as_str)
    }

    /// Forgets what XCLIENT said; client and local address as they were before it.
    pub(super) fn forget_xclient(&mut self) -> (SocketAddr, SocketAddr) {
        self.attributes = None;
        self.speaker
    }
}

impl Session {
    /// Whether somebody else may be at the other end of the connection.
    pub fn is_introduced(&self) -> bool {
        self.introduced.header.is_some() || self.introduced.attributes.is_some()
    }

    /// Takes what a PROXY header says, before anything else is known.
    pub(crate) fn proxied(&mut self, header: Header) {
        if let Subject::Client { from, to } = header.subject {
            let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            (self.peer, self.local) = (canonical(from), canonical(to));
        }
        self.introduced.speaker = (self.peer, self.local);
        self.introduced.header = Some(header);
    }

    /// Takes what XCLIENT says. Whatever was found before was about somebody else: it is forgotten, but for what was odd
    /// about the connection, and for the counts, which are limits.
    pub(crate) fn introduce(&mut self, attributes: Attributes) {
        self.reset();
        self.hello = None;
        self.offered.clear();
        self.kept.clear();
        self.kept_at_greeting = 0;
        self.notes = Notes::new();
        let (from, to) = self.introduced.speaker;
        let all = self.introduced.attributes.get_or_insert_default();
        all.update(attributes);
        self.peer = told(from, all.address.as_ref(), all.port.as_ref());
        self.local = told(to, all.destination.as_ref(), all.destination_port.as_ref());
    }
}

/// What becomes of an address. A port that is not told along with it is not known.
fn told(known: SocketAddr, address: Option<&Value<IpAddr>>, port: Option<&Value<u16>>) -> SocketAddr {
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let port = port.map(|port| port.known().copied().unwrap_or(0));
    match address {
        Some(address) => SocketAddr::new(address.known().copied().unwrap_or(nobody), port.unwrap_or(0)),
        None => SocketAddr::new(known.ip(), port.unwrap_or(known.port())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::session;
    use crate::smtp::proxy_header::{Version, parse, write};
    use crate::smtp::xclient;

    fn header(from: &str, to: &str) -> crate::smtp::proxy_header::Header {
        let wire = write(Version::V2, from.parse().unwrap(), to.parse().unwrap());
        parse(&wire).unwrap().unwrap().0
    }

    #[test]
    fn a_header_replaces_both_ends_and_xclient_either() {
        let mut session = session();
        let via = session.peer;
        session.proxied(header("[::ffff:198.51.100.1]:7", "[2001:db8::25]:25"));
        assert_eq!(session.peer.to_string(), "198.51.100.1:7");
        assert_eq!(
            (session.local.to_string().as_str(), session.introduced.via),
            ("[2001:db8::25]:25", via)
        );
        let mut said = |text: &str| {
            session.introduce(xclient::parse(text.as_bytes()).unwrap());
            (
                session.peer.to_string(),
                session.local.to_string(),
                session.client_name(),
            )
        };
        let strings = |peer: &str, local: &str, name: &str| (peer.to_owned(), local.to_owned(), name.to_owned());
        assert_eq!(
            said("ADDR=192.0.2.9 HELO=x"),
            strings("192.0.2.9:0", "[2001:db8::25]:25", "x")
        );
        assert_eq!(
            said("PORT=4 DESTPORT=587"),
            strings("192.0.2.9:4", "[2001:db8::25]:587", "x")
        );
        assert_eq!(
            said("ADDR=[UNAVAILABLE] DESTADDR=192.0.2.1"),
            strings("0.0.0.0:0", "192.0.2.1:0", "[0.0.0.0:0]")
        );
    }
}
