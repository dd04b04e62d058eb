//! The health check that the group of one cluster should have. Tests are in `core/tests/instances.rs`.

use super::World;
use crate::{
    ids::ClusterName,
    inventory::ServiceCondition,
    observed::HealthCheck,
    policy::{ValidatedPolicy, validate::TRAFFIC_PORT},
};

/// The path that kube-proxy answers on a Service's health check node port.
const NODE_HEALTH_PATH: &str = "/healthz";

/// The health check of one cluster's group. Where a Service sends a node's requests to pods of that node only
/// (`externalTrafficPolicy: Local`), every node says by itself on the health check node port whether it has a ready one, in plain
/// HTTP/1.1: asked there a node is taken out before its last pod is gone. A port that the policy names goes before it, and groups
/// that speak HTTP/2 or gRPC are checked at the node port, which answers on those nodes only as well.
pub(super) fn health_check(
    world: &World<'_>,
    policy: &ValidatedPolicy,
    cluster: &ClusterName,
    present: Option<&HealthCheck>,
) -> HealthCheck {
    let wanted = &policy.health_check;
    let service = &policy.service;
    if !service.targets_nodes() || wanted.port != TRAFFIC_PORT || policy.protocol_version != "HTTP1" {
        return wanted.clone();
    }
    let state = world.inventory.services.get(&(cluster.clone(), service.clone()));
    let found = |condition| matches!(condition, ServiceCondition::Resolved | ServiceCondition::NoSelectedPods);
    match state.filter(|state| found(state.condition)) {
        // A Service that is not reported or not there has no word in how its nodes are checked: what is, stays, with the
        // policy's own figures.
        None => match present.filter(|present| present.port != TRAFFIC_PORT) {
            Some(present) => at_node_port(wanted, &present.port),
            None => wanted.clone(),
        },
        Some(state) => match state.health_check_node_port {
            Some(port) => at_node_port(wanted, &port.to_string()),
            None => wanted.clone(),
        },
    }
}

fn at_node_port(wanted: &HealthCheck, port: &str) -> HealthCheck {
    HealthCheck {
        protocol: "HTTP".to_owned(),
        port: port.to_owned(),
        path: NODE_HEALTH_PATH.to_owned(),
        matcher: "200".to_owned(),
        ..wanted.clone()
    }
}
