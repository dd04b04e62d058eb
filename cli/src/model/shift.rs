//! Shifts, the audit log and gating switches, as the hub told them. Words of shifts (states, reasons, rules) are the hub's own,
//! in CamelCase. No IO.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use switchyard_proto::api::v1 as pb;

use super::{
    Note, Plan, PolicyRef,
    convert::{each, time},
    shift_spec::ShiftSpec,
};

pub type Weights = BTreeMap<String, u32>;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shift {
    pub id: String,
    pub version: u64,
    /// As the TrafficShift resource writes it, with the steps and defaults written out.
    pub spec: ShiftSpec,
    pub status: ShiftStatus,
    pub actor: String,
    pub created_at: Option<Timestamp>,
    pub rollback_of: String,
    pub resource: Option<ShiftResource>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ShiftResource {
    pub cluster: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ShiftStatus {
    pub state: State,
    pub step: u32,
    pub steps: u32,
    pub reason: String,
    pub message: String,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub paused: Option<Pause>,
    pub programmed: bool,
    pub converged: bool,
    pub moves: Vec<Move>,
    pub gates: Vec<GateStatus>,
    pub history: Vec<ShiftEvent>,
    pub findings: Vec<Finding>,
    pub notes: Vec<Note>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum State {
    /// Of a newer hub, or none.
    #[default]
    Unspecified,
    Pending,
    Preflight,
    Stepping,
    Baking,
    AwaitingApproval,
    Converging,
    Succeeded,
    Aborting,
    Aborted,
    Superseded,
    Failed,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pause {
    pub since: Option<Timestamp>,
    pub actor: String,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Move {
    pub policy: PolicyRef,
    pub from: Weights,
    pub to: Weights,
    pub present: Weights,
    /// Nothing when it is not known.
    pub programmed: Option<Weights>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GateStatus {
    pub name: String,
    pub phase: Phase,
    pub succeeded: u32,
    pub failed: u32,
    pub without_data: u32,
    pub message: String,
    pub measured_at: Option<Timestamp>,
    pub value: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Phase {
    #[default]
    Unspecified,
    Running,
    Passed,
    Failed,
    NoData,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ShiftEvent {
    pub at: Option<Timestamp>,
    pub state: State,
    pub step: u32,
    pub reason: String,
    pub message: String,
    pub actor: String,
}

/// A safety rule or a fact that stands in the way.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Finding {
    pub guard: String,
    pub policy: PolicyRef,
    pub step: u32,
    pub message: String,
    pub overridable: bool,
    pub overridden: bool,
    pub until: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepPlan {
    pub step: u32,
    pub percent: u32,
    pub plan: Option<Plan>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GatingSwitch {
    pub name: String,
    pub policies: Vec<String>,
    pub on: bool,
    pub reason: String,
    pub actor: String,
    pub changed_at: Option<Timestamp>,
    pub version: u64,
}

impl State {
    /// Nothing more comes after these.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Aborted | Self::Superseded | Self::Failed)
    }

    /// The weights from before are asked for again, or nothing is asked for any more.
    pub fn is_back(self) -> bool {
        matches!(self, Self::Aborting | Self::Aborted | Self::Superseded | Self::Failed)
    }
}

impl Shift {
    /// Why it is where it is; of one that has gone back, first why it turned: `GateFailed, then Restored`.
    pub fn why(&self) -> String {
        let status = &self.status;
        let turned =
            status.history.iter().find(|event| event.state == State::Aborting).map(|event| event.reason.as_str());
        match turned {
            Some(turned) if status.state.is_final() && turned != status.reason => {
                format!("{turned}, then {}", status.reason)
            }
            _ => status.reason.clone(),
        }
    }

    /// The way of a step, from 1, in percent, where the steps are known.
    pub fn percent(&self, step: u32) -> Option<u32> {
        let index = usize::try_from(step).ok()?.checked_sub(1)?;
        self.spec.strategy.steps.get(index).map(|step| step.percent)
    }
}

impl From<pb::Shift> for Shift {
    fn from(from: pb::Shift) -> Self {
        Self {
            id: from.id,
            version: from.version,
            spec: from.spec.unwrap_or_default().into(),
            status: from.status.unwrap_or_default().into(),
            actor: from.actor,
            created_at: time(from.created_at),
            rollback_of: from.rollback_of,
            resource: from.resource.map(|pb::ShiftResource { cluster, namespace, name, uid }| ShiftResource {
                cluster,
                namespace,
                name,
                uid,
            }),
        }
    }
}

impl From<pb::ShiftStatus> for ShiftStatus {
    fn from(from: pb::ShiftStatus) -> Self {
        Self {
            state: from.state().into(),
            step: from.step,
            steps: from.steps,
            reason: from.reason,
            message: from.message,
            since: time(from.since),
            until: time(from.until),
            ended_at: time(from.ended_at),
            paused: from.paused.map(|pause| Pause {
                since: time(pause.since),
                actor: pause.actor,
                reason: pause.reason,
            }),
            programmed: from.programmed,
            converged: from.converged,
            moves: each(from.moves),
            gates: each(from.gates),
            history: each(from.history),
            findings: each(from.findings),
            notes: each(from.notes),
        }
    }
}

impl From<pb::ShiftState> for State {
    fn from(from: pb::ShiftState) -> Self {
        match from {
            pb::ShiftState::Unspecified => Self::Unspecified,
            pb::ShiftState::Pending => Self::Pending,
            pb::ShiftState::Preflight => Self::Preflight,
            pb::ShiftState::Stepping => Self::Stepping,
            pb::ShiftState::Baking => Self::Baking,
            pb::ShiftState::AwaitingApproval => Self::AwaitingApproval,
            pb::ShiftState::Converging => Self::Converging,
            pb::ShiftState::Succeeded => Self::Succeeded,
            pb::ShiftState::Aborting => Self::Aborting,
            pb::ShiftState::Aborted => Self::Aborted,
            pb::ShiftState::Superseded => Self::Superseded,
            pb::ShiftState::Failed => Self::Failed,
        }
    }
}

impl From<pb::ShiftMove> for Move {
    fn from(from: pb::ShiftMove) -> Self {
        Self {
            policy: from.policy.unwrap_or_default().into(),
            from: from.from.into_iter().collect(),
            to: from.to.into_iter().collect(),
            present: from.present.into_iter().collect(),
            programmed: Some(from.programmed.into_iter().collect::<Weights>()).filter(|weights| !weights.is_empty()),
        }
    }
}

impl From<pb::GateStatus> for GateStatus {
    fn from(from: pb::GateStatus) -> Self {
        let phase = match from.phase() {
            pb::GatePhase::Unspecified => Phase::Unspecified,
            pb::GatePhase::Running => Phase::Running,
            pb::GatePhase::Passed => Phase::Passed,
            pb::GatePhase::Failed => Phase::Failed,
            pb::GatePhase::NoData => Phase::NoData,
        };
        Self {
            name: from.name,
            phase,
            succeeded: from.succeeded,
            failed: from.failed,
            without_data: from.without_data,
            message: from.message,
            measured_at: time(from.measured_at),
            value: from.value,
        }
    }
}

impl From<pb::ShiftEvent> for ShiftEvent {
    fn from(from: pb::ShiftEvent) -> Self {
        Self {
            at: time(from.at),
            state: from.state().into(),
            step: from.step,
            reason: from.reason,
            message: from.message,
            actor: from.actor,
        }
    }
}

impl From<pb::GuardFinding> for Finding {
    fn from(from: pb::GuardFinding) -> Self {
        Self {
            guard: from.guard,
            policy: from.policy.unwrap_or_default().into(),
            step: from.step,
            message: from.message,
            overridable: from.overridable,
            overridden: from.overridden,
            until: time(from.until),
        }
    }
}

impl From<pb::StepPlan> for StepPlan {
    fn from(from: pb::StepPlan) -> Self {
        Self { step: from.step, percent: from.percent, plan: from.plan.map(Plan::from) }
    }
}

impl From<pb::GatingSwitch> for GatingSwitch {
    fn from(from: pb::GatingSwitch) -> Self {
        Self {
            name: from.name,
            policies: from.policies,
            on: from.on,
            reason: from.reason,
            actor: from.actor,
            changed_at: time(from.changed_at),
            version: from.version,
        }
    }
}
