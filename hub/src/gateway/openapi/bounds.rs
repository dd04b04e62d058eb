//! Bounds of fields that the descriptors do not hold: they stand in the comments of the .proto files, for people. Each line is one
//! field, and a test finds a field that there is not. Pure.

use serde_json::{Map, Value, json};
use switchyard_core::fleet::{MOST_DRILL_SECONDS, MOST_STEP_SECONDS};

/// The header `Idempotency-Key`: see `docs/http.md`.
pub fn request_id() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"})
}

const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const DNS_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// The bounds of a field by its full name; of a list also of its items, of a map of its values.
pub fn of(full_name: &str) -> Option<Map<String, Value>> {
    let (message, field) = full_name.strip_prefix("switchyard.api.v1.")?.split_once('.')?;
    let numbers = |least: u64, most: u64| json!({"minimum": least, "maximum": most});
    let bounds = match (message, field) {
        // Empty is as good as left out: the header may say it, and a dry run needs none.
        (_, "request_id") => json!({"maxLength": 128, "pattern": "^[!-~]*$"}),
        (_, "reason") => json!({"maxLength": 1024}),
        ("PolicyRef", "namespace") => json!({"minLength": 1, "maxLength": 63, "pattern": LABEL}),
        ("PolicyRef", "name") => json!({"minLength": 1, "maxLength": 253, "pattern": DNS_NAME}),
        ("ApplyPolicyRequest", "manifest") => json!({"minLength": 1, "maxLength": 65536}),
        ("SetWeightsRequest" | "ShiftPolicy", "weights") => numbers(0, 999),
        ("ListPoliciesRequest", "page_size") => numbers(0, 500),
        ("ListEndpointsRequest" | "ListAuditEntriesRequest", "page_size") => numbers(0, 1000),
        ("ListShiftsRequest", "page_size") => numbers(0, 200),
        ("ShiftSpec", "policies") => json!({"minItems": 1, "maxItems": 20}),
        ("ShiftSpec", "overrides") | ("RollbackShiftRequest", "overrides") => json!({"enum": OVERRIDES}),
        ("ShiftStep", "percent") | ("LinearStrategy", "step_percent") | ("ExponentialStrategy", "first_percent") => {
            numbers(1, 100)
        }
        ("CanaryStrategy", "percent") => numbers(1, 99),
        (_, "bake_seconds") => numbers(0, 604_800),
        ("Gate", "name") => json!({"minLength": 1, "maxLength": 63}),
        ("Gate", "count" | "failure_limit") => numbers(0, 1000),
        ("TargetHealthGate", "min_healthy_percent") => numbers(0, 100),
        ("PrometheusGate", "query") => json!({"minLength": 1, "maxLength": 4096}),
        ("SetGatingSwitchRequest" | "DeleteGatingSwitchRequest", "name") => {
            json!({"minLength": 1, "maxLength": 63, "pattern": LABEL})
        }
        (
            "CordonClusterRequest"
            | "DrainClusterRequest"
            | "UncordonClusterRequest"
            | "RemoveClusterRequest"
            | "DrillClusterLossRequest",
            "cluster",
        ) => json!({"minLength": 1, "maxLength": 63, "pattern": LABEL}),
        ("DrainClusterRequest", "step_percent") => numbers(0, 100),
        ("DrainClusterRequest", "step_seconds") => numbers(0, MOST_STEP_SECONDS.into()),
        // A dry run needs none.
        ("DrillClusterLossRequest", "duration_seconds") => numbers(0, MOST_DRILL_SECONDS.into()),
        ("CreateJoinTokenRequest", "cluster") | ("CreateServiceTokenRequest" | "RevokeServiceTokenRequest", "name") => {
            json!({"minLength": 1, "maxLength": 63, "pattern": LABEL})
        }
        // 0: an hour, and 90 days.
        ("CreateJoinTokenRequest", "ttl_seconds") => json!({"anyOf": [{"const": 0}, numbers(60, 86_400)]}),
        ("CreateServiceTokenRequest", "ttl_seconds") => json!({"anyOf": [{"const": 0}, numbers(300, 31_536_000)]}),
        ("CreateServiceTokenRequest", "grants") => json!({"minItems": 1, "maxItems": 20}),
        ("SetGatingSwitchRequest", "policies") => json!({"maxItems": 100}),
        _ => return None,
    };
    bounds.as_object().cloned()
}

/// The safety rules that a shift may cross.
const OVERRIDES: [&str; 6] =
    ["MaxStepPercent", "MinStepInterval", "MinActiveClusters", "MaintenanceWindow", "GatingSwitch", "Capacity"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::routes::Table;

    #[test]
    fn bounds_are_of_fields_that_there_are() {
        let table = Table::new().unwrap();
        let bounded = table.pool.all_messages().flat_map(|message| {
            let fields: Vec<String> = message.fields().map(|field| field.full_name().to_owned()).collect();
            fields.into_iter().filter(|field| of(field).is_some())
        });
        let bounded: Vec<String> = bounded.collect();
        let fields = [
            "PolicyRef.namespace",
            "PolicyRef.name",
            "ApplyPolicyRequest.manifest",
            "SetWeightsRequest.weights",
            "SetWeightsRequest.request_id",
            "SetWeightsRequest.reason",
            "ListPoliciesRequest.page_size",
            "ListEndpointsRequest.page_size",
            "ListAuditEntriesRequest.page_size",
            "ListShiftsRequest.page_size",
            "ShiftPolicy.weights",
            "ShiftSpec.policies",
            "ShiftSpec.overrides",
            "RollbackShiftRequest.overrides",
            "ShiftStep.percent",
            "ShiftStep.bake_seconds",
            "LinearStrategy.step_percent",
            "ExponentialStrategy.first_percent",
            "CanaryStrategy.percent",
            "Gate.name",
            "Gate.count",
            "Gate.failure_limit",
            "TargetHealthGate.min_healthy_percent",
            "PrometheusGate.query",
            "SetGatingSwitchRequest.name",
            "SetGatingSwitchRequest.policies",
            "DeleteGatingSwitchRequest.name",
            "CordonClusterRequest.cluster",
            "DrainClusterRequest.cluster",
            "DrainClusterRequest.step_percent",
            "DrainClusterRequest.step_seconds",
            "UncordonClusterRequest.cluster",
            "RemoveClusterRequest.cluster",
            "DrillClusterLossRequest.cluster",
            "DrillClusterLossRequest.duration_seconds",
            "CreateJoinTokenRequest.cluster",
            "CreateJoinTokenRequest.ttl_seconds",
            "CreateServiceTokenRequest.name",
            "CreateServiceTokenRequest.ttl_seconds",
            "CreateServiceTokenRequest.grants",
            "RevokeServiceTokenRequest.name",
        ];
        for field in fields {
            assert!(bounded.contains(&format!("switchyard.api.v1.{field}")), "{field} is not there, or not bounded");
        }
    }
}
