//! A shift over the policies as they are stored, and what the rules that users wrote say against it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    super::{
        Event, Guard, Move, Origin, Shift, ShiftReason, State,
        guard::{Finding, Rules},
        view::GatingSwitch,
        weights,
    },
    ShiftPlan, Target,
};
use crate::{
    ids::{ClusterName, PolicyKey, ShiftId, Weight},
    policy::{PolicyMemory, PolicyRecord, Violation},
};

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
    let meant = |record: &&PolicyRecord| target.uid.as_ref().is_none_or(|uid| record.uid == *uid);
    let record = record.filter(meant).ok_or_else(|| StartError::NotFound(key.clone()))?;
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
