//! What is asked of a shift, as the TrafficShift resource writes it, from and to the words of the API.
//!
//! One set of types for three texts: the file of `shift -f`, the manifest in a cluster, and `spec` in `-o json|yaml`. Values are
//! not judged here, that is the hub's task, but for what the API cannot tell from what was left out.

mod written;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use switchyard_proto::api::v1 as pb;

/// The whole resource; other metadata and the status are taken and ignored.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficShift {
    pub api_version: String,
    pub kind: String,
    #[serde(default)]
    pub metadata: Metadata,
    pub spec: ShiftSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Metadata {
    #[serde(default)]
    pub namespace: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShiftSpec {
    pub policies: Vec<PolicyTarget>,
    #[serde(default, skip_serializing_if = "Strategy::is_at_once")]
    pub strategy: Strategy,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, deserialize_with = "written::progress_deadline_seconds", skip_serializing_if = "is_default")]
    pub progress_deadline_seconds: u32,
    /// These three are for resources in a cluster: a call makes a shift, and other calls move it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paused: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub abort: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub approved_step: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTarget {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, u32>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub expected_version: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Strategy {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linear: Option<Linear>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exponential: Option<Exponential>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

impl ShiftSpec {
    /// The policies that it moves: the first and how many more, where there are more than two. A shift may move twenty, and a line
    /// is to be read.
    pub fn policies_in_short(&self) -> String {
        let name = |policy: &PolicyTarget| format!("{}/{}", policy.namespace, policy.name);
        match &self.policies[..] {
            [first, _, _, ..] => format!("{} and {} more", name(first), self.policies.len() - 1),
            few => few.iter().map(name).collect::<Vec<_>>().join(", "),
        }
    }
}

