//! Shifts: operations that move requested weights from the present ones to others, at once or in steps.
//!
//! What a user writes ([`spec`]) becomes a [`Shift`] by [`validate()`] and [`ShiftPlan::start`](validate::ShiftPlan::start); from then on it
//! is moved by [`machine`]: by what is seen of the world ([`machine::observe`]) and by callers ([`machine::command`]). The weights
//! that a shift asks for are an override on the specs' weights; a spec is never written. [`guard`] says what stands in the way of
//! a step, [`analysis`] what its gates say, [`weights`] which weights a step has.
//!
//! Tests: `core/tests/shift_*.rs`; the simulation is `core/tests/shift_simulate.rs`.

pub mod analysis;
pub mod guard;
pub mod machine;
pub mod notes;
pub mod spec;
mod state;
pub mod validate;
pub mod view;
pub mod weights;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use analysis::{CheckedGate, GatePhase, GateRun};
pub use guard::{Finding, Guard};
pub use spec::{ShiftSpec, TrafficShift};
pub use state::{Cause, Event, Pause, ShiftReason, State};
pub use validate::validate;

use crate::ids::{ClusterName, Namespace, PolicyKey, PolicyUid, ResourceUid, ShiftId, Weight};

/// Events that a shift keeps; the oldest after the first are dropped. A step makes 2, with an approval 4: some 50 to 100 steps.
pub const MOST_EVENTS: usize = 200;

/// A shift as stored: what was asked, how far it came, and what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shift {
    /// Unique in time.
    pub id: ShiftId,
    /// Counts up with each stored change; the store writes it.
    pub version: u64,
    /// Who asked for it, in what form.
    pub origin: Origin,
    /// The caller, as in the audit log.
    pub actor: String,
    /// Why, as the caller said.
    pub reason: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// What was asked, word for word.
    pub spec: ShiftSpec,
    /// The policies with their weights, at least one.
    pub moves: Vec<Move>,
    /// The steps, at least one; the last is 100 percent.
    pub steps: Vec<Step>,
    /// Safety rules that it may cross.
    pub overrides: BTreeSet<Guard>,
    /// Seconds that a step may take to be read back.
    pub progress_deadline_seconds: u32,
    /// Where it is.
    pub state: State,
    /// The step under way, from 0; none: nothing was asked for yet.
    pub step: Option<usize>,
    /// When the state (or the step) was entered; moved on by the time spent in a pause.
    pub since: Timestamp,
    /// When it reached a final state.
    pub ended_at: Option<Timestamp>,
    /// Set while a caller holds it.
    pub pause: Option<Pause>,
    /// True: bake times, gates, approvals and evidence are skipped from here on.
    pub promoted: bool,
    /// The step, from 0, up to which steps are approved; none: no step is.
    pub approved: Option<usize>,
    /// The gates of the step under way, in their order.
    pub gates: Vec<GateRun>,
    /// Why it goes back, or went back.
    pub cause: Option<Cause>,
    /// Why it is in this state, or what it waits for; for programs.
    pub why: ShiftReason,
    /// The same for people.
    pub message: String,
    /// Since when only facts, no rule that somebody wants, hold up the next step; or since when a freeze holds up this one.
    #[serde(default)]
    pub held_since: Option<Timestamp>,
    /// What holds up the next step now.
    pub findings: Vec<Finding>,
    /// The step's weights were read back from AWS.
    pub programmed: bool,
    /// They have been in force for the settle time, with evidence where there is a source of it.
    pub converged: bool,
    /// What happened, oldest first.
    pub history: Vec<Event>,
}

/// Who asked for a shift.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A call.
    Call,
    /// A call that takes another shift back.
    Rollback {
        /// The shift that is taken back.
        of: ShiftId,
    },
    /// A TrafficShift resource.
    Resource {
        /// Its cluster.
        cluster: ClusterName,
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: String,
        /// Its UID: one makes one shift, ever.
        uid: ResourceUid,
    },
}

/// One policy of a shift. All weights name every cluster of the policy's spec, in the spec's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// The policy.
    pub policy: PolicyKey,
    /// This one, not another of the same name.
    pub uid: PolicyUid,
    /// The weights that were asked for when the shift was made; it goes back to these.
    pub from: Vec<(ClusterName, Weight)>,
    /// The weights at the end.
    pub to: Vec<(ClusterName, Weight)>,
    /// True once the policy's spec took over, or the policy goes: this shift does not touch it any more.
    #[serde(default)]
    pub left: bool,
}

/// One step, with everything written out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Percent of the way, 1..=100.
    pub percent: u32,
    /// How long it bakes, from its read-back.
    pub bake_seconds: u32,
    /// Somebody must approve before the next one.
    pub approval: bool,
    /// What must hold while it bakes.
    pub gates: Vec<CheckedGate>,
}

/// Weights that a policy is to ask for from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightWrite {
    /// The policy.
    pub policy: PolicyKey,
    /// This one.
    pub uid: PolicyUid,
    /// A weight for every cluster of the spec. Equal to the spec's: the override ends.
    pub weights: Vec<(ClusterName, Weight)>,
}

impl Shift {
    /// True until a final state is reached.
    pub fn is_active(&self) -> bool {
        !self.state.is_final()
    }

    /// The weights that the shift asks for now, by policy; `from` before the first step and on the way back.
    pub fn asked(&self, one: &Move) -> Vec<(ClusterName, Weight)> {
        match self.step {
            Some(step) if !self.goes_back() => weights::at(&one.from, &one.to, self.steps[step].percent),
            Some(_) | None => one.from.clone(),
        }
    }

    /// True when the recorded weights are asked for again.
    pub fn goes_back(&self) -> bool {
        self.cause.is_some()
    }

    /// The clusters of a policy whose share grows by the whole shift.
    pub fn gaining(one: &Move) -> BTreeSet<ClusterName> {
        weights::gaining(&one.from, &one.to)
    }

    /// The policies it still moves.
    pub fn present_moves(&self) -> impl Iterator<Item = &Move> {
        self.moves.iter().filter(|one| !one.left)
    }

    fn record(&mut self, now: Timestamp, why: ShiftReason, message: impl Into<String>, actor: &str) {
        let message = message.into();
        // A clock that was set back between two terms does not turn the order of events round.
        let at = self.history.last().map_or(now, |last| last.at.max(now));
        self.why = why;
        self.message.clone_from(&message);
        if self.history.len() >= MOST_EVENTS {
            // The first says who asked for what; it stays.
            self.history.remove(1);
        }
        let (state, step) = (self.state, self.step);
        self.history.push(Event { at, state, step, why, message, actor: actor.to_owned() });
    }
}

/// Weights as a map.
pub fn by_cluster(weights: &[(ClusterName, Weight)]) -> BTreeMap<ClusterName, Weight> {
    weights.iter().cloned().collect()
}
