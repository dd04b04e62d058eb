//! Tests of the choice of group and target: seeded, without HTTP.

use std::{collections::BTreeMap, sync::Arc};

use rand::SeedableRng;

use super::*;
use crate::elb::{
    actions::WeightedGroup,
    api::attributes,
    model::{HealthCheck, Live, TargetKey},
};

fn forward(weights: &[u32], stickiness_s: Option<u32>) -> Forward {
    let group = |(i, w): (usize, &u32)| WeightedGroup { arn: format!("g{i}"), weight: *w };
    Forward { groups: weights.iter().enumerate().map(group).collect(), stickiness_s }
}

fn group(states: &[HealthState]) -> TargetGroup {
    let target = |(i, state): (usize, &HealthState)| {
        let key = TargetKey { id: format!("10.0.0.{i}"), port: 80 };
        let target = Target {
            address: format!("10.0.0.{i}:80").parse().unwrap(),
            key: key.clone(),
            zone: None,
            state: *state,
            reason: None,
            description: None,
            draining_until: None,
            passes: 0,
            failures: 0,
            next_probe: None,
            probing: false,
            generation: 1,
            slow_start_from: None,
            forced: None,
            live: Arc::new(Live::default()),
        };
        (key, target)
    };
    TargetGroup {
        arn: "g".into(),
        name: "g".into(),
        protocol: "HTTP".into(),
        port: 80,
        vpc_id: "vpc".into(),
        target_type: "ip".into(),
        ip_address_type: "ipv4".into(),
        health_check: HealthCheck {
            enabled: true,
            protocol: "HTTP".into(),
            port: "traffic-port".into(),
            path: "/".into(),
            interval_s: 30,
            timeout_s: 5,
            healthy_threshold: 5,
            unhealthy_threshold: 2,
            matcher: "200".into(),
        },
        attributes: attributes::group_defaults("HTTP"),
        targets: states.iter().enumerate().map(target).collect(),
    }
}

/// How often each target is chosen in `n` requests.
fn spread(group: &TargetGroup, n: usize, slow_start: Duration, now: Instant) -> BTreeMap<String, usize> {
    let mut rng = StdRng::seed_from_u64(3);
    let mut counts = BTreeMap::new();
    for turn in 0..n {
        let moment = Moment { turn, now, slow_start, rng: &mut rng };
        if let Some(target) = choose_target(group, |_| false, moment) {
            *counts.entry(target.key.id.clone()).or_default() += 1;
        }
    }
    counts
}

fn plain(group: &TargetGroup, n: usize) -> BTreeMap<String, usize> {
    spread(group, n, Duration::ZERO, Instant::now())
}

use HealthState::{Healthy, Initial, Unhealthy};

#[test]
fn weights_decide_at_random_and_a_weight_of_zero_gets_nothing() {
    let mut rng = StdRng::seed_from_u64(1);
    let forward = forward(&[90, 0, 10], None);
    let mut counts = BTreeMap::<&str, u32>::new();
    for _ in 0..10_000 {
        *counts.entry(choose_group(&forward, |_| false, &mut rng).unwrap()).or_default() += 1;
    }
    assert!((8_800..=9_200).contains(&counts["g0"]), "{counts:?}");
    assert!(!counts.contains_key("g1"));
}

#[test]
fn without_any_weight_there_is_no_group() {
    let mut rng = StdRng::seed_from_u64(1);
    assert_eq!(choose_group(&forward(&[0, 0], None), |_| false, &mut rng), None);
}

#[test]
fn a_sticky_client_stays_with_its_group_even_at_weight_zero_but_only_while_stickiness_is_on() {
    let mut rng = StdRng::seed_from_u64(1);
    let sticks = |arn: &str| arn == "g1";
    assert_eq!(choose_group(&forward(&[100, 0], Some(60)), sticks, &mut rng), Some("g1"));
    assert_eq!(choose_group(&forward(&[100, 0], None), sticks, &mut rng), Some("g0"));
    assert_eq!(choose_group(&forward(&[100], Some(60)), sticks, &mut rng), Some("g0"), "its group left the rule");
}

#[test]
fn round_robin_gives_every_healthy_target_its_turn() {
    let counts = plain(&group(&[Healthy, Unhealthy, Healthy, Initial]), 10);
    assert_eq!(counts, BTreeMap::from([("10.0.0.0".into(), 5), ("10.0.0.2".into(), 5)]));
}

