//! From core's types to protobuf, as free functions: protobuf stops in this module. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use switchyard_core::{
    failover::Explanation,
    fleet::Mode,
    ids::{ClusterName, PolicyKey},
    inventory::{Endpoint, EndpointKey, EndpointState, Link, ServiceKey},
    plan::{RegionPlan, Step},
    policy::{Violation, spec::TargetType, validate::target_type_word},
    source::{Holder, Owner},
    status::{self, ConditionType, Note, PolicyStatus, Reason, StatusCondition},
};
use switchyard_proto::{agent::v1 as agent, api::v1 as proto};

use crate::{
    feed::Picture,
    store::{Ownership, StoredPolicy},
};

/// How the hub stands with each cluster.
pub type Links = BTreeMap<ClusterName, proto::ClusterLink>;

/// The links of all clusters that were ever seen or removed.
pub fn links(picture: &Picture) -> Links {
    let seen = picture.inventory.clusters.iter();
    let mut links: Links = seen.map(|(name, cluster)| (name.clone(), to_proto_link(Some(cluster.link)))).collect();
    let removed = picture.fleet.iter().filter(|(_, state)| state.mode == Mode::Removed);
    links.extend(removed.map(|(name, _)| (name.clone(), proto::ClusterLink::Removed)));
    links
}

fn link_of(cluster: &ClusterName, links: &Links) -> i32 {
    links.get(cluster).copied().unwrap_or(proto::ClusterLink::Unknown).into()
}

/// A Service port as agents are told of it.
pub fn to_proto_service_ref(key: &ServiceKey) -> agent::ServiceRef {
    let target_type = match key.target_type {
        TargetType::Ip => agent::TargetType::Unspecified,
        TargetType::Instance => agent::TargetType::Instance,
    };
    agent::ServiceRef {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        port: key.port.to_string(),
        target_type: target_type.into(),
    }
}

/// A point in time.
pub fn to_proto_time(at: Timestamp) -> prost_types::Timestamp {
    // Protobuf wants nanoseconds that count forward, also before 1970.
    let nanos = at.subsec_nanosecond();
    let (seconds, nanos) =
        if nanos < 0 { (at.as_second() - 1, nanos + 1_000_000_000) } else { (at.as_second(), nanos) };
    prost_types::Timestamp { seconds, nanos }
}

/// A point in time as protobuf allows it, from the year 1 to 9999; none for anything else. The last day of 9999 is that of
/// [`Timestamp::MAX`].
pub fn from_proto_time(at: &prost_types::Timestamp) -> Option<Timestamp> {
    // 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let good = SECONDS.contains(&at.seconds) && (0..1_000_000_000).contains(&at.nanos);
    good.then(|| Timestamp::new(at.seconds, at.nanos).unwrap_or(Timestamp::MAX))
}

/// A policy's name.
pub fn to_proto_ref(key: &PolicyKey) -> proto::PolicyRef {
    proto::PolicyRef { namespace: key.namespace.to_string(), name: key.name.to_string() }
}

/// A fault of a policy.
pub fn to_proto_violation(violation: &Violation) -> proto::Violation {
    proto::Violation {
        field: violation.field.clone(),
        value: violation.value.clone(),
        problem: violation.problem.clone(),
        remedy: violation.remedy.clone(),
    }
}

/// How the hub stands with a cluster's agent; unknown when it was never seen.
pub fn to_proto_link(link: Option<Link>) -> proto::ClusterLink {
    match link {
        Some(Link::Connected) => proto::ClusterLink::Connected,
        Some(Link::Syncing) => proto::ClusterLink::Syncing,
        Some(Link::Stale) => proto::ClusterLink::Stale,
        None => proto::ClusterLink::Unknown,
    }
}

/// A policy as stored. Before the engine has spoken of it, the status shows what is known: it is accepted, and what is asked for.
pub fn to_proto_policy(stored: &StoredPolicy, links: &Links) -> proto::Policy {
    let record = &stored.record;
    let key = &record.policy.key;
    let mut status = match &stored.status {
        Some(status) => to_proto_status(key, status, stored.status_at, links),
        None => first_status(stored, links),
    };
    status.notes.extend(owner_notes(stored).iter().map(|note| to_proto_note(key, note)));
    proto::Policy {
        r#ref: Some(to_proto_ref(key)),
        uid: record.uid.to_string(),
        version: record.version,
        generation: record.generation,
        // A spec is made of texts, numbers and lists: writing it as JSON does not fail.
        spec_json: serde_json::to_string(&stored.manifest.spec).unwrap_or_default(),
        created_at: Some(to_proto_time(stored.created_at)),
        updated_at: Some(to_proto_time(stored.updated_at)),
        deleting_since: record.deleting_since.map(to_proto_time),
        status: Some(status),
        owner: Some(to_proto_owner(&stored.ownership)),
    }
}

