//! Moves shifts: each cycle shows every active one what its plan found, lets core say what follows, and stores that with the
//! weights in one transaction, under the lease and only if nobody moved the shift meanwhile. Decides nothing itself.
//!
//! A step advances only on what was read back after its write. Three things see to that: the shift, its policies' weights and the
//! switches come from one picture, which is one snapshot of the store; a shift that was stored is not looked at again before the
//! picture shows what was stored; and a policy whose rule or groups were written and not read since counts as unknown, whatever
//! the cache holds. Tests: `shifts_tests.rs`, and the scenarios in `tests/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use switchyard_core::{
    arn::{LoadBalancerArn, TargetGroupArn},
    ids::{ClusterName, Epoch, PolicyKey, ShiftId},
    observed::Observed,
    plan::RegionPlan,
    policy::PolicyRecord,
    shift::{
        Move, Shift, State, WeightWrite,
        analysis::{GateQuery, Measure, Measured, MeasuredPolicy},
        machine,
        view::{Evidence, GatingSwitch, PolicyView, View},
        weights,
    },
};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    cycle::{Engine, Unread},
    measuring::{Ended, GateKey, Measuring},
    record::UNKNOWN_IS_NO_NEWS,
};
use crate::{
    analysis::Departed,
    feed::Picture,
    metrics::{Measurement, Metrics, ShiftState},
    store::{Fence, ShiftUpdate},
};

/// What could not be stored is looked at again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// Where only the words differ that say what a shift waits for, they are stored after this time: most pass sooner, such as those
/// about a write that is being read back, and a step is not to wait for them to be stored.
const WORDS_PAUSE: Duration = Duration::from_millis(500);

/// A picture that does not show after this time what was stored is one of a store that lost it, such as after a fail-over to a
/// standby that was behind: what it shows is the truth then. Pictures come within seconds of each write.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// What is kept about shifts for one term of the lease.
#[derive(Default)]
pub(super) struct ShiftTerm {
    pub(super) measuring: Measuring,
    /// The version of what was stored last, and when; an older one in the picture is not looked at before [`LOST_AFTER`].
    saved: BTreeMap<ShiftId, (u64, Instant)>,
    /// Since when a shift waits for something else than what is stored.
    other_words: BTreeMap<ShiftId, Instant>,
    /// The state in which each was seen last, to count changes; none: nothing was seen in this term.
    seen: Option<BTreeMap<ShiftId, State>>,
}

/// What a cycle found, for shifts to look at.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) picture: &'a Picture,
    pub(super) records: &'a BTreeMap<PolicyKey, PolicyRecord>,
    /// Made from these records and from what is observed.
    pub(super) plan: &'a RegionPlan,
    pub(super) observed: &'a Observed,
    pub(super) unread: &'a BTreeMap<PolicyKey, Unread>,
    /// From the read-back of weights until they count as served everywhere.
    pub(super) settle: Duration,
    pub(super) now: Timestamp,
}

/// What came of looking at all shifts.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Policies that ask for other weights now: their plan is out of date.
    pub(super) written: BTreeSet<PolicyKey>,
    /// When to look again although nothing else changed.
    pub(super) again: Option<Instant>,
    /// Something was stored, and will come back with the next picture.
    pub(super) stored: bool,
}

/// A shift that was moved, to be stored.
struct Update {
    before: Shift,
    shift: Shift,
    writes: Vec<WeightWrite>,
    taken: Vec<Measured>,
    /// What AWS has of one of its policies is not known at this moment.
    unknown: bool,
}

/// Whether a shift is to be stored.
#[derive(Debug, PartialEq, Eq)]
enum Storing {
    Nothing,
    Now,
    At(Instant),
}

impl Moved {
    fn at(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }
}

