//! The session against a model of the hub, over any sequence of events: lost messages, broken streams, honest and forgetful
//! hubs, slow acknowledgements, new watch sets, sources that fail.
//!
//! The model stores what arrives, in order, and refuses what the real hub refuses. After every sequence things are left to come to
//! rest, and then the model must hold exactly what the index shows.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::{
    index::{
        fixtures::*,
        objects::{EndpointView, Object, ServiceRef, ServiceStatus, SliceEndpoint, SourceEvent, SourceKind},
    },
    link::messages::Body,
};

const SMALL: Settings = Settings {
    window: 3,
    max_items: 3,
    coalesce: Duration::from_millis(50),
    hold: Duration::from_secs(5),
    source_pause: Duration::from_millis(200),
};
const SERVICES: [&str; 3] = ["cart", "checkout", "search"];

#[derive(Debug, Clone)]
enum Op {
    /// The slice of that Service holds these endpoints now, in that zone.
    Slice { service: usize, endpoints: u8, zone: u8 },
    /// The Service is there, or not.
    Service { service: usize, there: bool },
    /// All sources of the namespace are listed, from what is so.
    Relist,
    /// A source fails.
    Fail(usize),
    /// The hub takes in some of what has arrived, and acknowledges it or not.
    HubReads { messages: usize, acks: bool },
    /// The stream breaks; what has not been read is lost.
    Breaks,
    /// The agent has a new certificate, and dials anew.
    Renewed,
    /// The hub's store is set back to nothing.
    HubForgets,
    /// The hub asks for a snapshot.
    Resync,
    /// The hub asks for other Services: a bit for each.
    WatchSet(u8),
    /// Time passes.
    Pause(u16),
    /// That many messages can be written from now on, until more is said.
    Room(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..3_usize, 0..8_u8, 0..3_u8).prop_map(|(service, endpoints, zone)| Op::Slice { service, endpoints, zone }),
        2 => (0..3_usize, any::<bool>()).prop_map(|(service, there)| Op::Service { service, there }),
        1 => Just(Op::Relist),
        1 => (0..3_usize).prop_map(Op::Fail),
        6 => (0..6_usize, any::<bool>()).prop_map(|(messages, acks)| Op::HubReads { messages, acks }),
        2 => Just(Op::Breaks),
        1 => Just(Op::Renewed),
        1 => Just(Op::HubForgets),
        1 => Just(Op::Resync),
        2 => (0..8_u8).prop_map(Op::WatchSet),
        6 => (0..3000_u16).prop_map(Op::Pause),
        3 => (0..6_usize).prop_map(Op::Room),
    ]
}

type Held = BTreeMap<(ServiceRef, String, u16), EndpointView>;

/// What the hub's store holds; it outlives connections.
#[derive(Default)]
struct HubStore {
    endpoints: Held,
    services: BTreeMap<ServiceRef, ServiceStatus>,
    last_seq: u64,
    /// The store holds all of the agent's view up to `last_seq`.
    whole: bool,
}

/// The model of the hub with its present connection.
struct Hub {
    store: HubStore,
    watch_set: (u64, Vec<ServiceRef>),
    /// The sets that the agent may still answer from.
    sets: Vec<(u64, Vec<ServiceRef>)>,
    arrived: VecDeque<Outgoing>,
    staging: Option<(String, u64, Held, BTreeMap<ServiceRef, ServiceStatus>)>,
    last_seq: u64,
    live: Option<u64>,
}

