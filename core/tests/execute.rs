//! Carrying out a plan: what is called when, and what is dropped when a call does not go through.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use support::{key, listener_arn, load_balancer_arn};
use switchyard_core::{
    arn::{RuleArn, TargetGroupArn},
    execute::{Call, Execution, Outcome, Urgency, builds_on, groups, urgency},
    ids::{VpcId, Weight},
    observed::{HealthCheck, Tags, Target},
    plan::{Action, GroupRef, NewTarget, NewTargetGroup, Step},
    policy::spec::TargetType,
};

const PREFIX: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012";

fn group_arn(name: &str) -> TargetGroupArn {
    TargetGroupArn::new(format!("{PREFIX}:targetgroup/{name}/1")).unwrap()
}

fn rule_arn(name: &str) -> RuleArn {
    RuleArn::new(format!("{PREFIX}:listener-rule/app/shared/1/443/{name}")).unwrap()
}

/// A group that a step before makes.
fn new(name: &str) -> GroupRef {
    GroupRef { name: name.into(), arn: None }
}

/// A group that exists.
fn old(name: &str) -> GroupRef {
    GroupRef { name: name.into(), arn: Some(group_arn(name)) }
}

fn health_check() -> HealthCheck {
    HealthCheck {
        protocol: "HTTP".into(),
        port: "traffic-port".into(),
        path: "/".into(),
        interval_seconds: 15,
        timeout_seconds: 5,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
        matcher: "200".into(),
    }
}

fn tag() -> Action {
    Action::TagLoadBalancer { load_balancer: load_balancer_arn(), tags: Tags::new() }
}

fn create(name: &str) -> Action {
    Action::CreateTargetGroup(NewTargetGroup {
        name: name.into(),
        vpc_id: VpcId::new("vpc-1").unwrap(),
        protocol: "HTTP".into(),
        protocol_version: "HTTP1".into(),
        port: 80,
        target_type: TargetType::Ip,
        health_check: health_check(),
        tags: Tags::new(),
    })
}

fn delay(group: GroupRef) -> Action {
    Action::ModifyTargetGroupAttributes { group, deregistration_delay_seconds: 30 }
}

fn check(group: GroupRef) -> Action {
    Action::ModifyTargetGroup { group, health_check: health_check() }
}

fn target() -> Target {
    Target { id: "10.0.0.1".parse().unwrap(), port: 80 }
}

fn register(group: GroupRef) -> Action {
    Action::RegisterTargets { group, targets: vec![NewTarget { target: target(), zone: None }] }
}

fn deregister(group: GroupRef) -> Action {
    Action::DeregisterTargets { group, targets: vec![target()] }
}

fn forward(groups: Vec<GroupRef>) -> Vec<(GroupRef, Weight)> {
    groups.into_iter().map(|group| (group, Weight::MAX)).collect()
}

fn create_rule(groups: Vec<GroupRef>) -> Action {
    Action::CreateRule {
        listener: listener_arn(),
        priority: 100,
        conditions: Vec::new(),
        forward: forward(groups),
        tags: Tags::new(),
    }
}

fn modify_rule(rule: &str, groups: Vec<GroupRef>) -> Action {
    let forward = Some(forward(groups));
    Action::ModifyRule { listener: listener_arn(), rule: rule_arn(rule), conditions: None, forward }
}

fn move_rules() -> Action {
    Action::SetRulePriorities { listener: listener_arn(), priorities: BTreeMap::new() }
}

fn delete_rule(rule: &str) -> Action {
    Action::DeleteRule { listener: listener_arn(), rule: rule_arn(rule) }
}

fn delete_group(name: &str) -> Action {
    Action::DeleteTargetGroup { group: old(name) }
}

fn steps(policy: &str, actions: Vec<Action>) -> Vec<Step> {
    actions.into_iter().map(|action| Step { policy: key(policy), action, why: String::new() }).collect()
}

fn done() -> Outcome {
    Outcome::Done { created: None }
}

fn refused() -> Outcome {
    Outcome::Refused { code: "ValidationError".into(), message: "scripted".into() }
}

/// After these nothing is known or nothing more gets through: the lane ends.
fn ends() -> [Outcome; 3] {
    let message = || "scripted".to_owned();
    [
        Outcome::Unknown { message: message() },
        Outcome::Unreachable { message: message() },
        Outcome::Throttled { message: message() },
    ]
}

