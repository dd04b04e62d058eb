//! Resolves one watched Service reference to its endpoints: a function from what is known to what should be reported.
//!
//! Choices that are made here, and why:
//! - Only the Service's primary address family is taken: a target group has one, and dual-stack pods would count twice.
//! - An endpoint whose pod is not known is left out. Slices and pods arrive by different watches, so either may be first; the pod's
//!   UID is what keeps an address from being taken for its next owner, and a pod that was deleted is gone however long a slice
//!   goes on naming it. While the pods cannot be watched, though, slices are taken at their word: otherwise a rollout in that
//!   time would take all old pods away and bring no new one. What was assumed so holds until the pods are known again.
//! - An endpoint without a pod (a slice that people or another controller wrote) is kept, with no UID.
//! - A pod is terminating when its slice or its deletionTimestamp says so, whichever arrives first, and is then not ready.
//! - A pod that waits for nothing but the load balancer's word on it (a readiness gate of ours) is ready: see
//!   [`PodObject::waits_for_target_health_only`].
//! - Two pods at one address (the address was reused before the slices caught up): one owner is chosen, the living one.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    nodes,
    objects::{
        Address, EndpointKey, EndpointView, Family, NodeObject, PodObject, PodRef, ServiceCondition, ServiceObject,
        ServicePort, ServiceRef, ServiceStatus, SliceEndpoint, SliceObject, TargetKind,
    },
    store::Store,
};

/// What is known of the namespace of a Service, and of the nodes.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Services of the namespace.
    pub services: &'a Store<ServiceObject>,
    /// EndpointSlices of the namespace.
    pub slices: &'a Store<SliceObject>,
    /// Pods of the namespace.
    pub pods: &'a Store<Arc<PodObject>>,
    /// UIDs of pods that nobody has seen and that are assumed to live, since a slice said so while pods could not be watched.
    pub assumed: &'a HashSet<String>,
    /// UIDs of pods that are known to be gone, and are never assumed.
    pub ended: &'a HashSet<String>,
    /// Nodes of the cluster.
    pub nodes: &'a Store<NodeObject>,
}

impl Known<'_> {
    /// Pods were watched once, and cannot be watched now.
    fn pods_are_lost(&self) -> bool {
        self.pods.ever_synced() && self.pods.is_failing()
    }
}

/// The outcome for one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// What to say of the Service port.
    pub status: ServiceStatus,
    /// Its endpoints.
    pub endpoints: BTreeMap<EndpointKey, Arc<EndpointView>>,
    /// Names of all pods that the Service's slices mention, whether or not they are known: a change of these matters.
    pub pods: HashSet<String>,
    /// UIDs of pods that nobody has seen and that are counted nevertheless; see [`Known::assumed`].
    pub assumed: Vec<String>,
    /// Every address the slices list for the Service, on whatever port.
    pub addresses: BTreeSet<Address>,
}

impl Resolution {
    /// Nothing behind the reference, for the reason given.
    #[must_use]
    pub fn nothing(condition: ServiceCondition, message: String) -> Self {
        Self {
            status: ServiceStatus { condition, message, node_port: 0, health_check_node_port: 0 },
            endpoints: BTreeMap::new(),
            pods: HashSet::new(),
            assumed: Vec::new(),
            addresses: BTreeSet::new(),
        }
    }
}

/// Looks the reference up in what is known.
#[must_use]
pub fn resolve(reference: &Arc<ServiceRef>, known: Known<'_>) -> Resolution {
    let Some(service) = known.services.get(&reference.name) else {
        let message = format!("there is no Service {} in namespace {}", reference.name, reference.namespace);
        return Resolution::nothing(ServiceCondition::NotFound, message);
    };
    let family = family_of(service, known.slices);
    let slices = || known.slices.values().filter(|slice| slice.service == service.name && slice.family == Some(family));
    let mut resolution = match find_port(service, &reference.port) {
        None => Resolution::nothing(ServiceCondition::PortNotFound, port_not_found(service, &reference.port)),
        Some(port) => {
            let pods = resolve_port(reference, service, port, slices(), known);
            match reference.targets {
                TargetKind::Pods => pods,
                TargetKind::Nodes => nodes::resolve(reference, service, port, &pods.status, known.nodes),
            }
        }
    };
    for endpoint in slices().flat_map(|slice| &slice.endpoints) {
        resolution.addresses.extend(endpoint.addresses.iter().copied().map(Address::Ip));
        resolution.pods.extend(endpoint.pod.as_ref().map(|pod| pod.name.clone()));
    }
    resolution
}

