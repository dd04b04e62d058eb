//! The small types of readiness gates: pods that carry them, what the hub says of their targets, and what is written.
//!
//! Values only: nothing of kube, protobuf or tokio may be imported here.

use std::{collections::HashMap, time::Duration};

use crate::index::objects::PodObject;

/// What the name of every gate begins with; the policy's name follows.
pub use crate::index::objects::GATE_PREFIX as PREFIX;
/// Kubernetes' bound on the part of a condition's name behind the slash, in characters.
pub const MAX_POLICY_NAME: usize = 63;

/// Why a gate is open whose target is healthy.
pub const HEALTHY: &str = "TargetHealthy";

/// Time since the process began.
pub type Moment = Duration;

/// A policy; its gates stand in pods of its own namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Namespace of the policy.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A living pod that carries gates of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatedPod {
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
    /// metadata.uid.
    pub uid: String,
    /// The condition ContainersReady is True.
    pub containers_ready: bool,
    /// (policy, what the pod's condition shows), one for each gate.
    pub gates: Vec<(String, Seen)>,
}

/// What a pod shows as the condition of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// There is no such condition yet.
    Absent,
    /// The condition is False, or Unknown.
    Closed,
    /// The condition is True.
    Open,
}

impl GatedPod {
    /// The pod when it carries gates of ours and has a future; None else.
    #[must_use]
    pub fn of(namespace: &str, pod: &PodObject) -> Option<Self> {
        if pod.is_evidence_of_end() {
            return None;
        }
        let condition = |kind: &str| {
            let found = pod.conditions.iter().find(|(known, _)| known == kind);
            found.map(|(_, status)| status == "True")
        };
        let mut gates: Vec<(String, Seen)> = Vec::new();
        for gate in &pod.readiness_gates {
            let Some(policy) = gate.strip_prefix(PREFIX) else { continue };
            if gates.iter().all(|(known, _)| known != policy) {
                let seen = match condition(gate) {
                    None => Seen::Absent,
                    Some(false) => Seen::Closed,
                    Some(true) => Seen::Open,
                };
                gates.push((policy.to_owned(), seen));
            }
        }
        (!gates.is_empty()).then(|| Self {
            namespace: namespace.to_owned(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            containers_ready: condition("ContainersReady") == Some(true),
            gates,
        })
    }
}

/// What the hub says of one policy's targets in this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyHealth {
    /// Which policy.
    pub policy: PolicyKey,
    /// Name of its Service, in the policy's namespace.
    pub service: String,
    /// How it is judged.
    pub mode: Mode,
    /// A CamelCase word for the mode.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// By pod UID. A pod that is missing is not registered.
    pub targets: HashMap<String, Target>,
}

/// How a policy's targets are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The load balancer judges them.
    Judged,
    /// Nothing is judged now.
    Suspended,
    /// Never judged.
    Released,
    /// The policy no longer names this cluster, or is gone.
    Gone,
}

/// What the load balancer says of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its verdict.
    pub health: Health,
    /// ELBv2's reason code; empty when there is none.
    pub code: String,
}

/// The load balancer's verdict, the best first: of several targets of one pod the last counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Takes requests.
    Healthy,
    /// On its way out.
    Draining,
    /// Checked for the first time.
    Initial,
    /// Registered, and not known how it is.
    Unknown,
    /// No rule sends anything to its group.
    Unused,
    /// The load balancer does not know it.
    Unregistered,
    /// Failed its checks.
    Unhealthy,
}

/// What a gate's condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// True lets the pod be ready.
    pub open: bool,
    /// A CamelCase word.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Condition {
    /// True when the load balancer itself opened the gate.
    #[must_use]
    pub fn is_a_verdict(&self) -> bool {
        self.reason == HEALTHY
    }

    /// The reason as a metric's label: one of a fixed set, though the hub may bring words of its own.
    #[must_use]
    pub fn label(&self) -> &'static str {
        const KNOWN: [&str; 6] = [
            HEALTHY,
            "PolicyGone",
            "ReleasedHubAway",
            "ReleasedSuspended",
            "ReleasedNoTarget",
            "ReleasedHealthUnknown",
        ];
        KNOWN.into_iter().find(|known| *known == self.reason).unwrap_or("NotJudged")
    }
}

/// One gate of one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GateId {
    /// UID of the pod.
    pub uid: String,
    /// The policy's name.
    pub policy: String,
}

/// A condition to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Which gate; the pod of the name must have this UID still.
    pub gate: GateId,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// What to write.
    pub condition: Condition,
    /// The status differs from what the pod shows, so the time of the change is now.
    pub transition: bool,
}

/// What came of a patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The pod has the condition.
    Written,
    /// The pod is gone; perhaps another has its name.
    PodGone,
    /// There is no leave to write conditions in this namespace.
    Forbidden(String),
    /// It did not work this time.
    Failed(String),
}

impl Outcome {
    /// A fixed name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::PodGone => "pod_gone",
            Self::Forbidden(_) => "forbidden",
            Self::Failed(_) => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn a_pod_shows_its_own_gates_once_and_those_of_others_not_at_all() {
        let gate = |policy: &str| format!("{PREFIX}{policy}");
        let pod = PodObject {
            name: text("web-0"),
            uid: text("u"),
            readiness_gates: vec![gate("a"), text("example.com/other"), gate("b"), gate("a"), gate("c")],
            conditions: vec![
                (text("ContainersReady"), text("True")),
                (gate("a"), text("True")),
                (gate("b"), text("Unknown")),
            ],
            ..PodObject::default()
        };
        let gated = GatedPod::of("shop", &pod).expect("a pod with gates");
        assert!(gated.containers_ready);
        assert_eq!(gated.gates, [(text("a"), Seen::Open), (text("b"), Seen::Closed), (text("c"), Seen::Absent)]);
        let without = PodObject { readiness_gates: vec![text("example.com/other")], ..pod.clone() };
        assert_eq!(GatedPod::of("shop", &without), None);
        let ending = PodObject { deletion_timestamp: Some(jiff::Timestamp::UNIX_EPOCH), ..pod };
        assert_eq!(GatedPod::of("shop", &ending), None, "a pod that goes needs no gate");
    }
}
