//! What an agent was told of target health, and what differs from it now. Level-triggered, as for watchers of policies: an agent
//! that reads slowly skips what came in between. Pure.

use std::{collections::BTreeMap, sync::Arc};

use switchyard_core::{
    gate::{self, GatedTarget, Mode, Verdict},
    ids::{ClusterName, PolicyKey},
    inventory::ServiceKey,
};
use switchyard_proto::{
    agent::v1::{self as proto, watch_target_health_response::Message},
    api::v1::PolicyRef,
};

use crate::{feed::Picture, store::StoredPolicy};

/// Targets in one message; with addresses and reasons some 50 kB.
const MOST_TARGETS: usize = 500;

/// What one agent was told last.
#[derive(Default)]
pub struct Told {
    policies: BTreeMap<PolicyKey, (Arc<StoredPolicy>, proto::PolicyHealth)>,
    fresh: bool,
    synced: bool,
}

impl Told {
    /// What to tell now, so that the agent of this cluster knows the picture. `fresh`: the picture is of this moment.
    pub fn difference(&mut self, picture: &Picture, cluster: &ClusterName, fresh: bool) -> Vec<Message> {
        let mut messages = Vec::new();
        let names = |stored: &StoredPolicy| stored.record.policy.clusters.iter().any(|(name, _)| name == cluster);
        let named = |key: &PolicyKey| picture.policies.get(key).is_some_and(|stored| names(stored));
        let gone: Vec<PolicyKey> = self.policies.keys().filter(|key| !named(key)).cloned().collect();
        for key in gone {
            self.policies.remove(&key);
            messages.push(Message::Policy(farewell(&key)));
        }
        for (key, stored) in picture.policies.iter().filter(|(_, stored)| names(stored)) {
            let before = self.policies.get(key);
            if fresh == self.fresh && before.is_some_and(|(known, _)| Arc::ptr_eq(known, stored)) {
                continue;
            }
            let health = health(key, stored, cluster, fresh);
            if before.is_none_or(|(_, told)| *told != health) {
                messages.extend(in_parts(&health).map(Message::Policy));
            }
            self.policies.insert(key.clone(), (Arc::clone(stored), health));
        }
        self.fresh = fresh;
        if !self.synced {
            self.synced = true;
            messages.push(Message::Synced(proto::HealthSynced {}));
        }
        messages
    }
}

fn to_proto_ref(key: &PolicyKey) -> PolicyRef {
    PolicyRef { namespace: key.namespace.to_string(), name: key.name.to_string() }
}

fn to_proto_service(key: &ServiceKey) -> proto::ServiceRef {
    crate::grpc::convert::to_proto_service_ref(key)
}

fn farewell(key: &PolicyKey) -> proto::PolicyHealth {
    proto::PolicyHealth { policy: Some(to_proto_ref(key)), gone: true, ..proto::PolicyHealth::default() }
}

fn health(key: &PolicyKey, stored: &StoredPolicy, cluster: &ClusterName, fresh: bool) -> proto::PolicyHealth {
    let book = stored.gates.get(cluster);
    let standing = gate::standing(&stored.record, stored.status.as_ref(), cluster, book, fresh);
    let mode = match standing.mode {
        Mode::Judged => proto::GateMode::Judged,
        Mode::Suspended => proto::GateMode::Suspended,
        Mode::Released => proto::GateMode::Released,
    };
    proto::PolicyHealth {
        policy: Some(to_proto_ref(key)),
        service: Some(to_proto_service(&stored.record.policy.service)),
        gone: false,
        mode: mode.into(),
        reason: standing.reason,
        message: standing.message,
        targets: book.map(|book| book.targets.iter().map(to_proto_target).collect()).unwrap_or_default(),
        more: false,
    }
}

fn to_proto_target(gated: &GatedTarget) -> proto::GatedTarget {
    let health = match gated.verdict {
        Verdict::Unknown => proto::TargetHealth::Unspecified,
        Verdict::Unregistered => proto::TargetHealth::Unregistered,
        Verdict::Initial => proto::TargetHealth::Initial,
        Verdict::Healthy => proto::TargetHealth::Healthy,
        Verdict::Unhealthy => proto::TargetHealth::Unhealthy,
        Verdict::Unused => proto::TargetHealth::Unused,
        Verdict::Draining => proto::TargetHealth::Draining,
    };
    proto::GatedTarget {
        pod_uid: gated.pod_uid.to_string(),
        address: gated.target.id.to_string(),
        port: u32::from(gated.target.port),
        health: health.into(),
        reason: gated.reason.clone(),
    }
}

/// Messages of at most [`MOST_TARGETS`] each; one for a policy without targets.
fn in_parts(whole: &proto::PolicyHealth) -> impl Iterator<Item = proto::PolicyHealth> {
    let count = whole.targets.len().div_ceil(MOST_TARGETS).max(1);
    (0..count).map(move |part| {
        let from = part * MOST_TARGETS;
        let to = (from + MOST_TARGETS).min(whole.targets.len());
        let targets = whole.targets[from..to].to_vec();
        proto::PolicyHealth { targets, more: part + 1 < count, ..bare(whole) }
    })
}

fn bare(whole: &proto::PolicyHealth) -> proto::PolicyHealth {
    proto::PolicyHealth {
        policy: whole.policy.clone(),
        service: whole.service.clone(),
        gone: whole.gone,
        mode: whole.mode,
        reason: whole.reason.clone(),
        message: whole.message.clone(),
        targets: Vec::new(),
        more: false,
    }
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
