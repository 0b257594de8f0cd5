//! How many spare workers to have: a pure function of counts and time.
//!
//! Policy only. It forks nothing, knows no descriptor and reads no clock; the master tells it what
//! happened and obeys what it answers.

use std::time::{Duration, Instant};

/// The configured sizes of the pool, in workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Spares kept waiting when nothing happens.
    pub min_spare: usize,
    /// Spares kept waiting under load.
    pub max_spare: usize,
    /// Workers of all kinds.
    pub max: usize,
}

/// What the master should do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// How many workers to fork.
    pub fork: usize,
    /// How many spares to retire.
    pub retire: usize,
    /// Whether clients must be refused, since no worker can be had for them.
    pub refuse: bool,
    /// When to ask again, though nothing happened.
    pub again: Option<Instant>,
}

/// How long a raised number of spares is kept after the load has gone.
const SHRINK_AFTER: Duration = Duration::from_secs(10);
/// Pauses after failed forks and crashes double from here …
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// … to here where forks fail: the next one will hardly do better,
const PAUSE_FAILED: Duration = Duration::from_secs(10);
/// and to here where workers crash: the other clients still want theirs.
const PAUSE_CRASHED: Duration = Duration::from_secs(1);
/// Spares taken are replaced several at once, as that costs less for each, unless it has been quiet for so long.
const REFILL_AFTER: Duration = Duration::from_millis(10);
/// After so long without either, pauses begin anew.
const QUIET: Duration = Duration::from_secs(60);

/// The pool's memory.
#[derive(Debug)]
pub struct Pool {
    sizes: Sizes,
    wanted: usize,
    last_busy: Instant,
    pause: Duration,
    paused_until: Option<Instant>,
    trouble_at: Option<Instant>,
}

impl Pool {
    /// A pool that wants `sizes.min_spare` spares at once.
    pub fn new(sizes: Sizes, now: Instant) -> Pool {
        Pool {
            sizes,
            wanted: sizes.min_spare,
            last_busy: now,
            pause: PAUSE_MIN,
            paused_until: None,
            trouble_at: None,
        }
    }

    /// Takes new sizes from a reload.
    pub fn resize(&mut self, sizes: Sizes) {
        self.sizes = sizes;
        self.wanted = self.wanted.clamp(sizes.min_spare, sizes.max_spare);
    }

    /// A spare took a connection and `spares` are left: wants more spares when they run low.
    pub fn taken(&mut self, spares: usize, now: Instant) {
        self.last_busy = now;
        if spares * 2 < self.wanted {
            self.wanted = (self.wanted + 4).min(self.sizes.max_spare);
        }
    }

    /// A fork failed: forking pauses.
    pub fn fork_failed(&mut self, now: Instant) {
        self.pause(PAUSE_FAILED, now);
    }

    /// A worker crashed: forking pauses, so that whoever crashes them cannot make us fork all the time.
    pub fn crashed(&mut self, now: Instant) {
        self.pause(PAUSE_CRASHED, now);
    }

    /// Pauses double until a quiet minute has passed. Trouble during a pause does not make it longer, or a
    /// trickle of crashes would end the service.
    fn pause(&mut self, most: Duration, now: Instant) {
        let quiet = self.trouble_at.is_none_or(|at| now.duration_since(at) > QUIET);
        self.trouble_at = Some(now);
        if self.paused_until.is_some_and(|until| until > now) {
            return;
        }
        self.pause = if quiet { PAUSE_MIN } else { (self.pause * 2).min(most) };
        self.paused_until = Some(now + self.pause);
    }

