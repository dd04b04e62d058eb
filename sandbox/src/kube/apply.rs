//! Server-side apply and the bookkeeping of field managers. Decides what an apply patch makes of an object, which fields
//! conflict with other managers, and what `metadata.managedFields` says afterwards. Pure; tests are at the end of the file.
//!
//! Simpler than Kubernetes in two ways: types come from the merge rules of the kind table instead of a full schema, and an
//! entry's time is the time of its last change.

use serde_json::{Value, json};

use super::fields::{self, FieldSet, Path};
use super::kinds::{Kind, Merge};
use super::object::{metadata, now};
use super::status::ApiError;

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'a> {
    pub name: &'a str,
    /// `Apply` or `Update`.
    pub operation: &'static str,
    /// `status`, or empty for the object itself.
    pub subresource: &'a str,
}

#[derive(Debug, Clone)]
struct Entry {
    raw: Value,
    set: FieldSet,
}

impl Entry {
    fn belongs_to(&self, manager: &Manager<'_>) -> bool {
        self.raw["manager"] == manager.name
            && self.raw["operation"] == manager.operation
            && self.raw["subresource"].as_str().unwrap_or_default() == manager.subresource
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let entry = |raw: &Value| Entry { raw: raw.clone(), set: fields::decode(&raw["fieldsV1"]) };
    list.map(|list| list.iter().map(entry).collect()).unwrap_or_default()
}

fn write_entries(object: &mut Value, entries: Vec<Entry>) {
    let list: Vec<Value> = entries
        .into_iter()
        .filter(|entry| !entry.set.is_empty())
        .map(|mut entry| {
            entry.raw["fieldsV1"] = fields::encode(&entry.set);
            entry.raw
        })
        .collect();
    if list.is_empty() {
        metadata(object).remove("managedFields");
    } else {
        metadata(object).insert("managedFields".into(), Value::Array(list));
    }
}

fn set_entry(kind: &Kind, entries: &mut Vec<Entry>, manager: &Manager<'_>, set: FieldSet) {
    if let Some(entry) = entries.iter_mut().find(|e| e.belongs_to(manager)) {
        if entry.set != set {
            entry.set = set;
            entry.raw["time"] = json!(now());
        }
        return;
    }
    let mut raw = json!({"manager": manager.name, "operation": manager.operation, "apiVersion": kind.api_version(),
        "time": now(), "fieldsType": "FieldsV1"});
    if !manager.subresource.is_empty() {
        raw["subresource"] = json!(manager.subresource);
    }
    entries.push(Entry { raw, set });
}

/// What applying `patch` makes of `live` (`None`: it does not exist yet).
pub fn apply(
    kind: &Kind,
    live: Option<&Value>,
    patch: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    let mut patch = without_nulls(patch);
    metadata(&mut patch).remove("managedFields");
    let wanted = fields::leaves(kind, &patch);
    let Some(live) = live else {
        let mut created = patch;
        write_entries(&mut created, Vec::new());
        let mut list = Vec::new();
        set_entry(kind, &mut list, manager, wanted);
        write_entries(&mut created, list);
        return Ok(created);
    };
    let mut list = entries(live);
    resolve_conflicts(live, &patch, &wanted, &mut list, manager, force)?;

    let mut merged = live.clone();
    merge(kind, &mut Vec::new(), &mut merged, &patch);
    // What this manager applied before and leaves out now goes away, unless somebody else owns it too.
    let before = list.iter().find(|e| e.belongs_to(manager)).map(|e| e.set.clone()).unwrap_or_default();
    for path in before.difference(&wanted) {
        let others = list.iter().filter(|e| !e.belongs_to(manager)).any(|e| e.set.iter().any(|p| overlaps(p, path)));
        let still_wanted = wanted.iter().any(|p| p.starts_with(path));
        if !others && !still_wanted {
            fields::remove(&mut merged, path);
        }
    }
    set_entry(kind, &mut list, manager, wanted);
    write_entries(&mut merged, list);
    Ok(merged)
}

/// A null in an applied configuration says nothing, as if the field were left out.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect()
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        scalar => scalar.clone(),
    }
}

