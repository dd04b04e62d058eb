//! The EndpointSlice controller: which pods stand behind a Service, in which state, on which ports. `groups` and `arrange`
//! are pure; `reconcile` reads the store, asks them, and writes as a client would. Tests are at the end of the file.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::kube::kinds::{ENDPOINT_SLICES, NODES, PODS, SERVICES};
use crate::kube::object::{Object, now};
use crate::kube::selector::labels_include;
use crate::kube::status::ApiError;
use crate::kube::store::{Key, Store};
use crate::kube::write::{self, DeleteOptions, Target, WriteOptions};

/// Most endpoints of a slice (`--max-endpoints-per-slice` of kube-controller-manager).
const SLICE_LIMIT: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Endpoints by pod uid, grouped by the ports they resolve to (as JSON text): a named port can differ between pods.
type Groups = BTreeMap<String, BTreeMap<String, Value>>;

/// A slice as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// Name of the existing slice it replaces; `None` for a new one.
    pub name: Option<String>,
    /// Resolved ports as JSON text.
    pub ports: String,
    pub endpoints: Vec<Value>,
}

fn resolve_ports(service: &Object, pod: &Object) -> Value {
    let ports = service.value().pointer("/spec/ports").and_then(Value::as_array);
    let containers = pod.value().pointer("/spec/containers").and_then(Value::as_array);
    let named = |name: &str, protocol: &Value| {
        let all = containers.into_iter().flatten().filter_map(|c| c["ports"].as_array()).flatten();
        all.filter(|p| p["name"] == name && (p["protocol"] == *protocol || p["protocol"].is_null()))
            .map(|p| p["containerPort"].clone())
            .next()
    };
    let resolved = ports.into_iter().flatten().filter_map(|port| {
        let number = match &port["targetPort"] {
            Value::String(name) => named(name, &port["protocol"])?,
            number => number.clone(),
        };
        let mut out =
            json!({"name": port["name"].as_str().unwrap_or(""), "port": number, "protocol": port["protocol"]});
        if let Some(app) = port.get("appProtocol").filter(|v| !v.is_null()) {
            out["appProtocol"] = app.clone();
        }
        Some(out)
    });
    resolved.collect()
}

