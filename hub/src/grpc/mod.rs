//! The gRPC port: agents, policies, shifts, safety, audit, clusters, health and reflection. Takes intents and reports into the
//! store and shows the picture in memory. Must not import `elb` or `engine`. Tests: `hub/tests/grpc_*.rs`.

mod access;
pub mod agents;
mod audit;
mod caller;
mod clusters;
pub mod convert;
mod convert_failover;
mod convert_fleet;
mod enrollment;
pub mod errors;
mod health;
mod once;
pub(crate) mod page;
mod planning;
pub(crate) mod policies;
mod rights;
mod safety;
pub(crate) mod shift_sources;
mod shifts;
pub(crate) mod sources;

use std::{collections::BTreeSet, str::FromStr, sync::Arc, time::Duration};

use jiff::Timestamp;
use switchyard_core::{
    ids::{ClusterName, Epoch, IdError, PolicyKey},
    observed::Observed,
    plan,
};
use switchyard_proto::{
    FILE_DESCRIPTOR_SET,
    agent::v1::{
        agent_service_server::AgentServiceServer, enrollment_service_server::EnrollmentServiceServer,
        policy_source_service_server::PolicySourceServiceServer, shift_source_service_server::ShiftSourceServiceServer,
        target_health_service_server::TargetHealthServiceServer,
    },
    api::v1::{
        PolicyRef, access_service_server::AccessServiceServer, audit_service_server::AuditServiceServer,
        cluster_service_server::ClusterServiceServer, policy_service_server::PolicyServiceServer,
        safety_service_server::SafetyServiceServer, shift_service_server::ShiftServiceServer,
    },
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Response, Status, metadata::MetadataValue, service::Routes};
use uuid::Uuid;

use crate::{
    access as gate,
    authority::Authority,
    door::{Guard, http2},
    feed::{Feed, Picture},
    metrics::Metrics,
    store::Store,
};
use errors::{ApiError, to_status};

pub use rights::{GateSources, GrantsOfResources};

/// Bytes of one message from a client: 500 endpoints with their pods' details are far below a megabyte.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Of a call of callers: a manifest has 64 KiB, and twice as much as text in a message of its own.
const MOST_CALL_BYTES: usize = 256 * 1024;
/// Of a question for health, which anybody may ask: the name of a service, or of a cluster.
const MOST_HEALTH_BYTES: usize = 4 * 1024;
/// Of a question for descriptors: a name, or a few.
const MOST_REFLECTION_BYTES: usize = 64 * 1024;
/// Of a request for a certificate, which anybody may send: a request to sign and a token are 8 KiB each at the most.
const MOST_ENROLMENT_BYTES: usize = 64 * 1024;
/// Answers carry the age of the picture that they were read from.
pub(crate) const AGE_HEADER: &str = "switchyard-picture-age-ms";

/// What the port needs.
#[derive(Clone)]
pub struct GrpcParts {
    /// Where intents and reports go.
    pub store: Store,
    /// The picture of the store.
    pub feed: Feed,
    /// What was last read from AWS.
    pub observed: watch::Receiver<Arc<Observed>>,
    /// The epoch of the lease, as far as it is known.
    pub epoch: watch::Receiver<Option<Epoch>>,
    /// For plans; the epoch in it is not used.
    pub settings: plan::Settings,
    /// The clusters whose policies are taken.
    pub policy_sources: Arc<BTreeSet<ClusterName>>,
    /// What the gates of shifts may be measured with.
    pub gate_sources: Arc<GateSources>,
    /// The gate in front of all services.
    pub access: gate::Gatekeeper,
    /// What agents' certificates come from.
    pub authority: Authority,
    /// What resources of a cluster may do.
    pub grants_of_resources: GrantsOfResources,
    /// On agents' streams.
    pub heartbeat_interval: Duration,
    /// A cluster that was heard of within it has an agent that lives.
    pub stale_after: Duration,
    /// This process.
    pub hub_instance: Uuid,
    /// Counts.
    pub metrics: Metrics,
}

/// Why the services cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors are broken.
    #[error("the descriptors for gRPC reflection cannot be served")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// What every reading call does alike.
#[derive(Clone)]
pub struct Reading {
    feed: Feed,
    metrics: Metrics,
}

impl Reading {
    fn picture(&self) -> Result<Arc<Picture>, ApiError> {
        let picture = self.feed.picture();
        if picture.loaded { Ok(picture) } else { Err(ApiError::NotLoaded) }
    }

