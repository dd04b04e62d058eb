//! Control routes for Services and workloads. A workload is a Deployment whose pods carry the sandbox's annotations; what is
//! written here could as well be written with a Kubernetes client.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Body, Control, ControlError, Shared};
use crate::kube::kinds::{DEPLOYMENTS, SERVICES};
use crate::kube::object::Object;
use crate::kube::status::ApiError;
use crate::kube::store::Store;
use crate::kube::write::{self, DeleteOptions, PatchKind, Target, WriteOptions};
use crate::workload::{behaviour, deployment};

/// Pods of one workload; a cluster has addresses for some thousands.
const REPLICA_LIMIT: u32 = 5_000;
/// Label that ties a workload's pods to it, whatever other labels they have.
const WORKLOAD: &str = "sandbox.switchyard.dev/workload";

type Answer = Result<Json<Value>, ControlError>;
type Named = Path<(String, String, String)>;

pub fn routes() -> Router<Arc<Control>> {
    Router::new()
        .route("/clusters/{cluster}/namespaces/{namespace}/services", post(create_service))
        .route("/clusters/{cluster}/namespaces/{namespace}/services/{name}", patch(select).delete(delete_service))
        .route(
            "/clusters/{cluster}/namespaces/{namespace}/workloads/{name}",
            get(show).put(put).delete(delete_workload),
        )
        .route("/clusters/{cluster}/namespaces/{namespace}/workloads/{name}/rollout", post(rollout))
}

