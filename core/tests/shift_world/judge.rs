//! The judge of the simulation of shifts: rules of its own, written as plainly as can be and without core's guards, weights and
//! gates. It keeps what it must remember of each shift itself, and looks at truths of the modelled world, not at what the machine
//! was told.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use switchyard_core::{
    fleet::Mode,
    ids::{ClusterName, PolicyKey, ShiftId, Weight},
    shift::{
        Cause, Guard, Move, Shift, ShiftReason, State, WeightWrite,
        analysis::{GateQuery, Measured, Reading},
        machine::{Command, Outcome, Refusal},
        view::{Evidence, GatingSwitch, PolicyView},
    },
    status::Reason,
};

use super::{Policy, SETTLE};
use crate::shift_support::{Weights, by_name, words};

/// What an engine saw when it looked.
pub struct Seen {
    pub now: Timestamp,
    pub policies: BTreeMap<PolicyKey, PolicyView>,
    pub switches: Vec<GatingSwitch>,
    pub measured: Vec<Measured>,
}

pub struct Judge {
    /// Durations say nothing then.
    pub clock_steps: bool,
    pub coverage: Coverage,
    courses: BTreeMap<ShiftId, Course>,
}

/// What was there to be judged, how often.
#[derive(Default)]
pub struct Coverage {
    pub reasons: BTreeMap<(State, ShiftReason), u64>,
    /// Rules that held a shift up (false), and that were crossed on purpose (true).
    pub guards: BTreeMap<(Guard, bool), u64>,
    /// Steps that were skipped by a promoted shift.
    pub skipped: u64,
}

impl Coverage {
    pub fn add(&mut self, other: Coverage) {
        other.reasons.into_iter().for_each(|(key, n)| *self.reasons.entry(key).or_default() += n);
        other.guards.into_iter().for_each(|(key, n)| *self.guards.entry(key).or_default() += n);
        self.skipped += other.skipped;
    }

    fn count(&mut self, before: &Shift, after: &Shift) {
        if before.state != after.state || before.why != after.why {
            *self.reasons.entry((after.state, after.why)).or_default() += 1;
        }
        // Where one look makes several events, the last is not all.
        for event in after.history.iter().skip(before.history.len()).rev().skip(1) {
            *self.reasons.entry((event.state, event.why)).or_default() += 1;
        }
        if before.findings != after.findings {
            for finding in &after.findings {
                *self.guards.entry((finding.guard, finding.overridden)).or_default() += 1;
            }
        }
        let next = before.step.map_or(0, |step| step + 1);
        self.skipped += u64::from(after.step.is_some_and(|step| step > next));
    }
}

/// What the judge remembers of a shift.
#[derive(Default)]
struct Course {
    /// Since when the step, or the bake of it, runs.
    since: Option<Timestamp>,
    pause_since: Option<Timestamp>,
    paused: SignedDuration,
    approved: BTreeSet<usize>,
    approved_up_to: Option<usize>,
    taken: BTreeMap<(usize, usize), Tally>,
}

#[derive(Default)]
struct Tally {
    last: Option<Timestamp>,
    successes: u32,
    failures: u32,
    last_was_neither: bool,
}

/// Shares in percent.
fn shares(weights: &[(ClusterName, Weight)]) -> BTreeMap<ClusterName, f64> {
    let sum: u32 = weights.iter().map(|(_, weight)| weight.get()).sum();
    weights
        .iter()
        .map(|(name, weight)| (name.clone(), f64::from(weight.get()) * 100.0 / f64::from(sum.max(1))))
        .collect()
}

/// True when these are the weights of a step, as exactly as whole numbers up to 999 can be.
fn fits(asked: &Weights, one: &Move, percent: u32) -> bool {
    if percent == 100 {
        return by_name(asked) == by_name(&one.to);
    }
    let (asked, from, to) = (shares(asked), shares(&one.from), shares(&one.to));
    let way = f64::from(percent) / 100.0;
    asked.len() == from.len()
        && asked.iter().all(|(name, share)| {
            let exact = from[name] * (1.0 - way) + to[name] * way;
            // Half a unit of 999 by rounding, and a unit for each other cluster that was lifted from nothing to one.
            (share - exact).abs() < 0.35 && (*share > 0.0) == (exact > 0.0)
        })
}

fn percent_of(shift: &Shift) -> Option<u32> {
    if shift.cause.is_some() { None } else { shift.step.map(|step| shift.steps[step].percent) }
}

