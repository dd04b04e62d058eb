//! A cluster whose API server is somebody else's: a real Kubernetes, reached through a kubeconfig. The sandbox is only its
//! scheduler and its kubelets; Deployments, EndpointSlices and the rest are made by the real controllers.
//!
//! What the sandbox reads comes from a mirror (`mirror`), a [`Store`] like that of its own clusters, so that everything built on
//! one works on both. What it writes goes to the server. Imports nothing of `control`.

mod mirror;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kube::kinds::{Kind, PODS};
use crate::kube::status::ApiError;
use crate::kube::store::Store;
use crate::kube::write::{PatchKind, Target};

/// Longest wait for one answer. Pods have other things to do than to wait for a server that hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for the first complete view of the server.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Who the server notes as the writer of fields.
const MANAGER: &str = "switchyard-sandbox";

#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    #[error("the kubeconfig {path:?} cannot be used; give --external one that names a cluster and how to reach it")]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the API server of the kubeconfig {path:?} could not be read within {} s; is it running, and may this user list pods and nodes?", READY_WITHIN.as_secs())]
    Silent { path: PathBuf },
}

/// A server and what is known of it.
#[derive(Clone)]
pub struct External {
    client: kube::Client,
    url: String,
    /// What the server held when it was last heard.
    mirror: Arc<Store>,
}

impl External {
    /// Begins to follow a server, and waits until everything it holds is in the mirror.
    pub async fn attach(path: &Path, tasks: &TaskTracker, shutdown: &CancellationToken) -> Result<Self, ExternalError> {
        let unusable = |source: Box<dyn std::error::Error + Send + Sync>| ExternalError::Kubeconfig {
            path: path.to_owned(),
            source,
        };
        let file = Kubeconfig::read_from(path).map_err(|e| unusable(e.into()))?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let config = config.map_err(|e| unusable(e.into()))?;
        let url = config.cluster_url.to_string();
        let client = kube::Client::try_from(config).map_err(|e| unusable(e.into()))?;
        let mirror = Arc::new(Store::default());
        let complete = mirror::start(&client, &mirror, tasks, shutdown);
        match tokio::time::timeout(READY_WITHIN, complete).await {
            Ok(true) => Ok(Self { client, url, mirror }),
            Ok(false) | Err(_) => Err(ExternalError::Silent { path: path.to_owned() }),
        }
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the server held when it was last heard. Versions in it are the mirror's own.
    pub fn mirror(&self) -> &Arc<Store> {
        &self.mirror
    }

    /// Creates an object.
    pub async fn create(&self, target: &Target, mut body: Value) -> Result<Value, ApiError> {
        name(target, &mut body);
        let collection = Target { name: String::new(), ..target.clone() };
        self.send("POST", &path(&collection), "application/json", &body).await
    }

    /// Replaces an object, whatever its version is.
    pub async fn update(&self, target: &Target, mut body: Value) -> Result<Value, ApiError> {
        name(target, &mut body);
        self.send("PUT", &path(target), "application/json", &body).await
    }

    /// Changes an object.
    pub async fn patch(&self, target: &Target, format: PatchKind, body: &Value) -> Result<Value, ApiError> {
        let media = match format {
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
            PatchKind::Apply => "application/apply-patch+yaml",
        };
        self.send("PATCH", &path(target), media, body).await
    }

    /// Deletes an object; `options` are Kubernetes' DeleteOptions.
    pub async fn delete(&self, target: &Target, options: &Value) -> Result<Value, ApiError> {
        self.send("DELETE", &path(target), "application/json", options).await
    }

    /// Gives a pod its node, as a scheduler does.
    pub async fn bind(&self, namespace: &str, pod: &str, node: &str) -> Result<(), ApiError> {
        let target = Target::new(PODS, namespace, pod);
        let url = path(&target).replacen('?', "/binding?", 1);
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        self.send("POST", &url, "application/json", &body).await.map(drop)
    }

    async fn send(&self, method: &str, url: &str, media: &str, body: &Value) -> Result<Value, ApiError> {
        let request = http::Request::builder().method(method).uri(url).header(http::header::CONTENT_TYPE, media);
        let request = request.body(body.to_string().into_bytes()).map_err(|e| unanswered(e.to_string()))?;
        match tokio::time::timeout(ANSWER_WITHIN, self.client.request::<Value>(request)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(kube::Error::Api(status))) => Err(refused(&status)),
            Ok(Err(error)) => Err(unanswered(error.to_string())),
            Err(_) => Err(unanswered(format!("no answer within {} s", ANSWER_WITHIN.as_secs()))),
        }
    }
}

/// A refusal in the words of the server.
fn refused(status: &kube::core::Status) -> ApiError {
    // Those that somebody here acts upon.
    let known = ["NotFound", "AlreadyExists", "Conflict", "Forbidden", "Invalid"];
    let reason = known.into_iter().find(|reason| *reason == status.reason).unwrap_or("Refused");
    ApiError { code: status.code, reason, message: status.message.clone(), details: Value::Null }
}

/// No answer at all: what was asked for may have been done or not.
fn unanswered(message: String) -> ApiError {
    ApiError { code: 503, reason: "ServiceUnavailable", message, details: Value::Null }
}

fn name(target: &Target, body: &mut Value) {
    let row = target.kind.row();
    body["apiVersion"] = json!(row.api_version());
    body["kind"] = json!(row.kind);
    body["metadata"]["name"] = json!(target.name);
    if row.namespaced {
        body["metadata"]["namespace"] = json!(target.namespace);
    }
}

fn path(target: &Target) -> String {
    let row: &Kind = target.kind.row();
    let root = if row.group.is_empty() { "/api" } else { "/apis" };
    let namespace = if row.namespaced { format!("/namespaces/{}", target.namespace) } else { String::new() };
    let object = if target.name.is_empty() { String::new() } else { format!("/{}", target.name) };
    let part = if target.status { "/status" } else { "" };
    format!("{root}/{}{namespace}/{}{object}{part}?fieldManager={MANAGER}", row.api_version(), row.plural)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::kinds::{DEPLOYMENTS, NODES};

    #[test]
    fn paths_are_those_of_the_kubernetes_api() {
        let manager = "?fieldManager=switchyard-sandbox";
        let pod = Target { status: true, ..Target::new(PODS, "shop", "web-1") };
        assert_eq!(path(&pod), format!("/api/v1/namespaces/shop/pods/web-1/status{manager}"));
        assert_eq!(path(&Target::new(NODES, "", "n1")), format!("/api/v1/nodes/n1{manager}"));
        let all = Target::new(DEPLOYMENTS, "shop", "");
        assert_eq!(path(&all), format!("/apis/apps/v1/namespaces/shop/deployments{manager}"));
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named_with_the_remedy() {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let missing = Path::new("/nowhere/blue.kubeconfig");
        let Err(error) = External::attach(missing, &tasks, &shutdown).await else { panic!("there is no such file") };
        let text = error.to_string();
        assert!(text.contains("/nowhere/blue.kubeconfig") && text.contains("--external"), "{text}");
    }
}
