//! The three patch formats that need no field ownership: JSON merge patch (RFC 7386), strategic merge patch and JSON patch
//! (RFC 6902). Pure functions over JSON; server-side apply is in `apply`. Tests are at the end of the file.

use serde_json::{Map, Value};

use super::kinds::{Kind, Merge};
use super::status::ApiError;

/// RFC 7386: maps merge, null removes, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in fields {
        if value.is_null() {
            if let Value::Object(map) = target {
                map.remove(key);
            }
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

/// Strategic merge patch: as [`merge`], but lists with a merge key merge item by item, and `$patch` directives apply.
pub fn strategic(kind: &Kind, target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let mut path = Vec::new();
    strategic_value(kind, &mut path, target, patch)
}

fn strategic_value(kind: &Kind, path: &mut Vec<String>, target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    match patch {
        Value::Object(fields) => strategic_map(kind, path, target, fields),
        Value::Array(items) => strategic_list(kind, path, target, items),
        scalar => {
            *target = scalar.clone();
            Ok(())
        }
    }
}

fn strategic_map(
    kind: &Kind,
    path: &mut Vec<String>,
    target: &mut Value,
    patch: &Map<String, Value>,
) -> Result<(), ApiError> {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let kept = patch.iter().filter(|(k, _)| !k.starts_with('$')).map(|(k, v)| (k.clone(), v.clone()));
            *target = Value::Object(kept.collect());
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Null;
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(ApiError::bad_request(format!("unknown $patch directive {other:?}"))),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let (Some(Value::Array(keep)), Value::Object(map)) = (patch.get("$retainKeys"), &mut *target) {
        map.retain(|key, _| keep.iter().any(|k| k == key));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(list)), Some(gone)) = (target.get_mut(field), value.as_array()) {
                list.retain(|item| !gone.contains(item));
            }
        } else if key.starts_with('$') {
            // $setElementOrder and $retainKeys: the order of a keyed list carries no meaning here.
        } else if value.is_null() {
            remove(target, key);
        } else {
            path.push(key.clone());
            let done = strategic_value(kind, path, &mut target[key.as_str()], value);
            path.pop();
            done?;
            if target[key.as_str()].is_null() {
                remove(target, key);
            }
        }
    }
    Ok(())
}

fn remove(target: &mut Value, key: &str) {
    if let Value::Object(map) = target {
        map.remove(key);
    }
}

fn strategic_list(kind: &Kind, path: &mut Vec<String>, target: &mut Value, patch: &[Value]) -> Result<(), ApiError> {
    let rule = kind.merge_rule(path);
    let replace = patch.iter().any(|item| item["$patch"] == "replace");
    let (Some(rule @ (Merge::ByKeys(_) | Merge::Set)), false) = (rule, replace) else {
        *target = patch.iter().filter(|item| item["$patch"] != "replace").cloned().collect();
        return Ok(());
    };
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(list) = target else { unreachable!("made a list just above") };
    for item in patch {
        let Merge::ByKeys(keys) = rule else {
            if !list.contains(item) {
                list.push(item.clone());
            }
            continue;
        };
        // Strategic merge knows one key per list: the first.
        let key = keys[0];
        let Some(wanted) = item.get(key) else {
            let message = format!("map: {item} does not contain declared merge key: {key}");
            return Err(ApiError::bad_request(message));
        };
        let found = list.iter().position(|existing| existing.get(key) == Some(wanted));
        match (item["$patch"] == "delete", found) {
            (true, Some(at)) => drop(list.remove(at)),
            (true, None) => {}
            (false, Some(at)) => strategic_value(kind, path, &mut list[at], item)?,
            (false, None) => {
                let mut fresh = Value::Null;
                strategic_value(kind, path, &mut fresh, item)?;
                list.push(fresh);
            }
        }
    }
    Ok(())
}

/// RFC 6902. Stops at the first operation that does not fit.
pub fn json_patch(target: &mut Value, operations: &Value) -> Result<(), ApiError> {
    let list = operations.as_array().ok_or_else(|| ApiError::bad_request("a JSON patch is a list of operations"))?;
    for operation in list {
        one_operation(target, operation)?;
    }
    Ok(())
}

fn one_operation(target: &mut Value, operation: &Value) -> Result<(), ApiError> {
    let name = operation["op"].as_str().unwrap_or_default();
    let bad = |why: &str| ApiError::patch_refused(&format!("{name} {why}"));
    let pointer = |field: &str| operation[field].as_str().ok_or_else(|| bad(&format!("operation lacks {field:?}")));
    let path = pointer("path")?;
    let value = operation.get("value").cloned();
    match name {
        "add" => put(target, path, value.ok_or_else(|| bad("lacks \"value\""))?, true),
        "replace" => {
            let slot = target.pointer_mut(path).ok_or_else(|| bad(&format!("path not found: {path}")))?;
            *slot = value.ok_or_else(|| bad("lacks \"value\""))?;
            Some(())
        }
        "remove" => take(target, path).map(drop),
        "test" => (target.pointer(path) == value.as_ref()).then_some(()),
        "move" => {
            let from = pointer("from")?;
            take(target, from).and_then(|v| put(target, path, v, true))
        }
        "copy" => {
            let from = pointer("from")?;
            target.pointer(from).cloned().and_then(|v| put(target, path, v, true))
        }
        _ => return Err(bad("is not an operation of RFC 6902")),
    }
    .ok_or_else(|| bad(&format!("operation does not apply: {path}")))
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn put(target: &mut Value, path: &str, value: Value, insert: bool) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => drop(map.insert(last, value)),
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let at: usize = last.parse().ok()?;
            if at > list.len() {
                return None;
            }
            if insert { list.insert(at, value) } else { *list.get_mut(at)? = value }
        }
        _ => return None,
    }
    Some(())
}

