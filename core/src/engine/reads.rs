//! What should be read soon: what the policies need and nobody has read, and the health of groups that somebody waits for.

use std::collections::BTreeMap;

use super::object::Object;
use crate::{
    arn::{LoadBalancerArn, TargetGroupArn},
    ids::PolicyKey,
    observed::Observed,
    ownership::{self, Owner},
    plan::{RegionPlan, Settings, resolve},
    policy::PolicyRecord,
    status::Reason,
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

/// The groups whose health somebody waits for: it is read every second or so instead of at leisure.
pub fn waits_for_health(plan: &RegionPlan) -> Vec<TargetGroupArn> {
    let clusters = plan.policies.values().flat_map(|policy| &policy.status.clusters);
    let waiting = clusters.filter(|cluster| {
        // Targets that were read before the rule used their group are `unused`: their verdict comes with the next look.
        let in_use = cluster.targets.unused > 0 && cluster.programmed.is_some();
        in_use || cluster.targets.initial > 0 || cluster.reason == Reason::NoHealthyTarget
    });
    waiting.filter_map(|cluster| cluster.target_group.clone()).collect()
}
