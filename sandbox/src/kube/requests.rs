//! HTTP requests to verbs on objects: parses paths, queries and bodies (all bounded), asks authorization, and words answers.
//! What the verbs mean is in `write` and `list_watch`.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::Query;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::discovery;
use super::list::{self, Scope};
use super::object::{Object, text};
use super::rbac::Attributes;
use super::route::{QueryMap, Route, attributes, route};
use super::selector::Selector;
use super::server::{ApiServer, Mode};
use super::status::ApiError;
use super::watch::{Leave, Watch};
use super::write::{self, DeleteOptions, PatchKind, Target, WriteOptions};

/// Kubernetes refuses bodies over 3 MiB.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Answers one request; holds it while the server hangs.
pub async fn handle(server: ApiServer, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut turns = server.turns();
    while server.mode() == Mode::Hung {
        if turns.changed().await.is_err() {
            break;
        }
    }
    let (parts, body) = request.into_parts();
    let answer = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => answer(&server, &parts.method, &parts.uri, &parts.headers, body.to_bytes()),
        Err(_) => Err(ApiError::too_large_body(BODY_LIMIT)),
    };
    Ok(answer.unwrap_or_else(|error| {
        tracing::debug!(code = error.code, path = %parts.uri.path(), "the API server refused a request: {}", error.message);
        json_response(error.code, Bytes::from(error.body().to_string()))
    }))
}

fn json_response(code: u16, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn answer(
    server: &ApiServer,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let segments: Vec<&str> = uri.path().split('/').filter(|s| !s.is_empty()).collect();
    if let Some(fixed) = fixed_path(&segments, server) {
        return Ok(fixed);
    }
    let route = route(&segments).ok_or_else(ApiError::no_route)?;
    let Query(query) = Query::<QueryMap>::try_from_uri(uri)
        .map_err(|error| ApiError::bad_request(format!("the query of the request cannot be read: {error}")))?;
    let metadata_only =
        header(headers, ACCEPT).split(',').next().is_some_and(|first| first.contains("as=PartialObjectMetadata"));
    let attributes = attributes(method, &route, &query)?;
    if server.denied(&attributes) {
        let Attributes { verb, group, resource, namespace, name } = &attributes;
        let user = user(headers);
        return Err(ApiError::forbidden(&user, verb, resource, group, namespace.as_deref(), name));
    }
    match attributes.verb {
        "list" | "watch" => collection(server, &route, &query, attributes, metadata_only),
        "get" => {
            let object = find(server, &route)?;
            let bytes = if metadata_only { list::partial(object.value()).to_string().into() } else { object.json() };
            Ok(json_response(200, bytes))
        }
        "deletecollection" => delete_collection(server, &route, &query, &body),
        _ => write_verb(server, method, &route, &query, headers, &body),
    }
}

fn fixed_path(segments: &[&str], server: &ApiServer) -> Option<Response<Body>> {
    match segments {
        ["version"] => Some(json_response(200, discovery::version().to_string().into())),
        ["healthz" | "readyz" | "livez", ..] => {
            let mut response = json_response(200, Bytes::from_static(b"ok"));
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
            Some(response)
        }
        _ => discovery::answer(segments, &server.address().to_string())
            .map(|value| json_response(200, value.to_string().into())),
    }
}

fn header(headers: &HeaderMap, name: http::HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Tokens are names here: nothing in a sandbox is secret.
fn user(headers: &HeaderMap) -> String {
    match header(headers, AUTHORIZATION).strip_prefix("Bearer ") {
        Some(token) => token.chars().filter(|c| !c.is_control()).take(128).collect(),
        None => "system:anonymous".to_owned(),
    }
}

fn find(server: &ApiServer, route: &Route) -> Result<std::sync::Arc<Object>, ApiError> {
    let namespace = route.namespace.as_deref().unwrap_or_default();
    let found = server.shown().get(route.kind, namespace, &route.name);
    found.ok_or_else(|| ApiError::not_found(route.kind.row(), &route.name))
}

fn scope(route: &Route, query: &QueryMap, metadata_only: bool) -> Result<Scope, ApiError> {
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let selector = Selector::parse(route.kind, get("labelSelector"), get("fieldSelector"))?;
    Ok(Scope { kind: route.kind, namespace: route.namespace.clone(), selector, metadata_only })
}

fn collection(
    server: &ApiServer,
    route: &Route,
    query: &QueryMap,
    attributes: Attributes,
    metadata_only: bool,
) -> Result<Response<Body>, ApiError> {
    let scope = scope(route, query, metadata_only)?;
    if attributes.verb == "list" {
        return Ok(json_response(200, list::list(&server.shown(), &scope, query)?));
    }
    let generation = server.generation();
    let turns = server.turns();
    let watch = Watch::start(server.shown(), scope, query)?;
    let server = server.clone();
    let may = move || {
        if server.generation() != generation || server.denied(&attributes) {
            Leave::End
        } else if server.mode() == Mode::Hung {
            Leave::Wait
        } else {
            Leave::Go
        }
    };
    let mut response = json_response(200, Bytes::new());
    *response.body_mut() = Body::from_stream(watch.into_stream(turns, may));
    Ok(response)
}

fn flag(query: &QueryMap, name: &str) -> bool {
    query.get(name).is_some_and(|v| v == "true" || v == "All" || v == "1")
}

/// Who writes, when the request does not say: the first word of the user agent, as Kubernetes has it.
fn manager(query: &QueryMap, headers: &HeaderMap) -> String {
    let agent = header(headers, USER_AGENT).split('/').next().unwrap_or_default();
    let fallback = if agent.is_empty() { "unknown" } else { agent };
    query.get("fieldManager").filter(|m| !m.is_empty()).map_or(fallback, String::as_str).chars().take(128).collect()
}

fn parse_json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))
}

