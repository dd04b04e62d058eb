//! Random histories of pods, hub, writes and time, against a stupid model of the API server.
//!
//! What must hold: nothing is opened that was neither healthy nor released for a reason that was true at that time, nothing is ever
//! shut again, and when the history ends in calm or without a hub, no gate of a pod with ready containers hangs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use proptest::prelude::*;

use super::{
    machine::{At, Gates, Input, Settings},
    objects::{Health, Mode, Outcome, Patch, PolicyHealth, Seen},
    tests::{health, pod},
};

const RELEASE: Duration = Duration::from_secs(300);
const PODS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[derive(Debug, Clone)]
enum Move {
    /// A pod is there, with or without ready containers.
    Pod(usize, bool),
    Gone(usize),
    /// The hub connects and says everything; with the policy in this mode, or without it.
    Sync(Option<Mode>),
    /// The hub says how the policy is now.
    Say(Mode),
    Target(usize, Option<Health>),
    Lost,
    /// The oldest write ends.
    Ends(End),
    Pass(u64),
    /// The watch repeats what the pods show, perhaps as they were before the last write.
    Watch {
        stale: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum End {
    Written,
    Failed,
    /// It arrived, and the answer got lost.
    Lost,
    Forbidden,
}

fn moves() -> impl Strategy<Value = Move> {
    let mode = || prop_oneof![4 => Just(Mode::Judged), 2 => Just(Mode::Suspended), 1 => Just(Mode::Released)];
    let verdict = prop_oneof![
        Just(Health::Healthy),
        Just(Health::Initial),
        Just(Health::Unhealthy),
        Just(Health::Unregistered),
        Just(Health::Unknown),
        Just(Health::Draining),
        Just(Health::Unused),
    ];
    prop_oneof![
        4 => (0..PODS.len(), any::<bool>()).prop_map(|(pod, ready)| Move::Pod(pod, ready)),
        1 => (0..PODS.len()).prop_map(Move::Gone),
        2 => prop::option::weighted(0.8, mode()).prop_map(Move::Sync),
        2 => mode().prop_map(Move::Say),
        4 => (0..PODS.len(), prop::option::weighted(0.9, verdict)).prop_map(|(pod, health)| Move::Target(pod, health)),
        1 => Just(Move::Lost),
        8 => prop_oneof![6 => Just(End::Written), 1 => Just(End::Failed), 1 => Just(End::Lost), 1 => Just(End::Forbidden)]
            .prop_map(Move::Ends),
        4 => prop_oneof![1_u64..20, 100_u64..400].prop_map(Move::Pass),
        3 => any::<bool>().prop_map(|stale| Move::Watch { stale }),
    ]
}

/// The API server's pods, and what the hub knows.
struct World {
    gates: Gates,
    now: Duration,
    pods: BTreeMap<&'static str, Shown>,
    gone: BTreeSet<&'static str>,
    /// The policy at the hub, whether or not the hub is heard.
    mode: Option<Mode>,
    targets: BTreeMap<&'static str, Health>,
    connected: bool,
    writes: VecDeque<Patch>,
    /// Since when nobody judges a pod, counted from before it was there.
    unjudged_since: BTreeMap<&'static str, Duration>,
    /// Gates that were written open, and may be so.
    sent_open: BTreeSet<String>,
    /// Gates of which an open write failed, and may have arrived for all that the agent knows.
    uncertain: BTreeSet<String>,
}

struct Shown {
    containers_ready: bool,
    condition: Seen,
    /// What the watch told last.
    told: Seen,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            gates: Gates::new(Settings { release_after: RELEASE, parallel: 2 }, Duration::ZERO),
            now: Duration::ZERO,
            pods: BTreeMap::new(),
            gone: BTreeSet::new(),
            mode: Some(Mode::Judged),
            targets: BTreeMap::new(),
            connected: false,
            writes: VecDeque::new(),
            unjudged_since: BTreeMap::new(),
            sent_open: BTreeSet::new(),
            uncertain: BTreeSet::new(),
        };
        world.count();
        world
    }

    /// Keeps the model's clocks.
    fn count(&mut self) {
        for uid in PODS {
            if self.connected && self.mode == Some(Mode::Judged) && self.is_judged(uid) {
                self.unjudged_since.remove(uid);
            } else {
                self.unjudged_since.entry(uid).or_insert(self.now);
            }
        }
    }

    fn is_judged(&self, uid: &str) -> bool {
        self.targets.get(uid).is_some_and(|health| *health != Health::Unknown)
    }

    fn give(&mut self, input: Input) {
        self.count();
        for patch in self.gates.handle(input, At { now: self.now, jitter: 0.5 }) {
            self.judge(&patch);
            self.writes.push_back(patch);
        }
        assert!(self.writes.len() <= 2, "writes are bounded");
    }

    /// A gate opens only for a reason that is so.
    fn judge(&mut self, patch: &Patch) {
        let uid = patch.gate.uid.as_str();
        if !patch.condition.open {
            assert!(!self.sent_open.contains(uid), "a gate is shut again: {patch:?}");
            return;
        }
        let waited = || self.unjudged_since.get(uid).is_some_and(|since| self.now >= *since + RELEASE);
        let is_so = match patch.condition.reason.as_str() {
            "TargetHealthy" => self.connected && self.targets.get(uid) == Some(&Health::Healthy),
            "PolicyGone" => self.connected && self.mode.is_none(),
            "NotJudged" => self.connected && self.mode == Some(Mode::Released),
            reason if reason.starts_with("Released") => waited(),
            other => panic!("an unknown reason: {other}"),
        };
        // The first reason of a gate that may be open already stands.
        assert!(is_so || self.sent_open.contains(uid), "this is not so at {:?}: {patch:?}", self.now);
        self.sent_open.insert(uid.to_owned());
    }

