//! An old database is restored, and the epoch does not show it.

use switchyard_tests::{
    chaos::POLICY,
    restored::{LATER, Restored},
    shifts::{in_force, weights},
};

/// Stated: only one start of the hub has written since the backup, so the restored hub takes the same epoch and the fence does not
/// see it. It writes the weights of the time of the backup; but it removes nothing, no target, no rule, no group, neither of the
/// policy that it does not know; and it registers none of the pods of the backup, which are gone: only what an agent has told it
/// counts. No request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_on_an_old_database_whose_epoch_does_not_show_it_removes_nothing() {
    let mut restored = Restored::set(1).await;
    let (before, later) = (restored.stage.targets(POLICY).await, restored.stage.targets(LATER).await);
    restored.restore().await;
    restored.restart_agents().await;
    restored.stage.world.yardctl.converged(POLICY).await;
    restored.stage.audited().await;
    let writes = restored.stage.writes().await;
    let targets = writes.iter().filter(|call| call.operation.ends_with("Targets")).collect::<Vec<_>>();
    assert!(targets.is_empty(), "nobody came or went: {targets:#?}");
    restored.stage.nothing_was_deleted().await;
    let now = (restored.stage.targets(POLICY).await, restored.stage.targets(LATER).await);
    assert_eq!(now, (before, later));
    let blue = weights(&[("blue", 100), ("green", 0)]);
    assert_eq!(in_force(&restored.stage.world.elb(), POLICY).await, blue, "the gap that the operations page describes");
    restored.later_policy_serves().await;
    restored.stage.all_is_well().await;
}
