//! TrafficShift: the table of cases that runs through the server's rules and the hub's, what cannot change, and what kubectl shows.

use kube::Client;
use serde_json::{Value, json};

use super::{
    Fault, NAMESPACE, core_judges, kubectl::said, kubectl::without_age, server, server_judges, server_judges_update,
    with,
};

/// A shift that both take, to be changed.
pub(super) fn base() -> Value {
    json!({
        "apiVersion": "switchyard.dev/v1alpha1",
        "kind": "TrafficShift",
        "metadata": {"name": "to-green", "namespace": NAMESPACE},
        "spec": {"policies": [{"name": "checkout", "to": "green"}]},
    })
}

/// A change that both refuse.
struct Refused {
    change: String,
    /// The field that the server names.
    field: &'static str,
    /// The one that the hub names, where it is more exact.
    core: &'static str,
    /// What the server's message says of the way out.
    remedy: &'static str,
}

fn no(change: impl Into<String>, field: &'static str, remedy: &'static str) -> Refused {
    Refused { change: change.into(), field, core: field, remedy }
}

fn exact(core: &'static str, refused: Refused) -> Refused {
    Refused { core, ..refused }
}

fn policy(text: &str) -> String {
    format!("{{policies: [{text}]}}")
}

fn strategy(text: &str) -> String {
    format!("{{strategy: {text}}}")
}

fn steps(text: &str) -> String {
    strategy(&format!("{{steps: [{text}]}}"))
}

fn gate(text: &str) -> String {
    format!("{{gates: [{text}]}}")
}

const BETWEEN: &str = "should be";
const LABEL: &str = "use at most 63 lower-case letters, digits and hyphens";

fn refused_policies() -> Vec<Refused> {
    let (all, one, weights) = ("spec.policies", "spec.policies[0]", "spec.policies[0].weights");
    let many: Vec<String> = (0..21).map(|i| format!("{{name: p{i}, to: green}}")).collect();
    let names: Vec<String> = (0..101).map(|i| format!("c{i}: 1")).collect();
    vec![
        no(policy(""), all, "should have at least 1 items"),
        no(policy(&many.join(", ")), all, "must have at most 20 items"),
        exact("spec.policies[1]", no(policy("{name: a, to: b}, {name: a, to: c}"), all, "name each policy once")),
        exact(
            "spec.policies[1]",
            no(policy("{name: a, to: b}, {name: a, namespace: shop, to: b}"), all, "name each policy once"),
        ),
        no(policy("{name: a}"), one, "give exactly one of to and weights"),
        no(policy("{name: a, weights: {}}"), one, "give exactly one of to and weights"),
        no(policy("{name: a, to: green, weights: {green: 1}}"), one, "give exactly one of to and weights"),
        no(policy("{name: Checkout, to: green}"), "spec.policies[0].name", "RFC 1123 subdomain"),
        no(policy("{name: a..b, to: green}"), "spec.policies[0].name", "RFC 1123 subdomain"),
        no(policy("{name: a.-b, to: green}"), "spec.policies[0].name", "RFC 1123 subdomain"),
        no(policy("{name: '', to: green}"), "spec.policies[0].name", BETWEEN),
        no(policy(&format!("{{name: {}, to: green}}", "a".repeat(254))), "spec.policies[0].name", "more than 253"),
        no(policy("{name: a, namespace: Shop, to: green}"), "spec.policies[0].namespace", LABEL),
        no(policy("{name: a, to: Green}"), "spec.policies[0].to", LABEL),
        no(policy("{name: a, to: ''}"), "spec.policies[0].to", BETWEEN),
        exact(
            "spec.policies[0].weights[Green]",
            no(policy("{name: a, weights: {Green: 1}}"), weights, "clusters' names"),
        ),
        no(policy("{name: a, weights: {blue: 0, green: 0}}"), weights, "give at least one cluster a weight"),
        exact(
            "spec.policies[0].weights[green]",
            no(policy("{name: a, weights: {green: 1000}}"), "spec.policies[0].weights.green", BETWEEN),
        ),
        no(policy(&format!("{{name: a, weights: {{{}}}}}", names.join(", "))), weights, "must have at most 100 items"),
    ]
}