    fn policy(&self) -> PolicyHealth {
        let targets: Vec<(&str, Health)> = self.targets.iter().map(|(&uid, &health)| (uid, health)).collect();
        health(self.mode.unwrap_or(Mode::Gone), &targets)
    }

    fn make(&mut self, step: Move) {
        match step {
            Move::Pod(number, containers_ready) => {
                let uid = PODS[number];
                if !self.gone.contains(uid) {
                    let fresh = Shown { containers_ready, condition: Seen::Absent, told: Seen::Absent };
                    self.pods.entry(uid).or_insert(fresh).containers_ready = containers_ready;
                    self.tell(uid, false);
                }
            }
            Move::Gone(number) => {
                let uid = PODS[number];
                if self.pods.remove(uid).is_some() {
                    self.gone.insert(uid);
                    self.give(Input::PodGone { uid: uid.to_owned() });
                }
            }
            Move::Sync(mode) => {
                self.mode = mode;
                self.sync();
            }
            Move::Say(mode) => {
                self.mode = Some(mode);
                self.say();
            }
            Move::Target(number, health) => {
                match health {
                    Some(health) => self.targets.insert(PODS[number], health),
                    None => self.targets.remove(PODS[number]),
                };
                self.say();
            }
            Move::Lost => self.lose(),
            Move::Ends(end) => self.end(end),
            Move::Pass(seconds) => self.pass(Duration::from_secs(seconds)),
            Move::Watch { stale } => {
                for uid in PODS {
                    self.tell(uid, stale);
                }
            }
        }
    }

    fn lose(&mut self) {
        self.connected = false;
        self.give(Input::Lost);
    }

    fn sync(&mut self) {
        if self.connected {
            self.lose();
        }
        self.give(Input::Welcomed);
        if self.mode.is_some() {
            self.give(Input::Policy(self.policy()));
        }
        self.connected = true;
        self.give(Input::Synced);
    }

    fn say(&mut self) {
        if self.connected {
            self.give(Input::Policy(self.policy()));
        }
    }

    fn tell(&mut self, uid: &'static str, stale: bool) {
        let Some(shown) = self.pods.get_mut(uid) else { return };
        if !stale {
            shown.told = shown.condition;
        }
        let seen = pod(uid, shown.containers_ready, shown.told);
        self.give(Input::Pod(seen));
    }

    fn end(&mut self, end: End) {
        let Some(patch) = self.writes.pop_front() else { return };
        let shown = self.pods.get_mut(patch.gate.uid.as_str());
        let outcome = match (shown, end) {
            (None, _) => Outcome::PodGone,
            (Some(shown), End::Written | End::Lost) => {
                shown.condition = if patch.condition.open { Seen::Open } else { Seen::Closed };
                let lost = Outcome::Failed("no answer".to_owned());
                if matches!(end, End::Lost) { lost } else { Outcome::Written }
            }
            (Some(_), End::Failed) => {
                if patch.condition.open {
                    self.uncertain.insert(patch.gate.uid.clone());
                }
                Outcome::Failed("refused".to_owned())
            }
            (Some(shown), End::Forbidden) => {
                if shown.condition != Seen::Open && !self.uncertain.contains(&patch.gate.uid) {
                    // It is certain that it is not open, so all is as before.
                    self.sent_open.remove(&patch.gate.uid);
                }
                Outcome::Forbidden("no leave".to_owned())
            }
        };
        self.give(Input::Patched(patch.gate, outcome));
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        while let Some(at) = self.gates.wake_at().filter(|at| *at <= end) {
            turns += 1;
            assert!(turns < 1000, "it wakes again and again at {:?} for {at:?}", self.now);
            self.now = self.now.max(at);
            self.give(Input::Tick);
        }
        self.now = end;
        self.give(Input::Tick);
    }

    /// Every write succeeds and is seen, for as long as there are any.
    fn settle(&mut self) {
        for _ in 0..100 {
            while !self.writes.is_empty() {
                self.end(End::Written);
            }
            for uid in PODS {
                self.tell(uid, false);
            }
            self.pass(Duration::from_secs(1));
            if self.writes.is_empty() {
                return;
            }
        }
        panic!("writes without end: {:?}", self.writes);
    }

    fn hanging(&self) -> Vec<&'static str> {
        let open = |shown: &Shown| shown.condition == Seen::Open || !shown.containers_ready;
        self.pods.iter().filter(|(_, shown)| !open(shown)).map(|(uid, _)| *uid).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_gate_hangs_and_none_is_shut_again(history in prop::collection::vec(moves(), 1..80), away: bool) {
        let mut world = World::new();
        for step in history {
            world.make(step);
        }
        // Whoever was forbidden to write may write again.
        world.pass(Duration::from_secs(60));
        if away { world.lose() } else { world.sync() }
        world.settle();
        world.pass(RELEASE + Duration::from_secs(60));
        world.settle();
        world.pass(Duration::from_secs(60));
        world.settle();
        for uid in world.hanging() {
            let refused = !away && world.mode == Some(Mode::Judged) && world.is_judged(uid)
                && world.targets.get(uid) != Some(&Health::Healthy);
            prop_assert!(refused, "{uid} hangs; mode {:?}, targets {:?}", world.mode, world.targets);
        }
        world.pass(RELEASE * 10);
        prop_assert!(world.writes.is_empty(), "a calm world is left alone: {:?}", world.writes);
    }
}
