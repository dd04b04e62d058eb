//! Who gets how much: Envoy's levels judged by a second, stupid implementation, then caps, capacity and what stays.

mod failover_support;

use failover_support::{Rng, Scene, ceiling, noted, shares, weight, weights};
use switchyard_core::{failover::Standing, fleet::Mode, policy::Capacity, status::Reason};

/// Envoy's algorithm in floating point: (level, weight, healthy part) of each cluster, to its share.
fn envoy(clusters: &[(u32, f64, f64)], overprovisioning: f64) -> Vec<f64> {
    let levels = clusters.iter().map(|(level, ..)| *level).max().unwrap() + 1;
    let of = |level: u32| clusters.iter().filter(move |cluster| cluster.0 == level);
    let health: Vec<f64> = (0..levels)
        .map(|level| {
            let weights: f64 = of(level).map(|(_, weight, _)| weight).sum();
            let healthy: f64 = of(level).map(|(_, weight, score)| weight * score).sum();
            if weights == 0.0 { 0.0 } else { (healthy / weights * overprovisioning).min(1.0) }
        })
        .collect();
    let total = health.iter().sum::<f64>().min(1.0);
    let mut left = 1.0;
    let mut shares = vec![0.0; clusters.len()];
    for level in 0..levels {
        let load = (health[level as usize] / total).min(left);
        left -= load;
        let within = |(_, weight, score): &(u32, f64, f64)| weight * (score * overprovisioning).min(1.0);
        let sum: f64 = of(level).map(within).sum();
        for (share, cluster) in shares.iter_mut().zip(clusters).filter(|(_, cluster)| cluster.0 == level && sum > 0.0) {
            *share = load * within(cluster) / sum;
        }
    }
    shares
}

#[test]
fn shares_are_those_of_envoys_levels() {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let n = 1 + rng.index(5);
        let mut level = 0;
        let mut clusters = Vec::new();
        for i in 0..n {
            level += u32::from(i > 0 && rng.below(3) == 0);
            let any = rng.below(100);
            let healthy = rng.pick(&[0, 0, 10, 25, 50, 71, 72, 90, 100, 100, any]);
            clusters.push((level, 1 + rng.below(300), healthy));
        }
        if clusters.iter().all(|(_, _, healthy)| *healthy == 0) {
            continue;
        }
        let named: Vec<(&str, u32)> =
            NAMES.iter().zip(&clusters).map(|(name, (_, weight, _))| (*name, *weight)).collect();
        let mut scene = Scene::new(&named);
        scene.has_rule = false;
        let overprovisioning = rng.pick(&[100, 140, 200, 1000]);
        let rules = scene.rules.as_mut().unwrap();
        (rules.overprovisioning_percent, rules.panic_threshold_percent) = (overprovisioning, 1);
        for (name, (level, weight, healthy)) in NAMES.iter().zip(&clusters) {
            if *level > 0 {
                scene.standby(name, *level, *weight);
            }
            scene.health(name, *healthy, 100);
        }
        let decided = scene.decided();
        let stupid: Vec<(u32, f64, f64)> =
            clusters.iter().map(|(l, w, h)| (*l, f64::from(*w), f64::from(*h) / 100.0)).collect();
        let expected = envoy(&stupid, f64::from(overprovisioning) / 100.0);
        let sum: u32 = weights(&decided).iter().sum();
        for (i, expected) in expected.iter().enumerate() {
            let share = f64::from(weights(&decided)[i]) / f64::from(sum);
            // Health is counted in thousandths: where there is hardly any, that is coarse.
            let healthy: u32 = clusters.iter().map(|(_, _, healthy)| *healthy).max().unwrap();
            let close = (share - expected).abs() < if healthy < 60 { 0.05 } else { 0.006 };
            assert!(close, "seed {seed}: {clusters:?} at {overprovisioning} %: {i} gets {share}, not {expected}");
        }
    }
}

/// What levels 0 and 1 get, in thousandths, with one cluster in each.
fn two_levels(first: u32, second: u32) -> Vec<u32> {
    let mut scene = Scene::new(&[("blue", 100), ("dr", 0)]);
    scene.standby("dr", 1, 100);
    scene.has_rule = false;
    scene.rules.as_mut().unwrap().panic_threshold_percent = 1;
    scene.health("blue", first, 100);
    scene.health("dr", second, 100);
    shares(&scene.decided())
}

