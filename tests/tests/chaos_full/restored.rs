//! An old database is restored, and the epoch does not show it.

use switchyard_tests::{
    chaos::POLICY,
    restored::{LATER, Restored},
    shifts::{in_force, weights},
};

/// Stated: only one start of the hub has written since the backup, so the restored hub takes the same epoch and the fence does not
/// see it. It writes the weights of the time of the backup; but of what serves it removes nothing: no target, no rule, no group,
/// neither of the policy that it does not know. What it removes are pods of the backup that it registered itself, once the agents
/// have said that they are gone; the load balancer's health checks kept them out. No request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_on_an_old_database_whose_epoch_does_not_show_it_removes_nothing() {
    let mut restored = Restored::set(1).await;
    let (before, later) = (restored.stage.targets(POLICY).await, restored.stage.targets(LATER).await);
    restored.restore().await;
    restored.restart_agents().await;
    restored.stage.world.yardctl.converged(POLICY).await;
    restored.stage.audited().await;
    let writes = restored.stage.writes().await;
    assert!(!writes.iter().any(|call| call.operation.starts_with("Delete")), "{writes:#?}");
    let removed = writes.iter().filter(|call| call.operation == "DeregisterTargets");
    let removed: Vec<_> = removed.flat_map(|call| call.parameters.values()).filter(|id| before.contains(*id)).collect();
    assert!(removed.is_empty(), "these served: {removed:?}");
    let now = (restored.stage.targets(POLICY).await, restored.stage.targets(LATER).await);
    assert_eq!(now, (before, later));
    let blue = weights(&[("blue", 100), ("green", 0)]);
    assert_eq!(in_force(&restored.stage.world.elb(), POLICY).await, blue, "the gap that the operations page describes");
    restored.later_policy_serves().await;
    restored.stage.all_is_well().await;
}
