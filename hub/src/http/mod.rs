//! Health and metrics over HTTP. `/healthz`: the process runs. `/readyz`: it can answer, and says from where. `/metrics`: for
//! Prometheus. Must not import `grpc`, `engine` or `elb`.

use std::{fmt::Write, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{
    door::{
        Guard, PeerInfo, Rooms,
        http1::{self, Asked},
    },
    feed::Feed,
    metrics::Metrics,
};

/// What the pages read.
#[derive(Clone)]
pub struct HttpParts {
    /// The picture of the store.
    pub feed: Feed,
    /// Metrics.
    pub metrics: Metrics,
}

/// The pages.
pub fn router(parts: HttpParts) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(parts)
}

/// For the head of a request, and of a connection on which nothing is asked: a kubelet waits for a second.
const HEAD: Duration = Duration::from_secs(2);
/// Connections in all, and from one address: some probes and scrapers. Anybody in the cluster may come, so whoever was silent the longest
/// makes room for the next one.
const MOST_CONNECTIONS: usize = 256;
const MOST_OF_ADDRESS: usize = 64;

/// Serves the pages until the token, in plain text: they hold no secret.
pub async fn serve(listener: TcpListener, parts: HttpParts, shutdown: CancellationToken) {
    let guard = Guard {
        rooms: Rooms::by_address(MOST_CONNECTIONS, MOST_OF_ADDRESS),
        silent_yield: true,
        metrics: parts.metrics.door.clone(),
        ..Guard::default()
    };
    let pages = router(parts);
    let answer = move |_: PeerInfo, asked: Asked| {
        let mut pages = pages.clone();
        async move {
            match asked {
                Ok(request) => match pages.call(request.map(Body::new)).await {
                    Ok(answer) => answer,
                    Err(never) => match never {},
                },
                Err(fault) => (StatusCode::BAD_REQUEST, format!("{fault}\n")).into_response(),
            }
        }
    };
    http1::serve(listener, guard, "http", HEAD, shutdown, answer).await;
}

/// Ready means: calls get an answer. With the store away reads are answered from memory, so a replica that has a picture stays
/// in service; taking all replicas out would only add to the trouble.
async fn readyz(State(parts): State<HttpParts>) -> Response {
    let picture = parts.feed.picture();
    let age = picture.age(Timestamp::now());
    match (picture.loaded, picture.store_ok) {
        (true, true) => (StatusCode::OK, "ready: the store answers\n".to_owned()).into_response(),
        (true, false) => {
            let mut text = String::from("ready: serving from memory, the store does not answer; ");
            // Writing into a String does not fail.
            let _ = writeln!(text, "read {} s ago", age.as_secs());
            (StatusCode::OK, text).into_response()
        }
        (false, _) => {
            let text = "not ready: the store was not read yet\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn metrics(State(parts): State<HttpParts>) -> Response {
    let picture = parts.feed.picture();
    if picture.loaded {
        parts.metrics.picture_age_seconds.set(picture.age(Timestamp::now()).as_secs_f64());
    }
    match parts.metrics.encoded() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