/// What a shift asks for a policy, as far as anybody can say.
fn is_asked(shift: &Shift, one: &Move, asked: &Weights) -> bool {
    match percent_of(shift) {
        Some(percent) => fits(asked, one, percent),
        None => by_name(asked) == by_name(&one.from),
    }
}

/// States that may follow each other in a history.
fn may_follow(before: State, after: State) -> bool {
    use State::{
        Aborted, Aborting, AwaitingApproval, Baking, Converging, Failed, Pending, Preflight, Stepping, Succeeded,
        Superseded,
    };
    if before == after {
        return !before.is_final();
    }
    match before {
        Pending => matches!(after, Preflight | Aborted | Superseded),
        Preflight => matches!(after, Stepping | Failed | Aborted | Superseded),
        Stepping => matches!(after, Baking | Aborting | Superseded | Aborted),
        Baking => matches!(after, Stepping | AwaitingApproval | Converging | Aborting | Superseded),
        AwaitingApproval => matches!(after, Stepping | Converging | Aborting | Superseded),
        Converging => matches!(after, Succeeded | Aborting | Superseded),
        Aborting => matches!(after, Aborted | Failed | Superseded),
        Succeeded | Aborted | Superseded | Failed => false,
    }
}

impl Judge {
    pub fn new(clock_steps: bool) -> Self {
        Self { clock_steps, coverage: Coverage::default(), courses: BTreeMap::new() }
    }

    pub fn made(&mut self, shift: &Shift) {
        assert_eq!((shift.state, shift.step, shift.history.len()), (State::Pending, None, 1));
        assert_eq!(shift.history[0].why, ShiftReason::Created);
        self.courses.insert(shift.id.clone(), Course::default());
    }

    /// What a policy asks for is what its shift or people say.
    pub fn asked(&self, policy: &Policy, movers: &[&Shift]) {
        let key = &policy.record.policy.key;
        assert!(movers.len() <= 1, "{key} is moved by {} shifts at once", movers.len());
        if policy.record.deleting_since.is_some() {
            return;
        }
        let asked = policy.record.requested();
        let Some(shift) = movers.first() else {
            let stated = &policy.stated;
            assert_eq!(by_name(&asked), by_name(stated), "{key} asks for what was stated last");
            return;
        };
        let one = shift.moves.iter().find(|one| one.uid == policy.record.uid).unwrap();
        assert!(is_asked(shift, one, &asked), "{key} asks for {} in {:?} of {}", words(&asked), shift.step, shift.id);
    }

    /// Whatever moved it.
    pub fn changed(&mut self, before: &Shift, after: &Shift) {
        assert!(before == after || !before.state.is_final(), "{} changes after its end", before.id);
        let fixed = |shift: &Shift| {
            let moves: Vec<_> = shift.moves.iter().map(|m| (m.uid.clone(), m.from.clone(), m.to.clone())).collect();
            (shift.id.clone(), shift.version, shift.created_at, moves, shift.steps.len(), shift.overrides.clone())
        };
        assert_eq!(fixed(before), fixed(after));
        let stays = |was: bool, is: bool| !was || is;
        assert!(before.moves.iter().zip(&after.moves).all(|(was, is)| stays(was.left, is.left)));
        assert!(stays(before.promoted, after.promoted) && stays(before.cause.is_some(), after.cause.is_some()));
        assert!(before.step <= after.step, "a step is never taken a second time");
        assert_eq!(after.ended_at.is_some(), after.state.is_final());
        self.history(before, after);
        self.coverage.count(before, after);
        let text = serde_json::to_string(after).unwrap();
        assert_eq!(serde_json::from_str::<Shift>(&text).unwrap(), *after, "what is stored is what is read: {text}");
    }

    fn history(&self, before: &Shift, after: &Shift) {
        let (was, is) = (&before.history, &after.history);
        assert!(is.starts_with(was) || is.len() == switchyard_core::shift::MOST_EVENTS, "what happened stays");
        assert!(is.windows(2).all(|pair| pair[0].at <= pair[1].at), "times never fall: {is:?}");
        let follows = |pair: &[switchyard_core::shift::Event]| may_follow(pair[0].state, pair[1].state);
        assert!(is.windows(2).all(follows), "{:?}", is.iter().map(|event| event.state).collect::<Vec<_>>());
        assert_eq!(is[0].why, ShiftReason::Created);
        if before.state != after.state || before.step != after.step {
            let last = is.last().unwrap();
            assert_eq!((last.state, last.step), (after.state, after.step), "each change of state is an event");
        }
    }

