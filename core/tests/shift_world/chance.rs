//! What happens to the modelled world: storms by a seed, and the calm after them.

use switchyard_core::{
    ids::{ClusterName, PolicyKey, PolicyUid},
    policy::{Capacity, MaintenanceWindow, SafetyRules},
    shift::{
        GatePhase, Guard, Shift, ShiftSpec, State,
        analysis::{GateQuery, Measured, Reading},
        machine::{By, Command, Outcome},
        spec::{Gate, PolicyTarget, PrometheusGate, StepSpec, Strategy, TargetHealthGate, WebhookGate},
        view::Evidence,
    },
    status::TargetCounts,
};

use super::World;
use crate::shift_support::{ALICE, Weights, by_name, cluster, later, switch, uid, weight, words};

pub const CLUSTERS: [&str; 3] = ["blue", "green", "dr"];
const HUB: By<'static> = By { actor: "bob", reason: "a new spec" };

impl World {
    /// One thing of many.
    pub fn storm(&mut self) {
        match self.rng.below(40) {
            0..=4 => self.any_shift(),
            5..=16 => self.any_look(),
            17..=23 => self.any_aws(),
            24..=27 => self.any_command(),
            28..=30 => self.any_health(),
            31..=33 => {
                let seconds = self.rng.below(45);
                self.now = later(self.now, i64::try_from(seconds).unwrap());
            }
            34 => self.any_safety(),
            35 => self.any_switch(),
            36 => self.any_spec(),
            37 => self.any_deletion(),
            38 => self.any_knowledge(),
            _ => self.take_over(),
        }
    }

    fn any_key(&mut self) -> PolicyKey {
        let keys: Vec<PolicyKey> = self.policies.keys().cloned().collect();
        self.rng.pick(&keys)
    }

    fn any_look(&mut self) {
        if self.shifts.is_empty() {
            return;
        }
        // The last ones are those that are under way as a rule.
        let index = self.shifts.len() - 1 - self.rng.index(self.shifts.len().min(4));
        if let Some(i) = self.unsaved.iter().position(|unsaved| unsaved.shift == index) {
            let unsaved = self.unsaved.remove(i);
            return self.save(unsaved);
        }
        if self.shifts[index].is_active() {
            self.look(index, true);
        }
    }

    fn any_aws(&mut self) {
        let key = self.any_key();
        self.aws(&key, true);
    }

    /// Another replica takes the lease: what the one before found is lost, and its clock may differ.
    fn take_over(&mut self) {
        self.unsaved.clear();
        self.readings.clear();
        if self.clock_steps {
            let step = i64::try_from(self.rng.below(60)).unwrap() - 40;
            self.now = later(self.now, step);
        }
    }

    fn any_command(&mut self) {
        if self.shifts.is_empty() {
            return;
        }
        let index = self.shifts.len() - 1 - self.rng.index(self.shifts.len().min(4));
        let step = self.rng.index(self.shifts[index].steps.len());
        let what = match self.rng.below(12) {
            0..=2 => Command::Pause,
            3..=5 => Command::Resume,
            6 => Command::Approve(None),
            7 => Command::Approve(Some(step)),
            8 => Command::ApproveUpTo(step),
            9 => Command::Promote,
            10 => Command::Abort,
            _ => Command::Approve(self.shifts[index].step),
        };
        self.say(index, &what, ALICE);
        if self.rng.once_in(6) {
            // The answer was lost, and the caller says it again.
            self.say(index, &what, ALICE);
        }
    }

    fn any_health(&mut self) {
        let key = self.any_key();
        let rng = &mut self.rng;
        let policy = self.policies.get_mut(&key).unwrap();
        let names: Vec<ClusterName> = policy.targets.keys().cloned().collect();
        let name = rng.pick(&names);
        let registered = rng.number(0, 4).max(1);
        let healthy = if rng.once_in(3) { 0 } else { rng.number(1, registered) };
        let rest = registered - healthy;
        let initial = if rng.once_in(2) { rest } else { 0 };
        let unhealthy = rest - initial;
        let counts =
            TargetCounts { desired: registered, registered, healthy, unhealthy, initial, ..Default::default() };
        policy.targets.insert(name.clone(), counts);
        self.tell(|| format!("{name} of {key} has {registered} targets, {healthy} healthy, {unhealthy} unhealthy"));
    }

