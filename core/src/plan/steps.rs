//! The steps of one policy, in the order that never opens a gap: make and register first, shift next, remove last (I6).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    World,
    draft::{ClusterDraft, Draft, RuleView},
    failures,
    health_check::health_check,
    ledger::Ledger,
    priorities::Priorities,
    step::{Action, GroupRef, MOST_TARGETS_A_CALL, NewTargetGroup, Step},
    words::Words,
};
use crate::{
    arn::TargetGroupArn,
    execute,
    ids::{ClusterName, Weight},
    observed::{self, Known, TargetGroup},
    ownership,
    status::{Note, Reason},
};

/// The default of ELBv2 (attribute `deregistration_delay.timeout_seconds`), which a new group has.
const DEFAULT_DEREGISTRATION_DELAY: u32 = 300;

struct Steps<'d> {
    draft_key: &'d crate::ids::PolicyKey,
    list: Vec<Step>,
}

impl Steps<'_> {
    fn push(&mut self, action: Action, why: impl Into<String>) {
        self.list.push(Step { policy: self.draft_key.clone(), action, why: why.into() });
    }
}

/// Everything that one policy needs now.
pub(super) fn for_policy(
    world: &World<'_>,
    draft: &mut Draft<'_>,
    priorities: &Priorities,
    ledger: &mut Ledger,
) -> Vec<Step> {
    let record = draft.record;
    let mut steps = Steps { draft_key: &record.policy.key, list: Vec::new() };
    if record.deleting_since.is_some() {
        remove_policy(draft, &mut steps);
        return steps.list;
    }
    let available = take_groups(draft, ledger);
    for cluster in &draft.clusters {
        if !cluster.leaving {
            prepare_group(world, draft, cluster, &available, &mut steps);
        }
    }
    let mut notes = Vec::new();
    for cluster in &draft.clusters {
        register(draft, cluster, &available, ledger, &mut steps, &mut notes);
    }
    draft.notes.extend(notes);
    rule(world, draft, priorities, ledger, &available, &mut steps);
    for cluster in &draft.clusters {
        deregister(cluster, &mut steps);
    }
    remove_leaving(draft, &mut steps);
    steps.list
}

/// The groups that may be used by this policy's rule: those that exist, and those that can be made within the quota.
fn take_groups(draft: &mut Draft<'_>, ledger: &mut Ledger) -> BTreeMap<ClusterName, GroupRef> {
    let mut available = BTreeMap::new();
    let mut notes = Vec::new();
    for cluster in draft.clusters.iter() {
        let arn = cluster.group.map(|(arn, _)| arn.clone());
        let exists = arn.is_some();
        let group = GroupRef { name: cluster.group_name.clone(), arn };
        if cluster.programmed.is_some() {
            available.insert(cluster.name.clone(), group);
            continue;
        }
        if cluster.leaving || !(exists || cluster.possible) {
            continue;
        }
        let Some(place) = draft.place else { continue };
        match ledger.groups(place.load_balancer_arn, 1) {
            Ok(()) => {
                available.insert(cluster.name.clone(), group);
            }
            Err(full) => {
                let message = format!(
                    "{} of {} target groups of load balancer {} are in use (quota \"target groups per Application Load \
                     Balancer\", not adjustable); remove policies or clusters, or use another load balancer",
                    full.used, full.limit, place.load_balancer.name
                );
                notes.push(Note { cluster: Some(cluster.name.clone()), reason: Reason::QuotaExceeded, message });
            }
        }
    }
    draft.notes.extend(notes);
    available
}

fn prepare_group(
    world: &World<'_>,
    draft: &Draft<'_>,
    cluster: &ClusterDraft<'_>,
    available: &BTreeMap<ClusterName, GroupRef>,
    steps: &mut Steps<'_>,
) {
    let (Some(group), Some(place)) = (available.get(&cluster.name), draft.place) else {
        return;
    };
    let policy = &draft.record.policy;
    let delay = policy.deregistration_delay_seconds;
    let set_delay = Action::ModifyTargetGroupAttributes { group: group.clone(), deregistration_delay_seconds: delay };
    let Some((_, present)) = cluster.group else {
        let tags = ownership::group_tags(&world.settings.hub_id, &policy.key, &draft.record.uid, &cluster.name);
        let new = NewTargetGroup {
            name: cluster.group_name.clone(),
            vpc_id: place.load_balancer.vpc_id.clone(),
            protocol: policy.protocol.clone(),
            protocol_version: policy.protocol_version.clone(),
            port: if policy.protocol == "HTTPS" { 443 } else { 80 },
            target_type: policy.service.target_type,
            health_check: health_check(world, policy, &cluster.name, None),
            tags,
        };
        steps.push(Action::CreateTargetGroup(new), format!("{} has no target group yet", cluster.name));
        if delay != DEFAULT_DEREGISTRATION_DELAY {
            steps.push(set_delay, "spec.backend.deregistrationDelaySeconds");
        }
        return;
    };
    let health_check = health_check(world, policy, &cluster.name, Some(&present.health_check));
    if present.health_check != health_check {
        let why = if health_check == policy.health_check {
            "spec.backend.healthCheck differs from the target group"
        } else {
            "the Service's health check node port differs from the target group"
        };
        steps.push(Action::ModifyTargetGroup { group: group.clone(), health_check }, why);
    }
    if matches!(present.deregistration_delay_seconds, Known::Known(seconds) if seconds != delay) {
        steps.push(set_delay, "spec.backend.deregistrationDelaySeconds differs from the target group");
    }
}

