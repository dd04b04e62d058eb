//! Defaults and validation of the kinds the sandbox knows more about than their table row. Pure; `strategy` decides when they
//! run, and has the tests.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use super::kinds::{DEPLOYMENTS, EVENTS, KindId, LEASES, NAMESPACES, PODS, SERVICES};
use super::object::{child, text};
use super::status::ApiError;

/// Fills what a new object leaves out.
pub(super) fn default_new(kind: KindId, value: &mut Value) {
    if kind == NAMESPACES {
        value["status"] = json!({"phase": "Active"});
        value["spec"] = json!({"finalizers": ["kubernetes"]});
        let name = text(value, "/metadata/name").to_owned();
        child(&mut value["metadata"], "labels").insert("kubernetes.io/metadata.name".into(), json!(name));
    } else if kind == SERVICES {
        default_service(value);
        value["status"] = json!({"loadBalancer": {}});
    } else if kind == LEASES {
        child(value, "spec");
    } else if kind == PODS {
        let spec = child(value, "spec");
        for (field, default) in [
            ("restartPolicy", json!("Always")),
            ("dnsPolicy", json!("ClusterFirst")),
            ("schedulerName", json!("default-scheduler")),
            ("terminationGracePeriodSeconds", json!(30)),
        ] {
            spec.entry(field).or_insert(default);
        }
        default_protocols(value, "/spec/containers");
        value["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
    } else if kind == DEPLOYMENTS {
        let spec = child(value, "spec");
        spec.entry("replicas").or_insert(json!(1));
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}});
        spec.entry("strategy").or_insert(rolling);
        default_protocols(value, "/spec/template/spec/containers");
    }
}

fn default_protocols(value: &mut Value, containers: &str) {
    let Some(Value::Array(containers)) = value.pointer_mut(containers) else {
        return;
    };
    for port in containers.iter_mut().filter_map(|c| c.get_mut("ports")?.as_array_mut()).flatten() {
        child_default(port, "protocol", json!("TCP"));
    }
}

pub(super) fn child_default(value: &mut Value, key: &str, default: Value) {
    if value.is_object() && value[key].is_null() {
        value[key] = default;
    }
}

/// Also run on updates: a Service keeps its address, new ports get their defaults.
pub(super) fn default_service(value: &mut Value) {
    let mut hasher = DefaultHasher::new();
    text(value, "/metadata/uid").hash(&mut hasher);
    let [a, b, c, d, ..] = hasher.finish().to_be_bytes();
    let spec = child(value, "spec");
    spec.entry("type").or_insert(json!("ClusterIP"));
    spec.entry("sessionAffinity").or_insert(json!("None"));
    spec.entry("ipFamilies").or_insert(json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert(json!("SingleStack"));
    spec.entry("internalTrafficPolicy").or_insert(json!("Cluster"));
    // Nothing answers there: nobody is inside the cluster. The address only looks right.
    let ip = spec.entry("clusterIP").or_insert(json!(format!("10.{}.{b}.{}", 96 + a % 16, c.max(1)))).clone();
    spec.entry("clusterIPs").or_insert(json!([ip]));
    let exposed = matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    if exposed {
        spec.entry("externalTrafficPolicy").or_insert(json!("Cluster"));
    }
    if spec["type"] == "LoadBalancer" {
        spec.entry("allocateLoadBalancerNodePorts").or_insert(json!(true));
    }
    if spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local" {
        // From the same range, away from where the ports above begin.
        let number = 30_000 + (usize::from(c) * 256 + usize::from(d) + 1_384) % 2_768;
        spec.entry("healthCheckNodePort").or_insert(json!(number));
    }
    let Some(Value::Array(ports)) = spec.get_mut("ports") else {
        return;
    };
    for (index, port) in ports.iter_mut().enumerate() {
        child_default(port, "protocol", json!("TCP"));
        let target = port["port"].clone();
        child_default(port, "targetPort", target);
        if exposed {
            // Kubernetes' default NodePort range is 30000-32767.
            let number = 30_000 + (usize::from(c) * 256 + usize::from(d) + index) % 2_768;
            child_default(port, "nodePort", json!(number));
        }
    }
}

/// Refuses what Kubernetes would refuse and a controller could not work with.
pub(super) fn validate(kind: KindId, value: &Value) -> Result<(), ApiError> {
    let row = kind.row();
    let name = text(value, "/metadata/name");
    let required = |field: &str| ApiError::invalid(row, name, field, "Required value");
    if kind == PODS && value.pointer("/spec/containers/0").is_none() {
        return Err(required("spec.containers"));
    }
    if kind == SERVICES && text(value, "/spec/type") != "ExternalName" {
        validate_service_ports(kind, name, value)?;
    }
    let involved = text(value, "/involvedObject/namespace");
    if kind == EVENTS && !involved.is_empty() && involved != text(value, "/metadata/namespace") {
        let cause = format!("Invalid value: {involved:?}: does not match event.namespace");
        return Err(ApiError::invalid(row, name, "involvedObject.namespace", &cause));
    }
    if kind == DEPLOYMENTS {
        let wanted = value.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
        let labels = value.pointer("/spec/template/metadata/labels");
        let wanted = wanted.ok_or_else(|| required("spec.selector"))?;
        if !wanted.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)) {
            let cause = "Invalid value: `selector` does not match template `labels`";
            return Err(ApiError::invalid(row, name, "spec.template.metadata.labels", cause));
        }
    }
    Ok(())
}

fn validate_service_ports(kind: KindId, name: &str, value: &Value) -> Result<(), ApiError> {
    let none = Vec::new();
    let ports = value.pointer("/spec/ports").and_then(Value::as_array).unwrap_or(&none);
    let bad = |field: String, cause: &str| Err(ApiError::invalid(kind.row(), name, &field, cause));
    if ports.is_empty() && text(value, "/spec/clusterIP") != "None" {
        return bad("spec.ports".into(), "Required value");
    }
    for (index, port) in ports.iter().enumerate() {
        if !port["port"].as_u64().is_some_and(|p| (1..=65_535).contains(&p)) {
            let cause = format!("Invalid value: {}: must be between 1 and 65535, inclusive", port["port"]);
            return bad(format!("spec.ports[{index}].port"), &cause);
        }
        if ports.len() > 1 && port["name"].as_str().is_none_or(str::is_empty) {
            return bad(format!("spec.ports[{index}].name"), "Required value");
        }
        if ports[..index].iter().any(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"]) {
            return bad(format!("spec.ports[{index}]"), &format!("Duplicate value: {}", port["port"]));
        }
        if ports[..index].iter().any(|p| p["name"] == port["name"]) {
            return bad(format!("spec.ports[{index}].name"), &format!("Duplicate value: {}", port["name"]));
        }
    }
    Ok(())
}
