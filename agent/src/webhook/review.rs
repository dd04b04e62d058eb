//! The answer to an AdmissionReview: a pod that is created gets the gates of the policies whose Service selects it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::gates::inject::Injection;

/// What came of a review, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reviewed {
    /// Gates were added.
    Injected,
    /// The pod needs none, or has them.
    Unchanged,
    /// It was no review of a new pod that this version understands; it was let through.
    NotUnderstood,
}

impl Reviewed {
    /// A fixed name for metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Unchanged => "unchanged",
            Self::NotUnderstood => "not_understood",
        }
    }
}

/// Who asks. Read apart from the pod, so that a pod that cannot be read is answered all the same.
#[derive(Deserialize)]
struct Envelope {
    request: Asked,
}

#[derive(Deserialize)]
struct Asked {
    uid: String,
}

#[derive(Deserialize)]
struct Review {
    #[serde(rename = "apiVersion")]
    api_version: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    kind: Kind,
    #[serde(default)]
    sub_resource: String,
    operation: String,
    #[serde(default)]
    namespace: String,
    object: Pod,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    version: String,
    kind: String,
}

#[derive(Deserialize)]
struct Pod {
    #[serde(default)]
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    readiness_gates: Option<Vec<Gate>>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Gate {
    condition_type: String,
}

impl Review {
    fn is_of_a_new_pod(&self) -> bool {
        let Request { kind, sub_resource, operation, .. } = &self.request;
        self.api_version == "admission.k8s.io/v1"
            && (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str()) == ("", "v1", "Pod")
            && sub_resource.is_empty()
            && operation == "CREATE"
    }
}

/// The answer, as JSON.
#[must_use]
pub fn review(body: &[u8], injection: &Injection) -> (Value, Reviewed) {
    let uid = serde_json::from_slice::<Envelope>(body).map(|envelope| envelope.request.uid).unwrap_or_default();
    let asked = serde_json::from_slice::<Review>(body).ok().filter(Review::is_of_a_new_pod);
    let Some(Review { request, .. }) = asked else { return (answer(&uid, None, &[]), Reviewed::NotUnderstood) };
    let labels = request.object.metadata.labels.unwrap_or_default();
    let gates = request.object.spec.readiness_gates;
    let has: Vec<String> = gates.iter().flatten().map(|gate| gate.condition_type.clone()).collect();
    let injected = injection.of_pod(&request.namespace, &labels, &has);
    if injected.gates.is_empty() {
        return (answer(&uid, None, &injected.warnings), Reviewed::Unchanged);
    }
    let gate = |gate: String| json!(Gate { condition_type: gate });
    let added: Vec<Value> = injected.gates.into_iter().map(gate).collect();
    let patch = if gates.is_some() {
        Value::from_iter(
            added.into_iter().map(|gate| json!({"op": "add", "path": "/spec/readinessGates/-", "value": gate})),
        )
    } else {
        json!([{"op": "add", "path": "/spec/readinessGates", "value": added}])
    };
    (answer(&uid, Some(&patch), &injected.warnings), Reviewed::Injected)
}

fn answer(uid: &str, patch: Option<&Value>, warnings: &[String]) -> Value {
    let mut response = json!({"uid": uid, "allowed": true});
    if let Some(patch) = patch {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(ByteString(patch.to_string().into_bytes()));
    }
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gates::inject::fixtures::injecting;

    fn ask(object: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
            "namespace": "shop", "dryRun": true, "object": object}})
    }

    fn pod(gates: Option<Value>) -> Value {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-", "labels": {"app": "web"}},
            "spec": {"containers": []}});
        if let Some(gates) = gates {
            pod["spec"]["readinessGates"] = gates;
        }
        pod
    }

    fn reviewed(body: &Value) -> (Value, Reviewed) {
        review(body.to_string().as_bytes(), &injecting("shop", "checkout", &[("app", "web")]))
    }

    fn patch(answer: &Value) -> Value {
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let ByteString(bytes) = serde_json::from_value(answer["response"]["patch"].clone()).expect("base64");
        serde_json::from_slice(&bytes).expect("a patch")
    }

    #[test]
    fn a_new_pod_of_a_routed_service_gets_the_gate() {
        let (answer, outcome) = reviewed(&ask(pod(None)));
        assert_eq!(outcome, Reviewed::Injected);
        assert_eq!(answer["response"]["uid"], "u-1");
        assert_eq!(answer["response"]["allowed"], true);
        let gate = json!({"conditionType": "target-health.switchyard.dev/checkout"});
        assert_eq!(patch(&answer), json!([{"op": "add", "path": "/spec/readinessGates", "value": [gate]}]));
        let others = json!([{"conditionType": "example.com/other"}]);
        let (answer, _) = reviewed(&ask(pod(Some(others))));
        assert_eq!(patch(&answer), json!([{"op": "add", "path": "/spec/readinessGates/-", "value": gate}]));
    }

    #[test]
    fn a_pod_that_has_the_gate_already_is_left_as_it_is() {
        let gates = json!([{"conditionType": "target-health.switchyard.dev/checkout"}]);
        let (answer, outcome) = reviewed(&ask(pod(Some(gates))));
        assert_eq!((outcome, &answer["response"]["patch"]), (Reviewed::Unchanged, &Value::Null));
    }

    #[test]
    fn what_is_not_a_new_pod_is_let_through_unchanged() {
        let changed = |path: &str, value: Value| {
            let mut ask = ask(pod(None));
            *ask.pointer_mut(path).expect("a place") = value;
            ask
        };
        let odd = [
            changed("/request/operation", json!("UPDATE")),
            changed("/request/kind/kind", json!("Deployment")),
            changed("/apiVersion", json!("admission.k8s.io/v9")),
            changed("/request/object", json!({"spec": {"readinessGates": "many"}})),
            changed("/request/object", Value::Null),
        ];
        for body in odd {
            let (answer, outcome) = reviewed(&body);
            assert_eq!(outcome, Reviewed::NotUnderstood, "{body}");
            assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_allowed(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let (answer, _) = review(&body, &Injection::default());
            prop_assert_eq!(&answer["response"]["allowed"], &json!(true));
        }
    }
}
