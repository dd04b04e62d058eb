//! The status of a policy: what is true of it, and every reason for what is not.

use jiff::Timestamp;

use super::{
    PolicyPlan, World,
    draft::{self, Draft, RuleView},
    priorities::Priorities,
    step::{Action, Step},
    steps,
};
use crate::{
    failover::Standing,
    ids::Weight,
    policy::Transition,
    status::{ClusterStatus, ConditionType, Note, PolicyStatus, Reason, RuleStatus, StatusCondition},
};

/// Reasons that mean: something that the policy refers to was not found.
const REFERENCE_REASONS: [Reason; 9] = [
    Reason::ListenerNotFound,
    Reason::ListenerUnsuitable,
    Reason::ForeignOwner,
    Reason::ClusterNotFound,
    Reason::ServiceNotFound,
    Reason::PortNotFound,
    Reason::NoNodePort,
    Reason::AgentTooOld,
    Reason::NotObservedYet,
];

struct Verdict {
    status: Option<bool>,
    reason: Reason,
    message: String,
}

impl Verdict {
    fn yes(message: impl Into<String>) -> Self {
        Self { status: Some(true), reason: Reason::AsRequested, message: message.into() }
    }

    fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: Some(false), reason, message: message.into() }
    }
}

/// Puts the plan of one policy together.
pub(super) fn policy_plan(
    world: &World<'_>,
    draft: &mut Draft<'_>,
    priorities: &Priorities,
    steps: Vec<Step>,
    now: Timestamp,
) -> PolicyPlan {
    draft.notes.sort();
    draft.notes.dedup();
    let accepted = Verdict::yes(format!("version {} is stored", draft.record.version));
    let resolved = resolved(draft);
    let programmed = programmed(world, draft, priorities, &steps);
    let converged = converged(world, draft, &programmed, now);
    let verdicts = [
        (ConditionType::Accepted, accepted),
        (ConditionType::ResolvedRefs, resolved),
        (ConditionType::Programmed, programmed),
        (ConditionType::Converged, converged),
        (ConditionType::FailedOver, failed_over(draft)),
    ];
    let conditions = verdicts.into_iter().map(|(kind, verdict)| condition(draft, kind, verdict, now)).collect();
    let status = PolicyStatus {
        observed_version: draft.record.version,
        conditions,
        clusters: clusters(draft),
        rule: rule(draft),
        notes: draft.notes.clone(),
        failover: draft.failover.clone(),
    };
    let gone = gone(world, draft);
    let again_at = again_at(world, draft, now);
    PolicyPlan { steps, status, memory: draft.memory.clone(), gone, again_at }
}

fn condition(draft: &mut Draft<'_>, kind: ConditionType, verdict: Verdict, now: Timestamp) -> StatusCondition {
    let transitions = &mut draft.memory.transitions;
    let same = transitions.get(&kind).is_some_and(|last| last.status == verdict.status);
    if !same {
        transitions.insert(kind, Transition { status: verdict.status, at: now });
    }
    let last_transition = transitions.get(&kind).map_or(now, |last| last.at);
    let Verdict { status, reason, message } = verdict;
    StatusCondition { kind, status, reason, message, last_transition }
}

fn first_note<'d>(draft: &'d Draft<'_>, reasons: &[Reason]) -> Option<&'d Note> {
    draft.notes.iter().find(|note| reasons.contains(&note.reason))
}

fn resolved(draft: &Draft<'_>) -> Verdict {
    match first_note(draft, &REFERENCE_REASONS) {
        Some(note) if note.reason == Reason::NotObservedYet => {
            Verdict { status: None, reason: note.reason, message: note.message.clone() }
        }
        Some(note) => Verdict::no(note.reason, note.message.clone()),
        None => Verdict::yes("listener, clusters and Services were found"),
    }
}

