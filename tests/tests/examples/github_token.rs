//! What a runner of GitHub Actions asks for its token: an address that answers those who show the run's own secret.

use std::convert::Infallible;

use http::{Response, StatusCode, header::AUTHORIZATION};
use http_body_util::Full;
use hyper::{Request, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, task::AbortHandle};

/// The run's own secret.
pub const REQUEST_TOKEN: &str = "the-secret-of-this-run";

/// A running one.
#[derive(Debug)]
pub struct TokenDesk {
    /// What the runner finds in ACTIONS_ID_TOKEN_REQUEST_URL.
    pub url: String,
    task: AbortHandle,
}

impl Drop for TokenDesk {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TokenDesk {
    /// Starts one that gives this token.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(token: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/token?api-version=2.0", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let token = token.clone();
                let service = service_fn(move |request| answer(token.clone(), request));
                let connection =
                    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { url, task: task.abort_handle() }
    }
}

async fn answer(token: String, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let right = shown == Some(&format!("bearer {REQUEST_TOKEN}"))
        && request.uri().query() == Some("api-version=2.0&audience=switchyard");
    let mut response = Response::new(Full::new(Bytes::from(json!({"value": token}).to_string())));
    if !right {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        *response.body_mut() = Full::default();
    }
    Ok(response)
}
