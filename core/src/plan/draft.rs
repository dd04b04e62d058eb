//! One policy, looked at by itself: its listener, its rule, its groups and targets, and the weights it should have. What
//! depends on other policies (priorities, quotas) is settled afterwards in [`super::region`].

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    Settings, World, effective, failures,
    resolve::{self, Place},
    service_notes::service_notes,
    step::NewTarget,
    targets,
};
use crate::{
    arn::{RuleArn, TargetGroupArn},
    failover::{Explanation, Sight},
    fleet::{Ceiling, Mode},
    ids::{ClusterName, Weight},
    inventory::{Cluster, Link},
    observed::{Action, Rule, Target, TargetGroup},
    ownership::{self, Owner},
    policy::{PolicyMemory, PolicyRecord, Programmed},
    status::{Note, Reason, TargetCounts},
    weights::Effective,
};

/// Look-ups made once for all policies.
pub(super) struct Index<'a> {
    by_name: BTreeMap<&'a str, (&'a TargetGroupArn, &'a TargetGroup)>,
    by_policy: BTreeMap<&'a str, Vec<(&'a TargetGroupArn, &'a TargetGroup)>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(world: &World<'a>) -> Self {
        let mut index = Self { by_name: BTreeMap::new(), by_policy: BTreeMap::new() };
        for (arn, group) in &world.observed.target_groups {
            index.by_name.insert(&group.name, (arn, group));
            if let Owner::Ours { policy_uid, .. } = ownership::owner(&group.tags, &world.settings.hub_id) {
                index.by_policy.entry(policy_uid).or_default().push((arn, group));
            }
        }
        index
    }
}

/// The policy's rule as far as it is known.
#[derive(Clone, Debug)]
pub(super) enum RuleView<'a> {
    /// The listener was not found, or its rules are not known at this moment.
    Unknown,
    /// There is none.
    Absent,
    /// This one; further ones with our tag are duplicates.
    Present { arn: &'a RuleArn, rule: &'a Rule, duplicates: Vec<&'a RuleArn> },
}

/// One cluster of a policy.
pub(super) struct ClusterDraft<'a> {
    pub(super) name: ClusterName,
    pub(super) requested: Weight,
    /// Not in the spec any more.
    pub(super) leaving: bool,
    /// The name of its group.
    pub(super) group_name: String,
    /// Its group, when it exists and is ours.
    pub(super) group: Option<(&'a TargetGroupArn, &'a TargetGroup)>,
    /// True when a group can be made: the agent was seen and the name is not somebody else's.
    pub(super) possible: bool,
    /// Its weight in the rule as read back; none: not in the rule.
    pub(super) programmed: Option<Weight>,
    /// True while requests may still be sent to its group.
    pub(super) carrying: bool,
    pub(super) register: Vec<NewTarget>,
    pub(super) deregister: Vec<(Target, &'static str)>,
    pub(super) counts: TargetCounts,
    /// How healthy its targets are; none when nobody asks, or it is not known.
    pub(super) sight: Option<Sight>,
    /// What operators want of it.
    pub(super) ceiling: Ceiling,
    /// How the hub stands with its agent; none: none was ever seen.
    pub(super) link: Option<Link>,
}

impl ClusterDraft<'_> {
    /// True for a drained cluster whose last target is gone: an empty group in a rule may make the whole load balancer look unhealthy
    /// to DNS, whatever its weight (D18).
    pub(super) fn is_detached(&self) -> bool {
        let targets = self.group.and_then(|(_, group)| group.targets.get());
        let empty = self.group.is_none() || targets.is_some_and(|targets| targets.is_empty());
        self.is_drained() && empty
    }

    /// True for a cluster that an operator wants to have no targets, once requests are not sent to it any more. Its targets go when
    /// that has settled; until then, and whatever moves in other clusters, none comes back.
    fn is_drained(&self) -> bool {
        self.ceiling.deregister && !self.programmed.is_some_and(Weight::carries)
    }
}

/// One policy before it met the others.
pub(super) struct Draft<'a> {
    pub(super) record: &'a PolicyRecord,
    pub(super) memory: PolicyMemory,
    pub(super) place: Option<Place<'a>>,
    pub(super) rule: RuleView<'a>,
    pub(super) clusters: Vec<ClusterDraft<'a>>,
    pub(super) effective: Vec<Effective>,
    /// What the weights were decided from.
    pub(super) failover: Explanation,
    /// When another decision may follow by time alone.
    pub(super) decide_again_at: Option<Timestamp>,
    /// True when a rule should exist: it does, or a cluster has something to offer.
    pub(super) wants_rule: bool,
    pub(super) settled: bool,
    /// Set when a group of this policy is in other hands: then nothing at all is done for it.
    pub(super) blocked: bool,
    pub(super) notes: Vec<Note>,
}

impl Draft<'_> {
    pub(super) fn note(&mut self, cluster: Option<&ClusterName>, reason: Reason, message: String) {
        self.notes.push(Note { cluster: cluster.cloned(), reason, message });
    }
}

