//! The door for policies: what is refused, with field, value and remedy, what is taken, and what is built from it. Conditions
//! have a file of their own, `conditions.rs`.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_norway::Value;
use switchyard_core::{
    arn::ListenerArn,
    ids::{ClusterName, PolicyKey, Weight},
    inventory::ServiceKey,
    observed::{Condition, HealthCheck},
    policy::{
        Capacity, ClusterTrafficPolicy, ListenerSelector, MaintenanceWindow, SafetyRules, ValidatedPolicy, Violation,
        spec::{self, Mode, PathKind, Protocol, ProtocolVersion, TargetType, Weekday},
        validate,
        validate::{MOST_VIOLATIONS, validate_weights},
        validate_update,
    },
};

const BASE: &str = "
apiVersion: switchyard.dev/v1alpha1
kind: ClusterTrafficPolicy
metadata: {name: checkout, namespace: shop}
spec:
  listener: {loadBalancer: shared, port: 443}
  match: {paths: [{value: /checkout}]}
  backend: {service: {name: checkout, port: http}}
  clusters: [{name: blue, weight: 100}, {name: green, weight: 0}]
";

/// Lays a change over a document: mappings are merged, everything else is replaced, null removes.
fn lay(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Mapping(base), Value::Mapping(change)) => {
            for (name, value) in change {
                if value.is_null() {
                    base.remove(&name);
                } else if let Some(known) = base.get_mut(&name) {
                    lay(known, value);
                } else {
                    base.insert(name, value);
                }
            }
        }
        (base, change) => *base = change,
    }
}

fn changed(change: &str) -> Value {
    let mut document: Value = serde_norway::from_str(BASE).unwrap();
    lay(&mut document, serde_norway::from_str(change).unwrap_or_else(|error| panic!("{change}: {error}")));
    document
}

fn manifest(change: &str) -> ClusterTrafficPolicy {
    serde_norway::from_value(changed(change)).unwrap_or_else(|error| panic!("{change}: {error}"))
}

fn accepted(change: &str) -> ValidatedPolicy {
    validate(&manifest(change)).unwrap_or_else(|faults| panic!("{change}: {faults:#?}"))
}

fn refused(change: &str) -> Vec<Violation> {
    validate(&manifest(change)).expect_err(change)
}

/// A row: the change, the field that is named, a part of its value, a part of the sentence.
type Row = (String, &'static str, String, &'static str);

fn row(change: impl Into<String>, field: &'static str, value: impl Into<String>, words: &'static str) -> Row {
    (change.into(), field, value.into(), words)
}

fn named_faults(rows: Vec<Row>) {
    for (change, field, value, words) in rows {
        let faults = refused(&change);
        let [fault] = faults.as_slice() else { panic!("{change}: exactly one fault, not {faults:#?}") };
        assert_eq!(fault.field, field, "{change}: {fault}");
        assert!(fault.value.contains(&value), "{change}: {fault}");
        assert!(fault.to_string().contains(words), "{change}: {fault}");
        assert!(!fault.problem.is_empty() && !fault.remedy.is_empty(), "{change}: {fault}");
    }
}

#[test]
fn a_document_of_another_kind_or_with_unusable_names_is_refused() {
    let long = |n: usize| "a".repeat(n);
    named_faults(vec![
        row("{apiVersion: v1}", "apiVersion", "v1", "use switchyard.dev/v1alpha1"),
        row("{apiVersion: switchyard.dev/v1}", "apiVersion", "switchyard.dev/v1", "use switchyard.dev/v1alpha1"),
        row("{kind: Service}", "kind", "Service", "use ClusterTrafficPolicy"),
        row("{metadata: {name: Checkout}}", "metadata.name", "Checkout", "RFC 1123 subdomain"),
        row("{metadata: {name: ''}}", "metadata.name", "", "is empty"),
        row("{metadata: {name: a..b}}", "metadata.name", "a..b", "hyphen or a dot"),
        row(format!("{{metadata: {{name: {}}}}}", long(254)), "metadata.name", "aaa", "has 254 characters"),
        row("{metadata: {namespace: shop.eu}}", "metadata.namespace", "shop.eu", "RFC 1123 label"),
        row("{metadata: {namespace: ''}}", "metadata.namespace", "", "is empty"),
        row("{metadata: {namespace: -a}}", "metadata.namespace", "-a", "hyphen"),
        row(format!("{{metadata: {{namespace: {}}}}}", long(64)), "metadata.namespace", "aaa", "has 64 characters"),
    ]);
    accepted(&format!("{{metadata: {{name: {}, namespace: {}}}}}", long(253), long(63)));
}

const LB: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/shared/50dc6c495c0c9188";
const LISTENER: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/shared/50dc6c495c0c9188/f2f7";

fn listener(text: &str) -> String {
    format!("{{spec: {{listener: {text}}}}}")
}

