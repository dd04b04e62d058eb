//! A whole sandbox inside a test, its control API, and unmodified kube clients on its clusters.
//! Shared by the `kube_*` and `load_*` tests; each uses a part of it.
#![allow(dead_code, reason = "every test binary uses another part")]

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use switchyard_sandbox::args::Args;
use switchyard_sandbox::compose::Sandbox;
use tokio::time::Instant;

/// Far more than anything here takes, also on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct World {
    pub sandbox: Sandbox,
    _dir: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let path = dir.path().to_str().expect("temporary folders have plain names");
        let args =
            Args::parse_from(["switchyard-sandbox", "--dir", path, "--propagation-ms", "0", "--time-scale", "10"]);
        let sandbox = Sandbox::start(&args).await.expect("the sandbox starts");
        Self { sandbox, _dir: dir }
    }

    /// A client by the kubeconfig file, as any program would make it.
    pub async fn client(&self, cluster: &str) -> Client {
        let path = &self.sandbox.info().clusters[cluster].kubeconfig;
        let kubeconfig = Kubeconfig::read_from(path).expect("the kubeconfig can be read");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("the kubeconfig is complete");
        Client::try_from(config).expect("a client can be made")
    }

    /// One control request that must succeed.
    pub async fn control(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.try_control(method.clone(), path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    pub async fn try_control(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let (status, text) = fetch(method, &format!("{}{path}", self.sandbox.info().control_url), Some(body)).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A workload with one Service in front, both named `web`, in namespace `shop`.
    pub async fn web(&self, cluster: &str, workload: Value) {
        let base = format!("/clusters/{cluster}/namespaces/shop");
        self.control(Method::PUT, &format!("{base}/workloads/web"), workload).await;
        let service = json!({"name": "web", "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "target_port": "http"}]});
        self.control(Method::POST, &format!("{base}/services"), service).await;
    }

    pub async fn show(&self, cluster: &str) -> Value {
        self.control(Method::GET, &format!("/clusters/{cluster}/namespaces/shop/workloads/web"), Value::Null).await
    }

    /// Waits until no rollout is under way, and gives the pods that are there to stay.
    pub async fn settled(&self, cluster: &str) -> Vec<Value> {
        let shown = eventually("the workload settles", || async {
            let shown = self.show(cluster).await;
            if shown["rolling"] == false { Ok(shown) } else { Err(shown.to_string()) }
        })
        .await;
        let pods = shown["pods"].as_array().expect("pods is a list");
        pods.iter().filter(|pod| pod["terminating"] == false).cloned().collect()
    }
}

/// Any HTTP request; gives status and text.
pub async fn fetch(method: Method, url: &str, body: Option<Value>) -> (u16, String) {
    try_fetch(method, url, body).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

pub async fn try_fetch(method: Method, url: &str, body: Option<Value>) -> Result<(u16, String), String> {
    let client = HttpClient::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let text = body.filter(|b| !b.is_null()).map(|b| b.to_string()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", "application/json")
        .body(Full::from(text))
        .expect("the request is well formed");
    let response = client.request(request).await.map_err(|error| format!("{error:?}"))?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

/// Tries until it is so; fails with the last reason when the deadline is over.
pub async fn eventually<T, F, R>(what: &str, mut attempt: F) -> T
where
    F: FnMut() -> R,
    R: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + DEADLINE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(last) if Instant::now() > end => panic!("{what}: not within {DEADLINE:?}; last seen: {last}"),
            // Between two looks, not a wait for something to have happened.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// The next item of a stream, within the deadline.
pub async fn next<S: futures::Stream + Unpin>(stream: &mut S) -> S::Item {
    use futures::StreamExt;
    let item = tokio::time::timeout(DEADLINE, stream.next()).await;
    item.expect("something comes before the deadline").expect("the stream goes on")
}
