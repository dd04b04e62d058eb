//! Control routes for API servers, permissions and pods.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{delete, patch, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Body, Control, ControlError, Shared};
use crate::addresses::Reuse;
use crate::kube::kinds::{NODES, PODS};
use crate::kube::rbac::Deny;
use crate::kube::server::Mode;
use crate::kube::write::{PatchKind, Target};
use crate::workload::behaviour::ModeRequest;

type Answer = Result<Json<Value>, ControlError>;

pub fn routes() -> Router<Arc<Control>> {
    Router::new()
        .route("/clusters/{cluster}/api/{action}", post(api_action))
        .route("/clusters/{cluster}/rbac", post(deny).delete(allow_all).get(denied))
        .route("/clusters/{cluster}/nodes/{node}", patch(change_node).delete(delete_node))
        .route("/clusters/{cluster}/nodes/{node}/drain", post(drain_node))
        .route("/clusters/{cluster}/nodes/{node}/machine", delete(switch_off))
        .merge(super::dataplane::routes())
        .route("/clusters/{cluster}/pods/mode", post(mode_of_all))
        .route("/clusters/{cluster}/pods/ip-reuse", post(ip_reuse))
        .route("/clusters/{cluster}/pods/{namespace}/{pod}/mode", post(mode_of_one))
        .route("/clusters/{cluster}/pods/{namespace}/{pod}", delete(delete_pod))
}