impl Engine {
    /// Looks at every active shift and stores what follows.
    pub(super) async fn move_shifts(&mut self, epoch: Epoch, seen: &Seen<'_>) -> Moved {
        let mut moved = Moved::default();
        while let Some(ended) = self.term.shifts.measuring.try_next() {
            self.measured(ended);
        }
        self.term.shifts.follow(&seen.picture.shifts, &self.metrics);
        // While the store is away nothing could be stored; traffic stays where it is.
        if self.options.observe_only || !seen.picture.store_ok {
            return moved;
        }
        let switches: Vec<GatingSwitch> = seen.picture.switches.iter().map(|stored| stored.switch.clone()).collect();
        let mut updates = Vec::new();
        for shift in seen.picture.shifts.values().filter(|shift| shift.is_active()) {
            match self.term.shifts.not_before(shift, Instant::now()) {
                Some(at) => moved.at(at),
                None => updates.extend(self.look(shift, seen, &switches, &mut moved)),
            }
        }
        if let Some(at) = self.term.shifts.measuring.prove_again().filter(|at| *at > Instant::now()) {
            moved.at(at);
        }
        if !updates.is_empty() {
            self.store_shifts(epoch, updates, &mut moved).await;
        }
        moved
    }

    /// Lets core look at one shift, and starts what it wants to be measured.
    fn look(&mut self, shift: &Shift, seen: &Seen<'_>, switches: &[GatingSwitch], moved: &mut Moved) -> Option<Update> {
        let policies = views(shift, seen, |one| self.evidence(shift, one));
        self.prove(shift, &policies, seen);
        let taken = self.term.shifts.measuring.readings(shift);
        let view = View { now: seen.now, policies: &policies, switches, measured: &taken };
        let outcome = machine::observe(shift.clone(), &view);
        if let Some(at) = outcome.again_at {
            let wait = Duration::try_from(at.duration_since(seen.now)).unwrap_or_default();
            moved.at(Instant::now() + wait);
        }
        for gate in outcome.due {
            self.measure(&outcome.shift, gate, &policies, seen);
        }
        let unknown = policies.values().any(|view| view.programmed.is_none());
        let update = Update { before: shift.clone(), shift: outcome.shift, writes: outcome.writes, taken, unknown };
        match self.term.shifts.storing(&update, Instant::now()) {
            Storing::Nothing => None,
            Storing::At(at) => {
                moved.at(at);
                None
            }
            Storing::Now => Some(update),
        }
    }

    fn measure(&mut self, shift: &Shift, gate: usize, policies: &BTreeMap<PolicyKey, PolicyView>, seen: &Seen<'_>) {
        let Some((key, ask)) = question(shift, gate, policies, seen) else { return };
        let (kind, since, analysis) = (kind(&ask.query), shift.since, self.analysis.clone());
        let asked = async move { analysis.measure(&ask, since).await };
        self.term.shifts.measuring.measure(key, kind, seen.now, asked);
    }

    /// What is known of requests to the clusters that a policy leaves.
    fn evidence(&self, shift: &Shift, one: &Move) -> Evidence {
        match self.options.evidence_interval {
            None => Evidence::NotConfigured,
            // Where everybody keeps a share there is nothing to prove.
            Some(_) if weights::emptied(&one.from, &one.to).is_empty() => Evidence::NotConfigured,
            Some(_) => self.term.shifts.measuring.evidence(&shift.id, &one.uid),
        }
    }

    /// Asks for the requests of the clusters that were left, once the settle time is over.
    fn prove(&mut self, shift: &Shift, policies: &BTreeMap<PolicyKey, PolicyView>, seen: &Seen<'_>) {
        let Some(interval) = self.options.evidence_interval.filter(|_| shift.state == State::Converging) else {
            return;
        };
        for one in shift.present_moves() {
            let Some(view) = policies.get(&one.policy).filter(|view| view.converged) else { continue };
            let settled = view.moved_at.and_then(|at| at.checked_add(self.options.settle).ok());
            let (Some(departed), Some(since)) = (departed(one, view, seen), settled) else { continue };
            let analysis = self.analysis.clone();
            let asked = async move { analysis.requests_of(&departed, since).await };
            self.term.shifts.measuring.prove(&shift.id, &one.uid, interval, asked);
        }
    }

