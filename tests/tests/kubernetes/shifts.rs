//! Shifts that are asked for by TrafficShift resources: the agent and the hub as processes, a real API server, the sandbox's load
//! balancer under traffic, and kubectl as people and CD systems use it.

use serde_json::{Value, json};
use switchyard_tests::{programs, wait};

use super::policies::{POLICY, Place, Source, policy, weights};

/// With the definition of TrafficShift beside that of policies.
async fn source() -> Source {
    let source = Source::start("platform").await;
    let path = programs::workspace().join("charts/switchyard-crds/templates/trafficshifts.yaml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    source.kube.apply(&text).await;
    let arguments = ["wait", "--for=condition=Established", "crd/trafficshifts.switchyard.dev", "--timeout=60s"];
    source.kubectl(&arguments).await;
    source
}

/// A place with the policy served, all of it by blue.
async fn place(source: &Source) -> Place {
    let place = Place::start(&[source]).await;
    source.apply(&policy(100, 0)).await;
    source.serves("blue=100,green=0", 1).await;
    place.world.all_healthy(POLICY).await;
    place
}

fn shift(name: &str, spec: &Value) -> String {
    let mut whole = json!({"policies": [{"name": "checkout", "to": "green"}]});
    for (field, value) in spec.as_object().expect("fields") {
        whole[field] = value.clone();
    }
    json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": "TrafficShift",
        "metadata": {"name": name, "namespace": "shop"}, "spec": whole})
    .to_string()
}

async fn apply(source: &Source, manifest: &str) {
    let finished = source.kube.kubectl_with(&["apply", "-f", "-"], manifest).await.expect("kubectl runs");
    assert_eq!(finished.code, 0, "{manifest}\n{finished}");
}

async fn patch(source: &Source, name: &str, spec: &Value) {
    let patch = json!({"spec": spec}).to_string();
    source.kubectl(&["-n", "shop", "patch", "tshift", name, "--type=merge", "-p", &patch]).await;
}

async fn status(source: &Source, name: &str) -> Value {
    let text = source.kubectl(&["-n", "shop", "get", "tshift", name, "-o", "json"]).await;
    serde_json::from_str::<Value>(&text).expect("JSON")["status"].clone()
}

/// Waits until the resource shows this, and gives its status.
async fn shows(source: &Source, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    wait::until(&format!("{name} to show {what}"), async || {
        let status = status(source, name).await;
        if holds(&status) { Ok(status) } else { Err(format!("{status:#}")) }
    })
    .await
}

async fn complete(source: &Source, name: &str) {
    let resource = format!("trafficshift/{name}");
    source.kubectl(&["-n", "shop", "wait", "--for=condition=Complete", &resource, "--timeout=60s"]).await;
}