    /// What becomes of a policy when its shift ends.
    pub fn end_of(&self, shift: &Shift, one: &Move) -> Weights {
        assert!(shift.state.is_final());
        if shift.state == State::Succeeded { one.to.clone() } else { one.from.clone() }
    }

    pub fn refused(&self, before: &Shift, what: &Command, refusal: &Refusal) {
        let fits = match refusal {
            Refusal::Ended(state) => *state == before.state && state.is_final(),
            Refusal::GoingBack => before.cause.is_some() && !before.state.is_final(),
            Refusal::NotAwaiting(state) => *state == before.state && *state != State::AwaitingApproval,
            Refusal::OtherStep { asked, waits } => before.step == Some(waits - 1) && asked != waits,
        };
        assert!(fits, "{what:?} is refused in {}: {refusal}", before.state);
    }

    pub fn told(&mut self, before: &Shift, after: &Shift, writes: &[WeightWrite], what: &Command) {
        assert_eq!(before.step, after.step, "no caller makes a step");
        let turned = before.cause.is_none() && after.cause.is_some();
        self.way_back(after, writes, turned);
        match what {
            Command::Abort => assert!(after.cause.is_some()),
            Command::Pause => assert!(after.pause.is_some()),
            Command::Resume | Command::Promote => assert!(after.pause.is_none()),
            Command::Superseded(uid) | Command::Deleted(uid) => {
                assert!(after.moves.iter().all(|one| one.uid != *uid || one.left));
            }
            Command::Approve(_) | Command::ApproveUpTo(_) => {}
        }
        let course = self.courses.get_mut(&before.id).unwrap();
        match (&before.pause, &after.pause) {
            (None, Some(pause)) => course.pause_since = Some(pause.since),
            (Some(_), None) => {
                let resumed = after.history.last().map(|event| event.at);
                course.paused += resumed.unwrap().duration_since(course.pause_since.take().unwrap());
            }
            _ => {}
        }
        match what {
            Command::Approve(_) if before.state == State::AwaitingApproval => course.approved.extend(before.step),
            Command::ApproveUpTo(step) => course.approved_up_to = course.approved_up_to.max(Some(*step)),
            _ => {}
        }
    }

    /// On the way back all policies that did not leave ask for the recorded weights, at once, and nothing else is written.
    fn way_back(&self, after: &Shift, writes: &[WeightWrite], turned: bool) {
        let written: BTreeMap<_, _> = writes.iter().map(|write| (write.uid.clone(), by_name(&write.weights))).collect();
        let back: BTreeMap<_, _> =
            after.moves.iter().filter(|one| !one.left).map(|one| (one.uid.clone(), by_name(&one.from))).collect();
        if turned && after.step.is_some() {
            assert_eq!(written, back, "all of {} goes back at once", after.id);
        } else {
            assert!(writes.is_empty());
        }
    }

    /// What an engine found, right before it is stored.
    pub fn found(&mut self, before: &Shift, outcome: &Outcome, seen: &Seen, policies: &BTreeMap<PolicyKey, Policy>) {
        let after = &outcome.shift;
        let left = |shift: &Shift| shift.moves.iter().filter(|one| one.left).count();
        if before.pause.is_some() && left(before) == left(after) {
            assert_eq!(before, after, "what is paused stays as it is");
            assert!(outcome.writes.is_empty() && outcome.due.is_empty());
        }
        let since = before.history.len().min(after.history.len());
        let new: Vec<ShiftReason> = after.history[since..].iter().map(|event| event.why).collect();
        self.take_readings(before, after, seen);
        if new.contains(&ShiftReason::StepProgrammed) {
            read_back(before, policies, before);
            self.restart(before, seen.now);
        }
        if new.contains(&ShiftReason::ApprovalNeeded) {
            self.baked(before, seen);
        }
        if new.contains(&ShiftReason::Settling) {
            self.step_is_over(before, seen);
            self.restart(before, seen.now);
        }
        if before.step != after.step {
            self.step(before, after, outcome, seen, policies);
            self.restart(before, seen.now);
        } else {
            let turned = before.cause.is_none() && after.cause.is_some();
            self.way_back(after, &outcome.writes, turned);
        }
        self.way_down(before, after, seen, &new);
        match after.state {
            State::Succeeded => {
                let course = &self.courses[&before.id];
                let waited = seen.now.duration_since(course.since.unwrap()) - course.paused;
                let nobody_knows = |view: &PolicyView| matches!(view.evidence, Evidence::NoData(_));
                let unknown = !before.promoted && read_of(after, seen).any(nobody_knows);
                assert!(self.clock_steps || !unknown || waited.as_secs() >= 300, "nothing is known after {waited}");
                succeeded(before, after, seen, policies, self.clock_steps);
            }
            State::Failed if before.state == State::Preflight => assert_eq!(after.step, None),
            _ if new.contains(&ShiftReason::Restored) => read_back(after, policies, before),
            _ => {}
        }
    }

