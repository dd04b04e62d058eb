//! What the API server refuses: a deny list that stands in for roles taken away. Everything else is allowed.
//! Pure data; the server asks before each request and on each turn of a watch.

use serde::{Deserialize, Serialize};

/// One permission taken away. `*` stands for every verb or resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deny {
    pub verb: String,
    /// Plural name, with the subresource where there is one: `pods` or `pods/status`.
    pub resource: String,
    /// Only requests within this namespace. Without it also those over all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// One request, as authorization sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    pub verb: &'static str,
    pub group: &'static str,
    pub resource: String,
    /// `None` over all namespaces and for cluster-scoped kinds.
    pub namespace: Option<String>,
    pub name: String,
}

/// Whether the deny list stands against the request.
pub fn denied(rules: &[Deny], request: &Attributes) -> bool {
    rules.iter().any(|rule| {
        let verb = rule.verb == "*" || rule.verb == request.verb;
        let resource = rule.resource == "*" || rule.resource == request.resource;
        verb && resource && (rule.namespace.is_none() || rule.namespace == request.namespace)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verb: &str, resource: &str, namespace: Option<&str>) -> Deny {
        Deny { verb: verb.into(), resource: resource.into(), namespace: namespace.map(Into::into) }
    }

    #[test]
    fn a_rule_denies_its_verb_resource_and_namespace_only() {
        let request = |verb, namespace: Option<&str>| Attributes {
            verb,
            group: "",
            resource: "pods".into(),
            namespace: namespace.map(Into::into),
            name: String::new(),
        };
        let rules = [rule("list", "pods", Some("shop"))];
        assert!(denied(&rules, &request("list", Some("shop"))));
        assert!(!denied(&rules, &request("watch", Some("shop"))));
        assert!(!denied(&rules, &request("list", Some("other"))));
        assert!(!denied(&rules, &request("list", None)));
        assert!(denied(&[rule("*", "*", None)], &request("watch", None)));
        assert!(!denied(&[rule("*", "services", None)], &request("watch", None)));
    }
}
