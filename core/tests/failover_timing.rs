//! When a change of health counts: fast out, slow back, longer each time it flaps, and with whose word.

mod failover_support;

use failover_support::{Scene, at, explained, name, shares, weights};
use switchyard_core::{failover::Memory, policy::spec::Failback};

const TWO: &[(&str, u32)] = &[("blue", 50), ("green", 50)];

/// Blue died and its share is gone.
fn failed_over(mut scene: Scene) -> Scene {
    scene.health("blue", 0, 10);
    scene.after(10);
    assert_eq!(weights(&scene.after(10)), [0, 100]);
    scene
}

#[test]
fn a_dead_cluster_goes_out_once_it_looked_dead_for_unhealthy_after_seconds() {
    let mut scene = Scene::settled(TWO);
    scene.health("blue", 0, 10);
    let first = scene.after(5);
    assert_eq!(weights(&first), [50, 50]);
    let pending = explained(&first, "blue").pending.unwrap();
    assert_eq!((pending.back, pending.since, pending.at), (false, at(5), Some(at(15))));
    assert_eq!(first.again_at, Some(at(15)));
    assert_eq!(weights(&scene.after(9)), [50, 50]);
    let out = scene.after(1);
    assert_eq!(weights(&out), [0, 100]);
    assert_eq!(explained(&out, "blue").out_since, Some(at(15)));
    assert_eq!(out.explanation.moves_last_hour, 1);
}

#[test]
fn a_reading_that_was_never_repeated_moves_nothing() {
    let mut scene = Scene::settled(TWO);
    scene.now = 5;
    scene.health("blue", 0, 10);
    scene.reads = false;
    assert_eq!(weights(&scene.during(3600)), [50, 50]);
}

#[test]
fn readings_that_failed_in_between_neither_count_nor_begin_the_time_anew() {
    let mut scene = Scene::settled(TWO);
    scene.health("blue", 0, 10);
    scene.after(1);
    scene.unknown("blue");
    assert_eq!(weights(&scene.during(600)), [50, 50], "nothing is known, nothing is concluded");
    scene.health("blue", 0, 10);
    assert_eq!(weights(&scene.after(1)), [0, 100]);
}

#[test]
fn a_good_reading_in_between_begins_the_time_anew() {
    let mut scene = Scene::settled(TWO);
    for _ in 0..20 {
        scene.health("blue", 0, 10);
        scene.after(5);
        assert_eq!(weights(&scene.after(4)), [50, 50]);
        scene.health("blue", 10, 10);
        scene.after(1);
    }
    assert_eq!(scene.outs("blue"), 0);
}

#[test]
fn a_clock_that_is_set_back_begins_the_time_anew() {
    let mut scene = Scene::settled(TWO);
    scene.health("blue", 0, 10);
    scene.after(1000);
    assert_eq!(weights(&scene.after(-500)), [50, 50]);
    assert_eq!(weights(&scene.after(9)), [50, 50]);
    assert_eq!(weights(&scene.after(1)), [0, 100]);
}

#[test]
fn a_clock_that_was_far_ahead_for_a_moment_holds_no_return_back() {
    let mut scene = Scene::settled(TWO).with(|rules| rules.failback_step_percent = 50);
    scene.now = 90_000;
    let mut scene = failed_over(scene);
    scene.now = 100;
    scene.health("blue", 10, 10);
    let back = scene.during(3600);
    assert_eq!(weights(&back), [50, 50]);
}

#[test]
fn a_cluster_returns_once_it_looked_well_for_healthy_after_seconds() {
    let mut scene = failed_over(Scene::settled(TWO));
    scene.health("blue", 10, 10);
    let first = scene.after(10);
    assert_eq!(explained(&first, "blue").held_until, Some(at(90)));
    assert_eq!(weights(&scene.after(59)), [0, 100]);
    let back = scene.after(1);
    assert_eq!(weights(&back), [50, 50]);
    assert_eq!(explained(&back, "blue").out_since, None);
    assert_eq!(back.explanation.moves_last_hour, 2);
}

/// Seconds for which a cluster must look well until it is back; looked at every ten.
fn time_to_return(scene: &mut Scene) -> i64 {
    scene.health("blue", 10, 10);
    let start = scene.now;
    scene.look();
    while scene.clusters[0].programmed.unwrap().get() == 0 {
        assert!(scene.now - start < 7200, "it returns in the end");
        scene.after(10);
    }
    scene.now - start
}

#[test]
fn a_cluster_that_flaps_is_held_down_twice_as_long_each_time() {
    let mut scene = Scene::settled(TWO).with(|rules| rules.max_moves_per_hour = 60);
    let mut times = Vec::new();
    for _ in 0..4 {
        scene = failed_over(scene);
        times.push(time_to_return(&mut scene));
    }
    assert_eq!(times, [60, 120, 240, 480]);
}