fn to_proto_owner(ownership: &Ownership) -> proto::PolicyOwner {
    let Owner::Resource(holder) = &ownership.owner else {
        return proto::PolicyOwner { kind: proto::OwnerKind::Api.into(), ..proto::PolicyOwner::default() };
    };
    let resource = ownership.resource.as_ref();
    proto::PolicyOwner {
        kind: proto::OwnerKind::Cluster.into(),
        cluster: holder.cluster.to_string(),
        resource_uid: holder.uid.to_string(),
        generation: resource.map_or(0, |resource| resource.generation),
        generation_in_force: holder.generation,
        absent_since: resource.and_then(|resource| resource.absent_since).map(to_proto_time),
    }
}

/// What is to be known of the resource that owns a policy.
fn owner_notes(stored: &StoredPolicy) -> Vec<Note> {
    let (Owner::Resource(holder), Some(resource)) = (&stored.ownership.owner, &stored.ownership.resource) else {
        return Vec::new();
    };
    let mut notes = Vec::new();
    let mut note = |reason: Reason, message: String| notes.push(Note { cluster: None, reason, message });
    let Holder { cluster, generation: in_force, .. } = holder;
    if resource.absent_since.is_some() {
        let message = format!(
            "the resource in cluster {cluster} is missing from its list, or the hub takes no policies from there any more; the \
             policy stays in force. Put the resource back; if it is meant to be gone, delete the policy by call"
        );
        note(Reason::SourceAbsent, message);
    }
    if let Some(why) = &resource.failing {
        let message = format!("the agent of {cluster} cannot see policies, so changes of them do not arrive: {why}");
        note(Reason::SourceFailing, message);
    }
    if resource.generation != *in_force {
        let faults = resource.refusal.as_deref().unwrap_or("it changes what cannot change; see the resource's status");
        let generation = resource.generation;
        let message =
            format!("generation {generation} of the resource in {cluster} is not in force, {in_force} is: {faults}");
        note(Reason::InvalidSpec, message);
    }
    notes
}

fn first_status(stored: &StoredPolicy, links: &Links) -> proto::PolicyStatus {
    let record = &stored.record;
    let condition = |kind: ConditionType, status: Option<bool>, message: &str| StatusCondition {
        kind,
        status,
        reason: if status.is_some() { Reason::AsRequested } else { Reason::NotObservedYet },
        message: message.to_owned(),
        last_transition: stored.updated_at,
    };
    let waits = "the engine has not planned this policy yet";
    let status = PolicyStatus {
        observed_version: record.version,
        conditions: vec![
            condition(ConditionType::Accepted, Some(true), "stored"),
            condition(ConditionType::ResolvedRefs, None, waits),
            condition(ConditionType::Programmed, None, waits),
            condition(ConditionType::Converged, None, waits),
            condition(ConditionType::FailedOver, None, waits),
        ],
        clusters: Vec::new(),
        rule: None,
        notes: Vec::new(),
        failover: Explanation::default(),
    };
    let mut status = to_proto_status(&record.policy.key, &status, None, links);
    status.clusters = record
        .requested()
        .into_iter()
        .map(|(name, weight)| proto::ClusterStatus {
            link: link_of(&name, links),
            cluster: name.to_string(),
            requested_weight: weight.get(),
            reason: Reason::NotObservedYet.to_string(),
            message: waits.to_owned(),
            targets: Some(proto::TargetCounts::default()),
            ..proto::ClusterStatus::default()
        })
        .collect();
    status
}

/// A policy's status.
pub fn to_proto_status(
    key: &PolicyKey,
    status: &PolicyStatus,
    at: Option<Timestamp>,
    links: &Links,
) -> proto::PolicyStatus {
    let version = status.observed_version;
    proto::PolicyStatus {
        observed_version: version,
        conditions: status.conditions.iter().map(|c| to_proto_condition(c, version)).collect(),
        clusters: status.clusters.iter().map(|c| to_proto_cluster_status(c, links)).collect(),
        rule: status.rule.as_ref().map(to_proto_rule),
        notes: status.notes.iter().map(|note| to_proto_note(key, note)).collect(),
        updated_at: at.map(to_proto_time),
    }
}

fn to_proto_condition(condition: &StatusCondition, version: u64) -> proto::Condition {
    let kind = match condition.kind {
        ConditionType::Accepted => "Accepted",
        ConditionType::ResolvedRefs => "ResolvedRefs",
        ConditionType::Programmed => "Programmed",
        ConditionType::Converged => "Converged",
        ConditionType::FailedOver => "FailedOver",
    };
    let status = match condition.status {
        Some(true) => proto::ConditionStatus::True,
        Some(false) => proto::ConditionStatus::False,
        None => proto::ConditionStatus::Unknown,
    };
    proto::Condition {
        r#type: kind.to_owned(),
        status: status.into(),
        reason: condition.reason.to_string(),
        message: condition.message.clone(),
        observed_version: version,
        last_transition_time: Some(to_proto_time(condition.last_transition)),
    }
}

