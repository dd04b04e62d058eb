//! A modelled world around the machine of shifts: policies, an AWS that programs what is asked for after a while and loses answers,
//! and a store that takes what an engine found only if nobody moved the shift meanwhile. `chance` makes things happen, `judge`
//! looks at all of it with rules of its own; neither uses more of core than the types.

pub mod chance;
pub mod judge;

use std::collections::BTreeMap;

use jiff::Timestamp;
use switchyard_core::{
    fleet::Mode,
    ids::{ClusterName, PolicyKey, PolicyUid, ShiftId},
    policy::PolicyRecord,
    shift::{
        Origin, Shift, ShiftSpec, WeightWrite,
        analysis::Measured,
        machine::{By, Command, Outcome, command, observe},
        validate::{StartError, stored_findings},
        view::{ClusterView, Evidence, GatingSwitch, PolicyView, View},
    },
    status::{Note, Reason, TargetCounts},
    weights::{Candidate, for_present_rule},
};

use crate::shift_support::{Rng, Weights, at, by_name, later, shop, start_time, words};
use judge::{Judge, Seen};

/// Seconds after which weights at AWS count as served everywhere.
pub const SETTLE: i64 = 60;

/// One policy with what AWS has of it.
#[derive(Clone, Debug)]
pub struct Policy {
    pub record: PolicyRecord,
    pub targets: BTreeMap<ClusterName, TargetCounts>,
    /// Clusters whose targets the hub does not know at this moment.
    pub unseen: Vec<ClusterName>,
    /// Clusters that operators give no new weight.
    pub cordoned: Vec<ClusterName>,
    /// The truth at AWS.
    pub rule: Weights,
    /// Since when.
    pub rule_since: Timestamp,
    /// False: written and not read back, or it could not be read.
    pub known: bool,
    /// Written, and not there yet.
    pub in_flight: Option<(Timestamp, Weights)>,
    /// AWS refuses every call.
    pub refused: bool,
    /// The hub's memory of the rule as it was read back last, and when it was first read so.
    pub memory: (Weights, Timestamp),
    pub evidence: Evidence,
    /// AWS has had what is asked for, since that was asked for last.
    pub reached: bool,
    /// What people stated last: a spec, weights by hand, or the end of a shift.
    pub stated: Weights,
}

/// What an engine found and did not store yet.
pub struct Unsaved {
    pub shift: usize,
    pub before: Shift,
    pub outcome: Outcome,
    pub seen: Seen,
}

pub struct World {
    pub rng: Rng,
    pub now: Timestamp,
    pub policies: BTreeMap<PolicyKey, Policy>,
    pub switches: Vec<GatingSwitch>,
    pub shifts: Vec<Shift>,
    /// Measurements on their way to the engine, by shift.
    pub readings: BTreeMap<usize, Vec<Measured>>,
    pub unsaved: Vec<Unsaved>,
    pub judge: Judge,
    /// Policies that left a shift are free for another one at once, not only when that shift has ended.
    pub left_is_free: bool,
    /// The clock may be set back.
    pub clock_steps: bool,
    pub created: u32,
    story: Option<Vec<String>>,
}