/// What AWS answers when nothing goes wrong.
fn answer(action: &Action) -> Outcome {
    match action {
        Action::CreateTargetGroup(new) => Outcome::Done { created: Some(group_arn(&new.name)) },
        _ => done(),
    }
}

fn only(execution: &Execution) -> Call {
    let calls = execution.ready();
    assert_eq!(calls.len(), 1, "{calls:?}");
    calls.into_iter().next().unwrap()
}

/// Carries everything out, one call after the other; `outcome` may put something else in the place of the answer.
fn run(steps: Vec<Step>, mut outcome: impl FnMut(&Action) -> Option<Outcome>) -> Vec<Step> {
    let mut execution = Execution::new(steps);
    let mut made = Vec::new();
    while let Some(call) = execution.ready().into_iter().next() {
        execution.start(&call.step.policy);
        let outcome = outcome(&call.step.action).unwrap_or_else(|| answer(&call.step.action));
        execution.report(&call.step.policy, &outcome);
        made.push(call.step);
    }
    assert!(execution.is_finished());
    made
}

fn operations(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(|step| step.action.operation()).collect()
}

#[test]
fn an_empty_plan_is_finished_at_once() {
    let execution = Execution::new(Vec::new());
    assert!(execution.is_finished());
    assert!(execution.ready().is_empty());
}

#[test]
fn the_steps_of_a_policy_are_made_one_after_the_other_in_their_order() {
    let mut execution = Execution::new(steps("a", vec![check(old("x")), register(old("x")), deregister(old("x"))]));
    for operation in ["ModifyTargetGroup", "RegisterTargets", "DeregisterTargets"] {
        let call = only(&execution);
        assert_eq!(call.step.action.operation(), operation);
        execution.start(&key("a"));
        assert!(execution.ready().is_empty(), "one call in flight");
        assert!(!execution.is_finished());
        execution.report(&key("a"), &done());
    }
    assert!(execution.is_finished());
}

#[test]
fn asking_what_is_ready_takes_nothing() {
    let execution = Execution::new(steps("a", vec![check(old("x"))]));
    assert_eq!(execution.ready(), execution.ready());
    assert!(!execution.is_finished());
}

#[test]
fn a_second_start_does_not_put_a_second_call_in_flight() {
    let mut execution = Execution::new(steps("a", vec![check(old("x")), register(old("x")), deregister(old("x"))]));
    execution.start(&key("a"));
    execution.start(&key("a"));
    execution.report(&key("a"), &done());
    assert_eq!(only(&execution).step.action.operation(), "RegisterTargets", "it was not made yet");
}

#[test]
fn reports_without_a_call_and_for_unknown_policies_change_nothing() {
    let mut execution = Execution::new(steps("a", vec![check(old("x"))]));
    for outcome in ends().into_iter().chain([done(), refused()]) {
        execution.report(&key("a"), &outcome);
        execution.report(&key("nobody"), &outcome);
        execution.start(&key("nobody"));
    }
    assert_eq!(only(&execution).step.action.operation(), "ModifyTargetGroup");
}

#[test]
fn a_lane_whose_call_hangs_or_fails_holds_up_no_other() {
    let mut all = steps("a", vec![create("x"), register(new("x"))]);
    all.extend(steps("b", vec![create("y"), register(new("y"))]));
    let mut execution = Execution::new(all);
    execution.start(&key("a"));
    for operation in ["CreateTargetGroup", "RegisterTargets"] {
        let call = only(&execution);
        assert_eq!((call.step.policy.clone(), call.step.action.operation()), (key("b"), operation));
        execution.start(&key("b"));
        execution.report(&key("b"), &answer(&call.step.action));
    }
    assert!(!execution.is_finished(), "the first call of a is still under way");
    execution.report(&key("a"), &refused());
    assert!(execution.is_finished());
}

#[test]
fn calls_of_different_policies_are_offered_by_urgency_then_by_name() {
    let mut all = steps("a", vec![create("x")]);
    all.extend(steps("b", vec![register(old("y"))]));
    all.extend(steps("c", vec![deregister(old("z"))]));
    all.extend(steps("e", vec![modify_rule("r", vec![old("v")])]));
    all.extend(steps("d", vec![modify_rule("r", vec![old("w")])]));
    let calls = Execution::new(all).ready();
    let offered: Vec<(&str, Urgency)> = calls.iter().map(|c| (c.step.policy.name.as_str(), c.urgency)).collect();
    let expected = [
        ("d", Urgency::WeightShift),
        ("e", Urgency::WeightShift),
        ("c", Urgency::Deregister),
        ("b", Urgency::Register),
        ("a", Urgency::Create),
    ];
    assert_eq!(offered, expected);
}

