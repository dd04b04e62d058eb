//! The steps of a plan: printable data that leaves nothing to decide while it is carried out. A step names a target group that
//! does not exist yet by its name, which is unique in the region and known beforehand.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    arn::{ListenerArn, LoadBalancerArn, RuleArn, TargetGroupArn},
    ids::{PolicyKey, VpcId, Weight},
    observed::{Condition, HealthCheck, Tags, Target},
    policy::{spec::TargetType, validate::target_type_word},
};

/// Targets in one RegisterTargets or DeregisterTargets call (the chunk that the AWS Load Balancer Controller uses).
pub const MOST_TARGETS_A_CALL: usize = 200;

/// A target group by name, with its ARN where it exists already.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupRef {
    /// Its name.
    pub name: String,
    /// Its ARN; none when an earlier step of the same plan makes it.
    pub arn: Option<TargetGroupArn>,
}

/// A target group to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTargetGroup {
    /// At most 32 characters, unique in the region.
    pub name: String,
    /// The load balancer's VPC.
    pub vpc_id: VpcId,
    /// `HTTP` or `HTTPS`.
    pub protocol: String,
    /// `HTTP1`, `HTTP2` or `GRPC`.
    pub protocol_version: String,
    /// The default port of the group, which every registration overrides.
    pub port: u16,
    /// Pods or nodes.
    pub target_type: TargetType,
    /// The health check.
    pub health_check: HealthCheck,
    /// With our ownership.
    pub tags: Tags,
}

/// A target with the zone to name at registration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NewTarget {
    /// Address or instance, and port.
    pub target: Target,
    /// `all` for addresses outside the group's VPC, else none: ELBv2 then finds the zone. Never given for instances.
    pub zone: Option<String>,
}

/// One call at AWS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// CreateTargetGroup.
    CreateTargetGroup(NewTargetGroup),
    /// ModifyTargetGroup: the health check.
    ModifyTargetGroup {
        /// Which.
        group: GroupRef,
        /// As it shall be.
        health_check: HealthCheck,
    },
    /// ModifyTargetGroupAttributes: the deregistration delay.
    ModifyTargetGroupAttributes {
        /// Which.
        group: GroupRef,
        /// 0..=3600.
        deregistration_delay_seconds: u32,
    },
    /// RegisterTargets, at most [`MOST_TARGETS_A_CALL`].
    RegisterTargets {
        /// Where.
        group: GroupRef,
        /// Which.
        targets: Vec<NewTarget>,
    },
    /// AddTags on the load balancer: the epoch of this hub, before its first write there.
    TagLoadBalancer {
        /// Which.
        load_balancer: LoadBalancerArn,
        /// The tags.
        tags: Tags,
    },
    /// SetRulePriorities.
    SetRulePriorities {
        /// The listener.
        listener: ListenerArn,
        /// The new priority of each rule that moves.
        priorities: BTreeMap<RuleArn, u32>,
    },
    /// CreateRule.
    CreateRule {
        /// Where.
        listener: ListenerArn,
        /// 1..=50000.
        priority: u32,
        /// Conditions.
        conditions: Vec<Condition>,
        /// Forward to these, in this order.
        forward: Vec<(GroupRef, Weight)>,
        /// With our ownership.
        tags: Tags,
    },
    /// ModifyRule; a list that is given replaces the present one.
    ModifyRule {
        /// The listener, for the read-back.
        listener: ListenerArn,
        /// Which.
        rule: RuleArn,
        /// New conditions.
        conditions: Option<Vec<Condition>>,
        /// New forward, whole.
        forward: Option<Vec<(GroupRef, Weight)>>,
    },
    /// DeregisterTargets, at most [`MOST_TARGETS_A_CALL`].
    DeregisterTargets {
        /// Where.
        group: GroupRef,
        /// Which.
        targets: Vec<Target>,
    },
    /// DeleteRule.
    DeleteRule {
        /// The listener, for the read-back.
        listener: ListenerArn,
        /// Which.
        rule: RuleArn,
    },
    /// DeleteTargetGroup.
    DeleteTargetGroup {
        /// Which.
        group: GroupRef,
    },
}

