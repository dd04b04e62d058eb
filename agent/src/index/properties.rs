//! The index against a stupid model: after any sequence of events the incremental view is the view of a list taken at rest, and a hub
//! that applies every change holds the same set.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    Index,
    fixtures::*,
    objects::{
        Batch, EndpointView, NodeObject, Object, PodObject, PodRef, ServiceRef, ServiceStatus, SliceEndpoint,
        SourceEvent, SourceKind, SourceRun, TargetKind, TombstoneReason,
    },
};

const SERVICES: [&str; 2] = ["cart", "checkout"];
/// What may be watched: a bit each.
const REFERENCES: [(&str, &str, TargetKind); 6] = [
    ("cart", "http", TargetKind::Pods),
    ("cart", "9000", TargetKind::Pods),
    ("checkout", "http", TargetKind::Pods),
    ("search", "http", TargetKind::Pods),
    ("checkout", "http", TargetKind::Nodes),
    ("cart", "9000", TargetKind::Nodes),
];

/// What happens in the cluster, and how the agent learns of it.
#[derive(Debug, Clone)]
enum Op {
    Service {
        service: usize,
        ports: u8,
        there: bool,
    },
    /// Endpoints name pods by number; two pods may share an address, and a pod may bear a name that another bore before.
    Slice {
        slice: usize,
        service: usize,
        port: u16,
        endpoints: Vec<(u8, bool)>,
        there: bool,
    },
    Pod {
        number: u8,
        generation: u8,
        ip: u8,
        state: u8,
        there: bool,
    },
    /// Two nodes may be one instance; a node may bear a name that another bore before.
    Node {
        number: u8,
        generation: u8,
        zone: u8,
        state: u8,
        there: bool,
    },
    /// The source stops telling what happens, until it is listed again.
    Loses(SourceKind),
    Relists(SourceKind),
    WatchSet(u8),
    /// The hub takes so many messages of so many items.
    Takes {
        messages: u8,
        items: usize,
    },
    Snapshot,
}

