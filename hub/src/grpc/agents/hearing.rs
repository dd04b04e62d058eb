//! Whether this replica could have heard the agents of late. A process counts as silent by its heartbeat in the store, and heartbeats
//! are not stored while the hub is down or the store is away: that silence is the hub's own. Who is seated by it is decided in
//! `store/session_turns.rs`. Tests are at the end of the file.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::store::Hears;

/// See the module; clones share what they know.
#[derive(Clone)]
pub struct Hearing {
    stale_after: Duration,
    state: Arc<Mutex<State>>,
}

struct State {
    /// Since when heartbeats were stored without a gap; none: they are not, or were not yet.
    since: Option<Instant>,
    last: Instant,
}

impl Hearing {
    /// Deaf until heartbeats are stored. `stale_after`: an agent that was not heard of for as long is silent.
    pub fn new(stale_after: Duration) -> Self {
        Self { stale_after, state: Arc::new(Mutex::new(State { since: None, last: Instant::now() })) }
    }

    /// The heartbeats of all open sessions were stored, or the store answered while there were none.
    pub fn heard(&self) {
        self.heard_at(Instant::now());
    }

    fn heard_at(&self, now: Instant) {
        let gap = self.gap();
        let mut state = self.state();
        if state.since.is_none() || now.duration_since(state.last) > gap {
            state.since = Some(now);
        }
        state.last = now;
    }

    /// They could not be stored.
    pub fn deaf(&self) {
        self.state().since = None;
    }

    /// Half of the time that makes an agent silent, and more than a heartbeat's interval: so no agent whose session is open here is
    /// silent for lack of a heartbeat before this replica knows itself deaf.
    fn gap(&self) -> Duration {
        self.stale_after / 2
    }

    fn hears_at(&self, now: Instant) -> bool {
        let state = self.state();
        let long = state.since.is_some_and(|since| now.duration_since(since) >= 2 * self.stale_after);
        long && now.duration_since(state.last) <= self.gap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No user of the lock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hears for Hearing {
    fn stale_after(&self) -> Duration {
        self.stale_after
    }

    /// Twice the time that makes an agent silent: one for those whose connection broke to come back (agents wait for 10 s at the most
    /// between two tries), and one to be silent.
    fn hears(&self) -> bool {
        self.hears_at(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Duration = Duration::from_secs(15);
    const BEAT: Duration = Duration::from_secs(5);

    /// Time goes on, and a heartbeat is stored at each step.
    fn beats(hearing: &Hearing, now: &mut Instant, times: u32) {
        for _ in 0..times {
            *now += BEAT;
            hearing.heard_at(*now);
        }
    }

    #[test]
    fn after_a_start_it_takes_twice_the_time_of_silence_to_say_who_is_silent() {
        let hearing = Hearing::new(STALE);
        let mut now = Instant::now() + 10 * STALE;
        assert!(!hearing.hears_at(now), "nothing was heard yet");
        hearing.heard_at(now);
        beats(&hearing, &mut now, 5);
        assert!(!hearing.hears_at(now), "25 s");
        beats(&hearing, &mut now, 1);
        assert!(hearing.hears_at(now), "30 s");
        assert_eq!(hearing.clone().stale_after(), STALE);
    }

    #[test]
    fn a_store_that_is_away_makes_it_deaf_whether_it_says_so_or_hangs() {
        let hearing = Hearing::new(STALE);
        let mut now = Instant::now();
        beats(&hearing, &mut now, 7);
        assert!(hearing.hears_at(now));
        hearing.deaf();
        assert!(!hearing.hears_at(now), "it said so");
        beats(&hearing, &mut now, 6);
        assert!(!hearing.hears_at(now), "25 s after its return");
        beats(&hearing, &mut now, 1);
        assert!(hearing.hears_at(now));
        // A statement that hangs, or a process that was stopped: the clock goes on and nothing is said.
        now += Duration::from_secs(8);
        assert!(!hearing.hears_at(now), "before anybody can be silent for 15 s");
        hearing.heard_at(now);
        assert!(!hearing.hears_at(now), "the agents' own tries come first");
        beats(&hearing, &mut now, 6);
        assert!(hearing.hears_at(now));
    }
}