    fn restart(&mut self, shift: &Shift, now: Timestamp) {
        let course = self.courses.get_mut(&shift.id).unwrap();
        course.since = Some(now);
        course.paused = SignedDuration::ZERO;
    }

    /// A step was asked for.
    fn step(
        &mut self,
        before: &Shift,
        after: &Shift,
        outcome: &Outcome,
        seen: &Seen,
        policies: &BTreeMap<PolicyKey, Policy>,
    ) {
        let step = after.step.unwrap();
        let next = before.step.map_or(0, |before| before + 1);
        assert!(step == next || (before.promoted && step > next), "{} goes from {:?} to {step}", after.id, before.step);
        assert_eq!((after.state, after.cause), (State::Stepping, None));
        if before.step.is_some() {
            read_back(before, policies, before);
            self.step_is_over(before, seen);
        }
        let written: BTreeSet<_> = outcome.writes.iter().map(|write| write.uid.clone()).collect();
        let moved: BTreeSet<_> = after.moves.iter().filter(|one| !one.left).map(|one| one.uid.clone()).collect();
        assert_eq!(written, moved, "all policies move together");
        for write in &outcome.writes {
            let one = after.moves.iter().find(|one| one.uid == write.uid).unwrap();
            assert!(
                fits(&write.weights, one, after.steps[step].percent),
                "{} gets {}",
                write.policy,
                words(&write.weights)
            );
            let view = &seen.policies[&write.policy];
            assert_eq!(view.uid, write.uid);
            if by_name(&view.requested) != by_name(&write.weights) {
                guards((after, one), view, seen, &view.requested, &write.weights);
            }
        }
    }

    /// Bake time, gates and approval of the step under way are through.
    fn step_is_over(&self, before: &Shift, seen: &Seen) {
        let Some(step) = before.step.filter(|_| !before.promoted) else { return };
        let course = &self.courses[&before.id];
        let approved = course.approved.contains(&step) || course.approved_up_to.is_some_and(|up_to| up_to >= step);
        assert!(!before.steps[step].approval || approved, "step {step} of {} was not approved", before.id);
        // What waits for approval has baked already, and measures nothing any more.
        if before.state != State::AwaitingApproval {
            self.baked(before, seen);
        }
    }

    /// Bake time and gates of the step under way are through.
    fn baked(&self, before: &Shift, seen: &Seen) {
        let Some(step) = before.step.filter(|_| !before.promoted) else { return };
        let (course, asked) = (&self.courses[&before.id], &before.steps[step]);
        let baked = seen.now.duration_since(course.since.unwrap()) - course.paused;
        if !self.clock_steps {
            assert!(baked >= SignedDuration::from_secs(i64::from(asked.bake_seconds)), "baked for {baked}");
        }
        for (i, gate) in asked.gates.iter().enumerate() {
            if matches!(gate.query, GateQuery::TargetHealth { .. }) {
                continue;
            }
            let none = Tally::default();
            let tally = course.taken.get(&(step, i)).unwrap_or(&none);
            assert!(tally.successes >= gate.count, "{} of {} measurements", tally.successes, gate.count);
            assert!(tally.failures <= gate.failure_limit && !tally.last_was_neither);
            let bake = SignedDuration::from_secs(i64::from(asked.bake_seconds));
            let bake_end = course.since.unwrap() + course.paused + bake;
            let old = tally.last.is_none_or(|last| last < bake_end);
            assert!(self.clock_steps || !old, "{} was measured last at {:?}, before {bake_end}", gate.name, tally.last);
        }
    }

