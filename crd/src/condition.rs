//! The conditions of a status, for the schema of each resource.

#![expect(dead_code, reason = "only the schema of the types is of use")]

use schemars::JsonSchema;

/// A condition as everywhere in Kubernetes.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub struct Condition {
    /// Its name.
    #[schemars(rename = "type", length(max = 316))]
    kind: String,
    /// Whether it holds.
    status: ConditionStatus,
    /// Why, in one word for programs.
    #[schemars(length(min = 1, max = 1024), pattern("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    reason: String,
    /// Why, for people.
    #[schemars(length(max = 32_768))]
    message: String,
    /// The generation that it speaks of.
    observed_generation: Option<i64>,
    /// When its status last changed.
    #[schemars(extend("format" = "date-time"))]
    last_transition_time: String,
}

#[derive(JsonSchema)]
enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell now.
    Unknown,
}
