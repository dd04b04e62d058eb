//! The fence of the epoch where a policy's listener is not known (I7): as long as nobody knows under which epoch its load balancer
//! was last written, nothing is written for the policy at all.

mod support;

use support::{Model, READY, TERMINATING, key, load_balancer_arn, manifest};
use switchyard_core::{ids::Epoch, inventory::Link, observed::Known, ownership, plan::Settings, status::Reason};

/// A policy that is programmed, and a pod that has to go.
fn model() -> Model {
    let mut model = Model::new();
    model.cluster("blue", Link::Connected);
    model.policy(&manifest("checkout", &[("blue", 100)], ""));
    for address in ["10.0.0.1", "10.0.0.2"] {
        model.pod("blue", "checkout", address, address, READY);
    }
    for _ in 0..4 {
        model.reconcile();
        model.judge_health();
        model.advance(61);
    }
    model.pod("blue", "checkout", "10.0.0.2", "10.0.0.2", TERMINATING);
    assert_eq!(steps(&model), 1);
    model
}

fn steps(model: &Model) -> usize {
    model.plan().policies[&key("checkout")].steps.len()
}

#[test]
fn nothing_is_written_for_a_policy_before_its_listener_was_read() {
    let mut model = model();
    model.settings = Settings { epoch: Epoch(2), ..model.settings.clone() };
    model.aws.listeners.clear();
    model.aws.load_balancers.get_mut(&load_balancer_arn()).unwrap().target_groups_in_use = Known::Unknown;
    assert_eq!(steps(&model), 0);
}

#[test]
fn a_listener_that_is_gone_does_not_hide_that_a_later_hub_wrote() {
    let mut model = model();
    model.aws.listeners.clear();
    assert_eq!(steps(&model), 1, "what is dead goes all the same");
    let later = ownership::epoch_tags(Epoch(7), &model.settings.hub_id);
    model.aws.load_balancers.get_mut(&load_balancer_arn()).unwrap().tags.extend(later);
    let plan = model.plan();
    let policy = &plan.policies[&key("checkout")];
    assert!(policy.steps.is_empty());
    assert!(policy.status.notes.iter().any(|note| note.reason == Reason::ObserveOnly), "{:?}", policy.status.notes);
}
