//! The invariants, checked on every plan before a call is made, on purpose in the plainest possible way and without using the
//! planner's own code: the steps are played on a copy of what was observed. Tests are in `core/tests/check.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;

use crate::{
    arn::{RuleArn, TargetGroupArn},
    ids::{ClusterName, Weight},
    inventory::{EndpointState, Link, Ownership},
    observed::{Action as RuleAction, Health, Tags, Target},
    ownership,
    plan::{
        World,
        step::{Action, GroupRef, Step},
    },
    policy::{PolicyMemory, PolicyRecord},
};

/// An invariant that a plan would break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its number, such as `I1`.
    pub invariant: &'static str,
    /// What would break it.
    pub detail: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.invariant, self.detail)
    }
}

/// Plays the steps and returns every invariant that they break.
pub fn check(
    world: &World<'_>,
    record: &PolicyRecord,
    memory: &PolicyMemory,
    steps: &[Step],
    now: Timestamp,
) -> Vec<Broken> {
    if steps.is_empty() {
        return Vec::new();
    }
    let mut play = Play::new(world, record, memory, steps, now);
    let mut phase = 0;
    for step in steps {
        play.step(&step.action);
        let next = match &step.action {
            Action::DeregisterTargets { .. } | Action::DeleteTargetGroup { .. } => 2,
            Action::CreateRule { .. } | Action::ModifyRule { .. } | Action::SetRulePriorities { .. } => 1,
            Action::DeleteRule { .. } => 1,
            _ => 0,
        };
        if next < phase {
            play.broken("I6", format!("{} comes after a later phase", step.action.operation()));
        }
        phase = next;
    }
    play.broken
}

struct Play<'a> {
    world: &'a World<'a>,
    record: &'a PolicyRecord,
    /// Registered targets by name of the groups that the steps name; absent: not known.
    targets: BTreeMap<String, BTreeSet<Target>>,
    /// By cluster the addresses that ready pods of the policy's Service own; left out when no step moves targets.
    wanted: BTreeMap<ClusterName, BTreeSet<Target>>,
    /// Weights by rule and group, of all rules that are known.
    rules: BTreeMap<RuleArn, BTreeMap<TargetGroupArn, Weight>>,
    /// Weights of the rule that the plan makes.
    new_rule: BTreeMap<TargetGroupArn, Weight>,
    /// True when every rule of every listener that was read is known.
    all_known: bool,
    /// True when what is programmed has been so for the settle time.
    settled: bool,
    broken: Vec<Broken>,
}

/// The addresses that ready pods of the policy's Service in a cluster own.
fn wanted(world: &World<'_>, record: &PolicyRecord, name: &ClusterName) -> BTreeSet<Target> {
    let Some(cluster) = world.inventory.clusters.get(name) else {
        return BTreeSet::new();
    };
    let endpoints = world.inventory.endpoints_of(name, &record.policy.service);
    let ready = endpoints.filter(|(_, _, endpoint)| {
        matches!(endpoint.state, EndpointState::Present { ready: true, terminating: false, .. })
    });
    let owned = ready.filter(|(target, uid, _)| match world.inventory.owner(&cluster.vpc_id, *target) {
        Ownership::Owner(owner) => {
            let other_service = (&owner.service.namespace, &owner.service.name)
                != (&record.policy.service.namespace, &record.policy.service.name);
            let lost_port = record.policy.service.targets_nodes() && other_service;
            owner.cluster == *name && owner.pod_uid == **uid && !lost_port
        }
        Ownership::Free => false,
    });
    owned.map(|(target, _, _)| target).collect()
}

