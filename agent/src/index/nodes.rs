//! Nodes in the place of pods: the endpoints of a Service that is watched for targets of type instance.
//!
//! Every node that may be a target is one, also where the Service sends requests to pods of the node only
//! (`externalTrafficPolicy: Local`): which of them have a pod the load balancer finds out by itself at the health check node
//! port, within seconds and without a call that registers anything. A cordoned node stays: it takes no new pods, and forwards as
//! before. Pure, like everything beside it. Tests: `nodes_tests.rs`.

use std::sync::Arc;

use super::{
    objects::{
        Address, EndpointView, NodeObject, NodeTarget, PodObject, ServiceCondition, ServiceObject, ServicePort,
        ServiceRef, ServiceStatus, TombstoneReason,
    },
    resolve::Resolution,
    store::Store,
};

/// Looks up the nodes for a port of a Service, of whose pods `pods` tells.
pub fn resolve(
    reference: &Arc<ServiceRef>,
    service: &ServiceObject,
    port: &ServicePort,
    pods: &ServiceStatus,
    nodes: &Store<NodeObject>,
) -> Resolution {
    let Some(node_port) = u16::try_from(port.node_port).ok().filter(|&port| port > 0) else {
        let message = format!("port {} of Service {} has no node port", reference.port, service.name);
        return Resolution::nothing(ServiceCondition::NoNodePort, message);
    };
    let mut resolution = Resolution::nothing(pods.condition, pods.message.clone());
    let mut passed_over = PassedOver::default();
    for node in nodes.values() {
        let Some(target) = &node.target else { continue };
        if target.excluded {
            passed_over.excluded += 1;
            continue;
        }
        let Some(instance) = target.instance else {
            passed_over.other += 1;
            passed_over.example.get_or_insert(&node.name);
            continue;
        };
        let view = EndpointView {
            service: Arc::clone(reference),
            address: Address::Instance(instance),
            port: node_port,
            ready: target.ready && !target.leaving,
            serving: target.ready,
            terminating: target.leaving,
            pod: Some(Arc::new(as_pod(node, target))),
            node: node.name.clone(),
            zone: node.zone.clone(),
        };
        // Two nodes of one instance: an old object that nobody removed yet, and the one that lives.
        let held = resolution.endpoints.entry(view.key()).or_insert_with(|| Arc::new(view.clone()));
        if claim(&view) > claim(held) {
            *held = Arc::new(view);
        }
    }
    if resolution.status.condition == ServiceCondition::Resolved {
        resolution.status.message = passed_over.message(resolution.endpoints.is_empty());
    }
    resolution.status.node_port = port.node_port;
    resolution.status.health_check_node_port = service.health_check_node_port;
    resolution
}

/// What travels in the place of a pod: who the node is.
fn as_pod(node: &NodeObject, target: &NodeTarget) -> PodObject {
    PodObject { name: node.name.clone(), uid: target.uid.clone(), node: node.name.clone(), ..PodObject::default() }
}

/// How good a node's claim to an instance is; among equals the order of names decides, so that the choice does not waver.
fn claim(view: &EndpointView) -> (bool, bool, &str) {
    (!view.terminating, view.ready, &view.node)
}

/// Nodes that are no targets.
#[derive(Default)]
struct PassedOver<'a> {
    excluded: usize,
    other: usize,
    example: Option<&'a str>,
}

impl PassedOver<'_> {
    /// Nodes that are kept out by a label are so by somebody's will, and named only where no node is left.
    fn message(&self, nothing_left: bool) -> String {
        let mut parts = Vec::new();
        if let Some(example) = self.example {
            parts.push(format!(
                "{} nodes are passed over, since they are no EC2 instances, such as {example}",
                self.other
            ));
        }
        if nothing_left && self.excluded > 0 {
            parts.push(format!("{} nodes are excluded by their label", self.excluded));
        }
        if nothing_left && parts.is_empty() {
            parts.push("there is no node".to_owned());
        }
        parts.join(", and ")
    }
}

/// Why a node is gone that was reported and not seen to go, while its Service and port are there.
pub fn reason(gone: &EndpointView, now: &Resolution, nodes: &Store<NodeObject>) -> TombstoneReason {
    let lives = nodes.get(&gone.node).and_then(|node| node.target.as_ref()).is_some_and(|t| t.uid == gone.pod_uid());
    if !lives {
        return TombstoneReason::AbsentFromList;
    }
    let at_another_port = now.endpoints.keys().any(|(address, _)| *address == gone.address);
    if at_another_port { TombstoneReason::PortChanged } else { TombstoneReason::NotSelected }
}
