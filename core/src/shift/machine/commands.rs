//! What callers say to a shift, and how it turns back. Commands never look at the world: any replica takes them, and what they
//! ask for is in force as soon as it is stored.

use jiff::Timestamp;

use super::super::{Cause, Move, Pause, Shift, ShiftReason, State, WeightWrite};
use crate::ids::PolicyUid;

/// What a caller says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Hold it where it is.
    Pause,
    /// Let it go on.
    Resume,
    /// Let the step that waits go on; the number, from 0, must be that step's.
    Approve(Option<usize>),
    /// Approve every step up to this one, from 0, whether it waits already or not.
    ApproveUpTo(usize),
    /// Skip what is left of bake times, gates, approvals and evidence.
    Promote,
    /// Back to the recorded weights.
    Abort,
    /// The policy's spec took over: it is not touched any more, and the others go back.
    Superseded(PolicyUid),
    /// The policy is being deleted: the same.
    Deleted(PolicyUid),
}

/// Who says it, and why.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    /// As in the audit log.
    pub actor: &'a str,
    /// As the caller said; may be empty.
    pub reason: &'a str,
}

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is over.
    #[error("the shift has ended ({0}); start a new one")]
    Ended(State),
    /// It goes back already.
    #[error("the shift is on its way back to the recorded weights; wait for its end and start a new one")]
    GoingBack,
    /// Nothing waits for approval.
    #[error("the shift is {0} and waits for no approval")]
    NotAwaiting(State),
    /// Another step waits.
    #[error("step {asked} is not the one that waits for approval, step {waits} is; look at it before you approve it")]
    OtherStep {
        /// From 1.
        asked: usize,
        /// From 1.
        waits: usize,
    },
}

/// Takes what a caller says.
///
/// # Errors
/// [`Refusal`]; the shift then stays as it is.
pub fn command(
    mut shift: Shift,
    command: &Command,
    by: By<'_>,
    now: Timestamp,
) -> Result<(Shift, Vec<WeightWrite>), Refusal> {
    if shift.state.is_final() {
        return Err(Refusal::Ended(shift.state));
    }
    let mut writes = Vec::new();
    match command {
        Command::Superseded(uid) => writes = leave(&mut shift, uid, ShiftReason::PolicyChanged, by, now),
        Command::Deleted(uid) => writes = leave(&mut shift, uid, ShiftReason::PolicyDeleted, by, now),
        Command::Abort if shift.goes_back() => {}
        Command::Abort => {
            let message = because("taken back by a caller", by.reason);
            writes = go_back(&mut shift, Cause::Aborted, ShiftReason::AbortRequested, &message, by.actor, now);
        }
        _ if shift.goes_back() => return Err(Refusal::GoingBack),
        Command::Pause if shift.pause.is_some() => {}
        Command::Pause => {
            shift.pause = Some(Pause { since: now, actor: by.actor.to_owned(), reason: by.reason.to_owned() });
            shift.record(now, ShiftReason::Paused, because("paused", by.reason), by.actor);
        }
        Command::Resume => resume(&mut shift, by, now),
        Command::Approve(step) => approve(&mut shift, *step, by, now)?,
        Command::ApproveUpTo(step) => {
            if shift.approved.is_none_or(|approved| approved < *step) {
                shift.approved = Some(*step);
                let message = because(&format!("approved up to step {}", step + 1), by.reason);
                shift.record(now, ShiftReason::Approved, message, by.actor);
            }
        }
        Command::Promote if shift.promoted => resume(&mut shift, by, now),
        Command::Promote => {
            resume(&mut shift, by, now);
            shift.promoted = true;
            let message = because("what is left of bake times, gates, approvals and evidence is skipped", by.reason);
            shift.record(now, ShiftReason::Promoted, message, by.actor);
        }
    }
    Ok((shift, writes))
}

fn because(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what}: {reason}") }
}

/// Time in a pause counts for nothing.
fn resume(shift: &mut Shift, by: By<'_>, now: Timestamp) {
    let Some(pause) = shift.pause.take() else { return };
    let held = now.duration_since(pause.since);
    shift.since = shift.since.saturating_add(held).unwrap_or(now).min(now);
    shift.held_since = shift.held_since.map(|since| since.saturating_add(held).unwrap_or(now).min(now));
    shift.record(now, ShiftReason::Resumed, because("goes on", by.reason), by.actor);
}

fn approve(shift: &mut Shift, step: Option<usize>, by: By<'_>, now: Timestamp) -> Result<(), Refusal> {
    // A second approver, or the same one again, asks for nothing new.
    if step.is_some_and(|asked| shift.approved.is_some_and(|approved| asked <= approved)) {
        return Ok(());
    }
    let (State::AwaitingApproval, Some(waits)) = (shift.state, shift.step) else {
        return Err(Refusal::NotAwaiting(shift.state));
    };
    match step {
        Some(asked) if asked != waits => return Err(Refusal::OtherStep { asked: asked + 1, waits: waits + 1 }),
        _ => {}
    }
    if shift.approved.is_none_or(|approved| approved < waits) {
        shift.approved = Some(waits);
        let message = because(&format!("step {} was approved", waits + 1), by.reason);
        shift.record(now, ShiftReason::Approved, message, by.actor);
    }
    Ok(())
}

/// One policy is not the shift's any more; the others go back.
pub(super) fn leave(
    shift: &mut Shift,
    uid: &PolicyUid,
    why: ShiftReason,
    by: By<'_>,
    now: Timestamp,
) -> Vec<WeightWrite> {
    let Some(one) = shift.moves.iter_mut().find(|one| one.uid == *uid && !one.left) else {
        return Vec::new();
    };
    one.left = true;
    if shift.state.is_final() {
        // Ended by another policy that is seen to be lost in the same look.
        return Vec::new();
    }
    let what = if why == ShiftReason::PolicyDeleted { "is being deleted" } else { "has a spec with other weights" };
    let message = format!("{} {what}", one.policy);
    if shift.goes_back() {
        shift.record(now, why, message, by.actor);
        return Vec::new();
    }
    go_back(shift, Cause::Superseded, why, &message, by.actor, now)
}

pub(super) fn go_back(
    shift: &mut Shift,
    cause: Cause,
    why: ShiftReason,
    message: &str,
    actor: &str,
    now: Timestamp,
) -> Vec<WeightWrite> {
    let moved = shift.step.is_some() && shift.present_moves().next().is_some();
    shift.cause = Some(cause);
    shift.pause = None;
    shift.held_since = None;
    shift.findings.clear();
    shift.since = now;
    shift.programmed = false;
    shift.converged = false;
    if !moved {
        shift.state = cause.ends_in();
        shift.ended_at = Some(now);
        shift.record(now, why, message, actor);
        return Vec::new();
    }
    shift.state = State::Aborting;
    shift.record(now, why, message, actor);
    writes_of(shift)
}

/// The weights that the shift asks for now.
pub(super) fn writes_of(shift: &Shift) -> Vec<WeightWrite> {
    let write =
        |one: &Move| WeightWrite { policy: one.policy.clone(), uid: one.uid.clone(), weights: shift.asked(one) };
    shift.present_moves().map(write).collect()
}