fn endpoint(pod: &Object, zone: Option<&str>, publish_not_ready: bool) -> Value {
    let serving = publish_not_ready || pod.condition("Ready");
    let terminating = pod.terminating();
    let mut out = json!({
        "addresses": [pod.text("/status/podIP")],
        "conditions": {"ready": publish_not_ready || (serving && !terminating), "serving": serving, "terminating": terminating},
        "nodeName": pod.text("/spec/nodeName"),
        "targetRef": {"kind": "Pod", "namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid()},
    });
    if let Some(zone) = zone {
        out["zone"] = json!(zone);
    }
    out
}

/// The endpoints of a Service.
fn groups(service: &Object, pods: &[Arc<Object>], zone_of: impl Fn(&str) -> Option<String>) -> Groups {
    let selector = service.value().pointer("/spec/selector").cloned().unwrap_or_default();
    let publish = service.value().pointer("/spec/publishNotReadyAddresses") == Some(&Value::Bool(true));
    let mut groups = Groups::new();
    for pod in pods.iter().filter(|pod| labels_include(pod, &selector)) {
        let ended = matches!(pod.text("/status/phase"), "Succeeded" | "Failed");
        if pod.text("/status/podIP").is_empty() || ended {
            continue;
        }
        let zone = zone_of(pod.text("/spec/nodeName"));
        let group = groups.entry(resolve_ports(service, pod).to_string()).or_default();
        group.insert(pod.uid().to_owned(), endpoint(pod, zone.as_deref(), publish));
    }
    groups
}

/// Spreads endpoints over slices so that few slices change: an endpoint stays where it is, new ones fill the fullest slice
/// with room. Without endpoints one empty slice is left, so that "nobody" can be told from "not looked at yet".
fn arrange(mut groups: Groups, existing: &[(String, String, Vec<Value>)]) -> Vec<Slice> {
    let mut slices: Vec<Slice> = Vec::new();
    for (name, ports, endpoints) in existing {
        let mut kept = Vec::new();
        if let Some(group) = groups.get_mut(ports) {
            for uid in endpoints.iter().filter_map(|e| e.pointer("/targetRef/uid")?.as_str()) {
                kept.extend(group.remove(uid));
            }
        }
        slices.push(Slice { name: Some(name.clone()), ports: ports.clone(), endpoints: kept });
    }
    for (ports, group) in groups {
        let mut fresh = group.into_values();
        let mut order: Vec<usize> = (0..slices.len()).filter(|i| slices[*i].ports == ports).collect();
        order.sort_by_key(|i| std::cmp::Reverse(slices[*i].endpoints.len()));
        for at in order {
            let room = SLICE_LIMIT.saturating_sub(slices[at].endpoints.len());
            slices[at].endpoints.extend(fresh.by_ref().take(room));
        }
        loop {
            let endpoints: Vec<Value> = fresh.by_ref().take(SLICE_LIMIT).collect();
            if endpoints.is_empty() {
                break;
            }
            slices.push(Slice { name: None, ports: ports.clone(), endpoints });
        }
    }
    if slices.iter().any(|s| !s.endpoints.is_empty()) {
        slices.retain(|s| !s.endpoints.is_empty());
    } else {
        slices.truncate(1);
        match slices.first_mut() {
            Some(only) => only.ports = "null".to_owned(),
            None => slices.push(Slice { name: None, ports: "null".to_owned(), endpoints: Vec::new() }),
        }
    }
    slices
}

/// Brings the slices of one Service in line with its pods.
pub fn reconcile(store: &Store, key: &Key) -> Result<(), ApiError> {
    let Some(service) = store.get(SERVICES, &key.0, &key.1) else {
        return Ok(());
    };
    let selects = service.value().pointer("/spec/selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty());
    if service.terminating() || !selects {
        return Ok(());
    }
    let (_, pods) = store.list(PODS, Some(&key.0));
    let zone = |node: &str| {
        let node = store.get(NODES, "", node)?;
        node.label("topology.kubernetes.io/zone").map(str::to_owned)
    };
    let (_, all) = store.list(ENDPOINT_SLICES, Some(&key.0));
    let mine =
        |slice: &&Arc<Object>| slice.label(SERVICE_NAME) == Some(&key.1) && slice.label(MANAGED_BY) == Some(MANAGER);
    let existing: Vec<&Arc<Object>> = all.iter().filter(mine).collect();
    let shapes: Vec<_> = existing
        .iter()
        .map(|slice| {
            let endpoints = slice.value()["endpoints"].as_array().cloned().unwrap_or_default();
            (slice.name().to_owned(), slice.value()["ports"].to_string(), endpoints)
        })
        .collect();
    let slices = arrange(groups(&service, &pods, zone), &shapes);
    for slice in &slices {
        let old = existing.iter().find(|old| Some(old.name()) == slice.name.as_deref());
        write_slice(store, &service, slice, old.copied())?;
    }
    for old in existing.iter().filter(|old| slices.iter().all(|s| s.name.as_deref() != Some(old.name()))) {
        let target = Target::new(ENDPOINT_SLICES, &key.0, old.name());
        tolerate(write::delete(store, &target, &DeleteOptions::default()).map(drop))?;
    }
    Ok(())
}

/// Somebody deleted it first: the next look at the Service puts things right.
fn tolerate(result: Result<(), ApiError>) -> Result<(), ApiError> {
    result.or_else(|error| if error.code == 404 { Ok(()) } else { Err(error) })
}

fn write_slice(store: &Store, service: &Object, slice: &Slice, old: Option<&Arc<Object>>) -> Result<(), ApiError> {
    let ports: Value = serde_json::from_str(&slice.ports).unwrap_or_default();
    let endpoints = if slice.endpoints.is_empty() { Value::Null } else { json!(slice.endpoints) };
    if let Some(old) = old {
        let mut value = old.value().clone();
        if value["ports"] == ports && value["endpoints"] == endpoints {
            return Ok(());
        }
        value["ports"] = ports;
        value["endpoints"] = endpoints;
        value["metadata"]["annotations"]["endpoints.kubernetes.io/last-change-trigger-time"] = json!(now());
        let target = Target::new(ENDPOINT_SLICES, old.namespace(), old.name());
        return tolerate(write::update(store, &target, value, &WriteOptions::default()).map(drop));
    }
    let headless = service.text("/spec/clusterIP") == "None";
    let mut labels = service.value().pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    labels[SERVICE_NAME] = json!(service.name());
    labels[MANAGED_BY] = json!(MANAGER);
    if headless {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let value = json!({
        "metadata": {
            "generateName": format!("{}-", service.name()), "labels": labels,
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": now()},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": service.name(), "uid": service.uid(),
                                 "controller": true, "blockOwnerDeletion": true}],
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    });
    let target = Target::new(ENDPOINT_SLICES, service.namespace(), "");
    write::create(store, &target, value, &WriteOptions::default()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(target: Value) -> Object {
        Object::new(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": target}]}}))
    }

    fn pod(n: usize, port: u16) -> Arc<Object> {
        Arc::new(Object::new(json!({
            "metadata": {"name": format!("web-{n}"), "namespace": "shop", "uid": format!("uid-{n:04}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "a", "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": format!("127.20.1.{n}"),
                       "conditions": [{"type": "Ready", "status": "True"}]}})))
    }

    fn arranged(pods: &[Arc<Object>], existing: &[Slice]) -> Vec<Slice> {
        let shapes: Vec<_> =
            existing.iter().enumerate().map(|(i, s)| (format!("s{i}"), s.ports.clone(), s.endpoints.clone())).collect();
        arrange(groups(&service(json!("http")), pods, |_| Some("eu-central-1a".into())), &shapes)
    }

    #[test]
    fn a_named_port_resolves_per_pod() {
        let slices = arranged(&[pod(1, 8080), pod(2, 9090)], &[]);
        assert_eq!(slices.len(), 2);
        assert!(slices[0].ports.contains("8080") && slices[1].ports.contains("9090"));
        assert_eq!(slices[0].endpoints[0]["zone"], "eu-central-1a");
    }

    #[test]
    fn a_port_name_no_pod_has_leaves_endpoints_without_ports() {
        let groups = groups(&service(json!("grpc")), &[pod(1, 8080)], |_| None);
        assert_eq!(groups.keys().collect::<Vec<_>>(), ["[]"]);
    }

    #[test]
    fn a_terminating_pod_serves_but_is_not_ready() {
        let mut value = pod(1, 8080).value().clone();
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let conditions = &endpoint(&Object::new(value), None, false)["conditions"];
        assert_eq!(conditions, &json!({"ready": false, "serving": true, "terminating": true}));
    }

    #[test]
    fn a_hundred_endpoints_fill_a_slice_and_stay_where_they_are() {
        let pods: Vec<_> = (1..=250).map(|n| pod(n, 8080)).collect();
        let first = arranged(&pods, &[]);
        assert_eq!(first.iter().map(|s| s.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
        let fewer: Vec<_> = pods.iter().filter(|p| p.name() != "web-1").cloned().collect();
        let second = arranged(&fewer, &first);
        assert_eq!(second.iter().map(|s| s.endpoints.len()).collect::<Vec<_>>(), [99, 100, 50]);
        assert_eq!(second[1].endpoints, first[1].endpoints);
        let more: Vec<_> = fewer.into_iter().chain([pod(300, 8080)]).collect();
        let third = arranged(&more, &second);
        assert_eq!(third.iter().map(|s| s.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
    }

    #[test]
    fn a_service_nobody_stands_behind_has_one_empty_slice() {
        let slices = arranged(&[], &[]);
        assert_eq!(slices, [Slice { name: None, ports: "null".into(), endpoints: vec![] }]);
        let after = arranged(&[], &arranged(&[pod(1, 8080)], &[]));
        assert_eq!((after.len(), after[0].endpoints.len()), (1, 0));
        assert_eq!(after[0].name.as_deref(), Some("s0"));
    }
}
