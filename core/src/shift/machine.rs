//! The machine of a shift. [`observe`] moves it by what is seen, [`command`] by what a caller says; both take the shift and give it
//! back with the weights that are to be asked for from now on. A step advances only on what was read back from AWS, so a lost
//! answer or a crash never makes a double step; and whoever stores the outcome does so only if nobody moved the shift meanwhile.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use super::{
    Cause, Event, GatePhase, GateRun, Move, Pause, Shift, ShiftReason, State, WeightWrite,
    analysis::{self, GateQuery},
    guard::{self, Finding, Guard, Rules},
    view::{Evidence, PolicyView, View},
    weights,
};
use crate::{
    ids::{ClusterName, PolicyUid},
    status::TargetCounts,
};

/// How long a preflight waits for what is not known yet (a take-over, a read-back, targets that are being judged) before it fails.
pub const PREFLIGHT_PATIENCE: Duration = Duration::from_secs(60);

/// What came of a look.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The shift; equal to the one before when nothing happened.
    pub shift: Shift,
    /// To be stored together with it.
    pub writes: Vec<WeightWrite>,
    /// Gates of the present step that are due to be measured.
    pub due: Vec<usize>,
    /// When to look again although nothing else changed.
    pub again_at: Option<Timestamp>,
}

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

/// Moves the shift as far as what is seen allows.
pub fn observe(shift: Shift, view: &View<'_>) -> Outcome {
    let mut look = Look { shift, view, writes: Vec::new(), due: Vec::new(), again_at: None };
    if look.shift.is_active() {
        look.leave_lost_policies();
        // Each state is entered once at most in a look, but steps without bake time come one after the other: what was asked for
        // in this look was not read back, so it ends there.
        while look.advance() {}
    }
    let Look { shift, writes, due, again_at, .. } = look;
    Outcome { shift, writes, due, again_at }
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
        Command::Promote if shift.promoted => {}
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
fn leave(shift: &mut Shift, uid: &PolicyUid, why: ShiftReason, by: By<'_>, now: Timestamp) -> Vec<WeightWrite> {
    let Some(one) = shift.moves.iter_mut().find(|one| one.uid == *uid && !one.left) else {
        return Vec::new();
    };
    one.left = true;
    let what = if why == ShiftReason::PolicyDeleted { "is being deleted" } else { "has a spec with other weights" };
    let message = format!("{} {what}", one.policy);
    if shift.goes_back() {
        shift.record(now, why, message, by.actor);
        return Vec::new();
    }
    go_back(shift, Cause::Superseded, why, &message, by.actor, now)
}

fn go_back(
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
fn writes_of(shift: &Shift) -> Vec<WeightWrite> {
    let write =
        |one: &Move| WeightWrite { policy: one.policy.clone(), uid: one.uid.clone(), weights: shift.asked(one) };
    shift.present_moves().map(write).collect()
}

/// One look at a shift.
struct Look<'a> {
    shift: Shift,
    view: &'a View<'a>,
    writes: Vec<WeightWrite>,
    due: Vec<usize>,
    again_at: Option<Timestamp>,
}

impl Look<'_> {
    /// True when the state was left, so that the next one can be looked at.
    fn advance(&mut self) -> bool {
        if self.shift.pause.is_some() || !self.writes.is_empty() {
            return false;
        }
        match self.shift.state {
            State::Pending => {
                self.shift.state = State::Preflight;
                self.shift.since = self.view.now;
                true
            }
            State::Preflight => self.preflight(),
            State::Stepping => self.stepping(),
            State::Baking => self.baking(),
            State::AwaitingApproval => self.awaiting_approval(),
            State::Converging => self.converging(),
            State::Aborting => self.aborting(),
            State::Succeeded | State::Aborted | State::Superseded | State::Failed => false,
        }
    }

    fn now(&self) -> Timestamp {
        self.view.now
    }

    fn after(&self, since: Timestamp, wait: Duration) -> Timestamp {
        since.saturating_add(wait).unwrap_or(Timestamp::MAX)
    }

    fn deadline(&self, since: Timestamp) -> Timestamp {
        self.after(since, Duration::from_secs(u64::from(self.shift.progress_deadline_seconds)))
    }

    /// Looks again at this time, if it is still to come.
    fn at(&mut self, time: Timestamp) {
        if time > self.view.now {
            self.again_at = Some(self.again_at.map_or(time, |at| at.min(time)));
        }
    }

    fn policy(&self, one: &Move) -> Option<&PolicyView> {
        self.view.policies.get(&one.policy)
    }

    /// Stays where it is, and says why; that is no event.
    fn wait(&mut self, why: ShiftReason, message: String) -> bool {
        self.shift.why = why;
        self.shift.message = message;
        false
    }

    fn enter(&mut self, state: State, why: ShiftReason, message: String) -> bool {
        self.shift.state = state;
        self.shift.since = self.view.now;
        self.shift.held_since = None;
        self.shift.findings.clear();
        self.shift.record(self.view.now, why, message, "");
        true
    }

    fn end(&mut self, state: State, why: ShiftReason, message: String) -> bool {
        self.enter(state, why, message);
        self.shift.ended_at = Some(self.view.now);
        false
    }

    fn go_back(&mut self, cause: Cause, why: ShiftReason, message: &str) -> bool {
        let writes = go_back(&mut self.shift, cause, why, message, "", self.view.now);
        self.writes.extend(writes);
        false
    }

    /// A policy that is gone, on its way out, or another one of that name is not touched any more.
    fn leave_lost_policies(&mut self) {
        let view = self.view;
        let lost = |one: &&Move| {
            let present = view.policies.get(&one.policy);
            present.is_none_or(|present| present.uid != one.uid || present.deleting)
        };
        let same_clusters = |one: &Move, present: &PolicyView| {
            let names = |weights: &[(ClusterName, crate::ids::Weight)]| -> BTreeSet<ClusterName> {
                weights.iter().map(|(name, _)| name.clone()).collect()
            };
            names(&one.from) == names(&present.requested)
        };
        let gone: Vec<PolicyUid> = self.shift.present_moves().filter(lost).map(|one| one.uid.clone()).collect();
        let changed: Vec<PolicyUid> = self
            .shift
            .present_moves()
            .filter(|one| !lost(one))
            .filter(|one| view.policies.get(&one.policy).is_some_and(|present| !same_clusters(one, present)))
            .map(|one| one.uid.clone())
            .collect();
        let by = By { actor: "", reason: "" };
        let reasons = [(gone, ShiftReason::PolicyDeleted), (changed, ShiftReason::PolicyChanged)];
        for (uids, why) in reasons {
            for uid in uids {
                // The last word counts: a policy that leaves later is not written any more.
                self.writes.retain(|write| write.uid != uid);
                let writes = leave(&mut self.shift, &uid, why, by, view.now);
                self.writes.extend(writes);
            }
        }
    }

    fn preflight(&mut self) -> bool {
        let patience = self.after(self.shift.since, PREFLIGHT_PATIENCE);
        if let Some(unknown) = self.unknown() {
            if patience > self.now() {
                self.at(patience);
                return self.wait(ShiftReason::NotObservedYet, unknown);
            }
            return self.end(State::Failed, ShiftReason::PreflightFailed, unknown);
        }
        let findings = self.findings(0);
        let blocking: Vec<Finding> = findings.iter().filter(|finding| !finding.overridden).cloned().collect();
        self.shift.findings.clone_from(&findings);
        if blocking.is_empty() {
            let message = match findings.len() {
                0 => "nothing stands in the way".to_owned(),
                n => format!("{n} safety rules are crossed on purpose: {}", sentence(&findings)),
            };
            self.shift.record(self.view.now, ShiftReason::PreflightPassed, message, "");
            return self.enter_step(0);
        }
        // Targets that the load balancer has not judged yet may be healthy in a moment.
        if blocking.iter().all(|finding| self.may_pass_soon(finding)) && patience > self.now() {
            self.at(patience);
            return self.wait(ShiftReason::NotObservedYet, sentence(&blocking));
        }
        self.end(State::Failed, ShiftReason::PreflightFailed, sentence(&blocking));
        self.shift.findings = findings;
        false
    }

    /// What a preflight must know and does not, in words.
    fn unknown(&self) -> Option<String> {
        for one in self.shift.present_moves() {
            let Some(view) = self.policy(one) else { continue };
            if view.programmed.is_none() {
                return Some(format!("what AWS has of {} is not known yet", one.policy));
            }
            let gaining = Shift::gaining(one);
            if let Some(name) = gaining.iter().find(|name| view.cluster(name).is_some_and(|cluster| !cluster.known)) {
                return Some(format!("the targets of {name} of {} are not known yet", one.policy));
            }
        }
        None
    }

    fn may_pass_soon(&self, finding: &Finding) -> bool {
        if !matches!(finding.guard, Guard::HealthyTargets | Guard::Capacity) {
            return false;
        }
        let view = self.view.policies.get(&finding.policy);
        let judging = |counts: &TargetCounts| counts.initial > 0 || counts.desired > counts.registered;
        view.is_some_and(|view| view.clusters.iter().any(|cluster| judging(&cluster.targets)))
    }

    /// What stands in the way of a step; before the first one, also what is wrong with the shape of the later ones.
    fn findings(&self, step: usize) -> Vec<Finding> {
        let mut found = Vec::new();
        for one in self.shift.present_moves() {
            let Some(view) = self.policy(one) else { continue };
            let rules = Rules {
                policy: &one.policy,
                safety: &view.safety,
                frozen: view.frozen,
                moved_at: view.moved_at,
                switches: self.view.switches,
                overrides: &self.shift.overrides,
                now: self.view.now,
            };
            let present = self.shift.asked(one);
            let to = weights::at(&one.from, &one.to, self.shift.steps[step].percent);
            if present == to {
                continue;
            }
            found.extend(rules.moment(step));
            found.extend(rules.shape(step, &present, &to));
            found.extend(guard::facts(&rules, view, step, &present, &to));
            if self.shift.step.is_none() {
                found.extend(later_shapes(&self.shift, one, &rules));
            }
        }
        found
    }

    fn enter_step(&mut self, step: usize) -> bool {
        self.shift.step = Some(step);
        self.shift.gates = self.shift.steps[step].gates.iter().map(|_| GateRun::default()).collect();
        self.shift.programmed = false;
        self.shift.converged = false;
        let crossed: Vec<Finding> = self.findings_crossed(step);
        let asked = self.shift.present_moves().map(|one| words(one, &self.shift.asked(one))).collect::<Vec<_>>();
        let (number, all) = (step + 1, self.shift.steps.len());
        let message = format!("step {number} of {all} asks for {}", asked.join("; "));
        self.enter(State::Stepping, ShiftReason::StepRequested, message);
        self.shift.findings = crossed;
        self.writes = writes_of(&self.shift);
        false
    }

    /// Rules that this step crosses on purpose, for the record.
    fn findings_crossed(&self, step: usize) -> Vec<Finding> {
        self.shift.findings.iter().filter(|finding| finding.overridden && finding.step == step).cloned().collect()
    }

    /// True when every policy has the weights that are asked for.
    fn in_force(&self) -> bool {
        let has = |one: &Move| self.policy(one).is_some_and(|view| view.has(&self.shift.asked(one)));
        self.shift.present_moves().all(has)
    }

    fn stepping(&mut self) -> bool {
        if self.in_force() {
            self.shift.programmed = true;
            let step = self.shift.step.unwrap_or_default();
            let message = format!("the weights of step {} were read back", step + 1);
            return self.enter(State::Baking, ShiftReason::StepProgrammed, message);
        }
        let deadline = self.deadline(self.shift.since);
        let trouble = self.trouble();
        // While it is frozen nothing is written at AWS, in either direction: there is nothing to be late for.
        if self.shift.present_moves().any(|one| self.policy(one).is_some_and(|view| view.frozen)) {
            return self.wait(ShiftReason::Held, trouble.unwrap_or_else(|| "a policy is frozen".to_owned()));
        }
        if deadline <= self.now() {
            let seconds = self.shift.progress_deadline_seconds;
            let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
            let message = format!("the step was not read back within {seconds} s{why}");
            return self.go_back(Cause::Failed, ShiftReason::ProgressDeadlineExceeded, &message);
        }
        self.at(deadline);
        self.wait(ShiftReason::StepRequested, trouble.unwrap_or_else(|| "the weights are being written".to_owned()))
    }

    /// The first thing that keeps a policy from its weights.
    fn trouble(&self) -> Option<String> {
        let troubles = self.shift.present_moves().filter_map(|one| {
            let view = self.policy(one).filter(|view| !view.has(&self.shift.asked(one)))?;
            view.trouble.as_ref().map(|note| format!("{}: {}", one.policy, note.message))
        });
        troubles.into_iter().next()
    }

    /// A cluster that gains has lost its last healthy target; none while somewhere else nothing is healthy either, since then the
    /// observer is the likely fault (I2).
    fn lost_targets(&self) -> Option<Result<String, String>> {
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
            return Some(if back {
                Ok(what)
            } else {
                Err(format!("{what}, and the clusters of the recorded weights have none either: nothing is changed"))
            });
        }
        None
    }

    /// True when it was dealt with: the shift goes back, or stays since there is nowhere to go.
    fn react_to_lost_targets(&mut self) -> bool {
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

    fn baking(&mut self) -> bool {
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
        let bake_end = self.after(self.shift.since, Duration::from_secs(u64::from(step.bake_seconds)));
        if !self.shift.promoted {
            if let Some(open) = self.open_gate(index) {
                self.at(bake_end);
                return self.wait(open.0, open.1);
            }
            if bake_end > self.now() {
                self.at(bake_end);
                return self.wait(ShiftReason::Baking, format!("bakes until {bake_end:.0}"));
            }
            if step.approval && self.shift.approved.is_none_or(|approved| approved < index) {
                let message = format!("step {} waits for approval", index + 1);
                return self.enter(State::AwaitingApproval, ShiftReason::ApprovalNeeded, message);
            }
        }
        self.next_step(index)
    }

    /// Takes readings in, and says which gates are due.
    fn measure(&mut self, index: usize) {
        let step = self.shift.steps[index].clone();
        let (since, now) = (self.shift.since, self.now());
        for (i, gate) in step.gates.iter().enumerate() {
            let readings = self.view.measured.iter().filter(|one| one.step == index && one.gate == i);
            for one in readings {
                self.shift.gates[i].take(gate, &one.reading, one.at);
            }
            if let GateQuery::TargetHealth { min_healthy_percent } = gate.query {
                if self.shift.gates[i].due_at(gate, since) <= now {
                    let reading = analysis::target_health(min_healthy_percent, &self.gaining_views());
                    self.shift.gates[i].take(gate, &reading, now);
                }
            } else if self.shift.gates[i].due_at(gate, since) <= now && self.shift.gates[i].phase != GatePhase::Failed {
                self.due.push(i);
            }
            let due_at = self.shift.gates[i].due_at(gate, since);
            self.at(due_at);
        }
    }

    fn gaining_views(&self) -> Vec<(&PolicyView, Vec<ClusterName>)> {
        let moves = self.shift.present_moves();
        moves
            .filter_map(|one| {
                let asked = self.shift.asked(one);
                let gaining = Shift::gaining(one).into_iter();
                let carrying = gaining.filter(|name| weights::weight_of(&asked, name).carries()).collect();
                Some((self.policy(one)?, carrying))
            })
            .collect()
    }

    /// A gate that has not passed, and what the shift waits for.
    fn open_gate(&self, index: usize) -> Option<(ShiftReason, String)> {
        let gates = &self.shift.steps[index].gates;
        let open = self.shift.gates.iter().zip(gates).filter(|(run, _)| run.phase != GatePhase::Passed);
        // One without data is what people must hear of first.
        let (run, gate) = open.max_by_key(|(run, _)| run.phase == GatePhase::NoData)?;
        let (name, done, count) = (&gate.name, run.succeeded, gate.count);
        Some(if run.phase == GatePhase::NoData {
            (ShiftReason::NoData, format!("gate {name} has nothing to judge by, so the shift waits: {}", run.message))
        } else {
            (ShiftReason::GatesRunning, format!("gate {name}: {done} of {count} measurements succeeded"))
        })
    }

    fn awaiting_approval(&mut self) -> bool {
        if self.react_to_lost_targets() {
            return false;
        }
        let Some(index) = self.shift.step else { return false };
        if self.shift.promoted || self.shift.approved.is_some_and(|approved| approved >= index) {
            return self.next_step(index);
        }
        self.wait(ShiftReason::ApprovalNeeded, format!("step {} waits for approval", index + 1))
    }

    /// The next step, or the end; held while something stands in the way.
    fn next_step(&mut self, index: usize) -> bool {
        let last = self.shift.steps.len() - 1;
        if index == last {
            let message = "the last weights are in force at AWS; the settle time runs".to_owned();
            return self.enter(State::Converging, ShiftReason::Settling, message);
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
        let by_will = blocking.iter().all(|finding| finding.guard.by_will());
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
    fn next_index(&self, index: usize, last: usize) -> usize {
        if !self.shift.promoted {
            return index + 1;
        }
        let allowed = |step: &usize| {
            self.findings(*step).iter().all(|finding| finding.overridden || finding.guard != Guard::MaxStepPercent)
        };
        (index + 1..=last).rev().find(allowed).unwrap_or(index + 1)
    }

    fn converging(&mut self) -> bool {
        if self.react_to_lost_targets() {
            return false;
        }
        self.shift.programmed = self.in_force();
        let settled = |one: &Move| self.policy(one).is_some_and(|view| view.converged);
        if !self.shift.programmed || !self.shift.present_moves().all(settled) {
            let message = self.trouble().unwrap_or_else(|| "the settle time runs".to_owned());
            return self.wait(ShiftReason::Settling, message);
        }
        let pending = self.shift.present_moves().find_map(|one| match &self.policy(one)?.evidence {
            Evidence::Pending(why) => Some(format!("{}: {why}", one.policy)),
            Evidence::NotConfigured | Evidence::Quiet => None,
        });
        if let Some(pending) = pending.filter(|_| !self.shift.promoted) {
            return self.wait(ShiftReason::EvidencePending, pending);
        }
        self.shift.converged = true;
        self.end(State::Succeeded, ShiftReason::Converged, "the weights are in force".to_owned())
    }

    fn aborting(&mut self) -> bool {
        let cause = self.shift.cause.unwrap_or(Cause::Failed);
        if self.in_force() {
            self.shift.programmed = true;
            let message = format!("the recorded weights were read back; {}", self.first_cause());
            return self.end(cause.ends_in(), ShiftReason::Restored, message);
        }
        let deadline = self.deadline(self.shift.since);
        let trouble = self.trouble();
        if deadline <= self.now() {
            let seconds = self.shift.progress_deadline_seconds;
            let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
            let message = format!(
                "the recorded weights are asked for and were not read back within {seconds} s{why}; {}",
                self.first_cause()
            );
            return self.end(cause.ends_in(), ShiftReason::RestorePending, message);
        }
        self.at(deadline);
        let (why, message) = (self.shift.why, self.shift.message.clone());
        let message = trouble.unwrap_or(message);
        self.wait(why, message)
    }

    /// Why it went back, as it was said when it did.
    fn first_cause(&self) -> String {
        let turned = |event: &&Event| event.state == State::Aborting;
        self.shift.history.iter().find(turned).map(|event| event.message.clone()).unwrap_or_default()
    }
}

/// What is wrong with the shape of the steps after the first, whenever they are made.
fn later_shapes(shift: &Shift, one: &Move, rules: &Rules<'_>) -> Vec<Finding> {
    let at = |step: usize| weights::at(&one.from, &one.to, shift.steps[step].percent);
    (1..shift.steps.len()).flat_map(|step| rules.shape(step, &at(step - 1), &at(step))).collect()
}

fn measured(run: &GateRun) -> u32 {
    run.succeeded.saturating_add(run.failed).saturating_add(run.without_data)
}

fn sentence(findings: &[Finding]) -> String {
    /// Findings that are spelt out; the list beside the sentence holds all.
    const MOST: usize = 5;
    let shown: Vec<&str> = findings.iter().take(MOST).map(|finding| finding.message.as_str()).collect();
    let more = findings.len().saturating_sub(MOST);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", shown.join("; "))
}

/// Such as `shop/checkout blue=95,green=5`.
fn words(one: &Move, weights: &[(ClusterName, crate::ids::Weight)]) -> String {
    let pairs: Vec<String> = weights.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
    format!("{} {}", one.policy, pairs.join(","))
}
