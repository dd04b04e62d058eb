//! Shifts over the real planner and executor: what a shift asks for is planned and carried out on the modelled AWS, which judges
//! I1, I2, I5 and I6 on every call, and what the shift sees is the status of that plan. Each seed is one history.

mod shift_support;
mod support;

use std::collections::BTreeMap;

use shift_support::{ALICE, Rng, shop};
use support::{Fault, Model, READY, TERMINATING, key, manifest};
use switchyard_core::{
    ids::{PolicyKey, ShiftId},
    inventory::{EndpointState, Evidence as Removal, Link},
    observed::{Known, Observed},
    plan::RegionPlan,
    policy::PolicyRecord,
    shift::{
        Move, Origin, Shift, ShiftReason, State, WeightWrite,
        machine::{Command, command, observe},
        view::{Evidence, PolicyView, View},
    },
};

const CLUSTERS: [&str; 3] = ["blue", "green", "dr"];
const POLICIES: [&str; 2] = ["cart", "checkout"];

struct Run {
    model: Model,
    shift: Option<Shift>,
    /// Policies whose rule has had what the shift asks for since it was asked for.
    reached: BTreeMap<PolicyKey, bool>,
    ended: Vec<State>,
    steps: u32,
}

fn weights_of(record: &PolicyRecord) -> BTreeMap<String, u32> {
    record.requested().into_iter().map(|(name, weight)| (name.to_string(), weight.get())).collect()
}

/// At AWS a cluster without a weight may be missing.
fn has(model: &mut Model, key: &PolicyKey, wanted: &BTreeMap<String, u32>) -> bool {
    let rule = model.rule_weights(key.name.as_str());
    !rule.is_empty() && wanted.iter().all(|(name, weight)| rule.get(name).copied().unwrap_or(0) == *weight)
}

impl Run {
    fn new() -> Self {
        let mut model = Model::new();
        for name in CLUSTERS {
            model.cluster(name, Link::Connected);
        }
        for name in POLICIES {
            model.policy(&manifest(name, &[("blue", 100), ("green", 0), ("dr", 0)], ""));
        }
        let mut run = Self { model, shift: None, reached: BTreeMap::new(), ended: Vec::new(), steps: 0 };
        run.revive();
        for _ in 0..6 {
            run.model.reconcile();
            run.model.judge_health();
            run.model.advance(61);
        }
        run
    }

    fn pod(&mut self, (cluster, policy, number): (usize, usize, usize), state: EndpointState) {
        let address = format!("10.{cluster}.{policy}.{}", number + 1);
        let uid = format!("pod-{cluster}-{policy}-{number}");
        self.model.pod(CLUSTERS[cluster], POLICIES[policy], &uid, &address, state);
    }

    fn revive(&mut self) {
        for (cluster, name) in CLUSTERS.iter().enumerate() {
            for policy in 0..POLICIES.len() {
                for number in 0..3 {
                    self.pod((cluster, policy, number), READY);
                }
            }
            self.model.cluster(name, Link::Connected);
        }
    }

    fn start(&mut self, rng: &mut Rng) {
        let to = |rng: &mut Rng| match rng.below(3) {
            0 => format!("weights: {{blue: {}, green: {}, dr: 1}}", rng.below(100), rng.below(100)),
            _ => format!("to: {}", rng.pick(&CLUSTERS)),
        };
        let targets: Vec<String> =
            POLICIES[..1 + rng.index(2)].iter().map(|name| format!("{{name: {name}, {}}}", to(rng))).collect();
        let strategy = rng.pick(&["{}", "{linear: {stepPercent: 25}}", "{canary: {percent: 5, bakeSeconds: 60}}"]);
        let yaml = format!(
            "policies: [{}]\nstrategy: {strategy}\noverrides: [Capacity]\nreason: test\nprogressDeadlineSeconds: 300",
            targets.join(", ")
        );
        let plan = switchyard_core::shift::validate(&shift_support::spec(&yaml), &shop(), false).unwrap();
        let id = ShiftId::new(format!("s{}", self.ended.len())).unwrap();
        let records = self.model.policies.iter().map(|(key, record)| (key.clone(), record)).collect();
        self.shift = Some(plan.start(id, Origin::Call, "alice", &records, self.model.now).unwrap());
        self.reached.clear();
    }

    /// A cycle of the engine: plan, show the shifts what was found, and carry the plan out when they changed nothing.
    fn cycle(&mut self, rng: &mut Rng, faults: bool) {
        let seen = if faults { seen(&self.model, rng) } else { self.model.aws.clone() };
        let plan = self.model.plan_on(&seen);
        self.model.remember(&plan);
        if self.look(&plan, &seen) {
            return;
        }
        let mut fault = |n: u64| if faults { rng.below(n) } else { n };
        self.model.carry_out(&plan, |_| match fault(20) {
            0 => Some(Fault::LostAnswer),
            1 => Some(Fault::Refused),
            2 => Some(Fault::Throttled),
            _ => None,
        });
        let keys: Vec<PolicyKey> = self.model.policies.keys().cloned().collect();
        for key in keys {
            let wanted = weights_of(&self.model.policies[&key]);
            if has(&mut self.model, &key, &wanted) {
                self.reached.insert(key, true);
            }
        }
    }

