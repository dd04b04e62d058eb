//! Shifts for tests: plans as users write them, and an engine whose load balancer does at once what it is asked for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_core::{
    ids::{ClusterName, PolicyKey, ShiftId, Weight},
    shift::{
        Origin, Shift, ShiftSpec,
        machine::{Outcome, observe},
        validate::{ShiftPlan, validate},
        view::{ClusterView, Evidence, PolicyView, View},
    },
    status::TargetCounts,
};
use switchyard_hub::store::{Fence, ShiftError, ShiftUpdate, Store, StoredPolicy};

use super::{fresh, key};

/// The plan of a spec, as a user of namespace shop writes it.
pub fn plan(spec: Value) -> ShiftPlan {
    let spec: ShiftSpec = serde_json::from_value(spec).unwrap();
    validate(&spec, &"shop".parse().unwrap(), false).unwrap()
}

/// All of these policies to this cluster at once.
pub fn flip(names: &[&str], to: &str) -> ShiftPlan {
    let policies: Vec<Value> = names.iter().map(|name| json!({"name": name, "to": to})).collect();
    plan(json!({"policies": policies, "reason": "a flip"}))
}

/// In two steps, with half an hour of bake time between them.
pub fn halves(names: &[&str], to: &str) -> ShiftPlan {
    let policies: Vec<Value> = names.iter().map(|name| json!({"name": name, "to": to})).collect();
    let steps = json!([{"percent": 50, "bakeSeconds": 1800}, {"percent": 100}]);
    plan(json!({"policies": policies, "strategy": {"steps": steps}}))
}

pub async fn create(store: &Store, plan: &ShiftPlan) -> Result<Shift, ShiftError> {
    store.shift_create(&fresh(), plan, &Origin::Call).await
}

pub async fn stored(store: &Store, id: &ShiftId) -> Shift {
    store.shift_get(id).await.unwrap().unwrap()
}

/// What the policies ask for now.
pub async fn asked(store: &Store, name: &str) -> BTreeMap<String, u32> {
    let policy = store.policy_get(&key(name)).await.unwrap().unwrap();
    words(&policy.record.requested())
}

pub fn words(weights: &[(ClusterName, Weight)]) -> BTreeMap<String, u32> {
    weights.iter().map(|(name, weight)| (name.to_string(), weight.get())).collect()
}

pub fn pairs(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
    pairs.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
}

/// A policy for which AWS has done what is asked for, with enough healthy targets everywhere.
fn view_of(stored: &StoredPolicy) -> PolicyView {
    let record = &stored.record;
    let targets = TargetCounts { desired: 9, registered: 9, healthy: 9, ..TargetCounts::default() };
    let cluster = |(name, weight): (ClusterName, Weight)| ClusterView {
        mode: Default::default(),
        cluster: name,
        programmed: Some(weight),
        known: true,
        targets,
        target_group: None,
    };
    PolicyView {
        clusters: record.requested().into_iter().map(cluster).collect(),
        programmed: Some(true),
        converged: true,
        ..PolicyView::new(record, None, &stored.memory, None, Evidence::NotConfigured)
    }
}

/// What the engine would make of a shift now.
pub async fn look(store: &Store, shift: &Shift) -> Outcome {
    look_without(store, shift, &[]).await
}

/// The same, when its picture lacks these policies.
pub async fn look_without(store: &Store, shift: &Shift, missing: &[&str]) -> Outcome {
    let mut policies: BTreeMap<PolicyKey, PolicyView> = BTreeMap::new();
    for one in shift.moves.iter().filter(|one| !missing.contains(&one.policy.name.as_str())) {
        if let Some(stored) = store.policy_get(&one.policy).await.unwrap() {
            policies.insert(one.policy.clone(), view_of(&stored));
        }
    }
    let now = Timestamp::now().max(shift.since);
    observe(shift.clone(), &View { now, policies: &policies, switches: &[], measured: &[] })
}

/// Looks at a shift as stored, and saves what came of it; true when that was stored.
pub async fn drive(store: &Store, fence: Fence<'_>, id: &ShiftId) -> bool {
    let before = stored(store, id).await;
    let outcome = look(store, &before).await;
    if outcome.shift == before {
        return false;
    }
    let update = ShiftUpdate { before_version: before.version, shift: &outcome.shift, writes: &outcome.writes };
    store.shifts_save(fence, &[update]).await.unwrap() == [id.clone()]
}
