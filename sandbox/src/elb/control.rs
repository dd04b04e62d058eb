//! The control API: what tests and the demo need and AWS does not offer. JSON in and out; exempt from throttling and
//! faults, and not in the call log.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Inner,
    actions::{Action, ActionKind},
    api::{Call, listeners, load_balancers},
    calls::Class,
    config::BucketLimit,
    errors::ApiError,
    exposition,
    faults::FaultSpec,
    lock,
    model::{HealthState, TargetKey},
    query::Params,
    state_view, tags,
};

/// Longest accepted body.
const MAX_BODY: usize = 1 << 20;

type Shared = State<Arc<Inner>>;
type Answer = Result<Json<Value>, Refused>;

/// A refusal: `{"error": ...}` with status 400.
struct Refused(String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({"error": self.0}))).into_response()
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(error.to_string())
    }
}

pub fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/load-balancers", post(create_load_balancer))
        .route("/instances", post(put_instance))
        .route("/state", get(|State(inner): Shared| async move { Json(state_view::state(&settled(&inner))) }))
        .route("/dataplane", get(|State(inner): Shared| async move { Json(state_view::dataplane(&inner.world())) }))
        .route("/counters", get(|State(inner): Shared| async move { Json(inner.plane.counters()) }))
        .route("/counters/reset", post(reset_counters))
        .route("/metrics", get(metrics))
        .route("/calls", get(calls))
        .route("/health", get(health_changes))
        .route("/faults", get(list_faults).post(add_fault).delete(clear_faults))
        .route("/limits", get(show_limits).post(set_limits))
        .route("/targets/health", post(set_health))
        .route("/partition", post(set_partition))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(inner)
}

