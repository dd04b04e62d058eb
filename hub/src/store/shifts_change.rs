//! What a change of a shift means, as functions from values to values: why it is refused, what a resource's own words do to a new
//! shift, what the audit log says of it. No statements in here; those are in [`super::shifts`], whose tests judge both.

use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_core::{
    ids::{ClusterName, PolicyKey, ResourceUid, ShiftId, Weight},
    policy::Violation,
    shift::{
        Finding, Move, Origin, Shift, by_cluster,
        machine::{By, Command, Refusal, command},
        validate::StartError,
    },
};

use super::{error::StoreError, idempotency::AnswerError, rights::MayNot};

/// Why a shift was not made, or not changed. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum ShiftError {
    /// The request id, the actor or the reason is at fault.
    #[error("the request is not valid: {}", violations.first().map(ToString::to_string).unwrap_or_default())]
    Invalid {
        /// All faults, at least one.
        violations: Vec<Violation>,
    },
    /// The policies do not allow it as they are.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There is no such shift.
    #[error("there is no shift {0}; shifts that ended are kept for 90 days")]
    NotFound(ShiftId),
    /// Safety rules stand in the way.
    #[error("{}", held(.findings))]
    Held {
        /// All that was found, those that the caller crosses included.
        findings: Vec<Finding>,
    },
    /// Another shift moves one of the policies.
    #[error(
        "shift {} moves policy {policy} ({}); wait for its end, or take it back with `yardctl abort {}`",
        shift.id, shift.state, shift.id
    )]
    Busy {
        /// Which policy.
        policy: PolicyKey,
        /// The shift that moves it.
        shift: Box<Shift>,
    },
    /// The shift does not take this command in its state.
    #[error("shift {shift}: {refusal}")]
    Refused {
        /// Which.
        shift: ShiftId,
        /// Why not.
        refusal: Refusal,
    },
    /// The resource was refused before, and that is remembered.
    #[error("the resource was refused: {why}; a resource is carried out once, so make a new one")]
    ResourceRefused {
        /// Why.
        why: String,
    },
    /// The resource was carried out, so long ago that its shift is no longer kept.
    #[error("the resource was carried out by shift {shift}, which is no longer kept; make a new resource")]
    ResourceForgotten {
        /// Which.
        shift: ShiftId,
    },
    /// The caller may not do this.
    #[error(transparent)]
    MayNot(#[from] Box<MayNot>),
    /// The request id was used for something else.
    #[error("request id {request_id:?} was used for another {method} request; use a new id for a new request")]
    RequestReused {
        /// The id.
        request_id: String,
        /// What it was used for.
        method: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<AnswerError> for ShiftError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Reused { request_id, method } => ShiftError::RequestReused { request_id, method },
            AnswerError::Store(error) => ShiftError::Store(error),
        }
    }
}

/// What stands in the way, in one sentence; what the caller crosses is left out.
pub(super) fn held(findings: &[Finding]) -> String {
    /// Findings that are spelt out; the caller has all of them beside the sentence.
    const MOST: usize = 5;
    let blocking: Vec<&str> =
        findings.iter().filter(|finding| !finding.overridden).map(|finding| finding.message.as_str()).collect();
    let more = blocking.len().saturating_sub(MOST);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("safety rules stand in the way: {}{more}", blocking.get(..MOST).unwrap_or(&blocking).join("; "))
}

/// A resource can be written as paused, approved or aborted before its shift is made: the new shift is so from its first moment.
pub(super) fn as_written(shift: Shift, by: By<'_>, now: Timestamp) -> Shift {
    let said = shift.spec.controls();
    said.into_iter().fold(shift, |shift, said| match command(shift.clone(), &said, by, now) {
        // A new shift has moved nothing, so there are no weights to write.
        Ok((shift, _)) => shift,
        Err(_) => shift,
    })
}

/// The word of a command in the audit log.
pub(super) fn action(command: &Command) -> &'static str {
    match command {
        Command::Pause => "shift-pause",
        Command::Resume => "shift-resume",
        Command::Approve(_) | Command::ApproveUpTo(_) => "shift-approve",
        Command::Promote => "shift-promote",
        Command::Abort => "shift-abort",
        Command::Superseded(_) | Command::Deleted(_) => "shift-supersede",
    }
}

