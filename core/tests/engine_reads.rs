//! Whose health is read faster than at leisure.

mod support;

use std::collections::BTreeSet;

use support::{Model, READY, manifest};
use switchyard_core::{
    arn::TargetGroupArn,
    engine::{self, Looks},
    inventory::Link,
    observed::Health,
};

const FAILOVER: &str = "  failover: {unhealthyAfterSeconds: 60}\n";

/// Two policies with failover and one without, each in blue and green, with two healthy targets in every group.
fn model() -> Model {
    let mut model = Model::new();
    for (i, cluster) in ["blue", "green"].into_iter().enumerate() {
        model.cluster(cluster, Link::Connected);
        for (j, service) in ["one", "two", "plain"].into_iter().enumerate() {
            for pod in 1..=2 {
                let address = format!("10.{i}.{j}.{pod}");
                model.pod(cluster, service, &address, &address, READY);
            }
        }
    }
    for (name, extra) in [("one", FAILOVER), ("two", FAILOVER), ("plain", "")] {
        model.policy(&manifest(name, &[("blue", 50), ("green", 50)], extra));
    }
    for _ in 0..4 {
        model.reconcile();
        model.judge_health();
        model.advance(61);
    }
    model
}

/// The group of a policy in a cluster.
fn group(model: &Model, policy: &str, cluster: &str) -> TargetGroupArn {
    let plan = model.plan();
    let clusters = &plan.policies[&support::key(policy)].status.clusters;
    clusters.iter().find(|of| of.cluster.as_str() == cluster).unwrap().target_group.clone().unwrap()
}

fn groups(model: &Model, of: &[(&str, &str)]) -> BTreeSet<TargetGroupArn> {
    of.iter().map(|(policy, cluster)| group(model, policy, cluster)).collect()
}

fn looks(model: &Model) -> (BTreeSet<TargetGroupArn>, BTreeSet<TargetGroupArn>) {
    let Looks { urgent, watched, .. } = engine::looks_for_health(&model.plan(), model.now);
    (urgent.into_iter().collect(), watched.into_iter().collect())
}

fn fail(model: &mut Model, group: &TargetGroupArn) {
    let targets = &mut model.aws.target_groups.get_mut(group).unwrap().targets;
    let mut failed = targets.get().unwrap().clone();
    failed.values_mut().for_each(|target| target.health = Health::Unhealthy);
    *targets = switchyard_core::observed::Known::Known(failed);
}

#[test]
fn groups_of_policies_with_failover_are_watched_and_those_without_are_not() {
    let model = model();
    let all = [("one", "blue"), ("one", "green"), ("two", "blue"), ("two", "green")];
    assert_eq!(looks(&model), (BTreeSet::new(), groups(&model, &all)));
}

#[test]
fn where_one_policy_sees_a_cluster_fail_the_others_look_at_that_cluster_first() {
    let mut model = model();
    let failing = group(&model, "one", "blue");
    fail(&mut model, &failing);
    let (urgent, watched) = looks(&model);
    assert_eq!(urgent, groups(&model, &[("one", "blue"), ("one", "green"), ("two", "blue")]), "and at all of its own");
    assert_eq!(watched, groups(&model, &[("two", "green")]));
    let timed = engine::looks_for_health(&model.plan(), model.now).timed;
    assert_eq!(timed, groups(&model, &[("one", "blue"), ("one", "green")]), "a time runs for the first policy only");
}

#[test]
fn more_failing_targets_than_before_are_worse_and_fewer_or_unknown_ones_are_not() {
    let mut model = model();
    let before = model.aws.clone();
    assert!(!engine::got_worse(&before, &before));
    let failing = group(&model, "plain", "green");
    fail(&mut model, &failing);
    assert!(engine::got_worse(&before, &model.aws));
    assert!(!engine::got_worse(&model.aws, &before), "that is better");
    let failed = model.aws.clone();
    model.aws.target_groups.get_mut(&failing).unwrap().targets = switchyard_core::observed::Known::Unknown;
    assert!(
        !engine::got_worse(&before, &model.aws) && !engine::got_worse(&model.aws, &failed),
        "nothing is known of it"
    );
}
