//! What the gates of a step say. A measurement is a success, a failure, or neither; missing data is neither, and makes the shift
//! wait. A gate is measured at its interval for as long as its step bakes: it has passed once enough measurements succeeded, and
//! it fails with the first failure past its limit, also after it had passed.

use std::{fmt, str::FromStr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{spec::TargetGroupMetric, view::PolicyView};
use crate::{
    arn::{LoadBalancerArn, TargetGroupArn},
    ids::{ClusterName, PolicyKey, ShiftId, SourceName, Weight, cut},
};

/// A gate that passed [`super::validate()`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckedGate {
    /// Unique in its step.
    pub name: SourceName,
    /// What is measured.
    pub query: GateQuery,
    /// Makes a value a success; set for Prometheus and CloudWatch.
    pub success: Option<Comparison>,
    /// Makes a value a failure; none: whatever is no success.
    pub failure: Option<Comparison>,
    /// Seconds between two measurements.
    pub interval_seconds: u32,
    /// Measurements that must succeed.
    pub count: u32,
    /// Failed measurements that are put up with.
    pub failure_limit: u32,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GateQuery {
    /// Targets of the clusters that gain, by the load balancer's own health check; needs no call.
    TargetHealth {
        /// Percent of the registered ones, 1..=100.
        min_healthy_percent: u32,
    },
    /// A query to a Prometheus server.
    Prometheus {
        /// One that the hub was given.
        source: SourceName,
        /// PromQL.
        query: String,
    },
    /// A metric of the target groups of the clusters that gain.
    CloudWatch {
        /// Which.
        metric: TargetGroupMetric,
        /// Such as `Sum` or `p99`.
        statistic: String,
        /// A multiple of 60.
        period_seconds: u32,
        /// The metric that it is divided by.
        divided_by: Option<TargetGroupMetric>,
    },
    /// A question to a webhook.
    Webhook {
        /// One that the hub was given.
        endpoint: SourceName,
    },
}

/// A comparison with a number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Comparison {
    operator: Operator,
    number: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// The longer words come first: `<=` is not `<` followed by `=`.
const OPERATORS: [(&str, Operator); 6] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Comparison {
    /// True when the value compares so.
    pub fn holds(self, value: f64) -> bool {
        #[expect(clippy::float_cmp, reason = "the user asked for equality")]
        match self.operator {
            Operator::Less => value < self.number,
            Operator::LessOrEqual => value <= self.number,
            Operator::Greater => value > self.number,
            Operator::GreaterOrEqual => value >= self.number,
            Operator::Equal => value == self.number,
            Operator::NotEqual => value != self.number,
        }
    }
}

/// A comparison that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a comparison with a number; write an operator (<, <=, >, >=, ==, !=) and a number, such as \"< 0.01\""
)]
pub struct ComparisonError(String);

impl FromStr for Comparison {
    type Err = ComparisonError;
    fn from_str(text: &str) -> Result<Self, ComparisonError> {
        let fault = || ComparisonError(cut(text));
        let trimmed = text.trim();
        let found = OPERATORS.iter().find_map(|(word, operator)| Some((trimmed.strip_prefix(word)?, *operator)));
        let (rest, operator) = found.ok_or_else(fault)?;
        let number: f64 = rest.trim().parse().map_err(|_| fault())?;
        if number.is_finite() { Ok(Self { operator, number }) } else { Err(fault()) }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = OPERATORS.iter().find(|(_, operator)| *operator == self.operator).map_or("?", |(word, _)| word);
        write!(f, "{word} {}", self.number)
    }
}

impl TryFrom<String> for Comparison {
    type Error = ComparisonError;
    fn try_from(text: String) -> Result<Self, ComparisonError> {
        text.parse()
    }
}

impl From<Comparison> for String {
    fn from(comparison: Comparison) -> String {
        comparison.to_string()
    }
}

/// One measurement that is due, for whoever reads numbers from outside.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// The shift.
    pub shift: ShiftId,
    /// Its step, from 0.
    pub step: usize,
    /// Percent of the way.
    pub percent: u32,
    /// The gate of the step, from 0.
    pub gate: usize,
    /// Its name.
    pub name: SourceName,
    /// What to measure; never [`GateQuery::TargetHealth`].
    pub query: GateQuery,
    /// The policies of the shift.
    pub policies: Vec<MeasuredPolicy>,
}

/// One policy of a measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeasuredPolicy {
    /// Which.
    pub policy: PolicyKey,
    /// The weights that the step asks for.
    pub weights: Vec<(ClusterName, Weight)>,
    /// Where they are served.
    pub load_balancer: Option<LoadBalancerArn>,
    /// The clusters that gain, with their target groups.
    pub gaining: Vec<(ClusterName, Option<TargetGroupArn>)>,
}

/// What a measurement found.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// A finite number.
    Value(f64),
    /// Nothing that can be judged: the sentence says why, and what helps.
    NoData(String),
    /// The answer of a webhook; none: it asks to wait.
    Verdict {
        /// Pass or fail.
        pass: Option<bool>,
        /// As it said.
        message: String,
    },
}

/// A reading on its way to the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The step that it was made for, from 0; one of another step is passed over.
    pub step: usize,
    /// The gate, from 0.
    pub gate: usize,
    /// When it was asked for.
    pub at: Timestamp,
    /// What was found.
    pub reading: Reading,
}

