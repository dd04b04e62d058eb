//! Errors as a Kubernetes API server words them: an HTTP code and a `Status` object with reason, message and details.
//! Decides wording only; imports nothing of the server. Clients match on `reason` and `code`, people read `message`.

use serde_json::{Value, json};

use super::kinds::Kind;

/// A refused request: what goes into the `Status` object.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{reason} ({code}): {message}")]
pub struct ApiError {
    /// HTTP status code, repeated in the body.
    pub code: u16,
    /// Machine-readable reason such as `NotFound`.
    pub reason: &'static str,
    pub message: String,
    /// `details` of the Status object; null when there are none.
    pub details: Value,
}

/// `pods` or `deployments.apps`, as messages name a resource.
fn qualified(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.plural.to_owned() } else { format!("{}.{}", kind.plural, kind.group) }
}

fn details(kind: &Kind, name: &str) -> Value {
    let mut out = json!({"kind": kind.plural});
    if !name.is_empty() {
        out["name"] = json!(name);
    }
    if !kind.group.is_empty() {
        out["group"] = json!(kind.group);
    }
    out
}

/// The machine-readable word for a cause, which begins with the words for people.
fn fault(cause: &str) -> &'static str {
    let words = [
        ("Required value", "FieldValueRequired"),
        ("Duplicate value", "FieldValueDuplicate"),
        ("Forbidden", "FieldValueForbidden"),
    ];
    words.iter().find(|(start, _)| cause.starts_with(start)).map_or("FieldValueInvalid", |(_, word)| word)
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>, details: Value) -> Self {
        Self { code, reason, message: message.into(), details }
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", qualified(kind)), details(kind, name))
    }

    /// A path no kind is served at.
    pub fn no_route() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource", json!({}))
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", qualified(kind)), details(kind, name))
    }

    /// A stale resourceVersion, or a precondition that does not hold.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(kind));
        Self::new(409, "Conflict", message, details(kind, name))
    }

    /// Leaves that other managers own, from a server-side apply without force: (manager and how it came by it, field path).
    pub fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|(manager, field)| {
                json!({"reason": "FieldManagerConflict", "field": field, "message": format!("conflict with {manager}")})
            })
            .collect();
        let listed: Vec<String> =
            conflicts.iter().map(|(manager, field)| format!("conflict with {manager}: {field}")).collect();
        let plural = if conflicts.len() == 1 { "" } else { "s" };
        let message = format!("Apply failed with {} conflict{plural}: {}", conflicts.len(), listed.join(", "));
        Self::new(409, "Conflict", message, json!({"causes": causes}))
    }

    pub fn invalid(kind: &Kind, name: &str, field: &str, cause: &str) -> Self {
        let message = format!("{} {name:?} is invalid: {field}: {cause}", kind.kind);
        let mut details = details(kind, name);
        // Kubernetes names the kind, not the plural, in the details of this one.
        details["kind"] = json!(kind.kind);
        details["causes"] = json!([{"reason": fault(cause), "message": cause, "field": field}]);
        Self::new(422, "Invalid", message, details)
    }

    /// Options of a request that do not go together, such as `ListOptions`.
    pub fn invalid_options(options: &str, field: &str, cause: &str) -> Self {
        let message = format!("{options}.meta.k8s.io \"\" is invalid: {field}: {cause}");
        let causes = json!([{"reason": fault(cause), "message": cause, "field": field}]);
        let details = json!({"group": "meta.k8s.io", "kind": options, "causes": causes});
        Self::new(422, "Invalid", message, details)
    }

    /// A JSON patch that cannot be carried out. Kubernetes does not say why; a sandbox may.
    pub fn patch_refused(why: &str) -> Self {
        let message = format!("the server rejected our request due to an error in our request: {why}");
        Self::new(422, "Invalid", message, json!({}))
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message, Value::Null)
    }

    pub fn forbidden(user: &str, verb: &str, resource: &str, group: &str, namespace: Option<&str>, name: &str) -> Self {
        let scope = namespace.map_or_else(|| "at the cluster scope".into(), |n| format!("in the namespace {n:?}"));
        let plural = resource.split('/').next().unwrap_or(resource);
        let shown = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        let subject = if name.is_empty() { shown } else { format!("{shown} {name:?}") };
        let message = format!(
            "{subject} is forbidden: User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}"
        );
        let mut details = json!({"kind": plural});
        if !name.is_empty() {
            details["name"] = json!(name);
        }
        if !group.is_empty() {
            details["group"] = json!(group);
        }
        Self::new(403, "Forbidden", message, details)
    }

    /// A resourceVersion whose history is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message, Value::Null)
    }

    /// A resourceVersion this server has not reached yet.
    pub fn too_large_version(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let causes = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        Self::new(504, "Timeout", message, json!({"causes": causes, "retryAfterSeconds": 1}))
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", json!({}))
    }

    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message, json!({}))
    }

    pub fn too_large_body(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message, Value::Null)
    }

    /// The `Status` object of this error.
    pub fn body(&self) -> Value {
        let mut out = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code});
        if !self.details.is_null() {
            out["details"] = self.details.clone();
        }
        out
    }
}

/// The `Status` object that answers a delete that took effect at once.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = details(kind, name);
    details["uid"] = json!(uid);
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{DEPLOYMENTS, PODS};
    use super::*;

    #[test]
    fn a_missing_pod_is_worded_as_kubernetes_words_it() {
        let body = ApiError::not_found(PODS.row(), "web-1").body();
        assert_eq!(body["message"], r#"pods "web-1" not found"#);
        assert_eq!(body["reason"], "NotFound");
        assert_eq!(body["code"], 404);
        assert_eq!(body["details"], json!({"name": "web-1", "kind": "pods"}));
    }

    #[test]
    fn a_forbidden_list_names_user_verb_group_and_scope() {
        let error = ApiError::forbidden("agent", "list", "deployments", "apps", None, "");
        assert_eq!(
            error.message,
            "deployments.apps is forbidden: User \"agent\" cannot list resource \"deployments\" in API group \"apps\" \
             at the cluster scope"
        );
        let error = ApiError::forbidden("agent", "patch", "pods/status", "", Some("shop"), "web");
        assert_eq!(
            error.message,
            "pods \"web\" is forbidden: User \"agent\" cannot patch resource \"pods/status\" in API group \"\" in the \
             namespace \"shop\""
        );
    }

    #[test]
    fn a_stale_write_says_what_to_do() {
        let error = ApiError::conflict(DEPLOYMENTS.row(), "web", "the object has been modified");
        assert_eq!(error.code, 409);
        assert!(error.message.starts_with("Operation cannot be fulfilled on deployments.apps \"web\": "));
    }
}
