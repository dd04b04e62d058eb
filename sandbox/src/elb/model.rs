//! The state of one account and region: load balancers, listeners, rules, target groups, targets. Values and the
//! questions that several operations ask of them. Must not import HTTP or the data plane.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicUsize},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use super::{actions::Action, conditions::Condition, errors::ApiError, limits::Limits};

pub type Arn = String;

/// All there is. A clone is a snapshot (targets share their live counters).
#[derive(Debug, Clone, Default)]
pub struct World {
    pub load_balancers: BTreeMap<Arn, LoadBalancer>,
    pub listeners: BTreeMap<Arn, Listener>,
    pub rules: BTreeMap<Arn, Rule>,
    pub groups: BTreeMap<Arn, TargetGroup>,
    pub tags: BTreeMap<Arn, BTreeMap<String, String>>,
    pub limits: Limits,
    /// Instances that run, with their address: the machines of the clusters' nodes, and what the control API adds.
    pub instances: BTreeMap<String, Ipv4Addr>,
    /// Load balancers made so far; gives each its own loopback address.
    pub load_balancers_made: u32,
    /// Page size when a call names none; 0 stands for the largest (400).
    pub default_page_size: usize,
}

#[derive(Debug, Clone)]
pub struct LoadBalancer {
    pub arn: Arn,
    pub name: String,
    /// The part of the ARN that listeners and rules repeat (`app/<name>/<id>`).
    pub path: String,
    pub scheme: String,
    pub subnets: Vec<String>,
    pub security_groups: Vec<String>,
    pub ip_address_type: String,
    pub dns_name: String,
    pub ip: Ipv4Addr,
    pub created: jiff::Timestamp,
    /// `provisioning` until then.
    pub active_at: Instant,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub struct Listener {
    pub arn: Arn,
    pub load_balancer: Arn,
    /// The part of the ARN that rules repeat (`app/<name>/<id>/<id>`).
    pub path: String,
    pub port: u16,
    /// HTTP or HTTPS. HTTPS is served as plain HTTP.
    pub protocol: String,
    pub certificates: Vec<String>,
    pub ssl_policy: Option<String>,
    /// Where the data plane really listens.
    pub address: SocketAddr,
}

#[derive(Debug, Clone)]
pub struct Rule {
    pub arn: Arn,
    pub listener: Arn,
    /// None for the default rule.
    pub priority: Option<u32>,
    pub conditions: Vec<Condition>,
    pub actions: Vec<Action>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    pub enabled: bool,
    pub protocol: String,
    /// `traffic-port` or a number.
    pub port: String,
    pub path: String,
    pub interval_s: u32,
    pub timeout_s: u32,
    pub healthy_threshold: u32,
    pub unhealthy_threshold: u32,
    /// `200`, `200,202` or `200-299`.
    pub matcher: String,
}

#[derive(Debug, Clone)]
pub struct TargetGroup {
    pub arn: Arn,
    pub name: String,
    pub protocol: String,
    pub port: u16,
    pub vpc_id: String,
    pub target_type: String,
    pub ip_address_type: String,
    pub health_check: HealthCheck,
    pub attributes: BTreeMap<String, String>,
    pub targets: BTreeMap<TargetKey, Target>,
}

/// Identity of a target within a group: id and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetKey {
    pub id: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    Initial,
    Healthy,
    Unhealthy,
    Unused,
}

#[derive(Debug, Clone)]
pub struct Target {
    pub key: TargetKey,
    pub zone: Option<String>,
    pub address: SocketAddr,
    pub state: HealthState,
    pub reason: Option<&'static str>,
    pub description: Option<String>,
    /// Set while the target drains: when it is forgotten.
    pub draining_until: Option<Instant>,
    pub passes: u32,
    pub failures: u32,
    pub next_probe: Option<Instant>,
    pub probing: bool,
    /// Counts registrations, so that the result of an old probe never judges a new registration.
    pub generation: u64,
    pub slow_start_from: Option<Instant>,
    /// Set by the control API: the verdict of the health checker is ignored.
    pub forced: Option<HealthState>,
    pub live: Arc<Live>,
}

