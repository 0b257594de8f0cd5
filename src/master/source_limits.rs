//! How many connections one source may hold and open: a pure function of addresses and time.
//!
//! A source is an IPv4 address or an IPv6 /64. Nothing here touches a socket or a clock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

/// The configured limits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections held at once.
    pub concurrent: u32,
    /// Connections opened in a minute.
    pub per_minute: u32,
    /// Networks that are not limited.
    pub trusted: Vec<IpNet>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The source holds as many connections as it may.
    Concurrent,
    /// The source opens connections faster than it may.
    Rate,
    /// A worker crashed while it served this source.
    Penalty,
}

/// How long a source is refused after it crashed a worker.
const PENALTY: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(60);
/// Sources remembered at most; beyond it idle ones are forgotten, then unknown ones are let in uncounted.
const SOURCES_MAX: usize = 65_536;

#[derive(Debug)]
struct Source {
    held: u32,
    opened: u32,
    window: Instant,
    penalised_until: Option<Instant>,
}

/// The table of sources.
#[derive(Debug)]
pub struct SourceLimits {
    limits: Limits,
    sources: HashMap<IpAddr, Source>,
}

/// The key under which `address` is counted: an IPv6 address stands for its /64.
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

impl SourceLimits {
    /// An empty table.
    pub fn new(limits: Limits) -> SourceLimits {
        SourceLimits {
            limits,
            sources: HashMap::new(),
        }
    }

    /// Takes new limits from a reload; what is held stays counted.
    pub fn configure(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Counts a connection of `address`; the refusal if it is one too many. It is counted in either case,
    /// and [`SourceLimits::closed`] must follow.
    pub fn opened(&mut self, address: IpAddr, now: Instant) -> Option<Refusal> {
        let key = source(address);
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&key) {
            self.forget_idle(now);
            if self.sources.len() >= SOURCES_MAX {
                return None;
            }
        }
        let entry = self.sources.entry(key).or_insert(Source {
            held: 0,
            opened: 0,
            window: now,
            penalised_until: None,
        });
        if now.duration_since(entry.window) >= WINDOW {
            entry.window = now;
            entry.opened = 0;
        }
        entry.held += 1;
        entry.opened = entry.opened.saturating_add(1);
        let address = address.to_canonical();
        if self.limits.trusted.iter().any(|network| network.contains(&address)) {
            return None;
        }
        if entry.penalised_until.is_some_and(|until| until > now) {
            Some(Refusal::Penalty)
        } else if entry.held > self.limits.concurrent {
            Some(Refusal::Concurrent)
        } else if entry.opened > self.limits.per_minute {
            Some(Refusal::Rate)
        } else {
            None
        }
    }

    /// A connection of `address` ended.
    pub fn closed(&mut self, address: IpAddr) {
        if let Some(entry) = self.sources.get_mut(&source(address)) {
            entry.held = entry.held.saturating_sub(1);
        }
    }

    /// A worker crashed while it served `address`.
    pub fn penalise(&mut self, address: IpAddr, now: Instant) {
        if let Some(entry) = self.sources.get_mut(&source(address)) {
            entry.penalised_until = Some(now + PENALTY);
        }
    }

    fn forget_idle(&mut self, now: Instant) {
        self.sources.retain(|_, entry| {
            entry.held > 0
                || now.duration_since(entry.window) < WINDOW
                || entry.penalised_until.is_some_and(|until| until > now)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> SourceLimits {
        let trusted = vec!["127.0.0.0/8".parse().unwrap()];
        SourceLimits::new(Limits {
            concurrent: 2,
            per_minute: 4,
            trusted,
        })
    }

    #[test]
    fn one_source_may_hold_so_many_and_no_more() {
        let (mut table, now) = (limits(), Instant::now());
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(table.opened(peer, now), None);
        assert_eq!(table.opened(peer, now), None);
        assert_eq!(table.opened(peer, now), Some(Refusal::Concurrent));
        assert_eq!(table.opened("192.0.2.2".parse().unwrap(), now), None);
        for _ in 0..3 {
            table.closed(peer);
        }
        assert_eq!(table.opened(peer, now), None);
        assert_eq!(table.opened(peer, now), Some(Refusal::Rate));
        table.closed(peer);
        assert_eq!(table.opened(peer, now + WINDOW), None);
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_source() {
        assert_eq!(
            source("2001:db8::1".parse().unwrap()),
            source("2001:db8::ffff:2".parse().unwrap())
        );
        assert_ne!(
            source("2001:db8::1".parse().unwrap()),
            source("2001:db8:0:1::1".parse().unwrap())
        );
        assert_eq!(
            source("::ffff:192.0.2.1".parse().unwrap()),
            "192.0.2.1".parse::<IpAddr>().unwrap()
        );
    }

    #[test]
    fn trusted_networks_are_not_limited() {
        let (mut table, now) = (limits(), Instant::now());
        for _ in 0..10 {
            assert_eq!(table.opened("127.0.0.1".parse().unwrap(), now), None);
        }
    }

    #[test]
    fn a_crash_is_held_against_its_source_for_a_minute() {
        let (mut table, now) = (limits(), Instant::now());
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        table.opened(peer, now);
        table.penalise(peer, now);
        table.closed(peer);
        assert_eq!(table.opened(peer, now), Some(Refusal::Penalty));
        table.closed(peer);
        assert_eq!(table.opened(peer, now + PENALTY + WINDOW), None);
    }
}
