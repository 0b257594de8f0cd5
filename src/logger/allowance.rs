//! How many lines one worker may say: more than any session of good faith has, few enough that who floods neither fills the
//! log nor keeps others' lines out of it. A function of events and times alone.

use std::time::{Duration, Instant};

/// A worker's lines are counted for so long.
pub(super) const WINDOW: Duration = Duration::from_secs(5);
/// So many of them are written in that time.
pub(super) const LINES: u32 = 20_000;

/// What one speaker has said in the window under way.
#[derive(Debug)]
pub(super) struct Allowance {
    began: Instant,
    said: u32,
    lost: u64,
}

impl Allowance {
    /// From `now` on.
    pub(super) fn new(now: Instant) -> Allowance {
        Allowance {
            began: now,
            said: 0,
            lost: 0,
        }
    }

    /// Begins a new window if the one under way is over, and says so.
    pub(super) fn renew(&mut self, now: Instant) -> bool {
        let over = now.saturating_duration_since(self.began) >= WINDOW;
        if over {
            (self.began, self.said) = (now, 0);
        }
        over
    }

    /// Whether one more line may be written; if not, it is counted.
    pub(super) fn admit(&mut self) -> bool {
        let admitted = self.said < LINES;
        if admitted {
            self.said += 1;
        } else {
            self.lost = self.lost.saturating_add(1);
        }
        admitted
    }

    #[cfg(test)]
    pub(super) fn said(&self) -> u32 {
        self.said
    }

    /// How many lines were lost that were not told of yet.
    pub(super) fn lost(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.lost)).filter(|&lost| lost > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_for_one_window_is_counted_at_its_end() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let admitted = (0..LINES + 7).filter(|_| allowance.admit()).count();
        assert_eq!(admitted, LINES as usize);
        assert!(!allowance.renew(start + WINDOW / 2) && !allowance.admit());
        assert!(allowance.renew(start + WINDOW));
        assert_eq!((allowance.lost(), allowance.lost()), (Some(8), None));
        assert!(allowance.admit() && !allowance.renew(start + WINDOW * 3 / 2));
    }
}
