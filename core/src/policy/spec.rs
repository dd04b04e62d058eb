//! The ClusterTrafficPolicy as users write it, `switchyard.dev/v1alpha1`. Parsing is lenient in values and strict in names:
//! an unknown field is an error, a value out of range is found by [`super::validate()`], which can name every fault at once.
//!
//! With the feature `schema` the comments and bounds here become the schema of the custom resource (crate `switchyard-crd`), so
//! the comments on fields are what `kubectl explain` shows: they are written for users. What limits the movement of weights is in
//! [`safety`].

pub mod failover;
pub mod safety;

use std::collections::BTreeMap;

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use failover::{Failback, Failover};
pub use safety::{Capacity, MaintenanceWindow, Safety, Weekday};

#[cfg(feature = "schema")]
use super::{
    conditions::{MOST_CHARACTERS, MOST_NAME_CHARACTERS, MOST_VALUES},
    validate::{MOST_CLUSTERS, MOST_ORDER, MOST_PRIORITY},
};

/// The API version that this program speaks.
pub const API_VERSION: &str = "switchyard.dev/v1alpha1";
/// The resource's kind.
pub const KIND: &str = "ClusterTrafficPolicy";

/// The whole resource. Other metadata and the status of a resource copied from a cluster are taken and ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterTrafficPolicy {
    /// `switchyard.dev/v1alpha1`.
    pub api_version: String,
    /// `ClusterTrafficPolicy`.
    pub kind: String,
    /// Name and namespace.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: PolicySpec,
}

/// The part of the metadata that matters here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The policy's name.
    pub name: String,
    /// Its namespace; `default` when left out, as in Kubernetes.
    #[serde(default = "default_namespace")]
    pub namespace: String,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// What a policy asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySpec {
    /// The listener that gets the rule. It exists already: named by `arn`, or by `port` and one of `loadBalancer` and `tags`.
    pub listener: Listener,
    /// Which requests are meant: all conditions that are given must hold, values within one are alternatives. At most 5 values
    /// and 5 wildcards in all; a `Prefix` path counts as two values and one wildcard.
    #[serde(rename = "match")]
    pub matches: Match,
    /// The rule's place among the policies of this listener, 1 to 49000; the smallest comes first.
    #[serde(default = "default_order")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MOST_ORDER)))]
    pub order: u32,
    /// Where the requests go in each cluster.
    pub backend: Backend,
    /// How clusters share the requests.
    #[serde(default)]
    pub mode: Mode,
    /// 1 to 5 clusters with their shares of the requests; not all weights are 0.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MOST_CLUSTERS)))]
    pub clusters: Vec<Cluster>,
    /// Limits on what the hub may do by itself, and on how weights may be moved by shifts and by calls. Weights in `clusters` are
    /// not held back by them.
    #[serde(default)]
    pub safety: Safety,
    /// What the backend can carry and has to carry: no shift gives a cluster more requests than its healthy targets can answer.
    /// Without it a target may get 140 percent of what the busiest one gets now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// What the hub does by itself when a cluster looks unhealthy. Without it no weight is ever moved for health; `{}` takes the
    /// defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
}

fn default_order() -> u32 {
    100
}

/// Names a listener by `arn`, or by `port` and one of `loadBalancer` and `tags`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Listener {
    /// The listener's ARN; then without `port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 512)))]
    pub arn: Option<String>,
    /// Name or ARN of the load balancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 512)))]
    pub load_balancer: Option<String>,
    /// Tags that exactly one load balancer of the region carries; key and value must be equal.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The listener's port, 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65_535)))]
    pub port: Option<u32>,
}

/// The conditions; all that are given must hold, values within one are alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// Host names, in any case; `*` and `?` are wildcards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_VALUES), inner(length(min = 1, max = MOST_CHARACTERS))))]
    pub hostnames: Vec<String>,
    /// Paths, which are case-sensitive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_VALUES)))]
    pub paths: Vec<PathMatch>,
    /// HTTP headers by name, with the values that are meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_VALUES)))]
    pub headers: Vec<HeaderMatch>,
    /// HTTP methods in upper case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_VALUES), inner(length(min = 1, max = MOST_NAME_CHARACTERS))))]
    pub methods: Vec<String>,
    /// Pairs of the query string.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_VALUES)))]
    pub query: Vec<QueryMatch>,
    /// CIDR blocks of the connection's source address (not `X-Forwarded-For`), such as 10.0.0.0/8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_VALUES), inner(length(min = 1, max = 64))))]
    pub source_ips: Vec<String>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    /// How `value` is meant.
    #[serde(default, rename = "type")]
    pub kind: PathKind,
    /// The path: begins with `/` (a `Pattern` may also begin with `*`), at most 128 characters.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MOST_CHARACTERS)))]
    pub value: String,
}

/// How a path is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub enum PathKind {
    /// Whole path elements, as in the Gateway API: `/a` means `/a` and `/a/...`, not `/ab`.
    #[default]
    Prefix,
    /// This path only.
    Exact,
    /// An ELBv2 path pattern with `*` and `?`.
    Pattern,
}

