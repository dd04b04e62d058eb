//! The one door from a written policy to a type that can be built. Every fault is found in one pass and named with its field,
//! its value, what is wrong and what helps. Tests are in `core/tests/validate.rs`.

mod failover;
mod safety;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

use super::{
    ListenerSelector, ValidatedPolicy, conditions,
    spec::{self, ClusterTrafficPolicy, Mode, Protocol, ProtocolVersion, TargetType},
};
use crate::{
    arn::{ListenerArn, LoadBalancerArn},
    ids::{ClusterName, IdError, PolicyKey, ServiceName, ServicePort, Weight, cut},
    inventory::ServiceKey,
    observed::HealthCheck,
};

/// Clusters one weighted rule can hold (quota "target groups per action", not adjustable).
pub const MOST_CLUSTERS: usize = 5;
/// The largest `order`: rule priorities end at 50000, and policies of equal order need room behind it.
pub const MOST_ORDER: u32 = 49_000;

/// The most violations that are reported: a document of ten thousand faults is not answered with ten thousand sentences.
pub const MOST_VIOLATIONS: usize = 100;
/// Tags that a selector may name (AWS allows 50 on a resource).
pub const MOST_TAGS: usize = 50;
/// Characters of a tag's key and of its value (AWS, "Tag naming limits").
pub const MOST_TAG_CHARACTERS: (usize, usize) = (128, 256);
/// The largest `minStepIntervalSeconds`: a day. What shall wait longer waits for a maintenance window.
pub const MOST_STEP_INTERVAL_SECONDS: u32 = 86_400;
/// Maintenance windows of one policy.
pub const MOST_WINDOWS: usize = 20;
/// The largest `peakRequestsPerSecond`: far above what one load balancer carries, and its product with a weight fits into 64 bits.
pub const MOST_PEAK_REQUESTS_PER_SECOND: u32 = 10_000_000;
/// The largest `requestsPerSecondPerTarget`: what no single process answers over a load balancer.
pub const MOST_REQUESTS_PER_SECOND_PER_TARGET: u32 = 100_000;

/// The largest priority of a cluster: with at most 5 clusters there are at most 5 levels.
pub const MOST_PRIORITY: u32 = 4;
/// The largest `overprovisioningPercent`: a cluster that carries everything with a tenth of its targets.
pub const MOST_OVERPROVISIONING_PERCENT: u32 = 1000;
/// The largest `unhealthyAfterSeconds`: an hour of errors is no failover any more.
pub const MOST_UNHEALTHY_AFTER_SECONDS: u32 = 3600;
/// The largest `healthyAfterSeconds`, `failbackStepSeconds` and `holdDownMaxSeconds`: a day. What shall wait longer is `Manual`.
pub const MOST_AFTER_SECONDS: u32 = 86_400;
/// The largest `deadBandPercent`.
pub const MOST_DEAD_BAND_PERCENT: u32 = 50;
/// The largest `maxMovesPerHour`: one a minute.
pub const MOST_MOVES_PER_HOUR: u32 = 60;

/// ELBv2's word for a health check at the target's own port.
pub const TRAFFIC_PORT: &str = "traffic-port";

/// One fault of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {value:?} {}; {remedy}", visible(.field), visible(.problem))]
pub struct Violation {
    /// Path of the field, such as `spec.clusters[1].weight`.
    pub field: String,
    /// The value as given, cut to 256 characters.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// With control characters, and what turns the direction of a line or ends it in Unicode (UAX 9), written out: fields and problems hold
/// names that callers made up, and those forge no line of a log.
fn visible(text: &str) -> Cow<'_, str> {
    let is_obeyed = |c: char| {
        let turns =
            matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || turns
    };
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let written = |c: char| if is_obeyed(c) { c.escape_unicode().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(written).collect())
}

/// Collects violations while the policy is read.
#[derive(Default)]
pub(super) struct Report(Vec<Violation>);