fn refused_strategies() -> Vec<Refused> {
    let (all, list) = ("spec.strategy", "spec.strategy.steps");
    let one = "give at most one of steps, linear, exponential and canary";
    let hundred_and_one = vec!["{percent: 100}"; 101].join(", ");
    vec![
        no(strategy("{linear: {stepPercent: 5}, canary: {percent: 5}}"), all, one),
        no(strategy("{steps: [{percent: 100}], exponential: {firstPercent: 5}}"), all, one),
        no(strategy("{linear: {stepPercent: 0}}"), "spec.strategy.linear.stepPercent", BETWEEN),
        no(strategy("{linear: {stepPercent: 101}}"), "spec.strategy.linear.stepPercent", BETWEEN),
        no(strategy("{linear: {stepPercent: 5, bakeSeconds: 604801}}"), "spec.strategy.linear.bakeSeconds", BETWEEN),
        no(strategy("{exponential: {firstPercent: 0}}"), "spec.strategy.exponential.firstPercent", BETWEEN),
        no(strategy("{exponential: {firstPercent: 1, factor: 1}}"), "spec.strategy.exponential.factor", BETWEEN),
        no(strategy("{exponential: {firstPercent: 1, factor: 11}}"), "spec.strategy.exponential.factor", BETWEEN),
        no(strategy("{canary: {percent: 0}}"), "spec.strategy.canary.percent", BETWEEN),
        no(strategy("{canary: {percent: 100}}"), "spec.strategy.canary.percent", BETWEEN),
        exact(
            "spec.strategy.steps[1].percent",
            no(steps("{percent: 5}, {percent: 50}"), list, "does not end with 100"),
        ),
        exact(
            "spec.strategy.steps[1].percent",
            no(steps("{percent: 50}, {percent: 50}, {percent: 100}"), list, "let percentages rise"),
        ),
        exact(
            "spec.strategy.steps[1].percent",
            no(steps("{percent: 50}, {percent: 5}, {percent: 100}"), list, "let percentages rise"),
        ),
        no(steps("{percent: 0}, {percent: 100}"), "spec.strategy.steps[0].percent", BETWEEN),
        no(steps("{percent: 101}"), "spec.strategy.steps[0].percent", BETWEEN),
        no(steps("{percent: 100, bakeSeconds: 604801}"), "spec.strategy.steps[0].bakeSeconds", BETWEEN),
        no(steps(&hundred_and_one), list, "must have at most 100 items"),
        no("{progressDeadlineSeconds: 29}", "spec.progressDeadlineSeconds", BETWEEN),
        no("{progressDeadlineSeconds: 86401}", "spec.progressDeadlineSeconds", BETWEEN),
        no("{overrides: [Freeze], reason: why}", "spec.overrides[0]", "leave it out: this is a fact"),
        no("{overrides: [Capacity, Quota], reason: why}", "spec.overrides[1]", "leave it out: this is a fact"),
        no("{overrides: [MaxStepPercent]}", "spec.reason", "say why"),
        no("{overrides: [MaxStepPercent], reason: \" \\t\\n\"}", "spec.reason", "say why"),
        no(format!("{{reason: {}}}", "a".repeat(1025)), "spec.reason", "may not be more than 1024"),
        no("{reason: \"a\\0b\"}", "spec.reason", "holds the character U+0000"),
    ]
}