#[test]
fn a_listener_is_named_in_exactly_one_way_and_within_the_bounds() {
    let field = "spec.listener";
    let port = "spec.listener.port";
    let lb = "spec.listener.loadBalancer";
    named_faults(vec![
        row(listener("{loadBalancer: null}"), field, "0 of arn, loadBalancer, tags", "give exactly one of"),
        row(listener("{tags: {team: shop}}"), field, "2 of arn, loadBalancer, tags", "give exactly one of"),
        row(listener(&format!("{{arn: '{LISTENER}'}}")), field, "2 of", "does not name one listener"),
        row(listener(&format!("{{arn: '{LISTENER}', tags: {{a: b}}}}")), field, "3 of", "does not name one listener"),
        row(listener(&format!("{{loadBalancer: null, arn: '{LISTENER}'}}")), port, "443", "leave it out"),
        row(
            listener(&format!("{{loadBalancer: null, port: null, arn: '{LB}'}}")),
            "spec.listener.arn",
            LB,
            "listener/",
        ),
        row(listener("{loadBalancer: null, port: null, arn: ''}"), "spec.listener.arn", "", "is not the ARN"),
        row(listener("{port: null}"), port, "", "give the listener's port"),
        row(listener("{loadBalancer: null, port: null, tags: {a: b}}"), port, "", "is missing"),
        row(listener("{port: 0}"), port, "0", "from 1 to 65535"),
        row(listener("{port: 65536}"), port, "65536", "from 1 to 65535"),
        row(listener("{loadBalancer: ''}"), lb, "", "at most 32 letters"),
        row(listener("{loadBalancer: my_lb}"), lb, "my_lb", "or its ARN"),
        row(listener(&format!("{{loadBalancer: {}}}", "a".repeat(33))), lb, "aaa", "at most 32 letters"),
        row(listener(&format!("{{loadBalancer: '{LISTENER}'}}")), lb, LISTENER, "is not the ARN of a load balancer"),
        row(listener("{loadBalancer: 'arn:aws:s3:::bucket'}"), lb, "arn:aws:s3:::bucket", "loadbalancer/"),
        row(listener("{loadBalancer: null, tags: {'': b}}"), "spec.listener.tags", "", "1 to 128 characters"),
        row(
            listener(&format!("{{loadBalancer: null, tags: {{{}: b}}}}", "k".repeat(129))),
            "spec.listener.tags",
            "kkk",
            "1 to 128 characters",
        ),
        row(
            listener(&format!("{{loadBalancer: null, tags: {{team: {}}}}}", "v".repeat(257))),
            "spec.listener.tags[team]",
            "vvv",
            "more than 256 characters",
        ),
        row(
            listener(&format!("{{loadBalancer: null, tags: {{{}}}}}", tags(51))),
            "spec.listener.tags",
            "51",
            "at most 50",
        ),
    ]);
    for good in [
        listener("{port: 1}"),
        listener("{port: 65535}"),
        listener(&format!("{{loadBalancer: {}}}", "a".repeat(32))),
        listener(&format!("{{loadBalancer: null, tags: {{{}: {}}}}}", "k".repeat(128), "v".repeat(256))),
        listener(&format!("{{loadBalancer: null, tags: {{{}}}}}", tags(50))),
        listener("{loadBalancer: null, tags: {team: ''}}"),
    ] {
        accepted(&good);
    }
}

fn tags(n: usize) -> String {
    (0..n).map(|i| format!("t{i}: v")).collect::<Vec<_>>().join(", ")
}

#[test]
fn arns_of_every_partition_are_taken() {
    for partition in ["aws", "aws-cn", "aws-us-gov", "aws-iso", "aws-iso-b", "aws-iso-e", "aws-iso-f", "aws-eusc"] {
        let arn = LISTENER.replacen(":aws:", &format!(":{partition}:"), 1);
        let policy = accepted(&listener(&format!("{{loadBalancer: null, port: null, arn: '{arn}'}}")));
        assert_eq!(policy.listener, ListenerSelector::Arn(ListenerArn::new(arn).unwrap()));
        let arn = LB.replacen(":aws:", &format!(":{partition}:"), 1);
        let policy = accepted(&listener(&format!("{{loadBalancer: '{arn}'}}")));
        assert_eq!(policy.listener, ListenerSelector::LoadBalancer { name_or_arn: arn, port: 443 });
    }
}

fn backend(text: &str) -> String {
    format!("{{spec: {{backend: {text}}}}}")
}

fn check(text: &str) -> String {
    backend(&format!("{{healthCheck: {text}}}"))
}

#[test]
fn what_is_out_of_its_range_is_refused_and_the_bounds_themselves_are_taken() {
    named_faults(vec![
        row("{spec: {order: 0}}", "spec.order", "0", "from 1 to 49000"),
        row("{spec: {order: 49001}}", "spec.order", "49001", "from 1 to 49000"),
        row(
            backend("{deregistrationDelaySeconds: 3601}"),
            "spec.backend.deregistrationDelaySeconds",
            "3601",
            "from 0 to 3600",
        ),
        row(
            "{spec: {safety: {deregistrationBudgetPercent: 101}}}",
            "spec.safety.deregistrationBudgetPercent",
            "101",
            "from 0 to 100",
        ),
    ]);
    for good in [
        "{spec: {order: 1}}".to_owned(),
        "{spec: {order: 49000}}".to_owned(),
        backend("{deregistrationDelaySeconds: 0}"),
        backend("{deregistrationDelaySeconds: 3600}"),
        "{spec: {safety: {deregistrationBudgetPercent: 0}}}".to_owned(),
        "{spec: {safety: {deregistrationBudgetPercent: 100}}}".to_owned(),
    ] {
        accepted(&good);
    }
}