impl Report {
    pub(super) fn add(
        &mut self,
        field: &str,
        value: impl AsRef<str>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.0.len() == MOST_VIOLATIONS {
            return;
        }
        let value = cut(value.as_ref());
        self.0.push(Violation { field: field.to_owned(), value, problem: problem.into(), remedy: remedy.into() });
    }

    fn id<T>(&mut self, field: &str, result: Result<T, IdError>) -> Option<T> {
        result.map_err(|e| self.add(field, e.value, e.problem, e.remedy)).ok()
    }

    fn range(&mut self, field: &str, value: u32, least: u32, most: u32, unit: &str) {
        if !(least..=most).contains(&value) {
            let problem = format!("is outside {least} to {most}{unit}");
            self.add(field, value.to_string(), problem, format!("use a whole number from {least} to {most}"));
        }
    }
}

pub(super) fn quote(values: &[&str]) -> String {
    values.join(", ")
}

/// Judges a policy by itself, without looking at AWS or at any cluster.
///
/// # Errors
/// Every [`Violation`] found, at least one.
pub fn validate(manifest: &ClusterTrafficPolicy) -> Result<ValidatedPolicy, Vec<Violation>> {
    let mut report = Report::default();
    let spec = &manifest.spec;
    kind(manifest, &mut report);
    let key = key(manifest, &mut report);
    let listener = listener(&spec.listener, &mut report);
    let conditions = conditions::build(&spec.matches, &mut report);
    report.range("spec.order", spec.order, 1, MOST_ORDER, "");
    let service = service(key.as_ref(), &spec.backend, &mut report);
    unsupported(spec, &mut report);
    let health_check = health_check(&spec.backend, &mut report);
    let delay = spec.backend.deregistration_delay_seconds;
    report.range("spec.backend.deregistrationDelaySeconds", delay, 0, 3600, " seconds");
    let clusters = clusters(&spec.clusters, &mut report);
    let budget = spec.safety.deregistration_budget_percent;
    report.range("spec.safety.deregistrationBudgetPercent", budget, 0, 100, " percent");
    let safety = safety::rules(spec, &mut report);
    let capacity = safety::capacity(spec, &mut report);
    let failover = failover::rules(spec, &mut report);
    let standbys = failover::standbys(spec, &mut report);
    match (key, listener, service) {
        (Some(key), Some(listener), Some(service)) if report.0.is_empty() => Ok(ValidatedPolicy {
            key,
            listener,
            conditions,
            order: spec.order,
            service,
            protocol: protocol_word(spec.backend.protocol).to_owned(),
            protocol_version: version_word(spec.backend.protocol_version).to_owned(),
            health_check,
            deregistration_delay_seconds: delay,
            clusters,
            deregistration_budget_percent: budget,
            freeze: spec.safety.freeze,
            safety,
            capacity,
            failover,
            standbys,
        }),
        _ => Err(report.0),
    }
}

/// Judges a new spec against the one in force: what ELBv2 fixes for the life of a target group cannot change.
///
/// # Errors
/// One [`Violation`] for each field that cannot change.
pub fn validate_update(old: &ValidatedPolicy, new: &ValidatedPolicy) -> Result<(), Vec<Violation>> {
    let mut report = Report::default();
    let remedy = "delete the policy and create it anew, or create a second one under another name and move the traffic";
    let mut fixed = |field: &str, old: String, new: String| {
        if old != new {
            report.add(field, new, format!("differs from {old:?} and cannot change"), remedy);
        }
    };
    fixed("spec.listener", format!("{:?}", old.listener), format!("{:?}", new.listener));
    let kind = |policy: &ValidatedPolicy| target_type_word(policy.service.target_type).to_owned();
    fixed("spec.backend.targetType", kind(old), kind(new));
    fixed("spec.backend.protocol", old.protocol.clone(), new.protocol.clone());
    fixed("spec.backend.protocolVersion", old.protocol_version.clone(), new.protocol_version.clone());
    if report.0.is_empty() { Ok(()) } else { Err(report.0) }
}

