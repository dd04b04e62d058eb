//! The engine's part played by hand over a small AWS: plans are made by core from the hub's own picture, every call is done at once,
//! and every registered target is as healthy as the test says. Weights count as served when they are read back.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use switchyard_core::{
    arn::{ListenerArn, LoadBalancerArn, RuleArn, TargetGroupArn},
    execute::{Execution, Outcome},
    fleet::machine::{PolicyFacts, observe},
    ids::{PolicyKey, Weight},
    observed::{
        Action as RuleAction, Health, Known, Listener, LoadBalancer, Observed, Rule, Tags, TargetGroup, TargetState,
    },
    plan::{self, Action, GroupRef, RegionPlan, World},
    policy::{PolicyMemory, PolicyRecord, validate::target_type_word},
};
use switchyard_hub::store::{ClusterUpdate, StatusUpdate};
use switchyard_proto::api::v1 as api;

use crate::{
    grpc_support::{Agent, EPOCH, Hub, hello, policy_ref},
    store_support::fence,
};

const PREFIX: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012";

/// AWS, and the engine that writes there.
pub struct Engine {
    aws: Observed,
    settings: plan::Settings,
    /// Clusters whose targets fail the load balancer's checks.
    pub sick: BTreeSet<String>,
    next: u32,
}

fn load_balancer() -> LoadBalancerArn {
    LoadBalancerArn::new(format!("{PREFIX}:loadbalancer/app/shared/1")).unwrap()
}

fn listener() -> ListenerArn {
    ListenerArn::new(format!("{PREFIX}:listener/app/shared/1/80")).unwrap()
}

impl Engine {
    /// A load balancer without rules.
    pub fn new() -> Self {
        let mut aws = Observed { audited_at: Some(Timestamp::now()), ..Observed::default() };
        let shared = LoadBalancer {
            name: "shared".to_owned(),
            kind: "application".to_owned(),
            vpc_id: "vpc-1".parse().unwrap(),
            dns_name: "shared.example".to_owned(),
            tags: Tags::new(),
            target_groups_in_use: Known::Known(0),
        };
        aws.load_balancers.insert(load_balancer(), shared);
        let (port, protocol) = (80, "HTTP".to_owned());
        let rules = Known::Known(BTreeMap::new());
        aws.listeners.insert(listener(), Listener { load_balancer: load_balancer(), port, protocol, rules });
        // As the hub under test plans, but for the time that weights take to be served everywhere.
        let settings = plan::Settings {
            hub_id: "test".parse().unwrap(),
            account_id: "123456789012".to_owned(),
            region: "eu-central-1".to_owned(),
            settle: Duration::ZERO,
            epoch: EPOCH,
        };
        Self { aws, settings, sick: BTreeSet::new(), next: 1 }
    }