    fn take_readings(&mut self, before: &Shift, after: &Shift, seen: &Seen) {
        // A measurement of a look that was lost finds the step not baking yet.
        let baking = matches!(before.state, State::Stepping | State::Baking) && before.pause.is_none();
        let Some(step) = before.step.filter(|_| baking) else { return };
        let course = self.courses.get_mut(&before.id).unwrap();
        for one in seen.measured.iter().filter(|one| one.step == step) {
            // Nothing is measured while a dead cluster has nowhere to go to.
            let stays = matches!(after.state, State::Stepping | State::Baking) && after.step == before.step;
            let passed_over = stays && after.gates[one.gate].measured_at < Some(one.at);
            let tally = course.taken.entry((step, one.gate)).or_default();
            if passed_over || tally.last.is_some_and(|last| one.at <= last) {
                continue;
            }
            tally.last = Some(one.at);
            let good = match &one.reading {
                // As `chance` writes its gates: below 0.5 is good, above 0.9 is bad.
                Reading::Value(value) if *value < 0.5 => Some(true),
                Reading::Value(value) if *value > 0.9 => Some(false),
                Reading::Value(_) | Reading::NoData(_) => None,
                Reading::Verdict { pass, .. } => *pass,
            };
            tally.last_was_neither = good.is_none();
            tally.successes += u32::from(good == Some(true));
            tally.failures += u32::from(good == Some(false));
        }
    }

    /// When it must go back, and when it must not.
    fn way_down(&self, before: &Shift, after: &Shift, seen: &Seen, new: &[ShiftReason]) {
        let judged = matches!(before.state, State::Baking | State::AwaitingApproval | State::Converging);
        if judged && before.pause.is_none() && before.moves.iter().any(|one| died(one, seen)) {
            assert!(after.cause.is_some(), "{} stays with a cluster that has no healthy target", before.id);
        }
        let course = &self.courses[&before.id];
        if new.contains(&ShiftReason::ProgressDeadlineExceeded) && before.state == State::Stepping && !self.clock_steps
        {
            let late = seen.now.duration_since(course.since.unwrap()) - course.paused;
            assert!(late >= SignedDuration::from_secs(i64::from(before.progress_deadline_seconds)), "after {late}");
        }
        if after.cause == Some(Cause::Failed) && before.cause.is_none() {
            let known = [ShiftReason::ProgressDeadlineExceeded, ShiftReason::TargetsLost, ShiftReason::GateFailed];
            assert!(new.iter().any(|why| known.contains(why)), "{new:?}");
        }
    }
}

/// A cluster that the shift gave traffic to is dead, and some cluster from before is not.
fn died(one: &Move, seen: &Seen) -> bool {
    let Some(view) = seen.policies.get(&one.policy).filter(|view| view.uid == one.uid && !one.left) else {
        return false;
    };
    let (from, to) = (shares(&one.from), shares(&one.to));
    let carries = view.requested.iter().filter(|(_, weight)| weight.get() > 0);
    let dead = carries.filter(|(name, _)| to[name] > from[name]).any(|(name, _)| {
        let side = view.clusters.iter().find(|side| side.cluster == *name).unwrap();
        side.known && side.targets.registered > 0 && side.targets.unhealthy == side.targets.registered
    });
    dead && view.clusters.iter().any(|side| from[&side.cluster] > 0.0 && side.targets.healthy > 0)
}

/// AWS has had what each policy asks for, since it was asked for.
fn read_back(shift: &Shift, policies: &BTreeMap<PolicyKey, Policy>, before: &Shift) {
    for one in shift.moves.iter().filter(|one| !one.left) {
        let Some(policy) = policies.get(&one.policy).filter(|policy| policy.record.uid == one.uid) else { continue };
        assert!(
            policy.reached,
            "{} goes on from {:?} although {} was never so at AWS",
            before.id, before.step, one.policy
        );
        assert!(is_asked(before, one, &policy.record.requested()));
    }
}

/// What was seen of the policies that did not leave.
fn read_of<'a>(shift: &'a Shift, seen: &'a Seen) -> impl Iterator<Item = &'a PolicyView> {
    shift.moves.iter().filter(|one| !one.left).map(|one| &seen.policies[&one.policy])
}

fn succeeded(before: &Shift, after: &Shift, seen: &Seen, policies: &BTreeMap<PolicyKey, Policy>, clock_steps: bool) {
    assert_eq!(after.step, Some(after.steps.len() - 1));
    read_back(after, policies, before);
    for one in after.moves.iter().filter(|one| !one.left) {
        let (view, policy) = (&seen.policies[&one.policy], &policies[&one.policy]);
        assert!(before.promoted || !matches!(view.evidence, Evidence::Pending(_)));
        assert_eq!(by_name(&policy.record.requested()), by_name(&one.to));
        let in_force = seen.now.duration_since(policy.rule_since);
        assert!(clock_steps || in_force >= SignedDuration::from_secs(SETTLE), "in force for {in_force}");
    }
}