impl World {
    pub fn new(seed: u64, tell: bool) -> Self {
        let mut rng = Rng::new(seed);
        let (left_is_free, clock_steps) = (rng.once_in(2), rng.once_in(4));
        Self {
            rng,
            now: start_time(),
            policies: BTreeMap::new(),
            switches: Vec::new(),
            shifts: Vec::new(),
            readings: BTreeMap::new(),
            unsaved: Vec::new(),
            judge: Judge::new(clock_steps),
            left_is_free,
            clock_steps,
            created: 0,
            story: tell.then(Vec::new),
        }
    }

    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            let line = format!("{now} {}", line());
            eprintln!("{line}");
            story.push(line);
        }
    }

    /// A policy as after its first rule was made.
    pub fn add_policy(&mut self, record: PolicyRecord) {
        let asked = record.requested();
        let targets = asked.iter().map(|(name, _)| (name.clone(), crate::shift_support::healthy(3))).collect();
        let policy = Policy {
            targets,
            unseen: Vec::new(),
            cordoned: Vec::new(),
            rule: asked.clone(),
            rule_since: at(-3600),
            known: true,
            in_flight: None,
            refused: false,
            memory: (asked.clone(), at(-3600)),
            evidence: Evidence::NotConfigured,
            reached: true,
            stated: asked,
            record,
        };
        self.policies.insert(policy.record.policy.key.clone(), policy);
    }

    /// The shift that moves a policy.
    pub fn mover(&self, uid: &PolicyUid) -> Option<usize> {
        let moves = |shift: &Shift| {
            shift.is_active() && shift.moves.iter().any(|one| one.uid == *uid && !(self.left_is_free && one.left))
        };
        self.shifts.iter().position(moves)
    }

    /// Stores a shift, as the API does.
    pub fn create(&mut self, spec: &ShiftSpec) -> bool {
        let plan = match switchyard_core::shift::validate(spec, &shop(), false) {
            Ok(plan) => plan,
            Err(violations) => panic!("the generator makes valid shifts only: {violations:?}"),
        };
        let records = self.policies.iter().map(|(key, policy)| (key.clone(), &policy.record)).collect();
        self.created += 1;
        let id = ShiftId::new(format!("s{}", self.created)).unwrap();
        let shift = match plan.start(id, Origin::Call, "alice", &records, self.now) {
            Ok(shift) => shift,
            Err(error) => {
                let stale = spec.policies.iter().any(|policy| policy.expected_version != 0);
                let fits = match error {
                    StartError::NotFound(_) | StartError::Deleting(_) | StartError::Invalid(_) => true,
                    StartError::VersionConflict { expected, present, .. } => stale && expected != present,
                };
                assert!(fits, "{error}");
                return false;
            }
        };
        if shift.moves.iter().any(|one| self.mover(&one.uid).is_some()) {
            self.tell(|| format!("{} is refused: another shift moves one of its policies", shift.id));
            return false;
        }
        if !self.rng.once_in(4) {
            let memories: BTreeMap<PolicyKey, _> =
                self.policies.iter().map(|(key, policy)| (key.clone(), policy.hub_memory())).collect();
            let stored = self.policies.iter().map(|(key, policy)| (key.clone(), (&policy.record, &memories[key])));
            let found = stored_findings(&shift, &stored.collect(), &self.switches, self.now);
            if found.iter().any(|finding| !finding.overridden) {
                self.tell(|| format!("{} is refused: {}", shift.id, found[0].message));
                return false;
            }
        }
        self.tell(|| {
            let moves: Vec<String> =
                shift.moves.iter().map(|m| format!("{} {} to {}", m.policy, words(&m.from), words(&m.to))).collect();
            let percents: Vec<u32> = shift.steps.iter().map(|step| step.percent).collect();
            format!("{} is made: {} in {percents:?}, overrides {:?}", shift.id, moves.join("; "), shift.overrides)
        });
        self.judge.made(&shift);
        self.shifts.push(shift);
        true
    }

    /// A caller, or the store itself, says something to a shift; any replica takes it.
    pub fn say(&mut self, index: usize, what: &Command, by: By<'_>) {
        let before = self.shifts[index].clone();
        match command(before.clone(), what, by, self.now) {
            Ok((after, writes)) => {
                self.tell(|| format!("{} is told {what:?}", before.id));
                self.judge.told(&before, &after, &writes, what);
                self.store(index, &before, after, &writes);
            }
            Err(refusal) => self.judge.refused(&before, what, &refusal),
        }
    }

    /// The lease holder looks at a shift. What it found is stored now, later, or never.
    pub fn look(&mut self, index: usize, faults: bool) {
        if self.unsaved.iter().any(|unsaved| unsaved.shift == index) {
            return;
        }
        let before = self.shifts[index].clone();
        let mut policies = BTreeMap::new();
        for one in &before.moves {
            if let Some(policy) = self.policies.get_mut(&one.policy) {
                policies.insert(one.policy.clone(), policy.view(self.now));
            }
        }
        let measured = self.readings.remove(&index).unwrap_or_default();
        let view = View { now: self.now, policies: &policies, switches: &self.switches, measured: &measured };
        let outcome = observe(before.clone(), &view);
        if outcome.writes.is_empty() {
            // Nothing new was seen, so nothing may follow: else an engine would store the same shift again and again.
            let again = observe(outcome.shift.clone(), &view);
            assert_eq!(again.shift, outcome.shift, "a second look at the same world changes nothing");
            assert!(again.writes.is_empty());
        }
        self.measure(index, &before, &outcome);
        let seen = Seen { now: self.now, policies, switches: self.switches.clone(), measured };
        let fate = if faults { self.rng.below(8) } else { 7 };
        match fate {
            0 => {
                self.tell(|| format!("what was found of {} is lost", before.id));
                // The measurements that went into it are made again, or come again.
                if self.rng.once_in(2) {
                    self.readings.entry(index).or_default().extend(seen.measured);
                }
            }
            1 => self.unsaved.push(Unsaved { shift: index, before, outcome, seen }),
            _ => self.save(Unsaved { shift: index, before, outcome, seen }),
        }
    }

    /// Stores what an engine found, if nobody moved the shift since it was looked at.
    pub fn save(&mut self, unsaved: Unsaved) {
        let Unsaved { shift: index, before, outcome, seen } = unsaved;
        if self.shifts[index].version != before.version {
            return self.tell(|| format!("what was found of {} comes too late", before.id));
        }
        self.judge.found(&before, &outcome, &seen, &self.policies);
        if outcome.shift == before && outcome.writes.is_empty() {
            return;
        }
        if self.rng.once_in(8) {
            self.readings.entry(index).or_default().extend(seen.measured);
        }
        self.store(index, &before, outcome.shift, &outcome.writes);
    }

    fn store(&mut self, index: usize, before: &Shift, mut after: Shift, writes: &[WeightWrite]) {
        self.judge.changed(before, &after);
        if after == *before {
            assert!(writes.is_empty(), "{} asks for weights without a change of its own", after.id);
            return;
        }
        after.version += 1;
        if after.history.len() != before.history.len() || after.why != before.why {
            self.tell(|| {
                format!("{}: {} step {:?} {}: {}", after.id, after.state, after.step, after.why, after.message)
            });
        }
        for write in writes {
            self.write(write);
        }
        if after.state.is_final() {
            for one in after.present_moves() {
                if let Some(policy) = self.policies.get_mut(&one.policy).filter(|policy| policy.record.uid == one.uid) {
                    policy.stated = self.judge.end_of(&after, one);
                }
            }
        }
        self.shifts[index] = after;
    }

    fn write(&mut self, write: &WeightWrite) {
        let Some(policy) = self.policies.get_mut(&write.policy).filter(|policy| policy.record.uid == write.uid) else {
            return;
        };
        let names = |weights: &Weights| by_name(weights).into_keys().collect::<Vec<_>>();
        if policy.record.deleting_since.is_some() || names(&policy.record.policy.clusters) != names(&write.weights) {
            return;
        }
        policy.ask(write.weights.clone());
        self.tell(|| format!("{} asks for {}", write.policy, words(&write.weights)));
    }

    /// The hub reads AWS and writes what the policies ask for.
    pub fn aws(&mut self, key: &PolicyKey, faults: bool) {
        let (rng, now) = (&mut self.rng, self.now);
        let Some(policy) = self.policies.get_mut(key) else { return };
        if policy.in_flight.as_ref().is_some_and(|(due, _)| *due <= now || !faults) {
            let (_, weights) = policy.in_flight.take().unwrap();
            policy.program(weights, now);
        }
        if !policy.known {
            policy.known = policy.in_flight.is_none() && (!faults || !rng.once_in(3));
            policy.remember(now);
            return;
        }
        let wanted = policy.wanted();
        if policy.record.policy.freeze || policy.record.deleting_since.is_some() || policy.refused {
            return;
        }
        if by_name(&wanted) == by_name(&policy.rule) {
            return;
        }
        let fate = if faults { rng.below(8) } else { 7 };
        match fate {
            // Refused or throttled: nothing was changed.
            0 => return,
            // No answer, and nothing was changed.
            1 => {}
            // No answer; it is done all the same, a while later.
            2 => policy.in_flight = Some((later(now, i64::from(rng.number(1, 60))), wanted)),
            // Done, with an answer or without: both are read back.
            _ => policy.program(wanted, now),
        }
        policy.known = false;
        let (rule, key) = (words(&policy.rule), key.clone());
        self.tell(|| format!("a call for {key} is made; AWS has {rule}"));
    }

    /// Rules that hold at every moment.
    pub fn check(&self) {
        for policy in self.policies.values() {
            let moved =
                |shift: &&Shift| shift.is_active() && shift.present_moves().any(|one| one.uid == policy.record.uid);
            let movers: Vec<&Shift> = self.shifts.iter().filter(moved).collect();
            self.judge.asked(policy, &movers);
        }
    }
}

