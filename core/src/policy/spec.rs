//! The ClusterTrafficPolicy as users write it, `switchyard.dev/v1alpha1`. Parsing is lenient in values and strict in names:
//! an unknown field is an error, a value out of range is found by [`super::validate()`], which can name every fault at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySpec {
    /// The listener that exists already.
    pub listener: Listener,
    /// Which requests are meant.
    #[serde(rename = "match")]
    pub matches: Match,
    /// The rule's place among the policies of this listener, 1..=49000.
    #[serde(default = "default_order")]
    pub order: u32,
    /// Where the requests go in each cluster.
    pub backend: Backend,
    /// How clusters share the requests.
    #[serde(default)]
    pub mode: Mode,
    /// 1 to 5 clusters.
    pub clusters: Vec<Cluster>,
    /// Limits on what the hub may do by itself.
    #[serde(default)]
    pub safety: Safety,
}

fn default_order() -> u32 {
    100
}

/// Names a listener by `arn`, or by `port` and one of `loadBalancer` and `tags`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Listener {
    /// The listener's ARN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// Name or ARN of the load balancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<String>,
    /// Tags that exactly one load balancer carries.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The listener's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
}

/// The conditions; all that are given must hold, values within one are alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// Host names, `*` and `?` are wildcards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathMatch>,
    /// Header name and values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// HTTP methods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Query string pairs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryMatch>,
    /// Source CIDR blocks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    /// How `value` is meant.
    #[serde(default, rename = "type")]
    pub kind: PathKind,
    /// The path.
    pub value: String,
}

/// How a path is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// The header's name.
    pub name: String,
    /// Its values.
    pub values: Vec<String>,
}

/// One query string pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryMatch {
    /// The key; any when left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The value.
    pub value: String,
}

/// Where requests go in each cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Seconds, 0..=3600, that a deregistered target may finish its requests.
    #[serde(default = "default_deregistration_delay")]
    pub deregistration_delay_seconds: u32,
}

/// The default of ELBv2 itself (attribute `deregistration_delay.timeout_seconds`).
fn default_deregistration_delay() -> u32 {
    300
}

/// A Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The Service's name.
    pub name: String,
    /// Its port, by name or number.
    pub port: NameOrNumber,
}

/// A port by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HealthCheck {
    /// Path, 1..=1024 characters.
    pub path: String,
    /// 1..=65535; the target's own port when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Seconds between two checks, 5..=300.
    pub interval_seconds: u32,
    /// Seconds until a check without an answer has failed, 2..=120, less than the interval.
    pub timeout_seconds: u32,
    /// Checks in a row that make an unhealthy target healthy, 2..=10.
    pub healthy_threshold: u32,
    /// Checks in a row that make a healthy target unhealthy, 2..=10.
    pub unhealthy_threshold: u32,
    /// HTTP codes (200..=499) or gRPC codes (0..=99) that pass: `200`, `200,204` or `200-299`.
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
pub enum Mode {
    /// One target group per cluster, exact weights.
    #[default]
    Weighted,
    /// One target group for all clusters.
    Pooled,
}

/// One cluster and its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// The cluster's name, as its agent announces it.
    pub name: String,
    /// 0..=999.
    pub weight: u32,
}

/// Limits on what the hub may do by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Safety {
    /// Percent of a weight-carrying group's targets that may be removed on weak evidence, 0..=100.
    pub deregistration_budget_percent: u32,
    /// True: the hub writes nothing at AWS for this policy.
    pub freeze: bool,
}

impl Default for Safety {
    fn default() -> Self {
        Self { deregistration_budget_percent: 50, freeze: false }
    }
}
