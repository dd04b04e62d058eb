//! A webhook that judges shifts as a test wants it to, and remembers what it was asked.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

#[derive(Debug)]
struct Desk {
    verdict: Mutex<Value>,
    asked: Mutex<Vec<Value>>,
}

/// A running one.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    desk: Arc<Desk>,
    task: AbortHandle,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Webhook {
    /// Starts one that lets everything pass.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let verdict = Mutex::new(json!({"verdict": "Pass"}));
        let desk = Arc::new(Desk { verdict, asked: Mutex::default() });
        let shared = Arc::clone(&desk);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let desk = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&desk), request));
                // A connection that breaks is the hub's business. None is kept, so that all ends with the webhook.
                let connection =
                    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Ok(Self { address, desk, task: task.abort_handle() })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/judge", self.address)
    }

    /// `Pass`, `Fail` or `Wait` from now on.
    pub fn says(&self, verdict: &str, message: &str) {
        let verdict = json!({"verdict": verdict, "message": message});
        *self.desk.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
    }

    /// What it was asked, in order.
    pub fn asked(&self) -> Vec<Value> {
        self.desk.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(desk: Arc<Desk>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // What cannot be read is remembered as nothing, and then looked for in vain.
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let question = serde_json::from_slice(&body).unwrap_or(Value::Null);
    desk.asked.lock().unwrap_or_else(PoisonError::into_inner).push(question);
    let verdict = desk.verdict.lock().unwrap_or_else(PoisonError::into_inner).to_string();
    Ok(Response::new(Full::new(Bytes::from(verdict))))
}