    async fn store_shifts(&mut self, epoch: Epoch, updates: Vec<Update>, moved: &mut Moved) {
        let rows: Vec<ShiftUpdate<'_>> = updates
            .iter()
            .map(|update| {
                let Update { before, shift, writes, .. } = update;
                ShiftUpdate { before_version: before.version, shift, writes }
            })
            .collect();
        let scope = self.options.scope();
        let won = match self.store.shifts_save(Fence { scope: &scope, epoch }, &rows).await {
            Ok(won) => won,
            Err(error) => {
                let shifts = updates.len();
                warn!(
                    error = &error as &dyn std::error::Error,
                    shifts, "what came of shifts was not stored; they are looked at again"
                );
                moved.at(Instant::now() + RETRY);
                return;
            }
        };
        for update in &updates {
            if won.contains(&update.shift.id) {
                self.term.shifts.stored(&update.before, &update.taken, Instant::now());
                moved.written.extend(update.writes.iter().map(|write| write.policy.clone()));
                moved.stored = true;
                log(update);
            } else {
                debug!(shift = %update.shift.id, "somebody else moved the shift meanwhile; it is looked at again");
            }
        }
    }

    /// Counts a measurement that has ended.
    pub(super) fn measured(&self, ended: Ended) {
        let Ended { kind, outcome } = ended;
        self.metrics.shift_measurements.get_or_create(&Measurement { kind, outcome }).inc();
    }
}

impl ShiftTerm {
    /// Takes in which shifts there are: forgets those that are over, and counts.
    fn follow(&mut self, shifts: &BTreeMap<ShiftId, Arc<Shift>>, metrics: &Metrics) {
        self.saved.retain(|id, _| shifts.contains_key(id));
        self.other_words.retain(|id, _| shifts.contains_key(id));
        self.measuring.retain(|id| shifts.get(id).filter(|shift| shift.is_active()).map(|shift| shift.state));
        let mut active: BTreeMap<State, i64> = BTreeMap::new();
        for shift in shifts.values().filter(|shift| shift.is_active()) {
            *active.entry(shift.state).or_default() += 1;
        }
        for state in State::ALL.into_iter().filter(|state| !state.is_final()) {
            let label = ShiftState { state: word(state) };
            metrics.shifts.get_or_create(&label).set(active.get(&state).copied().unwrap_or_default());
        }
        // What the first look of a term finds is no change.
        if let Some(seen) = &self.seen {
            for (_, shift) in shifts.iter().filter(|(id, shift)| seen.get(*id) != Some(&shift.state)) {
                metrics.shift_transitions.get_or_create(&ShiftState { state: word(shift.state) }).inc();
            }
        }
        self.seen = Some(shifts.iter().map(|(id, shift)| (id.clone(), shift.state)).collect());
    }

    /// When it may be looked at, as long as the picture does not show what was stored last; none: now.
    fn not_before(&self, shift: &Shift, now: Instant) -> Option<Instant> {
        let (saved, at) = self.saved.get(&shift.id)?;
        Some(*at + LOST_AFTER).filter(|until| shift.version < *saved && *until > now)
    }

    fn storing(&mut self, update: &Update, now: Instant) -> Storing {
        let Update { before, shift, writes, unknown, .. } = update;
        let same = |words: &Shift| writes.is_empty() && *words == *before;
        if same(shift) {
            self.other_words.remove(&before.id);
            return Storing::Nothing;
        }
        // Every write to a listener makes all of its rules unknown until they were read: what was true before is not taken
        // back for that.
        let programmed = if *unknown { before.programmed } else { shift.programmed };
        let pause = if programmed == shift.programmed { WORDS_PAUSE } else { UNKNOWN_IS_NO_NEWS };
        if same(&Shift { why: before.why, message: before.message.clone(), programmed, ..shift.clone() }) {
            let at = *self.other_words.entry(before.id.clone()).or_insert(now) + pause;
            if at > now {
                return Storing::At(at);
            }
        }
        Storing::Now
    }

    fn stored(&mut self, before: &Shift, taken: &[Measured], now: Instant) {
        self.saved.insert(before.id.clone(), (before.version.saturating_add(1), now));
        self.other_words.remove(&before.id);
        self.measuring.stored(&before.id, taken);
    }
}

/// The policies of a shift as this cycle's plan found them; one that is not in the store any more is missing.
fn views(shift: &Shift, seen: &Seen<'_>, evidence: impl Fn(&Move) -> Evidence) -> BTreeMap<PolicyKey, PolicyView> {
    let view = |one: &Move| {
        let (record, plan) = (seen.records.get(&one.policy)?, seen.plan.policies.get(&one.policy)?);
        let mut view = PolicyView::new(record, Some(&plan.status), &plan.memory, Some(seen.observed), evidence(one));
        // Something of it was written and not read since: what the cache holds of the rest may be from before.
        if seen.unread.get(&one.policy) == Some(&Unread::More) {
            view.programmed = None;
            view.converged = false;
        }
        Some((one.policy.clone(), view))
    };
    shift.moves.iter().filter_map(view).collect()
}

