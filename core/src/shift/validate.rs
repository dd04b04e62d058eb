//! The door from a written shift to one that can be moved. [`validate()`] judges the text by itself, [`ShiftPlan::start`] against
//! the policies as they are stored.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    CheckedGate, Event, Guard, Move, Origin, Shift, ShiftReason, ShiftSpec, State, Step,
    analysis::{Comparison, GateQuery},
    guard::{Finding, Rules},
    spec::{
        self, Gate, MOST_BAKE_SECONDS, MOST_GATES, MOST_POLICIES, MOST_QUERY, MOST_REASON, MOST_STEPS, PolicyTarget,
        Strategy,
    },
    view::GatingSwitch,
    weights,
};
use crate::{
    ids::{ClusterName, IdError, Namespace, PolicyKey, ShiftId, SourceName, Weight, cut},
    policy::{PolicyMemory, PolicyRecord, Violation, validate::MOST_VIOLATIONS},
};

/// The weight of a cluster that gets everything.
const ALL: u32 = 100;

/// A shift that passed [`validate()`], before it met its policies.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShiftPlan {
    /// What was asked, word for word.
    pub spec: ShiftSpec,
    /// The policies.
    pub targets: Vec<Target>,
    /// The steps, with everything written out.
    pub steps: Vec<Step>,
    /// Safety rules that may be crossed.
    pub overrides: BTreeSet<Guard>,
}

/// Where the traffic of one policy goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The policy.
    pub policy: PolicyKey,
    /// Clusters with a weight; the others get 0.
    pub weights: BTreeMap<ClusterName, Weight>,
    /// The version of the policy that this was decided on; 0: any.
    pub expected_version: u64,
}

/// Why a shift cannot start from the policies as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// There is no such policy.
    #[error("there is no policy {0}")]
    NotFound(PolicyKey),
    /// It is on its way out.
    #[error("policy {0} is being deleted")]
    Deleting(PolicyKey),
    /// It changed since the caller looked.
    #[error("policy {policy} is at version {present}, not at {expected}; read it again and decide anew")]
    VersionConflict {
        /// Which.
        policy: PolicyKey,
        /// The version that the caller has seen.
        expected: u64,
        /// The version now.
        present: u64,
    },
    /// The weights do not suit it.
    #[error("the shift is not valid: {}", .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Vec<Violation>),
}

struct Report(Vec<Violation>);

impl Report {
    fn add(&mut self, field: &str, value: impl AsRef<str>, problem: impl Into<String>, remedy: impl Into<String>) {
        if self.0.len() < MOST_VIOLATIONS {
            let (field, value) = (field.to_owned(), cut(value.as_ref()));
            self.0.push(Violation { field, value, problem: problem.into(), remedy: remedy.into() });
        }
    }

    fn id<T>(&mut self, field: &str, result: Result<T, IdError>) -> Option<T> {
        result.map_err(|e| self.add(field, e.value, e.problem, e.remedy)).ok()
    }

    fn range(&mut self, field: &str, value: u32, least: u32, most: u32) {
        if !(least..=most).contains(&value) {
            let remedy = format!("use a whole number from {least} to {most}");
            self.add(field, value.to_string(), format!("is outside {least} to {most}"), remedy);
        }
    }

    fn count(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.add(field, count.to_string(), format!("is the number of entries, {most} are allowed"), "use fewer");
        }
    }
}

/// Judges a shift by itself. Policies without a namespace are those of `namespace`; with `bound` they can be of no other.
///
/// # Errors
/// Every [`Violation`] found, at least one.
pub fn validate(spec: &ShiftSpec, namespace: &Namespace, bound: bool) -> Result<ShiftPlan, Vec<Violation>> {
    let mut report = Report(Vec::new());
    let targets = targets(&spec.policies, namespace, bound, &mut report);
    let shared = gates("spec.gates", &spec.gates, &mut report);
    let steps = steps(&spec.strategy, &shared, &mut report);
    let overrides = overrides(spec, &mut report);
    report.range("spec.progressDeadlineSeconds", spec.progress_deadline_seconds, 30, 86_400);
    if spec.reason.chars().count() > MOST_REASON || spec.reason.contains('\0') {
        report.add(
            "spec.reason",
            &spec.reason,
            "is too long, or holds U+0000",
            format!("use at most {MOST_REASON} characters"),
        );
    }
    if report.0.is_empty() { Ok(ShiftPlan { spec: spec.clone(), targets, steps, overrides }) } else { Err(report.0) }
}