impl<'a> Play<'a> {
    fn new(
        world: &'a World<'a>,
        record: &'a PolicyRecord,
        memory: &PolicyMemory,
        steps: &[Step],
        now: Timestamp,
    ) -> Self {
        // Only what the steps touch is copied: a region holds far more targets than one policy.
        let named: BTreeSet<&str> = steps
            .iter()
            .flat_map(|step| crate::execute::groups(&step.action))
            .map(|group| group.name.as_str())
            .collect();
        let registered = |group: &crate::observed::TargetGroup| {
            let known = group.targets.get().filter(|_| named.contains(group.name.as_str()))?;
            let kept = known.iter().filter(|(_, state)| state.health != Health::Draining).map(|(target, _)| *target);
            Some((group.name.clone(), kept.collect()))
        };
        let targets = world.observed.target_groups.values().filter_map(registered).collect();
        let moves_targets =
            |step: &Step| matches!(step.action, Action::RegisterTargets { .. } | Action::DeregisterTargets { .. });
        let clusters = record.policy.clusters.iter().filter(|_| steps.iter().any(moves_targets));
        let wanted = clusters.map(|(name, _)| (name.clone(), wanted(world, record, name))).collect();
        let mut rules = BTreeMap::new();
        for (arn, rule) in world.observed.listeners.values().filter_map(|listener| listener.rules.get()).flatten() {
            if let RuleAction::Forward { weights, .. } = &rule.action {
                rules.insert(arn.clone(), weights.clone());
            }
        }
        let all_known = world.observed.listeners.values().all(|listener| listener.rules.get().is_some());
        let since = memory.programmed.as_ref().map(|programmed| programmed.since);
        let settled =
            since.and_then(|since| since.checked_add(world.settings.settle).ok()).is_some_and(|end| end <= now);
        Self {
            world,
            record,
            targets,
            wanted,
            rules,
            new_rule: BTreeMap::new(),
            all_known,
            settled,
            broken: Vec::new(),
        }
    }

    fn broken(&mut self, invariant: &'static str, detail: String) {
        self.broken.push(Broken { invariant, detail });
    }

    fn step(&mut self, action: &Action) {
        for group in crate::execute::groups(action) {
            self.must_own_group(group);
        }
        match action {
            Action::CreateTargetGroup(new) => {
                self.targets.insert(new.name.clone(), BTreeSet::new());
            }
            Action::RegisterTargets { group, targets } => {
                for new in targets {
                    self.must_own_address(new.target);
                }
                let new = targets.iter().map(|new| new.target);
                self.targets.entry(group.name.clone()).or_default().extend(new);
            }
            Action::CreateRule { forward, .. } => self.forward(None, forward),
            Action::ModifyRule { rule, forward, .. } => {
                self.must_be_its_rule(rule);
                if let Some(forward) = forward {
                    self.forward(Some(rule), forward);
                }
            }
            Action::SetRulePriorities { priorities, .. } => {
                for rule in priorities.keys() {
                    self.must_own_rule(rule);
                }
            }
            Action::DeregisterTargets { group, targets } => self.deregister(group, targets),
            Action::DeleteRule { rule, .. } => self.delete_rule(rule),
            Action::DeleteTargetGroup { group } => self.delete_group(group),
            Action::ModifyTargetGroup { .. }
            | Action::ModifyTargetGroupAttributes { .. }
            | Action::TagLoadBalancer { .. } => {}
        }
    }

    fn must_own_group(&mut self, group: &GroupRef) {
        let Some(arn) = &group.arn else { return };
        let tags = self.world.observed.target_groups.get(arn).map(|group| &group.tags);
        let own = tags.is_some_and(|tags| ownership::belongs_to(tags, &self.world.settings.hub_id, &self.record.uid));
        if !own {
            self.broken("I5", format!("target group {} does not carry the tags of this policy", group.name));
        }
    }

    fn tags_of(&self, rule: &RuleArn) -> Option<&Tags> {
        let listeners = self.world.observed.listeners.values();
        listeners.filter_map(|listener| listener.rules.get()).find_map(|rules| rules.get(rule)).map(|rule| &rule.tags)
    }

    /// Moving is done for all rules of this hub at once.
    fn must_own_rule(&mut self, rule: &RuleArn) {
        let owner = self.tags_of(rule).map(|tags| ownership::owner(tags, &self.world.settings.hub_id));
        if !matches!(owner, Some(ownership::Owner::Ours { .. })) {
            self.broken("I5", format!("rule {rule} does not carry the tags of this hub"));
        }
    }

    /// Changing and deleting are done to the policy's own rules only.
    fn must_be_its_rule(&mut self, rule: &RuleArn) {
        let hub = &self.world.settings.hub_id;
        let own = self.tags_of(rule).is_some_and(|tags| ownership::belongs_to(tags, hub, &self.record.uid));
        if !own {
            self.broken("I5", format!("rule {rule} does not carry the tags of this policy"));
        }
    }

    /// The address must be wanted by a pod that owns it.
    fn must_own_address(&mut self, target: Target) {
        if !self.wanted.values().any(|wanted| wanted.contains(&target)) {
            self.broken("I10", format!("nothing ready of this policy's Service owns {target}"));
        }
    }

