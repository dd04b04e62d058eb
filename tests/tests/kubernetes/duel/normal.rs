//! When two answers are the same: what each server makes up by itself (ids, versions, times, addresses) is numbered in the order
//! in which it first appears, so that only equality counts. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// What one server made up so far.
#[derive(Clone, Debug, Default)]
pub struct Names {
    uids: BTreeMap<String, usize>,
    versions: BTreeMap<String, usize>,
}

fn number(seen: &mut BTreeMap<String, usize>, value: &str) -> usize {
    let next = seen.len();
    *seen.entry(value.to_owned()).or_insert(next)
}

impl Names {
    /// The answer without what was made up.
    pub fn normal(&mut self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                // A list's version is the server's, which others may have moved.
                let list = fields.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
                let bookmark = fields.get("type").is_some_and(|kind| kind == "BOOKMARK");
                let fields = fields.iter().map(|(name, value)| {
                    let value = match name.as_str() {
                        "metadata" if list => without_version(value),
                        "object" if bookmark => without_object_version(value),
                        _ => self.field(name, value),
                    };
                    (name.clone(), value)
                });
                Value::Object(fields.collect::<Map<_, _>>())
            }
            Value::Array(items) => Value::Array(items.iter().map(|item| self.normal(item)).collect()),
            other => other.clone(),
        }
    }

    fn field(&mut self, name: &str, value: &Value) -> Value {
        let text = value.as_str().unwrap_or_default();
        let made_up = match name {
            "uid" if text.len() == 36 => format!("uid {}", number(&mut self.uids, text)),
            "resourceVersion" if !text.is_empty() => format!("version {}", number(&mut self.versions, text)),
            "creationTimestamp" | "deletionTimestamp" | "time" if !text.is_empty() => "a time".to_owned(),
            "clusterIP" if text.contains('.') => "an address".to_owned(),
            "continue" if !text.is_empty() => "a token".to_owned(),
            "nodePort" | "healthCheckNodePort" if value.is_number() => "a port".to_owned(),
            "clusterIPs" => return Value::Array(vec!["an address".into()]),
            "name" if text.starts_with("made-") => "made-up".to_owned(),
            "managedFields" => return sorted(self.normal(value)),
            // Marks that a map or an item is owned itself, beside its fields; Kubernetes sets it for some.
            "fieldsV1" => return without_dots(value),
            "message" => return Value::String(message(text)),
            _ => return self.normal(value),
        };
        Value::String(made_up)
    }
}

fn without_version(metadata: &Value) -> Value {
    let mut metadata = metadata.clone();
    if let Some(version) = metadata.get_mut("resourceVersion") {
        *version = "a version".into();
    }
    if let Some(token) = metadata.get_mut("continue") {
        *token = "a token".into();
    }
    metadata
}

fn without_object_version(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = "a version".into();
    object
}

fn without_dots(fields: &Value) -> Value {
    let Value::Object(fields) = fields else { return fields.clone() };
    fields.iter().filter(|(name, _)| *name != ".").map(|(name, below)| (name.clone(), without_dots(below))).collect()
}

fn sorted(managers: Value) -> Value {
    let Value::Array(mut managers) = managers else { return managers };
    managers.sort_by_key(|manager| format!("{}{}{}", manager["manager"], manager["operation"], manager["subresource"]));
    Value::Array(managers)
}

/// Ids in sentences.
fn message(text: &str) -> String {
    let id = |word: &&str| word.len() == 36 && word.chars().filter(|c| *c == '-').count() == 4;
    let words = text.split(' ').map(|word| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        if Some(bare).filter(id).is_some() { word.replace(bare, "an id") } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// One difference between two answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, such as `body.metadata.name`.
    pub path: String,
    /// What the real server has there.
    pub real: String,
    /// What the sandbox has there.
    pub sandbox: String,
}

/// Every place where two answers differ.
pub fn differences(real: &Value, sandbox: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk("", real, sandbox, &mut found);
    found.dedup();
    found
}

fn walk(path: &str, real: &Value, sandbox: &Value, found: &mut Vec<Difference>) {
    match (real, sandbox) {
        (Value::Object(left), Value::Object(right)) => {
            for name in left.keys().chain(right.keys()).collect::<BTreeSet<_>>() {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match (left.get(name), right.get(name)) {
                    (Some(left), Some(right)) => walk(&below, left, right, found),
                    (left, right) => found.push(difference(&below, left, right)),
                }
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (left, right) in left.iter().zip(right) {
                walk(&format!("{path}[]"), left, right, found);
            }
        }
        (left, right) if left == right => {}
        (left, right) => found.push(difference(path, Some(left), Some(right))),
    }
}

fn difference(path: &str, real: Option<&Value>, sandbox: Option<&Value>) -> Difference {
    let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    Difference { path: path.to_owned(), real: shown(real), sandbox: shown(sandbox) }
}
