//! What a shift may name: that comes from the hub's own flags, never from a caller. Pure; used by every door through which shifts
//! come. Must not import `store`, `elb` or `engine`. Tests are at the end of the file.

use std::{collections::BTreeSet, sync::Arc};

use switchyard_core::{
    access::Grants,
    ids::{ClusterName, SourceName, cut},
    policy::Violation,
    shift::{
        ShiftSpec,
        spec::{Gate, MOST_GATES, MOST_STEPS},
    },
};

/// Names of sources in a remedy.
const MOST_NAMES: usize = 20;

/// What the custom resources of a cluster may do, as the access file says at this moment.
pub type GrantsOfResources = Arc<dyn Fn(&ClusterName) -> Grants + Send + Sync>;

/// What the hub can measure with. Gates name these; no address of a caller ever reaches the hub's HTTP client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateSources {
    /// Prometheus servers (`--prometheus`).
    pub prometheus: BTreeSet<SourceName>,
    /// Webhooks (`--webhook`).
    pub webhooks: BTreeSet<SourceName>,
    /// CloudWatch is on (`--cloudwatch`).
    pub cloudwatch: bool,
}

/// A violation for each gate that is to be measured with something that this hub was not given.
pub fn unknown_sources(spec: &ShiftSpec, known: &GateSources) -> Vec<Violation> {
    let mut found = Vec::new();
    check_gates("spec.gates", &spec.gates, known, &mut found);
    for (i, step) in spec.strategy.steps.iter().enumerate().take(MOST_STEPS) {
        check_gates(&format!("spec.strategy.steps[{i}].gates"), &step.gates, known, &mut found);
    }
    found
}

fn check_gates(field: &str, gates: &[Gate], known: &GateSources, found: &mut Vec<Violation>) {
    for (i, gate) in gates.iter().enumerate().take(MOST_GATES) {
        let mut add = |field: String, value: &str, problem: &str, remedy: String| {
            found.push(Violation { field, value: cut(value), problem: problem.to_owned(), remedy });
        };
        let has = |names: &BTreeSet<SourceName>, name: &str| names.iter().any(|known| known.as_str() == name);
        if let Some(gate) = &gate.prometheus
            && !has(&known.prometheus, &gate.source)
        {
            let remedy = remedy(&known.prometheus, "--prometheus name=URL");
            let problem = "is not a Prometheus server that the hub was given";
            add(format!("{field}[{i}].prometheus.source"), &gate.source, problem, remedy);
        }
        if let Some(gate) = &gate.webhook
            && !has(&known.webhooks, &gate.endpoint)
        {
            let remedy = remedy(&known.webhooks, "--webhook name=URL");
            add(
                format!("{field}[{i}].webhook.endpoint"),
                &gate.endpoint,
                "is not a webhook that the hub was given",
                remedy,
            );
        }
        if gate.cloud_watch.is_some() && !known.cloudwatch {
            let remedy = "start the hub with --cloudwatch, or use another gate".to_owned();
            add(
                format!("{field}[{i}].cloudWatch"),
                &gate.name,
                "needs CloudWatch, which this hub does not read",
                remedy,
            );
        }
    }
}

fn remedy(known: &BTreeSet<SourceName>, flag: &str) -> String {
    if known.is_empty() {
        return format!("start the hub with {flag}; it was given none");
    }
    let names: Vec<&str> = known.iter().take(MOST_NAMES).map(SourceName::as_str).collect();
    let more = known.len().saturating_sub(MOST_NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("use one of {}{more}, or start the hub with {flag}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<SourceName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn spec() -> ShiftSpec {
        serde_json::from_value(serde_json::json!({
            "policies": [{"name": "web", "to": "green"}],
            "gates": [{"name": "a", "prometheus": {"source": "main", "query": "up"}, "success": "> 0"}],
            "strategy": {"steps": [{"percent": 100, "gates": [
                {"name": "b", "webhook": {"endpoint": "ci"}},
                {"name": "c", "cloudWatch": {"metric": "RequestCount", "statistic": "Sum"}, "success": "> 0"},
                {"name": "d", "targetHealth": {}},
            ]}]},
        }))
        .unwrap()
    }

    #[test]
    fn every_gate_that_the_hub_cannot_measure_is_named_with_what_it_can() {
        let found = unknown_sources(&spec(), &GateSources::default());
        let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
        let expected = [
            "spec.gates[0].prometheus.source",
            "spec.strategy.steps[0].gates[0].webhook.endpoint",
            "spec.strategy.steps[0].gates[1].cloudWatch",
        ];
        assert_eq!(fields, expected);
        assert_eq!(found[0].remedy, "start the hub with --prometheus name=URL; it was given none");
        let others = GateSources { prometheus: names(&["east", "west"]), webhooks: names(&["ci"]), cloudwatch: true };
        let found = unknown_sources(&spec(), &others);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].remedy, "use one of east, west, or start the hub with --prometheus name=URL");
        let all = GateSources { prometheus: names(&["main"]), ..others };
        assert_eq!(unknown_sources(&spec(), &all), []);
    }
}
