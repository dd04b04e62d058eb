//! Lists: consistent paging, resource versions, selectors, whole objects or their metadata. Reads a store; knows no
//! connection. Tests with a real client are in `tests/kube_watch.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::kinds::KindId;
use super::object::Object;
use super::selector::Selector;
use super::status::ApiError;
use super::store::Store;

/// Which objects a request is about, and in which form they are shown.
#[derive(Debug, Clone)]
pub struct Scope {
    pub kind: KindId,
    pub namespace: Option<String>,
    pub selector: Selector,
    /// `PartialObjectMetadata` instead of whole objects.
    pub metadata_only: bool,
}

impl Scope {
    pub(super) fn contains(&self, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|ns| object.namespace() == ns) && self.selector.matches(object)
    }

    /// The object in the form that was asked for.
    pub fn shown(&self, object: &Object) -> Bytes {
        if self.metadata_only { Bytes::from(partial(object.value()).to_string()) } else { object.json() }
    }
}

/// An object reduced to its metadata.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

pub(super) fn number(query: &HashMap<String, String>, name: &str) -> Result<Option<u64>, ApiError> {
    match query.get(name).map(String::as_str) {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(ApiError::bad_request(format!("{name}: Invalid value: {text:?}: must be a whole number"))),
        },
    }
}

pub(super) fn flag(query: &HashMap<String, String>, name: &str) -> bool {
    query.get(name).is_some_and(|v| v == "true" || v == "1")
}

/// Where the next page starts: the version of the first page and the last key that was given out.
#[derive(serde::Serialize, serde::Deserialize)]
struct Continue {
    rv: u64,
    namespace: String,
    name: String,
}

impl Continue {
    /// Opaque to clients, so spelled in hexadecimal.
    fn encode(&self) -> String {
        let text = json!(self).to_string();
        text.bytes().map(|b| format!("{b:02x}")).collect()
    }

    fn decode(text: &str) -> Option<Self> {
        let digits = text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
        serde_json::from_slice(&digits.collect::<Option<Vec<u8>>>()?).ok()
    }
}

/// Answers a list request with the text of a list object.
pub fn list(store: &Store, scope: &Scope, query: &HashMap<String, String>) -> Result<Bytes, ApiError> {
    let limit =
        number(query, "limit")?.filter(|n| *n > 0).map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let namespace = scope.namespace.as_deref();
    let asked = number(query, "resourceVersion")?;
    if asked.is_none() && query.get("resourceVersionMatch").is_some_and(|rule| !rule.is_empty()) {
        let cause = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
        return Err(ApiError::invalid_options("ListOptions", "resourceVersionMatch", cause));
    }
    let (version, mut objects) = if let Some(token) = query.get("continue").filter(|t| !t.is_empty()) {
        let token = Continue::decode(token).ok_or_else(|| ApiError::bad_request("continue key is not valid"))?;
        let all = store.list_at(scope.kind, namespace, token.rv).map_err(|_| {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter.",
            )
        })?;
        let after = (token.namespace.as_str(), token.name.as_str());
        (token.rv, all.into_iter().filter(|o| (o.namespace(), o.name()) > after).collect::<Vec<_>>())
    } else {
        let (current, all) = store.list(scope.kind, namespace);
        match (asked, query.get("resourceVersionMatch").map(String::as_str)) {
            (Some(asked), _) if asked > current => return Err(ApiError::too_large_version(asked, current)),
            (Some(asked), Some("Exact")) => {
                let too_old =
                    |_| ApiError::expired(format!("The resourceVersion for the provided list is too old: {asked}"));
                (asked, store.list_at(scope.kind, namespace, asked).map_err(too_old)?)
            }
            _ => (current, all),
        }
    };
    objects.retain(|object| scope.selector.matches(object));
    let remaining = objects.len().saturating_sub(limit);
    objects.truncate(limit);
    Ok(list_body(scope, version, &objects, remaining))
}

/// Items of a list of built-in kinds do not repeat what the list says of itself.
fn untyped_into(out: &mut Vec<u8>, object: &Value) {
    out.push(b'{');
    let fields = object.as_object().into_iter().flatten();
    for (index, (name, value)) in fields.filter(|(name, _)| *name != "apiVersion" && *name != "kind").enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(format!("{}:{value}", Value::from(name.as_str())).as_bytes());
    }
    out.push(b'}');
}

fn list_body(scope: &Scope, version: u64, objects: &[Arc<Object>], remaining: usize) -> Bytes {
    let row = scope.kind.row();
    let mut meta = json!({"resourceVersion": version.to_string()});
    if let (Some(last), 1..) = (objects.last(), remaining) {
        let token = Continue { rv: version, namespace: last.namespace().into(), name: last.name().into() };
        meta["continue"] = json!(token.encode());
        // Kubernetes cannot count what a selector hides, and leaves the number out.
        if scope.selector.is_empty() {
            meta["remainingItemCount"] = json!(remaining);
        }
    }
    let (kind, api_version) = if scope.metadata_only {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
    } else {
        (format!("{}List", row.kind), row.api_version())
    };
    let head = json!({"kind": kind, "apiVersion": api_version, "metadata": meta}).to_string();
    let mut out = Vec::with_capacity(head.len() + objects.len() * 1024);
    out.extend_from_slice(&head.as_bytes()[..head.len() - 1]);
    out.extend_from_slice(b",\"items\":[");
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if scope.metadata_only || row.custom {
            out.extend_from_slice(&scope.shown(object));
        } else {
            untyped_into(&mut out, object.value());
        }
    }
    out.extend_from_slice(b"]}");
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::super::kinds::PODS;
    use super::super::store::Write;
    use super::*;

    fn store_of(names: &[&str]) -> Store {
        let store = Store::default();
        for name in names {
            let value = json!({"metadata": {"name": name, "namespace": "shop"}});
            let key = ("shop".to_owned(), (*name).to_owned());
            store.modify(PODS, &key, |_| Ok::<_, ApiError>(Write::Put(value))).unwrap();
        }
        store
    }

    fn scope() -> Scope {
        Scope { kind: PODS, namespace: None, selector: Selector::default(), metadata_only: false }
    }

    fn page(store: &Store, query: &[(&str, &str)]) -> Result<Value, ApiError> {
        let query = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        list(store, &scope(), &query).map(|body| serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn pages_show_the_state_of_the_first_page() {
        let store = store_of(&["a", "b", "c"]);
        let first = page(&store, &[("limit", "2")]).unwrap();
        assert_eq!(first["items"].as_array().unwrap().len(), 2);
        assert_eq!(first["metadata"]["remainingItemCount"], 1);
        let key = ("shop".to_owned(), "c".to_owned());
        store.modify(PODS, &key, |_| Ok::<_, ApiError>(Write::Remove)).unwrap();
        let token = first["metadata"]["continue"].as_str().unwrap();
        let second = page(&store, &[("limit", "2"), ("continue", token)]).unwrap();
        assert_eq!(second["items"][0]["metadata"]["name"], "c");
        assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        assert!(second["metadata"]["continue"].is_null());
        store.compact();
        assert_eq!(page(&store, &[("continue", token)]).unwrap_err().code, 410);
        assert_eq!(page(&store, &[("continue", "zz")]).unwrap_err().code, 400);
    }

    #[test]
    fn a_version_from_the_future_is_a_timeout_with_a_cause() {
        let error = page(&store_of(&["a"]), &[("resourceVersion", "99")]).unwrap_err();
        assert_eq!((error.code, error.reason), (504, "Timeout"));
        assert_eq!(page(&store_of(&[]), &[("limit", "x")]).unwrap_err().code, 400);
    }
}