    fn forward(&mut self, rule: Option<&RuleArn>, forward: &[(GroupRef, Weight)]) {
        let sum: u32 = forward.iter().map(|(_, weight)| weight.get()).sum();
        if sum == 0 {
            self.broken("I2", "the weights of the rule sum to 0".to_owned());
        }
        let names: BTreeSet<&str> = forward.iter().map(|(group, _)| group.name.as_str()).collect();
        if names.len() != forward.len() || names.len() > self.world.observed.limits.target_groups_per_action as usize {
            self.broken("I12", format!("a rule with {} groups, {} of them distinct", forward.len(), names.len()));
        }
        let before = rule.and_then(|rule| self.rules.get(rule)).cloned().unwrap_or_default();
        for (group, weight) in forward {
            let had = group.arn.as_ref().and_then(|arn| before.get(arn)).is_some_and(|weight| weight.carries());
            let empty = self.targets.get(&group.name).is_none_or(BTreeSet::is_empty);
            if weight.carries() && !had && empty {
                self.broken("I2", format!("{} would get weight {weight} without a registered target", group.name));
            }
        }
        let known = forward.iter().filter_map(|(group, weight)| Some((group.arn.clone()?, *weight)));
        match rule {
            Some(rule) => drop(self.rules.insert(rule.clone(), known.collect())),
            None => self.new_rule.extend(known),
        }
    }

    fn deregister(&mut self, group: &GroupRef, gone: &[Target]) {
        let Some(targets) = self.targets.get_mut(&group.name) else {
            self.broken("I4", format!("the targets of {} are not known", group.name));
            return;
        };
        targets.retain(|target| !gone.contains(target));
        let left = targets.len();
        let carries = group.arn.as_ref().is_none_or(|arn| self.carries(arn));
        if left == 0 && carries {
            self.broken("I1", format!("{} carries weight and would be emptied", group.name));
        }
        let tags = group.arn.as_ref().and_then(|arn| self.world.observed.target_groups.get(arn)).map(|g| &g.tags);
        let cluster = tags.and_then(|tags| ClusterName::new(tags.get(ownership::TAG_CLUSTER)?.clone()).ok());
        // An operator's word is evidence enough, for a group that carries nothing.
        if cluster.as_ref().is_some_and(|name| self.world.ceiling(name).deregister) && !carries {
            return;
        }
        let known = cluster.as_ref().and_then(|name| self.world.inventory.clusters.get(name));
        let heard = known.is_some_and(|known| match known.link {
            Link::Connected => true,
            Link::Syncing => gone.iter().all(|target| self.seen_to_go(known, *target)),
            Link::Stale => false,
        });
        if !heard {
            self.broken("I3", format!("{} belongs to a cluster that is not connected", group.name));
        }
        let wanted = cluster.and_then(|name| self.wanted.get(&name));
        if let Some(target) = gone.iter().find(|target| wanted.is_some_and(|wanted| wanted.contains(target))) {
            self.broken("I4", format!("{target} is ready and would be removed from {}", group.name));
        }
    }

    /// True when the agent's present session told of a pod at this address.
    fn seen_to_go(&self, cluster: &crate::inventory::Cluster, target: Target) -> bool {
        let mut at = self.world.inventory.endpoints_of(&cluster.name, &self.record.policy.service);
        at.any(|(known, _, endpoint)| {
            let now = cluster.session_since.is_some_and(|since| endpoint.updated_at >= since);
            known == target && now && endpoint.state.was_seen_to_go()
        })
    }

    fn carries(&self, arn: &TargetGroupArn) -> bool {
        let mut rules = self.rules.values().chain([&self.new_rule]);
        let weighted = rules.any(|weights| weights.get(arn).is_some_and(|weight| weight.carries()));
        weighted || !self.all_known || !self.settled
    }

    fn delete_rule(&mut self, rule: &RuleArn) {
        self.must_be_its_rule(rule);
        self.rules.remove(rule);
        let rules = self.world.observed.listeners.values().filter_map(|listener| listener.rules.get()).flatten();
        let own = |tags| ownership::belongs_to(tags, &self.world.settings.hub_id, &self.record.uid);
        let left = rules.filter(|(arn, other)| self.rules.contains_key(*arn) && own(&other.tags)).count();
        if left == 0 && self.record.deleting_since.is_none() {
            self.broken("I6", format!("the last rule of the policy, {rule}, would be deleted"));
        }
    }

    fn delete_group(&mut self, group: &GroupRef) {
        let used = group.arn.as_ref().is_none_or(|arn| self.rules.values().any(|weights| weights.contains_key(arn)));
        if used || !self.all_known {
            self.broken("I6", format!("{} would be deleted while a rule may name it", group.name));
        }
    }
}