fn safety(text: &str) -> String {
    format!("{{spec: {{safety: {text}}}}}")
}

fn maintenance(text: &str) -> String {
    safety(&format!("{{maintenanceWindows: [{text}]}}"))
}

#[test]
fn rules_for_moves_stay_within_their_ranges_and_the_spec_itself_keeps_them() {
    let least = "spec.safety.minActiveClusters";
    let two = |least: u32| {
        format!(
            "{{spec: {{clusters: [{{name: a, weight: 1}}, {{name: b, weight: 1}}], safety: {{minActiveClusters: {least}}}}}}}"
        )
    };
    named_faults(vec![
        row(safety("{minActiveClusters: 0}"), least, "0", "from 1 to 5"),
        row(safety("{minActiveClusters: 6}"), least, "6", "from 1 to 5"),
        row(safety("{minActiveClusters: 2}"), least, "2", "with a weight above 0 in spec.clusters (1)"),
        row(two(3), least, "3", "more than the clusters of the policy (2)"),
        row(safety("{maxStepPercent: 0}"), "spec.safety.maxStepPercent", "0", "from 1 to 100"),
        row(safety("{maxStepPercent: 101}"), "spec.safety.maxStepPercent", "101", "from 1 to 100"),
        row(
            safety("{minStepIntervalSeconds: 86401}"),
            "spec.safety.minStepIntervalSeconds",
            "86401",
            "outside 0 to 86400 seconds",
        ),
    ]);
    let rules = accepted(&two(2)).safety;
    assert_eq!((rules.min_active_clusters, rules.max_step_percent, rules.min_step_interval_seconds), (2, 100, 0));
    let rules = accepted(&safety("{maxStepPercent: 1, minStepIntervalSeconds: 86400}")).safety;
    assert_eq!((rules.min_active_clusters, rules.max_step_percent, rules.min_step_interval_seconds), (1, 1, 86_400));
    // What is wrong with the clusters is said of the clusters, and once.
    for change in ["{clusters: []", "{clusters: [{name: blue, weight: 0}]"] {
        let faults = refused(&format!("{{spec: {change}, safety: {{minActiveClusters: 2}}}}}}"));
        assert!(faults.iter().any(|fault| fault.field == "spec.clusters"), "{faults:?}");
    }
}

#[test]
fn maintenance_windows_that_could_never_be_open_are_refused() {
    let at = "spec.safety.maintenanceWindows[0]";
    let field = |name: &str| format!("{at}.{name}");
    let rows = [
        ("{days: [], from: '09:00', to: '10:00'}", "days", "[]", "leave it out for every day"),
        ("{days: [Mon, Tue, Mon], from: '09:00', to: '10:00'}", "days", "Mon", "name each day once"),
        ("{from: '9:00', to: '10:00'}", "from", "9:00", "write it as HH:MM"),
        ("{from: '24:00', to: '10:00'}", "from", "24:00", "00:00 to 23:59"),
        ("{from: '09:00', to: '24:01'}", "to", "24:01", "00:00 to 24:00"),
        ("{from: '09:00', to: ''}", "to", "", "is not a time of the day"),
        ("{from: '09:00', to: '09:00'}", "to", "09:00", "is when the window opens"),
        ("{from: '09:00', to: '10:00', timeZone: Europe/Entenhausen}", "timeZone", "Entenhausen", "IANA"),
        ("{from: '09:00', to: '10:00', timeZone: europe/berlin}", "timeZone", "europe/berlin", "write Europe/Berlin"),
        ("{from: '09:00', to: '10:00', timeZone: ''}", "timeZone", "", "is not a known time zone"),
        ("{from: '09:00', to: '10:00', timeZone: '+02:00'}", "timeZone", "+02:00", "is not a known time zone"),
    ];
    for (given, name, value, words) in rows {
        let faults = refused(&maintenance(given));
        let [fault] = faults.as_slice() else { panic!("{given}: exactly one fault, not {faults:#?}") };
        assert_eq!(
            (fault.field.as_str(), fault.value.contains(value)),
            (field(name).as_str(), true),
            "{given}: {fault}"
        );
        assert!(fault.to_string().contains(words), "{given}: {fault}");
    }
    let many = |n: usize| maintenance(&vec!["{from: '09:00', to: '10:00'}"; n].join(", "));
    named_faults(vec![row(many(21), "spec.safety.maintenanceWindows", "21", "more than 20 windows")]);
    assert_eq!(accepted(&many(20)).safety.windows.len(), 20);
    let all = refused(&maintenance("{days: [Mon, Mon], from: x, to: y, timeZone: z}"));
    assert_eq!(all.len(), 4, "all faults at once: {all:?}");
    let thousand = refused(&many(1000));
    assert_eq!(thousand.len(), 1, "{thousand:?}");
}

