//! A shift as users write it: `switchyard.dev/v1alpha1` TrafficShift, and the same fields in a call of ShiftService. Parsing is
//! strict in names and lenient in values; [`super::validate()`] finds every value that is out of range.
//!
//! With the feature `schema` the comments and bounds here become the schema of the custom resource (crate `switchyard-crd`), so
//! the comments on fields are what `kubectl explain` shows: they are written for users.

use std::collections::BTreeMap;

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Guard, machine::Command};
use crate::policy::spec::Metadata;

/// The resource's kind; its API version is [`crate::policy::spec::API_VERSION`].
pub const KIND: &str = "TrafficShift";
/// Policies that one shift moves together.
pub const MOST_POLICIES: usize = 20;
/// Steps of one shift.
pub const MOST_STEPS: usize = 100;
/// Gates of one step, those of the whole shift included.
pub const MOST_GATES: usize = 20;
/// Bake time: a week.
pub const MOST_BAKE_SECONDS: u32 = 604_800;
/// Characters of a reason, as in the audit log.
pub const MOST_REASON: usize = 1024;
/// Characters of a Prometheus query.
pub const MOST_QUERY: usize = 4096;

/// The whole resource. Other metadata and the status are taken and ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficShift {
    /// `switchyard.dev/v1alpha1`.
    pub api_version: String,
    /// `TrafficShift`.
    pub kind: String,
    /// Name and namespace.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: ShiftSpec,
}

/// Moves the traffic of one or several policies to new weights, at once or in steps. Everything but `paused`, `abort` and
/// `approvedStep` cannot change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShiftSpec {
    /// The policies, 1 to 20. They move together: all preflights pass or nothing moves, and a failed step takes all of them back.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MOST_POLICIES)))]
    pub policies: Vec<PolicyTarget>,
    /// How the weights get there; at once when left out.
    #[serde(default)]
    pub strategy: Strategy,
    /// Gates of every step, beside those of the step itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_GATES)))]
    pub gates: Vec<Gate>,
    /// Safety rules that this shift may cross; needs a reason and the right to do so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 9)))]
    pub overrides: Vec<Guard>,
    /// Why, for the audit log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_REASON)))]
    pub reason: String,
    /// The longest time, 30 to 86400 seconds, that a step may take to be true at the load balancer before the shift goes back.
    #[serde(default = "default_deadline")]
    #[cfg_attr(feature = "schema", schemars(range(min = 30, max = 86_400)))]
    pub progress_deadline_seconds: u32,
    /// True: nothing moves until it is false again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// True: back to the weights from before the shift. Cannot be taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abort: bool,
    /// The step, from 1, up to which steps that need it are approved; never falls.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_STEPS)))]
    pub approved_step: u32,
}

impl ShiftSpec {
    /// What the fields that may change say to a shift under way.
    pub fn controls(&self) -> Vec<Command> {
        let approved = usize::try_from(self.approved_step).unwrap_or(usize::MAX).checked_sub(1);
        let mut said: Vec<Command> = approved.map(Command::ApproveUpTo).into_iter().collect();
        said.push(if self.paused { Command::Pause } else { Command::Resume });
        said.extend(self.abort.then_some(Command::Abort));
        said
    }
}

