//! schemathesis makes requests up from the gateway's own description, valid and invalid ones, and judges every answer by it.
//!
//! Not asked of it: `positive_data_acceptance` (no schema can say that a manifest has to be YAML of a policy, or that a cluster has to
//! exist), what needs links between calls, and streams, which do not end.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context;
use http::Method;
use serde_json::{Value, json};
use switchyard_hub::gateway::routes::{BINDINGS, Table};
use switchyard_tests::{client::Client, policy::Policy, process::Finished, world::World};
use tokio::process::Command;

use crate::open_gateway;

/// The folder that `scripts/schemathesis.sh` prints.
const FOLDER: &str = "SWITCHYARD_SCHEMATHESIS";
/// A run takes some 20 s; this is for one that hangs.
const DEADLINE: Duration = Duration::from_secs(240);
/// Printed with the output; another one, in the variable, tries other requests.
const SEED: &str = "20261121";
const SEED_VARIABLE: &str = "SWITCHYARD_SCHEMATHESIS_SEED";
/// Made-up requests for each call, beside those that schemathesis makes of each constraint in the description.
const EXAMPLES: u32 = 30;
/// What every answer is judged by.
const CHECKS: [&str; 9] = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "missing_required_header",
];

fn seed() -> String {
    std::env::var(SEED_VARIABLE).unwrap_or_else(|_| SEED.to_owned())
}

fn python() -> anyhow::Result<PathBuf> {
    let remedy = "run the tests with `make test`, or export SWITCHYARD_SCHEMATHESIS=$(scripts/schemathesis.sh) before";
    let folder = std::env::var_os(FOLDER).with_context(|| format!("{FOLDER} is not set: {remedy}"))?;
    let python = PathBuf::from(folder).join("bin/python");
    anyhow::ensure!(python.is_file(), "{FOLDER}: {} does not exist: {remedy}", python.display());
    Ok(python)
}

/// Runs schemathesis on a description, with these values for the parameters of paths.
async fn run(world: &World, gateway: &str, document: &Value, ids: &[(&str, &str)], more: &[&str]) -> Finished {
    let folder = tempfile::tempdir_in(world.folder()).expect("a folder");
    let description = folder.path().join("openapi.json");
    std::fs::write(&description, document.to_string()).expect("written");
    let values: String = ids.iter().map(|(name, value)| format!("\"path.{name}\" = \"{value}\"\n")).collect();
    let config = folder.path().join("schemathesis.toml");
    // Its own list for invalid requests leaves out that one may be too long.
    let refused = "[checks.negative_data_rejection]\nexpected-statuses = [400, 404, 405, 409, 413, 414, 415]\n";
    std::fs::write(&config, format!("{refused}[parameters]\n{values}")).expect("written");
    let mut command = Command::new(python().expect("schemathesis is installed"));
    command.args(["-m", "schemathesis.cli", "--config-file"]).arg(&config).arg("run").arg(&description);
    command.args(["--url", gateway, "--seed", &seed(), "--max-examples", &EXAMPLES.to_string()]);
    // One worker: two threads that read lambdas at once break the `ast` module of Python 3.11.
    command.args(["--checks", &CHECKS.join(","), "--workers", "1", "--request-timeout", "40"]);
    command.args(["--continue-on-failure", "--no-color", "--warnings", "off"]).args(more);
    // What it keeps between runs would make two runs differ.
    command.current_dir(folder.path()).env("PYTHONDONTWRITEBYTECODE", "1").env_remove("PYTHONPATH");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await.expect("it ends in time").expect("it runs");
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Calls that end.
fn calls() -> usize {
    let table = Table::new().expect("the table is good");
    let streams = table.routes.iter().filter(|route| route.method.is_server_streaming()).count();
    BINDINGS.len() - streams
}

/// The description, narrowed to requests that reach what is behind the first checks: of the policy and the clusters that there are,
/// with a request id in its one place.
fn narrowed(document: &Value) -> Value {
    let mut document = document.clone();
    let manifests: Vec<String> = [(100, 0), (50, 50), (0, 999), (1, 1000)]
        .into_iter()
        .map(|(blue, green)| Policy::new("checkout", &[("blue", blue), ("green", green)]).yaml())
        .collect();
    let clusters = json!({"enum": ["blue", "green", "red"]});
    let paths = document["paths"].as_object_mut().expect("paths");
    for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(|item| item.values_mut()) {
        let parameters = operation["parameters"].as_array_mut().expect("parameters");
        parameters.retain(|parameter| parameter["in"] != "header");
        let Some(body) = operation.pointer_mut("/requestBody/content/application~1json/schema") else { continue };
        if body["properties"]["requestId"].is_object() {
            body["required"] = json!(["requestId"]);
            // Each its own, else most requests are refused as another one of the same id.
            body["properties"]["requestId"] = json!({"type": "string", "format": "uuid"});
        }
        if body["properties"]["manifest"].is_object() {
            body["properties"]["manifest"] = json!({"enum": manifests});
        }
        if body["properties"]["weights"].is_object() {
            body["properties"]["weights"]["propertyNames"] = clusters.clone();
        }
    }
    let schemas = &mut document["components"]["schemas"];
    schemas["PolicyRefInput"]["required"] = json!(["namespace", "name"]);
    schemas["PolicyRefInput"]["properties"]["namespace"] = json!({"enum": ["shop"]});
    schemas["PolicyRefInput"]["properties"]["name"] = json!({"enum": ["checkout", "nobody"]});
    let moved = schemas["ShiftPolicyInput"]["properties"].take();
    let weights = json!({"type": "object", "propertyNames": clusters.clone(), "minProperties": 1,
        "additionalProperties": moved["weights"]["additionalProperties"]});
    let to = |name: &str, value: Value| {
        let policy = json!({"$ref": "#/components/schemas/PolicyRefInput"});
        json!({"type": "object", "required": ["policy", name], "additionalProperties": false,
            "properties": {"policy": policy, name: value}})
    };
    schemas["ShiftPolicyInput"] = json!({"anyOf": [to("toCluster", clusters), to("weights", weights)]});
    let strategies = ["Linear", "Exponential", "Canary"].map(|kind| {
        let (name, schema) = (kind.to_lowercase(), format!("#/components/schemas/{kind}StrategyInput"));
        json!({"type": "object", "required": [name], "properties": {name: {"$ref": schema}}, "additionalProperties": false})
    });
    let spec = &mut schemas["ShiftSpecInput"];
    spec["required"] = json!(["policies", "reason"]);
    spec["properties"]["reason"]["minLength"] = json!(1);
    spec["properties"]["policies"]["maxItems"] = json!(1);
    spec["properties"]["strategy"] = json!({"anyOf": strategies});
    spec["properties"]["progressDeadlineSeconds"] = json!({"enum": [0, 30, 600, 86_400, 86_401]});
    spec["properties"]["gates"] = json!({"type": "array", "maxItems": 1, "items": {
        "type": "object", "required": ["name", "targetHealth"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z]+$"},
            "targetHealth": {"$ref": "#/components/schemas/TargetHealthGateInput"},
        },
    }});
    document
}

