//! What a kubelet writes on a pod: node, address, conditions, container states. Pure changes of JSON, and the two store
//! operations that carry them. Tests are at the end of the file.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::behaviour;
use crate::kube::kinds::PODS;
use crate::kube::object::{Object, child, metadata, now, text};
use crate::kube::status::ApiError;
use crate::kube::store::{Key, Store, Write};
use crate::kube::strategy;

/// What a kubelet knows of a pod's containers.
#[derive(Debug, Clone, Copy)]
pub struct Health {
    pub ip: Ipv4Addr,
    pub started: bool,
    /// Whether the process is there at all.
    pub running: bool,
    pub containers_ready: bool,
}

/// Changes the pod of this uid, unless the change changes nothing. Gives the pod as it then is.
pub fn write(store: &Store, key: &Key, uid: &str, change: impl FnOnce(&mut Value)) -> Option<Arc<Object>> {
    let result = store.modify(PODS, key, |before| {
        let Some(before) = before.filter(|pod| pod.uid() == uid) else {
            return Ok::<_, ApiError>(Write::Nothing);
        };
        let mut value = before.value().clone();
        change(&mut value);
        Ok(if strategy::unchanged(before.value(), &value) { Write::Nothing } else { Write::Put(value) })
    });
    result.unwrap_or_default().filter(|pod| pod.uid() == uid)
}

/// Removes the pod of this uid; one with finalizers stays until they are gone.
pub fn remove(store: &Store, key: &Key, uid: &str) {
    let removed = store.modify(PODS, key, |before| {
        let Some(before) = before.filter(|pod| pod.uid() == uid) else {
            return Ok::<_, ApiError>(Write::Nothing);
        };
        let finalizers = before.value().pointer("/metadata/finalizers").and_then(Value::as_array);
        if finalizers.is_none_or(Vec::is_empty) {
            return Ok(Write::Remove);
        }
        let mut value = before.value().clone();
        metadata(&mut value).insert("deletionGracePeriodSeconds".into(), json!(0));
        Ok(if strategy::unchanged(before.value(), &value) { Write::Nothing } else { Write::Put(value) })
    });
    if let Err(error) = removed {
        tracing::error!(pod = %key.1, %error, "a pod that ended could not be removed");
    }
}

/// The conditions that a kubelet and a scheduler write; those of others are theirs.
const OWN_CONDITIONS: [&str; 4] = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];

/// What a kubelet sends to an API server to bring a pod to this state: a strategic merge patch that says nothing of what others
/// write, such as the conditions of readiness gates, and that fails for another pod of the same name.
pub fn patch(pod: &Value) -> Value {
    let mut status = pod["status"].clone();
    if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
        conditions.retain(|c| c["type"].as_str().is_some_and(|kind| OWN_CONDITIONS.contains(&kind)));
    }
    let mut meta = json!({"uid": pod["metadata"]["uid"]});
    if let Some(eni) = pod["metadata"]["annotations"].get(behaviour::POD_ENI) {
        meta["annotations"] = json!({behaviour::POD_ENI: eni});
    }
    json!({"metadata": meta, "status": status})
}

/// Binds the pod to a node, unless it has one.
pub fn schedule(pod: &mut Value, node: &str) {
    if !text(pod, "/spec/nodeName").is_empty() {
        return;
    }
    child(pod, "spec").insert("nodeName".into(), json!(node));
    set_condition(pod, "PodScheduled", true, "");
}

/// Brings the status in line with the containers. Conditions of others (readiness gates) stay.
pub fn refresh(pod: &mut Value, health: &Health) {
    let gates_open = readiness_gates_open(pod);
    let since = text(pod, "/metadata/creationTimestamp").to_owned();
    let node_ip = health.ip.to_string();
    let statuses = container_statuses(pod, health, &since);
    let status = child(pod, "status");
    status.insert("phase".into(), json!("Running"));
    status.insert("podIP".into(), json!(node_ip));
    status.insert("podIPs".into(), json!([{"ip": node_ip}]));
    status.entry("startTime").or_insert_with(|| json!(now()));
    status.insert("containerStatuses".into(), statuses);
    set_condition(pod, "Initialized", true, "");
    let why = if health.containers_ready { "" } else { "ContainersNotReady" };
    set_condition(pod, "ContainersReady", health.containers_ready, why);
    let why = match (health.containers_ready, gates_open) {
        (false, _) => "ContainersNotReady",
        (true, false) => "ReadinessGatesNotReady",
        (true, true) => "",
    };
    set_condition(pod, "Ready", health.containers_ready && gates_open, why);
    let annotations = child(&mut pod["metadata"], "annotations");
    annotations.insert(behaviour::POD_ENI.into(), json!(behaviour::pod_eni(health.ip)));
}

