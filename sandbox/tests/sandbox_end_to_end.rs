//! All parts together: two clusters behind one weighted rule, with a stand-in for the product in the middle (a watcher that
//! registers ready pods and deregisters the others). If a request fails here, the sandbox itself is at fault.

mod kube_support;

use std::collections::BTreeSet;

use aws_sdk_elasticloadbalancingv2 as elbv2;
use elbv2::config::{BehaviorVersion, Credentials, Region};
use elbv2::types::{
    Action, ActionTypeEnum, ForwardActionConfig, PathPatternConditionConfig, ProtocolEnum, RuleCondition,
    TargetDescription, TargetGroupAttribute, TargetGroupTuple, TargetTypeEnum,
};
use futures::StreamExt;
use http::Method;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube_support::{World, eventually};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

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

async fn target_group(aws: &elbv2::Client, world: &World, name: &str) -> String {
    let made = aws
        .create_target_group()
        .name(name)
        .protocol(ProtocolEnum::Http)
        .port(8080)
        .vpc_id(&world.sandbox.info().vpc_id)
        .target_type(TargetTypeEnum::Ip)
        .health_check_path("/healthz")
        .health_check_interval_seconds(5)
        .health_check_timeout_seconds(4)
        .healthy_threshold_count(2)
        .send()
        .await
        .unwrap();
    let arn = made.target_groups()[0].target_group_arn().unwrap().to_owned();
    let delay = TargetGroupAttribute::builder().key("deregistration_delay.timeout_seconds").value("10").build();
    aws.modify_target_group_attributes().target_group_arn(&arn).attributes(delay).send().await.unwrap();
    arn
}

fn forward(weights: &[(&str, i32)]) -> Action {
    let tuple =
        |(arn, weight): &(&str, i32)| TargetGroupTuple::builder().target_group_arn(*arn).weight(*weight).build();
    let config = ForwardActionConfig::builder().set_target_groups(Some(weights.iter().map(tuple).collect())).build();
    Action::builder().r#type(ActionTypeEnum::Forward).forward_config(config).build()
}

async fn rule(aws: &elbv2::Client, listener: &str, action: Action) -> String {
    let path = PathPatternConditionConfig::builder().values("/*").build();
    let condition = RuleCondition::builder().field("path-pattern").path_pattern_config(path).build();
    let request = aws.create_rule().listener_arn(listener).priority(1).conditions(condition).actions(action);
    request.send().await.unwrap().rules()[0].rule_arn().unwrap().to_owned()
}

fn targets(addresses: impl Iterator<Item = String>) -> Option<Vec<TargetDescription>> {
    let list: Vec<_> = addresses.map(|ip| TargetDescription::builder().id(ip).port(8080).build()).collect();
    (!list.is_empty()).then_some(list)
}

/// Keeps a target group in line with the ready endpoints of a cluster, until the guard is dropped.
async fn keep_registered(world: &World, cluster: &str, group: String) -> DropGuard {
    let api: Api<EndpointSlice> = Api::namespaced(world.client(cluster).await, "shop");
    let (aws, stop) = (aws(world), CancellationToken::new());
    let guard = stop.clone().drop_guard();
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut stream = watcher(api, watcher::Config::default()).boxed();
        let mut slices = std::collections::BTreeMap::new();
        let mut registered = BTreeSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Apply(slice) | Event::InitApply(slice)) => drop(slices.insert(slice.name_any(), slice)),
                Ok(Event::Delete(slice)) => drop(slices.remove(&slice.name_any())),
                Ok(_) | Err(_) => {}
            }
            let all = slices.values().flat_map(|slice| &slice.endpoints);
            let ready = all.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)));
            let wanted: BTreeSet<String> = ready.map(|e| e.addresses[0].clone()).collect();
            if let Some(new) = targets(wanted.difference(&registered).cloned()) {
                aws.register_targets().target_group_arn(&group).set_targets(Some(new)).send().await.unwrap();
            }
            if let Some(old) = targets(registered.difference(&wanted).cloned()) {
                aws.deregister_targets().target_group_arn(&group).set_targets(Some(old)).send().await.unwrap();
            }
            registered = wanted;
        }
    }));
    guard
}