fn to_proto_cluster_status(cluster: &status::ClusterStatus, links: &Links) -> proto::ClusterStatus {
    let counts = cluster.targets;
    let reason = match cluster.reason {
        Reason::AsRequested => String::new(),
        reason => reason.to_string(),
    };
    proto::ClusterStatus {
        cluster: cluster.cluster.to_string(),
        requested_weight: cluster.requested.get(),
        effective_weight: cluster.effective.get(),
        programmed_weight: cluster.programmed.map(|weight| weight.get()),
        reason,
        message: cluster.message.clone(),
        targets: Some(proto::TargetCounts {
            desired: counts.desired,
            registered: counts.registered,
            healthy: counts.healthy,
            unhealthy: counts.unhealthy,
            initial: counts.initial,
            draining: counts.draining,
            unused: counts.unused,
            held: counts.held,
        }),
        target_group_arn: cluster.target_group.as_ref().map(ToString::to_string).unwrap_or_default(),
        link: link_of(&cluster.cluster, links),
    }
}

fn to_proto_rule(rule: &status::RuleStatus) -> proto::RuleStatus {
    proto::RuleStatus {
        listener_arn: rule.listener.to_string(),
        rule_arn: rule.rule.as_ref().map(ToString::to_string).unwrap_or_default(),
        priority: rule.priority.unwrap_or(0),
        programmed_at: rule.programmed_since.map(to_proto_time),
    }
}

/// What is held, waits or differs.
pub fn to_proto_note(key: &PolicyKey, note: &Note) -> proto::PlanNote {
    proto::PlanNote {
        policy: Some(to_proto_ref(key)),
        cluster: note.cluster.as_ref().map(ToString::to_string).unwrap_or_default(),
        reason: note.reason.to_string(),
        message: note.message.clone(),
    }
}

fn to_proto_step(step: &Step) -> proto::PlanStep {
    proto::PlanStep {
        policy: Some(to_proto_ref(&step.policy)),
        operation: step.action.operation().to_owned(),
        summary: step.action.to_string(),
        reason: step.why.clone(),
    }
}

/// What is held, waits or differs, and of each cluster why it does not get the weight that is asked for.
pub fn plan_notes(status: &PolicyStatus) -> Vec<Note> {
    let mut notes = status.notes.clone();
    for cluster in status.clusters.iter().filter(|cluster| cluster.reason != Reason::AsRequested) {
        let (name, reason, message) = (Some(cluster.cluster.clone()), cluster.reason, cluster.message.clone());
        let note = Note { cluster: name, reason, message };
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

/// Calls at AWS, in their order.
pub fn to_proto_plan_steps(steps: &[Step]) -> Vec<proto::PlanStep> {
    steps.iter().map(to_proto_step).collect()
}

/// The plan of the policies that are to be shown.
pub fn to_proto_plan(plan: &RegionPlan, shown: impl Fn(&PolicyKey) -> bool, made_at: Timestamp) -> proto::Plan {
    let chosen = || plan.policies.iter().filter(|(key, _)| shown(key));
    proto::Plan {
        steps: chosen().flat_map(|(_, plan)| to_proto_plan_steps(&plan.steps)).collect(),
        notes: chosen()
            .flat_map(|(key, plan)| plan_notes(&plan.status).into_iter().map(|note| to_proto_note(key, &note)))
            .collect(),
        made_at: Some(to_proto_time(made_at)),
    }
}

/// An endpoint that is present; none for one that is gone.
pub fn to_proto_endpoint(key: &EndpointKey, endpoint: &Endpoint) -> Option<proto::EndpointInfo> {
    let EndpointState::Present { ready, serving, terminating } = endpoint.state else {
        return None;
    };
    Some(proto::EndpointInfo {
        cluster: key.cluster.to_string(),
        namespace: key.service.namespace.to_string(),
        service: key.service.name.to_string(),
        service_port: key.service.port.to_string(),
        address: key.target.id.to_string(),
        port: u32::from(key.target.port),
        ready,
        serving,
        terminating,
        pod: endpoint.pod_name.clone(),
        pod_uid: key.pod_uid.to_string(),
        node: endpoint.node.clone(),
        zone: endpoint.zone.clone(),
        eni_ids: endpoint.eni_ids.clone(),
        updated_at: Some(to_proto_time(endpoint.updated_at)),
        target_type: target_type_word(key.service.target_type).to_owned(),
    })
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
