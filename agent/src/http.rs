//! /healthz, /readyz and /metrics. Small, read only, and without any object's name.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{complaints::Complaints, link::driver::Standing, metrics::Metrics};

/// What is shown.
#[derive(Clone)]
pub struct Shown {
    /// At /metrics.
    pub metrics: Metrics,
    /// At /readyz.
    pub standing: watch::Receiver<Standing>,
    /// Below it; most do not make the agent unready.
    pub complaints: Complaints,
}

/// Serves until the token is cancelled.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, shown: Shown, shutdown: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(shown)).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .with_state(shown)
}

/// Alive as long as the loop that owns the index runs; it drops its end of `standing` when it is gone.
async fn healthz(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    match shown.standing.has_changed() {
        Ok(_) => (StatusCode::OK, "ok\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n"),
    }
}

/// Ready without a hub, too: a restart would not bring the hub back. Not ready while Services are to be watched that were never
/// listed, so that a rollout with missing permissions stops here; nor without a certificate, or while another agent speaks for the
/// cluster.
async fn readyz(State(shown): State<Shown>) -> (StatusCode, String) {
    let standing = *shown.standing.borrow();
    let (status, mut text) = if !standing.is_ready() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{}, and not every watched namespace was listed yet\n", standing.stage),
        )
    } else if shown.complaints.is_blocking() {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}, and the hub does not hear this agent\n", standing.stage))
    } else {
        (StatusCode::OK, format!("ok, {}\n", standing.stage))
    };
    for line in shown.complaints.lines() {
        text.push_str(&line);
        text.push('\n');
    }
    (status, text)
}

async fn page(State(shown): State<Shown>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], shown.metrics.encode())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    fn shown(metrics: Metrics, standing: watch::Receiver<Standing>) -> Shown {
        Shown { metrics, standing, complaints: Complaints::default() }
    }

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = axum::http::Request::get(path).body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("an answer");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn readiness_asks_for_synced_sources_only_once_there_are_services_to_watch() {
        let (sender, receiver) = watch::channel(Standing { stage: "offline", has_watch_set: false, synced: true });
        let router = router(shown(Metrics::new(), receiver));
        assert_eq!(ask(&router, "/readyz").await.0, StatusCode::OK);
        sender.send_replace(Standing { stage: "syncing", has_watch_set: true, synced: false });
        let (status, text) = ask(&router, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "syncing, and not every watched namespace was listed yet\n");
        sender.send_replace(Standing { stage: "live", has_watch_set: true, synced: true });
        assert_eq!(ask(&router, "/readyz").await, (StatusCode::OK, "ok, live\n".to_owned()));
    }

    #[tokio::test]
    async fn health_ends_with_the_loop() {
        let (sender, receiver) = watch::channel(Standing { stage: "live", has_watch_set: true, synced: true });
        let router = router(shown(Metrics::new(), receiver));
        assert_eq!(ask(&router, "/healthz").await.0, StatusCode::OK);
        drop(sender);
        assert_eq!(ask(&router, "/healthz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_complaint_is_shown_and_does_not_make_the_agent_unready() {
        let (_sender, receiver) = watch::channel(Standing { stage: "live", has_watch_set: true, synced: true });
        let shown = shown(Metrics::new(), receiver);
        shown.complaints.raise("policy status", "no leave to patch");
        let answer = ask(&router(shown), "/readyz").await;
        assert_eq!(answer, (StatusCode::OK, "ok, live\npolicy status: no leave to patch\n".to_owned()));
    }

    #[tokio::test]
    async fn what_blocks_makes_the_agent_unready_with_its_reason() {
        let (_sender, receiver) = watch::channel(Standing { stage: "offline", has_watch_set: false, synced: true });
        let shown = shown(Metrics::new(), receiver);
        shown.complaints.block("identity", "no join token is given");
        let (status, text) = ask(&router(shown), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "offline, and the hub does not hear this agent\nidentity: no join token is given\n");
    }

    #[tokio::test]
    async fn metrics_are_served_as_openmetrics_text() {
        let (_sender, receiver) = watch::channel(Standing { stage: "live", has_watch_set: true, synced: true });
        let metrics = Metrics::new();
        metrics.inventory(1, 3);
        let (status, text) = ask(&router(shown(metrics, receiver)), "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("switchyard_agent_endpoints 3\n") && text.ends_with("# EOF\n"), "{text}");
    }
}