fn kind(manifest: &ClusterTrafficPolicy, report: &mut Report) {
    if manifest.api_version != spec::API_VERSION {
        report.add("apiVersion", &manifest.api_version, "is not known", format!("use {}", spec::API_VERSION));
    }
    if manifest.kind != spec::KIND {
        report.add("kind", &manifest.kind, "is not known", format!("use {}", spec::KIND));
    }
}

fn key(manifest: &ClusterTrafficPolicy, report: &mut Report) -> Option<PolicyKey> {
    let namespace = report.id("metadata.namespace", manifest.metadata.namespace.parse());
    let name = report.id("metadata.name", manifest.metadata.name.parse());
    Some(PolicyKey { namespace: namespace?, name: name? })
}

fn listener(listener: &spec::Listener, report: &mut Report) -> Option<ListenerSelector> {
    let ways = [listener.arn.is_some(), listener.load_balancer.is_some(), !listener.tags.is_empty()];
    if ways.iter().filter(|given| **given).count() != 1 {
        let given = format!("{} of arn, loadBalancer, tags", ways.iter().filter(|g| **g).count());
        report.add(
            "spec.listener",
            given,
            "does not name one listener",
            "give exactly one of arn, loadBalancer and tags",
        );
        return None;
    }
    if let Some(arn) = &listener.arn {
        if let Some(port) = listener.port {
            report.add("spec.listener.port", port.to_string(), "is given beside arn", "leave it out");
        }
        return match ListenerArn::new(arn.clone()) {
            Ok(arn) => Some(ListenerSelector::Arn(arn)),
            Err(error) => {
                report.add("spec.listener.arn", arn, "is not the ARN of a listener", error.to_string());
                None
            }
        };
    }
    let Some(port) = listener.port else {
        report.add("spec.listener.port", "", "is missing", "give the listener's port");
        return None;
    };
    report.range("spec.listener.port", port, 1, 65_535, "");
    let port = u16::try_from(port).ok()?;
    let Some(name_or_arn) = listener.load_balancer.clone() else {
        tags(&listener.tags, report);
        return Some(ListenerSelector::Tags { tags: listener.tags.clone(), port });
    };
    load_balancer(&name_or_arn, report);
    Some(ListenerSelector::LoadBalancer { name_or_arn, port })
}

fn load_balancer(name_or_arn: &str, report: &mut Report) {
    let field = "spec.listener.loadBalancer";
    if name_or_arn.starts_with("arn:") {
        if let Err(error) = LoadBalancerArn::new(name_or_arn) {
            report.add(field, name_or_arn, "is not the ARN of a load balancer", error.to_string());
        }
        return;
    }
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name_or_arn.is_empty() || name_or_arn.len() > 32 || !name_or_arn.chars().all(good) {
        let remedy = "use the load balancer's name (at most 32 letters, digits, hyphens) or its ARN";
        report.add(field, name_or_arn, "is not the name of a load balancer", remedy);
    }
}

fn tags(tags: &BTreeMap<String, String>, report: &mut Report) {
    let field = "spec.listener.tags";
    if tags.len() > MOST_TAGS {
        report.add(field, tags.len().to_string(), "is more tags than a resource can carry", "name at most 50 tags");
    }
    let (most_key, most_value) = MOST_TAG_CHARACTERS;
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > most_key {
            report.add(field, key, "is not a tag key of 1 to 128 characters", "use the key as AWS shows it");
        }
        if value.chars().count() > most_value {
            let field = format!("{field}[{}]", cut(key));
            report.add(&field, value, "has more than 256 characters", "use the value as AWS shows it");
        }
    }
}

fn service(key: Option<&PolicyKey>, backend: &spec::Backend, report: &mut Report) -> Option<ServiceKey> {
    let service = &backend.service;
    let name = report.id("spec.backend.service.name", ServiceName::new(service.name.clone()));
    if let spec::NameOrNumber::Number(number) = service.port {
        report.range("spec.backend.service.port", number, 1, 65_535, "");
    }
    let port = report.id("spec.backend.service.port", ServicePort::new(service.port.to_string()));
    let target_type = backend.target_type;
    Some(ServiceKey { namespace: key?.namespace.clone(), name: name?, port: port?, target_type })
}