#[test]
fn a_maintenance_window_is_built_as_it_is_written() {
    let built = |given: &str| accepted(&maintenance(given)).safety.windows.remove(0);
    let every_day = Weekday::ALL.into_iter().collect();
    assert_eq!(built("{from: '09:30', to: '24:00'}"), MaintenanceWindow::new(every_day, 570, 1440, "UTC").unwrap());
    let days = [Weekday::Sun, Weekday::Fri].into_iter().collect();
    let night = built("{days: [Sun, Fri], from: '22:00', to: '00:00', timeZone: Europe/Berlin}");
    assert_eq!(night, MaintenanceWindow::new(days, 1320, 0, "Europe/Berlin").unwrap());
}

#[test]
fn declared_capacity_is_two_numbers_within_their_ranges() {
    let capacity = |peak: u32, each: u32| {
        format!("{{spec: {{capacity: {{peakRequestsPerSecond: {peak}, requestsPerSecondPerTarget: {each}}}}}}}")
    };
    let (peak, each) = ("spec.capacity.peakRequestsPerSecond", "spec.capacity.requestsPerSecondPerTarget");
    named_faults(vec![
        row(capacity(0, 1), peak, "0", "from 1 to 10000000"),
        row(capacity(10_000_001, 1), peak, "10000001", "from 1 to 10000000"),
        row(capacity(1, 0), each, "0", "from 1 to 100000"),
        row(capacity(1, 100_001), each, "100001", "from 1 to 100000"),
    ]);
    let built = accepted(&capacity(10_000_000, 100_000)).capacity;
    let expected = Capacity { peak_requests_per_second: 10_000_000, requests_per_second_per_target: 100_000 };
    assert_eq!(built, Some(expected));
    assert_eq!(accepted("{}").capacity, None);
    for one in ["{peakRequestsPerSecond: 1}", "{requestsPerSecondPerTarget: 1}", "{}"] {
        let change = format!("{{spec: {{capacity: {one}}}}}");
        let error = serde_norway::from_value::<ClusterTrafficPolicy>(changed(&change)).expect_err(&change).to_string();
        assert!(error.contains("missing field"), "{change}: {error}");
    }
}

#[test]
fn services_and_ports_are_named_as_kubernetes_names_them() {
    let service = |text: &str| backend(&format!("{{service: {text}}}"));
    let port = "spec.backend.service.port";
    named_faults(vec![
        row(service("{name: Checkout}"), "spec.backend.service.name", "Checkout", "RFC 1123 label"),
        row(service("{name: ''}"), "spec.backend.service.name", "", "is empty"),
        row(service(&format!("{{name: {}}}", "a".repeat(64))), "spec.backend.service.name", "aaa", "64 characters"),
        row(service("{port: 0}"), port, "0", "from 1 to 65535"),
        row(service("{port: 65536}"), port, "65536", "from 1 to 65535"),
        row(service("{port: HTTP}"), port, "HTTP", "lower-case"),
        row(service("{port: ''}"), port, "", "is empty"),
    ]);
    assert_eq!(accepted(&service("{port: 8080}")).service.port.as_str(), "8080");
    assert_eq!(accepted(&service("{port: 1}")).service.port.as_str(), "1");
    assert_eq!(accepted(&service("{port: 65535}")).service.port.as_str(), "65535");
    assert_eq!(accepted(&service("{port: grpc-web}")).service.port.as_str(), "grpc-web");
}

#[test]
fn what_this_version_cannot_do_is_refused_and_not_ignored() {
    named_faults(vec![row("{spec: {mode: Pooled}}", "spec.mode", "Pooled", "use Weighted")]);
}

#[test]
fn health_checks_stay_within_what_elbv2_takes() {
    let at = |field: &str| -> &'static str { Box::leak(format!("spec.backend.healthCheck.{field}").into_boxed_str()) };
    let long = |n: usize| format!("{{path: '/{}'}}", "a".repeat(n - 1));
    named_faults(vec![
        row(check("{path: healthz}"), at("path"), "healthz", "such as /healthz"),
        row(check("{path: ''}"), at("path"), "", "is not a path"),
        row(check("{path: '/a b'}"), at("path"), "/a b", "printable"),
        row(check("{path: '/ä'}"), at("path"), "/ä", "printable"),
        row(check(&long(1025)), at("path"), "/aaa", "at most 1024"),
        row(check("{port: 0}"), at("port"), "0", "from 1 to 65535"),
        row(check("{port: 65536}"), at("port"), "65536", "from 1 to 65535"),
        row(check("{intervalSeconds: 4, timeoutSeconds: 3}"), at("intervalSeconds"), "4", "from 5 to 300"),
        row(check("{intervalSeconds: 301}"), at("intervalSeconds"), "301", "from 5 to 300"),
        row(check("{timeoutSeconds: 1}"), at("timeoutSeconds"), "1", "from 2 to 120"),
        row(check("{timeoutSeconds: 121, intervalSeconds: 300}"), at("timeoutSeconds"), "121", "from 2 to 120"),
        row(
            check("{timeoutSeconds: 5, intervalSeconds: 5}"),
            at("timeoutSeconds"),
            "5",
            "less than intervalSeconds (5)",
        ),
        row(check("{timeoutSeconds: 16}"), at("timeoutSeconds"), "16", "shorten it, or check less often"),
        row(check("{healthyThreshold: 1}"), at("healthyThreshold"), "1", "from 2 to 10"),
        row(check("{healthyThreshold: 11}"), at("healthyThreshold"), "11", "from 2 to 10"),
        row(check("{unhealthyThreshold: 1}"), at("unhealthyThreshold"), "1", "from 2 to 10"),
        row(check("{unhealthyThreshold: 11}"), at("unhealthyThreshold"), "11", "from 2 to 10"),
    ]);
    for good in [
        long(1024),
        "{port: 1}".into(),
        "{port: 65535}".into(),
        "{intervalSeconds: 5, timeoutSeconds: 4}".into(),
        "{intervalSeconds: 300, timeoutSeconds: 120}".into(),
        "{timeoutSeconds: 2}".into(),
        "{healthyThreshold: 2, unhealthyThreshold: 10}".into(),
        "{healthyThreshold: 10, unhealthyThreshold: 2}".into(),
        "{path: '/a?b=c&d=%20'}".into(),
    ] {
        accepted(&check(&good));
    }
}

