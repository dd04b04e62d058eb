//! The small types that Kubernetes objects are stripped to on arrival, so that memory is bounded by what the agent reports.
//!
//! Values only: nothing of kube, protobuf or tokio may be imported here. `watch::strip` makes them, `resolve` reads them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use jiff::Timestamp;

pub use super::address::{Address, InstanceId};

/// A Service and one of its ports, by name or decimal number, as the hub names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef {
    /// Namespace of the Service. First, so that all of a namespace are neighbours in a sorted map.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// The Service port's name, or its number in decimal.
    pub port: String,
    /// What is to be reported. Last, so that references to one Service are neighbours.
    pub targets: TargetKind,
}

/// What stands for a Service at the load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TargetKind {
    /// Its pods, by their addresses.
    #[default]
    Pods,
    /// The cluster's nodes, by their instance ids, with the Service's node port.
    Nodes,
}

/// The four kinds of objects that the agent watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// core/v1 Pod.
    Pod,
    /// core/v1 Node, metadata only: for zones.
    Node,
    /// core/v1 Node with its spec and status, in the place of [`SourceKind::Node`] while nodes are watched for as targets.
    WholeNode,
}

impl SourceKind {
    /// The three kinds that are watched in each namespace; Node is watched for the whole cluster.
    pub const NAMESPACED: [Self; 3] = [Self::Service, Self::EndpointSlice, Self::Pod];

    /// The Kubernetes kind, as it appears in the contract with the hub and in metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node | Self::WholeNode => "Node",
        }
    }
}

/// One list-and-watch: a kind in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Empty for Node.
    pub namespace: String,
    /// What is watched.
    pub kind: SourceKind,
}

impl Source {
    /// The source of all Nodes of the cluster.
    #[must_use]
    pub fn nodes() -> Self {
        Self { namespace: String::new(), kind: SourceKind::Node }
    }

    /// The same with spec and status.
    #[must_use]
    pub fn whole_nodes() -> Self {
        Self { namespace: String::new(), kind: SourceKind::WholeNode }
    }
}

/// An object that arrived from a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(ServiceObject),
    /// An EndpointSlice.
    EndpointSlice(SliceObject),
    /// A Pod.
    Pod(Box<PodObject>),
    /// A Node.
    Node(NodeObject),
}

/// Address family of a Service or an EndpointSlice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What is kept of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceObject {
    /// metadata.name.
    pub name: String,
    /// All ports of the Service.
    pub ports: Vec<ServicePort>,
    /// The first of spec.ipFamilies; None when the API server does not say.
    pub primary_family: Option<Family>,
    /// False for a Service without a selector, whose EndpointSlices somebody else writes.
    pub has_selector: bool,
    /// spec.selector, for the webhook; empty also when it has more than 64 labels.
    pub selector: BTreeMap<String, String>,
    /// True for type ExternalName, which has no endpoints at all.
    pub external_name: bool,
    /// 0 unless externalTrafficPolicy is Local.
    pub health_check_node_port: i32,
    /// True as soon as the Service has a deletionTimestamp.
    pub deleting: bool,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for the only port of a Service that gave it no name. EndpointSlice ports carry the same name.
    pub name: String,
    /// 1..=65535.
    pub port: u16,
    /// 0 when the port has none.
    pub node_port: i32,
}

/// What is kept of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceObject {
    /// metadata.name.
    pub name: String,
    /// The label kubernetes.io/service-name; empty when the slice belongs to no Service.
    pub service: String,
    /// None for address types other than IPv4 and IPv6, which are not resolved.
    pub family: Option<Family>,
    /// (name, port); ports without a number ("all ports") are left out on arrival.
    pub ports: Vec<(String, u16)>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Addresses that parsed; Kubernetes calls them fungible and writes exactly one.
    pub addresses: Vec<IpAddr>,
    /// Unknown counts as true, as the Kubernetes API says.
    pub ready: bool,
    /// Unknown counts as `ready`.
    pub serving: bool,
    /// Unknown counts as false.
    pub terminating: bool,
    /// The pod of the same namespace that targetRef names.
    pub pod: Option<PodRef>,
    /// Empty when not said.
    pub node: String,
    /// Empty when not said.
    pub zone: String,
}