/// 10 minutes, the default of a Kubernetes Deployment (`progressDeadlineSeconds`).
pub fn default_deadline() -> u32 {
    600
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// One policy, and where its traffic is to go: exactly one of `to` and `weights`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTarget {
    /// The policy's namespace; that of the resource when left out, and a resource can name no other.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 63)))]
    pub namespace: String,
    /// The policy's name.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 253)))]
    pub name: String,
    /// The cluster that gets all of the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 63)))]
    pub to: Option<String>,
    /// The new weight by cluster, 0 to 999, not all 0; clusters that are left out get 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, u32>,
    /// The version of the policy that this was decided on; 0 or left out: whatever is there.
    #[serde(default, skip_serializing_if = "is_zero_version")]
    pub expected_version: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero_version(value: &u64) -> bool {
    *value == 0
}

/// How the weights get there: at most one of these; at once when none is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Strategy {
    /// Steps, one after the other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_STEPS)))]
    pub steps: Vec<StepSpec>,
    /// Equal steps: 20 gives 20, 40, 60, 80, 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linear: Option<Linear>,
    /// Growing steps: 5 with factor 2 gives 5, 10, 20, 40, 80, 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exponential: Option<Exponential>,
    /// One small step, then everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepSpec {
    /// Percent of the way, 1 to 100, more than in the step before; 100 in the last.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub percent: u32,
    /// How long, in seconds, the weights stay before the shift goes on, counted from their read-back; at most 604800.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_BAKE_SECONDS)))]
    pub bake_seconds: u32,
    /// True: after bake time and gates somebody must approve.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approval: bool,
    /// What must hold while the step bakes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_GATES)))]
    pub gates: Vec<Gate>,
}

/// Equal steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Linear {
    /// Percent of the way in each step, 1 to 100.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub step_percent: u32,
    /// Bake time of each step but the last, in seconds.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_BAKE_SECONDS)))]
    pub bake_seconds: u32,
}

/// Growing steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exponential {
    /// Percent of the way in the first step, 1 to 100.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub first_percent: u32,
    /// By how much each step is larger than the one before, 2 to 10.
    #[serde(default = "default_factor")]
    #[cfg_attr(feature = "schema", schemars(range(min = 2, max = 10)))]
    pub factor: u32,
    /// Bake time of each step but the last, in seconds.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_BAKE_SECONDS)))]
    pub bake_seconds: u32,
}

/// Doubling.
pub fn default_factor() -> u32 {
    2
}

/// One small step, then everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    /// Percent of the way in the small step, 1 to 99.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 99)))]
    pub percent: u32,
    /// Bake time of the small step, in seconds.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_BAKE_SECONDS)))]
    pub bake_seconds: u32,
    /// True: after bake time and gates somebody must approve.
    #[serde(default)]
    pub approval: bool,
}

/// Something that must hold while a step bakes: exactly one of `targetHealth`, `prometheus`, `cloudWatch` and `webhook`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gate {
    /// Its name, unique in its step, an RFC 1123 label.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 63)))]
    pub name: String,
    /// The targets of every cluster whose share grows, by the load balancer's own health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_health: Option<TargetHealthGate>,
    /// A query to a Prometheus server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusGate>,
    /// A CloudWatch metric of the target groups whose share grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_watch: Option<CloudWatchGate>,
    /// A question to a webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookGate>,
    /// For prometheus and cloudWatch: the comparison that makes a measurement a success, such as `< 0.01` or `>= 99.5`; operators
    /// `<`, `<=`, `>`, `>=`, `==`, `!=`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub success: String,
    /// The comparison that makes it a failure; whatever is no success when left out. A measurement for which neither holds says
    /// nothing, as does one without data: then the shift waits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub failure: String,
    /// Seconds between two measurements, 5 to 3600.
    #[serde(default = "default_interval")]
    #[cfg_attr(feature = "schema", schemars(range(min = 5, max = 3600)))]
    pub interval_seconds: u32,
    /// Measurements that must succeed, 1 to 1000.
    #[serde(default = "default_count")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000)))]
    pub count: u32,
    /// Failed measurements that are put up with, 0 to 1000; one more and the shift goes back.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[cfg_attr(feature = "schema", schemars(range(max = 1000)))]
    pub failure_limit: u32,
}

/// Half a minute: what most Prometheus servers need to have seen every target twice.
pub fn default_interval() -> u32 {
    30
}

/// One good measurement.
pub fn default_count() -> u32 {
    1
}