fn register(
    draft: &Draft<'_>,
    cluster: &ClusterDraft<'_>,
    available: &BTreeMap<ClusterName, GroupRef>,
    ledger: &mut Ledger,
    steps: &mut Steps<'_>,
    notes: &mut Vec<Note>,
) {
    let Some(group) = available.get(&cluster.name) else {
        return;
    };
    let mut targets = cluster.register.as_slice();
    if let Some(place) = draft.place {
        let (fits, full) = ledger.targets(place.load_balancer_arn, targets.len());
        if fits < targets.len() {
            let message = format!(
                "{} targets of {} do not fit: load balancer {} holds {} of {} (quota \"targets per Application Load \
                 Balancer\"); ask AWS to raise it, or use another load balancer",
                targets.len() - fits,
                cluster.name,
                place.load_balancer.name,
                full.used,
                full.limit
            );
            notes.push(Note { cluster: Some(cluster.name.clone()), reason: Reason::QuotaExceeded, message });
        }
        targets = &targets[..fits];
    }
    let chunk = failures::register_chunk(&draft.memory, &cluster.group_name).min(MOST_TARGETS_A_CALL);
    for targets in targets.chunks(chunk) {
        let action = Action::RegisterTargets { group: group.clone(), targets: targets.to_vec() };
        let many = Words::of(&draft.record.policy.service).many;
        steps.push(action, format!("ready {many} of {} are not registered", cluster.name));
    }
}

fn deregister(cluster: &ClusterDraft<'_>, steps: &mut Steps<'_>) {
    let Some((arn, _)) = cluster.group else { return };
    let group = GroupRef { name: cluster.group_name.clone(), arn: Some(arn.clone()) };
    for chunk in cluster.deregister.chunks(MOST_TARGETS_A_CALL) {
        let mut why: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, words) in chunk {
            *why.entry(words).or_default() += 1;
        }
        let why: Vec<String> = why.into_iter().map(|(words, n)| format!("{words} ({n})")).collect();
        let targets = chunk.iter().map(|(target, _)| *target).collect();
        steps.push(Action::DeregisterTargets { group: group.clone(), targets }, why.join(", "));
    }
}

/// The forward action as it should be: clusters of the spec, then those on their way out for as long as they must stay.
pub(super) fn forward(
    draft: &Draft<'_>,
    available: &BTreeMap<ClusterName, GroupRef>,
    most: u32,
) -> (Vec<(GroupRef, Weight)>, Vec<ClusterName>) {
    let stays = |cluster: &&ClusterDraft<'_>| match cluster.leaving {
        true => cluster.programmed.is_some() && cluster.carrying,
        false => !cluster.is_detached(),
    };
    let mut wanted: Vec<(&ClusterDraft<'_>, Weight)> = Vec::new();
    for cluster in draft.clusters.iter().filter(stays) {
        let weight = draft.effective.iter().find(|e| e.cluster == cluster.name).map_or(Weight::ZERO, |e| e.weight);
        wanted.push((cluster, weight));
    }
    // Groups that are in the rule already keep their place in it; new ones take what room is left.
    let present = wanted.iter().filter(|(cluster, _)| cluster.programmed.is_some()).count();
    let mut room = (most as usize).saturating_sub(present);
    let mut forward = Vec::new();
    let mut left_out = Vec::new();
    for (cluster, weight) in wanted {
        let Some(group) = available.get(&cluster.name) else {
            continue;
        };
        if group.arn.is_none() && failures::cannot_be_made(&draft.memory, &group.name) {
            continue;
        }
        if cluster.programmed.is_none() {
            if room == 0 {
                left_out.push(cluster.name.clone());
                continue;
            }
            room -= 1;
        }
        forward.push((group.clone(), weight));
    }
    (forward, left_out)
}