async fn healthy(aws: &elbv2::Client, group: &str, wanted: usize) {
    eventually("all targets are healthy", || async {
        let health = aws.describe_target_health().target_group_arn(group).send().await.map_err(|e| format!("{e:?}"))?;
        let all = health.target_health_descriptions();
        let healthy = all
            .iter()
            .filter(|t| t.target_health().is_some_and(|h| h.state().is_some_and(|s| s.as_str() == "healthy")));
        if healthy.count() == wanted { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_weights_move_and_every_pod_of_both_clusters_is_replaced() {
    let world = World::start().await;
    let workload = json!({"replicas": 3, "ready_after_ms": 50, "termination_grace_ms": 2_000});
    let aws = aws(&world);
    let balancer = json!({"name": "shared", "listeners": [{"port": 8080, "protocol": "HTTP"}], "tags": {}});
    let balancer = world.control(Method::POST, "/elb/load-balancers", balancer).await;
    let listener = &balancer["listeners"][0];
    // The stand-in for the product calls for every single change; a budget for that is the product's business.
    let generous = json!({"rates": {"register": {"rate": 1_000.0, "burst": 1_000.0}}});
    world.control(Method::POST, "/elb/limits", generous).await;
    let (mut groups, mut guards) = (Vec::new(), Vec::new());
    for cluster in ["blue", "green"] {
        world.web(cluster, workload.clone()).await;
        world.settled(cluster).await;
        let group = target_group(&aws, &world, cluster).await;
        guards.push(keep_registered(&world, cluster, group.clone()).await);
        groups.push(group);
    }
    let (blue, green) = (groups[0].as_str(), groups[1].as_str());
    let arn = rule(&aws, listener["arn"].as_str().unwrap(), forward(&[(blue, 1), (green, 1)])).await;
    healthy(&aws, blue, 3).await;
    healthy(&aws, green, 3).await;

    let target = format!("http://{}/checkout", listener["address"].as_str().unwrap());
    let spec = json!({"target": target, "host": "shop.example.com", "rps": 200, "connections": 16});
    let id = world.control(Method::POST, "/load", spec).await["id"].clone();
    for (version, weights) in [("v2", (9, 1)), ("v3", (1, 9))] {
        for cluster in ["blue", "green"] {
            let path = format!("/clusters/{cluster}/namespaces/shop/workloads/web/rollout");
            world.control(Method::POST, &path, json!({"version": version})).await;
        }
        let action = forward(&[(blue, weights.0), (green, weights.1)]);
        aws.modify_rule().rule_arn(&arn).actions(action).send().await.unwrap();
        for cluster in ["blue", "green"] {
            world.settled(cluster).await;
        }
        // Old pods end after their grace: requests go on until they are gone.
        eventually("the old pods are gone", || async {
            let left = [world.show("blue").await, world.show("green").await];
            let pods = left.iter().map(|shown| shown["pods"].as_array().map_or(0, Vec::len)).sum::<usize>();
            if pods == 6 { Ok(()) } else { Err(format!("{pods} pods")) }
        })
        .await;
    }
    let report = world.control(Method::DELETE, &format!("/load/{id}"), Value::Null).await;
    let calls = world.control(Method::GET, "/elb/calls?since=0&mutating=true", Value::Null).await;
    assert_eq!(report["failed"], 0, "{report}\n{calls}");
    let count = |field: &str, key: &str| report[field][key].as_u64().unwrap_or(0);
    assert_eq!(count("by_status", "200"), report["sent"].as_u64().unwrap());
    for (field, key) in [("by_cluster", "blue"), ("by_cluster", "green"), ("by_version", "v1"), ("by_version", "v3")] {
        assert!(count(field, key) > 0, "{field} {key}: {report}");
    }
}