impl Policy {
    /// Other weights are asked for.
    pub fn ask(&mut self, weights: Weights) {
        if by_name(&self.record.requested()) == by_name(&weights) {
            return;
        }
        let of_spec = by_name(&self.record.policy.clusters) == by_name(&weights);
        self.record.weight_override = (!of_spec).then(|| by_name(&weights));
        self.record.version += 1;
        self.reached = by_name(&self.rule) == by_name(&weights);
    }

    pub fn program(&mut self, weights: Weights, now: Timestamp) {
        if by_name(&self.rule) != by_name(&weights) {
            self.rule_since = now;
        }
        self.rule = weights;
        self.reached |= by_name(&self.rule) == by_name(&self.record.requested());
    }

    /// What the planner would program: what is asked for, unless a cluster cannot take its share.
    fn wanted(&self) -> Weights {
        let candidates: Vec<Candidate> = self.record.requested().into_iter().map(|pair| self.candidate(pair)).collect();
        for_present_rule(&candidates).into_iter().map(|effective| (effective.cluster, effective.weight)).collect()
    }

    fn candidate(&self, (name, requested): (ClusterName, switchyard_core::ids::Weight)) -> Candidate {
        // What the planner does not see counts as nothing.
        let counts = if self.unseen.contains(&name) { TargetCounts::default() } else { self.targets[&name] };
        let programmed = self.rule.iter().find(|(known, _)| *known == name).map(|(_, weight)| *weight);
        Candidate { cluster: name, requested, programmed, registered: counts.registered, healthy: counts.healthy }
    }

