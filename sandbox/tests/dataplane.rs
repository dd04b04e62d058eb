//! Clusters that the network does not reach, and machines that die, as the load balancer and as Kubernetes see them.

mod kube_support;

use std::collections::BTreeSet;

use aws_sdk_elasticloadbalancingv2 as elbv2;
use elbv2::config::{BehaviorVersion, Credentials, Region};
use elbv2::types::{
    Action, ActionTypeEnum, ForwardActionConfig, PathPatternConditionConfig, ProtocolEnum, RuleCondition,
    TargetDescription, TargetGroupTuple, TargetTypeEnum,
};
use http::Method;
use kube_support::{World, eventually, fetch, try_fetch};
use serde_json::{Value, json};

const SHOP: &str = "/clusters/blue/namespaces/shop";

fn address(pod: &Value) -> String {
    format!("http://{}:8080/", pod["ip"].as_str().unwrap())
}

async fn reach(world: &World, body: Value) -> Value {
    world.control(Method::POST, "/clusters/blue/dataplane", body).await
}

async fn answers(url: &str) -> Result<(), String> {
    match try_fetch(Method::GET, url, None).await? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

async fn refuses(url: &str) -> Result<(), String> {
    match try_fetch(Method::GET, url, None).await {
        Err(error) if error.contains("refused") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

async fn all_ready(world: &World) -> usize {
    world.show("blue").await["ready"].as_u64().unwrap().try_into().unwrap()
}

async fn three_pods() -> (World, Vec<Value>) {
    let world = World::start().await;
    world.web("blue", json!({"replicas": 3})).await;
    let pods = world.settled("blue").await;
    (world, pods)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pods_of_a_dead_data_plane_refuse_connections_while_kubernetes_sees_nothing() {
    let (world, pods) = three_pods().await;
    reach(&world, json!({"state": "dead"})).await;
    for pod in &pods {
        eventually("the pod refuses", || refuses_owned(address(pod))).await;
    }
    assert_eq!(all_ready(&world).await, 3, "probes come from the node");
    // A pod that is born into it is reached by its probe, and by nobody else.
    world.control(Method::PUT, &format!("{SHOP}/workloads/web"), json!({"replicas": 4})).await;
    let pods = world.settled("blue").await;
    assert_eq!((pods.len(), all_ready(&world).await), (4, 4));
    for pod in &pods {
        refuses(&address(pod)).await.unwrap();
    }
    let shown = reach(&world, json!({"state": "alive"})).await;
    assert_eq!(shown, json!({"cluster": "alive", "nodes": {}, "gone": [], "lost": []}));
    for pod in &pods {
        eventually("the pod answers again", || answers_owned(address(pod))).await;
    }
}

async fn refuses_owned(url: String) -> Result<(), String> {
    refuses(&url).await
}

async fn answers_owned(url: String) -> Result<(), String> {
    answers(&url).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_data_plane_takes_connections_and_answers_when_it_is_back() {
    let (world, pods) = three_pods().await;
    reach(&world, json!({"state": "silent"})).await;
    let url = address(&pods[0]);
    let mut waiting = tokio::spawn(async move { try_fetch(Method::GET, &url, None).await });
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "nothing comes back: {early:?}");
    assert_eq!(all_ready(&world).await, 3);
    reach(&world, json!({"state": "alive"})).await;
    let (status, _) = waiting.await.unwrap().expect("the request that waited is answered");
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_is_dead_takes_its_own_pods_with_it_and_no_others() {
    let (world, pods) = three_pods().await;
    let shown = reach(&world, json!({"state": "dead", "zones": ["eu-central-1b"]})).await;
    assert_eq!(shown["nodes"], json!({"blue-node-2": "dead"}));
    for pod in &pods {
        if pod["node"] == "blue-node-2" {
            eventually("it refuses", || refuses_owned(address(pod))).await;
        } else {
            answers(&address(pod)).await.unwrap();
        }
    }
    for (body, word) in [
        (json!({"state": "dead", "zones": ["eu-west-1a"]}), "eu-central-1b"),
        (json!({"state": "dead", "nodes": ["blue-node-9"]}), "blue-node-1"),
        (json!({"state": "gone"}), "silent"),
        (json!({"state": "dead", "flap": {"down_ms": 0, "up_ms": 100}}), "at least 10"),
    ] {
        let (status, answer) = world.try_control(Method::POST, "/clusters/blue/dataplane", body).await;
        assert!((400..500).contains(&status) && answer.to_string().contains(word), "{status} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_cluster_dies_and_comes_back_until_it_is_told_otherwise() {
    let (world, pods) = three_pods().await;
    reach(&world, json!({"state": "dead", "flap": {"down_ms": 150, "up_ms": 150}})).await;
    for _ in 0..2 {
        eventually("it refuses", || refuses_owned(address(&pods[0]))).await;
        eventually("it answers", || answers_owned(address(&pods[0]))).await;
    }
    reach(&world, json!({"state": "alive"})).await;
    eventually("it answers", || answers_owned(address(&pods[0]))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_is_noticed_late_and_then_its_pods_are_not_ready() {
    let (world, pods) = three_pods().await;
    let lost = pods[0]["node"].as_str().unwrap().to_owned();
    let path = format!("/clusters/blue/nodes/{lost}");
    world.control(Method::POST, &format!("{path}/lose"), json!({"noticed_after_ms": 600})).await;
    assert_eq!(all_ready(&world).await, 3, "nobody has noticed yet");
    eventually("the cluster notices", || async {
        match all_ready(&world).await {
            2 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    let seen = world.show("blue").await;
    let of_node = seen["pods"].as_array().unwrap().iter().find(|pod| pod["node"] == lost.as_str()).unwrap();
    assert_eq!(of_node["ready"], false);
    // What is new goes elsewhere.
    world.control(Method::PUT, &format!("{SHOP}/workloads/web"), json!({"replicas": 6})).await;
    eventually("the new pods are ready", || async {
        let shown = world.show("blue").await;
        if shown["ready"] == 5 { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    let shown = world.show("blue").await;
    let placed = shown["pods"].as_array().unwrap().iter().filter(|pod| pod["node"] == lost.as_str()).count();
    assert_eq!(placed, 1, "{shown}");
    world.control(Method::POST, &format!("{path}/return"), json!({})).await;
    eventually("all pods are ready again", || async {
        let shown = world.show("blue").await;
        if shown["ready"] == 6 { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_dead_data_plane_answers_on_no_node_port() {
    let world = World::start().await;
    world.control(Method::PUT, &format!("{SHOP}/workloads/web"), json!({"replicas": 3})).await;
    let service = json!({"name": "web", "selector": {"app": "web"}, "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "target_port": "http", "node_port": 30_600}]});
    world.control(Method::POST, &format!("{SHOP}/services"), service).await;
    world.settled("blue").await;
    let info = world.sandbox.info().vpc_cidr.clone();
    let block = info.split('.').nth(1).unwrap();
    let node = format!("http://127.{block}.224.1:30600/");
    eventually("the node answers", || answers_owned(node.clone())).await;
    reach(&world, json!({"state": "dead", "nodes": ["blue-node-1"]})).await;
    eventually("the node does not", || async {
        match try_fetch(Method::GET, &node, None).await {
            Err(_) => Ok(()),
            Ok(answer) => Err(format!("{answer:?}")),
        }
    })
    .await;
    let other = format!("http://127.{block}.224.2:30600/");
    eventually("another node passes on to the pods that are left", || answers_owned(other.clone())).await;
    reach(&world, json!({"state": "alive"})).await;
    eventually("the node answers again", || answers_owned(node.clone())).await;
}

fn aws(world: &World) -> elbv2::Client {
    let info = world.sandbox.info();
    elbv2::Client::from_conf(
        elbv2::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(info.region.clone()))
            .endpoint_url(&info.elb_url)
            .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build(),
    )
}

/// A group with the pods of blue behind a rule for everything; gives the address of the listener.
async fn behind_a_load_balancer(world: &World, pods: &[Value]) -> String {
    let aws = aws(world);
    let made = aws
        .create_target_group()
        .name("blue")
        .protocol(ProtocolEnum::Http)
        .port(8080)
        .vpc_id(&world.sandbox.info().vpc_id)
        .target_type(TargetTypeEnum::Ip)
        .health_check_path("/healthz")
        .health_check_interval_seconds(5)
        .health_check_timeout_seconds(4)
        .healthy_threshold_count(2)
        .unhealthy_threshold_count(2)
        .send()
        .await
        .unwrap();
    let group = made.target_groups()[0].target_group_arn().unwrap().to_owned();
    let body = json!({"name": "shop", "listeners": [{"port": 80}]});
    let balancer = world.control(Method::POST, "/elb/load-balancers", body).await;
    let tuple = TargetGroupTuple::builder().target_group_arn(&group).weight(1).build();
    let forward = ForwardActionConfig::builder().target_groups(tuple).build();
    let action = Action::builder().r#type(ActionTypeEnum::Forward).forward_config(forward).build();
    let path = PathPatternConditionConfig::builder().values("/*").build();
    let condition = RuleCondition::builder().field("path-pattern").path_pattern_config(path).build();
    let listener = &balancer["listeners"][0];
    let rule = aws.create_rule().listener_arn(listener["arn"].as_str().unwrap()).priority(1);
    rule.conditions(condition).actions(action).send().await.unwrap();
    let targets =
        pods.iter().map(|pod| TargetDescription::builder().id(pod["ip"].as_str().unwrap()).port(8080).build());
    aws.register_targets().target_group_arn(&group).set_targets(Some(targets.collect())).send().await.unwrap();
    listener["address"].as_str().unwrap().to_owned()
}

async fn health_changes(world: &World, to: &str) -> Vec<Value> {
    let log = world.control(Method::GET, "/elb/health", Value::Null).await;
    log["changes"].as_array().unwrap().iter().filter(|change| change["to"] == to).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_balancer_notices_a_dead_data_plane_and_its_logs_tell_when() {
    let (world, pods) = three_pods().await;
    let address = behind_a_load_balancer(&world, &pods).await;
    let three = |to: &'static str| {
        let world = &world;
        move || async move {
            let seen = health_changes(world, to).await;
            if seen.len() == 3 { Ok(seen) } else { Err(format!("{seen:?}")) }
        }
    };
    eventually("all are healthy", three("healthy")).await;
    let load = json!({"target": format!("http://{address}/"), "rps": 100, "connections": 4});
    let load = world.control(Method::POST, "/load", load).await["id"].clone();
    let killed = jiff::Timestamp::now();
    reach(&world, json!({"state": "dead"})).await;
    let noticed = eventually("all are unhealthy", three("unhealthy")).await;
    let at = |text: &Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    for change in &noticed {
        assert!(at(&change["time"]) > killed && change["from"] == "healthy", "{change}");
    }
    let ids: BTreeSet<&str> = noticed.iter().filter_map(|change| change["id"].as_str()).collect();
    assert_eq!(ids.len(), 3);
    // A group whose targets are all unhealthy fails open: clients see errors, not another group.
    let (status, _) = fetch(Method::GET, &format!("http://{address}/"), None).await;
    assert_eq!(status, 502);
    reach(&world, json!({"state": "alive"})).await;
    eventually("all are healthy again", || async {
        let seen = health_changes(&world, "healthy").await;
        if seen.len() == 6 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let report = world.control(Method::DELETE, &format!("/load/{load}"), Value::Null).await;
    let (from, until) = (at(&report["failing_from"]), at(&report["failing_until"]));
    assert!(from < until && from > killed - jiff::SignedDuration::from_millis(500), "{report}");
    assert!(at(&noticed[0]["time"]) < until, "errors go on until somebody moves the traffic");
}