    fn any_safety(&mut self) {
        let key = self.any_key();
        let rng = &mut self.rng;
        let policy = self.policies.get_mut(&key).unwrap();
        let windows = if rng.once_in(6) {
            let from = u16::try_from(rng.below(1440)).unwrap();
            let to = (from + 1 + u16::try_from(rng.below(1400)).unwrap()) % 1440;
            let days = switchyard_core::policy::spec::Weekday::ALL.into();
            MaintenanceWindow::new(days, from, to, "UTC").into_iter().collect()
        } else {
            Vec::new()
        };
        let spec = &mut policy.record.policy;
        spec.safety = SafetyRules {
            min_active_clusters: rng.pick(&[1, 1, 1, 2]),
            max_step_percent: rng.pick(&[100, 100, 50, 20, 10]),
            min_step_interval_seconds: rng.pick(&[0, 0, 20, 90]),
            windows,
        };
        spec.freeze = rng.once_in(4);
        spec.capacity = rng.once_in(4).then(|| Capacity {
            peak_requests_per_second: 1000,
            requests_per_second_per_target: rng.pick(&[1000, 400, 200]),
        });
        policy.record.version += 1;
        policy.record.generation += 1;
        let (safety, freeze) = (spec.safety.clone(), spec.freeze);
        self.tell(|| format!("{key} gets freeze {freeze} and {safety:?}"));
    }

    fn any_switch(&mut self) {
        let pattern = self.rng.pick(&["shop/*", "*/*", "shop/cart", "shop/checkout"]);
        let on = self.rng.once_in(2);
        self.switches.retain(|known| known.policies[0] != pattern);
        self.switches.push(switch("s", pattern, on));
        self.tell(|| format!("the switch over {pattern} is {}", if on { "on" } else { "off" }));
    }

    /// A new spec with other weights, or other clusters; or weights by hand.
    fn any_spec(&mut self) {
        let key = self.any_key();
        let policy = &self.policies[&key];
        if policy.record.deleting_since.is_some() {
            return;
        }
        let policy_uid = policy.record.uid.clone();
        let names: Vec<ClusterName> = policy.record.policy.clusters.iter().map(|(name, _)| name.clone()).collect();
        let weights = self.any_weights(&names);
        if self.rng.once_in(2) {
            // Weights by hand are refused as long as a shift moves the policy.
            if self.mover(&policy_uid).is_none() {
                let policy = self.policies.get_mut(&key).unwrap();
                policy.stated.clone_from(&weights);
                policy.ask(weights.clone());
                self.tell(|| format!("{key} gets {} by hand", words(&weights)));
            }
            return;
        }
        let mut clusters = weights;
        if self.rng.once_in(4) {
            clusters.reverse();
        }
        let known = |name: &str, of: &Weights| of.iter().any(|(known, _)| known.as_str() == name);
        match self.rng.below(4) {
            0 if !known("dr", &clusters) => clusters.push((cluster("dr"), weight(self.rng.pick(&[0, 10])))),
            1 if clusters.len() > 2 => clusters.retain(|(name, _)| name.as_str() != "dr"),
            _ => {}
        }
        if clusters.iter().all(|(_, weight)| weight.get() == 0) {
            return;
        }
        self.new_spec(&key, &policy_uid, clusters);
    }

    fn new_spec(&mut self, key: &PolicyKey, policy_uid: &PolicyUid, clusters: Weights) {
        let other = by_name(&self.policies[key].record.policy.clusters) != by_name(&clusters);
        if other && let Some(index) = self.mover(policy_uid) {
            self.say(index, &Command::Superseded(policy_uid.clone()), HUB);
        }
        let policy = self.policies.get_mut(key).unwrap();
        policy.record.policy.clusters.clone_from(&clusters);
        policy.record.version += 1;
        policy.record.generation += 1;
        if other {
            policy.record.weight_override = None;
            policy.stated = policy.record.requested();
            policy.targets.retain(|name, _| clusters.iter().any(|(kept, _)| kept == name));
            for (name, _) in &clusters {
                policy.targets.entry(name.clone()).or_insert(crate::shift_support::healthy(2));
            }
            policy.unseen.clear();
            policy.reached = by_name(&policy.rule) == by_name(&policy.record.requested());
        }
        self.tell(|| format!("{key} has a new spec with {}", words(&clusters)));
    }

