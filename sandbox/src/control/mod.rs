//! The control API of the sandbox: what tests and the demo steer it with. Maps JSON to the parts; decides nothing itself.
//! Routes are in `clusters`, `dataplane`, `workloads` and `load`; the load balancer brings its own under `/elb`.

mod clusters;
mod dataplane;
mod load;
mod workloads;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cluster::{Cluster, Server};
use crate::kube::server::ApiServer;
use crate::kube::status::ApiError;
use crate::load::{LoadError, Loads};

/// More than any control request needs.
const BODY_LIMIT: usize = 256 * 1024;

/// How to reach one cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterInfo {
    pub api_url: String,
    /// Path of the kubeconfig file.
    pub kubeconfig: String,
    pub vpc_id: String,
}

/// How to reach the sandbox: `GET /info` and `sandbox.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    pub control_url: String,
    /// Endpoint of the ELBv2 API.
    pub elb_url: String,
    /// Endpoint of the CloudWatch API.
    pub cloudwatch_url: String,
    pub clusters: BTreeMap<String, ClusterInfo>,
    pub vpc_id: String,
    pub vpc_cidr: String,
    pub region: String,
    pub account_id: String,
    pub pid: u32,
}

/// What the routes share.
pub struct Control {
    pub info: Info,
    pub clusters: BTreeMap<String, Arc<Cluster>>,
    pub loads: Loads,
}

type Shared = State<Arc<Control>>;

/// All routes but the load balancer's.
pub fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/info", get(async |State(control): Shared| Json(control.info.clone())))
        .merge(clusters::routes())
        .merge(workloads::routes())
        .merge(load::routes())
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(control)
}

/// A refused control request.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("there is no {what} {name:?}; known: {known}")]
    Unknown { what: &'static str, name: String, known: String },
    #[error("{field}: {value} cannot be used; {remedy}")]
    Field { field: &'static str, value: String, remedy: &'static str },
    #[error(
        "the API server of cluster {cluster:?} is not the sandbox's own; stop it or change its permissions where it runs"
    )]
    External { cluster: String },
    #[error("the body of the request cannot be read: {0}")]
    Body(String),
    #[error(transparent)]
    Kubernetes(#[from] ApiError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the API server could not change its mode: {0}")]
    Mode(#[source] io::Error),
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let status = match &self {
            ControlError::Unknown { .. } => StatusCode::NOT_FOUND,
            ControlError::Field { .. }
            | ControlError::Body(_)
            | ControlError::Load(_)
            | ControlError::External { .. } => StatusCode::BAD_REQUEST,
            ControlError::Kubernetes(error) => StatusCode::from_u16(error.code).unwrap_or(StatusCode::BAD_REQUEST),
            ControlError::Mode(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({"error": self.to_string()}))).into_response()
    }
}

/// A JSON body; an empty one counts as `{}`, and what cannot be read is worded like every other refusal.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ControlError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let bytes = bytes::Bytes::from_request(request, state).await.map_err(|e| ControlError::Body(e.body_text()))?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        Json::<T>::from_bytes(text)
            .map(|Json(value)| Body(value))
            .map_err(|error: JsonRejection| ControlError::Body(error.body_text()))
    }
}

impl Control {
    /// The API server of one of the sandbox's own clusters.
    fn api_server(&self, cluster: &str) -> Result<&ApiServer, ControlError> {
        match &self.cluster(cluster)?.server {
            Server::Own(api) => Ok(api),
            Server::External { .. } => Err(ControlError::External { cluster: cluster.to_owned() }),
        }
    }

    fn cluster(&self, name: &str) -> Result<&Arc<Cluster>, ControlError> {
        self.clusters.get(name).ok_or_else(|| ControlError::Unknown {
            what: "cluster",
            name: name.to_owned(),
            known: self.clusters.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }
}
