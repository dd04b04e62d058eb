//! Gates: what a comparison takes, what a measurement means, and that missing data is neither success nor failure.

mod shift_support;

use proptest::prelude::*;
use shift_support::{Stage, at, dead, judging, plan, record};
use switchyard_core::shift::{
    CheckedGate, GatePhase, GateRun, State,
    analysis::{Comparison, Measured, Reading},
};

const GREEN: &str = "policies: [{name: checkout, to: green}]\n";

fn gate(fields: &str) -> CheckedGate {
    let plan = plan(&format!("{GREEN}gates: [{{name: errors, prometheus: {{source: main, query: up}}, {fields}}}]"));
    plan.steps[0].gates[0].clone()
}

/// How a gate stands after these readings, ten seconds apart.
fn after(gate: &CheckedGate, readings: &[Reading]) -> GateRun {
    let mut run = GateRun::default();
    for (i, reading) in (0..).zip(readings) {
        run.take(gate, reading, at(10 * i));
    }
    run
}

fn value(number: f64) -> Reading {
    Reading::Value(number)
}

fn missing() -> Reading {
    Reading::NoData("no series".to_owned())
}

#[test]
fn a_comparison_is_an_operator_and_a_number() {
    for (text, good, bad) in [
        ("< 0.01", 0.0, 0.01),
        ("<=0.01", 0.01, 0.02),
        (" > 99.5 ", 99.6, 99.5),
        (">= -1", -1.0, -1.1),
        ("== 0", 0.0, 1.0),
        ("!= 1e3", 1.0, 1000.0),
    ] {
        let comparison: Comparison = text.parse().unwrap();
        assert!(comparison.holds(good) && !comparison.holds(bad), "{text}");
        let written = comparison.to_string();
        assert_eq!(written.parse::<Comparison>().unwrap(), comparison, "{written}");
        let json = serde_json::to_string(&comparison).unwrap();
        assert_eq!(serde_json::from_str::<Comparison>(&json).unwrap(), comparison);
    }
}

#[test]
fn what_is_no_comparison_is_refused_with_an_example() {
    for text in ["", "0.01", "<", "< x", "= 1", "=< 1", "< NaN", "< inf", "< 1 2", "less than 1"] {
        let error = text.parse::<Comparison>().unwrap_err().to_string();
        assert!(error.contains("such as \"< 0.01\""), "{text:?}: {error}");
    }
}

#[test]
fn a_gate_passes_with_its_last_needed_success() {
    let gate = gate("success: '< 0.5', count: 2");
    assert_eq!(after(&gate, &[value(0.1)]).phase, GatePhase::Running);
    let run = after(&gate, &[value(0.1), value(0.2)]);
    assert_eq!((run.phase, run.succeeded, run.value), (GatePhase::Passed, 2, Some(0.2)));
    assert_eq!(run.message, "0.2 < 0.5 is a success");
}

#[test]
fn whatever_is_no_success_is_a_failure_when_no_failure_is_named() {
    let run = after(&gate("success: '< 0.5'"), &[value(0.5)]);
    assert_eq!((run.phase, run.failed), (GatePhase::Failed, 1));
    assert_eq!(run.message, "0.5 is not < 0.5");
}

#[test]
fn between_success_and_failure_nothing_is_said_and_the_gate_has_no_data() {
    let gate = gate("success: '< 0.5', failure: '> 0.9'");
    let run = after(&gate, &[value(0.7)]);
    assert_eq!((run.phase, run.without_data, run.failed), (GatePhase::NoData, 1, 0));
    assert_eq!(run.message, "0.7 is neither a success nor a failure");
    assert_eq!(after(&gate, &[value(0.91)]).phase, GatePhase::Failed);
}

#[test]
fn a_value_for_which_both_hold_is_a_failure() {
    assert_eq!(after(&gate("success: '< 1', failure: '> 0'"), &[value(0.5)]).phase, GatePhase::Failed);
}

#[test]
fn missing_data_is_neither_success_nor_failure_and_takes_a_passed_gate_back_to_waiting() {
    let gate = gate("success: '< 0.5', failureLimit: 0");
    let run = after(&gate, &[missing(), missing(), missing()]);
    assert_eq!((run.phase, run.succeeded, run.failed, run.without_data), (GatePhase::NoData, 0, 0, 3));
    assert_eq!(run.message, "no series");
    assert_eq!(after(&gate, &[missing(), value(0.1)]).phase, GatePhase::Passed);
    assert_eq!(after(&gate, &[value(0.1), missing()]).phase, GatePhase::NoData);
    assert_eq!(after(&gate, &[value(0.1), missing(), value(0.1)]).phase, GatePhase::Passed);
}

#[test]
fn what_is_no_number_is_missing_data_and_leaves_no_value_behind() {
    let run = after(&gate("success: '!= 3'"), &[value(f64::NAN)]);
    assert_eq!((run.phase, run.value), (GatePhase::NoData, None));
    assert_eq!(after(&gate("success: '> 3'"), &[value(f64::INFINITY)]).phase, GatePhase::NoData);
}

