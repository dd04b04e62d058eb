//! Clusters that come back: slowly, in steps, when somebody says so, and ever more rarely when they flap.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use switchyard_tests::{
    chaos::{POLICY, Stage},
    losses::{Reach, failover, policy, quick},
};

async fn shared(rules: Value) -> Stage {
    let policy = policy(&[("blue", 50), ("green", 50)], failover(rules));
    Stage::with_failover(quick(&["blue", "green"]), &policy).await
}

/// Stated: blue died and lives again. It gets nothing for `healthyAfterSeconds`, then a quarter of its share every two seconds, and not
/// one request fails from the moment in which it lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_comes_back_late_and_in_steps_without_a_failed_request() {
    let rules = json!({"healthyAfterSeconds": 4, "failbackStepPercent": 25, "failbackStepSeconds": 2});
    let mut stage = shared(rules).await;
    let blue = Reach::of(&stage.world, "blue");
    blue.dead().await;
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    stage.quiet_from_here("return").await;
    stage.forget().await;
    blue.alive().await;
    let begun = Instant::now();
    stage.weight_of("blue", "above 0", |weight| weight > 0).await;
    let first = begun.elapsed();
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    let whole = begun.elapsed();
    assert!(first >= Duration::from_secs(4), "after {first:?}");
    assert!(whole - first >= Duration::from_secs(5), "four steps, two seconds between them: {:?}", whole - first);
    let shares: Vec<u32> =
        stage.weights_written().await.iter().map(|w| w["blue"] * 1000 / w.values().sum::<u32>().max(1)).collect();
    assert!(shares.is_sorted() && shares.len() == 4, "in four steps: {shares:?}");
    stage.world.yardctl.converged(POLICY).await;
    stage.nothing_was_deleted().await;
    stage.ends_quietly("return").await;
}

/// Stated: with `failback: Manual` blue stays out however healthy it is, until somebody says `yardctl failback`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_may_not_come_back_by_itself_waits_for_yardctl_failback() {
    let mut stage = shared(json!({"failback": "Manual", "healthyAfterSeconds": 1})).await;
    let blue = Reach::of(&stage.world, "blue");
    blue.dead().await;
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    stage.quiet_from_here("return").await;
    stage.forget().await;
    blue.alive().await;
    stage.says(&["returns when somebody says so"]).await;
    stage.seconds(5).await;
    assert!(stage.weights_written().await.is_empty(), "{:?}", stage.weights_written().await);
    stage.world.yardctl.expect(&["failback", POLICY, "--reason", "blue is repaired"], "").await;
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    stage.world.yardctl.converged(POLICY).await;
    stage.nothing_was_deleted().await;
    stage.ends_quietly("return").await;
}

/// Stated: blue dies and lives again every seven seconds. It returns once or twice, each time after a hold-down twice as long, and
/// then not any more while it flaps: rules are changed a few times in 40 seconds, not every seven. Once it stays alive for as long as
/// the hold-down it has everything back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_cluster_is_held_down_longer_each_time() {
    let stage = shared(json!({"healthyAfterSeconds": 1, "holdDownMaxSeconds": 16, "maxMovesPerHour": 60})).await;
    let blue = Reach::of(&stage.world, "blue");
    blue.flaps(Duration::from_secs(3), Duration::from_secs(4)).await;
    stage.seconds(28).await;
    let early = stage.weights_written().await.len();
    stage.seconds(21).await;
    let late = stage.weights_written().await;
    assert!(late.len() <= 10, "in seven flaps: {late:?}");
    assert!(late.len() - early <= 1, "it is left alone once the hold-down is longer than its life: {late:?}");
    stage.says(&["FailedOver"]).await;
    blue.alive().await;
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    stage.quiet_from_here("after").await;
    stage.nothing_was_deleted().await;
    stage.ends_quietly("after").await;
}

/// Stated: after `maxMovesPerHour` moves no cluster comes back by itself; one that dies goes out all the same, and `yardctl failback`
/// brings it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_moves_of_an_hour_are_used_up_only_people_bring_a_cluster_back() {
    let mut stage = shared(json!({"healthyAfterSeconds": 1, "holdDownMaxSeconds": 1, "maxMovesPerHour": 1})).await;
    let blue = Reach::of(&stage.world, "blue");
    blue.dead().await;
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    stage.quiet_from_here("return").await;
    stage.forget().await;
    blue.alive().await;
    stage.says(&["maxMovesPerHour"]).await;
    stage.seconds(4).await;
    assert!(stage.weights_written().await.is_empty(), "{:?}", stage.weights_written().await);
    stage.world.yardctl.expect(&["failback", POLICY, "--reason", "blue is repaired"], "").await;
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    stage.nothing_was_deleted().await;
    stage.ends_quietly("return").await;
}