impl Hub {
    /// Takes in one message, and gives what it answers.
    fn read(&mut self, message: Outgoing, acks: bool) -> Vec<Incoming> {
        if let Body::Hello { last_acked_seq, .. } = message.body {
            return self.welcome(last_acked_seq);
        }
        if message.body == Body::Heartbeat {
            return vec![Incoming::Heartbeat];
        }
        assert!(message.seq > self.last_seq, "message {} after {}", message.seq, self.last_seq);
        self.last_seq = message.seq;
        match message.body {
            Body::SnapshotBegin { snapshot_id, watch_set_version } => {
                self.staging = Some((snapshot_id, watch_set_version, Held::new(), BTreeMap::new()));
            }
            Body::Changes(batch) => self.change(&batch),
            Body::SnapshotEnd { snapshot_id, services, endpoints } => {
                self.end_snapshot(&snapshot_id, services, endpoints)
            }
            Body::Live { watch_set_version } => {
                assert!(self.staging.is_none(), "live within a snapshot");
                let in_force = self.sets.iter().any(|(version, _)| *version == watch_set_version);
                if !self.store.whole || !in_force {
                    self.store.last_seq = message.seq;
                    return vec![
                        Incoming::Ack { seq: message.seq },
                        Incoming::Resync { reason: "no snapshot".to_owned() },
                    ];
                }
                self.live = Some(watch_set_version);
                self.forget_what_left(watch_set_version);
            }
            Body::SourceStates(_) => {}
            Body::Hello { .. } | Body::Heartbeat => unreachable!("answered above"),
        }
        self.store.last_seq = message.seq;
        if acks { vec![Incoming::Ack { seq: message.seq }] } else { Vec::new() }
    }

    fn end_snapshot(&mut self, snapshot_id: &str, services: usize, endpoints: usize) {
        // The hub asked for another one in the middle of this.
        let Some((id, version, held, states)) = self.staging.take() else { return };
        assert_eq!((id.as_str(), states.len(), held.len()), (snapshot_id, services, endpoints), "the counts match");
        let covered = self.sets.iter().find(|(known, _)| *known == version).expect("the set is in force").1.clone();
        self.store.endpoints.retain(|(service, ..), _| !covered.contains(service));
        self.store.services.retain(|service, _| !covered.contains(service));
        self.store.endpoints.extend(held);
        self.store.services.extend(states);
        self.store.whole = true;
    }

    fn welcome(&mut self, last_acked: u64) -> Vec<Incoming> {
        let resumes = last_acked > 0 && self.store.whole && self.store.last_seq >= last_acked;
        let resume_after = resumes.then_some(self.store.last_seq);
        self.last_seq = resume_after.unwrap_or(0);
        self.store.whole = resumes;
        self.sets = vec![self.watch_set.clone()];
        let (version, services) = self.watch_set.clone();
        let welcome =
            Incoming::Welcome { epoch: 1, session_id: String::new(), heartbeat: Duration::from_secs(60), resume_after };
        vec![welcome, Incoming::WatchSet { version, services }]
    }

    fn change(&mut self, batch: &crate::index::objects::Batch) {
        assert!(batch.len() <= SMALL.max_items && !batch.is_empty());
        let key = |service: &ServiceRef, address: &crate::index::objects::Address, port| {
            (service.clone(), address.to_string(), port)
        };
        let (held, services) = match &mut self.staging {
            Some((_, _, held, services)) => {
                assert!(batch.tombstones.is_empty(), "a tombstone within a snapshot");
                (held, services)
            }
            None => (&mut self.store.endpoints, &mut self.store.services),
        };
        for gone in &batch.tombstones {
            let key = key(&gone.service, &gone.address, gone.port);
            if held.get(&key).is_some_and(|view| view.pod_uid() == gone.pod_uid) {
                held.remove(&key);
            }
        }
        for view in &batch.upserts {
            held.insert(key(&view.service, &view.address, view.port), (**view).clone());
        }
        services.extend(batch.services.iter().map(|(service, status)| ((**service).clone(), status.clone())));
    }

    fn forget_what_left(&mut self, version: u64) {
        while self.sets.first().is_some_and(|(known, _)| *known != version) && self.sets.len() > 1 {
            self.sets.remove(0);
        }
        let wanted = &self.sets[0].1;
        self.store.endpoints.retain(|(service, ..), _| wanted.contains(service));
        self.store.services.retain(|service, _| wanted.contains(service));
    }
}

/// The agent, the hub, the network between them and the cluster.
struct World {
    feed: Feed,
    session: Option<Session>,
    hub: Hub,
    connected: bool,
    dialling: bool,
    room: usize,
    now: Moment,
    objects: BTreeMap<(SourceKind, String), Object>,
}

