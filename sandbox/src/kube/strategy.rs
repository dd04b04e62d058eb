//! What an API server does to an object on its way in: defaults, validation, and which parts of it a request may change.
//! Pure functions over JSON; `write` calls them under the store's lock. Tests are at the end of the file.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use super::kinds::{DEPLOYMENTS, KindId, NAMESPACES, PODS, SERVICES};
use super::object::{child, metadata, now, text};
use super::status::ApiError;

/// Longest name of most objects (a DNS subdomain, RFC 1123).
const NAME_LIMIT: usize = 253;
/// Longest name of a Service or Namespace (a DNS label, RFC 1035 / 1123).
const LABEL_LIMIT: usize = 63;
/// Metadata the server sets and nobody changes.
const FIXED_METADATA: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
    "selfLink",
];

/// Checks that a body is meant for the path it came to, and fills what the path implies.
pub fn bind(kind: KindId, namespace: &str, name: &str, body: &mut Value) -> Result<(), ApiError> {
    let row = kind.row();
    if !body.is_object() {
        return Err(ApiError::bad_request("the body of the request is not a JSON object"));
    }
    for (field, expected) in [("apiVersion", row.api_version()), ("kind", row.kind.to_owned())] {
        let found = body[field].as_str().unwrap_or_default().to_owned();
        if !found.is_empty() && found != expected {
            let message = format!("{field} in the body ({found:?}) does not match the expected {field} ({expected:?})");
            return Err(ApiError::bad_request(message));
        }
        body[field] = json!(expected);
    }
    let given = text(body, "/metadata/namespace").to_owned();
    if row.namespaced && !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let given = text(body, "/metadata/name").to_owned();
    if !name.is_empty() && !given.is_empty() && given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let meta = metadata(body);
    if row.namespaced {
        meta.insert("namespace".into(), json!(namespace));
    } else {
        meta.remove("namespace");
    }
    if !name.is_empty() {
        meta.insert("name".into(), json!(name));
    }
    Ok(())
}

/// Sets what a new object gets from the server, then validates it. `uid` and `suffix` are drawn by the caller.
pub fn prepare_new(kind: KindId, value: &mut Value, uid: &str, suffix: &str) -> Result<(), ApiError> {
    let row = kind.row();
    let generate = text(value, "/metadata/generateName").to_owned();
    let mut name = text(value, "/metadata/name").to_owned();
    if name.is_empty() && !generate.is_empty() {
        name = format!("{generate}{suffix}");
    }
    if name.is_empty() {
        return Err(ApiError::invalid(
            row,
            "",
            "metadata.name",
            "Required value: name or generateName is required",
        ));
    }
    validate_name(kind, &name)?;
    let meta = metadata(value);
    for gone in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
    ] {
        meta.remove(gone);
    }
    meta.insert("name".into(), json!(name));
    meta.insert("uid".into(), json!(uid));
    meta.insert("creationTimestamp".into(), json!(now()));
    if row.generation {
        meta.insert("generation".into(), json!(1));
    }
    if row.status
        && let Value::Object(map) = value
    {
        map.remove("status");
    }
    default_new(kind, value);
    validate(kind, value)
}

