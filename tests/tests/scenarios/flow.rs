//! From pods to answers: what the clusters hold is what the load balancer sends requests to.

use std::collections::BTreeSet;

use serde_json::json;
use switchyard_tests::{
    policy::Policy,
    sandbox::WorkloadSpec,
    world::{Kubernetes, World},
};

const POLICY: &str = "shop/checkout";

on_every_kubernetes!(
    pods_of_two_clusters_stand_behind_one_rule_and_follow_scaling,
    a_rolling_update_of_every_pod_in_both_clusters_fails_no_request,
    named_and_numeric_target_ports_are_resolved_by_each_cluster_for_itself,
);

async fn pods_of_two_clusters_stand_behind_one_rule_and_follow_scaling(kubernetes: Kubernetes) {
    let world = World::with_policy_on(kubernetes, &[("blue", 50), ("green", 50)]).await;
    let load = world.load("checkout", 100).await;
    let state = world.all_healthy(POLICY).await;
    assert_eq!(state.rules_of(POLICY).len(), 1, "{state:?}");
    assert_eq!(state.groups_of(POLICY).len(), 2, "{state:?}");
    for replicas in [5, 2] {
        let more = WorkloadSpec { replicas, ..world.workload.clone() };
        world.cluster("blue").put_workload("checkout", &more).await.expect("the workload is scaled");
        world.cluster("blue").settled("checkout").await;
        let state = world.all_healthy(POLICY).await;
        let group = state.group(POLICY, "blue").expect("blue has a group");
        assert_eq!(group.addresses().len(), replicas as usize, "{group:?}");
    }
    load.more(200).await;
    let report = load.finish_without_failures().await;
    for cluster in ["blue", "green"] {
        assert!(report.by_cluster.get(cluster).is_some_and(|n| *n > 0), "{report:?}");
    }
    world.stop().await;
}

async fn a_rolling_update_of_every_pod_in_both_clusters_fails_no_request(kubernetes: Kubernetes) {
    let world = World::with_policy_on(kubernetes, &[("blue", 50), ("green", 50)]).await;
    let load = world.load("checkout", 200).await;
    load.more(200).await;
    world.begin_rolling_update("v2").await;
    world.rolled().await;
    world.all_healthy(POLICY).await;
    load.mark("after").await.expect("a mark is set");
    load.more(400).await;
    let report = load.finish_without_failures().await;
    assert!(report.by_version.contains_key("v1"), "requests were sent before the update: {report:?}");
    let after = report.windows.last().expect("the window after the update");
    let versions: Vec<&str> = after.report.by_version.keys().map(String::as_str).collect();
    assert_eq!(versions, ["v2"], "only new pods answer after the update: {after:?}");
    world.stop().await;
}

async fn named_and_numeric_target_ports_are_resolved_by_each_cluster_for_itself(kubernetes: Kubernetes) {
    let world = World::start_on(kubernetes).await;
    let app = |port: (&str, u16)| WorkloadSpec {
        app: "cart".to_owned(),
        ports: vec![(port.0.to_owned(), port.1)],
        ..world.workload.clone()
    };
    // Blue: a number. Green: a name, which two workloads behind the same Service give different numbers to.
    let (blue, green) = (world.cluster("blue"), world.cluster("green"));
    blue.put_workload("cart", &app(("anything", 9_090))).await.expect("blue's workload");
    blue.create_service("cart", "cart", &[("http", 80, json!(9_090))]).await.expect("blue's Service");
    green.put_workload("cart", &app(("web", 7_070))).await.expect("green's workload");
    green.put_workload("cart-next", &app(("web", 7_171))).await.expect("green's other workload");
    green.create_service("cart", "cart", &[("http", 80, json!("web"))]).await.expect("green's Service");
    for (port, order) in [(json!("http"), 100), (json!(80), 200)] {
        let name = format!("cart-{order}");
        let policy = Policy::new(&name, &[("blue", 50), ("green", 50)])
            .with("/spec/backend/service", json!({"name": "cart", "port": port}))
            .with("/spec/order", json!(order));
        world.yardctl.apply_until_converged(&policy).await;
        let named = format!("shop/{name}");
        let state = world
            .elb_shows("every pod of cart to be registered at its own port and healthy", |state| {
                let healthy = |cluster, wanted| state.group(&named, cluster).is_some_and(|g| g.healthy() == wanted);
                healthy("blue", 3) && healthy("green", 6)
            })
            .await;
        let ports = |cluster| -> BTreeSet<u16> {
            let group = state.group(&named, cluster).expect("a group");
            group.registered().map(|target| target.port).collect()
        };
        assert_eq!(ports("blue"), BTreeSet::from([9_090]));
        assert_eq!(ports("green"), BTreeSet::from([7_070, 7_171]));
        let load = world.load(&name, 100).await;
        load.more(200).await;
        load.finish_without_failures().await;
    }
    world.stop().await;
}
