//! What operators want of a cluster, from call to call and from look to look.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use switchyard_core::{
    failover::Explanation,
    fleet::{
        Ceiling, ClusterState, Kind, Mode, Why,
        machine::{Command, Outcome, PolicyFacts, Refusal, command, observe},
    },
    ids::{ClusterName, PolicyKey, Weight},
    policy::{PolicyRecord, validate},
    status::{ClusterStatus, ConditionType, Note, PolicyStatus, Reason, RuleStatus, StatusCondition, TargetCounts},
};

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    start.checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

fn blue() -> ClusterName {
    ClusterName::new("blue").unwrap()
}

fn weight(weight: u32) -> Weight {
    Weight::new(weight).unwrap()
}

fn key(name: &str) -> PolicyKey {
    PolicyKey::new("shop", name).unwrap()
}

fn wants(kind: Kind) -> Command {
    Command {
        kind,
        id: format!("{kind:?}-1"),
        actor: "alice".into(),
        reason: "upgrade".into(),
        step_percent: 25,
        step_seconds: 30,
        force: false,
        duration_seconds: 600,
    }
}

fn order(state: Option<ClusterState>, kind: Kind) -> Result<ClusterState, Refusal> {
    command(&blue(), state, &wants(kind), &[], at(0))
}

/// A cluster in this mode, as the machine itself makes it.
fn in_mode(mode: Mode) -> Option<ClusterState> {
    let with = |kind, mode, percent| {
        let mut state = order(None, kind).unwrap();
        (state.mode, state.percent) = (mode, percent);
        Some(state)
    };
    match mode {
        Mode::Active => None,
        Mode::Cordoned => with(Kind::Cordon, mode, 100),
        Mode::Draining => with(Kind::Drain, mode, 50),
        Mode::Drained => with(Kind::Drain, mode, 0),
        Mode::Returning => with(Kind::Uncordon, mode, 50),
        Mode::Removed => with(Kind::Remove, mode, 0),
    }
}

const MODES: [Mode; 6] = [Mode::Active, Mode::Cordoned, Mode::Draining, Mode::Drained, Mode::Returning, Mode::Removed];

#[test]
fn each_command_leads_from_each_mode_to_one_place_or_is_refused() {
    use Mode::*;
    // For Active, Cordoned, Draining, Drained, Returning, Removed; none: refused.
    let table = [
        (Kind::Cordon, [Some(Cordoned), Some(Cordoned), None, None, Some(Cordoned), None]),
        (Kind::Drain, [Some(Draining), Some(Draining), Some(Draining), Some(Drained), Some(Draining), None]),
        (Kind::Drill, [Some(Drained), None, None, None, None, None]),
        (
            Kind::Uncordon,
            [Some(Active), Some(Active), Some(Returning), Some(Returning), Some(Returning), Some(Returning)],
        ),
        (Kind::Remove, [Some(Removed); 6]),
    ];
    for (kind, expected) in table {
        for (mode, expected) in MODES.into_iter().zip(expected) {
            let state = order(in_mode(mode), kind);
            assert_eq!(state.as_ref().ok().map(|state| state.mode), expected, "{kind} of a cluster that is {mode}");
        }
    }
}

#[test]
fn a_refusal_names_the_cluster_where_it_is_and_what_helps() {
    let refused = order(in_mode(Mode::Draining), Kind::Drill).unwrap_err().to_string();
    assert_eq!(
        refused,
        "blue is Draining: a game day begins with an active cluster; wait, or bring it back first: yardctl uncordon blue"
    );
}

#[test]
fn what_is_there_already_is_given_back_unchanged() {
    for (mode, kind) in [
        (Mode::Cordoned, Kind::Cordon),
        (Mode::Drained, Kind::Drain),
        (Mode::Returning, Kind::Uncordon),
        (Mode::Removed, Kind::Remove),
    ] {
        let before = in_mode(mode);
        let mut again = wants(kind);
        again.id = "another".into();
        assert_eq!(command(&blue(), before.clone(), &again, &[], at(99)).ok(), before, "{kind}");
    }
}

#[test]
fn a_cluster_that_still_carries_is_not_removed_and_the_policies_are_named() {
    let carried: Vec<PolicyKey> = ["a", "b", "c", "d", "e"].into_iter().map(key).collect();
    let refused = command(&blue(), None, &wants(Kind::Remove), &carried, at(0)).unwrap_err();
    let said = refused.to_string();
    assert!(
        said.starts_with("blue cannot be removed: shop/a, shop/b, shop/c and 2 more still gives it requests"),
        "{said}"
    );
    assert!(said.contains("yardctl drain blue"), "{said}");
}

