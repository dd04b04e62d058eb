//! Node ports of the sandbox's nodes, as a client outside the cluster sees them.

mod kube_support;

use std::collections::BTreeSet;

use http::Method;
use kube_support::{World, eventually, try_fetch};
use serde_json::{Value, json};

/// The addresses of the nodes, by name.
async fn nodes(world: &World) -> Vec<(String, String)> {
    use k8s_openapi::api::core::v1::Node;
    let api: kube::Api<Node> = kube::Api::all(world.client("blue").await);
    let list = api.list(&kube::api::ListParams::default()).await.unwrap();
    let address = |node: &Node| {
        let addresses = node.status.as_ref()?.addresses.as_ref()?;
        Some(addresses.iter().find(|address| address.type_ == "InternalIP")?.address.clone())
    };
    list.iter().map(|node| (node.metadata.name.clone().unwrap(), address(node).unwrap())).collect()
}

async fn expose(world: &World, kind: &str, policy: &str, replicas: u32) -> Value {
    let base = "/clusters/blue/namespaces/shop";
    world.control(Method::PUT, &format!("{base}/workloads/web"), json!({"replicas": replicas})).await;
    let service = json!({"name": "web", "selector": {"app": "web"}, "type": kind, "external_traffic_policy": policy,
        "ports": [{"name": "http", "port": 80, "target_port": "http", "node_port": 30_500}]});
    let made = world.control(Method::POST, &format!("{base}/services"), service).await;
    world.settled("blue").await;
    made
}

/// The pod that answers at an address.
async fn answers(address: &str) -> Result<String, String> {
    let (status, text) = try_fetch(Method::GET, &format!("http://{address}/"), None).await?;
    let body: Value = serde_json::from_str(&text).map_err(|error| format!("{status} {text}: {error}"))?;
    Ok(body["pod"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_on_the_node_port_with_any_pod_and_falls_silent_when_its_machine_is_switched_off() {
    let world = World::start().await;
    expose(&world, "NodePort", "Cluster", 2).await;
    let nodes = nodes(&world).await;
    assert_eq!(nodes.len(), 3);
    for (name, ip) in &nodes {
        let seen = std::sync::Mutex::new(BTreeSet::new());
        eventually(&format!("both pods answer at {name}"), || async {
            let pod = answers(&format!("{ip}:30500")).await?;
            let mut seen = seen.lock().unwrap();
            seen.insert(pod);
            if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }
    let (gone, ip) = &nodes[0];
    world.control(Method::DELETE, &format!("/clusters/blue/nodes/{gone}"), Value::Null).await;
    answers(&format!("{ip}:30500")).await.expect("the machine outlives its Node");
    world.control(Method::DELETE, &format!("/clusters/blue/nodes/{gone}/machine"), Value::Null).await;
    eventually("the machine is silent", || async {
        answers(&format!("{ip}:30500")).await.map_or(Ok(()), |pod| Err(format!("{pod} answers")))
    })
    .await;
    let (status, _) =
        world.try_control(Method::DELETE, &format!("/clusters/blue/nodes/{gone}/machine"), Value::Null).await;
    assert_eq!(status, 404, "it is off already");
    answers(&format!("{}:30500", nodes[1].1)).await.expect("the others go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_local_policy_a_node_has_its_own_pods_only_and_says_whether_it_has_one() {
    let world = World::start().await;
    let made = expose(&world, "LoadBalancer", "Local", 1).await;
    let health = made["spec"]["healthCheckNodePort"].as_u64().expect("a health check node port");
    let pod = world.settled("blue").await.remove(0);
    for (name, ip) in nodes(&world).await {
        let own = pod["node"] == name;
        eventually(&format!("{name} to know whether it has a pod"), || async {
            let (status, text) = try_fetch(Method::GET, &format!("http://{ip}:{health}/healthz"), None).await?;
            let served = answers(&format!("{ip}:30500")).await;
            let body: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let count = body["localEndpoints"].as_u64();
            let right = (status, count) == if own { (200, Some(1)) } else { (503, Some(0)) } && served.is_ok() == own;
            if right { Ok(()) } else { Err(format!("{status} {text} {served:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_changed_and_drained_by_control_requests() {
    let world = World::start().await;
    expose(&world, "NodePort", "Cluster", 3).await;
    let name = nodes(&world).await[0].0.clone();
    let path = format!("/clusters/blue/nodes/{name}");
    let change = json!({"ready": false, "unschedulable": true, "labels": {"a": "b"},
        "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]});
    let node = world.control(Method::PATCH, &path, change).await;
    assert_eq!(node["spec"]["unschedulable"], true);
    assert_eq!(node["metadata"]["labels"]["a"], "b");
    assert_eq!(node["spec"]["taints"][0]["key"], "ToBeDeletedByClusterAutoscaler");
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let ready: Vec<&Value> = conditions.iter().filter(|condition| condition["type"] == "Ready").collect();
    assert_eq!((ready.len(), &ready[0]["status"]), (1, &json!("False")));
    world.control(Method::POST, &format!("{path}/drain"), json!({})).await;
    eventually("no pod is left on the node", || async {
        let shown = world.show("blue").await;
        let left = shown["pods"].as_array().unwrap().iter().filter(|pod| pod["node"] == name.as_str()).count();
        if left == 0 && shown["rolling"] == false { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    let (status, _) = world.try_control(Method::PATCH, "/clusters/blue/nodes/nobody", json!({"ready": true})).await;
    assert_eq!(status, 404);
}
