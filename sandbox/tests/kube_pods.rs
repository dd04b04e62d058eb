//! Pods that answer: rolling updates, termination, modes, endpoint slices, address reuse.

mod kube_support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use http::Method;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube_support::{World, eventually, fetch, next, try_fetch};
use serde_json::{Value, json};

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}"))
}

async fn slices(world: &World) -> Vec<EndpointSlice> {
    let api: Api<EndpointSlice> = Api::namespaced(world.client("blue").await, "shop");
    api.list(&ListParams::default().labels("kubernetes.io/service-name=web")).await.unwrap().items
}

/// (address, ready, serving, terminating) of every endpoint.
async fn endpoints(world: &World) -> BTreeSet<(String, bool, bool, bool)> {
    let all = slices(world).await;
    let each = all.into_iter().flat_map(|slice| slice.endpoints);
    each.map(|e| {
        let c = e.conditions.unwrap_or_default();
        let on = |value: Option<bool>| value == Some(true);
        (e.addresses[0].clone(), on(c.ready), on(c.serving), on(c.terminating))
    })
    .collect()
}

#[tokio::test]
async fn a_rolling_update_never_has_fewer_ready_pods_than_it_promised() {
    let world = World::start().await;
    let workload =
        json!({"replicas": 4, "max_surge": 1, "max_unavailable": 1, "ready_after_ms": 30, "min_ready_ms": 20});
    world.web("blue", workload).await;
    world.settled("blue").await;
    let api: Api<Pod> = Api::namespaced(world.client("blue").await, "shop");
    let mut stream = watcher(api, watcher::Config::default()).boxed();
    let mut pods = std::collections::BTreeMap::new();
    world.control(Method::POST, "/clusters/blue/namespaces/shop/workloads/web/rollout", json!({"version": "v2"})).await;
    let mut listed = false;
    let (mut fewest, mut most) = (usize::MAX, 0);
    loop {
        match next(&mut stream).await.unwrap() {
            Event::Apply(pod) | Event::InitApply(pod) => drop(pods.insert(pod.name_any(), pod)),
            Event::Delete(pod) => drop(pods.remove(&pod.name_any())),
            Event::InitDone => listed = true,
            Event::Init => {}
        }
        let active = pods.values().filter(|p| p.metadata.deletion_timestamp.is_none());
        let (all, ready): (Vec<_>, Vec<_>) = active.map(|p| (p, ready(p))).unzip();
        let ready = ready.into_iter().filter(|r| *r).count();
        if listed {
            fewest = fewest.min(ready);
            most = most.max(all.len());
        }
        let version =
            |p: &&&Pod| p.annotations().get("sandbox.switchyard.dev/version").map(String::as_str) == Some("v2");
        if listed && ready == 4 && pods.len() == 4 && all.iter().filter(version).count() == 4 {
            break;
        }
    }
    assert!(fewest >= 3, "as few as {fewest} of 4 were ready with at most one unavailable");
    assert!(most <= 5, "as many as {most} pods with a surge of one");
}

