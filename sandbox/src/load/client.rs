//! One HTTP/1.1 connection of the load generator, opened again when it is lost. Never repeats a request that may have reached
//! the server: what a client sees is what is counted.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::LoadError;
use super::report::Answer;

/// More than any pod answers; a body past it counts as failed.
const BODY_LIMIT: usize = 1024 * 1024;

/// Where requests go and what they look like.
#[derive(Debug, Clone)]
pub struct Endpoint {
    address: String,
    path: Uri,
    headers: HeaderMap,
}

impl Endpoint {
    pub fn parse(target: &str, host: Option<&str>, extra: &BTreeMap<String, String>) -> Result<Self, LoadError> {
        let bad = |field, value: &str, remedy| LoadError::Unusable { field, value: value.to_owned(), remedy };
        let form = "write it as http://address:port/path";
        let uri: Uri = target.parse().map_err(|_| bad("target", target, form))?;
        let authority = uri.authority().ok_or_else(|| bad("target", target, form))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("target", target, "only http:// is spoken here"));
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let path: Uri = path.parse().map_err(|_| bad("target", target, form))?;
        let mut headers = HeaderMap::new();
        let name = host.unwrap_or(authority.as_str());
        let remedy = "use a host name, with a port if need be";
        headers.insert(HOST, HeaderValue::from_str(name).map_err(|_| bad("host", name, remedy))?);
        for (key, value) in extra {
            let remedy = "use a header name and value as RFC 9110 allows them";
            let key = HeaderName::from_bytes(key.as_bytes()).map_err(|_| bad("headers", key, remedy))?;
            headers.insert(key, HeaderValue::from_str(value).map_err(|_| bad("headers", value, remedy))?);
        }
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        Ok(Self { address, path, headers })
    }
}

/// A connection and how to get a new one.
pub struct Client {
    endpoint: Arc<Endpoint>,
    keep_alive: bool,
    tasks: TaskTracker,
    open: Option<SendRequest<Empty<Bytes>>>,
}

impl Client {
    pub fn new(endpoint: Arc<Endpoint>, keep_alive: bool, tasks: TaskTracker) -> Self {
        Self { endpoint, keep_alive, tasks, open: None }
    }

    /// Drops the connection: the next request opens another.
    pub fn forget(&mut self) {
        self.open = None;
    }

    /// Sends one request and reads the whole answer.
    pub async fn send(&mut self) -> Result<Answer, String> {
        if self.open.as_ref().is_some_and(SendRequest::is_closed) {
            self.open = None;
        }
        let reused = self.open.is_some();
        match self.attempt().await {
            // The server had closed the idle connection and hyper gave the request back unsent: no failure of anybody.
            Err(error) if reused && error.is_canceled() => {
                self.open = None;
                self.attempt().await.map_err(|error| describe(&error))
            }
            other => other.map_err(|error| describe(&error)),
        }
    }

    async fn attempt(&mut self) -> Result<Answer, SendError> {
        let mut sender = match self.open.take() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        sender.ready().await?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.endpoint.path.clone();
        *request.headers_mut() = self.endpoint.headers.clone();
        if !self.keep_alive {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        Limited::new(body, BODY_LIMIT).collect().await.map_err(|error| SendError::Body(error.to_string()))?;
        if self.keep_alive {
            self.open = Some(sender);
        }
        let named = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(Answer {
            status: head.status.as_u16(),
            cluster: named("x-sandbox-cluster"),
            version: named("x-sandbox-version"),
            target: named("x-sandbox-target"),
        })
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, SendError> {
        let stream = TcpStream::connect(&self.endpoint.address).await.map_err(SendError::Connect)?;
        stream.set_nodelay(true).map_err(SendError::Connect)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; its error also comes back from the request that met it.
        self.tasks.spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("connecting")]
    Connect(#[source] io::Error),
    #[error("exchanging HTTP")]
    Http(#[from] hyper::Error),
    #[error("reading the answer: {0}")]
    Body(String),
}

impl SendError {
    fn is_canceled(&self) -> bool {
        matches!(self, SendError::Http(error) if error.is_canceled())
    }
}

/// A reason that counts well: no addresses, no numbers that differ each time.
fn describe(error: &SendError) -> String {
    match error {
        SendError::Connect(error) => format!("connect: {}", error.kind()),
        SendError::Http(error) if error.is_incomplete_message() => "connection closed before the answer".to_owned(),
        SendError::Http(error) => {
            let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
            cause.map_or_else(|| format!("http: {error}"), |io| format!("connection: {}", io.kind()))
        }
        SendError::Body(text) => format!("answer cut: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str, host: Option<&str>) -> Result<Endpoint, LoadError> {
        Endpoint::parse(target, host, &BTreeMap::new())
    }

    #[test]
    fn a_target_is_split_into_address_path_and_host() {
        let endpoint = parse("http://127.0.0.1:8080/checkout?x=1", Some("shop.example.com")).unwrap();
        assert_eq!(
            (endpoint.address.as_str(), endpoint.path.to_string().as_str()),
            ("127.0.0.1:8080", "/checkout?x=1")
        );
        assert_eq!(endpoint.headers[HOST], "shop.example.com");
        assert_eq!(parse("http://127.0.0.1", None).unwrap().address, "127.0.0.1:80");
    }

    #[test]
    fn a_target_that_cannot_be_used_is_refused_with_field_and_remedy() {
        for target in ["https://127.0.0.1/", "/checkout", "ht tp://x", ""] {
            let error = parse(target, None).unwrap_err().to_string();
            assert!(error.starts_with("target:"), "{error}");
        }
        assert!(parse("http://127.0.0.1", Some("a\nb")).unwrap_err().to_string().starts_with("host:"));
    }
}