fn codes(version: &str, codes: &str) -> String {
    backend(&format!("{{protocolVersion: {version}, healthCheck: {{successCodes: '{codes}'}}}}"))
}

#[test]
fn success_codes_are_those_of_the_protocol() {
    let field = "spec.backend.healthCheck.successCodes";
    let bad_http = [
        "199",
        "500",
        "abc",
        ",",
        "200,",
        ",200",
        "200,,201",
        "299-200",
        "200-",
        "-299",
        "200-299-300",
        "200 201",
        " 200",
        "+200",
        "0200",
        "200-500",
        "2e2",
        "２００",
    ];
    for version in ["HTTP1", "HTTP2"] {
        named_faults(bad_http.iter().map(|bad| row(codes(version, bad), field, *bad, "from 200 to 499")).collect());
        for good in ["200", "499", "200,204", "200-499", "200-200", "200,204-206,301-302"] {
            assert_eq!(accepted(&codes(version, good)).health_check.matcher, good);
        }
        assert_eq!(accepted(&codes(version, "")).health_check.matcher, "200");
    }
    let bad_grpc = ["100", "-1", "00", "01", "12,", "5-3", "+1"];
    named_faults(bad_grpc.iter().map(|bad| row(codes("GRPC", bad), field, *bad, "from 0 to 99")).collect());
    for good in ["0", "99", "0-99", "0,12", "12"] {
        assert_eq!(accepted(&codes("GRPC", good)).health_check.matcher, good);
    }
    assert_eq!(accepted(&codes("GRPC", "")).health_check.matcher, "12");
    let long = vec!["200"; 65].join(",");
    named_faults(vec![row(codes("HTTP1", &long), field, "200,200", "is not a list of codes")]);
}

fn clusters(list: &[(&str, u32)]) -> String {
    let list: Vec<String> = list.iter().map(|(name, weight)| format!("{{name: '{name}', weight: {weight}}}")).collect();
    format!("{{spec: {{clusters: [{}]}}}}", list.join(", "))
}

#[test]
fn one_to_five_clusters_share_the_requests_each_named_once_and_not_all_with_nothing() {
    let names = ["a", "b", "c", "d", "e", "f"].map(|name| (name, 1));
    let long = "a".repeat(64);
    named_faults(vec![
        row(clusters(&[]), "spec.clusters", "[]", "name at least one cluster"),
        row(clusters(&names), "spec.clusters", "a, b, c, d, e, f", "names 6 clusters, a weighted rule takes 5"),
        row(clusters(&[("a", 1), ("a", 2)]), "spec.clusters[1].name", "a", "name each cluster once"),
        row(clusters(&[("a", 1), ("", 1)]), "spec.clusters[1].name", "", "is empty"),
        row(clusters(&[("Blue", 1)]), "spec.clusters[0].name", "Blue", "RFC 1123 label"),
        row(clusters(&[("a.b", 1)]), "spec.clusters[0].name", "a.b", "RFC 1123 label"),
        row(clusters(&[(&long, 1)]), "spec.clusters[0].name", "aaa", "has 64 characters"),
        row(clusters(&[("a", 1000)]), "spec.clusters[0].weight", "1000", "from 0 to 999"),
        row(clusters(&[("a", 1), ("b", u32::MAX)]), "spec.clusters[1].weight", "4294967295", "is above 999"),
        row(clusters(&[("a", 0)]), "spec.clusters", "0", "would get a 503"),
        row(clusters(&[("a", 0), ("b", 0)]), "spec.clusters", "0", "to stop all traffic delete the policy"),
    ]);
    let policy = accepted(&clusters(&names[..5]));
    assert_eq!(policy.clusters.len(), 5);
    let policy = accepted(&clusters(&[("z", 999), ("a", 0)]));
    let got: Vec<(&str, u32)> = policy.clusters.iter().map(|(name, weight)| (name.as_str(), weight.get())).collect();
    assert_eq!(got, [("z", 999), ("a", 0)], "in the order of the spec");
    accepted(&clusters(&[("a", 1)]));
    accepted(&clusters(&[(&long[..63], 1)]));
}

