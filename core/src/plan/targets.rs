//! The targets of one cluster's group: which are wanted, which may go, and which are kept although nobody wants them any more
//! (I1, I3, I4, I10). Pods and nodes are decided alike; only the words differ. Tests are in `core/tests/targets.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{sight, step::NewTarget, words::Words};
use crate::{
    failover::Sight,
    ids::{ClusterName, PodUid, VpcId},
    inventory::{Cluster, Endpoint, EndpointState, Evidence, Inventory, Link, Ownership, ServiceCondition, ServiceKey},
    observed::{Health, Target, TargetId, TargetState},
    policy::Baseline,
    status::{Note, Reason, TargetCounts},
};

/// How long a group must have been smaller, with nothing held, until removals are measured against its smaller size. Longer
/// than any rolling restart of readiness that goes pod by pod, shorter than a working day's scale-down is noticed.
pub const BASELINE_WINDOW: Duration = Duration::from_secs(300);

/// What the targets of a group are decided from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The cluster, when its agent was ever seen.
    pub cluster: &'a Cluster,
    /// The Service port.
    pub service: &'a ServiceKey,
    /// The VPC of the group.
    pub group_vpc: &'a VpcId,
    /// The registered targets as read back; none: unknown, or no group yet.
    pub registered: Option<&'a BTreeMap<Target, TargetState>>,
    /// True while requests may still be sent to this group.
    pub carrying: bool,
    /// Percent of the baseline that may go on weak evidence.
    pub budget_percent: u32,
    /// The most targets that a group may hold.
    pub most_targets: u32,
    /// The baseline of the last plan.
    pub baseline: Option<&'a Baseline>,
    /// True: an operator wants the cluster to have no targets. None comes in, and all go once nothing is sent to the group any more.
    pub drained: bool,
    /// When the registered targets were read; none: nobody asks how healthy they are.
    pub sight: Option<Timestamp>,
}

/// The decision for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// To be registered, in order.
    pub register: Vec<NewTarget>,
    /// To be deregistered, with the evidence in words, in order.
    pub deregister: Vec<(Target, &'static str)>,
    /// Counts for the status.
    pub counts: TargetCounts,
    /// The baseline to remember.
    pub baseline: Baseline,
    /// What is held, and why.
    pub notes: Vec<Note>,
    /// How healthy they are; none when nobody asks, or it is not known.
    pub sight: Option<Sight>,
}

/// How well a removal is founded. Strong: the pod itself is gone or going, keeping its address would only send requests into
/// the void. Weak: the pod may well be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    Strong(&'static str),
    Weak(&'static str),
}

impl Ground {
    fn words(self) -> &'static str {
        match self {
            Ground::Strong(words) | Ground::Weak(words) => words,
        }
    }
}

