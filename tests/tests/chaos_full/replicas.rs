//! Two replicas of the hub: calls that arrive late, leaders that come and go.

use rand::Rng;
use switchyard_tests::{
    chaos::{POLICY, TOO_LONG, dice, holds_the_lease},
    network::Link,
    pair::Pair,
    proxy::Weather,
    shifts::{in_force, weights},
    wait,
};

/// Stated: a call that the network held back until long after the lease of its sender arrives at AWS after all, and sets weights
/// that were asked for before others. No lease can prevent that. The replica that leads finds it at its next audit and puts it
/// right; nothing is removed, no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_a_lost_leader_that_arrives_late_is_put_right_at_the_next_audit() {
    let pair = Pair::set().await;
    let network = pair.stage.world.network();
    network.set(Link::HubToAws, Weather::Silent);
    let half = ["weights", POLICY, "blue=50", "green=50"];
    pair.yardctl.expect(&half, "").await;
    wait::until("the change to be under way", async || {
        wait::check(network.aws.withheld("Action=ModifyRule"), || "it is not".to_owned())
    })
    .await;
    // Its time limit for the call does not end either.
    pair.stage.world.hub.pause();
    holds_the_lease(&pair.second, true).await;
    pair.yardctl.converged(POLICY).await;
    pair.yardctl.weights_until_converged(POLICY, &["blue=90", "green=10"]).await;
    let (old, new) = (weights(&[("blue", 50), ("green", 50)]), weights(&[("blue", 90), ("green", 10)]));
    assert_eq!(pair.stage.weights_written().await, [old.clone(), new.clone()]);
    network.set(Link::HubToAws, Weather::Clear);
    wait::until("the late call to arrive and to be put right", async || {
        let written = pair.stage.weights_written().await;
        wait::check(written == [old.clone(), new.clone(), old.clone(), new.clone()], || format!("{written:?}"))
    })
    .await;
    pair.stage.world.hub.resume();
    holds_the_lease(&pair.stage.world.hub, false).await;
    pair.stage.seconds(TOO_LONG).await;
    assert_eq!(in_force(&pair.stage.world.elb(), POLICY).await, new);
    assert_eq!(pair.stage.weights_written().await.len(), 4, "the old leader wrote nothing more");
    pair.stage.nothing_was_deleted().await;
    pair.all_is_well().await;
}

/// Stated: two replicas are stopped in turn for random times, around the length of a lease, while weights are changed again and
/// again through whoever answers: every change comes true once, under epochs that never fall, and no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_come_and_go_write_every_change_once() {
    let mut dice = dice("leaders that come and go");
    let pair = Pair::set().await;
    let mut expected = Vec::new();
    for round in 0..6 {
        let (paused, other) = if round % 2 == 0 {
            (&pair.stage.world.hub, (&pair.second, &pair.yardctl))
        } else {
            (&pair.second, (&pair.stage.world.hub, &pair.stage.world.yardctl))
        };
        let green = 10 * (round + 1);
        paused.pause();
        pair.stage.seconds(dice.random_range(1..=5)).await;
        let asked = [format!("blue={}", 100 - green), format!("green={green}")];
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        other.1.weights_until_converged(POLICY, &asked).await;
        paused.resume();
        expected.push(weights(&[("blue", 100 - green), ("green", green)]));
    }
    pair.stage.audited().await;
    assert_eq!(pair.stage.weights_written().await, expected);
    pair.stage.nothing_was_deleted().await;
    pair.all_is_well().await;
}
