//! The check is the last door before AWS: plans of the planner pass it, and the same plans with one thing broken are named by
//! the invariant that they break. The worlds are histories by seed, so that every mutation meets many plans.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::{Model, NOT_READY, READY, TERMINATING, cluster_name, key, listener_arn, manifest};
use switchyard_core::{
    arn::{RuleArn, TargetGroupArn},
    check::check,
    ids::{ClusterName, PolicyKey, VpcId, Weight},
    inventory::{EndpointState, Evidence, Link},
    observed::{Action as RuleAction, Health, Known, Rule, Tags, Target, TargetGroup},
    ownership,
    plan::{Action, GroupRef, NewTarget, PolicyPlan, Step, World},
    policy::PolicyRecord,
};

const CLUSTERS: [&str; 3] = ["blue", "green", "dr"];
const POLICIES: [&str; 2] = ["cart", "checkout"];

/// A small generator (splitmix64), so that a seed means the same history on every machine.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

fn set_pod(model: &mut Model, cluster: usize, policy: usize, pod: usize, state: EndpointState) {
    let address = format!("10.{cluster}.{policy}.{}", pod + 1);
    model.pod(CLUSTERS[cluster], POLICIES[policy], &format!("{cluster}-{policy}-{pod}"), &address, state);
}

/// A world with a foreign rule, a foreign group and two policies; pods of every cluster are ready.
fn new_world() -> Model {
    let mut model = Model::new();
    model.foreign_rule(100);
    let arn = foreign_group();
    let group = TargetGroup {
        name: "sy-not-ours".into(),
        vpc_id: VpcId::new(support::VPC).unwrap(),
        protocol: "HTTP".into(),
        protocol_version: "HTTP1".into(),
        target_type: "ip".into(),
        health_check: switchyard_core::policy::validate(&manifest("cart", &[("blue", 1)], "")).unwrap().health_check,
        deregistration_delay_seconds: Known::Known(300),
        stickiness_seconds: Known::Known(None),
        tags: Tags::from([("ingress.k8s.aws/stack".into(), "shop/web".into())]),
        targets: Known::Known(BTreeMap::new()),
    };
    model.aws.target_groups.insert(arn, group);
    for (cluster, name) in CLUSTERS.iter().enumerate() {
        model.cluster(name, Link::Connected);
        for policy in 0..POLICIES.len() {
            for pod in 0..3 {
                set_pod(&mut model, cluster, policy, pod, READY);
            }
        }
    }
    for name in POLICIES {
        model.policy(&manifest(name, &[("blue", 100), ("green", 0)], ""));
    }
    model
}

fn foreign_group() -> TargetGroupArn {
    TargetGroupArn::new("arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/sy-not-ours/9").unwrap()
}

fn any_event(model: &mut Model, rng: &mut Rng) {
    let (cluster, policy, pod) = (rng.below(3), rng.below(2), rng.below(4));
    match rng.below(12) {
        0..=2 => set_pod(model, cluster, policy, pod, READY),
        3 => set_pod(model, cluster, policy, pod, NOT_READY),
        4 => set_pod(model, cluster, policy, pod, TERMINATING),
        5 => set_pod(model, cluster, policy, pod, EndpointState::Gone(Evidence::PodDeleted)),
        6 => set_pod(model, cluster, policy, pod, EndpointState::Gone(Evidence::NotSelected)),
        7 => {
            let links = [Link::Connected, Link::Connected, Link::Stale, Link::Syncing];
            model.cluster(CLUSTERS[cluster], links[rng.below(4)]);
        }
        8 | 9 => {
            let wanted = [[100, 0], [0, 100], [50, 50], [999, 1]][rng.below(4)];
            model.policy(&manifest(POLICIES[policy], &[("blue", wanted[0]), ("green", wanted[1])], ""));
        }
        10 => {
            let clusters: &[(&str, u32)] = &[("blue", 10), ("green", 10), ("dr", 10)];
            model.policy(&manifest(POLICIES[policy], clusters, ""));
        }
        _ => model.judge_health(),
    }
    if rng.below(3) == 0 {
        model.judge_health();
        model.advance(61);
    }
}

