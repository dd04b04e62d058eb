//! Sets of field paths, as `metadata.managedFields` records them (FieldsV1): who owns which leaf of an object.
//! Pure; used by `apply` for server-side apply and for plain updates. Tests are in `apply`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::kinds::{Kind, Merge};

/// One step of a path in FieldsV1's own spelling: `f:name`, `k:{"type":"Ready"}` or `v:"a"`.
pub type Step = String;
/// From the root to a leaf, or to an item of a keyed list.
pub type Path = Vec<Step>;
/// What one manager owns.
pub type FieldSet = BTreeSet<Path>;

/// Metadata the server itself owns, plus what identifies the object: nobody manages these.
const UNMANAGED_METADATA: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// Every leaf of a value, with the items of keyed lists.
pub fn leaves(kind: &Kind, value: &Value) -> FieldSet {
    let mut out = FieldSet::new();
    walk(kind, value, &mut Vec::new(), &mut Vec::new(), &mut out);
    out
}

fn unmanaged(names: &[String], key: &str) -> bool {
    match names {
        [] => matches!(key, "apiVersion" | "kind"),
        [top] => top == "metadata" && UNMANAGED_METADATA.contains(&key),
        _ => false,
    }
}

fn walk(kind: &Kind, value: &Value, names: &mut Vec<String>, path: &mut Path, out: &mut FieldSet) {
    match (value, kind.merge_rule(names)) {
        (Value::Object(map), rule) if rule != Some(Merge::Atomic) && !map.is_empty() => {
            for (key, child) in map {
                if unmanaged(names, key) {
                    continue;
                }
                names.push(key.clone());
                path.push(format!("f:{key}"));
                walk(kind, child, names, path, out);
                path.pop();
                names.pop();
            }
        }
        (Value::Array(items), Some(Merge::ByKeys(keys))) => {
            for item in items {
                path.push(item_step(item, keys));
                out.insert(path.clone());
                // The item's own fields, with the keys among them.
                walk_item(kind, item, names, path, out);
                path.pop();
            }
        }
        (Value::Array(items), Some(Merge::Set)) => {
            for item in items {
                path.push(format!("v:{item}"));
                out.insert(path.clone());
                path.pop();
            }
        }
        (Value::Object(_), None) if names.len() < 2 => {} // an empty root, spec or metadata owns nothing
        _ => {
            out.insert(path.clone());
        }
    }
}

fn walk_item(kind: &Kind, item: &Value, names: &mut Vec<String>, path: &mut Path, out: &mut FieldSet) {
    let Value::Object(map) = item else { return };
    for (key, child) in map {
        names.push(key.clone());
        path.push(format!("f:{key}"));
        walk(kind, child, names, path, out);
        path.pop();
        names.pop();
    }
}

/// The keys of an item of a keyed list. `protocol` has a default in every schema it is a key of.
fn item_key(item: &Value, keys: &[&str]) -> Map<String, Value> {
    let value = |key: &str| match (item.get(key), key) {
        (Some(value), _) => value.clone(),
        (None, "protocol") => json!("TCP"),
        (None, _) => Value::Null,
    };
    keys.iter().map(|key| ((*key).to_owned(), value(key))).collect()
}

/// How FieldsV1 names an item of a keyed list.
pub fn item_step(item: &Value, keys: &[&str]) -> Step {
    format!("k:{}", Value::Object(item_key(item, keys)))
}

/// The value at a path, if the object has one there.
pub fn at<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
    let mut here = value;
    for step in path {
        here = match (step.split_once(':')?, here) {
            (("f", name), Value::Object(map)) => map.get(name)?,
            (("k", key), Value::Array(items)) => items.iter().find(|item| is_item(item, key))?,
            (("v", text), Value::Array(items)) => items.iter().find(|item| is_value(item, text))?,
            _ => return None,
        };
    }
    Some(here)
}

/// Removes what stands at a path. Nothing there is no error.
pub fn remove(value: &mut Value, path: &[Step]) {
    let Some((step, rest)) = path.split_first() else { return };
    let Some((tag, name)) = step.split_once(':') else {
        return;
    };
    match value {
        Value::Object(map) if tag == "f" => {
            if rest.is_empty() {
                map.remove(name);
            } else if let Some(child) = map.get_mut(name) {
                remove(child, rest);
                // A list or map that was emptied so goes with the last of it.
                let empty =
                    child.as_array().is_some_and(Vec::is_empty) || child.as_object().is_some_and(|c| c.is_empty());
                if rest.len() == 1 && empty {
                    map.remove(name);
                }
            }
        }
        Value::Array(items) => {
            let same = |item: &Value| if tag == "k" { is_item(item, name) } else { is_value(item, name) };
            if let Some(at) = items.iter().position(same) {
                if rest.is_empty() {
                    items.remove(at);
                } else {
                    remove(&mut items[at], rest);
                }
            }
        }
        _ => {}
    }
}

fn is_item(item: &Value, key: &str) -> bool {
    let Ok(Value::Object(named)) = serde_json::from_str(key) else { return false };
    let keys: Vec<&str> = named.keys().map(String::as_str).collect();
    item_key(item, &keys) == named
}

fn is_value(item: &Value, text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| value == *item)
}

/// `.spec.ports[port=80,protocol="TCP"].name`, as conflict messages show a path.
pub fn display(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step.split_once(':') {
            Some(("f", name)) => out.push_str(&format!(".{name}")),
            Some(("k", key)) => {
                let named: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let parts: Vec<String> = named.iter().map(|(k, v)| format!("{k}={v}")).collect();
                out.push_str(&format!("[{}]", parts.join(",")));
            }
            Some((_, value)) => out.push_str(&format!("[={value}]")),
            None => {}
        }
    }
    out
}

/// The nested FieldsV1 object of a set.
pub fn encode(set: &FieldSet) -> Value {
    let mut root = Map::new();
    for path in set {
        let mut here = &mut root;
        for step in path {
            let slot = here.entry(step.clone()).or_insert_with(|| json!({}));
            let Value::Object(map) = slot else { unreachable!("only maps are inserted here") };
            here = map;
        }
        // A keyed item that is owned itself; leaves need no mark.
        if path.last().is_some_and(|s| s.starts_with("k:")) {
            here.insert(".".into(), json!({}));
        }
    }
    Value::Object(root)
}

/// The set a FieldsV1 object stands for.
pub fn decode(fields: &Value) -> FieldSet {
    let mut out = FieldSet::new();
    decode_into(fields, &mut Vec::new(), &mut out);
    out
}

fn decode_into(fields: &Value, path: &mut Path, out: &mut FieldSet) {
    let Value::Object(map) = fields else { return };
    if (map.is_empty() || map.contains_key(".")) && !path.is_empty() {
        out.insert(path.clone());
    }
    for (step, child) in map.iter().filter(|(k, _)| *k != ".") {
        path.push(step.clone());
        decode_into(child, path, out);
        path.pop();
    }
}
