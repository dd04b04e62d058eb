//! The door from a written shift to one that can be moved. [`validate()`] judges the text by itself, [`ShiftPlan::start`] against
//! the policies as they are stored. Steps are written out in `steps`, gates judged in `gates`.

mod gates;
mod start;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

pub use start::{StartError, rules, stored_findings};

use super::{
    Guard, ShiftSpec, Step,
    spec::{MOST_POLICIES, MOST_REASON, PolicyTarget},
};
use crate::{
    ids::{ClusterName, IdError, Namespace, PolicyKey, PolicyUid, Weight, cut},
    policy::{Violation, validate::MOST_VIOLATIONS},
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
    /// The policy that is meant; none: whichever has the name.
    pub uid: Option<PolicyUid>,
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
    let shared = gates::gates("spec.gates", &spec.gates, &mut report);
    let steps = steps::steps(&spec.strategy, &shared, &mut report);
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
        uid: None,
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
            // Weights that are no weights were named already.
            if weights.len() == policy.weights.len() && weights.values().all(|weight| !weight.carries()) {
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
