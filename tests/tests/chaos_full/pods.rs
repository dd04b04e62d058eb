//! What pods do to their cluster: all of them unready, slow, gone from an API server that forgot everything, and addresses that
//! come back as somebody else's.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use switchyard_tests::{
    chaos::{POLICY, Stage},
    losses::{Reach, failover, policy, quick},
    policy::Policy,
    sandbox::WorkloadSpec,
    world::Builder,
};

async fn shared() -> Stage {
    let policy = policy(&[("blue", 50), ("green", 50)], failover(json!({})));
    Stage::with_failover(quick(&["blue", "green"]), &policy).await
}

/// Stated: all pods of blue turn unready at once and go on answering. Green takes everything, and blue's share comes back with its
/// pods. Not one request fails, and blue's group is not emptied while it carries weight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_pods_all_turn_unready_is_left_without_a_failed_request() {
    let stage = shared().await;
    let blue = stage.world.cluster("blue");
    blue.set_mode("unready").await.expect("the pods turn unready");
    stage.weights_are(&[("blue", 0), ("green", 100)]).await;
    stage.seconds(3).await;
    blue.set_mode("normal").await.expect("the pods are ready again");
    stage.weights_are(&[("blue", 50), ("green", 50)]).await;
    stage.world.all_healthy(POLICY).await;
    stage.world.yardctl.converged(POLICY).await;
    stage.load.finish_without_failures().await;
    stage.witness.finish().await;
    stage.world.stop().await;
}

/// Stated: the pods of blue answer a second late, their health checks do not. That is a matter for the gates of a shift, not for
/// failover: nothing is moved, and no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_are_slow_move_no_traffic() {
    let stage = shared().await.with_clients_that_give_up_after(Duration::from_secs(5)).await;
    Reach::of(&stage.world, "blue").slow(Duration::from_millis(500)).await;
    stage.seconds(8).await;
    stage.nothing_was_removed().await;
    stage.world.cluster("blue").set_mode("normal").await.expect("the pods are quick again");
    stage.seconds(2).await;
    let report = stage.load.finish_without_failures().await;
    assert!(report.latency_ms["max"] >= 500.0, "they were slow: {:?}", report.latency_ms);
    stage.witness.finish().await;
    stage.world.stop().await;
}

/// Stated: the API server of blue has lost everything, as after an etcd that was restored empty; then the agent restarts against
/// it, too. Its pods go on serving, and the load balancer says so: no weight is moved, no request fails, and of blue's targets no
/// more go than the deregistration budget leaves to weak evidence (one of three). Those are back with the data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_lost_everything_moves_no_traffic_and_removes_no_more_than_the_budget() {
    let mut stage = shared().await;
    let blue = stage.world.cluster("blue");
    blue.api_server("wipe").await.expect("the API server has lost its data");
    blue.api_server("restart").await.expect("the API server restarts");
    stage.says(&["RemovalsHeld"]).await;
    stage.seconds(4).await;
    stage.world.agent("blue").kill_9();
    stage.world.agent("blue").start_again().expect("the agent starts again");
    stage.world.connected().await;
    stage.says(&["RemovalsHeld"]).await;
    stage.seconds(6).await;
    assert!(stage.weights_written().await.is_empty(), "{:?}", stage.weights_written().await);
    let state = stage.world.elb().state().await.expect("the state");
    let left = state.group(POLICY, "blue").map_or(0, |group| group.registered().count());
    assert!(left >= 2, "half of three targets, rounded up, stay: {left}");
    blue.api_server("restore").await.expect("the data is back");
    stage.world.yardctl.converged(POLICY).await;
    stage.all_is_well().await;
}

/// Stated: two services in two clusters of one VPC are rolled out again and again, and each address that a pod leaves goes to the
/// next pod at once, whatever service and cluster that is of. No request of one service reaches a pod of the other, and none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_are_used_again_at_once_never_mix_up_services() {
    let builder = quick(&["blue", "green"]);
    let workload = WorkloadSpec {
        version: "checkout-1".to_owned(),
        termination_grace: Duration::from_secs(15),
        ..builder.workload.clone()
    };
    let failover_policy = policy(&[("blue", 50), ("green", 50)], failover(json!({})));
    let stage = Stage::with_failover(Builder { workload, ..builder }, &failover_policy).await;
    let world = &stage.world;
    for name in ["blue", "green"] {
        let cluster = world.cluster(name);
        let spec = WorkloadSpec { app: "cart".to_owned(), version: "cart-1".to_owned(), ..world.workload.clone() };
        cluster.create_service("cart", "cart", &[("http", 80, json!("http"))]).await.expect("the Service is made");
        cluster.put_workload("cart", &spec).await.expect("the workload is made");
        Reach::of(world, name).addresses_go_round().await;
    }
    let cart = Policy::new("cart", &[("blue", 50), ("green", 50)]).with("/spec/failover", failover(json!({})));
    world.yardctl.apply_until_converged(&cart).await;
    world.all_healthy("shop/cart").await;
    let carts = world.load("cart", 100).await;
    let mut addresses: Vec<BTreeSet<String>> = vec![BTreeSet::new(); 2];
    for round in 2..=3 {
        for cluster in world.clusters() {
            for (service, seen) in ["checkout", "cart"].into_iter().zip(&mut addresses) {
                let pods = cluster.workload(service).await.expect("the workload").pods;
                seen.extend(pods.into_iter().filter_map(|pod| pod.ip));
                cluster.roll_out(service, &format!("{service}-{round}")).await.expect("the rollout begins");
            }
        }
        for cluster in world.clusters() {
            cluster.settled("checkout").await;
            cluster.settled("cart").await;
        }
        world.all_healthy(POLICY).await;
        world.all_healthy("shop/cart").await;
    }
    for cluster in world.clusters() {
        for (service, seen) in ["checkout", "cart"].into_iter().zip(&mut addresses) {
            seen.extend(
                cluster.workload(service).await.expect("the workload").pods.into_iter().filter_map(|pod| pod.ip),
            );
        }
    }
    let both: Vec<&String> = addresses[0].intersection(&addresses[1]).collect();
    assert!(!both.is_empty(), "addresses went from one service to the other: {addresses:?}");
    let carts = carts.finish_without_failures().await;
    let checkouts = stage.load.finish_without_failures().await;
    assert!(carts.by_version.keys().all(|version| version.starts_with("cart-")), "{:?}", carts.by_version);
    assert!(checkouts.by_version.keys().all(|version| version.starts_with("checkout-")), "{:?}", checkouts.by_version);
    stage.witness.finish().await;
    stage.world.stop().await;
}