#[test]
fn faults_in_several_places_are_all_named_at_once() {
    let faults = refused(
        "{kind: Policy, metadata: {name: X}, spec: {order: 0, mode: Pooled, listener: {port: 0}, match: {methods: [get]}, \
          clusters: [{name: blue, weight: 1000}, {name: blue, weight: 1}], \
          backend: {service: {name: S, port: 0}, deregistrationDelaySeconds: 9999, healthCheck: {path: x, intervalSeconds: 1}}, \
          safety: {deregistrationBudgetPercent: 200}}}",
    );
    let fields: BTreeSet<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
    let expected = [
        "kind",
        "metadata.name",
        "spec.order",
        "spec.mode",
        "spec.listener.port",
        "spec.match.methods[0]",
        "spec.clusters[0].weight",
        "spec.clusters[1].name",
        "spec.backend.deregistrationDelaySeconds",
        "spec.backend.healthCheck.path",
        "spec.backend.healthCheck.intervalSeconds",
        "spec.backend.healthCheck.timeoutSeconds",
        "spec.backend.service.name",
        "spec.backend.service.port",
        "spec.safety.deregistrationBudgetPercent",
    ];
    assert_eq!(fields, expected.into_iter().collect());
}

#[test]
fn a_huge_document_is_answered_with_a_list_that_can_be_read() {
    let hosts = vec!["x"; 10_000].join(", ");
    let faults = refused(&format!("{{spec: {{match: {{hostnames: [{hosts}]}}}}}}"));
    assert_eq!(faults.len(), MOST_VIOLATIONS);
    let names: Vec<String> = (0..10_000).map(|i| format!("{{name: _{i}, weight: 1}}")).collect();
    let faults = refused(&format!("{{spec: {{clusters: [{}]}}}}", names.join(", ")));
    assert!(faults.len() <= 21, "{}", faults.len());
    let faults = refused(&format!("{{metadata: {{name: '{}'}}}}", "ä".repeat(100_000)));
    assert_eq!(faults[0].value.chars().count(), 259, "256 characters and an ellipsis");
}

const EVERYTHING: &str = "
spec:
  listener: {loadBalancer: null, port: 8443, tags: {team: shop, stage: prod}}
  match:
    hostnames: [Shop.Example.com]
    paths: [{type: Exact, value: /cart}]
    headers: [{name: X-Canary, values: ['yes']}]
    methods: [POST]
    query: [{key: v, value: '2'}]
  order: 4711
  backend:
    service: {name: cart, port: 8080}
    targetType: ip
    protocol: HTTPS
    protocolVersion: HTTP2
    healthCheck:
      path: /healthz
      port: 9090
      intervalSeconds: 10
      timeoutSeconds: 3
      healthyThreshold: 4
      unhealthyThreshold: 5
      successCodes: 200-204
    deregistrationDelaySeconds: 30
  mode: Weighted
  clusters: [{name: blue, weight: 7}, {name: green, weight: 999}]
  safety:
    deregistrationBudgetPercent: 25
    freeze: true
    minActiveClusters: 2
    maxStepPercent: 30
    minStepIntervalSeconds: 60
    maintenanceWindows: [{days: [Sat], from: '08:00', to: '20:00', timeZone: America/New_York}]
  capacity: {peakRequestsPerSecond: 5000, requestsPerSecondPerTarget: 250}
";

