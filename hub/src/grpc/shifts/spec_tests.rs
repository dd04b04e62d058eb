//! Tests of the spec's way in and out.

use switchyard_core::{
    ids::{ClusterName, PolicyKey},
    policy::{ClusterTrafficPolicy, PolicyRecord, validate as validate_policy},
    shift::Origin,
};

use super::*;

fn sources() -> GateSources {
    GateSources {
        prometheus: ["main".parse().unwrap()].into(),
        webhooks: ["ci".parse().unwrap()].into(),
        cloudwatch: true,
    }
}

fn flip(name: &str, to: &str) -> proto::ShiftPolicy {
    let policy = proto::PolicyRef { namespace: "shop".to_owned(), name: name.to_owned() };
    proto::ShiftPolicy { policy: Some(policy), to_cluster: to.to_owned(), ..Default::default() }
}

fn health(name: &str) -> proto::Gate {
    proto::Gate {
        name: name.to_owned(),
        target_health: Some(proto::TargetHealthGate::default()),
        ..proto::Gate::default()
    }
}

/// Every kind of gate, and a shared one.
fn full() -> proto::ShiftSpec {
    let prometheus = proto::PrometheusGate { source: "main".to_owned(), query: "sum(rate(errors[1m]))".to_owned() };
    let watch = proto::CloudWatchGate {
        metric: "HTTPCode_Target_5XX_Count".to_owned(),
        statistic: "Sum".to_owned(),
        divided_by: "RequestCount".to_owned(),
        ..Default::default()
    };
    let gates = vec![
        proto::Gate {
            name: "errors".to_owned(),
            prometheus: Some(prometheus),
            success: "<0.01".to_owned(),
            failure: "> 0.05".to_owned(),
            count: 4,
            failure_limit: 1,
            ..Default::default()
        },
        proto::Gate {
            name: "fives".to_owned(),
            cloud_watch: Some(watch),
            success: "< 0.01".to_owned(),
            ..Default::default()
        },
        proto::Gate {
            name: "ci".to_owned(),
            webhook: Some(proto::WebhookGate { endpoint: "ci".to_owned() }),
            interval_seconds: 7,
            ..Default::default()
        },
    ];
    let steps = vec![
        proto::ShiftStep { percent: 5, bake_seconds: 60, approval: true, gates },
        proto::ShiftStep { percent: 100, ..Default::default() },
    ];
    proto::ShiftSpec {
        policies: vec![flip("web", "green")],
        strategy: Some(proto::ShiftStrategy { steps, ..Default::default() }),
        gates: vec![health("healthy")],
        overrides: vec!["MaxStepPercent".to_owned()],
        reason: "upgrade of blue".to_owned(),
        progress_deadline_seconds: 0,
    }
}

fn record() -> PolicyRecord {
    let manifest: ClusterTrafficPolicy = serde_json::from_value(serde_json::json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"listener": {"loadBalancer": "shared", "port": 80}, "match": {"hostnames": ["a.example.com"]},
                 "backend": {"service": {"name": "web", "port": "http"}},
                 "clusters": [{"name": "blue", "weight": 100}, {"name": "green", "weight": 0}]},
    }))
    .unwrap();
    PolicyRecord {
        uid: "u1".parse().unwrap(),
        version: 3,
        generation: 1,
        policy: validate_policy(&manifest).unwrap(),
        weight_override: None,
        deleting_since: None,
        failback_at: None,
    }
}

fn start(plan: &ShiftPlan) -> Shift {
    let (key, record) = (PolicyKey::new("shop", "web").unwrap(), record());
    let policies = [(key, &record)].into();
    plan.start("s1".parse().unwrap(), Origin::Call, "me", &policies, jiff::Timestamp::UNIX_EPOCH).unwrap()
}

fn fields(violations: &[Violation]) -> Vec<&str> {
    violations.iter().map(|violation| violation.field.as_str()).collect()
}

#[test]
fn defaults_are_filled_in_and_shared_gates_stand_in_every_step() {
    let shift = start(&plan(&full(), &sources()).unwrap());
    let shown = to_proto_spec(&shift);
    assert_eq!(shown.progress_deadline_seconds, 600);
    assert_eq!(shown.gates, []);
    let steps = &shown.strategy.as_ref().unwrap().steps;
    let names = |step: &proto::ShiftStep| step.gates.iter().map(|gate| gate.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&steps[0]), ["healthy", "errors", "fives", "ci"]);
    assert_eq!(names(&steps[1]), ["healthy"]);
    let gates = &steps[0].gates;
    assert_eq!(gates[0].target_health.unwrap().min_healthy_percent, 100);
    assert_eq!((gates[1].success.as_str(), gates[1].interval_seconds, gates[1].count), ("< 0.01", 30, 4));
    assert_eq!(gates[2].cloud_watch.as_ref().unwrap().period_seconds, 60);
    assert_eq!((gates[3].interval_seconds, gates[3].count), (7, 1));
}