async fn api_action(State(control): Shared, Path((cluster, action)): Path<(String, String)>) -> Answer {
    let api = control.api_server(&cluster)?;
    match action.as_str() {
        "stop" => api.set_mode(Mode::Stopped).await.map_err(ControlError::Mode)?,
        "start" => api.set_mode(Mode::Running).await.map_err(ControlError::Mode)?,
        "hang" => api.set_mode(Mode::Hung).await.map_err(ControlError::Mode)?,
        "restart" => api.restart().await.map_err(ControlError::Mode)?,
        "compact" => api.compact(),
        "wipe" => api.wipe(),
        "restore" => api.restore(),
        _ => {
            let known = "stop, start, restart, hang, compact, wipe, restore".to_owned();
            return Err(ControlError::Unknown { what: "action", name: action, known });
        }
    }
    tracing::info!(%cluster, %action, "the API server of a cluster was told to change");
    Ok(Json(json!({"cluster": cluster, "mode": api.mode()})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DenyRequest {
    deny: Vec<Deny>,
}

async fn deny(State(control): Shared, Path(cluster): Path<String>, Body(request): Body<DenyRequest>) -> Answer {
    let api = control.api_server(&cluster)?;
    let mut rules = api.deny();
    rules.extend(request.deny.into_iter().filter(|rule| !rules.contains(rule)).collect::<Vec<_>>());
    api.set_deny(rules.clone());
    Ok(Json(json!({"deny": rules})))
}

async fn allow_all(State(control): Shared, Path(cluster): Path<String>) -> Answer {
    control.api_server(&cluster)?.set_deny(Vec::new());
    Ok(Json(json!({"deny": []})))
}

async fn denied(State(control): Shared, Path(cluster): Path<String>) -> Answer {
    Ok(Json(json!({"deny": control.api_server(&cluster)?.deny()})))
}

async fn mode_of_all(State(control): Shared, Path(cluster): Path<String>, Body(request): Body<ModeRequest>) -> Answer {
    let pods = control.cluster(&cluster)?.kubelet.set_mode_of_all(request);
    Ok(Json(json!({"pods": pods})))
}

async fn mode_of_one(
    State(control): Shared,
    Path((cluster, namespace, pod)): Path<(String, String, String)>,
    Body(request): Body<ModeRequest>,
) -> Answer {
    let key = (namespace, pod);
    if control.cluster(&cluster)?.kubelet.set_mode(&key, request) {
        return Ok(Json(json!({"pods": 1})));
    }
    let known = format!("GET the workload in {:?} for its pods", key.0);
    Err(ControlError::Unknown { what: "running pod", name: key.1, known })
}

/// What is left out stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeRequest {
    /// Its condition Ready.
    #[serde(default)]
    ready: Option<bool>,
    /// Cordoned.
    #[serde(default)]
    unschedulable: Option<bool>,
    /// Labels to be set; `null` takes one away.
    #[serde(default)]
    labels: Option<Value>,
    /// In the place of all taints.
    #[serde(default)]
    taints: Option<Vec<Value>>,
}

async fn change_node(
    State(control): Shared,
    Path((cluster, node)): Path<(String, String)>,
    Body(request): Body<NodeRequest>,
) -> Answer {
    let objects = &control.cluster(&cluster)?.objects;
    let target = Target::new(NODES, "", &node);
    let mut body = json!({"spec": {}, "metadata": {}});
    if let Some(unschedulable) = request.unschedulable {
        body["spec"]["unschedulable"] = json!(unschedulable);
    }
    if let Some(taints) = request.taints {
        body["spec"]["taints"] = json!(taints);
    }
    if let Some(labels) = request.labels {
        body["metadata"]["labels"] = labels;
    }
    let mut changed = objects.patch(&target, PatchKind::Merge, &body).await?;
    if let Some(ready) = request.ready {
        let status = if ready { "True" } else { "False" };
        let conditions = json!([{"type": "Ready", "status": status, "reason": "ControlApi"}]);
        let target = Target { status: true, ..target };
        changed = objects.patch(&target, PatchKind::Strategic, &json!({"status": {"conditions": conditions}})).await?;
    }
    Ok(Json(changed))
}

/// The Node object goes; the machine runs on, as an instance does whose Node somebody deleted.
async fn delete_node(State(control): Shared, Path((cluster, node)): Path<(String, String)>) -> Answer {
    Ok(Json(control.cluster(&cluster)?.objects.delete(&Target::new(NODES, "", &node)).await?))
}

/// Cordons the node and deletes its pods, as `kubectl drain` does; whoever waits looks at the workloads.
async fn drain_node(State(control): Shared, Path((cluster, node)): Path<(String, String)>) -> Answer {
    let objects = &control.cluster(&cluster)?.objects;
    let target = Target::new(NODES, "", &node);
    objects.patch(&target, PatchKind::Merge, &json!({"spec": {"unschedulable": true}})).await?;
    let pods = objects.store().list(PODS, None).1;
    let here: Vec<_> = pods.iter().filter(|pod| pod.text("/spec/nodeName") == node && !pod.terminating()).collect();
    for pod in &here {
        objects.delete(&Target::new(PODS, pod.namespace(), pod.name())).await?;
    }
    Ok(Json(json!({"pods": here.len()})))
}

/// The machine goes, as when an instance is terminated; the Node object stays.
async fn switch_off(State(control): Shared, Path((cluster, node)): Path<(String, String)>) -> Answer {
    if control.cluster(&cluster)?.node_ports.switch_off(&node) {
        return Ok(Json(json!({})));
    }
    let known = "the nodes of the cluster that were not switched off yet".to_owned();
    Err(ControlError::Unknown { what: "machine", name: node, known })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReuseRequest {
    mode: Reuse,
}

async fn ip_reuse(State(control): Shared, Path(cluster): Path<String>, Body(request): Body<ReuseRequest>) -> Answer {
    control.cluster(&cluster)?.ips.set_reuse(request.mode);
    Ok(Json(json!({"mode": request.mode})))
}

async fn delete_pod(State(control): Shared, Path((cluster, namespace, pod)): Path<(String, String, String)>) -> Answer {
    let target = Target::new(PODS, &namespace, &pod);
    let object = control.cluster(&cluster)?.objects.delete(&target).await?;
    Ok(Json(json!({"uid": object["metadata"]["uid"]})))
}