    /// Deletions come with a word of the store, or are only seen; the name may come back.
    fn any_deletion(&mut self) {
        if !self.rng.once_in(4) {
            return;
        }
        let key = self.any_key();
        let policy_uid = self.policies[&key].record.uid.clone();
        if self.policies[&key].record.deleting_since.is_none() {
            if !self.rng.once_in(4)
                && let Some(index) = self.mover(&policy_uid)
            {
                self.say(index, &Command::Deleted(policy_uid), HUB);
            }
            let now = self.now;
            self.policies.get_mut(&key).unwrap().record.deleting_since = Some(now);
            self.tell(|| format!("{key} is being deleted"));
            return;
        }
        let mut record = self.policies.remove(&key).unwrap().record;
        record.uid = uid(&format!("{}x", record.uid));
        record.deleting_since = None;
        record.weight_override = None;
        self.tell(|| format!("{key} is gone, and there is another one of that name"));
        self.add_policy(record);
    }

    fn any_knowledge(&mut self) {
        let key = self.any_key();
        let rng = &mut self.rng;
        let policy = self.policies.get_mut(&key).unwrap();
        match rng.below(5) {
            0 => policy.known = false,
            3 => {
                // Operators cordon a cluster, and bring it back.
                let names: Vec<ClusterName> = policy.targets.keys().cloned().collect();
                policy.cordoned = if policy.cordoned.is_empty() { vec![rng.pick(&names)] } else { Vec::new() };
            }
            1 => {
                let names: Vec<ClusterName> = policy.targets.keys().cloned().collect();
                policy.unseen = if policy.unseen.is_empty() { vec![rng.pick(&names)] } else { Vec::new() };
            }
            2 => policy.refused = rng.once_in(2),
            _ => {
                policy.evidence = rng.pick(&[
                    Evidence::NotConfigured,
                    Evidence::Quiet,
                    Evidence::Pending("12 requests in the last minute".to_owned()),
                    Evidence::NoData("nothing was counted".to_owned()),
                ]);
            }
        }
    }

    fn any_weights(&mut self, names: &[ClusterName]) -> Weights {
        let values = [0, 0, 1, 5, 50, 100, 333, 999];
        let mut weights: Weights = names.iter().map(|name| (name.clone(), weight(self.rng.pick(&values)))).collect();
        if weights.iter().all(|(_, weight)| weight.get() == 0) {
            weights[0].1 = weight(100);
        }
        weights
    }

    fn any_shift(&mut self) {
        if self.shifts.iter().filter(|shift| shift.is_active()).count() >= 3 {
            return;
        }
        let mut keys: Vec<PolicyKey> = self.policies.keys().cloned().collect();
        for _ in 0..self.rng.below(3) {
            if keys.len() > 1 {
                keys.remove(self.rng.index(keys.len()));
            }
        }
        let policies = keys.iter().map(|key| self.any_target(key)).collect();
        let overrides: Vec<Guard> = if self.rng.once_in(3) {
            Guard::ALL.into_iter().filter(|guard| guard.overridable() && self.rng.once_in(2)).collect()
        } else {
            Vec::new()
        };
        let spec = ShiftSpec {
            policies,
            strategy: self.any_strategy(),
            gates: if self.rng.once_in(3) { vec![self.any_gate("shared")] } else { Vec::new() },
            overrides,
            reason: "because".to_owned(),
            progress_deadline_seconds: self.rng.number(30, 200),
            ..ShiftSpec::default()
        };
        self.create(&spec);
    }

    fn any_target(&mut self, key: &PolicyKey) -> PolicyTarget {
        let policy = &self.policies[key];
        let names: Vec<ClusterName> = policy.record.policy.clusters.iter().map(|(name, _)| name.clone()).collect();
        let version = policy.record.version;
        let mut target = PolicyTarget { name: key.name.to_string(), ..PolicyTarget::default() };
        if self.rng.once_in(2) {
            target.to = Some(self.rng.pick(&CLUSTERS).to_owned());
        } else {
            let weights = self.any_weights(&names);
            target.weights = weights.into_iter().map(|(name, weight)| (name.to_string(), weight.get())).collect();
        }
        target.expected_version = [0, 0, version, version + 1][self.rng.index(4)];
        target
    }

