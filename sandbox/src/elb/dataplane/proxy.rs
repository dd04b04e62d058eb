//! One request through the load balancer: rule, group, target, exchange, answer. Answers that the load balancer gives
//! by itself are told apart from those of targets in the counters.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header, request};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use super::{
    Routing,
    answers::{GROUP_HEADER, TARGET_HEADER, fixed, generated, redirect_to, set},
    body::{self, Body, TargetBody},
    pick::{self, Pick},
    pool::ConnectError,
};
use crate::elb::{
    Inner,
    actions::{ActionKind, Forward},
    conditions::RequestView,
    counters::Ending,
    lock,
    series::Served,
};

/// Headers that belong to one connection and are never passed on.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    // Answered here: the body is asked for as soon as it is forwarded.
    header::EXPECT,
];

/// Whose request it is.
#[derive(Debug, Clone)]
pub struct Client {
    pub listener: String,
    pub node: usize,
    pub address: SocketAddr,
}

/// Why a target gave no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the target closed or broke the connection before its answer")]
    Broken(#[source] hyper::Error),
    #[error("the target could not be reached")]
    Connect(#[source] ConnectError),
    #[error("the target did not answer within the idle timeout")]
    Slow,
    #[error("the deregistration delay passed before the target answered")]
    Cut,
}

pub async fn handle(inner: &Arc<Inner>, client: &Client, request: Request<Incoming>) -> Response<Body> {
    let Some(routing) = inner.plane.routing(&client.listener, client.node, Instant::now()) else {
        // The listener is deleted and this connection is about to be closed.
        return generated(StatusCode::SERVICE_UNAVAILABLE, None);
    };
    let count = |ending| lock(&inner.plane.counters).add(&routing.load_balancer, None, None, ending);
    let host = host_of(&request);
    let Some(host) = host else {
        count(Ending::Generated(400));
        return generated(StatusCode::BAD_REQUEST, None);
    };
    let view = RequestView {
        host: without_port(&host),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        method: request.method().as_str(),
        headers: request.headers(),
        source: client.address.ip(),
    };
    let action = routing.rules.iter().find(|(conditions, _)| conditions.iter().all(|c| c.matches(&view)));
    match action.map(|(_, action)| &action.kind) {
        Some(ActionKind::Forward(forward)) => forward_to(inner, client, &routing, forward, request).await,
        Some(ActionKind::FixedResponse { status, content_type, body }) => {
            count(Ending::Configured(*status));
            fixed(*status, content_type.as_deref(), body)
        }
        Some(ActionKind::Redirect(redirect)) => {
            count(Ending::Configured(redirect.status));
            redirect_to(redirect, &view, &routing)
        }
        None => {
            count(Ending::Generated(503));
            generated(StatusCode::SERVICE_UNAVAILABLE, None)
        }
    }
}

async fn forward_to(
    inner: &Arc<Inner>,
    client: &Client,
    routing: &Routing,
    forward: &Forward,
    request: Request<Incoming>,
) -> Response<Body> {
    let begun = Instant::now();
    let pick = match pick::pick(inner, forward, request.headers()) {
        Ok(pick) => pick,
        Err(empty) => {
            let (arn, name) = empty.map(|e| (e.group, e.group_name)).unzip();
            let (load_balancer, ending) = (routing.load_balancer.as_str(), Ending::Generated(503));
            match arn.as_deref() {
                Some(group) => inner.plane.served(&Served {
                    load_balancer,
                    group,
                    ending,
                    target: None,
                    seconds: None,
                    unconnected: false,
                }),
                None => lock(&inner.plane.counters).add(load_balancer, None, None, ending),
            }
            return generated(StatusCode::SERVICE_UNAVAILABLE, name.as_deref());
        }
    };
    let cut = pick.in_flight.live().cut.clone();
    let target = pick.address.to_string();
    let outcome = tokio::select! {
        biased;
        outcome = exchange(inner, client, routing, pick.address, request) => outcome,
        () = cut.cancelled() => Err(Failure::Cut),
    };
    let served = |ending, seconds, unconnected| {
        let (load_balancer, group) = (routing.load_balancer.as_str(), pick.group.as_str());
        inner.plane.served(&Served { load_balancer, group, ending, target: Some(&target), seconds, unconnected });
    };
    match outcome {
        Ok(response) => {
            served(Ending::Target(response.status().as_u16()), Some(begun.elapsed().as_secs_f64()), false);
            pass_back(inner, pick, response, routing.idle_timeout)
        }
        Err(failure) => {
            let status = match &failure {
                Failure::Slow | Failure::Connect(ConnectError::TimedOut) => StatusCode::GATEWAY_TIMEOUT,
                Failure::Broken(_) | Failure::Connect(_) | Failure::Cut => StatusCode::BAD_GATEWAY,
            };
            tracing::debug!(group = pick.group_name, target, %failure, "a request got no answer from its target");
            served(Ending::Generated(status.as_u16()), None, matches!(failure, Failure::Connect(_)));
            let mut response = generated(status, Some(&pick.group_name));
            response.headers_mut().extend(HeaderValue::from_str(&target).ok().map(|v| (TARGET_HEADER, v)));
            response
        }
    }
}

/// Sends the request and waits for the head of the answer. A connection from the pool that the target has closed in
/// the meantime is replaced once by a fresh one, but only if nothing was sent yet or there is no body to lose.
async fn exchange(
    inner: &Arc<Inner>,
    client: &Client,
    routing: &Routing,
    address: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Incoming>, Failure> {
    let bodyless = request.body().is_end_stream();
    let (mut parts, incoming) = request.into_parts();
    prepare(&mut parts, client, routing);
    let mut body = Some(if bodyless { body::empty() } else { incoming.map_err(Into::into).boxed() });
    let mut pooled = inner.plane.pool.take(address);
    loop {
        let reused = pooled.is_some();
        let mut sender = match pooled.take() {
            Some(sender) => sender,
            None => inner.plane.pool.connect(address).await.map_err(Failure::Connect)?,
        };
        let outgoing = Request::from_parts(parts.clone(), body.take().unwrap_or_else(body::empty));
        match tokio::time::timeout(routing.idle_timeout, sender.try_send_request(outgoing)).await {
            Err(_) => return Err(Failure::Slow),
            Ok(Ok(response)) => {
                inner.plane.pool.give_back(address, sender);
                return Ok(response);
            }
            Ok(Err(mut refused)) => {
                let unsent = refused.take_message();
                let may_repeat = unsent.is_some() || (bodyless && !refused.error().is_parse());
                if !reused || !may_repeat {
                    return Err(Failure::Broken(refused.into_error()));
                }
                body = unsent.map(Request::into_body);
            }
        }
    }
}

fn prepare(parts: &mut request::Parts, client: &Client, routing: &Routing) {
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map(Into::into).unwrap_or_default();
    parts.version = Version::HTTP_11;
    strip(&mut parts.headers);
    let headers = &mut parts.headers;
    let source = client.address.ip().to_string();
    match routing.forwarded_for.as_str() {
        "remove" => _ = headers.remove("x-forwarded-for"),
        "preserve" => {}
        _ => {
            let held: Vec<_> = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
            let chain = held.into_iter().chain([source.as_str()]).collect::<Vec<_>>().join(", ");
            set(headers, "x-forwarded-for", &chain);
        }
    }
    set(headers, "x-forwarded-proto", if routing.https { "https" } else { "http" });
    set(headers, "x-forwarded-port", &routing.port.to_string());
    if !headers.contains_key("x-amzn-trace-id") {
        let id = uuid::Uuid::new_v4().simple().to_string();
        set(headers, "x-amzn-trace-id", &format!("Root=1-{}-{}", &id[..8], &id[8..]));
    }
}

/// Removes what belongs to the connection, including what its Connection header names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

fn pass_back(inner: &Arc<Inner>, pick: Pick, response: Response<Incoming>, idle: Duration) -> Response<Body> {
    let (mut parts, incoming) = response.into_parts();
    strip(&mut parts.headers);
    let sets = |name: &str| {
        let lines = parts.headers.get_all(header::SET_COOKIE).iter().filter_map(|v| v.to_str().ok());
        lines.filter_map(|l| l.split_once('=')).any(|(held, _)| held.trim() == name)
    };
    let app = pick.app_cookie.filter(|(name, _)| sets(name)).map(|(_, value)| value);
    for cookie in pick.cookies.into_iter().chain(app) {
        parts.headers.append(header::SET_COOKIE, cookie);
    }
    let target = pick.address.to_string();
    for (name, value) in [(GROUP_HEADER, &pick.group_name), (TARGET_HEADER, &target)] {
        parts.headers.extend(HeaderValue::from_str(value).ok().map(|v| (name, v)));
    }
    parts.version = Version::HTTP_11;
    let (inner, group) = (Arc::clone(inner), pick.group);
    let on_break = move || lock(&inner.plane.counters).broken(&group, &target);
    Response::from_parts(parts, TargetBody::new(incoming, pick.in_flight, idle, on_break).boxed())
}

fn host_of<B>(request: &Request<B>) -> Option<String> {
    let header = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    request.uri().authority().map(|a| a.as_str()).or(header).map(str::to_owned)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.contains(':') => name,
        _ => host,
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