impl World {
    fn new() -> Self {
        let services: Vec<_> = SERVICES.iter().map(|name| reference(name, "http")).collect();
        let hub = Hub {
            store: HubStore::default(),
            watch_set: (1, services.clone()),
            sets: vec![(1, services)],
            arrived: VecDeque::new(),
            staging: None,
            last_seq: 0,
            live: None,
        };
        Self {
            feed: Feed { index: Index::new() },
            session: Some(Session::new(SMALL)),
            hub,
            connected: false,
            dialling: false,
            room: 1000,
            now: Duration::ZERO,
            objects: BTreeMap::new(),
        }
    }

    fn step(&mut self, input: Input) {
        let written = self.hub.arrived.len();
        let room = if self.connected { self.room.saturating_sub(written) } else { 0 };
        // Opening a stream always leaves room for Hello.
        let room = if input == Input::Opened { room.max(1) } else { room };
        let session = self.session.take().expect("steps do not nest");
        let (outputs, session) = session.step(input, At { now: self.now, room, jitter: 0.5 }, &mut self.feed.index);
        assert!(session.unacknowledged() <= SMALL.window + 1, "one more for a snapshot's end is all there may be");
        self.session = Some(session);
        let mut sent = 0;
        for output in outputs {
            match output {
                Output::Dial => self.dialling = true,
                Output::Send(message) => {
                    sent += 1;
                    if let Body::SnapshotBegin { watch_set_version, .. } = message.body {
                        let index = &self.feed.index;
                        let of_this_set = watch_set_version == index.watch_set_version();
                        assert!(!of_this_set || index.all_synced(), "a snapshot without all sources");
                    }
                    self.hub.arrived.push_back(message);
                }
                Output::Drop => self.disconnect(),
                Output::WatchSetChanged | Output::Note(_) => {}
            }
        }
        assert!(sent <= room.max(1), "{sent} messages into room for {room}");
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.hub.arrived.clear();
        self.hub.staging = None;
        self.hub.live = None;
    }

    fn settle(&mut self) {
        if self.dialling {
            self.dialling = false;
            self.connected = true;
            self.step(Input::Opened);
        }
    }

    fn hub_reads(&mut self, messages: usize, acks: bool) {
        for _ in 0..messages {
            let Some(message) = self.hub.arrived.pop_front() else { return };
            for answer in self.hub.read(message, acks) {
                if self.connected {
                    self.step(Input::Received(answer));
                }
            }
        }
    }

    fn put(&mut self, object: Object, there: bool) {
        let (kind, name) = match &object {
            Object::Service(service) => (SourceKind::Service, service.name.clone()),
            Object::EndpointSlice(slice) => (SourceKind::EndpointSlice, slice.name.clone()),
            Object::Pod(pod) => (SourceKind::Pod, pod.name.clone()),
            Object::Node(node) => (SourceKind::Node, node.name.clone()),
        };
        let event = if there { SourceEvent::Applied(object.clone()) } else { SourceEvent::Deleted(object.clone()) };
        let was_there = if there {
            self.objects.insert((kind, name), object).is_some()
        } else {
            self.objects.remove(&(kind, name)).is_some()
        };
        let watched = self.feed.index.wanted_sources().into_iter().find(|run| run.source.kind == kind);
        // A watch follows a list: before the first list there are no events, and nobody deletes what is not there.
        if let Some(run) = watched.filter(|_| self.feed.index.all_synced() && (there || was_there)) {
            self.feed.index.handle(&run, event);
        }
        self.step(Input::IndexChanged);
    }

