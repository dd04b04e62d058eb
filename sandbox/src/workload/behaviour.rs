//! How a pod of the sandbox behaves: what it is told by annotations when it is created, and the modes it can be put into
//! while it runs. Pure data.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::kube::object::Object;

/// Text the pod answers as its version.
pub const VERSION: &str = "sandbox.switchyard.dev/version";
/// Milliseconds from start until the pod is ready.
pub const READY_AFTER: &str = "sandbox.switchyard.dev/ready-after-ms";
/// Milliseconds the pod goes on serving after it was asked to terminate, as a preStop sleep does.
pub const TERMINATION_GRACE: &str = "sandbox.switchyard.dev/termination-grace-ms";
/// Milliseconds each answer takes.
pub const LATENCY: &str = "sandbox.switchyard.dev/latency-ms";
/// Milliseconds a pod must be ready to count as available; on the Deployment.
pub const MIN_READY: &str = "sandbox.switchyard.dev/min-ready-ms";
/// Label that ties a workload's pods to it, whatever other labels they have and whoever controls them.
pub const WORKLOAD: &str = "sandbox.switchyard.dev/workload";
/// What the VPC resource controller writes on pods with an ENI of their own.
pub const POD_ENI: &str = "vpc.amazonaws.com/pod-eni";

/// What a pod does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    pub version: String,
    pub ready_after: Duration,
    pub termination_grace: Duration,
    pub latency: Duration,
}

fn millis(object: &Object, key: &str) -> Duration {
    // A pod with an annotation nobody can read starts like one without it.
    Duration::from_millis(object.annotation(key).and_then(|v| v.parse().ok()).unwrap_or_default())
}

impl Behaviour {
    pub fn of(pod: &Object) -> Self {
        Self {
            version: pod.annotation(VERSION).unwrap_or("v1").to_owned(),
            ready_after: millis(pod, READY_AFTER),
            termination_grace: millis(pod, TERMINATION_GRACE),
            latency: millis(pod, LATENCY),
        }
    }

    /// `min-ready-ms` of a Deployment, or its `minReadySeconds`.
    pub fn min_ready(deployment: &Object) -> Duration {
        let seconds = deployment.value().pointer("/spec/minReadySeconds").and_then(Value::as_u64).unwrap_or_default();
        millis(deployment, MIN_READY).max(Duration::from_secs(seconds))
    }
}

/// What is wrong with a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Normal,
    /// Not ready, and `/healthz` says so; requests are still answered.
    Unready,
    /// Requests get 500 and `/healthz` 503; not ready.
    Failing,
    /// Requests get 500 while `/healthz` and readiness see nothing.
    Erroring,
    /// Connections are accepted and never answered; not ready.
    Hung,
    /// Connections are refused; the object stays, its container is not ready.
    Crashed,
    /// Every answer takes this much longer (see [`ModeRequest::latency_ms`]); still ready.
    Slow,
}

impl Mode {
    /// Whether the readiness probe of a started pod passes.
    pub fn ready(self) -> bool {
        matches!(self, Mode::Normal | Mode::Erroring | Mode::Slow)
    }
}

/// A mode as the control API takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeRequest {
    pub mode: Mode,
    /// Only for `slow`: milliseconds added to each answer, 1000 if left out.
    #[serde(default)]
    pub latency_ms: Option<u64>,
}

impl ModeRequest {
    /// What each answer takes longer.
    pub fn extra_latency(&self) -> Duration {
        match self.mode {
            Mode::Slow => Duration::from_millis(self.latency_ms.unwrap_or(1_000)),
            _ => Duration::ZERO,
        }
    }
}

impl Default for ModeRequest {
    fn default() -> Self {
        Self { mode: Mode::Normal, latency_ms: None }
    }
}

/// The pod-eni annotation for an address: a JSON array with one interface, ids made from the address.
pub fn pod_eni(ip: std::net::Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    json!([{"eniId": format!("eni-0{:016x}", u32::from(ip)), "ifAddress": format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
        "privateIp": ip.to_string(), "vlanId": u16::from(d) + 1, "subnetCidr": format!("{a}.{b}.{c}.0/24")}])
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_that_cannot_be_read_count_as_absent() {
        let pod =
            Object::new(json!({"metadata": {"annotations": {VERSION: "v7", READY_AFTER: "soon", LATENCY: "20"}}}));
        let behaviour = Behaviour::of(&pod);
        assert_eq!(behaviour.version, "v7");
        assert_eq!(behaviour.ready_after, Duration::ZERO);
        assert_eq!(behaviour.latency, Duration::from_millis(20));
    }

    #[test]
    fn the_eni_annotation_is_a_json_array_as_aws_writes_it() {
        let value: Value = serde_json::from_str(&pod_eni("127.20.1.9".parse().unwrap())).unwrap();
        assert_eq!(value[0]["privateIp"], "127.20.1.9");
        assert_eq!(value[0]["subnetCidr"], "127.20.1.0/24");
        assert_eq!(value[0]["eniId"].as_str().unwrap().len(), "eni-".len() + 17);
    }
}
