//! All metrics of the hub in one place, so that names and labels stay bounded: a label is an operation, an outcome or a bucket,
//! never the name of a user's object. Touches no network; [`crate::http`] serves what is encoded here.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::door::metrics::DoorMetrics;

/// An operation and how it ended; both are words of the code, never of a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// Such as `ModifyRule`, `PolicyApply`, `ApplyPolicy`.
    pub operation: &'static str,
    /// Such as `done`, `throttled`, `unknown`; for gRPC the code's name.
    pub outcome: &'static str,
}

/// A request of the JSON gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GatewayRequest {
    /// Such as `GET`; `other` for what no path takes.
    pub method: &'static str,
    /// The template of the path; `none` when there is no such path.
    pub route: &'static str,
    /// The status of the answer.
    pub status: u32,
}

/// A request budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Bucket {
    /// `describe`, `modify` or `register`.
    pub bucket: &'static str,
}

/// A kind of message on the agents' stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MessageKind {
    /// Such as `changes` or `snapshot_end`.
    pub kind: &'static str,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndReason {
    /// Such as `agent_closed`, `taken_over`, `silent`.
    pub reason: &'static str,
}

/// A state of shifts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ShiftState {
    /// Such as `baking` or `awaiting_approval`.
    pub state: &'static str,
}

/// A measurement for a shift.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Measurement {
    /// `prometheus`, `cloudwatch`, `webhook`, or `evidence` for the request counts of clusters that were left.
    pub kind: &'static str,
    /// `value`, `pass`, `fail`, `wait` or `no_data`.
    pub outcome: &'static str,
}

/// What operators want of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClusterMode {
    /// `active`, `cordoned`, `draining`, `drained`, `returning` or `removed`.
    pub mode: &'static str,
}

/// How the weights of a policy stand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PolicyStanding {
    /// `off`, `as_requested`, `failed_over` or `panic`.
    pub standing: &'static str,
}

/// Where a move of failover goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Direction {
    /// `out`: further from what is asked for; `back`: nearer.
    pub direction: &'static str,
}

/// What became of a call at the door, and how its caller proved who he is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Decision {
    /// `allowed`, `unauthenticated`, `denied`, `rate_limited`, `no_room`, `unknown_call` or `unavailable`.
    pub outcome: &'static str,
    /// `certificate`, `jwt`, `token` or `none`.
    pub method: &'static str,
}

/// A read of an issuer's keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Fetch {
    /// `done`, `failed`, or `empty`: a key set without a key that can be used.
    pub outcome: &'static str,
}

/// A gauge of seconds or other fractions.
pub type FloatGauge = Gauge<f64, AtomicU64>;

/// 1 ms to about 33 s, doubling: a query takes milliseconds, a plan of 100,000 endpoints must stay below a quarter of a second,
/// and a call at AWS ends by its time limit of 5 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

