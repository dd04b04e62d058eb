//! One stored Kubernetes object: its JSON, shared and serialised at most once. Imports nothing of the store or server.

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

/// An immutable version of an object.
#[derive(Debug)]
pub struct Object {
    value: Value,
    /// Serialised on first use: the same version goes to every watcher.
    json: OnceLock<Bytes>,
}

impl Object {
    pub fn new(value: Value) -> Self {
        Self { value, json: OnceLock::new() }
    }

    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The object as JSON text.
    pub fn json(&self) -> Bytes {
        self.json.get_or_init(|| Bytes::from(self.value.to_string())).clone()
    }

    pub fn name(&self) -> &str {
        text(&self.value, "/metadata/name")
    }

    pub fn namespace(&self) -> &str {
        text(&self.value, "/metadata/namespace")
    }

    pub fn uid(&self) -> &str {
        text(&self.value, "/metadata/uid")
    }

    /// The text at a JSON pointer, empty when there is none.
    pub fn text(&self, pointer: &str) -> &str {
        text(&self.value, pointer)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.value.pointer("/metadata/labels")?.get(key)?.as_str()
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.value.pointer("/metadata/annotations")?.get(key)?.as_str()
    }

    /// Whether deletion has been asked for.
    pub fn terminating(&self) -> bool {
        self.value.pointer("/metadata/deletionTimestamp").is_some_and(|v| !v.is_null())
    }

    /// Whether the condition of this type stands at `True`.
    pub fn condition(&self, kind: &str) -> bool {
        self.value
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(|c| c["type"] == kind && c["status"] == "True"))
    }

    /// uid of the owner that controls this object.
    pub fn controller_uid(&self) -> Option<&str> {
        let owners = self.value.pointer("/metadata/ownerReferences")?.as_array()?;
        owners.iter().find(|o| o["controller"] == true)?.get("uid")?.as_str()
    }
}

/// The text at a JSON pointer, empty when there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Makes `value[key]` a map if it is none, and hands it out.
pub fn child<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    let slot = &mut value[key];
    if !slot.is_object() {
        *slot = json!({});
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// The metadata of an object, made if it is missing.
pub fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    child(value, "metadata")
}

/// Now, as Kubernetes writes a `Time`: whole seconds in UTC.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
