//! A shift as callers see it: core's type to protobuf, with what the picture knows of its policies beside it. Steps count from 1
//! out here and from 0 in core. Pure. Tests: `show_tests.rs`.

use jiff::Timestamp;
use switchyard_core::{
    ids::{ClusterName, Weight},
    shift::{
        CheckedGate, Event, Finding, GatePhase, GateRun, Guard, Move, Origin, Pause, Shift, ShiftReason, State,
        notes::{FlowNote, long_flows},
    },
};
use switchyard_proto::api::v1 as proto;

use super::spec::to_proto_spec;
use crate::{
    feed::Picture,
    grpc::convert::{to_proto_ref, to_proto_time},
};

/// The shift, with what the policies' stored status says of it.
pub fn to_proto_shift(shift: &Shift, picture: &Picture) -> proto::Shift {
    let (rollback_of, resource) = match &shift.origin {
        Origin::Call => (String::new(), None),
        Origin::Rollback { of } => (of.to_string(), None),
        Origin::Resource { cluster, namespace, name, uid } => {
            let resource = proto::ShiftResource {
                cluster: cluster.to_string(),
                namespace: namespace.to_string(),
                name: name.clone(),
                uid: uid.to_string(),
            };
            (String::new(), Some(resource))
        }
    };
    proto::Shift {
        id: shift.id.to_string(),
        version: shift.version,
        spec: Some(to_proto_spec(shift)),
        status: Some(to_proto_status(shift, picture)),
        actor: shift.actor.clone(),
        created_at: Some(to_proto_time(shift.created_at)),
        rollback_of,
        resource,
    }
}