#[test]
fn a_policy_with_everything_set_builds_exactly_what_elbv2_takes() {
    let policy = accepted(EVERYTHING);
    let text = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    assert_eq!(policy.key, PolicyKey::new("shop", "checkout").unwrap());
    let tags = [("stage", "prod"), ("team", "shop")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(policy.listener, ListenerSelector::Tags { tags: tags.into_iter().collect(), port: 8443 });
    let conditions = [
        Condition::HostHeader(text(&["shop.example.com"])),
        Condition::PathPattern(text(&["/cart"])),
        Condition::HttpHeader("x-canary".into(), text(&["yes"])),
        Condition::HttpRequestMethod(text(&["POST"])),
        Condition::QueryString(vec![("v".into(), "2".into())]),
    ];
    assert_eq!(policy.conditions, conditions);
    assert_eq!(policy.order, 4711);
    let service = ServiceKey {
        namespace: "shop".parse().unwrap(),
        name: "cart".parse().unwrap(),
        port: "8080".parse().unwrap(),
        target_type: TargetType::Ip,
    };
    assert_eq!(policy.service, service);
    assert_eq!((policy.protocol.as_str(), policy.protocol_version.as_str()), ("HTTPS", "HTTP2"));
    let health_check = HealthCheck {
        protocol: "HTTPS".into(),
        port: "9090".into(),
        path: "/healthz".into(),
        interval_seconds: 10,
        timeout_seconds: 3,
        healthy_threshold: 4,
        unhealthy_threshold: 5,
        matcher: "200-204".into(),
    };
    assert_eq!(policy.health_check, health_check);
    assert_eq!(policy.deregistration_delay_seconds, 30);
    let cluster = |name: &str, weight| (ClusterName::new(name).unwrap(), Weight::new(weight).unwrap());
    assert_eq!(policy.clusters, [cluster("blue", 7), cluster("green", 999)]);
    assert_eq!(policy.deregistration_budget_percent, 25);
    assert!(policy.freeze);
    let saturdays = [Weekday::Sat].into_iter().collect();
    let safety = SafetyRules {
        min_active_clusters: 2,
        max_step_percent: 30,
        min_step_interval_seconds: 60,
        windows: vec![MaintenanceWindow::new(saturdays, 480, 1200, "America/New_York").unwrap()],
    };
    assert_eq!(policy.safety, safety);
    let capacity = Capacity { peak_requests_per_second: 5000, requests_per_second_per_target: 250 };
    assert_eq!(policy.capacity, Some(capacity));
}

#[test]
fn what_is_left_out_gets_the_documented_default() {
    let manifest = manifest("{metadata: {namespace: null}}");
    assert_eq!(manifest.metadata.namespace, "default");
    let spec = &manifest.spec;
    assert_eq!((spec.order, spec.mode), (100, Mode::Weighted));
    assert_eq!(spec.matches.paths[0].kind, PathKind::Prefix);
    assert_eq!(spec.backend.target_type, TargetType::Ip);
    assert_eq!((spec.backend.protocol, spec.backend.protocol_version), (Protocol::Http, ProtocolVersion::Http1));
    assert_eq!(spec.backend.deregistration_delay_seconds, 300);
    let safety = spec::Safety {
        deregistration_budget_percent: 50,
        freeze: false,
        min_active_clusters: 1,
        max_step_percent: 100,
        min_step_interval_seconds: 0,
        maintenance_windows: Vec::new(),
    };
    assert_eq!(spec.safety, safety);
    assert_eq!(spec.capacity, None);
    let health_check = HealthCheck {
        protocol: "HTTP".into(),
        port: "traffic-port".into(),
        path: "/".into(),
        interval_seconds: 15,
        timeout_seconds: 5,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
        matcher: "200".into(),
    };
    assert_eq!(accepted("{}").health_check, health_check);
}

#[test]
fn a_field_that_is_not_known_is_refused_wherever_the_policy_ends() {
    for change in [
        "{spec: {replicas: 1}}",
        "{spec: {listener: {host: a}}}",
        "{spec: {match: {hosts: [a]}}}",
        "{spec: {match: {paths: [{value: /a, kind: Exact}]}}}",
        "{spec: {match: {headers: [{name: a, values: [b], regex: c}]}}}",
        "{spec: {match: {query: [{key: a, value: b, exact: true}]}}}",
        "{spec: {backend: {port: 80}}}",
        "{spec: {backend: {service: {targetPort: 80}}}}",
        "{spec: {backend: {healthCheck: {interval: 5}}}}",
        "{spec: {clusters: [{name: a, weight: 1, region: eu}]}}",
        "{spec: {safety: {budget: 5}}}",
        "{spec: {safety: {maintenanceWindows: [{from: '09:00', to: '10:00', zone: UTC}]}}}",
        "{spec: {capacity: {peakRequestsPerSecond: 1, requestsPerSecondPerTarget: 1, unit: rps}}}",
    ] {
        let error = serde_norway::from_value::<ClusterTrafficPolicy>(changed(change)).expect_err(change).to_string();
        assert!(error.contains("unknown field"), "{change}: {error}");
    }
}

#[test]
fn values_of_the_wrong_type_are_refused_while_the_document_is_read() {
    for change in [
        "{spec: {order: -1}}",
        "{spec: {order: 1.5}}",
        "{spec: {order: first}}",
        "{spec: {mode: weighted}}",
        "{spec: {clusters: [{name: a, weight: -1}]}}",
        "{spec: {clusters: [{name: a}]}}",
        "{spec: {clusters: {a: 1}}}",
        "{spec: {backend: {protocol: TCP}}}",
        "{spec: {backend: {protocolVersion: HTTP3}}}",
        "{spec: {backend: {service: {port: -1}}}}",
        "{spec: {match: {paths: [{type: Regex, value: /a}]}}}",
        "{spec: {safety: {freeze: 1}}}",
        "{spec: {safety: {maintenanceWindows: [{to: '10:00'}]}}}",
        "{spec: {safety: {maintenanceWindows: [{from: 900, to: '10:00'}]}}}",
        "{spec: {safety: {maintenanceWindows: [{days: [Monday], from: '09:00', to: '10:00'}]}}}",
        "{spec: {backend: null}}",
        "{metadata: {name: null}}",
        "{spec: null}",
    ] {
        assert!(serde_norway::from_value::<ClusterTrafficPolicy>(changed(change)).is_err(), "{change}");
    }
}

#[test]
fn a_resource_as_kubectl_prints_it_is_taken() {
    let change = "{metadata: {uid: u, resourceVersion: '7', labels: {a: b}, managedFields: [{manager: kubectl}]}, \
                   status: {conditions: []}}";
    assert_eq!(manifest(change), manifest("{}"));
}

#[test]
fn a_policy_that_is_written_and_read_again_is_the_same() {
    for change in ["{}", EVERYTHING] {
        let manifest = manifest(change);
        let yaml = serde_norway::to_string(&manifest).unwrap();
        assert_eq!(serde_norway::from_str::<ClusterTrafficPolicy>(&yaml).unwrap(), manifest, "{yaml}");
        let json = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<ClusterTrafficPolicy>(&json).unwrap(), manifest, "{json}");
    }
}

