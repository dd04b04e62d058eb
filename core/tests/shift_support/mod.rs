//! What the tests of shifts share: policies, shifts and views of them in few words, and a generator that a seed means the same
//! history with on every machine.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use switchyard_core::{
    ids::{ClusterName, Namespace, PolicyKey, PolicyName, PolicyUid, ShiftId, SwitchName, Weight},
    policy::{PolicyRecord, validate},
    shift::{
        Origin, Shift, ShiftSpec, State, WeightWrite,
        analysis::Measured,
        machine::{By, Command, Outcome, Refusal, command, observe},
        validate::ShiftPlan,
        view::{ClusterView, Evidence, GatingSwitch, PolicyView, View},
    },
    status::TargetCounts,
};

pub type Weights = Vec<(ClusterName, Weight)>;

pub const ALICE: By<'static> = By { actor: "alice", reason: "" };

/// xorshift64*.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // The first numbers of neighbouring seeds are alike.
        for _ in 0..4 {
            rng.below(2);
        }
        rng
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    pub fn number(&mut self, least: u32, most: u32) -> u32 {
        least + u32::try_from(self.below(u64::from(most - least) + 1)).unwrap()
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())].clone()
    }
}

pub fn start_time() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// Seconds after the start.
pub fn at(seconds: i64) -> Timestamp {
    later(start_time(), seconds)
}

