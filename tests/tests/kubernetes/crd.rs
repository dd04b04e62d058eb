//! The custom resource definitions, judged by a real API server: what it refuses, and that the hub's own validation (`core`)
//! judges alike. The cases are in [`cases`] (policies) and [`shifts`], made-up ones in [`random`], what kubectl shows in
//! [`kubectl`].
//!
//! One server for this module, since definitions are the same for all namespaces of a server.

mod cases;
mod kubectl;
mod random;
mod shifts;

use std::sync::atomic::{AtomicU32, Ordering};

use kube::{Client, core::Status};
use serde_json::{Value, json};
use switchyard_core::{
    policy::{ClusterTrafficPolicy, Violation, validate, validate_update},
    shift::{self, TrafficShift},
};
use switchyard_tests::{
    programs,
    realkube::{Options, RealKube},
    wait,
};
use tokio::sync::OnceCell;

/// Every policy and every shift of these tests is in it.
const NAMESPACE: &str = "shop";

static SERVER: OnceCell<RealKube> = OnceCell::const_new();

/// The server with the definitions of the chart and the namespace [`NAMESPACE`].
async fn server() -> &'static RealKube {
    let started = SERVER.get_or_try_init(|| async {
        let kube = RealKube::start(Options::default()).await?;
        for entry in std::fs::read_dir(programs::workspace().join("charts/switchyard-crds/templates"))? {
            kube.apply(&std::fs::read_to_string(entry?.path())?).await;
        }
        let created = kube.kubectl(&["create", "namespace", NAMESPACE]).await?;
        anyhow::ensure!(created.code == 0, "{created}");
        // A definition is served a moment after it was taken, and explained another moment later.
        wait::until_within("the definitions to be served", wait::PATIENCE, async || {
            for name in ["ctp", "tshift"] {
                let explained = kube.kubectl(&["explain", name]).await?;
                anyhow::ensure!(explained.code == 0, "{explained}");
            }
            anyhow::Ok(())
        })
        .await?;
        anyhow::Ok(kube)
    });
    started.await.unwrap_or_else(|error| panic!("{error:#}"))
}

fn collection(document: &Value) -> String {
    let plural = if is_shift(document) { "trafficshifts" } else { "clustertrafficpolicies" };
    format!("/apis/switchyard.dev/v1alpha1/namespaces/{NAMESPACE}/{plural}")
}

fn is_shift(document: &Value) -> bool {
    document["kind"] == shift::spec::KIND
}

/// One fault as either judge names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    field: String,
    message: String,
}

/// Yes, or everything that is wrong.
type Verdict = Result<(), Vec<Fault>>;

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    client.request(request.body(body).expect("a request")).await
}

/// As kubectl asks it to: unknown fields are refused, nothing is stored.
const DRY: &str = "dryRun=All&fieldValidation=Strict";

fn verdict(answer: Result<Value, kube::Error>) -> Verdict {
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => Err(faults(&status)),
        Err(error) => panic!("the server neither takes nor refuses it: {error}"),
    }
}

fn faults(status: &Status) -> Vec<Fault> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let faults: Vec<Fault> =
        causes.map(|cause| Fault { field: cause.field.clone(), message: cause.message.clone() }).collect();
    if faults.is_empty() {
        // What cannot be decoded is told in one sentence, which holds the field.
        return vec![Fault { field: String::new(), message: status.message.clone() }];
    }
    faults
}

async fn server_judges(client: &Client, document: &Value) -> Verdict {
    verdict(send(client, "POST", &format!("{}?{DRY}", collection(document)), document).await)
}

/// Whether what stands may become this. It stands under a name of its own: the tests share a server, and others ask it about new ones.
async fn server_judges_update(client: &Client, standing: &Value, new: &Value) -> Verdict {
    static STANDING: AtomicU32 = AtomicU32::new(0);
    let name = format!("standing-{}", STANDING.fetch_add(1, Ordering::Relaxed));
    let mut standing = standing.clone();
    standing["metadata"]["name"] = json!(name);
    let standing = &standing;
    let stored = send(client, "POST", &collection(standing), standing)
        .await
        .unwrap_or_else(|error| panic!("{error}: {standing}"));
    let path = format!("{}/{}", collection(standing), stored["metadata"]["name"].as_str().expect("a name"));
    let mut new = new.clone();
    new["metadata"]["name"] = json!(name);
    new["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    let judged = verdict(send(client, "PUT", &format!("{path}?{DRY}"), &new).await);
    send(client, "DELETE", &path, &Value::Null).await.expect("it is deleted");
    judged
}

fn read(document: &Value) -> Result<ClusterTrafficPolicy, Vec<Fault>> {
    let read = serde_json::from_value(document.clone());
    read.map_err(|error| vec![Fault { field: String::new(), message: error.to_string() }])
}

fn core_judges(document: &Value) -> Verdict {
    if is_shift(document) {
        let read: TrafficShift = serde_json::from_value(document.clone())
            .map_err(|error| vec![Fault { field: String::new(), message: error.to_string() }])?;
        let namespace = NAMESPACE.parse().expect("a namespace");
        // As the hub judges what comes from a resource: bound to the resource's namespace.
        let judged = shift::validate(&read.spec, &namespace, true);
        return judged.map(drop).map_err(|found| found.iter().map(fault).collect());
    }
    validate(&read(document)?).map(drop).map_err(|found| found.iter().map(fault).collect())
}

fn core_judges_update(standing: &Value, new: &Value) -> Verdict {
    let policy = |document: &Value| validate(&read(document).expect("it can be read")).expect("it is valid");
    validate_update(&policy(standing), &policy(new)).map_err(|found| found.iter().map(fault).collect())
}

fn fault(violation: &Violation) -> Fault {
    Fault { field: violation.field.clone(), message: violation.to_string() }
}

/// A policy that both take, to be changed.
fn base() -> Value {
    json!({
        "apiVersion": "switchyard.dev/v1alpha1",
        "kind": "ClusterTrafficPolicy",
        "metadata": {"name": "checkout", "namespace": NAMESPACE},
        "spec": {
            "listener": {"loadBalancer": "shared", "port": 443},
            "match": {"paths": [{"value": "/checkout"}]},
            "backend": {"service": {"name": "checkout", "port": "http"}},
            "clusters": [{"name": "blue", "weight": 100}, {"name": "green", "weight": 0}],
        },
    })
}

/// Lays a change over a document: objects are merged, everything else is replaced, null removes.
fn lay(document: &mut Value, change: Value) {
    match (document, change) {
        (Value::Object(document), Value::Object(change)) => {
            for (name, value) in change {
                if value.is_null() {
                    document.remove(&name);
                } else {
                    lay(document.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (document, change) => *document = change,
    }
}

/// The base with a change, which is the YAML of a part of `spec`.
fn changed(change: &str) -> Value {
    with(base(), change)
}

/// A document with a change, which is the YAML of a part of `spec`.
fn with(mut document: Value, change: &str) -> Value {
    let change: Value = serde_norway::from_str(change).unwrap_or_else(|error| panic!("{change}: {error}"));
    lay(&mut document, json!({"spec": change}));
    document
}
