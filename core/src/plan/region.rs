//! The plans of all policies together: priorities and quotas are shared, everything else is each policy's own (I9).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    PolicyPlan, RegionPlan, Settings, World,
    draft::{self, Draft, Index, RuleView},
    effective,
    ledger::Ledger,
    priorities::{self, Entry, Priorities},
    report, resolve,
    step::{Action, Step},
    steps,
};
use crate::{
    arn::{ListenerArn, LoadBalancerArn},
    check,
    fleet::forecast::{self, Forecast},
    ids::{ClusterName, PolicyKey},
    observed::Condition,
    ownership::{self, Owner},
    policy::PolicyMemory,
    status::{Note, Reason},
};

/// Makes the plans of all policies. Planning an unchanged world gives no steps (I8).
pub fn plan(world: &World<'_>, now: Timestamp) -> RegionPlan {
    let index = Index::new(world);
    let mut drafts: Vec<Draft<'_>> = world
        .policies
        .iter()
        .map(|(key, record)| {
            let memory = world.memories.get(key).cloned().unwrap_or_default();
            draft::make(world, &index, record, memory, now)
        })
        .collect();
    name_shadowed(&mut drafts);
    let priorities = assign_priorities(world, &drafts);
    let mut ledger = Ledger::new(world.observed, &drafts);
    let mut fencing = BTreeSet::new();
    let mut moved = BTreeSet::new();
    let mut policies = BTreeMap::new();
    for draft in &mut drafts {
        let listener = draft.place.map(|place| place.listener_arn);
        let nothing = Priorities::default();
        let of_listener = listener.and_then(|arn| priorities.get(arn)).unwrap_or(&nothing);
        let mut wanted = Vec::new();
        if let Some(no) = refusal(world, draft) {
            draft.notes.push(no);
        } else if !draft.blocked && !is_unread(draft) {
            wanted = steps::for_policy(world, draft, of_listener, &mut ledger);
            add_moves(draft, of_listener, &mut moved, &mut wanted);
        }
        // A deletion ends the freeze: the spec that asked for it is gone, and nobody could unset it.
        let frozen = draft.record.policy.freeze && draft.record.deleting_since.is_none();
        if frozen && !wanted.is_empty() {
            let calls = if wanted.len() == 1 {
                "1 call at AWS is".to_owned()
            } else {
                format!("{} calls at AWS are", wanted.len())
            };
            let message = format!("spec.safety.freeze is set: {calls} not made; unset it to go on");
            draft.note(None, Reason::Frozen, message);
            wanted.clear();
        }
        fence(world, draft, &fencing, &mut wanted);
        let made = steps::withhold(draft, wanted, now);
        fencing.extend(tagged(&made));
        let finished = finish(world, draft, of_listener, made, now);
        policies.insert(draft.record.policy.key.clone(), finished);
    }
    RegionPlan { policies }
}

/// What the loss of a cluster would do to each policy that names it. `force`: the declared capacity of the others is not asked.
pub fn forecast(world: &World<'_>, lost: &ClusterName, force: bool, now: Timestamp) -> BTreeMap<PolicyKey, Forecast> {
    // As lost already, so that everybody's targets are counted; the decision itself is made with and without.
    let mut fleet = world.fleet.clone();
    fleet.entry(lost.clone()).or_default();
    let world = World { fleet: &fleet, ..*world };
    let index = Index::new(&world);
    let named = world.policies.iter().filter(|(_, record)| {
        record.deleting_since.is_none() && record.policy.clusters.iter().any(|(name, _)| name == lost)
    });
    let of = |(key, record)| {
        let memory: PolicyMemory = world.memories.get(key).cloned().unwrap_or_default();
        let draft = draft::make(&world, &index, record, memory, now);
        let clusters = effective::inputs(&draft, now);
        let input = effective::input(&draft, &clusters, now);
        (PolicyKey::clone(key), forecast::loss(&input, &draft.memory.failover, lost, force))
    };
    named.map(of).collect()
}

