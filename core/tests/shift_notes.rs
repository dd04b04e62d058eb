//! What is said of flows that outlive a shift: what is always so, and what somebody turned on beside this hub.

mod support;

use support::{Model, READY, cluster_name, key, listener_arn, load_balancer_arn, manifest};
use switchyard_core::{
    ids::Weight,
    inventory::Link,
    observed::{Action, Known},
    shift::{
        Move,
        notes::{FlowNote, FlowReason, long_flows},
    },
};

/// A policy with blue 100 and green 0, in force at AWS.
fn flipped(extra: &str) -> Model {
    let mut model = Model::new();
    for (n, name) in ["blue", "green"].into_iter().enumerate() {
        model.cluster(name, Link::Connected);
        model.pod(name, "checkout", &format!("{name}-1"), &format!("10.{n}.0.1"), READY);
    }
    model.policy(&manifest("checkout", &[("blue", 100), ("green", 0)], extra));
    for _ in 0..10 {
        model.reconcile();
        model.judge_health();
        model.advance(61);
    }
    model
}

fn weights(blue: u32, green: u32) -> Vec<(switchyard_core::ids::ClusterName, Weight)> {
    vec![(cluster_name("blue"), Weight::new(blue).unwrap()), (cluster_name("green"), Weight::new(green).unwrap())]
}

fn notes(model: &Model, to: (u32, u32)) -> Vec<FlowNote> {
    let record = &model.policies[&key("checkout")];
    let (from, to) = (weights(100, 0), weights(to.0, to.1));
    let one = Move { policy: key("checkout"), uid: record.uid.clone(), from, to, left: false };
    let plan = model.plan();
    long_flows(record, &one, Some(&plan.policies[&key("checkout")].status), Some(&model.aws))
}

fn reasons(notes: &[FlowNote]) -> Vec<FlowReason> {
    notes.iter().map(|note| note.reason).collect()
}

#[test]
fn open_streams_are_named_with_the_cluster_that_keeps_them_and_the_time_it_has() {
    let model = flipped("");
    let notes = notes(&model, (0, 100));
    assert_eq!(reasons(&notes), [FlowReason::OpenStreams]);
    let message = &notes[0].message;
    assert!(message.contains("open with blue stay there until they end"), "{message}");
    assert!(message.contains("up to 300 s"), "{message}");
    assert!(!message.contains("green"), "{message}");
}

#[test]
fn weights_that_move_nobody_away_leave_nothing_to_say() {
    assert_eq!(notes(&flipped(""), (50, 0)), []);
}

#[test]
fn stickiness_of_the_rule_is_found_with_its_time() {
    let mut model = flipped("");
    let listener = model.aws.listeners.get_mut(&listener_arn()).unwrap();
    let Known::Known(rules) = &mut listener.rules else { panic!("known") };
    for rule in rules.values_mut() {
        let Action::Forward { stickiness_seconds, .. } = &mut rule.action else { panic!("a forward") };
        *stickiness_seconds = Some(3600);
    }
    let notes = notes(&model, (0, 100));
    assert_eq!(reasons(&notes), [FlowReason::OpenStreams, FlowReason::GroupStickiness]);
    assert!(notes[1].message.contains("for up to 3600 s"), "{}", notes[1].message);
}

#[test]
fn sticky_sessions_of_a_target_group_are_found_on_either_side() {
    let mut model = flipped("");
    for group in model.aws.target_groups.values_mut().filter(|group| group.name.contains("green")) {
        group.stickiness_seconds = Known::Known(Some(900));
    }
    let notes = notes(&model, (50, 50));
    assert_eq!(reasons(&notes), [FlowReason::OpenStreams, FlowReason::TargetStickiness]);
    assert_eq!(notes[1].cluster, Some(cluster_name("green")));
    assert!(notes[1].message.contains("sticky sessions of 900 s"), "{}", notes[1].message);
}

#[test]
fn a_load_balancer_that_routes_connections_is_named() {
    let mut model = flipped("");
    // The listener is resolved by its port; what the planner says to such a load balancer is its own matter.
    model.aws.load_balancers.get_mut(&load_balancer_arn()).unwrap().kind = "network".into();
    let record = &model.policies[&key("checkout")];
    let one =
        Move { policy: key("checkout"), uid: record.uid.clone(), from: weights(1, 0), to: weights(0, 1), left: false };
    let before = flipped("").plan();
    let status = &before.policies[&key("checkout")].status;
    let found = long_flows(record, &one, Some(status), Some(&model.aws));
    assert_eq!(reasons(&found), [FlowReason::OpenStreams, FlowReason::OpenConnections]);
}

#[test]
fn without_a_look_at_aws_what_is_always_so_is_said() {
    let model = flipped("");
    let record = &model.policies[&key("checkout")];
    let one =
        Move { policy: key("checkout"), uid: record.uid.clone(), from: weights(1, 0), to: weights(0, 1), left: false };
    assert_eq!(reasons(&long_flows(record, &one, None, None)), [FlowReason::OpenStreams]);
}