    fn any_strategy(&mut self) -> Strategy {
        let mut percent = 0;
        let mut steps = Vec::new();
        for i in 0..self.rng.below(5) {
            percent = if self.rng.once_in(4) { 100 } else { self.rng.number(percent + 1, 100) };
            let gates = if self.rng.once_in(3) { vec![self.any_gate(&format!("own-{i}"))] } else { Vec::new() };
            let (bake_seconds, approval) = (self.rng.pick(&[0, 0, 30, 120]), self.rng.once_in(5));
            steps.push(StepSpec { percent, bake_seconds, approval, gates });
            if percent == 100 {
                break;
            }
        }
        if let Some(last) = steps.last_mut() {
            last.percent = 100;
        }
        Strategy { steps, ..Strategy::default() }
    }

    fn any_gate(&mut self, name: &str) -> Gate {
        let rng = &mut self.rng;
        let mut gate = Gate {
            name: name.to_owned(),
            interval_seconds: rng.number(5, 40),
            count: rng.number(1, 3),
            failure_limit: rng.number(0, 1),
            ..Gate::default()
        };
        match rng.below(3) {
            0 => gate.target_health = Some(TargetHealthGate { min_healthy_percent: rng.pick(&[1, 50, 100]) }),
            1 => {
                gate.prometheus = Some(PrometheusGate { source: "main".to_owned(), query: "errors".to_owned() });
                gate.success = "< 0.5".to_owned();
                gate.failure = "> 0.9".to_owned();
            }
            _ => gate.webhook = Some(WebhookGate { endpoint: "checks".to_owned() }),
        }
        gate
    }

    /// Gates that are due are measured; the answer comes with the next look, or late.
    pub(super) fn measure(&mut self, index: usize, before: &Shift, outcome: &Outcome) {
        let Some(step) = outcome.shift.step else { return };
        for gate in &outcome.due {
            let query = &outcome.shift.steps[step].gates[*gate].query;
            let reading = match (query, self.rng.below(6)) {
                (GateQuery::TargetHealth { .. }, _) => panic!("targets are not measured outside"),
                (_, 0) => Reading::NoData("no series".to_owned()),
                (GateQuery::Webhook { .. }, 1) => Reading::Verdict { pass: None, message: "wait".to_owned() },
                (GateQuery::Webhook { .. }, n) => Reading::Verdict { pass: Some(n > 2), message: "said".to_owned() },
                (_, 1) => Reading::Value(if self.rng.once_in(2) { f64::NAN } else { 0.7 }),
                (_, n) => Reading::Value(if n > 2 { 0.1 } else { 1.0 }),
            };
            let measured = Measured { step, gate: *gate, at: self.now, reading };
            assert_eq!((before.pause.is_some(), outcome.shift.gates[*gate].phase == GatePhase::Failed), (false, false));
            self.readings.entry(index).or_default().push(measured);
        }
    }

    /// The storm is over: everybody is healthy, nobody holds anything back, AWS answers.
    pub fn calm(&mut self) {
        self.unsaved.clear();
        self.switches.clear();
        for policy in self.policies.values_mut() {
            policy.record.policy.freeze = false;
            policy.record.policy.capacity = None;
            policy.record.policy.safety.windows.clear();
            policy.record.policy.safety.min_active_clusters = 1;
            policy.record.policy.safety.max_step_percent = 100;
            policy.refused = false;
            policy.unseen.clear();
            policy.cordoned.clear();
            policy.evidence = Evidence::Quiet;
            policy.targets.values_mut().for_each(|counts| *counts = crate::shift_support::healthy(4));
        }
        self.tell(|| "calm".to_owned());
    }

    /// One round of the calm: what waits for people gets its answer, and gates get theirs.
    pub fn calm_round(&mut self) {
        let keys: Vec<PolicyKey> = self.policies.keys().cloned().collect();
        for key in &keys {
            self.aws(key, false);
        }
        for index in 0..self.shifts.len() {
            if !self.shifts[index].is_active() {
                continue;
            }
            if self.shifts[index].pause.is_some() {
                self.say(index, &Command::Resume, ALICE);
            }
            if self.shifts[index].state == State::AwaitingApproval {
                let what = self.rng.pick(&[Command::Approve(None), Command::Promote, Command::Abort]);
                self.say(index, &what, ALICE);
            }
            // Each shift's gates succeed, or fail, for good.
            let good = index % 2 == 0;
            for measured in self.readings.get_mut(&index).into_iter().flatten() {
                measured.reading = Reading::Verdict { pass: Some(good), message: String::new() };
            }
            self.look(index, false);
        }
        self.now = later(self.now, 20);
        self.check();
    }
}
