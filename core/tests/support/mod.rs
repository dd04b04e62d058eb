//! A small model of the world around the planner: AWS as it behaves, clusters and pods as a script or a seed wants them. It
//! is the judge of the invariants: it looks at what the calls do to the load balancer, not at what the planner meant.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use switchyard_core::{
    arn::{ListenerArn, LoadBalancerArn, RuleArn, TargetGroupArn},
    execute::{Execution, Outcome},
    fleet::Ceiling,
    ids::{ClusterName, Epoch, HubId, PodUid, PolicyKey, PolicyUid, VpcId, Weight},
    inventory::{
        Cluster, Endpoint, EndpointKey, EndpointState, Evidence, Inventory, Link, ServiceCondition, ServiceKey,
        ServiceState,
    },
    observed::{
        Action as RuleAction, Health, Known, Listener, LoadBalancer, Observed, Rule, Tags, Target, TargetGroup,
        TargetId, TargetState,
    },
    plan::{self, GroupRef, RegionPlan, Settings, Step, World, failures, step::Action},
    policy::{
        ClusterTrafficPolicy, PolicyMemory, PolicyRecord, spec::TargetType, validate, validate::target_type_word,
    },
};

pub const VPC: &str = "vpc-1";
const PREFIX: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012";

pub struct Model {
    pub settings: Settings,
    pub now: Timestamp,
    /// The truth at AWS.
    pub aws: Observed,
    pub inventory: Inventory,
    pub policies: BTreeMap<PolicyKey, PolicyRecord>,
    pub memories: BTreeMap<PolicyKey, PolicyMemory>,
    /// When the targets of each group were read; a group that is missing was read just now.
    pub health_read: BTreeMap<TargetGroupArn, Timestamp>,
    /// What operators want of clusters.
    pub fleet: BTreeMap<ClusterName, Ceiling>,
    /// Pods that answer, by target.
    pub alive: BTreeSet<Target>,
    /// Calls made, by operation.
    pub calls: Vec<String>,
    next: u32,
}