/// Decides the targets of one group.
pub fn decide(input: &Input<'_>, inventory: &Inventory, now: Timestamp) -> Targets {
    let mut notes = Vec::new();
    let wanted = if input.drained { BTreeSet::new() } else { wanted(input, inventory, &mut notes) };
    let empty = BTreeMap::new();
    let registered = input.registered.unwrap_or(&empty);
    let present: BTreeMap<Target, &TargetState> =
        registered.iter().filter(|(_, state)| state.health != Health::Draining).map(|(t, s)| (*t, s)).collect();
    let room = (input.most_targets as usize).saturating_sub(present.len());
    let may_come = told_in_this_session(input, inventory, &wanted, &present, &mut notes);
    let register = register(input, &may_come, &present, room, &mut notes);
    // With nothing remembered, the group as it stands is what removals are measured against.
    let unremembered = Baseline { targets: count(present.len()), below_since: None };
    let last = input.baseline.unwrap_or(&unremembered);
    let baseline_now = last.targets.max(count(wanted.len()));
    let (deregister, held) = removals(input, inventory, &wanted, &present, baseline_now, &mut notes);
    let baseline = next_baseline(last, count(wanted.len()), held, now);
    let mut counts = counts(registered, count(wanted.len()));
    counts.held = held;
    let sight = input.sight.filter(|_| input.registered.is_some());
    let sight = sight.map(|read_at| sight::of(input, inventory, &present, &deregister, read_at));
    Targets { register, deregister, counts, baseline, notes, sight }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The endpoints that should get requests and own their address.
fn wanted(input: &Input<'_>, inventory: &Inventory, notes: &mut Vec<Note>) -> BTreeSet<Target> {
    let name = &input.cluster.name;
    let mut clashes: BTreeMap<ClusterName, Vec<Target>> = BTreeMap::new();
    let mut unsupported = Vec::new();
    let mut wanted = BTreeSet::new();
    for (target, uid, endpoint) in inventory.endpoints_of(name, input.service) {
        if !endpoint.state.wants_traffic() {
            continue;
        }
        let suits = match target.id {
            TargetId::Ip(address) => address.is_ipv4(),
            // Instances are registered in their own VPC only (ELBv2 user guide, "Target type").
            TargetId::Instance(_) => input.cluster.vpc_id == *input.group_vpc,
        };
        if !suits {
            unsupported.push(target);
            continue;
        }
        match inventory.owner(&input.cluster.vpc_id, target) {
            Ownership::Owner(owner) if owner.cluster != *name => {
                clashes.entry(owner.cluster.clone()).or_default().push(target);
            }
            Ownership::Owner(owner) if !owner.has_one_owner_with(input.service, uid) => {}
            Ownership::Owner(_) | Ownership::Free => {
                wanted.insert(target);
            }
        }
    }
    let words = Words::of(input.service);
    for (other, targets) in clashes {
        let message = words.clash(name, &other, targets.len(), targets[0], &input.cluster.vpc_id);
        notes.push(Note { cluster: Some(name.clone()), reason: Reason::AddressClash, message });
    }
    if let Some(first) = unsupported.first() {
        let message = words.unsupported(input, unsupported.len(), *first);
        notes.push(Note { cluster: Some(name.clone()), reason: Reason::AddressUnsupported, message });
    }
    wanted
}

/// The wanted targets that may be registered. What the store holds of a cluster that was not heard in this session may be old: after
/// a long outage, or in a database that was restored, its pods are gone and their addresses may be somebody else's (D12, D22).
fn told_in_this_session(
    input: &Input<'_>,
    inventory: &Inventory,
    wanted: &BTreeSet<Target>,
    present: &BTreeMap<Target, &TargetState>,
    notes: &mut Vec<Note>,
) -> BTreeSet<Target> {
    let since = match input.cluster.link {
        Link::Connected => return wanted.clone(),
        Link::Syncing => input.cluster.session_since,
        Link::Stale => None,
    };
    let told: BTreeSet<Target> = inventory
        .endpoints_of(&input.cluster.name, input.service)
        .filter(|(_, _, endpoint)| since.is_some_and(|since| endpoint.updated_at >= since))
        .map(|(target, _, _)| target)
        .collect();
    let missing = |target: &&Target| !present.contains_key(target) && !told.contains(target);
    let waiting = wanted.iter().filter(missing).count();
    if waiting > 0 {
        notes.push(frozen(input, count(waiting), "registered"));
    }
    wanted.intersection(&told).copied().collect()
}

fn register(
    input: &Input<'_>,
    wanted: &BTreeSet<Target>,
    present: &BTreeMap<Target, &TargetState>,
    room: usize,
    notes: &mut Vec<Note>,
) -> Vec<NewTarget> {
    // An address outside the group's VPC needs a zone, and `all` is the only right one; for an instance ELBv2 refuses any
    // (RegisterTargets).
    let outside = input.cluster.vpc_id != *input.group_vpc && !input.service.targets_nodes();
    let zone = outside.then(|| "all".to_owned());
    let missing: Vec<Target> = wanted.iter().filter(|target| !present.contains_key(target)).copied().collect();
    if missing.len() > room {
        let message = format!(
            "{} of {} targets of {} do not fit: a target group holds {} (quota \"targets per target group\"); ask AWS to \
             raise it, or spread the Service",
            missing.len() - room,
            wanted.len(),
            input.cluster.name,
            input.most_targets
        );
        notes.push(Note { cluster: Some(input.cluster.name.clone()), reason: Reason::QuotaExceeded, message });
    }
    missing.into_iter().take(room).map(|target| NewTarget { target, zone: zone.clone() }).collect()
}

/// Which of the registered targets that nobody wants may go now, and how many are held.
fn removals(
    input: &Input<'_>,
    inventory: &Inventory,
    wanted: &BTreeSet<Target>,
    present: &BTreeMap<Target, &TargetState>,
    baseline: u32,
    notes: &mut Vec<Note>,
) -> (Vec<(Target, &'static str)>, u32) {
    let name = &input.cluster.name;
    if input.drained {
        let all = present.keys().map(|target| (*target, "an operator drained the cluster"));
        return (all.filter(|_| !input.carrying).collect(), 0);
    }
    let records = records(inventory, name, input.service);
    let mut candidates: Vec<(Ground, u8, Target)> = present
        .iter()
        .filter(|(target, _)| !wanted.contains(target))
        .map(|(target, state)| {
            let ground =
                ground(input, inventory, (*target, state.health), records.get(target).map_or(&[], Vec::as_slice));
            (ground, last_to_go(state.health), *target)
        })
        .collect();
    if candidates.is_empty() {
        return (Vec::new(), 0);
    }
    // A Service that was not reported yet (its policy is new, or names it since a moment ago) says nothing about what is gone.
    let reported = inventory.services.contains_key(&(name.clone(), input.service.clone()));
    let mut frozen_count = 0;
    if input.cluster.link != Link::Connected || !reported {
        let all = candidates.len();
        candidates.retain(|(_, _, target)| {
            let records = records.get(target).map_or(&[][..], Vec::as_slice);
            seen_to_go_in_this_session(input.cluster, records)
        });
        frozen_count = count(all - candidates.len());
    }
    if frozen_count > 0 {
        notes.push(frozen(input, frozen_count, "removed"));
    }
    // What is strong goes before what is weak, and then the dead before the living, whatever the words.
    candidates.sort_by_key(|(ground, health, target)| (matches!(ground, Ground::Weak(_)), *health, *target));
    let floor = floor(baseline, input.budget_percent);
    let mut left = count(present.len());
    let mut gone = Vec::new();
    let mut healthy = count(present.values().filter(|state| state.health == Health::Healthy).count());
    let mut held = Held::default();
    for (ground, health, target) in candidates {
        // A pod that is gone is of no use in the group, except as the last one: an empty group answers 503 at once, while
        // a group of dead targets at least takes the next pod in without a change of rules.
        // On weak evidence a target that answers goes only where enough others answer: those that were just registered do
        // not count before the load balancer found them healthy.
        let answers = health == last_to_go(Health::Healthy);
        let may_go = match ground {
            Ground::Strong(_) => left > 1,
            Ground::Weak(_) => left > floor && (!answers || healthy > floor),
        };
        if !input.carrying || may_go {
            left -= 1;
            healthy -= u32::from(answers);
            gone.push((target, ground.words()));
        } else {
            *held.words.entry(ground.words()).or_default() += 1;
            held.by_budget |= matches!(ground, Ground::Weak(_));
        }
    }
    if held.count() > 0 {
        notes.push(held_note(input, inventory, present.len(), floor, baseline, &held));
    }
    gone.sort();
    (gone, held.count() + frozen_count)
}

/// While an agent has not said everything, what it says of a pod is true all the same: it saw it go. An agent that may not
/// list one namespace would else keep the dead targets of all others.
fn seen_to_go_in_this_session(cluster: &Cluster, records: &[(&PodUid, &Endpoint)]) -> bool {
    let Some(since) = cluster.session_since.filter(|_| cluster.link == Link::Syncing) else { return false };
    let last = records.iter().max_by_key(|(uid, endpoint)| (endpoint.updated_at, *uid));
    last.is_some_and(|(_, endpoint)| endpoint.updated_at >= since && endpoint.state.was_seen_to_go())
}

/// What a group keeps although nobody wants it.
#[derive(Default)]
struct Held {
    words: BTreeMap<&'static str, u32>,
    /// True when the budget keeps some of them; else it is only the rule that the last target stays.
    by_budget: bool,
}

impl Held {
    fn count(&self) -> u32 {
        self.words.values().sum()
    }
}

/// Targets that a group keeps at least while it carries weight; never less than one (I1).
fn floor(baseline: u32, budget_percent: u32) -> u32 {
    let kept = u64::from(baseline) * u64::from(100 - budget_percent.min(100));
    u32::try_from(kept.div_ceil(100)).unwrap_or(u32::MAX).max(1)
}

/// Among equals the dead go first, so that what is held is what still answers.
fn last_to_go(health: Health) -> u8 {
    match health {
        Health::Unhealthy => 0,
        Health::Unused | Health::Unavailable | Health::Draining => 1,
        Health::Initial => 2,
        Health::Healthy => 3,
    }
}

type Records<'a> = BTreeMap<Target, Vec<(&'a PodUid, &'a Endpoint)>>;

fn records<'a>(inventory: &'a Inventory, cluster: &ClusterName, service: &ServiceKey) -> Records<'a> {
    let mut records: Records<'a> = BTreeMap::new();
    for (target, uid, endpoint) in inventory.endpoints_of(cluster, service) {
        records.entry(target).or_default().push((uid, endpoint));
    }
    records
}