#[test]
fn what_elbv2_fixes_for_life_cannot_change_and_everything_else_can() {
    let old = accepted("{}");
    for (change, field, value) in [
        (listener("{port: 80}"), "spec.listener", "80"),
        (listener("{loadBalancer: other}"), "spec.listener", "other"),
        (backend("{protocol: HTTPS}"), "spec.backend.protocol", "HTTPS"),
        (backend("{protocolVersion: HTTP2}"), "spec.backend.protocolVersion", "HTTP2"),
    ] {
        let faults = validate_update(&old, &accepted(&change)).unwrap_err();
        let [fault] = faults.as_slice() else { panic!("{change}: {faults:?}") };
        assert_eq!(fault.field, field);
        assert!(fault.value.contains(value), "{fault}");
        assert!(fault.problem.contains("cannot change"), "{fault}");
        assert!(fault.remedy.contains("delete the policy and create it anew"), "{fault}");
    }
    let all = accepted(&format!(
        "{{spec: {{{}, {}}}}}",
        "listener: {port: 80}", "backend: {protocol: HTTPS, protocolVersion: GRPC}"
    ));
    assert_eq!(validate_update(&old, &all).unwrap_err().len(), 3);
    for change in [
        "{}",
        "{spec: {order: 7, match: {paths: [{value: /other}]}, safety: {freeze: true}}}",
        "{spec: {clusters: [{name: red, weight: 5}]}}",
        "{spec: {backend: {service: {name: next, port: 80}, healthCheck: {path: /up}, deregistrationDelaySeconds: 5}}}",
    ] {
        assert_eq!(validate_update(&old, &accepted(change)), Ok(()), "{change}");
    }
}

fn set(wanted: &[(&str, u32)]) -> Result<Vec<(String, u32)>, Vec<Violation>> {
    let policy = accepted(&clusters(&[("blue", 100), ("green", 0), ("dr", 5)]));
    let present = policy.clusters.clone();
    let wanted: Vec<(String, u32)> = wanted.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
    let set = validate_weights(&policy, &present, &wanted)?;
    Ok(set.into_iter().map(|(name, weight)| (name.to_string(), weight.get())).collect())
}

#[test]
fn weights_that_are_set_replace_only_those_named() {
    let all = |blue, green, dr| Ok(vec![("blue".to_owned(), blue), ("green".to_owned(), green), ("dr".to_owned(), dr)]);
    assert_eq!(set(&[("green", 50)]), all(100, 50, 5));
    assert_eq!(set(&[("green", 999), ("blue", 0)]), all(0, 999, 5));
    assert_eq!(set(&[("blue", 0), ("green", 0)]), all(0, 0, 5));
}

#[test]
fn weights_that_cannot_be_set_are_named_with_the_remedy() {
    let six: Vec<(String, u32)> = (0..101).map(|i| (format!("c{i}"), 1)).collect();
    let six: Vec<(&str, u32)> = six.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    for (wanted, field, value, words) in [
        (vec![("red", 1)], "weights", "red", "name one of blue, green, dr, or add the cluster"),
        (vec![("blue", 1000)], "weights[blue]", "1000", "from 0 to 999"),
        (vec![("blue", 1), ("blue", 2)], "weights", "blue", "name each cluster once"),
        (vec![("blue", 0), ("dr", 0)], "weights", "0", "to stop all traffic delete the policy"),
        (vec![], "weights", "0", "give 1 to 5 weights"),
    ] {
        let faults = set(&wanted).expect_err(field);
        let [fault] = faults.as_slice() else { panic!("{wanted:?}: {faults:?}") };
        assert_eq!(fault.field, field);
        assert!(fault.value.contains(value), "{fault}");
        assert!(fault.to_string().contains(words), "{fault}");
    }
    let faults = set(&six).unwrap_err();
    assert!(faults.len() <= MOST_VIOLATIONS);
    let both = set(&[("red", 1), ("blue", 1000)]).unwrap_err();
    assert_eq!(both.len(), 2, "all faults at once: {both:?}");
}

proptest! {
    #[test]
    fn whatever_weights_are_set_they_stay_within_range_and_never_all_zero(
        wanted in proptest::collection::vec(("blue|green|dr|red|\\PC{0,3}", prop_oneof![0..2000u32, Just(0), any::<u32>()]), 0..6),
    ) {
        let wanted: Vec<(&str, u32)> = wanted.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        if let Ok(set) = set(&wanted) {
            prop_assert_eq!(set.len(), 3);
            prop_assert!(set.iter().all(|(_, weight)| *weight <= 999) && set.iter().any(|(_, weight)| *weight > 0));
        }
    }
}
