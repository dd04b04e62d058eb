//! A cluster without traffic, and what is left of it at the load balancer.

use switchyard_tests::{
    chaos::{POLICY, Stage, patient},
    policy::Policy,
    shifts::{in_force, weights},
    world::Builder,
};

/// Stated: the group of a cluster with weight 0 keeps its healthy targets, so that no idle group is empty while pods run there. A
/// cluster that is taken out of the policy leaves no group behind that the load balancer could find unhealthy; put back, it is
/// there again. No request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_cluster_keeps_healthy_targets_and_leaves_no_group_when_it_is_taken_out() {
    let stage = Stage::set(patient(Builder::default()), &[("blue", 100), ("green", 0)]).await;
    let idle = stage.world.all_healthy(POLICY).await;
    assert_eq!(idle.group(POLICY, "green").map(|group| group.healthy()), Some(3), "{idle:?}");

    stage.world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 100)])).await;
    stage.world.elb_shows("green's group to be gone", |state| state.group(POLICY, "green").is_none()).await;
    assert_eq!(in_force(&stage.world.elb(), POLICY).await, weights(&[("blue", 100)]), "nor does the rule name it");
    stage.seconds(2).await;

    stage.world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 100), ("green", 0)])).await;
    stage.all_is_well().await;
}