fn ground(
    input: &Input<'_>,
    inventory: &Inventory,
    (target, health): (Target, Health),
    records: &[(&PodUid, &Endpoint)],
) -> Ground {
    let words = Words::of(input.service);
    if let Ownership::Owner(owner) = inventory.owner(&input.cluster.vpc_id, target) {
        let here = owner.cluster == input.cluster.name;
        // The same pod, selected by another Service too: what this Service says of it counts, below.
        let ours = records.iter().any(|(uid, _)| owner.has_one_owner_with(input.service, uid) && here);
        // Without a record of its own the target is most likely one of the Service that the policy named before: its pods
        // live, and are replaced by the new ones at leisure.
        let named_before = records.is_empty() && here && owner.service.namespace == input.service.namespace;
        if !ours && !named_before {
            return Ground::Strong(words.taken_over);
        }
    }
    // Of several pods that had the address over time the last report counts.
    let last = records.iter().max_by_key(|(uid, endpoint)| (endpoint.updated_at, *uid));
    match last.map(|(_, endpoint)| endpoint.state) {
        Some(EndpointState::Present { terminating: true, .. }) => Ground::Strong(words.terminating),
        // A Node object is not the machine: controllers have deleted all of them on one wrong answer of the cloud, while every
        // machine went on serving. The load balancer knows better.
        Some(EndpointState::Gone(Evidence::PodDeleted)) if input.service.targets_nodes() && !looks_dead(health) => {
            Ground::Weak(words.deleted)
        }
        Some(EndpointState::Gone(Evidence::PodDeleted)) => Ground::Strong(words.deleted),
        Some(EndpointState::Present { .. }) => Ground::Weak(words.not_ready),
        Some(EndpointState::Gone(Evidence::NotSelected)) => Ground::Weak(words.not_selected),
        Some(EndpointState::Gone(Evidence::ServiceDeleted)) => Ground::Weak("the Service was deleted"),
        Some(EndpointState::Gone(Evidence::PortChanged)) => Ground::Weak("the Service port changed"),
        Some(EndpointState::Gone(Evidence::Absent)) => Ground::Weak(words.absent),
        None => Ground::Weak(words.unknown),
    }
}

