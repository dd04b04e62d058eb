//! What the agents reported: clusters, Services and endpoints, with the evidence for what is gone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ClusterName, Namespace, PodUid, ServiceName, ServicePort, VpcId},
    observed::Target,
};

/// One port of one Service, as a policy names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The Service's namespace.
    pub namespace: Namespace,
    /// The Service's name.
    pub name: ServiceName,
    /// The Service port's name, or its number in decimal.
    pub port: ServicePort,
}

/// A member cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// Its region.
    pub region: String,
    /// The VPC that its pods have their addresses in.
    pub vpc_id: VpcId,
    /// How the hub stands with its agent.
    pub link: Link,
    /// Sources that the agent cannot read now, for people: (namespace, kind, message).
    pub problems: Vec<SourceProblem>,
}

/// A watch of an agent that fails. What it reported before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceProblem {
    /// The namespace of the watch; empty for cluster-wide ones.
    pub namespace: String,
    /// `Service`, `EndpointSlice`, `Pod` or `Node`.
    pub kind: String,
    /// The API server's message.
    pub message: String,
}

/// How the hub stands with an agent. Only [`Link::Connected`] lets anything be removed (I3, I4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Link {
    /// Connected, and what is stored is complete as of this session.
    Connected,
    /// Connected; the snapshot is not complete yet.
    Syncing,
    /// Not heard of: its targets are frozen.
    Stale,
}

/// What is known of a watched Service in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// The condition.
    pub condition: ServiceCondition,
    /// For people.
    pub message: String,
}

/// Whether a Service and its port were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceCondition {
    /// Found, with pods.
    Resolved,
    /// There is no such Service.
    NotFound,
    /// The Service has no such port.
    PortNotFound,
    /// The Service selects nothing.
    NoSelectedPods,
}

/// What tells one endpoint from another. The pod UID is part of it, so that a late delete for an old pod never removes the
/// next owner of the address (I10).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointKey {
    /// The cluster.
    pub cluster: ClusterName,
    /// The Service port.
    pub service: ServiceKey,
    /// Address and resolved target port.
    pub target: Target,
    /// The pod.
    pub pod_uid: PodUid,
}

/// One endpoint as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its state.
    pub state: EndpointState,
    /// The pod's name, for people.
    pub pod_name: String,
    /// The node, for people.
    pub node: String,
    /// The zone, may be empty.
    pub zone: String,
    /// ENI ids of the pod; usually empty or one.
    pub eni_ids: Vec<String>,
    /// When this endpoint was first reported; decides who owns an address that two pods claim.
    pub first_seen: Timestamp,
    /// When the last change was stored.
    pub updated_at: Timestamp,
}

/// Present with its conditions, or gone with the evidence for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointState {
    /// In the cluster.
    Present {
        /// May get new requests.
        ready: bool,
        /// Answers requests, also while terminating.
        serving: bool,
        /// Its pod has a deletionTimestamp.
        terminating: bool,
    },
    /// Not there any more.
    Gone(Evidence),
}

/// Why an endpoint is believed to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Evidence {
    /// The pod was seen to be deleted.
    PodDeleted,
    /// The pod lives, the Service no longer selects it.
    NotSelected,
    /// The Service was deleted.
    ServiceDeleted,
    /// The Service port resolves to another target port, or to none.
    PortChanged,
    /// Absent from a complete list or snapshot, and no delete was ever seen: the weakest.
    Absent,
}

impl EndpointState {
    /// True when the endpoint should get new requests.
    pub fn wants_traffic(self) -> bool {
        matches!(self, EndpointState::Present { ready: true, terminating: false, .. })
    }
}

/// All that the agents reported; the hub keeps it as a mirror of its store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Clusters by name.
    pub clusters: BTreeMap<ClusterName, Cluster>,
    /// Services by cluster and key.
    pub services: BTreeMap<(ClusterName, ServiceKey), ServiceState>,
    endpoints: BTreeMap<(ClusterName, ServiceKey), BTreeMap<(Target, PodUid), Endpoint>>,
    claims: BTreeMap<Target, Vec<EndpointKey>>,
}

/// Who owns an address and port within a VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership<'a> {
    /// Nobody who lives claims it.
    Free,
    /// This endpoint's pod.
    Owner(&'a EndpointKey),
}