fn targets(policies: &[PolicyTarget], namespace: &Namespace, bound: bool, report: &mut Report) -> Vec<Target> {
    if policies.is_empty() {
        report.add("spec.policies", "", "is empty", "name at least one policy");
    }
    report.count("spec.policies", policies.len(), MOST_POLICIES);
    let mut found: Vec<Target> = Vec::new();
    for (i, policy) in policies.iter().enumerate().take(MOST_POLICIES) {
        let field = format!("spec.policies[{i}]");
        let Some(target) = target(&field, policy, namespace, bound, report) else { continue };
        if found.iter().any(|known| known.policy == target.policy) {
            report.add(&field, target.policy.to_string(), "is named twice", "name each policy once");
        }
        found.push(target);
    }
    found
}

fn target(
    field: &str,
    policy: &PolicyTarget,
    namespace: &Namespace,
    bound: bool,
    report: &mut Report,
) -> Option<Target> {
    let name = report.id(&format!("{field}.name"), policy.name.parse());
    let in_namespace = if policy.namespace.is_empty() {
        Some(namespace.clone())
    } else {
        report.id(&format!("{field}.namespace"), policy.namespace.parse())
    };
    if bound && in_namespace.as_ref().is_some_and(|given| given != namespace) {
        let remedy = "leave it out: a resource moves policies of its own namespace only";
        report.add(&format!("{field}.namespace"), &policy.namespace, "is not the resource's namespace", remedy);
    }
    let weights = target_weights(field, policy, report);
    Some(Target {
        policy: PolicyKey { namespace: in_namespace?, name: name? },
        weights: weights?,
        expected_version: policy.expected_version,
    })
}

fn target_weights(field: &str, policy: &PolicyTarget, report: &mut Report) -> Option<BTreeMap<ClusterName, Weight>> {
    match (&policy.to, policy.weights.is_empty()) {
        (Some(to), true) => {
            let cluster = report.id(&format!("{field}.to"), to.parse())?;
            let all = Weight::new(ALL).ok()?;
            Some(BTreeMap::from([(cluster, all)]))
        }
        (None, false) => {
            // Five clusters a rule; more are named wrong one by one up to a bound.
            report.count(&format!("{field}.weights"), policy.weights.len(), 100);
            let mut weights = BTreeMap::new();
            for (name, weight) in policy.weights.iter().take(100) {
                let at = format!("{field}.weights[{}]", cut(name));
                let cluster = report.id(&at, name.parse());
                let weight = report.id(&at, Weight::new(*weight));
                if let (Some(cluster), Some(weight)) = (cluster, weight) {
                    weights.insert(cluster, weight);
                }
            }
            if weights.values().all(|weight| !weight.carries()) {
                let remedy = "give at least one cluster a weight; to stop all traffic delete the policy";
                report.add(&format!("{field}.weights"), "0", "would be the weight of every cluster", remedy);
            }
            Some(weights)
        }
        (Some(_), false) => {
            report.add(field, "to, weights", "are both given", "give exactly one of to and weights");
            None
        }
        (None, true) => {
            report.add(field, "", "says not where the traffic goes", "give exactly one of to and weights");
            None
        }
    }
}

fn overrides(spec: &ShiftSpec, report: &mut Report) -> BTreeSet<Guard> {
    report.count("spec.overrides", spec.overrides.len(), Guard::ALL.len());
    for (i, guard) in spec.overrides.iter().enumerate().filter(|(_, guard)| !guard.overridable()) {
        let remedy = "leave it out: this is a fact, and crossing it would move nothing";
        report.add(&format!("spec.overrides[{i}]"), guard.to_string(), "cannot be overridden", remedy);
    }
    if !spec.overrides.is_empty() && spec.reason.trim().is_empty() {
        report.add("spec.reason", "", "is empty although safety rules are overridden", "say why");
    }
    spec.overrides.iter().copied().collect()
}