/// What one gate of the step under way asks.
fn question(
    shift: &Shift,
    gate: usize,
    policies: &BTreeMap<PolicyKey, PolicyView>,
    seen: &Seen<'_>,
) -> Option<(GateKey, Measure)> {
    let step = shift.step?;
    let present = shift.steps.get(step)?;
    let asked = present.gates.get(gate)?;
    let of_policy = |one: &Move| {
        let weights = shift.asked(one);
        let view = policies.get(&one.policy);
        let group = |name: &ClusterName| view?.cluster(name)?.target_group.clone();
        let carries = |name: &ClusterName| weights::weight_of(&weights, name).carries();
        let gaining =
            Shift::gaining(one).into_iter().filter(carries).map(|name| (name.clone(), group(&name))).collect();
        MeasuredPolicy { policy: one.policy.clone(), load_balancer: load_balancer(&one.policy, seen), gaining, weights }
    };
    let measure = Measure {
        shift: shift.id.clone(),
        step,
        percent: present.percent,
        gate,
        name: asked.name.clone(),
        query: asked.query.clone(),
        policies: shift.present_moves().map(of_policy).collect(),
    };
    Some((GateKey { shift: shift.id.clone(), step, gate }, measure))
}

/// The groups of the clusters that a policy has left, beside those that have its requests now; none: not known at this moment.
fn departed(one: &Move, view: &PolicyView, seen: &Seen<'_>) -> Option<Departed> {
    let left = weights::emptied(&one.from, &one.to);
    let group = |name: &ClusterName| view.cluster(name)?.target_group.clone();
    let carrying = one.to.iter().filter(|(_, weight)| weight.carries());
    let old: Vec<TargetGroupArn> = left.iter().filter_map(group).collect();
    let new: Vec<TargetGroupArn> = carrying.filter_map(|(name, _)| group(name)).collect();
    Some(Departed { load_balancer: load_balancer(&one.policy, seen)?, old, new })
}

/// The load balancer that serves a policy.
fn load_balancer(policy: &PolicyKey, seen: &Seen<'_>) -> Option<LoadBalancerArn> {
    let rule = seen.plan.policies.get(policy)?.status.rule.as_ref()?;
    Some(seen.observed.listeners.get(&rule.listener)?.load_balancer.clone())
}

fn kind(query: &GateQuery) -> &'static str {
    match query {
        GateQuery::TargetHealth { .. } => "target_health",
        GateQuery::Prometheus { .. } => "prometheus",
        GateQuery::CloudWatch { .. } => "cloudwatch",
        GateQuery::Webhook { .. } => "webhook",
    }
}

/// As labels have it.
fn word(state: State) -> &'static str {
    match state {
        State::Pending => "pending",
        State::Preflight => "preflight",
        State::Stepping => "stepping",
        State::Baking => "baking",
        State::AwaitingApproval => "awaiting_approval",
        State::Converging => "converging",
        State::Succeeded => "succeeded",
        State::Aborting => "aborting",
        State::Aborted => "aborted",
        State::Superseded => "superseded",
        State::Failed => "failed",
    }
}

fn log(update: &Update) {
    let Update { before, shift, .. } = update;
    let policies = shift.moves.iter().map(|one| one.policy.to_string()).collect::<Vec<_>>().join(",");
    let (id, from, state, why, detail) = (&shift.id, before.state, shift.state, shift.why, &shift.message);
    // From 1, as everywhere that people look.
    let step = shift.step.map_or(0, |step| step + 1);
    if (before.state, before.step) == (shift.state, shift.step) {
        debug!(shift = %id, %state, step, policies, %why, detail, "the shift stays in its state");
    } else if matches!(state, State::Failed | State::Aborting | State::Superseded) {
        warn!(shift = %id, %from, %state, step, policies, %why, detail, "the shift does not go on as asked");
    } else {
        info!(shift = %id, %from, %state, step, policies, %why, detail, "the shift entered its next state");
    }
}

#[cfg(test)]
#[path = "shifts_tests.rs"]
mod tests;