fn kind() -> impl Strategy<Value = SourceKind> {
    prop_oneof![
        Just(SourceKind::Service),
        Just(SourceKind::EndpointSlice),
        Just(SourceKind::Pod),
        Just(SourceKind::WholeNode)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let endpoints = prop::collection::vec((0..8_u8, any::<bool>()), 0..4);
    prop_oneof![
        2 => (0..2_usize, 0..8_u8, prop::bool::weighted(0.8))
            .prop_map(|(service, ports, there)| Op::Service { service, ports, there }),
        6 => (0..3_usize, 0..2_usize, 8080..8082_u16, endpoints, prop::bool::weighted(0.9))
            .prop_map(|(slice, service, port, endpoints, there)| Op::Slice { slice, service, port, endpoints, there }),
        8 => (0..4_u8, 0..2_u8, 0..3_u8, 0..4_u8, prop::bool::weighted(0.7))
            .prop_map(|(number, generation, ip, state, there)| Op::Pod { number, generation, ip, state, there }),
        3 => (0..3_u8, 0..2_u8, 0..3_u8, 0..6_u8, prop::bool::weighted(0.7)).prop_map(
            |(number, generation, zone, state, there)| Op::Node { number, generation, zone, state, there }),
        1 => kind().prop_map(Op::Loses),
        2 => kind().prop_map(Op::Relists),
        1 => (0..64_u8).prop_map(Op::WatchSet),
        5 => (0..4_u8, 0..6_usize).prop_map(|(messages, items)| Op::Takes { messages, items }),
        1 => Just(Op::Snapshot),
    ]
}

/// What a hub holds that applies what it is told.
#[derive(Default)]
struct ModelHub {
    endpoints: BTreeMap<(ServiceRef, String, u16), EndpointView>,
    services: BTreeMap<ServiceRef, ServiceStatus>,
}

impl ModelHub {
    fn apply(&mut self, batch: &Batch) {
        for gone in &batch.tombstones {
            let key = ((*gone.service).clone(), gone.address.to_string(), gone.port);
            let held = self.endpoints.remove(&key).expect("a tombstone is only for what was sent");
            assert_eq!(held.pod_uid(), gone.pod_uid, "a tombstone names the owner that was sent");
        }
        for view in &batch.upserts {
            let key = ((*view.service).clone(), view.address.to_string(), view.port);
            let before = self.endpoints.insert(key, (**view).clone());
            let same_owner = before.is_none_or(|before| before.pod_uid() == view.pod_uid());
            assert!(same_owner, "the old owner ends before the new one begins");
        }
        self.services.extend(batch.services.iter().map(|(service, status)| ((**service).clone(), status.clone())));
    }

    fn keep(&mut self, watched: &[ServiceRef]) {
        self.endpoints.retain(|(service, ..), _| watched.contains(service));
        self.services.retain(|service, _| watched.contains(service));
    }
}

struct World {
    feed: Feed,
    hub: ModelHub,
    objects: BTreeMap<(SourceKind, String), Object>,
    lost: Vec<SourceKind>,
    version: u64,
    /// UIDs whose end the agent saw: an object was deleted, or showed a deletionTimestamp or a terminal phase.
    seen_ending: Vec<String>,
}

impl World {
    fn new() -> Self {
        let feed = Feed::watching(&references(0b01_0111));
        let hub = ModelHub::default();
        Self { feed, hub, objects: BTreeMap::new(), lost: Vec::new(), version: 1, seen_ending: Vec::new() }
    }

    fn put(&mut self, name: &str, object: Object, there: bool) {
        let kind = kind_of(&object);
        let key = (kind, name.to_owned());
        let before = self.objects.get(&key).cloned();
        // A pod that bears an old name under a new UID can only be there when the old one was deleted.
        let replaced = before.as_ref().is_some_and(|before| uid_of(before) != uid_of(&object));
        if !there || replaced {
            self.objects.remove(&key);
            if let Some(before) = before {
                self.tell(kind, SourceEvent::Deleted(before));
            }
        }
        if there {
            self.objects.insert(key, object.clone());
            self.tell(kind, SourceEvent::Applied(object));
        }
    }

    fn tell(&mut self, kind: SourceKind, event: SourceEvent) {
        let watched = self.watches(kind);
        if !watched || self.lost.contains(&kind) {
            return;
        }
        self.note_endings(&event);
        let event = match event {
            SourceEvent::Applied(object) => SourceEvent::Applied(self.as_watched(object)),
            SourceEvent::Deleted(object) => SourceEvent::Deleted(self.as_watched(object)),
            other => other,
        };
        self.feed.tell(kind, event);
    }

    fn note_endings(&mut self, event: &SourceEvent) {
        match event {
            SourceEvent::Deleted(object) => self.seen_ending.push(uid_of(object).to_owned()),
            SourceEvent::Applied(Object::Node(node)) | SourceEvent::Listed(Object::Node(node))
                if node.target.as_ref().is_some_and(|target| target.leaving) =>
            {
                self.seen_ending.push(uid_of(&Object::Node(node.clone())).to_owned());
            }
            SourceEvent::Applied(Object::Pod(pod)) | SourceEvent::Listed(Object::Pod(pod))
                if pod.is_evidence_of_end() =>
            {
                self.seen_ending.push(pod.uid.clone());
            }
            _ => {}
        }
    }

    fn relist(&mut self, kind: SourceKind) {
        self.lost.retain(|lost| *lost != kind);
        let objects: Vec<_> = self.objects.values().filter(|object| kind_of(object) == kind).cloned().collect();
        // A list that shows another pod under the name proves the end of the first: count what stands in the list as seen.
        for object in &objects {
            self.note_endings(&SourceEvent::Listed(object.clone()));
            let name = match object {
                Object::Pod(pod) => &pod.name,
                Object::Node(node) => &node.name,
                Object::Service(_) | Object::EndpointSlice(_) => continue,
            };
            let others = (0..2).map(|generation| uid(name, generation)).filter(|other| other != uid_of(object));
            self.seen_ending.extend(others);
        }
        if self.watches(kind) {
            self.feed.list(kind, objects.into_iter().map(|object| self.as_watched(object)).collect());
        }
    }

    fn watches(&self, kind: SourceKind) -> bool {
        let wanted = self.feed.index.wanted_sources();
        // In one way or the other.
        let nodes = |kind: SourceKind| matches!(kind, SourceKind::Node | SourceKind::WholeNode);
        wanted.iter().any(|run| run.source.kind == kind || (nodes(kind) && nodes(run.source.kind)))
    }

    /// As the agent's present way of watching shows an object: without their status nodes are no targets.
    fn as_watched(&self, object: Object) -> Object {
        let whole = self.feed.index.wanted_sources().iter().any(|run| run.source.kind == SourceKind::WholeNode);
        match object {
            Object::Node(node) if !whole => Object::Node(NodeObject { target: None, ..node }),
            other => other,
        }
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Service { service: number, ports, there } => {
                let all = [("http", 80), ("admin", 9000)];
                let some: Vec<_> = (0..2).filter(|bit| ports & (1 << bit) != 0).map(|bit| all[bit]).collect();
                let name = SERVICES[*number];
                let object = if ports & 4 == 0 { node_port_service(name, &some) } else { service(name, &some) };
                self.put(name, object.into(), *there);
            }
            Op::Slice { slice: number, service, port, endpoints, there } => {
                let name = format!("slice-{number}");
                let endpoints = endpoints.iter().map(|&(pod, ready)| endpoint(pod, ready)).collect();
                let object = slice(&name, SERVICES[*service], &[("http", *port), ("admin", *port + 100)], endpoints);
                self.put(&name, object.into(), *there);
            }
            Op::Pod { number, generation, ip, state, there } => {
                let name = format!("pod-{number}");
                let living = pod(&name, &uid(&name, *generation), &format!("10.0.0.{ip}"));
                let living = PodObject { node: format!("node-{}", number % 2), ..living };
                let object = match state {
                    0 => deleting(living),
                    1 => PodObject { finished: true, ..living },
                    _ => living,
                };
                self.put(&name, object.into(), *there);
            }
            Op::Node { number, generation, zone, state, there } => {
                let name = format!("node-{number}");
                let mut node = instance_node(&name, &uid(&name, *generation), &instance(number % 2));
                node.zone = format!("zone-{zone}");
                let target = node.target.as_mut().expect("a target");
                match state {
                    0 => target.ready = false,
                    1 => target.excluded = true,
                    2 => target.leaving = true,
                    3 => target.instance = None,
                    _ => {}
                }
                self.put(&name, node.into(), *there);
            }
            Op::Loses(kind) => {
                self.lost.push(*kind);
                if self.watches(*kind) {
                    self.feed.tell(*kind, SourceEvent::Failing("broke".to_owned()));
                }
            }
            Op::Relists(kind) => self.relist(*kind),
            Op::WatchSet(bits) => self.watch_set(*bits),
            Op::Takes { messages, items } => {
                for _ in 0..*messages {
                    self.take(*items);
                }
            }
            Op::Snapshot => self.snapshot(),
        }
    }

    fn watch_set(&mut self, bits: u8) {
        // The hub is told of the old set first, as the session does it.
        while self.take(500) {}
        self.version += 1;
        let watched = references(bits);
        self.feed.index.set_watch_set(self.version, watched.clone());
        self.feed.index.set_confirmed();
        self.hub.keep(&watched);
        // Sources that are new are listed at once here; what happens before their list is tested by sentence.
        for kind in SourceKind::NAMESPACED.into_iter().chain([SourceKind::WholeNode]) {
            if !self.feed.index.all_synced() {
                self.relist(kind);
            }
        }
    }

    fn take(&mut self, items: usize) -> bool {
        let Some(batch) = self.feed.index.take_changes(items) else { return false };
        assert!(batch.len() <= items.max(2) && !batch.is_empty());
        for gone in &batch.tombstones {
            let seen = self.seen_ending.contains(&gone.pod_uid);
            assert!(gone.reason != TombstoneReason::PodDeleted || seen, "{} was never seen to end", gone.pod_uid);
        }
        self.hub.apply(&batch);
        true
    }

    fn snapshot(&mut self) {
        let snapshot = self.feed.index.take_snapshot();
        self.hub = ModelHub::default();
        self.hub.apply(&Batch { services: snapshot.services, upserts: snapshot.endpoints, tombstones: Vec::new() });
    }

    /// The view of an index that was only ever told the lists, as they are now.
    fn view_at_rest(&self, watched: &[ServiceRef]) -> super::Snapshot {
        let mut fresh = Feed { index: Index::new() };
        fresh.index.set_watch_set(self.version, watched.to_vec());
        for run in fresh.index.wanted_sources() {
            fresh.index.handle(&run, SourceEvent::ListStarted);
            let kind = if run.source.namespace.is_empty() { SourceKind::WholeNode } else { run.source.kind };
            for object in self.objects.values().filter(|object| kind_of(object) == kind) {
                fresh.index.handle(&run, SourceEvent::Listed(fresh_as_watched(&run, object.clone())));
            }
            fresh.index.handle(&run, SourceEvent::ListDone);
        }
        fresh.index.view()
    }
}