/// As a policy looks that does what it is told.
fn follows(effective: u32, targets: u32) -> PolicyFacts {
    PolicyFacts {
        held: false,
        in_force: Some(true),
        effective: weight(effective),
        programmed: Some(weight(effective)),
        targets,
        wanted: targets,
        trouble: None,
    }
}

fn one(facts: PolicyFacts) -> BTreeMap<PolicyKey, PolicyFacts> {
    BTreeMap::from([(key("checkout"), facts)])
}

fn look(state: ClusterState, facts: PolicyFacts, seconds: i64) -> Outcome {
    observe(state, &one(facts), at(seconds))
}

#[test]
fn a_drain_goes_in_steps_each_in_force_before_the_next() {
    let mut state = order(None, Kind::Drain).unwrap();
    assert_eq!((state.mode, state.percent, state.operation.why), (Mode::Draining, 100, Why::Requested));
    state = look(state, follows(50, 10), 1).state;
    assert_eq!((state.percent, state.operation.why), (75, Why::InProgress), "the first step waits for nothing");
    let not_yet = PolicyFacts { in_force: Some(false), ..follows(50, 10) };
    state = look(state, not_yet, 100).state;
    assert_eq!((state.percent, state.operation.why), (75, Why::InProgress), "not in force yet");
    let early = look(state.clone(), follows(42, 10), 20);
    assert_eq!((early.state.percent, early.state.operation.why), (75, Why::WaitingForInterval));
    assert_eq!(early.again_at, Some(at(31)));
    for (seconds, percent) in [(131, 50), (161, 25), (191, 0)] {
        state = look(state, follows(30, 10), seconds).state;
        assert_eq!(state.percent, percent);
        assert_eq!(state.ceiling().permille, percent * 10);
        assert_eq!(state.ceiling().deregister, percent == 0, "targets go once nothing is left of the share");
    }
    state = look(state, follows(0, 10), 221).state;
    assert_eq!((state.mode, state.operation.why), (Mode::Draining, Why::Deregistering));
    state = look(state, follows(0, 0), 230).state;
    assert_eq!((state.mode, state.operation.why, state.operation.ended_at), (Mode::Drained, Why::Done, Some(at(230))));
    assert!(!state.is_moving());
}

#[test]
fn what_is_not_known_is_not_in_force() {
    let mut state = look(order(None, Kind::Drain).unwrap(), follows(50, 10), 0).state;
    state = look(state, PolicyFacts { in_force: None, ..follows(50, 10) }, 1000).state;
    assert_eq!(state.percent, 75);
    assert_eq!(state.operation.progress[0].message, "what AWS has is being read");
}

#[test]
fn a_policy_that_no_other_cluster_carries_blocks_the_end_of_a_drain_and_says_so() {
    let mut state = order(None, Kind::Drain).unwrap();
    state.percent = 0;
    state.operation.stepped_at = Some(at(0));
    state = look(state, follows(100, 10), 100).state;
    assert_eq!((state.mode, state.operation.why), (Mode::Draining, Why::Blocked));
    assert!(state.operation.message.contains("no other cluster carries its requests"), "{}", state.operation.message);
}

#[test]
fn a_frozen_policy_blocks_and_a_settling_one_is_only_waited_for() {
    let with = |reason, message: &str| PolicyFacts {
        in_force: Some(false),
        trouble: Some((reason, message.to_owned())),
        ..follows(50, 10)
    };
    let begun = look(order(None, Kind::Drain).unwrap(), follows(50, 10), 0).state;
    let frozen = look(begun.clone(), with(Reason::Frozen, "spec.safety.freeze is set"), 60).state;
    assert_eq!(frozen.operation.why, Why::Blocked);
    assert!(
        frozen.operation.message.ends_with("shop/checkout: spec.safety.freeze is set"),
        "{}",
        frozen.operation.message
    );
    assert_eq!(look(begun, with(Reason::Settling, "settling"), 60).state.operation.why, Why::InProgress);
}

