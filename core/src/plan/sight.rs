//! How healthy the targets of one group are, by zone: what [`crate::failover::score`] counts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::targets::Input;
use crate::{
    failover::Sight,
    inventory::{EndpointState, Inventory},
    observed::{Health, Target, TargetState},
};

/// `present`: the registered targets without those that are draining; `leaving`: those of them that go by this plan.
pub(super) fn of(
    input: &Input<'_>,
    inventory: &Inventory,
    present: &BTreeMap<Target, &TargetState>,
    leaving: &[(Target, &'static str)],
    read_at: Timestamp,
) -> Sight {
    let mut sight = Sight { read_at, zones: BTreeMap::new() };
    // What the agent says of each address; of several pods that had it, those that exist.
    let mut zones: BTreeMap<Target, (&str, bool)> = BTreeMap::new();
    for (target, _, endpoint) in inventory.endpoints_of(&input.cluster.name, input.service) {
        let exists = matches!(endpoint.state, EndpointState::Present { terminating: false, .. });
        let ready = endpoint.state.wants_traffic();
        let entry = zones.entry(target).or_insert((&endpoint.zone, false));
        if exists {
            let zone = sight.zone(&endpoint.zone);
            zone.present += 1;
            zone.ready += u32::from(ready);
            *entry = (&endpoint.zone, entry.1 || ready);
        }
    }
    // What an operator drains is as healthy as it was: it goes for no fault of its own.
    let leaving: &[_] = if input.drained { &[] } else { leaving };
    let leaving: BTreeSet<Target> = leaving.iter().map(|(target, _)| *target).collect();
    for (target, state) in present.iter().filter(|(target, _)| !leaving.contains(target)) {
        let (zone, ready) = zones.get(target).copied().unwrap_or(("", false));
        let zone = sight.zone(zone);
        match state.health {
            Health::Healthy => zone.healthy += 1,
            Health::Unhealthy => zone.unhealthy += 1,
            // No verdict: the agent's word counts.
            Health::Initial | Health::Unused | Health::Unavailable => zone.unjudged += u32::from(ready),
            Health::Draining => {}
        }
    }
    for (target, (zone, ready)) in zones {
        if ready && !present.contains_key(&target) {
            sight.zone(zone).unjudged += 1;
        }
    }
    sight
}
