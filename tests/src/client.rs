//! A small JSON client for the control API of the sandbox and the pages of the hub: loopback, HTTP/1.1, bounded in time.

use std::time::Duration;

use anyhow::Context;
use http::{Method, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client as Legacy, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Serialize, de::DeserializeOwned};

/// Longest wait for an answer. Ending a load waits for its requests in flight, ten seconds at most.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    http: Legacy<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client of the server at `base`, such as `http://127.0.0.1:8080`.
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into(), http: Legacy::builder(TokioExecutor::new()).build_http() }
    }

    /// Where the server is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// One request with any method and a JSON body.
    ///
    /// # Errors
    /// Without an answer.
    pub async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<(StatusCode, Bytes)> {
        let url = format!("{}{path}", self.base);
        let request = Request::builder().method(method).uri(&url).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::from(body))?;
        let answer = async {
            let response = self.http.request(request).await?;
            let status = response.status();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, answer).await;
        answer
            .with_context(|| format!("{url} did not answer in time"))?
            .with_context(|| format!("{url} did not answer"))
    }

    /// One request with a JSON answer.
    ///
    /// # Errors
    /// Without an answer, with a status that is no success, or with another document than was expected.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> anyhow::Result<T> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let (status, bytes) = self.send(method.clone(), path, body).await?;
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        anyhow::ensure!(status.is_success(), "{method} {path} was answered with {status}: {}", text());
        serde_json::from_slice(&bytes).with_context(|| format!("{method} {path} was answered with {}", text()))
    }

    /// Reads a document.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// Sends a document.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &(impl Serialize + Sync)) -> anyhow::Result<T> {
        self.call(Method::POST, path, Some(body)).await
    }
}
