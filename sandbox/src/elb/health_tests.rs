//! Tests of the health state machine: time is an argument, nothing is probed.

use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::elb::{
    actions::{Action, ActionKind, Forward, WeightedGroup},
    api::attributes,
    model::{HealthCheck, Listener, Live, Rule, Target},
};

const INTERVAL: u64 = 10;

fn config() -> ElbConfig {
    ElbConfig::default()
}

fn target(id: &str, state: HealthState, now: Instant) -> Target {
    Target {
        key: TargetKey { id: id.into(), port: 80 },
        zone: None,
        address: format!("{id}:80").parse().unwrap(),
        state,
        reason: None,
        description: None,
        draining_until: None,
        passes: 0,
        failures: 0,
        next_probe: Some(now),
        probing: false,
        generation: 1,
        slow_start_from: None,
        forced: None,
        live: Arc::new(Live::default()),
    }
}

/// A group `g` with the given targets, used by a rule of a listener.
fn world(targets: Vec<Target>) -> World {
    let health_check = HealthCheck {
        enabled: true,
        protocol: "HTTP".into(),
        port: "traffic-port".into(),
        path: "/".into(),
        interval_s: INTERVAL as u32,
        timeout_s: 5,
        healthy_threshold: 3,
        unhealthy_threshold: 2,
        matcher: "200".into(),
    };
    let group = TargetGroup {
        arn: "g".into(),
        name: "g".into(),
        protocol: "HTTP".into(),
        port: 80,
        vpc_id: "vpc".into(),
        target_type: "ip".into(),
        ip_address_type: "ipv4".into(),
        health_check,
        attributes: attributes::group_defaults("HTTP"),
        targets: targets.into_iter().map(|t| (t.key.clone(), t)).collect(),
    };
    let listener = Listener {
        arn: "l".into(),
        load_balancer: "lb".into(),
        path: String::new(),
        port: 80,
        protocol: "HTTP".into(),
        certificates: Vec::new(),
        ssl_policy: None,
        address: "127.0.0.1:80".parse().unwrap(),
    };
    let forward = Forward { groups: vec![WeightedGroup { arn: "g".into(), weight: 0 }], stickiness_s: None };
    let action = Action { order: None, kind: ActionKind::Forward(forward) };
    let rule =
        Rule { arn: "r".into(), listener: "l".into(), priority: None, conditions: Vec::new(), actions: vec![action] };
    World {
        groups: BTreeMap::from([("g".into(), group)]),
        listeners: BTreeMap::from([("l".into(), listener)]),
        rules: BTreeMap::from([("r".into(), rule)]),
        ..World::default()
    }
}

fn held<'a>(world: &'a World, id: &str) -> &'a Target {
    &world.groups["g"].targets[&TargetKey { id: id.into(), port: 80 }]
}

/// Lets every due probe see the verdict, then moves on by one interval.
fn round(world: &mut World, now: &mut Instant, verdict: &Verdict) {
    let (due, _) = world.due_probes(*now, &config());
    assert!(!due.is_empty(), "a probe is due");
    for probe in due {
        world.judge(&probe, verdict, *now, &config());
    }
    *now += Duration::from_secs(INTERVAL);
}

#[test]
fn one_pass_makes_a_new_target_healthy_and_thresholds_count_afterwards() {
    let mut now = Instant::now();
    let mut world = world(vec![target("10.0.0.1", HealthState::Initial, now)]);
    round(&mut world, &mut now, &Verdict::Passed);
    assert_eq!(held(&world, "10.0.0.1").state, HealthState::Healthy);
    round(&mut world, &mut now, &Verdict::WrongCode(503));
    assert_eq!(held(&world, "10.0.0.1").state, HealthState::Healthy);
    round(&mut world, &mut now, &Verdict::WrongCode(503));
    let down = held(&world, "10.0.0.1");
    assert_eq!((down.state, down.reason), (HealthState::Unhealthy, Some("Target.ResponseCodeMismatch")));
    assert_eq!(down.description.as_deref(), Some("Health checks failed with these codes: [503]"));
    for expected in [HealthState::Unhealthy, HealthState::Unhealthy, HealthState::Healthy] {
        round(&mut world, &mut now, &Verdict::Passed);
        assert_eq!(held(&world, "10.0.0.1").state, expected);
    }
}

#[test]
fn a_single_failure_between_passes_changes_nothing() {
    let mut now = Instant::now();
    let mut world = world(vec![target("10.0.0.1", HealthState::Healthy, now)]);
    for verdict in [Verdict::TimedOut, Verdict::Passed, Verdict::Failed, Verdict::Passed] {
        round(&mut world, &mut now, &verdict);
        assert_eq!(held(&world, "10.0.0.1").state, HealthState::Healthy);
    }
}

