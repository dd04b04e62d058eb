//! Moves what operators want of whole clusters: each cycle shows every cluster that is on its way what the plan found of its
//! policies, lets core say what follows ([`machine::observe`]), and stores that under the lease, only if nobody wanted something
//! else meanwhile. Decides nothing itself.
//!
//! A step follows only on what was read back after the one before, by the same three means as with shifts ([`super::shifts`]): the
//! clusters and the policies come from one snapshot of the store; what was stored is not looked at again before the picture shows
//! it; and a policy with a call that nobody has read back counts as not in force. Tests: below, and the scenarios in `tests/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use switchyard_core::{
    fleet::{
        ClusterState, Mode,
        machine::{self, PolicyFacts},
    },
    ids::{ClusterName, Epoch, PolicyKey},
};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{cycle::Engine, shifts::Seen};
use crate::{
    feed::{Fleet, Picture},
    metrics::{ClusterMode, Metrics},
    store::{ClusterUpdate, Fence},
};

/// What could not be stored is looked at again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// Where only the progress or the words differ, they are stored after this time: with a hundred policies they differ with every
/// call, and each storing wakes every replica.
const WORDS_PAUSE: Duration = Duration::from_millis(500);
/// A picture that does not show after this time what was stored is one of a store that lost it: what it shows is the truth then.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// What is kept about clusters for one term of the lease.
#[derive(Default)]
pub(super) struct FleetTerm {
    /// The version of what was stored last, and when; an older one in the picture is not looked at before [`LOST_AFTER`].
    saved: BTreeMap<ClusterName, (u64, Instant)>,
    /// Since when a cluster's progress differs from what is stored.
    other_words: BTreeMap<ClusterName, Instant>,
}

/// What came of looking at all clusters.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// When to look again although nothing else changed.
    pub(super) again: Option<Instant>,
    /// Something was stored, and will come back with the next picture.
    pub(super) stored: bool,
}

impl Moved {
    fn at(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }
}

/// A cluster that came further.
struct Update {
    before: ClusterState,
    after: ClusterState,
}

impl Engine {
    /// Looks at every cluster that is on its way, and stores what follows.
    pub(super) async fn move_fleet(&mut self, epoch: Epoch, seen: &Seen<'_>) -> Moved {
        let mut moved = Moved::default();
        let fleet = &seen.picture.fleet;
        count(seen.picture, &self.metrics);
        self.term.fleet.follow(fleet);
        // While the store is away nothing could be stored; what was decided stays in force.
        if self.options.observe_only || !seen.picture.store_ok {
            return moved;
        }
        let mut updates = Vec::new();
        for state in fleet.values().filter(|state| state.is_moving()) {
            if let Some(at) = self.term.fleet.not_before(state, Instant::now()) {
                moved.at(at);
                continue;
            }
            let outcome = machine::observe((**state).clone(), &facts(&state.cluster, seen), seen.now);
            if let Some(at) = outcome.again_at {
                let wait = Duration::try_from(at.duration_since(seen.now)).unwrap_or_default();
                moved.at(Instant::now() + wait);
            }
            let update = Update { before: (**state).clone(), after: outcome.state };
            match self.term.fleet.storing(&update, Instant::now()) {
                None => {}
                Some(at) if at > Instant::now() => moved.at(at),
                Some(_) => updates.push(update),
            }
        }
        if !updates.is_empty() {
            self.store_fleet(epoch, updates, &mut moved).await;
        }
        moved
    }

    async fn store_fleet(&mut self, epoch: Epoch, updates: Vec<Update>, moved: &mut Moved) {
        let rows: Vec<ClusterUpdate<'_>> = updates
            .iter()
            .map(|update| ClusterUpdate { before_version: update.before.version, state: &update.after })
            .collect();
        let scope = self.options.scope();
        let won = match self.store.clusters_save(Fence { scope: &scope, epoch }, &rows).await {
            Ok(won) => won,
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    clusters = updates.len(),
                    "what came of clusters was not stored; they are looked at again"
                );
                moved.at(Instant::now() + RETRY);
                return;
            }
        };
        let mut gone = false;
        for update in &updates {
            let cluster = &update.before.cluster;
            if won.contains(cluster) {
                self.term.fleet.stored(&update.before, Instant::now());
                moved.stored = true;
                gone |= update.after.mode == Mode::Removed && update.after.operation.ended_at.is_some();
                log(update);
            } else {
                debug!(%cluster, "somebody else wanted something of the cluster meanwhile; it is looked at again");
            }
        }
        if gone {
            self.forget_removed().await;
        }
    }

    /// What the agents of removed clusters reported goes. What fails here is done with the next purge of the store.
    async fn forget_removed(&self) {
        match self.store.clusters_purge().await {
            Ok(purged) => {
                for cluster in purged {
                    info!(%cluster, "the cluster is removed: what its agent reported is forgotten");
                }
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "what the agent of a removed cluster reported stays in the store for now"
                )
            }
        }
    }
}

