//! The HTTP side: Smithy's RPC v2 protocol with CBOR bodies (smithy.io: "Smithy RPC v2 CBOR protocol"), and errors that callers of
//! the older query protocol understand too. Decides nothing about metrics.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use minicbor::{Encoder, data::Tag};

use super::{
    Inner, cbor,
    metrics::{self, Found, Visible},
    request::{Refusal, Request},
};

/// 500 queries with long dimensions.
const MOST_BODY: usize = 1 << 20;
/// The service's name in its Smithy model, which is in the path of every call.
const SERVICE: &str = "GraniteServiceVersion20100801";

pub fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/service/{service}/operation/{operation}", post(handle))
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .with_state(inner)
}

async fn handle(
    State(inner): State<Arc<Inner>>,
    Path((service, operation)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mode = inner.mode().clone();
    if mode.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(mode.delay_ms)).await;
    }
    if let Some(code) = mode.refuse {
        let status = if code.starts_with("AccessDenied") { 403 } else { 400 };
        return refused(status, &code, "refused on purpose");
    }
    let protocol = headers.get("smithy-protocol").and_then(|value| value.to_str().ok());
    if protocol != Some("rpc-v2-cbor") {
        return refused(400, "UnknownOperationException", "calls need the header smithy-protocol: rpc-v2-cbor");
    }
    if service != SERVICE || operation != "GetMetricData" {
        return refused(404, "UnknownOperationException", &format!("{service} {operation} is not modelled"));
    }
    let read =
        cbor::read(&body).map_err(|error| Refusal { code: "SerializationException", message: error.to_string() });
    match read.and_then(Request::read) {
        Err(Refusal { code, message }) => refused(400, code, &message),
        Ok(request) => {
            let delay = i64::try_from(inner.delay.as_millis()).unwrap_or(i64::MAX / 4);
            let visible = Visible { now: jiff::Timestamp::now().as_millisecond(), delay, zeros: mode.zeros };
            let mut found = inner.elb.with_series(|series| metrics::answer(series, &request, visible));
            if mode.silent {
                found.iter_mut().for_each(|found| found.points.clear());
            }
            tracing::debug!(queries = found.len(), "metrics were read");
            match encoded(&found) {
                Ok(body) => answered(StatusCode::OK, body),
                Err(error) => refused(500, "InternalServiceFault", &error.to_string()),
            }
        }
    }
}

type Writing<T> = Result<T, minicbor::encode::Error<std::convert::Infallible>>;

fn encoded(found: &[Found]) -> Writing<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.map(2)?.str("MetricDataResults")?.array(found.len() as u64)?;
    for one in found {
        encoder.map(5)?.str("Id")?.str(&one.id)?.str("Label")?.str(&one.label)?;
        encoder.str("StatusCode")?.str("Complete")?.str("Timestamps")?.array(one.points.len() as u64)?;
        for (at, _) in &one.points {
            encoder.tag(Tag::new(1))?.f64(*at as f64 / 1_000.0)?;
        }
        encoder.str("Values")?.array(one.points.len() as u64)?;
        for (_, value) in &one.points {
            encoder.f64(*value)?;
        }
    }
    encoder.str("Messages")?.array(0)?;
    Ok(encoder.into_writer())
}

fn answered(status: StatusCode, body: Vec<u8>) -> Response {
    let id = uuid::Uuid::new_v4().to_string();
    let headers = [
        ("smithy-protocol", "rpc-v2-cbor".to_owned()),
        ("content-type", "application/cbor".to_owned()),
        ("x-amzn-requestid", id),
    ];
    (status, headers, body).into_response()
}

fn refused(status: u16, code: &str, message: &str) -> Response {
    let write = || -> Writing<Vec<u8>> {
        let mut encoder = Encoder::new(Vec::new());
        encoder
            .map(2)?
            .str("__type")?
            .str(&format!("com.amazonaws.cloudwatch#{code}"))?
            .str("message")?
            .str(message)?;
        Ok(encoder.into_writer())
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let fault = if status.is_server_error() { "Receiver" } else { "Sender" };
    // Writing into a vector does not fail.
    let mut response = answered(status, write().unwrap_or_default());
    if let Ok(value) = format!("{code};{fault}").parse() {
        response.headers_mut().insert("x-amzn-query-error", value);
    }
    response
}
