//! What is read from AWS in one go, and which of it an action changes.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    arn::{ListenerArn, LoadBalancerArn, RuleArn, TargetGroupArn},
    observed::{Limits, Listener, LoadBalancer, Rule, Tags, Target, TargetGroup, TargetState},
    plan::step::Action,
};

/// Something that is read in one go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// The account's limits.
    Limits,
    /// All load balancers of the region.
    LoadBalancers,
    /// The tags of one load balancer.
    LoadBalancerTags(LoadBalancerArn),
    /// The listeners of one load balancer.
    Listeners(LoadBalancerArn),
    /// The rules of one listener.
    Rules(ListenerArn),
    /// All target groups with our prefix, with tags and attributes.
    Groups,
    /// One target group by its name.
    Group(String),
    /// The targets of one group.
    Targets(TargetGroupArn),
}

/// What a read brought.
#[derive(Clone, Debug)]
pub enum Reading {
    /// For [`Object::Limits`].
    Limits(Limits),
    /// For [`Object::LoadBalancers`].
    LoadBalancers(BTreeMap<LoadBalancerArn, LoadBalancer>),
    /// For [`Object::LoadBalancerTags`].
    LoadBalancerTags(Tags),
    /// For [`Object::Listeners`].
    Listeners(BTreeMap<ListenerArn, Listener>),
    /// For [`Object::Rules`]: the rules, and all groups that the listener uses, its default rule's included.
    Rules(BTreeMap<RuleArn, Rule>, BTreeSet<TargetGroupArn>),
    /// For [`Object::Groups`].
    Groups(BTreeMap<TargetGroupArn, TargetGroup>),
    /// For [`Object::Group`]; none: there is no such group.
    Group(Box<Option<(TargetGroupArn, TargetGroup)>>),
    /// For [`Object::Targets`]; none: the group is gone.
    Targets(Option<BTreeMap<Target, TargetState>>),
}

/// The objects that an action changes.
pub(super) fn touched(action: &Action) -> Vec<Object> {
    match action {
        Action::CreateTargetGroup(new) => vec![Object::Group(new.name.clone())],
        Action::ModifyTargetGroup { group, .. }
        | Action::ModifyTargetGroupAttributes { group, .. }
        | Action::DeleteTargetGroup { group } => vec![Object::Group(group.name.clone())],
        Action::RegisterTargets { group, .. } | Action::DeregisterTargets { group, .. } => {
            group.arn.iter().cloned().map(Object::Targets).collect()
        }
        Action::TagLoadBalancer { load_balancer, .. } => vec![Object::LoadBalancerTags(load_balancer.clone())],
        Action::SetRulePriorities { listener, .. }
        | Action::CreateRule { listener, .. }
        | Action::ModifyRule { listener, .. }
        | Action::DeleteRule { listener, .. } => vec![Object::Rules(listener.clone())],
    }
}

/// The listing that would bring old tags, or miss a new group, if it was started before this action. Others go on: under
/// steady registrations an audit would else never come to its end.
pub(super) fn listing_of(action: &Action) -> Option<Object> {
    match action {
        Action::CreateTargetGroup(_)
        | Action::ModifyTargetGroup { .. }
        | Action::ModifyTargetGroupAttributes { .. }
        | Action::DeleteTargetGroup { .. } => Some(Object::Groups),
        Action::TagLoadBalancer { .. } => Some(Object::LoadBalancers),
        Action::RegisterTargets { .. }
        | Action::DeregisterTargets { .. }
        | Action::SetRulePriorities { .. }
        | Action::CreateRule { .. }
        | Action::ModifyRule { .. }
        | Action::DeleteRule { .. } => None,
    }
}