#[test]
fn the_hold_down_has_an_end_and_is_forgotten_after_an_hour() {
    let mut scene = Scene::settled(TWO).with(|rules| {
        rules.max_moves_per_hour = 60;
        rules.hold_down_max_seconds = 100;
    });
    let mut times = Vec::new();
    for _ in 0..3 {
        scene = failed_over(scene);
        times.push(time_to_return(&mut scene));
    }
    assert_eq!(times, [60, 100, 100]);
    scene.during(3600);
    scene = failed_over(scene);
    assert_eq!(time_to_return(&mut scene), 60);
}

#[test]
fn a_hold_down_that_is_shorter_than_healthy_after_seconds_shortens_nothing() {
    let mut scene = failed_over(Scene::settled(TWO).with(|rules| rules.hold_down_max_seconds = 0));
    assert_eq!(time_to_return(&mut scene), 60);
}

#[test]
fn past_the_moves_of_an_hour_nobody_returns_and_the_dead_go_out_all_the_same() {
    let mut scene =
        Scene::settled(&[("blue", 40), ("green", 40), ("red", 20)]).with(|rules| rules.max_moves_per_hour = 1);
    scene.health("blue", 0, 10);
    scene.during(20);
    scene.health("blue", 10, 10);
    let waits = scene.during(600);
    assert_eq!(weights(&waits)[0], 0, "it has been well for ten minutes");
    assert!(explained(&waits, "blue").message.contains("maxMovesPerHour"), "{}", explained(&waits, "blue").message);
    scene.health("green", 0, 10);
    assert_eq!(weights(&scene.during(20))[1], 0);
    scene.health("green", 10, 10);
    let later = scene.during(3600);
    assert!(weights(&later)[0] > 0, "an hour later it is let in again");
}

#[test]
fn with_somebodys_word_a_cluster_returns_past_the_moves_of_an_hour() {
    let mut scene = failed_over(Scene::settled(TWO).with(|rules| rules.max_moves_per_hour = 1));
    scene.health("blue", 10, 10);
    assert_eq!(weights(&scene.during(600)), [0, 100]);
    scene.failback_at = Some(at(scene.now));
    assert_eq!(weights(&scene.after(1)), [50, 50]);
}

fn manual() -> Scene {
    Scene::settled(TWO).with(|rules| rules.failback = Failback::Manual)
}

#[test]
fn a_manual_failback_waits_for_somebodys_word_however_long() {
    let mut scene = failed_over(manual());
    scene.health("blue", 10, 10);
    let waits = scene.during(86_400);
    assert_eq!(weights(&waits), [0, 100]);
    assert!(explained(&waits, "blue").message.contains("yardctl failback"), "{}", explained(&waits, "blue").message);
    scene.failback_at = Some(at(scene.now));
    assert_eq!(weights(&scene.after(0)), [50, 50], "and comes with it at once");
}

#[test]
fn a_word_that_was_given_before_the_cluster_went_out_lets_nobody_return() {
    let mut scene = manual();
    scene.failback_at = Some(at(0));
    let mut scene = failed_over(scene);
    scene.health("blue", 10, 10);
    assert_eq!(weights(&scene.during(3600)), [0, 100]);
}

#[test]
fn a_word_that_was_given_while_the_cluster_is_ill_waits_for_lasting_health() {
    let mut scene = failed_over(manual());
    scene.failback_at = Some(at(scene.now));
    assert_eq!(weights(&scene.during(600)), [0, 100], "a dead cluster gets nothing, whoever says so");
    scene.health("blue", 10, 10);
    let first = scene.after(10);
    assert_eq!(weights(&first), [0, 100], "one good reading is not enough");
    assert_eq!(explained(&first, "blue").pending.unwrap().at, Some(at(scene.now + 60)));
    assert_eq!(weights(&scene.during(60)), [50, 50]);
}

#[test]
fn one_word_lets_a_cluster_return_once() {
    let mut scene = failed_over(manual());
    scene.health("blue", 4, 10);
    scene.after(10);
    scene.failback_at = Some(at(scene.now));
    assert!(weights(&scene.after(10))[0] > 0, "with a part of its targets it gets a part of its share");
    scene.health("blue", 0, 10);
    assert_eq!(weights(&scene.during(20)), [0, 100]);
    assert_eq!(scene.outs("blue"), 2, "what went out again after it had returned in part is another incident");
    scene.health("blue", 10, 10);
    assert_eq!(weights(&scene.during(3600)), [0, 100]);
}

fn stepped() -> Scene {
    Scene::settled(TWO).with(|rules| {
        rules.failback_step_percent = 25;
        rules.failback_step_seconds = 100;
    })
}