    /// Counts and logs the call, and turns an error into its status.
    fn answer<T>(&self, method: &'static str, result: Result<T, ApiError>) -> Result<Response<T>, Status> {
        match result {
            Ok(answer) => {
                Metrics::count(&self.metrics.grpc_calls, method, code_word(Code::Ok));
                let mut response = Response::new(answer);
                let picture = self.feed.picture();
                let age = picture.age(Timestamp::now()).as_millis();
                // Some calls need no picture; one that was never read has no age.
                if picture.loaded
                    && let Ok(value) = MetadataValue::from_str(&age.to_string())
                {
                    response.metadata_mut().insert(AGE_HEADER, value);
                }
                Ok(response)
            }
            Err(error) => {
                let status = to_status(&error);
                Metrics::count(&self.metrics.grpc_calls, method, code_word(status.code()));
                let (code, error) = (code_word(status.code()), &error as &dyn std::error::Error);
                if matches!(status.code(), Code::Internal | Code::Unavailable) {
                    tracing::warn!(method, code, error, "a call failed");
                } else {
                    tracing::info!(method, code, error, "a call was refused");
                }
                Err(status)
            }
        }
    }
}

fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::InvalidArgument => "invalid_argument",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::FailedPrecondition => "failed_precondition",
        Code::PermissionDenied => "permission_denied",
        Code::Aborted => "aborted",
        Code::Unavailable => "unavailable",
        Code::Internal => "internal",
        _ => "other",
    }
}

/// A filter of a request: empty means none.
fn optional<T: FromStr<Err = IdError>>(field: &str, value: &str) -> Result<Option<T>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|error| ApiError::field(field, error))
}

/// The policy that a request names.
fn required(policy: Option<&PolicyRef>) -> Result<PolicyKey, ApiError> {
    let policy = policy.cloned().unwrap_or_default();
    let namespace = policy.namespace.parse().map_err(|error| ApiError::field("policy.namespace", error))?;
    let name = policy.name.parse().map_err(|error| ApiError::field("policy.name", error))?;
    Ok(PolicyKey { namespace, name })
}

/// The services, made once: the gRPC port serves them, and the gateway calls the same ones.
pub struct Services {
    routes: Routes,
    tasks: TaskTracker,
}

impl Services {
    /// For calls within this process. Who calls is looked for in the request's extensions, as the gRPC port puts it there.
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }
}

