//! Zones that are lost, in one cluster or in all. Each of the three pods of a cluster is in a zone of its own.

use serde_json::json;
use switchyard_tests::{
    chaos::{POLICY, Stage},
    losses::{Reach, failover, policy, quick},
};

async fn shared() -> Stage {
    let policy = policy(&[("blue", 50), ("green", 50)], failover(json!({})));
    Stage::with_failover(quick(&["blue", "green"]), &policy).await
}

/// Stated: a zone is lost in every cluster. No cluster is worse off than another, so no weight is changed; the load balancer leaves
/// the dead targets by itself, and the status names the zone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_is_lost_in_every_cluster_moves_no_traffic_between_them() {
    let stage = shared().await;
    let region = stage.world.sandbox.info().region.clone();
    for cluster in ["blue", "green"] {
        Reach::of(&stage.world, cluster).zone_dead(&region, 'b').await;
    }
    stage.says(&["ZoneLost", &format!("{region}b")]).await;
    stage.quiet_from_here("without the zone").await;
    stage.seconds(3).await;
    for cluster in ["blue", "green"] {
        Reach::of(&stage.world, cluster).alive().await;
    }
    stage.world.all_healthy(POLICY).await;
    stage.world.yardctl.converged(POLICY).await;
    stage.nothing_was_removed().await;
    stage.ends_quietly("without the zone").await;
}

/// Stated: blue loses one of its three zones. By overprovisioning it still carries 93 % of its share: the difference is below the dead
/// band, no weight is changed. It loses a second one: now it carries 46 %, and green takes what is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_zones_gives_away_what_it_cannot_carry() {
    let mut stage = shared().await;
    let region = stage.world.sandbox.info().region.clone();
    let blue = Reach::of(&stage.world, "blue");
    blue.zone_dead(&region, 'a').await;
    stage.hub_sees("blue", 2).await;
    stage.quiet_from_here("one zone lost").await;
    stage.seconds(3).await;
    let one = stage.window("one zone lost").await;
    assert_eq!(one.failed, 0, "the load balancer leaves one zone by itself: {}", one.failures_shown());
    stage.nothing_was_removed().await;
    stage.forget().await;
    blue.zone_dead(&region, 'b').await;
    stage.weight_of("blue", "that of a third of a cluster", |weight| weight > 0 && weight != 50).await;
    stage.quiet_from_here("two zones lost").await;
    stage.seconds(4).await;
    let window = stage.window("two zones lost").await;
    let share = window.by_cluster["blue"] as f64 / window.sent as f64;
    // 0.5 x 0.467 of 0.5 x 0.467 + 0.5.
    assert!((0.25..0.39).contains(&share), "blue answers {share}");
    blue.alive().await;
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    stage.nothing_was_deleted().await;
    stage.ends_quietly("two zones lost").await;
}
