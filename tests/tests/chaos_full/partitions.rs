//! Every link of the control plane cut, silent, stranded and slow by itself, while pods stand still and while all are replaced.

use std::time::Duration;

use switchyard_tests::{
    chaos::{POLICY, Stage, TOO_LONG, patient},
    network::Link,
    proxy::Weather,
    wait,
    world::Builder,
};

async fn stage() -> Stage {
    Stage::halves(patient(Builder { behind_proxies: true, ..Builder::default() })).await
}

impl Row {
    /// The weather is bad for as long as a lease and a heartbeat do not last, and was felt.
    async fn bad_weather(&self) {
        let network = self.stage.world.network();
        network.set(self.link, self.weather);
        self.stage.seconds(TOO_LONG).await;
        self.was_felt().await;
        network.set(self.link, Weather::Clear);
    }

    /// What shows that the link was really away.
    async fn was_felt(&self) {
        let world = &self.stage.world;
        match self.link {
            Link::AgentsToHub => {
                world.yardctl.status_says(POLICY, &["stale", "the agent of blue is away"]).await;
            }
            Link::HubToDatabase => {
                let asked = ["weights", POLICY, "blue=50", "green=50", "--timeout", "2s"];
                let refused = world.yardctl.run(&asked, "").await.expect("yardctl runs");
                assert_ne!(refused.code, 0, "nothing can be stored: {refused}");
            }
            Link::HubToAws => {
                let age = self.stage.metric("switchyard_hub_observed_age_seconds").await;
                assert!(age > 4.0, "nothing was read for {age} s");
            }
            Link::AgentsToApiServers if self.weather == Weather::Cut => {
                world.yardctl.status_says(POLICY, &["SourceFailing"]).await;
            }
            // An API server that says nothing looks like one where nothing happens.
            Link::AgentsToApiServers => {}
        }
    }
}

struct Row {
    stage: Stage,
    link: Link,
    weather: Weather,
}

async fn standing_still(link: Link, weather: Weather) {
    let row = Row { stage: stage().await, link, weather };
    row.bad_weather().await;
    let stage = row.stage;
    stage.world.connected().await;
    stage.nothing_is_failing().await;
    stage.audited().await;
    stage.world.yardctl.converged(POLICY).await;
    stage.nothing_was_removed().await;
    stage.all_is_well().await;
}

async fn moving(link: Link, weather: Weather) {
    let row = Row { stage: stage().await, link, weather };
    row.stage.world.begin_rolling_update("v2").await;
    row.bad_weather().await;
    row.stage.all_is_well().await;
}

/// One test for each row: the link, how it fails, and what pods do meanwhile. Stated for all: no request fails; and while pods
/// stand still no call is made that removes anything.
macro_rules! rows {
    ($($name:ident: $pods:ident($link:expr, $weather:expr);)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $pods($link, $weather).await;
        }
    )+};
}

rows! {
    agents_cut_off_from_the_hub_take_nothing_away: standing_still(Link::AgentsToHub, Weather::Cut);
    a_hub_cut_off_from_postgres_takes_nothing_away: standing_still(Link::HubToDatabase, Weather::Cut);
    a_hub_cut_off_from_aws_takes_nothing_away: standing_still(Link::HubToAws, Weather::Cut);
    agents_cut_off_from_their_api_servers_take_nothing_away: standing_still(Link::AgentsToApiServers, Weather::Cut);
    silence_between_agents_and_hub_takes_nothing_away: standing_still(Link::AgentsToHub, Weather::Silent);
    silence_between_hub_and_postgres_takes_nothing_away: standing_still(Link::HubToDatabase, Weather::Silent);
    silence_between_hub_and_aws_takes_nothing_away: standing_still(Link::HubToAws, Weather::Silent);
    silence_between_agents_and_api_servers_takes_nothing_away: standing_still(Link::AgentsToApiServers, Weather::Silent);
    silence_between_agents_and_hub_during_a_rolling_update_costs_no_request: moving(Link::AgentsToHub, Weather::Silent);
    silence_between_hub_and_postgres_during_a_rolling_update_costs_no_request: moving(Link::HubToDatabase, Weather::Silent);
    silence_between_hub_and_aws_during_a_rolling_update_costs_no_request: moving(Link::HubToAws, Weather::Silent);
    silence_between_agents_and_api_servers_during_a_rolling_update_costs_no_request:
        moving(Link::AgentsToApiServers, Weather::Silent);
    a_hub_cut_off_from_postgres_during_a_rolling_update_costs_no_request: moving(Link::HubToDatabase, Weather::Cut);
}

/// The connections of now never pass anything again and nobody is told, as after a firewall has lost its table: new ones have to
/// be made. Then everything goes on.
async fn stranded(link: Link) {
    let stage = stage().await;
    stage.world.network().strand(link);
    stage.world.begin_rolling_update("v2").await;
    stage.all_is_well().await;
}

/// Stated: agents notice that nobody answers and connect anew; a rolling update meanwhile costs no request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stranded_connections_of_agents_are_made_anew() {
    stranded(Link::AgentsToHub).await;
}

/// Stated: calls to AWS have a time limit, the next ones go over new connections; a rolling update meanwhile costs no request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stranded_connections_to_aws_are_made_anew() {
    stranded(Link::HubToAws).await;
}

/// Stated: statements have a time limit on the hub's side, too; a rolling update meanwhile costs no request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stranded_connections_to_postgres_are_made_anew() {
    stranded(Link::HubToDatabase).await;
}

/// Stated: a Postgres that takes a tenth of a second for every piece of an answer slows changes down; a rolling update and a change
/// of weights meanwhile come true and cost no request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_postgres_slows_changes_down_and_costs_no_request() {
    let stage = stage().await;
    stage.world.network().set(Link::HubToDatabase, Weather::Slow(Duration::from_millis(100)));
    stage.world.begin_rolling_update("v2").await;
    stage.world.yardctl.weights_until_converged(POLICY, &["blue=80", "green=20"]).await;
    stage.world.rolled().await;
    stage.world.all_healthy(POLICY).await;
    let written = stage.weights_written().await;
    assert_eq!(written.len(), 1, "the weights were written once: {written:?}");
    stage.world.network().set(Link::HubToDatabase, Weather::Clear);
    stage.all_is_well().await;
}

/// Stated: with a Postgres so slow that a renewed lease is over by the time the hub hears of it, nothing is written at AWS at all,
/// although pods are replaced; when it is fast again, what was missed is made up for before the old pods have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_too_slow_for_the_lease_stops_writes_and_costs_no_request() {
    let mut stage = stage().await;
    // The lease lasts for 3 s, and no call is begun in the last second of it.
    stage.world.network().set(Link::HubToDatabase, Weather::Slow(Duration::from_millis(2_500)));
    wait::until("the lease to run out", async || {
        let held = stage.metric("switchyard_hub_lease_held").await;
        wait::check(held < 0.5, || held.to_string())
    })
    .await;
    stage.forget().await;
    stage.world.begin_rolling_update("v2").await;
    stage.seconds(TOO_LONG).await;
    let writes = stage.writes().await;
    assert!(writes.is_empty(), "written without a lease: {writes:#?}");
    stage.world.network().set(Link::HubToDatabase, Weather::Clear);
    stage.all_is_well().await;
}
