//! HTTPS for the API server's questions: TLS 1.3, one path, everything bounded. It decides nothing.

use std::{
    fmt::{self, Debug, Formatter},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{Json, Router, body::Body, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::review::review;
use crate::{gates::inject::Injection, metrics::Metrics};

/// Where reviews are sent.
pub const PATH: &str = "/mutate-pods";
/// The API server takes objects of up to 1.5 MiB from its store and 3 MiB in a request.
const MAX_BODY: usize = 3 * 1024 * 1024;
/// Less than the 5 s that the API server waits for an answer.
const BODY_TIMEOUT: Duration = Duration::from_secs(4);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// API servers keep a few connections each.
const MAX_CONNECTIONS: usize = 128;
/// Reviews that are read at a time: 48 MiB at the most. Real ones are some 20 kB and take microseconds.
const MAX_REVIEWS: usize = 16;
/// So that connections on which nothing happens are not kept for ever.
const MAX_AGE: Duration = Duration::from_secs(600);
/// What is under way when the agent stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// After an error of accept, such as no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The certificate that is served with now; none at first, and then no handshake succeeds.
#[derive(Default)]
pub struct Served(RwLock<Option<Arc<CertifiedKey>>>);

impl Served {
    /// Serves with this one from now on.
    pub fn set(&self, certified: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(certified);
    }

    /// True once there is one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Debug for Served {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        // A key must never reach a log.
        formatter.debug_struct("Served").field("is_set", &self.is_set()).finish()
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What an answer needs.
#[derive(Clone)]
pub struct Answering {
    /// Which gates new pods get.
    pub injection: watch::Receiver<Arc<Injection>>,
    /// Counted here.
    pub metrics: Metrics,
    /// Reviews that may be read now.
    pub places: Arc<Semaphore>,
}

impl Answering {
    /// Nothing is being read yet.
    #[must_use]
    pub fn new(injection: watch::Receiver<Arc<Injection>>, metrics: Metrics) -> Self {
        Self { injection, metrics, places: Arc::new(Semaphore::new(MAX_REVIEWS)) }
    }
}

/// Serves until the token is cancelled.
pub async fn serve(listener: TcpListener, served: Arc<Served>, answering: Answering, shutdown: CancellationToken) {
    let mut config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_no_client_auth()
        .with_cert_resolver(served);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let router = Router::new().route(PATH, post(answer)).with_state(answering);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // One too many is closed at once; the API server then goes on without the webhook.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (acceptor, router, shutdown) = (acceptor.clone(), router.clone(), shutdown.clone());
        connections.spawn(async move {
            connection(stream, acceptor, router, shutdown).await;
            drop(place);
        });
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, ended).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router, shutdown: CancellationToken) {
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "A handshake with the webhook failed"),
        Err(_) => return debug!("A handshake with the webhook took too long"),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(Some(64));
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let over = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(MAX_AGE) => {}
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = over => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(FAREWELL, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(error, "A connection to the webhook broke off");
    }
}

async fn answer(State(answering): State<Answering>, body: Body) -> axum::response::Response {
    let arrived = async {
        let place = answering.places.acquire().await;
        (axum::body::to_bytes(body, MAX_BODY).await, place)
    };
    let Ok((read, _place)) = tokio::time::timeout(BODY_TIMEOUT, arrived).await else {
        answering.metrics.webhook_review("unread");
        return (StatusCode::REQUEST_TIMEOUT, "the review did not arrive in time\n").into_response();
    };
    let Ok(body) = read else {
        answering.metrics.webhook_review("unread");
        return (StatusCode::PAYLOAD_TOO_LARGE, "the review broke off, or is larger than 3 MiB\n").into_response();
    };
    let injection = Arc::clone(&answering.injection.borrow());
    let (answer, outcome) = review(&body, &injection);
    answering.metrics.webhook_review(outcome.label());
    Json(answer).into_response()
}
