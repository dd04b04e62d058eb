//! Carrying out a plan, as a machine: given the outcome of each call it says what comes next. The shell makes that one call
//! and reports back. Tests are in `core/tests/execute.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    arn::TargetGroupArn,
    ids::PolicyKey,
    plan::step::{Action, GroupRef, Step},
};

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Carried out.
    Done {
        /// The ARN of a target group that the call made.
        created: Option<TargetGroupArn>,
    },
    /// AWS answered with an error; nothing was changed.
    Refused {
        /// The error code on the wire, such as `TooManyRules`.
        code: String,
        /// AWS's message.
        message: String,
    },
    /// AWS throttled the call; nothing was changed.
    Throttled {
        /// AWS's message.
        message: String,
    },
    /// The call never left: nothing was changed.
    Unreachable {
        /// What went wrong.
        message: String,
    },
    /// No answer, or one that cannot be read: the call may have been carried out.
    Unknown {
        /// What went wrong.
        message: String,
    },
}

/// How urgent a call is; the first is served first (DESIGN, request budget).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Urgency {
    /// A change of weights on a rule that exists: flips and failover.
    WeightShift,
    /// Taking dead targets out.
    Deregister,
    /// Putting targets in.
    Register,
    /// Everything that makes or removes groups and rules.
    Create,
}

/// The urgency of an action.
pub fn urgency(action: &Action) -> Urgency {
    match action {
        Action::ModifyRule { .. } | Action::TagLoadBalancer { .. } => Urgency::WeightShift,
        Action::DeregisterTargets { .. } => Urgency::Deregister,
        Action::RegisterTargets { .. } => Urgency::Register,
        Action::CreateTargetGroup(_)
        | Action::ModifyTargetGroup { .. }
        | Action::ModifyTargetGroupAttributes { .. }
        | Action::SetRulePriorities { .. }
        | Action::CreateRule { .. }
        | Action::DeleteRule { .. }
        | Action::DeleteTargetGroup { .. } => Urgency::Create,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    InFlight,
    Done,
    Failed,
}

/// One policy's steps on their way.
#[derive(Clone, Debug)]
struct Lane {
    steps: Vec<(Step, Progress)>,
}

/// A plan being carried out: one lane a policy, at most one call in flight in each, and lanes never wait for each other (I9).
#[derive(Clone, Debug, Default)]
pub struct Execution {
    lanes: BTreeMap<PolicyKey, Lane>,
    created: BTreeMap<String, TargetGroupArn>,
}

/// A call to make: the step, with the ARNs of groups that earlier steps made filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The step; its policy names the lane to report to.
    pub step: Step,
    /// How urgent it is.
    pub urgency: Urgency,
}