#[test]
fn the_tables_of_envoys_documentation_come_out() {
    assert_eq!(two_levels(100, 100), [1000, 0]);
    assert_eq!(two_levels(72, 100), [1000, 0]);
    assert_eq!(two_levels(50, 100), [700, 300]);
    assert_eq!(two_levels(25, 100), [350, 650]);
    assert_eq!(two_levels(0, 100), [0, 1000]);
    assert_eq!(two_levels(25, 25), [500, 500], "together they carry 70 %, so each gets its half of everything");
}

#[test]
fn in_a_level_the_sick_one_gives_in_proportion() {
    let mut scene = Scene::new(&[("blue", 50), ("green", 50)]);
    scene.rules.as_mut().unwrap().overprovisioning_percent = 100;
    scene.health("blue", 50, 100);
    assert_eq!(shares(&scene.decided()), [333, 666]);
}

#[test]
fn what_is_whole_gets_exactly_the_numbers_of_the_request() {
    for request in [[1, 999], [7, 13], [333, 667], [1, 1]] {
        let mut scene = Scene::new(&[("blue", request[0]), ("green", request[1])]);
        scene.health("blue", 8, 10);
        assert_eq!(weights(&scene.decided()), request);
    }
}

#[test]
fn numbers_stay_familiar_where_that_is_exact() {
    let mut scene = Scene::new(&[("blue", 50), ("green", 50)]);
    scene.health("blue", 0, 10);
    assert_eq!(weights(&scene.decided()), [0, 100]);
    let mut scene = Scene::new(&[("blue", 1), ("green", 1), ("red", 2)]);
    scene.health("red", 0, 10);
    assert_eq!(weights(&scene.decided()), [2, 2, 0]);
}

#[test]
fn a_share_above_nothing_never_becomes_nothing() {
    let mut scene = Scene::new(&[("blue", 1), ("green", 999), ("red", 999)]);
    scene.rules.as_mut().unwrap().overprovisioning_percent = 100;
    scene.health("blue", 1, 100);
    scene.health("red", 20, 100);
    let decided = weights(&scene.decided());
    assert!(decided.iter().all(|weight| *weight > 0), "{decided:?}");
    assert!(decided.iter().sum::<u32>() <= 999);
}

#[test]
fn the_smallest_share_of_all_goes_when_its_cluster_is_dead() {
    let mut scene = Scene::new(&[("a", 1), ("b", 999), ("c", 999), ("d", 999), ("e", 999)]);
    scene.health("a", 0, 10);
    let decided = weights(&scene.decided());
    assert_eq!(decided[0], 0, "{decided:?}");
}

fn capacity(peak: u32) -> Option<Capacity> {
    Some(Capacity { peak_requests_per_second: peak, requests_per_second_per_target: 100 })
}

#[test]
fn survivors_get_no_more_than_they_carry_and_the_rest_stays_where_it_was_asked_for() {
    let mut scene = Scene::new(&[("blue", 50), ("green", 50)]);
    scene.capacity = capacity(1000);
    scene.health("blue", 0, 10);
    scene.health("green", 6, 6);
    let decided = scene.decided();
    assert_eq!(weights(&decided), [40, 60]);
    let note = noted(&decided, Reason::BrownOut).expect("an alarm");
    assert!(note.starts_with("40 % of the requests stay"), "{note}");
}

#[test]
fn a_cluster_keeps_what_it_was_asked_to_carry_whatever_its_capacity() {
    let mut scene = Scene::new(&[("blue", 50), ("green", 50)]);
    scene.capacity = capacity(1_000_000);
    scene.health("blue", 0, 10);
    assert_eq!(weights(&scene.decided()), [50, 50], "green carries 0.1 %, and still gets no less than before");
}

#[test]
fn what_a_survivor_cannot_carry_goes_on_to_the_next_level() {
    let mut scene = Scene::new(&[("blue", 50), ("green", 50), ("dr", 0)]);
    scene.standby("dr", 1, 100);
    scene.capacity = capacity(1000);
    scene.health("blue", 0, 10);
    scene.health("green", 6, 6);
    let decided = scene.decided();
    assert_eq!(weights(&decided), [0, 60, 40], "30 % by its level, 10 % beyond what green carries");
    assert_eq!(noted(&decided, Reason::BrownOut), None);
}

