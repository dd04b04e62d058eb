//! What the agents reported: clusters, Services and endpoints, with the evidence for what is gone.

use std::{collections::BTreeMap, net::IpAddr, ops::Bound, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ClusterName, Namespace, PodUid, PolicyName, ServiceName, ServicePort, VpcId},
    observed::{Target, TargetId},
    policy::spec::TargetType,
};

/// One port of one Service and what is registered for it, as a policy names it. One Service may back a policy of each type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The Service's namespace.
    pub namespace: Namespace,
    /// The Service's name.
    pub name: ServiceName,
    /// The Service port's name, or its number in decimal.
    pub port: ServicePort,
    /// Pods, or the nodes with the Service's node port. Last, so that what pods are sorted by stays as it was.
    #[serde(default)]
    pub target_type: TargetType,
}

impl ServiceKey {
    /// True when nodes stand for the pods.
    pub fn targets_nodes(&self) -> bool {
        self.target_type == TargetType::Instance
    }

    /// True for the same Service, whatever its port and what is registered for it.
    pub fn is_same_service(&self, other: &ServiceKey) -> bool {
        self.namespace == other.namespace && self.name == other.name
    }
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
    /// When the agent's present session began; none when it never had one.
    pub session_since: Option<Timestamp>,
    /// Sources that the agent cannot read now, for people: (namespace, kind, message).
    pub problems: Vec<SourceProblem>,
    /// True when its agent can report nodes: only then is it asked for the Services of policies with instance targets.
    pub reports_nodes: bool,
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

/// How the hub stands with an agent. Only [`Link::Connected`] lets anything be removed on what was not said in this session
/// (I3, I4).
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
    /// Where every node answers whether it has a ready pod of the Service; set with `externalTrafficPolicy: Local`.
    pub health_check_node_port: Option<u16>,
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
    /// Nodes are wanted as targets, and the Service port has no node port.
    NoNodePort,
}

/// What tells one endpoint from another. The pod UID is part of it, so that a late delete for an old pod never removes the
/// next owner of the address (I10).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointKey {
    /// The cluster.
    pub cluster: ClusterName,
    /// The Service port.
    pub service: ServiceKey,
    /// Address and resolved target port, or instance and node port.
    pub target: Target,
    /// The pod, or the node.
    pub pod_uid: PodUid,
}

impl EndpointKey {
    /// True when this claim and that of such an endpoint have one owner. An address is its pod's, whichever Services select the
    /// pod. A node port is one Service's, and the same node answers for another Service when the port changes hands.
    pub fn has_one_owner_with(&self, service: &ServiceKey, pod_uid: &PodUid) -> bool {
        let same_service = !self.service.targets_nodes() || self.service.is_same_service(service);
        self.pod_uid == *pod_uid && same_service
    }
}

/// One endpoint as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its state.
    pub state: EndpointState,
    /// The pod's or the node's name, for people.
    pub pod_name: String,
    /// The node, for people.
    pub node: String,
    /// The zone, may be empty.
    pub zone: String,
    /// ENI ids of the pod; usually empty or one.
    pub eni_ids: Vec<String>,
    /// The policies of the pod's namespace whose target health its readiness gates wait for; empty for most pods and all nodes.
    pub gates: Vec<PolicyName>,
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
        /// Its pod has a deletionTimestamp, or its node is being removed.
        terminating: bool,
    },
    /// Not there any more.
    Gone(Evidence),
}

/// Why an endpoint is believed to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Evidence {
    /// The pod, or the node, was seen to be deleted.
    PodDeleted,
    /// The pod lives, the Service no longer selects it; or the node lives, and is kept out by a label or is no instance.
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

    /// True when the pod itself was seen to end: it never comes back.
    pub fn was_seen_to_go(self) -> bool {
        matches!(self, EndpointState::Present { terminating: true, .. } | EndpointState::Gone(Evidence::PodDeleted))
    }
}

/// All that the agents reported; the hub keeps it as a mirror of its store. A clone shares what it does not change: with
/// 100,000 endpoints a change of one copies the endpoints of its Service and one part of the index of addresses.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Clusters by name.
    pub clusters: BTreeMap<ClusterName, Cluster>,
    /// Services by cluster and key.
    pub services: BTreeMap<(ClusterName, ServiceKey), ServiceState>,
    endpoints: BTreeMap<ClusterName, BTreeMap<ServiceKey, Arc<Endpoints>>>,
    /// Who claims an address, in [`CLAIM_PARTS`] parts; derived from `endpoints`.
    claims: Vec<Arc<BTreeMap<Target, Vec<EndpointKey>>>>,
}