/// A switch, and a shift that waits for an approval, so that made-up requests meet something.
async fn furnish(client: &Client) -> String {
    let switch = json!({"requestId": "switch", "policies": ["elsewhere/*"], "on": true, "reason": "furniture"});
    let set: Value =
        client.call(Method::PUT, "/v1/gating-switches/checkout", Some(&switch)).await.expect("a switch is set");
    assert_eq!(set["switch"]["name"], "checkout", "{set}");
    let policy = json!({"policy": {"namespace": "shop", "name": "checkout"}, "weights": {"blue": 60, "green": 40}});
    let steps = json!([{"percent": 50, "approval": true}, {"percent": 100}]);
    let shift = json!({"requestId": "shift", "spec": {"policies": [policy], "strategy": {"steps": steps}}});
    let made: Value = client.post("/v1/shifts", &shift).await.expect("a shift is made");
    made["shift"]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_answers_made_up_requests_as_its_description_says() {
    let mut world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
    let gateway = open_gateway(&mut world).await;
    let client = Client::new(gateway.clone());
    world.hub_knows("shop/checkout").await;
    let shift = furnish(&client).await;
    let document: Value = client.get("/openapi.json").await.expect("a description");
    let ids = [("namespace", "shop"), ("name", "checkout"), ("id", shift.as_str())];
    // First valid requests to what is there, and it stays there. Then valid and invalid ones of every kind.
    let deep = ["--mode", "positive", "--phases", "fuzzing", "--exclude-operation-id-regex", "^(Watch|DeletePolicy)"];
    let broad = ["--phases", "examples,coverage,fuzzing", "--exclude-operation-id-regex", "^Watch"];
    let runs = [(narrowed(&document), &deep[..], calls() - 1), (document, &broad[..], calls())];
    for (document, how, calls) in runs {
        let finished = run(&world, &gateway, &document, &ids, how).await;
        println!("seed {}\n{}", seed(), finished.stdout);
        assert_eq!(finished.code, 0, "seed {}: {finished}", seed());
        let tested = format!("Tested: {calls}\n");
        assert!(finished.stdout.contains(&tested), "not every call was tried ({tested}): {finished}");
    }
    let log = std::fs::read_to_string(world.folder().join("hub.log")).expect("the log");
    let bad: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ") || line.contains("panicked")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_that_lies_is_found_out() {
    let mut world = World::start().await;
    let gateway = open_gateway(&mut world).await;
    let mut document: Value = Client::new(gateway.clone()).get("/openapi.json").await.expect("a description");
    document["components"]["schemas"]["Cluster"]["properties"]["region"] = json!({"type": "integer"});
    let only = ["--phases", "examples,coverage,fuzzing", "--include-operation-id", "ListClusters"];
    let finished = run(&world, &gateway, &document, &[], &only).await;
    assert_eq!(finished.code, 1, "{finished}");
    assert!(finished.stdout.contains("Response violates schema") || finished.stdout.contains("region"), "{finished}");
    world.stop().await;
}
