//! Builders and a feed for tests: objects in one line each, and an index that is told things as watchers tell them.

use std::sync::Arc;

use super::{
    Index,
    objects::{
        Batch, EndpointView, Family, InstanceId, NodeObject, NodeTarget, Object, PodObject, PodRef, ServiceObject,
        ServicePort, ServiceRef, ServiceStatus, SliceEndpoint, SliceObject, Source, SourceEvent, SourceKind, SourceRun,
        TargetKind, TombstoneReason,
    },
};

pub const NS: &str = "shop";

pub fn reference(name: &str, port: &str) -> ServiceRef {
    reference_in(NS, name, port)
}

pub fn reference_in(namespace: &str, name: &str, port: &str) -> ServiceRef {
    ServiceRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        port: port.to_owned(),
        targets: TargetKind::Pods,
    }
}

pub fn service(name: &str, ports: &[(&str, u16)]) -> ServiceObject {
    let port = |&(name, port): &(&str, u16)| ServicePort { name: name.to_owned(), port, node_port: 0 };
    ServiceObject {
        name: name.to_owned(),
        ports: ports.iter().map(port).collect(),
        primary_family: Some(Family::V4),
        has_selector: true,
        selector: [("app".to_owned(), name.to_owned())].into(),
        external_name: false,
        health_check_node_port: 0,
        deleting: false,
    }
}

pub fn slice(name: &str, service: &str, ports: &[(&str, u16)], endpoints: Vec<SliceEndpoint>) -> SliceObject {
    SliceObject {
        name: name.to_owned(),
        service: service.to_owned(),
        family: Some(Family::V4),
        ports: ports.iter().map(|&(name, port)| (name.to_owned(), port)).collect(),
        endpoints,
    }
}

/// A ready endpoint of the pod; the UID is the pod's name and the generation in it, as in "web-0/1".
pub fn ready(address: &str, pod: &str, uid: &str) -> SliceEndpoint {
    SliceEndpoint {
        addresses: vec![address.parse().expect("an address")],
        ready: true,
        serving: true,
        terminating: false,
        pod: Some(PodRef { name: pod.to_owned(), uid: uid.to_owned() }),
        node: String::new(),
        zone: String::new(),
    }
}

pub fn pod(name: &str, uid: &str, ip: &str) -> PodObject {
    PodObject { name: name.to_owned(), uid: uid.to_owned(), ips: vec![ip.to_owned()], ..PodObject::default() }
}

pub fn deleting(pod: PodObject) -> PodObject {
    PodObject { deletion_timestamp: Some(jiff::Timestamp::UNIX_EPOCH), ..pod }
}

pub fn node(name: &str, zone: &str) -> NodeObject {
    NodeObject { name: name.to_owned(), zone: zone.to_owned(), target: None }
}

/// A ready node that is an instance. The UID is the node's name and the generation, as in "n1/1".
pub fn instance_node(name: &str, uid: &str, instance: &str) -> NodeObject {
    let target = NodeTarget {
        uid: uid.to_owned(),
        instance: InstanceId::new(instance),
        ready: true,
        excluded: false,
        leaving: false,
    };
    NodeObject { name: name.to_owned(), zone: "zone-a".to_owned(), target: Some(target) }
}

/// The same Service port, for nodes.
pub fn for_nodes(reference: ServiceRef) -> ServiceRef {
    ServiceRef { targets: TargetKind::Nodes, ..reference }
}

/// A Service with node port 30080 (and so on, by the order of its ports).
pub fn node_port_service(name: &str, ports: &[(&str, u16)]) -> ServiceObject {
    let mut service = service(name, ports);
    for (port, node_port) in service.ports.iter_mut().zip(30080..) {
        port.node_port = node_port;
    }
    service
}

impl From<ServiceObject> for Object {
    fn from(object: ServiceObject) -> Self {
        Self::Service(object)
    }
}

impl From<SliceObject> for Object {
    fn from(object: SliceObject) -> Self {
        Self::EndpointSlice(object)
    }
}

impl From<PodObject> for Object {
    fn from(object: PodObject) -> Self {
        Self::Pod(Box::new(object))
    }
}

impl From<NodeObject> for Object {
    fn from(object: NodeObject) -> Self {
        Self::Node(object)
    }
}