/// One plan of one policy, with the world that it was made for.
struct Case<'a> {
    model: &'a Model,
    record: &'a PolicyRecord,
    plan: &'a PolicyPlan,
}

impl Case<'_> {
    fn named(&self, steps: &[Step]) -> Vec<String> {
        let world = World {
            settings: &self.model.settings,
            policies: &self.model.policies,
            memories: &self.model.memories,
            inventory: &self.model.inventory,
            observed: &self.model.aws,
            health_read: &self.model.health_read,
            fleet: &self.model.fleet,
        };
        let broken = check(&world, self.record, &self.plan.memory, steps, self.model.now);
        broken.into_iter().map(|broken| format!("{}: {}", broken.invariant, broken.detail)).collect()
    }

    fn with(&self, action: Action) -> Vec<Step> {
        let mut steps = self.plan.steps.clone();
        steps.push(Step { policy: self.record.policy.key.clone(), action, why: "put in by the test".into() });
        steps
    }

    /// The policy's own group of a cluster, once it exists.
    fn groups(&self) -> Vec<(&TargetGroupArn, &TargetGroup)> {
        let own = |tags| ownership::belongs_to(tags, &self.model.settings.hub_id, &self.record.uid);
        self.model.aws.target_groups.iter().filter(|(_, group)| own(&group.tags)).collect()
    }

    fn rules(&self) -> &BTreeMap<RuleArn, Rule> {
        self.model.aws.listeners[&listener_arn()].rules.get().unwrap()
    }

    fn rules_of(&self, uid: &str) -> Vec<(&RuleArn, &Rule)> {
        let own = |rule: &Rule| rule.tags.get(ownership::TAG_POLICY_UID).is_some_and(|tag| tag == uid);
        self.rules().iter().filter(|(_, rule)| own(rule)).collect()
    }

    fn rule(&self) -> Option<(&RuleArn, &Rule)> {
        self.rules_of(self.record.uid.as_str()).into_iter().next()
    }

    fn weights(&self) -> BTreeMap<TargetGroupArn, Weight> {
        match self.rule().map(|(_, rule)| &rule.action) {
            Some(RuleAction::Forward { weights, .. }) => weights.clone(),
            Some(RuleAction::Other) | None => BTreeMap::new(),
        }
    }

    /// What the group would hold after the plan.
    fn targets(&self, name: &str) -> BTreeSet<Target> {
        let mut targets = BTreeSet::new();
        let group = self.model.aws.target_groups.values().find(|group| group.name == name);
        let present = group.and_then(|group| group.targets.get()).into_iter().flatten();
        targets.extend(present.filter(|(_, state)| state.health != Health::Draining).map(|(target, _)| *target));
        for step in &self.plan.steps {
            match &step.action {
                Action::RegisterTargets { group, targets: new } if group.name == name => {
                    targets.extend(new.iter().map(|new| new.target));
                }
                Action::DeregisterTargets { group, targets: gone } if group.name == name => {
                    targets.retain(|target| !gone.contains(target));
                }
                _ => {}
            }
        }
        targets
    }

    fn cluster(&self, group: &TargetGroup) -> ClusterName {
        cluster_name(&group.tags[ownership::TAG_CLUSTER])
    }

    fn connected(&self, group: &TargetGroup) -> bool {
        self.model.inventory.clusters[&self.cluster(group)].link == Link::Connected
    }

    fn modify(&self, forward: Vec<(GroupRef, Weight)>) -> Option<Action> {
        let (rule, _) = self.rule()?;
        Some(Action::ModifyRule {
            listener: listener_arn(),
            rule: rule.clone(),
            conditions: None,
            forward: Some(forward),
        })
    }

    /// The plan's steps up to the first removal, then one more.
    fn before_removals(&self, action: Action) -> Vec<Step> {
        let removal =
            |step: &Step| matches!(step.action, Action::DeregisterTargets { .. } | Action::DeleteTargetGroup { .. });
        let mut steps = self.with(action);
        let last = steps.pop().unwrap();
        let at = steps.iter().position(removal).unwrap_or(steps.len());
        steps.insert(at, last);
        steps
    }
}