fn refused_gates() -> Vec<Refused> {
    let one = "spec.gates[0]";
    let (success, failure) = ("spec.gates[0].success", "spec.gates[0].failure");
    let kinds = "give exactly one of targetHealth, prometheus, cloudWatch and webhook";
    let measured = |more: &str| gate(&format!("{{name: a, prometheus: {{source: main, query: up}}, {more}}}"));
    let watched = |watch: &str| gate(&format!("{{name: a, success: '< 1', cloudWatch: {{{watch}}}}}"));
    let mut rows = vec![
        no(gate("{name: a}"), one, kinds),
        no(gate("{name: a, targetHealth: {}, webhook: {endpoint: b}}"), one, kinds),
        no(gate("{name: A, targetHealth: {}}"), "spec.gates[0].name", LABEL),
        no(gate("{name: '', targetHealth: {}}"), "spec.gates[0].name", BETWEEN),
        no(
            gate("{name: a, targetHealth: {minHealthyPercent: 0}}"),
            "spec.gates[0].targetHealth.minHealthyPercent",
            BETWEEN,
        ),
        no(gate("{name: a, targetHealth: {}, success: '< 1'}"), success, "leave it out"),
        no(gate("{name: a, webhook: {endpoint: b}, failure: '< 1'}"), failure, "leave it out"),
        no(gate("{name: a, webhook: {endpoint: B}}"), "spec.gates[0].webhook.endpoint", LABEL),
        no(gate("{name: a, targetHealth: {}, intervalSeconds: 4}"), "spec.gates[0].intervalSeconds", BETWEEN),
        no(gate("{name: a, targetHealth: {}, count: 0}"), "spec.gates[0].count", BETWEEN),
        no(gate("{name: a, targetHealth: {}, failureLimit: 1001}"), "spec.gates[0].failureLimit", BETWEEN),
        no(measured("count: 1"), success, "say which values are a success"),
        no(measured("success: ''"), success, "say which values are a success"),
        no(measured("success: '< 1', failure: 'more'"), failure, "write such as < 0.01"),
        no(
            gate("{name: a, success: '< 1', prometheus: {source: Main, query: up}}"),
            "spec.gates[0].prometheus.source",
            LABEL,
        ),
        no(
            gate("{name: a, success: '< 1', prometheus: {source: main, query: ''}}"),
            "spec.gates[0].prometheus.query",
            BETWEEN,
        ),
        no(
            gate("{name: a, success: '< 1', prometheus: {source: main, query: \"a\\0\"}}"),
            "spec.gates[0].prometheus.query",
            "holds the character U+0000",
        ),
        no(
            watched("metric: RequestCount, statistic: Sum, periodSeconds: 90"),
            "spec.gates[0].cloudWatch.periodSeconds",
            "use a multiple of 60",
        ),
        no(
            watched("metric: RequestCount, statistic: Sum, periodSeconds: 0"),
            "spec.gates[0].cloudWatch.periodSeconds",
            BETWEEN,
        ),
        exact(
            "spec.strategy.steps[0].gates",
            no(
                gate("{name: a, targetHealth: {}}, {name: a, webhook: {endpoint: b}}"),
                "spec.gates",
                "name each gate once",
            ),
        ),
        exact(
            "spec.strategy.steps[0].gates",
            no(
                steps("{percent: 100, gates: [{name: a, targetHealth: {}}, {name: a, webhook: {endpoint: b}}]}"),
                "spec.strategy.steps[0].gates",
                "name each gate once",
            ),
        ),
        exact(
            "spec.strategy.steps[0].gates",
            no(
                "{gates: [{name: a, targetHealth: {}}], strategy: {steps: [{percent: 100, gates: \
                 [{name: a, webhook: {endpoint: b}}]}]}}",
                "spec.strategy.steps",
                "name each gate once",
            ),
        ),
    ];
    for comparison in
        ["1", "<", "< ", "< a", "=< 1", "<> 1", "< 1 2", "< 1e999", "< NaN", "> inf", "< 0x1", "< 1.2.3", "  "]
    {
        rows.push(no(measured(&format!("success: '{comparison}'")), success, "write such as < 0.01"));
    }
    for statistic in ["sum", "SampleCount", "p", "p0", "p0.0", "p100", "p-1", "99", "tm99", "p99 "] {
        let change = watched(&format!("metric: RequestCount, statistic: '{statistic}'"));
        rows.push(no(change, "spec.gates[0].cloudWatch.statistic", "a percentile such as p99"));
    }
    let gates = |from: usize, to: usize| {
        (from..to).map(|i| format!("{{name: g{i}, targetHealth: {{}}}}")).collect::<Vec<_>>().join(", ")
    };
    rows.push(no(gate(&gates(0, 21)), "spec.gates", "must have at most 20 items"));
    let shared =
        format!("{{gates: [{}], strategy: {{steps: [{{percent: 100, gates: [{}]}}]}}}}", gates(0, 11), gates(11, 21));
    rows.push(exact(
        "spec.strategy.steps[0].gates",
        no(shared, "spec.strategy.steps", "more than 20 gates, those of the shift included"),
    ));
    rows
}

