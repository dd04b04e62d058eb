//! Paths and methods to verbs on objects. Pure; tests are at the end of the file.

use std::collections::HashMap;

use http::Method;

use super::kinds::{KindId, NAMESPACES, PODS};
use super::rbac::Attributes;
use super::status::ApiError;

/// A decoded query string.
pub(super) type QueryMap = HashMap<String, String>;

/// An object path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub kind: KindId,
    pub namespace: Option<String>,
    /// Empty for a collection.
    pub name: String,
    /// `status`, `eviction`, `finalize` or empty.
    pub subresource: String,
}

/// The object or collection at a path; `None` where nothing is served.
pub(super) fn route(segments: &[&str]) -> Option<Route> {
    let (group, version, rest) = match segments {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        // Subresources of a namespace itself, and the object: not a path within it.
        ["namespaces", _, "status" | "finalize"] | ["namespaces", _] | ["namespaces"] => (None, rest),
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        _ => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, sub] => (*plural, *name, *sub),
        _ => return None,
    };
    let kind = KindId::find(group, version, plural)?;
    let row = kind.row();
    let known = match subresource {
        "" => true,
        "status" => row.status,
        "eviction" => kind == PODS,
        "finalize" => kind == NAMESPACES,
        _ => false,
    };
    // A namespaced object has no path outside its namespace; a cluster-scoped one none inside.
    let scoped = if row.namespaced { namespace.is_some() || name.is_empty() } else { namespace.is_none() };
    (known && scoped).then(|| Route { kind, namespace, name: name.to_owned(), subresource: subresource.to_owned() })
}

/// What authorization is asked about a request; a method that means nothing there is an error.
pub(super) fn attributes(method: &Method, route: &Route, query: &QueryMap) -> Result<Attributes, ApiError> {
    let row = route.kind.row();
    let collection = route.name.is_empty();
    let watching = query.get("watch").is_some_and(|v| v == "true" || v == "1");
    let verb = match *method {
        Method::GET if collection && watching => "watch",
        Method::GET if collection => "list",
        Method::GET => "get",
        Method::POST if collection || route.subresource == "eviction" => "create",
        Method::PUT if !collection => "update",
        Method::PATCH if !collection => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE if route.subresource.is_empty() => "delete",
        _ => return Err(ApiError::method_not_allowed()),
    };
    let scoped = row.namespaced && route.namespace.is_none() && !matches!(verb, "list" | "watch");
    if scoped {
        return Err(ApiError::method_not_allowed());
    }
    let resource = if route.subresource.is_empty() {
        row.plural.to_owned()
    } else {
        format!("{}/{}", row.plural, route.subresource)
    };
    Ok(Attributes { verb, group: row.group, resource, namespace: route.namespace.clone(), name: route.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{CLUSTER_TRAFFIC_POLICIES, SERVICES};
    use super::*;

    fn found(path: &str) -> Option<Route> {
        route(&path.split('/').filter(|s| !s.is_empty()).collect::<Vec<_>>())
    }

    #[test]
    fn paths_name_kind_namespace_name_and_subresource() {
        let pod = found("/api/v1/namespaces/shop/pods/web-1/status").unwrap();
        assert_eq!((pod.kind, pod.namespace.as_deref(), pod.name.as_str()), (PODS, Some("shop"), "web-1"));
        assert_eq!(pod.subresource, "status");
        let all = found("/api/v1/services").unwrap();
        assert_eq!((all.kind, all.namespace, all.name.as_str()), (SERVICES, None, ""));
        let policy = found("/apis/switchyard.dev/v1alpha1/namespaces/shop/clustertrafficpolicies/x").unwrap();
        assert_eq!(policy.kind, CLUSTER_TRAFFIC_POLICIES);
        let namespace = found("/api/v1/namespaces/shop").unwrap();
        assert_eq!((namespace.kind, namespace.name.as_str()), (NAMESPACES, "shop"));
    }

    #[test]
    fn paths_that_mean_nothing_are_not_served() {
        for path in
            ["/api/v1/pods/web-1", "/api/v1/namespaces/shop/nodes", "/api/v2/pods", "/x", "/api/v1/nodes/a/scale"]
        {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn a_watch_of_a_collection_is_the_verb_watch() {
        let route = found("/api/v1/pods").unwrap();
        let query = HashMap::from([("watch".to_owned(), "true".to_owned())]);
        assert_eq!(attributes(&Method::GET, &route, &query).unwrap().verb, "watch");
        assert_eq!(attributes(&Method::GET, &route, &QueryMap::new()).unwrap().verb, "list");
        assert_eq!(attributes(&Method::POST, &route, &QueryMap::new()).unwrap_err().code, 405);
    }
}
