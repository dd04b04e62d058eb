//! Shifts that do not get to their end: a gate fails, the new side dies, the policy's author writes other weights, the policy is
//! deleted. The weights at the end are the recorded ones, or those of the author.

use serde_json::json;
use switchyard_proto::api::v1::{self as api, ShiftState};
use switchyard_tests::{
    policy::Policy,
    shifts::{all_the_way, beginning, step, stepped, to_cluster, told, weights},
    webhook::Webhook,
};

use crate::shifts::{POLICY, Stage, all_blue, all_green, status};

fn judged_by_webhook() -> api::Gate {
    api::Gate {
        name: "checks".to_owned(),
        webhook: Some(api::WebhookGate { endpoint: "qa".to_owned() }),
        interval_seconds: 5,
        ..Default::default()
    }
}

fn share(green: u32) -> switchyard_tests::shifts::Weights {
    weights(&[("blue", 100 - green), ("green", green)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_fails_takes_a_shift_back_one_that_waits_holds_it_and_one_that_passes_lets_it_through() {
    let mut stage = Stage::set().await;
    let webhook = Webhook::start().await.expect("a port is free");
    stage.world.hub.stop().await.expect("the hub ends");
    stage.world.hub.add_argument(&format!("--webhook=qa={}", webhook.url()));
    stage.restart_hub().await;
    let spec = |bake| api::ShiftSpec {
        gates: vec![judged_by_webhook()],
        ..to_cluster(&[POLICY], "green", vec![step(10, 0), step(60, bake), step(100, 0)])
    };

    webhook.says("Wait", "the tests still run");
    let id = stage.shifts.begin(&spec(3_600)).await;
    let waits = |status: &api::ShiftStatus| status.message.contains("the tests still run");
    let waiting = stage.shifts.until(&id, "the gate to wait", waits).await;
    assert_eq!((status(&waiting).state(), status(&waiting).step), (ShiftState::Baking, 1), "{waiting:#?}");
    webhook.says("Pass", "");
    // It is asked again as long as the step bakes: also one that has passed can fail.
    let passed = |status: &api::ShiftStatus| status.step == 2 && status.gates.iter().all(|gate| gate.succeeded > 0);
    stage.shifts.until(&id, "the second step with its gate passed", passed).await;
    webhook.says("Fail", "two tests are red");
    let shift = stage.shifts.ends(&id, ShiftState::Failed).await;
    let end = ["GateFailed 2", "Restored 2"].map(str::to_owned).into();
    assert_eq!(told(&shift), [beginning(), stepped(1), stepped(2), end].concat());
    assert!(status(&shift).message.contains("two tests are red"), "{shift:#?}");
    assert_eq!((stage.in_force().await, stage.written().await), (all_blue(), vec![share(10), share(60), all_blue()]));
    let asked = webhook.asked();
    let first = asked.first().expect("it was asked");
    assert_eq!((&first["shift"], &first["step"], &first["percent"]), (&json!(id), &json!(1), &json!(10)), "{first}");
    assert_eq!(
        first["policies"],
        json!([{
            "policy": POLICY, "weights": {"blue": 90, "green": 10}, "gaining": ["green"],
        }])
    );

    webhook.says("Pass", "");
    let id = stage.shifts.begin(&spec(0)).await;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!(told(&shift), all_the_way(3));
    assert_eq!(stage.written().await, [share(10), share(60), all_green()]);
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_side_that_loses_its_readiness_while_a_step_bakes_takes_the_shift_back() {
    let mut stage = Stage::set().await;
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![step(20, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    // Not ready and not healthy, and requests are still answered: not one has to fail.
    stage.world.cluster("green").set_mode("unready").await.expect("green's pods are not ready any more");
    let shift = stage.shifts.ends(&id, ShiftState::Failed).await;
    let end = ["TargetsLost 1", "Restored 1"].map(str::to_owned).into();
    assert_eq!(told(&shift), [beginning(), stepped(1), end].concat());
    let written = stage.written().await;
    assert_eq!((written.first(), written.last()), (Some(&share(20)), Some(&all_blue())), "{written:?}");
    assert_eq!(stage.in_force().await, all_blue());
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_spec_with_other_weights_supersedes_a_shift_and_another_change_of_the_spec_does_not() {
    let mut stage = Stage::set().await;
    let spec = to_cluster(&[POLICY], "green", vec![step(20, 3_600), step(100, 0)]);
    let id = stage.shifts.begin(&spec).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    // The order among the rules is no weight.
    let same = Policy::new("checkout", &[("blue", 100), ("green", 0)]).with("/spec/order", json!(150));
    stage.world.yardctl.expect(&["apply", "-f", "-"], &same.yaml()).await;
    stage.world.yardctl.converged(POLICY).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    assert_eq!(stage.in_force().await, share(20));
    let other = Policy::new("checkout", &[("blue", 70), ("green", 30)]).with("/spec/order", json!(150));
    stage.world.yardctl.apply_until_converged(&other).await;
    let shift = stage.shifts.ends(&id, ShiftState::Superseded).await;
    let words = told(&shift);
    assert!(words.contains(&"PolicyChanged 1".to_owned()), "{words:?}");
    assert_eq!(stage.in_force().await, share(30), "the author's weights, not the recorded ones");
    let written = stage.written().await;
    assert!(!written.contains(&all_blue()), "it never went by way of the recorded ones: {written:?}");

    // From here on the author's weights are where a shift starts and goes back to.
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "green", vec![step(50, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    assert_eq!(stage.in_force().await, share(65));
    stage.shifts.abort(&id).await.expect("it goes back");
    stage.shifts.ends(&id, ShiftState::Aborted).await;
    assert_eq!((stage.in_force().await, stage.written().await), (share(30), vec![share(65), share(30)]));
    stage.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_deleted_in_the_middle_ends_its_shift_and_takes_the_other_policies_back() {
    let mut stage = Stage::set().await;
    stage.world.add_service("cart").await;
    let cart = Policy::new("cart", &[("blue", 100), ("green", 0)]).with("/spec/order", json!(200));
    stage.world.yardctl.apply_until_converged(&cart).await;
    stage.world.all_healthy("shop/cart").await;
    stage.world.hub_knows("shop/cart").await;
    let both = [POLICY, "shop/cart"];
    let id = stage.shifts.begin(&to_cluster(&both, "green", vec![step(20, 3_600), step(100, 0)])).await;
    stage.shifts.reaches(&id, ShiftState::Baking, 1).await;
    stage.witness.take().expect("a witness").finish().await;
    stage.world.yardctl.expect(&["delete", "policy", "shop/cart", "--wait", "--timeout", "60s"], "").await;
    let shift = stage.shifts.ends(&id, ShiftState::Superseded).await;
    assert!(status(&shift).message.contains("shop/cart is being deleted"), "{shift:#?}");
    assert_eq!((stage.in_force().await, stage.written().await), (all_blue(), vec![share(20), all_blue()]));
    // What was taken back can be moved again.
    let id = stage.shifts.begin(&to_cluster(&[POLICY], "green", Vec::new())).await;
    let shift = stage.shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!((told(&shift), stage.written().await), (all_the_way(1), vec![all_green()]));
    stage.ends_well().await;
}
