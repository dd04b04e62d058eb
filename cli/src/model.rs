//! What the hub said, as typed values with stable names for `-o json|yaml`.
//!
//! Protobuf stops in `convert`: everything after this module works on these types. Field names are those of the proto;
//! enum words are lower case; times are RFC 3339; `spec_json` becomes the object `spec`. No IO.

pub mod access;
pub mod audit;
pub mod cluster;
mod convert;
pub mod explanation;
#[cfg(test)]
pub mod fixtures;
pub mod shift;
pub mod shift_spec;

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

pub use access::{AgentCertificate, Authority, Caller, Grant, JoinToken, ServiceToken};
pub use audit::{AuditEntry, link as audit_link};
pub use cluster::{Cluster, Forecast, Mode, Operation, OperationKind, Verdict};
pub use explanation::Explanation;
pub use shift::{Finding, GatingSwitch, Shift, State, StepPlan};

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PolicyRef {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Policy {
    #[serde(rename = "ref")]
    pub reference: PolicyRef,
    pub uid: String,
    pub version: u64,
    pub generation: u64,
    pub spec: serde_json::Value,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub deleting_since: Option<Timestamp>,
    pub status: PolicyStatus,
    /// Nothing when the hub is too old to say.
    pub owner: Option<Owner>,
}

/// Who decides about a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Owner {
    pub kind: OwnerKind,
    pub cluster: String,
    pub resource_uid: String,
    pub generation: u64,
    pub generation_in_force: u64,
    pub absent_since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerKind {
    #[default]
    Unspecified,
    Api,
    Cluster,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PolicyStatus {
    pub observed_version: u64,
    pub conditions: Vec<Condition>,
    pub clusters: Vec<ClusterStatus>,
    pub rule: Option<RuleStatus>,
    pub notes: Vec<Note>,
    pub updated_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Condition {
    pub r#type: String,
    pub status: Truth,
    pub reason: String,
    pub message: String,
    pub observed_version: u64,
    pub last_transition_time: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Truth {
    Unspecified,
    True,
    False,
    Unknown,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "-",
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClusterStatus {
    pub cluster: String,
    pub requested_weight: u32,
    pub effective_weight: u32,
    pub programmed_weight: Option<u32>,
    pub reason: String,
    pub message: String,
    pub targets: TargetCounts,
    pub target_group_arn: String,
    pub link: Link,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TargetCounts {
    pub desired: u32,
    pub registered: u32,
    pub healthy: u32,
    pub unhealthy: u32,
    pub initial: u32,
    pub draining: u32,
    pub unused: u32,
    pub held: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    #[default]
    Unspecified,
    Connected,
    Syncing,
    Stale,
    Unknown,
    /// Taken out by an operator.
    Removed,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "-",
            Self::Connected => "connected",
            Self::Syncing => "syncing",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
            Self::Removed => "removed",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleStatus {
    pub listener_arn: String,
    pub rule_arn: String,
    pub priority: u32,
    pub programmed_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub notes: Vec<Note>,
    pub made_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    pub policy: PolicyRef,
    pub operation: String,
    pub summary: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Note {
    pub policy: PolicyRef,
    pub cluster: String,
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endpoint {
    pub cluster: String,
    pub namespace: String,
    pub service: String,
    pub service_port: String,
    pub address: String,
    pub port: u32,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub pod: String,
    pub pod_uid: String,
    pub node: String,
    pub zone: String,
    pub eni_ids: Vec<String>,
    pub updated_at: Option<Timestamp>,
    /// `ip`: a pod at its address; `instance`: a node with the Service's node port, which `pod` then names. Empty: an older hub.
    pub target_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub field: String,
    pub value: String,
    pub problem: String,
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    Present,
    Synced,
    Changed,
    Deleted,
}

impl ClusterStatus {
    /// Why effective differs from requested, or what else the hub has to say of this cluster. A hub that gives the
    /// word for "as asked" without a message says nothing.
    pub fn why(&self) -> Option<String> {
        let silent = self.message.is_empty() && self.effective_weight == self.requested_weight;
        match (silent || self.reason.is_empty(), self.message.as_str()) {
            (true, "") => None,
            (true, message) => Some(message.to_owned()),
            (false, "") => Some(self.reason.clone()),
            (false, message) => Some(format!("{}: {message}", self.reason)),
        }
    }
}

impl Policy {
    /// The cluster whose resource owns the policy.
    pub fn owner_cluster(&self) -> Option<&str> {
        self.owner.as_ref().filter(|owner| owner.kind == OwnerKind::Cluster).map(|owner| owner.cluster.as_str())
    }

    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.r#type == kind)
    }
}
