//! The part of the spec that limits what the hub does by itself and how weights may be moved: `spec.safety` and `spec.capacity`.
//! Judged by `policy/validate/safety.rs`; what a maintenance window means on the clock is in [`crate::policy::windows`].

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "schema")]
use crate::policy::{
    validate::{
        MOST_CLUSTERS, MOST_PEAK_REQUESTS_PER_SECOND, MOST_REQUESTS_PER_SECOND_PER_TARGET, MOST_STEP_INTERVAL_SECONDS,
        MOST_WINDOWS,
    },
    windows::MOST_ZONE_CHARACTERS,
};

/// Limits on what the hub may do by itself, and on how weights may be moved by shifts and by calls. Weights in `spec.clusters`
/// are not moved but stated: a new spec is not held back by these rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Safety {
    /// Percent of a weight-carrying group's targets that may be removed on weak evidence, 0 to 100.
    #[cfg_attr(feature = "schema", schemars(range(max = 100)))]
    pub deregistration_budget_percent: u32,
    /// True: the hub writes nothing at AWS for this policy.
    pub freeze: bool,
    /// Clusters that keep a weight above 0 whatever is moved, 1 to 5 and at most as many as have a weight in `spec.clusters`.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MOST_CLUSTERS)))]
    pub min_active_clusters: u32,
    /// Percentage points by which the share of a cluster may change in one step, 1 to 100.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub max_step_percent: u32,
    /// Seconds that weights are in force before they are moved again, 0 to 86400.
    #[cfg_attr(feature = "schema", schemars(range(max = MOST_STEP_INTERVAL_SECONDS)))]
    pub min_step_interval_seconds: u32,
    /// Weights move only while one of these, at most 20, is open; without any they always may.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MOST_WINDOWS)))]
    pub maintenance_windows: Vec<MaintenanceWindow>,
}

impl Default for Safety {
    /// The limits on moves are those that allow everything.
    fn default() -> Self {
        Self {
            deregistration_budget_percent: 50,
            freeze: false,
            min_active_clusters: 1,
            max_step_percent: 100,
            min_step_interval_seconds: 0,
            maintenance_windows: Vec::new(),
        }
    }
}

/// A time of the week, as clocks in `timeZone` show it. An hour that they show twice counts twice, one that they skip not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MaintenanceWindow {
    /// Days on which it opens, each once; every day when left out.
    #[serde(default = "every_day")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 7)))]
    pub days: Vec<Weekday>,
    /// When it opens, 00:00 to 23:59.
    #[cfg_attr(feature = "schema", schemars(length(min = 5, max = 5)))]
    pub from: String,
    /// When it closes, 00:00 to 24:00; earlier than `from`: on the next day.
    #[cfg_attr(feature = "schema", schemars(length(min = 5, max = 5)))]
    pub to: String,
    /// A name of the IANA time zone database, such as Europe/Berlin.
    #[serde(default = "utc")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MOST_ZONE_CHARACTERS)))]
    pub time_zone: String,
}

fn every_day() -> Vec<Weekday> {
    Weekday::ALL.to_vec()
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub enum Weekday {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Weekday {
    /// All of them, Monday first.
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];
}

/// What the backend can carry and has to carry: no shift gives a cluster more requests than its healthy targets can answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capacity {
    /// Requests per second that all clusters together get at the busiest time, 1 to 10000000.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MOST_PEAK_REQUESTS_PER_SECOND)))]
    pub peak_requests_per_second: u32,
    /// Requests per second that one target can answer, 1 to 100000.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MOST_REQUESTS_PER_SECOND_PER_TARGET)))]
    pub requests_per_second_per_target: u32,
}
