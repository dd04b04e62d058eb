//! The one place where what went wrong becomes a gRPC status. Details carry the message itself, without an `Any` around it:
//! `switchyard.api.v1.Violations` with INVALID_ARGUMENT, `switchyard.api.v1.VersionConflict` with ABORTED, and
//! `switchyard.api.v1.Findings` with FAILED_PRECONDITION where safety rules, policies or what is wanted of a cluster stand in the way.

use std::collections::BTreeSet;

use prost::Message;
use switchyard_core::{
    fleet::machine::Refusal,
    ids::{ClusterName, IdError, PolicyKey, ShiftId, cut},
    policy::Violation,
    shift::{Finding, Guard, Shift, State, validate::StartError},
};
use switchyard_proto::api::v1 as proto;
use tonic::{Code, Status, metadata::MetadataValue};

use super::{
    access::AccessFault,
    clusters::losses::Uncarried,
    convert::{to_proto_ref, to_proto_violation},
    planning::Busy,
    shifts::to_proto_finding,
};
use crate::store::{ApplyError, FleetError, MayNot, ShiftError, StoreError, SwitchError};

/// Violations whose sentences go into the status message; the details hold more.
const MOST_IN_MESSAGE: usize = 10;
/// Names of clusters in a message.
const MOST_NAMES: usize = 20;
/// Bytes of the message and of the details. Both travel in headers, percent- and base64-encoded, and clients bound the size of
/// all headers (16 KiB is usual): past that the caller would see a broken stream instead of its faults.
const MOST_MESSAGE: usize = 2 * 1024;
const MOST_DETAILS: usize = 6 * 1024;

/// What can go wrong with a call of the API.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The store's answer.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The store's answer about a shift.
    #[error(transparent)]
    Shift(#[from] ShiftError),
    /// The store's answer about a gating switch.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// The store's answer about a whole cluster.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A game day would cost requests.
    #[error("{}", not_carried(.cluster, *.all, .uncarried))]
    LossNotCarried {
        /// The cluster that was to be lost.
        cluster: ClusterName,
        /// Policies that name it.
        all: usize,
        /// Those that others cannot carry, at least one.
        uncarried: Vec<Uncarried>,
    },
    /// The answer about a token, a certificate or an authority.
    #[error(transparent)]
    Access(#[from] AccessFault),
    /// The caller may not do this.
    #[error(transparent)]
    MayNot(#[from] Box<MayNot>),
    /// There is no such shift.
    #[error("there is no shift {0}; see which there are with ListShifts (yardctl history)")]
    NoShift(ShiftId),
    /// Nothing was ever moved.
    #[error(
        "policy {0} has no shift under way and none that succeeded and moved its weights, so there is nothing to take back"
    )]
    NothingToRollBack(PolicyKey),
    /// The last move was a way back itself.
    #[error(
        "the shift that moved policy {policy} last, {last}, took {of} back; to go forward again by taking that back, name it: \
         yardctl rollback {last}"
    )]
    RolledBackAlready {
        /// Which.
        policy: PolicyKey,
        /// The rollback.
        last: ShiftId,
        /// What it took back.
        of: ShiftId,
    },
    /// Only what succeeded is taken back.
    #[error("shift {shift} ended as {state}: {}", went_back(*.state))]
    NotRolledBack {
        /// Which.
        shift: ShiftId,
        /// How it ended.
        state: State,
    },
    /// What it moved is not there any more.
    #[error(
        "shift {shift} cannot be taken back: {} of it {} gone, or others of the same name are there now",
        names(.policies), if policies.len() == 1 { "is" } else { "are" }
    )]
    PoliciesGone {
        /// Which.
        shift: ShiftId,
        /// What is gone.
        policies: Vec<PolicyKey>,
    },
    /// A field of the request is at fault.
    #[error("{}", sentence(.0))]
    Invalid(Vec<Violation>),
    /// There is no such policy.
    #[error("there is no policy {0}; see which there are with ListPolicies (yardctl get policies)")]
    NotFound(PolicyKey),
    /// Nothing was read from the store since this hub started.
    #[error("the hub has not read its store yet; try again")]
    NotLoaded,
    /// There is no such cluster.
    #[error("there is no cluster {asked}; {}", known_clusters(.known))]
    UnknownCluster {
        /// Who was asked for.
        asked: ClusterName,
        /// Those that agents announced or policies name.
        known: BTreeSet<ClusterName>,
    },
    /// AWS was not read through yet, so a plan would be one over nothing.
    #[error("AWS was not read by this replica yet, so no plan can be made; ask again in a moment")]
    NotObserved,
    /// Enough plans wait to be made for callers already.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The hub is going down.
    #[error("the hub is shutting down; try again, at any replica")]
    Shutdown,
    /// A task of the hub died.
    #[error("the hub failed while it worked on this; see its log")]
    Internal,
}

