//! Wall clocks that jump.

use switchyard_tests::{
    chaos::{POLICY, Stage, patient},
    clock::Clock,
    world::Builder,
};

/// Stated: the clock of the hub's machine, and with it that of every agent's, jumps an hour ahead and then an hour behind, while
/// pods stand still: nothing is taken away, no request fails; and a change of weights is served under the wrong clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump_by_an_hour_take_nothing_away_and_delay_nothing() {
    let mut stage = Stage::halves(patient(Builder::default())).await;
    let clock = Clock::start(stage.world.folder(), "all").await.expect("a clock");
    let world = &mut stage.world;
    world.hub.stop().await.expect("the hub ends");
    for (name, value) in clock.environment() {
        world.hub.set_variable(name, Some(&value));
        world.agents.values_mut().for_each(|agent| agent.set_variable(name, &value));
    }
    world.hub.start_again().await.expect("the hub starts again");
    for agent in world.agents.values_mut() {
        agent.stop().await.expect("the agent ends");
        agent.start_again().expect("the agent starts again");
    }
    world.connected().await;
    world.yardctl.converged(POLICY).await;
    for shift in [3_600, -3_600] {
        clock.jump_to(shift).expect("the clock jumps");
        stage.seconds(2).await;
        stage.audited().await;
        stage.world.connected().await;
        stage.world.yardctl.converged(POLICY).await;
        stage.nothing_was_removed().await;
    }
    // An hour behind.
    stage.all_is_well().await;
}