fn overlaps(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// Finds leaves of the patch that others own at another value. Without force that is an error; with force they lose them.
fn resolve_conflicts(
    live: &Value,
    patch: &Value,
    wanted: &FieldSet,
    list: &mut [Entry],
    manager: &Manager<'_>,
    force: bool,
) -> Result<(), ApiError> {
    let mut conflicts = Vec::new();
    for entry in list.iter_mut().filter(|e| !e.belongs_to(manager)) {
        let disputed: Vec<Path> = wanted
            .iter()
            .filter(|path| entry.set.contains(*path) && !is_item(path))
            .filter(|path| fields::at(live, path) != fields::at(patch, path))
            .cloned()
            .collect();
        for path in disputed {
            if force {
                entry.set.remove(&path);
            } else {
                let name = entry.raw["manager"].as_str().unwrap_or_default().to_owned();
                conflicts.push((format!("{name:?}{}", how(&entry.raw)), fields::display(&path)));
            }
        }
    }
    if conflicts.is_empty() { Ok(()) } else { Err(ApiError::apply_conflict(&conflicts)) }
}

/// How the other manager came by the field, as Kubernetes words it.
fn how(entry: &Value) -> String {
    let subresource =
        entry["subresource"].as_str().map_or_else(String::new, |name| format!(" with subresource {name:?}"));
    match (entry["operation"].as_str(), entry["apiVersion"].as_str()) {
        (Some("Update"), Some(version)) => format!("{subresource} using {version}"),
        _ => subresource,
    }
}

/// Owning an item of a list is no claim on its content.
fn is_item(path: &Path) -> bool {
    path.last().is_some_and(|step| !step.starts_with("f:"))
}

fn merge(kind: &Kind, names: &mut Vec<String>, target: &mut Value, patch: &Value) {
    match (patch, kind.merge_rule(names)) {
        (Value::Object(map), rule) if rule != Some(Merge::Atomic) && target.is_object() => {
            for (key, value) in map {
                names.push(key.clone());
                merge(kind, names, &mut target[key.as_str()], value);
                names.pop();
            }
        }
        (Value::Array(items), Some(Merge::ByKeys(keys))) if target.is_array() => {
            let Value::Array(list) = target else { return };
            for item in items {
                let step = fields::item_step(item, keys);
                match list.iter_mut().find(|existing| fields::item_step(existing, keys) == step) {
                    Some(existing) => merge_item(kind, names, existing, item),
                    None => list.push(item.clone()),
                }
            }
        }
        (Value::Array(items), Some(Merge::Set)) if target.is_array() => {
            let Value::Array(list) = target else { return };
            for item in items {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        _ => *target = patch.clone(),
    }
}

fn merge_item(kind: &Kind, names: &mut Vec<String>, target: &mut Value, item: &Value) {
    let Value::Object(map) = item else { return };
    for (key, value) in map {
        names.push(key.clone());
        merge(kind, names, &mut target[key.as_str()], value);
        names.pop();
    }
}

/// What the server fills in after it has noted who wrote what, so that it belongs to nobody.
fn set_by_server(kind: &Kind, path: &[String]) -> bool {
    const SERVICE: [&str; 5] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"];
    let step = |at: usize| path.get(at).and_then(|step| step.strip_prefix("f:")).unwrap_or_default();
    let status = kind.status && step(0) == "status";
    let address = kind.plural == "services" && step(0) == "spec" && SERVICE.contains(&step(1));
    let node_port = kind.plural == "services" && path.last().is_some_and(|step| step == "f:nodePort");
    let finalizers = kind.plural == "namespaces" && step(0) == "spec";
    status || address || node_port || finalizers
}

/// Records a plain create, update or patch: the writer owns what it changed, whoever owned that before does not.
pub fn record_update(kind: &Kind, before: Option<&Value>, after: &mut Value, manager: &Manager<'_>) {
    let mut list = before.map(entries).unwrap_or_default();
    let written = |path: &Path| !manager.subresource.is_empty() || !set_by_server(kind, path);
    let now_there: FieldSet = fields::leaves(kind, after).into_iter().filter(written).collect();
    let changed: FieldSet = match before {
        None => now_there.clone(),
        Some(before) => {
            now_there.iter().filter(|path| fields::at(before, path) != fields::at(after, path)).cloned().collect()
        }
    };
    // An item of a list "changes" with each of its leaves; only a new one is gained.
    let changed: FieldSet =
        changed.into_iter().filter(|p| !is_item(p) || before.is_none_or(|b| fields::at(b, p).is_none())).collect();
    for entry in &mut list {
        let mine = entry.belongs_to(manager);
        entry.set.retain(|path| fields::at(after, path).is_some() && (mine || !changed.contains(path)));
    }
    let mut set = list.iter().find(|e| e.belongs_to(manager)).map(|e| e.set.clone()).unwrap_or_default();
    set.extend(changed);
    if !set.is_empty() {
        set_entry(kind, &mut list, manager, set);
    }
    write_entries(after, list);
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{DEPLOYMENTS, PODS, SERVICES};
    use super::*;

    fn applier(name: &str) -> Manager<'_> {
        Manager { name, operation: "Apply", subresource: "" }
    }

    fn deployment(replicas: i64, labels: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": labels},
               "spec": {"replicas": replicas}})
    }

    #[test]
    fn a_second_manager_conflicts_on_the_same_leaf_unless_it_forces() {
        let kind = DEPLOYMENTS.row();
        let live = apply(kind, None, &deployment(2, json!({"a": "1"})), &applier("one"), false).unwrap();
        let other = json!({"spec": {"replicas": 3}, "metadata": {"labels": {"b": "2"}}});
        let refused = apply(kind, Some(&live), &other, &applier("two"), false).unwrap_err();
        assert_eq!((refused.code, refused.reason), (409, "Conflict"));
        assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
        let forced = apply(kind, Some(&live), &other, &applier("two"), true).unwrap();
        assert_eq!(forced["spec"]["replicas"], 3);
        assert_eq!(forced["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        // The first manager lost the leaf: its own old value is now the conflict.
        let again = apply(kind, Some(&forced), &deployment(2, json!({"a": "1"})), &applier("one"), false);
        assert!(again.unwrap_err().message.contains("conflict with \"two\""));
    }

    #[test]
    fn the_same_value_is_shared_and_left_only_when_the_last_owner_drops_it() {
        let kind = DEPLOYMENTS.row();
        let both = json!({"metadata": {"labels": {"a": "1"}}});
        let live = apply(kind, None, &both, &applier("one"), false).unwrap();
        let live = apply(kind, Some(&live), &both, &applier("two"), false).unwrap();
        let live = apply(kind, Some(&live), &json!({}), &applier("one"), false).unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"a": "1"}));
        let live = apply(kind, Some(&live), &json!({}), &applier("two"), false).unwrap();
        assert_eq!(live["metadata"]["labels"], Value::Null);
    }

    #[test]
    fn applying_the_same_twice_changes_nothing() {
        let patch = json!({"spec": {"ports": [{"port": 80, "name": "http"}], "selector": {"app": "web"}}});
        let live = apply(SERVICES.row(), None, &patch, &applier("one"), false).unwrap();
        let again = apply(SERVICES.row(), Some(&live), &patch, &applier("one"), false).unwrap();
        assert_eq!(live, again);
    }

    #[test]
    fn keyed_items_belong_to_the_manager_that_applied_them() {
        let kind = PODS.row();
        let condition =
            |name: &str, status: &str| json!({"status": {"conditions": [{"type": name, "status": status}]}});
        let live = apply(kind, None, &condition("Ready", "True"), &applier("kubelet"), false).unwrap();
        let live = apply(kind, Some(&live), &condition("Gate", "True"), &applier("agent"), false).unwrap();
        assert_eq!(live["status"]["conditions"].as_array().unwrap().len(), 2);
        let live = apply(kind, Some(&live), &json!({}), &applier("agent"), false).unwrap();
        assert_eq!(live["status"]["conditions"], json!([{"type": "Ready", "status": "True"}]));
    }

    #[test]
    fn a_plain_update_takes_ownership_of_what_it_changes() {
        let kind = DEPLOYMENTS.row();
        let live = apply(kind, None, &deployment(2, json!({})), &applier("one"), false).unwrap();
        let mut changed = live.clone();
        changed["spec"]["replicas"] = json!(5);
        let manager = Manager { name: "scaler", operation: "Update", subresource: "" };
        record_update(kind, Some(&live), &mut changed, &manager);
        let refused = apply(kind, Some(&changed), &deployment(2, json!({})), &applier("one"), false).unwrap_err();
        assert!(
            refused.message.contains("conflict with \"scaler\" using apps/v1: .spec.replicas"),
            "{}",
            refused.message
        );
    }

    #[test]
    fn field_sets_survive_being_written_down() {
        let value = json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "name": "http"}], "type": "ClusterIP"},
                           "metadata": {"finalizers": ["x"], "labels": {"a": "b"}}});
        let set = fields::leaves(SERVICES.row(), &value);
        assert_eq!(fields::decode(&fields::encode(&set)), set);
        for path in &set {
            assert!(fields::at(&value, path).is_some(), "{}", fields::display(path));
        }
    }
}
