//! The API over HTTP and JSON, for callers without gRPC. One transcoder for all calls: a table says which method and path is which
//! call ([`routes`]), the descriptors of the .proto files say how JSON becomes a message and back (`transcode.rs`), and the call goes
//! through the very services that the gRPC port serves (`call.rs`), so that who may do what, and what is answered, is decided in one
//! place. It decides nothing about policies or traffic: it must not import `store`, `engine`, `elb` or `feed`.
//!
//! Every input is bounded: head, path, body, time, connections, calls and streams. Tests: `hub/tests/gateway*.rs`, and with
//! schemathesis `tests/tests/gateway/`.

mod call;
mod openapi;
mod path;
pub(crate) mod refusal;
pub mod routes;
mod strict;
pub(crate) mod transcode;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header},
};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use prost_reflect::MessageDescriptor;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, metadata::MetadataMap, service::Routes};

use crate::{
    door::{
        Full, Guard, Keep, PeerInfo, Place, Rooms,
        head::HeadFault,
        http1::{self, Asked},
    },
    grpc::AGE_HEADER,
    metrics::{GatewayRequest, Metrics},
};
use call::Call;
use refusal::Refusal;
use routes::{Found, Route, Table, TableError};
use transcode::Sent;

/// The content type of answers.
const JSON: &str = "application/json";
/// The content type of streams: one JSON object a line.
const NDJSON: &str = "application/x-ndjson";
/// Where the description of the API is.
pub const OPENAPI: &str = "/openapi.json";
/// Bytes of a body: a manifest of 64 KiB, quoted as a JSON string, at twice its length.
const MOST_BODY: usize = 128 * 1024;
/// Bytes of path and query.
const MOST_URI: usize = 8 * 1024;
/// What becomes the request id of a call when the body has none.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Characters of a request id.
const MOST_KEY: usize = 128;
/// Answers above this are written on a thread that may take its time: a list of all policies has megabytes.
const LARGE: usize = 256 * 1024;

/// Times and numbers that bound what callers can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the head of a request; a connection on which nothing is asked is closed after it, too.
    pub head: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// For the answer of a call that is no stream: a transaction takes milliseconds, a plan of 100,000 endpoints under a second.
    pub answer: Duration,
    /// Silence on a stream until an empty line is sent: proxies close what is silent, and 60 s is usual.
    pub silence: Duration,
    /// Bodies that are on their way at a time; each is 128 KiB at the most. Counted apart from calls: a body that does not come holds up no
    /// call.
    pub bodies: usize,
    /// Calls at a time, each from the last byte of its body to the last byte of its answer.
    pub calls: usize,
    /// Streams at a time. Counted apart from calls, so that no number of watchers can keep an abort waiting.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(20),
            bodies: 512,
            calls: 128,
            streams: 512,
        }
    }
}

/// How much of calls and of streams one source may have, so that there is a rest for others.
fn share(most: usize) -> usize {
    (3 * most).div_ceil(4)
}

/// The same of bodies, which come slowly before anybody knows whose they are: 16 of 512.
fn share_of_bodies(most: usize) -> usize {
    most.div_ceil(32)
}

/// What the gateway needs.
pub struct GatewayParts {
    /// The services of the API.
    pub routes: Routes,
    /// Counts.
    pub metrics: Metrics,
    /// Bounds.
    pub limits: Limits,
}

/// Serves the API until the token.
///
/// # Errors
/// [`TableError`] when the table of routes and the descriptors do not fit; a defect.
pub async fn serve(
    listener: TcpListener,
    guard: Guard,
    parts: GatewayParts,
    shutdown: CancellationToken,
) -> Result<(), TableError> {
    let head = parts.limits.head;
    let gateway = Arc::new(Gateway::new(parts)?);
    let answer = move |peer: PeerInfo, asked: Asked| {
        let gateway = Arc::clone(&gateway);
        async move {
            match asked {
                Ok(request) => gateway.answer(peer, request.map(Body::new)).await,
                Err(fault) => gateway.refuse(fault),
            }
        }
    };
    http1::serve(listener, guard, "gateway", head, shutdown, answer).await;
    Ok(())
}

/// What answers requests.
struct Gateway {
    table: Table,
    openapi: Bytes,
    routes: Routes,
    metrics: Metrics,
    limits: Limits,
    bodies: Rooms,
    calls: Rooms,
    streams: Rooms,
}

/// A part of an answer that is sent as it comes.
type Line = Result<Bytes, std::convert::Infallible>;

impl Gateway {
    fn new(parts: GatewayParts) -> Result<Self, TableError> {
        let table = Table::new()?;
        let openapi = Bytes::from(openapi::document(&table).to_string());
        let GatewayParts { routes, metrics, limits } = parts;
        let room = |most: usize| Rooms::new(most, share(most));
        let bodies = Rooms::new(limits.bodies, share_of_bodies(limits.bodies));
        let (calls, streams) = (room(limits.calls), room(limits.streams));
        Ok(Self { table, openapi, routes: routes.prepare(), metrics, limits, bodies, calls, streams })
    }