/// What the API foresees and this version cannot do is refused, never silently ignored.
fn unsupported(spec: &spec::PolicySpec, report: &mut Report) {
    if spec.mode == Mode::Pooled {
        report.add("spec.mode", "Pooled", "is not supported by this version", "use Weighted");
    }
}

fn health_check(backend: &spec::Backend, report: &mut Report) -> HealthCheck {
    let check = &backend.health_check;
    let at = |field: &str| format!("spec.backend.healthCheck.{field}");
    let path_ok = check.path.starts_with('/') && check.path.len() <= 1024;
    if !path_ok || check.path.chars().any(|c| !c.is_ascii_graphic()) {
        let remedy = "use an absolute path of at most 1024 printable characters, such as /healthz";
        report.add(&at("path"), &check.path, "is not a path", remedy);
    }
    if let Some(port) = check.port {
        report.range(&at("port"), port, 1, 65_535, "");
    }
    report.range(&at("intervalSeconds"), check.interval_seconds, 5, 300, " seconds");
    report.range(&at("timeoutSeconds"), check.timeout_seconds, 2, 120, " seconds");
    if check.timeout_seconds >= check.interval_seconds {
        let problem = format!("is not less than intervalSeconds ({})", check.interval_seconds);
        report.add(
            &at("timeoutSeconds"),
            check.timeout_seconds.to_string(),
            problem,
            "shorten it, or check less often",
        );
    }
    report.range(&at("healthyThreshold"), check.healthy_threshold, 2, 10, "");
    report.range(&at("unhealthyThreshold"), check.unhealthy_threshold, 2, 10, "");
    HealthCheck {
        protocol: protocol_word(backend.protocol).to_owned(),
        port: check.port.map_or_else(|| TRAFFIC_PORT.to_owned(), |port| port.to_string()),
        path: check.path.clone(),
        interval_seconds: check.interval_seconds,
        timeout_seconds: check.timeout_seconds,
        healthy_threshold: check.healthy_threshold,
        unhealthy_threshold: check.unhealthy_threshold,
        matcher: matcher(backend, report),
    }
}

/// Codes or ranges of codes, separated by commas; defaults are those of ELBv2 (HTTP 200, gRPC 12).
fn matcher(backend: &spec::Backend, report: &mut Report) -> String {
    let grpc = backend.protocol_version == ProtocolVersion::Grpc;
    let (least, most, default) = if grpc { (0, 99, "12") } else { (200, 499, "200") };
    let codes = backend.health_check.success_codes.as_str();
    if codes.is_empty() {
        return default.to_owned();
    }
    // Digits only: a sign or leading zeros would be a number to us and an error to AWS.
    let plain = |code: &&str| code.chars().all(|c| c.is_ascii_digit()) && (*code == "0" || !code.starts_with('0'));
    let number = |code: &str| Some(code).filter(plain).and_then(|code| code.parse::<u32>().ok());
    let in_range = |code: &str| number(code).filter(|code| (least..=most).contains(code));
    let good = |part: &str| match part.split_once('-') {
        None => in_range(part).is_some(),
        Some((from, to)) => matches!((in_range(from), in_range(to)), (Some(from), Some(to)) if from <= to),
    };
    if codes.len() > 255 || !codes.split(',').all(good) {
        let remedy = format!("use codes from {least} to {most}, such as {default}, separated by commas, or ranges");
        report.add("spec.backend.healthCheck.successCodes", codes, "is not a list of codes", remedy);
    }
    codes.to_owned()
}