pub fn cluster_name(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

pub fn listener_arn() -> ListenerArn {
    ListenerArn::new(format!("{PREFIX}:listener/app/shared/1/443")).unwrap()
}

pub fn load_balancer_arn() -> LoadBalancerArn {
    LoadBalancerArn::new(format!("{PREFIX}:loadbalancer/app/shared/1")).unwrap()
}

pub fn manifest(name: &str, clusters: &[(&str, u32)], extra: &str) -> ClusterTrafficPolicy {
    let clusters: Vec<String> = clusters.iter().map(|(n, w)| format!("{{name: {n}, weight: {w}}}")).collect();
    let clusters = clusters.join(", ");
    let text = format!(
        "apiVersion: switchyard.dev/v1alpha1\nkind: ClusterTrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  listener: {{loadBalancer: shared, port: 443}}\n  match: {{paths: [{{value: /{name}}}]}}\n  \
         backend: {{service: {{name: {name}, port: http}}}}\n  clusters: [{clusters}]\n{extra}"
    );
    serde_norway::from_str(&text).unwrap()
}

impl Model {
    pub fn new() -> Self {
        let settings = Settings {
            hub_id: HubId::new("hub-1").unwrap(),
            account_id: "123456789012".into(),
            region: "eu-central-1".into(),
            settle: Duration::from_secs(60),
            epoch: Epoch(1),
        };
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut aws = Observed { audited_at: Some(now), ..Observed::default() };
        let load_balancer = LoadBalancer {
            name: "shared".into(),
            kind: "application".into(),
            vpc_id: VpcId::new(VPC).unwrap(),
            dns_name: "shared.example".into(),
            tags: Tags::new(),
            target_groups_in_use: Known::Known(0),
        };
        aws.load_balancers.insert(load_balancer_arn(), load_balancer);
        let listener = Listener {
            load_balancer: load_balancer_arn(),
            port: 443,
            protocol: "HTTPS".into(),
            rules: Known::Known(BTreeMap::new()),
        };
        aws.listeners.insert(listener_arn(), listener);
        Self {
            settings,
            now,
            aws,
            inventory: Inventory::default(),
            policies: BTreeMap::new(),
            memories: BTreeMap::new(),
            health_read: BTreeMap::new(),
            fleet: BTreeMap::new(),
            alive: BTreeSet::new(),
            calls: Vec::new(),
            next: 1,
        }
    }

    pub fn advance(&mut self, seconds: i64) {
        self.now = self.now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
        // Draining ends; nothing here depends on how long it takes.
        for group in self.aws.target_groups.values_mut() {
            if let Known::Known(targets) = &mut group.targets {
                targets.retain(|_, state| state.health != Health::Draining);
            }
        }
    }

    pub fn cluster(&mut self, name: &str, link: Link) {
        let cluster = Cluster {
            name: cluster_name(name),
            region: "eu-central-1".into(),
            vpc_id: VpcId::new(VPC).unwrap(),
            link,
            session_since: Some(self.now),
            problems: Vec::new(),
            reports_nodes: true,
        };
        self.inventory.clusters.insert(cluster_name(name), cluster);
    }

    pub fn service_key(service: &str) -> ServiceKey {
        ServiceKey {
            namespace: "shop".parse().unwrap(),
            name: service.parse().unwrap(),
            port: "http".parse().unwrap(),
            target_type: TargetType::Ip,
        }
    }

    /// As a policy with nodes as targets names it.
    pub fn node_service_key(service: &str) -> ServiceKey {
        ServiceKey { target_type: TargetType::Instance, ..Self::service_key(service) }
    }

    pub fn service(&mut self, cluster: &str, service: &str, condition: ServiceCondition) {
        self.service_state(cluster, Self::service_key(service), condition, None);
    }

    pub fn service_state(
        &mut self,
        cluster: &str,
        service: ServiceKey,
        condition: ServiceCondition,
        health_check_node_port: Option<u16>,
    ) {
        let state = ServiceState { condition, message: String::new(), health_check_node_port };
        self.inventory.services.insert((cluster_name(cluster), service), state);
    }

    pub fn pod(&mut self, cluster: &str, service: &str, uid: &str, address: &str, state: EndpointState) {
        let target = Target { id: address.parse().unwrap(), port: 8080 };
        self.endpoint(cluster, Self::service_key(service), uid, target, state);
    }

    /// A node of the cluster with the Service's node port.
    pub fn node(&mut self, cluster: &str, service: &str, uid: &str, target: (&str, u16), state: EndpointState) {
        let target = Target { id: target.0.parse().unwrap(), port: target.1 };
        self.endpoint(cluster, Self::node_service_key(service), uid, target, state);
    }

    fn endpoint(&mut self, cluster: &str, service: ServiceKey, uid: &str, target: Target, state: EndpointState) {
        let key = EndpointKey { cluster: cluster_name(cluster), service, target, pod_uid: PodUid::new(uid).unwrap() };
        if matches!(state, EndpointState::Present { terminating: false, .. }) {
            self.alive.insert(target);
        }
        if state == EndpointState::Gone(Evidence::PodDeleted) {
            self.alive.remove(&target);
        }
        // An agent reports a Service together with its endpoints.
        let service_state = ServiceState {
            condition: ServiceCondition::Resolved,
            message: String::new(),
            health_check_node_port: None,
        };
        self.inventory.services.entry((key.cluster.clone(), key.service.clone())).or_insert(service_state);
        let known = self.inventory.endpoints_of(&key.cluster, &key.service);
        let first_seen =
            known.filter(|(t, u, _)| *t == target && **u == key.pod_uid).map(|(_, _, e)| e.first_seen).next();
        let endpoint = Endpoint {
            state,
            pod_name: uid.into(),
            node: "node".into(),
            zone: String::new(),
            eni_ids: Vec::new(),
            gates: Vec::new(),
            first_seen: first_seen.unwrap_or(self.now),
            updated_at: self.now,
        };
        self.inventory.upsert(key, endpoint);
    }

    pub fn policy(&mut self, manifest: &ClusterTrafficPolicy) {
        let policy = validate(manifest).unwrap();
        let key = policy.key.clone();
        let version = self.policies.get(&key).map_or(1, |p| p.version + 1);
        let uid = PolicyUid::new(format!("uid-{}", key.name)).unwrap();
        let record = PolicyRecord {
            uid,
            version,
            generation: version,
            policy,
            weight_override: None,
            deleting_since: None,
            failback_at: None,
        };
        self.policies.insert(key, record);
    }

    pub fn weights(&mut self, policy: &str, weights: &[(&str, u32)]) {
        let record = self.policies.get_mut(&key(policy)).unwrap();
        let weights = weights.iter().map(|(n, w)| (cluster_name(n), Weight::new(*w).unwrap()));
        record.weight_override = Some(weights.collect());
        record.version += 1;
    }

    pub fn delete(&mut self, policy: &str) {
        self.policies.get_mut(&key(policy)).unwrap().deleting_since = Some(self.now);
    }

    pub fn plan_on(&self, observed: &Observed) -> RegionPlan {
        let world = World {
            settings: &self.settings,
            policies: &self.policies,
            memories: &self.memories,
            inventory: &self.inventory,
            observed,
            health_read: &self.health_read,
            fleet: &self.fleet,
        };
        plan::plan(&world, self.now)
    }

    pub fn plan(&self) -> RegionPlan {
        self.plan_on(&self.aws)
    }

    pub fn remember(&mut self, plan: &RegionPlan) {
        for (key, policy) in &plan.policies {
            self.memories.insert(key.clone(), policy.memory.clone());
        }
    }

    /// Plans, carries everything out, and remembers.
    pub fn reconcile(&mut self) -> RegionPlan {
        let plan = self.plan();
        self.remember(&plan);
        self.carry_out(&plan, |_| None);
        for (key, policy) in &plan.policies {
            if policy.gone {
                self.policies.remove(key);
                self.memories.remove(key);
            }
        }
        plan
    }

    /// Carries a plan out by the real machine; `fault` may put an outcome in the place of the call.
    pub fn carry_out(&mut self, plan: &RegionPlan, mut fault: impl FnMut(&Step) -> Option<Fault>) {
        let mut execution = Execution::new(plan::all_steps(plan).map(|(_, step)| step.clone()));
        while let Some(call) = execution.ready().into_iter().next() {
            execution.start(&call.step.policy);
            let outcome = match fault(&call.step) {
                None => self.call(&call.step.action),
                Some(Fault::LostAnswer) => {
                    self.call(&call.step.action);
                    Outcome::Unknown { message: "connection reset".into() }
                }
                Some(Fault::Refused) => Outcome::Refused { code: "ValidationError".into(), message: "scripted".into() },
                Some(Fault::Throttled) => Outcome::Throttled { message: "Rate exceeded".into() },
            };
            if let Some(memory) = self.memories.get_mut(&call.step.policy) {
                failures::remember(memory, &call.step, &outcome, self.now);
            }
            execution.report(&call.step.policy, &outcome);
        }
        assert!(execution.is_finished());
    }

    fn group(&mut self, group: &GroupRef) -> &mut TargetGroup {
        let arn = group.arn.as_ref().expect("the executor fills in ARNs of groups that were made");
        let found = self.aws.target_groups.get_mut(arn).expect("the group exists");
        assert!(found.tags.contains_key("switchyard.dev/hub"), "I5: {} is not ours", group.name);
        found
    }

    fn rules(&mut self) -> &mut BTreeMap<RuleArn, Rule> {
        match &mut self.aws.listeners.get_mut(&listener_arn()).unwrap().rules {
            Known::Known(rules) => rules,
            Known::Unknown => panic!("the truth is always known"),
        }
    }

    fn in_use(&mut self, arn: &TargetGroupArn) -> bool {
        self.rules()
            .values()
            .any(|r| matches!(&r.action, RuleAction::Forward { weights, .. } if weights.contains_key(arn)))
    }

    fn weight(&mut self, arn: &TargetGroupArn) -> u32 {
        let weight = |r: &Rule| match &r.action {
            RuleAction::Forward { weights, .. } => weights.get(arn).map_or(0, |w| w.get()),
            RuleAction::Other => 0,
        };
        self.rules().values().map(weight).sum()
    }

    /// Does at the modelled AWS what the call does, and judges the invariants on the result.
    pub fn call(&mut self, action: &Action) -> Outcome {
        self.calls.push(action.operation().to_owned());
        let mut created = None;
        match action {
            Action::CreateTargetGroup(new) => {
                self.next += 1;
                let arn = TargetGroupArn::new(format!("{PREFIX}:targetgroup/{}/{}", new.name, self.next)).unwrap();
                let same_name = self.aws.target_groups.values().any(|g| g.name == new.name);
                assert!(!same_name, "a group is made twice: {}", new.name);
                let group = TargetGroup {
                    name: new.name.clone(),
                    vpc_id: new.vpc_id.clone(),
                    protocol: new.protocol.clone(),
                    protocol_version: new.protocol_version.clone(),
                    target_type: target_type_word(new.target_type).into(),
                    health_check: new.health_check.clone(),
                    deregistration_delay_seconds: Known::Known(300),
                    stickiness_seconds: Known::Known(None),
                    tags: new.tags.clone(),
                    targets: Known::Known(BTreeMap::new()),
                };
                self.aws.target_groups.insert(arn.clone(), group);
                created = Some(arn);
            }
            Action::ModifyTargetGroup { group, health_check } => self.group(group).health_check = health_check.clone(),
            Action::ModifyTargetGroupAttributes { group, deregistration_delay_seconds } => {
                self.group(group).deregistration_delay_seconds = Known::Known(*deregistration_delay_seconds);
            }
            Action::RegisterTargets { group, targets } => {
                let kind = self.group(group).target_type.clone();
                let Known::Known(registered) = &mut self.group(group).targets else { panic!("known") };
                for new in targets {
                    let instance = matches!(new.target.id, TargetId::Instance(_));
                    assert_eq!(instance, kind == "instance", "{} in a group of type {kind}", new.target);
                    assert!(!instance || new.zone.is_none(), "a zone for the instance {}", new.target);
                    let state = TargetState { health: Health::Initial, reason: String::new() };
                    registered.insert(new.target, state);
                }
            }
            Action::TagLoadBalancer { load_balancer, tags } => {
                self.aws.load_balancers.get_mut(load_balancer).unwrap().tags.extend(tags.clone());
            }
            Action::SetRulePriorities { priorities, .. } => {
                for (arn, priority) in priorities {
                    let rule = self.rules().get_mut(arn).unwrap();
                    assert!(rule.tags.contains_key("switchyard.dev/hub"), "I5: a foreign rule is moved");
                    rule.priority = *priority;
                }
                self.priorities_are_unique();
            }
            Action::CreateRule { priority, conditions, forward, tags, .. } => {
                self.next += 1;
                let arn = RuleArn::new(format!("{PREFIX}:listener-rule/app/shared/1/443/{}", self.next)).unwrap();
                let action = self.forward(None, forward);
                let rule = Rule { priority: *priority, conditions: conditions.clone(), action, tags: tags.clone() };
                self.rules().insert(arn, rule);
                self.priorities_are_unique();
            }
            Action::ModifyRule { rule, conditions, forward, .. } => {
                let old = self.rules().get(rule).expect("the rule exists").clone();
                assert!(old.tags.contains_key("switchyard.dev/hub"), "I5: a foreign rule is changed");
                let action = forward.as_ref().map(|forward| self.forward(Some(&old), forward));
                let rule = self.rules().get_mut(rule).unwrap();
                rule.action = action.unwrap_or(old.action);
                rule.conditions = conditions.clone().unwrap_or(old.conditions);
            }
            Action::DeregisterTargets { group, targets } => {
                let arn = group.arn.clone().unwrap();
                let Known::Known(registered) = &mut self.group(group).targets else { panic!("known") };
                for target in targets {
                    if let Some(state) = registered.get_mut(target) {
                        state.health = Health::Draining;
                    }
                }
                let left = registered.values().filter(|state| state.health != Health::Draining).count();
                assert!(left > 0 || self.weight(&arn) == 0, "I1: {} carries weight and is emptied", group.name);
            }
            Action::DeleteRule { rule, .. } => {
                let old = self.rules().remove(rule).expect("the rule exists");
                assert!(old.tags.contains_key("switchyard.dev/hub"), "I5: a foreign rule is deleted");
            }
            Action::DeleteTargetGroup { group } => {
                let arn = group.arn.clone().unwrap();
                self.group(group);
                assert!(!self.in_use(&arn), "I6: {} is deleted while a rule names it", group.name);
                self.aws.target_groups.remove(&arn);
            }
        }
        let used: BTreeSet<TargetGroupArn> = self
            .rules()
            .values()
            .filter_map(|rule| match &rule.action {
                RuleAction::Forward { weights, .. } => Some(weights.keys().cloned().collect::<Vec<_>>()),
                RuleAction::Other => None,
            })
            .flatten()
            .collect();
        let used = u32::try_from(used.len()).unwrap();
        self.aws.load_balancers.get_mut(&load_balancer_arn()).unwrap().target_groups_in_use = Known::Known(used);
        Outcome::Done { created }
    }

    fn forward(&mut self, old: Option<&Rule>, forward: &[(GroupRef, Weight)]) -> RuleAction {
        let sum: u32 = forward.iter().map(|(_, w)| w.get()).sum();
        assert!(sum > 0, "I2: the weights sum to 0");
        assert!(forward.len() <= 5, "more than five groups in a rule");
        let mut weights = BTreeMap::new();
        for (group, weight) in forward {
            let arn = group.arn.clone().expect("the executor fills in ARNs");
            let targets = self.group(group).targets.get().unwrap();
            let empty = targets.values().all(|state| state.health == Health::Draining);
            let had = matches!(old.map(|o| &o.action), Some(RuleAction::Forward { weights, .. }) if weights.get(&arn).is_some_and(|w| w.carries()));
            assert!(!weight.carries() || had || !empty, "I2: an empty group gets weight: {}", group.name);
            weights.insert(arn, *weight);
        }
        RuleAction::Forward { weights, stickiness_seconds: None }
    }

    fn priorities_are_unique(&mut self) {
        let priorities: Vec<u32> = self.rules().values().map(|r| r.priority).collect();
        let unique: BTreeSet<u32> = priorities.iter().copied().collect();
        assert_eq!(priorities.len(), unique.len(), "two rules with one priority");
    }

    /// Lets the load balancer judge every target: pods that answer are healthy, others not; groups that no rule uses are not
    /// judged.
    pub fn judge_health(&mut self) {
        let arns: Vec<TargetGroupArn> = self.aws.target_groups.keys().cloned().collect();
        for arn in arns {
            let used = self.in_use(&arn);
            let alive = self.alive.clone();
            let Known::Known(targets) = &mut self.aws.target_groups.get_mut(&arn).unwrap().targets else {
                continue;
            };
            for (target, state) in targets.iter_mut().filter(|(_, state)| state.health != Health::Draining) {
                state.health = match (used, alive.contains(target)) {
                    (false, _) => Health::Unused,
                    (true, true) => Health::Healthy,
                    (true, false) => Health::Unhealthy,
                };
            }
        }
    }

    /// A rule that somebody else made.
    pub fn foreign_rule(&mut self, priority: u32) {
        self.next += 1;
        let arn = RuleArn::new(format!("{PREFIX}:listener-rule/app/shared/1/443/{}", self.next)).unwrap();
        let rule = Rule { priority, conditions: Vec::new(), action: RuleAction::Other, tags: Tags::new() };
        self.rules().insert(arn, rule);
    }

    /// Somebody else writes on what is ours: weights, targets, the rule itself, or a second rule with our tags.
    pub fn foreign_hand(&mut self, what: u64, number: u64) {
        let ours = |rule: &Rule| rule.tags.contains_key("switchyard.dev/hub");
        let arn = self.rules().iter().filter(|(_, rule)| ours(rule)).map(|(arn, _)| arn.clone()).next();
        let Some(arn) = arn else { return };
        match what {
            0 => {
                if let RuleAction::Forward { weights, .. } = &mut self.rules().get_mut(&arn).unwrap().action {
                    for (i, weight) in weights.values_mut().enumerate() {
                        *weight = Weight::new(u32::try_from((number >> i) % 3).unwrap()).unwrap();
                    }
                }
            }
            1 => drop(self.rules().remove(&arn)),
            2 => {
                let mut copy = self.rules()[&arn].clone();
                copy.priority = 40_000 + u32::try_from(number).unwrap();
                self.next += 1;
                let arn = RuleArn::new(format!("{PREFIX}:listener-rule/app/shared/1/443/{}", self.next)).unwrap();
                let free = self.rules().values().all(|rule| rule.priority != copy.priority);
                if free {
                    self.rules().insert(arn, copy);
                }
            }
            _ => {
                let groups = self.aws.target_groups.len().max(1);
                let group = self.aws.target_groups.values_mut().nth(usize::try_from(number).unwrap() % groups);
                if let Some(Known::Known(targets)) = group.map(|group| &mut group.targets) {
                    drop(targets.pop_first());
                }
            }
        }
    }

    pub fn rule_weights(&mut self, policy: &str) -> BTreeMap<String, u32> {
        let uid = format!("uid-{policy}");
        let rule = self.rules().values().find(|r| r.tags.get("switchyard.dev/policy-uid") == Some(&uid)).cloned();
        let Some(RuleAction::Forward { weights, .. }) = rule.map(|r| r.action) else {
            return BTreeMap::new();
        };
        let cluster = |arn: &TargetGroupArn| self.aws.target_groups[arn].tags["switchyard.dev/cluster"].clone();
        weights.iter().map(|(arn, weight)| (cluster(arn), weight.get())).collect()
    }
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    LostAnswer,
    Refused,
    Throttled,
}

pub fn key(policy: &str) -> PolicyKey {
    PolicyKey::new("shop", policy).unwrap()
}

pub const READY: EndpointState = EndpointState::Present { ready: true, serving: true, terminating: false };
pub const NOT_READY: EndpointState = EndpointState::Present { ready: false, serving: false, terminating: false };
pub const TERMINATING: EndpointState = EndpointState::Present { ready: false, serving: true, terminating: true };