/// The shifts that the hub knows.
async fn known_to_hub(place: &Place) -> Vec<Value> {
    let finished = place.world.yardctl.run(&["history", POLICY, "-o", "json"], "").await.expect("yardctl runs");
    assert_eq!(finished.code, 0, "{finished}");
    serde_json::from_str::<Value>(&finished.stdout).expect("JSON")["shifts"].as_array().cloned().expect("a list")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_moves_the_traffic_in_steps_with_an_approval_and_kubectl_wait_returns() {
    let source = source().await;
    let place = place(&source).await;
    let load = place.world.load("checkout", 200).await;
    let steps = json!({"strategy": {"steps": [
        {"percent": 25, "gates": [{"name": "healthy", "targetHealth": {"minHealthyPercent": 100}, "intervalSeconds": 5}]},
        {"percent": 50, "approval": true},
        {"percent": 100},
    ]}, "reason": "release 42"});
    apply(&source, &shift("to-green", &steps)).await;
    let waiting = shows(&source, "to-green", "that it waits", |status| status["state"] == "AwaitingApproval").await;
    assert_eq!((&waiting["step"], &waiting["steps"], &waiting["programmed"]), (&json!(2), &json!(3), &json!(true)));
    assert_eq!(waiting["weights"], "checkout: blue=50,green=50");
    assert_eq!(place.world.elb().state().await.expect("a state").weights(POLICY), Some(weights(50, 50)));
    let page = source.kubectl(&["-n", "shop", "get", "tshift"]).await;
    assert!(page.contains("AwaitingApproval") && page.contains("blue=50,green=50"), "{page}");

    patch(&source, "to-green", &json!({"approvedStep": 2})).await;
    complete(&source, "to-green").await;
    let ended = status(&source, "to-green").await;
    assert_eq!(
        (&ended["state"], &ended["ended"], &ended["converged"]),
        (&json!("Succeeded"), &json!(true), &json!(true))
    );
    assert_eq!(place.world.elb().state().await.expect("a state").weights(POLICY), Some(weights(0, 100)));
    source.tells("Normal", "Succeeded", "step 3 of 3").await;
    // The policy shows what is asked for; its spec is as its author wrote it.
    let shown = source.serves("blue=0,green=100", 1).await;
    assert_eq!(shown["spec"]["clusters"][0]["weight"], 100);
    load.finish_without_failures().await;
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_resource_makes_one_shift_whatever_is_restarted_meanwhile_and_the_next_waits_for_its_turn() {
    let source = source().await;
    let mut place = place(&source).await;
    let load = place.world.load("checkout", 200).await;
    let held = json!({"strategy": {"steps": [{"percent": 50, "approval": true}, {"percent": 100}]}});
    apply(&source, &shift("first", &held)).await;
    shows(&source, "first", "that it waits", |status| status["state"] == "AwaitingApproval").await;
    let back = json!({"policies": [{"name": "checkout", "to": "blue"}]});
    apply(&source, &shift("second", &back)).await;
    let waiting = shows(&source, "second", "that it waits", |status| status["state"] == "Waiting").await;
    assert_eq!(waiting["reason"], "Busy");

    place.world.hub.kill_9();
    place.agents.0[0].kill_9();
    place.world.hub.start_again().await.expect("the hub comes back");
    place.agents.0[0].start_again().expect("the agent comes back");
    patch(&source, "first", &json!({"approvedStep": 1})).await;
    complete(&source, "first").await;
    complete(&source, "second").await;
    assert_eq!(place.world.elb().state().await.expect("a state").weights(POLICY), Some(weights(100, 0)));

    // A change of a resource that has ended makes nothing move any more, and neither does an agent that starts anew.
    patch(&source, "first", &json!({"abort": true})).await;
    place.agents.0[0].stop().await.expect("the agent ends well");
    place.agents.0[0].start_again().expect("the agent comes back");
    apply(&source, &shift("third", &back)).await;
    complete(&source, "third").await;
    let known = known_to_hub(&place).await;
    assert_eq!(known.len(), 3, "{known:#?}");
    load.finish_without_failures().await;
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_is_paused_and_taken_back_by_kubectl_and_one_at_fault_says_why() {
    let source = source().await;
    let place = place(&source).await;
    let load = place.world.load("checkout", 200).await;
    let bakes = json!({"strategy": {"steps": [{"percent": 10, "bakeSeconds": 3600}, {"percent": 100}]}});
    apply(&source, &shift("slow", &bakes)).await;
    shows(&source, "slow", "that it bakes", |status| status["state"] == "Baking").await;
    patch(&source, "slow", &json!({"paused": true})).await;
    shows(&source, "slow", "that it is paused", |status| status["paused"] == true).await;
    patch(&source, "slow", &json!({"paused": false, "abort": true})).await;
    let arguments = ["-n", "shop", "wait", "--for=condition=Failed", "trafficshift/slow", "--timeout=60s"];
    source.kubectl(&arguments).await;
    assert_eq!(status(&source, "slow").await["state"], "Aborted");
    assert_eq!(place.world.elb().state().await.expect("a state").weights(POLICY), Some(weights(100, 0)));

    let unknown = json!({"gates": [{"name": "errors", "success": "< 0.01",
        "prometheus": {"source": "nobody", "query": "up"}}]});
    apply(&source, &shift("at-fault", &unknown)).await;
    let refused = shows(&source, "at-fault", "a refusal", |status| status["ended"] == true).await;
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(refused["state"] == "Refused" && message.contains("--prometheus"), "{refused:#}");
    source.tells("Warning", "Refused", "--prometheus").await;
    // Deleting a resource changes nothing of what its shift did.
    source.kubectl(&["-n", "shop", "delete", "tshift", "--all", "--timeout=10s"]).await;
    load.finish_without_failures().await;
    place.stop().await;
}
