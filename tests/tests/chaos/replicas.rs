//! Two replicas of the hub, one of them paused past its lease.

use rand::Rng;
use switchyard_proto::api::v1::ShiftState;
use switchyard_tests::{
    chaos::{POLICY, TOO_LONG, dice, holds_the_lease},
    pair::Pair,
    shifts::{Shifts, all_the_way, step, to_cluster, told, weights},
    wait,
};

/// Stated: the leader is stopped at some step of a shift. The other replica takes the lease over and carries the shift on; then
/// traffic is sent back. The old leader wakes up and believes that no time has passed: it writes nothing. Each step is written
/// once, in order, under epochs that never fall; no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_past_its_lease_writes_nothing_when_it_wakes_up() {
    let mut dice = dice("a leader that was paused");
    let pair = Pair::set().await;
    let steps: Vec<u32> = (1..=10).map(|tenth| 10 * tenth).collect();
    let shifts = Shifts::of(&pair.second);
    let spec = to_cluster(&[POLICY], "green", steps.iter().map(|percent| step(*percent, 0)).collect());
    let id = shifts.begin(&spec).await;
    let stop_after = dice.random_range(1..=7);
    wait::until("some steps to be written", async || {
        let written = pair.stage.weights_written().await.len();
        wait::check(written >= stop_after, || format!("{written} of {stop_after}"))
    })
    .await;
    pair.stage.world.hub.pause();
    holds_the_lease(&pair.second, true).await;
    let shift = shifts.ends(&id, ShiftState::Succeeded).await;
    assert_eq!(told(&shift), all_the_way(10));
    pair.yardctl.weights_until_converged(POLICY, &["blue=100", "green=0"]).await;
    pair.stage.world.hub.resume();
    holds_the_lease(&pair.stage.world.hub, false).await;
    pair.stage.seconds(TOO_LONG).await;
    pair.stage.audited().await;
    let mut expected: Vec<_> = steps.iter().map(|green| weights(&[("blue", 100 - green), ("green", *green)])).collect();
    expected.push(weights(&[("blue", 100), ("green", 0)]));
    assert_eq!(pair.stage.weights_written().await, expected, "each once, and none of them again");
    pair.all_is_well().await;
}
