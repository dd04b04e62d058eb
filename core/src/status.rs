//! What users are told: conditions as in Kubernetes, the figures per cluster, and a reason for every "no", every "wait" and
//! every difference from what was asked.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    arn::{ListenerArn, RuleArn, TargetGroupArn},
    failover::Explanation,
    ids::{ClusterName, Weight},
};

/// Why something is held, waits, is refused or differs; stable words for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// As asked.
    AsRequested,
    /// The first audit of this account and region is not through.
    NotObservedYet,
    /// The listener or its load balancer was not found, or not uniquely.
    ListenerNotFound,
    /// The load balancer, a target group or a rule belongs to another controller.
    ForeignOwner,
    /// The listener's protocol or the load balancer's kind cannot do what is asked.
    ListenerUnsuitable,
    /// No agent of this cluster was ever seen.
    ClusterNotFound,
    /// The agent of this cluster is away: its targets are frozen.
    ClusterStale,
    /// The agent of this cluster is still sending its snapshot, or has not reported the Service: nothing is removed but pods
    /// that it saw go in this session.
    ClusterSyncing,
    /// The agent cannot read a source: what it reported before stays in force.
    SourceFailing,
    /// There is no such Service in the cluster.
    ServiceNotFound,
    /// The Service has no such port.
    PortNotFound,
    /// The Service selects nothing.
    NoSelectedPods,
    /// The policy's targets are nodes, and the Service port has no node port.
    NoNodePort,
    /// The agent of this cluster is too old for what the policy asks: it cannot report nodes.
    AgentTooOld,
    /// Removals are held: they would go past the budget, or empty a group that carries weight.
    RemovalsHeld,
    /// An address is claimed by pods of two clusters.
    AddressClash,
    /// Something that the target group cannot hold: IPv6 in an IPv4 group, an instance of another VPC, a node that is no instance.
    AddressUnsupported,
    /// The cluster has no registered target.
    NoTargets,
    /// The cluster's group has no healthy target yet, so it gets no new weight.
    NoHealthyTarget,
    /// A change of weights waits as a whole, since one of its clusters cannot take its share.
    WeightsHeld,
    /// Health moved the weights: a cluster is out, or another takes its share.
    FailedOver,
    /// A cluster comes back in steps.
    Returning,
    /// No cluster looks healthy: nothing is changed.
    Panic,
    /// A zone is lost in every cluster.
    ZoneLost,
    /// The others cannot carry everything: a part stays on a cluster that is not healthy.
    BrownOut,
    /// Clusters get more than they can carry, since nobody else answers.
    Overloaded,
    /// An operator drains the cluster.
    Draining,
    /// The cluster is cordoned: it gets no new weight.
    Cordoned,
    /// An operator removed the cluster.
    ClusterRemoved,
    /// The policy is frozen.
    Frozen,
    /// An AWS quota leaves no room.
    QuotaExceeded,
    /// No rule priority is free.
    NoPriorityFree,
    /// Another policy on the same listener has the same match and comes first, so this one gets no requests.
    Shadowed,
    /// AWS refused a call.
    CallRefused,
    /// AWS throttles; the call is made again when the budget allows.
    Throttled,
    /// A call ended without an answer; its effect is being read back.
    OutcomeUnknown,
    /// Weights are read back and the settle time is running.
    Settling,
    /// Targets or groups wait for the settle time after their weight went to 0.
    WaitingToRemove,
    /// Steps are being carried out.
    InProgress,
    /// The plan broke an invariant and was thrown away; a defect.
    InvariantViolated,
    /// The hub only observes: its store is older than what it finds at AWS.
    ObserveOnly,
    /// The policy is being deleted.
    Deleting,
    /// Somebody else owns the policy of this name: the API, or a resource in another cluster.
    OwnedElsewhere,
    /// The resource's spec cannot be taken; the last good one stays in force.
    InvalidSpec,
    /// The resource is missing from its cluster, and the evidence is too weak to take its policy away.
    SourceAbsent,
    /// The cluster has more resources than the hub takes from one.
    TooManyPolicies,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A reason with its sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Note {
    /// The cluster it is about; none: the whole policy.
    pub cluster: Option<ClusterName>,
    /// For programs.
    pub reason: Reason,
    /// For people: what, why, and the remedy where there is one.
    pub message: String,
}

/// The condition types, in the order in which they become true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionType {
    /// Stored by the hub.
    Accepted,
    /// Listener, clusters and Services were found.
    ResolvedRefs,
    /// Read back from AWS as wanted.
    Programmed,
    /// Programmed for the settle time.
    Converged,
    /// Weights differ from what is asked for, by the health of clusters or since operators drain one.
    FailedOver,
}

/// A condition as in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCondition {
    /// Which.
    pub kind: ConditionType,
    /// True, false, or unknown.
    pub status: Option<bool>,
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// When `status` last changed.
    pub last_transition: Timestamp,
}

/// Counts of targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetCounts {
    /// Endpoints that should be registered.
    pub desired: u32,
    /// Registered, draining ones not counted.
    pub registered: u32,
    /// Of the registered.
    pub healthy: u32,
    /// Of the registered.
    pub unhealthy: u32,
    /// Of the registered.
    pub initial: u32,
    /// Deregistered, finishing.
    pub draining: u32,
    /// Registered without a verdict.
    pub unused: u32,
    /// Registered, not wanted any more, kept by a safety rule.
    pub held: u32,
}

/// One cluster in the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub cluster: ClusterName,
    /// What the policy or the override asks for.
    pub requested: Weight,
    /// What the hub wants programmed now.
    pub effective: Weight,
    /// What was read back; none when there is nothing or it is unknown.
    pub programmed: Option<Weight>,
    /// Why effective differs from requested; [`Reason::AsRequested`] when it does not.
    pub reason: Reason,
    /// The sentence for it; empty when as requested.
    pub message: String,
    /// Counts.
    pub targets: TargetCounts,
    /// The cluster's target group, once it exists.
    pub target_group: Option<TargetGroupArn>,
}

/// The rule in the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// The listener that the policy names.
    pub listener: ListenerArn,
    /// The rule, once it exists.
    pub rule: Option<RuleArn>,
    /// Its priority.
    pub priority: Option<u32>,
    /// Since when the present weights have been read back unchanged.
    pub programmed_since: Option<Timestamp>,
}

/// The status of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The policy version that this speaks of.
    pub observed_version: u64,
    /// One of each [`ConditionType`], in that order.
    pub conditions: Vec<StatusCondition>,
    /// In the order of the spec, then clusters that are on their way out.
    pub clusters: Vec<ClusterStatus>,
    /// Set once the listener was found.
    pub rule: Option<RuleStatus>,
    /// What is held, waits or differs.
    pub notes: Vec<Note>,
    /// What the weights were decided from.
    #[serde(default)]
    pub failover: Explanation,
}

impl PolicyStatus {
    /// The condition of one type.
    pub fn condition(&self, kind: ConditionType) -> Option<&StatusCondition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}