#[test]
fn reasons_name_what_the_probe_saw() {
    for (verdict, reason) in [(Verdict::TimedOut, "Target.Timeout"), (Verdict::Failed, "Target.FailedHealthChecks")] {
        let mut now = Instant::now();
        let mut world = world(vec![target("10.0.0.1", HealthState::Initial, now)]);
        round(&mut world, &mut now, &verdict);
        assert_eq!(held(&world, "10.0.0.1").reason, Some("Elb.InitialHealthChecking"));
        round(&mut world, &mut now, &verdict);
        assert_eq!(held(&world, "10.0.0.1").reason, Some(reason));
    }
}

#[test]
fn a_target_is_not_probed_twice_at_a_time_and_old_results_do_not_judge_a_new_registration() {
    let now = Instant::now();
    let mut world = world(vec![target("10.0.0.1", HealthState::Initial, now)]);
    let (due, next) = world.due_probes(now, &config());
    assert_eq!((due.len(), next), (1, Some(now + Duration::from_secs(INTERVAL))));
    assert!(world.due_probes(now + Duration::from_secs(60), &config()).0.is_empty());
    let key = due[0].key.clone();
    let held_target = world.groups.get_mut("g").unwrap().targets.get_mut(&key).unwrap();
    held_target.generation = 2;
    world.judge(&due[0], &Verdict::Passed, now, &config());
    assert_eq!(held(&world, "10.0.0.1").state, HealthState::Initial);
}

#[test]
fn a_group_that_no_rule_uses_is_not_probed_and_starts_anew_when_it_is_used_again() {
    let now = Instant::now();
    let mut world = world(vec![target("10.0.0.1", HealthState::Healthy, now)]);
    let rule = world.rules.remove("r").unwrap();
    world.advance(now, &config());
    let unused = held(&world, "10.0.0.1");
    assert_eq!((unused.state, unused.reason), (HealthState::Unused, Some("Target.NotInUse")));
    assert!(world.due_probes(now + Duration::from_secs(60), &config()).0.is_empty());
    world.rules.insert("r".into(), rule);
    world.advance(now, &config());
    assert_eq!(held(&world, "10.0.0.1").reason, Some("Elb.RegistrationInProgress"));
    assert!(world.due_probes(now, &config()).0.is_empty(), "the registration takes a moment");
    assert_eq!(world.due_probes(now + REGISTRATION, &config()).0.len(), 1);
}

#[test]
fn a_drained_target_is_forgotten_at_its_time_and_its_requests_are_cut_then() {
    let now = Instant::now();
    let mut draining = target("10.0.0.1", HealthState::Healthy, now);
    draining.draining_until = Some(now + Duration::from_secs(30));
    let live = Arc::clone(&draining.live);
    let mut world = world(vec![draining]);
    let (due, next) = world.due_probes(now, &config());
    assert!(due.is_empty());
    assert_eq!(next, Some(now + Duration::from_secs(30)));
    world.advance(now + Duration::from_secs(29), &config());
    assert!(!live.cut.is_cancelled());
    world.advance(now + Duration::from_secs(30), &config());
    assert!(live.cut.is_cancelled() && world.groups["g"].targets.is_empty());
}

#[test]
fn only_a_target_that_joins_settled_ones_starts_slowly() {
    let mut now = Instant::now();
    let mut world = world(vec![target("10.0.0.1", HealthState::Initial, now)]);
    let group = world.groups.get_mut("g").unwrap();
    group.attributes.insert("slow_start.duration_seconds".into(), "60".into());
    round(&mut world, &mut now, &Verdict::Passed);
    assert_eq!(held(&world, "10.0.0.1").slow_start_from, None);
    let second = target("10.0.0.2", HealthState::Initial, now);
    world.groups.get_mut("g").unwrap().targets.insert(second.key.clone(), second);
    let at = now;
    round(&mut world, &mut now, &Verdict::Passed);
    assert_eq!(held(&world, "10.0.0.2").slow_start_from, Some(at));
}

#[test]
fn a_faster_clock_shortens_intervals_but_leaves_real_servers_time_to_answer() {
    let now = Instant::now();
    let mut world = world(vec![target("10.0.0.1", HealthState::Initial, now)]);
    let config = ElbConfig { time_scale: 100.0, ..config() };
    let (due, next) = world.due_probes(now, &config);
    assert_eq!(next, Some(now + Duration::from_millis(INTERVAL * 10)));
    assert_eq!(due[0].timeout, LEAST_TIMEOUT);
}
