//! Weights: changed under traffic, exact, and `converged` only when it is true of the requests themselves.

use std::collections::BTreeMap;

use serde_json::json;
use switchyard_tests::{
    load::{Load, Report},
    statistics::binomial_interval,
    wait,
    world::World,
};

const POLICY: &str = "shop/checkout";

/// What the data plane did with the next requests.
async fn next(load: &Load, requests: u64, name: &str) -> Report {
    load.mark(name).await.expect("a mark is set");
    load.more(requests).await;
    let report = load.report().await.expect("the load generator answers");
    report.windows.into_iter().last().expect("the window that was begun").report
}

fn answered_by(report: &Report) -> Vec<&str> {
    report.by_cluster.keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn converged_weights_are_served_by_the_very_next_request_and_no_change_fails_one() {
    let world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
    let load = world.load("checkout", 200).await;
    assert_eq!(answered_by(&next(&load, 300, "before").await), ["blue"]);
    world.yardctl.weights_until_converged(POLICY, &["blue=0", "green=100"]).await;
    // Not one answer of blue after yardctl said so: programmed alone would not be enough, the old rule is served on.
    assert_eq!(answered_by(&next(&load, 300, "all to green").await), ["green"]);
    world.yardctl.weights_until_converged(POLICY, &["blue=50", "green=50"]).await;
    assert_eq!(answered_by(&next(&load, 300, "halves").await), ["blue", "green"]);
    world.yardctl.weights_until_converged(POLICY, &["blue=100", "green=0"]).await;
    assert_eq!(answered_by(&next(&load, 300, "back to blue").await), ["blue"]);
    let report = load.finish_without_failures().await;
    assert!(report.sent >= 1_200, "{report:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ninety_to_ten_lies_within_the_binomial_interval_over_five_thousand_requests() {
    let world = World::with_policy(&[("blue", 90), ("green", 10)]).await;
    let load = world.load("checkout", 500).await;
    let mut seen = Vec::new();
    // A right load balancer leaves the interval of 99.9 % once in a thousand runs. A second sample makes that a million.
    for sample in ["first", "second"] {
        let report = next(&load, 5_000, sample).await;
        let answers: u64 = report.by_cluster.values().sum();
        let n = u32::try_from(answers).expect("a number of requests");
        assert!(n >= 5_000, "{report:?}");
        let (low, high) = binomial_interval(n, 0.1, 0.0005);
        let green = u32::try_from(report.by_cluster.get("green").copied().unwrap_or_default()).expect("a count");
        let inside = (low..=high).contains(&green);
        seen.push(format!("green answered {green} of {n}; the interval is {low} to {high}"));
        if inside {
            load.finish_without_failures().await;
            world.stop().await;
            return;
        }
    }
    panic!("{seen:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weight_for_a_cluster_without_a_healthy_target_is_held_and_says_why() {
    let world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
    let load = world.load("checkout", 200).await;
    let green = world.cluster("green");
    // Its readiness probes and the load balancer's checks fail, as after a bad release.
    green.set_mode("failing").await.expect("green's pods fail");
    wait::until("green's pods not to be ready", async || {
        let seen = green.workload("checkout").await.map_err(|e| e.to_string())?;
        wait::check(seen.ready == 0, || format!("{seen:?}"))
    })
    .await;
    world
        .elb_shows("green to have no healthy target", |state| {
            state.group(POLICY, "green").is_some_and(|group| group.healthy() == 0)
        })
        .await;
    let arguments = ["weights", POLICY, "blue=50", "green=50", "--wait", "converged", "--timeout", "4s"];
    let refused = world.yardctl.run(&arguments, "").await.expect("yardctl runs");
    assert_eq!(refused.code, 7, "the wait ends without the condition: {refused}");
    let page = world.yardctl.status_says(POLICY, &["NOT CONVERGED", "green: No"]).await;
    let status = world.yardctl.status(POLICY).await.expect("the status");
    let cluster = |name: &str| {
        let clusters = status["status"]["clusters"].as_array().expect("clusters");
        clusters.iter().find(|cluster| cluster["cluster"] == name).expect("the cluster").clone()
    };
    for (name, requested, effective) in [("blue", 50, 100), ("green", 50, 0)] {
        assert_eq!(cluster(name)["requested_weight"], json!(requested), "{page}");
        assert_eq!(cluster(name)["effective_weight"], json!(effective), "{page}");
    }
    let reason = cluster("green")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(["NoTargets", "NoHealthyTarget"].contains(&reason.as_str()), "{page}");
    assert!(!cluster("green")["message"].as_str().unwrap_or_default().is_empty(), "{page}");
    let state = world.elb().state().await.expect("the state");
    let unchanged = BTreeMap::from([("blue".to_owned(), 100), ("green".to_owned(), 0)]);
    assert_eq!(state.weights(POLICY), Some(unchanged), "{page}");
    green.set_mode("normal").await.expect("green's pods recover");
    world.yardctl.converged(POLICY).await;
    assert_eq!(answered_by(&next(&load, 300, "after").await), ["blue", "green"]);
    load.finish_without_failures().await;
    world.stop().await;
}