/// The state with the time that has passed taken into account.
fn settled(inner: &Inner) -> std::sync::MutexGuard<'_, super::model::World> {
    let mut world = inner.world();
    world.advance(Instant::now(), &inner.config);
    world
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewLoadBalancer {
    name: String,
    #[serde(default)]
    listeners: Vec<NewListener>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewListener {
    port: u16,
    #[serde(default = "http")]
    protocol: String,
}

fn http() -> String {
    "HTTP".to_owned()
}

/// An ALB as a platform team's Terraform would have left it: active, its listeners answering 404.
async fn create_load_balancer(State(inner): Shared, Json(wanted): Json<NewLoadBalancer>) -> Answer {
    for (key, value) in &wanted.tags {
        tags::check(key, value)?;
    }
    let ports = wanted.listeners.iter().map(|l| l.port).collect::<std::collections::BTreeSet<_>>();
    if ports.contains(&0) || ports.len() < wanted.listeners.len() {
        return Err(Refused("listeners: every port must be 1 to 65535 and different from the others".to_owned()));
    }
    if let Some(odd) = wanted.listeners.iter().find(|l| !matches!(l.protocol.as_str(), "HTTP" | "HTTPS")) {
        return Err(Refused(format!("listeners: protocol '{}' must be HTTP or HTTPS", odd.protocol)));
    }
    let made = inner.change(&Params::default(), |call| build(call, wanted))?;
    Ok(Json(made))
}

fn build(call: &mut Call<'_>, wanted: NewLoadBalancer) -> Result<Value, ApiError> {
    let arn = load_balancers::create_ready(call, &wanted.name)?;
    call.world.tags.insert(arn.clone(), wanted.tags);
    let mut listeners = Vec::new();
    for listener in &wanted.listeners {
        let not_found = ActionKind::FixedResponse { status: 404, content_type: None, body: String::new() };
        let certificates = match listener.protocol.as_str() {
            "HTTPS" => vec![format!(
                "arn:{}:acm:{}:{}:certificate/stand-in",
                call.config.partition(),
                call.config.region,
                call.config.account_id
            )],
            _ => Vec::new(),
        };
        let actions = vec![Action { order: None, kind: not_found }];
        let made = listeners::insert(call, &arn, listener.port, &listener.protocol, certificates, actions)?;
        let address = call.world.listener(&made)?.address.to_string();
        listeners.push(json!({"arn": made, "port": listener.port, "address": address}));
    }
    let lb = call.world.load_balancer(&arn)?;
    Ok(json!({"arn": arn, "dns_name": lb.dns_name, "ip": lb.ip.to_string(), "listeners": listeners}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Instance {
    id: String,
    /// None takes the instance away, as if it had been terminated.
    ip: Option<Ipv4Addr>,
}

async fn put_instance(State(inner): Shared, Json(instance): Json<Instance>) -> Answer {
    if !instance.id.starts_with("i-") || instance.id.len() > 32 {
        return Err(Refused(format!("id '{}' is no instance id; it looks like i-0123456789abcdef0", instance.id)));
    }
    let mut world = inner.world();
    match instance.ip {
        Some(ip) => _ = world.instances.insert(instance.id, ip),
        None => _ = world.instances.remove(&instance.id),
    }
    Ok(Json(json!({})))
}

async fn metrics(State(inner): Shared) -> ([(HeaderName, &'static str); 1], String) {
    let world = inner.world();
    let text = exposition::text(&world, &lock(&inner.plane.series));
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn reset_counters(State(inner): Shared) -> Json<Value> {
    inner.plane.reset_counters();
    Json(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    #[serde(default)]
    since: u64,
    mutating: Option<bool>,
}

async fn calls(State(inner): Shared, Query(query): Query<Since>) -> Json<super::calls::CallPage> {
    Json(lock(&inner.calls).since(query.since, query.mutating))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangesSince {
    #[serde(default)]
    since: u64,
}

async fn health_changes(State(inner): Shared, Query(query): Query<ChangesSince>) -> Json<Value> {
    let (next, changes) = lock(&inner.health_log).since(query.since);
    Json(json!({"next": next, "changes": changes}))
}

/// The fields of a fault. Serde cannot refuse unknown ones beside a flattened kind, and a misspelt `times` would turn
/// one fault into another.
const FAULT_FIELDS: [&str; 9] = ["operation", "nth", "every", "times", "kind", "code", "message", "http_status", "ms"];

async fn add_fault(State(inner): Shared, Json(body): Json<serde_json::Map<String, Value>>) -> Answer {
    if let Some(odd) = body.keys().find(|k| !FAULT_FIELDS.contains(&k.as_str())) {
        return Err(Refused(format!("unknown field '{odd}'; known are {}", FAULT_FIELDS.join(", "))));
    }
    let spec: FaultSpec = serde_json::from_value(Value::Object(body)).map_err(|e| Refused(e.to_string()))?;
    if spec.operation != "*" && super::api::find(&spec.operation).is_none() {
        return Err(Refused(format!("operation '{}' is not modelled; use its exact name or *", spec.operation)));
    }
    let id = inner.arm(spec).map_err(Refused)?;
    Ok(Json(json!({"id": id})))
}

async fn list_faults(State(inner): Shared) -> Json<Value> {
    Json(Value::Array(lock(&inner.faults).list()))
}

async fn clear_faults(State(inner): Shared) -> Json<Value> {
    lock(&inner.faults).clear();
    lock(&inner.history).clear();
    Json(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewLimits {
    #[serde(default)]
    quotas: BTreeMap<String, u64>,
    #[serde(default)]
    rates: BTreeMap<Class, BucketLimit>,
    default_page_size: Option<usize>,
}

async fn set_limits(State(inner): Shared, Json(wanted): Json<NewLimits>) -> Answer {
    for (class, limit) in &wanted.rates {
        let sound = |n: f64| n.is_finite() && n >= 0.0;
        if !sound(limit.rate) || !sound(limit.burst) {
            return Err(Refused(format!("rates.{class:?}: rate and burst must be 0 or more")));
        }
    }
    if wanted.default_page_size.is_some_and(|n| n > 400) {
        return Err(Refused("default_page_size must be 1 to 400, or 0 for the largest".to_owned()));
    }
    {
        let mut world = inner.world();
        let mut limits = world.limits.clone();
        for (name, max) in &wanted.quotas {
            limits.set(name, *max).map_err(Refused)?;
        }
        world.limits = limits;
        world.default_page_size = wanted.default_page_size.unwrap_or(world.default_page_size);
    }
    for (class, limit) in wanted.rates {
        lock(&inner.throttle).set(class, limit, Instant::now());
    }
    Ok(show_limits(State(inner)).await)
}

async fn show_limits(State(inner): Shared) -> Json<Value> {
    let (quotas, page) = {
        let world = inner.world();
        (json!(world.limits), world.default_page_size)
    };
    Json(json!({"quotas": quotas, "rates": lock(&inner.throttle).limits(), "default_page_size": page}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Health {
    target_group_arn: String,
    id: String,
    port: u16,
    /// None gives the target back to the health checker.
    state: Option<String>,
}

async fn set_health(State(inner): Shared, Json(wanted): Json<Health>) -> Answer {
    let forced = match wanted.state.as_deref() {
        None => None,
        Some("healthy") => Some(HealthState::Healthy),
        Some("unhealthy") => Some(HealthState::Unhealthy),
        Some(other) => return Err(Refused(format!("state '{other}' must be healthy, unhealthy or null"))),
    };
    inner.change(&Params::default(), |call| {
        let key = TargetKey { id: wanted.id, port: wanted.port };
        let target = call.world.group_mut(&wanted.target_group_arn)?.targets.get_mut(&key);
        let named = || ApiError::new("InvalidTarget", format!("target {}:{} is not registered", key.id, key.port));
        target.ok_or_else(named)?.forced = forced;
        Ok(())
    })?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Partition {
    on: bool,
}

async fn set_partition(State(inner): Shared, Json(wanted): Json<Partition>) -> Json<Value> {
    inner.partition.send_replace(wanted.on);
    Json(json!({"on": wanted.on}))
}