/// Makes the draft of one policy.
pub(super) fn make<'a>(
    world: &World<'a>,
    index: &Index<'a>,
    record: &'a PolicyRecord,
    memory: PolicyMemory,
    now: Timestamp,
) -> Draft<'a> {
    let place = resolve::place(&record.policy, world.observed, world.settings);
    let mut notes = Vec::new();
    let place = place.map_err(|note| notes.push(note)).ok();
    let rule = rule_view(place.as_ref(), world.settings, record);
    let mut draft = Draft {
        record,
        memory,
        place,
        rule,
        clusters: Vec::new(),
        effective: Vec::new(),
        failover: Explanation::default(),
        decide_again_at: None,
        wants_rule: false,
        settled: false,
        blocked: false,
        notes,
    };
    remember_programmed(&mut draft, index, now);
    draft.settled = settled(&draft.memory, world.settings, now);
    let mut named: Vec<(ClusterName, Weight, bool)> =
        record.requested().into_iter().map(|(name, weight)| (name, weight, false)).collect();
    for (name, requested, leaving) in &mut named {
        if world.ceiling(name).mode == Mode::Removed {
            let message = format!("an operator removed {name}; yardctl uncordon {name} takes it back");
            draft.note(Some(name), Reason::ClusterRemoved, message);
            (*requested, *leaving) = (Weight::ZERO, true);
        }
    }
    for (_, group) in index.by_policy.get(record.uid.as_str()).into_iter().flatten() {
        let cluster = group.tags.get(ownership::TAG_CLUSTER).and_then(|name| ClusterName::new(name.clone()).ok());
        if let Some(name) = cluster.filter(|name| named.iter().all(|(known, _, _)| known != name)) {
            named.push((name, Weight::ZERO, true));
        }
    }
    for (name, requested, leaving) in named {
        let cluster = cluster_draft(world, index, &mut draft, name, requested, leaving, now);
        draft.clusters.push(cluster);
    }
    effective::decide(&mut draft, now);
    keep_what_is_about_to_carry(&mut draft);
    draft
}

/// A group that this very plan gives weight to keeps its targets: what may go is decided anew once the weight was read back.
fn keep_what_is_about_to_carry(draft: &mut Draft<'_>) {
    for cluster in draft.clusters.iter_mut().filter(|cluster| !cluster.carrying) {
        let weight = draft.effective.iter().find(|effective| effective.cluster == cluster.name);
        if weight.is_some_and(|effective| effective.weight.carries()) {
            cluster.deregister.clear();
        }
    }
}

fn rule_view<'a>(place: Option<&Place<'a>>, settings: &Settings, record: &PolicyRecord) -> RuleView<'a> {
    let Some(rules) = place.and_then(|place| place.listener.rules.get()) else {
        return RuleView::Unknown;
    };
    let ours = |(_, rule): &(&RuleArn, &Rule)| ownership::belongs_to(&rule.tags, &settings.hub_id, &record.uid);
    let mut found: Vec<(&RuleArn, &Rule)> = rules.iter().filter(ours).collect();
    found.sort_by_key(|(arn, rule)| (rule.priority, *arn));
    match found.split_first() {
        None => RuleView::Absent,
        Some(((arn, rule), rest)) => {
            RuleView::Present { arn, rule, duplicates: rest.iter().map(|(arn, _)| *arn).collect() }
        }
    }
}

/// Keeps since when the weights have been what they are. While the rules are unknown nothing is concluded.
fn remember_programmed(draft: &mut Draft<'_>, index: &Index<'_>, now: Timestamp) {
    let weights = match &draft.rule {
        RuleView::Unknown => return,
        RuleView::Absent => BTreeMap::new(),
        RuleView::Present { rule, .. } => weights_by_cluster(rule, index, draft.record),
    };
    let same = draft.memory.programmed.as_ref().is_some_and(|programmed| programmed.weights == weights);
    if !same {
        draft.memory.programmed = Some(Programmed { weights, since: now });
    }
}

fn weights_by_cluster(rule: &Rule, index: &Index<'_>, record: &PolicyRecord) -> BTreeMap<ClusterName, Weight> {
    let Action::Forward { weights, .. } = &rule.action else {
        return BTreeMap::new();
    };
    let groups = index.by_policy.get(record.uid.as_str()).into_iter().flatten();
    groups
        .filter_map(|(arn, group)| {
            let cluster = ClusterName::new(group.tags.get(ownership::TAG_CLUSTER)?.clone()).ok()?;
            Some((cluster, *weights.get(*arn)?))
        })
        .collect()
}

fn settled(memory: &PolicyMemory, settings: &Settings, now: Timestamp) -> bool {
    memory.programmed.as_ref().is_some_and(|programmed| settle_end(programmed, settings) <= now)
}

/// When weights that were read back count as served everywhere.
pub(super) fn settle_end(programmed: &Programmed, settings: &Settings) -> Timestamp {
    programmed.since.saturating_add(settings.settle).unwrap_or(Timestamp::MAX)
}