    fn hub_memory(&self) -> switchyard_core::policy::PolicyMemory {
        let programmed = switchyard_core::policy::Programmed { weights: by_name(&self.memory.0), since: self.memory.1 };
        switchyard_core::policy::PolicyMemory { programmed: Some(programmed), ..Default::default() }
    }

    /// The hub keeps since when it reads the same weights.
    fn remember(&mut self, now: Timestamp) {
        if self.known && by_name(&self.memory.0) != by_name(&self.rule) {
            self.memory = (self.rule.clone(), now);
        }
    }

    /// What the planner says of it: only what was read.
    fn view(&mut self, now: Timestamp) -> PolicyView {
        self.remember(now);
        let requested = self.record.requested();
        let as_asked = by_name(&self.rule) == by_name(&requested) && self.record.deleting_since.is_none();
        let programmed = self.known.then_some(as_asked);
        let side = |(name, counts): (&ClusterName, &TargetCounts)| {
            let known = !self.unseen.contains(name);
            let rule = self.rule.iter().find(|(in_rule, _)| in_rule == name).filter(|_| self.known);
            ClusterView {
                mode: if self.cordoned.contains(name) { Mode::Cordoned } else { Mode::Active },
                cluster: name.clone(),
                programmed: rule.map(|(_, weight)| *weight),
                known,
                targets: if known { *counts } else { TargetCounts::default() },
                target_group: None,
            }
        };
        let note = |reason, message: &str| Note { cluster: None, reason, message: message.to_owned() };
        let trouble = match programmed {
            Some(true) => None,
            Some(false) if self.refused => Some(note(Reason::CallRefused, "AWS refuses it")),
            Some(false) | None => Some(note(Reason::InProgress, "the weights are being written")),
        };
        PolicyView {
            uid: self.record.uid.clone(),
            deleting: self.record.deleting_since.is_some(),
            frozen: self.record.policy.freeze,
            safety: self.record.policy.safety.clone(),
            capacity: self.record.policy.capacity.clone(),
            clusters: self.targets.iter().map(side).collect(),
            requested,
            programmed,
            converged: programmed == Some(true) && later(self.memory.1, SETTLE) <= now,
            moved_at: Some(self.memory.1),
            trouble,
            evidence: self.evidence.clone(),
        }
    }
}
