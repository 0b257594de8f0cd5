//! How many connections one source may hold and open: a pure function of sources and time.
//!
//! Nothing here touches a socket, a clock or an address: [`Source`] stands for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ipc::sources::{Limit, Refusal, Source};

/// The configured limits; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections held at once.
    pub concurrent: u32,
    /// Connections opened in a minute.
    pub per_minute: u32,
}

/// How long a source is refused after it crashed a worker.
const PENALTY: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(60);
/// Sources remembered at most, because every private page of the master is paid for at each fork. Beyond it
/// idle ones are forgotten, then unknown ones are let in uncounted.
const SOURCES_MAX: usize = 16_384;
/// Idle sources are looked for no more often than this.
const SWEEP: Duration = Duration::from_secs(1);

/// Times are seconds since the table was made.
#[derive(Debug, Clone, Copy)]
struct Known {
    held: u32,
    opened: u32,
    refused: u32,
    window: u32,
    penalised_until: u32,
}

/// The table of sources.
#[derive(Debug)]
pub struct SourceLimits {
    limits: Limits,
    sources: HashMap<Source, Known>,
    epoch: Instant,
    swept: Option<Instant>,
}

/// What became of a connection that was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The limit it is beyond.
    pub beyond: Option<Limit>,
    /// Whether the source is remembered, so that [`SourceLimits::closed`] must follow.
    pub counted: bool,
}

impl SourceLimits {
    /// An empty table.
    pub fn new(limits: Limits, now: Instant) -> SourceLimits {
        SourceLimits {
            limits,
            sources: HashMap::new(),
            epoch: now,
            swept: None,
        }
    }

    /// Takes new limits from a reload; what is held stays counted.
    pub fn configure(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Counts a connection of `source`, also when it is one too many.
    pub fn opened(&mut self, source: Source, now: Instant) -> Opened {
        let at = self.seconds(now);
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            self.forget_idle(now);
            if self.sources.len() >= SOURCES_MAX {
                return Opened {
                    beyond: None,
                    counted: false,
                };
            }
        }
        let limits = self.limits;
        let known = self.sources.entry(source).or_insert(Known {
            held: 0,
            opened: 0,
            refused: 0,
            window: at,
            penalised_until: 0,
        });
        known.renew(at);
        known.held = known.held.saturating_add(1);
        known.opened = known.opened.saturating_add(1);
        let beyond = if known.penalised_until > at {
            Some(Limit::Penalty)
        } else if exceeds(known.held, limits.concurrent) {
            Some(Limit::Concurrent)
        } else if exceeds(known.opened, limits.per_minute) {
            Some(Limit::Rate)
        } else {
            None
        };
        Opened { beyond, counted: true }
    }

    /// A counted connection of `source` ended.
    pub fn closed(&mut self, source: Source) {
        if let Some(known) = self.sources.get_mut(&source) {
            known.held = known.held.saturating_sub(1);
        }
    }

    /// A connection of `source` was refused: how many in this window, where that is worth a line in the log
    /// (the first, the second, the fourth …).
    pub fn refused(&mut self, source: Source, now: Instant) -> Option<u32> {
        let at = self.seconds(now);
        let known = self.sources.get_mut(&source)?;
        known.renew(at);
        known.refused = known.refused.saturating_add(1);
        known.refused.is_power_of_two().then_some(known.refused)
    }

    /// A worker crashed while it served `source`.
    pub fn penalise(&mut self, source: Source, now: Instant) {
        let until = self.seconds(now + PENALTY);
        if let Some(known) = self.sources.get_mut(&source) {
            known.penalised_until = until;
        }
    }

    /// Why the next connection of `source` would be refused, and until when.
    pub fn next(&self, source: Source, now: Instant) -> Option<Refusal> {
        let known = self.sources.get(&source)?;
        let at = self.seconds(now);
        let instant = |seconds: u32| self.epoch + Duration::from_secs(seconds.into());
        if known.penalised_until > at {
            return Some(Refusal {
                limit: Limit::Penalty,
                until: Some(instant(known.penalised_until)),
            });
        }
        if exceeds(known.held.saturating_add(1), self.limits.concurrent) {
            return Some(Refusal {
                limit: Limit::Concurrent,
                until: None,
            });
        }
        let current = !known.is_old(at);
        (current && exceeds(known.opened.saturating_add(1), self.limits.per_minute)).then(|| Refusal {
            limit: Limit::Rate,
            until: Some(instant(known.window) + WINDOW),
        })
    }

    fn seconds(&self, at: Instant) -> u32 {
        u32::try_from(at.saturating_duration_since(self.epoch).as_secs()).unwrap_or(u32::MAX)
    }

    fn forget_idle(&mut self, now: Instant) {
        let recent = self
            .swept
            .is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP);
        if !recent {
            self.swept = Some(now);
            let at = self.seconds(now);
            self.sources
                .retain(|_, known| known.held > 0 || !known.is_old(at) || known.penalised_until > at);
        }
    }
}

impl Known {
    fn is_old(&self, at: u32) -> bool {
        u64::from(at.saturating_sub(self.window)) >= WINDOW.as_secs()
    }