/// The hub's metrics. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Calls at AWS by operation and outcome.
    pub aws_calls: Family<Outcome, Counter>,
    /// Seconds of calls at AWS by operation and outcome.
    pub aws_seconds: Family<Outcome, Histogram, fn() -> Histogram>,
    /// Answers of AWS that said "slower", by bucket.
    pub aws_throttles: Family<Bucket, Counter>,
    /// Seconds to make one plan.
    pub plan_seconds: Histogram,
    /// Plans that were thrown away since they broke an invariant; a defect when not 0.
    pub plans_refused: Counter,
    /// Steps carried out, by ELBv2 operation and outcome.
    pub steps: Family<Outcome, Counter>,
    /// Targets that a safety rule keeps registered now.
    pub held_removals: Gauge,
    /// Shifts under way, by state; set by the holder of the lease.
    pub shifts: Family<ShiftState, Gauge>,
    /// States that shifts entered, as the holder of the lease saw them.
    pub shift_transitions: Family<ShiftState, Counter>,
    /// Measurements for shifts, by kind and outcome.
    pub shift_measurements: Family<Measurement, Counter>,
    /// Clusters by what operators want of them; set by the holder of the lease.
    pub clusters: Family<ClusterMode, Gauge>,
    /// Policies by how their weights stand; set by the holder of the lease.
    pub failover_policies: Family<PolicyStanding, Gauge>,
    /// Moves of weights that nobody asked for by name: for health, or for a drain, a game day and the way back.
    pub failover_moves: Family<Direction, Counter>,
    /// Policies in the last picture.
    pub policies: Gauge,
    /// Agents' streams open at this replica.
    pub sessions: Gauge,
    /// Messages from agents, by kind.
    pub agent_messages: Family<MessageKind, Counter>,
    /// Sessions that ended, by reason.
    pub sessions_ended: Family<EndReason, Counter>,
    /// Endpoints in the last picture, those that are gone not counted.
    pub endpoints: Gauge,
    /// Queries by name and outcome.
    pub store_queries: Family<Outcome, Counter>,
    /// Seconds of queries by name and outcome.
    pub store_seconds: Family<Outcome, Histogram, fn() -> Histogram>,
    /// gRPC calls by method and code.
    pub grpc_calls: Family<Outcome, Counter>,
    /// Requests of the JSON gateway by method, template of the path, and status.
    pub gateway_requests: Family<GatewayRequest, Counter>,
    /// 1 while this replica holds the lease.
    pub lease_held: Gauge,
    /// The epoch last seen.
    pub epoch: Gauge,
    /// Seconds since the picture of the store was refreshed; set when metrics are read.
    pub picture_age_seconds: FloatGauge,
    /// Seconds since AWS was last read; set by the engine.
    pub observed_age_seconds: FloatGauge,
    /// Refreshes of the picture, by outcome.
    pub picture_refreshes: Family<Outcome, Counter>,
    /// Calls at the door, by what became of them and how the caller proved who he is.
    pub access_decisions: Family<Decision, Counter>,
    /// Calls that were too many, by `reads`, `changes`, `failures`, `enrolments` or `streams`.
    pub access_rate_limited: Family<Bucket, Counter>,
    /// Reads of issuers' keys, by outcome.
    pub access_key_fetches: Family<Fetch, Counter>,
    /// 1 while the access file that is there is the one in force; 0 when the one that is there was refused. 1 without one.
    pub access_file_ok: Gauge,
    /// Streams of agents and callers that are open.
    pub access_streams: Gauge,
    /// Streams that were ended from here, by reason.
    pub access_streams_ended: Family<EndReason, Counter>,
    /// Seconds since it was last known that the book of tokens and revocations is up to date.
    pub access_book_age_seconds: FloatGauge,
    /// When the authority ends that issues agents' certificates, seconds since 1970; 0: there is none.
    pub authority_ends: Gauge,
    /// 1 while this replica has the key of the authority that issues agents' certificates.
    pub authority_can_issue: Gauge,
    /// How often a sealing key was read that is another than the one before.
    pub authority_sealing_key_reads: Counter,
    /// Of the last certificate of each cluster's agent the first end, seconds since 1970; 0: there are none.
    pub agent_certificates_end_first: Gauge,
    /// Of the ports: connections, and who was turned away.
    pub door: DoorMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A new set, all registered under the prefix `switchyard_hub`.
    pub fn new() -> Self {
        let by_outcome: fn() -> Histogram = seconds;
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("switchyard_hub"))),
            aws_calls: Family::default(),
            aws_seconds: Family::new_with_constructor(by_outcome),
            aws_throttles: Family::default(),
            plan_seconds: seconds(),
            plans_refused: Counter::default(),
            steps: Family::default(),
            held_removals: Gauge::default(),
            shifts: Family::default(),
            shift_transitions: Family::default(),
            shift_measurements: Family::default(),
            clusters: Family::default(),
            failover_policies: Family::default(),
            failover_moves: Family::default(),
            policies: Gauge::default(),
            sessions: Gauge::default(),
            agent_messages: Family::default(),
            sessions_ended: Family::default(),
            endpoints: Gauge::default(),
            store_queries: Family::default(),
            store_seconds: Family::new_with_constructor(by_outcome),
            grpc_calls: Family::default(),
            gateway_requests: Family::default(),
            lease_held: Gauge::default(),
            epoch: Gauge::default(),
            picture_age_seconds: FloatGauge::default(),
            observed_age_seconds: FloatGauge::default(),
            picture_refreshes: Family::default(),
            access_decisions: Family::default(),
            access_rate_limited: Family::default(),
            access_key_fetches: Family::default(),
            access_file_ok: Gauge::default(),
            access_streams: Gauge::default(),
            access_streams_ended: Family::default(),
            access_book_age_seconds: FloatGauge::default(),
            authority_ends: Gauge::default(),
            authority_can_issue: Gauge::default(),
            authority_sealing_key_reads: Counter::default(),
            agent_certificates_end_first: Gauge::default(),
            door: DoorMetrics::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let r = &mut *registry;
        r.register("aws_calls", "Calls at AWS", self.aws_calls.clone());
        r.register("aws_call_seconds", "Seconds of calls at AWS", self.aws_seconds.clone());
        r.register("aws_throttles", "Throttled calls at AWS", self.aws_throttles.clone());
        r.register("plan_seconds", "Seconds to make one plan", self.plan_seconds.clone());
        r.register("plans_refused", "Plans that broke an invariant", self.plans_refused.clone());
        r.register("steps", "Steps carried out", self.steps.clone());
        r.register("held_removals", "Targets kept by a safety rule", self.held_removals.clone());
        r.register("shifts", "Shifts under way", self.shifts.clone());
        r.register("shift_transitions", "States that shifts entered", self.shift_transitions.clone());
        r.register("shift_measurements", "Measurements for shifts", self.shift_measurements.clone());
        r.register("clusters", "Clusters by what operators want of them", self.clusters.clone());
        r.register("failover_policies", "Policies by how their weights stand", self.failover_policies.clone());
        r.register("failover_moves", "Moves of weights by failover", self.failover_moves.clone());
        r.register("policies", "Policies", self.policies.clone());
        r.register("sessions", "Open agent sessions", self.sessions.clone());
        r.register("agent_messages", "Messages from agents", self.agent_messages.clone());
        r.register("sessions_ended", "Agent sessions that ended", self.sessions_ended.clone());
        r.register("endpoints", "Endpoints that are present", self.endpoints.clone());
        r.register("store_queries", "Queries at the store", self.store_queries.clone());
        r.register("store_query_seconds", "Seconds of queries", self.store_seconds.clone());
        r.register("grpc_calls", "gRPC calls", self.grpc_calls.clone());
        r.register("gateway_requests", "Requests of the JSON gateway", self.gateway_requests.clone());
        r.register("lease_held", "1 while this replica holds the lease", self.lease_held.clone());
        r.register("epoch", "The epoch last seen", self.epoch.clone());
        r.register("picture_age_seconds", "Seconds since the store was read", self.picture_age_seconds.clone());
        r.register("observed_age_seconds", "Seconds since AWS was read", self.observed_age_seconds.clone());
        r.register("picture_refreshes", "Refreshes of the picture of the store", self.picture_refreshes.clone());
        self.register_access(r);
        self.register_authority(r);
        self.door.register(r);
    }

    fn register_access(&self, r: &mut Registry) {
        r.register("access_decisions", "Calls at the door by what became of them", self.access_decisions.clone());
        r.register("access_rate_limited", "Calls that were too many", self.access_rate_limited.clone());
        r.register("access_key_fetches", "Reads of the keys of token issuers", self.access_key_fetches.clone());
        r.register("access_file_ok", "1 while the access file that is there is in force", self.access_file_ok.clone());
        r.register("access_streams", "Open streams of agents and callers", self.access_streams.clone());
        r.register(
            "access_streams_ended",
            "Streams whose proof did not hold any more",
            self.access_streams_ended.clone(),
        );
        let age = self.access_book_age_seconds.clone();
        r.register("access_book_age_seconds", "Seconds since tokens and revocations were known to be up to date", age);
    }

    fn register_authority(&self, r: &mut Registry) {
        r.register("authority_ends", "When the authority of agents' certificates ends", self.authority_ends.clone());
        let can_issue = self.authority_can_issue.clone();
        r.register("authority_can_issue", "1 while this replica has the key of the authority that issues", can_issue);
        let reads = self.authority_sealing_key_reads.clone();
        r.register("authority_sealing_key_reads", "Sealing keys that were read", reads);
        let first = self.agent_certificates_end_first.clone();
        r.register("agent_certificates_end_first", "When the first agent will have no certificate", first);
    }

    /// Counts one event.
    pub fn count(family: &Family<Outcome, Counter>, operation: &'static str, outcome: &'static str) {
        family.get_or_create(&Outcome { operation, outcome }).inc();
    }

    /// The text that Prometheus reads (OpenMetrics).
    ///
    /// # Errors
    /// Never in practice: writing into a `String` does not fail.
    pub fn encoded(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_carries_the_prefix_and_counts_show() {
        let metrics = Metrics::new();
        Metrics::count(&metrics.aws_calls, "ModifyRule", "done");
        metrics.sessions.set(3);
        let text = metrics.encoded().unwrap();
        assert!(text.contains(r#"switchyard_hub_aws_calls_total{operation="ModifyRule",outcome="done"} 1"#), "{text}");
        assert!(text.contains("switchyard_hub_sessions 3"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("switchyard_hub_"), "{line}");
        }
    }
}
