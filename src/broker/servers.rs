//! The name servers of this machine, as /etc/resolv.conf names them (resolv.conf(5)).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port of the DNS.
pub const PORT: u16 = 53;
/// Servers that are named at most.
const MOST: usize = 3;

/// The servers in the text of the file; where it names none, the one of this machine.
pub fn name_servers(text: &str) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some("nameserver")
            && let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>)
            && found.len() < MOST
        {
            found.push(SocketAddr::new(address, PORT));
        }
    }
    if found.is_empty() {
        found.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_order() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\n nameserver 2001:db8::1 # x\n\
                    nameserver mail\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]);
        assert_eq!(name_servers(""), [SocketAddr::from(([127, 0, 0, 1], 53))]);
    }
}
