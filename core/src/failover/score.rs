//! How healthy a cluster is for a policy: healthy targets over those that it should have. The load balancer's verdict comes first,
//! the agent's word counts where there is none yet. Tests: `core/tests/failover_score.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::WHOLE;

/// For this long pods that are gone without having been taken down in an orderly way are still expected: longer than an autoscaler
/// takes to bring nodes for them.
pub const EXPECTED_WINDOW: Duration = Duration::from_secs(900);
/// Zones that are told apart; a region has at most 6, and names come from outside.
const MOST_ZONES: usize = 16;

/// The targets of one cluster at one reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// When the load balancer was asked.
    pub read_at: Timestamp,
    /// By zone; empty where it is not known.
    pub zones: BTreeMap<String, ZoneSight>,
}

/// The targets in one zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneSight {
    /// Pods that exist and are not on their way out, ready or not, by the agent's word.
    pub present: u32,
    /// Of them ready.
    pub ready: u32,
    /// Registered and healthy by the load balancer, those that go by this plan left out.
    pub healthy: u32,
    /// Ready by the agent's word, without a verdict yet.
    pub unjudged: u32,
    /// Registered and unhealthy.
    pub unhealthy: u32,
}

/// How many targets a zone should have, and what it was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The number.
    pub targets: u32,
    /// Ready when last seen.
    pub ready: u32,
    /// Present when last seen.
    pub present: u32,
    /// Since when fewer pods exist than are expected.
    pub short_since: Option<Timestamp>,
}

/// The sums over the zones that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Targets that it should have.
    pub expected: u32,
    /// Healthy by the load balancer.
    pub healthy: u32,
    /// Without a verdict yet, ready by the agent's word.
    pub unjudged: u32,
    /// Unhealthy by the load balancer.
    pub unhealthy: u32,
}

impl Sight {
    /// The zone of a target, one of a bounded number.
    pub fn zone(&mut self, name: &str) -> &mut ZoneSight {
        let known = self.zones.contains_key(name) || self.zones.len() < MOST_ZONES;
        self.zones.entry(if known { name.to_owned() } else { String::new() }).or_default()
    }
}

impl Expected {
    /// What a zone should have from now on. Pods that were ready and then were taken down are not expected any more; pods that fell
    /// ill stay expected, also when they are gone, until they are back or [`EXPECTED_WINDOW`] is over.
    pub fn next(last: Option<Expected>, seen: &ZoneSight, now: Timestamp) -> Expected {
        let Some(last) = last else {
            // With nothing remembered, what is registered was once ready.
            let registered = seen.healthy + seen.unhealthy;
            return Expected { targets: seen.ready.max(registered), ..Expected::of(seen) };
        };
        let orderly = last.ready.saturating_sub(seen.ready).min(last.present.saturating_sub(seen.present));
        let targets = last.targets.saturating_sub(orderly).max(seen.ready);
        if targets <= seen.present {
            return Expected { targets, ..Expected::of(seen) };
        }
        let since = last.short_since.filter(|since| *since <= now).unwrap_or(now);
        if now.duration_since(since).unsigned_abs() >= EXPECTED_WINDOW {
            return Expected { targets: seen.ready.max(seen.present), ..Expected::of(seen) };
        }
        Expected { targets, short_since: Some(since), ..Expected::of(seen) }
    }

    fn of(seen: &ZoneSight) -> Expected {
        Expected { targets: 0, ready: seen.ready, present: seen.present, short_since: None }
    }
}

/// The zones in which no cluster has a healthy target, while at least two clusters have targets there and another zone is alive: what
/// failed is the zone, not the clusters.
pub fn lost_zones<'a>(sights: impl Iterator<Item = (&'a Sight, &'a BTreeMap<String, Expected>)>) -> BTreeSet<String> {
    // By zone: clusters with targets there, and whether any of these is alive.
    let mut zones: BTreeMap<&str, (u32, bool)> = BTreeMap::new();
    for (sight, expected) in sights {
        // A zone whose pods are gone already is still expected for a while.
        let names: BTreeSet<&String> = sight.zones.keys().chain(expected.keys()).collect();
        for name in names {
            let zone = sight.zones.get(name).copied().unwrap_or_default();
            let targets = expected.get(name).map_or(0, |expected| expected.targets);
            if targets + zone.unhealthy == 0 || name.is_empty() {
                continue;
            }
            let entry = zones.entry(name).or_default();
            entry.0 += 1;
            entry.1 |= zone.healthy + zone.unjudged > 0;
        }
    }
    if !zones.values().any(|(_, alive)| *alive) {
        return BTreeSet::new();
    }
    let lost = zones.into_iter().filter(|(_, (clusters, alive))| *clusters > 1 && !alive);
    lost.map(|(name, _)| name.to_owned()).collect()
}

/// The sums over all zones but the lost ones.
pub fn counts(sight: &Sight, expected: &BTreeMap<String, Expected>, lost: &BTreeSet<String>) -> Counts {
    let mut counts = Counts::default();
    for (_, zone) in sight.zones.iter().filter(|(name, _)| !lost.contains(*name)) {
        counts.healthy += zone.healthy;
        counts.unjudged += zone.unjudged;
        counts.unhealthy += zone.unhealthy;
    }
    let zones = expected.iter().filter(|(name, _)| !lost.contains(*name));
    counts.expected = zones.map(|(_, expected)| expected.targets).sum();
    // An agent that sees an empty API server: what is registered and judged should be healthy all the same. Beside pods that are
    // there, a dead target that nobody wants says nothing of the cluster.
    if counts.expected == 0 {
        counts.expected = counts.healthy + counts.unhealthy;
    }
    counts
}

impl Counts {
    /// 0..=1000. Targets that answer although nobody expects them (an agent that sees an empty API server) are health all the same.
    pub fn score(&self) -> u32 {
        let alive = u64::from(self.healthy) + u64::from(self.unjudged);
        let expected = u64::from(self.expected).max(1);
        u32::try_from((alive * u64::from(WHOLE) / expected).min(u64::from(WHOLE))).unwrap_or(WHOLE)
    }
}
