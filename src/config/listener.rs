//! `listeners` of `rsmtpd.yaml`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::section::Field;

/// One socket to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// `address`: as [`address`](super::Daemon::address) of the daemon.
    pub address: String,
    /// `port`: as [`port`](super::Daemon::port) of the daemon, no default.
    pub port: u16,
    /// `tls`: whether its clients are offered STARTTLS (RFC 3207), speak TLS from the first octet (RFC 8314), or neither.
    /// Default starttls, which is none without a certificate.
    pub tls: ListenerTls,
    /// `chain`: NAME of the `command_handler_NAME.yaml` for its connections. Default: `command_handler` of `worker.yaml`.
    pub chain: Option<String>,
    /// `proxy_protocol`: networks of proxies, each of whose connections has to begin with a PROXY header; others are
    /// refused. Default: no header is expected from anybody.
    pub proxy_protocol: Option<Vec<IpNet>>,
}

/// What a listener does about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerTls {
    /// Nothing.
    None,
    /// Offers STARTTLS.
    StartTls,
    /// Begins with it.
    Implicit,
}

impl Listener {
    /// The socket addresses it stands for: two for `localhost` and `*`. IPv4 first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let addresses: Vec<IpAddr> = match self.address.as_str() {
            "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            "*" => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            other => other.parse().into_iter().collect(),
        };
        addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, self.port))
            .collect()
    }
}

/// Reads an entry.
pub(super) fn listener(field: &Field<'_>) -> Option<Listener> {
    let section = field.section()?;
    let mut listener = Listener {
        address: "localhost".to_owned(),
        port: 0,
        tls: ListenerTls::StartTls,
        chain: None,
        proxy_protocol: None,
    };
    section.read("address", &mut listener.address, address);
    match section.get("port") {
        Some(port) => listener.port = port.integer(0..=65535).unwrap_or(0),
        None => field.fault("expected a port, found none".to_owned()),
    }
    section.read("tls", &mut listener.tls, |f| {
        f.choice(&[
            ("none", ListenerTls::None),
            ("starttls", ListenerTls::StartTls),
            ("implicit", ListenerTls::Implicit),
        ])
    });
    section.read_option("chain", &mut listener.chain, chain_name);
    section.read_option("proxy_protocol", &mut listener.proxy_protocol, proxies);
    if section.is_null("proxy_protocol") {
        section
            .field()
            .fault("proxy_protocol: expected networks, found none".to_owned());
    }
    section.finish();
    Some(listener)
}

/// An empty list would refuse everybody, which nobody wants.
fn proxies(field: &Field<'_>) -> Option<Vec<IpNet>> {
    let items = field.items(true)?;
    if items.is_empty() {
        field.fault("expected the networks of proxies, found an empty list".to_owned());
        return None;
    }
    Some(items.iter().filter_map(network).collect())
}

/// Whether a listener can have this address: an IP address, `localhost` or `*`.
pub fn is_listening_address(text: &str) -> bool {
    text == "localhost" || text == "*" || text.parse::<IpAddr>().is_ok()
}

/// An address to listen on.
pub(super) fn address(field: &Field<'_>) -> Option<String> {
    let found = field.scalar().filter(|text| is_listening_address(text));
    if found.is_none() {
        field.expected("an IP address, localhost or *");
    }
    found
}

/// A network, or an address for one of its own.
pub(super) fn network(field: &Field<'_>) -> Option<IpNet> {
    let text = field.scalar().unwrap_or_default();
    let found = text
        .parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    if found.is_none() {
        field.expected("an IP address or network such as 192.0.2.0/24");
    }
    found
}

/// The NAME of a `command_handler_NAME.yaml`.
pub(super) fn chain_name(field: &Field<'_>) -> Option<String> {
    let found = field.scalar().filter(|name| {
        (1..=100).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    });
    if found.is_none() {
        field.expected("a name of letters, digits, dots, dashes and underscores");
    }
    found
}