/// Makes the services; what they do in the background ends with the token.
///
/// # Errors
/// [`ServeError::Reflection`] when the descriptors are broken.
pub async fn services(parts: GrpcParts, shutdown: &CancellationToken) -> Result<Services, ServeError> {
    let tasks = TaskTracker::new();
    let registry = agents::Registry::default();
    let hearing = agents::Hearing::new(parts.stale_after);
    let heartbeats = agents::run_heartbeats(
        registry.clone(),
        hearing.clone(),
        parts.store.clone(),
        parts.metrics.clone(),
        parts.heartbeat_interval,
        shutdown.clone(),
    );
    tasks.spawn(heartbeats);
    let said = once::Once::default();
    let reading = Reading { feed: parts.feed.clone(), metrics: parts.metrics.clone() };
    let agents = agents::Agents::new(agents::AgentParts {
        store: parts.store.clone(),
        feed: parts.feed.clone(),
        epoch: parts.epoch.clone(),
        heartbeat_interval: parts.heartbeat_interval,
        hearing: hearing.clone(),
        said: said.clone(),
        hub_instance: parts.hub_instance,
        registry,
        shelf: agents::Shelf::default(),
        metrics: parts.metrics.clone(),
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    });
    let target_health = health::Health::new(health::HealthParts {
        feed: parts.feed.clone(),
        epoch: parts.epoch.clone(),
        heartbeat_interval: parts.heartbeat_interval,
        said: said.clone(),
        metrics: parts.metrics.clone(),
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    });
    let sources = sources::Sources::new(sources::SourceParts {
        store: parts.store.clone(),
        feed: parts.feed.clone(),
        epoch: parts.epoch.clone(),
        hearing: hearing.clone(),
        said: said.clone(),
        sources: Arc::clone(&parts.policy_sources),
        paces: sources::ChangePaces::new(parts.access.source_changes()),
        registry: agents::Registry::default(),
        metrics: parts.metrics.clone(),
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    });
    let shift_sources = shift_sources::ShiftSources::new(shift_sources::ShiftSourceParts {
        store: parts.store.clone(),
        feed: parts.feed.clone(),
        epoch: parts.epoch.clone(),
        hearing: hearing.clone(),
        said: said.clone(),
        sources: Arc::clone(&parts.policy_sources),
        gate_sources: Arc::clone(&parts.gate_sources),
        grants_of_resources: Arc::clone(&parts.grants_of_resources),
        gate: parts.access.clone(),
        registry: agents::Registry::default(),
        metrics: parts.metrics.clone(),
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    });
    let planning = planning::Planning::new(parts.observed.clone(), parts.epoch.clone(), parts.settings.clone());
    let policies = policies::Policies::new(policies::PolicyParts {
        store: parts.store.clone(),
        reading: reading.clone(),
        planning: planning.clone(),
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    });
    let clusters = clusters::Clusters::new(clusters::ClusterServiceParts {
        store: parts.store.clone(),
        reading: reading.clone(),
        planning: planning.clone(),
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    });
    let shifts = shifts::Shifts::new(shifts::ShiftParts {
        store: parts.store.clone(),
        reading: reading.clone(),
        planning,
        gate_sources: Arc::clone(&parts.gate_sources),
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    });
    let safety = safety::Safety::new(parts.store.clone(), reading.clone());
    let audit = audit::Audit::new(parts.store.clone(), reading.clone());
    let access = access::Access::new(parts.store.clone(), parts.authority.clone(), reading.clone());
    let gate = parts.access.clone();
    let enrollment = enrollment::Enrollment::new(parts.store.clone(), parts.authority.clone(), gate, reading, said);
    let (serving, health_service) = tonic_health::server::health_reporter();
    serving.set_serving::<AgentServiceServer<agents::Agents>>().await;
    serving.set_serving::<TargetHealthServiceServer<health::Health>>().await;
    serving.set_serving::<PolicySourceServiceServer<sources::Sources>>().await;
    serving.set_serving::<ShiftSourceServiceServer<shift_sources::ShiftSources>>().await;
    serving.set_serving::<PolicyServiceServer<policies::Policies>>().await;
    serving.set_serving::<ClusterServiceServer<clusters::Clusters>>().await;
    serving.set_serving::<ShiftServiceServer<shifts::Shifts>>().await;
    serving.set_serving::<SafetyServiceServer<safety::Safety>>().await;
    serving.set_serving::<AuditServiceServer<audit::Audit>>().await;
    serving.set_serving::<AccessServiceServer<access::Access>>().await;
    serving.set_serving::<EnrollmentServiceServer<enrollment::Enrollment>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(ServeError::Reflection)?;
    let routes = Routes::new(health_service.max_decoding_message_size(MOST_HEALTH_BYTES))
        .add_service(reflection.max_decoding_message_size(MOST_REFLECTION_BYTES))
        .add_service(AgentServiceServer::new(agents).max_decoding_message_size(MOST_BYTES))
        .add_service(TargetHealthServiceServer::new(target_health).max_decoding_message_size(MOST_HEALTH_BYTES))
        .add_service(PolicySourceServiceServer::new(sources).max_decoding_message_size(MOST_BYTES))
        .add_service(ShiftSourceServiceServer::new(shift_sources).max_decoding_message_size(MOST_BYTES))
        .add_service(PolicyServiceServer::new(policies).max_decoding_message_size(MOST_CALL_BYTES))
        .add_service(ShiftServiceServer::new(shifts).max_decoding_message_size(MOST_CALL_BYTES))
        .add_service(SafetyServiceServer::new(safety).max_decoding_message_size(MOST_CALL_BYTES))
        .add_service(AuditServiceServer::new(audit).max_decoding_message_size(MOST_CALL_BYTES))
        .add_service(AccessServiceServer::new(access).max_decoding_message_size(MOST_CALL_BYTES))
        .add_service(EnrollmentServiceServer::new(enrollment).max_decoding_message_size(MOST_ENROLMENT_BYTES))
        .add_service(ClusterServiceServer::new(clusters).max_decoding_message_size(MOST_CALL_BYTES));
    Ok(Services { routes: parts.access.around(routes), tasks })
}

/// Serves the port until the token, and then until the streams under way have ended.
pub async fn serve(listener: TcpListener, guard: Guard, services: Services, shutdown: CancellationToken) {
    let Services { routes, tasks } = services;
    http2::serve(listener, guard, routes, shutdown.clone()).await;
    // Sessions and watches end by the same token; what they still store is waited for.
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
}