#[test]
fn failures_up_to_the_limit_are_put_up_with_and_one_more_fails_a_passed_gate_for_good() {
    let gate = gate("success: '< 0.5', failureLimit: 1");
    assert_eq!(after(&gate, &[value(1.0)]).phase, GatePhase::Running);
    assert_eq!(after(&gate, &[value(0.1), value(1.0)]).phase, GatePhase::Passed);
    assert_eq!(after(&gate, &[value(0.1), value(1.0), value(1.0)]).phase, GatePhase::Failed);
    let run = after(&gate, &[value(1.0), value(1.0), value(0.1), missing()]);
    assert_eq!((run.phase, run.succeeded, run.without_data), (GatePhase::Failed, 0, 0));
}

#[test]
fn a_measurement_that_comes_twice_or_late_counts_once() {
    let gate = gate("success: '< 0.5', count: 2");
    let mut run = GateRun::default();
    run.take(&gate, &value(0.1), at(0));
    run.take(&gate, &value(0.1), at(0));
    assert_eq!(run.succeeded, 1);
    run.take(&gate, &value(0.1), at(30));
    run.take(&gate, &value(0.1), at(0));
    assert_eq!((run.succeeded, run.measured_at), (2, Some(at(30))));
}

#[test]
fn a_webhook_says_pass_or_fail_or_asks_to_wait() {
    let gate = gate("success: '< 0.5'");
    let says = |pass| Reading::Verdict { pass, message: "said".to_owned() };
    let phases = [Some(true), Some(false), None].map(|pass| after(&gate, &[says(pass)]).phase);
    assert_eq!(phases, [GatePhase::Passed, GatePhase::Failed, GatePhase::Running]);
    let run = after(&gate, &[says(None)]);
    assert_eq!((run.message.as_str(), run.succeeded, run.failed, run.without_data), ("said", 0, 0, 0));
    // One that passed waits again, until the next success.
    assert_eq!(after(&gate, &[says(Some(true)), says(None)]).phase, GatePhase::Running);
    assert_eq!(after(&gate, &[says(Some(true)), says(None), says(Some(true))]).phase, GatePhase::Passed);
}

#[test]
fn a_gate_is_due_when_the_step_bakes_and_then_at_its_interval() {
    let gate = gate("success: '< 0.5', intervalSeconds: 30");
    let mut run = GateRun::default();
    assert_eq!(run.due_at(&gate, at(7)), at(7));
    run.take(&gate, &missing(), at(8));
    assert_eq!(run.due_at(&gate, at(7)), at(38));
}

/// A flip to green that bakes under a gate on the health of its targets.
fn baking(percent: u32) -> Stage {
    let checkout = record("checkout", &[("blue", 100), ("green", 0)], "");
    let gates =
        format!("gates: [{{name: healthy, intervalSeconds: 30, targetHealth: {{minHealthyPercent: {percent}}}}}]");
    let mut stage = Stage::new(&format!("{GREEN}{gates}"), &[&checkout]);
    stage.look();
    stage.settle();
    stage
}

#[test]
fn target_health_passes_with_enough_healthy_targets_of_the_clusters_that_gain() {
    let mut stage = baking(100);
    // The clusters that lose are not asked.
    stage.targets("checkout", "blue", dead(3));
    stage.look();
    assert_eq!(stage.state(), State::Converging);
}

#[test]
fn target_health_fails_with_too_few_and_waits_for_those_that_are_being_judged() {
    let mut stage = baking(100);
    let mut counts = judging(3);
    (counts.initial, counts.healthy) = (1, 2);
    stage.targets("checkout", "green", counts);
    stage.look();
    assert_eq!((stage.state(), stage.why().as_str()), (State::Baking, "GatesRunning"));
    assert!(
        stage.shift.message.contains("2 of 3 targets of green are healthy, 100 % must be"),
        "{}",
        stage.shift.message
    );
    (counts.initial, counts.unhealthy) = (0, 1);
    stage.targets("checkout", "green", counts);
    stage.look();
    assert_eq!(stage.state(), State::Baking, "it is measured at its interval, not at every look");
    stage.wait(30);
    stage.look();
    assert_eq!((stage.state(), stage.why().as_str()), (State::Aborting, "GateFailed"));
}

#[test]
fn target_health_of_targets_that_nobody_knows_is_missing_data() {
    let mut stage = baking(50);
    stage.policy("checkout").clusters[1].known = false;
    stage.look();
    assert_eq!((stage.state(), stage.why().as_str()), (State::Baking, "NoData"));
}