    /// What to do with `spares` waiting and `busy` serving workers.
    pub fn advise(&mut self, spares: usize, busy: usize, now: Instant) -> Advice {
        if self.wanted > self.sizes.min_spare && now.duration_since(self.last_busy) > SHRINK_AFTER {
            self.wanted = self.sizes.min_spare;
        }
        let room = self.sizes.max.saturating_sub(spares + busy);
        let missing = self.wanted.saturating_sub(spares).min(room);
        let paused = self.paused_until.filter(|&until| until > now);
        let quiet = self.last_busy + REFILL_AFTER;
        let later = (missing * 4 < self.wanted && missing > 0 && quiet > now).then_some(quiet);
        let shrink = (self.wanted > self.sizes.min_spare).then(|| self.last_busy + SHRINK_AFTER + PAUSE_MIN);
        Advice {
            fork: if paused.or(later).is_some() { 0 } else { missing },
            retire: spares.saturating_sub(self.sizes.max_spare.max(self.wanted)),
            refuse: spares == 0 && (room == 0 || paused.is_some()),
            again: paused.or(later).or(shrink),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        min_spare: 4,
        max_spare: 16,
        max: 20,
    };

    #[test]
    fn fills_up_to_the_minimum_and_stays() {
        let now = Instant::now();
        let mut pool = Pool::new(SIZES, now);
        assert_eq!(pool.advise(0, 0, now).fork, 4);
        assert_eq!(
            pool.advise(4, 0, now),
            Advice {
                fork: 0,
                retire: 0,
                refuse: false,
                again: None
            }
        );
    }

    #[test]
    fn few_missing_spares_are_replaced_together_or_when_it_is_quiet() {
        let now = Instant::now();
        let sizes = Sizes { min_spare: 8, ..SIZES };
        let mut pool = Pool::new(sizes, now);
        pool.taken(7, now);
        let advice = pool.advise(7, 1, now);
        assert_eq!((advice.fork, advice.again), (0, Some(now + REFILL_AFTER)));
        pool.taken(6, now);
        assert_eq!(pool.advise(6, 2, now).fork, 2);
        assert_eq!(pool.advise(7, 1, now + REFILL_AFTER).fork, 1);
    }

    #[test]
    fn load_raises_the_number_of_spares_and_quiet_lowers_it() {
        let now = Instant::now();
        let mut pool = Pool::new(SIZES, now);
        for _ in 0..5 {
            pool.taken(0, now);
        }
        assert_eq!(pool.advise(0, 1, now).fork, 16);
        let later = now + Duration::from_secs(11);
        assert_eq!(pool.advise(4, 0, later).fork, 0);
        assert_eq!(pool.advise(20, 0, later).retire, 4);
    }

    #[test]
    fn the_maximum_holds_and_clients_are_refused_at_it() {
        let now = Instant::now();
        let mut pool = Pool::new(SIZES, now);
        let advice = pool.advise(0, 20, now);
        assert!(advice.refuse && advice.fork == 0);
        assert_eq!(pool.advise(0, 18, now).fork, 2);
    }

    #[test]
    fn failing_forks_pause_for_longer_each_time_until_it_is_quiet() {
        let mut now = Instant::now();
        let mut pool = Pool::new(SIZES, now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pool.fork_failed(now);
            let advice = pool.advise(0, 0, now);
            assert!(advice.fork == 0 && advice.refuse);
            let until = advice.again.unwrap();
            pauses.push((until - now).as_millis());
            now = until;
            assert_eq!(pool.advise(0, 0, now).fork, 4);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        now += QUIET + PAUSE_MIN;
        pool.fork_failed(now);
        assert_eq!(pool.advise(0, 0, now).again, Some(now + PAUSE_MIN));
    }

    #[test]
    fn crashes_throttle_forking_but_never_end_it() {
        let mut now = Instant::now();
        let mut pool = Pool::new(SIZES, now);
        let (mut forked, end) = (0, now + Duration::from_secs(20));
        while now < end {
            pool.crashed(now);
            forked += pool.advise(3, 0, now).fork;
            now += Duration::from_millis(50);
            forked += pool.advise(3, 0, now).fork;
        }
        assert!((19..60).contains(&forked), "{forked}");
        // Spares that wait still serve: nobody is refused.
        assert!(!pool.advise(3, 0, now).refuse);
    }

    #[test]
    fn a_reload_changes_the_sizes_in_force() {
        let now = Instant::now();
        let mut pool = Pool::new(SIZES, now);
        let (min_spare, max_spare, max) = (8, 8, 10);
        pool.resize(Sizes {
            min_spare,
            max_spare,
            max,
        });
        assert_eq!(pool.advise(0, 0, now).fork, 8);
        assert_eq!(pool.advise(0, 6, now).fork, 4);
        pool.resize(Sizes {
            min_spare: 1,
            max_spare: 2,
            max: 4,
        });
        let advice = pool.advise(8, 0, now);
        assert_eq!((advice.fork, advice.retire, advice.refuse), (0, 6, false));
        // More are busy than may be: nothing is forked until they are done.
        let advice = pool.advise(0, 9, now);
        assert!(advice.fork == 0 && advice.refuse);
    }
}
