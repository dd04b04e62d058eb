//! The data plane of clusters dies, or looks as if it did.

use std::time::Duration;

use serde_json::json;
use switchyard_tests::{
    chaos::Stage,
    losses::{Reach, StopWatch, failover, policy, quick},
};

/// Stated: blue has half of the traffic and its data plane dies, while its API server, its agent and its pods' own probes say that
/// all is well. With health checks of 2 x 1 s and calls at AWS that take 0.2 s, clients see errors for less than 5 s; then green
/// answers everything. Nothing is removed at AWS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_one_of_two_clusters_is_felt_for_less_than_five_seconds() {
    let policy = policy(&[("blue", 50), ("green", 50)], failover(json!({"healthyAfterSeconds": 60})));
    let stage = Stage::with_failover(quick(&["blue", "green"]), &policy).await;
    stage.fault(json!({"operation": "ModifyRule", "every": true, "kind": "delay_ms", "ms": 200})).await;
    let watch = StopWatch::start(&stage).await;
    Reach::of(&stage.world, "blue").dead().await;
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    stage.quiet_from_here("after").await;
    let split = watch.split(&stage, "blue").await.expect("the logs tell who needed how long");
    split.within("the loss of one of two clusters", Duration::from_secs(5));
    assert!(split.detection >= Duration::from_secs(1), "it was the load balancer that noticed: {split:?}");
    stage.says(&["FailedOver", "0 of 3 expected targets are healthy"]).await;
    stage.nothing_was_deleted().await;
    let answered = stage.ends_quietly("after").await;
    assert_eq!(answered.windows[0].report.by_cluster.keys().collect::<Vec<_>>(), ["green"]);
}

/// Stated: every pod of every cluster turns unready at once, as after a release with a broken health check. The observer is the
/// likely fault: no weight is changed, nothing is removed, the status raises an alarm, and since load balancers fail open not one
/// request is lost. When the pods are ready again the alarm ends by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_pod_of_every_cluster_turns_unready_nothing_is_changed_and_an_alarm_is_raised() {
    // Longer than the health checks of one cluster may be behind those of the other: what is played is "all at once".
    let policy = policy(&[("blue", 50), ("green", 50)], failover(json!({"unhealthyAfterSeconds": 15})));
    let stage = Stage::with_failover(quick(&["blue", "green"]), &policy).await;
    for cluster in stage.world.clusters() {
        cluster.set_mode("unready").await.expect("the pods turn unready");
    }
    stage.says(&["Panic", "the observer is the likely fault"]).await;
    stage.seconds(5).await;
    for cluster in stage.world.clusters() {
        cluster.set_mode("normal").await.expect("the pods are ready again");
    }
    stage.world.yardctl.converged(switchyard_tests::chaos::POLICY).await;
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    assert!(stage.weights_written().await.is_empty(), "no weight was changed: {:?}", stage.weights_written().await);
    stage.load.finish_without_failures().await;
    stage.witness.finish().await;
    stage.world.stop().await;
}
