//! The sessions that are open at this replica: one per cluster, so that a new one ends the older one, and a list for the one
//! heartbeat statement that serves them all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use switchyard_core::ids::ClusterName;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::hearing::Hearing;
use crate::{metrics::Metrics, store::Store};

struct Entry {
    session: Uuid,
    ended: CancellationToken,
}

/// See the module.
#[derive(Clone, Default)]
pub struct Registry {
    entries: Arc<Mutex<BTreeMap<ClusterName, Entry>>>,
}

/// A session's place in the registry; given up when dropped.
pub struct Place {
    registry: Registry,
    cluster: ClusterName,
    session: Uuid,
    /// Cancelled when a newer session of the cluster took over.
    pub ended: CancellationToken,
}

impl Registry {
    /// Takes the cluster's place; an older session is told to end.
    pub fn enter(&self, cluster: &ClusterName, session: Uuid) -> Place {
        let ended = CancellationToken::new();
        let entry = Entry { session, ended: ended.clone() };
        if let Some(older) = self.lock().insert(cluster.clone(), entry) {
            older.ended.cancel();
        }
        Place { registry: self.clone(), cluster: cluster.clone(), session, ended }
    }

    /// Ends the sessions that lost their cluster to another replica.
    pub fn end(&self, lost: &[Uuid]) {
        for entry in self.lock().values().filter(|entry| lost.contains(&entry.session)) {
            entry.ended.cancel();
        }
    }

    /// Open sessions.
    pub fn present(&self) -> Vec<(Uuid, ClusterName)> {
        let entries = self.lock();
        entries.iter().map(|(cluster, entry)| (entry.session, cluster.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClusterName, Entry>> {
        // No user of the lock can panic half way through a change.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut entries = self.registry.lock();
        if entries.get(&self.cluster).is_some_and(|entry| entry.session == self.session) {
            entries.remove(&self.cluster);
        }
    }
}

/// Tells the store, once per interval and for all sessions at once, that they live; without any, asks it whether it is there. Ends with
/// the token.
pub async fn run_heartbeats(
    registry: Registry,
    hearing: Hearing,
    store: Store,
    metrics: Metrics,
    every: Duration,
    shutdown: CancellationToken,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let present = registry.present();
        metrics.sessions.set(i64::try_from(present.len()).unwrap_or(i64::MAX));
        let stored = if present.is_empty() {
            store.access_version().await.map(|_| Vec::new())
        } else {
            store.session_heartbeat(&present).await
        };
        match stored {
            Ok(lost) => {
                hearing.heard();
                registry.end(&lost);
                if failing {
                    failing = false;
                    tracing::info!(sessions = present.len(), "heartbeats of the agents are stored again");
                }
            }
            Err(error) if !failing => {
                hearing.deaf();
                failing = true;
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error,
                    "heartbeats of the agents cannot be stored; clusters will count as stale until they can"
                );
            }
            Err(_) => hearing.deaf(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_session_ends_the_older_one_and_keeps_its_place_when_that_leaves() {
        let registry = Registry::default();
        let blue: ClusterName = "blue".parse().unwrap();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let older = registry.enter(&blue, one);
        let newer = registry.enter(&blue, two);
        assert!(older.ended.is_cancelled());
        assert!(!newer.ended.is_cancelled());
        drop(older);
        assert_eq!(registry.present(), [(two, blue)]);
        drop(newer);
        assert_eq!(registry.present(), []);
    }
}
