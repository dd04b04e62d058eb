//! Label and field selectors, parsed from their query strings as Kubernetes writes them. Pure.

use serde_json::Value;

use super::kinds::{KindId, PODS};
use super::object::Object;
use super::status::ApiError;

#[derive(Debug, Clone, PartialEq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// What a list or watch is narrowed to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selector {
    labels: Vec<Requirement>,
    /// (JSON pointer, value, whether it must equal).
    fields: Vec<(String, String, bool)>,
}

impl Selector {
    /// Parses both query parameters; empty text selects everything.
    pub fn parse(kind: KindId, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let mut out = Selector::default();
        for part in split_outside_parentheses(labels) {
            out.labels.push(requirement(&part)?);
        }
        for part in fields.split(',').filter(|p| !p.trim().is_empty()) {
            out.fields.push(field(kind, part)?);
        }
        Ok(out)
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &Object) -> bool {
        let label = |key: &str| object.label(key);
        let labels = self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|v| values.iter().any(|x| x == v)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|v| values.iter().all(|x| x != v)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        });
        labels && self.fields.iter().all(|(pointer, value, equal)| (object.text(pointer) == value) == *equal)
    }
}

/// Whether every pair of a Service's selector is among the labels of the object.
pub fn labels_include(object: &Object, wanted: &Value) -> bool {
    let Some(wanted) = wanted.as_object() else { return false };
    !wanted.is_empty() && wanted.iter().all(|(key, value)| object.label(key) == value.as_str())
}

fn split_outside_parentheses(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_u32;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts.into_iter().map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

fn requirement(part: &str) -> Result<Requirement, ApiError> {
    let bad = || ApiError::bad_request(format!("unable to parse requirement: {part:?}"));
    let one = |key: &str, value: &str| (key.trim().to_owned(), vec![value.trim().to_owned()]);
    if let Some((head, values)) = part.split_once('(') {
        let values: Vec<String> =
            values.strip_suffix(')').ok_or_else(bad)?.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(Requirement::In(key.to_owned(), values)),
            (Some(key), Some("notin"), None) => Ok(Requirement::NotIn(key.to_owned(), values)),
            _ => Err(bad()),
        };
    }
    let found = if let Some((key, value)) = part.split_once("!=") {
        let (key, values) = one(key, value);
        Requirement::NotIn(key, values)
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        let (key, values) = one(key, value);
        Requirement::In(key, values)
    } else if let Some(key) = part.strip_prefix('!') {
        Requirement::Absent(key.trim().to_owned())
    } else {
        Requirement::Exists(part.to_owned())
    };
    let (Requirement::In(key, _) | Requirement::NotIn(key, _) | Requirement::Exists(key) | Requirement::Absent(key)) =
        &found;
    if key.is_empty() || key.contains(char::is_whitespace) { Err(bad()) } else { Ok(found) }
}

fn field(kind: KindId, part: &str) -> Result<(String, String, bool), ApiError> {
    let (name, value, equal) = if let Some((name, value)) = part.split_once("!=") {
        (name, value, false)
    } else if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (name, value, true)
    } else {
        return Err(ApiError::bad_request(format!("invalid field selector: {part:?}; can't understand {part:?}")));
    };
    let name = name.trim();
    let known = match name {
        "metadata.name" => true,
        "metadata.namespace" => kind.row().namespaced,
        "spec.nodeName" | "status.phase" | "status.podIP" => kind == PODS,
        "involvedObject.name"
        | "involvedObject.namespace"
        | "involvedObject.kind"
        | "involvedObject.uid"
        | "reason"
        | "type" => kind == super::kinds::EVENTS,
        _ => false,
    };
    if !known {
        let message = format!("field label not supported: {name}");
        return Err(ApiError::bad_request(message));
    }
    Ok((format!("/{}", name.replace('.', "/")), value.trim().to_owned(), equal))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kinds::SERVICES;
    use super::*;

    fn pod() -> Object {
        Object::new(json!({"metadata": {"name": "web-1", "labels": {"app": "web", "tier": "front"}},
                           "spec": {"nodeName": "node-a"}}))
    }

    fn selects(labels: &str, fields: &str) -> bool {
        Selector::parse(PODS, labels, fields).unwrap().matches(&pod())
    }

    #[test]
    fn label_selectors_follow_the_kubernetes_grammar() {
        for yes in ["", "app=web", "app==web,tier", "tier in (front, back)", "app!=db", "!gone", "x notin (1)"] {
            assert!(selects(yes, ""), "{yes}");
        }
        for no in ["app=db", "gone", "!app", "tier notin (front)", "app in (a,b),tier"] {
            assert!(!selects(no, ""), "{no}");
        }
        for broken in ["app in web", "a b", "x in (1", "=v"] {
            assert!(Selector::parse(PODS, broken, "").is_err(), "{broken}");
        }
    }

    #[test]
    fn field_selectors_know_names_and_nodes_only() {
        assert!(selects("", "metadata.name=web-1,spec.nodeName=node-a"));
        assert!(!selects("", "spec.nodeName!=node-a"));
        assert!(Selector::parse(SERVICES, "", "spec.nodeName=x").is_err());
        assert!(Selector::parse(PODS, "", "spec.hostname=x").is_err());
    }

    #[test]
    fn an_empty_service_selector_selects_no_pod() {
        assert!(labels_include(&pod(), &json!({"app": "web"})));
        assert!(!labels_include(&pod(), &json!({})));
        assert!(!labels_include(&pod(), &json!({"app": "web", "x": "y"})));
    }
}
