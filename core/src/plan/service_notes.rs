//! What a policy is told of its Service in one cluster: not found, not served, agent away or not able. Decides nothing.

use super::{
    World,
    draft::{ClusterDraft, Draft},
};
use crate::{
    inventory::{Cluster, Link, ServiceCondition, ServiceState},
    status::Reason,
};

/// One note for each thing that is not as the policy needs it.
pub(super) fn service_notes(world: &World<'_>, draft: &mut Draft<'_>, cluster: &ClusterDraft<'_>, known: &Cluster) {
    let service = &draft.record.policy.service;
    let (name, port, namespace) = (&service.name, &service.port, &service.namespace);
    let state = world.inventory.services.get(&(cluster.name.clone(), service.clone()));
    let at = &cluster.name;
    let found = match state.map(|state| state.condition) {
        Some(ServiceCondition::NotFound) => Some((
            Reason::ServiceNotFound,
            format!(
                "spec.backend.service.name: there is no Service {namespace}/{name} in {at}; create it or correct the name"
            ),
        )),
        Some(ServiceCondition::PortNotFound) => Some((
            Reason::PortNotFound,
            format!(
                "spec.backend.service.port: Service {namespace}/{name} in {at} has no port {port}; use one of its ports"
            ),
        )),
        Some(ServiceCondition::NoSelectedPods) => Some((
            Reason::NoSelectedPods,
            format!(
                "Service {namespace}/{name} in {at} selects no pod; look at its selector and the Deployment's labels"
            ),
        )),
        Some(ServiceCondition::NoNodePort) => Some((
            Reason::NoNodePort,
            format!(
                "spec.backend.targetType: Service {namespace}/{name} in {at} has no node port; make it of type NodePort or \
                 LoadBalancer, or use targetType ip"
            ),
        )),
        Some(ServiceCondition::Resolved) | None => None,
    };
    if let Some((reason, mut message)) = found {
        if let Some(detail) = state.map(|state| state.message.as_str()).filter(|detail| !detail.is_empty()) {
            message = format!("{message} ({detail})");
        }
        draft.note(Some(at), reason, message);
    }
    if service.targets_nodes() {
        node_notes(draft, known, state);
    }
    for problem in &known.problems {
        if problem.namespace.is_empty() || problem.namespace == namespace.as_str() {
            let message = format!(
                "the agent of {at} cannot read {}: {}; what it reported before stays in force",
                problem.kind, problem.message
            );
            draft.note(Some(at), Reason::SourceFailing, message);
        }
    }
    if known.link == Link::Stale
        && !draft.notes.iter().any(|n| n.reason == Reason::ClusterStale && n.cluster.as_ref() == Some(at))
    {
        let message =
            format!("the agent of {at} is away: its targets are frozen, the load balancer's health checks decide");
        draft.note(Some(at), Reason::ClusterStale, message);
    }
}

/// What only policies with nodes as targets have to say.
fn node_notes(draft: &mut Draft<'_>, known: &Cluster, state: Option<&ServiceState>) {
    let at = &known.name;
    if !known.reports_nodes {
        let message = format!(
            "spec.backend.targetType: the agent of {at} cannot report nodes, so its targets stay as they are; upgrade it, or \
             use targetType ip"
        );
        draft.note(Some(at), Reason::AgentTooOld, message);
    }
    let resolved = state.filter(|state| state.condition == ServiceCondition::Resolved && !state.message.is_empty());
    if let Some(state) = resolved {
        draft.note(Some(at), Reason::AddressUnsupported, format!("in {at} {}", state.message));
    }
}
