//! What AWS refused waits before it is tried again, also while what was written is read back in between.

mod support;

use support::{Fault, Model, key, listener_arn, manifest};
use switchyard_core::{
    inventory::{EndpointState, Evidence, Link},
    observed::{Known, Observed},
    plan::PolicyPlan,
    status::Reason,
};

fn ready() -> EndpointState {
    EndpointState::Present { ready: true, serving: true, terminating: false }
}

fn model() -> Model {
    let mut model = Model::new();
    model.cluster("blue", Link::Connected);
    model.pod("blue", "checkout", "p1", "10.0.0.1", ready());
    model.policy(&manifest("checkout", &[("blue", 100)], ""));
    model
}

/// Plans on what is seen and carries it out, with every call of one operation refused.
fn round(model: &mut Model, seen: &Observed, refuse: &str) -> PolicyPlan {
    let plan = model.plan_on(seen);
    model.remember(&plan);
    model.carry_out(&plan, |step| (step.action.operation() == refuse).then_some(Fault::Refused));
    plan.policies[&key("checkout")].clone()
}

fn tries(plan: &PolicyPlan, operation: &str) -> bool {
    plan.steps.iter().any(|step| step.action.operation() == operation)
}

fn shows(plan: &PolicyPlan, operation: &str) -> bool {
    let refused = |message: &str| message.starts_with(&format!("{operation} was refused by AWS"));
    plan.status.notes.iter().any(|note| note.reason == Reason::CallRefused && refused(&note.message))
}

#[test]
fn a_refused_rule_waits_and_is_shown_while_the_rules_are_read_back() {
    let mut model = model();
    let seen = model.aws.clone();
    assert!(tries(&round(&mut model, &seen, "CreateRule"), "CreateRule"));
    let mut reading = model.aws.clone();
    reading.listeners.get_mut(&listener_arn()).unwrap().rules = Known::Unknown;
    let seen = round(&mut model, &reading, "CreateRule");
    assert!(shows(&seen, "CreateRule"), "{:?}", seen.status.notes);

    let read = model.aws.clone();
    let seen = round(&mut model, &read, "CreateRule");
    assert!(shows(&seen, "CreateRule") && !tries(&seen, "CreateRule"), "{:?}", seen.steps);
    // Longer than any wait.
    model.advance(31);
    let seen = round(&mut model, &read, "nothing");
    assert!(tries(&seen, "CreateRule"));
}

#[test]
fn a_refused_deregistration_waits_while_the_targets_are_read_back() {
    let mut model = model();
    model.reconcile();
    model.advance(60);
    model.pod("blue", "checkout", "p2", "10.0.0.2", ready());
    model.reconcile();
    model.advance(60);
    model.reconcile();
    model.pod("blue", "checkout", "p1", "10.0.0.1", EndpointState::Gone(Evidence::PodDeleted));
    let seen = model.aws.clone();
    let first = round(&mut model, &seen, "DeregisterTargets");
    assert!(tries(&first, "DeregisterTargets"), "{:?}", first.steps);
    let mut reading = model.aws.clone();
    for group in reading.target_groups.values_mut() {
        group.targets = Known::Unknown;
    }
    round(&mut model, &reading, "DeregisterTargets");
    let seen = round(&mut model, &seen, "DeregisterTargets");
    assert!(shows(&seen, "DeregisterTargets") && !tries(&seen, "DeregisterTargets"), "{:?}", seen.steps);
}

#[test]
fn a_refusal_is_forgotten_when_nobody_wants_the_step_any_more() {
    let mut model = model();
    let seen = model.aws.clone();
    round(&mut model, &seen, "CreateRule");
    let refused = |model: &Model| model.memories[&key("checkout")].failures.contains_key("CreateRule");
    assert!(refused(&model));
    model.delete("checkout");
    let seen = model.aws.clone();
    round(&mut model, &seen, "nothing");
    assert!(!refused(&model));
}