impl Strategy {
    fn is_at_once(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    pub percent: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub bake_seconds: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub approval: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Linear {
    pub step_percent: u32,
    #[serde(default)]
    pub bake_seconds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exponential {
    pub first_percent: u32,
    /// 0: the hub's default.
    #[serde(default, deserialize_with = "written::factor", skip_serializing_if = "is_default")]
    pub factor: u32,
    #[serde(default)]
    pub bake_seconds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    pub percent: u32,
    #[serde(default)]
    pub bake_seconds: u32,
    #[serde(default)]
    pub approval: bool,
}

/// 0 in a number means the hub's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gate {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_health: Option<TargetHealth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_watch: Option<CloudWatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub success: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failure: String,
    #[serde(default, deserialize_with = "written::interval_seconds", skip_serializing_if = "is_default")]
    pub interval_seconds: u32,
    #[serde(default, deserialize_with = "written::count", skip_serializing_if = "is_default")]
    pub count: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub failure_limit: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetHealth {
    #[serde(default, deserialize_with = "written::min_healthy_percent", skip_serializing_if = "is_default")]
    pub min_healthy_percent: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prometheus {
    pub source: String,
    pub query: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloudWatch {
    pub metric: String,
    pub statistic: String,
    #[serde(default, deserialize_with = "written::period_seconds", skip_serializing_if = "is_default")]
    pub period_seconds: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub divided_by: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    pub endpoint: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<ShiftSpec> for pb::ShiftSpec {
    fn from(from: ShiftSpec) -> Self {
        let strategy = (!from.strategy.is_at_once()).then(|| from.strategy.into());
        Self {
            policies: from.policies.into_iter().map(Into::into).collect(),
            strategy,
            gates: from.gates.into_iter().map(Into::into).collect(),
            overrides: from.overrides,
            reason: from.reason,
            progress_deadline_seconds: from.progress_deadline_seconds,
        }
    }
}

impl From<pb::ShiftSpec> for ShiftSpec {
    fn from(from: pb::ShiftSpec) -> Self {
        Self {
            policies: from.policies.into_iter().map(Into::into).collect(),
            strategy: from.strategy.map(Strategy::from).unwrap_or_default(),
            gates: from.gates.into_iter().map(Into::into).collect(),
            overrides: from.overrides,
            reason: from.reason,
            progress_deadline_seconds: from.progress_deadline_seconds,
            ..Self::default()
        }
    }
}

impl From<PolicyTarget> for pb::ShiftPolicy {
    fn from(from: PolicyTarget) -> Self {
        Self {
            policy: Some(pb::PolicyRef { namespace: from.namespace, name: from.name }),
            to_cluster: from.to.unwrap_or_default(),
            weights: from.weights.into_iter().collect(),
            expected_version: from.expected_version,
        }
    }
}

impl From<pb::ShiftPolicy> for PolicyTarget {
    fn from(from: pb::ShiftPolicy) -> Self {
        let policy = from.policy.unwrap_or_default();
        Self {
            namespace: policy.namespace,
            name: policy.name,
            to: Some(from.to_cluster).filter(|cluster| !cluster.is_empty()),
            weights: from.weights.into_iter().collect(),
            expected_version: from.expected_version,
        }
    }
}

impl From<Strategy> for pb::ShiftStrategy {
    fn from(from: Strategy) -> Self {
        let steps = from.steps.into_iter().map(|step| pb::ShiftStep {
            percent: step.percent,
            bake_seconds: step.bake_seconds,
            approval: step.approval,
            gates: step.gates.into_iter().map(Into::into).collect(),
        });
        Self {
            steps: steps.collect(),
            linear: from
                .linear
                .map(|Linear { step_percent, bake_seconds }| pb::LinearStrategy { step_percent, bake_seconds }),
            exponential: from.exponential.map(|Exponential { first_percent, factor, bake_seconds }| {
                pb::ExponentialStrategy { first_percent, factor, bake_seconds }
            }),
            canary: from.canary.map(|Canary { percent, bake_seconds, approval }| pb::CanaryStrategy {
                percent,
                bake_seconds,
                approval,
            }),
        }
    }
}

impl From<pb::ShiftStrategy> for Strategy {
    fn from(from: pb::ShiftStrategy) -> Self {
        let steps = from.steps.into_iter().map(|step| Step {
            percent: step.percent,
            bake_seconds: step.bake_seconds,
            approval: step.approval,
            gates: step.gates.into_iter().map(Into::into).collect(),
        });
        Self {
            steps: steps.collect(),
            linear: from
                .linear
                .map(|pb::LinearStrategy { step_percent, bake_seconds }| Linear { step_percent, bake_seconds }),
            exponential: from.exponential.map(|pb::ExponentialStrategy { first_percent, factor, bake_seconds }| {
                Exponential { first_percent, factor, bake_seconds }
            }),
            canary: from.canary.map(|pb::CanaryStrategy { percent, bake_seconds, approval }| Canary {
                percent,
                bake_seconds,
                approval,
            }),
        }
    }
}

impl From<Gate> for pb::Gate {
    fn from(from: Gate) -> Self {
        Self {
            name: from.name,
            target_health: from
                .target_health
                .map(|TargetHealth { min_healthy_percent }| pb::TargetHealthGate { min_healthy_percent }),
            prometheus: from.prometheus.map(|Prometheus { source, query }| pb::PrometheusGate { source, query }),
            cloud_watch: from.cloud_watch.map(|CloudWatch { metric, statistic, period_seconds, divided_by }| {
                pb::CloudWatchGate { metric, statistic, period_seconds, divided_by }
            }),
            webhook: from.webhook.map(|Webhook { endpoint }| pb::WebhookGate { endpoint }),
            success: from.success,
            failure: from.failure,
            interval_seconds: from.interval_seconds,
            count: from.count,
            failure_limit: from.failure_limit,
        }
    }
}

impl From<pb::Gate> for Gate {
    fn from(from: pb::Gate) -> Self {
        Self {
            name: from.name,
            target_health: from
                .target_health
                .map(|pb::TargetHealthGate { min_healthy_percent }| TargetHealth { min_healthy_percent }),
            prometheus: from.prometheus.map(|pb::PrometheusGate { source, query }| Prometheus { source, query }),
            cloud_watch: from.cloud_watch.map(
                |pb::CloudWatchGate { metric, statistic, period_seconds, divided_by }| CloudWatch {
                    metric,
                    statistic,
                    period_seconds,
                    divided_by,
                },
            ),
            webhook: from.webhook.map(|pb::WebhookGate { endpoint }| Webhook { endpoint }),
            success: from.success,
            failure: from.failure,
            interval_seconds: from.interval_seconds,
            count: from.count,
            failure_limit: from.failure_limit,
        }
    }
}

#[cfg(test)]
#[path = "shift_spec_tests.rs"]
mod tests;
