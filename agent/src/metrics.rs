//! The agent's Prometheus metrics. Labels are bounded: kinds, stages, reasons, never the name of an object.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::index::objects::SourceKind;

/// Handles to all metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    services: Gauge,
    endpoints: Gauge,
    stage: Family<StageLabel, Gauge>,
    epoch: Gauge<u64, AtomicU64>,
    connection_attempts: Counter,
    sent: Family<MessageLabel, Counter>,
    received: Family<MessageLabel, Counter>,
    unacknowledged: Gauge,
    watch_errors: Family<WatchErrorLabels, Counter>,
    gates_waiting: Gauge,
    health_stream: Gauge,
    gates_opened: Family<ReasonLabel, Counter>,
    gate_writes: Family<OutcomeLabel, Counter>,
    webhook_reviews: Family<OutcomeLabel, Counter>,
    identity_not_after: Gauge,
    identity_issued: Family<OutcomeLabel, Counter>,
    another_agent: Family<StreamLabel, Counter>,
    policies: Streamed,
    shifts: Streamed,
}

/// What is counted of one kind of resource of this cluster that the hub is told of.
#[derive(Debug, Clone, Default)]
pub struct Streamed {
    shown: Gauge,
    stage: Family<StageLabel, Gauge>,
    connection_attempts: Counter,
    sent: Family<MessageLabel, Counter>,
    received: Family<MessageLabel, Counter>,
    status_writes: Family<OutcomeLabel, Counter>,
    events: Family<OutcomeLabel, Counter>,
}

/// Why a watch failed, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatchErrorReason {
    /// HTTP 401.
    Unauthorized,
    /// HTTP 403.
    Forbidden,
    /// HTTP 404: the API server does not serve this kind.
    NotFound,
    /// HTTP 410: the watch must begin anew with a list. Normal now and then.
    Expired,
    /// HTTP 429.
    TooManyRequests,
    /// HTTP 5xx.
    Server,
    /// No answer: refused, timed out, broken off.
    Connection,
    /// An answer that is not what the Kubernetes API promises.
    Unreadable,
    /// Any other status.
    Other,
}

impl WatchErrorReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Expired => "expired",
            Self::TooManyRequests => "too_many_requests",
            Self::Server => "server",
            Self::Connection => "connection",
            Self::Unreadable => "unreadable",
            Self::Other => "other",
        }
    }
}