fn take(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&last),
        Value::Array(list) => {
            let at: usize = last.parse().ok()?;
            (at < list.len()).then(|| list.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kinds::{DEPLOYMENTS, PODS, SERVICES};
    use super::*;

    #[test]
    fn a_merge_patch_removes_nulls_and_replaces_lists() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(&mut target, &json!({"a": {"b": null, "d": 3}, "l": [9]}));
        assert_eq!(target, json!({"a": {"c": 2, "d": 3}, "l": [9]}));
    }

    #[test]
    fn conditions_merge_by_type_under_a_strategic_patch() {
        let mut pod = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"},
                                                       {"type": "Gate", "status": "False"}]}});
        let patch =
            json!({"status": {"conditions": [{"type": "Gate", "status": "True"}, {"type": "New", "status": "True"}]}});
        strategic(PODS.row(), &mut pod, &patch).unwrap();
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 3);
        assert_eq!(conditions[0]["reason"], "x");
        assert_eq!(conditions[1], json!({"type": "Gate", "status": "True"}));
    }

    #[test]
    fn containers_of_a_template_merge_by_name_and_can_be_deleted() {
        let mut deployment = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "app", "image": "a:1", "args": ["x"]}, {"name": "side", "image": "s:1"}]}}}});
        let patch = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "app", "image": "a:2"}, {"name": "side", "$patch": "delete"}]}}}});
        strategic(DEPLOYMENTS.row(), &mut deployment, &patch).unwrap();
        let containers = &deployment["spec"]["template"]["spec"]["containers"];
        assert_eq!(containers, &json!([{"name": "app", "image": "a:2", "args": ["x"]}]));
    }

    #[test]
    fn service_ports_merge_by_port_and_replace_clears_them() {
        let mut service = json!({"spec": {"ports": [{"port": 80, "name": "http"}]}});
        strategic(SERVICES.row(), &mut service, &json!({"spec": {"ports": [{"port": 443, "name": "https"}]}})).unwrap();
        assert_eq!(service["spec"]["ports"].as_array().unwrap().len(), 2);
        let replace = json!({"spec": {"ports": [{"port": 90}, {"$patch": "replace"}]}});
        strategic(SERVICES.row(), &mut service, &replace).unwrap();
        assert_eq!(service["spec"]["ports"], json!([{"port": 90}]));
        let keyless = json!({"spec": {"ports": [{"name": "x"}]}});
        assert_eq!(strategic(SERVICES.row(), &mut service, &keyless).unwrap_err().code, 400);
    }

    #[test]
    fn finalizers_merge_as_a_set_and_leave_by_directive() {
        let mut pod = json!({"metadata": {"finalizers": ["a"]}});
        strategic(PODS.row(), &mut pod, &json!({"metadata": {"finalizers": ["a", "b"]}})).unwrap();
        assert_eq!(pod["metadata"]["finalizers"], json!(["a", "b"]));
        strategic(PODS.row(), &mut pod, &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}})).unwrap();
        assert_eq!(pod["metadata"]["finalizers"], json!(["b"]));
    }

    #[test]
    fn json_patch_operations_apply_in_order_or_fail() {
        let mut target = json!({"a": {"x/y": 1}, "l": [1, 3]});
        let operations = json!([{"op": "test", "path": "/a/x~1y", "value": 1}, {"op": "add", "path": "/l/1", "value": 2},
            {"op": "move", "from": "/a/x~1y", "path": "/b"}, {"op": "replace", "path": "/b", "value": 5},
            {"op": "add", "path": "/l/-", "value": 4}, {"op": "remove", "path": "/l/0"}]);
        json_patch(&mut target, &operations).unwrap();
        assert_eq!(target, json!({"a": {}, "l": [2, 3, 4], "b": 5}));
        for broken in [
            json!([{"op": "remove", "path": "/none"}]),
            json!([{"op": "test", "path": "/b", "value": 6}]),
            json!([{"op": "add", "path": "/l/9", "value": 6}]),
        ] {
            assert_eq!(json_patch(&mut target, &broken).unwrap_err().code, 422);
        }
        assert_eq!(json_patch(&mut target, &json!({"op": "add"})).unwrap_err().code, 400, "not even a list");
    }
}
