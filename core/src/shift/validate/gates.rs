//! Gates as written, judged one by one.

use super::{
    super::{
        CheckedGate,
        analysis::{Comparison, GateQuery},
        spec::{CloudWatchGate, Gate, MOST_GATES, MOST_QUERY},
    },
    Report,
};

pub(super) fn gates(field: &str, gates: &[Gate], report: &mut Report) -> Vec<CheckedGate> {
    report.count(field, gates.len(), MOST_GATES);
    let checked = gates.iter().enumerate().take(MOST_GATES);
    checked.filter_map(|(i, gate)| check_gate(&format!("{field}[{i}]"), gate, report)).collect()
}

fn check_gate(field: &str, gate: &Gate, report: &mut Report) -> Option<CheckedGate> {
    let name = report.id(&format!("{field}.name"), gate.name.parse());
    report.range(&format!("{field}.intervalSeconds"), gate.interval_seconds, 5, 3600);
    report.range(&format!("{field}.count"), gate.count, 1, 1000);
    report.range(&format!("{field}.failureLimit"), gate.failure_limit, 0, 1000);
    let query = query(field, gate, report);
    let compares = gate.prometheus.is_some() || gate.cloud_watch.is_some();
    let mut comparison = |name: &str, text: &str| -> Option<Comparison> {
        let at = format!("{field}.{name}");
        if text.is_empty() {
            return None;
        }
        if !compares {
            report.add(&at, text, "compares a number, and this gate has none", "leave it out");
            return None;
        }
        text.parse()
            .map_err(|_| report.add(&at, text, "is no comparison with a number", "write such as \"< 0.01\""))
            .ok()
    };
    let (success, failure) = (comparison("success", &gate.success), comparison("failure", &gate.failure));
    if compares && gate.success.is_empty() {
        report.add(&format!("{field}.success"), "", "is missing", "say which values are a success, such as \"< 0.01\"");
    }
    Some(CheckedGate {
        name: name?,
        query: query?,
        success,
        failure,
        interval_seconds: gate.interval_seconds,
        count: gate.count,
        failure_limit: gate.failure_limit,
    })
}

fn query(field: &str, gate: &Gate, report: &mut Report) -> Option<GateQuery> {
    let given =
        [gate.target_health.is_some(), gate.prometheus.is_some(), gate.cloud_watch.is_some(), gate.webhook.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        let remedy = "give exactly one of targetHealth, prometheus, cloudWatch and webhook";
        report.add(field, &gate.name, "does not say what to measure", remedy);
        return None;
    }
    if let Some(health) = &gate.target_health {
        let min_healthy_percent = health.min_healthy_percent;
        report.range(&format!("{field}.targetHealth.minHealthyPercent"), min_healthy_percent, 1, 100);
        return Some(GateQuery::TargetHealth { min_healthy_percent });
    }
    if let Some(prometheus) = &gate.prometheus {
        let source = report.id(&format!("{field}.prometheus.source"), prometheus.source.parse());
        let length = prometheus.query.chars().count();
        if length == 0 || length > MOST_QUERY || prometheus.query.contains('\0') {
            let remedy = format!("use 1 to {MOST_QUERY} characters of PromQL");
            report.add(&format!("{field}.prometheus.query"), &prometheus.query, "is no query", remedy);
        }
        return Some(GateQuery::Prometheus { source: source?, query: prometheus.query.clone() });
    }
    if let Some(watch) = &gate.cloud_watch {
        return cloud_watch(&format!("{field}.cloudWatch"), watch, report);
    }
    let endpoint = &gate.webhook.as_ref()?.endpoint;
    Some(GateQuery::Webhook { endpoint: report.id(&format!("{field}.webhook.endpoint"), endpoint.parse())? })
}

fn cloud_watch(field: &str, watch: &CloudWatchGate, report: &mut Report) -> Option<GateQuery> {
    let period = watch.period_seconds;
    if !(60..=86_400).contains(&period) || !period.is_multiple_of(60) {
        let remedy = "use a multiple of 60 from 60 to 86400";
        report.add(&format!("{field}.periodSeconds"), period.to_string(), "is no period of CloudWatch", remedy);
    }
    if !is_statistic(&watch.statistic) {
        let remedy = "use Sum, Average, Minimum, Maximum, or a percentile such as p99";
        report.add(&format!("{field}.statistic"), &watch.statistic, "is not a statistic", remedy);
        return None;
    }
    Some(GateQuery::CloudWatch {
        metric: watch.metric,
        statistic: watch.statistic.clone(),
        period_seconds: period,
        divided_by: watch.divided_by,
    })
}

fn is_statistic(word: &str) -> bool {
    // As AWS writes them: p95, p99.9, p99.99.
    let digits = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let form = |rest: &str| match rest.split_once('.') {
        Some((whole, fraction)) => digits(whole, 2) && digits(fraction, 2),
        None => digits(rest, 2),
    };
    let percentile = |rest: &str| form(rest) && rest.bytes().any(|b| (b'1'..=b'9').contains(&b));
    matches!(word, "Sum" | "Average" | "Minimum" | "Maximum") || word.strip_prefix('p').is_some_and(percentile)
}