impl Inventory {
    /// Stores one endpoint, replacing what was known of the same key.
    pub fn upsert(&mut self, key: EndpointKey, endpoint: Endpoint) {
        let per_service = self.endpoints.entry((key.cluster.clone(), key.service.clone())).or_default();
        per_service.insert((key.target, key.pod_uid.clone()), endpoint);
        let claims = self.claims.entry(key.target).or_default();
        if !claims.contains(&key) {
            claims.push(key);
        }
    }

    /// Forgets one endpoint wholly, evidence included.
    pub fn forget(&mut self, key: &EndpointKey) {
        let place = (key.cluster.clone(), key.service.clone());
        if let Some(per_service) = self.endpoints.get_mut(&place) {
            per_service.remove(&(key.target, key.pod_uid.clone()));
            if per_service.is_empty() {
                self.endpoints.remove(&place);
            }
        }
        if let Some(claims) = self.claims.get_mut(&key.target) {
            claims.retain(|claim| claim != key);
            if claims.is_empty() {
                self.claims.remove(&key.target);
            }
        }
    }

    /// The endpoints of one Service in one cluster, by target and pod.
    pub fn endpoints_of(
        &self,
        cluster: &ClusterName,
        service: &ServiceKey,
    ) -> impl Iterator<Item = (Target, &PodUid, &Endpoint)> {
        let place = (cluster.clone(), service.clone());
        self.endpoints.get(&place).into_iter().flatten().map(|((target, uid), endpoint)| (*target, uid, endpoint))
    }

    /// All endpoints, by cluster and Service.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointKey, &Endpoint)> {
        self.endpoints.iter().flat_map(|((cluster, service), endpoints)| {
            endpoints.iter().map(|((target, uid), endpoint)| {
                let key = EndpointKey {
                    cluster: cluster.clone(),
                    service: service.clone(),
                    target: *target,
                    pod_uid: uid.clone(),
                };
                (key, endpoint)
            })
        })
    }

    /// The owner of an address and port in a VPC (I10).
    ///
    /// Of those that live (present, not terminating) the newest in a cluster wins, since Kubernetes hands an address on only
    /// within a cluster that knows it is free. Between clusters the one that had it first keeps it for as long as any of its
    /// pods lives there: two clusters that claim one address at once means overlapping pod CIDRs, and the newcomer is the one
    /// to be refused, also when the first one's pod is replaced.
    pub fn owner(&self, vpc: &VpcId, target: Target) -> Ownership<'_> {
        let mut newest: BTreeMap<&ClusterName, (&EndpointKey, Timestamp)> = BTreeMap::new();
        let mut first: BTreeMap<&ClusterName, Timestamp> = BTreeMap::new();
        for key in self.claims.get(&target).into_iter().flatten() {
            let Some((since, lives)) = self.claim(vpc, key) else { continue };
            let earliest = first.entry(&key.cluster).or_insert(since);
            *earliest = since.min(*earliest);
            if !lives {
                continue;
            }
            let held = newest.entry(&key.cluster).or_insert((key, since));
            if (since, &key.pod_uid) > (held.1, &held.0.pod_uid) {
                *held = (key, since);
            }
        }
        let alive = first.into_iter().filter(|(name, _)| newest.contains_key(name));
        let winner = alive.min_by_key(|(name, since)| (*since, *name)).map(|(name, _)| name);
        match winner.and_then(|name| newest.get(name)) {
            Some((key, _)) => Ownership::Owner(key),
            None => Ownership::Free,
        }
    }

    /// Since when an endpoint claims its address, and whether its pod lives; none: in another VPC.
    fn claim(&self, vpc: &VpcId, key: &EndpointKey) -> Option<(Timestamp, bool)> {
        let cluster = self.clusters.get(&key.cluster)?;
        let place = (key.cluster.clone(), key.service.clone());
        let endpoint = self.endpoints.get(&place)?.get(&(key.target, key.pod_uid.clone()))?;
        let lives = matches!(endpoint.state, EndpointState::Present { terminating: false, .. });
        (cluster.vpc_id == *vpc).then_some((endpoint.first_seen, lives))
    }
}