pub fn later(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

pub fn weight(value: u32) -> Weight {
    Weight::new(value).unwrap()
}

pub fn weights(pairs: &[(&str, u32)]) -> Weights {
    pairs.iter().map(|(name, value)| (cluster(name), weight(*value))).collect()
}

pub fn shop() -> Namespace {
    Namespace::new("shop").unwrap()
}

pub fn key(name: &str) -> PolicyKey {
    PolicyKey { namespace: shop(), name: PolicyName::new(name).unwrap() }
}

pub fn uid(name: &str) -> PolicyUid {
    PolicyUid::new(name).unwrap()
}

/// A policy in namespace shop, as stored; `extra` are further lines of its spec, such as `  safety: {freeze: true}`.
pub fn record(name: &str, clusters: &[(&str, u32)], extra: &str) -> PolicyRecord {
    let clusters: Vec<String> = clusters.iter().map(|(n, w)| format!("{{name: {n}, weight: {w}}}")).collect();
    let clusters = clusters.join(", ");
    let text = format!(
        "apiVersion: switchyard.dev/v1alpha1\nkind: ClusterTrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  listener: {{loadBalancer: shared, port: 443}}\n  match: {{paths: [{{value: /{name}}}]}}\n  \
         backend: {{service: {{name: {name}, port: http}}}}\n  clusters: [{clusters}]\n{extra}"
    );
    let manifest = serde_norway::from_str(&text).unwrap();
    PolicyRecord {
        uid: uid(&format!("uid-{name}")),
        version: 1,
        generation: 1,
        policy: validate(&manifest).unwrap(),
        weight_override: None,
        deleting_since: None,
        failback_at: None,
    }
}

pub fn spec(yaml: &str) -> ShiftSpec {
    serde_norway::from_str(yaml).unwrap()
}

pub fn plan(yaml: &str) -> ShiftPlan {
    switchyard_core::shift::validate(&spec(yaml), &shop(), false).unwrap()
}

/// A shift made at [`start_time`] over these policies.
pub fn started(yaml: &str, records: &[&PolicyRecord]) -> Shift {
    let records = records.iter().map(|record| (record.policy.key.clone(), *record)).collect();
    plan(yaml).start(ShiftId::new("s1").unwrap(), Origin::Call, "alice", &records, start_time()).unwrap()
}

pub fn healthy(count: u32) -> TargetCounts {
    TargetCounts { desired: count, registered: count, healthy: count, ..TargetCounts::default() }
}

pub fn dead(count: u32) -> TargetCounts {
    TargetCounts { desired: count, registered: count, unhealthy: count, ..TargetCounts::default() }
}

pub fn judging(count: u32) -> TargetCounts {
    TargetCounts { desired: count, registered: count, initial: count, ..TargetCounts::default() }
}

pub fn switch(name: &str, pattern: &str, on: bool) -> GatingSwitch {
    let policies = vec![pattern.to_owned()];
    GatingSwitch { name: SwitchName::new(name).unwrap(), policies, on, reason: String::new() }
}

/// A world of policies that a test changes by hand; AWS has what is asked for once [`Stage::settle`] was called.
pub struct Stage {
    pub now: Timestamp,
    pub policies: BTreeMap<PolicyKey, PolicyView>,
    pub switches: Vec<GatingSwitch>,
    pub shift: Shift,
    pub measured: Vec<Measured>,
}

impl Stage {
    /// Policies with three healthy targets in each cluster, at AWS as asked for since long, and a shift over them.
    pub fn new(yaml: &str, records: &[&PolicyRecord]) -> Self {
        let policies = records.iter().map(|record| (record.policy.key.clone(), view_of(record))).collect();
        let shift = started(yaml, records);
        Self { now: start_time(), policies, switches: Vec::new(), shift, measured: Vec::new() }
    }

    /// One look: takes the shift over as if it had been stored, and its weights.
    pub fn look(&mut self) -> Outcome {
        let measured = std::mem::take(&mut self.measured);
        let view = View { now: self.now, policies: &self.policies, switches: &self.switches, measured: &measured };
        let outcome = observe(self.shift.clone(), &view);
        self.shift = outcome.shift.clone();
        self.write(&outcome.writes);
        outcome
    }

    /// Looks after AWS has what is asked for.
    pub fn settled_look(&mut self) -> Outcome {
        self.settle();
        self.look()
    }

    pub fn say(&mut self, what: &Command) -> Result<Vec<WeightWrite>, Refusal> {
        let (shift, writes) = command(self.shift.clone(), what, ALICE, self.now)?;
        self.shift = shift;
        self.write(&writes);
        Ok(writes)
    }

    fn write(&mut self, writes: &[WeightWrite]) {
        for write in writes {
            if let Some(policy) = self.policies.get_mut(&write.policy).filter(|policy| policy.uid == write.uid) {
                policy.requested.clone_from(&write.weights);
                policy.programmed = Some(false);
                policy.converged = false;
            }
        }
    }

    /// AWS has what is asked for, from now on.
    pub fn settle(&mut self) {
        for policy in self.policies.values_mut().filter(|policy| policy.programmed != Some(true)) {
            for (name, weight) in policy.requested.clone() {
                let side = policy.clusters.iter_mut().find(|side| side.cluster == name).unwrap();
                side.programmed = Some(weight);
            }
            policy.programmed = Some(true);
            policy.moved_at = Some(self.now);
        }
    }

    /// The settle time of every policy is over.
    pub fn converge(&mut self) {
        self.settle();
        self.policies.values_mut().for_each(|policy| policy.converged = true);
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now = later(self.now, seconds);
    }

    pub fn policy(&mut self, name: &str) -> &mut PolicyView {
        self.policies.get_mut(&key(name)).unwrap()
    }

    pub fn targets(&mut self, policy: &str, name: &str, counts: TargetCounts) {
        let side = self.policy(policy).clusters.iter_mut().find(|side| side.cluster.as_str() == name).unwrap();
        side.targets = counts;
    }

    /// What is asked for now, such as `blue=95,green=5`.
    pub fn asked(&self, policy: &str) -> String {
        words(&self.policies[&key(policy)].requested)
    }

    pub fn state(&self) -> State {
        self.shift.state
    }

    pub fn why(&self) -> String {
        self.shift.why.to_string()
    }
}

pub fn view_of(record: &PolicyRecord) -> PolicyView {
    let side = |(name, weight): (ClusterName, Weight)| ClusterView {
        mode: Default::default(),
        cluster: name,
        programmed: Some(weight),
        known: true,
        targets: healthy(3),
        target_group: None,
    };
    PolicyView {
        uid: record.uid.clone(),
        deleting: record.deleting_since.is_some(),
        frozen: record.policy.freeze,
        safety: record.policy.safety.clone(),
        capacity: record.policy.capacity.clone(),
        requested: record.requested(),
        clusters: record.requested().into_iter().map(side).collect(),
        programmed: Some(true),
        converged: true,
        moved_at: Some(at(-86_400)),
        trouble: None,
        evidence: Evidence::NotConfigured,
    }
}

pub fn words(weights: &[(ClusterName, Weight)]) -> String {
    let pairs: Vec<String> = weights.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
    pairs.join(",")
}

pub fn by_name(weights: &[(ClusterName, Weight)]) -> BTreeMap<ClusterName, Weight> {
    weights.iter().cloned().collect()
}