/// The endpoints of one Service in one cluster; an address has more than one pod only while it changes hands.
type Endpoints = BTreeMap<Target, Vec<(PodUid, Endpoint)>>;

/// Parts of the index of addresses: with 100,000 addresses a part holds some 400.
const CLAIM_PARTS: usize = 256;

impl PartialEq for Inventory {
    /// The index of addresses follows from the rest.
    fn eq(&self, other: &Self) -> bool {
        self.clusters == other.clusters && self.services == other.services && self.endpoints == other.endpoints
    }
}

impl Eq for Inventory {}

/// Who owns an address and port within a VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership<'a> {
    /// Nobody who lives claims it.
    Free,
    /// This endpoint's pod.
    Owner(&'a EndpointKey),
}

fn claim_part(target: Target) -> usize {
    let bytes = match target.id {
        TargetId::Ip(IpAddr::V4(v4)) => u128::from(u32::from(v4)),
        TargetId::Ip(IpAddr::V6(v6)) => u128::from(v6),
        // A node has one claim for each Service, at another port.
        TargetId::Instance(instance) => u128::from(instance.hash_bits()) ^ u128::from(target.port),
    };
    // Pods of one subnet differ in their last bytes.
    usize::try_from((bytes ^ (bytes >> 8)) % (CLAIM_PARTS as u128)).unwrap_or_default()
}

impl Inventory {
    /// Stores one endpoint, replacing what was known of the same key.
    pub fn upsert(&mut self, key: EndpointKey, endpoint: Endpoint) {
        let of_cluster = self.endpoints.entry(key.cluster.clone()).or_default();
        let of_service = Arc::make_mut(of_cluster.entry(key.service.clone()).or_default());
        let at = of_service.entry(key.target).or_default();
        match at.binary_search_by(|(uid, _)| uid.cmp(&key.pod_uid)) {
            Ok(place) => at[place].1 = endpoint,
            Err(place) => {
                at.insert(place, (key.pod_uid.clone(), endpoint));
                self.claims.resize_with(CLAIM_PARTS, Arc::default);
                let part = Arc::make_mut(&mut self.claims[claim_part(key.target)]);
                part.entry(key.target).or_default().push(key);
            }
        }
    }

    /// Forgets one endpoint wholly, evidence included.
    pub fn forget(&mut self, key: &EndpointKey) {
        let Some(of_cluster) = self.endpoints.get_mut(&key.cluster) else { return };
        let Some(of_service) = of_cluster.get_mut(&key.service) else { return };
        let service = Arc::make_mut(of_service);
        if let Some(at) = service.get_mut(&key.target) {
            at.retain(|(uid, _)| *uid != key.pod_uid);
            if at.is_empty() {
                service.remove(&key.target);
            }
        }
        if service.is_empty() {
            of_cluster.remove(&key.service);
        }
        if of_cluster.is_empty() {
            self.endpoints.remove(&key.cluster);
        }
        let Some(part) = self.claims.get_mut(claim_part(key.target)).map(Arc::make_mut) else { return };
        if let Some(claims) = part.get_mut(&key.target) {
            claims.retain(|claim| claim != key);
            if claims.is_empty() {
                part.remove(&key.target);
            }
        }
    }

    /// The endpoints of one Service in one cluster, by target and pod.
    pub fn endpoints_of(
        &self,
        cluster: &ClusterName,
        service: &ServiceKey,
    ) -> impl Iterator<Item = (Target, &PodUid, &Endpoint)> {
        let of_service = self.endpoints.get(cluster).and_then(|of_cluster| of_cluster.get(service));
        let targets = of_service.into_iter().flat_map(|endpoints| endpoints.iter());
        targets.flat_map(|(target, at)| at.iter().map(|(uid, endpoint)| (*target, uid, endpoint)))
    }

