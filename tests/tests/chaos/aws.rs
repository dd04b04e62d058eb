//! AWS at its worst, in the middle of a rolling update and a change of weights.

use rand::Rng;
use serde_json::json;
use switchyard_tests::{
    chaos::{POLICY, Stage, dice, patient},
    shifts::{in_force, weights},
    world::Builder,
};

/// Stated: one call in three of those that change something fails inside AWS, loses its answer or never arrives, while every pod is
/// replaced and weights are changed twice. What was asked for comes true, nothing is made twice, no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_fail_at_random_during_changes_cost_no_request() {
    let mut dice = dice("calls that fail at random");
    let stage = Stage::halves(patient(Builder::default())).await;
    for operation in ["ModifyRule", "RegisterTargets", "DeregisterTargets", "DescribeRules", "DescribeTargetHealth"] {
        for nth in 1..=6 {
            let fault = match dice.random_range(0..9) {
                0 => json!({"kind": "error", "code": "InternalFailure", "http_status": 500}),
                1 => json!({"kind": "lost_answer"}),
                2 => json!({"kind": "refused"}),
                _ => continue,
            };
            let mut fault = fault;
            fault["operation"] = json!(operation);
            fault["nth"] = json!(nth);
            stage.fault(fault).await;
        }
    }
    stage.world.begin_rolling_update("v2").await;
    stage.world.yardctl.weights_until_converged(POLICY, &["blue=80", "green=20"]).await;
    stage.world.yardctl.weights_until_converged(POLICY, &["blue=20", "green=80"]).await;
    stage.world.rolled().await;
    let state = stage.world.all_healthy(POLICY).await;
    assert_eq!((state.rules_of(POLICY).len(), state.target_groups.len()), (1, 2), "nothing is made twice: {state:?}");
    assert_eq!(in_force(&stage.world.elb(), POLICY).await, weights(&[("blue", 20), ("green", 80)]));
    stage.world.elb().clear_faults().await.expect("the faults are gone");
    stage.all_is_well().await;
}