impl FleetTerm {
    fn follow(&mut self, fleet: &Fleet) {
        self.saved.retain(|cluster, _| fleet.contains_key(cluster));
        self.other_words.retain(|cluster, _| fleet.contains_key(cluster));
    }

    /// When it may be looked at, as long as the picture does not show what was stored last; none: now.
    fn not_before(&self, state: &ClusterState, now: Instant) -> Option<Instant> {
        let (saved, at) = self.saved.get(&state.cluster)?;
        Some(*at + LOST_AFTER).filter(|until| state.version < *saved && *until > now)
    }

    /// When to store it; none: it is as it was.
    fn storing(&mut self, update: &Update, now: Instant) -> Option<Instant> {
        let Update { before, after } = update;
        if before == after {
            self.other_words.remove(&before.cluster);
            return None;
        }
        let mut words = after.clone();
        words.operation.why = before.operation.why;
        words.operation.message.clone_from(&before.operation.message);
        words.operation.progress.clone_from(&before.operation.progress);
        if words != *before {
            return Some(now);
        }
        Some(*self.other_words.entry(before.cluster.clone()).or_insert(now) + WORDS_PAUSE)
    }

    fn stored(&mut self, before: &ClusterState, now: Instant) {
        self.saved.insert(before.cluster.clone(), (before.version.saturating_add(1), now));
        self.other_words.remove(&before.cluster);
    }
}

/// The policies that name a cluster, as this cycle's plan found them.
fn facts(cluster: &ClusterName, seen: &Seen<'_>) -> BTreeMap<PolicyKey, PolicyFacts> {
    let of_policy = |(key, planned): (&PolicyKey, &switchyard_core::plan::PolicyPlan)| {
        let record = seen.records.get(key)?;
        let mut facts = PolicyFacts::new(cluster, record, &planned.status, seen.settle, seen.now)?;
        // Something of it was written and not read since: what the cache holds of the rest may be from before.
        if seen.unread.contains_key(key) {
            facts.in_force = None;
        }
        Some((key.clone(), facts))
    };
    seen.plan.policies.iter().filter_map(of_policy).collect()
}

fn count(picture: &Picture, metrics: &Metrics) {
    let names: BTreeSet<&ClusterName> = picture.inventory.clusters.keys().chain(picture.fleet.keys()).collect();
    let mut modes: BTreeMap<Mode, i64> = BTreeMap::new();
    for name in names {
        *modes.entry(picture.fleet.get(name).map_or(Mode::Active, |state| state.mode)).or_default() += 1;
    }
    let all = [Mode::Active, Mode::Cordoned, Mode::Draining, Mode::Drained, Mode::Returning, Mode::Removed];
    for mode in all {
        let label = ClusterMode { mode: word(mode) };
        metrics.clusters.get_or_create(&label).set(modes.get(&mode).copied().unwrap_or_default());
    }
}

/// As labels have it.
fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Active => "active",
        Mode::Cordoned => "cordoned",
        Mode::Draining => "draining",
        Mode::Drained => "drained",
        Mode::Returning => "returning",
        Mode::Removed => "removed",
    }
}

fn log(update: &Update) {
    let Update { before, after } = update;
    let (cluster, from, mode, percent) = (&after.cluster, before.mode, after.mode, after.percent);
    let (operation, why, detail) = (&after.operation.id, after.operation.why, &after.operation.message);
    let ended = before.operation.ended_at.is_none() && after.operation.ended_at.is_some();
    if from != mode || ended {
        info!(%cluster, %from, %mode, percent, operation, %why, detail, "the cluster is where an operator wants it, or on its way");
    } else if before.percent != percent {
        info!(%cluster, %mode, percent, operation, %why, detail, "the cluster's share makes its next step");
    } else {
        debug!(%cluster, %mode, percent, operation, %why, detail, "the cluster stays in its step");
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
