//! A network that falls silent.

use switchyard_tests::{
    chaos::{POLICY, Stage, TOO_LONG, patient},
    network::Link,
    proxy::Weather,
    world::Builder,
};

/// Stated: every connection of the control plane falls silent at once, stays open, and passes nothing for longer than lease and
/// heartbeat last, while pods stand still. What was sent arrives late. Nothing at AWS is taken away, no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_between_all_programs_takes_nothing_away_and_costs_no_request() {
    let stage = Stage::halves(patient(Builder { behind_proxies: true, ..Builder::default() })).await;
    for weather in [Weather::Silent, Weather::Clear] {
        Link::ALL.into_iter().for_each(|link| stage.world.network().set(link, weather));
        stage.seconds(TOO_LONG).await;
    }
    stage.world.connected().await;
    stage.audited().await;
    stage.world.yardctl.converged(POLICY).await;
    stage.nothing_was_removed().await;
    stage.all_is_well().await;
}
