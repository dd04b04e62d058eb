//! Which shift takes a finished one back. Pure. Tests: `hub/tests/grpc_shifts_follow.rs`.

use std::time::Duration;

use jiff::Timestamp;
use switchyard_core::{
    ids::{Namespace, PolicyKey},
    shift::{
        Guard, Move, Origin, Shift, ShiftSpec, State, by_cluster,
        spec::PolicyTarget,
        validate::{ShiftPlan, validate},
    },
};

use crate::{feed::Picture, grpc::errors::ApiError};

/// For so long after its end a shift is taken back without waiting for the rules that slow a way forward down: a day, so that
/// whoever finds the fault in the morning has the quick way still. Later the recorded weights are as old as any other plan.
const ROLLBACK_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// The shift back to the weights from before this one, and who asks for it: within [`ROLLBACK_WINDOW`] a rollback, which core lets
/// pass the rules that slow down; later a call like any other.
///
/// # Errors
/// [`ApiError`] when it did not succeed, or policies of it are gone.
pub fn back(
    shift: &Shift,
    picture: &Picture,
    overrides: Vec<Guard>,
    reason: &str,
    now: Timestamp,
) -> Result<(ShiftPlan, Origin), ApiError> {
    if shift.state != State::Succeeded {
        return Err(ApiError::NotRolledBack { shift: shift.id.clone(), state: shift.state });
    }
    let gone = |one: &&Move| picture.policies.get(&one.policy).is_none_or(|stored| stored.record.uid != one.uid);
    let gone: Vec<PolicyKey> = shift.moves.iter().filter(gone).map(|one| one.policy.clone()).collect();
    if !gone.is_empty() {
        return Err(ApiError::PoliciesGone { shift: shift.id.clone(), policies: gone });
    }
    let spec = ShiftSpec {
        policies: shift.moves.iter().map(target).collect(),
        overrides,
        reason: reason.to_owned(),
        progress_deadline_seconds: shift.progress_deadline_seconds,
        ..ShiftSpec::default()
    };
    // Every policy names its namespace, so this one is never taken.
    let namespace = shift.moves.first().map(|one| one.policy.namespace.clone());
    let namespace: Namespace = namespace.ok_or(ApiError::Internal)?;
    let plan = validate(&spec, &namespace, false).map_err(ApiError::Invalid)?;
    let origin = if in_window(shift, now) { Origin::Rollback { of: shift.id.clone() } } else { Origin::Call };
    Ok((plan, origin))
}

/// True when this shift goes to where the other one came from.
pub fn undoes(back: &Shift, shift: &Shift) -> bool {
    let same = |(back, one): (&Move, &Move)| back.uid == one.uid && by_cluster(&back.to) == by_cluster(&one.from);
    back.moves.len() == shift.moves.len() && back.moves.iter().zip(&shift.moves).all(same)
}

fn in_window(shift: &Shift, now: Timestamp) -> bool {
    let end = shift.ended_at.and_then(|ended| ended.saturating_add(ROLLBACK_WINDOW).ok());
    end.is_some_and(|end| now < end)
}

/// Clusters that had no weight are not named: they may have left the policy since.
fn target(one: &Move) -> PolicyTarget {
    let carrying = one.from.iter().filter(|(_, weight)| weight.carries());
    PolicyTarget {
        namespace: one.policy.namespace.to_string(),
        name: one.policy.name.to_string(),
        weights: carrying.map(|(name, weight)| (name.to_string(), weight.get())).collect(),
        ..PolicyTarget::default()
    }
}
