//! What the command line of `flip` and `shift` asks the hub for.

use clap::Parser;

use super::*;
use crate::{
    args::{Cli, Command, OVERRIDABLE},
    output::Output,
};

fn asked(line: &[&str]) -> Result<ShiftSpec, Failure> {
    let mut words = vec!["yardctl"];
    words.extend(line);
    let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    let context = Context { output: Output::new(cli.global.output, cli.global.color), global: cli.global };
    match cli.command {
        Command::Flip(args) => spec(&context, &args.policies, &args.target, Strategy::default(), &args.asking),
        Command::Shift(args) => spec(&context, &args.policies, &args.target, strategy(&args)?, &args.asking),
        other => panic!("{other:?}"),
    }
}

/// Percent, bake time and approval of each step.
fn steps(line: &[&str]) -> Vec<(u32, u32, bool)> {
    let strategy = asked(line).unwrap().strategy;
    strategy.steps.iter().map(|step| (step.percent, step.bake_seconds, step.approval)).collect()
}

const TO: [&str; 4] = ["shift", "shop/checkout", "--to", "green"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    TO.iter().chain(more).copied().collect()
}

#[test]
fn a_flip_moves_every_policy_to_the_cluster_at_once() {
    let spec = asked(&["flip", "-n", "shop", "checkout", "cart", "--to", "green"]).unwrap();
    assert_eq!(spec.strategy, Strategy::default());
    let names: Vec<_> = spec.policies.iter().map(|policy| (policy.namespace.as_str(), policy.name.as_str())).collect();
    assert_eq!(names, [("shop", "checkout"), ("shop", "cart")]);
    assert!(spec.policies.iter().all(|policy| policy.to.as_deref() == Some("green") && policy.weights.is_empty()));
}

#[test]
fn weights_are_taken_instead_of_a_cluster() {
    let spec = asked(&["flip", "shop/checkout", "--weights", "green=50,blue=50"]).unwrap();
    let policy = &spec.policies[0];
    assert_eq!((policy.to.as_ref(), policy.weights.len(), policy.weights["green"]), (None, 2, 50));
}

#[test]
fn the_last_step_neither_bakes_nor_needs_approval() {
    let line = with(&["--steps", "5,25,100", "--bake", "2m", "--approval"]);
    assert_eq!(steps(&line), [(5, 120, true), (25, 120, true), (100, 0, false)]);
}

#[test]
fn approval_may_be_needed_at_one_step_only() {
    let line = with(&["--steps", "5,25,100", "--approve-at", "25"]);
    assert_eq!(steps(&line), [(5, 0, false), (25, 0, true), (100, 0, false)]);
}