#[test]
fn every_action_has_the_urgency_of_what_it_does_to_requests() {
    let cases = [
        (modify_rule("r", vec![]), Urgency::WeightShift),
        (tag(), Urgency::WeightShift),
        (deregister(old("x")), Urgency::Deregister),
        (register(old("x")), Urgency::Register),
        (create("x"), Urgency::Create),
        (check(old("x")), Urgency::Create),
        (delay(old("x")), Urgency::Create),
        (move_rules(), Urgency::Create),
        (create_rule(vec![]), Urgency::Create),
        (delete_rule("r"), Urgency::Create),
        (delete_group("x"), Urgency::Create),
    ];
    for (action, expected) in cases {
        assert_eq!(urgency(&action), expected, "{}", action.operation());
    }
}

#[test]
fn the_arn_of_a_group_that_was_made_is_filled_into_every_later_step() {
    let actions = vec![
        create("x"),
        delay(new("x")),
        check(new("x")),
        register(new("x")),
        create_rule(vec![new("x"), old("y")]),
        modify_rule("r", vec![old("y"), new("x")]),
    ];
    let made = run(steps("a", actions), |_| None);
    assert_eq!(made.len(), 6);
    for step in &made {
        for group in groups(&step.action) {
            assert_eq!(group.arn, Some(group_arn(&group.name)), "{}", step.action.operation());
        }
    }
}

#[test]
fn an_arn_that_is_known_is_never_replaced() {
    let other = TargetGroupArn::new(format!("{PREFIX}:targetgroup/x/before")).unwrap();
    let known = GroupRef { name: "x".into(), arn: Some(other.clone()) };
    let made = run(steps("a", vec![create("x"), register(known)]), |_| None);
    assert_eq!(groups(&made[1].action)[0].arn, Some(other));
}

fn new_policy() -> Vec<Step> {
    let actions = vec![
        tag(),
        create("x"),
        delay(new("x")),
        create("y"),
        delay(new("y")),
        register(new("x")),
        register(new("y")),
        register(old("z")),
        create_rule(vec![new("x"), new("y"), old("z")]),
        deregister(old("z")),
    ];
    steps("a", actions)
}

/// Runs the plan of a new policy with one call refused, and says which steps were never made.
fn missing_after_refusal(index: usize) -> Vec<usize> {
    let all = new_policy();
    let mut at = 0;
    let refuse = all[index].action.clone();
    let made = run(all.clone(), |action| {
        at += 1;
        let same = action.operation() == refuse.operation() && names(action) == names(&refuse);
        same.then(refused)
    });
    assert_eq!(at, made.len());
    let made: BTreeSet<_> = made.iter().map(|step| (step.action.operation(), names(&step.action))).collect();
    let missing = |i: &usize| !made.contains(&(all[*i].action.operation(), names(&all[*i].action)));
    (0..all.len()).filter(missing).collect()
}

fn names(action: &Action) -> Vec<String> {
    match action {
        Action::CreateTargetGroup(new) => vec![new.name.clone()],
        other => groups(other).into_iter().map(|group| group.name.clone()).collect(),
    }
}

#[test]
fn a_refused_call_drops_what_builds_on_it_and_nothing_else() {
    assert_eq!(missing_after_refusal(1), [2, 5, 8], "group x: its delay, its targets, the rule");
    assert_eq!(missing_after_refusal(3), [4, 6, 8], "group y: its delay, its targets, the rule");
    assert_eq!(missing_after_refusal(5), [8], "targets of x: the rule");
    assert_eq!(missing_after_refusal(7), [8], "targets of z: the rule");
    for harmless in [2, 4, 8, 9] {
        assert_eq!(missing_after_refusal(harmless), [0usize; 0], "step {harmless} carries nothing");
    }
}

#[test]
fn without_the_fence_of_the_epoch_nothing_is_written() {
    assert_eq!(missing_after_refusal(0), (1..10).collect::<Vec<_>>());
}

#[test]
fn a_rule_that_exists_is_changed_even_when_registrations_are_refused() {
    let actions = vec![register(old("x")), modify_rule("r", vec![old("x"), old("y")]), deregister(old("y"))];
    let made = run(steps("a", actions), |action| (action.operation() == "RegisterTargets").then(refused));
    assert_eq!(operations(&made), ["RegisterTargets", "ModifyRule", "DeregisterTargets"]);
}

