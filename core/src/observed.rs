//! What was last read back from AWS. *Unknown* is a value of its own: after a write whose answer was lost the cloud side is
//! unknown, never "as before", and nothing is planned on it until it was read again.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    arn::{ListenerArn, LoadBalancerArn, RuleArn, TargetGroupArn},
    ids::{IdError, InstanceId, VpcId, Weight, cut},
};

/// Tags of one resource.
pub type Tags = BTreeMap<String, String>;

/// Something that was read, or that is not known at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known<T> {
    /// Not read yet, or a write to it ended without an answer.
    #[default]
    Unknown,
    /// As read.
    Known(T),
}

impl<T> Known<T> {
    /// The value, when it is known.
    pub fn get(&self) -> Option<&T> {
        match self {
            Known::Unknown => None,
            Known::Known(value) => Some(value),
        }
    }
}

/// All that was read of one (account, region).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Load balancers, all of the region.
    pub load_balancers: BTreeMap<LoadBalancerArn, LoadBalancer>,
    /// Listeners of the load balancers that policies name.
    pub listeners: BTreeMap<ListenerArn, Listener>,
    /// Target groups whose name starts with our prefix, whoever made them.
    pub target_groups: BTreeMap<TargetGroupArn, TargetGroup>,
    /// The account's limits.
    pub limits: Limits,
    /// When everything was last read through; none: never, so that what is missing here may well exist.
    pub audited_at: Option<jiff::Timestamp>,
    /// A reading that failed and has not worked since, in words; it says why something is not known.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// A load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// Its name.
    pub name: String,
    /// `application`, `network` or `gateway`.
    pub kind: String,
    /// Its VPC.
    pub vpc_id: VpcId,
    /// Where clients reach it.
    pub dns_name: String,
    /// Its tags.
    pub tags: Tags,
    /// How many distinct target groups its rules and listeners use, ours or not; known once its listeners were read.
    pub target_groups_in_use: Known<u32>,
}

/// A listener and its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The load balancer it belongs to.
    pub load_balancer: LoadBalancerArn,
    /// 1..=65535.
    pub port: u16,
    /// `HTTP`, `HTTPS`, `TCP`, ...
    pub protocol: String,
    /// Its rules without the default rule; unknown while a write to it has no answer.
    pub rules: Known<BTreeMap<RuleArn, Rule>>,
}

/// A listener rule that is not the default rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// 1..=50000, unique on its listener.
    pub priority: u32,
    /// Its conditions, in a fixed order.
    pub conditions: Vec<Condition>,
    /// Its action.
    pub action: Action,
    /// Its tags.
    pub tags: Tags,
}

/// What a rule does with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Forward to weighted target groups, in the order of the ARNs.
    Forward {
        /// Weights by target group.
        weights: BTreeMap<TargetGroupArn, Weight>,
        /// Group stickiness in seconds; `None` when it is off.
        stickiness_seconds: Option<u32>,
    },
    /// Anything else (redirect, fixed response, authentication before a forward): we never make these.
    Other,
}

/// One condition of a rule. Values of one condition are alternatives; conditions must all hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Condition {
    /// `host-header`; case-insensitive, `*` and `?` are wildcards.
    HostHeader(Vec<String>),
    /// `path-pattern`; case-sensitive, `*` and `?` are wildcards.
    PathPattern(Vec<String>),
    /// `http-header`: name and values.
    HttpHeader(String, Vec<String>),
    /// `http-request-method`.
    HttpRequestMethod(Vec<String>),
    /// `query-string`: (key, value) pairs; an empty key matches any.
    QueryString(Vec<(String, String)>),
    /// `source-ip`: CIDR blocks.
    SourceIp(Vec<String>),
    /// A condition with regular expressions, or of a kind that we never make; the text names it.
    Other(String),
}

/// A target group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetGroup {
    /// At most 32 characters, unique in the region.
    pub name: String,
    /// Its VPC.
    pub vpc_id: VpcId,
    /// `HTTP` or `HTTPS`, ...
    pub protocol: String,
    /// `HTTP1`, `HTTP2` or `GRPC`.
    pub protocol_version: String,
    /// `ip`, `instance`, ...
    pub target_type: String,
    /// Its health check.
    pub health_check: HealthCheck,
    /// Attribute `deregistration_delay.timeout_seconds`; unknown until the attributes were read.
    pub deregistration_delay_seconds: Known<u32>,
    /// How long a client's cookie binds it to one target (attributes `stickiness.*`), 1..=604800 seconds; `None` when that is off.
    #[serde(default)]
    pub stickiness_seconds: Known<Option<u32>>,
    /// Its tags.
    pub tags: Tags,
    /// Registered targets; unknown until read, and after a write without an answer.
    pub targets: Known<BTreeMap<Target, TargetState>>,
}

