//! What a term remembers from one look at the world to the next, which steps may be made, and what is worth storing.

mod support;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use support::{Model, READY, key, load_balancer_arn, manifest};
use switchyard_core::{
    arn::TargetGroupArn,
    engine::{self, Object, Stored, Term, UNKNOWN_IS_NO_NEWS, Unread},
    execute::Outcome,
    ids::{Epoch, PolicyKey},
    inventory::Link,
    observed::Known,
    ownership,
    plan::{Action, GroupRef, RegionPlan, Settings, Step},
    policy::{Failure, PolicyMemory},
    status::Reason,
};

/// A policy whose group and rule stand, with a target that nobody wants any more.
fn model() -> Model {
    let mut model = Model::new();
    model.cluster("blue", Link::Connected);
    model.policy(&manifest("checkout", &[("blue", 100)], ""));
    for address in ["10.0.0.1", "10.0.0.2"] {
        model.pod("blue", "checkout", address, address, READY);
    }
    for _ in 0..4 {
        model.reconcile();
        model.judge_health();
        model.advance(61);
    }
    model
}

fn stored<'a>(model: &'a Model, memory: &'a PolicyMemory) -> impl Iterator<Item = Stored<'a>> {
    model.policies.values().map(move |record| Stored { record, memory, status: None })
}

fn group() -> TargetGroupArn {
    TargetGroupArn::new("arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/sy-a/1").unwrap()
}