fn validate_name(kind: KindId, name: &str) -> Result<(), ApiError> {
    let limit = if kind == SERVICES || kind == NAMESPACES {
        LABEL_LIMIT
    } else {
        NAME_LIMIT
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let allowed = |c: char| plain(c) || c == '-' || (c == '.' && limit == NAME_LIMIT);
    let edges = name.starts_with(plain) && name.ends_with(plain);
    if name.len() <= limit && edges && name.chars().all(allowed) {
        return Ok(());
    }
    let cause = format!(
        "Invalid value: {name:?}: a lowercase RFC 1123 name must consist of lower case alphanumeric characters or '-', \
         must start and end with an alphanumeric character, and must be no more than {limit} characters"
    );
    Err(ApiError::invalid(kind.row(), name, "metadata.name", &cause))
}

fn default_new(kind: KindId, value: &mut Value) {
    if kind == NAMESPACES {
        value["status"] = json!({"phase": "Active"});
        let name = text(value, "/metadata/name").to_owned();
        child(&mut value["metadata"], "labels").insert("kubernetes.io/metadata.name".into(), json!(name));
    } else if kind == SERVICES {
        default_service(value);
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
    for port in containers
        .iter_mut()
        .filter_map(|c| c.get_mut("ports")?.as_array_mut())
        .flatten()
    {
        child_default(port, "protocol", json!("TCP"));
    }
}

fn child_default(value: &mut Value, key: &str, default: Value) {
    if value.is_object() && value[key].is_null() {
        value[key] = default;
    }
}

/// Also run on updates: a Service keeps its address, new ports get their defaults.
fn default_service(value: &mut Value) {
    let mut hasher = DefaultHasher::new();
    text(value, "/metadata/uid").hash(&mut hasher);
    let [a, b, c, d, ..] = hasher.finish().to_be_bytes();
    let spec = child(value, "spec");
    spec.entry("type").or_insert(json!("ClusterIP"));
    spec.entry("sessionAffinity").or_insert(json!("None"));
    spec.entry("ipFamilies").or_insert(json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert(json!("SingleStack"));
    spec.entry("internalTrafficPolicy").or_insert(json!("Cluster"));
    // Nothing answers there: the sandbox has no kube-proxy. The address only looks right.
    let ip = spec
        .entry("clusterIP")
        .or_insert(json!(format!("10.{}.{b}.{}", 96 + a % 16, c.max(1))))
        .clone();
    spec.entry("clusterIPs").or_insert(json!([ip]));
    let exposed = matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
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

fn validate(kind: KindId, value: &Value) -> Result<(), ApiError> {
    let row = kind.row();
    let name = text(value, "/metadata/name");
    let required = |field: &str| ApiError::invalid(row, name, field, "Required value");
    if kind == PODS && value.pointer("/spec/containers/0").is_none() {
        return Err(required("spec.containers"));
    }
    if kind == SERVICES && text(value, "/spec/type") != "ExternalName" {
        validate_service_ports(kind, name, value)?;
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
            let cause = format!(
                "Invalid value: {}: must be between 1 and 65535, inclusive",
                port["port"]
            );
            return bad(format!("spec.ports[{index}].port"), &cause);
        }
        if ports.len() > 1 && port["name"].as_str().is_none_or(str::is_empty) {
            return bad(format!("spec.ports[{index}].name"), "Required value");
        }
        if ports[..index].iter().any(|p| p["name"] == port["name"]) {
            return bad(
                format!("spec.ports[{index}].name"),
                &format!("Duplicate value: {}", port["name"]),
            );
        }
    }
    Ok(())
}

/// What an update through the object itself (`status` false) or its status subresource makes of `old`.
pub fn prepare_update(kind: KindId, old: &Value, mut new: Value, status: bool) -> Result<Value, ApiError> {
    let row = kind.row();
    if status {
        let mut out = old.clone();
        out["status"] = new["status"].take();
        let managed = new
            .pointer_mut("/metadata/managedFields")
            .map(Value::take)
            .unwrap_or_default();
        set_or_remove(&mut out["metadata"], "managedFields", managed);
        return Ok(out);
    }
    for field in FIXED_METADATA {
        let fixed = old["metadata"].get(*field).cloned().unwrap_or_default();
        set_or_remove(&mut new["metadata"], field, fixed);
    }
    if row.status {
        set_or_remove(&mut new, "status", old.get("status").cloned().unwrap_or_default());
    }
    if kind == SERVICES {
        for field in ["clusterIP", "clusterIPs"] {
            let kept = old["spec"].get(field).cloned().unwrap_or_default();
            child_default(&mut new["spec"], field, kept);
        }
        default_service(&mut new);
    }
    let name = text(old, "/metadata/name");
    if kind == PODS && frozen_pod_spec(old) != frozen_pod_spec(&new) {
        let cause = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
                     `spec.tolerations` (only additions to existing tolerations)";
        return Err(ApiError::invalid(row, name, "spec", cause));
    }
    if kind == DEPLOYMENTS && old.pointer("/spec/selector") != new.pointer("/spec/selector") {
        let cause = "Invalid value: field is immutable";
        return Err(ApiError::invalid(row, name, "spec.selector", cause));
    }
    validate(kind, &new)?;
    if row.generation && content(old) != content(&new) {
        let generation = old
            .pointer("/metadata/generation")
            .and_then(Value::as_i64)
            .unwrap_or_default();
        new["metadata"]["generation"] = json!(generation + 1);
    }
    Ok(new)
}

fn set_or_remove(target: &mut Value, key: &str, value: Value) {
    let Value::Object(map) = target else { return };
    if value.is_null() {
        map.remove(key);
    } else {
        map.insert(key.to_owned(), value);
    }
}

fn frozen_pod_spec(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    set_or_remove(&mut spec, "tolerations", Value::Null);
    if let Some(Value::Array(containers)) = spec.get_mut("containers") {
        containers
            .iter_mut()
            .for_each(|c| set_or_remove(c, "image", Value::Null));
    }
    spec
}

/// Everything that counts towards the generation.
fn content(value: &Value) -> Value {
    let mut out = value.clone();
    set_or_remove(&mut out, "metadata", Value::Null);
    set_or_remove(&mut out, "status", Value::Null);
    out
}

/// Whether two versions differ in anything a client can see besides the version and the time of an ownership entry.
pub fn unchanged(old: &Value, new: &Value) -> bool {
    let strip = |value: &Value| {
        let mut out = value.clone();
        let Some(meta) = out.get_mut("metadata") else {
            return out;
        };
        set_or_remove(meta, "resourceVersion", Value::Null);
        if let Some(Value::Array(entries)) = meta.get_mut("managedFields") {
            entries
                .iter_mut()
                .for_each(|entry| set_or_remove(entry, "time", Value::Null));
        }
        out
    };
    strip(old) == strip(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        let mut value = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}});
        bind(SERVICES, "shop", "", &mut value).unwrap();
        prepare_new(SERVICES, &mut value, "uid-1", "abcde").unwrap();
        value
    }

    #[test]
    fn a_new_service_gets_its_defaults() {
        let value = service();
        assert_eq!(
            value["spec"]["ports"][0],
            json!({"port": 80, "protocol": "TCP", "targetPort": 80})
        );
        assert_eq!(value["spec"]["type"], "ClusterIP");
        assert_eq!(value["metadata"]["namespace"], "shop");
        assert_eq!(value["spec"]["clusterIPs"][0], value["spec"]["clusterIP"]);
    }

    #[test]
    fn an_update_cannot_move_a_service_or_change_its_identity() {
        let old = service();
        let mut new = old.clone();
        new["metadata"]["uid"] = json!("other");
        new["spec"]["clusterIP"] = Value::Null;
        new["spec"]["selector"] = json!({"a": "c"});
        let written = prepare_update(SERVICES, &old, new, false).unwrap();
        assert_eq!(written["metadata"]["uid"], "uid-1");
        assert_eq!(written["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert_eq!(written["spec"]["selector"], json!({"a": "c"}));
    }

    #[test]
    fn names_ports_and_selectors_are_validated() {
        let mut bad_name = json!({"metadata": {"name": "Web"}});
        assert_eq!(prepare_new(SERVICES, &mut bad_name, "u", "x").unwrap_err().code, 422);
        let mut no_port = json!({"metadata": {"name": "web"}, "spec": {}});
        let error = prepare_new(SERVICES, &mut no_port, "u", "x").unwrap_err();
        assert!(
            error.message.contains("spec.ports: Required value"),
            "{}",
            error.message
        );
        let mut twice = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 1, "name": "a"},
                                                                             {"port": 2, "name": "a"}]}});
        assert!(prepare_new(SERVICES, &mut twice, "u", "x").is_err());
        let mut other = json!({"kind": "Pod", "metadata": {"name": "web"}});
        assert_eq!(bind(SERVICES, "shop", "", &mut other).unwrap_err().code, 400);
    }

    #[test]
    fn generation_counts_spec_changes_only() {
        let mut old = json!({"metadata": {"name": "web", "generation": 3}, "spec": {"replicas": 1, "template":
            {"metadata": {"labels": {"a": "b"}}}, "selector": {"matchLabels": {"a": "b"}}}, "status": {"replicas": 1}});
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({"x": "y"});
        labelled["status"] = json!({"replicas": 9});
        let written = prepare_update(DEPLOYMENTS, &old, labelled, false).unwrap();
        assert_eq!(written["metadata"]["generation"], 3);
        assert_eq!(
            written["status"]["replicas"], 1,
            "the main resource does not write status"
        );
        let mut scaled = old.clone();
        scaled["spec"]["replicas"] = json!(2);
        assert_eq!(
            prepare_update(DEPLOYMENTS, &old, scaled, false).unwrap()["metadata"]["generation"],
            4
        );
        let mut status = old.clone();
        status["status"] = json!({"replicas": 7});
        status["spec"]["replicas"] = json!(7);
        let written = prepare_update(DEPLOYMENTS, &old, status, true).unwrap();
        assert_eq!(
            (&written["status"]["replicas"], &written["spec"]["replicas"]),
            (&json!(7), &json!(1))
        );
        old["spec"]["selector"] = json!({"matchLabels": {"a": "c"}});
        assert!(prepare_update(DEPLOYMENTS, &old, written, false).is_err());
    }

    #[test]
    fn a_generated_name_takes_the_drawn_suffix() {
        let mut pod = json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app"}]}});
        prepare_new(PODS, &mut pod, "u", "abcde").unwrap();
        assert_eq!(pod["metadata"]["name"], "web-abcde");
        assert_eq!(pod["status"]["phase"], "Pending");
    }
}
