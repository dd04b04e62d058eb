//! What a change of a policy means, as functions from values to values: who may ask, which version is right, what is kept, what
//! is superseded. No statements in here; those are in [`super::policies`], whose tests judge both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use switchyard_core::{
    access::Grants,
    ids::{ClusterName, PolicyKey, ShiftId, Weight, cut},
    policy::{ClusterTrafficPolicy, ValidatedPolicy, Violation, validate::validate_weights, validate_update},
    shift::{Finding, by_cluster},
    source::Owner,
};

use super::{
    error::StoreError, idempotency::AnswerError, policy_rows::StoredPolicy, rights::MayNot, shifts_change::held,
    values::unreadable,
};

/// Who asks, and under which request id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// 1 to 128 printable characters without spaces; the same id again gives the first answer.
    pub request_id: String,
    /// For the audit log, 1 to 256 characters.
    pub actor: String,
    /// For the audit log, at most 1024 characters, may be empty.
    pub reason: String,
    /// For the audit log: where the call came from, an address; empty: not by a call. Cut at 256 characters.
    pub source: String,
    /// What the caller may do. The transaction that writes asks again, for what the change really touches.
    pub grants: Grants,
}

/// What applying a manifest did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// There was no such policy.
    Created,
    /// Its spec changed.
    Configured,
    /// It was so already; version and override stay.
    Unchanged,
}

