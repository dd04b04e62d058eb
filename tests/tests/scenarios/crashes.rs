//! Programs that die. Traffic goes on at 200 requests a second, none fails, and afterwards everything still works.

use std::time::Duration;

use switchyard_tests::{
    hub::Database,
    load::Load,
    policy::Policy,
    postgres::Postgres,
    sandbox::WorkloadSpec,
    wait,
    world::{Builder, Kubernetes, World, folder},
};

const POLICY: &str = "shop/checkout";

on_every_kubernetes!(
    an_agent_killed_during_a_rolling_update_costs_no_request,
    api_servers_killed_during_a_rolling_update_cost_no_request,
);

/// Pods serve on for longer than the longest outage here: what a preStop sleep is for. A dead hub's lease lasts 3 s.
fn patient_pods() -> Builder {
    let builder = Builder::default();
    let workload = WorkloadSpec { termination_grace: Duration::from_secs(15), ..builder.workload.clone() };
    Builder { workload, ..builder }
}

async fn under_load(builder: Builder) -> (World, Load) {
    let world = builder.start().await.expect("the world starts");
    world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 50), ("green", 50)])).await;
    world.all_healthy(POLICY).await;
    let load = world.load("checkout", 200).await;
    load.more(100).await;
    (world, load)
}

/// The update that was under way comes to its end, weights can be changed, and nothing failed.
async fn all_is_well(world: World, load: Load) {
    world.connected().await;
    world.rolled().await;
    world.all_healthy(POLICY).await;
    world.yardctl.weights_until_converged(POLICY, &["blue=0", "green=100"]).await;
    load.mark("after").await.expect("a mark is set");
    load.more(200).await;
    let report = load.finish_without_failures().await;
    let after = report.windows.last().expect("the window that was begun");
    let answered: Vec<&str> = after.report.by_cluster.keys().map(String::as_str).collect();
    assert_eq!(answered, ["green"], "the change of weights is served: {after:?}");
    world.stop().await;
}

async fn an_agent_killed_during_a_rolling_update_costs_no_request(kubernetes: Kubernetes) {
    let (mut world, load) = under_load(Builder { kubernetes, ..patient_pods() }).await;
    world.begin_rolling_update("v2").await;
    for cluster in ["blue", "green"] {
        world.agent(cluster).kill_9();
    }
    load.more(300).await;
    for cluster in ["blue", "green"] {
        world.agent(cluster).start_again().expect("the agent starts again");
    }
    all_is_well(world, load).await;
}

async fn api_servers_killed_during_a_rolling_update_cost_no_request(kubernetes: Kubernetes) {
    let (world, load) = under_load(Builder { kubernetes, ..patient_pods() }).await;
    world.begin_rolling_update("v2").await;
    for cluster in world.clusters() {
        cluster.api_server("stop").await.expect("the API server is killed");
    }
    load.more(300).await;
    for cluster in world.clusters() {
        // What happened in between cannot be told any more.
        cluster.api_server("start").await.expect("the API server starts again");
        cluster.api_server("compact").await.expect("its history is gone");
    }
    all_is_well(world, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stays_away_freezes_its_targets_and_the_status_says_so() {
    let (mut world, load) = under_load(Builder::default()).await;
    let before = world.elb().position().await.expect("the call log");
    world.agent("blue").kill_9();
    world.yardctl.status_says(POLICY, &["stale", "ClusterStale", "the agent of blue is away"]).await;
    load.more(400).await;
    let writes = world.elb().writes_since(before).await.expect("the call log").calls;
    assert!(writes.is_empty(), "an agent that is away changes nothing at AWS: {writes:#?}");
    world.agent("blue").start_again().expect("the agent starts again");
    world.connected().await;
    world.yardctl.converged(POLICY).await;
    all_is_well(world, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_during_a_rolling_update_costs_no_request() {
    let (mut world, load) = under_load(patient_pods()).await;
    world.begin_rolling_update("v2").await;
    world.hub.kill_9();
    load.more(200).await;
    world.hub.start_again().await.expect("the hub starts again");
    all_is_well(world, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_crashes_during_a_rolling_update_costs_no_request() {
    let mut postgres = Postgres::start().await.expect("Postgres starts");
    let url = postgres.database().await.expect("a database");
    let (world, load) = under_load(Builder { database: Some(Database::Url(url)), ..patient_pods() }).await;
    world.begin_rolling_update("v2").await;
    postgres.stop_immediately().await.expect("Postgres ends at once");
    load.more(300).await;
    let arguments = ["weights", POLICY, "blue=10", "green=90", "--timeout", "2s"];
    let refused = world.yardctl.run(&arguments, "").await.expect("yardctl runs");
    assert_eq!(refused.code, 6, "without a store a change is refused, and may be repeated: {refused}");
    let page = world.yardctl.status_page(POLICY).await.expect("the status is answered from memory");
    assert!(page.contains("checkout"), "{page}");
    postgres.start_again().await.expect("Postgres starts again");
    all_is_well(world, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_hub_finds_its_private_postgres_and_every_policy_again() {
    let data = folder().expect("a folder");
    let database = Some(Database::Embedded(data.path().join("postgres")));
    let (mut world, load) = under_load(Builder { database, ..Builder::default() }).await;
    let version = world.yardctl.status(POLICY).await.expect("the status")["version"].clone();
    world.hub.kill_9();
    world.hub.start_again().await.expect("the hub starts again");
    let seen =
        wait::until("the policy to be there", async || world.yardctl.status(POLICY).await.map_err(|e| e.to_string()))
            .await;
    assert_eq!(seen["version"], version, "what was acknowledged is kept");
    all_is_well(world, load).await;
}
