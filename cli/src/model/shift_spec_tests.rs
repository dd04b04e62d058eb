//! The TrafficShift document: nothing is lost on the way to the API and back, and a mistyped field is refused.

use super::*;

/// Every field of the resource, each with a value of its own.
const EVERYTHING: &str = r#"
policies:
  - {namespace: shop, name: checkout, to: green, expectedVersion: 7}
  - {namespace: shop, name: cart, weights: {blue: 25, green: 75}}
strategy:
  steps:
    - percent: 5
      bakeSeconds: 120
      approval: true
      gates:
        - {name: health, targetHealth: {minHealthyPercent: 90}, intervalSeconds: 10, count: 3, failureLimit: 2}
        - {name: smoke, webhook: {endpoint: smoke}}
    - {percent: 100}
gates:
  - {name: errors, prometheus: {source: main, query: up}, success: < 0.01, failure: '> 0.05'}
  - name: fives
    cloudWatch: {metric: HTTPCode_Target_5XX_Count, statistic: Sum, periodSeconds: 60, dividedBy: RequestCount}
    success: < 0.01
overrides: [MaxStepPercent]
reason: release 42
progressDeadlineSeconds: 300
"#;

fn spec(text: &str) -> Result<ShiftSpec, String> {
    serde_norway::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn everything_that_was_written_reaches_the_api_and_comes_back() {
    let written = spec(EVERYTHING).unwrap();
    let sent = pb::ShiftSpec::from(written.clone());
    assert_eq!(sent.policies[0].to_cluster, "green");
    assert_eq!(sent.policies[0].expected_version, 7);
    assert_eq!(sent.policies[1].weights, [("blue".to_owned(), 25), ("green".to_owned(), 75)].into());
    let steps = &sent.strategy.as_ref().unwrap().steps;
    assert!(steps[0].approval && steps[0].bake_seconds == 120 && steps[1].percent == 100);
    assert_eq!(steps[0].gates[0].target_health, Some(pb::TargetHealthGate { min_healthy_percent: 90 }));
    assert_eq!((steps[0].gates[0].count, steps[0].gates[0].failure_limit), (3, 2));
    assert_eq!(steps[0].gates[1].webhook, Some(pb::WebhookGate { endpoint: "smoke".into() }));
    assert_eq!((sent.gates[0].success.as_str(), sent.gates[0].failure.as_str()), ("< 0.01", "> 0.05"));
    assert_eq!(sent.gates[1].cloud_watch.as_ref().unwrap().divided_by, "RequestCount");
    assert_eq!((sent.progress_deadline_seconds, sent.reason.as_str()), (300, "release 42"));
    assert_eq!(ShiftSpec::from(sent), written);
    let text = serde_norway::to_string(&written).unwrap();
    assert_eq!(spec(&text).unwrap(), written, "what is shown can be read again:\n{text}");
}

#[test]
fn each_named_strategy_reaches_the_api_and_comes_back() {
    for text in [
        "{linear: {stepPercent: 20, bakeSeconds: 60}}",
        "{exponential: {firstPercent: 5, factor: 3, bakeSeconds: 60}}",
        "{canary: {percent: 5, bakeSeconds: 60, approval: true}}",
    ] {
        let written = spec(&format!("policies: [{{name: a, to: b}}]\nstrategy: {text}\n")).unwrap();
        let sent = pb::ShiftSpec::from(written.clone());
        assert!(sent.strategy.is_some(), "{text}");
        assert_eq!(ShiftSpec::from(sent), written, "{text}");
    }
}

#[test]
fn no_strategy_means_at_once() {
    let sent = pb::ShiftSpec::from(spec("policies: [{name: a, to: b}]").unwrap());
    assert_eq!(sent.strategy, None);
}

#[test]
fn a_field_that_nobody_knows_is_refused_by_its_name() {
    for (text, field) in [
        ("policies: [{name: a, too: b}]", "too"),
        ("policies: []\nstrategy: {steps: [{percent: 5, bake: 3}]}", "bake"),
        ("policies: []\ngates: [{name: a, webhook: {url: b}}]", "url"),
        ("policies: []\nstratgy: {}", "stratgy"),
    ] {
        let error = spec(text).unwrap_err();
        assert!(error.contains(field), "{error}");
    }
}

/// The field names of the resource, as its author wrote them.
#[test]
fn the_names_are_those_of_the_resource() {
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../core/src/shift/spec.rs")).unwrap();
    let mine = include_str!("shift_spec.rs");
    let names = |text: &str, name: &str| -> Vec<String> {
        let (_, body) = text.split_once(&format!("pub struct {name} {{")).unwrap_or_else(|| panic!("no {name}"));
        let (body, _) = body.split_once("\n}").unwrap();
        let field = |line: &str| Some(line.trim().strip_prefix("pub ")?.split_once(':')?.0.to_owned());
        body.lines().filter_map(field).collect()
    };
    for (core, cli) in [
        ("ShiftSpec", "ShiftSpec"),
        ("PolicyTarget", "PolicyTarget"),
        ("Strategy", "Strategy"),
        ("StepSpec", "Step"),
        ("Linear", "Linear"),
        ("Exponential", "Exponential"),
        ("Canary", "Canary"),
        ("Gate", "Gate"),
        ("TargetHealthGate", "TargetHealth"),
        ("PrometheusGate", "Prometheus"),
        ("CloudWatchGate", "CloudWatch"),
        ("WebhookGate", "Webhook"),
    ] {
        let expected = names(&source, core);
        assert!(!expected.is_empty(), "{core}");
        assert_eq!(names(mine, cli), expected, "{core}");
    }
}
