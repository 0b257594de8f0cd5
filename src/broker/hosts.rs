//! Names of this machine: addresses as such, `localhost` (RFC 6761 §6.3), and /etc/hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Lines of the file that are read at most.
const MOST: usize = 10_000;

/// What /etc/hosts says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    names: Vec<(String, IpAddr)>,
}

impl Hosts {
    /// Reads the text of the file; what is no entry is left out.
    pub fn parse(text: &str) -> Hosts {
        let mut names = Vec::new();
        for line in text.lines().take(MOST) {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            if let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) {
                names.extend(words.map(|name| (name.to_ascii_lowercase(), address)));
            }
        }
        Hosts { names }
    }

    /// The addresses of a name that needs no DNS; none where it does.
    pub fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        if let Ok(address) = name.parse() {
            return Some(vec![address]);
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") {
            return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let of_name = self.names.iter().filter(|(known, _)| *known == name);
        let mut found: Vec<IpAddr> = Vec::new();
        for (_, address) in of_name {
            if !found.contains(address) {
                found.push(*address);
            }
        }
        (!found.is_empty()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_need_no_dns() {
        let hosts = Hosts::parse(
            "# local\n127.0.0.1 localhost\n192.0.2.1 Mail.example.com mail # x\n2001:db8::1 mail\nbad x\n",
        );
        let found = |name| {
            hosts
                .addresses(name)
                .unwrap_or_default()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(found("192.0.2.9"), ["192.0.2.9"]);
        assert_eq!(found("::1"), ["::1"]);
        assert_eq!(found("LocalHost."), ["127.0.0.1", "::1"]);
        assert_eq!(found("mail.EXAMPLE.com"), ["192.0.2.1"]);
        assert_eq!(found("mail"), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(hosts.addresses("x"), None);
    }
}
