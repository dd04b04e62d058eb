//! Rules: create, describe, modify (whole lists), delete, and the atomic exchange of priorities. Also decides whether
//! the target groups of an action exist, fit and stay within the quotas; listeners ask here too.

use std::collections::{BTreeMap, BTreeSet};

use super::Call;
use crate::elb::{
    actions::{self, Action},
    conditions::{self, unsupported},
    errors::ApiError,
    limits,
    model::{Arn, Rule, World},
    tags,
    xml::Xml,
};

const MAX_PRIORITY: u32 = 50_000;

pub fn create(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let listener = call.world.listener(call.args.required("ListenerArn")?)?.clone();
    call.args.required("Priority")?;
    let priority = call.args.number("Priority", 1..=MAX_PRIORITY)?;
    let conditions = conditions::parse_all(&call.args.members("Conditions"), &call.world.limits)?;
    let actions = actions::parse_all(&call.args.members("Actions"), &call.world.limits)?;
    refuse_transforms(call)?;
    let tags = tags::parse(&call.args.members("Tags"))?;
    tags::check_quota(&call.world.limits, tags.len())?;
    if call.world.rules.values().any(|r| r.listener == listener.arn && r.priority == priority) {
        let number = priority.unwrap_or_default();
        return Err(ApiError::new("PriorityInUse", format!("Priority '{number}' is currently in use")));
    }
    let count = call.world.rule_count(&listener.load_balancer) + 1;
    call.world.limits.check(limits::RULES_PER_LB, count, "TooManyRules", "rules of this load balancer")?;
    check_actions(call.world, &listener.load_balancer, None, &actions)?;
    let arn = call.config.arn(&format!("listener-rule/{}/{}", listener.path, call.new_id()));
    let rule = Rule { arn: arn.clone(), listener: listener.arn.clone(), priority, conditions, actions };
    call.world.rules.insert(arn.clone(), rule);
    call.world.tags.insert(arn.clone(), tags);
    call.effects.changed.insert(listener.arn);
    Ok(write_all(call.world, &[arn], None))
}

pub fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arns = call.args.list("RuleArns");
    if !arns.is_empty() {
        let held = |arn: &&str| match call.world.rules.get(*arn) {
            Some(rule) => Ok(rule.arn.clone()),
            None => Err(ApiError::rule_not_found(arn)),
        };
        return Ok(write_all(call.world, &arns.iter().map(held).collect::<Result<Vec<_>, _>>()?, None));
    }
    let Some(listener) = call.args.get("ListenerArn") else {
        return Err(ApiError::validation("You must specify either listener rule ARNs or a listener ARN"));
    };
    call.world.listener(listener)?;
    let rules = call.world.rules_of(listener).into_iter();
    let keyed = rules.map(|r| (format!("{:010}{}", r.priority.unwrap_or(u32::MAX), r.arn), r.arn.clone()));
    let (page, next) = call.page(keyed.collect())?;
    Ok(write_all(call.world, &page, next))
}

pub fn modify(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let mut rule = held(call, call.args.required("RuleArn")?)?;
    if rule.priority.is_none() {
        return Err(ApiError::new("OperationNotPermitted", "Default rule cannot be modified; use ModifyListener"));
    }
    refuse_transforms(call)?;
    let (conditions, actions) = (call.args.members("Conditions"), call.args.members("Actions"));
    if conditions.is_empty() && actions.is_empty() {
        return Err(ApiError::validation("Either conditions or actions must be specified"));
    }
    if !conditions.is_empty() {
        rule.conditions = conditions::parse_all(&conditions, &call.world.limits)?;
    }
    if !actions.is_empty() {
        rule.actions = actions::parse_all(&actions, &call.world.limits)?;
        let load_balancer = call.world.listener(&rule.listener)?.load_balancer.clone();
        check_actions(call.world, &load_balancer, Some(&rule.arn), &rule.actions)?;
    }
    let arn = rule.arn.clone();
    call.effects.changed.insert(rule.listener.clone());
    call.world.rules.insert(arn.clone(), rule);
    Ok(write_all(call.world, &[arn], None))
}

pub fn delete(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let rule = held(call, call.args.required("RuleArn")?)?;
    if rule.priority.is_none() {
        return Err(ApiError::new("OperationNotPermitted", "Default rule cannot be deleted"));
    }
    call.world.rules.remove(&rule.arn);
    call.world.tags.remove(&rule.arn);
    call.effects.changed.insert(rule.listener);
    Ok(Xml::new())
}