/// What tells a command from another one under the same request id.
pub(super) fn content(command: &Command) -> Value {
    let what = match command {
        Command::Pause | Command::Resume | Command::Promote | Command::Abort => Value::Null,
        Command::Approve(step) => json!(step),
        Command::ApproveUpTo(step) => json!({"upTo": step}),
        Command::Superseded(uid) => json!({"superseded": uid}),
        Command::Deleted(uid) => json!({"deleted": uid}),
    };
    json!([action(command), what])
}

/// The word of what the hub did by itself; none: nothing that an audit log is for.
pub(super) fn step_action(before: &Shift, after: &Shift) -> Option<&'static str> {
    if before.is_active() && !after.is_active() {
        Some("shift-end")
    } else if before.cause != after.cause {
        Some("shift-back")
    } else if before.step != after.step {
        Some("shift-step")
    } else {
        None
    }
}

/// What the audit log says of a new shift, for one of its policies.
pub(super) fn create_detail(shift: &Shift, one: &Move, findings: &[Finding]) -> Value {
    let mut detail = detail(shift, &one.policy, Some((&one.from, &one.to)));
    let (steps, origin) = (&shift.steps, &shift.origin);
    detail["steps"] = json!(steps.iter().map(|step| step.percent).collect::<Vec<_>>());
    detail["origin"] = json!(origin);
    let crossed = findings.iter().filter(|finding| finding.overridden && finding.policy == one.policy);
    detail["crossed"] = json!(crossed.map(|finding| &finding.message).collect::<Vec<_>>());
    detail
}

type Weights = [(ClusterName, Weight)];

/// What the audit log says of any later change, for one of its policies; with weights when they moved.
pub(super) fn detail(shift: &Shift, policy: &PolicyKey, moved: Option<(&Weights, &Weights)>) -> Value {
    let mut detail = json!({
        "shift": shift.id,
        "version": shift.version,
        "state": shift.state,
        "step": shift.step.map(|step| step + 1),
        "why": shift.why,
        "message": sentence_for(shift, policy),
        // What the caller said; rules that are open to every rollback are nobody's word.
        "overrides": shift.spec.overrides,
    });
    if let Some((from, to)) = moved {
        detail["from"] = json!(by_cluster(from));
        detail["to"] = json!(by_cluster(to));
    }
    detail
}

/// What is said of a shift to those who may read this policy. Its own sentence names the policies that it moves, with their weights: where
/// those are of several namespaces, it is for the readers of all of them only.
pub(super) fn sentence_for(shift: &Shift, policy: &PolicyKey) -> String {
    if shift.moves.iter().all(|one| one.policy.namespace == policy.namespace) {
        return shift.message.clone();
    }
    let words = |weights: &Weights| {
        let words: Vec<String> = weights.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
        words.join(",")
    };
    let step = shift.step.map(|step| format!(", step {} of {}", step + 1, shift.steps.len())).unwrap_or_default();
    let own = shift.moves.iter().find(|one| one.policy == *policy);
    let own = own.map(|one| format!(": {policy} from {} to {}", words(&one.from), words(&one.to))).unwrap_or_default();
    format!("{} ({}){step}{own}", shift.state, shift.why)
}

/// The resource behind a shift: what is remembered of it answers first.
pub(super) fn resource(origin: &Origin) -> Option<(&ClusterName, &ResourceUid)> {
    match origin {
        Origin::Resource { cluster, uid, .. } => Some((cluster, uid)),
        Origin::Call | Origin::Rollback { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::shift::Guard;

    use super::*;

    fn finding(message: &str, overridden: bool) -> Finding {
        let policy = PolicyKey::new("shop", "a").unwrap();
        Finding { guard: Guard::MaxStepPercent, policy, step: 0, message: message.to_owned(), overridden, until: None }
    }

    #[test]
    fn the_sentence_about_rules_in_the_way_is_short_and_leaves_out_what_is_crossed() {
        let mut findings: Vec<Finding> = (0..7).map(|i| finding(&format!("rule {i}"), false)).collect();
        findings.insert(0, finding("crossed", true));
        let text = held(&findings);
        assert_eq!(text, "safety rules stand in the way: rule 0; rule 1; rule 2; rule 3; rule 4; and 2 more");
        assert_eq!(held(&findings[..2]), "safety rules stand in the way: rule 0");
    }
}