pub fn kind_of(object: &Object) -> SourceKind {
    match object {
        Object::Service(_) => SourceKind::Service,
        Object::EndpointSlice(_) => SourceKind::EndpointSlice,
        Object::Pod(_) => SourceKind::Pod,
        Object::Node(_) => SourceKind::WholeNode,
    }
}

/// An index that is told things.
pub struct Feed {
    pub index: Index,
}

impl Feed {
    /// Watches the references, with every source listed and empty.
    pub fn watching(references: &[ServiceRef]) -> Self {
        let mut feed = Self::unsynced(references);
        feed.list_all_empty();
        feed
    }

    /// Watches the references, with nothing listed yet.
    pub fn unsynced(references: &[ServiceRef]) -> Self {
        let mut feed = Self { index: Index::new() };
        feed.index.set_watch_set(1, references.to_vec());
        feed
    }

    pub fn list_all_empty(&mut self) {
        for from in self.index.wanted_sources() {
            self.index.handle(&from, SourceEvent::ListStarted);
            self.index.handle(&from, SourceEvent::ListDone);
        }
    }

    pub fn run_of(&self, namespace: &str, kind: SourceKind) -> SourceRun {
        let source = match kind {
            // Nodes are watched in one of two ways.
            SourceKind::Node | SourceKind::WholeNode => {
                let of_nodes = |run: &SourceRun| run.source.namespace.is_empty();
                return self.index.wanted_sources().into_iter().find(of_nodes).expect("nodes are always watched");
            }
            _ => Source { namespace: namespace.to_owned(), kind },
        };
        self.index.wanted_sources().into_iter().find(|run| run.source == source).expect("the source is wanted")
    }

    pub fn tell(&mut self, kind: SourceKind, event: SourceEvent) {
        let from = self.run_of(NS, kind);
        self.index.handle(&from, event);
    }

    pub fn apply(&mut self, object: impl Into<Object>) {
        let object = object.into();
        self.tell(kind_of(&object), SourceEvent::Applied(object));
    }

    pub fn delete(&mut self, object: impl Into<Object>) {
        let object = object.into();
        self.tell(kind_of(&object), SourceEvent::Deleted(object));
    }

    pub fn list(&mut self, kind: SourceKind, objects: Vec<Object>) {
        self.tell(kind, SourceEvent::ListStarted);
        for object in objects {
            self.tell(kind, SourceEvent::Listed(object));
        }
        self.tell(kind, SourceEvent::ListDone);
    }

    /// Every change there is, in one batch.
    pub fn changes(&mut self) -> Batch {
        let mut all = Batch::default();
        while let Some(batch) = self.index.take_changes(500) {
            all.services.extend(batch.services);
            all.upserts.extend(batch.upserts);
            all.tombstones.extend(batch.tombstones);
        }
        all
    }

    /// (address, port, pod UID, reason) of every tombstone there is.
    pub fn tombstones(&mut self) -> Vec<(String, u16, String, TombstoneReason)> {
        let batch = self.changes();
        batch
            .tombstones
            .into_iter()
            .map(|gone| (gone.address.to_string(), gone.port, gone.pod_uid, gone.reason))
            .collect()
    }

    pub fn endpoints(&mut self) -> Vec<Arc<EndpointView>> {
        self.index.view().endpoints
    }

    /// "address:port" of every endpoint there is.
    pub fn addresses(&mut self) -> Vec<String> {
        self.endpoints().iter().map(|view| format!("{}:{}", view.address, view.port)).collect()
    }

    pub fn status_of(&mut self, reference: &ServiceRef) -> ServiceStatus {
        let view = self.index.view();
        view.services.into_iter().find(|(known, _)| **known == *reference).expect("the reference is watched").1
    }
}

/// One Service `checkout` with the port http, one pod behind it, everything told to the hub.
pub fn one_pod_reported() -> Feed {
    let mut feed = Feed::watching(&[reference("checkout", "http")]);
    feed.apply(service("checkout", &[("http", 80)]));
    feed.apply(pod("web-0", "web-0/1", "10.0.0.1"));
    feed.apply(slice("checkout-a", "checkout", &[("http", 8080)], vec![ready("10.0.0.1", "web-0", "web-0/1")]));
    assert_eq!(feed.changes().upserts.len(), 1);
    feed
}