#[test]
fn a_rule_that_names_a_group_that_was_not_made_is_not_changed() {
    let actions = vec![create("x"), modify_rule("r", vec![old("y"), new("x")]), deregister(old("y"))];
    let made = run(steps("a", actions), |action| (action.operation() == "CreateTargetGroup").then(refused));
    assert_eq!(operations(&made), ["CreateTargetGroup", "DeregisterTargets"]);
}

#[test]
fn a_call_without_an_answer_ends_its_lane_and_no_other() {
    for outcome in ends() {
        let mut all = steps("a", vec![register(old("x")), modify_rule("r", vec![old("x")]), deregister(old("x"))]);
        all.extend(steps("b", vec![register(old("y")), deregister(old("y"))]));
        let made = run(all, |action| (names(action) == ["x"]).then(|| outcome.clone()));
        let of = |policy: &str| made.iter().filter(|step| step.policy == key(policy)).count();
        assert_eq!((of("a"), of("b")), (1, 2), "{outcome:?}");
    }
}

#[test]
fn a_group_that_was_made_without_naming_it_is_called_without_an_arn_and_never_with_a_wrong_one() {
    let made = run(steps("a", vec![create("x"), register(new("x"))]), |action| {
        matches!(action, Action::CreateTargetGroup(_)).then(done)
    });
    assert_eq!(groups(&made[1].action)[0].arn, None);
}

#[test]
fn after_a_stop_only_what_is_in_flight_is_waited_for() {
    let mut all = steps("a", vec![register(old("x")), deregister(old("x"))]);
    all.extend(steps("b", vec![register(old("y"))]));
    let mut execution = Execution::new(all);
    execution.start(&key("a"));
    execution.stop();
    assert!(execution.ready().is_empty());
    assert!(!execution.is_finished(), "the call of a is under way");
    execution.report(&key("a"), &done());
    assert!(execution.ready().is_empty());
    assert!(execution.is_finished());
}

#[test]
fn what_builds_on_what_is_told_by_names_and_kinds() {
    let rule = create_rule(vec![old("z")]);
    assert!(builds_on(&register(new("x")), &create("x")));
    assert!(!builds_on(&register(new("y")), &create("x")));
    assert!(builds_on(&rule, &create("x")), "a new rule is made whole or not at all");
    assert!(builds_on(&rule, &register(old("q"))));
    for missing in [check(old("z")), delay(old("z")), move_rules(), deregister(old("z")), delete_rule("r")] {
        assert!(!builds_on(&rule, &missing), "{}", missing.operation());
    }
}

fn any_action() -> impl Strategy<Value = Action> {
    let name = || proptest::sample::select(vec!["x", "y", "z"]);
    prop_oneof![
        1 => Just(tag()),
        4 => name().prop_map(create),
        2 => name().prop_map(|n| delay(new(n))),
        4 => name().prop_map(|n| register(new(n))),
        2 => name().prop_map(|n| register(old(n))),
        2 => name().prop_map(|n| create_rule(vec![new(n), old("w")])),
        2 => name().prop_map(|n| modify_rule("r", vec![new(n), old("w")])),
        2 => name().prop_map(|n| deregister(old(n))),
        1 => Just(delete_rule("r")),
        1 => name().prop_map(delete_group),
    ]
}

fn any_outcome() -> impl Strategy<Value = Option<Outcome>> {
    prop_oneof![
        8 => Just(None),
        2 => Just(Some(refused())),
        1 => proptest::sample::select(ends().to_vec()).prop_map(Some),
    ]
}

/// What the judge holds to be a foundation, in its own words.
fn founded(action: &Action, earlier: &Action) -> bool {
    match (earlier, action) {
        (Action::TagLoadBalancer { .. }, _) => true,
        (Action::CreateTargetGroup(_) | Action::RegisterTargets { .. }, Action::CreateRule { .. }) => true,
        (Action::CreateTargetGroup(made), Action::ModifyTargetGroupAttributes { group, .. })
        | (Action::CreateTargetGroup(made), Action::RegisterTargets { group, .. })
        | (Action::CreateTargetGroup(made), Action::DeregisterTargets { group, .. })
        | (Action::CreateTargetGroup(made), Action::DeleteTargetGroup { group }) => group.name == made.name,
        (Action::CreateTargetGroup(made), Action::ModifyRule { forward: Some(forward), .. }) => {
            forward.iter().any(|(group, _)| group.name == made.name)
        }
        _ => false,
    }
}