    /// True when other weights are asked for now, so that the plan is out of date.
    fn look(&mut self, plan: &RegionPlan, seen: &Observed) -> bool {
        let Some(before) = self.shift.clone() else { return false };
        let view_of = |(key, record): (&PolicyKey, &PolicyRecord)| {
            let (status, memory) = (&plan.policies[key].status, &self.model.memories[key]);
            (key.clone(), PolicyView::new(record, Some(status), memory, Some(seen), Evidence::NotConfigured))
        };
        let policies = self.model.policies.iter().map(view_of).collect();
        let view = View { now: self.model.now, policies: &policies, switches: &[], measured: &[] };
        let outcome = observe(before.clone(), &view);
        let left =
            |why: ShiftReason| outcome.shift.history[before.history.len()..].iter().any(|event| event.why == why);
        if left(ShiftReason::StepProgrammed) || left(ShiftReason::Restored) {
            for one in &before.moves {
                assert!(self.reached.get(&one.policy) == Some(&true), "{} was never so at AWS", one.policy);
            }
        }
        self.steps += u32::from(outcome.shift.step > before.step);
        self.store(outcome.shift, &outcome.writes)
    }

    fn store(&mut self, shift: Shift, writes: &[WeightWrite]) -> bool {
        for write in writes {
            let record = self.model.policies.get_mut(&write.policy).unwrap();
            if record.requested() != write.weights {
                record.weight_override = Some(write.weights.iter().cloned().collect());
                record.version += 1;
            }
            let wanted = weights_of(&self.model.policies[&write.policy]);
            let there = has(&mut self.model, &write.policy, &wanted);
            self.reached.insert(write.policy.clone(), there);
        }
        if shift.is_active() {
            self.shift = Some(shift);
        } else {
            let last = |one: &Move| if shift.state == State::Succeeded { one.to.clone() } else { one.from.clone() };
            for one in &shift.moves {
                assert_eq!(
                    self.model.policies[&one.policy].requested(),
                    last(one),
                    "{} of {}",
                    one.policy,
                    shift.state
                );
            }
            self.ended.push(shift.state);
            self.shift = None;
        }
        !writes.is_empty()
    }

    fn say(&mut self, what: &Command) {
        let Some(shift) = self.shift.clone() else { return };
        if let Ok((shift, writes)) = command(shift, what, ALICE, self.model.now) {
            self.store(shift, &writes);
        }
    }

    fn any_event(&mut self, rng: &mut Rng) {
        let place = (rng.index(3), rng.index(2), rng.index(3));
        match rng.below(16) {
            0 | 1 => self.pod(place, READY),
            2 => self.pod(place, TERMINATING),
            3 => self.pod(place, EndpointState::Gone(Removal::PodDeleted)),
            4 => {
                // A whole cluster of a policy stops answering, and nobody reports it.
                let address = format!("10.{}.{}.", place.0, place.1);
                self.model.alive.retain(|target| !target.to_string().starts_with(&address));
            }
            5 => self.revive(),
            6 => self.model.cluster(CLUSTERS[place.0], rng.pick(&[Link::Stale, Link::Syncing, Link::Connected])),
            7 | 8 => self.model.advance(i64::try_from(rng.below(90)).unwrap()),
            9..=11 => self.model.judge_health(),
            12 => self.model.foreign_hand(rng.below(2) * 3, rng.below(1000)),
            13 => self.say(&rng.pick(&[Command::Pause, Command::Resume, Command::Promote])),
            14 if rng.once_in(3) => self.say(&Command::Abort),
            _ if self.shift.is_none() => self.start(rng),
            _ => {}
        }
    }
}

/// What the hub sees: the truth, with parts that it does not know at this moment.
fn seen(model: &Model, rng: &mut Rng) -> Observed {
    let mut seen = model.aws.clone();
    if rng.once_in(8) {
        seen.listeners.values_mut().for_each(|listener| listener.rules = Known::Unknown);
    }
    for group in seen.target_groups.values_mut() {
        if rng.once_in(12) {
            group.targets = Known::Unknown;
        }
    }
    seen
}

fn history(seed: u64) -> (Vec<State>, u32) {
    let (mut run, mut rng) = (Run::new(), Rng::new(seed));
    for _ in 0..60 {
        run.any_event(&mut rng);
        run.cycle(&mut rng, true);
    }
    run.say(&Command::Resume);
    let mut rounds = 0;
    while run.shift.is_some() || rounds < 8 {
        run.revive();
        run.cycle(&mut rng, false);
        run.model.judge_health();
        run.model.advance(31);
        rounds += 1;
        assert!(rounds < 60, "the shift does not end: {:?}", run.shift);
    }
    for name in POLICIES {
        let wanted = weights_of(&run.model.policies[&key(name)]);
        assert!(has(&mut run.model, &key(name), &wanted), "{name}: {wanted:?}, not {:?}", run.model.rule_weights(name));
    }
    (run.ended, run.steps)
}

#[test]
fn shifts_over_the_real_planner_break_no_invariant_and_end_where_they_say() {
    let seeds: u64 = std::env::var("SWITCHYARD_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(500);
    let (mut ended, mut steps) = (Vec::new(), 0);
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| history(seed));
        let (states, made) = result.unwrap_or_else(|_| panic!("seed {seed} breaks a rule; see the message above"));
        ended.extend(states);
        steps += made;
    }
    let count = |state: State| ended.iter().filter(|ended| **ended == state).count();
    let all = [count(State::Succeeded), count(State::Failed), count(State::Aborted)];
    if seeds >= 500 {
        assert!(
            all.iter().all(|count| *count > 20) && steps > 500,
            "a simulation in which little happens: {all:?}, {steps}"
        );
    }
}