fn clusters(clusters: &[spec::Cluster], report: &mut Report) -> Vec<(ClusterName, Weight)> {
    let field = "spec.clusters";
    if clusters.is_empty() {
        report.add(field, "[]", "is empty", "name at least one cluster");
    }
    if clusters.len() > MOST_CLUSTERS {
        let problem = format!("names {} clusters, a weighted rule takes {MOST_CLUSTERS}", clusters.len());
        let names: Vec<&str> = clusters.iter().map(|c| c.name.as_str()).take(20).collect();
        report.add(field, quote(&names), problem, "remove clusters (ELBv2 takes 5 target groups a rule and no more)");
    }
    let mut seen = BTreeSet::new();
    let mut result = Vec::new();
    // Bounded: more than the allowed number is refused above, there is no need to name each fault of a thousand entries.
    for (i, cluster) in clusters.iter().take(20).enumerate() {
        let name = report.id(&format!("{field}[{i}].name"), ClusterName::new(cluster.name.clone()));
        let weight = report.id(&format!("{field}[{i}].weight"), Weight::new(cluster.weight));
        if !seen.insert(cluster.name.as_str()) {
            report.add(&format!("{field}[{i}].name"), &cluster.name, "is named twice", "name each cluster once");
        }
        if let (Some(name), Some(weight)) = (name, weight) {
            // A standby is asked for nothing as long as nobody needs it; see `standbys`.
            result.push((name, if cluster.priority > 0 { Weight::ZERO } else { weight }));
        }
    }
    if !clusters.is_empty() && clusters.iter().all(|cluster| cluster.weight == 0 || cluster.priority > 0) {
        let remedy = "give at least one cluster of priority 0 a weight; to stop all traffic delete the policy";
        report.add(field, "0", "is the weight of every cluster: all requests would get a 503", remedy);
    }
    result
}

/// The word of ELBv2, which is that of the spec.
pub fn target_type_word(target_type: TargetType) -> &'static str {
    match target_type {
        TargetType::Ip => "ip",
        TargetType::Instance => "instance",
    }
}

fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP",
        Protocol::Https => "HTTPS",
    }
}

fn version_word(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::Http1 => "HTTP1",
        ProtocolVersion::Http2 => "HTTP2",
        ProtocolVersion::Grpc => "GRPC",
    }
}

/// Judges weights that a call wants to set on a policy.
///
/// # Errors
/// A [`Violation`] for each cluster that the policy does not name, each one named twice, each weight out of
/// range, and when no weight would be left.
pub fn validate_weights(
    policy: &ValidatedPolicy,
    present: &[(ClusterName, Weight)],
    wanted: &[(String, u32)],
) -> Result<Vec<(ClusterName, Weight)>, Vec<Violation>> {
    let mut report = Report::default();
    let mut result = present.to_vec();
    let mut seen = BTreeSet::new();
    for (name, weight) in wanted.iter().take(100) {
        if !seen.insert(name) {
            report.add("weights", name, "is named twice", "name each cluster once");
        }
        let weight = report.id(&format!("weights[{}]", cut(name)), Weight::new(*weight));
        match result.iter_mut().find(|(known, _)| known.as_str() == name) {
            Some(entry) => entry.1 = weight.unwrap_or(entry.1),
            None => {
                let known: Vec<&str> = policy.clusters.iter().map(|(name, _)| name.as_str()).collect();
                let remedy = format!("name one of {}, or add the cluster to spec.clusters", quote(&known));
                report.add("weights", name, "is not a cluster of this policy", remedy);
            }
        }
    }
    if wanted.is_empty() || wanted.len() > 100 {
        report.add("weights", wanted.len().to_string(), "is not a usable number of weights", "give 1 to 5 weights");
    }
    if report.0.is_empty() && result.iter().all(|(_, weight)| !weight.carries()) {
        let remedy = "give at least one cluster a weight; to stop all traffic delete the policy";
        report.add("weights", "0", "would be the weight of every cluster: all requests would get a 503", remedy);
    }
    if report.0.is_empty() { Ok(result) } else { Err(report.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_is_one_line_whatever_a_caller_named_his_fields() {
        let violation = Violation {
            field: "a\nforged=1\u{202e}".to_owned(),
            value: "\u{1b}[31m".to_owned(),
            problem: "unknown field `b\tc`".to_owned(),
            remedy: "leave it out".to_owned(),
        };
        assert_eq!(
            violation.to_string(),
            r#"a\u{a}forged=1\u{202e}: "\u{1b}[31m" unknown field `b\u{9}c`; leave it out"#
        );
    }
}
