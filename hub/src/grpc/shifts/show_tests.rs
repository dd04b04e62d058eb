//! Tests of what callers see of a shift.

use std::collections::BTreeMap;

use serde_json::json;
use switchyard_core::{
    ids::PolicyKey,
    policy::{ClusterTrafficPolicy, PolicyRecord, validate as validate_policy},
    shift::{Cause, ShiftSpec, validate},
};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Two steps with a gate; nothing has happened yet.
fn shift() -> Shift {
    let manifest: ClusterTrafficPolicy = serde_json::from_value(json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"listener": {"loadBalancer": "shared", "port": 80}, "match": {"hostnames": ["a.example.com"]},
                 "backend": {"service": {"name": "web", "port": "http"}},
                 "clusters": [{"name": "blue", "weight": 100}, {"name": "green", "weight": 0}]},
    }))
    .unwrap();
    let record = PolicyRecord {
        uid: "u1".parse().unwrap(),
        version: 1,
        generation: 1,
        policy: validate_policy(&manifest).unwrap(),
        weight_override: None,
        deleting_since: None,
        failback_at: None,
    };
    let spec: ShiftSpec = serde_json::from_value(json!({
        "policies": [{"namespace": "shop", "name": "web", "to": "green"}],
        "strategy": {"steps": [
            {"percent": 5, "bakeSeconds": 60, "gates": [{"name": "healthy", "targetHealth": {}}]},
            {"percent": 100},
        ]},
    }))
    .unwrap();
    let plan = validate(&spec, &"shop".parse().unwrap(), false).unwrap();
    let policies = BTreeMap::from([(PolicyKey::new("shop", "web").unwrap(), &record)]);
    plan.start("s1".parse().unwrap(), Origin::Call, "me", &policies, at(100)).unwrap()
}

/// As it is while the first step bakes.
fn baking() -> Shift {
    let mut shift = shift();
    (shift.state, shift.step, shift.since, shift.why) = (State::Baking, Some(0), at(200), ShiftReason::Baking);
    shift.gates = vec![GateRun { phase: GatePhase::NoData, without_data: 3, value: Some(0.5), ..GateRun::default() }];
    shift.programmed = true;
    shift
}

fn shown(shift: &Shift) -> proto::ShiftStatus {
    to_proto_shift(shift, &Picture::empty()).status.unwrap()
}

fn seconds(at: Option<prost_types::Timestamp>) -> Option<i64> {
    at.map(|at| at.seconds)
}

fn weights(pairs: [(&str, u32); 2]) -> std::collections::HashMap<String, u32> {
    pairs.into_iter().map(|(name, weight)| (name.to_owned(), weight)).collect()
}

#[test]
fn every_state_has_a_word_of_its_own_that_ends_like_the_states() {
    let words: Vec<&str> = State::ALL.into_iter().map(|state| to_proto_state(state).as_str_name()).collect();
    for (state, word) in State::ALL.into_iter().zip(&words) {
        let letters = |text: &str| text.to_lowercase().replace('_', "");
        assert_eq!(letters(word), format!("shiftstate{}", letters(&state.to_string())));
    }
}

#[test]
fn steps_count_from_one_and_gates_have_their_names() {
    let before = shown(&shift());
    assert_eq!((before.step, before.steps, before.gates.len()), (0, 2, 0));
    assert_eq!(before.moves[0].present, weights([("blue", 100), ("green", 0)]));
    let status = shown(&baking());
    assert_eq!((status.step, status.steps), (1, 2));
    assert_eq!(status.moves[0].present, weights([("blue", 95), ("green", 5)]));
    let gate = &status.gates[0];
    assert_eq!((gate.name.as_str(), gate.phase(), gate.without_data), ("healthy", proto::GatePhase::NoData, 3));
    assert_eq!(gate.value, Some(0.5));
}

#[test]
fn the_time_until_it_goes_on_is_told_only_when_time_is_what_it_waits_for() {
    assert_eq!(seconds(shown(&shift()).until), None);
    assert_eq!(seconds(shown(&baking()).until), Some(260));
    let paused =
        Shift { pause: Some(Pause { since: at(210), actor: "me".to_owned(), reason: String::new() }), ..baking() };
    assert_eq!(seconds(shown(&paused).until), None);
    assert_eq!(seconds(shown(&Shift { promoted: true, ..baking() }).until), None);

    let finding = |guard, until| Finding {
        guard,
        policy: PolicyKey::new("shop", "web").unwrap(),
        step: 1,
        message: "later".to_owned(),
        overridden: false,
        until,
    };
    let held = |findings| Shift { why: ShiftReason::Held, findings, ..baking() };
    let (first, last) =
        (finding(Guard::MinStepInterval, Some(at(300))), finding(Guard::MaintenanceWindow, Some(at(400))));
    let status = shown(&held(vec![first.clone(), last.clone()]));
    assert_eq!(seconds(status.until), Some(400), "the last of them ends it");
    assert_eq!((status.findings[0].guard.as_str(), status.findings[0].step), ("MinStepInterval", 2));
    assert!(status.findings[0].overridable && !status.findings[0].overridden);
    let open = finding(Guard::GatingSwitch, None);
    assert_eq!(seconds(shown(&held(vec![first.clone(), open.clone()])).until), None, "a switch does not end by time");
    let crossed = Finding { overridden: true, ..open };
    assert_eq!(seconds(shown(&held(vec![first, crossed])).until), Some(300), "what is crossed holds nothing");
}

#[test]
fn a_final_state_tells_the_weights_that_were_read_back_last_and_nothing_that_was_left() {
    let (from, to) = (weights([("blue", 100), ("green", 0)]), weights([("blue", 0), ("green", 100)]));
    let ended = |state, cause, programmed| Shift { state, cause, programmed, step: Some(1), ..baking() };
    let done = shown(&Shift { gates: Vec::new(), ..ended(State::Succeeded, None, true) });
    assert_eq!((&done.moves[0].present, &done.moves[0].programmed), (&to, &to));
    let back = shown(&ended(State::Aborted, Some(Cause::Aborted), true));
    assert_eq!((&back.moves[0].present, &back.moves[0].programmed), (&from, &from));
    let lost = shown(&ended(State::Failed, Some(Cause::Failed), false));
    assert_eq!((&lost.moves[0].present, lost.moves[0].programmed.len()), (&from, 0));
    let mut left = ended(State::Superseded, Some(Cause::Superseded), true);
    left.moves[0].left = true;
    let left = shown(&left);
    assert_eq!((left.moves[0].present.len(), left.moves[0].programmed.len()), (0, 0));
}

#[test]
fn who_asked_is_told() {
    let shown = |origin| to_proto_shift(&Shift { origin, ..shift() }, &Picture::empty());
    assert_eq!((shown(Origin::Call).rollback_of, shown(Origin::Call).resource), (String::new(), None));
    assert_eq!(shown(Origin::Rollback { of: "s0".parse().unwrap() }).rollback_of, "s0");
    let origin = Origin::Resource {
        cluster: "blue".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        name: "to-green".to_owned(),
        uid: "r1".parse().unwrap(),
    };
    let resource = shown(origin).resource.unwrap();
    assert_eq!((resource.cluster.as_str(), resource.name.as_str(), resource.uid.as_str()), ("blue", "to-green", "r1"));
}