/// Two policies with one match on one listener: the load balancer asks the rule with the smaller priority only.
fn name_shadowed(drafts: &mut [Draft<'_>]) {
    let mut first: BTreeMap<(ListenerArn, Vec<Condition>), (u32, PolicyKey)> = BTreeMap::new();
    let place_of = |draft: &Draft<'_>| {
        let listener = draft.place.filter(|_| draft.record.deleting_since.is_none())?.listener_arn.clone();
        let policy = &draft.record.policy;
        Some(((listener, policy.conditions.clone()), (policy.order, policy.key.clone())))
    };
    for (place, rank) in drafts.iter().filter_map(place_of) {
        let winner = first.entry(place).or_insert_with(|| rank.clone());
        *winner = rank.min(winner.clone());
    }
    for draft in drafts {
        let Some((place, rank)) = place_of(draft) else { continue };
        if let Some((_, winner)) = first.get(&place).filter(|winner| **winner != rank) {
            let message = format!(
                "spec.match: {winner} on the same listener has the same match and comes first, so this policy gets no requests; \
                 change spec.match, or spec.order of one of them"
            );
            draft.note(None, Reason::Shadowed, message);
        }
    }
}

/// Checks the steps against the invariants, independently of how they were made; a plan that breaks one is thrown away.
fn finish(
    world: &World<'_>,
    draft: &mut Draft<'_>,
    priorities: &Priorities,
    mut steps: Vec<Step>,
    now: Timestamp,
) -> PolicyPlan {
    let broken = check::check(world, draft.record, &draft.memory, &steps, now);
    if !broken.is_empty() {
        let list: Vec<String> = broken.iter().map(ToString::to_string).collect();
        let message =
            format!("the plan was thrown away, since it breaks {}; please report this defect", list.join(", "));
        draft.note(None, Reason::InvariantViolated, message);
        steps.clear();
    }
    report::policy_plan(world, draft, priorities, steps, now)
}

/// Reasons for which nothing at all is done for a policy.
fn refusal(world: &World<'_>, draft: &Draft<'_>) -> Option<Note> {
    let note = |reason, message| Some(Note { cluster: None, reason, message });
    if world.observed.audited_at.is_none() {
        return note(Reason::NotObservedYet, resolve::nothing_read(world.observed));
    }
    // Without a listener any load balancer may be the one that a later hub wrote on.
    let load_balancers = world.observed.load_balancers.values();
    let may_be_its = load_balancers.filter(|one| draft.place.is_none_or(|place| place.load_balancer.name == one.name));
    let tagged = may_be_its.map(|one| (ownership::epoch_of(&one.tags, &world.settings.hub_id), one));
    let (tagged, load_balancer) = tagged.max_by_key(|(tagged, _)| *tagged)?;
    if tagged > world.settings.epoch {
        let message = format!(
            "load balancer {} was last written under epoch {tagged}, this hub is at {}: its store is older than AWS \
             (restored from a backup?), so it only observes; compare, then start it with --accept-restored-store",
            load_balancer.name, world.settings.epoch
        );
        return note(Reason::ObserveOnly, message);
    }
    None
}

/// True while the policy's listener was not read: under which epoch its load balancer was last written is not known then, so that
/// nothing may be written for it (I7).
fn is_unread(draft: &Draft<'_>) -> bool {
    draft.place.is_none() && draft.notes.iter().any(|note| note.reason == Reason::NotObservedYet)
}

fn assign_priorities(world: &World<'_>, drafts: &[Draft<'_>]) -> BTreeMap<ListenerArn, Priorities> {
    let mut entries: BTreeMap<&ListenerArn, Vec<Entry>> = BTreeMap::new();
    let mut fixed: BTreeMap<&ListenerArn, BTreeSet<u32>> = BTreeMap::new();
    let mut movable = BTreeSet::new();
    let mut staying: BTreeMap<&ListenerArn, BTreeMap<PolicyKey, u32>> = BTreeMap::new();
    for draft in drafts {
        let Some(place) = draft.place else { continue };
        let present = match draft.rule {
            RuleView::Present { arn, rule, .. } => Some((arn.clone(), rule.priority)),
            RuleView::Absent | RuleView::Unknown => None,
        };
        // A rule that is frozen or on its way out stays where it is.
        let fixed_rule = draft.record.policy.freeze || draft.blocked || draft.record.deleting_since.is_some();
        if fixed_rule || !draft.wants_rule {
            let stays = present.map(|(_, priority)| (draft.record.policy.key.clone(), priority));
            staying.entry(place.listener_arn).or_default().extend(stays);
            continue;
        }
        movable.extend(present.iter().map(|(arn, _)| arn.clone()));
        let policy = draft.record.policy.key.clone();
        entries.entry(place.listener_arn).or_default().push(Entry {
            order: draft.record.policy.order,
            policy,
            present,
        });
    }
    for (arn, listener) in &world.observed.listeners {
        let rules = listener.rules.get().into_iter().flatten();
        let taken = rules.filter(|(rule, _)| !movable.contains(*rule)).map(|(_, rule)| rule.priority);
        fixed.entry(arn).or_default().extend(taken);
    }
    let none = BTreeSet::new();
    let mut result: BTreeMap<ListenerArn, Priorities> = BTreeMap::new();
    for (listener, stays) in staying {
        result.entry(listener.clone()).or_default().assigned.extend(stays);
    }
    for (listener, entries) in entries {
        let made = priorities::assign(entries, fixed.get(listener).unwrap_or(&none));
        let of_listener = result.entry(listener.clone()).or_default();
        of_listener.assigned.extend(made.assigned);
        of_listener.moves = made.moves;
    }
    result
}