#[test]
fn a_refused_change_of_a_rule_is_tried_at_once_when_something_else_is_asked_for() {
    let mut model = model();
    let failure =
        Failure { reason: Reason::CallRefused, message: String::new(), attempts: 6, not_before: Timestamp::MAX };
    let failures = ["ModifyRule arn", "RegisterTargets sy-a"].map(|key| (key.to_owned(), failure.clone()));
    let memory = PolicyMemory { failures: failures.into(), ..PolicyMemory::default() };
    let mut term = Term::begin(Epoch(1), stored(&model, &memory));
    let mut waiting = |version| {
        model.policies.get_mut(&key("checkout")).unwrap().version = version;
        let memories = term.memories(stored(&model, &PolicyMemory::default()));
        memories[&key("checkout")].failures.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(waiting(3).len(), 2, "what the term began with says nothing of what is new");
    assert_eq!(waiting(3).len(), 2, "as before");
    assert_eq!(waiting(4), ["RegisterTargets sy-a"]);
}

#[test]
fn a_policy_of_the_same_name_with_another_uid_begins_with_its_own_memory() {
    let mut model = model();
    let old = model.memories[&key("checkout")].clone();
    let mut term = Term::begin(Epoch(1), stored(&model, &old));
    let fresh = PolicyMemory::default();
    assert_eq!(term.memories(stored(&model, &fresh))[&key("checkout")], old);
    model.policies.get_mut(&key("checkout")).unwrap().uid = "another".parse().unwrap();
    assert_eq!(term.memories(stored(&model, &fresh))[&key("checkout")], fresh);
    model.policies.clear();
    assert!(term.memories(stored(&model, &fresh)).is_empty());
}

#[test]
fn time_never_goes_back_within_a_term() {
    let mut term = Term::default();
    let at = |second| Timestamp::from_second(second).unwrap();
    assert_eq!(term.now(at(100)), at(100));
    assert_eq!(term.now(at(40)), at(100));
    assert_eq!(term.now(at(101)), at(101));
}

/// A weight and a removal.
fn plan_with_a_removal(model: &mut Model) -> RegionPlan {
    model.pod("blue", "checkout", "10.0.0.2", "10.0.0.2", support::TERMINATING);
    let mut plan = model.plan();
    let policy = plan.policies.get_mut(&key("checkout")).unwrap();
    let listener = support::listener_arn();
    let action = Action::SetRulePriorities { listener, priorities: BTreeMap::new() };
    policy.steps.insert(0, Step { policy: key("checkout"), action, why: String::new() });
    assert_eq!(policy.steps.len(), 2, "{:?}", policy.steps);
    plan
}

#[test]
fn after_a_call_nothing_is_removed_before_it_was_read_back_and_nothing_at_all_after_a_rule() {
    let mut model = model();
    let plan = plan_with_a_removal(&mut model);
    let step = &plan.policies[&key("checkout")].steps[0];
    let made = |touched: Vec<Object>, read: bool| {
        let mut term = Term::begin(Epoch(1), stored(&model, &model.memories[&key("checkout")]));
        term.take_outcome(step, Some(&Outcome::Done { created: None }), touched, model.now);
        let unread = term.unread(|_| !read);
        engine::steps(&plan, &unread).iter().map(|step| step.action.operation()).collect::<Vec<_>>()
    };
    let (targets, rules) = (Object::Targets(group()), Object::Rules(support::listener_arn()));
    assert_eq!(made(vec![targets.clone()], true), ["SetRulePriorities", "DeregisterTargets"]);
    assert_eq!(made(vec![targets.clone()], false), ["SetRulePriorities"]);
    assert_eq!(made(vec![targets, rules.clone()], false), Vec::<&str>::new());
    assert_eq!(made(vec![rules], false), Vec::<&str>::new());
}

#[test]
fn a_policy_whose_calls_are_read_back_again_waits_for_nothing() {
    let mut term = Term::default();
    let name = |n: &str| Object::Group(n.to_owned());
    let group = GroupRef { name: "sy-a".into(), arn: None };
    let step = Step { policy: key("checkout"), action: Action::DeleteTargetGroup { group }, why: String::new() };
    term.take_outcome(&step, None, vec![name("a"), name("b")], Timestamp::UNIX_EPOCH);
    assert_eq!(term.unread(|object| *object == name("a")), BTreeMap::from([(key("checkout"), Unread::More)]));
    assert_eq!(term.unread(|_| false), BTreeMap::new());
    assert_eq!(term.unread(|_| true), BTreeMap::new(), "what was read once is not waited for again");
}

#[test]
fn a_status_that_knows_nothing_is_stored_only_after_a_while_and_a_better_one_at_once() {
    let mut model = model();
    let known = model.plan();
    if let Some(listener) = model.aws.listeners.get_mut(&support::listener_arn()) {
        listener.rules = Known::Unknown;
    }
    let unknown = model.plan();
    let mut term = Term::begin(Epoch(1), std::iter::empty());
    let empty = PolicyMemory::default();
    let mut news = |plan: &RegionPlan, elapsed: Duration| {
        let updates = term.updates(stored(&model, &empty), plan, elapsed);
        term.stored(updates.clone());
        updates.len()
    };
    assert_eq!(news(&known, Duration::ZERO), 1);
    assert_eq!(news(&known, Duration::ZERO), 0, "it says nothing new");
    assert_eq!(news(&unknown, Duration::from_secs(1)), 0);
    assert_eq!(news(&known, Duration::from_secs(2)), 0);
    assert_eq!(news(&unknown, Duration::from_secs(3)), 0);
    assert_eq!(news(&unknown, Duration::from_secs(3) + UNKNOWN_IS_NO_NEWS), 1);
    assert_eq!(news(&known, Duration::from_secs(30)), 1);
}

#[test]
fn a_deleted_policy_is_finished_once_everything_was_read_back() {
    let model = model();
    let mut plan = model.plan();
    let unread = BTreeMap::from([(key("checkout"), Unread::Targets)]);
    let finished = |plan: &RegionPlan, unread: &BTreeMap<PolicyKey, Unread>| {
        engine::finished(plan, unread).cloned().collect::<Vec<_>>()
    };
    assert!(finished(&plan, &BTreeMap::new()).is_empty());
    plan.policies.get_mut(&key("checkout")).unwrap().gone = true;
    assert!(finished(&plan, &unread).is_empty());
    assert_eq!(finished(&plan, &BTreeMap::new()), [key("checkout")]);
}

#[test]
fn an_epoch_is_lifted_past_the_one_at_aws_and_asked_for_once() {
    let mut model = model();
    let mut term = Term::default();
    let under = |epoch: u64| Settings { epoch: Epoch(epoch), ..model.settings.clone() };
    assert_eq!(term.raise_to(&under(1), &model.aws), None, "its own tag is no reason");
    let tags = ownership::epoch_tags(Epoch(8), &model.settings.hub_id);
    model.aws.load_balancers.get_mut(&load_balancer_arn()).unwrap().tags.extend(tags);
    let under = |epoch: u64| Settings { epoch: Epoch(epoch), ..model.settings.clone() };
    assert_eq!(term.raise_to(&under(3), &model.aws), Some(Epoch(9)));
    assert_eq!(term.raise_to(&under(8), &model.aws), None);
    term.raised(Epoch(9));
    assert_eq!(term.raise_to(&under(3), &model.aws), None);
}

#[test]
fn an_orphan_is_reported_once_in_a_term() {
    let mut term = Term::default();
    assert_eq!(term.new_orphans(vec!["a".into(), "b".into()]), ["a", "b"]);
    assert_eq!(term.new_orphans(vec!["b".into(), "c".into()]), ["c"]);
}

#[test]
fn what_nobody_has_read_is_missing_and_what_nobody_needs_is_not() {
    let mut model = model();
    let missing = |model: &Model| engine::missing(&model.policies, &model.aws, &model.settings);
    assert_eq!(missing(&model), []);
    let (arn, group) = model.aws.target_groups.iter_mut().next().unwrap();
    let arn = arn.clone();
    group.targets = Known::Unknown;
    assert_eq!(missing(&model), [Object::Targets(arn.clone())]);
    model.aws.target_groups.get_mut(&arn).unwrap().tags.clear();
    assert_eq!(missing(&model), [], "the targets of another hand's group are not looked at");
    model.aws.listeners.get_mut(&support::listener_arn()).unwrap().rules = Known::Unknown;
    assert_eq!(missing(&model), [Object::Rules(support::listener_arn())]);
    model.policies.clear();
    assert_eq!(missing(&model), []);
}

#[test]
fn the_health_of_new_targets_is_waited_for() {
    let mut model = model();
    assert!(engine::waits_for_health(&model.plan()).is_empty());
    model.pod("blue", "checkout", "10.0.0.3", "10.0.0.3", READY);
    model.reconcile();
    let group = model.aws.target_groups.keys().next().unwrap().clone();
    assert_eq!(engine::waits_for_health(&model.plan()), [group]);
}

#[test]
fn a_load_balancer_that_is_not_there_is_looked_for() {
    let mut model = model();
    let unknown = |model: &Model| engine::place_is_unknown(&model.policies, &model.aws, &model.settings);
    assert_eq!(unknown(&model), None);
    model.aws.listeners.clear();
    assert_eq!(unknown(&model), Some(vec![load_balancer_arn()]));
    model.aws.load_balancers.clear();
    assert_eq!(unknown(&model), Some(Vec::new()));
}
