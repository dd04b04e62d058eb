//! How often the resources of a cluster may change policies. Each change is an entry of the audit log that nobody may delete, of up to 38
//! kB, so one cluster must not write them as fast as it can. Counted for a cluster and not for a stream, which would begin anew with
//! each. Pure: time comes in.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use switchyard_core::ids::ClusterName;
use tokio::time::Instant;

use super::parse::MOST_ITEMS;
use crate::access::rates::Pace;

/// Changes of each cluster. Clones are one. Clusters are those of `--policy-source`, so their number is bounded.
#[derive(Clone, Debug)]
pub struct ChangePaces {
    pace: Pace,
    clusters: Arc<Mutex<BTreeMap<ClusterName, Bucket>>>,
}

/// Leaks.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    changes: f64,
    at: Instant,
}

impl ChangePaces {
    /// So many.
    pub fn new(pace: Pace) -> Self {
        Self { pace, clusters: Arc::default() }
    }

    /// So many resources of a cluster changed something.
    pub fn changed(&self, cluster: &ClusterName, count: usize, now: Instant) {
        if count == 0 {
            return;
        }
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = clusters.entry(cluster.clone()).or_insert(Bucket { changes: 0.0, at: now });
        bucket.leak(self.pace, now);
        // No more than a message above it: an agent gives a hub up that has not stored within a minute what it sent ahead.
        let most = f64::from(self.pace.burst.get()) + MOST_ITEMS as f64;
        bucket.changes = (bucket.changes + count as f64).min(most);
    }

    /// How long nothing more is to be taken from the cluster; zero: read on.
    pub fn wait(&self, cluster: &ClusterName, now: Instant) -> Duration {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = clusters.get_mut(cluster) else { return Duration::ZERO };
        bucket.leak(self.pace, now);
        let above = bucket.changes - f64::from(self.pace.burst.get());
        Duration::from_secs_f64((above / f64::from(self.pace.per_second.get())).max(0.0))
    }
}

impl Bucket {
    fn leak(&mut self, pace: Pace, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.changes = (self.changes - passed.as_secs_f64() * f64::from(pace.per_second.get())).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::source::MOST_CLAIMS;

    use super::*;
    use crate::access::rates::AccessRates;

    const SECOND: Duration = Duration::from_secs(1);

    fn blue() -> ClusterName {
        "blue".parse().unwrap()
    }

    #[test]
    fn every_policy_that_a_cluster_may_have_comes_and_changes_once_without_a_pause() {
        let (paces, start) = (ChangePaces::new(AccessRates::default().source_changes), Instant::now());
        for _ in 0..2 * MOST_CLAIMS / MOST_ITEMS {
            assert_eq!(paces.wait(&blue(), start), Duration::ZERO);
            paces.changed(&blue(), MOST_ITEMS, start);
        }
        assert_eq!(paces.wait(&blue(), start), Duration::ZERO);
    }

    #[test]
    fn what_an_agent_sends_ahead_is_taken_before_it_gives_the_hub_up() {
        // agent/src/policies: a window of 8 messages, each stored within a minute from when it was sent.
        let (paces, start) = (ChangePaces::new(AccessRates::default().source_changes), Instant::now());
        paces.changed(&blue(), 100_000, start);
        let mut now = start;
        for _ in 0..8 {
            now += paces.wait(&blue(), now);
            paces.changed(&blue(), MOST_ITEMS, now);
        }
        assert!(now < start + 50 * SECOND, "{:?}", now - start);
    }

    #[test]
    fn whoever_changes_them_without_end_has_ten_a_second_on_every_stream_and_takes_nothing_from_others() {
        let (paces, start) = (ChangePaces::new(AccessRates::default().source_changes), Instant::now());
        let (mut now, mut changes) = (start, 0_usize);
        while now < start + 3600 * SECOND {
            // A stream of its own for each message.
            let stream = paces.clone();
            now += stream.wait(&blue(), now).max(Duration::from_millis(1));
            stream.changed(&blue(), MOST_ITEMS, now);
            changes += MOST_ITEMS;
        }
        assert!((2 * MOST_CLAIMS + 30_000..=2 * MOST_CLAIMS + 36_000 + 2 * MOST_ITEMS).contains(&changes), "{changes}");
        assert!(paces.wait(&blue(), now) <= 6 * SECOND);
        assert_eq!(paces.wait(&"green".parse().unwrap(), now), Duration::ZERO);
    }
}
