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
        let (now, gap) = (Instant::now(), self.gap());
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
        let state = self.state();
        state.since.is_some_and(|since| since.elapsed() >= 2 * self.stale_after) && state.last.elapsed() <= self.gap()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const STALE: Duration = Duration::from_secs(15);
    const BEAT: Duration = Duration::from_secs(5);

    async fn beats(hearing: &Hearing, times: u32) {
        for _ in 0..times {
            advance(BEAT).await;
            hearing.heard();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_start_it_takes_twice_the_time_of_silence_to_say_who_is_silent() {
        let hearing = Hearing::new(STALE);
        advance(10 * STALE).await;
        assert!(!hearing.hears(), "nothing was heard yet");
        hearing.heard();
        beats(&hearing, 5).await;
        assert!(!hearing.hears(), "25 s");
        beats(&hearing, 1).await;
        assert!(hearing.hears(), "30 s");
        assert_eq!(hearing.clone().stale_after(), STALE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_makes_it_deaf_whether_it_says_so_or_hangs() {
        let hearing = Hearing::new(STALE);
        beats(&hearing, 7).await;
        assert!(hearing.hears());
        hearing.deaf();
        assert!(!hearing.hears(), "it said so");
        beats(&hearing, 6).await;
        assert!(!hearing.hears(), "25 s after its return");
        beats(&hearing, 1).await;
        assert!(hearing.hears());
        // A statement that hangs, or a process that was stopped: the clock goes on and nothing is said.
        advance(Duration::from_secs(8)).await;
        assert!(!hearing.hears(), "before anybody can be silent for 15 s");
        hearing.heard();
        assert!(!hearing.hears(), "the agents' own tries come first");
        beats(&hearing, 6).await;
        assert!(hearing.hears());
    }
}