fn reference(arn: &TargetGroupArn, group: &TargetGroup) -> GroupRef {
    GroupRef { name: group.name.clone(), arn: Some(arn.clone()) }
}

fn forward_mut(step: &mut Step) -> Option<&mut Vec<(GroupRef, Weight)>> {
    match &mut step.action {
        Action::CreateRule { forward, .. } | Action::ModifyRule { forward: Some(forward), .. } => Some(forward),
        _ => None,
    }
}

fn weight(n: u32) -> Weight {
    Weight::new(n).unwrap()
}

/// Breaks a plan in one way; none where the plan has nothing that can be broken so.
type Mutation = fn(&Case<'_>) -> Option<Vec<Step>>;

const MUTATIONS: [(&str, &str, Mutation); 24] = [
    ("a new rule without its registrations", "I2", without_registrations),
    ("registrations after the new rule", "I2", registrations_late),
    ("removals before the change of the rule", "I6", removals_early),
    ("a rule whose weights are all 0", "I2", all_zero),
    ("the rule set to all 0", "I2", present_rule_to_zero),
    ("weight for a group without targets", "I2", weight_for_an_empty_group),
    ("everything out of a group with weight", "I1", empty_a_weighted_group),
    ("everything out of a group whose weight went to 0 just now", "I1", empty_before_settled),
    ("everything out of a group that this plan gives weight to", "I1", empty_what_gets_weight),
    ("targets of a cluster that is away", "I3", remove_from_a_stale_cluster),
    ("a ready pod's target", "I4", remove_a_ready_pod),
    ("targets into a foreign group", "I5", register_in_a_foreign_group),
    ("a foreign group's health check", "I5", change_a_foreign_group),
    ("a foreign group deleted", "I5", delete_a_foreign_group),
    ("a foreign group in the rule", "I5", forward_to_a_foreign_group),
    ("a foreign rule changed", "I5", change_a_foreign_rule),
    ("a foreign rule deleted", "I5", delete_a_foreign_rule),
    ("a foreign rule moved", "I5", move_a_foreign_rule),
    ("the rule of another policy changed", "I5", change_the_rule_of_another_policy),
    ("the group of another policy used", "I5", use_the_group_of_another_policy),
    ("an address that nobody owns", "I10", register_an_unknown_address),
    ("six groups in a rule", "I12", six_groups),
    ("a group twice in a rule", "I12", a_group_twice),
    ("a group deleted that the rule names", "I6", delete_a_used_group),
];

fn without_registrations(case: &Case<'_>) -> Option<Vec<Step>> {
    let mut steps = case.plan.steps.clone();
    steps.iter_mut().find(|step| matches!(step.action, Action::CreateRule { .. }))?;
    steps.retain(|step| !matches!(step.action, Action::RegisterTargets { .. }));
    let empty = case.groups().iter().all(|(_, group)| group.targets.get().is_some_and(BTreeMap::is_empty));
    (empty && steps.len() < case.plan.steps.len()).then_some(steps)
}

fn registrations_late(case: &Case<'_>) -> Option<Vec<Step>> {
    let mut steps = without_registrations(case)?;
    let late = case.plan.steps.iter().filter(|step| matches!(step.action, Action::RegisterTargets { .. }));
    steps.extend(late.cloned());
    Some(steps)
}

fn removals_early(case: &Case<'_>) -> Option<Vec<Step>> {
    let mut steps = case.plan.steps.clone();
    let rule = steps.iter().position(|step| matches!(step.action, Action::ModifyRule { .. }))?;
    let removal = steps.iter().position(|step| matches!(step.action, Action::DeregisterTargets { .. }))?;
    let removal = steps.remove(removal);
    steps.insert(rule, removal);
    Some(steps)
}

fn all_zero(case: &Case<'_>) -> Option<Vec<Step>> {
    let mut steps = case.plan.steps.clone();
    for (_, weight) in steps.iter_mut().find_map(forward_mut)? {
        *weight = Weight::ZERO;
    }
    Some(steps)
}

fn present_rule_to_zero(case: &Case<'_>) -> Option<Vec<Step>> {
    let groups = &case.model.aws.target_groups;
    let forward = case.weights().into_keys().map(|arn| (reference(&arn, &groups[&arn]), Weight::ZERO)).collect();
    Some(case.before_removals(case.modify(forward)?))
}

fn weight_for_an_empty_group(case: &Case<'_>) -> Option<Vec<Step>> {
    let weights = case.weights();
    let (arn, group) = case.groups().into_iter().find(|(arn, group)| {
        let never = group.targets.get().is_some_and(BTreeMap::is_empty) && case.targets(&group.name).is_empty();
        never && !weights.get(*arn).is_some_and(|weight| weight.carries())
    })?;
    Some(case.before_removals(case.modify(vec![(reference(arn, group), weight(5))])?))
}

fn deregister_all(case: &Case<'_>, arn: &TargetGroupArn, group: &TargetGroup) -> Option<Vec<Step>> {
    let targets: Vec<Target> = case.targets(&group.name).into_iter().collect();
    (!targets.is_empty()).then(|| case.with(Action::DeregisterTargets { group: reference(arn, group), targets }))
}

/// The weights that the rule has after the plan.
fn weights_after(case: &Case<'_>) -> BTreeMap<String, Weight> {
    let groups = &case.model.aws.target_groups;
    let mut weights: BTreeMap<String, Weight> =
        case.weights().into_iter().map(|(arn, weight)| (groups[&arn].name.clone(), weight)).collect();
    for step in &mut case.plan.steps.clone() {
        if let Some(forward) = forward_mut(step) {
            weights = forward.iter().map(|(group, weight)| (group.name.clone(), *weight)).collect();
        }
    }
    weights
}

fn empty_a_weighted_group(case: &Case<'_>) -> Option<Vec<Step>> {
    let (before, after) = (case.weights(), weights_after(case));
    let (arn, group) = case.groups().into_iter().find(|(arn, group)| {
        before.get(*arn).is_some_and(|w| w.carries()) && after.get(&group.name).is_some_and(|w| w.carries())
    })?;
    deregister_all(case, arn, group)
}

fn empty_before_settled(case: &Case<'_>) -> Option<Vec<Step>> {
    let since = case.plan.memory.programmed.as_ref()?.since;
    if since.checked_add(case.model.settings.settle).unwrap() <= case.model.now {
        return None;
    }
    let weights = weights_after(case);
    let (arn, group) =
        case.groups().into_iter().find(|(_, group)| weights.get(&group.name).is_some_and(|w| !w.carries()))?;
    deregister_all(case, arn, group)
}

fn empty_what_gets_weight(case: &Case<'_>) -> Option<Vec<Step>> {
    let (before, after) = (case.weights(), weights_after(case));
    let (arn, group) = case.groups().into_iter().find(|(arn, group)| {
        !before.get(*arn).is_some_and(|w| w.carries()) && after.get(&group.name).is_some_and(|w| w.carries())
    })?;
    deregister_all(case, arn, group)
}

fn remove_from_a_stale_cluster(case: &Case<'_>) -> Option<Vec<Step>> {
    let (arn, group) =
        case.groups().into_iter().find(|(_, group)| !case.connected(group) && !case.targets(&group.name).is_empty())?;
    deregister_all(case, arn, group)
}

fn remove_a_ready_pod(case: &Case<'_>) -> Option<Vec<Step>> {
    let service = &case.record.policy.service;
    let stays = |group: &TargetGroup| case.record.policy.clusters.iter().any(|(name, _)| *name == case.cluster(group));
    let mut groups = case.groups().into_iter().filter(|(_, group)| case.connected(group) && stays(group));
    groups.find_map(|(arn, group)| {
        let there = case.targets(&group.name);
        let mut endpoints = case.model.inventory.endpoints();
        let (ready, _) = endpoints.find(|(key, endpoint)| {
            let here = key.cluster == case.cluster(group) && key.service == *service;
            here && endpoint.state == READY && there.contains(&key.target)
        })?;
        let group = reference(arn, group);
        Some(case.with(Action::DeregisterTargets { group, targets: vec![ready.target] }))
    })
}

fn foreign(case: &Case<'_>) -> GroupRef {
    reference(&foreign_group(), &case.model.aws.target_groups[&foreign_group()])
}

fn first(case: &Case<'_>, action: Action) -> Vec<Step> {
    let mut steps = case.with(action);
    steps.rotate_right(1);
    steps
}

fn register_in_a_foreign_group(case: &Case<'_>) -> Option<Vec<Step>> {
    Some(first(case, Action::RegisterTargets { group: foreign(case), targets: Vec::new() }))
}

fn change_a_foreign_group(case: &Case<'_>) -> Option<Vec<Step>> {
    let health_check = case.record.policy.health_check.clone();
    Some(first(case, Action::ModifyTargetGroup { group: foreign(case), health_check }))
}

fn delete_a_foreign_group(case: &Case<'_>) -> Option<Vec<Step>> {
    Some(case.with(Action::DeleteTargetGroup { group: foreign(case) }))
}

fn forward_to_a_foreign_group(case: &Case<'_>) -> Option<Vec<Step>> {
    let mut steps = case.plan.steps.clone();
    steps.iter_mut().find_map(forward_mut)?.push((foreign(case), Weight::ZERO));
    Some(steps)
}

fn foreign_rule(case: &Case<'_>) -> RuleArn {
    case.rules().iter().find(|(_, rule)| rule.tags.is_empty()).unwrap().0.clone()
}

fn change_a_foreign_rule(case: &Case<'_>) -> Option<Vec<Step>> {
    let conditions = Some(case.record.policy.conditions.clone());
    let rule = foreign_rule(case);
    Some(case.before_removals(Action::ModifyRule { listener: listener_arn(), rule, conditions, forward: None }))
}

fn delete_a_foreign_rule(case: &Case<'_>) -> Option<Vec<Step>> {
    let rule = foreign_rule(case);
    Some(case.before_removals(Action::DeleteRule { listener: listener_arn(), rule }))
}

fn move_a_foreign_rule(case: &Case<'_>) -> Option<Vec<Step>> {
    let priorities = BTreeMap::from([(foreign_rule(case), 7)]);
    Some(case.before_removals(Action::SetRulePriorities { listener: listener_arn(), priorities }))
}

fn other(case: &Case<'_>) -> PolicyKey {
    let other = POLICIES.into_iter().find(|name| key(name) != case.record.policy.key).unwrap();
    key(other)
}

fn change_the_rule_of_another_policy(case: &Case<'_>) -> Option<Vec<Step>> {
    let uid = case.model.policies[&other(case)].uid.to_string();
    let rule = case.rules_of(&uid).first()?.0.clone();
    let conditions = Some(Vec::new());
    Some(case.before_removals(Action::ModifyRule { listener: listener_arn(), rule, conditions, forward: None }))
}

fn use_the_group_of_another_policy(case: &Case<'_>) -> Option<Vec<Step>> {
    let mark = other(case).to_string();
    let groups = &case.model.aws.target_groups;
    let theirs = groups.iter().find(|(_, group)| group.tags.get(ownership::TAG_POLICY) == Some(&mark))?;
    let mut steps = case.plan.steps.clone();
    steps.iter_mut().find_map(forward_mut)?.push((reference(theirs.0, theirs.1), Weight::ZERO));
    Some(steps)
}

fn register_an_unknown_address(case: &Case<'_>) -> Option<Vec<Step>> {
    let (arn, group) = case.groups().into_iter().next()?;
    let target = Target { id: "192.0.2.1".parse().unwrap(), port: 8080 };
    let targets = vec![NewTarget { target, zone: None }];
    Some(first(case, Action::RegisterTargets { group: reference(arn, group), targets }))
}

fn six_groups(case: &Case<'_>) -> Option<Vec<Step>> {
    let mut steps = case.plan.steps.clone();
    let forward = steps.iter_mut().find_map(forward_mut)?;
    for i in forward.len()..6 {
        forward.push((GroupRef { name: format!("sy-more-{i}"), arn: None }, Weight::ZERO));
    }
    Some(steps)
}

fn a_group_twice(case: &Case<'_>) -> Option<Vec<Step>> {
    let mut steps = case.plan.steps.clone();
    let forward = steps.iter_mut().find_map(forward_mut)?;
    let twice = forward.first()?.clone();
    forward.push(twice);
    Some(steps)
}

fn delete_a_used_group(case: &Case<'_>) -> Option<Vec<Step>> {
    let weights = weights_after(case);
    let (arn, group) = case.groups().into_iter().find(|(_, group)| weights.contains_key(&group.name))?;
    Some(case.with(Action::DeleteTargetGroup { group: reference(arn, group) }))
}

/// Lives through a history and shows every plan of it, before it is carried out.
fn history(seed: u64, mut look: impl FnMut(&Case<'_>)) {
    let mut rng = Rng(seed);
    let mut model = new_world();
    for _ in 0..25 {
        let plan = model.plan();
        for (key, plan) in &plan.policies {
            look(&Case { model: &model, record: &model.policies[key], plan });
        }
        model.remember(&plan);
        model.carry_out(&plan, |_| None);
        any_event(&mut model, &mut rng);
    }
}

#[test]
fn no_plan_of_the_planner_is_named() {
    let mut plans = 0;
    for seed in 0..150 {
        history(seed, |case| {
            assert_eq!(case.named(&case.plan.steps), Vec::<String>::new(), "seed {seed}: {:?}", case.plan.steps);
            plans += usize::from(!case.plan.steps.is_empty());
        });
    }
    assert!(plans > 1000, "only {plans} plans had steps");
}

#[test]
fn every_mutation_of_a_plan_is_named_by_the_invariant_that_it_breaks() {
    let mut met: BTreeMap<&str, usize> = MUTATIONS.iter().map(|(what, _, _)| (*what, 0)).collect();
    for seed in 0..60 {
        history(seed, |case| {
            for (what, invariant, mutate) in MUTATIONS {
                let Some(steps) = mutate(case) else { continue };
                let named = case.named(&steps);
                let right = named.iter().any(|broken| broken.starts_with(&format!("{invariant}: ")));
                assert!(right, "seed {seed}: {what} must be named as {invariant}, not {named:?}: {steps:#?}");
                *met.get_mut(what).unwrap() += 1;
            }
        });
    }
    let rare: Vec<_> = met.iter().filter(|(_, times)| **times < 5).collect();
    assert!(rare.is_empty(), "mutations that met hardly any plan prove nothing: {rare:?}");
}

/// Two clusters with weight, settled, with nothing left to do.
fn settled() -> Model {
    let mut model = new_world();
    for name in POLICIES {
        model.policy(&manifest(name, &[("blue", 50), ("green", 50)], ""));
    }
    for _ in 0..4 {
        model.reconcile();
        model.judge_health();
        model.advance(61);
    }
    model
}

/// The steps that `make` thinks of, judged in a world that `change` changed.
fn judged(change: impl Fn(&mut Model), make: impl Fn(&Case<'_>) -> Action) -> Vec<String> {
    let mut model = settled();
    let plan = model.plan();
    model.remember(&plan);
    change(&mut model);
    let plan = &plan.policies[&key("cart")];
    assert!(plan.steps.is_empty());
    let case = Case { model: &model, record: &model.policies[&key("cart")], plan };
    case.named(&case.with(make(&case)))
}

fn one_target(case: &Case<'_>) -> Action {
    let (arn, group) = case.groups()[0];
    let targets = case.targets(&group.name).into_iter().take(1).collect();
    Action::DeregisterTargets { group: reference(arn, group), targets }
}

#[test]
fn targets_that_are_not_known_are_not_removed() {
    let forget = |model: &mut Model| {
        for group in model.aws.target_groups.values_mut() {
            group.targets = Known::Unknown;
        }
    };
    let one = |case: &Case<'_>| {
        let (arn, group) = case.groups()[0];
        let target = Target { id: "10.0.0.1".parse().unwrap(), port: 8080 };
        Action::DeregisterTargets { group: reference(arn, group), targets: vec![target] }
    };
    let named = judged(forget, one);
    assert!(named.iter().any(|broken| broken.starts_with("I4: the targets of sy-cart-blue")), "{named:?}");
}

#[test]
fn while_the_rules_are_not_known_no_group_is_emptied_or_deleted() {
    let forget = |model: &mut Model| model.aws.listeners.get_mut(&listener_arn()).unwrap().rules = Known::Unknown;
    let gone = |model: &mut Model| {
        for pod in 0..3 {
            set_pod(model, 0, 0, pod, EndpointState::Gone(Evidence::PodDeleted));
        }
        forget(model);
    };
    let all = |case: &Case<'_>| {
        let (arn, group) = case.groups()[0];
        let targets = case.targets(&group.name).into_iter().collect();
        Action::DeregisterTargets { group: reference(arn, group), targets }
    };
    let named = judged(gone, all);
    assert!(named.iter().any(|broken| broken.starts_with("I1: ")), "{named:?}");
    let delete = |case: &Case<'_>| {
        let (arn, group) = case.groups()[0];
        Action::DeleteTargetGroup { group: reference(arn, group) }
    };
    let named = judged(forget, delete);
    assert!(named.iter().any(|broken| broken.starts_with("I6: ")), "{named:?}");
}

