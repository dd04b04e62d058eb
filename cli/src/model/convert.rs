//! From protobuf to the model. Total: an enum word or a time that this version does not know becomes "unspecified" or
//! nothing, never an error, since a hub may be newer than the command line.

use jiff::Timestamp;
use switchyard_proto::api::v1 as pb;

use super::*;

impl From<pb::PolicyRef> for PolicyRef {
    fn from(from: pb::PolicyRef) -> Self {
        Self { namespace: from.namespace, name: from.name }
    }
}

impl From<&PolicyRef> for pb::PolicyRef {
    fn from(from: &PolicyRef) -> Self {
        Self { namespace: from.namespace.clone(), name: from.name.clone() }
    }
}

/// A time outside jiff's range (years -9999 to 9999) is no time that anybody meant.
pub(super) fn time(from: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    from.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok())
}

pub(super) fn each<A, B: From<A>>(from: Vec<A>) -> Vec<B> {
    from.into_iter().map(B::from).collect()
}

impl From<pb::Policy> for Policy {
    fn from(from: pb::Policy) -> Self {
        // A hub that sent text which is not JSON is shown as it is, not hidden.
        let spec = serde_json::from_str(&from.spec_json).unwrap_or(serde_json::Value::String(from.spec_json));
        Self {
            reference: from.r#ref.unwrap_or_default().into(),
            uid: from.uid,
            version: from.version,
            generation: from.generation,
            spec,
            created_at: time(from.created_at),
            updated_at: time(from.updated_at),
            deleting_since: time(from.deleting_since),
            status: from.status.unwrap_or_default().into(),
            owner: from.owner.map(Owner::from),
        }
    }
}

impl From<pb::PolicyOwner> for Owner {
    fn from(from: pb::PolicyOwner) -> Self {
        let kind = match from.kind() {
            pb::OwnerKind::Unspecified => OwnerKind::Unspecified,
            pb::OwnerKind::Api => OwnerKind::Api,
            pb::OwnerKind::Cluster => OwnerKind::Cluster,
        };
        Self {
            kind,
            cluster: from.cluster,
            resource_uid: from.resource_uid,
            generation: from.generation,
            generation_in_force: from.generation_in_force,
            absent_since: time(from.absent_since),
        }
    }
}

impl From<pb::PolicyStatus> for PolicyStatus {
    fn from(from: pb::PolicyStatus) -> Self {
        Self {
            observed_version: from.observed_version,
            conditions: each(from.conditions),
            clusters: each(from.clusters),
            rule: from.rule.map(RuleStatus::from),
            notes: each(from.notes),
            updated_at: time(from.updated_at),
        }
    }
}

impl From<pb::Condition> for Condition {
    fn from(from: pb::Condition) -> Self {
        let status = match from.status() {
            pb::ConditionStatus::Unspecified => Truth::Unspecified,
            pb::ConditionStatus::True => Truth::True,
            pb::ConditionStatus::False => Truth::False,
            pb::ConditionStatus::Unknown => Truth::Unknown,
        };
        Self {
            r#type: from.r#type,
            status,
            reason: from.reason,
            message: from.message,
            observed_version: from.observed_version,
            last_transition_time: time(from.last_transition_time),
        }
    }
}

impl From<pb::ClusterStatus> for ClusterStatus {
    fn from(from: pb::ClusterStatus) -> Self {
        let link = from.link().into();
        Self {
            cluster: from.cluster,
            requested_weight: from.requested_weight,
            effective_weight: from.effective_weight,
            programmed_weight: from.programmed_weight,
            reason: from.reason,
            message: from.message,
            targets: from.targets.unwrap_or_default().into(),
            target_group_arn: from.target_group_arn,
            link,
        }
    }
}

impl From<pb::TargetCounts> for TargetCounts {
    fn from(from: pb::TargetCounts) -> Self {
        let pb::TargetCounts { desired, registered, healthy, unhealthy, initial, draining, unused, held } = from;
        Self { desired, registered, healthy, unhealthy, initial, draining, unused, held }
    }
}

impl From<pb::ClusterLink> for Link {
    fn from(from: pb::ClusterLink) -> Self {
        match from {
            pb::ClusterLink::Unspecified => Self::Unspecified,
            pb::ClusterLink::Connected => Self::Connected,
            pb::ClusterLink::Syncing => Self::Syncing,
            pb::ClusterLink::Stale => Self::Stale,
            pb::ClusterLink::Unknown => Self::Unknown,
            pb::ClusterLink::Removed => Self::Removed,
        }
    }
}

impl From<pb::RuleStatus> for RuleStatus {
    fn from(from: pb::RuleStatus) -> Self {
        Self {
            listener_arn: from.listener_arn,
            rule_arn: from.rule_arn,
            priority: from.priority,
            programmed_at: time(from.programmed_at),
        }
    }
}

impl From<pb::Plan> for Plan {
    fn from(from: pb::Plan) -> Self {
        Self { steps: each(from.steps), notes: each(from.notes), made_at: time(from.made_at) }
    }
}

impl From<pb::PlanStep> for Step {
    fn from(from: pb::PlanStep) -> Self {
        Self {
            policy: from.policy.unwrap_or_default().into(),
            operation: from.operation,
            summary: from.summary,
            reason: from.reason,
        }
    }
}

impl From<pb::PlanNote> for Note {
    fn from(from: pb::PlanNote) -> Self {
        Self {
            policy: from.policy.unwrap_or_default().into(),
            cluster: from.cluster,
            reason: from.reason,
            message: from.message,
        }
    }
}

impl From<pb::EndpointInfo> for Endpoint {
    fn from(from: pb::EndpointInfo) -> Self {
        Self {
            cluster: from.cluster,
            namespace: from.namespace,
            service: from.service,
            service_port: from.service_port,
            address: from.address,
            port: from.port,
            ready: from.ready,
            serving: from.serving,
            terminating: from.terminating,
            pod: from.pod,
            pod_uid: from.pod_uid,
            node: from.node,
            zone: from.zone,
            eni_ids: from.eni_ids,
            updated_at: time(from.updated_at),
            target_type: from.target_type,
        }
    }
}

impl From<pb::Violation> for Violation {
    fn from(from: pb::Violation) -> Self {
        Self { field: from.field, value: from.value, problem: from.problem, remedy: from.remedy }
    }
}