#[test]
fn what_is_shown_asks_for_the_same_steps_again() {
    let first = start(&plan(&full(), &sources()).unwrap());
    let again = start(&plan(&to_proto_spec(&first), &sources()).unwrap());
    assert_eq!(again.steps, first.steps);
    assert_eq!(again.moves, first.moves);
    assert_eq!(to_proto_spec(&again), to_proto_spec(&first));
}

#[test]
fn strategies_are_written_out_as_steps() {
    let percents = |strategy: proto::ShiftStrategy| -> Vec<u32> {
        let spec =
            proto::ShiftSpec { policies: vec![flip("web", "green")], strategy: Some(strategy), ..Default::default() };
        let shift = start(&plan(&spec, &sources()).unwrap());
        to_proto_spec(&shift).strategy.unwrap().steps.iter().map(|step| step.percent).collect()
    };
    let linear = proto::LinearStrategy { step_percent: 40, bake_seconds: 1 };
    assert_eq!(percents(proto::ShiftStrategy { linear: Some(linear), ..Default::default() }), [40, 80, 100]);
    let exponential = proto::ExponentialStrategy { first_percent: 30, factor: 0, bake_seconds: 1 };
    let strategy = proto::ShiftStrategy { exponential: Some(exponential), ..Default::default() };
    assert_eq!(percents(strategy), [30, 60, 100]);
    let canary = proto::CanaryStrategy { percent: 5, bake_seconds: 1, approval: true };
    assert_eq!(percents(proto::ShiftStrategy { canary: Some(canary), ..Default::default() }), [5, 100]);
    assert_eq!(percents(proto::ShiftStrategy::default()), [100]);
}

#[test]
fn a_policy_without_a_namespace_is_of_the_default_one() {
    let policy = proto::PolicyRef { namespace: String::new(), name: "web".to_owned() };
    let target = proto::ShiftPolicy { policy: Some(policy), ..flip("web", "green") };
    let plan = plan(&proto::ShiftSpec { policies: vec![target], ..Default::default() }, &sources()).unwrap();
    assert_eq!(plan.targets[0].policy.to_string(), "default/web");
    let weight = plan.targets[0].weights.get(&"green".parse::<ClusterName>().unwrap()).unwrap();
    assert_eq!(weight.get(), 100);
}

#[test]
fn every_fault_is_named_at_once_by_the_words_of_the_resource() {
    let mut asked = full();
    asked.policies[0].weights.insert("blue".to_owned(), 1);
    asked.overrides = vec!["Everything".to_owned(), "Quota".to_owned()];
    asked.gates[0].name = "Not A Label".to_owned();
    let steps = &mut asked.strategy.as_mut().unwrap().steps;
    steps[1].percent = 4;
    let gates = &mut steps[0].gates;
    gates[0].prometheus.as_mut().unwrap().source = "other".to_owned();
    gates[1].cloud_watch.as_mut().unwrap().metric = "Requests".to_owned();
    let found = plan(&asked, &sources()).unwrap_err();
    for field in [
        "spec.policies[0]",
        "spec.overrides[0]",
        "spec.overrides[1]",
        "spec.gates[0].name",
        "spec.strategy.steps[1].percent",
        "spec.strategy.steps[0].gates[0].prometheus.source",
        "spec.strategy.steps[0].gates[1].cloudWatch.metric",
    ] {
        assert!(fields(&found).contains(&field), "{field} is not in {found:#?}");
    }
    assert!(found.iter().all(|violation| !violation.remedy.is_empty()), "{found:#?}");
    let nothing = plan(&proto::ShiftSpec::default(), &sources()).unwrap_err();
    assert_eq!(fields(&nothing), ["spec.policies"]);
}

#[test]
fn a_shift_that_is_too_large_to_keep_is_refused() {
    let long = |name: usize, length: usize| proto::Gate {
        name: format!("g{name}"),
        prometheus: Some(proto::PrometheusGate { source: "main".to_owned(), query: "x".repeat(length) }),
        success: "> 0".to_owned(),
        ..Default::default()
    };
    let flip = || proto::ShiftSpec { policies: vec![flip("web", "green")], ..Default::default() };
    let large = proto::ShiftSpec { gates: (0..20).map(|i| long(i, 4096)).collect(), ..flip() };
    let found = plan(&large, &sources()).unwrap_err();
    assert_eq!(fields(&found), ["spec"]);
    let linear = proto::LinearStrategy { step_percent: 1, bake_seconds: 0 };
    let strategy = Some(proto::ShiftStrategy { linear: Some(linear), ..Default::default() });
    let many = proto::ShiftSpec { gates: (0..5).map(|i| long(i, 1000)).collect(), strategy, ..flip() };
    let found = plan(&many, &sources()).unwrap_err();
    assert_eq!(fields(&found), ["spec.strategy"]);
    // A flood of nonsense is answered with as many faults as fit.
    let flood = proto::ShiftSpec { overrides: vec!["x".to_owned(); 100_000], ..flip() };
    assert_eq!(plan(&flood, &sources()).unwrap_err().len(), MOST_VIOLATIONS);
}
