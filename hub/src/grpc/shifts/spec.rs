//! A shift as a call asks for it, to core's spec and back. What a number of 0 means and which words there are is in the .proto
//! file. Faults are named by the fields of the spec as a TrafficShift writes it (`spec.policies[0].weights[blue]`): these are the
//! words of the JSON form and of the command line too. Pure. Tests: `spec_tests.rs`.

use switchyard_core::{
    ids::{Namespace, cut},
    policy::{Violation, validate::MOST_VIOLATIONS},
    shift::{
        CheckedGate, Guard, Move, Shift, ShiftSpec,
        analysis::GateQuery,
        spec::{
            self, Canary, CloudWatchGate, Exponential, Gate, Linear, PolicyTarget, PrometheusGate, StepSpec, Strategy,
            TargetGroupMetric, TargetHealthGate, WebhookGate,
        },
        validate::{ShiftPlan, validate},
    },
};
use switchyard_proto::api::v1 as proto;

use crate::grpc::{
    convert::to_proto_ref,
    rights::{GateSources, unknown_sources},
};

/// Policies that a call names without a namespace are of this one, as with kubectl.
const DEFAULT_NAMESPACE: &str = "default";
/// Bytes of one spec as JSON; the bound of a policy's manifest.
const MOST_BYTES: usize = 64 * 1024;
/// Bytes of all steps with their gates written out as JSON: gates of the whole shift stand in each of up to 100 steps, and a page
/// of shifts must fit into one message.
const MOST_STEP_BYTES: usize = 256 * 1024;

/// What a call asks for, judged by itself.
///
/// # Errors
/// Every [`Violation`] found, at least one.
pub fn plan(asked: &proto::ShiftSpec, sources: &GateSources) -> Result<ShiftPlan, Vec<Violation>> {
    let (spec, mut violations) = from_proto_spec(asked);
    let valid = Namespace::new(DEFAULT_NAMESPACE)
        .map_err(|error| vec![fault("spec.policies", DEFAULT_NAMESPACE, error.problem, error.remedy)])
        .and_then(|namespace| validate(&spec, &namespace, false));
    violations.extend(unknown_sources(&spec, sources));
    let plan = match valid {
        Ok(plan) => Some(plan),
        Err(found) => {
            violations.extend(found);
            None
        }
    };
    if let Some(violation) = plan.as_ref().and_then(|plan| bounded(plan).err()) {
        violations.push(violation);
    }
    violations.truncate(MOST_VIOLATIONS);
    match plan {
        Some(plan) if violations.is_empty() => Ok(plan),
        _ => Err(violations),
    }
}

/// Judges the size of a shift, as it is kept and shown.
///
/// # Errors
/// A [`Violation`] when it is too large.
pub fn bounded(plan: &ShiftPlan) -> Result<(), Violation> {
    let size = |text: Result<String, serde_json::Error>| text.map_or(usize::MAX, |text| text.len());
    let (spec, steps) = (size(serde_json::to_string(&plan.spec)), size(serde_json::to_string(&plan.steps)));
    if spec > MOST_BYTES {
        let problem = format!("is longer than {MOST_BYTES} bytes");
        return Err(fault("spec", &format!("{spec} bytes"), problem, "use fewer or shorter gates"));
    }
    if steps > MOST_STEP_BYTES {
        let problem = format!("are longer than {MOST_STEP_BYTES} bytes with their gates, those of the shift included");
        return Err(fault("spec.strategy", &format!("{steps} bytes"), problem, "use fewer steps or shorter gates"));
    }
    Ok(())
}