#[test]
fn a_measurement_of_another_step_is_passed_over() {
    let checkout = record("checkout", &[("blue", 100), ("green", 0)], "");
    let gates = "gates: [{name: errors, prometheus: {source: main, query: up}, success: '< 0.5'}]\n\
                 strategy: {linear: {stepPercent: 50}}";
    let mut stage = Stage::new(&format!("{GREEN}{gates}"), &[&checkout]);
    stage.look();
    let reading = |step, number| Measured { step, gate: 0, at: at(1), reading: value(number) };
    stage.measured = vec![reading(1, 5.0)];
    let outcome = stage.settled_look();
    assert_eq!((outcome.due, stage.why().as_str()), (vec![0], "GatesRunning"));
    stage.measured = vec![reading(0, 0.1)];
    let outcome = stage.look();
    assert_eq!((stage.state(), stage.shift.step, outcome.due), (State::Stepping, Some(1), vec![]));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_of_comparisons_panic(text in "[<>=! ]{0,3}.{0,12}") {
        if let Ok(comparison) = text.parse::<Comparison>() {
            prop_assert_eq!(comparison.to_string().parse::<Comparison>().unwrap(), comparison);
        }
    }

    #[test]
    fn a_gate_stands_as_its_counts_say(readings in prop::collection::vec(0..4_u8, 0..30), count in 1..4_u32, limit in 0..3_u32) {
        let gate = gate(&format!("success: '< 0.5', failure: '> 0.9', count: {count}, failureLimit: {limit}"));
        let made: Vec<Reading> = readings.iter().map(|kind| match kind {
            0 => missing(),
            1 => value(0.7),
            2 => value(0.1),
            _ => value(1.0),
        }).collect();
        let run = after(&gate, &made);
        // Nothing after the failure that was one too many is taken in.
        let failing = readings.iter().enumerate().filter(|(_, kind)| **kind == 3).nth(limit as usize).map(|(i, _)| i);
        let taken = &readings[..failing.map_or(readings.len(), |i| i + 1)];
        let number = |kinds: &[u8]| u32::try_from(taken.iter().filter(|kind| kinds.contains(kind)).count()).unwrap();
        prop_assert_eq!((run.succeeded, run.failed, run.without_data), (number(&[2]), number(&[3]), number(&[0, 1])));
        let phase = match taken.last() {
            _ if failing.is_some() => GatePhase::Failed,
            Some(0 | 1) => GatePhase::NoData,
            _ if number(&[2]) >= count => GatePhase::Passed,
            _ => GatePhase::Running,
        };
        prop_assert_eq!(run.phase, phase);
    }
}

#[test]
fn a_webhook_that_asks_to_wait_is_neither_without_data_nor_passed() {
    let wait = || Reading::Verdict { pass: None, message: "the load test runs".to_owned() };
    let pass = || Reading::Verdict { pass: Some(true), message: "all good".to_owned() };
    let hook = plan(&format!("{GREEN}gates: [{{name: hook, webhook: {{endpoint: ci}}}}]")).steps[0].gates[0].clone();
    let run = after(&hook, &[wait(), wait()]);
    assert_eq!((run.phase, run.without_data, run.message.as_str()), (GatePhase::Running, 0, "the load test runs"));
    assert_eq!(after(&hook, &[wait(), pass()]).phase, GatePhase::Passed);
    assert_eq!(after(&hook, &[pass(), wait()]).phase, GatePhase::Running, "it took its word back");
}

#[test]
fn the_history_says_on_what_evidence_a_step_was_left() {
    let yaml = format!(
        "{GREEN}gates: [{{name: errors, prometheus: {{source: main, query: up}}, success: '< 0.5'}}]\n\
         strategy: {{canary: {{percent: 5}}}}\n"
    );
    let mut stage = Stage::new(&yaml, &[&record("checkout", &[("blue", 100), ("green", 0)], "")]);
    stage.look();
    stage.settled_look();
    stage.measured = vec![Measured { step: 0, gate: 0, at: stage.now, reading: value(0.25) }];
    stage.look();
    let left = stage.shift.history.last().unwrap();
    assert_eq!(stage.state(), State::Stepping);
    assert!(left.message.ends_with("; gates of step 1: errors (1 succeeded, 0 failed, last 0.25)"), "{}", left.message);
}

#[test]
fn a_step_is_left_on_a_look_that_is_not_older_than_the_end_of_its_bake_time() {
    let yaml = format!(
        "{GREEN}gates: [{{name: healthy, targetHealth: {{minHealthyPercent: 100}}, intervalSeconds: 3600}}]\n\
         strategy: {{canary: {{percent: 5, bakeSeconds: 20}}}}\n"
    );
    let mut stage = Stage::new(&yaml, &[&record("checkout", &[("blue", 100), ("green", 0)], "")]);
    stage.look();
    assert_eq!(stage.settled_look().again_at, Some(at(20)), "measured at the read-back, and next at the end");
    let one_of_three = switchyard_core::status::TargetCounts { healthy: 2, unhealthy: 1, ..shift_support::healthy(3) };
    stage.targets("checkout", "green", one_of_three);
    stage.wait(20);
    stage.look();
    assert_eq!((stage.state(), stage.why().as_str()), (State::Aborting, "GateFailed"));
}