    /// Turns until nothing moves any more.
    pub async fn settle(&mut self, hub: &Hub) {
        for _ in 0..100 {
            if !self.turn(hub).await {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// One cycle: a plan, its calls, what users are told, and a look at each cluster that is on its way; true when anything moved.
    pub async fn turn(&mut self, hub: &Hub) -> bool {
        hub.observed.send_replace(Arc::new(self.aws.clone()));
        hub.feed.refreshed().await;
        let picture = hub.feed.picture();
        let policies: BTreeMap<PolicyKey, PolicyRecord> =
            picture.policies.iter().map(|(key, stored)| (key.clone(), stored.record.clone())).collect();
        let memories: BTreeMap<PolicyKey, PolicyMemory> =
            picture.policies.iter().map(|(key, stored)| (key.clone(), stored.memory.clone())).collect();
        let world = World {
            settings: &self.settings,
            policies: &policies,
            memories: &memories,
            inventory: &picture.inventory,
            observed: &self.aws,
            health_read: &BTreeMap::new(),
            fleet: &picture.ceilings(),
        };
        let now = Timestamp::now();
        let plan = plan::plan(&world, now);
        let fence = fence(&hub.store).await;
        let updates = policies.iter().map(|(key, record)| {
            let made = &plan.policies[key];
            StatusUpdate { uid: &record.uid, status: &made.status, memory: &made.memory }
        });
        let updates: Vec<StatusUpdate<'_>> = updates.collect();
        let told = hub.store.policy_statuses_save(fence, &updates).await.unwrap();
        let mut moved = plan.policies.values().any(|policy| !policy.steps.is_empty()) || !told.is_empty();
        for (name, state) in picture.fleet.iter().filter(|(_, state)| state.is_moving()) {
            let facts = policies.iter().filter_map(|(key, record)| {
                let facts = PolicyFacts::new(name, record, &plan.policies[key].status, Duration::ZERO, now)?;
                Some((key.clone(), facts))
            });
            let made = observe(state.as_ref().clone(), &facts.collect(), now).state;
            if made != **state {
                let update = ClusterUpdate { before_version: state.version, state: &made };
                moved |= !hub.store.clusters_save(fence, &[update]).await.unwrap().is_empty();
            }
        }
        self.carry_out(&plan);
        self.judge();
        hub.observed.send_replace(Arc::new(self.aws.clone()));
        hub.feed.refreshed().await;
        moved
    }

    fn carry_out(&mut self, plan: &RegionPlan) {
        let mut execution = Execution::new(plan::all_steps(plan).map(|(_, step)| step.clone()));
        while let Some(call) = execution.ready().into_iter().next() {
            execution.start(&call.step.policy);
            let created = self.call(&call.step.action);
            execution.report(&call.step.policy, &Outcome::Done { created });
        }
    }

    /// What the load balancer's checks say of every target.
    fn judge(&mut self) {
        for group in self.aws.target_groups.values_mut() {
            let sick = group.tags.get("switchyard.dev/cluster").is_some_and(|cluster| self.sick.contains(cluster));
            let health = if sick { Health::Unhealthy } else { Health::Healthy };
            let Known::Known(targets) = &mut group.targets else { panic!("known") };
            targets.values_mut().for_each(|state| state.health = health);
        }
    }

    fn rules(&mut self) -> &mut BTreeMap<RuleArn, Rule> {
        match &mut self.aws.listeners.get_mut(&listener()).unwrap().rules {
            Known::Known(rules) => rules,
            Known::Unknown => panic!("known"),
        }
    }

    fn group(&mut self, group: &GroupRef) -> &mut TargetGroup {
        self.aws.target_groups.get_mut(group.arn.as_ref().unwrap()).unwrap()
    }

    fn call(&mut self, action: &Action) -> Option<TargetGroupArn> {
        self.next += 1;
        match action {
            Action::CreateTargetGroup(new) => {
                let arn = TargetGroupArn::new(format!("{PREFIX}:targetgroup/{}/{}", new.name, self.next)).unwrap();
                let group = TargetGroup {
                    name: new.name.clone(),
                    vpc_id: new.vpc_id.clone(),
                    protocol: new.protocol.clone(),
                    protocol_version: new.protocol_version.clone(),
                    target_type: target_type_word(new.target_type).to_owned(),
                    health_check: new.health_check.clone(),
                    deregistration_delay_seconds: Known::Known(300),
                    stickiness_seconds: Known::Known(None),
                    tags: new.tags.clone(),
                    targets: Known::Known(BTreeMap::new()),
                };
                self.aws.target_groups.insert(arn.clone(), group);
                return Some(arn);
            }
            Action::ModifyTargetGroup { group, health_check } => self.group(group).health_check = health_check.clone(),
            Action::ModifyTargetGroupAttributes { group, deregistration_delay_seconds } => {
                self.group(group).deregistration_delay_seconds = Known::Known(*deregistration_delay_seconds);
            }
            Action::RegisterTargets { group, targets } => {
                let Known::Known(registered) = &mut self.group(group).targets else { panic!("known") };
                let state = TargetState { health: Health::Initial, reason: String::new() };
                registered.extend(targets.iter().map(|new| (new.target, state.clone())));
            }
            Action::DeregisterTargets { group, targets } => {
                let Known::Known(registered) = &mut self.group(group).targets else { panic!("known") };
                registered.retain(|target, _| !targets.contains(target));
            }
            Action::TagLoadBalancer { load_balancer, tags } => {
                self.aws.load_balancers.get_mut(load_balancer).unwrap().tags.extend(tags.clone());
            }
            Action::SetRulePriorities { priorities, .. } => {
                for (arn, priority) in priorities {
                    self.rules().get_mut(arn).unwrap().priority = *priority;
                }
            }
            Action::CreateRule { priority, conditions, forward, tags, .. } => {
                let arn = RuleArn::new(format!("{PREFIX}:listener-rule/app/shared/1/80/{}", self.next)).unwrap();
                let (action, conditions, tags) = (to(forward), conditions.clone(), tags.clone());
                self.rules().insert(arn, Rule { priority: *priority, conditions, action, tags });
            }
            Action::ModifyRule { rule, conditions, forward, .. } => {
                let rule = self.rules().get_mut(rule).unwrap();
                if let Some(forward) = forward {
                    rule.action = to(forward);
                }
                if let Some(conditions) = conditions {
                    rule.conditions.clone_from(conditions);
                }
            }
            Action::DeleteRule { rule, .. } => drop(self.rules().remove(rule)),
            Action::DeleteTargetGroup { group } => {
                self.aws.target_groups.remove(group.arn.as_ref().unwrap());
            }
        }
        None
    }

    /// The clusters' weights in a policy's rule, without those that have none.
    pub fn in_force(&mut self, hub: &Hub, policy: &str) -> BTreeMap<String, u32> {
        let uid = hub.feed.picture().policies[&PolicyKey::new("shop", policy).unwrap()].record.uid.to_string();
        let ours = |rule: &&Rule| rule.tags.get("switchyard.dev/policy-uid") == Some(&uid);
        let rule = self.rules().values().find(ours).cloned();
        let Some(RuleAction::Forward { weights, .. }) = rule.map(|rule| rule.action) else { return BTreeMap::new() };
        let cluster = |arn: &TargetGroupArn| self.aws.target_groups[arn].tags["switchyard.dev/cluster"].clone();
        let carrying = weights.iter().filter(|(_, weight)| weight.carries());
        carrying.map(|(arn, weight)| (cluster(arn), weight.get())).collect()
    }

    /// Targets that are registered in a cluster's groups.
    pub fn registered(&self, cluster: &str) -> usize {
        let of = |group: &&TargetGroup| group.tags.get("switchyard.dev/cluster").is_some_and(|name| name == cluster);
        let groups = self.aws.target_groups.values().filter(of);
        groups.map(|group| group.targets.get().map_or(0, BTreeMap::len)).sum()
    }
}

fn to(forward: &[(GroupRef, Weight)]) -> RuleAction {
    let weights = forward.iter().map(|(group, weight)| (group.arn.clone().unwrap(), *weight)).collect();
    RuleAction::Forward { weights, stickiness_seconds: None }
}

/// A policy with this last line, all of whose clusters run the Service `web`.
pub fn policy(name: &str, clusters: &[(&str, u32)], more: &str) -> String {
    let text = crate::grpc_support::manifest(name, clusters);
    text.replace(&format!("service: {{name: {name}, port"), "service: {name: web, port") + more
}

/// An agent that has reported this many pods of the Service `web`. A policy has to name the Service before.
pub async fn agent(hub: &Hub, cluster: &str, network: u8, pods: u8) -> Agent {
    let mut agent = Agent::connect(hub, hello(cluster)).await;
    agent.welcome().await;
    let set = agent.watch_set().await;
    let addresses: Vec<String> = (1..=pods).map(|host| format!("10.0.{network}.{host}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    agent.sync(&set, "web", &addresses).await;
    agent
}

/// A cluster as the hub shows it.
pub async fn cluster(hub: &Hub, name: &str) -> api::Cluster {
    let all = hub.clusters().list_clusters(api::ListClustersRequest {}).await.unwrap().into_inner().clusters;
    all.into_iter().find(|cluster| cluster.name == name).unwrap()
}

/// Why the weights of a policy are what they are.
pub async fn explain(hub: &Hub, name: &str) -> api::ExplainPolicyResponse {
    let request = api::ExplainPolicyRequest { policy: Some(policy_ref(name)) };
    hub.policies().explain_policy(request).await.unwrap().into_inner()
}