impl Action {
    /// The name of the ELBv2 operation.
    pub fn operation(&self) -> &'static str {
        match self {
            Action::CreateTargetGroup(_) => "CreateTargetGroup",
            Action::ModifyTargetGroup { .. } => "ModifyTargetGroup",
            Action::ModifyTargetGroupAttributes { .. } => "ModifyTargetGroupAttributes",
            Action::RegisterTargets { .. } => "RegisterTargets",
            Action::TagLoadBalancer { .. } => "AddTags",
            Action::SetRulePriorities { .. } => "SetRulePriorities",
            Action::CreateRule { .. } => "CreateRule",
            Action::ModifyRule { .. } => "ModifyRule",
            Action::DeregisterTargets { .. } => "DeregisterTargets",
            Action::DeleteRule { .. } => "DeleteRule",
            Action::DeleteTargetGroup { .. } => "DeleteTargetGroup",
        }
    }
}

/// An action with its place and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Whose it is.
    pub policy: PolicyKey,
    /// The call.
    pub action: Action,
    /// Why.
    pub why: String,
}

fn forward_text(forward: &[(GroupRef, Weight)]) -> String {
    let parts: Vec<String> = forward.iter().map(|(group, weight)| format!("{}={weight}", group.name)).collect();
    parts.join(" ")
}

fn list<T: fmt::Display>(items: impl Iterator<Item = T>) -> String {
    const SHOWN: usize = 5;
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    match items.len() {
        0..=SHOWN => items.join(", "),
        n => format!("{}, and {} more", items[..SHOWN].join(", "), n - SHOWN),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::CreateTargetGroup(new) => {
                let kind = target_type_word(new.target_type);
                write!(f, "create target group {} ({} {}, {kind})", new.name, new.protocol, new.protocol_version)
            }
            Action::ModifyTargetGroup { group, health_check } => {
                let HealthCheck { path, port, interval_seconds, .. } = health_check;
                let port = if port == "traffic-port" { String::new() } else { format!(" on port {port}") };
                write!(f, "change the health check of {} to {path}{port} every {interval_seconds} s", group.name)
            }
            Action::ModifyTargetGroupAttributes { group, deregistration_delay_seconds } => {
                write!(f, "set the deregistration delay of {} to {deregistration_delay_seconds} s", group.name)
            }
            Action::RegisterTargets { group, targets } => {
                let shown = list(targets.iter().map(|t| t.target));
                write!(f, "register {} in {}: {shown}", targets.len(), group.name)
            }
            Action::TagLoadBalancer { load_balancer, tags } => {
                let tags = list(tags.iter().map(|(key, value)| format!("{key}={value}")));
                write!(f, "tag {load_balancer}: {tags}")
            }
            Action::SetRulePriorities { priorities, .. } => write!(f, "move {} rules", priorities.len()),
            Action::CreateRule { priority, forward, .. } => {
                write!(f, "create rule at priority {priority}: {}", forward_text(forward))
            }
            Action::ModifyRule { conditions, forward, .. } => {
                f.write_str("change rule:")?;
                if conditions.is_some() {
                    f.write_str(" conditions")?;
                }
                match forward {
                    Some(forward) => write!(f, " weights {}", forward_text(forward)),
                    None => Ok(()),
                }
            }
            Action::DeregisterTargets { group, targets } => {
                write!(f, "deregister {} from {}: {}", targets.len(), group.name, list(targets.iter()))
            }
            Action::DeleteRule { rule, .. } => write!(f, "delete rule {rule}"),
            Action::DeleteTargetGroup { group } => write!(f, "delete target group {}", group.name),
        }
    }
}
