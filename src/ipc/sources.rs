//! The sources that are refused, told by the master to every worker at once: a table in sealed memory.
//!
//! A worker looks its client up before the greeting and need not ask. Only sources that are refused *now* are in
//! it, under a keyed hash, so that nobody can choose addresses that share a place. The table is of fixed size:
//! a source that finds no place is refused by the master alone, after its connection was reported.
//!
//! One more word in the same memory, as each mapping costs at every fork, tells workers which watch over the configuration
//! counts.

use std::hash::Hasher as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::sys::memory::{SealedTable, Shared};
use crate::sys::random;

/// Which limit a source has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// It holds as many connections as it may.
    Concurrent,
    /// It opens connections faster than it may.
    Rate,
    /// A worker crashed while it served this source.
    Penalty,
}

impl Limit {
    /// The key of `rsmtpd.yaml` that sets it, or a word for the log.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Concurrent => "per_source",
            Limit::Rate => "per_source_rate",
            Limit::Penalty => "penalty",
        }
    }
}

/// A source that is refused, and how long without further news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub limit: Limit,
    /// Until when; none: until a connection of it ends.
    pub until: Option<Instant>,
}

/// Stands for a source: an IPv4 address or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(u64);

/// Turns addresses into sources, by a secret of this daemon's life.
#[derive(Debug, Clone, Copy)]
pub struct Secret([u64; 2]);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub fn new() -> io::Result<Secret> {
        Ok(Secret([random::number()?, random::number()?]))
    }

    /// The source of `address`: an IPv4-mapped address is its IPv4 address, an IPv6 one stands for its /64.
    pub fn source(&self, address: IpAddr) -> Source {
        let network = match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)),
        };
        let [first, second] = self.0;
        let mut hasher = SipHasher13::new_with_keys(first, second);
        hasher.write(&network.octets());
        // 0 marks a free place.
        Source(hasher.finish().max(1))
    }
}

/// Places that one source may take.
const WAYS: usize = 4;
const BUCKETS: usize = 4096;
/// A place: the source, then [`pack`]ed refusal.
const WORDS: usize = 2;
/// Behind all places: the number of the watch.
const WATCH: usize = BUCKETS * WAYS * WORDS;
const FOR_NOW: u64 = u64::MAX >> 2;

/// Where the places of a source begin.
fn bucket(source: Source) -> usize {
    (source.0 as usize % BUCKETS) * WAYS * WORDS
}

/// Milliseconds since `epoch` in the upper bits, the limit in the lowest two; never 0.
fn pack(refusal: Refusal, epoch: Instant) -> u64 {
    let until = refusal
        .until
        .map_or(FOR_NOW, |until| millis(epoch, until).min(FOR_NOW - 1));
    let limit = match refusal.limit {
        Limit::Concurrent => 1,
        Limit::Rate => 2,
        Limit::Penalty => 3,
    };
    until << 2 | limit
}

/// The limit, if it is still in force.
fn unpack(word: u64, now: u64) -> Option<Limit> {
    if word >> 2 <= now {
        return None;
    }
    match word & 3 {
        1 => Some(Limit::Concurrent),
        2 => Some(Limit::Rate),
        3 => Some(Limit::Penalty),
        _ => None,
    }
}

fn millis(epoch: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(epoch).as_millis()).unwrap_or(FOR_NOW - 1)
}

/// The master's end.
#[derive(Debug)]
pub struct Refused {
    table: SealedTable,
    view: View,
}

/// The workers' end, inherited at the fork; read-only for good.
#[derive(Debug)]
pub struct View {
    shared: Shared,
    secret: Secret,
    epoch: Instant,
}

impl Refused {
    /// An empty table.
    ///
    /// # Errors
    /// No memory, no descriptors or no random numbers.
    pub fn new(now: Instant) -> io::Result<Refused> {
        let (table, shared) = SealedTable::new(WATCH + 1)?;
        let view = View {
            shared,
            secret: Secret::new()?,
            epoch: now.checked_sub(Duration::from_secs(1)).unwrap_or(now),
        };
        Ok(Refused { table, view })
    }

    /// What workers see.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The secret of the daemon's life.
    pub fn secret(&self) -> Secret {
        self.view.secret
    }