/// What requests in flight share with the state.
#[derive(Debug, Default)]
pub struct Live {
    pub outstanding: AtomicUsize,
    /// Cancelled when the deregistration delay has passed: what is still in flight then is cut.
    pub cut: CancellationToken,
}

impl HealthState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unused => "unused",
        }
    }
}

impl Target {
    pub fn is_draining(&self) -> bool {
        self.draining_until.is_some()
    }

    pub fn effective_state(&self) -> HealthState {
        self.forced.unwrap_or(self.state)
    }

    /// The verdict on a target that gets new requests; none while it drains.
    pub fn judged(&self) -> Option<HealthState> {
        (!self.is_draining()).then(|| self.effective_state())
    }
}

impl TargetGroup {
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    /// A numeric attribute; `off` and anything that is no number is 0.
    pub fn attribute_number(&self, key: &str) -> u64 {
        self.attribute(key).parse().unwrap_or(0)
    }

    pub fn speaks_http(&self) -> bool {
        matches!(self.protocol.as_str(), "HTTP" | "HTTPS")
    }
}

impl Rule {
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.actions.iter().flat_map(Action::groups)
    }
}

impl World {
    pub fn load_balancer(&self, arn: &str) -> Result<&LoadBalancer, ApiError> {
        self.load_balancers.get(arn).ok_or_else(|| ApiError::load_balancer_not_found(arn))
    }

    pub fn listener(&self, arn: &str) -> Result<&Listener, ApiError> {
        self.listeners.get(arn).ok_or_else(|| ApiError::listener_not_found(arn))
    }

    pub fn group(&self, arn: &str) -> Result<&TargetGroup, ApiError> {
        self.groups.get(arn).ok_or_else(|| ApiError::group_not_found(arn))
    }

    pub fn group_mut(&mut self, arn: &str) -> Result<&mut TargetGroup, ApiError> {
        self.groups.get_mut(arn).ok_or_else(|| ApiError::group_not_found(arn))
    }

    pub fn listeners_of<'a>(&'a self, load_balancer: &'a str) -> impl Iterator<Item = &'a Listener> {
        self.listeners.values().filter(move |l| l.load_balancer == load_balancer)
    }

    /// The rules of a listener in the order of evaluation, the default rule last.
    pub fn rules_of(&self, listener: &str) -> Vec<&Rule> {
        let mut rules: Vec<_> = self.rules.values().filter(|r| r.listener == listener).collect();
        rules.sort_by_key(|r| r.priority.unwrap_or(u32::MAX));
        rules
    }

    /// How many rules an ALB holds, default rules not counted.
    pub fn rule_count(&self, load_balancer: &str) -> usize {
        self.rules.values().filter(|r| r.priority.is_some() && self.is_under(r, load_balancer)).count()
    }

    fn is_under(&self, rule: &Rule, load_balancer: &str) -> bool {
        self.listeners.get(&rule.listener).is_some_and(|l| l.load_balancer == load_balancer)
    }

    /// The groups that the rules of an ALB refer to, leaving out one rule (the one about to be replaced).
    pub fn groups_under(&self, load_balancer: &str, without_rule: Option<&str>) -> BTreeSet<Arn> {
        let rules =
            self.rules.values().filter(|r| Some(r.arn.as_str()) != without_rule && self.is_under(r, load_balancer));
        rules.flat_map(Rule::groups).map(str::to_owned).collect()
    }

    /// The ALB whose rules refer to a group, if there is one. There never are two.
    pub fn owner_of_group(&self, group: &str, without_rule: Option<&str>) -> Option<&str> {
        let mut rules = self.rules.values().filter(|r| Some(r.arn.as_str()) != without_rule);
        let rule = rules.find(|r| r.groups().any(|g| g == group))?;
        self.listeners.get(&rule.listener).map(|l| l.load_balancer.as_str())
    }

    /// Every group that some rule refers to.
    pub fn groups_in_use(&self) -> BTreeSet<&str> {
        self.rules.values().flat_map(Rule::groups).collect()
    }

    pub fn exists(&self, arn: &str) -> bool {
        self.load_balancers.contains_key(arn)
            || self.listeners.contains_key(arn)
            || self.rules.contains_key(arn)
            || self.groups.contains_key(arn)
    }
}