#[test]
fn a_group_without_healthy_targets_fails_open_to_all_that_are_registered() {
    for states in [[Unhealthy, Unhealthy], [Initial, Initial], [Unhealthy, Initial]] {
        assert_eq!(plain(&group(&states), 10).len(), 2, "{states:?}");
    }
}

#[test]
fn too_few_healthy_targets_by_count_or_percentage_fail_open_too() {
    let mut g = group(&[Healthy, Healthy, Unhealthy, Unhealthy]);
    let key = |unit: &str| format!("target_group_health.unhealthy_state_routing.minimum_healthy_targets.{unit}");
    assert_eq!(plain(&g, 20).len(), 2);
    g.attributes.insert(key("count"), "3".into());
    assert_eq!(plain(&g, 20).len(), 4);
    g.attributes.insert(key("count"), "1".into());
    g.attributes.insert(key("percentage"), "50".into());
    assert_eq!(plain(&g, 20).len(), 2);
    g.attributes.insert(key("percentage"), "51".into());
    assert_eq!(plain(&g, 20).len(), 4);
}

#[test]
fn draining_targets_get_nothing_also_when_the_group_fails_open() {
    let mut g = group(&[Unhealthy, Unhealthy]);
    for target in g.targets.values_mut().take(1) {
        target.draining_until = Some(Instant::now() + Duration::from_secs(60));
    }
    assert_eq!(plain(&g, 10), BTreeMap::from([("10.0.0.1".into(), 10)]));
    for target in g.targets.values_mut() {
        target.draining_until = Some(Instant::now() + Duration::from_secs(60));
    }
    assert!(plain(&g, 10).is_empty());
}

#[test]
fn an_override_beats_the_health_checker() {
    let mut g = group(&[Healthy, Healthy]);
    g.targets.values_mut().next().unwrap().forced = Some(Unhealthy);
    assert_eq!(plain(&g, 10), BTreeMap::from([("10.0.0.1".into(), 10)]));
}

#[test]
fn least_outstanding_takes_the_idlest_target() {
    let mut g = group(&[Healthy, Healthy, Healthy]);
    g.attributes.insert("load_balancing.algorithm.type".into(), "least_outstanding_requests".into());
    for (target, busy) in g.targets.values().zip([3, 1, 2]) {
        target.live.outstanding.store(busy, Ordering::Relaxed);
    }
    assert_eq!(plain(&g, 10), BTreeMap::from([("10.0.0.1".into(), 10)]));
}

#[test]
fn weighted_random_reaches_every_healthy_target() {
    let mut g = group(&[Healthy, Healthy, Unhealthy]);
    g.attributes.insert("load_balancing.algorithm.type".into(), "weighted_random".into());
    let counts = plain(&g, 1_000);
    assert_eq!(counts.len(), 2);
    assert!(counts.values().all(|n| (400..=600).contains(n)), "{counts:?}");
}

#[test]
fn the_share_of_a_target_grows_during_its_slow_start() {
    let mut g = group(&[Healthy, Healthy]);
    let from = Instant::now();
    g.targets.values_mut().next().unwrap().slow_start_from = Some(from);
    let share = |passed| {
        let counts = spread(&g, 2_000, Duration::from_secs(100), from + Duration::from_secs(passed));
        counts.get("10.0.0.0").copied().unwrap_or_default()
    };
    let (early, middle, late) = (share(1), share(50), share(100));
    assert!(early > 0 && early < 100, "{early}");
    assert!((350..=650).contains(&middle), "{middle}");
    assert_eq!(late, 1_000);
}

#[test]
fn a_sticky_target_is_kept_while_it_is_eligible() {
    let g = group(&[Healthy, Healthy, Unhealthy]);
    let mut rng = StdRng::seed_from_u64(1);
    let mut choose = |wanted: &str, turn| {
        let moment = Moment { turn, now: Instant::now(), slow_start: Duration::ZERO, rng: &mut rng };
        choose_target(&g, |t| t.key.id == wanted, moment).unwrap().key.id.clone()
    };
    assert!((0..10).all(|turn| choose("10.0.0.1", turn) == "10.0.0.1"));
    assert!((0..10).all(|turn| choose("10.0.0.2", turn) != "10.0.0.2"));
}
