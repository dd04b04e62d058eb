//! An old database is restored behind the hub's back.

use switchyard_tests::{
    chaos::POLICY,
    restored::Restored,
    shifts::{in_force, weights},
};

/// Stated: since the backup the hub was started three times and wrote, traffic went to another cluster, all pods were replaced and
/// a policy was made. A hub that starts on the backup finds a later epoch at the load balancer: it shows that and writes nothing
/// at all, also when the agents have reported everything. No request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_on_an_old_database_sees_a_later_epoch_at_aws_and_writes_nothing() {
    let mut restored = Restored::set(3).await;
    restored.restore().await;
    let page = restored.stage.world.yardctl.status_says(POLICY, &["ObserveOnly"]).await;
    assert!(page.contains("--accept-restored-store"), "the remedy is named: {page}");
    restored.restart_agents().await;
    restored.stage.audited().await;
    restored.stage.world.yardctl.status_says(POLICY, &["ObserveOnly"]).await;
    let writes = restored.stage.writes().await;
    assert!(writes.is_empty(), "a hub that may only look has written: {writes:#?}");
    restored.later_policy_serves().await;
    let green = weights(&[("blue", 0), ("green", 100)]);
    assert_eq!(in_force(&restored.stage.world.elb(), POLICY).await, green, "what was served goes on being served");

    // An operator has looked at the plan and says so: what the backup asks for is served again, and everything works.
    restored.stage.world.hub.stop().await.expect("the hub ends");
    restored.stage.world.hub.add_argument("--accept-restored-store");
    restored.stage.world.hub.start_again().await.expect("the hub starts again");
    restored.stage.world.connected().await;
    restored.stage.world.yardctl.converged(POLICY).await;
    let blue = weights(&[("blue", 100), ("green", 0)]);
    assert_eq!(in_force(&restored.stage.world.elb(), POLICY).await, blue);
    restored.later_policy_serves().await;
    restored.stage.all_is_well().await;
}
