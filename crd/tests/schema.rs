//! What every definition has to be, whatever its types are: bounded, explained, and with rules that say what helps. Whether the
//! server takes it is tested in `tests/tests/kubernetes/crd`.

use serde_json::{Map, Value, json};
use switchyard_core::{policy::PolicySpec, shift::ShiftSpec};
use switchyard_crd::{definitions, rules::Rule, traffic_policy, traffic_shift};

/// Each resource's kind, its schema, and its rules.
fn resources() -> [(&'static str, Value, Vec<Rule>); 2] {
    [
        ("ClusterTrafficPolicy", traffic_policy::resource_schema(), traffic_policy::validation::rules()),
        ("TrafficShift", traffic_shift::resource_schema(), traffic_shift::validation::rules()),
    ]
}

/// Calls with each schema in this one and its place.
fn walk(at: &str, schema: &Value, see: &mut impl FnMut(&str, &Map<String, Value>)) {
    let object = schema.as_object().unwrap_or_else(|| panic!("{at}: {schema}"));
    see(at, object);
    for (name, field) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(&format!("{at}.{name}"), field, see);
    }
    for (word, mark) in [("items", "[]"), ("additionalProperties", "[*]")] {
        if let Some(inner) = object.get(word) {
            walk(&format!("{at}{mark}"), inner, see);
        }
    }
}

#[test]
fn everything_that_users_write_is_bounded() {
    for (kind, resource, _) in resources() {
        let mut seen = 0;
        walk(kind, &resource["properties"]["spec"], &mut |at, schema| {
            let bounded: &[&str] = match schema.get("type").and_then(Value::as_str) {
                Some("integer") => &["minimum", "maximum"],
                Some("string") if schema.contains_key("enum") => &[],
                Some("string") => &["maxLength"],
                Some("array") => &["maxItems"],
                Some("object") if schema.contains_key("additionalProperties") => &["maxProperties"],
                Some("object" | "boolean") => &[],
                None if schema.contains_key("x-kubernetes-int-or-string") => &["maxLength"],
                other => panic!("{at}: {other:?}"),
            };
            assert!(bounded.iter().all(|word| schema.contains_key(*word)), "{at}: {bounded:?} in {schema:?}");
            seen += 1;
        });
        assert!(seen > 40, "the schema is walked: {seen}");
    }
}

#[test]
fn every_field_is_explained() {
    for (kind, resource, _) in resources() {
        for part in ["spec", "status"] {
            walk(&format!("{kind}.{part}"), &resource["properties"][part], &mut |at, schema| {
                if at.ends_with(']') {
                    return;
                }
                let described = schema.get("description").and_then(Value::as_str).unwrap_or_default();
                assert!(described.ends_with('.'), "{at} is not explained in a sentence: {described:?}");
                assert!(!described.contains("..="), "{at}: a range as Rust writes it: {described}");
            });
        }
    }
}

#[test]
fn every_rule_says_what_is_wrong_and_what_helps() {
    for (kind, _, rules) in resources() {
        assert!(rules.len() > 30, "{kind}: {}", rules.len());
        for rule in rules {
            let (problem, remedy) = rule.message.split_once("; ").unwrap_or_else(|| panic!("{rule:?}"));
            assert!(problem.len() > 8 && remedy.len() > 6, "{rule:?}");
            // The server shows the message alone when it cannot be on one line.
            assert!(!rule.message.contains('\n') && rule.message.len() < 300, "{rule:?}");
        }
    }
}

/// Holds each default of a schema against what the hub takes for a spec in which the field is left out.
fn compare_defaults(resource: &Value, read: &Value, least: usize) {
    let mut defaults = 0;
    walk("", &resource["properties"]["spec"], &mut |at, schema| {
        let Some(default) = schema.get("default") else { return };
        let pointer = at.replace("[]", ".0").replace('.', "/");
        let taken = read.pointer(&pointer).unwrap_or_else(|| panic!("{pointer} is not in {read:#}"));
        match (default, taken) {
            // Fields without a text of their own are left out of the schema's.
            (Value::Object(default), Value::Object(taken)) => {
                assert!(default.iter().all(|(name, value)| taken.get(name) == Some(value)), "{at}");
            }
            (default, taken) => assert_eq!(default, taken, "{at}"),
        }
        defaults += 1;
    });
    assert!(defaults >= least, "the defaults are found: {defaults}");
}

#[test]
fn defaults_of_a_policy_are_those_that_the_hub_takes() {
    let minimal = "{listener: {loadBalancer: a, port: 1}, match: {paths: [{value: /a}]}, \
         backend: {service: {name: a, port: 1}}, clusters: [{name: a, weight: 1}], failover: {}, \
         safety: {maintenanceWindows: [{from: '00:00', to: '24:00'}]}}";
    let read: PolicySpec = serde_norway::from_str(minimal).unwrap();
    compare_defaults(&traffic_policy::resource_schema(), &serde_json::to_value(read).unwrap(), 27);
}

#[test]
fn defaults_of_a_shift_are_those_that_the_hub_takes() {
    // Only to be read: a valid shift has one kind of gate in each, and one strategy.
    let gates = "[{name: a, targetHealth: {}, cloudWatch: {metric: RequestCount, statistic: Sum}}]";
    let minimal = format!(
        "{{policies: [{{name: a, to: b}}], gates: {gates}, strategy: {{steps: [{{percent: 100, gates: {gates}}}], \
         linear: {{stepPercent: 1}}, exponential: {{firstPercent: 1}}, canary: {{percent: 1}}}}}}"
    );
    let read: ShiftSpec = serde_norway::from_str(&minimal).unwrap();
    compare_defaults(&traffic_shift::resource_schema(), &serde_json::to_value(read).unwrap(), 14);
}

#[test]
fn the_definition_is_kept_when_the_chart_goes_and_names_itself() {
    for definition in definitions() {
        let manifest = &definition.manifest;
        let names = &manifest["spec"]["names"];
        assert_eq!(definition.file, format!("{}.yaml", names["plural"].as_str().unwrap()));
        let name = format!("{}.{}", names["plural"].as_str().unwrap(), manifest["spec"]["group"].as_str().unwrap());
        assert_eq!(manifest["metadata"]["name"], name.as_str());
        assert_eq!(manifest["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        assert_eq!(manifest["spec"]["versions"][0]["subresources"]["status"], json!({}));
    }
}
