//! How targets are spoken of: a pod is a pod, and a node is a node. Values only; decides nothing.

use super::targets::Input;
use crate::{
    ids::{ClusterName, VpcId},
    inventory::ServiceKey,
    observed::Target,
};

/// The words for one kind of target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    nodes: bool,
    /// "pods" or "nodes".
    pub many: &'static str,
    /// Grounds for a removal, in the order of their strength.
    pub taken_over: &'static str,
    pub terminating: &'static str,
    pub deleted: &'static str,
    pub not_ready: &'static str,
    pub not_selected: &'static str,
    pub absent: &'static str,
    pub unknown: &'static str,
}

const PODS: Words = Words {
    nodes: false,
    many: "pods",
    taken_over: "the address now belongs to another pod",
    terminating: "the pod is terminating",
    deleted: "the pod was deleted",
    not_ready: "the pod is not ready",
    not_selected: "the Service no longer selects the pod",
    absent: "the pod is missing from the cluster's list",
    unknown: "no pod of the Service is known at the address",
};

const NODES: Words = Words {
    nodes: true,
    many: "nodes",
    taken_over: "the node port now belongs to another Service or node",
    terminating: "the node is being removed",
    deleted: "the node was deleted",
    not_ready: "the node is not ready",
    not_selected: "the node is excluded by its label",
    absent: "the node is missing from the cluster's list",
    unknown: "no node is known with this instance and node port",
};

impl Words {
    /// Those that fit what stands for this Service.
    pub fn of(service: &ServiceKey) -> Self {
        if service.targets_nodes() { NODES } else { PODS }
    }

    /// Targets that another cluster had first.
    pub fn clash(self, here: &ClusterName, other: &ClusterName, count: usize, first: Target, vpc: &VpcId) -> String {
        if self.nodes {
            return format!(
                "{count} node ports of {here} are refused, such as {first}: {other} reports the same instances first; an \
                 instance is a node of one cluster, so look whether one cluster has two agents under two names"
            );
        }
        format!(
            "{count} addresses of {here} are refused, such as {first}: pods of {other} in the same VPC ({vpc}) claim them \
             first; give the clusters pod CIDRs that do not overlap"
        )
    }

    /// Targets that the group cannot hold.
    pub fn unsupported(self, input: &Input<'_>, count: usize, first: Target) -> String {
        let here = &input.cluster.name;
        if self.nodes {
            return format!(
                "{count} nodes of {here}, such as {first}, are in {}, and a target group takes instances of its own VPC \
                 ({}) only; use spec.backend.targetType ip for clusters in other VPCs",
                input.cluster.vpc_id, input.group_vpc
            );
        }
        format!(
            "{count} addresses of {here} are IPv6, such as {first}, and the target group takes IPv4; make IPv4 the first \
             family of the Service"
        )
    }
}
