//! Wall clocks that jump in the middle of things: the hub's, the agents', and those of a hub together with its Postgres.

use switchyard_proto::api::v1::ShiftState;
use switchyard_tests::{
    chaos::{POLICY, Stage, patient},
    clock::Clock,
    hub::Database,
    shifts::{Shifts, all_the_way, step, to_cluster, told},
    world::{Builder, folder},
};

/// A stage whose hub has this clock.
async fn with_hub_clock(builder: Builder, weights: &[(&str, u32)]) -> (Stage, Clock) {
    let mut stage = Stage::set(patient(builder), weights).await;
    let clock = Clock::start(stage.world.folder(), "hub").await.expect("a clock");
    stage.world.hub.stop().await.expect("the hub ends");
    for (name, value) in clock.environment() {
        stage.world.hub.set_variable(name, Some(&value));
    }
    stage.world.hub.start_again().await.expect("the hub starts again");
    stage.world.connected().await;
    stage.world.yardctl.converged(POLICY).await;
    (stage, clock)
}

/// The clock jumps while a shift bakes; the step ends when its time is over by clocks that did not jump, and the shift goes all
/// the way.
async fn jump_in_a_bake(seconds: i64) {
    let (stage, clock) = with_hub_clock(Builder::default(), &[("blue", 100), ("green", 0)]).await;
    let shifts = Shifts::of(&stage.world.hub);
    let id = shifts.begin(&to_cluster(&[POLICY], "green", vec![step(50, 8), step(100, 0)])).await;
    shifts.reaches(&id, ShiftState::Baking, 1).await;
    clock.jump_to(seconds).expect("the clock jumps");
    stage.seconds(4).await;
    let baking = shifts.get(&id).await.expect("the shift");
    let state = baking.status.as_ref().expect("a status").state();
    assert_eq!(state, ShiftState::Baking, "not an hour has passed: {baking:#?}");
    let shift = shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!(told(&shift), all_the_way(2));
    stage.all_is_well().await;
}

/// Stated: bake times are counted by the database's clock; the hub's own, an hour ahead, ends none of them early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_whose_clock_jumps_ahead_ends_no_bake_early() {
    jump_in_a_bake(3_600).await;
}

/// Stated: nor does it wait an hour longer with a clock that is set back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_whose_clock_is_set_back_ends_a_bake_in_time() {
    jump_in_a_bake(-3_600).await;
}

/// A hub and the Postgres that it keeps, on one machine whose clock jumps. Leases, staleness and what is remembered since when are
/// counted by that clock, so this is the worst place for it.
async fn machine_jumps(seconds: i64) {
    let data = folder().expect("a folder");
    let database = Some(Database::Embedded(data.path().join("postgres")));
    let halves = [("blue", 50), ("green", 50)];
    let (stage, clock) = with_hub_clock(Builder { database, ..Builder::default() }, &halves).await;
    clock.jump_to(seconds).expect("the clock jumps");
    stage.seconds(5).await;
    stage.audited().await;
    stage.world.connected().await;
    stage.nothing_was_removed().await;
    stage.world.begin_rolling_update("v2").await;
    stage.world.rolled().await;
    stage.world.all_healthy(POLICY).await;
    stage.all_is_well().await;
}

/// Stated: every lease and heartbeat seems to have run out an hour ago: they are renewed, nothing is taken away, and rolling
/// updates and changes of weights go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_and_postgres_whose_clock_jumps_ahead_take_nothing_away() {
    machine_jumps(3_600).await;
}

/// Stated: every lease seems to last for another hour: the holder is the same, nothing is taken away, and rolling updates and
/// changes of weights go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_and_postgres_whose_clock_is_set_back_take_nothing_away() {
    machine_jumps(-3_600).await;
}