#[test]
fn one_target_of_a_pod_that_is_gone_may_leave_a_group_with_weight() {
    let gone = |model: &mut Model| set_pod(model, 0, 0, 0, EndpointState::Gone(Evidence::PodDeleted));
    assert_eq!(judged(gone, one_target), Vec::<String>::new());
}

#[test]
fn the_last_rule_of_a_policy_goes_only_when_the_policy_goes() {
    let delete = |case: &Case<'_>| {
        let rule = case.rule().unwrap().0.clone();
        Action::DeleteRule { listener: listener_arn(), rule }
    };
    let named = judged(|_| {}, delete);
    assert!(named.iter().any(|broken| broken.starts_with("I6: the last rule of the policy")), "{named:?}");
    assert_eq!(judged(|model| model.delete("cart"), delete), Vec::<String>::new());
}

#[test]
fn the_rule_of_another_policy_may_be_moved_and_never_deleted() {
    let theirs = |case: &Case<'_>| case.rules_of("uid-checkout")[0].0.clone();
    let moved = |case: &Case<'_>| {
        let priorities = BTreeMap::from([(theirs(case), 4000)]);
        Action::SetRulePriorities { listener: listener_arn(), priorities }
    };
    assert_eq!(judged(|_| {}, moved), Vec::<String>::new());
    let delete = |case: &Case<'_>| Action::DeleteRule { listener: listener_arn(), rule: theirs(case) };
    let named = judged(|model| model.delete("cart"), delete);
    assert!(named.iter().any(|broken| broken.starts_with("I5: ")), "{named:?}");
}

#[test]
fn a_name_says_nothing_without_the_arn_that_belongs_to_it() {
    let nobody = |case: &Case<'_>| {
        let name = case.groups()[0].1.name.clone();
        let arn =
            TargetGroupArn::new("arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/x/1").unwrap();
        Action::DeleteTargetGroup { group: GroupRef { name, arn: Some(arn) } }
    };
    let named = judged(|_| {}, nobody);
    assert!(named.iter().any(|broken| broken.starts_with("I5: ")), "{named:?}");
}