fn resolve_port<'a>(
    reference: &Arc<ServiceRef>,
    service: &ServiceObject,
    port: &ServicePort,
    slices: impl Iterator<Item = &'a SliceObject>,
    known: Known<'_>,
) -> Resolution {
    let mut candidates = Candidates::default();
    let mut unknown_pods = 0_usize;
    let mut assumed = Vec::new();
    if !service.external_name {
        for slice in slices {
            let targets: Vec<u16> =
                slice.ports.iter().filter(|(name, _)| *name == port.name).map(|&(_, number)| number).collect();
            for endpoint in &slice.endpoints {
                match owner(endpoint, known) {
                    Owner::Unknown => unknown_pods += 1,
                    Owner::Finished => {}
                    Owner::None => candidates.add(reference, endpoint, None, &targets, known.nodes),
                    Owner::Pod(pod) => candidates.add(reference, endpoint, Some(pod), &targets, known.nodes),
                    Owner::Assumed(pod) => {
                        assumed.push(pod.uid.clone());
                        candidates.add(reference, endpoint, Some(pod), &targets, known.nodes);
                    }
                }
            }
        }
    }
    let endpoints = candidates.choose();
    let (condition, message) = if endpoints.is_empty() {
        (ServiceCondition::NoSelectedPods, nothing_selected(service, unknown_pods))
    } else {
        (ServiceCondition::Resolved, String::new())
    };
    let mut resolution = Resolution::nothing(condition, message);
    resolution.status.node_port = port.node_port;
    resolution.status.health_check_node_port = service.health_check_node_port;
    resolution.endpoints = endpoints;
    resolution.assumed = assumed;
    resolution
}

/// The family to take: the Service's first, else IPv4 when any slice has it.
fn family_of(service: &ServiceObject, slices: &Store<SliceObject>) -> Family {
    service.primary_family.unwrap_or_else(|| {
        let mut of_service = slices.values().filter(|slice| slice.service == service.name).peekable();
        let only_v6 = of_service.peek().is_some() && of_service.all(|slice| slice.family != Some(Family::V4));
        if only_v6 { Family::V6 } else { Family::V4 }
    })
}

/// A decimal number names a port by number; Kubernetes requires a letter in every port name, so the two cannot be confused.
fn find_port<'a>(service: &'a ServiceObject, wanted: &str) -> Option<&'a ServicePort> {
    match wanted.parse::<u16>() {
        Ok(number) => service.ports.iter().find(|port| port.port == number),
        Err(_) => service.ports.iter().find(|port| !port.name.is_empty() && port.name == wanted),
    }
}

fn port_not_found(service: &ServiceObject, wanted: &str) -> String {
    // Kubernetes sets no low limit on ports, and the message has one of 1024 characters.
    const SHOWN: usize = 10;
    let mut ports: Vec<String> = service
        .ports
        .iter()
        .take(SHOWN)
        .map(|port| if port.name.is_empty() { port.port.to_string() } else { format!("{} ({})", port.name, port.port) })
        .collect();
    if service.ports.len() > SHOWN {
        ports.push(format!("and {} more", service.ports.len() - SHOWN));
    }
    let has = if ports.is_empty() { "no ports".to_owned() } else { ports.join(", ") };
    format!("Service {} has no port {wanted}; it has {has}", service.name)
}

fn nothing_selected(service: &ServiceObject, unknown_pods: usize) -> String {
    let name = &service.name;
    if service.external_name {
        format!("Service {name} is of type ExternalName, which has no pods; use a Service with a selector")
    } else if unknown_pods > 0 {
        format!("the EndpointSlices of Service {name} name {unknown_pods} pods, none of which exists")
    } else if service.has_selector {
        format!("the selector of Service {name} selects no pod with an address on this port")
    } else {
        format!("Service {name} has no selector, and no EndpointSlice gives it an address on this port")
    }
}