/// The stages of the stream, as labels.
pub const STAGES: [&str; 4] = ["offline", "hello", "syncing", "live"];
/// The stages of the streams of policies and of shifts, as labels.
pub const RESOURCE_STAGES: [&str; 5] = ["offline", "hello", "not_source", "listing", "live"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabel {
    message: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchErrorLabels {
    kind: Label,
    reason: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabel {
    stream: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Label,
}

/// A label's value, one of a set that is fixed at compile time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Label(&'static str);

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, registered.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("switchyard_agent");
        let metrics = Self {
            registry: Arc::default(),
            services: Gauge::default(),
            endpoints: Gauge::default(),
            stage: Family::default(),
            epoch: Gauge::default(),
            connection_attempts: Counter::default(),
            sent: Family::default(),
            received: Family::default(),
            unacknowledged: Gauge::default(),
            watch_errors: Family::default(),
            policies: Streamed::default(),
            shifts: Streamed::default(),
            gates_waiting: Gauge::default(),
            health_stream: Gauge::default(),
            gates_opened: Family::default(),
            gate_writes: Family::default(),
            webhook_reviews: Family::default(),
            identity_not_after: Gauge::default(),
            identity_issued: Family::default(),
            another_agent: Family::default(),
        };
        registry.register("services", "Service ports that the hub asked to watch", metrics.services.clone());
        registry.register("endpoints", "Endpoints behind the watched Service ports", metrics.endpoints.clone());
        registry.register("stage", "1 for the stage that the stream to the hub is in", metrics.stage.clone());
        registry.register("hub_epoch", "The highest epoch of the hub that was seen", metrics.epoch.clone());
        registry.register("connection_attempts", "Attempts to reach the hub", metrics.connection_attempts.clone());
        registry.register("messages_sent", "Messages sent to the hub", metrics.sent.clone());
        registry.register("messages_received", "Messages received from the hub", metrics.received.clone());
        registry.register(
            "unacknowledged_messages",
            "Messages the hub has not acknowledged",
            metrics.unacknowledged.clone(),
        );
        registry.register("watch_errors", "Failed attempts to list or watch", metrics.watch_errors.clone());
        metrics.register_gates(&mut registry);
        metrics.register_identity(&mut registry);
        metrics.policies.register_policies(&mut registry);
        metrics.shifts.register_shifts(&mut registry);
        Self { registry: Arc::new(registry), ..metrics }
    }

    fn register_gates(&self, registry: &mut Registry) {
        registry.register("gates_waiting", "Readiness gates that are not open", self.gates_waiting.clone());
        let help = "1 while the hub tells of target health";
        registry.register("target_health_stream", help, self.health_stream.clone());
        registry.register("gates_opened", "Readiness gates opened, by reason", self.gates_opened.clone());
        registry.register("gate_writes", "Conditions of readiness gates written, by outcome", self.gate_writes.clone());
        let help = "Pods that the webhook was asked about, by outcome";
        registry.register("webhook_reviews", help, self.webhook_reviews.clone());
    }

    fn register_identity(&self, registry: &mut Registry) {
        let help = "When the certificate of this agent ends, in seconds since 1970; 0 without one";
        registry.register("certificate_not_after_timestamp_seconds", help, self.identity_not_after.clone());
        let help = "Certificates that the hub was asked for, by outcome";
        registry.register("certificate_requests", help, self.identity_issued.clone());
        let help = "Times that the hub refused a stream because another agent speaks for the cluster";
        registry.register("another_agent", help, self.another_agent.clone());
    }

    /// The certificate that new connections are made with ends then.
    pub fn identity_not_after(&self, at: jiff::Timestamp) {
        self.identity_not_after.set(at.as_second());
    }

    /// The hub was asked for a certificate; `outcome` is a fixed word.
    pub fn identity_issued(&self, outcome: &'static str) {
        self.identity_issued.get_or_create(&OutcomeLabel { outcome: Label(outcome) }).inc();
    }

    /// The hub refused this stream because another agent speaks for the cluster.
    pub fn another_agent(&self, stream: &'static str) {
        self.another_agent.get_or_create(&StreamLabel { stream: Label(stream) }).inc();
    }

    /// How many readiness gates wait, and whether the hub tells of target health.
    pub fn gates(&self, waiting: usize, synced: bool) {
        self.gates_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.health_stream.set(i64::from(synced));
    }

    /// A gate is being opened; `reason` is a fixed word.
    pub fn gate_opened(&self, reason: &'static str) {
        self.gates_opened.get_or_create(&ReasonLabel { reason: Label(reason) }).inc();
    }

    /// A condition was written, or not; `outcome` is a fixed word.
    pub fn gate_written(&self, outcome: &'static str) {
        self.gate_writes.get_or_create(&OutcomeLabel { outcome: Label(outcome) }).inc();
    }

    /// The webhook answered; `outcome` is a fixed word.
    pub fn webhook_review(&self, outcome: &'static str) {
        self.webhook_reviews.get_or_create(&OutcomeLabel { outcome: Label(outcome) }).inc();
    }

    /// What is known now.
    pub fn inventory(&self, services: usize, endpoints: usize) {
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        self.endpoints.set(i64::try_from(endpoints).unwrap_or(i64::MAX));
    }

    /// How the stream stands; `stage` is one of [`STAGES`].
    pub fn stream(&self, stage: &'static str, epoch: u64, unacknowledged: usize) {
        for known in STAGES {
            self.stage.get_or_create(&StageLabel { stage: Label(known) }).set(i64::from(known == stage));
        }
        self.epoch.set(epoch);
        self.unacknowledged.set(i64::try_from(unacknowledged).unwrap_or(i64::MAX));
    }

    /// The hub is being dialled.
    pub fn connection_attempt(&self) {
        self.connection_attempts.inc();
    }

    /// A message went out.
    pub fn sent(&self, message: &'static str) {
        self.sent.get_or_create(&MessageLabel { message: Label(message) }).inc();
    }

    /// A message came in.
    pub fn received(&self, message: &'static str) {
        self.received.get_or_create(&MessageLabel { message: Label(message) }).inc();
    }

    /// An attempt to list or watch failed.
    pub fn watch_error(&self, kind: SourceKind, reason: WatchErrorReason) {
        let labels = WatchErrorLabels { kind: Label(kind.as_str()), reason: Label(reason.as_str()) };
        self.watch_errors.get_or_create(&labels).inc();
    }

    /// An attempt to list or watch resources of a kind, or to look at its definition, failed.
    pub fn policy_watch_error(&self, kind: &'static str, reason: WatchErrorReason) {
        let labels = WatchErrorLabels { kind: Label(kind), reason: Label(reason.as_str()) };
        self.watch_errors.get_or_create(&labels).inc();
    }

    /// The stream of policies, and what is written about them.
    #[must_use]
    pub fn of_policies(&self) -> &Streamed {
        &self.policies
    }

    /// The stream of shifts, and what is written about them.
    #[must_use]
    pub fn of_shifts(&self) -> &Streamed {
        &self.shifts
    }

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail; should it ever, an empty page says so more plainly than half a page.
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

impl Streamed {
    /// How the stream stands; `stage` is one of [`RESOURCE_STAGES`].
    pub fn stream(&self, stage: &'static str, shown: usize) {
        for known in RESOURCE_STAGES {
            self.stage.get_or_create(&StageLabel { stage: Label(known) }).set(i64::from(known == stage));
        }
        self.shown.set(i64::try_from(shown).unwrap_or(i64::MAX));
    }

    /// The hub is being dialled.
    pub fn connection_attempt(&self) {
        self.connection_attempts.inc();
    }

    /// A message went out.
    pub fn message_sent(&self, message: &'static str) {
        self.sent.get_or_create(&MessageLabel { message: Label(message) }).inc();
    }

    /// A message came in.
    pub fn message_received(&self, message: &'static str) {
        self.received.get_or_create(&MessageLabel { message: Label(message) }).inc();
    }

    /// An attempt to write a status ended.
    pub fn status_write(&self, outcome: &'static str) {
        self.status_writes.get_or_create(&OutcomeLabel { outcome: Label(outcome) }).inc();
    }

    /// An Event was written, failed, or was dropped.
    pub fn event(&self, outcome: &'static str) {
        self.events.get_or_create(&OutcomeLabel { outcome: Label(outcome) }).inc();
    }

    fn register_policies(&self, registry: &mut Registry) {
        registry.register("policies", "ClusterTrafficPolicy resources that the cluster shows", self.shown.clone());
        registry.register("policy_stage", "1 for the stage that the stream of policies is in", self.stage.clone());
        let help = "Attempts to reach the hub for policies";
        registry.register("policy_connection_attempts", help, self.connection_attempts.clone());
        registry.register("policy_messages_sent", "Messages about policies sent to the hub", self.sent.clone());
        let help = "Messages about policies received from the hub";
        registry.register("policy_messages_received", help, self.received.clone());
        let help = "Attempts to write the status of a policy";
        registry.register("policy_status_writes", help, self.status_writes.clone());
        registry.register("policy_events", "Events about policies", self.events.clone());
    }

    fn register_shifts(&self, registry: &mut Registry) {
        let help = "TrafficShift resources that the cluster shows and that have not ended";
        registry.register("shifts", help, self.shown.clone());
        registry.register("shift_stage", "1 for the stage that the stream of shifts is in", self.stage.clone());
        let help = "Attempts to reach the hub for shifts";
        registry.register("shift_connection_attempts", help, self.connection_attempts.clone());
        registry.register("shift_messages_sent", "Messages about shifts sent to the hub", self.sent.clone());
        let help = "Messages about shifts received from the hub";
        registry.register("shift_messages_received", help, self.received.clone());
        let help = "Attempts to write the status of a shift";
        registry.register("shift_status_writes", help, self.status_writes.clone());
        registry.register("shift_events", "Events about shifts", self.events.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_was_counted() {
        let metrics = Metrics::new();
        metrics.inventory(2, 7);
        metrics.stream("live", 3, 1);
        metrics.sent("changes");
        metrics.watch_error(SourceKind::Pod, WatchErrorReason::Forbidden);
        metrics.policy_watch_error("ClusterTrafficPolicy", WatchErrorReason::NotFound);
        metrics.of_policies().stream("not_source", 5);
        metrics.of_policies().status_write("written");
        metrics.of_policies().event("dropped");
        metrics.identity_not_after(jiff::Timestamp::from_second(1_795_000_000).expect("a moment"));
        metrics.identity_issued("renewed");
        metrics.another_agent("endpoints");
        let page = metrics.encode();
        for line in [
            "switchyard_agent_certificate_not_after_timestamp_seconds 1795000000",
            "switchyard_agent_certificate_requests_total{outcome=\"renewed\"} 1",
            "switchyard_agent_another_agent_total{stream=\"endpoints\"} 1",
            "switchyard_agent_watch_errors_total{kind=\"ClusterTrafficPolicy\",reason=\"not_found\"} 1",
            "switchyard_agent_policies 5",
            "switchyard_agent_policy_stage{stage=\"not_source\"} 1",
            "switchyard_agent_policy_status_writes_total{outcome=\"written\"} 1",
            "switchyard_agent_policy_events_total{outcome=\"dropped\"} 1",
            "switchyard_agent_endpoints 7",
            "switchyard_agent_stage{stage=\"live\"} 1",
            "switchyard_agent_stage{stage=\"offline\"} 0",
            "switchyard_agent_hub_epoch 3",
            "switchyard_agent_messages_sent_total{message=\"changes\"} 1",
            "switchyard_agent_watch_errors_total{kind=\"Pod\",reason=\"forbidden\"} 1",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line} is not in\n{page}");
        }
    }
}
