//! The part of the spec that says what happens when a cluster is lost: `spec.failover`. Judged by `policy/validate/failover.rs`;
//! carried out by [`crate::failover`].

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "schema")]
use crate::policy::validate::{
    MOST_AFTER_SECONDS, MOST_DEAD_BAND_PERCENT, MOST_MOVES_PER_HOUR, MOST_OVERPROVISIONING_PERCENT,
    MOST_UNHEALTHY_AFTER_SECONDS,
};

/// What the hub does by itself when a cluster looks unhealthy. Without it no weight is ever moved for health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Failover {
    /// What a cluster can carry beside its share, in percent, 100 to 1000: with 140 it carries all of its share while 72 percent of
    /// its targets are healthy (Envoy, "Priority levels").
    #[cfg_attr(feature = "schema", schemars(range(min = 100, max = MOST_OVERPROVISIONING_PERCENT)))]
    pub overprovisioning_percent: u32,
    /// While no cluster has at least this percentage of healthy targets, 1 to 100, nothing is changed: the observer is the likely
    /// fault (Envoy, "Panic threshold").
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub panic_threshold_percent: u32,
    /// Seconds for which a cluster looks worse before its share goes down, 0 to 3600, beside the load balancer's own thresholds.
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_UNHEALTHY_AFTER_SECONDS)))]
    pub unhealthy_after_seconds: u32,
    /// Seconds for which a cluster looks better before its share comes back, 0 to 86400; doubled each time it went out within the
    /// last hour.
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_AFTER_SECONDS)))]
    pub healthy_after_seconds: u32,
    /// Whether the share comes back by itself; when left out `Auto`, and `Manual` for a policy with standby clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failback: Option<Failback>,
    /// Percent of its share that a cluster gets back in one step, 1 to 100.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub failback_step_percent: u32,
    /// Seconds from one such step to the next, 0 to 86400.
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_AFTER_SECONDS)))]
    pub failback_step_seconds: u32,
    /// Changes of a share below this, in percentage points, 0 to 50, are not worth a call; a cluster that goes out altogether, or that
    /// is whole again, is never too small a change.
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_DEAD_BAND_PERCENT)))]
    pub dead_band_percent: u32,
    /// The longest hold-down of a cluster that goes out again and again, in seconds, 0 to 86400.
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_AFTER_SECONDS)))]
    pub hold_down_max_seconds: u32,
    /// Moves that the hub makes by itself within an hour, 1 to 60. After that no cluster returns by itself; one that dies goes out
    /// all the same.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MOST_MOVES_PER_HOUR)))]
    pub max_moves_per_hour: u32,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            overprovisioning_percent: 140,
            panic_threshold_percent: 50,
            unhealthy_after_seconds: 10,
            healthy_after_seconds: 60,
            failback: None,
            failback_step_percent: 100,
            failback_step_seconds: 60,
            dead_band_percent: 5,
            hold_down_max_seconds: 3600,
            max_moves_per_hour: 6,
        }
    }
}

/// How the share of a cluster comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub enum Failback {
    /// By itself.
    Auto,
    /// When somebody says so (`yardctl failback`).
    Manual,
}
