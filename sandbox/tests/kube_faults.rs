//! An API server that fails: refused permissions, stops, hangs, wipes. What pods do must not depend on it.

mod kube_support;

use std::time::Duration;

use futures::StreamExt;
use http::Method;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams, WatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube_support::{World, eventually, fetch, next};
use serde_json::{Value, json};

async fn act(world: &World, action: &str) {
    world.control(Method::POST, &format!("/clusters/blue/api/{action}"), Value::Null).await;
}

fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_permission_taken_away_refuses_requests_and_ends_running_watches() {
    let world = World::start().await;
    let client = world.client("blue").await;
    let api: Api<Pod> = Api::all(client.clone());
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = api.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let rules = json!({"deny": [{"verb": "list", "resource": "pods"}, {"verb": "watch", "resource": "pods"},
                                {"verb": "get", "resource": "services", "namespace": "default"}]});
    world.control(Method::POST, "/clusters/blue/rbac", rules).await;
    let Err(kube::Error::Api(status)) = api.list(&ListParams::default()).await else { panic!("the list is allowed") };
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
    assert!(status.message.contains("User \"sandbox-user\" cannot list resource \"pods\""), "{}", status.message);
    let end = tokio::time::timeout(kube_support::DEADLINE, watch.next()).await.expect("the watch ends");
    assert!(end.is_none_or(|event| event.is_err()), "a running watch ends without an event");
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    assert_eq!(code(services.get("x").await), 403);
    assert_eq!(
        code(Api::<Service>::namespaced(client, "kube-system").get("x").await),
        404,
        "another namespace is allowed"
    );
    assert!(services.list(&ListParams::default()).await.is_ok(), "another verb is allowed");
    world.control(Method::DELETE, "/clusters/blue/rbac", Value::Null).await;
    assert!(api.list(&ListParams::default()).await.is_ok());
}

#[tokio::test]
async fn a_wiped_server_answers_empty_lists_while_its_pods_go_on_and_restore_brings_all_back() {
    let world = World::start().await;
    world.web("blue", json!({"replicas": 2})).await;
    let pods = world.settled("blue").await;
    let api: Api<Pod> = Api::namespaced(world.client("blue").await, "shop");
    let mut stream = watcher(api.clone(), watcher::Config::default()).boxed();
    let mut lists = Vec::new();
    let mut count = 0;
    while lists.len() < 3 {
        match next(&mut stream).await {
            Ok(Event::Init) => count = 0,
            Ok(Event::InitApply(_)) => count += 1,
            Ok(Event::InitDone) => {
                lists.push(count);
                act(&world, if lists.len() == 1 { "wipe" } else { "restore" }).await;
            }
            // The end of the watch, and 410 for its old version.
            Ok(_) | Err(_) => {}
        }
        if lists.len() == 2 {
            assert!(api.list(&ListParams::default()).await.is_ok());
        }
    }
    assert_eq!(lists, [2, 0, 2]);
    for pod in pods {
        let url = format!("http://{}:8080/", pod["ip"].as_str().unwrap());
        assert_eq!(fetch(Method::GET, &url, None).await.0, 200);
    }
    world.control(Method::POST, "/clusters/blue/namespaces/shop/workloads/web/rollout", json!({"version": "v2"})).await;
    let after = world.settled("blue").await;
    assert!(after.iter().all(|pod| pod["version"] == "v2"), "controllers still work after a restore");
}

#[tokio::test]
async fn a_hung_server_answers_when_it_is_let_go() {
    let world = World::start().await;
    let api: Api<Pod> = Api::all(world.client("blue").await);
    act(&world, "hang").await;
    let mut asked = Box::pin(async { api.list(&ListParams::default()).await });
    let early = tokio::time::timeout(Duration::from_millis(300), &mut asked).await;
    assert!(early.is_err(), "a hung server answered");
    act(&world, "start").await;
    let late = tokio::time::timeout(kube_support::DEADLINE, asked).await.expect("it answers once it runs");
    assert!(late.is_ok());
}

#[tokio::test]
async fn pods_roll_while_the_server_is_stopped_and_the_port_stays_the_same() {
    let world = World::start().await;
    world.web("blue", json!({"replicas": 2})).await;
    world.settled("blue").await;
    let api: Api<Pod> = Api::namespaced(world.client("blue").await, "shop");
    act(&world, "stop").await;
    assert!(api.list(&ListParams::default()).await.is_err());
    world.control(Method::POST, "/clusters/blue/namespaces/shop/workloads/web/rollout", json!({"version": "v2"})).await;
    let pods = world.settled("blue").await;
    assert!(pods.iter().all(|p| p["version"] == "v2"));
    act(&world, "start").await;
    let names = eventually("the same client is answered again", || async {
        api.list(&ListParams::default()).await.map(|list| list.items.len()).map_err(|e| e.to_string())
    })
    .await;
    assert!(names >= 2);
    act(&world, "restart").await;
    eventually("and after a restart too", || async {
        api.list(&ListParams::default()).await.map(drop).map_err(|e| e.to_string())
    })
    .await;
}

#[tokio::test]
async fn control_requests_that_make_no_sense_are_refused_with_a_remedy() {
    let world = World::start().await;
    for (method, path, body, code, word) in [
        (Method::POST, "/clusters/red/api/stop", Value::Null, 404, "blue, green"),
        (Method::POST, "/clusters/blue/api/explode", Value::Null, 404, "stop, start"),
        (Method::POST, "/clusters/blue/pods/shop/none/mode", json!({"mode": "hung"}), 404, "none"),
        (Method::POST, "/clusters/blue/pods/mode", json!({"mode": "sad"}), 400, "sad"),
        (Method::PUT, "/clusters/blue/namespaces/shop/workloads/web", json!({"replicas": 9_999}), 400, "at most 5000"),
        (Method::PUT, "/clusters/blue/namespaces/shop/workloads/web", json!({"colour": 1}), 400, "colour"),
        (Method::GET, "/clusters/blue/namespaces/shop/workloads/none", Value::Null, 404, "none"),
        (Method::POST, "/load", json!({"target": "http://127.0.0.1:1/", "rps": 0}), 400, "1 to 20000"),
        (Method::POST, "/load", json!({"target": "ftp://x/", "rps": 1}), 400, "http://"),
        (Method::GET, "/load/77", Value::Null, 404, "77"),
    ] {
        let (status, answer) = world.try_control(method.clone(), path, body).await;
        let text = answer["error"].as_str().unwrap_or_default();
        assert!(status == code && text.contains(word), "{method} {path}: {status} {answer}");
    }
}