/// The targets of every cluster whose share grows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetHealthGate {
    /// Percent of the registered targets that must be healthy in each of these clusters, 1 to 100.
    #[serde(default = "all_percent")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub min_healthy_percent: u32,
}

/// All of them.
pub fn all_percent() -> u32 {
    100
}

/// A query to a Prometheus server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrometheusGate {
    /// The name of a server that the hub was given.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 63)))]
    pub source: String,
    /// PromQL that gives one number.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MOST_QUERY)))]
    pub query: String,
}

/// A metric of namespace AWS/ApplicationELB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloudWatchGate {
    /// The metric of the target groups whose share grows.
    pub metric: TargetGroupMetric,
    /// `Sum`, `Average`, `Minimum`, `Maximum`, or a percentile such as `p99`.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 16)))]
    pub statistic: String,
    /// A multiple of 60, 60 to 86400.
    #[serde(default = "default_period")]
    #[cfg_attr(feature = "schema", schemars(range(min = 60, max = 86_400)))]
    pub period_seconds: u32,
    /// Another metric, by its sum, that the first is divided by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divided_by: Option<TargetGroupMetric>,
}

/// Elastic Load Balancing publishes its metrics every 60 seconds (AWS: "CloudWatch metrics for your Application Load Balancer").
pub fn default_period() -> u32 {
    60
}

/// Metrics with the dimension TargetGroup (AWS: "CloudWatch metrics for your Application Load Balancer").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[allow(missing_docs, reason = "the names are those of AWS")]
pub enum TargetGroupMetric {
    #[default]
    RequestCount,
    RequestCountPerTarget,
    TargetResponseTime,
    #[serde(rename = "HTTPCode_Target_2XX_Count")]
    Code2xx,
    #[serde(rename = "HTTPCode_Target_3XX_Count")]
    Code3xx,
    #[serde(rename = "HTTPCode_Target_4XX_Count")]
    Code4xx,
    #[serde(rename = "HTTPCode_Target_5XX_Count")]
    Code5xx,
    TargetConnectionErrorCount,
    HealthyHostCount,
    UnHealthyHostCount,
}

impl TargetGroupMetric {
    /// All, in a fixed order.
    pub const ALL: [TargetGroupMetric; 10] = [
        TargetGroupMetric::RequestCount,
        TargetGroupMetric::RequestCountPerTarget,
        TargetGroupMetric::TargetResponseTime,
        TargetGroupMetric::Code2xx,
        TargetGroupMetric::Code3xx,
        TargetGroupMetric::Code4xx,
        TargetGroupMetric::Code5xx,
        TargetGroupMetric::TargetConnectionErrorCount,
        TargetGroupMetric::HealthyHostCount,
        TargetGroupMetric::UnHealthyHostCount,
    ];

    /// The name that AWS gives it.
    pub fn name(self) -> &'static str {
        match self {
            TargetGroupMetric::RequestCount => "RequestCount",
            TargetGroupMetric::RequestCountPerTarget => "RequestCountPerTarget",
            TargetGroupMetric::TargetResponseTime => "TargetResponseTime",
            TargetGroupMetric::Code2xx => "HTTPCode_Target_2XX_Count",
            TargetGroupMetric::Code3xx => "HTTPCode_Target_3XX_Count",
            TargetGroupMetric::Code4xx => "HTTPCode_Target_4XX_Count",
            TargetGroupMetric::Code5xx => "HTTPCode_Target_5XX_Count",
            TargetGroupMetric::TargetConnectionErrorCount => "TargetConnectionErrorCount",
            TargetGroupMetric::HealthyHostCount => "HealthyHostCount",
            TargetGroupMetric::UnHealthyHostCount => "UnHealthyHostCount",
        }
    }
}

/// A question to a webhook: it is sent the shift and its step, and answers `Pass`, `Fail` or `Wait`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookGate {
    /// The name of an endpoint that the hub was given.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 63)))]
    pub endpoint: String,
}