/// A reference to a pod of the slice's own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod; empty in slices that people wrote by hand, which then match by name alone.
    pub uid: String,
}

/// What is kept of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodObject {
    /// metadata.name.
    pub name: String,
    /// metadata.uid.
    pub uid: String,
    /// status.podIPs, at most 8.
    pub ips: Vec<String>,
    /// From the annotation vpc.amazonaws.com/pod-eni, at most 16.
    pub enis: Vec<Eni>,
    /// Ports of all containers, at most 64.
    pub container_ports: Vec<ContainerPort>,
    /// spec.readinessGates, at most 32.
    pub readiness_gates: Vec<String>,
    /// status.conditions as (type, status) sorted by type, at most 64.
    pub conditions: Vec<(String, String)>,
    /// spec.nodeName, empty before the pod is scheduled.
    pub node: String,
    /// metadata.deletionTimestamp.
    pub deletion_timestamp: Option<Timestamp>,
    /// True in phase Succeeded or Failed: nothing listens any more, and nothing will.
    pub finished: bool,
}

/// Prefix of the readiness gates that wait for a load balancer's word on the pod's target; a policy's name follows.
pub const GATE_PREFIX: &str = "target-health.switchyard.dev/";

impl PodObject {
    /// True when the API server itself says that this pod is going or gone.
    #[must_use]
    pub fn is_evidence_of_end(&self) -> bool {
        self.finished || self.deletion_timestamp.is_some()
    }

    /// True when nothing but the load balancer's word keeps the pod from being ready: its containers are, and of its readiness
    /// gates only ours are not true. Such a pod must be registered, for else nobody would ever judge it. A pod of whose
    /// conditions nothing is known, or that waits for anybody else too, is not ready.
    #[must_use]
    pub fn waits_for_target_health_only(&self) -> bool {
        let holds = |kind: &str| self.conditions.iter().any(|(known, status)| known == kind && status == "True");
        let mut open = self.readiness_gates.iter().filter(|gate| !holds(gate)).peekable();
        let some_open = open.peek().is_some();
        let only_ours = open.all(|gate| gate.starts_with(GATE_PREFIX));
        some_open && only_ours && holds("ContainersReady") && !self.is_evidence_of_end()
    }
}

/// One elastic network interface of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Eni {
    /// Such as eni-0123456789abcdef0.
    pub eni_id: String,
    /// Its private address.
    pub private_ip: String,
    /// MAC address.
    pub if_address: String,
    /// 0 when not said.
    pub vlan_id: i32,
    /// CIDR of its subnet.
    pub subnet_cidr: String,
}

/// One port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Empty when unnamed.
    pub name: String,
    /// 1..=65535.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: String,
}

/// What is kept of a Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeObject {
    /// metadata.name.
    pub name: String,
    /// The label topology.kubernetes.io/zone; empty when the node has none.
    pub zone: String,
    /// What makes it a target; none while nodes are watched for their zones only.
    pub target: Option<NodeTarget>,
}

/// What is kept of a Node that may be a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTarget {
    /// metadata.uid.
    pub uid: String,
    /// From spec.providerID; none for a node that is no EC2 instance, such as one of Fargate.
    pub instance: Option<InstanceId>,
    /// The condition Ready is True.
    pub ready: bool,
    /// It carries the label node.kubernetes.io/exclude-from-external-load-balancers, whatever its value.
    pub excluded: bool,
    /// It is being removed: it has a deletionTimestamp, or the taint of an autoscaler that is about to delete it.
    pub leaving: bool,
}

