//! Writes the conditions of readiness gates, and looks through the cluster for gates that nobody watches. Decides nothing.
//!
//! Tests: below, against a small fake; `tests/tests/kubernetes/gates.rs`, against a real API server.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch as KubePatch, PatchParams},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    gates::objects::{Outcome, PREFIX, Patch},
    text::truncated,
};

/// One write, or one page of a list. The API server's own limit for a request is 60 s; a gate is tried again sooner.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pods a page.
const PAGE: usize = 500;
/// Pages of one look: 100,000 pods, more than a cluster can have.
const MAX_PAGES: usize = 200;
/// The contract's bound on messages for people, in characters.
const MAX_MESSAGE: usize = 1024;

/// The member cluster's API server, as far as gates are concerned.
#[derive(Clone)]
pub struct GateKeeper {
    client: Client,
}

/// What a look through the cluster needs of a pod; the rest is not even kept for a moment.
#[derive(Deserialize)]
struct SlimPod {
    metadata: SlimMetadata,
    #[serde(default)]
    spec: SlimSpec,
    #[serde(default)]
    status: SlimStatus,
}

#[derive(Deserialize)]
struct SlimMetadata {
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct SlimSpec {
    #[serde(default)]
    readiness_gates: Vec<SlimGate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimGate {
    condition_type: String,
}

#[derive(Deserialize, Default)]
struct SlimStatus {
    #[serde(default)]
    conditions: Vec<SlimCondition>,
}

#[derive(Deserialize)]
struct SlimCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Deserialize)]
struct SlimList {
    #[serde(default)]
    metadata: SlimListMetadata,
    #[serde(default)]
    items: Vec<SlimPod>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct SlimListMetadata {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

impl SlimPod {
    fn waits_for_a_gate(&self) -> bool {
        let is_open = |gate: &SlimGate| {
            let mut conditions = self.status.conditions.iter();
            conditions.any(|condition| condition.kind == gate.condition_type && condition.status == "True")
        };
        self.spec.readiness_gates.iter().any(|gate| gate.condition_type.starts_with(PREFIX) && !is_open(gate))
    }
}

impl GateKeeper {
    /// Writes with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Writes one condition. `now` is the wall clock, for lastTransitionTime.
    pub async fn write(&self, patch: &Patch, now: jiff::Timestamp) -> Outcome {
        let api = Api::<Pod>::namespaced(self.client.clone(), &patch.namespace);
        let body = KubePatch::Strategic(body(patch, now));
        let params = PatchParams::default();
        match tokio::time::timeout(TIMEOUT, api.patch_status(&patch.name, &params, &body)).await {
            Ok(Ok(_)) => Outcome::Written,
            Ok(Err(error)) => judge(&error),
            Err(_) => Outcome::Failed(format!("no answer within {} s", TIMEOUT.as_secs())),
        }
    }

    /// The namespaces with running pods that wait for a gate of ours; of all namespaces when none is named.
    ///
    /// # Errors
    /// The server's words, or what went wrong on the way.
    pub async fn look(&self, namespaces: &[String]) -> Result<BTreeSet<String>, String> {
        let mut found = BTreeSet::new();
        if namespaces.is_empty() {
            self.look_at("/api/v1/pods", &mut found).await?;
        }
        for namespace in namespaces {
            self.look_at(&format!("/api/v1/namespaces/{namespace}/pods"), &mut found).await?;
        }
        Ok(found)
    }

    async fn look_at(&self, path: &str, found: &mut BTreeSet<String>) -> Result<(), String> {
        let mut next = None;
        for _ in 0..MAX_PAGES {
            let list = self.page(path, next.as_deref()).await?;
            let waiting = list.items.into_iter().filter(SlimPod::waits_for_a_gate);
            found.extend(waiting.map(|pod| pod.metadata.namespace));
            next = list.metadata.next.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(());
            }
        }
        Err(format!("the list of pods did not end after {MAX_PAGES} pages"))
    }

    async fn page(&self, path: &str, next: Option<&str>) -> Result<SlimList, String> {
        // A pod that does not run yet is found by the next look.
        let mut uri = format!("{path}?limit={PAGE}&fieldSelector=status.phase%3DRunning");
        if let Some(token) = next {
            // Tokens are unpadded base64url; whatever else a server sends must not change the request.
            let token: String =
                token.chars().filter(|byte| byte.is_ascii_alphanumeric() || "-_".contains(*byte)).collect();
            uri.push_str("&continue=");
            uri.push_str(&token);
        }
        let request = http::Request::get(uri).body(Vec::new()).map_err(|error| error.to_string())?;
        match tokio::time::timeout(TIMEOUT, self.client.request::<SlimList>(request)).await {
            Ok(answer) => answer.map_err(|error| explain(&error)),
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        }
    }
}

/// The UID keeps the patch from a pod that has only the name in common. Conditions are merged by type, so those of others stay.
fn body(patch: &Patch, now: jiff::Timestamp) -> serde_json::Value {
    let mut condition = json!({
        "type": format!("{PREFIX}{}", patch.gate.policy),
        "status": if patch.condition.open { "True" } else { "False" },
        "reason": patch.condition.reason,
        "message": truncated(&patch.condition.message, MAX_MESSAGE),
    });
    if patch.transition {
        // Whole seconds: Kubernetes' Time has no fraction.
        condition["lastTransitionTime"] = json!(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    json!({"metadata": {"uid": patch.gate.uid}, "status": {"conditions": [condition]}})
}

fn judge(error: &kube::Error) -> Outcome {
    let message = explain(error);
    match error {
        kube::Error::Api(status) if status.code == 404 => Outcome::PodGone,
        // Another pod has the name: a conflict of UIDs, or the change of a field that cannot be changed.
        kube::Error::Api(status) if matches!(status.code, 409 | 422) && names_uid(&status.message) => Outcome::PodGone,
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => Outcome::Forbidden(message),
        _ => Outcome::Failed(message),
    }
}

fn names_uid(message: &str) -> bool {
    message.contains("UID") || message.contains("metadata.uid")
}

fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => truncated(&format!("{} (HTTP {})", status.message, status.code), MAX_MESSAGE),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(inner) = cause {
                let inner_text = inner.to_string();
                if !text.contains(&inner_text) {
                    text.push_str(": ");
                    text.push_str(&inner_text);
                }
                cause = inner.source();
            }
            truncated(&text, MAX_MESSAGE)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;
    use crate::gates::objects::{Condition, GateId};

    /// Answers every request with the next of the answers; keeps what was asked.
    #[derive(Clone, Default)]
    struct Scripted {
        answers: Arc<Mutex<Vec<(u16, Value)>>>,
        asked: Arc<Mutex<Vec<(String, String, Value)>>>,
    }

    impl Scripted {
        fn answering(answers: &[(u16, Value)]) -> (Self, GateKeeper) {
            let script = Self::default();
            *script.answers.lock().expect("no panic") = answers.iter().rev().cloned().collect();
            let server = script.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                    let kind =
                        parts.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
                    let line = format!("{} {}", parts.method, parts.uri);
                    server.asked.lock().expect("no panic").push((line, kind.to_owned(), body));
                    let (code, answer) = server.answers.lock().expect("no panic").pop().expect("an answer is left");
                    let body = Body::from(answer.to_string().into_bytes());
                    Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).expect("a response"))
                }
            });
            (script, GateKeeper::new(Client::new(service, "default")))
        }

        fn asked(&self) -> Vec<(String, String, Value)> {
            self.asked.lock().expect("no panic").clone()
        }
    }

    fn patch(open: bool, transition: bool) -> Patch {
        Patch {
            gate: GateId { uid: "uid-1".to_owned(), policy: "checkout".to_owned() },
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            condition: Condition { open, reason: "TargetHealthy".to_owned(), message: "fine".to_owned() },
            transition,
        }
    }

    fn failure(code: u16, message: &str) -> (u16, Value) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
            "reason": "X", "metadata": {}});
        (code, status)
    }

    fn at() -> jiff::Timestamp {
        "2026-11-21T12:00:00.5Z".parse().expect("a time")
    }

    #[tokio::test]
    async fn a_condition_is_merged_into_the_status_of_the_pod_with_that_uid() {
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web-0"}});
        let (script, keeper) = Scripted::answering(&[(200, pod.clone()), (200, pod)]);
        assert_eq!(keeper.write(&patch(true, true), at()).await, Outcome::Written);
        assert_eq!(keeper.write(&patch(false, false), at()).await, Outcome::Written);
        let asked = script.asked();
        let (line, kind, body) = &asked[0];
        assert!(line.starts_with("PATCH /api/v1/namespaces/shop/pods/web-0/status"), "{line}");
        assert_eq!(kind, "application/strategic-merge-patch+json");
        let condition = json!({"type": "target-health.switchyard.dev/checkout", "status": "True", "reason": "TargetHealthy",
            "message": "fine", "lastTransitionTime": "2026-11-21T12:00:00Z"});
        assert_eq!(*body, json!({"metadata": {"uid": "uid-1"}, "status": {"conditions": [condition]}}));
        let quiet = &asked[1].2["status"]["conditions"][0];
        assert_eq!((&quiet["status"], &quiet["lastTransitionTime"]), (&json!("False"), &Value::Null));
    }

    #[tokio::test]
    async fn refusals_are_told_apart() {
        let uid = "Operation cannot be fulfilled on pods \"web-0\": Precondition failed: UID in precondition: a, UID in object meta: b";
        let forbidden = "pods \"web-0\" is forbidden: User \"agent\" cannot patch resource \"pods/status\"";
        let answers = [
            failure(404, "pods \"web-0\" not found"),
            failure(409, uid),
            failure(422, "Pod \"web-0\" is invalid: metadata.uid: Invalid value: \"a\": field is immutable"),
            failure(409, "the object has been modified"),
            failure(403, forbidden),
            failure(500, "etcd is away"),
        ];
        let (_, keeper) = Scripted::answering(&answers);
        let mut outcomes = Vec::new();
        for _ in &answers {
            outcomes.push(keeper.write(&patch(true, true), at()).await);
        }
        let expected = [
            Outcome::PodGone,
            Outcome::PodGone,
            Outcome::PodGone,
            Outcome::Failed("the object has been modified (HTTP 409)".to_owned()),
            Outcome::Forbidden(format!("{forbidden} (HTTP 403)")),
            Outcome::Failed("etcd is away (HTTP 500)".to_owned()),
        ];
        assert_eq!(outcomes, expected);
    }

    #[tokio::test]
    async fn a_look_finds_the_namespaces_of_pods_that_wait_over_all_pages() {
        let pod = |namespace: &str, gate: &str, status: &str| {
            json!({"metadata": {"name": "p", "namespace": namespace}, "spec": {"readinessGates": [{"conditionType": gate}]},
                "status": {"conditions": [{"type": gate, "status": status}]}})
        };
        let gate = "target-health.switchyard.dev/checkout";
        let bare = json!({"metadata": {"name": "p", "namespace": "bare"}});
        let first = json!({"metadata": {"continue": "abc"}, "items": [pod("shop", gate, "False"), pod("open", gate, "True"), bare]});
        let second =
            json!({"metadata": {}, "items": [pod("other", "example.com/x", "False"), pod("late", gate, "False")]});
        let (script, keeper) = Scripted::answering(&[(200, first), (200, second), failure(403, "no leave to list")]);
        let found = keeper.look(&[]).await.expect("a list");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["late", "shop"]);
        let lines: Vec<String> = script.asked().into_iter().map(|(line, ..)| line).collect();
        let base = "GET /api/v1/pods?limit=500&fieldSelector=status.phase%3DRunning";
        assert_eq!(lines, [base.to_owned(), format!("{base}&continue=abc")]);
        assert_eq!(keeper.look(&["shop".to_owned()]).await, Err("no leave to list (HTTP 403)".to_owned()));
        assert!(script.asked()[2].0.starts_with("GET /api/v1/namespaces/shop/pods?"));
    }
}
