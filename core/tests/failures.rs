//! What is remembered of steps that AWS refused, over several plans.

mod support;

use std::time::Duration;

use support::{Model, READY, key, manifest};
use switchyard_core::{
    execute::Outcome,
    inventory::Link,
    plan::{failures, step::Action},
    policy::Failure,
    status::Reason,
};

fn two_clusters() -> Model {
    let mut model = Model::new();
    for (name, address) in [("blue", "10.0.1.1"), ("green", "10.0.2.1")] {
        model.cluster(name, Link::Connected);
        model.pod(name, "checkout", name, address, READY);
    }
    model.policy(&manifest("checkout", &[("blue", 100), ("green", 0)], ""));
    model
}

#[test]
fn a_refused_registration_is_forgotten_with_the_cluster_that_left_the_policy() {
    let mut model = two_clusters();
    model.reconcile();
    let greens = model.aws.target_groups.values().find(|group| group.name.contains("green")).unwrap().name.clone();
    let not_before = model.now.checked_add(Duration::from_secs(30)).unwrap();
    let message = "RegisterTargets was refused by AWS: InvalidTarget".to_owned();
    let failure = Failure { reason: Reason::CallRefused, message, attempts: 1, not_before };
    let memory = model.memories.get_mut(&key("checkout")).unwrap();
    memory.failures.insert(failures::batch_key(&greens), failure.clone());
    memory.failures.insert("RegisterTargets sy-another 10.0.9.9:8080".to_owned(), failure);
    model.policy(&manifest("checkout", &[("blue", 100)], ""));
    let plan = model.plan();
    let policy = &plan.policies[&key("checkout")];
    assert!(policy.memory.failures.is_empty(), "{:?}", policy.memory.failures);
    assert!(policy.status.notes.iter().all(|note| note.reason != Reason::CallRefused), "{:?}", policy.status.notes);
    assert!(!policy.steps.iter().any(|step| matches!(step.action, Action::RegisterTargets { .. })));
}

#[test]
fn a_group_that_cannot_be_made_does_not_keep_the_weights_of_the_others_in_place() {
    let mut model = two_clusters();
    for _ in 0..4 {
        model.reconcile();
        model.advance(120);
        model.judge_health();
    }
    model.cluster("dr", Link::Connected);
    model.pod("dr", "checkout", "dr", "10.0.3.1", READY);
    model.policy(&manifest("checkout", &[("blue", 0), ("green", 100), ("dr", 0)], ""));
    let first = model.plan();
    let creation =
        first.policies[&key("checkout")].steps.iter().find(|step| step.action.operation() == "CreateTargetGroup");
    let creation = creation.expect("dr has no group").clone();
    let no = Outcome::Refused { code: "TooManyTargetGroups".to_owned(), message: String::new() };
    failures::remember(model.memories.get_mut(&key("checkout")).unwrap(), &creation, &no, model.now);
    let second = model.plan();
    let policy = &second.policies[&key("checkout")];
    let shift = policy.steps.iter().find_map(|step| match &step.action {
        Action::ModifyRule { forward: Some(forward), .. } => Some(forward),
        _ => None,
    });
    assert_eq!(shift.map(Vec::len), Some(2), "{:?}", policy.steps);
    assert!(policy.status.notes.iter().any(|note| note.reason == Reason::QuotaExceeded), "dr's fault is shown");
}