/// How a gate stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GatePhase {
    /// Not enough measurements yet.
    #[default]
    Running,
    /// Enough succeeded.
    Passed,
    /// Too many failed.
    Failed,
    /// The last one was neither success nor failure.
    NoData,
}

/// The course of one gate in one step.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GateRun {
    /// How it stands.
    pub phase: GatePhase,
    /// Measurements that succeeded.
    pub succeeded: u32,
    /// Measurements that failed.
    pub failed: u32,
    /// Measurements that were neither.
    pub without_data: u32,
    /// What the last one said.
    pub message: String,
    /// When it was made.
    pub measured_at: Option<Timestamp>,
    /// What it found; none: no number.
    pub value: Option<f64>,
}

enum Verdict {
    Success(String),
    Failure(String),
    Neither(String),
    /// It works on it: that is no lack of data, and no success either.
    Wait(String),
}

impl GateRun {
    /// When it is to be measured next.
    pub fn due_at(&self, gate: &CheckedGate, step_since: Timestamp) -> Timestamp {
        let interval = Duration::from_secs(u64::from(gate.interval_seconds));
        match self.measured_at {
            Some(at) => at.saturating_add(interval).unwrap_or(Timestamp::MAX),
            None => step_since,
        }
    }

    /// Takes a measurement in. One that comes again, since nobody knew that it was taken in already, counts once: what is not
    /// later than the last one is passed over.
    pub fn take(&mut self, gate: &CheckedGate, reading: &Reading, at: Timestamp) {
        if self.phase == GatePhase::Failed || self.measured_at.is_some_and(|last| at <= last) {
            return;
        }
        self.measured_at = Some(at);
        // What is no number has no place in JSON, and equals not even itself: a shift with it would change at every look.
        self.value = if let Reading::Value(value) = reading { Some(*value).filter(|v| v.is_finite()) } else { None };
        let neither = match judge(gate, reading) {
            Verdict::Success(message) => {
                self.succeeded = self.succeeded.saturating_add(1);
                self.message = message;
                false
            }
            Verdict::Failure(message) => {
                self.failed = self.failed.saturating_add(1);
                self.message = message;
                false
            }
            Verdict::Neither(message) => {
                self.without_data = self.without_data.saturating_add(1);
                self.message = message;
                true
            }
            Verdict::Wait(message) => {
                self.message = message;
                self.phase = if self.failed > gate.failure_limit { GatePhase::Failed } else { GatePhase::Running };
                return;
            }
        };
        self.phase = if self.failed > gate.failure_limit {
            GatePhase::Failed
        } else if neither {
            GatePhase::NoData
        } else if self.succeeded >= gate.count {
            GatePhase::Passed
        } else {
            GatePhase::Running
        };
    }
}

fn judge(gate: &CheckedGate, reading: &Reading) -> Verdict {
    match reading {
        Reading::NoData(why) => Verdict::Neither(why.clone()),
        Reading::Verdict { pass: Some(true), message } => Verdict::Success(message.clone()),
        Reading::Verdict { pass: Some(false), message } => Verdict::Failure(message.clone()),
        Reading::Verdict { pass: None, message } => Verdict::Wait(message.clone()),
        Reading::Value(value) if !value.is_finite() => Verdict::Neither(format!("{value} is no number to compare")),
        Reading::Value(value) => compare(gate, *value),
    }
}

fn compare(gate: &CheckedGate, value: f64) -> Verdict {
    let holds = |comparison: Option<Comparison>| comparison.filter(|comparison| comparison.holds(value));
    // A value for which both hold is a failure: the careful reading of a contradiction.
    if let Some(failure) = holds(gate.failure) {
        return Verdict::Failure(format!("{value} {failure} is a failure"));
    }
    if let Some(success) = holds(gate.success) {
        return Verdict::Success(format!("{value} {success} is a success"));
    }
    match (gate.success, gate.failure) {
        (Some(success), None) => Verdict::Failure(format!("{value} is not {success}")),
        _ => Verdict::Neither(format!("{value} is neither a success nor a failure")),
    }
}

/// The reading of a gate of kind target health: of each policy, the cluster with the smallest part of healthy targets decides.
pub(super) fn target_health(min_healthy_percent: u32, gaining: &[(&PolicyView, Vec<ClusterName>)]) -> Reading {
    for (view, clusters) in gaining {
        for name in clusters {
            let Some(cluster) = view.cluster(name).filter(|cluster| cluster.known) else {
                return Reading::NoData(format!("the targets of {name} are not known at this moment"));
            };
            let (healthy, registered) = (cluster.targets.healthy, cluster.targets.registered);
            if registered == 0 {
                return Reading::Verdict { pass: Some(false), message: format!("{name} has no registered target") };
            }
            if u64::from(healthy) * 100 < u64::from(registered) * u64::from(min_healthy_percent) {
                // New targets are not judged yet: that says nothing against the version they run.
                let judged = registered - cluster.targets.unhealthy.min(registered);
                let pending = u64::from(judged) * 100 >= u64::from(registered) * u64::from(min_healthy_percent);
                let message =
                    format!("{healthy} of {registered} targets of {name} are healthy, {min_healthy_percent} % must be");
                return Reading::Verdict { pass: (!pending).then_some(false), message };
            }
        }
    }
    Reading::Verdict { pass: Some(true), message: "enough targets are healthy".to_owned() }
}