/// Why a change of a policy was refused. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The content is at fault.
    #[error("the request is not valid: {}", violations.first().map(ToString::to_string).unwrap_or_default())]
    Invalid {
        /// All faults, at least one.
        violations: Vec<Violation>,
    },
    /// Somebody changed the policy since the caller looked.
    #[error("the policy is at version {present}, not at {expected}; read it again and decide anew")]
    VersionConflict {
        /// The version that the caller has seen.
        expected: u64,
        /// The version now; 0 when there is no such policy.
        present: u64,
    },
    /// There is no such policy.
    #[error("there is no policy {0}")]
    NotFound(PolicyKey),
    /// It is on its way out.
    #[error("policy {0} is being deleted; wait until it is gone, or use another name")]
    Deleting(PolicyKey),
    /// Its owner is a resource in a cluster.
    #[error(
        "policy {key} is owned by the resource of that name in cluster {cluster}; change or delete it there with kubectl \
         (weights can be set here all the same)"
    )]
    OwnedElsewhere {
        /// Which policy.
        key: PolicyKey,
        /// Where its owner stands.
        cluster: ClusterName,
    },
    /// A shift moves its weights.
    #[error(
        "shift {shift} moves the weights of policy {policy}; wait for its end, or take it back with `yardctl abort {shift}`"
    )]
    ShiftActive {
        /// Which policy.
        policy: PolicyKey,
        /// Which shift.
        shift: ShiftId,
    },
    /// There is nothing to let return.
    #[error(
        "nothing is out in policy {0}: every cluster has the share that is asked for, so there is nothing to let return"
    )]
    NothingOut(PolicyKey),
    /// Safety rules stand in the way.
    #[error("{}", held(.findings))]
    Held {
        /// All of them.
        findings: Vec<Finding>,
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

impl From<AnswerError> for ApplyError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Reused { request_id, method } => ApplyError::RequestReused { request_id, method },
            AnswerError::Store(error) => ApplyError::Store(error),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApplyDecision {
    Keep,
    Replace { supersede: bool },
}

pub(super) fn decide_apply(
    present: Option<&StoredPolicy>,
    manifest: &ClusterTrafficPolicy,
    policy: &ValidatedPolicy,
    expected_version: u64,
) -> Result<ApplyDecision, ApplyError> {
    let Some(present) = present else {
        check_version(expected_version, 0)?;
        return Ok(ApplyDecision::Replace { supersede: false });
    };
    if present.record.deleting_since.is_some() {
        return Err(ApplyError::Deleting(policy.key.clone()));
    }
    check_owner(present)?;
    check_version(expected_version, present.record.version)?;
    if present.manifest.spec == manifest.spec && present.ownership.owner == Owner::Api {
        return Ok(ApplyDecision::Keep);
    }
    validate_update(&present.record.policy, policy).map_err(|violations| ApplyError::Invalid { violations })?;
    Ok(ApplyDecision::Replace { supersede: supersedes(&present.record.policy, policy) })
}

/// A new spec with other weights ends an override.
pub(crate) fn supersedes(old: &ValidatedPolicy, new: &ValidatedPolicy) -> bool {
    let weights = |policy: &ValidatedPolicy| policy.clusters.iter().cloned().collect::<BTreeMap<_, _>>();
    weights(old) != weights(new)
}

/// Only its owner changes a policy. A resource that is missing from its cluster has nobody who speaks for it, so its policy may be
/// taken over.
pub(crate) fn check_owner(present: &StoredPolicy) -> Result<(), ApplyError> {
    let ownership = &present.ownership;
    let resource = ownership.resource.as_ref();
    let speaks = resource.is_some_and(|resource| resource.absent_since.is_none());
    match &ownership.owner {
        Owner::Resource(holder) if speaks => {
            Err(ApplyError::OwnedElsewhere { key: present.record.policy.key.clone(), cluster: holder.cluster.clone() })
        }
        Owner::Resource(_) | Owner::Api => Ok(()),
    }
}

pub(super) fn decide_weights(
    present: &StoredPolicy,
    wanted: &[(String, u32)],
    expected_version: u64,
) -> Result<Vec<(ClusterName, Weight)>, ApplyError> {
    let record = &present.record;
    if record.deleting_since.is_some() {
        return Err(ApplyError::Deleting(record.policy.key.clone()));
    }
    check_version(expected_version, record.version)?;
    validate_weights(&record.policy, &record.requested(), wanted)
        .map_err(|violations| ApplyError::Invalid { violations })
}

pub(super) fn check_version(expected: u64, present: u64) -> Result<(), ApplyError> {
    if expected == 0 || expected == present { Ok(()) } else { Err(ApplyError::VersionConflict { expected, present }) }
}

pub(super) fn apply_detail(before: Option<&StoredPolicy>, after: &StoredPolicy, applied: Applied) -> serde_json::Value {
    let superseded = before.and_then(|before| before.record.weight_override.clone());
    let superseded = superseded.filter(|_| after.record.weight_override.is_none());
    let mut detail = json!({
        "outcome": applied,
        "uid": after.record.uid,
        "version": after.record.version,
        "generation": after.record.generation,
        "old": before.map(|before| &before.manifest.spec),
        "new": after.manifest.spec,
        "supersededOverride": superseded,
    });
    let from = before.map(|before| by_cluster(&before.record.requested())).unwrap_or_default();
    let to = by_cluster(&after.record.requested());
    if from != to {
        detail["from"] = json!(from);
        detail["to"] = json!(to);
    }
    detail
}

/// What is wrong with the request id, the actor and the reason.
pub(super) fn caller_faults(caller: &Caller) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut add = |field: &str, value: &str, problem: &str, remedy: &str| {
        violations.push(Violation {
            field: field.to_owned(),
            value: cut(value),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    };
    let id = &caller.request_id;
    if id.is_empty() || id.len() > 128 || !id.chars().all(|c| c.is_ascii_graphic()) {
        add(
            "request_id",
            id,
            "is not a request id",
            "use 1 to 128 printable ASCII characters without spaces, such as a UUID",
        );
    }
    if caller.actor.is_empty() || caller.actor.chars().count() > 256 {
        add("actor", &caller.actor, "is not the name of a caller", "use 1 to 256 characters");
    }
    if caller.reason.chars().count() > 1024 || caller.reason.contains('\0') {
        add("reason", &caller.reason, "is too long, or holds U+0000", "use at most 1024 characters");
    }
    violations
}

/// Refuses a change of a caller with such faults.
pub(crate) fn check_caller(caller: &Caller) -> Result<(), ApplyError> {
    let violations = caller_faults(caller);
    if violations.is_empty() { Ok(()) } else { Err(ApplyError::Invalid { violations }) }
}

/// jsonb cannot hold U+0000, and a manifest is never changed on its way into the store.
pub(super) fn check_manifest(manifest: &ClusterTrafficPolicy) -> Result<(), ApplyError> {
    let text = serde_json::to_string(manifest).map_err(|error| unreadable("a manifest", error))?;
    if !text.contains("\\u0000") {
        return Ok(());
    }
    let violation = Violation {
        field: "spec".to_owned(),
        value: "\\u0000".to_owned(),
        problem: "is a character that cannot be stored".to_owned(),
        remedy: "remove it from the text that holds it".to_owned(),
    };
    Err(ApplyError::Invalid { violations: vec![violation] })
}