impl ApiError {
    /// A violation of one field of a request.
    pub fn field(field: &str, error: IdError) -> Self {
        Self::Invalid(vec![Violation {
            field: field.to_owned(),
            value: error.value,
            problem: error.problem,
            remedy: error.remedy.to_owned(),
        }])
    }

    /// The same, in words.
    pub fn violation(field: &str, value: &str, problem: &str, remedy: &str) -> Self {
        let (field, value) = (field.to_owned(), cut(value));
        Self::Invalid(vec![Violation { field, value, problem: problem.to_owned(), remedy: remedy.to_owned() }])
    }
}

fn names(all: &[impl ToString]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn went_back(state: State) -> &'static str {
    match state {
        State::Aborted => "it went back to the recorded weights already",
        State::Failed => "it moved nothing, or went back to the recorded weights already",
        State::Superseded => "new specs or deletions took its policies over, and what was left of it went back already",
        State::Succeeded
        | State::Pending
        | State::Preflight
        | State::Stepping
        | State::Baking
        | State::AwaitingApproval
        | State::Converging
        | State::Aborting => "only a shift that has succeeded can be taken back",
    }
}

fn not_carried(cluster: &ClusterName, all: usize, uncarried: &[Uncarried]) -> String {
    let shown = uncarried.iter().take(MOST_IN_MESSAGE).map(|one| format!("{}: {}", one.policy, one.message));
    let more = uncarried.len().saturating_sub(MOST_IN_MESSAGE);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let mut text = format!(
        "the loss of {cluster} would not be carried in {} of the {all} policies that name it; look at all of them with dry_run, mend \
         them, or set force to lose requests on purpose: {}{more}",
        uncarried.len(),
        shown.collect::<Vec<_>>().join("; ")
    );
    shorten(&mut text);
    text
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Apply(ApplyError::Store(error))
    }
}

fn sentence(violations: &[Violation]) -> String {
    let shown: Vec<String> = violations.iter().take(MOST_IN_MESSAGE).map(ToString::to_string).collect();
    let more = violations.len().saturating_sub(MOST_IN_MESSAGE);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let mut text = format!("{} not valid: {}{more}", count(violations.len()), shown.join("; "));
    shorten(&mut text);
    text
}