    /// Tells workers to refuse `source`, or to serve it again.
    pub fn set(&self, source: Source, refusal: Option<Refusal>, now: Instant) {
        let known = self.view.places(source).find(|&at| self.view.word(at) == source.0);
        match (known, refusal) {
            (Some(at), Some(refusal)) => self.table.store(at + 1, pack(refusal, self.view.epoch)),
            (Some(at), None) => self.table.store(at + 1, 0),
            (None, Some(refusal)) => {
                let now = millis(self.view.epoch, now);
                let free = |at: &usize| unpack(self.view.word(at + 1), now).is_none();
                if let Some(at) = self.view.places(source).find(free) {
                    // In this order, and readers look at the source twice: none takes another's refusal for its own.
                    self.table.store(at + 1, 0);
                    self.table.store(at, source.0);
                    self.table.store(at + 1, pack(refusal, self.view.epoch));
                }
            }
            (None, None) => {}
        }
    }

    /// Tells workers which watch over the configuration counts from now on; 0 for none.
    pub fn set_watch(&self, number: u64) {
        self.table.store(WATCH, number);
    }

    /// Tells workers to serve every source.
    pub fn clear(&self) {
        for at in (0..WATCH).step_by(WORDS) {
            if self.view.word(at + 1) != 0 {
                self.table.store(at + 1, 0);
            }
        }
    }
}

impl View {
    /// The limit for which a client at `address` must be refused now.
    pub fn refuses(&self, address: IpAddr, now: Instant) -> Option<Limit> {
        let source = self.secret.source(address);
        let at = self.places(source).find(|&at| self.word(at) == source.0)?;
        let refusal = self.word(at + 1);
        (self.word(at) == source.0)
            .then(|| unpack(refusal, millis(self.epoch, now)))
            .flatten()
    }

    /// The number of the watch over the configuration that counts.
    pub fn watch(&self) -> u64 {
        self.word(WATCH)
    }

    fn places(&self, source: Source) -> impl Iterator<Item = usize> {
        (0..WAYS).map(move |way| bucket(source) + way * WORDS)
    }

    fn word(&self, at: usize) -> u64 {
        self.shared.load(at).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(limit: Limit, until: Option<Instant>) -> Option<Refusal> {
        Some(Refusal { limit, until })
    }

    #[test]
    fn a_refused_source_is_seen_until_it_is_served_again() {
        let now = Instant::now();
        let refused = Refused::new(now).unwrap();
        let (address, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let source = refused.secret().source(address);
        assert_eq!(refused.view().refuses(address, now), None);
        refused.set(source, refusal(Limit::Concurrent, None), now);
        assert_eq!(refused.view().refuses(address, now), Some(Limit::Concurrent));
        assert_eq!(refused.view().refuses(other, now), None);
        refused.set(source, None, now);
        assert_eq!(refused.view().refuses(address, now), None);
        refused.set(source, refusal(Limit::Rate, Some(now + Duration::from_secs(9))), now);
        refused.clear();
        assert_eq!(refused.view().refuses(address, now), None);
    }

    #[test]
    fn a_refusal_ends_by_itself_at_its_time() {
        let now = Instant::now();
        let refused = Refused::new(now).unwrap();
        let address = "192.0.2.1".parse().unwrap();
        let end = now + Duration::from_secs(60);
        refused.set(
            refused.secret().source(address),
            refusal(Limit::Penalty, Some(end)),
            now,
        );
        let before = end - Duration::from_millis(2);
        assert_eq!(refused.view().refuses(address, before), Some(Limit::Penalty));
        assert_eq!(refused.view().refuses(address, end), None);
    }

    #[test]
    fn a_full_bucket_takes_nobody_and_places_that_ended_are_used_again() {
        let now = Instant::now();
        let refused = Refused::new(now).unwrap();
        // One bucket's sources, as no address could be chosen to be.
        let sources: Vec<Source> = (1..=5).map(|n| Source(n * BUCKETS as u64)).collect();
        let seen = |source: Source| {
            let view = refused.view();
            view.places(source)
                .any(|at| view.word(at) == source.0 && view.word(at + 1) != 0)
        };
        for source in &sources {
            refused.set(*source, refusal(Limit::Rate, Some(now + Duration::from_secs(1))), now);
        }
        assert!(sources[..4].iter().all(|s| seen(*s)) && !seen(sources[4]));
        let later = now + Duration::from_secs(2);
        refused.set(sources[4], refusal(Limit::Concurrent, None), later);
        assert!(seen(sources[4]) && !seen(sources[0]));
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_source() {
        let secret = Secret::new().unwrap();
        let source = |text: &str| secret.source(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_ne!(
            Secret::new().unwrap().source("192.0.2.1".parse().unwrap()),
            source("192.0.2.1")
        );
    }
}