    /// The answer to a request; never fails.
    async fn answer(&self, peer: PeerInfo, request: Request<Body>) -> Response<Body> {
        let method = method_word(request.method().as_str());
        let path = request.uri().path().to_owned();
        let (route, answer) = if path == OPENAPI {
            (OPENAPI, self.document(&request))
        } else {
            match self.table.find(request.method().as_str(), &path) {
                Found::Route(route, values) => (route.binding.path, self.call(peer, route, &values, request).await),
                Found::OtherMethod(allowed) => ("other method", Err(no_method(&request, allowed))),
                Found::Nothing => ("none", Err(Refusal::NoPath(switchyard_core::ids::cut(&path)))),
            }
        };
        self.told(method, route, answer)
    }

    /// The answer to a head that was refused before anybody read it.
    fn refuse(&self, fault: HeadFault) -> Response<Body> {
        self.told("other", "none", Err(Refusal::Head(fault)))
    }

    fn told(
        &self,
        method: &'static str,
        route: &'static str,
        answer: Result<Response<Body>, Refusal>,
    ) -> Response<Body> {
        let response = answer.unwrap_or_else(|refusal| {
            tracing::debug!(method, route, code = ?refusal.code(), error = %refusal, "a request to the gateway was refused");
            refusal.into_response(&self.table.pool)
        });
        let status = u32::from(response.status().as_u16());
        self.metrics.gateway_requests.get_or_create(&GatewayRequest { method, route, status }).inc();
        response
    }

    fn document(&self, request: &Request<Body>) -> Result<Response<Body>, Refusal> {
        if request.method() != http::Method::GET {
            return Err(no_method(request, vec!["GET"]));
        }
        Ok(respond(JSON, Body::from(self.openapi.clone())))
    }

    async fn call(
        &self,
        peer: PeerInfo,
        route: &Route,
        values: &[&str],
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        if request.headers().contains_key(header::ORIGIN) {
            return Err(Refusal::FromPage);
        }
        let uri = request.uri().clone();
        let length = uri.path_and_query().map_or(0, |both| both.as_str().len());
        if length > MOST_URI {
            return Err(Refusal::LongUri(MOST_URI));
        }
        let key = idempotency_key(request.headers())?;
        let authorization = authorization(request.headers())?;
        let body = self.body(peer.address.ip(), route, request).await?;
        let sent =
            Sent { path: values, query: uri.query().unwrap_or(""), body: &body, idempotency_key: key.as_deref() };
        let message = transcode::request(route, sent)?;
        let path = PathAndQuery::try_from(route.grpc_path.as_str()).map_err(|error| {
            tracing::error!(%error, path = route.grpc_path, "a call of the gateway has no path; this is a defect");
            Status::internal("the hub failed while it worked on this; see its log")
        })?;
        let streams = route.method.is_server_streaming();
        let (places, most) =
            if streams { (&self.streams, self.limits.streams) } else { (&self.calls, self.limits.calls) };
        let place = places.enter(peer.address.ip()).map_err(busy(most, share(most)))?;
        let call = Call { routes: self.routes.clone(), peer, authorization, path, message };
        if streams { self.stream(route, call, place).await } else { self.unary(route, call, place).await }
    }

    async fn body(&self, source: IpAddr, route: &Route, request: Request<Body>) -> Result<Bytes, Refusal> {
        let (head, body) = request.into_parts();
        if !route.has_body() {
            return if body.is_end_stream() { Ok(Bytes::new()) } else { Err(Refusal::UnwantedBody) };
        }
        // Also without a body: a page in a browser can send anything else than this type to another origin unasked.
        json_only(&head.headers)?;
        if body.size_hint().lower() > MOST_BODY as u64 {
            return Err(Refusal::LongBody(MOST_BODY));
        }
        let most = self.limits.bodies;
        let _place = self.bodies.enter(source).map_err(busy(most, share_of_bodies(most)))?;
        let read = timeout(self.limits.body, Limited::new(body, MOST_BODY).collect());
        match read.await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::LongBody(MOST_BODY)),
            Ok(Err(_)) => Err(Refusal::BrokenBody),
            Err(_) => Err(Refusal::SlowBody(self.limits.body)),
        }
    }

    async fn unary(&self, route: &Route, call: Call, place: Arc<Place>) -> Result<Response<Body>, Refusal> {
        let answer =
            timeout(self.limits.answer, call.unary()).await.map_err(|_| Refusal::Late(self.limits.answer))??;
        let (metadata, bytes, mut extensions) = answer.into_parts();
        let text = written(route.method.output(), bytes).await?;
        let mut response = respond(JSON, Body::from(text));
        age(&metadata, response.headers_mut());
        // Until the answer was taken: the place of the call here, and that of its caller.
        response.extensions_mut().insert(Keep::new((place, extensions.remove::<Keep>())));
        Ok(response)
    }

    async fn stream(&self, route: &Route, call: Call, place: Arc<Place>) -> Result<Response<Body>, Refusal> {
        let opened = timeout(self.limits.answer, call.streaming()).await;
        let answers = opened.map_err(|_| Refusal::Late(self.limits.answer))??;
        let (metadata, answers, _) = answers.into_parts();
        let watch = Watch { answers, output: route.method.output(), silence: self.limits.silence, _place: place };
        let lines = futures::stream::unfold(Some(watch), async |watch| watch?.next().await);
        let mut response = respond(NDJSON, Body::from_stream(lines));
        age(&metadata, response.headers_mut());
        Ok(response)
    }
}