/// Both refuse, and both name the field; the server's message says what helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_hub_would_refuse_of_a_shift_the_server_refuses_and_says_what_helps() {
    let client = server().await.client().await.expect("a client");
    let rows = [refused_policies(), refused_strategies(), refused_gates()].into_iter().flatten();
    let mut wrong = Vec::new();
    for Refused { change, field, core, remedy } in rows {
        let document = with(base(), &change);
        match core_judges(&document) {
            Ok(()) => wrong.push(format!("{change}: core takes it")),
            Err(faults) if faults.iter().all(|fault| fault.field != core) => {
                wrong.push(format!("{change}: core names {faults:?}, not {core}"));
            }
            Err(_) => {}
        }
        match server_judges(&client, &document).await {
            Ok(()) => wrong.push(format!("{change}: the server takes it")),
            Err(faults) => {
                let helps = |fault: &&Fault| fault.field == field && fault.message.contains(remedy);
                if faults.iter().find(helps).is_none() {
                    wrong.push(format!("{change}: the server says {faults:#?}, not {field}: {remedy}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What both take: bounds, every form of a value, and everything that may be left out.
fn taken() -> Vec<String> {
    let mut changes: Vec<String> = [
        "{}",
        "{strategy: {}, gates: [], overrides: [], reason: ''}",
        "{strategy: {steps: []}}",
        "{progressDeadlineSeconds: 30, paused: true, abort: true, approvedStep: 100}",
        "{progressDeadlineSeconds: 86400, overrides: [MinActiveClusters, MaxStepPercent, MinStepInterval, \
          MaintenanceWindow, GatingSwitch, Capacity], reason: incident 4711}",
        "{strategy: {linear: {stepPercent: 1}}}",
        "{strategy: {linear: {stepPercent: 100, bakeSeconds: 604800}}}",
        "{strategy: {exponential: {firstPercent: 1}}}",
        "{strategy: {exponential: {firstPercent: 100, factor: 10, bakeSeconds: 1}}}",
        "{strategy: {canary: {percent: 99, bakeSeconds: 5, approval: true}}}",
    ]
    .map(str::to_owned)
    .into();
    changes.push(format!("{{reason: {}}}", "ä".repeat(1024)));
    for policies in [
        "{name: a.b-c.9, namespace: '', to: green}",
        "{name: a, namespace: shop, weights: {blue: 0, green: 999}, expectedVersion: 7}",
        "{name: a, to: b, weights: {}}",
        "{name: a, to: b}, {name: b, to: a}",
    ] {
        changes.push(policy(policies));
    }
    let hundred: Vec<String> = (1..=100).map(|percent| format!("{{percent: {percent}}}")).collect();
    changes.push(steps(&hundred.join(", ")));
    changes.push(steps(
        "{percent: 5, approval: true, gates: [{name: a, targetHealth: {}}]}, {percent: 100, bakeSeconds: 9}",
    ));
    for comparison in ["< 0.01", "<=1", ">  .5", ">=1.", "==-1e3", "!= +1E-3", " < 1\t", "< 1.7e308"] {
        let measured = "prometheus: {source: main, query: up}, intervalSeconds: 5, count: 1000, failureLimit: 1000";
        changes.push(gate(&format!("{{name: a, success: \"{comparison}\", failure: \"{comparison}\", {measured}}}")));
    }
    for statistic in ["Sum", "Average", "Minimum", "Maximum", "p1", "p99", "p99.9", "p0.01"] {
        let watched = format!("metric: TargetResponseTime, statistic: {statistic}, periodSeconds: 86400");
        changes.push(gate(&format!("{{name: a, success: '< 1', cloudWatch: {{{watched}}}}}")));
    }
    changes.push(gate(
        "{name: a, success: '< 1', cloudWatch: {metric: HTTPCode_Target_5XX_Count, statistic: Sum, dividedBy: RequestCount}}",
    ));
    changes.push(gate("{name: a, targetHealth: {minHealthyPercent: 1}}, {name: b, webhook: {endpoint: tests}}"));
    changes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_hub_takes_of_a_shift_the_server_takes() {
    let client = server().await.client().await.expect("a client");
    let mut wrong = Vec::new();
    for change in taken() {
        let document = with(base(), &change);
        for (judge, said) in [("core", core_judges(&document)), ("the server", server_judges(&client, &document).await)]
        {
            if let Err(faults) = said {
                wrong.push(format!("{change}: {judge} refuses it: {faults:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A rule cannot see the namespace of its resource. The hub refuses it, and the status says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_another_namespace_is_left_to_the_hub_to_refuse() {
    let client = server().await.client().await.expect("a client");
    let document = with(base(), &policy("{name: a, namespace: bank, to: green}"));
    assert_eq!(server_judges(&client, &document).await, Ok(()));
    let faults = core_judges(&document).expect_err("core");
    assert_eq!(faults[0].field, "spec.policies[0].namespace");
}

/// A running shift with everything set.
fn standing(name: &str) -> Value {
    let mut document = with(
        base(),
        "{strategy: {steps: [{percent: 50, approval: true}, {percent: 100}]}, gates: [{name: a, targetHealth: {}}], \
          overrides: [Capacity], reason: why}",
    );
    document["metadata"]["name"] = json!(name);
    document
}

async fn fields_refused(client: &Client, standing: &Value, change: &str) -> Vec<(String, String)> {
    let new = with(standing.clone(), change);
    let faults = server_judges_update(client, standing, &new).await.err().unwrap_or_default();
    faults.into_iter().map(|fault| (fault.field, fault.message)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_how_a_shift_is_led_can_change() {
    let client = server().await.client().await.expect("a client");
    let everything = standing("fixed");
    for (change, field) in [
        ("{policies: [{name: checkout, to: blue}]}", "spec.policies"),
        ("{policies: [{name: checkout, to: green}, {name: cart, to: green}]}", "spec.policies"),
        ("{strategy: {steps: [{percent: 60, approval: true}, {percent: 100}]}}", "spec.strategy"),
        ("{strategy: {steps: null, canary: {percent: 5}}}", "spec.strategy"),
        ("{strategy: null}", "spec.strategy"),
        ("{gates: [{name: b, targetHealth: {}}]}", "spec.gates"),
        ("{gates: null}", "spec.gates"),
        ("{overrides: null}", "spec.overrides"),
        ("{overrides: [MaxStepPercent]}", "spec.overrides"),
        ("{reason: because}", "spec.reason"),
        ("{progressDeadlineSeconds: 60}", "spec.progressDeadlineSeconds"),
    ] {
        let faults = fields_refused(&client, &everything, change).await;
        let named = faults.iter().any(|(at, message)| at == field && message.contains("is carried out once"));
        assert!(named, "{change}: {faults:?}");
    }
    let small = base();
    for (change, field) in [
        ("{gates: [{name: a, targetHealth: {}}]}", "spec.gates"),
        ("{strategy: {linear: {stepPercent: 5}}}", "spec.strategy"),
        ("{reason: later}", "spec.reason"),
    ] {
        let faults = fields_refused(&client, &small, change).await;
        assert!(faults.iter().any(|(at, _)| at == field), "{change}: {faults:?}");
    }
    for change in
        ["{paused: true}", "{abort: true}", "{approvedStep: 1}", "{paused: true, abort: true, approvedStep: 2}"]
    {
        assert_eq!(fields_refused(&client, &everything, change).await, [], "{change}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_and_an_approval_cannot_be_taken_back_and_a_pause_can() {
    let client = server().await.client().await.expect("a client");
    let led = with(standing("led"), "{paused: true, abort: true, approvedStep: 2}");
    for (change, field) in [
        ("{abort: false}", "spec.abort"),
        ("{abort: null}", "spec.abort"),
        ("{approvedStep: 1}", "spec.approvedStep"),
        ("{approvedStep: null}", "spec.approvedStep"),
    ] {
        let faults = fields_refused(&client, &led, change).await;
        let named = faults.iter().any(|(at, message)| at == field && message.contains("cannot be taken back"));
        assert!(named, "{change}: {faults:?}");
    }
    for change in ["{paused: false}", "{paused: null, approvedStep: 3}"] {
        assert_eq!(fields_refused(&client, &led, change).await, [], "{change}");
    }
}

const SHIFT: &str = "
apiVersion: switchyard.dev/v1alpha1
kind: TrafficShift
metadata: {name: seen, namespace: shop}
spec:
  policies: [{name: checkout, to: green}]
  strategy: {canary: {percent: 5, bakeSeconds: 300, approval: true}}
";

/// As the agent writes it: every field that it knows.
const STATUS: &str = r#"
apiVersion: switchyard.dev/v1alpha1
kind: TrafficShift
metadata: {name: seen, namespace: shop}
status:
  observedGeneration: 1
  shiftId: 0197a1b2-0000-7000-8000-000000000001
  state: Baking
  reason: BakeTime
  message: the step bakes until 12:05
  step: 1
  steps: 2
  programmed: true
  converged: false
  ended: false
  since: "2026-01-02T03:04:05Z"
  weights: "checkout: blue=95,green=5"
  paused: false
  conditions:
    - {type: Programmed, status: "True", reason: BakeTime, message: "", observedGeneration: 1, lastTransitionTime: "2026-01-02T03:04:05Z"}
    - {type: Complete, status: "False", reason: BakeTime, message: "", observedGeneration: 1, lastTransitionTime: "2026-01-02T03:04:05Z"}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_shows_how_far_a_shift_came_and_waits_for_its_end() {
    let kube = server().await;
    kube.apply(SHIFT).await;
    let write = async |status: &str| {
        let arguments = [
            "apply",
            "--server-side",
            "--field-manager=switchyard-agent",
            "--subresource=status",
            "--validate=strict",
            "-f",
            "-",
        ];
        let written = kube.kubectl_with(&arguments, status).await.expect("kubectl runs");
        assert_eq!(written.code, 0, "{written}");
    };
    write(STATUS).await;
    let narrow = said(kube, &["get", "tshift", "seen", "-n", NAMESPACE]).await;
    let lines: Vec<String> = narrow.lines().map(without_age).collect();
    let expected = [
        "NAME STATE STEP WEIGHTS PROGRAMMED CONVERGED REASON AGE",
        "seen Baking 1 checkout: blue=95,green=5 true false BakeTime 1s",
    ];
    assert_eq!(lines, expected, "{narrow}");
    let wide = said(kube, &["get", "tshift", "seen", "-n", NAMESPACE, "-o", "wide"]).await;
    assert!(wide.contains("STEPS") && wide.contains("the step bakes until 12:05"), "{wide}");
    let wait = ["wait", "--for=condition=Complete", "trafficshift/seen", "-n", NAMESPACE, "--timeout=0s"];
    assert_ne!(kube.kubectl(&wait).await.expect("kubectl runs").code, 0, "it is not complete yet");
    write(&STATUS.replace("type: Complete, status: \"False\"", "type: Complete, status: \"True\"")).await;
    let waited = kube.kubectl(&wait).await.expect("kubectl runs");
    assert_eq!(waited.code, 0, "{waited}");
    let explained = said(kube, &["explain", "tshift.spec"]).await;
    assert!(explained.contains("approvedStep\t<integer>"), "{explained}");
    assert!(explained.contains("Cannot be taken back"), "{explained}");
    said(kube, &["delete", "tshift", "seen", "-n", NAMESPACE]).await;
}
