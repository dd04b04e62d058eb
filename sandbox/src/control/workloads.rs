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
use crate::kube::write::{PatchKind, Target};
use crate::objects::Objects;
use crate::workload::behaviour;

mod summary;

use summary::summary;

/// Pods of one workload; a cluster has addresses for some thousands.
const REPLICA_LIMIT: u32 = 5_000;

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
    #[serde(default)]
    node_port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceRequest {
    name: String,
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    /// `Cluster` or `Local`.
    #[serde(default)]
    external_traffic_policy: Option<String>,
}

async fn create_service(
    State(control): Shared,
    Path((cluster, namespace)): Path<(String, String)>,
    Body(request): Body<ServiceRequest>,
) -> Answer {
    let cluster = control.cluster(&cluster)?;
    cluster.ensure_namespace(&namespace).await?;
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
            if let Some(number) = port.node_port {
                out["nodePort"] = json!(number);
            }
            out
        })
        .collect();
    let mut spec = json!({"selector": request.selector, "ports": ports});
    if let Some(kind) = &request.kind {
        spec["type"] = json!(kind);
    }
    if let Some(policy) = &request.external_traffic_policy {
        spec["externalTrafficPolicy"] = json!(policy);
    }
    let target = Target::new(SERVICES, &namespace, &request.name);
    Ok(Json(cluster.objects.create(&target, json!({"spec": spec})).await?))
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
    Ok(Json(control.cluster(&cluster)?.objects.patch(&target, PatchKind::Json, &operations).await?))
}

async fn delete_service(State(control): Shared, Path((cluster, namespace, name)): Named) -> Answer {
    let target = Target::new(SERVICES, &namespace, &name);
    Ok(Json(control.cluster(&cluster)?.objects.delete(&target).await?))
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
        labels.insert(behaviour::WORKLOAD.to_owned(), name.to_owned());
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
                "selector": {"matchLabels": {behaviour::WORKLOAD: name}},
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
    cluster.ensure_namespace(&namespace).await?;
    let target = Target::new(DEPLOYMENTS, &namespace, &name);
    let mut deployment = request.deployment(&name);
    if matches!(cluster.objects, Objects::External(_)) && request.min_ready_ms > 0 {
        // The real controller knows no annotation of the sandbox, and counts in seconds.
        deployment["spec"]["minReadySeconds"] = json!(request.min_ready_ms.div_ceil(1_000));
    }
    let written = cluster.objects.put(&target, deployment).await?;
    Ok(Json(summary(&cluster.objects, &Object::new(written))))
}

async fn delete_workload(State(control): Shared, Path((cluster, namespace, name)): Named) -> Answer {
    let target = Target::new(DEPLOYMENTS, &namespace, &name);
    Ok(Json(control.cluster(&cluster)?.objects.delete(&target).await?))
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
    let objects = &control.cluster(&cluster)?.objects;
    let image = format!("sandbox/{name}:{}", request.version);
    // A version that is already there is rolled out again, as `kubectl rollout restart` does.
    let change = json!({"spec": {"template": {
        "metadata": {"annotations": {behaviour::VERSION: request.version,
                                     "kubectl.kubernetes.io/restartedAt": jiff::Timestamp::now().to_string()}},
        "spec": {"containers": [{"name": "app", "image": image}]}}}});
    let target = Target::new(DEPLOYMENTS, &namespace, &name);
    let written = objects.patch(&target, PatchKind::Strategic, &change).await?;
    Ok(Json(summary(objects, &Object::new(written))))
}

async fn show(State(control): Shared, Path((cluster, namespace, name)): Named) -> Answer {
    let objects = &control.cluster(&cluster)?.objects;
    Ok(Json(summary(objects, &*find(objects, &namespace, &name)?)))
}

fn find(objects: &Objects, namespace: &str, name: &str) -> Result<Arc<Object>, ApiError> {
    let found = objects.store().get(DEPLOYMENTS, namespace, name);
    found.ok_or_else(|| ApiError::not_found(DEPLOYMENTS.row(), name))
}