/// True when the load balancer itself sends no requests to the target. That it cannot say is no verdict.
fn looks_dead(health: Health) -> bool {
    match health {
        Health::Unhealthy | Health::Unused | Health::Draining => true,
        Health::Healthy | Health::Initial | Health::Unavailable => false,
    }
}

fn frozen(input: &Input<'_>, candidates: u32, what: &str) -> Note {
    let (name, service) = (&input.cluster.name, input.service);
    let (reason, why) = match input.cluster.link {
        Link::Stale => {
            let why = "its agent is away, so its targets are frozen; look at the agent's pod and log".to_owned();
            (Reason::ClusterStale, why)
        }
        Link::Syncing => (Reason::ClusterSyncing, "its agent has not sent a complete snapshot yet".to_owned()),
        Link::Connected => {
            let why = format!("its agent has not reported Service {}/{} yet", service.namespace, service.name);
            (Reason::ClusterSyncing, why)
        }
    };
    let message = format!("{candidates} targets of {name} are not {what}: {why}");
    Note { cluster: Some(name.clone()), reason, message }
}

fn held_note(input: &Input<'_>, inventory: &Inventory, present: usize, floor: u32, baseline: u32, held: &Held) -> Note {
    let name = &input.cluster.name;
    let why: Vec<String> = held.words.iter().map(|(words, n)| format!("{n} because {words}")).collect();
    let service = inventory.services.get(&(name.clone(), input.service.clone()));
    let state = match service.map(|s| s.condition) {
        Some(ServiceCondition::NotFound) => format!("; Service {} does not exist there", input.service.name),
        Some(ServiceCondition::PortNotFound) => {
            format!("; Service {} has no port {}", input.service.name, input.service.port)
        }
        Some(ServiceCondition::NoSelectedPods) => format!("; Service {} selects no pod", input.service.name),
        Some(ServiceCondition::NoNodePort) => format!("; Service {} has no node port", input.service.name),
        Some(ServiceCondition::Resolved) | None => String::new(),
    };
    let rule = if held.by_budget {
        format!(
            "The group carries weight and keeps at least {floor} targets (deregistrationBudgetPercent {} of {baseline}). If \
             they are meant to go, set the weight of {name} to 0 first, or raise spec.safety.deregistrationBudgetPercent",
            input.budget_percent
        )
    } else {
        format!(
            "The group carries weight, so its last target stays until another is registered: an empty group answers 503. \
             Give {name} ready {}, or set its weight to 0",
            Words::of(input.service).many
        )
    };
    let message =
        format!("{} of {present} targets of {name} are held: {}{state}. {rule}", held.count(), why.join(", "));
    Note { cluster: Some(name.clone()), reason: Reason::RemovalsHeld, message }
}

fn next_baseline(last: &Baseline, wanted: u32, held: u32, now: Timestamp) -> Baseline {
    if wanted >= last.targets {
        return Baseline { targets: wanted, below_since: None };
    }
    if held > 0 {
        return Baseline { targets: last.targets, below_since: None };
    }
    // A clock that was set back begins the window anew.
    let since = last.below_since.filter(|since| *since <= now).unwrap_or(now);
    if now.duration_since(since).unsigned_abs() >= BASELINE_WINDOW {
        return Baseline { targets: wanted, below_since: None };
    }
    Baseline { targets: last.targets, below_since: Some(since) }
}

/// Counts of a group's targets as read back.
pub fn counts(registered: &BTreeMap<Target, TargetState>, desired: u32) -> TargetCounts {
    let mut counts = TargetCounts { desired, ..TargetCounts::default() };
    for state in registered.values() {
        match state.health {
            Health::Draining => {
                counts.draining += 1;
                continue;
            }
            Health::Healthy => counts.healthy += 1,
            Health::Unhealthy => counts.unhealthy += 1,
            Health::Initial => counts.initial += 1,
            Health::Unused | Health::Unavailable => counts.unused += 1,
        }
        counts.registered += 1;
    }
    counts
}