/// True only when the rule was read back with exactly what was asked for.
fn programmed(world: &World<'_>, draft: &Draft<'_>, priorities: &Priorities, steps: &[Step]) -> Verdict {
    if draft.record.deleting_since.is_some() {
        return Verdict::no(Reason::Deleting, "the policy is being deleted");
    }
    let RuleView::Present { rule, .. } = &draft.rule else {
        return no_rule(draft, steps);
    };
    if let Some(held) = draft.effective.iter().find(|e| e.reason != Reason::AsRequested) {
        return Verdict::no(held.reason, held.message.clone());
    }
    let refused =
        [Reason::ObserveOnly, Reason::Frozen, Reason::InvariantViolated, Reason::NoPriorityFree, Reason::ForeignOwner];
    let pending = pending_rule_change(world, draft, priorities, rule);
    match (pending, first_note(draft, &refused).or_else(|| first_note(draft, &FAILED))) {
        (None, _) => Verdict::yes("the rule was read back as asked"),
        (Some(_), Some(note)) => Verdict::no(note.reason, note.message.clone()),
        (Some(pending), None) => Verdict::no(Reason::InProgress, pending),
    }
}

/// Reasons that a call did not go through.
const FAILED: [Reason; 4] = [Reason::QuotaExceeded, Reason::CallRefused, Reason::OutcomeUnknown, Reason::Throttled];

/// What one cluster lacks does not keep the rule from being made for the others.
fn of_one_cluster(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ServiceNotFound
            | Reason::PortNotFound
            | Reason::NoNodePort
            | Reason::AgentTooOld
            | Reason::ClusterNotFound
    )
}

fn no_rule(draft: &Draft<'_>, steps: &[Step]) -> Verdict {
    let reasons: Vec<Reason> = REFERENCE_REASONS
        .into_iter()
        .filter(|reason| !of_one_cluster(*reason))
        .chain([
            Reason::ObserveOnly,
            Reason::Frozen,
            Reason::InvariantViolated,
            Reason::NoPriorityFree,
            Reason::InProgress,
        ])
        .chain(FAILED)
        .collect();
    if matches!(draft.rule, RuleView::Unknown) && first_note(draft, &reasons).is_none() {
        let message = "the rules of the listener are being read back".to_owned();
        return Verdict { status: None, reason: Reason::OutcomeUnknown, message };
    }
    match first_note(draft, &reasons) {
        Some(note) => Verdict::no(note.reason, note.message.clone()),
        None if draft.wants_rule || steps.iter().any(|step| matches!(step.action, Action::CreateRule { .. })) => {
            Verdict::no(Reason::InProgress, "the rule is being made")
        }
        None => Verdict::no(
            Reason::NoTargets,
            format!(
                "no cluster with a weight has a ready {} to register, so there is no rule yet",
                if draft.record.policy.service.targets_nodes() { "node" } else { "pod" }
            ),
        ),
    }
}

/// What of the rule still differs from what is wanted, in words.
fn pending_rule_change(
    world: &World<'_>,
    draft: &Draft<'_>,
    priorities: &Priorities,
    rule: &crate::observed::Rule,
) -> Option<String> {
    let most = world.observed.limits.target_groups_per_action;
    let (forward, _) = steps::forward(draft, &steps::existing_groups(draft), most);
    if !steps::same_forward(&rule.action, &forward) {
        return Some("the weights are being written".to_owned());
    }
    if rule.conditions != draft.record.policy.conditions {
        return Some("the conditions are being written".to_owned());
    }
    let wanted = priorities.assigned.get(&draft.record.policy.key);
    if wanted.is_some_and(|priority| *priority != rule.priority) {
        return Some("the rule's priority is being changed".to_owned());
    }
    let missing = draft.clusters.iter().any(|c| c.requested.carries() && c.programmed.is_none() && !c.is_detached());
    missing.then(|| "a cluster is being added to the rule".to_owned())
}

fn converged(world: &World<'_>, draft: &Draft<'_>, programmed: &Verdict, now: Timestamp) -> Verdict {
    let memory = draft.memory.programmed.as_ref().filter(|_| programmed.status == Some(true));
    let Some(memory) = memory else {
        let Verdict { status, reason, message } = programmed;
        return Verdict { status: *status, reason: *reason, message: message.clone() };
    };
    let end = draft::settle_end(memory, world.settings);
    if end <= now {
        return Verdict::yes(format!("the weights have been in force since {:.0}", memory.since));
    }
    Verdict::no(Reason::Settling, format!("the weights were read back; they count as served everywhere at {end:.0}"))
}