    fn renew(&mut self, at: u32) {
        if self.is_old(at) {
            self.window = at;
            self.opened = 0;
            self.refused = 0;
        }
    }
}

fn exceeds(number: u32, limit: u32) -> bool {
    limit > 0 && number > limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::sources::Secret;

    struct Table {
        limits: SourceLimits,
        secret: Secret,
        now: Instant,
    }

    impl Table {
        fn new(concurrent: u32, per_minute: u32) -> Table {
            let now = Instant::now();
            Table {
                limits: SourceLimits::new(Limits { concurrent, per_minute }, now),
                secret: Secret::new().unwrap(),
                now,
            }
        }

        fn source(&self, number: usize) -> Source {
            self.secret.source(std::net::Ipv4Addr::from(number as u32).into())
        }

        fn opens(&mut self, number: usize) -> Option<Limit> {
            let source = self.source(number);
            self.limits.opened(source, self.now).beyond
        }

        fn closes(&mut self, number: usize) {
            let source = self.source(number);
            self.limits.closed(source);
        }

        fn next(&self, number: usize) -> Option<Refusal> {
            self.limits.next(self.source(number), self.now)
        }
    }

    #[test]
    fn one_source_may_hold_so_many_and_no_more() {
        let mut table = Table::new(2, 100);
        assert_eq!(table.opens(1), None);
        assert_eq!(table.next(1), None);
        assert_eq!(table.opens(1), None);
        let full = Refusal {
            limit: Limit::Concurrent,
            until: None,
        };
        assert_eq!(table.next(1), Some(full));
        assert_eq!(table.opens(1), Some(Limit::Concurrent));
        assert_eq!(table.opens(2), None);
        for _ in 0..2 {
            table.closes(1);
        }
        assert_eq!(table.next(1), None);
        assert_eq!(table.opens(1), None);
    }

    #[test]
    fn one_source_may_open_so_many_in_a_minute() {
        let mut table = Table::new(0, 3);
        for _ in 0..3 {
            assert_eq!(table.opens(1), None);
            table.closes(1);
        }
        let window = table.now + WINDOW;
        let rate = Refusal {
            limit: Limit::Rate,
            until: Some(window),
        };
        assert_eq!(table.next(1), Some(rate));
        assert_eq!(table.opens(1), Some(Limit::Rate));
        table.now = window - Duration::from_secs(1);
        assert_eq!(table.opens(1), Some(Limit::Rate));
        table.now = window;
        assert_eq!(table.next(1), None);
        assert_eq!(table.opens(1), None);
    }

    #[test]
    fn zero_is_no_limit() {
        let mut table = Table::new(0, 0);
        for _ in 0..1000 {
            assert_eq!(table.opens(1), None);
        }
        assert_eq!(table.next(1), None);
    }

    #[test]
    fn new_limits_apply_to_what_is_held() {
        let mut table = Table::new(10, 0);
        for _ in 0..5 {
            table.opens(1);
        }
        table.limits.configure(Limits {
            concurrent: 5,
            per_minute: 0,
        });
        assert_eq!(table.opens(1), Some(Limit::Concurrent));
        table.limits.configure(Limits {
            concurrent: 7,
            per_minute: 0,
        });
        assert_eq!(table.opens(1), None);
    }

    #[test]
    fn a_crash_is_held_against_its_source_for_a_minute() {
        let mut table = Table::new(2, 4);
        table.opens(1);
        let source = table.source(1);
        table.limits.penalise(source, table.now);
        table.closes(1);
        assert_eq!(table.next(1).unwrap().limit, Limit::Penalty);
        assert_eq!(table.opens(1), Some(Limit::Penalty));
        assert_eq!(table.opens(2), None);
        table.closes(1);
        table.now += PENALTY;
        assert_eq!(table.next(1), None);
        assert_eq!(table.opens(1), None);
    }

    #[test]
    fn refusals_are_worth_a_line_at_powers_of_two() {
        let mut table = Table::new(1, 0);
        table.opens(1);
        let source = table.source(1);
        let told: Vec<u32> = (0..100)
            .filter_map(|_| table.limits.refused(source, table.now))
            .collect();
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(table.limits.refused(source, table.now + WINDOW), Some(1));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_idle_sources_first() {
        let mut table = Table::new(1, 1);
        for number in 0..SOURCES_MAX {
            table.opens(number);
        }
        for number in 0..SOURCES_MAX / 2 {
            table.closes(number);
        }
        // None is idle for a minute yet: the unknown one is let in uncounted.
        let newcomer = table.source(SOURCES_MAX);
        let uncounted = Opened {
            beyond: None,
            counted: false,
        };
        assert_eq!(table.limits.opened(newcomer, table.now), uncounted);
        table.now += WINDOW;
        assert!(table.limits.opened(newcomer, table.now).counted);
        assert_eq!(table.limits.sources.len(), SOURCES_MAX / 2 + 1);
        assert_eq!(table.opens(SOURCES_MAX - 1), Some(Limit::Concurrent));
    }
}
