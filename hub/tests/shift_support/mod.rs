//! Shifts in tests without an engine: calls in one line, and the engine's part played by hand over a world in which every target
//! is healthy and every weight that is asked for is read back at once.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;

use jiff::Timestamp;
use switchyard_core::{
    ids::PolicyKey,
    shift::{
        Shift,
        machine::observe,
        view::{ClusterView, Evidence, GatingSwitch, PolicyView, View},
    },
    status::TargetCounts,
};
use switchyard_hub::store::{ShiftUpdate, StoredPolicy};
use switchyard_proto::api::v1 as api;
use tonic::Status;
use uuid::Uuid;

use crate::{
    grpc_support::{Hub, policy_ref, weights},
    store_support::fence,
};

pub fn request_id() -> String {
    Uuid::new_v4().to_string()
}

/// All of a policy's traffic to this cluster.
pub fn target(name: &str, to: &str) -> api::ShiftPolicy {
    api::ShiftPolicy { policy: Some(policy_ref(name)), to_cluster: to.to_owned(), ..Default::default() }
}

/// All of it, at once.
pub fn flip(name: &str, to: &str) -> api::ShiftSpec {
    api::ShiftSpec { policies: vec![target(name, to)], ..Default::default() }
}

/// (percent, approval) of each step.
pub fn steps(name: &str, to: &str, steps: &[(u32, bool)]) -> api::ShiftSpec {
    let step = |(percent, approval): &(u32, bool)| api::ShiftStep {
        percent: *percent,
        approval: *approval,
        ..Default::default()
    };
    let strategy = api::ShiftStrategy { steps: steps.iter().map(step).collect(), ..Default::default() };
    api::ShiftSpec { strategy: Some(strategy), ..flip(name, to) }
}

pub fn create_request(spec: api::ShiftSpec) -> api::CreateShiftRequest {
    api::CreateShiftRequest { request_id: request_id(), spec: Some(spec), dry_run: false }
}

pub async fn create(hub: &Hub, spec: api::ShiftSpec) -> Result<api::Shift, Status> {
    Ok(hub.shifts().create_shift(create_request(spec)).await?.into_inner().shift.unwrap())
}

pub async fn get(hub: &Hub, id: &str) -> Result<api::Shift, Status> {
    let request = api::GetShiftRequest { id: id.to_owned() };
    Ok(hub.shifts().get_shift(request).await?.into_inner().shift.unwrap())
}

pub async fn abort(hub: &Hub, id: &str) -> Result<api::Shift, Status> {
    let request = api::AbortShiftRequest { request_id: request_id(), id: id.to_owned(), ..Default::default() };
    Ok(hub.shifts().abort_shift(request).await?.into_inner().shift.unwrap())
}

pub fn status(shift: &api::Shift) -> &api::ShiftStatus {
    shift.status.as_ref().unwrap()
}

/// The weights that a policy asks for, by its API.
pub async fn requested(hub: &Hub, name: &str) -> BTreeMap<String, u32> {
    let request = api::GetPolicyRequest { policy: Some(policy_ref(name)) };
    let policy = hub.policies().get_policy(request).await.unwrap().into_inner().policy.unwrap();
    let clusters = policy.status.unwrap().clusters;
    clusters.into_iter().map(|cluster| (cluster.cluster, cluster.requested_weight)).collect()
}

/// Weights to compare with.
pub fn map(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
    weights(pairs).into_iter().collect()
}

fn view(stored: &StoredPolicy) -> PolicyView {
    let record = &stored.record;
    let clusters = record.requested().into_iter().map(|(cluster, weight)| ClusterView {
        mode: Default::default(),
        cluster,
        programmed: Some(weight),
        known: true,
        targets: TargetCounts { desired: 4, registered: 4, healthy: 4, ..TargetCounts::default() },
        target_group: None,
    });
    PolicyView {
        uid: record.uid.clone(),
        deleting: record.deleting_since.is_some(),
        frozen: record.policy.freeze,
        safety: record.policy.safety.clone(),
        capacity: record.policy.capacity.clone(),
        requested: record.requested(),
        clusters: clusters.collect(),
        programmed: Some(true),
        converged: true,
        moved_at: None,
        trouble: None,
        evidence: Evidence::NotConfigured,
    }
}

/// One look of an engine; the shift afterwards, and whether it moved.
pub async fn turn(hub: &Hub, id: &str) -> (Shift, bool) {
    turn_at(hub, id, Timestamp::now()).await
}

async fn turn_at(hub: &Hub, id: &str, now: Timestamp) -> (Shift, bool) {
    hub.feed.refreshed().await;
    let picture = hub.feed.picture();
    let before = hub.store.shift_get(&id.parse().unwrap()).await.unwrap().unwrap();
    let policies: BTreeMap<PolicyKey, PolicyView> =
        picture.policies.iter().map(|(key, stored)| (key.clone(), view(stored))).collect();
    let switches: Vec<GatingSwitch> = picture.switches.iter().map(|stored| stored.switch.clone()).collect();
    let view = View { now, policies: &policies, switches: &switches, measured: &[] };
    let outcome = observe(before.clone(), &view);
    if outcome.shift == before && outcome.writes.is_empty() {
        return (before, false);
    }
    let update = ShiftUpdate { before_version: before.version, shift: &outcome.shift, writes: &outcome.writes };
    let won = hub.store.shifts_save(fence(&hub.store).await, &[update]).await.unwrap();
    (outcome.shift, !won.is_empty())
}

/// Looks until nothing moves any more: the shift waits for somebody, or is over.
pub async fn drive(hub: &Hub, id: &str) -> api::Shift {
    drive_at(hub, id, Timestamp::now()).await
}

/// The same, by this clock.
pub async fn drive_at(hub: &Hub, id: &str, now: Timestamp) -> api::Shift {
    while turn_at(hub, id, now).await.1 {}
    hub.feed.refreshed().await;
    get(hub, id).await.unwrap()
}