fn rule(
    world: &World<'_>,
    draft: &mut Draft<'_>,
    priorities: &Priorities,
    ledger: &mut Ledger,
    available: &BTreeMap<ClusterName, GroupRef>,
    steps: &mut Steps<'_>,
) {
    let Some(place) = draft.place.filter(|_| draft.wants_rule) else {
        return;
    };
    let (forward, left_out) = forward(draft, available, world.observed.limits.target_groups_per_action);
    for name in left_out {
        let message = format!(
            "{name} waits: the rule holds {} target groups, its limit, until a cluster that leaves is gone from it",
            world.observed.limits.target_groups_per_action
        );
        draft.note(Some(&name), Reason::QuotaExceeded, message);
    }
    let policy = &draft.record.policy;
    let Some(priority) = priorities.assigned.get(&policy.key).copied() else {
        let message = format!("spec.order: no rule priority at or after {} is free; use a smaller order", policy.order);
        draft.note(None, Reason::NoPriorityFree, message);
        return;
    };
    if forward.iter().all(|(_, weight)| !weight.carries()) {
        return;
    }
    match &draft.rule {
        RuleView::Unknown => {}
        RuleView::Present { arn, rule, duplicates } => {
            let conditions = (rule.conditions != policy.conditions).then(|| policy.conditions.clone());
            let forward = (!same_forward(&rule.action, &forward)).then_some(forward);
            if conditions.is_some() || forward.is_some() {
                let why = rule_why(conditions.is_some(), forward.is_some());
                let (listener, rule) = (place.listener_arn.clone(), (*arn).clone());
                steps.push(Action::ModifyRule { listener, rule, conditions, forward }, why);
            }
            for duplicate in duplicates {
                let (listener, rule) = (place.listener_arn.clone(), (*duplicate).clone());
                steps.push(Action::DeleteRule { listener, rule }, "a second rule of this policy");
            }
        }
        RuleView::Absent => {
            if priorities.moves.iter().any(|(rule, _)| occupies(place.listener, rule, priority)) {
                let message = format!("priority {priority} is being freed by another rule of this hub");
                draft.note(None, Reason::InProgress, message);
                return;
            }
            if let Err(full) = ledger.rule(place.load_balancer_arn) {
                let message = format!(
                    "{} of {} rules of load balancer {} are in use (quota \"rules per Application Load Balancer\"); ask \
                     AWS to raise it, remove rules, or use another load balancer",
                    full.used, full.limit, place.load_balancer.name
                );
                draft.note(None, Reason::QuotaExceeded, message);
                return;
            }
            let tags = ownership::rule_tags(&world.settings.hub_id, &policy.key, &draft.record.uid);
            let listener = place.listener_arn.clone();
            let conditions = policy.conditions.clone();
            steps.push(
                Action::CreateRule { listener, priority, conditions, forward, tags },
                "the policy has no rule yet",
            );
        }
    }
}

fn occupies(listener: &observed::Listener, rule: &crate::arn::RuleArn, priority: u32) -> bool {
    listener.rules.get().and_then(|rules| rules.get(rule)).is_some_and(|rule| rule.priority == priority)
}

fn rule_why(conditions: bool, forward: bool) -> &'static str {
    match (conditions, forward) {
        (true, true) => "conditions and weights differ from what is wanted",
        (true, false) => "conditions differ from spec.match",
        _ => "weights differ from what is wanted",
    }
}

/// The groups of this policy that exist.
pub(super) fn existing_groups(draft: &Draft<'_>) -> BTreeMap<ClusterName, GroupRef> {
    let existing = |cluster: &ClusterDraft<'_>| {
        let (arn, _) = cluster.group?;
        Some((cluster.name.clone(), GroupRef { name: cluster.group_name.clone(), arn: Some(arn.clone()) }))
    };
    draft.clusters.iter().filter_map(existing).collect()
}

/// True when the rule forwards exactly to these groups with these weights, without group stickiness.
pub(super) fn same_forward(action: &observed::Action, wanted: &[(GroupRef, Weight)]) -> bool {
    let observed::Action::Forward { weights, stickiness_seconds: None } = action else {
        return false;
    };
    let known: Option<BTreeMap<&TargetGroupArn, Weight>> =
        wanted.iter().map(|(group, weight)| group.arn.as_ref().map(|arn| (arn, *weight))).collect();
    known.is_some_and(|wanted| {
        wanted.len() == weights.len() && weights.iter().all(|(arn, w)| wanted.get(arn) == Some(w))
    })
}

