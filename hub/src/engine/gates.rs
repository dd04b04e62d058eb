//! The health of pods that carry a readiness gate is stored when it changed, for whichever replica tells it to their agents.
//! Decides nothing: what a verdict is, `switchyard_core::gate` says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use switchyard_core::{
    arn::TargetGroupArn,
    gate::{self, GateBook},
    ids::{ClusterName, Epoch, PolicyUid},
    plan::{RegionPlan, World},
};
use tokio::time::Instant;
use tracing::warn;

use super::{cache::Cache, cycle::Engine};
use crate::{
    feed::Picture,
    store::{Fence, GateBooks},
};

/// Verdicts older than this are of no use. Health is read every few seconds; with thousands of groups the Describe budget of
/// AWS (10 a second where it is smallest) still comes round in 5 minutes.
const STALE: Duration = Duration::from_secs(300);
/// For this long an unknown health, as after a call without an answer, does not replace one that was known.
const UNKNOWN_IS_NO_NEWS: Duration = Duration::from_secs(15);

/// What is known of one cluster's gated pods, before its age is looked at.
#[derive(Debug)]
pub(super) struct Sighting {
    group: Option<TargetGroupArn>,
    known: bool,
    book: GateBook,
}

/// By policy and cluster; clusters without gated pods are not in it.
pub(super) type Sightings = BTreeMap<PolicyUid, BTreeMap<ClusterName, Sighting>>;

/// Looks for gated pods in every cluster of every policy.
pub(super) fn sightings(world: &World<'_>, plan: &RegionPlan) -> Sightings {
    let mut found = Sightings::new();
    for (key, planned) in &plan.policies {
        let Some(record) = world.policies.get(key) else { continue };
        for status in &planned.status.clusters {
            let group = status.target_group.as_ref();
            let registered = group.and_then(|arn| world.observed.target_groups.get(arn)).and_then(|g| g.targets.get());
            let (cluster, service) = (&status.cluster, &record.policy.service);
            let targets = gate::targets(&key.name, cluster, service, world.inventory, registered);
            if !targets.is_empty() {
                let book = GateBook { stale: false, targets };
                let sighting = Sighting { group: group.cloned(), known: registered.is_some(), book };
                found.entry(record.uid.clone()).or_default().insert(cluster.clone(), sighting);
            }
        }
    }
    found
}

/// What was stored in this term, and since when something is not known.
#[derive(Default)]
pub(super) struct GateTerm {
    saved: BTreeMap<PolicyUid, GateBooks>,
    unknown_since: BTreeMap<Place, Instant>,
}

impl GateTerm {
    /// The books to store at this time, given what was stored before.
    fn books(
        &mut self,
        sightings: Sightings,
        picture: &Picture,
        cache: &Cache,
        now: Instant,
    ) -> BTreeMap<PolicyUid, GateBooks> {
        let mut updates = BTreeMap::new();
        let mut sightings = sightings;
        let mut alive = BTreeSet::new();
        let Self { saved, unknown_since } = self;
        for stored in picture.policies.values() {
            let uid = &stored.record.uid;
            alive.insert(uid.clone());
            let before = saved.get(uid).unwrap_or(&stored.gates);
            let mut books = GateBooks::new();
            for (cluster, sighting) in sightings.remove(uid).unwrap_or_default() {
                let place = (uid.clone(), cluster.clone());
                let age = sighting.group.as_ref().and_then(|arn| cache.targets_age(arn));
                let book = book(unknown_since, place, sighting, before.get(&cluster), age, now);
                books.insert(cluster, book);
            }
            if books != *before {
                updates.insert(uid.clone(), books);
            }
        }
        saved.retain(|uid, _| alive.contains(uid));
        unknown_since.retain(|(uid, _), _| alive.contains(uid));
        updates
    }
}

/// One policy in one cluster.
type Place = (PolicyUid, ClusterName);

/// The book of one cluster, given the last one and the age of what was read.
fn book(
    unknown_since: &mut BTreeMap<Place, Instant>,
    place: Place,
    sighting: Sighting,
    last: Option<&GateBook>,
    age: Option<Duration>,
    now: Instant,
) -> GateBook {
    let Sighting { known, mut book, .. } = sighting;
    if known {
        unknown_since.remove(&place);
        book.stale = age.is_none_or(|age| age > STALE);
        return book;
    }
    let since = *unknown_since.entry(place).or_insert(now);
    let unknown_for = now.saturating_duration_since(since);
    match last {
        Some(last) if unknown_for < UNKNOWN_IS_NO_NEWS => last.clone(),
        Some(_) | None => {
            book.stale = unknown_for > STALE;
            book
        }
    }
}

impl Engine {
    pub(super) async fn save_gates(&mut self, epoch: Epoch, picture: &Picture, sightings: Sightings) {
        let updates = self.term.gates.books(sightings, picture, &self.cache, Instant::now());
        if updates.is_empty() {
            return;
        }
        let scope = self.options.scope();
        match self.store.policy_gates_save(Fence { scope: &scope, epoch }, &updates).await {
            Ok(()) => self.term.gates.saved.extend(updates),
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    policies = updates.len(),
                    "the health of pods with readiness gates was not stored; it is tried again"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use switchyard_core::{
        gate::{GatedTarget, Verdict},
        observed::Target,
    };

    use super::*;

    fn sighting(known: bool, verdict: Verdict) -> Sighting {
        let target = Target::ip(Ipv4Addr::new(10, 0, 0, 1), 80);
        let gated = GatedTarget { pod_uid: "pod".parse().unwrap(), target, verdict, reason: String::new() };
        let book = GateBook { stale: false, targets: vec![gated] };
        Sighting { group: None, known, book }
    }

    fn place() -> (PolicyUid, ClusterName) {
        ("uid".parse().unwrap(), "blue".parse().unwrap())
    }

    #[test]
    fn a_health_that_is_unknown_for_a_moment_is_no_news_and_then_it_is() {
        let (mut unknown_since, start) = (BTreeMap::new(), Instant::now());
        let last = sighting(true, Verdict::Initial).book;
        let mut after = |time: Duration| {
            book(&mut unknown_since, place(), sighting(false, Verdict::Unknown), Some(&last), Some(time), start + time)
        };
        assert_eq!(after(Duration::ZERO), last);
        assert_eq!(after(UNKNOWN_IS_NO_NEWS), sighting(false, Verdict::Unknown).book);
        assert!(after(STALE + Duration::from_secs(1)).stale);
    }

    #[test]
    fn verdicts_that_were_not_read_again_for_too_long_are_stale_until_they_are() {
        let mut unknown_since = BTreeMap::new();
        let mut stale =
            |age| book(&mut unknown_since, place(), sighting(true, Verdict::Initial), None, age, Instant::now()).stale;
        assert!(!stale(Some(Duration::ZERO)));
        assert!(stale(Some(STALE + Duration::from_secs(1))));
        assert!(!stale(Some(STALE)));
        assert!(stale(None), "never read");
    }
}