#[test]
fn the_way_back_goes_in_the_steps_of_the_way_there() {
    let mut drained = in_mode(Mode::Drained).unwrap();
    (drained.operation.step_percent, drained.operation.step_seconds) = (50, 10);
    let mut state = order(Some(drained), Kind::Uncordon).unwrap();
    assert_eq!((state.mode, state.percent, state.deregister), (Mode::Returning, 0, false));
    state = look(state, follows(0, 10), 1).state;
    assert_eq!(state.percent, 50);
    state = look(state, follows(33, 10), 11).state;
    assert_eq!((state.percent, state.mode), (100, Mode::Returning));
    state = look(state, follows(50, 10), 12).state;
    assert_eq!((state.mode, state.operation.why, state.ceiling()), (Mode::Active, Why::Done, Ceiling::default()));
}

#[test]
fn a_cluster_that_returns_waits_with_each_step_until_its_targets_are_healthy() {
    let state = order(in_mode(Mode::Drained), Kind::Uncordon).unwrap();
    let state = look(state, follows(0, 0), 1).state;
    assert_eq!(state.percent, 25);
    let ill = |wanted| PolicyFacts {
        wanted,
        trouble: Some((Reason::NoHealthyTarget, "none of its 10 registered targets is healthy yet".into())),
        ..follows(0, 10)
    };
    assert_eq!(look(state.clone(), ill(10), 100).state.percent, 25, "else it got all of its share in one step later");
    assert_eq!(look(state.clone(), ill(0), 100).state.percent, 50, "one without pods would wait for ever");
    assert_eq!(look(state, follows(12, 10), 100).state.percent, 50);
}

#[test]
fn a_drain_that_is_taken_back_in_the_middle_returns_from_where_it_is() {
    let state = order(in_mode(Mode::Draining), Kind::Uncordon).unwrap();
    assert_eq!((state.mode, state.percent), (Mode::Returning, 50));
    assert_eq!(look(state, follows(33, 10), 1).state.percent, 75);
}

#[test]
fn a_game_day_takes_the_share_at_once_keeps_the_targets_and_ends_by_itself() {
    let mut state = order(None, Kind::Drill).unwrap();
    assert_eq!((state.mode, state.percent, state.ceiling().deregister), (Mode::Drained, 0, false));
    assert_eq!(state.operation.until, Some(at(600)));
    let during = look(state, follows(0, 10), 599);
    assert_eq!((during.state.operation.why, during.again_at), (Why::DrillRunning, Some(at(600))));
    state = look(during.state, follows(0, 10), 600).state;
    assert_eq!((state.mode, state.percent, state.operation.until), (Mode::Returning, 100, None));
    assert!(state.is_moving());
    state = look(state, follows(50, 10), 601).state;
    assert_eq!((state.mode, state.operation.ended_at, state.is_moving()), (Mode::Active, Some(at(601)), false));
}

#[test]
fn a_game_day_ends_in_time_though_a_policy_cannot_follow() {
    let state = order(None, Kind::Drill).unwrap();
    let stuck = PolicyFacts { in_force: None, ..follows(100, 10) };
    assert_eq!(look(state, stuck, 601).state.percent, 100);
}

#[test]
fn a_game_day_can_be_called_off_or_made_a_drain() {
    let drill = order(None, Kind::Drill).unwrap();
    let off = order(Some(drill.clone()), Kind::Uncordon).unwrap();
    assert_eq!((off.mode, off.operation.until), (Mode::Returning, None));
    assert_eq!(look(off, follows(0, 10), 1).state.percent, 100, "as it went");
    let drain = order(Some(drill), Kind::Drain).unwrap();
    assert_eq!((drain.mode, drain.percent, drain.operation.until), (Mode::Draining, 0, None));
    let drained = look(look(drain, follows(0, 10), 1).state, follows(0, 0), 100).state;
    assert_eq!((drained.mode, drained.ceiling().deregister), (Mode::Drained, true));
}

#[test]
fn a_removed_cluster_is_done_when_nothing_of_it_is_left() {
    let state = order(None, Kind::Remove).unwrap();
    let state = look(state, follows(0, 3), 1).state;
    assert!(state.is_moving());
    let state = observe(state, &BTreeMap::new(), at(2)).state;
    assert_eq!((state.mode, state.operation.why, state.is_moving()), (Mode::Removed, Why::Done, false));
}

#[test]
fn a_cluster_that_is_at_rest_is_left_alone() {
    for mode in [Mode::Cordoned, Mode::Drained] {
        let state = in_mode(mode).unwrap();
        assert_eq!(look(state.clone(), follows(50, 10), 1000).state, state);
    }
}