fn steps(strategy: &Strategy, shared: &[CheckedGate], report: &mut Report) -> Vec<Step> {
    let field = "spec.strategy";
    let given = [
        !strategy.steps.is_empty(),
        strategy.linear.is_some(),
        strategy.exponential.is_some(),
        strategy.canary.is_some(),
    ];
    if given.iter().filter(|given| **given).count() > 1 {
        let remedy = "give at most one of steps, linear, exponential and canary";
        report.add(field, "", "holds more than one strategy", remedy);
        return Vec::new();
    }
    let made = if let Some(linear) = &strategy.linear {
        report.range("spec.strategy.linear.stepPercent", linear.step_percent, 1, 100);
        report.range("spec.strategy.linear.bakeSeconds", linear.bake_seconds, 0, MOST_BAKE_SECONDS);
        let percents = (1..).map(|i: u32| i.saturating_mul(linear.step_percent.max(1)));
        generated(percents, linear.bake_seconds, false)
    } else if let Some(exponential) = &strategy.exponential {
        report.range("spec.strategy.exponential.firstPercent", exponential.first_percent, 1, 100);
        report.range("spec.strategy.exponential.factor", exponential.factor, 2, 10);
        report.range("spec.strategy.exponential.bakeSeconds", exponential.bake_seconds, 0, MOST_BAKE_SECONDS);
        let (first, factor) = (exponential.first_percent.max(1), exponential.factor.max(2));
        let percents = std::iter::successors(Some(first), move |percent| Some(percent.saturating_mul(factor)));
        generated(percents, exponential.bake_seconds, false)
    } else if let Some(canary) = &strategy.canary {
        report.range("spec.strategy.canary.percent", canary.percent, 1, 99);
        report.range("spec.strategy.canary.bakeSeconds", canary.bake_seconds, 0, MOST_BAKE_SECONDS);
        generated([canary.percent].into_iter(), canary.bake_seconds, canary.approval)
    } else {
        written(&strategy.steps, report)
    };
    let with_shared = |mut step: Step| {
        let own = std::mem::replace(&mut step.gates, shared.to_vec());
        step.gates.extend(own);
        step
    };
    let steps: Vec<Step> = made.into_iter().map(with_shared).collect();
    for (i, step) in steps.iter().enumerate() {
        report.count(&format!("spec.strategy.steps[{i}].gates"), step.gates.len(), MOST_GATES);
        let names: BTreeSet<&SourceName> = step.gates.iter().map(|gate| &gate.name).collect();
        if names.len() < step.gates.len() {
            let field = format!("spec.strategy.steps[{i}].gates");
            report.add(&field, "", "holds two gates of one name (those of the shift included)", "name each gate once");
            return Vec::new();
        }
    }
    steps
}

/// Steps below 100 with a bake time, and the last one without.
fn generated(percents: impl Iterator<Item = u32>, bake_seconds: u32, approval: bool) -> Vec<Step> {
    let below = percents.take_while(|percent| *percent < 100);
    let mut steps: Vec<Step> =
        below.map(|percent| Step { percent, bake_seconds, approval, gates: Vec::new() }).collect();
    steps.push(Step { percent: 100, bake_seconds: 0, approval: false, gates: Vec::new() });
    steps
}

fn written(steps: &[spec::StepSpec], report: &mut Report) -> Vec<Step> {
    if steps.is_empty() {
        return generated(std::iter::empty(), 0, false);
    }
    report.count("spec.strategy.steps", steps.len(), MOST_STEPS);
    let mut made: Vec<Step> = Vec::new();
    for (i, step) in steps.iter().enumerate().take(MOST_STEPS) {
        let field = format!("spec.strategy.steps[{i}]");
        let percent = format!("{field}.percent");
        report.range(&percent, step.percent, 1, 100);
        report.range(&format!("{field}.bakeSeconds"), step.bake_seconds, 0, MOST_BAKE_SECONDS);
        if made.last().is_some_and(|before| before.percent >= step.percent) {
            report.add(
                &percent,
                step.percent.to_string(),
                "is not more than in the step before",
                "let percentages rise",
            );
        }
        if i + 1 == steps.len() && step.percent != 100 {
            let remedy = "end with 100; to stay below that, give other weights as the goal";
            report.add(&percent, step.percent.to_string(), "is the last step and not 100", remedy);
        }
        let gates = gates(&format!("{field}.gates"), &step.gates, report);
        made.push(Step { percent: step.percent, bake_seconds: step.bake_seconds, approval: step.approval, gates });
    }
    made
}

