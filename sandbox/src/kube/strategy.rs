//! What an API server does to an object on its way in: defaults, validation, and which parts of it a request may change.
//! Pure functions over JSON; `write` calls them under the store's lock. Tests are at the end of the file.

use serde_json::{Map, Value, json};

use super::defaults::{child_default, default_new, default_service, validate};
use super::kinds::{DEPLOYMENTS, KindId, NAMESPACES, PODS, SERVICES};
use super::object::{metadata, now, text};
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
        return Err(ApiError::invalid(row, "", "metadata.name", "Required value: name or generateName is required"));
    }
    validate_name(kind, &name)?;
    let meta = metadata(value);
    for gone in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
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
    validate_labels(kind, value)?;
    validate(kind, value)
}

/// Values of labels are what selectors can name.
fn validate_labels(kind: KindId, value: &Value) -> Result<(), ApiError> {
    let labels = value.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    for text in labels.filter_map(|(_, value)| value.as_str()) {
        let edge = |c: char| c.is_ascii_alphanumeric();
        let inside = |c: char| edge(c) || "-_.".contains(c);
        let good =
            text.len() <= LABEL_LIMIT && text.starts_with(edge) && text.ends_with(edge) && text.chars().all(inside);
        if !text.is_empty() && !good {
            let cause = format!(
                "Invalid value: {text:?}: a valid label must be an empty string or consist of at most 63 alphanumeric characters, \
                 '-', '_' or '.', and must start and end with an alphanumeric character"
            );
            let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            return Err(ApiError::invalid(kind.row(), name, "metadata.labels", &cause));
        }
    }
    Ok(())
}

fn validate_name(kind: KindId, name: &str) -> Result<(), ApiError> {
    let limit = if kind == SERVICES || kind == NAMESPACES { LABEL_LIMIT } else { NAME_LIMIT };
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

/// What an update through the object itself (`status` false) or its status subresource makes of `old`.
pub fn prepare_update(kind: KindId, old: &Value, mut new: Value, status: bool) -> Result<Value, ApiError> {
    let row = kind.row();
    if status {
        let mut out = old.clone();
        out["status"] = new["status"].take();
        let managed = new.pointer_mut("/metadata/managedFields").map(Value::take).unwrap_or_default();
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
    validate_labels(kind, &new)?;
    validate(kind, &new)?;
    if row.generation && content(old) != content(&new) {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
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
        containers.iter_mut().for_each(|c| set_or_remove(c, "image", Value::Null));
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

/// Whether two versions are the same in all a client can see but the version and the times of ownership entries.
/// Every write asks this: it must not copy the objects.
pub fn unchanged(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return old == new };
    same_but(old, new, |field, old, new| match (field, old.as_object(), new.as_object()) {
        ("metadata", Some(old), Some(new)) => Some(same_but(old, new, |field, old, new| match field {
            "resourceVersion" => Some(true),
            "managedFields" => Some(same_managers(old, new)),
            _ => None,
        })),
        _ => None,
    })
}

/// Compares two maps; `special` has the say where it wants one. A field that is null or absent is the same.
fn same_but(
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    special: impl Fn(&str, &Value, &Value) -> Option<bool>,
) -> bool {
    let same = |field: &str, old: &Value, new: &Value| special(field, old, new).unwrap_or_else(|| old == new);
    let null = Value::Null;
    old.iter().all(|(field, value)| same(field, value, new.get(field).unwrap_or(&null)))
        && new.iter().filter(|(field, _)| !old.contains_key(*field)).all(|(field, value)| same(field, &null, value))
}

fn same_managers(old: &Value, new: &Value) -> bool {
    let timeless = |list: &Value| -> Vec<Value> {
        let mut entries = list.as_array().cloned().unwrap_or_default();
        entries.iter_mut().for_each(|entry| set_or_remove(entry, "time", Value::Null));
        entries
    };
    timeless(old) == timeless(new)
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
        assert_eq!(value["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
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
        assert!(error.message.contains("spec.ports: Required value"), "{}", error.message);
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
        assert_eq!(written["status"]["replicas"], 1, "the main resource does not write status");
        let mut scaled = old.clone();
        scaled["spec"]["replicas"] = json!(2);
        assert_eq!(prepare_update(DEPLOYMENTS, &old, scaled, false).unwrap()["metadata"]["generation"], 4);
        let mut status = old.clone();
        status["status"] = json!({"replicas": 7});
        status["spec"]["replicas"] = json!(7);
        let written = prepare_update(DEPLOYMENTS, &old, status, true).unwrap();
        assert_eq!((&written["status"]["replicas"], &written["spec"]["replicas"]), (&json!(7), &json!(1)));
        old["spec"]["selector"] = json!({"matchLabels": {"a": "c"}});
        assert!(prepare_update(DEPLOYMENTS, &old, written, false).is_err());
    }

    #[test]
    fn versions_and_ownership_times_make_no_difference_and_all_else_does() {
        let object = |version: &str, time: &str, manager: &str, x: i32| json!({"metadata": {"resourceVersion": version, "managedFields": [{"manager": manager, "time": time}]}, "x": x});
        let one = object("1", "a", "m", 1);
        assert!(unchanged(&one, &object("2", "b", "m", 1)));
        assert!(!unchanged(&one, &object("1", "a", "n", 1)) && !unchanged(&one, &object("1", "a", "m", 2)));
        let mut more = one.clone();
        more["metadata"]["labels"] = json!({});
        assert!(!unchanged(&one, &more) && !unchanged(&more, &one));
    }

    #[test]
    fn a_generated_name_takes_the_drawn_suffix() {
        let mut pod = json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app"}]}});
        prepare_new(PODS, &mut pod, "u", "abcde").unwrap();
        assert_eq!(pod["metadata"]["name"], "web-abcde");
        assert_eq!(pod["status"]["phase"], "Pending");
    }
}
