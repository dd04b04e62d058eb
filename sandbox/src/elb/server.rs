//! The HTTP side of the API: reads a call, lets faults and throttling have their say, carries it out, logs it, answers.
//! Decides nothing about load balancing. Signatures are not verified.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Inner, api,
    calls::{CallRecord, Class},
    errors::ApiError,
    faults::Verdict,
    lock,
    query::{MAX_BODY_BYTES, Params},
    xml,
};

/// Connections served together; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1_024;
/// An idle connection is closed after this.
const IDLE: Duration = Duration::from_secs(120);
/// What a call under way gets at the shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// The connection is to be cut instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("connection cut on purpose")]
struct Cut;

/// Accepts until the shutdown; returns when every connection has ended.
pub async fn run(inner: Arc<Inner>, listener: TcpListener, shutdown: CancellationToken) {
    let (tracker, permits) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (inner, shutdown) = (Arc::clone(&inner), shutdown.clone());
                tracker.spawn(async move {
                    serve_connection(inner, stream, shutdown).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the load balancer API could not accept a connection and tries again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    tracker.close();
    tracker.wait().await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn serve_connection(inner: Arc<Inner>, stream: TcpStream, shutdown: CancellationToken) {
    let mut partition = inner.partition.subscribe();
    if *partition.borrow_and_update() {
        return;
    }
    // Small answers must not wait for Nagle's algorithm; without the option they are only slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| handle(&inner, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // An error here is a client that went away or a cut on purpose; both are seen at the other end.
        _ = connection.as_mut() => {}
        // The guard that this gives must not live across the other branches.
        _ = async { partition.wait_for(|on| *on).await.is_ok() } => {}
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(GRACE, connection).await;
        }
    }
}

async fn handle(inner: &Inner, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    let request_id = uuid::Uuid::new_v4().to_string();
    let outcome = match read(request).await {
        Ok(params) => call(inner, params).await,
        Err(error) => Ok(Err(error)),
    };
    let (status, text) = match outcome? {
        Ok((operation, xml)) => (200, xml::answer(operation, &xml, &request_id)),
        Err(error) => (error.status, xml::refusal(&error, &request_id)),
    };
    let response = Response::builder()
        .status(status)
        .header(http::header::CONTENT_TYPE, "text/xml")
        .header("x-amzn-requestid", request_id)
        .body(Full::new(Bytes::from(text)));
    // Status codes come from a checked range and the id is a UUID, so this cannot fail; a cut would show if it did.
    response.map_err(|_| Cut)
}

async fn read(request: Request<Incoming>) -> Result<Params, ApiError> {
    if request.method() != Method::POST {
        return Err(ApiError::new("InvalidAction", "Calls are form-encoded POST requests"));
    }
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await.map_err(|error| {
        ApiError::new(
            "MalformedQueryString",
            format!("the body could not be read (at most {MAX_BODY_BYTES} bytes): {error}"),
        )
    })?;
    Params::parse(&body.to_bytes())
}

type Answer = Result<(&'static str, xml::Xml), ApiError>;

async fn call(inner: &Inner, params: Params) -> Result<Answer, Cut> {
    let name = params.root().get("Action").unwrap_or_default().to_owned();
    let Some((operation, class, handler)) = api::find(&name) else {
        return Ok(Err(api::unknown_action(&name)));
    };
    let received = jiff::Timestamp::now();
    let verdict = lock(&inner.faults).strike(operation);
    if verdict.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(verdict.delay_ms)).await;
    }
    if verdict.cut_before {
        log(inner, (operation, class, received), params, "connection-cut", (false, false));
        return Err(Cut);
    }
    let result = refuse(inner, class, &verdict).and_then(|()| match verdict.stale_ms {
        Some(ms) if class == Class::Describe => inner.execute_stale(handler, &params, Duration::from_millis(ms)),
        _ => inner.execute(class, handler, &params),
    });
    let outcome = result.as_ref().err().map_or("ok", |e| &e.code).to_owned();
    log(inner, (operation, class, received), params, &outcome, (result.is_ok(), !verdict.cut_after));
    if verdict.cut_after {
        return Err(Cut);
    }
    Ok(result.map(|xml| (operation, xml)))
}

fn refuse(inner: &Inner, class: Class, verdict: &Verdict) -> Result<(), ApiError> {
    if let Some(error) = &verdict.refusal {
        return Err(error.clone());
    }
    if !lock(&inner.throttle).take(class, std::time::Instant::now()) {
        return Err(ApiError::throttled());
    }
    Ok(())
}

fn log(
    inner: &Inner,
    (operation, class, received): (&str, Class, jiff::Timestamp),
    params: Params,
    outcome: &str,
    (applied, answered): (bool, bool),
) {
    tracing::debug!(operation, outcome, applied, answered, "the load balancer API handled a call");
    lock(&inner.calls).push(CallRecord {
        seq: 0,
        operation: operation.to_owned(),
        class,
        mutating: class.is_mutating(),
        parameters: params.into_logged(),
        outcome: outcome.to_owned(),
        applied,
        answered,
        received,
        time: jiff::Timestamp::now(),
    });
}