    fn relist(&mut self) {
        for run in self.feed.index.wanted_sources() {
            self.feed.index.handle(&run, SourceEvent::ListStarted);
            for object in self.objects.values().filter(|object| kind_of(object) == run.source.kind) {
                self.feed.index.handle(&run, SourceEvent::Listed(object.clone()));
            }
            self.feed.index.handle(&run, SourceEvent::ListDone);
        }
        self.step(Input::IndexChanged);
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Slice { service, endpoints, zone } => self.put(slice_of(*service, *endpoints, *zone), true),
            Op::Service { service: number, there } => {
                self.put(service(SERVICES[*number], &[("http", 80)]).into(), *there);
            }
            Op::Relist => self.relist(),
            Op::Fail(source) => {
                let run = self.feed.index.wanted_sources().into_iter().nth(*source);
                if let Some(run) = run {
                    self.feed.index.handle(&run, SourceEvent::Failing("refused".to_owned()));
                    self.step(Input::IndexChanged);
                }
            }
            Op::HubReads { messages, acks } => self.hub_reads(*messages, *acks),
            Op::Breaks => {
                if self.connected {
                    self.disconnect();
                    self.step(Input::Closed { reason: "broke".to_owned(), refused: false });
                }
            }
            Op::Renewed => {
                if self.connected {
                    self.step(Input::Renewed);
                }
            }
            Op::HubForgets => {
                // A store that is set back ends all sessions: the hub that had it is gone.
                self.act(&Op::Breaks);
                self.hub.store = HubStore::default();
            }
            Op::Resync => {
                if self.connected && self.session.as_ref().is_some_and(|session| session.stage() == "live") {
                    self.hub.staging = None;
                    self.hub.store.whole = false;
                    self.step(Input::Received(Incoming::Resync { reason: "asked".to_owned() }));
                }
            }
            Op::WatchSet(bits) => self.watch_set(*bits),
            Op::Pause(milliseconds) => {
                self.now += Duration::from_millis(u64::from(*milliseconds));
                self.step(Input::Tick);
            }
            Op::Room(room) => {
                self.room = *room;
                self.step(Input::Tick);
            }
        }
        self.settle();
    }

    fn watch_set(&mut self, bits: u8) {
        let wanted = SERVICES.iter().enumerate().filter(|(number, _)| bits & (1 << number) != 0);
        let services: Vec<_> = wanted.map(|(_, name)| reference(name, "http")).collect();
        let version = self.hub.watch_set.0 + 1;
        self.hub.watch_set = (version, services.clone());
        let welcomed = self.session.as_ref().is_some_and(|session| ["syncing", "live"].contains(&session.stage()));
        if self.connected && welcomed {
            self.hub.sets.push((version, services.clone()));
            self.step(Input::Received(Incoming::WatchSet { version, services }));
        }
    }

    /// Everything works from now on, and nothing changes any more.
    fn come_to_rest(&mut self) {
        self.room = 1000;
        for _ in 0..60 {
            self.now += Duration::from_secs(1);
            self.step(Input::Tick);
            self.settle();
            self.relist();
            self.hub_reads(1000, true);
            // What was read before without a word is acknowledged in the end.
            let seq = self.hub.last_seq;
            self.step(Input::Received(Incoming::Ack { seq }));
        }
    }
}

/// Endpoints are addresses without pods here: joining pods is the index's own business, and tested there.
fn slice_of(service: usize, bits: u8, zone: u8) -> Object {
    let numbers = (0..3_u8).filter(|number| bits & (1 << number) != 0);
    let endpoint = |number: u8| SliceEndpoint {
        pod: None,
        zone: format!("z{zone}"),
        ..ready(&format!("10.0.{service}.{number}"), "", "")
    };
    let name = SERVICES[service];
    slice(&format!("{name}-a"), name, &[("http", 8080)], numbers.map(endpoint).collect()).into()
}

proptest! {
    #[test]
    fn whatever_happens_on_the_way_the_hub_ends_up_with_what_the_cluster_shows(ops in prop::collection::vec(op(), 0..120)) {
        let mut world = World::new();
        for op in &ops {
            world.act(op);
        }
        world.come_to_rest();
        let session = world.session.as_ref().expect("no step is under way");
        prop_assert_eq!(session.stage(), "live");
        prop_assert_eq!(world.hub.live, Some(world.hub.watch_set.0));
        prop_assert_eq!(session.unacknowledged(), 0);
        let view = world.feed.index.view();
        let key = |view: &EndpointView| ((*view.service).clone(), view.address.to_string(), view.port);
        let shown: Held = view.endpoints.iter().map(|view| (key(view), (**view).clone())).collect();
        prop_assert_eq!(&world.hub.store.endpoints, &shown);
        let states: BTreeMap<_, _> = view.services.into_iter().map(|(service, status)| ((*service).clone(), status)).collect();
        prop_assert_eq!(&world.hub.store.services, &states);
    }
}