/// True while weights differ from the request for the health of clusters, or since operators drain one.
fn failed_over(draft: &Draft<'_>) -> Verdict {
    let message = draft.failover.message.clone();
    match draft.failover.standing {
        Standing::Off | Standing::AsRequested => Verdict { status: Some(false), reason: Reason::AsRequested, message },
        Standing::Panic => Verdict::no(Reason::Panic, message),
        Standing::FailedOver => {
            let clusters = draft.failover.clusters.iter().filter(|cluster| cluster.reason != Reason::AsRequested);
            let first = clusters.min_by_key(|cluster| cluster.share >= cluster.requested_share);
            let reason = first.map_or(Reason::FailedOver, |cluster| cluster.reason);
            Verdict { status: Some(true), reason, message }
        }
    }
}

fn clusters(draft: &Draft<'_>) -> Vec<ClusterStatus> {
    let status = |cluster: &draft::ClusterDraft<'_>| {
        let effective = draft.effective.iter().find(|e| e.cluster == cluster.name);
        ClusterStatus {
            cluster: cluster.name.clone(),
            requested: cluster.requested,
            effective: effective.map_or(Weight::ZERO, |e| e.weight),
            programmed: cluster.programmed.filter(|_| !matches!(draft.rule, RuleView::Unknown)),
            reason: effective.map_or(Reason::AsRequested, |e| e.reason),
            message: effective.map(|e| e.message.clone()).unwrap_or_default(),
            targets: cluster.counts,
            target_group: cluster.group.map(|(arn, _)| arn.clone()),
        }
    };
    draft.clusters.iter().map(status).collect()
}

fn rule(draft: &Draft<'_>) -> Option<RuleStatus> {
    let place = draft.place?;
    let (rule, priority) = match &draft.rule {
        RuleView::Present { arn, rule, .. } => (Some((*arn).clone()), Some(rule.priority)),
        RuleView::Absent | RuleView::Unknown => (None, None),
    };
    let programmed_since = draft.memory.programmed.as_ref().filter(|_| rule.is_some()).map(|p| p.since);
    Some(RuleStatus { listener: place.listener_arn.clone(), rule, priority, programmed_since })
}

/// True when a policy that is being deleted has nothing left at AWS, by what was really read.
fn gone(world: &World<'_>, draft: &Draft<'_>) -> bool {
    let no_rule = matches!(draft.rule, RuleView::Absent) || steps::listener_is_gone(draft) || never_made(draft);
    let no_group = draft.clusters.iter().all(|cluster| cluster.group.is_none());
    draft.record.deleting_since.is_some() && world.observed.audited_at.is_some() && no_rule && no_group
}

/// True for a policy whose listener is refused, and that was never programmed: a rule was never made where the listener was
/// refused from the start. One that was made before the refusal has its groups, and waits for them.
fn never_made(draft: &Draft<'_>) -> bool {
    let refused = [Reason::ForeignOwner, Reason::ListenerUnsuitable];
    draft.place.is_none() && draft.memory.programmed.is_none() && first_note(draft, &refused).is_some()
}

/// The next moment at which this plan would be another one although nothing else changed.
fn again_at(world: &World<'_>, draft: &Draft<'_>, now: Timestamp) -> Option<Timestamp> {
    let settled = draft.memory.programmed.as_ref().map(|programmed| draft::settle_end(programmed, world.settings));
    let retries = draft.memory.failures.values().map(|failure| failure.not_before);
    let baselines = draft.memory.baselines.values().filter_map(|baseline| {
        baseline.below_since.and_then(|since| since.checked_add(super::targets::BASELINE_WINDOW).ok())
    });
    retries.chain(baselines).chain(settled).chain(draft.decide_again_at).filter(|at| *at > now).min()
}