/// A cluster that left the spec: once its weight has been 0 for the settle time it was dropped from the rule; its group goes
/// when no rule names it.
fn remove_leaving(draft: &mut Draft<'_>, steps: &mut Steps<'_>) {
    let mut notes = Vec::new();
    for cluster in draft.clusters.iter().filter(|cluster| cluster.leaving) {
        let Some((arn, _)) = cluster.group else { continue };
        if cluster.programmed.is_none() && !cluster.carrying {
            let group = GroupRef { name: cluster.group_name.clone(), arn: Some(arn.clone()) };
            steps.push(Action::DeleteTargetGroup { group }, format!("{} left spec.clusters", cluster.name));
        } else {
            let message = format!(
                "{} left spec.clusters; its group goes after its weight has been 0 for the settle time",
                cluster.name
            );
            notes.push(Note { cluster: Some(cluster.name.clone()), reason: Reason::WaitingToRemove, message });
        }
    }
    draft.notes.extend(notes);
}

/// A policy that is deleted: its rule first, and after the settle time its groups.
fn remove_policy(draft: &mut Draft<'_>, steps: &mut Steps<'_>) {
    let place = draft.place;
    if let (RuleView::Present { arn, duplicates, .. }, Some(place)) = (&draft.rule, place) {
        for rule in std::iter::once(arn).chain(duplicates) {
            let (listener, rule) = (place.listener_arn.clone(), (*rule).clone());
            steps.push(Action::DeleteRule { listener, rule }, "the policy is being deleted");
        }
        return;
    }
    let unreadable = matches!(draft.rule, RuleView::Unknown) && !listener_is_gone(draft);
    if unreadable || !draft.settled {
        if draft.clusters.iter().any(|cluster| cluster.group.is_some()) {
            let message = if unreadable {
                "the rule cannot be read now, so nothing is removed before that"
            } else {
                "the rule is gone; target groups follow after the settle time"
            };
            draft.note(None, Reason::WaitingToRemove, message.to_owned());
        }
        return;
    }
    let groups: Vec<(&TargetGroupArn, &TargetGroup)> =
        draft.clusters.iter().filter_map(|cluster| cluster.group).collect();
    for (arn, group) in groups {
        let group = GroupRef { name: group.name.clone(), arn: Some(arn.clone()) };
        steps.push(Action::DeleteTargetGroup { group }, "the policy is being deleted");
    }
}

/// True when AWS was read and the policy's listener is not there: then no rule can be there either.
pub(super) fn listener_is_gone(draft: &Draft<'_>) -> bool {
    draft.place.is_none() && draft.notes.iter().any(|note| note.reason == Reason::ListenerNotFound)
}

/// Leaves out the steps that AWS refused a moment ago, and what builds on them; forgets refusals of steps nobody wants now.
pub(super) fn withhold(draft: &mut Draft<'_>, wanted: Vec<Step>, now: Timestamp) -> Vec<Step> {
    let keys: Vec<String> = wanted.iter().map(|step| failures::step_key(&step.action)).collect();
    // Refused targets are forgotten one by one in `super::draft`; those of a group that nobody fills any more go here.
    let staying: Vec<String> =
        draft.clusters.iter().filter(|c| !c.leaving).map(|c| failures::batch_key(&c.group_name)).collect();
    let registers = |key: &String| staying.iter().any(|batch| key.starts_with(batch.as_str()));
    if is_known(draft) {
        draft.memory.failures.retain(|key, _| registers(key) || keys.contains(key));
    }
    let mut kept: Vec<Step> = Vec::new();
    let mut withheld: Vec<Action> = Vec::new();
    for step in wanted {
        let depends = withheld.iter().any(|on| execute::builds_on(&step.action, on));
        if depends || !failures::may_try(&draft.memory, &step.action, now) {
            withheld.push(step.action);
        } else {
            kept.push(step);
        }
    }
    failure_notes(draft);
    kept
}

/// True when everything was read that steps are made from. While a write is read back (of another policy's rule on the same
/// listener, too) steps are missing although they are wanted: a refusal forgotten then would be tried again at once, without
/// end, and its reason would never be shown.
fn is_known(draft: &Draft<'_>) -> bool {
    let rule = draft.place.is_none() || !matches!(draft.rule, RuleView::Unknown);
    let mut groups = draft.clusters.iter().filter_map(|cluster| cluster.group);
    rule && groups.all(|(_, group)| group.targets.get().is_some())
}

/// One note for each reason and group: a thousand bad addresses are one thing to look at.
fn failure_notes(draft: &mut Draft<'_>) {
    let mut failed: BTreeMap<(Reason, String), (String, usize)> = BTreeMap::new();
    for (key, failure) in &draft.memory.failures {
        // The operation and the group, without the single target that may follow.
        let what: Vec<&str> = key.splitn(3, ' ').take(2).collect();
        let entry = failed.entry((failure.reason, what.join(" "))).or_insert_with(|| (failure.message.clone(), 0));
        entry.1 += 1;
    }
    for ((reason, what), (message, count)) in failed {
        let more = if count > 1 { format!(" (one of {count}: {what})") } else { String::new() };
        draft.note(None, reason, format!("{message}{more}"));
    }
}
