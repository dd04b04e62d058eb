//! Readiness gates: what the load balancer thinks of the pods that wait for it, and whether it can be asked at all.
//!
//! A gate (`target-health.switchyard.dev/<policy>`) keeps a pod from being Ready until its target is healthy, so that a rollout
//! does not outrun the load balancer. It must never be the reason that a rollout stands still while nobody judges (D21):
//! [`standing`] says when the agent may stop waiting. Tests: `core/tests/gate.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    fleet,
    ids::{ClusterName, PodUid, PolicyName},
    inventory::{EndpointState, Inventory, ServiceKey},
    observed::{Health, Target, TargetState},
    policy::PolicyRecord,
    status::{ConditionType, PolicyStatus, Reason},
};

/// What is known of the gated pods of one policy in one cluster; stored when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateBook {
    /// True: the targets could not be read for too long, so the verdicts are of no use any more.
    pub stale: bool,
    /// In the order of the targets.
    pub targets: Vec<GatedTarget>,
}

/// The target of a pod that carries the policy's gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatedTarget {
    /// The pod.
    pub pod_uid: PodUid,
    /// Where it answers.
    pub target: Target,
    /// What the load balancer thinks of it.
    pub verdict: Verdict,
    /// ELBv2's reason code, such as `Target.FailedHealthChecks`; empty when there is none.
    pub reason: String,
}

/// What the load balancer thinks of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// Not known at this moment: just written and not read back, or ELB itself cannot say.
    Unknown,
    /// Not in the target group.
    Unregistered,
    /// Registered, not judged yet.
    Initial,
    /// Passes its checks.
    Healthy,
    /// Fails its checks.
    Unhealthy,
    /// In a group that no rule uses.
    Unused,
    /// Deregistered, finishing.
    Draining,
}

impl From<Health> for Verdict {
    fn from(health: Health) -> Self {
        match health {
            Health::Initial => Verdict::Initial,
            Health::Healthy => Verdict::Healthy,
            Health::Unhealthy => Verdict::Unhealthy,
            Health::Unused => Verdict::Unused,
            Health::Draining => Verdict::Draining,
            Health::Unavailable => Verdict::Unknown,
        }
    }
}

/// The targets of the pods in this cluster that carry the policy's gate. `registered`: as read back; none when it is not known
/// now, or there is no group.
pub fn targets(
    policy: &PolicyName,
    cluster: &ClusterName,
    service: &ServiceKey,
    inventory: &Inventory,
    registered: Option<&BTreeMap<Target, TargetState>>,
) -> Vec<GatedTarget> {
    let mut found = Vec::new();
    for (target, uid, endpoint) in inventory.endpoints_of(cluster, service) {
        let lives = matches!(endpoint.state, EndpointState::Present { terminating: false, .. });
        if !lives || !endpoint.gates.contains(policy) {
            continue;
        }
        let (verdict, reason) = match registered.map(|targets| targets.get(&target)) {
            None => (Verdict::Unknown, String::new()),
            Some(None) => (Verdict::Unregistered, String::new()),
            Some(Some(state)) => (state.health.into(), state.reason.clone()),
        };
        found.push(GatedTarget { pod_uid: uid.clone(), target, verdict, reason });
    }
    found
}

/// Whether gates of a policy are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// The load balancer judges the targets.
    Judged,
    /// Nothing is judged at this moment; waiting for it is bounded.
    Suspended,
    /// It will never be judged.
    Released,
}

/// How the gates of a policy stand in one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The mode.
    pub mode: Mode,
    /// A CamelCase word, stable for programs.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Standing {
    fn new(mode: Mode, reason: impl ToString, message: impl Into<String>) -> Self {
        Self { mode, reason: reason.to_string(), message: message.into() }
    }
}

/// The mode of a cluster that carries nothing because an operator wants it so: rollouts there go on, such as those of an upgrade for
/// which it was drained.
fn out_on_purpose(status: &PolicyStatus, cluster: &ClusterName) -> Option<fleet::Mode> {
    let explained = status.failover.clusters.iter().find(|explained| explained.cluster == *cluster)?;
    let out = match explained.mode {
        fleet::Mode::Drained | fleet::Mode::Removed => true,
        fleet::Mode::Draining => explained.ceiling == 0,
        fleet::Mode::Active | fleet::Mode::Cordoned | fleet::Mode::Returning => false,
    };
    out.then_some(explained.mode)
}

/// Decides the mode from what the hub says of the policy. `fresh` is false when the hub itself works from memory, since then
/// nothing that it knows of targets is of this moment.
pub fn standing(
    record: &PolicyRecord,
    status: Option<&PolicyStatus>,
    cluster: &ClusterName,
    book: Option<&GateBook>,
    fresh: bool,
) -> Standing {
    if record.deleting_since.is_some() {
        return Standing::new(Mode::Released, Reason::Deleting, "the policy is being deleted");
    }
    if record.policy.service.targets_nodes() {
        let message = "the policy's targets are nodes, whose health says nothing of one pod";
        return Standing::new(Mode::Released, "InstanceTargets", message);
    }
    if !fresh {
        let message = "the hub cannot read its store, so it does not know the targets of this moment";
        return Standing::new(Mode::Suspended, "HubWorksFromMemory", message);
    }
    if let Some(mode) = status.and_then(|status| out_on_purpose(status, cluster)) {
        let message = format!(
            "an operator wants cluster {cluster} without a share ({mode}), so its pods are registered nowhere on purpose; they \
             need not wait"
        );
        return Standing::new(Mode::Released, "ClusterDrained", message);
    }
    if record.policy.freeze {
        let message = "the policy is frozen (spec.safety.freeze), so the hub registers no new targets";
        return Standing::new(Mode::Suspended, Reason::Frozen, message);
    }
    let Some(status) = status else {
        return Standing::new(Mode::Suspended, Reason::NotObservedYet, "the hub has not looked at the policy yet");
    };
    let of_cluster = status.clusters.iter().find(|entry| entry.cluster == *cluster);
    // A weight that was read back means that the group stands in the rule, if with weight 0: only then ELB checks its targets.
    if of_cluster.is_none_or(|entry| entry.programmed.is_none()) {
        let programmed = status.condition(ConditionType::Programmed);
        let reason = programmed.map_or(Reason::InProgress, |condition| condition.reason);
        let why = programmed.map_or_else(String::new, |condition| format!(": {}", condition.message));
        let message = format!("the cluster's target group is not in the policy's rule yet{why}");
        return Standing::new(Mode::Suspended, reason, message);
    }
    if book.is_some_and(|book| book.stale) {
        let message = "the health of the targets could not be read from AWS for a while";
        return Standing::new(Mode::Suspended, "HealthNotRead", message);
    }
    if let Some(note) = status.notes.iter().find(|note| note.reason == Reason::ObserveOnly) {
        return Standing::new(Mode::Suspended, Reason::ObserveOnly, note.message.clone());
    }
    let note = status.notes.iter().find(|note| note.cluster.as_ref() == Some(cluster));
    Standing::new(Mode::Judged, "Judged", note.map_or_else(String::new, |note| note.message.clone()))
}
