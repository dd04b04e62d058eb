//! The door for shifts: what is written out of a strategy, every fault by its field, and what a shift needs of its policies.

mod shift_support;

use std::collections::BTreeMap;

use shift_support::{key, plan, record, shop, spec, start_time, weights, words};
use switchyard_core::{
    ids::ShiftId,
    policy::PolicyRecord,
    shift::{
        Guard, Origin, Shift, State,
        guard::Finding,
        validate,
        validate::{StartError, stored_findings},
    },
};

const GREEN: &str = "policies: [{name: checkout, to: green}]\n";

fn percents(strategy: &str) -> Vec<(u32, u32, bool)> {
    let plan = plan(&format!("{GREEN}strategy: {strategy}"));
    plan.steps.iter().map(|step| (step.percent, step.bake_seconds, step.approval)).collect()
}

/// Every fault, as `field: problem`.
fn faults(yaml: &str) -> Vec<String> {
    let violations = validate(&spec(yaml), &shop(), true).unwrap_err();
    assert!(violations.iter().all(|violation| !violation.remedy.is_empty()));
    violations.into_iter().map(|violation| format!("{}: {}", violation.field, violation.problem)).collect()
}

fn fault(rest: &str) -> String {
    let found = faults(&format!("{GREEN}{rest}"));
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn without_a_strategy_everything_moves_in_one_step() {
    assert_eq!(percents("{}"), [(100, 0, false)]);
    assert_eq!(plan(GREEN).spec.progress_deadline_seconds, 600);
}

#[test]
fn strategies_are_written_out_as_steps_and_the_last_one_has_no_bake_time() {
    let three = |all: &[u32], bake| {
        let (last, rest) = all.split_last().unwrap();
        let mut steps: Vec<_> = rest.iter().map(|percent| (*percent, bake, false)).collect();
        steps.push((*last, 0, false));
        steps
    };
    assert_eq!(percents("{linear: {stepPercent: 20, bakeSeconds: 9}}"), three(&[20, 40, 60, 80, 100], 9));
    assert_eq!(percents("{linear: {stepPercent: 40}}"), three(&[40, 80, 100], 0));
    assert_eq!(percents("{linear: {stepPercent: 100}}"), three(&[100], 0));
    assert_eq!(percents("{exponential: {firstPercent: 5, bakeSeconds: 7}}"), three(&[5, 10, 20, 40, 80, 100], 7));
    assert_eq!(percents("{exponential: {firstPercent: 1, factor: 10}}"), three(&[1, 10, 100], 0));
    assert_eq!(percents("{canary: {percent: 5, bakeSeconds: 60, approval: true}}"), [(5, 60, true), (100, 0, false)]);
    assert_eq!(percents("{linear: {stepPercent: 1}}").len(), 100);
    let written = "{steps: [{percent: 5, bakeSeconds: 3, approval: true}, {percent: 100, bakeSeconds: 9}]}";
    assert_eq!(percents(written), [(5, 3, true), (100, 9, false)]);
}

#[test]
fn gates_of_the_shift_stand_before_those_of_the_step() {
    let plan = plan(&format!(
        "{GREEN}gates: [{{name: all, targetHealth: {{}}}}]\n\
         strategy: {{steps: [{{percent: 5, gates: [{{name: own, webhook: {{endpoint: ci}}}}]}}, {{percent: 100}}]}}"
    ));
    let names: Vec<Vec<&str>> =
        plan.steps.iter().map(|step| step.gates.iter().map(|gate| gate.name.as_str()).collect()).collect();
    assert_eq!(names, [vec!["all", "own"], vec!["all"]]);
}

#[test]
fn faults_of_strategies_are_named_by_their_fields() {
    for (strategy, expected) in [
        ("{linear: {stepPercent: 0}}", "spec.strategy.linear.stepPercent: is outside 1 to 100"),
        ("{linear: {stepPercent: 5, bakeSeconds: 604801}}", "spec.strategy.linear.bakeSeconds: is outside 0 to 604800"),
        ("{exponential: {firstPercent: 101}}", "spec.strategy.exponential.firstPercent: is outside 1 to 100"),
        ("{exponential: {firstPercent: 1, factor: 1}}", "spec.strategy.exponential.factor: is outside 2 to 10"),
        ("{canary: {percent: 100}}", "spec.strategy.canary.percent: is outside 1 to 99"),
        ("{canary: {percent: 5}, linear: {stepPercent: 5}}", "spec.strategy: holds more than one strategy"),
        ("{steps: [{percent: 101}]}", "spec.strategy.steps[0].percent: is outside 1 to 100"),
        ("{steps: [{percent: 50}]}", "spec.strategy.steps[0].percent: is the last step and not 100"),
        (
            "{steps: [{percent: 9}, {percent: 9}, {percent: 100}]}",
            "spec.strategy.steps[1].percent: is not more than in the step before",
        ),
        (
            "{steps: [{percent: 100, bakeSeconds: 700000}]}",
            "spec.strategy.steps[0].bakeSeconds: is outside 0 to 604800",
        ),
    ] {
        assert!(faults(&format!("{GREEN}strategy: {strategy}")).contains(&expected.to_owned()), "{strategy}");
    }
    let many: Vec<String> = (0..101).map(|i| format!("{{percent: {}}}", i.min(100))).collect();
    let found = faults(&format!("{GREEN}strategy: {{steps: [{}]}}", many.join(", ")));
    assert_eq!(found[0], "spec.strategy.steps: is the number of entries, 100 are allowed");
}

#[test]
fn faults_of_gates_are_named_by_their_fields() {
    let prometheus = "prometheus: {source: main, query: up}, success: '< 1'";
    let watch = |fields: &str| format!("name: a, success: '< 1', cloudWatch: {{metric: RequestCount, {fields}}}");
    for (gate, expected) in [
        (format!("name: A, {prometheus}"), "name: holds the character 'A'"),
        (format!("name: a, {prometheus}, intervalSeconds: 4"), "intervalSeconds: is outside 5 to 3600"),
        (format!("name: a, {prometheus}, count: 0"), "count: is outside 1 to 1000"),
        (format!("name: a, {prometheus}, failureLimit: 1001"), "failureLimit: is outside 0 to 1000"),
        ("name: a, prometheus: {source: main, query: up}".to_owned(), "success: is missing"),
        ("name: a, prometheus: {source: main, query: ''}, success: '< 1'".to_owned(), "prometheus.query: is no query"),
        ("name: a, prometheus: {source: '', query: up}, success: '< 1'".to_owned(), "prometheus.source: is empty"),
        (format!("name: a, {prometheus}, failure: 'x'"), "failure: is no comparison with a number"),
        ("name: a, targetHealth: {}, success: '< 1'".to_owned(), "success: compares a number, and this gate has none"),
        (
            "name: a, targetHealth: {minHealthyPercent: 0}".to_owned(),
            "targetHealth.minHealthyPercent: is outside 1 to 100",
        ),
        ("name: a, webhook: {endpoint: 'http://x'}".to_owned(), "webhook.endpoint: holds the character ':'"),
        (watch("statistic: Sum, periodSeconds: 90"), "cloudWatch.periodSeconds: is no period of CloudWatch"),
        (watch("statistic: p100"), "cloudWatch.statistic: is not a statistic"),
        (watch("statistic: sum"), "cloudWatch.statistic: is not a statistic"),
    ] {
        assert_eq!(fault(&format!("gates: [{{{gate}}}]")), format!("spec.gates[0].{expected}"));
    }
    assert_eq!(fault("gates: [{name: a}]"), "spec.gates[0]: does not say what to measure");
    let two = "gates: [{name: a, targetHealth: {}, webhook: {endpoint: ci}}]";
    assert_eq!(fault(two), "spec.gates[0]: does not say what to measure");
    let twice = "gates: [{name: a, targetHealth: {}}, {name: a, targetHealth: {}}]";
    let expected = "spec.strategy.steps[0].gates: holds two gates of one name (those of the shift included)";
    assert_eq!(fault(twice), expected);
}

#[test]
fn faults_of_policies_and_reasons_are_named_by_their_fields() {
    assert_eq!(faults("policies: []"), ["spec.policies: is empty"]);
    for (policy, expected) in [
        ("{name: checkout}", ": says not where the traffic goes"),
        ("{name: checkout, to: green, weights: {blue: 1}}", ": are both given"),
        ("{name: checkout, weights: {blue: 0, green: 0}}", ".weights: would be the weight of every cluster"),
        ("{name: checkout, weights: {blue: 1000, green: 1}}", ".weights[blue]: is above 999"),
        ("{name: checkout, to: Green}", ".to: holds the character 'G'"),
        ("{name: '', to: green}", ".name: is empty"),
        ("{name: checkout, namespace: other, to: green}", ".namespace: is not the resource's namespace"),
    ] {
        let found = faults(&format!("policies: [{policy}]"));
        assert_eq!(found.len(), 1, "{policy}: {found:?}");
        assert_eq!(found[0], format!("spec.policies[0]{expected}"));
    }
    let twice = faults("policies: [{name: checkout, to: green}, {name: checkout, namespace: shop, to: blue}]");
    assert_eq!(twice, ["spec.policies[1]: is named twice"]);
    let many: Vec<String> = (0..21).map(|i| format!("{{name: p{i}, to: green}}")).collect();
    let found = faults(&format!("policies: [{}]", many.join(", ")));
    assert_eq!(found, ["spec.policies: is the number of entries, 20 are allowed"]);
    assert_eq!(fault("progressDeadlineSeconds: 29"), "spec.progressDeadlineSeconds: is outside 30 to 86400");
    assert_eq!(fault("overrides: [MaxStepPercent]"), "spec.reason: is empty although safety rules are overridden");
    assert_eq!(fault("overrides: [Freeze]\nreason: x"), "spec.overrides[0]: cannot be overridden");
    assert_eq!(fault(&format!("reason: {}", "x".repeat(1025))), "spec.reason: is too long, or holds U+0000");
}

#[test]
fn a_call_may_name_policies_of_any_namespace_and_a_resource_those_of_its_own() {
    let yaml = "policies: [{name: checkout, namespace: other, to: green}]";
    assert_eq!(validate(&spec(yaml), &shop(), false).unwrap().targets[0].policy.to_string(), "other/checkout");
    assert!(validate(&spec(yaml), &shop(), true).is_err());
}

fn start(yaml: &str, records: &[&PolicyRecord]) -> Result<Shift, StartError> {
    let records = records.iter().map(|record| (record.policy.key.clone(), *record)).collect();
    plan(yaml).start(ShiftId::new("s1").unwrap(), Origin::Call, "alice", &records, start_time())
}

fn checkout() -> PolicyRecord {
    record("checkout", &[("blue", 70), ("green", 30), ("dr", 0)], "")
}

#[test]
fn a_shift_starts_from_what_is_asked_for_now_and_names_every_cluster() {
    let mut checkout = checkout();
    checkout.weight_override = Some(BTreeMap::from_iter(weights(&[("blue", 5), ("green", 6), ("dr", 7)])));
    let shift = start("policies: [{name: checkout, weights: {green: 9}}]\nreason: why", &[&checkout]).unwrap();
    assert_eq!(
        (words(&shift.moves[0].from), words(&shift.moves[0].to)),
        ("blue=5,green=6,dr=7".into(), "blue=0,green=9,dr=0".into())
    );
    assert_eq!((shift.state, shift.step, shift.version), (State::Pending, None, 1));
    assert_eq!((shift.reason.as_str(), shift.history.len()), ("why", 1));
    let all = start(GREEN, &[&checkout]).unwrap();
    assert_eq!(words(&all.moves[0].to), "blue=0,green=100,dr=0");
}

#[test]
fn a_shift_needs_policies_that_are_there_to_stay_at_the_version_that_was_seen() {
    assert_eq!(start(GREEN, &[]).unwrap_err(), StartError::NotFound(key("checkout")));
    let mut going = checkout();
    going.deleting_since = Some(start_time());
    assert_eq!(start(GREEN, &[&going]).unwrap_err(), StartError::Deleting(key("checkout")));
    let stale = "policies: [{name: checkout, to: green, expectedVersion: 7}]";
    let error = start(stale, &[&checkout()]).unwrap_err();
    assert_eq!(error.to_string(), "policy shop/checkout is at version 1, not at 7; read it again and decide anew");
    let right = "policies: [{name: checkout, to: green, expectedVersion: 1}]";
    assert!(start(right, &[&checkout()]).is_ok());
}

#[test]
fn a_cluster_that_the_policy_has_not_is_refused_with_those_that_it_has() {
    let StartError::Invalid(violations) = start("policies: [{name: checkout, to: gren}]", &[&checkout()]).unwrap_err()
    else {
        panic!("it is a fault of the content");
    };
    assert_eq!(violations[0].value, "gren");
    assert!(violations[0].remedy.contains("blue, green, dr"), "{}", violations[0]);
}

#[test]
fn a_rollback_may_cross_every_rule_that_is_no_fact() {
    let of = Origin::Rollback { of: ShiftId::new("s0").unwrap() };
    let checkout = checkout();
    let records = BTreeMap::from([(key("checkout"), &checkout)]);
    let shift = plan(GREEN).start(ShiftId::new("s1").unwrap(), of, "alice", &records, start_time()).unwrap();
    let may: Vec<Guard> = shift.overrides.into_iter().collect();
    let overridable: Vec<Guard> = Guard::ALL.into_iter().filter(|guard| guard.overridable()).collect();
    assert_eq!(may, overridable);
}

fn stored(yaml: &str, safety: &str) -> Vec<Finding> {
    let checkout = record("checkout", &[("blue", 100), ("green", 0)], &format!("  safety: {safety}"));
    let shift = start(yaml, &[&checkout]).unwrap();
    let memory = switchyard_core::policy::PolicyMemory::default();
    stored_findings(&shift, &BTreeMap::from([(key("checkout"), (&checkout, &memory))]), &[], start_time())
}

#[test]
fn what_an_author_wrote_is_judged_for_every_step_when_the_shift_is_asked_for() {
    let guards = |found: &[Finding]| found.iter().map(|one| (one.guard, one.step)).collect::<Vec<_>>();
    assert_eq!(stored(GREEN, "{maxStepPercent: 100}"), []);
    assert_eq!(guards(&stored(GREEN, "{maxStepPercent: 50}")), [(Guard::MaxStepPercent, 0)]);
    let steps = format!("{GREEN}strategy: {{steps: [{{percent: 20}}, {{percent: 90}}, {{percent: 100}}]}}");
    assert_eq!(guards(&stored(&steps, "{maxStepPercent: 50}")), [(Guard::MaxStepPercent, 1)]);
    assert_eq!(guards(&stored(&steps, "{freeze: true}")), [(Guard::Freeze, 0)]);
    let nothing = "policies: [{name: checkout, to: blue}]";
    assert_eq!(stored(nothing, "{freeze: true, maxStepPercent: 1}"), [], "what does not move crosses nothing");
}