/// What is said when there is no place.
fn busy(most: usize, of_source: usize) -> impl FnOnce(Full) -> Refusal {
    move |full| {
        Refusal::Busy(match full {
            Full::All => most,
            Full::Source => of_source,
        })
    }
}

/// A stream under way.
struct Watch {
    answers: Streaming<Bytes>,
    output: MessageDescriptor,
    silence: Duration,
    /// Given back when the stream ends, or its caller goes away.
    _place: Arc<Place>,
}

impl Watch {
    /// The next line, and the rest of the stream when there is one.
    async fn next(mut self) -> Option<(Line, Option<Self>)> {
        let message = tokio::select! {
            message = self.answers.message() => message,
            () = sleep(self.silence) => return Some((Ok(Bytes::from_static(b"\n")), Some(self))),
        };
        let refusal = match message {
            Ok(None) => return None,
            Ok(Some(bytes)) => match written(self.output.clone(), bytes).await {
                Ok(mut text) => {
                    text.push(b'\n');
                    return Some((Ok(text.into()), Some(self)));
                }
                Err(refusal) => refusal,
            },
            Err(status) => Refusal::from(status),
        };
        let line = format!("{}\n", serde_json::json!({"error": refusal.body(self.output.parent_pool())}));
        Some((Ok(line.into()), None))
    }
}

/// An answer as JSON.
async fn written(output: MessageDescriptor, bytes: Bytes) -> Result<Vec<u8>, Refusal> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        tracing::error!(error, "an answer could not be written as JSON; this is a defect");
        Refusal::from(Status::internal("the hub failed while it wrote the answer; see its log"))
    };
    if bytes.len() < LARGE {
        return transcode::answer(output, bytes).map_err(|error| failed(&error));
    }
    let work = tokio::task::spawn_blocking(move || transcode::answer(output, bytes)).await;
    work.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

fn respond(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// How old the picture is that was answered from.
fn age(metadata: &MetadataMap, headers: &mut HeaderMap) {
    let age = metadata.get(AGE_HEADER).and_then(|age| HeaderValue::from_bytes(age.as_bytes()).ok());
    if let Some(age) = age {
        headers.insert(AGE_HEADER, age);
    }
}

fn json_only(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let given = given.unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(JSON) { Ok(()) } else { Err(Refusal::NotJson(switchyard_core::ids::cut(&given))) }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut given = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(key) = given.next() else { return Ok(None) };
    let bad = |problem| {
        let value = String::from_utf8_lossy(key.as_bytes());
        Refusal::field("Idempotency-Key", &value, problem, "send it once, with 1 to 128 printable ASCII characters")
    };
    if given.next().is_some() {
        return Err(bad("is given twice"));
    }
    // Judged here as well as by the services, which do not look at it in a dry run.
    let text = key.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    match text.ok_or_else(|| bad("is not printable ASCII without spaces"))? {
        "" => Err(bad("is empty")),
        text if text.len() > MOST_KEY => Err(bad("is too long")),
        text => Ok(Some(text.to_owned())),
    }
}

/// The one proof of the caller beside his certificate. Nothing else of the headers reaches a service.
fn authorization(headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let Some(one) = given.next() else { return Ok(None) };
    // The value is a secret and is not repeated.
    let bad =
        |problem| Refusal::field("Authorization", "", problem, "send one header, as in Authorization: Bearer TOKEN");
    if given.next().is_some() {
        return Err(bad("is given twice"));
    }
    if one.to_str().is_err() {
        return Err(bad("is not printable ASCII"));
    }
    Ok(Some(one.clone()))
}

fn no_method(request: &Request<Body>, allowed: Vec<&'static str>) -> Refusal {
    Refusal::NoMethod { method: switchyard_core::ids::cut(request.method().as_str()), allowed }
}

/// Of a label: what callers make up is one word.
fn method_word(method: &str) -> &'static str {
    ["GET", "POST", "PUT", "DELETE"].into_iter().find(|known| *known == method).unwrap_or("other")
}
