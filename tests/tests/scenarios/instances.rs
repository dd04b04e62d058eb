//! Nodes as targets: pods and nodes come and go behind node ports, and no request fails.

use serde_json::json;
use switchyard_tests::{
    nodes::{Exposure, Nodes},
    policy::Policy,
    sandbox::WorkloadSpec,
    world::{Kubernetes, World},
};

const POLICY: &str = "shop/web";

on_every_kubernetes!(
    no_request_fails_while_pods_and_nodes_of_two_clusters_are_replaced,
    with_a_local_traffic_policy_nodes_without_a_pod_get_no_requests,
);

async fn start(kubernetes: Kubernetes, exposure: Exposure, replicas: u32) -> World {
    let world = World::start_on(kubernetes).await;
    let workload = WorkloadSpec { app: "web".to_owned(), replicas, ..world.workload.clone() };
    for cluster in ["blue", "green"] {
        Nodes::of(&world, cluster).run("web", exposure, &workload).await.expect("the Service is made");
        world.cluster(cluster).settled("web").await;
    }
    let policy = Policy::new("web", &[("blue", 50), ("green", 50)])
        .with("/spec/backend/targetType", json!("instance"))
        .with("/spec/backend/healthCheck/path", json!("/healthz"));
    world.yardctl.apply_until_converged(&policy).await;
    world
}

/// Waits until the group of a cluster holds so many instances, of which so many are healthy.
async fn instances(world: &World, cluster: &str, registered: usize, healthy: usize) {
    let what = format!("{registered} nodes of {cluster} to be registered and {healthy} to be healthy");
    world
        .elb_shows(&what, |state| {
            let group = state.group(POLICY, cluster);
            let count = group.map(|group| (group.addresses().len(), group.healthy()));
            let instances = group.is_some_and(|group| group.targets.iter().all(|target| target.id.starts_with("i-")));
            instances && count == Some((registered, healthy))
        })
        .await;
}

async fn no_request_fails_while_pods_and_nodes_of_two_clusters_are_replaced(kubernetes: Kubernetes) {
    let world = start(kubernetes, Exposure::NodePort, 3).await;
    let (blue, green) = (Nodes::of(&world, "blue"), Nodes::of(&world, "green"));
    instances(&world, "blue", 3, 3).await;
    instances(&world, "green", 3, 3).await;
    let load = world.load("web", 200).await;
    load.more(200).await;

    for cluster in ["blue", "green"] {
        world.cluster(cluster).roll_out("web", "v2").await.expect("the rollout begins");
    }
    for cluster in ["blue", "green"] {
        world.cluster(cluster).settled("web").await;
    }
    load.more(200).await;

    // As an autoscaler removes a node: it says so, moves the pods away, switches the machine off, and deletes the Node.
    blue.announce_removal(1).await.expect("the node is tainted");
    blue.drain(1).await.expect("the node is drained");
    world.cluster("blue").settled("web").await;
    world
        .elb_shows("the node to be out of the group, draining over", |state| {
            state.group(POLICY, "blue").is_some_and(|group| group.targets.len() == 2 && group.healthy() == 2)
        })
        .await;
    blue.switch_off(1).await.expect("the machine goes");
    blue.delete(1).await.expect("the Node goes");
    load.more(200).await;

    // One that is deleted without a word: its machine runs on.
    green.drain(3).await.expect("the node is drained");
    world.cluster("green").settled("web").await;
    green.delete(3).await.expect("the Node goes");
    instances(&world, "green", 2, 2).await;

    // One that is kept out by its label, and comes back.
    blue.exclude(2, true).await.expect("the node is labelled");
    world.yardctl.status_says(POLICY, &["RemovalsHeld", "the node is excluded by its label"]).await;
    blue.exclude(2, false).await.expect("the label goes");
    instances(&world, "blue", 2, 2).await;
    world.yardctl.converged(POLICY).await;

    for weights in [["blue=0", "green=100"], ["blue=90", "green=10"]] {
        world.yardctl.weights_until_converged(POLICY, &weights).await;
        load.more(200).await;
    }
    let report = load.finish_without_failures().await;
    assert!(["blue", "green"].iter().all(|cluster| report.by_cluster.contains_key(*cluster)), "{report:?}");
    assert!(report.by_version.contains_key("v2"), "{report:?}");
    world.stop().await;
}

async fn with_a_local_traffic_policy_nodes_without_a_pod_get_no_requests(kubernetes: Kubernetes) {
    let world = start(kubernetes, Exposure::Local, 2).await;
    for cluster in ["blue", "green"] {
        // Two pods on two of three nodes; the load balancer asks each node whether it has one.
        instances(&world, cluster, 3, 2).await;
    }
    let state = world.elb().raw_state().await.expect("a state");
    let groups = state["target_groups"].as_array().expect("groups").clone();
    assert_eq!(groups.len(), 2);
    for group in groups {
        let check = &group["health_check"];
        assert_eq!(check["path"], "/healthz", "{group}");
        assert!(check["port"].as_str().is_some_and(|port| port.parse::<u16>().is_ok()), "{group}");
    }
    let load = world.load("web", 200).await;
    load.more(200).await;
    for cluster in ["blue", "green"] {
        world.cluster(cluster).roll_out("web", "v2").await.expect("the rollout begins");
        world.cluster(cluster).settled("web").await;
    }
    load.more(200).await;
    world.yardctl.weights_until_converged(POLICY, &["blue=100", "green=0"]).await;
    load.more(200).await;
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_ready_leaves_within_the_budget_and_comes_back() {
    let world = start(Kubernetes::Sandbox, Exposure::NodePort, 3).await;
    let green = Nodes::of(&world, "green");
    instances(&world, "green", 3, 3).await;
    world.yardctl.converged(POLICY).await;
    let load = world.load("web", 200).await;
    green.set_ready(1, false).await.expect("the node fails");
    instances(&world, "green", 2, 2).await;
    // A second and a third are more than the budget: whoever says that all nodes fail is not believed.
    green.set_ready(2, false).await.expect("the node fails");
    green.set_ready(3, false).await.expect("the node fails");
    world.yardctl.status_says(POLICY, &["RemovalsHeld", "the node is not ready"]).await;
    load.more(200).await;
    instances(&world, "green", 2, 2).await;
    for number in 1..=3 {
        green.set_ready(number, true).await.expect("the node is back");
    }
    instances(&world, "green", 3, 3).await;
    world.yardctl.converged(POLICY).await;
    load.finish_without_failures().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_a_node_port_is_named_with_the_remedy_and_the_type_cannot_change() {
    let world = World::with_policy(&[("blue", 50), ("green", 50)]).await;
    let policy = Policy::new("nodes", &[("blue", 50), ("green", 50)])
        .with("/spec/backend/service/name", json!("checkout"))
        .with("/spec/backend/targetType", json!("instance"));
    world.yardctl.expect(&["apply", "-f", "-"], &policy.yaml()).await;
    let page = world.yardctl.status_says("shop/nodes", &["NoNodePort", "Service shop/checkout in blue"]).await;
    assert!(page.contains("NodePort or") && page.contains("use targetType ip"), "{page}");
    let changed =
        Policy::new("checkout", &[("blue", 50), ("green", 50)]).with("/spec/backend/targetType", json!("instance"));
    let refused = world.yardctl.run(&["apply", "-f", "-"], &changed.yaml()).await.expect("yardctl runs");
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stderr.contains("spec.backend.targetType"), "{refused}");
    assert!(refused.stderr.contains("cannot change"), "{refused}");
    world.stop().await;
}
