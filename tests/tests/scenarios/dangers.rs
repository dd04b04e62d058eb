//! What makes a cluster look empty. No target group that carries weight is emptied, no request fails, the status says what is
//! held and why, and when the cause is gone everything comes back.

use serde_json::json;
use switchyard_tests::{
    load::Load,
    watcher::Witness,
    world::{Kubernetes, World},
};

const POLICY: &str = "shop/checkout";

on_every_kubernetes!(
    a_deleted_service_does_not_empty_a_group_that_carries_weight,
    a_typo_in_the_selector_does_not_empty_a_group_that_carries_weight,
    revoked_permissions_freeze_what_was_reported_and_remove_nothing,
    an_api_server_that_is_away_removes_nothing,
);

struct Danger {
    world: World,
    load: Load,
    witness: Witness,
}

impl Danger {
    /// Blue carries everything, so that emptying it would be felt at once.
    async fn begin(kubernetes: Kubernetes) -> Self {
        let world = World::with_policy_on(kubernetes, &[("blue", 100), ("green", 0)]).await;
        let load = world.load("checkout", 200).await;
        let witness = Witness::start(world.elb());
        load.more(100).await;
        Self { world, load, witness }
    }

    /// It is shown, with these words, and traffic goes on.
    async fn shows(&self, words: &[&str]) -> String {
        let page = self.world.yardctl.status_says(POLICY, words).await;
        self.load.more(400).await;
        page
    }

    /// The cause is gone: everything is as it was.
    async fn ends_well(self) {
        self.world.yardctl.converged(POLICY).await;
        self.world.all_healthy(POLICY).await;
        self.load.finish_without_failures().await;
        self.witness.finish().await;
        self.world.stop().await;
    }
}

async fn a_deleted_service_does_not_empty_a_group_that_carries_weight(kubernetes: Kubernetes) {
    let danger = Danger::begin(kubernetes).await;
    let blue = danger.world.cluster("blue");
    blue.delete_service("checkout").await.expect("the Service is deleted");
    let page = danger.shows(&["RemovalsHeld", "the Service was deleted", "ServiceNotFound"]).await;
    assert!(page.contains("set the weight of blue to 0 first"), "the remedy is named: {page}");
    blue.create_service("checkout", "checkout", &[("http", 80, json!("http"))]).await.expect("the Service is back");
    danger.ends_well().await;
}

async fn a_typo_in_the_selector_does_not_empty_a_group_that_carries_weight(kubernetes: Kubernetes) {
    let danger = Danger::begin(kubernetes).await;
    let blue = danger.world.cluster("blue");
    blue.select("checkout", "chekcout").await.expect("the selector is changed");
    danger.shows(&["RemovalsHeld", "no longer selects", "selects no pod"]).await;
    blue.select("checkout", "checkout").await.expect("the selector is corrected");
    danger.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_answers_empty_lists_after_a_restart_does_not_empty_a_group() {
    let danger = Danger::begin(Kubernetes::Sandbox).await;
    let blue = danger.world.cluster("blue");
    blue.api_server("wipe").await.expect("the API server has lost its data");
    blue.api_server("restart").await.expect("the API server restarts");
    danger.shows(&["RemovalsHeld", "HELD OR WAITING"]).await;
    blue.api_server("restore").await.expect("the data is back");
    danger.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_restarts_against_an_empty_api_server_does_not_empty_a_group() {
    let mut danger = Danger::begin(Kubernetes::Sandbox).await;
    let blue = danger.world.cluster("blue");
    blue.api_server("wipe").await.expect("the API server has lost its data");
    danger.world.agent("blue").kill_9();
    danger.world.agent("blue").start_again().expect("the agent starts again");
    danger.shows(&["RemovalsHeld", "missing from the cluster's list"]).await;
    blue.api_server("restore").await.expect("the data is back");
    danger.ends_well().await;
}

async fn revoked_permissions_freeze_what_was_reported_and_remove_nothing(kubernetes: Kubernetes) {
    let danger = Danger::begin(kubernetes).await;
    let blue = danger.world.cluster("blue");
    let position = danger.world.elb().position().await.expect("the call log");
    blue.deny("*", "*").await.expect("the permissions are taken away");
    danger.shows(&["SourceFailing", "blue"]).await;
    let clusters = danger.world.yardctl.expect(&["get", "clusters"], "").await.stdout;
    assert!(clusters.contains("orbidden"), "the API server's word is shown: {clusters}");
    let writes = danger.world.elb().writes_since(position).await.expect("the call log").calls;
    assert!(writes.is_empty(), "{writes:#?}");
    blue.allow_everything().await.expect("the permissions are back");
    danger.ends_well().await;
}

async fn an_api_server_that_is_away_removes_nothing(kubernetes: Kubernetes) {
    let danger = Danger::begin(kubernetes).await;
    let blue = danger.world.cluster("blue");
    let position = danger.world.elb().position().await.expect("the call log");
    blue.api_server("stop").await.expect("the API server is stopped");
    danger.shows(&["SourceFailing"]).await;
    let writes = danger.world.elb().writes_since(position).await.expect("the call log").calls;
    assert!(writes.is_empty(), "{writes:#?}");
    blue.api_server("start").await.expect("the API server is started");
    danger.ends_well().await;
}