#[test]
fn states_survive_their_json() {
    let mut state = order(None, Kind::Drill).unwrap();
    state = look(state, follows(0, 10), 1).state;
    let json = serde_json::to_string(&state).unwrap();
    assert!(json.contains("\"stepPercent\""), "{json}");
    assert_eq!(serde_json::from_str::<ClusterState>(&json).unwrap(), state);
}

fn record() -> PolicyRecord {
    let manifest = serde_json::json!({
        "apiVersion": "switchyard.dev/v1alpha1",
        "kind": "ClusterTrafficPolicy",
        "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {
            "listener": {"loadBalancer": "shared", "port": 80},
            "match": {"hostnames": ["a.example.com"]},
            "backend": {"service": {"name": "web", "port": "http"}},
            "clusters": [{"name": "blue", "weight": 50}, {"name": "green", "weight": 50}],
        },
    });
    PolicyRecord {
        uid: "uid".parse().unwrap(),
        version: 3,
        generation: 1,
        policy: validate(&serde_json::from_value(manifest).unwrap()).unwrap(),
        weight_override: None,
        deleting_since: None,
        failback_at: None,
    }
}

/// A policy whose weights were read back at 0 seconds.
fn status() -> PolicyStatus {
    let cluster = |name: &str| ClusterStatus {
        cluster: ClusterName::new(name).unwrap(),
        requested: weight(50),
        effective: weight(50),
        programmed: Some(weight(50)),
        reason: Reason::AsRequested,
        message: String::new(),
        targets: TargetCounts { desired: 10, registered: 9, healthy: 9, ..TargetCounts::default() },
        target_group: None,
    };
    let programmed = StatusCondition {
        kind: ConditionType::Programmed,
        status: Some(true),
        reason: Reason::AsRequested,
        message: String::new(),
        last_transition: at(0),
    };
    let listener = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/shared/1/443";
    PolicyStatus {
        observed_version: 3,
        conditions: vec![programmed],
        clusters: vec![cluster("blue"), cluster("green")],
        rule: Some(RuleStatus {
            listener: listener.parse().unwrap(),
            rule: None,
            priority: Some(1),
            programmed_since: Some(at(0)),
        }),
        notes: Vec::new(),
        failover: Explanation::default(),
    }
}

fn facts(status: &PolicyStatus, seconds: i64) -> Option<PolicyFacts> {
    PolicyFacts::new(&blue(), &record(), status, Duration::from_secs(60), at(seconds))
}

#[test]
fn weights_are_in_force_when_they_were_read_back_as_decided_and_settled() {
    let status = status();
    assert_eq!(facts(&status, 59).unwrap().in_force, Some(false));
    let settled = facts(&status, 60).unwrap();
    assert_eq!((settled.in_force, settled.targets, settled.wanted, settled.trouble), (Some(true), 9, 10, None));
    assert_eq!(facts(&status, -5).unwrap().in_force, Some(false), "a clock that was set back proves nothing");
}

#[test]
fn another_clusters_weight_that_is_not_there_yet_keeps_a_step_waiting_too() {
    let mut status = status();
    status.clusters[1].effective = weight(100);
    assert_eq!(facts(&status, 100).unwrap().in_force, Some(false));
}

#[test]
fn a_status_of_another_version_or_without_a_verdict_says_nothing() {
    let mut old = status();
    old.observed_version = 2;
    assert_eq!(facts(&old, 100).unwrap().in_force, None);
    let mut unread = status();
    unread.conditions[0].status = None;
    assert_eq!(facts(&unread, 100).unwrap().in_force, None);
}

#[test]
fn a_policy_that_does_not_name_the_cluster_or_is_deleted_is_not_waited_for() {
    let mut other = status();
    other.clusters.remove(0);
    assert_eq!(facts(&other, 100), None);
    let mut deleted = record();
    deleted.deleting_since = Some(at(0));
    assert_eq!(PolicyFacts::new(&blue(), &deleted, &status(), Duration::ZERO, at(100)), None);
}

#[test]
fn the_trouble_of_a_policy_is_the_clusters_own_before_that_of_the_whole() {
    let mut status = status();
    status.notes.push(Note { cluster: None, reason: Reason::Frozen, message: "frozen".into() });
    assert_eq!(facts(&status, 100).unwrap().trouble, Some((Reason::Frozen, "frozen".into())));
    (status.clusters[0].reason, status.clusters[0].message) = (Reason::NoHealthyTarget, "ill".into());
    assert_eq!(facts(&status, 100).unwrap().trouble, Some((Reason::NoHealthyTarget, "ill".into())));
}
