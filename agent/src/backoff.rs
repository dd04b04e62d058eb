//! Exponential backoff with full jitter. Pure: the caller brings the randomness.
//!
//! Full jitter (any moment between the floor and the bound) spreads many agents best when a hub or an API server comes back.

use std::time::Duration;

/// The bound after the first failure.
const BASE: Duration = Duration::from_millis(200);
/// The largest bound. Not longer: while it waits, the agent reports no dead pod.
const MAX: Duration = Duration::from_secs(10);
/// No attempt follows at once, whatever the dice say.
const FLOOR: Duration = Duration::from_millis(50);
/// 0.2 s x 2^6 is past the largest bound.
const LAST_DOUBLING: u32 = 6;

/// How many attempts failed in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts a failure and says how long to wait. `jitter` is uniform in 0.0..=1.0; anything else is clamped.
    #[must_use]
    pub fn next(&mut self, jitter: f64) -> Duration {
        let bound = (BASE * 2_u32.pow(self.failures.min(LAST_DOUBLING))).min(MAX);
        self.failures = self.failures.saturating_add(1);
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 1.0 };
        bound.mul_f64(jitter).max(FLOOR)
    }

    /// The next wait may be of the full length at once: the other side said that trying again soon is of no use.
    pub fn slow_down(&mut self) {
        self.failures = self.failures.max(LAST_DOUBLING);
    }

    /// The next wait is a short one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_ten_seconds() {
        let mut backoff = Backoff::default();
        let bounds: Vec<u128> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(bounds, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.next(1.0), BASE);
    }

    #[test]
    fn every_wait_lies_between_the_floor_and_the_bound_whatever_the_jitter() {
        for jitter in [0.0, 0.3, 1.0, -1.0, 7.0, f64::NAN, f64::INFINITY] {
            let mut backoff = Backoff::default();
            for _ in 0..100 {
                let wait = backoff.next(jitter);
                assert!((FLOOR..=MAX).contains(&wait), "{wait:?} for jitter {jitter}");
            }
        }
    }

    #[test]
    fn slowing_down_goes_to_the_largest_bound_at_once() {
        let mut backoff = Backoff::default();
        backoff.slow_down();
        assert_eq!(backoff.next(1.0), MAX);
    }
}