/// `http` or `8080`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServicePort {
    #[serde(default)]
    name: Option<String>,
    port: u16,
    #[serde(default)]
    target_port: Option<TargetPort>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceRequest {
    name: String,
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

async fn create_service(
    State(control): Shared,
    Path((cluster, namespace)): Path<(String, String)>,
    Body(request): Body<ServiceRequest>,
) -> Answer {
    let cluster = control.cluster(&cluster)?;
    cluster.ensure_namespace(&namespace)?;
    let ports: Vec<Value> = request
        .ports
        .iter()
        .map(|port| {
            let mut out = json!({"port": port.port});
            if let Some(name) = &port.name {
                out["name"] = json!(name);
            }
            if let Some(target) = &port.target_port {
                out["targetPort"] = json!(target);
            }
            out
        })
        .collect();
    let mut spec = json!({"selector": request.selector, "ports": ports});
    if let Some(kind) = &request.kind {
        spec["type"] = json!(kind);
    }
    let target = Target::new(SERVICES, &namespace, &request.name);
    let created = write::create(&cluster.store, &target, json!({"spec": spec}), &WriteOptions::default())?;
    Ok(Json(created.value().clone()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SelectorRequest {
    selector: BTreeMap<String, String>,
}

async fn select(
    State(control): Shared,
    Path((cluster, namespace, name)): Named,
    Body(request): Body<SelectorRequest>,
) -> Answer {
    let target = Target::new(SERVICES, &namespace, &name);
    let operations = json!([{"op": "add", "path": "/spec/selector", "value": request.selector}]);
    let store = &control.cluster(&cluster)?.store;
    let (object, _) = write::patch(store, &target, PatchKind::Json, &operations, &WriteOptions::default())?;
    Ok(Json(object.value().clone()))
}

async fn delete_service(State(control): Shared, Path((cluster, namespace, name)): Named) -> Answer {
    let target = Target::new(SERVICES, &namespace, &name);
    let done = write::delete(&control.cluster(&cluster)?.store, &target, &DeleteOptions::default())?;
    Ok(Json(done))
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedPort {
    name: String,
    port: u16,
}

/// A workload; every field but `replicas` has a default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WorkloadRequest {
    replicas: u32,
    labels: BTreeMap<String, String>,
    ports: Vec<NamedPort>,
    version: String,
    ready_after_ms: u64,
    termination_grace_ms: u64,
    latency_ms: u64,
    max_surge: u32,
    max_unavailable: u32,
    min_ready_ms: u64,
    /// Condition types that must be true for a pod to be ready.
    readiness_gates: Vec<String>,
}

impl Default for WorkloadRequest {
    fn default() -> Self {
        Self {
            replicas: 1,
            labels: BTreeMap::new(),
            ports: vec![NamedPort { name: "http".to_owned(), port: 8080 }],
            version: "v1".to_owned(),
            ready_after_ms: 0,
            termination_grace_ms: 0,
            latency_ms: 0,
            max_surge: 1,
            max_unavailable: 0,
            min_ready_ms: 0,
            readiness_gates: Vec::new(),
        }
    }
}

impl WorkloadRequest {
    /// The Deployment this workload is.
    fn deployment(&self, name: &str) -> Value {
        let mut labels = self.labels.clone();
        if labels.is_empty() {
            labels.insert("app".to_owned(), name.to_owned());
        }
        labels.insert(WORKLOAD.to_owned(), name.to_owned());
        let ports: Vec<Value> =
            self.ports.iter().map(|p| json!({"name": p.name, "containerPort": p.port, "protocol": "TCP"})).collect();
        // Long enough for the sleep before the end and for requests in flight after it.
        let grace_seconds = self.termination_grace_ms.div_ceil(1_000) + 10;
        let mut pod = json!({
            "containers": [{"name": "app", "image": format!("sandbox/{name}:{}", self.version), "ports": ports}],
            "terminationGracePeriodSeconds": grace_seconds,
        });
        if !self.readiness_gates.is_empty() {
            pod["readinessGates"] = self.readiness_gates.iter().map(|g| json!({"conditionType": g})).collect();
        }
        let annotations = json!({
            behaviour::VERSION: self.version, behaviour::READY_AFTER: self.ready_after_ms.to_string(),
            behaviour::TERMINATION_GRACE: self.termination_grace_ms.to_string(),
            behaviour::LATENCY: self.latency_ms.to_string(),
        });
        json!({
            "metadata": {"annotations": {behaviour::MIN_READY: self.min_ready_ms.to_string()}},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": {WORKLOAD: name}},
                "strategy": {"type": "RollingUpdate",
                             "rollingUpdate": {"maxSurge": self.max_surge, "maxUnavailable": self.max_unavailable}},
                "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
            },
        })
    }
}

async fn put(
    State(control): Shared,
    Path((cluster, namespace, name)): Named,
    Body(request): Body<WorkloadRequest>,
) -> Answer {
    if request.replicas > REPLICA_LIMIT {
        let value = request.replicas.to_string();
        return Err(ControlError::Field { field: "replicas", value, remedy: "use at most 5000" });
    }
    if request.ports.is_empty() || request.ports.iter().any(|p| p.port == 0) {
        let remedy = "name at least one port from 1 to 65535";
        return Err(ControlError::Field { field: "ports", value: format!("{:?}", request.ports), remedy });
    }
    let cluster = control.cluster(&cluster)?;
    cluster.ensure_namespace(&namespace)?;
    let target = Target::new(DEPLOYMENTS, &namespace, &name);
    let wanted = request.deployment(&name);
    let options = WriteOptions::default();
    let written = match write::update(&cluster.store, &target, wanted.clone(), &options) {
        Err(error) if error.code == 404 => write::create(&cluster.store, &target, wanted, &options)?,
        other => other?,
    };
    Ok(Json(summary(&cluster.store, &written)))
}

async fn delete_workload(State(control): Shared, Path((cluster, namespace, name)): Named) -> Answer {
    let target = Target::new(DEPLOYMENTS, &namespace, &name);
    let done = write::delete(&control.cluster(&cluster)?.store, &target, &DeleteOptions::default())?;
    Ok(Json(done))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RolloutRequest {
    version: String,
}

async fn rollout(
    State(control): Shared,
    Path((cluster, namespace, name)): Named,
    Body(request): Body<RolloutRequest>,
) -> Answer {
    let store = &control.cluster(&cluster)?.store;
    let found = find(store, &namespace, &name)?;
    let image = format!("sandbox/{name}:{}", request.version);
    // A version that is already there is rolled out again, as `kubectl rollout restart` does.
    let change = json!({"spec": {"template": {
        "metadata": {"annotations": {behaviour::VERSION: request.version,
                                     "kubectl.kubernetes.io/restartedAt": jiff::Timestamp::now().to_string()}},
        "spec": {"containers": [{"name": "app", "image": image}]}}}});
    let target = Target::new(DEPLOYMENTS, found.namespace(), found.name());
    let (written, _) = write::patch(store, &target, PatchKind::Strategic, &change, &WriteOptions::default())?;
    Ok(Json(summary(store, &written)))
}

async fn show(State(control): Shared, Path((cluster, namespace, name)): Named) -> Answer {
    let store = &control.cluster(&cluster)?.store;
    Ok(Json(summary(store, &*find(store, &namespace, &name)?)))
}

fn find(store: &Store, namespace: &str, name: &str) -> Result<Arc<Object>, ApiError> {
    store.get(DEPLOYMENTS, namespace, name).ok_or_else(|| ApiError::not_found(DEPLOYMENTS.row(), name))
}

/// What the pods of a workload are doing, terminating ones included.
fn summary(store: &Store, deployment: &Object) -> Value {
    let hash = deployment::template_hash(deployment);
    let wanted = deployment::wanted(deployment).replicas;
    let pods = deployment::pods_of(store, deployment);
    let (mut ready, mut updated, mut active) = (0, 0, 0);
    let mut shown = Vec::with_capacity(pods.len());
    for pod in &pods {
        let is_ready = pod.condition("Ready");
        let current = pod.label("pod-template-hash") == Some(&hash);
        if !pod.terminating() {
            active += 1;
            ready += usize::from(is_ready);
            updated += usize::from(current);
        }
        shown.push(json!({"name": pod.name(), "uid": pod.uid(), "ip": pod.text("/status/podIP"),
            "node": pod.text("/spec/nodeName"), "phase": pod.text("/status/phase"), "ready": is_ready,
            "terminating": pod.terminating(), "version": pod.annotation(behaviour::VERSION)}));
    }
    let done = updated == wanted && active == wanted && ready == wanted;
    json!({"replicas": wanted, "ready": ready, "updated": updated, "rolling": !done, "pods": shown})
}