enum Owner {
    /// The slice names no pod.
    None,
    Pod(Arc<PodObject>),
    /// The pod ran to its end.
    Finished,
    /// Nobody has seen the pod, and the slice's word is taken for it.
    Assumed(Arc<PodObject>),
    /// The pod is not known, or another pod has its name now.
    Unknown,
}

fn owner(endpoint: &SliceEndpoint, known: Known<'_>) -> Owner {
    let Some(reference) = &endpoint.pod else { return Owner::None };
    match known.pods.get(&reference.name) {
        Some(pod) if reference.uid.is_empty() || pod.uid == reference.uid => {
            if pod.finished {
                Owner::Finished
            } else {
                Owner::Pod(Arc::clone(pod))
            }
        }
        _ if reference.uid.is_empty() || known.ended.contains(&reference.uid) => Owner::Unknown,
        _ if known.pods_are_lost() || known.assumed.contains(&reference.uid) => {
            Owner::Assumed(Arc::new(assume(reference, endpoint)))
        }
        _ => Owner::Unknown,
    }
}

/// What a slice tells of a pod that nobody has seen.
fn assume(reference: &PodRef, endpoint: &SliceEndpoint) -> PodObject {
    PodObject {
        name: reference.name.clone(),
        uid: reference.uid.clone(),
        ips: endpoint.addresses.iter().map(IpAddr::to_string).collect(),
        node: endpoint.node.clone(),
        ..PodObject::default()
    }
}

/// Everything the slices say of each address and port, by owner.
#[derive(Default)]
struct Candidates(BTreeMap<EndpointKey, BTreeMap<String, EndpointView>>);

impl Candidates {
    fn add(
        &mut self,
        service: &Arc<ServiceRef>,
        endpoint: &SliceEndpoint,
        pod: Option<Arc<PodObject>>,
        ports: &[u16],
        nodes: &Store<NodeObject>,
    ) {
        let node = pod.as_ref().map(|pod| &pod.node).filter(|node| !node.is_empty()).unwrap_or(&endpoint.node);
        let zone = nodes.get(node).map(|node| &node.zone).filter(|zone| !zone.is_empty()).unwrap_or(&endpoint.zone);
        let terminating = endpoint.terminating || pod.as_ref().is_some_and(|pod| pod.deletion_timestamp.is_some());
        // Kubernetes calls a pod unready until the load balancer found it healthy, for which it has to be registered.
        let waits = pod.as_ref().is_some_and(|pod| pod.waits_for_target_health_only());
        for &address in &endpoint.addresses {
            for &port in ports {
                let view = EndpointView {
                    service: Arc::clone(service),
                    address: Address::Ip(address),
                    port,
                    ready: (endpoint.ready || waits) && !terminating,
                    serving: endpoint.serving || waits,
                    terminating,
                    pod: pod.clone(),
                    node: node.clone(),
                    zone: zone.clone(),
                };
                self.merge(view);
            }
        }
    }

    /// One pod may stand in two slices while the slice controller moves it: it is ready when either says so.
    fn merge(&mut self, view: EndpointView) {
        let owners = self.0.entry(view.key()).or_default();
        match owners.get_mut(view.pod_uid()) {
            None => {
                owners.insert(view.pod_uid().to_owned(), view);
            }
            Some(known) => {
                known.terminating |= view.terminating;
                known.serving |= view.serving;
                known.ready = (known.ready || view.ready) && !known.terminating;
            }
        }
    }

    fn choose(self) -> BTreeMap<EndpointKey, Arc<EndpointView>> {
        let best = |owners: BTreeMap<String, EndpointView>| owners.into_values().max_by_key(claim);
        self.0.into_iter().filter_map(|(key, owners)| best(owners).map(|view| (key, Arc::new(view)))).collect()
    }
}

/// How good a pod's claim to an address is; among equals the order of UIDs decides, so that the choice does not waver.
fn claim(view: &EndpointView) -> (bool, bool, bool) {
    let address = view.address.to_string();
    let pod_says_so = view.pod.as_ref().is_some_and(|pod| pod.ips.contains(&address));
    (!view.terminating, pod_says_so, view.ready)
}
