//! The words of a shift: its states, why it is there, and what is kept of what happened.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The states. `Pending -> Preflight -> (Stepping -> Baking -> [AwaitingApproval])* -> Converging -> Succeeded`; from each of them
/// to `Failed`, `Aborted` or `Superseded`, by way of `Aborting` when weights were moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Stored, not looked at yet.
    Pending,
    /// What stands in the way is being judged; nothing was moved.
    Preflight,
    /// The step's weights are asked for and not read back yet.
    Stepping,
    /// The step's weights are read back; bake time and gates run.
    Baking,
    /// Somebody must approve.
    AwaitingApproval,
    /// The last weights are read back; settle time and evidence are awaited.
    Converging,
    /// The weights are in force.
    Succeeded,
    /// The recorded weights are asked for and not read back yet.
    Aborting,
    /// Taken back by a caller.
    Aborted,
    /// A new spec, or the end of a policy, took over.
    Superseded,
    /// Refused by its preflight, or taken back after a failure.
    Failed,
}

impl State {
    /// All, in the order above.
    pub const ALL: [State; 11] = [
        State::Pending,
        State::Preflight,
        State::Stepping,
        State::Baking,
        State::AwaitingApproval,
        State::Converging,
        State::Succeeded,
        State::Aborting,
        State::Aborted,
        State::Superseded,
        State::Failed,
    ];

    /// True when nothing more will come.
    pub fn is_final(self) -> bool {
        match self {
            State::Succeeded | State::Aborted | State::Superseded | State::Failed => true,
            State::Pending
            | State::Preflight
            | State::Stepping
            | State::Baking
            | State::AwaitingApproval
            | State::Converging
            | State::Aborting => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Why a shift goes back, and in which final state that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// A caller asked for it: ends in [`State::Aborted`].
    Aborted,
    /// A gate, a deadline or lost targets: ends in [`State::Failed`].
    Failed,
    /// A new spec or the end of a policy: ends in [`State::Superseded`].
    Superseded,
}

impl Cause {
    /// The state in which it ends.
    pub fn ends_in(self) -> State {
        match self {
            Cause::Aborted => State::Aborted,
            Cause::Failed => State::Failed,
            Cause::Superseded => State::Superseded,
        }
    }
}

/// Why a shift is where it is, or what it waits for; stable words for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ShiftReason {
    /// It was asked for.
    Created,
    /// The preflight began: what stands in the way is being judged.
    PreflightStarted,
    /// What it is judged by is not known at this moment.
    NotObservedYet,
    /// Nothing stands in the way.
    PreflightPassed,
    /// Something stands in the way; nothing was moved.
    PreflightFailed,
    /// The step's weights were asked for.
    StepRequested,
    /// The step's weights were read back from AWS.
    StepProgrammed,
    /// The bake time runs.
    Baking,
    /// Gates have not passed yet.
    GatesRunning,
    /// A gate has no data, or measured something that is neither success nor failure: the shift waits.
    NoData,
    /// A gate failed.
    GateFailed,
    /// Bake time and gates are through, and somebody must approve.
    ApprovalNeeded,
    /// Somebody approved.
    Approved,
    /// Somebody skipped what was left of bake times, gates, approvals and evidence.
    Promoted,
    /// A caller holds it.
    Paused,
    /// The caller lets it go on.
    Resumed,
    /// A safety rule or a fact holds up the next step.
    Held,
    /// The last weights are read back; the settle time runs.
    Settling,
    /// The settle time is over, and the old target groups still get requests, or nothing is known of that.
    EvidencePending,
    /// The weights are in force.
    Converged,
    /// A caller took it back.
    AbortRequested,
    /// A step was not read back within the deadline.
    ProgressDeadlineExceeded,
    /// A cluster that gains traffic lost its last healthy target.
    TargetsLost,
    /// The policy's spec has other weights now.
    PolicyChanged,
    /// The policy is being deleted, or is gone.
    PolicyDeleted,
    /// The recorded weights were read back.
    Restored,
    /// The recorded weights are asked for, and were not read back within the deadline; the policy's status says why.
    RestorePending,
}

impl ShiftReason {
    /// All of them, for tests of texts.
    pub const ALL: [ShiftReason; 27] = [
        ShiftReason::Created,
        ShiftReason::PreflightStarted,
        ShiftReason::NotObservedYet,
        ShiftReason::PreflightPassed,
        ShiftReason::PreflightFailed,
        ShiftReason::StepRequested,
        ShiftReason::StepProgrammed,
        ShiftReason::Baking,
        ShiftReason::GatesRunning,
        ShiftReason::NoData,
        ShiftReason::GateFailed,
        ShiftReason::ApprovalNeeded,
        ShiftReason::Approved,
        ShiftReason::Promoted,
        ShiftReason::Paused,
        ShiftReason::Resumed,
        ShiftReason::Held,
        ShiftReason::Settling,
        ShiftReason::EvidencePending,
        ShiftReason::Converged,
        ShiftReason::AbortRequested,
        ShiftReason::ProgressDeadlineExceeded,
        ShiftReason::TargetsLost,
        ShiftReason::PolicyChanged,
        ShiftReason::PolicyDeleted,
        ShiftReason::Restored,
        ShiftReason::RestorePending,
    ];
}

impl fmt::Display for ShiftReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A hold by a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Since when.
    pub since: Timestamp,
    /// By whom.
    pub actor: String,
    /// Why, as the caller said.
    pub reason: String,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The state after it.
    pub state: State,
    /// The step after it, from 0.
    pub step: Option<usize>,
    /// For programs.
    pub why: ShiftReason,
    /// For people.
    pub message: String,
    /// The caller; empty: the hub.
    pub actor: String,
}