/// One address of a Service port, resolved to its target port: what travels to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointView {
    /// The watched reference this endpoint answers.
    pub service: Arc<ServiceRef>,
    /// What a load balancer would register.
    pub address: Address,
    /// The target port, or the node port.
    pub port: u16,
    /// Accepts new traffic. Never true together with `terminating`.
    pub ready: bool,
    /// Still answers, also while terminating.
    pub serving: bool,
    /// The slice says so, or the pod has a deletionTimestamp: whichever was seen first.
    pub terminating: bool,
    /// None for an address that no pod stands behind (a slice written by hand). For a node its name and UID.
    pub pod: Option<Arc<PodObject>>,
    /// Empty when unknown.
    pub node: String,
    /// From the node's label, else from the slice; empty when unknown.
    pub zone: String,
}

impl EndpointView {
    /// The UID of the pod that owns the address; empty when there is no pod.
    #[must_use]
    pub fn pod_uid(&self) -> &str {
        self.pod.as_deref().map_or("", |pod| pod.uid.as_str())
    }

    /// The address and port, which are unique within one Service reference.
    #[must_use]
    pub fn key(&self) -> EndpointKey {
        (self.address, self.port)
    }
}

/// What identifies an endpoint within one Service reference.
pub type EndpointKey = (Address, u16);

/// What is known of a watched Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// The outcome of looking it up.
    pub condition: ServiceCondition,
    /// For people; empty when all is well.
    pub message: String,
    /// 0 when the Service port has none.
    pub node_port: i32,
    /// 0 unless externalTrafficPolicy is Local.
    pub health_check_node_port: i32,
}

/// The outcome of looking up a Service reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceCondition {
    /// Found, and at least one endpoint stands behind it.
    Resolved,
    /// No such Service in the namespace.
    NotFound,
    /// The Service has no such port.
    PortNotFound,
    /// The Service exists and selects nothing.
    NoSelectedPods,
    /// Nodes are wanted as targets, and the Service port has no node port.
    NoNodePort,
}

/// Why an endpoint that was reported is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TombstoneReason {
    /// Its pod was seen to be deleted, or reached a terminal phase; or its node was.
    PodDeleted,
    /// The pod lives; the Service no longer selects it. Or the node lives and is kept out.
    NotSelected,
    /// The Service was seen to be deleted.
    ServiceDeleted,
    /// The Service port resolves to another target port, or to none.
    PortChanged,
    /// Missing from a complete list without any delete having been seen: weak evidence.
    AbsentFromList,
}

/// Evidence that one endpoint, owned by one pod, is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TombstoneView {
    /// The watched reference the endpoint answered.
    pub service: Arc<ServiceRef>,
    /// Its address.
    pub address: Address,
    /// Its target port.
    pub port: u16,
    /// The pod that owned it; a later owner of the same address is not meant.
    pub pod_uid: String,
    /// Why.
    pub reason: TombstoneReason,
}

/// A bounded number of changes, in the order in which they should be read: an address's old owner ends before the new one begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// States of watched Services that changed.
    pub services: Vec<(Arc<ServiceRef>, ServiceStatus)>,
    /// Endpoints that are new or changed.
    pub upserts: Vec<Arc<EndpointView>>,
    /// Endpoints that are gone.
    pub tombstones: Vec<TombstoneView>,
}

impl Batch {
    /// How many items it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len() + self.upserts.len() + self.tombstones.len()
    }

    /// True when there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a source stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Its first list is not complete yet.
    Syncing,
    /// It follows the API server.
    Synced,
    /// The last attempt failed, with the server's own words; what was known is kept.
    Failing(String),
}

/// A source and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    /// Which.
    pub source: Source,
    /// How.
    pub health: Health,
}

/// What a watcher says about its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// A new list begins; what is known stays in force until [`SourceEvent::ListDone`].
    ListStarted,
    /// One object of the list.
    Listed(Object),
    /// The list is complete: it replaces what was known, at once.
    ListDone,
    /// An object was added or changed.
    Applied(Object),
    /// An object was deleted, and this was its last state.
    Deleted(Object),
    /// The API server accepted the watch: an earlier error is over.
    Following,
    /// The last attempt failed, with the server's own words.
    Failing(String),
}

/// A source together with the number of its watcher, so that late events of an earlier watcher of the same source are recognised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceRun {
    /// The source.
    pub source: Source,
    /// Counts up with each new watcher.
    pub run: u64,
}
