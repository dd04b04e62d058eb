//! Two replicas of the hub on one database, as the chart runs them: one holds the lease and writes at AWS, the other serves calls
//! and agents, and takes over.

use std::time::Duration;

use http::Method;
use switchyard_tests::{
    client::Client,
    hub::{Database, Hub, Times},
    policy::Policy,
    postgres,
    sandbox::WorkloadSpec,
    wait,
    world::Builder,
    yardctl::Yardctl,
};

const POLICY: &str = "shop/checkout";

/// Waits until a replica says that it holds the lease, or that it does not.
pub async fn holds_the_lease(hub: &Hub, held: bool) {
    let pages = Client::new(hub.http_url());
    let line = format!("switchyard_hub_lease_held {}", u8::from(held));
    wait::until(&format!("{} to show {line}", hub.http_url()), async || {
        let (_, text) = pages.send(Method::GET, "/metrics", Vec::new()).await.map_err(|error| format!("{error:#}"))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let shown = text.lines().find(|line| line.starts_with("switchyard_hub_lease_held ")).unwrap_or_default();
        wait::check(shown == line, || shown.to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_the_lease_serves_calls_and_agents_and_takes_over_without_a_failed_request() {
    let url = postgres::shared_database().await.expect("a database");
    let builder = Builder::default();
    // Pods serve on for longer than a dead replica's lease: what a preStop sleep is for.
    let workload = WorkloadSpec { termination_grace: Duration::from_secs(15), ..builder.workload.clone() };
    let builder = Builder { database: Some(Database::Url(url.clone())), workload, ..builder };
    let mut world = builder.start().await.expect("the world starts");
    world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 50), ("green", 50)])).await;
    world.all_healthy(POLICY).await;
    let folder = world.folder().join("second");
    std::fs::create_dir_all(&folder).expect("a folder");
    let second = Hub::start(&folder, world.sandbox.info(), Database::Url(url), &Times::default()).await;
    let mut second = second.expect("the second replica starts");
    holds_the_lease(&world.hub, true).await;
    holds_the_lease(&second, false).await;
    let load = world.load("checkout", 200).await;

    // A call that the standby takes is carried out by the holder, and the standby tells when it is served.
    let standby = Yardctl::new(second.grpc_url()).expect("yardctl");
    standby.weights_until_converged(POLICY, &["blue=20", "green=80"]).await;

    world.begin_rolling_update("v2").await;
    world.hub.kill_9();
    holds_the_lease(&second, true).await;
    // The agents know the first one only, which comes back as the standby: what they report to it, the holder carries out.
    world.hub.start_again().await.expect("the first replica comes back");
    holds_the_lease(&world.hub, false).await;
    world.connected().await;
    world.rolled().await;
    world.all_healthy(POLICY).await;
    world.yardctl.weights_until_converged(POLICY, &["blue=0", "green=100"]).await;
    holds_the_lease(&second, true).await;

    // Asked to end, the holder gives the lease back at once.
    second.stop().await.expect("the second replica ends well");
    holds_the_lease(&world.hub, true).await;
    world.yardctl.weights_until_converged(POLICY, &["blue=50", "green=50"]).await;
    load.finish_without_failures().await;
    world.stop().await;
}