#[test]
fn a_force_does_not_ask_for_capacity() {
    let mut scene = Scene::new(&[("blue", 50), ("green", 50)]);
    scene.capacity = capacity(1_000_000);
    scene.cluster("blue").ceiling = ceiling(Mode::Draining, 0);
    assert_eq!(weights(&scene.decided()), [50, 50]);
    scene.cluster("blue").ceiling.force = true;
    assert_eq!(weights(&scene.decided()), [0, 100]);
}

#[test]
fn a_cluster_without_a_healthy_target_never_takes_over() {
    let mut scene = Scene::new(&[("blue", 50), ("green", 50)]);
    scene.standby("green", 1, 100);
    scene.cluster("blue").requested = weight(100);
    scene.cluster("blue").programmed = Some(weight(100));
    // Ready by the agent's word, and registered nowhere.
    let zone = scene.cluster("green").sight.as_mut().unwrap().zones.get_mut("a").unwrap();
    (zone.healthy, zone.unjudged) = (0, 10);
    scene.cluster("green").registered = 0;
    scene.health("blue", 0, 10);
    assert_eq!(weights(&scene.decided()), [100, 0], "an error for certain is no better than a likely one");
    scene.health("green", 10, 10);
    assert_eq!(weights(&scene.decided()), [0, 100]);
}

#[test]
fn what_a_survivor_can_carry_no_longer_goes_to_nobody_who_is_dead() {
    let mut scene = Scene::new(&[("blue", 50), ("green", 50)]);
    scene.capacity = capacity(1000);
    scene.health("blue", 0, 10);
    scene.health("green", 6, 6);
    assert_eq!(weights(&scene.look()), [40, 60]);
    scene.health("green", 5, 5);
    let decided = scene.during(60);
    assert_eq!(weights(&decided), [40, 60], "a dead cluster does not gain");
}

#[test]
fn a_cordoned_cluster_gets_no_new_weight() {
    let mut scene = Scene::new(&[("blue", 50), ("green", 50)]);
    scene.cluster("green").programmed = Some(weight(20));
    scene.cluster("blue").programmed = Some(weight(80));
    scene.cluster("green").ceiling = ceiling(Mode::Cordoned, 1000);
    let decided = scene.look();
    assert_eq!(shares(&decided), [800, 200]);
    let green = decided.explanation.clusters.iter().find(|c| c.cluster.as_str() == "green").unwrap();
    assert_eq!(green.reason, Reason::Cordoned);
    assert_eq!(weights(&scene.during(600)), weights(&decided), "and keeps what it has");
}

#[test]
fn a_cordoned_cluster_takes_over_when_nobody_else_answers() {
    let mut scene = Scene::new(&[("blue", 100), ("green", 0)]);
    scene.standby("green", 1, 100);
    scene.cluster("green").ceiling = ceiling(Mode::Cordoned, 1000);
    scene.health("blue", 0, 10);
    scene.cluster("blue").registered = 0;
    let decided = scene.decided();
    assert_eq!(weights(&decided), [0, 100]);
    assert_eq!(noted(&decided, Reason::Overloaded), None, "it can carry that");
}

#[test]
fn a_drain_takes_the_share_by_percent_of_it() {
    let mut scene = Scene::new(&[("blue", 50), ("green", 50)]);
    scene.rules = None;
    let mut seen = Vec::new();
    for permille in [750, 500, 250, 0] {
        scene.cluster("blue").ceiling = ceiling(Mode::Draining, permille);
        let decided = scene.look();
        assert_eq!(decided.explanation.standing, Standing::FailedOver);
        seen.push(shares(&decided)[0]);
    }
    let close = |(seen, expected): (&u32, u32)| seen.abs_diff(expected) <= 2;
    assert!(seen.iter().zip([428, 333, 200, 0]).all(close), "{seen:?}");
    scene.cluster("blue").ceiling = ceiling(Mode::Active, 1000);
    assert_eq!(weights(&scene.look()), [50, 50]);
}