/// A health check of a target group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// `HTTP` or `HTTPS`.
    pub protocol: String,
    /// `traffic-port` or a number.
    pub port: String,
    /// 1..=1024 characters.
    pub path: String,
    /// 5..=300.
    pub interval_seconds: u32,
    /// 2..=120.
    pub timeout_seconds: u32,
    /// 2..=10.
    pub healthy_threshold: u32,
    /// 2..=10.
    pub unhealthy_threshold: u32,
    /// Such as `200` or `200-299`.
    pub matcher: String,
}

/// What a target is known by: an address or an instance, and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// Where.
    pub id: TargetId,
    /// 1..=65535.
    pub port: u16,
}

/// The id of a target as ELBv2 takes it; which kind it is follows from the group's target type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TargetId {
    /// IPv4 or IPv6, in groups of target type `ip`.
    Ip(IpAddr),
    /// A node, in groups of target type `instance`.
    Instance(InstanceId),
}

impl Target {
    /// An address with its port.
    pub fn ip(address: impl Into<IpAddr>, port: u16) -> Self {
        Self { id: TargetId::Ip(address.into()), port }
    }

    /// An instance with its port.
    pub fn instance(instance: InstanceId, port: u16) -> Self {
        Self { id: TargetId::Instance(instance), port }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            TargetId::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            id => write!(f, "{id}:{}", self.port),
        }
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetId::Ip(address) => write!(f, "{address}"),
            TargetId::Instance(instance) => write!(f, "{instance}"),
        }
    }
}

impl FromStr for TargetId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.parse() {
            Ok(address) => Ok(TargetId::Ip(address)),
            Err(_) if text.starts_with("i-") => InstanceId::new(text).map(TargetId::Instance),
            Err(_) => Err(IdError {
                what: "target",
                value: cut(text),
                problem: "is neither an IP address nor the id of an EC2 instance".to_owned(),
                remedy: "use an IPv4 or IPv6 address without a zone, or an id such as i-0123456789abcdef0",
            }),
        }
    }
}

impl TryFrom<String> for TargetId {
    type Error = IdError;
    fn try_from(value: String) -> Result<Self, IdError> {
        value.parse()
    }
}

impl From<TargetId> for String {
    fn from(id: TargetId) -> String {
        id.to_string()
    }
}

/// State and reason of a target as DescribeTargetHealth gives them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetState {
    /// The state.
    pub health: Health,
    /// Such as `Target.ResponseCodeMismatch`; empty when healthy.
    pub reason: String,
}

/// The health states of ELBv2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Health {
    /// Registered, not judged yet.
    Initial,
    /// Passes its checks.
    Healthy,
    /// Fails its checks (also `unhealthy.draining`).
    Unhealthy,
    /// Not used by any load balancer, or not registered: no verdict.
    Unused,
    /// Deregistered, requests in flight may finish.
    Draining,
    /// Health checks are off, or ELB has an internal problem: no verdict.
    Unavailable,
}

/// The account limits that matter here (AWS: DescribeAccountLimits; defaults from the page "Quotas for your Application Load
/// Balancers").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Default 100, adjustable; default rules not counted.
    pub rules_per_load_balancer: u32,
    /// Default 100, not adjustable.
    pub target_groups_per_load_balancer: u32,
    /// Default 5, not adjustable.
    pub target_groups_per_action: u32,
    /// Default 3000, adjustable.
    pub target_groups_per_region: u32,
    /// Default 1000, adjustable.
    pub targets_per_target_group: u32,
    /// Default 1000, adjustable.
    pub targets_per_load_balancer: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rules_per_load_balancer: 100,
            target_groups_per_load_balancer: 100,
            target_groups_per_action: 5,
            target_groups_per_region: 3000,
            targets_per_target_group: 1000,
            targets_per_load_balancer: 1000,
        }
    }
}