/// No rule is crossed that the shift may not cross.
fn guards((shift, one): (&Shift, &Move), view: &PolicyView, seen: &Seen, from: &Weights, to: &Weights) {
    let (may, key) = (|guard: Guard| shift.overrides.contains(&guard), &one.policy);
    let who = format!("{} moves {key} from {} to {}", shift.id, words(from), words(to));
    let safety = &view.safety;
    assert!(!view.frozen, "{who}: frozen");
    let covers = |pattern: &str| pattern == "*/*" || pattern == "shop/*" || pattern == key.to_string();
    let off = seen.switches.iter().any(|switch| !switch.on && switch.policies.iter().any(|p| covers(p)));
    assert!(!off || may(Guard::GatingSwitch), "{who}: a switch is off");
    let minute = seen.now.as_second().rem_euclid(86_400) / 60;
    let open =
        |from: i64, to: i64| if from < to { from <= minute && minute < to } else { minute >= from || minute < to };
    let windows = &safety.windows;
    // The windows here are those of `chance`: every day, in UTC.
    let outside = !windows.is_empty() && !windows.iter().any(|w| open(i64::from(w.from()), i64::from(w.to())));
    assert!(!outside || may(Guard::MaintenanceWindow), "{who}: outside {windows:?}");
    if let Some(moved) = view.moved_at {
        let early = seen.now.duration_since(moved).as_secs() < i64::from(safety.min_step_interval_seconds);
        assert!(!early || may(Guard::MinStepInterval), "{who}: too early after {moved}");
    }
    let (before, after) = (shares(from), shares(to));
    let most = f64::from(safety.max_step_percent) + 1e-6;
    let jump = after.iter().any(|(name, share)| (share - before[name]).abs() > most);
    assert!(!jump || may(Guard::MaxStepPercent), "{who}: more than {most}");
    let active = |shares: &BTreeMap<ClusterName, f64>| shares.values().filter(|share| **share > 0.0).count();
    let few = active(&after) < safety.min_active_clusters as usize && active(&after) < active(&before);
    assert!(!few || may(Guard::MinActiveClusters), "{who}: too few clusters");
    let refused = view.trouble.as_ref().is_some_and(|note| note.reason == Reason::CallRefused);
    assert!(!refused, "{who}: AWS refuses it");
    for side in view.clusters.iter().filter(|side| after[&side.cluster] > before[&side.cluster] + 1e-9) {
        assert_eq!(side.mode, Mode::Active, "{who}: {} is cordoned", side.cluster);
        assert!(side.known && side.targets.healthy > 0, "{who}: {} has no healthy target", side.cluster);
        let (share, most) = (after[&side.cluster], most_share(view, &one.from, &after, side.targets.healthy));
        assert!(share <= most + 1e-6 || may(Guard::Capacity), "{who}: {} can carry {most} %", side.cluster);
    }
}

/// What so many targets can carry, in percent: as declared, or 1.4 times what the busiest target got at the recorded weights.
/// Nothing is asked of who leaves a cluster that is not whole.
fn most_share(view: &PolicyView, recorded: &Weights, to: &BTreeMap<ClusterName, f64>, targets: u32) -> f64 {
    if let Some(declared) = &view.capacity {
        let each = f64::from(declared.requests_per_second_per_target);
        return f64::from(targets) * each * 100.0 / f64::from(declared.peak_requests_per_second);
    }
    let recorded = shares(recorded);
    let mut sick = view.clusters.iter().filter(|side| side.targets.healthy < side.targets.registered);
    if sick.any(|side| to[&side.cluster] < recorded[&side.cluster] - 1e-9) {
        return 100.0;
    }
    let carrying = view.clusters.iter().filter(|side| recorded[&side.cluster] > 0.0 && side.targets.healthy > 0);
    let loads = carrying.map(|side| recorded[&side.cluster] / f64::from(side.targets.healthy));
    let busiest = loads.fold(f64::NAN, f64::max);
    if busiest.is_nan() { 100.0 } else { busiest * 1.4 * f64::from(targets) }
}