    /// The Services with endpoints, gone ones included, in the order of [`Inventory::endpoints`]: from this one on, or all. What
    /// lies before is not looked at.
    pub fn services_from<'a>(
        &'a self,
        from: Option<(&'a ClusterName, &'a ServiceKey)>,
    ) -> impl Iterator<Item = (&'a ClusterName, &'a ServiceKey)> {
        let first = from.map_or(Bound::Unbounded, |(cluster, _)| Bound::Included(cluster));
        self.endpoints.range::<ClusterName, _>((first, Bound::Unbounded)).flat_map(move |(cluster, services)| {
            let in_cluster = from.filter(|(first, _)| *first == cluster);
            let first = in_cluster.map_or(Bound::Unbounded, |(_, service)| Bound::Included(service));
            services.range::<ServiceKey, _>((first, Bound::Unbounded)).map(move |(service, _)| (cluster, service))
        })
    }

    /// All endpoints, by cluster and Service.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointKey, &Endpoint)> {
        self.services_from(None).flat_map(|(cluster, service)| {
            self.endpoints_of(cluster, service).map(move |(target, uid, endpoint)| {
                let (cluster, service, pod_uid) = (cluster.clone(), service.clone(), uid.clone());
                (EndpointKey { cluster, service, target, pod_uid }, endpoint)
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
        let claims = self.claims.get(claim_part(target)).and_then(|part| part.get(&target));
        match claims.map(Vec::as_slice) {
            None | Some([]) => Ownership::Free,
            // Nearly every address has one claim.
            Some([only]) => match self.claim(vpc, only) {
                Some((_, true)) => Ownership::Owner(only),
                Some((_, false)) | None => Ownership::Free,
            },
            Some(several) => self.owner_of_several(vpc, several),
        }
    }

    fn owner_of_several<'a>(&'a self, vpc: &VpcId, claims: &'a [EndpointKey]) -> Ownership<'a> {
        let mut newest: BTreeMap<&ClusterName, (&EndpointKey, Timestamp)> = BTreeMap::new();
        let mut first: BTreeMap<&ClusterName, Timestamp> = BTreeMap::new();
        for key in claims {
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
        if self.clusters.get(&key.cluster)?.vpc_id != *vpc {
            return None;
        }
        let at = self.endpoints.get(&key.cluster)?.get(&key.service)?.get(&key.target)?;
        let (_, endpoint) = at.iter().find(|(uid, _)| *uid == key.pod_uid)?;
        let lives = matches!(endpoint.state, EndpointState::Present { terminating: false, .. });
        Some((endpoint.first_seen, lives))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(places: &[(&str, &str, &str)]) -> Inventory {
        let mut inventory = Inventory::default();
        for (cluster, service, address) in places {
            let service = ServiceKey {
                namespace: "shop".parse().unwrap(),
                name: service.parse().unwrap(),
                port: "http".parse().unwrap(),
                target_type: TargetType::Ip,
            };
            let key = EndpointKey {
                cluster: cluster.parse().unwrap(),
                service,
                target: Target::ip(address.parse::<IpAddr>().unwrap(), 8080),
                pod_uid: "uid".parse().unwrap(),
            };
            let endpoint = Endpoint {
                state: EndpointState::Gone(Evidence::Absent),
                pod_name: String::new(),
                node: String::new(),
                zone: String::new(),
                eni_ids: Vec::new(),
                gates: Vec::new(),
                first_seen: Timestamp::UNIX_EPOCH,
                updated_at: Timestamp::UNIX_EPOCH,
            };
            inventory.upsert(key, endpoint);
        }
        inventory
    }

    #[test]
    fn services_from_a_place_on_are_the_rest_of_all_of_them_also_when_the_place_is_gone() {
        let names = [("blue", "api"), ("blue", "web"), ("green", "api"), ("green", "shop"), ("red", "api")];
        let places: Vec<_> = names.iter().rev().map(|(cluster, service)| (*cluster, *service, "10.0.0.1")).collect();
        let inventory = inventory(&places);
        let listed = |from: Option<(&ClusterName, &ServiceKey)>| -> Vec<(String, String)> {
            inventory.services_from(from).map(|(cluster, key)| (cluster.to_string(), key.name.to_string())).collect()
        };
        let all = listed(None);
        assert_eq!(all, names.map(|(cluster, service)| (cluster.to_owned(), service.to_owned())));
        for cluster in ["amber", "blue", "cyan", "green", "red", "zinc"] {
            for service in ["api", "mail", "web", "zoo"] {
                let key = ServiceKey {
                    namespace: "shop".parse().unwrap(),
                    name: service.parse().unwrap(),
                    port: "http".parse().unwrap(),
                    target_type: TargetType::Ip,
                };
                let place = (cluster.to_owned(), service.to_owned());
                let rest: Vec<_> = all.iter().filter(|listed| **listed >= place).cloned().collect();
                assert_eq!(listed(Some((&cluster.parse().unwrap(), &key))), rest, "from {cluster} {service}");
            }
        }
    }
}