fn to_proto_status(shift: &Shift, picture: &Picture) -> proto::ShiftStatus {
    let gates: &[CheckedGate] = shift.step.map_or(&[], |step| &shift.steps[step].gates);
    let notes = if shift.is_active() { flow_notes(shift, picture) } else { Vec::new() };
    proto::ShiftStatus {
        state: to_proto_state(shift.state).into(),
        step: to_proto_step(shift.step),
        steps: count(shift.steps.len()),
        reason: shift.why.to_string(),
        message: shift.message.clone(),
        since: Some(to_proto_time(shift.since)),
        until: until(shift).map(to_proto_time),
        ended_at: shift.ended_at.map(to_proto_time),
        paused: shift.pause.as_ref().map(to_proto_pause),
        programmed: shift.programmed,
        converged: shift.converged,
        moves: shift.moves.iter().map(|one| to_proto_move(shift, one, picture)).collect(),
        gates: gates.iter().zip(&shift.gates).map(|(gate, run)| to_proto_gate_status(gate, run)).collect(),
        history: shift.history.iter().map(to_proto_event).collect(),
        findings: shift.findings.iter().map(to_proto_finding).collect(),
        notes: notes.iter().map(to_proto_flow).collect(),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// From 1; 0: none yet.
fn to_proto_step(step: Option<usize>) -> u32 {
    step.map_or(0, |step| count(step + 1))
}

/// The state's word on the wire.
pub fn to_proto_state(state: State) -> proto::ShiftState {
    match state {
        State::Pending => proto::ShiftState::Pending,
        State::Preflight => proto::ShiftState::Preflight,
        State::Stepping => proto::ShiftState::Stepping,
        State::Baking => proto::ShiftState::Baking,
        State::AwaitingApproval => proto::ShiftState::AwaitingApproval,
        State::Converging => proto::ShiftState::Converging,
        State::Succeeded => proto::ShiftState::Succeeded,
        State::Aborting => proto::ShiftState::Aborting,
        State::Aborted => proto::ShiftState::Aborted,
        State::Superseded => proto::ShiftState::Superseded,
        State::Failed => proto::ShiftState::Failed,
    }
}

/// When it may go on by time alone: the end of the bake time, or of everything that holds up the next step.
fn until(shift: &Shift) -> Option<Timestamp> {
    if shift.pause.is_some() || shift.promoted || !shift.is_active() {
        return None;
    }
    let blocking = || shift.findings.iter().filter(|finding| !finding.overridden);
    if shift.why == ShiftReason::Held && blocking().next().is_some() {
        // One that does not end by time is not outlasted by the others.
        let ends: Option<Vec<Timestamp>> = blocking().map(|finding| finding.until).collect();
        return ends?.into_iter().max();
    }
    let step = shift.step.filter(|_| shift.state == State::Baking).map(|step| &shift.steps[step])?;
    let bake = std::time::Duration::from_secs(u64::from(step.bake_seconds));
    shift.since.saturating_add(bake).ok().filter(|_| step.bake_seconds > 0)
}

fn to_proto_pause(pause: &Pause) -> proto::Pause {
    proto::Pause { since: Some(to_proto_time(pause.since)), actor: pause.actor.clone(), reason: pause.reason.clone() }
}

fn to_proto_move(shift: &Shift, one: &Move, picture: &Picture) -> proto::ShiftMove {
    type Weights = [(ClusterName, Weight)];
    let to_map = |weights: &Weights| weights.iter().map(|(name, weight)| (name.to_string(), weight.get())).collect();
    let asked = shift.asked(one);
    let programmed = if shift.is_active() { read_back(one, picture) } else { shift.programmed.then(|| asked.clone()) };
    proto::ShiftMove {
        policy: Some(to_proto_ref(&one.policy)),
        from: to_map(&one.from),
        to: to_map(&one.to),
        present: if one.left { Default::default() } else { to_map(&asked) },
        programmed: programmed.filter(|_| !one.left).map(|weights| to_map(&weights)).unwrap_or_default(),
    }
}

/// The weights at AWS by the policy's stored status; none when nothing is known of them.
fn read_back(one: &Move, picture: &Picture) -> Option<Vec<(ClusterName, Weight)>> {
    let stored = picture.policies.get(&one.policy).filter(|stored| stored.record.uid == one.uid)?;
    let clusters = &stored.status.as_ref()?.clusters;
    Some(clusters.iter().filter_map(|cluster| Some((cluster.cluster.clone(), cluster.programmed?))).collect())
}

fn to_proto_gate_status(gate: &CheckedGate, run: &GateRun) -> proto::GateStatus {
    let phase = match run.phase {
        GatePhase::Running => proto::GatePhase::Running,
        GatePhase::Passed => proto::GatePhase::Passed,
        GatePhase::Failed => proto::GatePhase::Failed,
        GatePhase::NoData => proto::GatePhase::NoData,
    };
    proto::GateStatus {
        name: gate.name.to_string(),
        phase: phase.into(),
        succeeded: run.succeeded,
        failed: run.failed,
        without_data: run.without_data,
        message: run.message.clone(),
        measured_at: run.measured_at.map(to_proto_time),
        value: run.value,
    }
}

fn to_proto_event(event: &Event) -> proto::ShiftEvent {
    proto::ShiftEvent {
        at: Some(to_proto_time(event.at)),
        state: to_proto_state(event.state).into(),
        step: to_proto_step(event.step),
        reason: event.why.to_string(),
        message: event.message.clone(),
        actor: event.actor.clone(),
    }
}

/// Something that stands in the way, or did.
pub fn to_proto_finding(finding: &Finding) -> proto::GuardFinding {
    proto::GuardFinding {
        guard: finding.guard.to_string(),
        policy: Some(to_proto_ref(&finding.policy)),
        step: to_proto_step(Some(finding.step)),
        message: finding.message.clone(),
        overridable: Guard::overridable(finding.guard),
        overridden: finding.overridden,
        until: finding.until.map(to_proto_time),
    }
}

/// What outlives the shift.
pub fn flow_notes(shift: &Shift, picture: &Picture) -> Vec<FlowNote> {
    notes_of(shift, picture, None)
}

/// The same, with stickiness that was found at AWS.
pub fn notes_of(
    shift: &Shift,
    picture: &Picture,
    observed: Option<&switchyard_core::observed::Observed>,
) -> Vec<FlowNote> {
    let notes = shift.present_moves().filter_map(|one| {
        let stored = picture.policies.get(&one.policy)?;
        Some(long_flows(&stored.record, one, stored.status.as_ref(), observed))
    });
    notes.flatten().collect()
}

/// A note on what outlives the shift.
pub fn to_proto_flow(note: &FlowNote) -> proto::PlanNote {
    proto::PlanNote {
        policy: Some(to_proto_ref(&note.policy)),
        cluster: note.cluster.as_ref().map(ToString::to_string).unwrap_or_default(),
        reason: note.reason.to_string(),
        message: note.message.clone(),
    }
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