fn shorten(text: &mut String) {
    if text.len() > MOST_MESSAGE {
        let end = (0..=MOST_MESSAGE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
}

fn known_clusters(known: &BTreeSet<ClusterName>) -> String {
    if known.is_empty() {
        return "no agent has announced any yet, and no policy names one".to_owned();
    }
    let names: Vec<&str> = known.iter().take(MOST_NAMES).map(ClusterName::as_str).collect();
    let more = known.len().saturating_sub(MOST_NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the hub knows {}{more}", names.join(", "))
}

fn count(n: usize) -> String {
    if n == 1 { "1 field is".to_owned() } else { format!("{n} fields are") }
}

/// The status that the caller gets.
pub fn to_status(error: &ApiError) -> Status {
    let text = error.to_string();
    match error {
        ApiError::Apply(error) => apply_status(error),
        ApiError::Shift(error) => shift_status(error),
        ApiError::Switch(error) => switch_status(error),
        ApiError::Fleet(error) => fleet_status(error),
        ApiError::LossNotCarried { uncarried, .. } => {
            let finding = |one: &Uncarried| found(one.word(), Some(&one.policy), &one.message);
            with_findings(text, uncarried.iter().map(finding))
        }
        ApiError::Access(fault) => Status::new(fault.code, text),
        ApiError::MayNot(_) => Status::permission_denied(text),
        ApiError::NoShift(_) | ApiError::NothingToRollBack(_) | ApiError::PoliciesGone { .. } => {
            Status::not_found(text)
        }
        ApiError::NotRolledBack { .. } | ApiError::RolledBackAlready { .. } => Status::failed_precondition(text),
        ApiError::Invalid(violations) => invalid(violations),
        ApiError::NotFound(_) | ApiError::UnknownCluster { .. } => Status::not_found(text),
        ApiError::NotLoaded | ApiError::NotObserved | ApiError::Shutdown => Status::unavailable(text),
        ApiError::Busy(busy) => with_wait(text, busy),
        ApiError::Internal => Status::internal(text),
    }
}

/// With the whole seconds after which to ask again, as the layer in front of the services says it.
fn with_wait(text: String, busy: &Busy) -> Status {
    let mut status = Status::resource_exhausted(text);
    status.metadata_mut().insert("retry-after", MetadataValue::from(busy.seconds()));
    status
}

fn apply_status(error: &ApplyError) -> Status {
    let text = error.to_string();
    match error {
        ApplyError::Invalid { violations } => invalid(violations),
        ApplyError::VersionConflict { expected, present } => conflict(text, *expected, *present),
        ApplyError::NotFound(_) => Status::not_found(text),
        ApplyError::Deleting(_)
        | ApplyError::OwnedElsewhere { .. }
        | ApplyError::ShiftActive { .. }
        | ApplyError::NothingOut(_) => Status::failed_precondition(text),
        ApplyError::Held { findings } => held(text, findings),
        ApplyError::MayNot(_) => Status::permission_denied(text),
        ApplyError::RequestReused { .. } => Status::already_exists(text),
        ApplyError::Store(error) => store_status(error),
    }
}

fn shift_status(error: &ShiftError) -> Status {
    let text = error.to_string();
    match error {
        ShiftError::Invalid { violations } | ShiftError::Start(StartError::Invalid(violations)) => invalid(violations),
        ShiftError::Start(StartError::VersionConflict { expected, present, .. }) => conflict(text, *expected, *present),
        ShiftError::Start(StartError::NotFound(_)) | ShiftError::NotFound(_) => Status::not_found(text),
        ShiftError::Start(StartError::Deleting(_))
        | ShiftError::Refused { .. }
        | ShiftError::ResourceRefused { .. }
        | ShiftError::ResourceForgotten { .. } => Status::failed_precondition(text),
        ShiftError::Busy { policy, shift } => Status::failed_precondition(busy(policy, shift)),
        ShiftError::Held { findings } => held(text, findings),
        ShiftError::MayNot(_) => Status::permission_denied(text),
        ShiftError::RequestReused { .. } => Status::already_exists(text),
        ShiftError::Store(error) => store_status(error),
    }
}

fn switch_status(error: &SwitchError) -> Status {
    let text = error.to_string();
    match error {
        SwitchError::Invalid { violations } => invalid(violations),
        SwitchError::VersionConflict { expected, present, .. } => conflict(text, *expected, *present),
        SwitchError::NotFound(_) => Status::not_found(text),
        SwitchError::RequestReused { .. } => Status::already_exists(text),
        SwitchError::Store(error) => store_status(error),
    }
}

fn fleet_status(error: &FleetError) -> Status {
    let text = error.to_string();
    match error {
        FleetError::Invalid { violations } => invalid(violations),
        FleetError::VersionConflict { expected, present, .. } => conflict(text, *expected, *present),
        FleetError::Refused(Refusal::WrongMode { .. }) => {
            let findings = [found("ClusterMode", None, &text)];
            with_findings(text, findings.into_iter())
        }
        FleetError::Refused(Refusal::StillCarries { cluster, policies }) => {
            let message = format!("it gives {cluster} requests");
            with_findings(text, policies.iter().map(|policy| found("StillCarries", Some(policy), &message)))
        }
        FleetError::MayNot(_) => Status::permission_denied(text),
        FleetError::RequestReused { .. } => Status::already_exists(text),
        FleetError::Store(error) => store_status(error),
    }
}

/// What stands in the way and is no rule that a shift could cross.
fn found(guard: &str, policy: Option<&PolicyKey>, message: &str) -> proto::GuardFinding {
    let (guard, policy, message) = (guard.to_owned(), policy.map(to_proto_ref), message.to_owned());
    proto::GuardFinding { guard, policy, message, ..Default::default() }
}

fn conflict(text: String, expected: u64, present: u64) -> Status {
    let conflict = proto::VersionConflict { expected_version: expected, present_version: present };
    Status::with_details(Code::Aborted, text, conflict.encode_to_vec().into())
}

/// Who moves it, how far that is, and how to get on.
fn busy(policy: &PolicyKey, shift: &Shift) -> String {
    let id = &shift.id;
    let step = shift.step.map(|step| format!(", step {} of {}", step + 1, shift.steps.len())).unwrap_or_default();
    let mut text = format!(
        "policy {policy} is moved by shift {id} ({}{step}), asked for at {:.0} by {}; wait for its end (yardctl watch {id}) or \
         take it back (yardctl abort {id})",
        shift.state, shift.created_at, shift.actor
    );
    shorten(&mut text);
    text
}

/// The findings in words, with the rules that a caller with the right may cross, and as details.
fn held(mut text: String, findings: &[Finding]) -> Status {
    let blocking = || findings.iter().filter(|finding| !finding.overridden).map(|finding| finding.guard);
    let crossable: BTreeSet<Guard> = blocking().filter(|guard| guard.overridable()).collect();
    shorten(&mut text);
    if !crossable.is_empty() {
        let crossable: Vec<Guard> = crossable.into_iter().collect();
        text = format!("{text}; a shift may override {} with a reason and the right to do so", names(&crossable));
    }
    with_findings(text, findings.iter().map(to_proto_finding))
}

/// As many of them as fit.
fn with_findings(mut text: String, findings: impl Iterator<Item = proto::GuardFinding>) -> Status {
    shorten(&mut text);
    let mut details = proto::Findings::default();
    for finding in findings {
        if !details.findings.is_empty() && details.encoded_len() + finding.encoded_len() > MOST_DETAILS {
            break;
        }
        details.findings.push(finding);
    }
    Status::with_details(Code::FailedPrecondition, text, details.encode_to_vec().into())
}

fn store_status(error: &StoreError) -> Status {
    match error {
        // A commit whose answer was lost may have been done: the same request id then gives its answer, and is safe otherwise.
        StoreError::Unavailable { .. } => Status::unavailable(
            "the hub's store does not answer, so nothing is known to be stored; retry with the same request id",
        ),
        StoreError::ListsBusy { .. } => {
            let mut status = Status::resource_exhausted(
                "as many long lists are being read as may be at a time; try again in a moment",
            );
            // So that clients try again by themselves, unlike after the next one.
            status.metadata_mut().insert("retry-after", MetadataValue::from_static("1"));
            status
        }
        StoreError::ListTooLong { limit, .. } => Status::resource_exhausted(format!(
            "reading this list took longer than {limit:?}; ask for less: one policy, one shift, one namespace, or a shorter time"
        )),
        StoreError::Broken { .. }
        | StoreError::Unreadable { .. }
        | StoreError::HubIdDiffers { .. }
        | StoreError::Url { .. }
        | StoreError::Migration { .. } => Status::internal(format!("{error}; see the hub's log")),
    }
}

fn invalid(violations: &[Violation]) -> Status {
    let mut details = proto::Violations::default();
    for violation in violations.iter().map(to_proto_violation) {
        if !details.violations.is_empty() && details.encoded_len() + violation.encoded_len() > MOST_DETAILS {
            break;
        }
        details.violations.push(violation);
    }
    Status::with_details(Code::InvalidArgument, sentence(violations), details.encode_to_vec().into())
}

#[cfg(test)]
#[path = "errors_tests.rs"]
mod tests;
