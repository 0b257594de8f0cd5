//! The header of the PROXY protocol, versions 1 and 2, which a proxy sends before anything else to say for whom it speaks.

use std::net::{IpAddr, SocketAddr};

/// What stands at the beginning of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Octets.
    V2,
}

/// The header for a connection over TCP from `from` to `to`.
pub fn write(version: Version, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from, to) = alike(from, to);
    match version {
        Version::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (source, destination) = (from.ip(), to.ip());
            format!(
                "PROXY {family} {source} {destination} {} {}\r\n",
                from.port(),
                to.port()
            )
            .into_bytes()
        }
        Version::V2 => {
            let mut addresses = Vec::with_capacity(36);
            for address in [from.ip(), to.ip()] {
                match address {
                    IpAddr::V4(ip) => addresses.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => addresses.extend_from_slice(&ip.octets()),
                }
            }
            for port in [from.port(), to.port()] {
                addresses.extend_from_slice(&port.to_be_bytes());
            }
            let family = if from.is_ipv4() { 0x11 } else { 0x21 };
            let length = u16::try_from(addresses.len()).unwrap_or(0).to_be_bytes();
            [&SIGNATURE[..], &[0x21, family], &length, &addresses].concat()
        }
    }
}

/// Both of one family: IPv4 where both are, in whatever form, else IPv6.
fn alike(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (source, destination) = (from.ip().to_canonical(), to.ip().to_canonical());
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        ip => ip,
    };
    let (source, destination) = if source.is_ipv4() == destination.is_ipv4() {
        (source, destination)
    } else {
        (mapped(source), mapped(destination))
    };
    (
        SocketAddr::new(source, from.port()),
        SocketAddr::new(destination, to.port()),
    )
}