/// The last status of a pod that ended.
pub fn complete(pod: &mut Value) {
    let status = child(pod, "status");
    status.insert("phase".into(), json!("Succeeded"));
    if let Some(Value::Array(containers)) = status.get_mut("containerStatuses") {
        for container in containers {
            container["ready"] = json!(false);
            container["started"] = json!(false);
            container["state"] = json!({"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now()}});
        }
    }
    set_condition(pod, "ContainersReady", false, "PodCompleted");
    set_condition(pod, "Ready", false, "PodCompleted");
}

fn container_statuses(pod: &Value, health: &Health, since: &str) -> Value {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array).cloned().unwrap_or_default();
    let state = if health.running {
        json!({"running": {"startedAt": since}})
    } else {
        json!({"waiting": {"reason": "CrashLoopBackOff"}})
    };
    containers
        .iter()
        .map(|c| {
            json!({"name": c["name"], "image": c["image"], "imageID": "", "restartCount": 0, "state": state,
                "ready": health.containers_ready, "started": health.started && health.running})
        })
        .collect()
}

fn readiness_gates_open(pod: &Value) -> bool {
    let Some(gates) = pod.pointer("/spec/readinessGates").and_then(Value::as_array) else {
        return true;
    };
    let none = Vec::new();
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).unwrap_or(&none);
    gates.iter().all(|gate| conditions.iter().any(|c| c["type"] == gate["conditionType"] && c["status"] == "True"))
}

fn set_condition(pod: &mut Value, kind: &str, on: bool, reason: &str) {
    let wanted = if on { "True" } else { "False" };
    let status = child(pod, "status");
    let slot = status.entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(conditions) = slot else { return };
    let mut fresh = json!({"type": kind, "status": wanted, "lastProbeTime": null, "lastTransitionTime": now()});
    if !reason.is_empty() {
        fresh["reason"] = json!(reason);
    }
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        // The time is that of the last change of status.
        Some(old) if old["status"] == wanted => {
            fresh["lastTransitionTime"] = old["lastTransitionTime"].take();
            *old = fresh;
        }
        Some(old) => *old = fresh,
        None => conditions.push(fresh),
    }
}

/// TCP ports of all containers, each once.
pub fn ports(pod: &Object) -> Vec<u16> {
    let containers = pod.value().pointer("/spec/containers").and_then(Value::as_array);
    let numbers = containers.into_iter().flatten().filter_map(|c| c["ports"].as_array()).flatten();
    let mut ports: Vec<u16> = numbers
        .filter(|port| port["protocol"].as_str().unwrap_or("TCP") == "TCP")
        .filter_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok())
        .filter(|port| *port > 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Name of the workload a pod belongs to; its own name if it stands alone.
pub fn workload(pod: &Object) -> String {
    if let Some(name) = pod.label(behaviour::WORKLOAD) {
        return name.to_owned();
    }
    let owners = pod.value().pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let owner = owners.and_then(|list| list.iter().find(|o| o["controller"] == true));
    owner.and_then(|o| o["name"].as_str()).unwrap_or(pod.name()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTHY: Health =
        Health { ip: Ipv4Addr::new(127, 20, 1, 1), started: true, running: true, containers_ready: true };

    fn pod(gates: Value) -> Value {
        json!({"metadata": {"name": "web-1"}, "status": {},
            "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}],
                     "readinessGates": gates}})
    }

    fn ready(value: &Value) -> bool {
        Object::new(value.clone()).condition("Ready")
    }

    #[test]
    fn a_readiness_gate_holds_ready_back_until_its_condition_is_true() {
        let mut value = pod(json!([{"conditionType": "switchyard.dev/ready"}]));
        refresh(&mut value, &HEALTHY);
        assert!(!ready(&value) && Object::new(value.clone()).condition("ContainersReady"));
        let Some(Value::Array(conditions)) = value.pointer_mut("/status/conditions") else { panic!("no conditions") };
        conditions.push(json!({"type": "switchyard.dev/ready", "status": "True"}));
        refresh(&mut value, &HEALTHY);
        assert!(ready(&value));
    }

    #[test]
    fn refreshing_an_unchanged_pod_changes_nothing() {
        let mut value = pod(json!([]));
        refresh(&mut value, &HEALTHY);
        let before = value.clone();
        refresh(&mut value, &HEALTHY);
        assert_eq!(before, value);
    }

    #[test]
    fn a_completed_pod_is_not_ready() {
        let mut value = pod(json!([]));
        refresh(&mut value, &HEALTHY);
        assert!(ready(&value));
        complete(&mut value);
        assert!(!ready(&value));
        assert_eq!(value["status"]["phase"], "Succeeded");
    }

    #[test]
    fn what_is_sent_to_a_server_leaves_the_conditions_of_others_alone() {
        let mut value = pod(json!([{"conditionType": "switchyard.dev/ready"}]));
        value["metadata"]["uid"] = json!("u1");
        value["status"]["conditions"] = json!([{"type": "switchyard.dev/ready", "status": "False"}]);
        refresh(&mut value, &HEALTHY);
        let sent = patch(&value);
        let kinds: Vec<&str> =
            sent["status"]["conditions"].as_array().unwrap().iter().filter_map(|c| c["type"].as_str()).collect();
        assert_eq!(kinds, ["Initialized", "ContainersReady", "Ready"]);
        assert_eq!(sent["metadata"]["uid"], "u1");
        assert_eq!(sent["metadata"]["annotations"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn only_tcp_ports_are_served() {
        assert_eq!(ports(&Object::new(pod(json!([])))), [8080]);
    }
}
