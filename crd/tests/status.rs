//! The agent writes the statuses and knows nothing of this crate: what it writes is in the schemas, and nothing else is.

use std::collections::BTreeSet;

use serde_json::Value;
use switchyard_agent::{
    policies::status::{CONDITION_TYPES, Claim, Cluster, Condition, Note, ResourceStatus, Rule, Targets},
    shifts::status::{self as shift, ShiftStatus},
};
use switchyard_core::shift::State;
use switchyard_crd::{traffic_policy, traffic_shift};

fn text() -> String {
    "text".to_owned()
}

fn condition(kind: &str) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: "True".to_owned(),
        reason: text(),
        message: text(),
        observed_generation: Some(1),
        last_transition_time: "2026-01-02T03:04:05Z".to_owned(),
    }
}

/// With every field set, so that none is left out when it is written.
fn everything() -> ResourceStatus {
    let cluster = Cluster {
        name: text(),
        requested_weight: 1,
        effective_weight: 1,
        programmed_weight: Some(1),
        reason: text(),
        message: text(),
        target_group_arn: text(),
        link: text(),
        targets: Some(Targets::default()),
    };
    let rule = Rule {
        listener_arn: text(),
        rule_arn: text(),
        priority: Some(1),
        programmed_at: Some("2026-01-02T03:04:05Z".to_owned()),
    };
    ResourceStatus {
        observed_generation: Some(1),
        claim: Some(Claim::Owner),
        generation_in_force: Some(1),
        weights: Some(text()),
        programmed: Some(text()),
        reason: Some(text()),
        conditions: CONDITION_TYPES.map(condition).to_vec(),
        clusters: vec![cluster],
        rule: Some(rule),
        notes: vec![Note { cluster: text(), reason: text(), message: text() }],
    }
}

/// The same of a shift.
fn everything_of_a_shift() -> ShiftStatus {
    ShiftStatus {
        observed_generation: Some(1),
        shift_id: Some(text()),
        state: Some(text()),
        reason: Some(text()),
        message: Some(text()),
        step: Some(1),
        steps: Some(1),
        programmed: Some(true),
        converged: Some(true),
        ended: Some(true),
        since: Some(text()),
        weights: Some(text()),
        paused: Some(true),
        conditions: shift::CONDITION_TYPES.map(condition).to_vec(),
    }
}

/// The fields of a value and of what is in it, with the JSON type of each.
fn written(at: &str, value: &Value, found: &mut BTreeSet<(String, &'static str)>) {
    let kind = match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| written(&format!("{at}.{name}"), value, found));
            "object"
        }
        Value::Array(items) => {
            items.iter().for_each(|item| written(&format!("{at}[]"), item, found));
            "array"
        }
        Value::String(_) => "string",
        Value::Number(_) => "integer",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    found.insert((at.to_owned(), kind));
}

/// The fields of a schema.
fn foreseen(at: &str, schema: &Value, found: &mut BTreeSet<(String, &'static str)>) {
    let known = ["object", "array", "string", "integer", "boolean"];
    let kind = known.into_iter().find(|kind| schema["type"] == **kind).unwrap_or_else(|| panic!("{at}: {schema}"));
    found.insert((at.to_owned(), kind));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        foreseen(&format!("{at}.{name}"), field, found);
    }
    if kind == "array" {
        foreseen(&format!("{at}[]"), &schema["items"], found);
    }
}

#[test]
fn the_status_that_the_agent_writes_is_the_one_of_the_schema() {
    for (resource, status) in [
        (traffic_policy::resource_schema(), serde_json::to_value(everything()).unwrap()),
        (traffic_shift::resource_schema(), serde_json::to_value(everything_of_a_shift()).unwrap()),
    ] {
        let (mut in_schema, mut in_status) = (BTreeSet::new(), BTreeSet::new());
        foreseen("status", &resource["properties"]["status"], &mut in_schema);
        written("status", &status, &mut in_status);
        assert_eq!(in_status, in_schema);
    }
}

#[test]
fn every_claim_and_every_condition_is_named_in_the_schema() {
    let policy = &traffic_policy::resource_schema()["properties"]["status"]["properties"];
    let claims = [Claim::Owner, Claim::Refused, Claim::Waiting].map(|claim| serde_json::to_value(claim).unwrap());
    assert_eq!(policy["claim"]["enum"], Value::from(claims.to_vec()));
    let shift = &traffic_shift::resource_schema()["properties"]["status"]["properties"];
    let named = |status: &Value, kinds: &[&str]| {
        let described = status["conditions"]["description"].as_str().unwrap();
        for kind in kinds {
            assert!(described.contains(kind), "{kind} is not explained: {described}");
        }
    };
    named(policy, &CONDITION_TYPES);
    named(shift, &shift::CONDITION_TYPES);
}

#[test]
fn every_state_of_a_shift_is_named_in_the_schema() {
    let resource = traffic_shift::resource_schema();
    let described = resource["properties"]["status"]["properties"]["state"]["description"].as_str().unwrap();
    for state in State::ALL {
        assert!(described.contains(&format!("{state:?}")), "{state:?} is not explained: {described}");
    }
}
