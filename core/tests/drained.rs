//! What an operator's drain does to targets and rules, over the real planner and executor on a modelled AWS.

mod support;

use support::{Model, READY, cluster_name, key, manifest};
use switchyard_core::{
    fleet::{Ceiling, Mode},
    inventory::Link,
    status::{ConditionType, Reason},
};

const POLICY: &str = "checkout";
/// Longer than the settle time of the model.
const LONG: i64 = 400;

fn ceiling(mode: Mode, permille: u32) -> Ceiling {
    Ceiling { mode, permille, deregister: permille == 0, force: false }
}

/// Two clusters with three healthy pods each, at 50 and 50.
fn at_rest() -> Model {
    let mut model = Model::new();
    model.policy(&manifest(POLICY, &[("blue", 50), ("green", 50)], ""));
    for (i, cluster) in ["blue", "green"].into_iter().enumerate() {
        model.cluster(cluster, Link::Connected);
        for pod in 1..=3 {
            model.pod(cluster, POLICY, &format!("{cluster}-{pod}"), &format!("10.{i}.0.{pod}"), READY);
        }
    }
    rest(&mut model);
    assert_eq!(model.rule_weights(POLICY), [("blue".to_owned(), 50), ("green".to_owned(), 50)].into());
    model
}

/// Plans and carries out until nothing is left to do, and time has passed for everything that waits for it.
fn rest(model: &mut Model) {
    for _ in 0..6 {
        model.reconcile();
        model.judge_health();
        model.advance(LONG);
    }
    let plan = model.plan();
    assert!(plan.policies.values().all(|policy| policy.steps.is_empty()), "planning again gives nothing: {plan:?}");
}

fn registered(model: &Model, cluster: &str) -> u32 {
    let status = model.plan().policies.remove(&key(POLICY)).expect("the policy is planned").status;
    let of = status.clusters.iter().find(|of| of.cluster == cluster_name(cluster)).expect("the cluster is there");
    of.targets.registered
}

#[test]
fn a_drained_cluster_loses_its_share_then_its_targets_then_its_place_in_the_rule() {
    let mut model = at_rest();
    model.fleet.insert(cluster_name("blue"), ceiling(Mode::Draining, 0));
    model.reconcile();
    assert_eq!(model.rule_weights(POLICY), [("blue".to_owned(), 0), ("green".to_owned(), 100)].into());
    assert_eq!(registered(&model, "blue"), 3, "nothing is deregistered before the weights have settled");
    rest(&mut model);
    assert_eq!(registered(&model, "blue"), 0);
    assert_eq!(model.rule_weights(POLICY), [("green".to_owned(), 100)].into(), "no empty group stays in the rule");
    let status = model.plan().policies.remove(&key(POLICY)).expect("the policy is planned").status;
    let failed_over = status.condition(ConditionType::FailedOver).expect("every condition is told");
    assert_eq!((failed_over.status, failed_over.reason), (Some(true), Reason::Draining));
}

#[test]
fn what_moves_elsewhere_brings_no_target_of_a_drained_cluster_back() {
    let mut model = at_rest();
    model.fleet.insert(cluster_name("blue"), ceiling(Mode::Drained, 0));
    rest(&mut model);
    model.weights(POLICY, &[("green", 70)]);
    let plan = model.reconcile();
    assert_eq!(registered(&model, "blue"), 0, "{plan:?}");
    rest(&mut model);
    assert_eq!(registered(&model, "blue"), 0);
}

#[test]
fn a_drained_cluster_comes_back_through_its_health_and_in_steps() {
    let mut model = at_rest();
    model.fleet.insert(cluster_name("blue"), ceiling(Mode::Drained, 0));
    rest(&mut model);
    model.fleet.insert(cluster_name("blue"), Ceiling { deregister: false, ..ceiling(Mode::Returning, 500) });
    model.reconcile();
    assert_eq!(registered(&model, "blue"), 3);
    let carried = model.rule_weights(POLICY).get("blue").copied().unwrap_or(0);
    assert_eq!(carried, 0, "nobody is sent to targets that were not found healthy");
    rest(&mut model);
    let weights = model.rule_weights(POLICY);
    let (blue, green) = (f64::from(weights["blue"]), f64::from(weights["green"]));
    assert!((0.25..0.40).contains(&(blue / (blue + green))), "half of its share against a whole one: {weights:?}");
    model.fleet.clear();
    rest(&mut model);
    assert_eq!(model.rule_weights(POLICY), [("blue".to_owned(), 50), ("green".to_owned(), 50)].into());
}

#[test]
fn the_only_cluster_keeps_its_requests_and_its_targets_while_it_is_drained() {
    let mut model = at_rest();
    model.weights(POLICY, &[("blue", 100), ("green", 0)]);
    rest(&mut model);
    model.fleet.insert(cluster_name("blue"), ceiling(Mode::Draining, 0));
    rest(&mut model);
    assert_eq!(registered(&model, "blue"), 3);
    assert_eq!(model.rule_weights(POLICY), [("blue".to_owned(), 100), ("green".to_owned(), 0)].into());
}

#[test]
fn a_removed_cluster_leaves_nothing_behind() {
    let mut model = at_rest();
    model.weights(POLICY, &[("blue", 0), ("green", 100)]);
    rest(&mut model);
    model.fleet.insert(cluster_name("blue"), ceiling(Mode::Removed, 0));
    rest(&mut model);
    assert_eq!(model.rule_weights(POLICY), [("green".to_owned(), 100)].into());
    assert_eq!(model.aws.target_groups.len(), 1, "its group is gone");
}