fn fault(field: &str, value: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Violation {
    Violation { field: field.to_owned(), value: cut(value), problem: problem.into(), remedy: remedy.into() }
}

/// Collects the words that name nothing.
struct Reader {
    violations: Vec<Violation>,
}

/// The spec as core knows it, with a violation for each word that names nothing; such a word is left out of the spec, or stands
/// for the first of its kind.
fn from_proto_spec(asked: &proto::ShiftSpec) -> (ShiftSpec, Vec<Violation>) {
    let mut reader = Reader { violations: Vec::new() };
    let spec = ShiftSpec {
        policies: asked.policies.iter().map(from_proto_target).collect(),
        strategy: reader.strategy(asked.strategy.as_ref()),
        gates: reader.gates("spec.gates", &asked.gates),
        overrides: reader.overrides("spec.overrides", &asked.overrides),
        reason: asked.reason.clone(),
        progress_deadline_seconds: or(asked.progress_deadline_seconds, spec::default_deadline()),
        ..ShiftSpec::default()
    };
    (spec, reader.violations)
}

/// The rules that a call may cross.
///
/// # Errors
/// A [`Violation`] for each word that is not one of them.
pub fn from_proto_overrides(field: &str, words: &[String]) -> Result<Vec<Guard>, Vec<Violation>> {
    let mut reader = Reader { violations: Vec::new() };
    let guards = reader.overrides(field, words);
    if reader.violations.is_empty() { Ok(guards) } else { Err(reader.violations) }
}

fn or(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

fn from_proto_target(asked: &proto::ShiftPolicy) -> PolicyTarget {
    let policy = asked.policy.clone().unwrap_or_default();
    PolicyTarget {
        namespace: policy.namespace,
        name: policy.name,
        to: (!asked.to_cluster.is_empty()).then(|| asked.to_cluster.clone()),
        weights: asked.weights.iter().map(|(name, weight)| (name.clone(), *weight)).collect(),
        expected_version: asked.expected_version,
    }
}

impl Reader {
    fn add(&mut self, violation: Violation) {
        if self.violations.len() < MOST_VIOLATIONS {
            self.violations.push(violation);
        }
    }

    fn overrides(&mut self, field: &str, words: &[String]) -> Vec<Guard> {
        let known: Vec<String> =
            Guard::ALL.into_iter().filter(|guard| guard.overridable()).map(|guard| guard.to_string()).collect();
        let mut guards = Vec::new();
        for (i, word) in words.iter().enumerate() {
            // Core refuses facts too; here the place in the list is still the caller's.
            let problem = match word.parse::<Guard>() {
                Ok(guard) if guard.overridable() => {
                    guards.push(guard);
                    continue;
                }
                Ok(_) => "cannot be overridden: it is a fact, and crossing it would move nothing",
                Err(_) => "is not a safety rule",
            };
            self.add(fault(&format!("{field}[{i}]"), word, problem, format!("use one of {}", known.join(", "))));
        }
        guards
    }

    fn strategy(&mut self, asked: Option<&proto::ShiftStrategy>) -> Strategy {
        let Some(asked) = asked else { return Strategy::default() };
        let steps = asked.steps.iter().enumerate().map(|(i, step)| StepSpec {
            percent: step.percent,
            bake_seconds: step.bake_seconds,
            approval: step.approval,
            gates: self.gates(&format!("spec.strategy.steps[{i}].gates"), &step.gates),
        });
        Strategy {
            steps: steps.collect(),
            linear: asked
                .linear
                .map(|linear| Linear { step_percent: linear.step_percent, bake_seconds: linear.bake_seconds }),
            exponential: asked.exponential.map(|exponential| Exponential {
                first_percent: exponential.first_percent,
                factor: or(exponential.factor, spec::default_factor()),
                bake_seconds: exponential.bake_seconds,
            }),
            canary: asked.canary.map(|canary| Canary {
                percent: canary.percent,
                bake_seconds: canary.bake_seconds,
                approval: canary.approval,
            }),
        }
    }

    fn gates(&mut self, field: &str, asked: &[proto::Gate]) -> Vec<Gate> {
        asked.iter().enumerate().map(|(i, gate)| self.gate(&format!("{field}[{i}]"), gate)).collect()
    }

    fn gate(&mut self, field: &str, asked: &proto::Gate) -> Gate {
        let target_health = asked
            .target_health
            .map(|gate| TargetHealthGate { min_healthy_percent: or(gate.min_healthy_percent, spec::all_percent()) });
        let prometheus = asked
            .prometheus
            .as_ref()
            .map(|gate| PrometheusGate { source: gate.source.clone(), query: gate.query.clone() });
        let cloud_watch = asked.cloud_watch.as_ref().map(|gate| CloudWatchGate {
            metric: self.metric(&format!("{field}.cloudWatch.metric"), &gate.metric),
            statistic: gate.statistic.clone(),
            period_seconds: or(gate.period_seconds, spec::default_period()),
            divided_by: (!gate.divided_by.is_empty())
                .then(|| self.metric(&format!("{field}.cloudWatch.dividedBy"), &gate.divided_by)),
        });
        let webhook = asked.webhook.as_ref().map(|gate| WebhookGate { endpoint: gate.endpoint.clone() });
        Gate {
            name: asked.name.clone(),
            target_health,
            prometheus,
            cloud_watch,
            webhook,
            success: asked.success.clone(),
            failure: asked.failure.clone(),
            interval_seconds: or(asked.interval_seconds, spec::default_interval()),
            count: or(asked.count, spec::default_count()),
            failure_limit: asked.failure_limit,
        }
    }

    fn metric(&mut self, field: &str, name: &str) -> TargetGroupMetric {
        let found = TargetGroupMetric::ALL.into_iter().find(|metric| metric.name() == name);
        found.unwrap_or_else(|| {
            let known: Vec<&str> = TargetGroupMetric::ALL.into_iter().map(TargetGroupMetric::name).collect();
            self.add(fault(
                field,
                name,
                "is not a metric of a target group",
                format!("use one of {}", known.join(", ")),
            ));
            TargetGroupMetric::default()
        })
    }
}

/// What was asked, with steps and defaults written out: the gates of the whole shift stand in each step.
pub fn to_proto_spec(shift: &Shift) -> proto::ShiftSpec {
    let targets = shift.moves.iter().zip(&shift.spec.policies).map(|(one, target)| to_proto_target(one, target));
    let steps = shift.steps.iter().map(|step| proto::ShiftStep {
        percent: step.percent,
        bake_seconds: step.bake_seconds,
        approval: step.approval,
        gates: step.gates.iter().map(to_proto_gate).collect(),
    });
    proto::ShiftSpec {
        policies: targets.collect(),
        strategy: Some(proto::ShiftStrategy { steps: steps.collect(), ..proto::ShiftStrategy::default() }),
        gates: Vec::new(),
        overrides: shift.spec.overrides.iter().map(ToString::to_string).collect(),
        reason: shift.reason.clone(),
        progress_deadline_seconds: shift.progress_deadline_seconds,
    }
}

fn to_proto_target(one: &Move, target: &PolicyTarget) -> proto::ShiftPolicy {
    proto::ShiftPolicy {
        policy: Some(to_proto_ref(&one.policy)),
        to_cluster: target.to.clone().unwrap_or_default(),
        weights: target.weights.iter().map(|(name, weight)| (name.clone(), *weight)).collect(),
        expected_version: target.expected_version,
    }
}

fn to_proto_gate(gate: &CheckedGate) -> proto::Gate {
    let comparison = |comparison: &Option<_>| comparison.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut shown = proto::Gate {
        name: gate.name.to_string(),
        success: comparison(&gate.success),
        failure: comparison(&gate.failure),
        interval_seconds: gate.interval_seconds,
        count: gate.count,
        failure_limit: gate.failure_limit,
        ..proto::Gate::default()
    };
    match &gate.query {
        GateQuery::TargetHealth { min_healthy_percent } => {
            shown.target_health = Some(proto::TargetHealthGate { min_healthy_percent: *min_healthy_percent });
        }
        GateQuery::Prometheus { source, query } => {
            shown.prometheus = Some(proto::PrometheusGate { source: source.to_string(), query: query.clone() });
        }
        GateQuery::CloudWatch { metric, statistic, period_seconds, divided_by } => {
            shown.cloud_watch = Some(proto::CloudWatchGate {
                metric: metric.name().to_owned(),
                statistic: statistic.clone(),
                period_seconds: *period_seconds,
                divided_by: divided_by.map(TargetGroupMetric::name).unwrap_or_default().to_owned(),
            });
        }
        GateQuery::Webhook { endpoint } => {
            shown.webhook = Some(proto::WebhookGate { endpoint: endpoint.to_string() });
        }
    }
    shown
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
