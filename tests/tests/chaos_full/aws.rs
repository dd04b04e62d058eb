//! AWS at its worst, fault by fault, in the middle of a rolling update and a change of weights. Stated for all: what was asked for
//! comes true when AWS is well again, nothing is made twice, no group that carries is emptied, no request fails.

use std::time::Duration;

use serde_json::json;
use switchyard_tests::{
    chaos::{POLICY, Stage, patient},
    policy::Policy,
    sandbox::WorkloadSpec,
    shifts::{in_force, weights},
    world::Builder,
};

async fn stage() -> Stage {
    Stage::halves(patient(Builder::default())).await
}

/// Every pod is replaced, and weights are changed there and back.
async fn changes(stage: &Stage) {
    stage.world.begin_rolling_update("v2").await;
    stage.world.yardctl.weights_until_converged(POLICY, &["blue=80", "green=20"]).await;
    stage.world.yardctl.weights_until_converged(POLICY, &["blue=20", "green=80"]).await;
    stage.world.rolled().await;
    let state = stage.world.all_healthy(POLICY).await;
    assert_eq!((state.rules_of(POLICY).len(), state.target_groups.len()), (1, 2), "nothing is made twice: {state:?}");
    assert_eq!(in_force(&stage.world.elb(), POLICY).await, weights(&[("blue", 20), ("green", 80)]));
}

/// Stated: at a tenth of the real request budget the change of weights goes first, and the rest takes its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenth_of_the_request_budget_costs_no_request() {
    let builder = Builder::default();
    // Six pods and their successors need some thirty seconds of register calls at this rate; pods wait for that.
    let workload = WorkloadSpec { termination_grace: Duration::from_secs(40), ..builder.workload.clone() };
    let stage = Stage::halves(Builder { workload, ..builder }).await;
    let tenth = json!({"rates": {
        "describe": {"rate": 5.0, "burst": 20.0},
        "mutate": {"rate": 0.3, "burst": 2.0},
        "register": {"rate": 0.4, "burst": 2.0},
    }});
    stage.world.elb().limit(tenth).await.expect("the budget is cut");
    changes(&stage).await;
    stage.all_is_well().await;
}

/// Every call of some kind fails in this way for some seconds in the middle of the changes.
async fn for_a_while(operations: &[&str], fault: serde_json::Value) {
    let stage = stage().await;
    stage.world.begin_rolling_update("v2").await;
    for operation in operations {
        let mut fault = fault.clone();
        fault["operation"] = json!(operation);
        fault["every"] = json!(true);
        stage.fault(fault).await;
    }
    let asked = ["weights", POLICY, "blue=60", "green=40"];
    stage.world.yardctl.expect(&asked, "").await;
    stage.seconds(6).await;
    stage.world.elb().clear_faults().await.expect("the faults are gone");
    stage.world.yardctl.converged(POLICY).await;
    stage.world.rolled().await;
    changes(&stage).await;
    stage.all_is_well().await;
}

const WRITES: [&str; 3] = ["ModifyRule", "RegisterTargets", "DeregisterTargets"];
const READS: [&str; 3] = ["DescribeRules", "DescribeTargetHealth", "DescribeTargetGroups"];

/// Stated: every write is answered with 500 for six seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_fail_inside_aws_for_a_while_are_made_up_for() {
    for_a_while(&WRITES, json!({"kind": "error", "code": "InternalFailure", "http_status": 500})).await;
}

/// Stated: every read and every write is answered with 503 for six seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aws_that_answers_503_to_everything_for_a_while_costs_no_request() {
    let all = [WRITES, READS].concat();
    for_a_while(&all, json!({"kind": "error", "code": "ServiceUnavailable", "http_status": 503})).await;
}

/// Stated: every write is carried out and its answer is lost, for six seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_whose_answers_are_lost_for_a_while_are_found_by_reading_back() {
    for_a_while(&WRITES, json!({"kind": "lost_answer"})).await;
}

/// Stated: every call is throttled for six seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_all_throttled_for_a_while_cost_no_request() {
    let all = [WRITES, READS].concat();
    for_a_while(&all, json!({"kind": "throttle"})).await;
}

/// Stated: for six seconds what is read is two seconds old: what was just written does not show. It is not written again and again,
/// and nothing is taken back for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_reads_for_a_while_cost_no_request() {
    for_a_while(&READS, json!({"kind": "stale_read_ms", "ms": 2_000})).await;
}

/// Stated: the quota of targets is reached in the middle of a rolling update. The targets that do not fit are refused with the
/// numbers, everything else goes on: weights change, another policy is programmed. With room again the rest goes in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_of_targets_that_is_reached_in_the_middle_costs_no_request() {
    let builder = Builder::default();
    let workload = WorkloadSpec { termination_grace: Duration::from_secs(40), ..builder.workload.clone() };
    let stage = Stage::halves(Builder { workload, ..builder }).await;
    // Six are there; a rolling update needs one more at a time in each cluster.
    stage.world.elb().limit(json!({"quotas": {"targets-per-application-load-balancer": 6}})).await.expect("a quota");
    stage.world.begin_rolling_update("v2").await;
    stage.seconds(6).await;
    stage.world.yardctl.expect(&["weights", POLICY, "blue=60", "green=40"], "").await;
    stage.seconds(2).await;
    stage.world.elb().limit(json!({"quotas": {"targets-per-application-load-balancer": 1000}})).await.expect("room");
    stage.world.yardctl.converged(POLICY).await;
    changes(&stage).await;
    stage.all_is_well().await;
}

/// Stated: a policy that does not fit into the quota of rules waits with the numbers; the other one's rolling update and change of
/// weights go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_of_rules_that_is_reached_delays_no_other_policy() {
    let stage = stage().await;
    stage.world.elb().limit(json!({"quotas": {"rules-per-application-load-balancer": 1}})).await.expect("a quota");
    stage.world.add_service("cart").await;
    let cart = Policy::new("cart", &[("blue", 50), ("green", 50)]).with("/spec/order", json!(200));
    stage.world.yardctl.expect(&["apply", "-f", "-"], &cart.yaml()).await;
    stage.world.begin_rolling_update("v2").await;
    stage.world.yardctl.weights_until_converged(POLICY, &["blue=80", "green=20"]).await;
    stage.world.yardctl.status_says("shop/cart", &["QuotaExceeded"]).await;
    stage.world.elb().limit(json!({"quotas": {"rules-per-application-load-balancer": 100}})).await.expect("room");
    stage.world.yardctl.converged("shop/cart").await;
    stage.world.rolled().await;
    stage.all_is_well().await;
}