/// One SetRulePriorities call moves every rule of a listener at once; it goes with the first policy that moves.
fn add_moves(draft: &Draft<'_>, priorities: &Priorities, moved: &mut BTreeSet<ListenerArn>, steps: &mut Vec<Step>) {
    let (Some(place), RuleView::Present { arn, .. }) = (draft.place, &draft.rule) else {
        return;
    };
    if !priorities.moves.contains_key(*arn) || !moved.insert(place.listener_arn.clone()) {
        return;
    }
    let action =
        Action::SetRulePriorities { listener: place.listener_arn.clone(), priorities: priorities.moves.clone() };
    let why = "rules stand in the order of spec.order, then namespace and name".to_owned();
    // Before removals, like every change of a rule.
    let removal =
        |step: &Step| matches!(step.action, Action::DeregisterTargets { .. } | Action::DeleteTargetGroup { .. });
    let at = steps.iter().position(removal).unwrap_or(steps.len());
    steps.insert(at, Step { policy: draft.record.policy.key.clone(), action, why });
}

/// Before the first write of this epoch the load balancer is tagged with it, so that an older hub can see that it is old (I7).
/// One policy's lane does that, as its first step; those that come after it wait for the tag to be read back, since lanes do
/// not wait for each other and none may write before it.
fn fence(world: &World<'_>, draft: &mut Draft<'_>, fencing: &BTreeSet<LoadBalancerArn>, steps: &mut Vec<Step>) {
    let Some(place) = draft.place.filter(|_| !steps.is_empty()) else {
        return;
    };
    let Settings { epoch, hub_id, .. } = world.settings;
    if ownership::epoch_of(&place.load_balancer.tags, hub_id) >= *epoch {
        return;
    }
    if fencing.contains(place.load_balancer_arn) {
        let message = format!("load balancer {} is being tagged with epoch {epoch} first", place.load_balancer.name);
        draft.note(None, Reason::InProgress, message);
        steps.clear();
        return;
    }
    let tags = ownership::epoch_tags(*epoch, hub_id);
    let action = Action::TagLoadBalancer { load_balancer: place.load_balancer_arn.clone(), tags };
    let why = format!("first write under epoch {epoch}");
    steps.insert(0, Step { policy: draft.record.policy.key.clone(), action, why });
}

/// The load balancer that these steps tag.
fn tagged(steps: &[Step]) -> Option<LoadBalancerArn> {
    steps.iter().find_map(|step| match &step.action {
        Action::TagLoadBalancer { load_balancer, .. } => Some(load_balancer.clone()),
        _ => None,
    })
}

/// Rules and target groups that carry this hub's tags and belong to no policy it knows: left alone, for people to look at.
pub fn orphans(world: &World<'_>) -> Vec<String> {
    let known: BTreeSet<&str> = world.policies.values().map(|record| record.uid.as_str()).collect();
    let orphan = |tags| matches!(ownership::owner(tags, &world.settings.hub_id), Owner::Ours { policy_uid, .. } if !known.contains(policy_uid));
    let groups = world.observed.target_groups.iter().filter(|(_, g)| orphan(&g.tags)).map(|(arn, _)| arn.to_string());
    let rules = world.observed.listeners.values().filter_map(|listener| listener.rules.get()).flatten();
    let rules = rules.filter(|(_, rule)| orphan(&rule.tags)).map(|(arn, _)| arn.to_string());
    groups.chain(rules).collect()
}

/// The policies in the order of their keys, for callers that need the steps of all of them in one list.
pub fn all_steps(plan: &RegionPlan) -> impl Iterator<Item = (&PolicyKey, &Step)> {
    plan.policies.iter().flat_map(|(key, policy)| policy.steps.iter().map(move |step| (key, step)))
}