fn cluster_draft<'a>(
    world: &World<'a>,
    index: &Index<'a>,
    draft: &mut Draft<'a>,
    name: ClusterName,
    requested: Weight,
    leaving: bool,
    now: Timestamp,
) -> ClusterDraft<'a> {
    let record = draft.record;
    let group_name = ownership::group_name(&world.settings.hub_id, &record.policy.key, &record.uid, &name);
    let known = world.inventory.clusters.get(&name);
    let named = index.by_name.get(group_name.as_str()).copied();
    let group = named.filter(|(_, group)| ownership::belongs_to(&group.tags, &world.settings.hub_id, &record.uid));
    if named.is_some() && group.is_none() {
        let message =
            format!("target group {group_name} exists and does not carry our tags; delete it or rename it away");
        draft.note(Some(&name), Reason::ForeignOwner, message);
        draft.blocked = true;
    }
    let programmed = draft.memory.programmed.as_ref().and_then(|p| p.weights.get(&name)).copied();
    // With the rules unknown anything may still be sent to the group.
    let unknown = matches!(draft.rule, RuleView::Unknown);
    let carrying = unknown || programmed.is_some_and(Weight::carries) || !draft.settled;
    let mut cluster = ClusterDraft {
        possible: known.is_some() && named.is_none(),
        name,
        requested,
        leaving,
        group_name,
        group,
        programmed,
        carrying,
        register: Vec::new(),
        deregister: Vec::new(),
        counts: TargetCounts::default(),
        sight: None,
        ceiling: Ceiling::default(),
        link: known.map(|known| known.link),
    };
    cluster.ceiling = world.ceiling(&cluster.name);
    match known {
        Some(known) => fill_targets(world, draft, &mut cluster, known, now),
        None if leaving => {}
        None => {
            let message = format!(
                "spec.clusters: no agent of {} was ever seen; install the agent there, or correct the name",
                cluster.name
            );
            draft.note(Some(&cluster.name), Reason::ClusterNotFound, message);
        }
    }
    cluster
}

fn fill_targets<'a>(
    world: &World<'a>,
    draft: &mut Draft<'a>,
    cluster: &mut ClusterDraft<'a>,
    known: &Cluster,
    now: Timestamp,
) {
    let policy = &draft.record.policy;
    let group_vpc = cluster.group.map(|(_, group)| &group.vpc_id);
    let group_vpc = group_vpc.or(draft.place.map(|place| &place.load_balancer.vpc_id)).unwrap_or(&known.vpc_id);
    let input = targets::Input {
        cluster: known,
        service: &policy.service,
        group_vpc,
        registered: cluster.group.and_then(|(_, group)| group.targets.get()),
        carrying: cluster.carrying,
        budget_percent: policy.deregistration_budget_percent,
        most_targets: world.observed.limits.targets_per_target_group,
        baseline: draft.memory.baselines.get(&cluster.name),
        drained: cluster.is_drained(),
        // Counting costs a look at every endpoint: only where somebody decides by it.
        sight: (policy.failover.is_some() || !world.fleet.is_empty()).then(|| read_at(world, cluster, now)),
    };
    let decided = targets::decide(&input, world.inventory, now);
    cluster.counts = decided.counts;
    cluster.sight = decided.sight;
    let readable = cluster.group.is_none_or(|(_, group)| group.targets.get().is_some());
    if leaving_or_deleting(draft, cluster) {
        draft.memory.baselines.remove(&cluster.name);
        return;
    }
    draft.notes.extend(decided.notes);
    if readable {
        // While the targets are not known the measure stays as it is: it is made from them when there is none.
        draft.memory.baselines.insert(cluster.name.clone(), decided.baseline);
        cluster.register = decided.register;
        forget_refusals(draft, cluster, now);
        cluster.deregister = decided.deregister;
    }
    service_notes(world, draft, cluster, known);
}

fn read_at(world: &World<'_>, cluster: &ClusterDraft<'_>, now: Timestamp) -> Timestamp {
    cluster.group.and_then(|(arn, _)| world.health_read.get(arn)).copied().unwrap_or(now)
}

/// Leaves out targets that AWS refused a moment ago, and forgets refusals of targets that nobody wants any more.
fn forget_refusals(draft: &mut Draft<'_>, cluster: &mut ClusterDraft<'_>, now: Timestamp) {
    let batch = failures::batch_key(&cluster.group_name);
    let wanted: BTreeSet<String> =
        cluster.register.iter().map(|new| failures::target_key(&cluster.group_name, new.target)).collect();
    let nothing_missing = cluster.register.is_empty();
    let refused = &mut draft.memory.failures;
    refused.retain(|key, _| match key.strip_prefix(&batch) {
        Some("") => !nothing_missing,
        Some(rest) if rest.starts_with(' ') => wanted.contains(key),
        Some(_) | None => true,
    });
    let may = |new: &NewTarget| {
        let failure = refused.get(&failures::target_key(&cluster.group_name, new.target));
        failure.is_none_or(|failure| failure.not_before <= now)
    };
    cluster.register.retain(may);
}

/// Groups that are on their way out keep their targets until the group itself goes.
fn leaving_or_deleting(draft: &Draft<'_>, cluster: &ClusterDraft<'_>) -> bool {
    cluster.leaving || draft.record.deleting_since.is_some()
}