impl Execution {
    /// Takes the steps of a plan; steps of one policy keep their order.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let mut lanes: BTreeMap<PolicyKey, Lane> = BTreeMap::new();
        for step in steps {
            let lane = lanes.entry(step.policy.clone()).or_insert(Lane { steps: Vec::new() });
            lane.steps.push((step, Progress::Waiting));
        }
        Self { lanes, created: BTreeMap::new() }
    }

    /// The calls that may be made now, the most urgent first. Nothing is taken: [`Execution::start`] does that.
    pub fn ready(&self) -> Vec<Call> {
        let mut calls: Vec<Call> = self.lanes.values().filter_map(|lane| self.next_of(lane)).collect();
        calls.sort_by(|a, b| (a.urgency, &a.step.policy).cmp(&(b.urgency, &b.step.policy)));
        calls
    }

    fn next_of(&self, lane: &Lane) -> Option<Call> {
        if lane.steps.iter().any(|(_, progress)| *progress == Progress::InFlight) {
            return None;
        }
        let (step, _) = lane.steps.iter().find(|(_, progress)| *progress == Progress::Waiting)?;
        let mut step = step.clone();
        for group in groups_mut(&mut step.action) {
            if group.arn.is_none() {
                group.arn = self.created.get(&group.name).cloned();
            }
        }
        let urgency = urgency(&step.action);
        Some(Call { step, urgency })
    }

    /// Marks the lane's next step as in flight. The shell calls this right before it makes the call. With a call in flight
    /// already nothing happens: a lane has one at most.
    pub fn start(&mut self, policy: &PolicyKey) {
        let Some(lane) = self.lanes.get_mut(policy) else { return };
        if lane.steps.iter().any(|(_, progress)| *progress == Progress::InFlight) {
            return;
        }
        if let Some((_, progress)) = lane.steps.iter_mut().find(|(_, progress)| *progress == Progress::Waiting) {
            *progress = Progress::InFlight;
        }
    }

    /// Takes the outcome of the lane's call in flight. After anything but [`Outcome::Done`] the steps that build on it are
    /// dropped; an unknown outcome drops the whole rest of the lane, since nothing may be done before it was read back.
    pub fn report(&mut self, policy: &PolicyKey, outcome: &Outcome) {
        let Some(lane) = self.lanes.get_mut(policy) else { return };
        let Some(at) = lane.steps.iter().position(|(_, progress)| *progress == Progress::InFlight) else {
            return;
        };
        let failed = lane.steps[at].0.action.clone();
        match outcome {
            Outcome::Done { created } => {
                lane.steps[at].1 = Progress::Done;
                if let (Action::CreateTargetGroup(new), Some(arn)) = (&failed, created) {
                    self.created.insert(new.name.clone(), arn.clone());
                }
            }
            Outcome::Unknown { .. } | Outcome::Unreachable { .. } | Outcome::Throttled { .. } => {
                lane.steps[at].1 = Progress::Failed;
                lane.steps.truncate(at + 1);
            }
            Outcome::Refused { .. } => {
                lane.steps[at].1 = Progress::Failed;
                let mut index = 0;
                lane.steps.retain(|(step, _)| {
                    index += 1;
                    index <= at + 1 || !builds_on(&step.action, &failed)
                });
            }
        }
    }

    /// True when nothing is in flight and nothing is left to do.
    pub fn is_finished(&self) -> bool {
        let busy = |progress: &Progress| matches!(progress, Progress::Waiting | Progress::InFlight);
        !self.lanes.values().any(|lane| lane.steps.iter().any(|(_, progress)| busy(progress)))
    }

    /// Drops everything that is not in flight, for a hub that lost its lease or wants to plan anew.
    pub fn stop(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.steps.retain(|(_, progress)| *progress != Progress::Waiting);
        }
    }
}

/// True when a step cannot be made because an earlier one was not: it names a group that was not made, it is a new rule
/// whose targets are not registered, or the fence of the epoch is missing. Everything else was planned from what was observed
/// and stays safe.
pub fn builds_on(step: &Action, missing: &Action) -> bool {
    match missing {
        Action::TagLoadBalancer { .. } => true,
        Action::CreateTargetGroup(new) => {
            groups(step).iter().any(|group| group.name == new.name) || matches!(step, Action::CreateRule { .. })
        }
        Action::RegisterTargets { .. } => matches!(step, Action::CreateRule { .. }),
        _ => false,
    }
}

/// The groups that an action names.
pub fn groups(action: &Action) -> Vec<&GroupRef> {
    match action {
        Action::CreateTargetGroup(_)
        | Action::TagLoadBalancer { .. }
        | Action::SetRulePriorities { .. }
        | Action::DeleteRule { .. } => Vec::new(),
        Action::ModifyTargetGroup { group, .. }
        | Action::ModifyTargetGroupAttributes { group, .. }
        | Action::RegisterTargets { group, .. }
        | Action::DeregisterTargets { group, .. }
        | Action::DeleteTargetGroup { group } => vec![group],
        Action::CreateRule { forward, .. } => forward.iter().map(|(group, _)| group).collect(),
        Action::ModifyRule { forward, .. } => forward.iter().flatten().map(|(group, _)| group).collect(),
    }
}

fn groups_mut(action: &mut Action) -> Vec<&mut GroupRef> {
    match action {
        Action::CreateTargetGroup(_)
        | Action::TagLoadBalancer { .. }
        | Action::SetRulePriorities { .. }
        | Action::DeleteRule { .. } => Vec::new(),
        Action::ModifyTargetGroup { group, .. }
        | Action::ModifyTargetGroupAttributes { group, .. }
        | Action::RegisterTargets { group, .. }
        | Action::DeregisterTargets { group, .. }
        | Action::DeleteTargetGroup { group } => vec![group],
        Action::CreateRule { forward, .. } => forward.iter_mut().map(|(group, _)| group).collect(),
        Action::ModifyRule { forward, .. } => forward.iter_mut().flatten().map(|(group, _)| group).collect(),
    }
}
