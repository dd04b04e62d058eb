//! yardctl as a process against the real hub: what a person and a pipeline see.

use serde_json::Value;
use switchyard_tests::{policy::Policy, process::Finished, programs, wait, world::World};

const POLICY: &str = "shop/checkout";

async fn run(world: &World, arguments: &[&str]) -> Finished {
    world.yardctl.run(arguments, "").await.expect("yardctl runs")
}

async fn document(world: &World, arguments: &[&str]) -> Value {
    let finished = world.yardctl.expect(arguments, "").await;
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {finished}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_lives_from_apply_to_delete() {
    let world = World::start().await;
    let example = programs::workspace().join("examples/checkout.yaml");
    let file = example.to_str().expect("a path in plain letters");
    let dry = world.yardctl.expect(&["apply", "-f", file, "--dry-run"], "").await;
    assert!(dry.stdout.contains("shop/checkout would be created"), "{dry}");
    assert_eq!(run(&world, &["status", POLICY]).await.code, 4, "a dry run stores nothing");
    let created = world.yardctl.expect(&["apply", "-f", file, "--wait", "converged"], "").await;
    assert!(created.stdout.contains("shop/checkout created (version 1)"), "{created}");
    let again = world.yardctl.expect(&["apply", "-f", file], "").await;
    assert!(again.stdout.contains("unchanged"), "{again}");
    let table = world.yardctl.expect(&["get", "policies"], "").await.stdout;
    assert!(table.contains("checkout") && table.contains("blue"), "{table}");
    let list = document(&world, &["get", "policies", "-o", "json"]).await;
    assert_eq!(list["policies"][0]["ref"]["name"], "checkout", "{list}");
    let clusters = document(&world, &["get", "clusters", "-o", "json"]).await;
    assert_eq!(clusters["clusters"][0]["link"], "connected", "{clusters}");
    let endpoints = document(&world, &["get", "endpoints", "-n", "shop", "checkout", "-o", "json"]).await;
    let endpoints = endpoints["endpoints"].as_array().expect("endpoints");
    assert_eq!(endpoints.len(), 6, "three pods in each of two clusters: {endpoints:?}");
    assert!(endpoints.iter().all(|e| e["eni_ids"].as_array().is_some_and(|ids| !ids.is_empty())), "{endpoints:?}");
    let page = world.yardctl.expect(&["status", POLICY], "").await.stdout;
    assert!(page.starts_with("shop/checkout  CONVERGED"), "{page}");
    let plan = world.yardctl.expect(&["plan"], "").await.stdout;
    assert!(!plan.contains("ModifyRule"), "there is nothing to do: {plan}");
    let gone = world.yardctl.expect(&["delete", "policy", POLICY, "--wait"], "").await;
    assert_eq!(gone.code, 0);
    assert_eq!(run(&world, &["status", POLICY]).await.code, 4);
    let state = world.elb().state().await.expect("the state");
    assert!(state.target_groups.is_empty(), "nothing is left behind: {state:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_guarded_by_version_and_repeated_by_request_id() {
    let world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
    let version = |document: &Value| document["version"].as_u64().expect("a version");
    let before = version(&document(&world, &["status", POLICY, "-o", "json"]).await);
    wait::until("the dry run to show the change of the rule", async || {
        let dry = world.yardctl.expect(&["weights", POLICY, "blue=50", "green=50", "--dry-run"], "").await;
        wait::check(dry.stdout.contains("ModifyRule"), || dry.to_string())
    })
    .await;
    assert_eq!(version(&document(&world, &["status", POLICY, "-o", "json"]).await), before, "a dry run stores nothing");
    let first = ["weights", POLICY, "blue=50", "green=50", "--request-id", "release-42", "-o", "json"];
    let answer = document(&world, &first).await;
    let repeated = document(&world, &first).await;
    assert_eq!(answer["policy"]["version"], repeated["policy"]["version"], "the same id gets the first answer");
    assert_eq!(answer["policy"]["version"], before + 1);
    let other = ["weights", POLICY, "blue=1", "green=99", "--request-id", "release-42"];
    assert_eq!(run(&world, &other).await.code, 5, "an id is for one change");
    let expected = before.to_string();
    let late = ["weights", POLICY, "blue=1", "green=99", "--expected-version", &expected];
    let conflict = run(&world, &late).await;
    assert_eq!(conflict.code, 5, "somebody was faster: {conflict}");
    world.yardctl.weights_until_converged(POLICY, &["blue=10", "green=90"]).await;
    // A new spec with other weights supersedes what was set; the same spec does not.
    let same = Policy::new("checkout", &[("blue", 100), ("green", 0)]);
    world.yardctl.apply_until_converged(&same).await;
    let weights = |state: switchyard_tests::elb::State| state.weights(POLICY).expect("one rule");
    let kept = weights(world.elb().state().await.expect("the state"));
    assert_eq!(kept.get("green"), Some(&90), "{kept:?}");
    world.yardctl.apply_until_converged(&Policy::new("checkout", &[("blue", 60), ("green", 40)])).await;
    let superseded = weights(world.elb().state().await.expect("the state"));
    assert_eq!(superseded.get("green"), Some(&40), "{superseded:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_failure_has_its_exit_code_and_a_remedy() {
    let mut world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
    let table: [(&[&str], i32); 5] = [
        (&["weights", POLICY, "blue"], 2),
        (&["apply", "-f", "no-such-file.yaml"], 2),
        (&["weights", POLICY, "red=10"], 3),
        (&["status", "shop/nothing"], 4),
        (&["weights", POLICY, "blue=1", "--expected-version", "999"], 5),
    ];
    for (arguments, code) in table {
        let finished = run(&world, arguments).await;
        assert_eq!(finished.code, code, "{arguments:?}: {finished}");
        assert!(finished.stderr.contains("error:"), "{arguments:?}: {finished}");
    }
    let mut json = vec!["-o", "json"];
    json.extend(["status", "shop/nothing"]);
    let failed = run(&world, &json).await;
    let failure: Value = serde_json::from_str(&failed.stdout).unwrap_or_else(|e| panic!("{e}: {failed}"));
    assert_eq!((failed.code, failure["error"]["kind"].as_str()), (4, Some("not_found")), "{failed}");
    world.hub.stop().await.expect("the hub ends well");
    let away = run(&world, &["get", "policies", "--timeout", "2s"]).await;
    assert_eq!(away.code, 6, "{away}");
    assert!(away.stderr.contains("remedy:"), "{away}");
}
