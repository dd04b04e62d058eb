//! What belongs to others stays as it is to the last byte, and what is ours is put right when others change it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use switchyard_tests::{policy::Policy, sandbox::WorkloadSpec, world::World};

const POLICY: &str = "shop/checkout";

/// Rules and target groups without the hub's mark, as the sandbox writes them.
async fn of_others(world: &World) -> String {
    let state = world.elb().raw_state().await.expect("the state");
    let ours = |item: &Value| item["tags"].get("switchyard.dev/hub").is_some();
    let groups: Vec<&Value> = state["target_groups"].as_array().into_iter().flatten().filter(|g| !ours(g)).collect();
    let listeners = state["load_balancers"].as_array().into_iter().flatten();
    let listeners = listeners.flat_map(|lb| lb["listeners"].as_array().into_iter().flatten());
    let rules = listeners.flat_map(|listener| listener["rules"].as_array().into_iter().flatten());
    let rules: Vec<&Value> = rules.filter(|rule| !ours(rule)).collect();
    assert!(!groups.is_empty() && rules.len() >= 2, "the foreign group, the foreign rule, the default rule: {state:#}");
    format!("{:#}", json!({"groups": groups, "rules": rules}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_rule_and_group_on_the_same_listener_are_never_changed() {
    let world = World::start().await;
    let others = world.somebody_else();
    let group = others.create_target_group("theirs", &world.sandbox.info().vpc_id).await.expect("their group");
    let listener = &world.load_balancer.listeners[0].arn;
    // The very priority that the policy would like to have.
    others.create_rule(listener, 100, "/theirs", &group).await.expect("their rule");
    let before = of_others(&world).await;
    world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 100), ("green", 0)])).await;
    world.all_healthy(POLICY).await;
    assert_eq!(of_others(&world).await, before, "after the first policy");
    let load = world.load("checkout", 200).await;
    world.yardctl.weights_until_converged(POLICY, &["blue=20", "green=80"]).await;
    world.begin_rolling_update("v2").await;
    world.rolled().await;
    let more = WorkloadSpec { replicas: 5, version: "v2".to_owned(), ..world.workload.clone() };
    world.cluster("blue").put_workload("checkout", &more).await.expect("blue is scaled");
    world.all_healthy(POLICY).await;
    load.finish_without_failures().await;
    assert_eq!(of_others(&world).await, before, "after weights, an update and scaling");
    world.yardctl.expect(&["delete", "policy", POLICY, "--wait", "--timeout", "60s"], "").await;
    let state = world.elb_shows("nothing of ours to be left", |state| state.groups_of(POLICY).is_empty()).await;
    assert!(state.rules_of(POLICY).is_empty(), "{state:?}");
    assert_eq!(of_others(&world).await, before, "after the policy is gone");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_and_targets_that_a_foreign_hand_changed_are_put_right_at_the_next_audit() {
    let world = World::with_policy(&[("blue", 50), ("green", 50)]).await;
    let load = world.load("checkout", 200).await;
    let others = world.somebody_else();
    let state = world.all_healthy(POLICY).await;
    let [rule] = state.rules_of(POLICY)[..] else { panic!("one rule: {state:?}") };
    let (blue, green) = (state.group(POLICY, "blue").expect("blue"), state.group(POLICY, "green").expect("green"));
    others.set_rule_weights(&rule.arn, &[(&blue.arn, 1), (&green.arn, 998)]).await.expect("their change");
    let right = BTreeMap::from([("blue".to_owned(), 50), ("green".to_owned(), 50)]);
    world.elb_shows("the weights to be put right", |state| state.weights(POLICY).as_ref() == Some(&right)).await;
    let one = blue.registered().next().expect("a target");
    others.deregister(&blue.arn, &[(&one.id, one.port)]).await.expect("their change");
    world.all_healthy(POLICY).await;
    world.yardctl.converged(POLICY).await;
    load.finish_without_failures().await;
    world.stop().await;
}