/// Plays lanes with calls in flight side by side: `turns` says which of the possible moves comes next. Gives, per policy, the
/// indexes of the steps that were made, and whether each went through.
fn interleave(
    lanes: &[(Vec<Action>, Vec<Option<Outcome>>)],
    turns: &[usize],
) -> BTreeMap<String, Vec<(usize, Option<Outcome>)>> {
    let all: Vec<Step> = lanes
        .iter()
        .enumerate()
        .flat_map(|(lane, (actions, _))| {
            let numbered = actions.iter().enumerate();
            let step = move |(i, action): (usize, &Action)| Step {
                policy: key(&format!("p{lane}")),
                action: action.clone(),
                why: i.to_string(),
            };
            numbered.map(step).collect::<Vec<_>>()
        })
        .collect();
    let mut execution = Execution::new(all);
    let mut flying: BTreeMap<String, Call> = BTreeMap::new();
    let mut made: BTreeMap<String, Vec<(usize, Option<Outcome>)>> = BTreeMap::new();
    for turn in turns.iter().cycle().take(500) {
        let ready = execution.ready();
        let moves = ready.len() + flying.len();
        if moves == 0 {
            break;
        }
        match ready.get(turn % moves) {
            Some(call) => {
                execution.start(&call.step.policy);
                let before = flying.insert(call.step.policy.name.to_string(), call.clone());
                assert!(before.is_none(), "two calls of one policy in flight");
            }
            None => {
                let (policy, call) = flying.pop_first().unwrap();
                let index: usize = call.step.why.parse().unwrap();
                let lane: usize = policy[1..].parse().unwrap();
                let scripted = lanes[lane].1.get(index).cloned().flatten();
                let outcome = scripted.clone().unwrap_or_else(|| answer(&call.step.action));
                execution.report(&call.step.policy, &outcome);
                made.entry(policy).or_default().push((index, scripted));
            }
        }
    }
    assert!(execution.is_finished(), "every execution ends");
    made
}

fn any_lane() -> impl Strategy<Value = (Vec<Action>, Vec<Option<Outcome>>)> {
    (proptest::collection::vec(any_action(), 0..10), proptest::collection::vec(any_outcome(), 10))
}

proptest! {
    #[test]
    fn every_step_is_made_at_most_once_in_order_and_never_before_what_it_builds_on(
        lanes in proptest::collection::vec(any_lane(), 1..4),
        turns in proptest::collection::vec(0usize..64, 1..40),
    ) {
        for (policy, made) in interleave(&lanes, &turns) {
            let actions = &lanes[policy[1..].parse::<usize>().unwrap()].0;
            prop_assert!(made.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order, each once: {made:?}");
            let went_through: BTreeSet<usize> = made.iter().filter(|(_, o)| o.is_none()).map(|(i, _)| *i).collect();
            for (index, _) in &made {
                for earlier in 0..*index {
                    let needed = founded(&actions[*index], &actions[earlier]);
                    prop_assert!(!needed || went_through.contains(&earlier), "{index} needs {earlier}: {actions:?}");
                }
            }
            if let Some((ended, _)) = made.iter().find(|(_, outcome)| outcome.as_ref().is_some_and(|o| *o != refused())) {
                prop_assert_eq!(made.last().map(|(index, _)| index), Some(ended), "nothing after an end");
            }
        }
    }

    #[test]
    fn what_becomes_of_a_policy_does_not_depend_on_the_others(
        lanes in proptest::collection::vec(any_lane(), 2..4),
        turns in proptest::collection::vec(0usize..64, 1..40),
    ) {
        let together = interleave(&lanes, &turns);
        for (lane, script) in lanes.iter().enumerate() {
            let mut alone: Vec<_> = vec![(Vec::new(), Vec::new()); lane];
            alone.push(script.clone());
            let name = format!("p{lane}");
            let alone = interleave(&alone, &turns);
            prop_assert_eq!(together.get(&name), alone.get(&name));
        }
    }

    #[test]
    fn without_faults_every_step_is_made(lanes in proptest::collection::vec(any_lane(), 1..4), turns in proptest::collection::vec(0usize..64, 1..40)) {
        let calm: Vec<_> = lanes.into_iter().map(|(actions, _)| (actions, Vec::new())).collect();
        let made = interleave(&calm, &turns);
        for (lane, (actions, _)) in calm.iter().enumerate() {
            prop_assert_eq!(made.get(&format!("p{lane}")).map_or(0, Vec::len), actions.len());
        }
    }
}