#[tokio::test]
async fn a_terminating_pod_serves_through_its_grace_and_finishes_what_it_began() {
    let world = World::start().await;
    world.web("blue", json!({"replicas": 1, "termination_grace_ms": 2_000, "latency_ms": 250})).await;
    let pod = world.settled("blue").await.remove(0);
    let (name, ip) = (text(&pod, "name").to_owned(), text(&pod, "ip").to_owned());
    let url = format!("http://{ip}:8080/");
    world.control(Method::PUT, "/clusters/blue/namespaces/shop/workloads/web", json!({"replicas": 0})).await;
    eventually("the endpoint is terminating", || async {
        let seen = endpoints(&world).await;
        if seen.contains(&(ip.clone(), false, true, true)) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let begun = Instant::now();
    let (mut answered, mut refused) = (0, false);
    while !refused {
        assert!(begun.elapsed() < kube_support::DEADLINE, "the pod never stops");
        // Each request takes 250 ms: some are in flight when the grace ends. None may be cut, only refused.
        match try_fetch(Method::GET, &url, None).await {
            Ok((status, _)) => {
                assert_eq!(status, 200);
                answered += 1;
            }
            Err(error) => {
                // A connection that the kernel completes in the very moment the listener closes is reset.
                let closed = error.contains("Connect") || error.contains("ConnectionReset");
                assert!(closed && !error.contains("IncompleteMessage"), "a request was cut: {error}");
                refused = true;
            }
        }
    }
    assert!(answered >= 2, "it answered only {answered} requests while it terminated");
    let api: Api<Pod> = Api::namespaced(world.client("blue").await, "shop");
    eventually("the object is gone", || async {
        api.get_opt(&name).await.unwrap().map_or(Ok(()), |_| Err("still there".to_owned()))
    })
    .await;
    eventually("one empty slice is left", || async {
        let all = slices(&world).await;
        if all.len() == 1 && all[0].endpoints.is_empty() { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
}

#[tokio::test]
async fn every_mode_shows_in_answers_readiness_and_endpoints() {
    let world = World::start().await;
    world.web("blue", json!({"replicas": 1})).await;
    let pod = world.settled("blue").await.remove(0);
    let (name, ip) = (text(&pod, "name"), text(&pod, "ip").to_owned());
    let set = |mode: &str| {
        let path = format!("/clusters/blue/pods/shop/{name}/mode");
        let body = json!({"mode": mode, "latency_ms": 50});
        let world = &world;
        async move { world.control(Method::POST, &path, body).await }
    };
    // mode, status of / and /healthz, ready
    for (mode, root, health, is_ready) in [
        ("unready", 200, 503, false),
        ("failing", 500, 503, false),
        ("erroring", 500, 200, true),
        ("slow", 200, 200, true),
        ("normal", 200, 200, true),
    ] {
        set(mode).await;
        eventually("the endpoint follows", || async {
            let seen = endpoints(&world).await;
            if seen.contains(&(ip.clone(), is_ready, is_ready, false)) {
                Ok(())
            } else {
                Err(format!("{mode}: {seen:?}"))
            }
        })
        .await;
        let begun = Instant::now();
        let (status, body) = fetch(Method::GET, &format!("http://{ip}:8080/any/path"), None).await;
        assert_eq!(status, root, "{mode}");
        assert!(mode != "slow" || begun.elapsed() >= Duration::from_millis(50), "{mode} took {:?}", begun.elapsed());
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["pod"], name);
        assert_eq!(fetch(Method::GET, &format!("http://{ip}:8080/healthz"), None).await.0, health, "{mode}");
    }
    set("crashed").await;
    eventually("connections are refused", || async {
        try_fetch(Method::GET, &format!("http://{ip}:8080/"), None)
            .await
            .map_or(Ok(()), |answer| Err(format!("{answer:?}")))
    })
    .await;
    set("hung").await;
    eventually("a hung pod accepts again", || async {
        let stream = tokio::net::TcpStream::connect(format!("{ip}:8080")).await;
        stream.map(drop).map_err(|e| e.to_string())
    })
    .await;
    let url = format!("http://{ip}:8080/");
    let answer = tokio::time::timeout(Duration::from_millis(300), fetch(Method::GET, &url, None));
    assert!(answer.await.is_err(), "a hung pod answers nothing");
    set("normal").await;
    world.settled("blue").await;
}

#[tokio::test]
async fn endpoints_name_pod_node_zone_and_port() {
    let world = World::start().await;
    world.web("blue", json!({"replicas": 3, "ports": [{"name": "http", "port": 9090}]})).await;
    let pods = world.settled("blue").await;
    let slice = eventually("all three are in the slice", || async {
        let mut all = slices(&world).await;
        let count = all.first().map_or(0, |s| s.endpoints.len());
        if count == 3 { Ok(all.remove(0)) } else { Err(format!("{count} endpoints")) }
    })
    .await;
    let port = &slice.ports.unwrap()[0];
    assert_eq!((port.name.as_deref(), port.port), (Some("http"), Some(9090)));
    let zones: BTreeSet<_> = slice.endpoints.iter().map(|e| e.zone.clone().unwrap()).collect();
    assert_eq!(zones.len(), 3, "three pods on three nodes in three zones: {zones:?}");
    let client = world.client("blue").await;
    for endpoint in &slice.endpoints {
        let target = endpoint.target_ref.as_ref().unwrap();
        let pod = pods.iter().find(|p| p["uid"] == json!(target.uid)).expect("the reference names a pod by uid");
        assert_eq!(text(pod, "ip"), endpoint.addresses[0]);
        let node: Node = Api::all(client.clone()).get(endpoint.node_name.as_ref().unwrap()).await.unwrap();
        assert_eq!(node.labels().get("topology.kubernetes.io/zone"), endpoint.zone.as_ref());
    }
    let pod: Pod = Api::namespaced(client, "shop").get(text(&pods[0], "name")).await.unwrap();
    let enis: Value = serde_json::from_str(&pod.annotations()["vpc.amazonaws.com/pod-eni"]).unwrap();
    assert_eq!(enis[0]["privateIp"], pods[0]["ip"]);
}

#[tokio::test]
async fn a_selector_that_matches_nothing_empties_the_slice_and_comes_back() {
    let world = World::start().await;
    world.web("blue", json!({"replicas": 2})).await;
    world.settled("blue").await;
    let count = |wanted: usize| {
        let world = &world;
        eventually("the slice follows the selector", move || async move {
            let seen = endpoints(world).await.len();
            if seen == wanted { Ok(()) } else { Err(format!("{seen} endpoints instead of {wanted}")) }
        })
    };
    count(2).await;
    let path = "/clusters/blue/namespaces/shop/services/web";
    world.control(Method::PATCH, path, json!({"selector": {"app": "wbe"}})).await;
    count(0).await;
    world.control(Method::PATCH, path, json!({"selector": {"app": "web"}})).await;
    count(2).await;
    world.control(Method::DELETE, path, Value::Null).await;
    eventually("the slices go with their Service", || async {
        let left = slices(&world).await.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} slices")) }
    })
    .await;
}

#[tokio::test]
async fn with_immediate_reuse_the_next_pod_gets_the_address_of_the_last() {
    let world = World::start().await;
    world.control(Method::POST, "/clusters/blue/pods/ip-reuse", json!({"mode": "immediate"})).await;
    world.web("blue", json!({"replicas": 1, "max_surge": 0, "max_unavailable": 1})).await;
    let old = world.settled("blue").await.remove(0);
    world.control(Method::DELETE, &format!("/clusters/blue/pods/shop/{}", text(&old, "name")), Value::Null).await;
    let uids = eventually("another pod is ready and the old one is gone", || async {
        let shown = world.show("blue").await;
        let pods = shown["pods"].as_array().unwrap();
        let fresh = pods.len() == 1 && pods[0]["uid"] != old["uid"] && pods[0]["ready"] == true;
        if fresh { Ok(pods[0].clone()) } else { Err(shown.to_string()) }
    })
    .await;
    // Its replacement started while the old one still ran: only the pod after that can inherit the address.
    world.control(Method::DELETE, &format!("/clusters/blue/pods/shop/{}", text(&uids, "name")), Value::Null).await;
    eventually("the first address is used again", || async {
        let shown = world.show("blue").await;
        let pods = shown["pods"].as_array().unwrap();
        if pods.iter().any(|p| p["ip"] == old["ip"] && p["uid"] != old["uid"]) {
            Ok(())
        } else {
            Err(shown.to_string())
        }
    })
    .await;
}

#[tokio::test]
async fn a_deployment_made_with_kubectl_means_runs_scales_and_evicts() {
    let world = World::start().await;
    let client = world.client("blue").await;
    let api: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "plain"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "app", "image": "x", "ports": [{"containerPort": 8080}]}]}}}});
    api.patch("plain", &PatchParams::apply("kubectl"), &Patch::Apply(&deployment)).await.unwrap();
    api.patch("plain", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 3}}))).await.unwrap();
    let available = |wanted: i32| {
        let api = &api;
        eventually("the deployment is available", move || async move {
            let status = api.get("plain").await.unwrap().status.unwrap_or_default();
            if status.available_replicas == Some(wanted) && status.replicas == Some(wanted) {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        })
    };
    available(3).await;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let victim = pods.list(&ListParams::default().labels("a=b")).await.unwrap().items.remove(0);
    pods.evict(&victim.name_any(), &EvictParams::default()).await.unwrap();
    eventually("the evicted pod is gone", || async {
        pods.get_opt(&victim.name_any()).await.unwrap().map_or(Ok(()), |_| Err("still there".to_owned()))
    })
    .await;
    available(3).await;
    api.delete("plain", &DeleteParams::default()).await.unwrap();
    eventually("the pods go with their owner", || async {
        let left = pods.list(&ListParams::default()).await.unwrap().items.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} pods")) }
    })
    .await;
}

#[tokio::test]
async fn a_forced_deletion_ends_the_pod_at_once() {
    let world = World::start().await;
    world.web("blue", json!({"replicas": 1, "termination_grace_ms": 60_000})).await;
    let pod = world.settled("blue").await.remove(0);
    let api: Api<Pod> = Api::namespaced(world.client("blue").await, "shop");
    api.delete(text(&pod, "name"), &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
        .await
        .unwrap();
    assert!(api.get_opt(text(&pod, "name")).await.unwrap().is_none());
    eventually("its server is gone", || async {
        let url = format!("http://{}:8080/", text(&pod, "ip"));
        try_fetch(Method::GET, &url, None).await.map_or(Ok(()), |answer| Err(format!("{answer:?}")))
    })
    .await;
}
