//! AWS at its worst: answers that are lost, throttling, no AWS at all. The outcome is right, and nothing is made twice.

use serde_json::json;
use switchyard_tests::{
    elb::State,
    policy::Policy,
    sandbox::WorkloadSpec,
    wait,
    world::{Builder, World},
};

const POLICY: &str = "shop/checkout";

fn nothing_twice(state: &State) {
    assert_eq!(state.rules_of(POLICY).len(), 1, "{state:?}");
    assert_eq!(state.target_groups.len(), 2, "{state:?}");
}

async fn struck(world: &World) {
    let armed = world.elb().armed().await.expect("the faults");
    assert!(armed.is_empty(), "every fault has struck: {armed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_while_everything_is_made_leave_no_duplicates() {
    let world = World::start().await;
    for operation in ["CreateTargetGroup", "RegisterTargets", "CreateRule", "AddTags"] {
        let fault = json!({"operation": operation, "nth": 1, "kind": "lost_answer"});
        world.elb().fault(fault).await.expect("the fault is armed");
    }
    world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 50), ("green", 50)])).await;
    struck(&world).await;
    nothing_twice(&world.all_healthy(POLICY).await);
    let load = world.load("checkout", 100).await;
    load.more(200).await;
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_never_arrive_or_fail_inside_aws_are_made_again() {
    let world = World::start().await;
    for operation in ["CreateTargetGroup", "RegisterTargets", "CreateRule"] {
        let refused = json!({"operation": operation, "nth": 1, "kind": "refused"});
        world.elb().fault(refused).await.expect("the fault is armed");
        let broken =
            json!({"operation": operation, "nth": 2, "kind": "error", "code": "InternalFailure", "http_status": 500});
        world.elb().fault(broken).await.expect("the fault is armed");
    }
    world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 50), ("green", 50)])).await;
    struck(&world).await;
    nothing_twice(&world.all_healthy(POLICY).await);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_change_of_weights_or_targets_costs_no_request() {
    let world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
    let load = world.load("checkout", 200).await;
    for operation in ["ModifyRule", "RegisterTargets", "DeregisterTargets"] {
        let fault = json!({"operation": operation, "nth": 1, "kind": "lost_answer"});
        world.elb().fault(fault).await.expect("the fault is armed");
    }
    world.yardctl.weights_until_converged(POLICY, &["blue=30", "green=70"]).await;
    world.begin_rolling_update("v2").await;
    world.rolled().await;
    nothing_twice(&world.all_healthy(POLICY).await);
    struck(&world).await;
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenth_of_the_request_budget_slows_things_down_and_costs_no_request() {
    let builder = Builder::default();
    // Five pods and their successors need some twenty seconds of register calls at this rate; pods wait for that.
    let workload = WorkloadSpec { termination_grace: std::time::Duration::from_secs(25), ..builder.workload.clone() };
    let world = Builder { workload, ..builder }.start().await.expect("the world starts");
    world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 50), ("green", 50)])).await;
    world.all_healthy(POLICY).await;
    let load = world.load("checkout", 200).await;
    let tenth = json!({"rates": {
        "describe": {"rate": 5.0, "burst": 20.0},
        "mutate": {"rate": 0.3, "burst": 2.0},
        "register": {"rate": 0.4, "burst": 2.0},
    }});
    world.elb().limit(tenth).await.expect("the budget is cut");
    world.begin_rolling_update("v2").await;
    world.yardctl.weights_until_converged(POLICY, &["blue=80", "green=20"]).await;
    world.yardctl.weights_until_converged(POLICY, &["blue=20", "green=80"]).await;
    world.rolled().await;
    nothing_twice(&world.all_healthy(POLICY).await);
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_aws_traffic_goes_on_nothing_is_removed_and_changes_are_made_up_for() {
    let world = World::with_policy(&[("blue", 50), ("green", 50)]).await;
    let load = world.load("checkout", 200).await;
    let before = world.all_healthy(POLICY).await;
    world.elb().partition(true).await.expect("AWS is cut off");
    let asked = ["weights", POLICY, "blue=90", "green=10", "--wait", "converged", "--timeout", "8s"];
    let waited = world.yardctl.run(&asked, "").await.expect("yardctl runs");
    assert_eq!(waited.code, 7, "accepted, and not converged: {waited}");
    // Longer than an audit, the health interval and the life of a lease.
    load.more(1_600).await;
    let after = world.elb().state().await.expect("the state");
    for cluster in ["blue", "green"] {
        let of = |state: &State| state.group(POLICY, cluster).map(|group| group.addresses());
        assert_eq!(of(&after), of(&before), "nothing is removed");
    }
    world.elb().partition(false).await.expect("AWS is back");
    world.yardctl.converged(POLICY).await;
    wait::until("the change of weights to be made up for", async || {
        let weights = world.elb().state().await.map_err(|e| e.to_string())?.weights(POLICY);
        wait::check(weights.as_ref().is_some_and(|w| w.get("blue") == Some(&90)), || format!("{weights:?}"))
    })
    .await;
    load.finish_without_failures().await;
    world.stop().await;
}
