//! The steps: each is asked for, read back, baked and approved before the next one, and goes back when it fails.

use super::{
    super::{
        Cause, GatePhase, GateRun, Move, Shift, ShiftReason, State,
        guard::{Finding, Guard},
        weights,
    },
    commands::writes_of,
    look::Look,
    preflight::sentence,
};
use crate::ids::{ClusterName, Weight};

/// Policies whose weights are spelt out in a sentence; the moves beside it hold all.
const MOST_IN_WORDS: usize = 3;

impl Look<'_> {
    pub(super) fn enter_step(&mut self, step: usize) -> bool {
        let evidence = self.evidence();
        self.shift.step = Some(step);
        self.shift.gates = self.shift.steps[step].gates.iter().map(|_| GateRun::default()).collect();
        self.shift.programmed = false;
        self.shift.converged = false;
        let crossed: Vec<Finding> = self.findings_crossed(step);
        let all_asked = self.shift.present_moves().count();
        let asked = self.shift.present_moves().take(MOST_IN_WORDS).map(|one| words(one, &self.shift.asked(one)));
        let mut asked: Vec<String> = asked.collect();
        if all_asked > MOST_IN_WORDS {
            asked.push(format!("and {} more policies", all_asked - MOST_IN_WORDS));
        }
        let (number, all) = (step + 1, self.shift.steps.len());
        let message = format!("step {number} of {all} asks for {}{evidence}", asked.join("; "));
        self.enter(State::Stepping, ShiftReason::StepRequested, message);
        self.shift.findings = crossed;
        self.writes = writes_of(&self.shift);
        false
    }

    /// Rules that this step crosses on purpose, for the record.
    pub(super) fn findings_crossed(&self, step: usize) -> Vec<Finding> {
        self.shift.findings.iter().filter(|finding| finding.overridden && finding.step == step).cloned().collect()
    }

    pub(super) fn stepping(&mut self) -> bool {
        if self.in_force() {
            self.shift.programmed = true;
            let step = self.shift.step.unwrap_or_default();
            let message = format!("the weights of step {} were read back", step + 1);
            return self.enter(State::Baking, ShiftReason::StepProgrammed, message);
        }
        let mut trouble = self.trouble();
        // While it is frozen nothing is written at AWS, in either direction: there is nothing to be late for.
        if self.shift.present_moves().any(|one| self.policy(one).is_some_and(|view| view.frozen)) {
            self.shift.held_since = Some(self.shift.held_since.unwrap_or(self.now()));
            return self.wait(ShiftReason::Held, trouble.unwrap_or_else(|| "a policy is frozen".to_owned()));
        }
        self.count_no_freeze();
        // The planner holds new weights for a cluster that nobody is healthy in; the share of an earlier step would stay there.
        match self.lost_targets() {
            Some(Ok(message)) => return self.go_back(Cause::Failed, ShiftReason::TargetsLost, &message),
            Some(Err(message)) => trouble = Some(message),
            None => {}
        }
        let deadline = self.deadline(self.shift.since);
        if deadline <= self.now() {
            // After a take-over the step may be in force for long; that is to be seen first. Without sight of AWS nothing can be
            // taken back there either.
            if let Some(unknown) = self.unknown_rule() {
                return self.wait(ShiftReason::NotObservedYet, unknown);
            }
            let seconds = self.shift.progress_deadline_seconds;
            let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
            let message = format!("the step was not read back within {seconds} s{why}");
            return self.go_back(Cause::Failed, ShiftReason::ProgressDeadlineExceeded, &message);
        }
        self.at(deadline);
        self.wait(ShiftReason::StepRequested, trouble.unwrap_or_else(|| "the weights are being written".to_owned()))
    }

    /// Time in a freeze counts not for the deadline.
    fn count_no_freeze(&mut self) {
        let Some(frozen_since) = self.shift.held_since.take() else { return };
        let held = self.now().duration_since(frozen_since);
        self.shift.since = self.shift.since.saturating_add(held).unwrap_or(self.now()).min(self.now());
    }

    /// A cluster that gains has lost its last healthy target. Not to be acted on while the clusters from before have none either,
    /// since then the observer is the likely fault (I2); but one policy that can go back takes all back.
    pub(super) fn lost_targets(&self) -> Option<Result<String, String>> {
        let mut nowhere = None;
        for one in self.shift.present_moves() {
            let Some(view) = self.policy(one) else { continue };
            let asked = self.shift.asked(one);
            let dead = |name: &ClusterName| {
                let counts = view.cluster(name).filter(|cluster| cluster.known).map(|cluster| cluster.targets);
                counts.is_some_and(|counts| counts.registered > 0 && counts.unhealthy == counts.registered)
            };
            let carries = |name: &ClusterName| weights::weight_of(&asked, name).carries();
            let Some(lost) = Shift::gaining(one).into_iter().find(|name| carries(name) && dead(name)) else { continue };
            let healthy = |name: &ClusterName| view.cluster(name).is_some_and(|cluster| cluster.targets.healthy > 0);
            let back = one.from.iter().any(|(name, weight)| weight.carries() && healthy(name));
            let what = format!("{lost} has no healthy target of {} any more", one.policy);
            if back {
                return Some(Ok(what));
            }
            let message =
                format!("{what}, and the clusters of the recorded weights have none either: nothing is changed");
            nowhere = nowhere.or(Some(Err(message)));
        }
        nowhere
    }

    /// True when it was dealt with: the shift goes back, or stays since there is nowhere to go.
    pub(super) fn react_to_lost_targets(&mut self) -> bool {
        match self.lost_targets() {
            None => false,
            Some(Ok(message)) => {
                self.go_back(Cause::Failed, ShiftReason::TargetsLost, &message);
                true
            }
            Some(Err(message)) => {
                self.wait(ShiftReason::TargetsLost, message);
                true
            }
        }
    }

    pub(super) fn baking(&mut self) -> bool {
        if self.react_to_lost_targets() {
            return false;
        }
        let Some(index) = self.shift.step else { return false };
        self.measure(index);
        let step = &self.shift.steps[index];
        let failed = self.shift.gates.iter().position(|run| run.phase == GatePhase::Failed);
        if let Some(failed) = failed.filter(|_| !self.shift.promoted) {
            let (name, run) = (&step.gates[failed].name, &self.shift.gates[failed]);
            let message =
                format!("gate {name} failed ({} of {} measurements): {}", run.failed, measured(run), run.message);
            return self.go_back(Cause::Failed, ShiftReason::GateFailed, &message);
        }
        let bake_end = self.bake_end(index);
        if !self.shift.promoted {
            if let Some(open) = self.open_gate(index) {
                self.at(bake_end);
                return self.wait_for_itself(open.0, open.1);
            }
            if bake_end > self.now() {
                self.at(bake_end);
                return self.wait(ShiftReason::Baking, format!("bakes until {bake_end:.0}"));
            }
            if step.approval && self.shift.approved.is_none_or(|approved| approved < index) {
                let message = format!("step {} waits for approval{}", index + 1, self.evidence());
                return self.enter(State::AwaitingApproval, ShiftReason::ApprovalNeeded, message);
            }
        }
        self.next_step(index)
    }

    pub(super) fn awaiting_approval(&mut self) -> bool {
        if self.react_to_lost_targets() {
            return false;
        }
        let Some(index) = self.shift.step else { return false };
        if self.shift.promoted || self.shift.approved.is_some_and(|approved| approved >= index) {
            return self.next_step(index);
        }
        self.wait(ShiftReason::ApprovalNeeded, format!("step {} waits for approval", index + 1))
    }

    /// Waits for something of its own, so that nothing is held against it.
    fn wait_for_itself(&mut self, why: ShiftReason, message: String) -> bool {
        self.shift.held_since = None;
        self.shift.findings.clear();
        self.wait(why, message)
    }

    /// The next step, or the end; held while something stands in the way.
    pub(super) fn next_step(&mut self, index: usize) -> bool {
        let last = self.shift.steps.len() - 1;
        if index == last {
            let message = format!("the last weights are in force at AWS; the settle time runs{}", self.evidence());
            return self.enter(State::Converging, ShiftReason::Settling, message);
        }
        // Counts that nobody knows would be judged as zeros, and held against the step.
        if let Some(unknown) = self.unknown() {
            return self.wait_for_itself(ShiftReason::NotObservedYet, unknown);
        }
        // Another hand changed the rule, say: a step is made from where the shift is, not from where it was.
        if !self.in_force() {
            let message = self.trouble().unwrap_or_else(|| "the weights of the step are not in force".to_owned());
            return self.wait_for_itself(ShiftReason::Held, message);
        }
        let next = self.next_index(index, last);
        let findings = self.findings(next);
        let blocking: Vec<Finding> = findings.iter().filter(|finding| !finding.overridden).cloned().collect();
        self.shift.findings = findings;
        if blocking.is_empty() {
            self.enter_step(next);
            return false;
        }
        let now = self.now();
        let by_will = blocking.iter().any(|finding| finding.guard.by_will());
        // The deadline is for facts; it starts when only they are left to wait for.
        let held_since = if by_will { None } else { Some(self.shift.held_since.unwrap_or(now)) };
        self.shift.held_since = held_since;
        blocking.iter().filter_map(|finding| finding.until).for_each(|until| self.at(until));
        if let Some(deadline) = held_since.map(|since| self.deadline(since)) {
            if deadline <= now {
                let seconds = self.shift.progress_deadline_seconds;
                let message = format!("step {} was held for {seconds} s: {}", next + 1, sentence(&blocking));
                return self.go_back(Cause::Failed, ShiftReason::ProgressDeadlineExceeded, &message);
            }
            self.at(deadline);
        }
        self.wait(ShiftReason::Held, sentence(&blocking))
    }

    /// The step after this one; for a promoted shift the farthest that its policies' rules allow at once.
    pub(super) fn next_index(&self, index: usize, last: usize) -> usize {
        if !self.shift.promoted {
            return index + 1;
        }
        let allowed = |step: &usize| {
            self.findings(*step).iter().all(|finding| finding.overridden || finding.guard != Guard::MaxStepPercent)
        };
        (index + 1..=last).rev().find(allowed).unwrap_or(index + 1)
    }
}

fn measured(run: &GateRun) -> u32 {
    run.succeeded.saturating_add(run.failed).saturating_add(run.without_data)
}

/// Such as `shop/checkout blue=95,green=5`.
fn words(one: &Move, weights: &[(ClusterName, Weight)]) -> String {
    let pairs: Vec<String> = weights.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
    format!("{} {}", one.policy, pairs.join(","))
}