fn write_verb(
    server: &ApiServer,
    method: &Method,
    route: &Route,
    query: &QueryMap,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    let store = server.shown();
    let target = Target {
        kind: route.kind,
        namespace: route.namespace.clone().unwrap_or_default(),
        name: route.name.clone(),
        status: route.subresource == "status",
    };
    let options =
        WriteOptions { manager: manager(query, headers), dry_run: flag(query, "dryRun"), force: flag(query, "force") };
    match *method {
        Method::POST if route.subresource == "eviction" => {
            // No disruption budgets here: an eviction is a deletion.
            let eviction = if body.is_empty() { json!({}) } else { parse_json(body)? };
            let given = delete_options(&eviction["deleteOptions"], query)?;
            write::delete(&store, &target, &given)?;
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            Ok(json_response(201, done.to_string().into()))
        }
        Method::POST => Ok(json_response(201, write::create(&store, &target, parse_json(body)?, &options)?.json())),
        Method::PUT if route.subresource == "finalize" => Ok(json_response(200, find(server, route)?.json())),
        Method::PUT => Ok(json_response(200, write::update(&store, &target, parse_json(body)?, &options)?.json())),
        Method::PATCH => {
            let (format, patch) = patch_body(headers, body)?;
            let mut options = options;
            if format == PatchKind::Apply {
                // An apply names its manager itself.
                options.manager = query.get("fieldManager").cloned().unwrap_or_default();
            }
            let (object, created) = write::patch(&store, &target, format, &patch, &options)?;
            Ok(json_response(if created { 201 } else { 200 }, object.json()))
        }
        Method::DELETE => {
            let given = if body.is_empty() { Value::Null } else { parse_json(body)? };
            let answer = write::delete(&store, &target, &delete_options(&given, query)?)?;
            Ok(json_response(200, answer.to_string().into()))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn patch_body(headers: &HeaderMap, body: &[u8]) -> Result<(PatchKind, Value), ApiError> {
    let content = header(headers, CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    let format = match content {
        "application/json-patch+json" => PatchKind::Json,
        "application/merge-patch+json" => PatchKind::Merge,
        "application/strategic-merge-patch+json" => PatchKind::Strategic,
        "application/apply-patch+yaml" | "application/apply-patch+json" => PatchKind::Apply,
        _ => {
            return Err(ApiError::unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
                 application/apply-patch+yaml",
            ));
        }
    };
    if format != PatchKind::Apply {
        return Ok((format, parse_json(body)?));
    }
    // JSON is YAML: most clients send JSON under the YAML type.
    let value = serde_json::from_slice(body).or_else(|_| serde_norway::from_slice(body));
    value.map(|value| (format, value)).map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}

fn delete_options(body: &Value, query: &QueryMap) -> Result<DeleteOptions, ApiError> {
    let in_query = match query.get("gracePeriodSeconds").filter(|v| !v.is_empty()) {
        Some(given) => Some(given.parse().map_err(|_| {
            ApiError::bad_request(format!("gracePeriodSeconds: Invalid value: {given:?}: must be a whole number"))
        })?),
        None => None,
    };
    let owned = |pointer: &str| Some(text(body, pointer).to_owned()).filter(|t| !t.is_empty());
    Ok(DeleteOptions {
        grace_seconds: body.get("gracePeriodSeconds").and_then(Value::as_u64).or(in_query),
        uid: owned("/preconditions/uid"),
        version: owned("/preconditions/resourceVersion"),
        dry_run: flag(query, "dryRun") || body.pointer("/dryRun/0").is_some(),
    })
}

fn delete_collection(
    server: &ApiServer,
    route: &Route,
    query: &QueryMap,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    let store = server.shown();
    let scope = scope(route, query, false)?;
    let given = if body.is_empty() { Value::Null } else { parse_json(body)? };
    let options = delete_options(&given, query)?;
    let mut items = Vec::new();
    let (version, all) = store.list(route.kind, route.namespace.as_deref());
    for object in all.iter().filter(|o| scope.selector.matches(o)) {
        let target = Target::new(route.kind, object.namespace(), object.name());
        match write::delete(&store, &target, &options) {
            Ok(_) => items.push(object.value().clone()),
            // Somebody else was faster.
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let row = route.kind.row();
    let list = json!({"kind": format!("{}List", row.kind), "apiVersion": row.api_version(),
        "metadata": {"resourceVersion": version.to_string()}, "items": items});
    Ok(json_response(200, list.to_string().into()))
}
