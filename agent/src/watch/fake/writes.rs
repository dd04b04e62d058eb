//! The part of the fake API server that the agent writes to, and the resource definition: policies, their status, and Events.

use http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

use super::{FakeKube, Fault};

/// All policies of the cluster; their names are unique here.
pub const POLICIES: &str = "/apis/switchyard.dev/v1alpha1/clustertrafficpolicies";
/// Faults under this name meet writes of a policy's status.
pub const STATUS: &str = "status of policies";
/// Faults under this name meet new Events.
pub const EVENTS: &str = "events";
/// Faults at this path meet looks at the definition.
pub const DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/clustertrafficpolicies.switchyard.dev";

/// What a request that is no list and no watch is answered with.
pub type Answer = Result<(StatusCode, Value), Fault>;

/// A policy in the namespace shop.
pub fn policy(name: &str, uid: &str, generation: u64) -> Value {
    json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy", "spec": {"order": generation},
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "generation": generation}})
}

impl FakeKube {
    /// Installs the resource definition, with this UID.
    pub fn define(&self, uid: &str) {
        self.define_as(json!({"metadata": {"name": "clustertrafficpolicies.switchyard.dev", "uid": uid}}));
    }

    /// Marks the resource definition as being deleted.
    pub fn undefine(&self, uid: &str) {
        self.define_as(json!({"metadata": {"name": "clustertrafficpolicies.switchyard.dev", "uid": uid,
            "deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    }

    fn define_as(&self, definition: Value) {
        self.change(|inner| inner.definition = Some(definition));
    }

    /// The policy as it stands.
    pub fn policy(&self, name: &str) -> Value {
        let key = (POLICIES.to_owned(), name.to_owned());
        self.lock().objects.get(&key).cloned().expect("the policy is there")
    }

    /// Every Event so far.
    pub fn events(&self) -> Vec<Value> {
        self.lock().posted.clone()
    }

    /// None for a request that is a list or a watch.
    pub fn answer_write(&self, method: &Method, uri: &Uri, body: &[u8]) -> Option<Answer> {
        let path = uri.path();
        if path == DEFINITION {
            let found = self.lock().definition.clone();
            let answer = found.map_or((StatusCode::NOT_FOUND, not_found()), |definition| (StatusCode::OK, definition));
            return Some(self.unless_faulty(DEFINITION, || answer));
        }
        let body = || serde_json::from_slice::<Value>(body).expect("a body in JSON");
        match (method.as_str(), path.rsplit('/').collect::<Vec<_>>().as_slice()) {
            ("PATCH", ["status", name, "clustertrafficpolicies", _, ..]) => {
                assert_eq!(uri.query(), Some("&force=true&fieldManager=switchyard-agent"), "of the apply");
                Some(self.unless_faulty(STATUS, || self.apply_status(name, &body())))
            }
            ("POST", ["events", _, ..]) => Some(self.unless_faulty(EVENTS, || {
                self.change(|inner| inner.posted.push(body()));
                (StatusCode::CREATED, body())
            })),
            _ => None,
        }
    }

    fn unless_faulty(&self, name: &str, answer: impl FnOnce() -> (StatusCode, Value)) -> Answer {
        let fault = self.lock().faults.get(name).cloned();
        fault.map_or_else(|| Ok(answer()), Err)
    }

    fn apply_status(&self, name: &str, body: &Value) -> (StatusCode, Value) {
        let key = (POLICIES.to_owned(), name.to_owned());
        let Some(mut object) = self.lock().objects.get(&key).cloned() else {
            return (StatusCode::NOT_FOUND, not_found());
        };
        let differs = |field: &str| body["metadata"][field] != object["metadata"][field];
        if differs("uid") || differs("resourceVersion") {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409,
                "reason": "Conflict", "message": "the object has been modified"});
            return (StatusCode::CONFLICT, status);
        }
        object["status"] = body["status"].clone();
        self.put(POLICIES, object);
        (StatusCode::OK, self.policy(name))
    }
}

fn not_found() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound",
        "message": "not found"})
}
