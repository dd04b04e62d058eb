//! What the tests of failover share: one policy, its clusters as they look, and a clock that only the test moves. What is decided is
//! programmed at once, as a load balancer that answers would have it.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use switchyard_core::{
    failover::{ClusterExplanation, ClusterInput, Decided, Input, Memory, Rules, Sight, decide, score::ZoneSight},
    fleet::{Ceiling, Mode},
    ids::{ClusterName, Weight},
    policy::{Capacity, spec::Failback},
    status::Reason,
};

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

    pub fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        u32::try_from((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % u64::from(n)).unwrap()
    }

    pub fn index(&mut self, len: usize) -> usize {
        self.below(u32::try_from(len).unwrap()) as usize
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())].clone()
    }
}

pub fn name(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

pub fn weight(weight: u32) -> Weight {
    Weight::new(weight).unwrap()
}

/// Seconds after the start of every test.
pub fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    start.checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

/// The defaults of the spec.
pub fn rules() -> Rules {
    Rules {
        overprovisioning_percent: 140,
        panic_threshold_percent: 50,
        unhealthy_after_seconds: 10,
        healthy_after_seconds: 60,
        failback: Failback::Auto,
        failback_step_percent: 100,
        failback_step_seconds: 60,
        dead_band_percent: 5,
        hold_down_max_seconds: 3600,
        max_moves_per_hour: 6,
    }
}

pub fn ceiling(mode: Mode, permille: u32) -> Ceiling {
    Ceiling { mode, permille, deregister: false, force: false }
}

#[derive(Clone)]
pub struct Scene {
    pub rules: Option<Rules>,
    pub capacity: Option<Capacity>,
    pub clusters: Vec<ClusterInput>,
    pub has_rule: bool,
    pub failback_at: Option<Timestamp>,
    /// Seconds after the start.
    pub now: i64,
    pub memory: Memory,
    /// False: readings keep the time that they have.
    pub reads: bool,
}

impl Scene {
    /// Ten healthy targets each, and a rule that has what is asked for.
    pub fn new(clusters: &[(&str, u32)]) -> Self {
        let mut scene = Self {
            rules: Some(rules()),
            capacity: None,
            clusters: Vec::new(),
            has_rule: true,
            failback_at: None,
            now: 0,
            memory: Memory::default(),
            reads: true,
        };
        for (of, requested) in clusters {
            scene.clusters.push(ClusterInput {
                cluster: name(of),
                requested: weight(*requested),
                standby: None,
                programmed: Some(weight(*requested)),
                sight: None,
                registered: 10,
                link: None,
                ceiling: Ceiling::default(),
            });
            scene.health(of, 10, 10);
        }
        scene
    }

    /// After a first look, so that what comes next is a change.
    pub fn settled(clusters: &[(&str, u32)]) -> Self {
        let mut scene = Self::new(clusters);
        scene.look();
        scene
    }

    pub fn with(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(self.rules.as_mut().unwrap());
        self
    }

    pub fn cluster(&mut self, of: &str) -> &mut ClusterInput {
        self.clusters.iter_mut().find(|cluster| cluster.cluster.as_str() == of).unwrap()
    }

    pub fn standby(&mut self, of: &str, priority: u32, share: u32) {
        let cluster = self.cluster(of);
        cluster.requested = Weight::ZERO;
        cluster.programmed = Some(Weight::ZERO);
        cluster.standby = Some((priority, weight(share)));
    }

    /// So many of its pods are healthy by the load balancer; all of them exist and are ready by the agent's word.
    pub fn health(&mut self, of: &str, healthy: u32, expected: u32) {
        let zone = ZoneSight {
            present: expected,
            ready: expected,
            healthy,
            unjudged: 0,
            unhealthy: expected.saturating_sub(healthy),
        };
        let read_at = at(self.now);
        let cluster = self.cluster(of);
        cluster.registered = expected;
        cluster.sight = Some(Sight { read_at, zones: BTreeMap::from([("a".to_owned(), zone)]) });
    }

    pub fn unknown(&mut self, of: &str) {
        self.cluster(of).sight = None;
    }

    /// Decides, and programs nothing.
    pub fn decided(&mut self) -> Decided {
        if self.reads {
            let read_at = at(self.now);
            for sight in self.clusters.iter_mut().filter_map(|cluster| cluster.sight.as_mut()) {
                sight.read_at = read_at;
            }
        }
        let input = Input {
            rules: self.rules.as_ref(),
            capacity: self.capacity.as_ref(),
            clusters: &self.clusters,
            has_rule: self.has_rule,
            failback_at: self.failback_at,
            now: at(self.now),
        };
        decide(&input, self.memory.clone())
    }

    /// Decides, remembers, and programs what was decided.
    pub fn look(&mut self) -> Decided {
        let decided = self.decided();
        self.memory = decided.memory.clone();
        for (cluster, (_, weight)) in self.clusters.iter_mut().zip(&decided.weights) {
            cluster.programmed = Some(*weight);
        }
        self.has_rule = true;
        decided
    }

    /// Goes on and looks.
    pub fn after(&mut self, seconds: i64) -> Decided {
        self.now += seconds;
        self.look()
    }

    /// Looks every ten seconds for so long.
    pub fn during(&mut self, seconds: i64) -> Decided {
        for _ in 0..seconds / 10 {
            self.after(10);
        }
        self.look()
    }

    pub fn used(&self, of: &str) -> Option<u32> {
        self.memory.clusters[&name(of)].used
    }

    pub fn outs(&self, of: &str) -> usize {
        self.memory.clusters[&name(of)].outs.len()
    }
}

/// The weights in the order of the policy.
pub fn weights(decided: &Decided) -> Vec<u32> {
    decided.weights.iter().map(|(_, weight)| weight.get()).collect()
}

/// The shares in thousandths, in the order of the policy.
pub fn shares(decided: &Decided) -> Vec<u32> {
    decided.explanation.clusters.iter().map(|cluster| cluster.share).collect()
}

pub fn explained<'a>(decided: &'a Decided, of: &str) -> &'a ClusterExplanation {
    decided.explanation.clusters.iter().find(|cluster| cluster.cluster.as_str() == of).unwrap()
}

pub fn noted(decided: &Decided, reason: Reason) -> Option<&str> {
    decided.notes.iter().find(|note| note.reason == reason).map(|note| note.message.as_str())
}
