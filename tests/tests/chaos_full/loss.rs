//! Clusters, or parts of them, that the network does not reach any more.

use std::time::Duration;

use serde_json::json;
use switchyard_tests::{
    chaos::{POLICY, Stage},
    losses::{Reach, StopWatch, failover, policy, quick},
    sandbox::WorkloadSpec,
    world::Builder,
};

/// Stated: as in `chaos/loss.rs`, but blue swallows what is sent to it. A client then waits for its own time limit (2 s here) and a
/// health check for its own (1 s): both come on top of the five seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_swallows_requests_is_left_within_eight_seconds() {
    let policy = policy(&[("blue", 50), ("green", 50)], failover(json!({"healthyAfterSeconds": 60})));
    let stage = Stage::with_failover(quick(&["blue", "green"]), &policy)
        .await
        .with_clients_that_give_up_after(Duration::from_secs(2))
        .await;
    let watch = StopWatch::start(&stage).await;
    Reach::of(&stage.world, "blue").silent().await;
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    stage.quiet_from_here("after").await;
    let split = watch.split(&stage, "blue").await.expect("the logs tell who needed how long");
    split.within("a cluster that swallows requests", Duration::from_secs(8));
    stage.nothing_was_deleted().await;
    stage.ends_quietly("after").await;
}

/// Stated: blue carries everything, dr stands by with priority 1 and weight 100. Blue dies: dr gets everything, and the window of
/// errors is that of two clusters that share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_when_the_cluster_that_carries_dies() {
    let policy = policy(&[("blue", 100), ("dr", 100)], failover(json!({}))).with("/spec/clusters/1/priority", json!(1));
    let stage = Stage::with_failover(quick(&["blue", "dr"]), &policy).await;
    stage.weights_are(&[("blue", 100), ("dr", 0)]).await;
    let watch = StopWatch::start(&stage).await;
    Reach::of(&stage.world, "blue").dead().await;
    stage.weights_are(&[("blue", 0), ("dr", 100)]).await;
    stage.quiet_from_here("after").await;
    let split = watch.split(&stage, "blue").await.expect("the logs tell who needed how long");
    split.within("a standby takes over", Duration::from_secs(5));
    stage.nothing_was_deleted().await;
    let report = stage.ends_quietly("after").await;
    assert_eq!(report.windows[0].report.by_cluster.keys().collect::<Vec<_>>(), ["dr"]);
}

/// Stated: blue and green share 300 requests a second at the peak, a target can answer 60. Blue dies: green gets the 60 % that its
/// three targets can carry and not more; 40 % stay on blue, where they fail (a brown-out beats a black-out), and the status raises an
/// alarm. Green answers all of its share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survivors_get_no_more_than_they_can_carry_and_the_rest_stays_with_an_alarm() {
    let capacity = json!({"peakRequestsPerSecond": 300, "requestsPerSecondPerTarget": 60});
    let policy = policy(&[("blue", 50), ("green", 50)], failover(json!({}))).with("/spec/capacity", capacity);
    let stage = Stage::with_failover(quick(&["blue", "green"]), &policy).await;
    Reach::of(&stage.world, "blue").dead().await;
    stage.weights_are(&[("blue", 40), ("green", 60)]).await;
    stage.says(&["BrownOut"]).await;
    stage.seconds(2).await;
    stage.load.mark("brown-out").await.expect("a mark is set");
    stage.seconds(5).await;
    let window = stage.window("brown-out").await;
    let failed = window.failed as f64 / window.sent as f64;
    assert!((0.3..0.5).contains(&failed), "what stays on blue fails: {failed} of {window:?}");
    assert_eq!(window.by_status.keys().collect::<Vec<_>>(), ["200", "502"], "green answers all of its share");
    Reach::of(&stage.world, "blue").alive().await;
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    stage.quiet_from_here("after").await;
    stage.nothing_was_deleted().await;
    stage.ends_quietly("after").await;
}

/// Stated: two of the four pods of blue are on a machine that dies; the cluster itself notices after 4 s. The load balancer leaves
/// them within its own thresholds, and by overprovisioning blue then carries 70 % of its share: green takes the rest. When the
/// machine is back, so is blue's share. No target leaves a group that carries weight without another in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_half_of_its_pods_with_a_machine_gives_a_part_of_its_share_away() {
    let builder = quick(&["blue", "green"]);
    let workload = WorkloadSpec { replicas: 4, ..builder.workload.clone() };
    let policy = policy(&[("blue", 50), ("green", 50)], failover(json!({})));
    let stage = Stage::with_failover(Builder { workload, ..builder }, &policy)
        .await
        .with_clients_that_give_up_after(Duration::from_secs(5))
        .await;
    let blue = Reach::of(&stage.world, "blue");
    blue.lose_node(blue.fullest_node("checkout").await, Duration::from_secs(4)).await;
    stage.weight_of("blue", "that of half a cluster", |weight| weight > 0 && weight != 50).await;
    stage.says(&["2 of 4 expected targets are healthy"]).await;
    stage.quiet_from_here("half").await;
    stage.seconds(4).await;
    let half = stage.window("half").await;
    assert_eq!(half.failed, 0, "{}", half.failures_shown());
    let share = half.by_cluster["blue"] as f64 / half.sent as f64;
    // 0.5 x 0.7 of 0.5 x 0.7 + 0.5.
    assert!((0.34..0.48).contains(&share), "blue answers {share}");
    blue.return_node(blue.fullest_node("checkout").await).await;
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    stage.world.all_healthy(POLICY).await;
    stage.quiet_from_here("after").await;
    stage.ends_quietly("after").await;
}

/// Stated: the agent of blue dies in the same moment as its data plane. The former says nothing, the latter is what counts: the
/// traffic is moved as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_dies_together_with_its_agent_is_left_all_the_same() {
    let policy = policy(&[("blue", 50), ("green", 50)], failover(json!({})));
    let mut stage = Stage::with_failover(quick(&["blue", "green"]), &policy).await;
    let watch = StopWatch::start(&stage).await;
    stage.world.agent("blue").kill_9();
    Reach::of(&stage.world, "blue").dead().await;
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    stage.quiet_from_here("after").await;
    let split = watch.split(&stage, "blue").await.expect("the logs tell who needed how long");
    split.within("a cluster dies together with its agent", Duration::from_secs(5));
    stage.says(&["ClusterStale", "FailedOver"]).await;
    // It comes back while its agent is still away: the load balancer's word is enough.
    Reach::of(&stage.world, "blue").alive().await;
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    stage.nothing_was_deleted().await;
    stage.world.agent("blue").start_again().expect("the agent starts again");
    stage.world.connected().await;
    stage.ends_quietly("after").await;
}
