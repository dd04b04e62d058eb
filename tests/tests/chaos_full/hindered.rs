//! A cluster is lost while something else is wrong, or under way.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use switchyard_proto::api::v1::ShiftState;
use switchyard_tests::{
    chaos::{POLICY, Stage},
    losses::{Reach, StopWatch, failover, policy, quick},
    shifts::{Shifts, in_force, step, to_cluster},
};

async fn shared() -> Stage {
    let policy = policy(&[("blue", 50), ("green", 50)], failover(json!({})));
    Stage::with_failover(quick(&["blue", "green"]), &policy).await
}

/// Blue is left, and comes back when it lives again.
async fn ends_well(stage: Stage) {
    stage.quiet_from_here("after").await;
    Reach::of(&stage.world, "blue").alive().await;
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    stage.world.yardctl.converged(POLICY).await;
    stage.nothing_was_deleted().await;
    stage.ends_quietly("after").await;
}

/// Stated: AWS grants a tenth of its request budget. A move for health goes before everything else: errors for less than 10 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_left_in_time_while_aws_throttles() {
    let stage = shared().await;
    let tenth = json!({"rates": {
        "describe": {"rate": 5.0, "burst": 20.0},
        "mutate": {"rate": 0.3, "burst": 2.0},
        "register": {"rate": 0.4, "burst": 2.0},
    }});
    stage.world.elb().limit(tenth).await.expect("the budget is cut");
    // So long that the hub has used up what it had left over.
    stage.seconds(5).await;
    let watch = StopWatch::start(&stage).await;
    Reach::of(&stage.world, "blue").dead().await;
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    stage.quiet_from_here("left").await;
    let split = watch.split(&stage, "blue").await.expect("the logs tell who needed how long");
    split.within("AWS grants a tenth of its request budget", Duration::from_secs(10));
    let whole = json!({"rates": {
        "describe": {"rate": 50.0, "burst": 200.0},
        "mutate": {"rate": 3.0, "burst": 20.0},
        "register": {"rate": 4.0, "burst": 20.0},
    }});
    stage.world.elb().limit(whole).await.expect("the budget is whole again");
    ends_well(stage).await;
}

/// Stated: the answer to the ModifyRule that moves the traffic is lost, and so is the answer to the next one. The rule is read
/// back; clients feel nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_the_move_costs_nothing() {
    let stage = shared().await;
    stage.fault(json!({"operation": "ModifyRule", "times": 2, "kind": "lost_answer"})).await;
    let watch = StopWatch::start(&stage).await;
    Reach::of(&stage.world, "blue").dead().await;
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    stage.quiet_from_here("left").await;
    let split = watch.split(&stage, "blue").await.expect("the logs tell who needed how long");
    split.within("the answer to the move is lost", Duration::from_secs(6));
    ends_well(stage).await;
}

/// Stated: the hub is killed when the load balancer has just noticed, and starts again. It waits for its own lease (3 s here), reads
/// everything anew, and moves the traffic then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_killed_in_the_middle_moves_the_traffic_when_it_is_back() {
    let mut stage = shared().await;
    Reach::of(&stage.world, "blue").dead().await;
    stage
        .world
        .elb_shows("the load balancer to notice", |state| {
            state.group(POLICY, "blue").is_some_and(|group| group.targets.iter().any(|t| t.state == "unhealthy"))
        })
        .await;
    stage.world.hub.kill_9();
    stage.world.hub.start_again().await.expect("the hub starts again");
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    stage.world.connected().await;
    ends_well(stage).await;
}

/// Stated: while blue is out somebody else gives it its weight back in our rule. The next audit puts that right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_hand_that_sends_traffic_to_a_dead_cluster_is_put_right() {
    let stage = shared().await;
    Reach::of(&stage.world, "blue").dead().await;
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    let state = stage.world.elb().state().await.expect("the state");
    let [rule] = state.rules_of(POLICY)[..] else { panic!("one rule: {state:?}") };
    let (blue, green) = (state.group(POLICY, "blue").expect("blue"), state.group(POLICY, "green").expect("green"));
    let others = stage.world.somebody_else();
    others.set_rule_weights(&rule.arn, &[(&blue.arn, 100), (&green.arn, 1)]).await.expect("their change");
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    ends_well(stage).await;
}

/// Stated: 30 % of the traffic are on their way from blue to green, in a step that bakes, when blue dies. Green gets everything at
/// once. When blue lives again it has what the step leaves it, the shift goes on, and at its end green has everything. Shift and
/// failover write the rule once each for what they want; they do not fight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_dies_in_the_middle_of_a_shift_is_left_and_the_shift_goes_on_afterwards() {
    let policy = policy(&[("blue", 100), ("green", 0)], failover(json!({})));
    let stage = Stage::with_failover(quick(&["blue", "green"]), &policy).await;
    let shifts = Shifts::of(&stage.world.hub);
    let id = shifts.begin(&to_cluster(&[POLICY], "green", vec![step(30, 600), step(100, 0)])).await;
    shifts.reaches(&id, ShiftState::Baking, 1).await;
    stage.weights_are(&[("blue", 70), ("green", 30)]).await;
    Reach::of(&stage.world, "blue").dead().await;
    stage.weight_of("blue", "0", |weight| weight == 0).await;
    stage.quiet_from_here("left").await;
    let written = stage.weights_written().await.len();
    stage.seconds(4).await;
    assert_eq!(stage.weights_written().await.len(), written, "they do not fight");
    let left = stage.window("left").await;
    assert_eq!(left.failed, 0, "green answers everything: {}", left.failures_shown());
    Reach::of(&stage.world, "blue").alive().await;
    stage.weights_are(&[("blue", 70), ("green", 30)]).await;
    shifts.promote(&id).await.expect("the shift is promoted");
    shifts.ends(&id, ShiftState::Succeeded).await;
    let everything = BTreeMap::from([("blue".to_owned(), 0), ("green".to_owned(), 100)]);
    assert_eq!(in_force(&stage.world.elb(), POLICY).await, everything);
    stage.nothing_was_deleted().await;
    stage.ends_quietly("left").await;
}