fn references(bits: u8) -> Vec<ServiceRef> {
    let wanted = REFERENCES.iter().enumerate().filter(|(number, _)| bits & (1 << number) != 0);
    wanted.map(|(_, (name, port, targets))| ServiceRef { targets: *targets, ..reference(name, port) }).collect()
}

fn fresh_as_watched(run: &SourceRun, object: Object) -> Object {
    match object {
        Object::Node(node) if run.source.kind == SourceKind::Node => Object::Node(NodeObject { target: None, ..node }),
        other => other,
    }
}

/// Empty for what has none that matters.
fn uid_of(object: &Object) -> &str {
    match object {
        Object::Pod(pod) => &pod.uid,
        Object::Node(node) => node.target.as_ref().map_or("", |target| &target.uid),
        Object::Service(_) | Object::EndpointSlice(_) => "",
    }
}

fn instance(number: u8) -> String {
    format!("i-{number:017x}")
}

fn uid(name: &str, generation: u8) -> String {
    format!("{name}/{generation}")
}

/// Pods 0 to 3 in their two generations; the address follows from neither, so addresses are reused.
fn endpoint(number: u8, is_ready: bool) -> SliceEndpoint {
    let name = format!("pod-{}", number % 4);
    let whole = ready(&format!("10.0.0.{}", number % 3), &name, &uid(&name, number / 4));
    let pod = whole.pod.clone().filter(|_| number != 7);
    let pod = pod.map(|pod| if number == 6 { PodRef { uid: String::new(), ..pod } } else { pod });
    SliceEndpoint { ready: is_ready, pod, zone: "zone-of-slice".to_owned(), ..whole }
}

proptest! {
    #[test]
    fn the_view_and_the_hub_are_what_a_list_at_rest_would_show(ops in prop::collection::vec(op(), 0..80)) {
        let mut world = World::new();
        for op in &ops {
            world.act(op);
        }
        for kind in world.lost.clone() {
            world.relist(kind);
        }
        let view = world.feed.index.view();
        let watched: Vec<_> = view.services.iter().map(|(service, _)| (**service).clone()).collect();
        prop_assert_eq!(&view, &world.view_at_rest(&watched));

        while world.take(4) {}
        prop_assert!(!world.feed.index.is_touched());
        let key = |view: &EndpointView| ((*view.service).clone(), view.address.to_string(), view.port);
        let shown: BTreeMap<_, _> = view.endpoints.iter().map(|view| (key(view), (**view).clone())).collect();
        prop_assert_eq!(&world.hub.endpoints, &shown);
        let states: BTreeMap<_, _> = view.services.into_iter().map(|(service, status)| ((*service).clone(), status)).collect();
        prop_assert_eq!(&world.hub.services, &states);
    }
}