#[test]
fn a_return_goes_in_steps_and_ends_at_exactly_what_is_asked_for() {
    let mut scene = failed_over(stepped());
    scene.health("blue", 10, 10);
    scene.during(70);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let now = scene.look();
        seen.push(shares(&now)[0]);
        scene.during(100);
    }
    // A quarter, a half and three quarters of its weight beside the whole one of green: 25/125, 50/150, 75/175.
    let close = |(seen, expected): (&u32, u32)| seen.abs_diff(expected) <= 3;
    assert!(seen.iter().zip([200, 333, 428, 500]).all(close), "{seen:?}");
    let end = scene.look();
    assert_eq!(weights(&end), [50, 50]);
    assert_eq!(end.explanation.moves_last_hour, 2, "one out and one back, whatever the number of steps");
}

#[test]
fn a_return_that_is_interrupted_begins_anew_and_waits_longer() {
    let mut scene = failed_over(stepped());
    scene.health("blue", 10, 10);
    scene.during(180);
    assert!(scene.clusters[0].programmed.unwrap().carries());
    scene.health("blue", 0, 10);
    assert_eq!(weights(&scene.during(20)), [0, 100]);
    scene.health("blue", 10, 10);
    assert_eq!(weights(&scene.during(110)), [0, 100], "120 seconds for the second time");
    let first = scene.during(20);
    assert!(shares(&first)[0].abs_diff(200) <= 3, "from the first step on: {:?}", shares(&first));
}

#[test]
fn changes_within_the_dead_band_move_nothing_however_they_creep() {
    let mut scene = Scene::settled(TWO).with(|rules| {
        rules.overprovisioning_percent = 100;
        rules.dead_band_percent = 10;
    });
    for healthy in [99, 97, 95, 93, 91] {
        scene.health("blue", healthy, 100);
        assert_eq!(weights(&scene.during(60)), [50, 50]);
    }
    scene.health("blue", 40, 100);
    let now = scene.during(60);
    assert!(shares(&now)[0].abs_diff(285) <= 3, "{:?}", shares(&now));
}

#[test]
fn a_cluster_that_dies_is_never_too_small_a_change() {
    let mut scene = Scene::settled(&[("blue", 2), ("green", 98)]).with(|rules| rules.dead_band_percent = 50);
    scene.health("blue", 0, 10);
    assert_eq!(weights(&scene.during(20)), [0, 100]);
    scene.health("blue", 10, 10);
    assert_eq!(weights(&scene.during(70)), [2, 98]);
}

#[test]
fn what_falls_further_while_it_is_out_is_the_same_incident() {
    let mut scene = Scene::settled(TWO);
    for healthy in [6, 4, 2, 0] {
        scene.health("blue", healthy, 10);
        scene.during(30);
    }
    assert_eq!(scene.outs("blue"), 1);
    assert_eq!(scene.memory.moves.len(), 1);
    assert_eq!(scene.used("blue"), Some(0));
}

#[test]
fn the_health_of_a_standby_that_nobody_needs_is_taken_as_it_is() {
    let mut scene = Scene::new(&[("blue", 100), ("dr", 0)]);
    scene.standby("dr", 1, 100);
    scene.look();
    for healthy in [0, 10, 3, 10] {
        scene.health("dr", healthy, 10);
        assert_eq!(weights(&scene.after(1)), [100, 0]);
        assert_eq!(scene.used("dr"), Some(healthy * 100));
    }
    assert_eq!(scene.outs("dr"), 0);
}

#[test]
fn a_standby_that_went_out_while_it_was_needed_has_to_show_that_it_lasts() {
    let mut scene = Scene::new(&[("blue", 100), ("dr", 0), ("far", 0)]);
    scene.standby("dr", 1, 100);
    scene.standby("far", 2, 100);
    scene.rules.as_mut().unwrap().failback = Failback::Manual;
    scene.look();
    scene.health("blue", 0, 10);
    assert_eq!(weights(&scene.during(20)), [0, 100, 0]);
    scene.health("dr", 0, 10);
    assert_eq!(weights(&scene.during(20)), [0, 0, 100]);
    scene.health("dr", 10, 10);
    assert_eq!(weights(&scene.during(50)), [0, 0, 100], "not at the first good reading");
    assert_eq!(weights(&scene.during(20)), [0, 100, 0], "and without anybody's word: it never was where it should be");
}

#[test]
fn with_its_memory_lost_the_hub_takes_what_it_sees() {
    let mut scene = failed_over(Scene::settled(TWO));
    scene.memory = Memory::default();
    let again = scene.after(1);
    assert_eq!(weights(&again), [0, 100]);
    assert_eq!(scene.used("blue"), Some(0));
}

#[test]
fn rules_that_were_taken_away_leave_nothing_behind() {
    let mut scene = failed_over(Scene::settled(TWO));
    let rules = scene.rules.take();
    let off = scene.after(10);
    assert_eq!(weights(&off), [50, 50], "health moves nothing without rules");
    let remembered = &scene.memory.clusters[&name("blue")];
    assert_eq!((remembered.used, remembered.out_since, remembered.outs.len()), (None, None, 0));
    scene.rules = rules;
    scene.health("blue", 10, 10);
    assert_eq!(weights(&scene.after(10)), [50, 50], "and are not held against it later");
}
