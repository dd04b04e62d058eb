//! An old database is restored, and the epoch does not show it.

use switchyard_tests::{chaos::POLICY, restored::Restored, shifts::in_force, shifts::weights};

/// Stated: only one start of the hub has written since the backup, so the restored hub takes the same epoch and the fence does not
/// see it. It writes the weights of the time of the backup; but it removes nothing: no target, no rule, no group, neither of the
/// policy that it does not know. No request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_on_an_old_database_whose_epoch_does_not_show_it_removes_nothing() {
    let mut restored = Restored::set(1).await;
    restored.restore().await;
    restored.restart_agents().await;
    restored.stage.world.yardctl.converged(POLICY).await;
    restored.stage.audited().await;
    restored.stage.nothing_was_deleted().await;
    let blue = weights(&[("blue", 100), ("green", 0)]);
    assert_eq!(in_force(&restored.stage.world.elb(), POLICY).await, blue, "the gap that the operations page describes");
    restored.later_policy_serves().await;
    restored.stage.all_is_well().await;
}
