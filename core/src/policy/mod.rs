//! Policies: what users write ([`spec`]), and the one function that turns it into a type that can be built ([`validate()`]).

pub mod conditions;
pub mod spec;
pub mod validate;
pub mod windows;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use spec::{ClusterTrafficPolicy, PolicySpec};
pub use validate::{Violation, validate, validate_update};
pub use windows::MaintenanceWindow;

use crate::{
    arn::ListenerArn,
    failover,
    ids::{ClusterName, PolicyKey, PolicyUid, Weight},
    inventory::ServiceKey,
    observed::{Condition, HealthCheck},
    status::{ConditionType, Reason},
};

/// A policy that passed [`validate()`]; nothing built from it can fail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValidatedPolicy {
    /// Namespace and name.
    pub key: PolicyKey,
    /// How to find the listener.
    pub listener: ListenerSelector,
    /// The rule's conditions, as ELBv2 takes them.
    pub conditions: Vec<Condition>,
    /// 1..=49000: the rule gets the first free priority at or after it.
    pub order: u32,
    /// The Service port that receives the traffic.
    pub service: ServiceKey,
    /// `HTTP` or `HTTPS`, between load balancer and targets.
    pub protocol: String,
    /// `HTTP1`, `HTTP2` or `GRPC`.
    pub protocol_version: String,
    /// The health check of the target groups.
    pub health_check: HealthCheck,
    /// 0..=3600 seconds.
    pub deregistration_delay_seconds: u32,
    /// 1 to 5 clusters with the weights of the spec, in the spec's order; 0 for a standby.
    pub clusters: Vec<(ClusterName, Weight)>,
    /// Share of a target group, 0..=100 percent, that may go on weak evidence while the group carries weight.
    pub deregistration_budget_percent: u32,
    /// True: nothing is written at AWS for this policy.
    pub freeze: bool,
    /// How weights may be moved.
    pub safety: SafetyRules,
    /// What the backend can carry and has to carry, where it is declared.
    pub capacity: Option<Capacity>,
    /// What is done by itself when a cluster looks unhealthy; none: nothing.
    pub failover: Option<failover::Rules>,
    /// The clusters of a priority above 0, in the spec's order; in `clusters` their weight is 0.
    pub standbys: Vec<Standby>,
}

/// A cluster that carries nothing as long as the levels before its own can carry the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// The cluster.
    pub cluster: ClusterName,
    /// 1..=4, the smallest is asked first.
    pub priority: u32,
    /// Its share among the clusters of its priority, above 0.
    pub weight: Weight,
}

/// Limits on moves of weights, whoever asks for them. A new spec states weights and is not held back by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetyRules {
    /// Clusters that keep a weight above 0, 1..=5; the spec's own weights have at least as many.
    pub min_active_clusters: u32,
    /// By how much the share of a cluster may change in one step, 1..=100 percentage points.
    pub max_step_percent: u32,
    /// Seconds that weights are in force before they are moved again, 0..=86400.
    pub min_step_interval_seconds: u32,
    /// When weights may move, at most 20; empty: always. See [`windows::open`] and [`windows::next_start`].
    pub windows: Vec<MaintenanceWindow>,
}

/// Declared capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Requests per second of all clusters together at the busiest time, 1..=10_000_000.
    pub peak_requests_per_second: u32,
    /// Requests per second that one target can answer, 1..=100_000.
    pub requests_per_second_per_target: u32,
}

/// How a policy names its listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerSelector {
    /// The listener's own ARN.
    Arn(ListenerArn),
    /// A load balancer by name or ARN, and a port.
    LoadBalancer {
        /// Name or ARN.
        name_or_arn: String,
        /// 1..=65535.
        port: u16,
    },
    /// The one load balancer that carries all these tags, and a port.
    Tags {
        /// Key and value, both must be equal.
        tags: BTreeMap<String, String>,
        /// 1..=65535.
        port: u16,
    },
}

/// A policy as stored: the validated spec and what was decided around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRecord {
    /// Unique in time.
    pub uid: PolicyUid,
    /// Counts up with every accepted change.
    pub version: u64,
    /// Counts up with every change of the spec.
    pub generation: u64,
    /// The spec.
    pub policy: ValidatedPolicy,
    /// Weights set by call, over those of the spec.
    pub weight_override: Option<BTreeMap<ClusterName, Weight>>,
    /// Set when the policy is to go.
    pub deleting_since: Option<Timestamp>,
    /// When somebody last let clusters return that failover took out before; see [`crate::failover`].
    pub failback_at: Option<Timestamp>,
}

impl PolicyRecord {
    /// The weights that are asked for now: the override where there is one, else the spec's.
    pub fn requested(&self) -> Vec<(ClusterName, Weight)> {
        let overridden = |name: &ClusterName| self.weight_override.as_ref().and_then(|o| o.get(name)).copied();
        let pairs = self.policy.clusters.iter();
        pairs.map(|(name, weight)| (name.clone(), overridden(name).unwrap_or(*weight))).collect()
    }
}

/// Memory of the planner about one policy, stored between two plans. All of it can be rebuilt at the price of waiting again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyMemory {
    /// The weights last read back from AWS, and since when they have been the same.
    pub programmed: Option<Programmed>,
    /// How many targets each cluster's group holds in good times; the removal budget counts from here.
    pub baselines: BTreeMap<ClusterName, Baseline>,
    /// When each condition of the status last changed.
    pub transitions: BTreeMap<ConditionType, Transition>,
    /// Steps that AWS refused, by [`crate::plan::failures::step_key`], with the time before which they are not tried again.
    pub failures: BTreeMap<String, Failure>,
    /// What failover remembers.
    pub failover: failover::Memory,
}

/// Weights as read back, with the time since when they are unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programmed {
    /// Weight by cluster; empty when there is no rule.
    pub weights: BTreeMap<ClusterName, Weight>,
    /// Since when.
    pub since: Timestamp,
}

/// The size of a target group that removals are measured against. It rises at once and falls only after the group has been
/// smaller for a while with nothing held, so that a cluster whose pods go one by one is not emptied step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Targets.
    pub targets: u32,
    /// Since when fewer are wanted.
    pub below_since: Option<Timestamp>,
}

/// The last change of a condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// True, false or unknown.
    pub status: Option<bool>,
    /// When it became so.
    pub at: Timestamp,
}

/// A step that did not go through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why, for programs.
    pub reason: Reason,
    /// AWS's code and message.
    pub message: String,
    /// How often in a row.
    pub attempts: u32,
    /// Not tried again before.
    pub not_before: Timestamp,
}