/// One header and its alternatives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// The header's name, 1 to 40 characters, not `Host`.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MOST_NAME_CHARACTERS)))]
    pub name: String,
    /// Its values, at most 128 characters each; `*` and `?` are wildcards.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MOST_VALUES), inner(length(min = 1, max = MOST_CHARACTERS))))]
    pub values: Vec<String>,
}

/// One query string pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryMatch {
    /// The key, at most 128 characters; any when left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_CHARACTERS)))]
    pub key: String,
    /// The value, 1 to 128 characters.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MOST_CHARACTERS)))]
    pub value: String,
}

/// Where requests go in each cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// The Service, in the policy's namespace of each cluster.
    pub service: Service,
    /// How targets are registered.
    #[serde(default)]
    pub target_type: TargetType,
    /// Protocol between load balancer and targets.
    #[serde(default)]
    pub protocol: Protocol,
    /// HTTP version between load balancer and targets.
    #[serde(default)]
    pub protocol_version: ProtocolVersion,
    /// The load balancer's health check.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// Seconds, 0 to 3600, that a deregistered target may take to finish its requests.
    #[serde(default = "default_deregistration_delay")]
    #[cfg_attr(feature = "schema", schemars(range(max = 3600)))]
    pub deregistration_delay_seconds: u32,
}

/// The default of ELBv2 itself (attribute `deregistration_delay.timeout_seconds`).
fn default_deregistration_delay() -> u32 {
    300
}

/// A Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The Service's name.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 63)))]
    pub name: String,
    /// The Service's port, by name or number; each pod's target port is resolved from it.
    pub port: NameOrNumber,
}

/// A port by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(untagged)]
pub enum NameOrNumber {
    /// By number.
    Number(u32),
    /// By name.
    Name(String),
}

impl std::fmt::Display for NameOrNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NameOrNumber::Number(number) => write!(f, "{number}"),
            NameOrNumber::Name(name) => f.write_str(name),
        }
    }
}

/// How targets are registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TargetType {
    /// Pod addresses.
    #[default]
    Ip,
    /// Nodes, with the Service's node port.
    Instance,
}

/// Protocol between load balancer and targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub enum Protocol {
    /// Plain.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// TLS; ELBv2 does not check the targets' certificates.
    #[serde(rename = "HTTPS")]
    Https,
}

/// HTTP version between load balancer and targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub enum ProtocolVersion {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "HTTP1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "HTTP2")]
    Http2,
    /// gRPC.
    #[serde(rename = "GRPC")]
    Grpc,
}

/// The load balancer's health check; ranges are those of ELBv2's CreateTargetGroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HealthCheck {
    /// Path, 1 to 1024 characters.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 1024)))]
    pub path: String,
    /// 1 to 65535; the target's own port when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65_535)))]
    pub port: Option<u32>,
    /// Seconds between two checks, 5 to 300.
    #[cfg_attr(feature = "schema", schemars(range(min = 5, max = 300)))]
    pub interval_seconds: u32,
    /// Seconds until a check without an answer has failed, 2 to 120, less than the interval.
    #[cfg_attr(feature = "schema", schemars(range(min = 2, max = 120)))]
    pub timeout_seconds: u32,
    /// Checks in a row that make an unhealthy target healthy, 2 to 10.
    #[cfg_attr(feature = "schema", schemars(range(min = 2, max = 10)))]
    pub healthy_threshold: u32,
    /// Checks in a row that make a healthy target unhealthy, 2 to 10.
    #[cfg_attr(feature = "schema", schemars(range(min = 2, max = 10)))]
    pub unhealthy_threshold: u32,
    /// HTTP codes (200 to 499) or gRPC codes (0 to 99) that pass: `200`, `200,204` or `200-299`.
    #[cfg_attr(feature = "schema", schemars(length(max = 255)))]
    pub success_codes: String,
}

impl Default for HealthCheck {
    /// Interval, timeout and thresholds are those of the AWS Load Balancer Controller, which users of EKS know.
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            port: None,
            interval_seconds: 15,
            timeout_seconds: 5,
            healthy_threshold: 2,
            unhealthy_threshold: 2,
            success_codes: String::new(),
        }
    }
}

/// How clusters share the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub enum Mode {
    /// One target group per cluster, exact weights.
    #[default]
    Weighted,
    /// One target group for all clusters.
    Pooled,
}

/// One cluster and its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// The cluster's name, as its agent announces it.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 63)))]
    pub name: String,
    /// Its share is its weight over the sum of the weights, 0 to 999; 0 is no requests.
    #[cfg_attr(feature = "schema", schemars(range(max = 999)))]
    pub weight: u32,
    /// 0 carries its share of the requests. 1 to 4 are standbys: they get none until what comes before them cannot carry the load;
    /// `weight` is then their share among those of their own priority. Needs `failover`.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_PRIORITY)))]
    pub priority: u32,
}

fn is_zero(priority: &u32) -> bool {
    *priority == 0
}
