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
    body::{self, Body, InFlight, TargetBody},
    pool::ConnectError,
    select::{self, Moment},
    sticky,
};
use crate::elb::{
    Inner,
    actions::{ActionKind, Forward, Redirect},
    conditions::RequestView,
    counters::Ending,
    lock,
};

/// Names the target group that a request went to, or that was chosen for it.
const GROUP_HEADER: HeaderName = HeaderName::from_static("x-sandbox-target-group");
/// Names the target (`ip:port`) that a request went to.
const TARGET_HEADER: HeaderName = HeaderName::from_static("x-sandbox-target");

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

/// Where one request goes.
struct Pick {
    group: String,
    group_name: String,
    address: SocketAddr,
    in_flight: InFlight,
    cookies: Vec<HeaderValue>,
    /// Set on the answer when it carries this cookie of the application.
    app_cookie: Option<(String, HeaderValue)>,
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
    let action = routing
        .rules
        .iter()
        .find(|(conditions, _)| conditions.iter().all(|c| c.matches(&view)));
    match action.map(|(_, action)| &action.kind) {
        Some(ActionKind::Forward(forward)) => forward_to(inner, client, &routing, forward, request).await,
        Some(ActionKind::FixedResponse {
            status,
            content_type,
            body,
        }) => {
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
    let count = |group: Option<&str>, target: Option<&str>, ending| {
        lock(&inner.plane.counters).add(&routing.load_balancer, group, target, ending);
    };
    let pick = match pick(inner, forward, request.headers()) {
        Ok(pick) => pick,
        Err(empty) => {
            let (arn, name) = empty.unzip();
            count(arn.as_deref(), None, Ending::Generated(503));
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
    match outcome {
        Ok(response) => {
            count(
                Some(&pick.group),
                Some(&target),
                Ending::Target(response.status().as_u16()),
            );
            pass_back(inner, pick, response, routing.idle_timeout)
        }
        Err(failure) => {
            let status = match &failure {
                Failure::Slow | Failure::Connect(ConnectError::TimedOut) => StatusCode::GATEWAY_TIMEOUT,
                Failure::Broken(_) | Failure::Connect(_) | Failure::Cut => StatusCode::BAD_GATEWAY,
            };
            tracing::debug!(group = pick.group_name, target, %failure, "a request got no answer from its target");
            count(Some(&pick.group), Some(&target), Ending::Generated(status.as_u16()));
            let mut response = generated(status, Some(&pick.group_name));
            response
                .headers_mut()
                .extend(HeaderValue::from_str(&target).ok().map(|v| (TARGET_HEADER, v)));
            response
        }
    }
}

/// Chooses under one lock of the state, so that the choice and the count of outstanding requests belong together. Err
/// names the group that has nothing to send to, if a group was chosen at all.
fn pick(inner: &Inner, forward: &Forward, headers: &HeaderMap) -> Result<Pick, Option<(String, String)>> {
    let (now, time) = (Instant::now(), jiff::Timestamp::now());
    let key = inner.plane.cookie_key;
    let world = inner.world();
    let mut rng = lock(&inner.plane.rng);
    let mark = |cookie| sticky::read(key, headers, cookie, time.as_second());
    let group_mark = forward.stickiness_s.and_then(|_| mark(sticky::GROUP_COOKIE));
    let sticks = |arn: &str| group_mark.as_ref().is_some_and(|m| m.is(key, arn));
    let arn = select::choose_group(forward, sticks, &mut rng).ok_or(None)?;
    // A group that was deleted while this node still knows it is as good as empty.
    let group = world
        .groups
        .get(arn)
        .ok_or_else(|| Some((arn.to_owned(), arn.to_owned())))?;
    let sticky_targets = group.attribute("stickiness.enabled") == "true";
    let by_app = group.attribute("stickiness.type") == "app_cookie";
    let cookie = if by_app {
        sticky::APP_COOKIE
    } else {
        sticky::TARGET_COOKIE
    };
    let target_mark = sticky_targets.then(|| mark(cookie)).flatten();
    let name_of = |address: SocketAddr| format!("{arn}|{address}");
    let turn = {
        let mut turns = lock(&inner.plane.turns);
        let turn = turns.entry(arn.to_owned()).or_default();
        *turn = turn.wrapping_add(1);
        *turn
    };
    let slow_start = Duration::from_secs(group.attribute_number("slow_start.duration_seconds"));
    let moment = Moment {
        turn,
        now,
        slow_start: inner.config.scaled(slow_start),
        rng: &mut rng,
    };
    let target = select::choose_target(
        group,
        |t| target_mark.as_ref().is_some_and(|m| m.is(key, &name_of(t.address))),
        moment,
    )
    .ok_or_else(|| Some((arn.to_owned(), group.name.clone())))?;
    let stick = |cookie, name: &str, seconds| sticky::set_cookie(key, cookie, name, time, seconds);
    let mut cookies: Vec<_> = forward
        .stickiness_s
        .and_then(|s| stick(sticky::GROUP_COOKIE, arn, s.into()))
        .into_iter()
        .collect();
    let mut app_cookie = None;
    if sticky_targets {
        let kind = if by_app { "app_cookie" } else { "lb_cookie" };
        let seconds = group.attribute_number(&format!("stickiness.{kind}.duration_seconds"));
        match stick(cookie, &name_of(target.address), seconds) {
            Some(value) if by_app => {
                app_cookie = Some((group.attribute("stickiness.app_cookie.cookie_name").to_owned(), value));
            }
            value => cookies.extend(value),
        }
    }
    Ok(Pick {
        group: arn.to_owned(),
        group_name: group.name.clone(),
        address: target.address,
        in_flight: InFlight::start(&target.live),
        cookies,
        app_cookie,
    })
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
    let mut body = Some(if bodyless {
        body::empty()
    } else {
        incoming.map_err(Into::into).boxed()
    });
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
            let held: Vec<_> = headers
                .get_all("x-forwarded-for")
                .iter()
                .filter_map(|v| v.to_str().ok())
                .collect();
            let chain = held.into_iter().chain([source.as_str()]).collect::<Vec<_>>().join(", ");
            set(headers, "x-forwarded-for", &chain);
        }
    }
    set(
        headers,
        "x-forwarded-proto",
        if routing.https { "https" } else { "http" },
    );
    set(headers, "x-forwarded-port", &routing.port.to_string());
    if !headers.contains_key("x-amzn-trace-id") {
        let id = uuid::Uuid::new_v4().simple().to_string();
        set(headers, "x-amzn-trace-id", &format!("Root=1-{}-{}", &id[..8], &id[8..]));
    }
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
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
        let lines = parts
            .headers
            .get_all(header::SET_COOKIE)
            .iter()
            .filter_map(|v| v.to_str().ok());
        lines
            .filter_map(|l| l.split_once('='))
            .any(|(held, _)| held.trim() == name)
    };
    let app = pick.app_cookie.filter(|(name, _)| sets(name)).map(|(_, value)| value);
    for cookie in pick.cookies.into_iter().chain(app) {
        parts.headers.append(header::SET_COOKIE, cookie);
    }
    let target = pick.address.to_string();
    for (name, value) in [(GROUP_HEADER, &pick.group_name), (TARGET_HEADER, &target)] {
        parts
            .headers
            .extend(HeaderValue::from_str(value).ok().map(|v| (name, v)));
    }
    parts.version = Version::HTTP_11;
    let (inner, group) = (Arc::clone(inner), pick.group);
    let on_break = move || lock(&inner.plane.counters).broken(&group, &target);
    Response::from_parts(parts, TargetBody::new(incoming, pick.in_flight, idle, on_break).boxed())
}

fn generated(status: StatusCode, group: Option<&str>) -> Response<Body> {
    let reason = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let text =
        format!("<html>\r\n<head><title>{reason}</title></head>\r\n<body><h1>{reason}</h1></body>\r\n</html>\r\n");
    let mut response = fixed(status.as_u16(), Some("text/html"), &text);
    response.headers_mut().extend(
        group
            .and_then(|g| HeaderValue::from_str(g).ok())
            .map(|v| (GROUP_HEADER, v)),
    );
    response
}

fn fixed(status: u16, content_type: Option<&str>, text: &str) -> Response<Body> {
    let mut response = Response::new(body::full(text.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set(response.headers_mut(), "server", "awselb/2.0");
    set(
        response.headers_mut(),
        "content-type",
        content_type.unwrap_or("text/plain; charset=utf-8"),
    );
    response
}

fn redirect_to(redirect: &Redirect, view: &RequestView<'_>, routing: &Routing) -> Response<Body> {
    let (scheme, port) = (if routing.https { "https" } else { "http" }, routing.port.to_string());
    let fill = |text: &str| {
        text.replace("#{protocol}", scheme)
            .replace("#{host}", view.host)
            .replace("#{port}", &port)
            .replace("#{path}", view.path.trim_start_matches('/'))
            .replace("#{query}", view.query)
    };
    let query = fill(&redirect.query);
    let mark = if query.is_empty() { "" } else { "?" };
    let location = format!(
        "{}://{}:{}{}{mark}{query}",
        fill(&redirect.protocol).to_ascii_lowercase(),
        fill(&redirect.host),
        fill(&redirect.port),
        fill(&redirect.path)
    );
    let mut response = fixed(redirect.status, None, "");
    set(response.headers_mut(), "location", &location);
    response
}

fn host_of<B>(request: &Request<B>) -> Option<String> {
    let header = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    request
        .uri()
        .authority()
        .map(|a| a.as_str())
        .or(header)
        .map(str::to_owned)
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