#[test]
fn each_named_strategy_carries_its_numbers() {
    let of = |more: &[&'static str]| asked(&with(more)).unwrap().strategy;
    let linear = Linear { step_percent: 20, bake_seconds: 60 };
    assert_eq!(of(&["--linear", "20", "--bake", "1m"]).linear, Some(linear));
    let exponential = Exponential { first_percent: 5, factor: 3, bake_seconds: 60 };
    assert_eq!(of(&["--exponential", "5x3", "--bake", "1m"]).exponential, Some(exponential));
    let doubling = Exponential { first_percent: 5, factor: 0, bake_seconds: 0 };
    assert_eq!(of(&["--exponential", "5"]).exponential, Some(doubling));
    let canary = Canary { percent: 5, bake_seconds: 600, approval: true };
    assert_eq!(of(&["--canary", "5", "--bake", "10m", "--approval"]).canary, Some(canary));
}

#[test]
fn everything_else_of_the_line_is_asked_for_too() {
    let spec = asked(&with(&[
        "--linear",
        "50",
        "--gate",
        "health=90",
        "--gate",
        "prometheus/main: errors; success < 0.01",
        "--override",
        "MaxStepPercent",
        "--override",
        "Capacity",
        "--reason",
        "release 42",
        "--progress-deadline",
        "5m",
        "--expected-version",
        "7",
    ]))
    .unwrap();
    let gates: Vec<&str> = spec.gates.iter().map(|gate| gate.name.as_str()).collect();
    assert_eq!(gates, ["health", "prometheus-main"]);
    assert_eq!(spec.overrides, ["MaxStepPercent", "Capacity"]);
    assert_eq!((spec.reason.as_str(), spec.progress_deadline_seconds), ("release 42", 300));
    assert_eq!(spec.policies[0].expected_version, 7);
}

#[test]
fn what_is_missing_or_contradicts_itself_is_refused_with_a_remedy() {
    for (line, why, remedy) in [
        (vec!["flip", "a"], "it is not said where the traffic goes", "--to CLUSTER"),
        (with(&[]), "it is not said in which steps", "yardctl flip"),
        (with(&["--steps", "5,100", "--approve-at", "25"]), "--approve-at names 25", "steps of --steps"),
        (vec!["flip", "a", "b", "--to", "c", "--expected-version", "7"], "several policies", "-f"),
        (vec!["flip", "a", "--weights", "b=1,b=2"], "'b' is given twice", "once"),
    ] {
        let failure = asked(&line).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{line:?}");
        assert!(failure.why.contains(why), "{line:?}: {}", failure.why);
        assert!(failure.remedy.contains(remedy), "{line:?}: {}", failure.remedy);
    }
}

#[test]
fn a_line_with_two_strategies_or_a_strategy_and_a_file_is_refused() {
    for more in [
        vec!["--linear", "20", "--canary", "5"],
        vec!["--steps", "5,100", "--linear", "20"],
        vec!["--linear", "20", "--approval"],
        vec!["--linear", "20", "--approve-at", "20"],
        vec!["-f", "shift.yaml"],
    ] {
        let mut words = vec!["yardctl"];
        words.extend(with(&more));
        assert!(Cli::try_parse_from(words).is_err(), "{more:?}");
    }
    assert!(Cli::try_parse_from(["yardctl", "shift", "-f", "a.yaml", "--to", "green"]).is_err());
    assert!(Cli::try_parse_from(["yardctl", "shift", "-f", "a.yaml", "--steps", "5,100"]).is_err());
    assert!(Cli::try_parse_from(["yardctl", "shift", "-f", "a.yaml", "--reason", "x", "--wait"]).is_ok());
}

#[test]
fn a_wait_without_a_value_is_for_the_end() {
    let wait = |line: &[&str]| match Cli::try_parse_from(line).unwrap().command {
        Command::Flip(args) => args.asking.wait,
        other => panic!("{other:?}"),
    };
    assert_eq!(wait(&["yardctl", "flip", "a", "--to", "b", "--wait"]), Some(Goal::Converged));
    assert_eq!(wait(&["yardctl", "flip", "a", "--to", "b", "--wait", "accepted"]), Some(Goal::Accepted));
    assert_eq!(wait(&["yardctl", "flip", "a", "--to", "b", "--wait", "--reason", "x"]), Some(Goal::Converged));
    assert_eq!(wait(&["yardctl", "flip", "a", "--to", "b"]), None);
}

#[test]
fn the_rules_that_can_be_crossed_are_those_of_the_hub() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../core/src/shift/guard.rs");
    let source = std::fs::read_to_string(path).unwrap();
    let (_, body) = source.split_once("pub fn overridable(self) -> bool {").expect("Guard has no overridable any more");
    let (body, _) = body.split_once("=> true").expect("no rule is overridable");
    let mut hub: Vec<&str> = body
        .split(|c: char| !(c.is_alphanumeric() || c == ':'))
        .filter_map(|word| word.strip_prefix("Guard::"))
        .collect();
    let mut mine = OVERRIDABLE.to_vec();
    hub.sort_unstable();
    mine.sort_unstable();
    assert_eq!(mine, hub);
}
