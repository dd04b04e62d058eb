//! The load generator against real servers: it counts what clients see, keeps its rate, and hides no wait.

mod kube_support;

use http::Method;
use kube_support::{World, eventually};
use serde_json::{Value, json};

async fn start(world: &World, spec: Value) -> u64 {
    world.control(Method::POST, "/load", spec).await["id"].as_u64().expect("a load has a number")
}

async fn finished(world: &World, id: u64) -> Value {
    eventually("the load ends", || async {
        let report = world.control(Method::GET, &format!("/load/{id}"), Value::Null).await;
        if report["running"] == false { Ok(report) } else { Err(report.to_string()) }
    })
    .await
}

async fn one_pod(world: &World, workload: Value) -> String {
    world.web("blue", workload).await;
    let pods = world.settled("blue").await;
    format!("http://{}:8080/", pods[0]["ip"].as_str().expect("the pod has an address"))
}

#[tokio::test]
async fn every_request_that_was_due_is_sent_and_counted() {
    let world = World::start().await;
    let target = one_pod(&world, json!({"replicas": 1, "version": "v3"})).await;
    for keep_alive in [true, false] {
        let spec =
            json!({"target": target, "rps": 400, "connections": 8, "duration_ms": 500, "keep_alive": keep_alive});
        let report = finished(&world, start(&world, spec).await).await;
        assert_eq!(report["sent"], 200, "{report}");
        assert_eq!((&report["ok"], &report["failed"]), (&json!(200), &json!(0)), "{report}");
        assert_eq!(report["by_status"], json!({"200": 200}));
        assert_eq!(report["by_cluster"], json!({"blue": 200}));
        assert_eq!(report["by_version"], json!({"v3": 200}));
    }
}

#[tokio::test]
async fn a_stall_shows_in_the_latency_of_the_requests_it_delayed() {
    let world = World::start().await;
    // One connection that takes 100 ms an answer, for 50 requests a second: the queue grows by 40 a second.
    let target = one_pod(&world, json!({"replicas": 1, "latency_ms": 100})).await;
    let spec = json!({"target": target, "rps": 50, "connections": 1, "duration_ms": 500});
    let report = finished(&world, start(&world, spec).await).await;
    assert_eq!((&report["sent"], &report["ok"]), (&json!(25), &json!(25)), "{report}");
    let slowest = report["latency_ms"]["max"].as_f64().expect("max is a number");
    assert!(slowest >= 1_500.0, "the last of 25 was due at 480 ms and done at 2.5 s, not after {slowest} ms");
}

#[tokio::test]
async fn failures_carry_their_reason_and_windows_their_own_counts() {
    let world = World::start().await;
    let target = one_pod(&world, json!({"replicas": 1})).await;
    let id = start(&world, json!({"target": target, "rps": 200, "connections": 4})).await;
    let at_least = |field: &'static str, wanted: u64| {
        let world = &world;
        eventually("the counter rises", move || async move {
            let report = world.control(Method::GET, &format!("/load/{id}"), Value::Null).await;
            if report[field].as_u64() >= Some(wanted) { Ok(()) } else { Err(report.to_string()) }
        })
    };
    at_least("ok", 20).await;
    world.control(Method::POST, "/clusters/blue/pods/mode", json!({"mode": "erroring"})).await;
    at_least("failed", 10).await;
    world.control(Method::POST, "/clusters/blue/pods/mode", json!({"mode": "normal"})).await;
    let marked = world.control(Method::POST, &format!("/load/{id}/mark"), json!({"name": "after"})).await;
    assert_eq!(marked["name"], "after");
    let so_far = world.control(Method::GET, &format!("/load/{id}"), Value::Null).await["ok"].as_u64().unwrap_or(0);
    at_least("ok", so_far + 20).await;
    let report = world.control(Method::DELETE, &format!("/load/{id}"), Value::Null).await;
    assert_eq!(report["running"], false);
    assert_eq!(report["by_status"]["500"], report["failed"]);
    assert_eq!(report["failures"][0]["status"], 500);
    let window = &report["windows"][0];
    assert!(window["ok"].as_u64() >= Some(20) && window["sent"].as_u64() < report["sent"].as_u64(), "{window}");
    let (status, _) = world.try_control(Method::GET, &format!("/load/{id}"), Value::Null).await;
    assert_eq!(status, 404, "a deleted load is gone");
}

#[tokio::test]
async fn a_refused_connection_and_a_hung_server_fail_with_names_of_their_own() {
    let world = World::start().await;
    let target = one_pod(&world, json!({"replicas": 1})).await;
    world.control(Method::POST, "/clusters/blue/pods/mode", json!({"mode": "hung"})).await;
    let spec = json!({"target": target, "rps": 100, "connections": 4, "duration_ms": 100, "timeout_ms": 50});
    let report = finished(&world, start(&world, spec).await).await;
    assert_eq!(report["by_error"], json!({"no answer within 50 ms": 10}), "{report}");
    world.control(Method::POST, "/clusters/blue/pods/mode", json!({"mode": "crashed"})).await;
    let spec = json!({"target": target, "rps": 100, "connections": 4, "duration_ms": 100});
    let refused = eventually("connections are refused", || async {
        let report = finished(&world, start(&world, spec.clone()).await).await;
        let count = report["by_error"]["connect: connection refused"].as_u64();
        if count == Some(10) { Ok(report) } else { Err(report.to_string()) }
    })
    .await;
    assert_eq!(refused["failed"], 10);
}