/// Any reorder goes, swaps included, as long as the final order has no conflict.
pub fn set_priorities(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let pairs = call.args.members("RulePriorities");
    if pairs.is_empty() {
        return Err(ApiError::validation("Parameter 'RulePriorities' is empty; give at least one rule"));
    }
    let mut wanted = BTreeMap::new();
    let mut listeners = BTreeSet::new();
    for pair in &pairs {
        let rule = held(call, pair.required("RuleArn")?)?;
        pair.required("Priority")?;
        let priority = pair.number("Priority", 1..=MAX_PRIORITY)?;
        if rule.priority.is_none() {
            return Err(ApiError::new("OperationNotPermitted", "The priority of the default rule cannot be changed"));
        }
        listeners.insert(rule.listener);
        if wanted.insert(rule.arn.clone(), priority).is_some() {
            return Err(ApiError::validation(format!("Rule '{}' is named twice; name it once", rule.arn)));
        }
    }
    let mut taken = BTreeSet::new();
    for rule in call.world.rules.values().filter(|r| r.priority.is_some() && listeners.contains(&r.listener)) {
        let priority = wanted.get(&rule.arn).copied().unwrap_or(rule.priority);
        if !taken.insert((&rule.listener, priority)) {
            let number = priority.unwrap_or_default();
            return Err(ApiError::new("PriorityInUse", format!("Priority '{number}' is currently in use")));
        }
    }
    for (arn, priority) in &wanted {
        if let Some(rule) = call.world.rules.get_mut(arn) {
            rule.priority = *priority;
        }
    }
    call.effects.changed.extend(listeners);
    Ok(write_all(call.world, &wanted.into_keys().collect::<Vec<_>>(), None))
}

/// Whether the groups of these actions may be used by a rule of this load balancer. `without_rule` is the rule whose
/// actions are about to be replaced, so that what it holds now does not count.
pub fn check_actions(
    world: &World,
    load_balancer: &str,
    without_rule: Option<&str>,
    actions: &[Action],
) -> Result<(), ApiError> {
    for arn in actions.iter().flat_map(Action::groups) {
        let group = world.group(arn)?;
        if !group.speaks_http() {
            return Err(ApiError::new(
                "IncompatibleProtocols",
                format!(
                    "Target group '{arn}' has protocol {}; an application load balancer needs HTTP or HTTPS",
                    group.protocol
                ),
            ));
        }
        if world.owner_of_group(arn, without_rule).is_some_and(|owner| owner != load_balancer) {
            return Err(ApiError::new(
                "TargetGroupAssociationLimit",
                format!("The following target groups cannot be associated with more than one load balancer: {arn}"),
            ));
        }
    }
    check_stickiness(world, actions)?;
    let mut after = world.groups_under(load_balancer, without_rule);
    let before = after.len();
    after.extend(actions.iter().flat_map(Action::groups).map(str::to_owned));
    if after.len() > before {
        let code = "TooManyUniqueTargetGroupsPerLoadBalancer";
        world.limits.check(limits::GROUPS_PER_LB, after.len(), code, "unique target groups of this load balancer")?;
        check_target_quota(world, &after, 0)?;
    }
    Ok(())
}

/// Refuses when the groups of one load balancer, with `more` targets to come, hold too many targets.
pub fn check_target_quota(world: &World, groups: &BTreeSet<Arn>, more: usize) -> Result<(), ApiError> {
    let held = groups.iter().filter_map(|arn| world.groups.get(arn));
    let count = held.map(|g| g.targets.values().filter(|t| !t.is_draining()).count()).sum::<usize>() + more;
    world.limits.check(limits::TARGETS_PER_LB, count, "TooManyTargets", "targets of this load balancer")
}

/// With several groups, target stickiness in any of them needs group stickiness in the action.
fn check_stickiness(world: &World, actions: &[Action]) -> Result<(), ApiError> {
    for forward in actions.iter().filter_map(Action::forward).filter(|f| f.groups.len() > 1 && f.stickiness_s.is_none())
    {
        let sticky = |arn: &str| world.groups.get(arn).is_some_and(|g| g.attribute("stickiness.enabled") == "true");
        if let Some(group) = forward.groups.iter().find(|g| sticky(&g.arn)) {
            return Err(ApiError::config(format!(
                "Target group '{}' has target stickiness; enable TargetGroupStickinessConfig in the action",
                group.arn
            )));
        }
    }
    Ok(())
}

fn refuse_transforms(call: &Call<'_>) -> Result<(), ApiError> {
    if !call.args.members("Transforms").is_empty() {
        return Err(unsupported("Transforms"));
    }
    Ok(())
}

fn held(call: &Call<'_>, arn: &str) -> Result<Rule, ApiError> {
    call.world.rules.get(arn).cloned().ok_or_else(|| ApiError::rule_not_found(arn))
}

fn write_all(world: &World, arns: &[Arn], next: Option<String>) -> Xml {
    let mut xml = Xml::new();
    xml.list("Rules", arns.iter().filter_map(|arn| world.rules.get(arn)), |x, rule| {
        x.text("RuleArn", &rule.arn);
        match rule.priority {
            Some(priority) => x.text("Priority", priority),
            None => x.text("Priority", "default"),
        };
        x.list("Conditions", &rule.conditions, |x, c| c.write(x));
        x.list("Actions", &rule.actions, |x, a| a.write(x));
        x.text("IsDefault", rule.priority.is_none());
    });
    xml.text_if("NextMarker", next);
    xml
}
