//! What should be read soon: what the policies need and nobody has read, and the health of groups that somebody waits for.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::object::Object;
use crate::{
    arn::{LoadBalancerArn, TargetGroupArn},
    failover::{ClusterExplanation, Standing},
    ids::{ClusterName, PolicyKey},
    observed::{Health, Observed, TargetGroup},
    ownership::{self, Owner},
    plan::{RegionPlan, Settings, resolve},
    policy::PolicyRecord,
    status::{ClusterStatus, Reason},
};

/// Listeners of the load balancers that policies name, their rules, and the targets of our groups, as far as nothing is known of
/// them at this moment.
pub fn missing(policies: &BTreeMap<PolicyKey, PolicyRecord>, observed: &Observed, settings: &Settings) -> Vec<Object> {
    let mut objects = Vec::new();
    for arn in resolve::load_balancers_wanted(policies, observed, settings) {
        let known = observed.load_balancers.get(&arn);
        if known.is_some_and(|load_balancer| load_balancer.target_groups_in_use.get().is_none()) {
            objects.push(Object::Listeners(arn.clone()));
        }
        let of_this = observed.listeners.iter().filter(|(_, listener)| listener.load_balancer == arn);
        let unknown = of_this.filter(|(_, listener)| listener.rules.get().is_none());
        objects.extend(unknown.map(|(listener, _)| Object::Rules(listener.clone())));
    }
    let ours = |tags| matches!(ownership::owner(tags, &settings.hub_id), Owner::Ours { .. });
    let unknown = observed.target_groups.iter().filter(|(_, group)| group.targets.get().is_none() && ours(&group.tags));
    objects.extend(unknown.map(|(arn, _)| Object::Targets(arn.clone())));
    objects
}

/// The load balancers of the first policy whose load balancer or listener was not found: one that was made after the last audit
/// is found soon, not only at the next one. None: every place was found.
pub fn place_is_unknown(
    policies: &BTreeMap<PolicyKey, PolicyRecord>,
    observed: &Observed,
    settings: &Settings,
) -> Option<Vec<LoadBalancerArn>> {
    let unknown = |record: &PolicyRecord| {
        resolve::listener(&record.policy.listener, observed, settings)
            .is_err_and(|no| no.reason == Reason::ListenerNotFound)
    };
    let (key, record) = policies.iter().find(|(_, record)| unknown(record))?;
    let only = BTreeMap::from([(key.clone(), record.clone())]);
    Some(resolve::load_balancers_wanted(&only, observed, settings).into_iter().collect())
}

/// The groups whose health is read faster than at leisure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// Somebody waits for it: targets without a verdict, a policy of which a cluster is about to move or is out, a panic, and every
    /// group of a cluster that fails somewhere.
    pub urgent: Vec<TargetGroupArn>,
    /// Those of them for which a time runs from reading to reading: also a reading that says nothing new lets something follow.
    pub timed: BTreeSet<TargetGroupArn>,
    /// The other groups in the rules of policies with failover.
    pub watched: Vec<TargetGroupArn>,
}

/// For this long after a cluster went out in one policy the others look at it first.
const FRESH: SignedDuration = SignedDuration::from_secs(60);

/// Sorts the groups of a plan.
pub fn looks_for_health(plan: &RegionPlan, now: Timestamp) -> Looks {
    let mut looks = Looks::default();
    let failing = failing_clusters(plan, now);
    for policy in plan.policies.values() {
        let explanation = &policy.status.failover;
        // What operators want of clusters moves weights of policies without failover too, but no health counts there.
        let has_failover = explanation.max_moves_per_hour > 0;
        let differs = matches!(explanation.standing, Standing::FailedOver | Standing::Panic);
        // Clusters are judged beside each other: when one is about to move, the readings of all must be of the same moment.
        let about_to = |cluster: &ClusterExplanation| cluster.pending.is_some() || cluster.out_since.is_some();
        let moves = differs || explanation.clusters.iter().any(about_to);
        let timed = explanation.clusters.iter().any(|cluster| cluster.pending.is_some());
        for cluster in &policy.status.clusters {
            let Some(arn) = &cluster.target_group else { continue };
            let explained = explanation.clusters.iter().find(|explained| explained.cluster == cluster.cluster);
            let fails = failing.contains(&cluster.cluster) && cluster.programmed.is_some();
            if waits(cluster) || (has_failover && (moves || fails)) {
                looks.urgent.push(arn.clone());
                looks.timed.extend(timed.then(|| arn.clone()));
            } else if has_failover && explained.is_some() {
                looks.watched.push(arn.clone());
            }
        }
    }
    looks
}

/// The groups whose health somebody waits for: it is read every second or so instead of at leisure.
pub fn waits_for_health(plan: &RegionPlan) -> Vec<TargetGroupArn> {
    let clusters = plan.policies.values().flat_map(|policy| &policy.status.clusters);
    clusters.filter(|cluster| waits(cluster)).filter_map(|cluster| cluster.target_group.clone()).collect()
}

fn waits(cluster: &ClusterStatus) -> bool {
    // Targets that were read before the rule used their group are `unused`: their verdict comes with the next look.
    let in_use = cluster.targets.unused > 0 && cluster.programmed.is_some();
    in_use || cluster.targets.initial > 0 || cluster.reason == Reason::NoHealthyTarget
}

/// Clusters that look worse in some policy with failover than they are taken for, or went out a moment ago: what fails may be the
/// whole cluster.
fn failing_clusters(plan: &RegionPlan, now: Timestamp) -> BTreeSet<ClusterName> {
    let explained = plan.policies.values().flat_map(|policy| &policy.status.failover.clusters);
    let failing = explained.filter(|cluster| {
        let went = cluster.out_since.is_some_and(|since| now.duration_since(since) < FRESH);
        went || cluster.pending.is_some_and(|pending| !pending.back)
    });
    failing.map(|cluster| cluster.cluster.clone()).collect()
}

/// True when more targets of some group fail their health checks than before.
pub fn got_worse(before: &Observed, now: &Observed) -> bool {
    let failing = |group: &TargetGroup| {
        let targets = group.targets.get()?;
        Some(targets.values().filter(|target| target.health == Health::Unhealthy).count())
    };
    now.target_groups.iter().any(|(arn, group)| {
        let before = before.target_groups.get(arn).and_then(failing);
        failing(group).zip(before).is_some_and(|(now, before)| now > before)
    })
}