fn gates(field: &str, gates: &[Gate], report: &mut Report) -> Vec<CheckedGate> {
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

fn cloud_watch(field: &str, watch: &spec::CloudWatchGate, report: &mut Report) -> Option<GateQuery> {
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
    let percentile = |rest: &str| rest.len() <= 5 && rest.parse::<f64>().is_ok_and(|p| p > 0.0 && p < 100.0);
    matches!(word, "Sum" | "Average" | "Minimum" | "Maximum") || word.strip_prefix('p').is_some_and(percentile)
}

impl ShiftPlan {
    /// A shift over the policies as they are.
    ///
    /// # Errors
    /// [`StartError`]: a policy that is missing, on its way out or at another version, or weights that do not suit it.
    pub fn start(
        &self,
        id: ShiftId,
        origin: Origin,
        actor: &str,
        policies: &BTreeMap<PolicyKey, &PolicyRecord>,
        now: Timestamp,
    ) -> Result<Shift, StartError> {
        let mut moves = Vec::new();
        for (i, target) in self.targets.iter().enumerate() {
            moves.push(start_move(i, target, policies.get(&target.policy).copied())?);
        }
        let mut overrides = self.overrides.clone();
        if matches!(origin, Origin::Rollback { .. }) {
            overrides.extend(Guard::open_to_rollback());
        }
        let (state, why) = (State::Pending, ShiftReason::Created);
        let message = "asked for".to_owned();
        let asked = Event { at: now, state, step: None, why, message: message.clone(), actor: actor.to_owned() };
        Ok(Shift {
            id,
            version: 1,
            origin,
            actor: actor.to_owned(),
            reason: self.spec.reason.clone(),
            created_at: now,
            spec: self.spec.clone(),
            moves,
            steps: self.steps.clone(),
            overrides,
            progress_deadline_seconds: self.spec.progress_deadline_seconds,
            state,
            step: None,
            since: now,
            ended_at: None,
            pause: None,
            promoted: false,
            approved: None,
            gates: Vec::new(),
            cause: None,
            why,
            message,
            held_since: None,
            findings: Vec::new(),
            programmed: false,
            converged: false,
            history: vec![asked],
        })
    }
}

fn start_move(i: usize, target: &Target, record: Option<&PolicyRecord>) -> Result<Move, StartError> {
    let key = &target.policy;
    let record = record.ok_or_else(|| StartError::NotFound(key.clone()))?;
    if record.deleting_since.is_some() {
        return Err(StartError::Deleting(key.clone()));
    }
    let (expected, present) = (target.expected_version, record.version);
    if expected != 0 && expected != present {
        return Err(StartError::VersionConflict { policy: key.clone(), expected, present });
    }
    let from = record.requested();
    let unknown: Vec<Violation> = target
        .weights
        .keys()
        .filter(|name| from.iter().all(|(known, _)| known != *name))
        .map(|name| {
            let known: Vec<&str> = from.iter().map(|(name, _)| name.as_str()).collect();
            Violation {
                field: format!("spec.policies[{i}]"),
                value: name.to_string(),
                problem: format!("is not a cluster of policy {key}"),
                remedy: format!("name one of {}, or add the cluster to the policy's spec.clusters", known.join(", ")),
            }
        })
        .collect();
    if !unknown.is_empty() {
        return Err(StartError::Invalid(unknown));
    }
    let weight = |name: &ClusterName| target.weights.get(name).copied().unwrap_or(Weight::ZERO);
    let to = from.iter().map(|(name, _)| (name.clone(), weight(name))).collect();
    Ok(Move { policy: key.clone(), uid: record.uid.clone(), from, to, left: false })
}

/// What the rules that users wrote say against a shift that is about to be made, judged by what is stored: all of its steps for
/// their shape, the first also for the moment.
pub fn stored_findings(
    shift: &Shift,
    policies: &BTreeMap<PolicyKey, (&PolicyRecord, &PolicyMemory)>,
    switches: &[GatingSwitch],
    now: Timestamp,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for one in &shift.moves {
        let Some((record, memory)) = policies.get(&one.policy) else { continue };
        let rules = rules(record, memory, switches, &shift.overrides, now);
        let at = |step: Option<usize>| step.map_or(0, |step| shift.steps[step].percent);
        let weights_at = |step| weights::at(&one.from, &one.to, at(step));
        if one.from == one.to {
            continue;
        }
        found.extend(rules.moment(0));
        for step in 0..shift.steps.len() {
            found.extend(rules.shape(step, &weights_at(step.checked_sub(1)), &weights_at(Some(step))));
        }
    }
    found
}

/// The rules of a stored policy.
pub fn rules<'a>(
    record: &'a PolicyRecord,
    memory: &PolicyMemory,
    switches: &'a [GatingSwitch],
    overrides: &'a BTreeSet<Guard>,
    now: Timestamp,
) -> Rules<'a> {
    Rules {
        policy: &record.policy.key,
        safety: &record.policy.safety,
        frozen: record.policy.freeze,
        moved_at: memory.programmed.as_ref().map(|programmed| programmed.since),
        switches,
        overrides,
        now,
    }
}
