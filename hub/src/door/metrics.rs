//! What the doors count. Registered by [`crate::metrics`] among the hub's other metrics; labels are words of the code.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// A port of the hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Port {
    /// `grpc`, `gateway` or `http`.
    pub port: &'static str,
}

/// A port, and why somebody was turned away there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    /// `grpc`, `gateway` or `http`.
    pub port: &'static str,
    /// `all`: no room for another connection; `source`: none for one from this address; `streams`: none for another stream from this
    /// address; `handshake`: the handshake failed; `slow`: it took too long; `accept`: it could not be accepted; `silent`: it asked nothing
    /// and made room for another one; `unread`: nobody took the answers on it; `authority`: what its certificate came from is not trusted any
    /// more.
    pub reason: &'static str,
}

/// How reading the certificates anew ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reload {
    /// `done`, or `kept`: the new files cannot be used, and those from before are.
    pub outcome: &'static str,
}

/// The metrics of the doors. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct DoorMetrics {
    /// Open connections.
    pub connections: Family<Port, Gauge>,
    /// Connections and streams that were turned away.
    pub refused: Family<Refused, Counter>,
    /// Connections that were closed since nothing happened on them.
    pub idle: Family<Port, Counter>,
    /// Readings of changed certificates.
    pub reloads: Family<Reload, Counter>,
    /// When the certificate that is served ends, in seconds since 1970; 0 without TLS.
    pub certificate_ends: Gauge,
}

impl DoorMetrics {
    /// Adds all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("door_connections", "Open connections", self.connections.clone());
        registry.register("door_refused", "Connections and streams turned away", self.refused.clone());
        registry.register("door_idle_closed", "Connections closed for idleness", self.idle.clone());
        registry.register("certificate_reloads", "Readings of changed certificate files", self.reloads.clone());
        registry.register("certificate_ends", "End of the served certificate, seconds", self.certificate_ends.clone());
    }

    pub(super) fn refuse(&self, port: &'static str, reason: &'static str) {
        self.refused.get_or_create(&Refused { port, reason }).inc();
    }
}
