//! Whatever happens in whatever order: in the end the hub holds what the cluster shows, and it is told of no deletion that was not
//! seen. The hub here is a second, simple one, which takes every list at its word.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;

use super::{
    messages::{Body, Incoming, Outgoing},
    objects::{Key, Resource, SourceEvent, Spec},
    session::{At, Input, Output, Session},
    status::ResourceStatus,
};

/// UID and generation.
type Standing = (u32, u64);

#[derive(Debug, Clone)]
enum Event {
    /// A resource is created, or changed when it is there.
    Apply(u8),
    /// It is deleted, and the watcher sees it.
    Delete(u8),
    /// It is deleted while the watcher looks away; the next list shows that.
    Vanish(u8),
    Relist,
    /// A list that breaks off after its first resource.
    BrokenList,
    Fail,
    Recover,
    /// The stream ends; whatever the hub had not stored is lost.
    Close,
    /// The agent has a new certificate, and dials anew.
    Renew,
    /// The hub stores what it got, and says so.
    Acknowledge,
    /// How many messages can be written.
    Room(usize),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let name = 0..6_u8;
    prop_oneof![
        4 => name.clone().prop_map(Event::Apply),
        3 => name.clone().prop_map(Event::Delete),
        1 => name.prop_map(Event::Vanish),
        1 => Just(Event::Relist),
        1 => Just(Event::BrokenList),
        1 => Just(Event::Fail),
        1 => Just(Event::Recover),
        2 => Just(Event::Close),
        1 => Just(Event::Renew),
        4 => Just(Event::Acknowledge),
        2 => (0..4_usize).prop_map(Event::Room),
        3 => (0..5_000_u64).prop_map(Event::Wait),
    ]
}

#[derive(Default)]
struct Hub {
    held: BTreeMap<Key, Standing>,
    list: Option<(String, BTreeSet<Key>)>,
    /// Came on this stream and is not stored.
    inbox: Vec<Outgoing>,
    last_seq: u64,
}

struct Played {
    session: Option<Session>,
    now: Duration,
    room: usize,
    hub: Hub,
    cluster: BTreeMap<Key, Standing>,
    uids: u32,
    /// Deletions that the watcher saw.
    evidence: BTreeSet<(Key, String)>,
}

fn key(name: u8) -> Key {
    Key { namespace: "shop".to_owned(), name: format!("p{name}") }
}

fn resource(key: &Key, (uid, generation): Standing) -> Box<Resource> {
    Box::new(Resource {
        key: key.clone(),
        uid: uid.to_string(),
        generation,
        resource_version: "1".to_owned(),
        spec: Spec::Text(Arc::from(generation.to_string())),
        status: ResourceStatus::default(),
    })
}

impl Hub {
    fn take(&mut self, message: Outgoing) {
        match message.body {
            Body::Hello { .. } => {}
            Body::ListBegin { list_id } => self.list = Some((list_id, BTreeSet::new())),
            Body::Changes { upserts, deleted } => {
                for upsert in upserts {
                    if let Some((_, listed)) = &mut self.list {
                        listed.insert(upsert.key.clone());
                    }
                    let standing = (upsert.uid.parse().expect("a number"), upsert.generation);
                    self.held.insert(upsert.key, standing);
                }
                for (key, uid) in deleted {
                    if self.held.get(&key).is_some_and(|(held, _)| held.to_string() == uid) {
                        self.held.remove(&key);
                    }
                }
            }
            Body::ListEnd { list_id, count } => {
                let (begun, listed) = self.list.take().expect("a list ends that began");
                assert_eq!((begun, listed.len()), (list_id, count));
                self.held.retain(|key, _| listed.contains(key));
            }
            Body::Failing { .. } => {}
        }
    }
}

impl Played {
    fn new() -> Self {
        Self {
            session: Some(Session::new()),
            now: Duration::ZERO,
            room: 8,
            hub: Hub::default(),
            cluster: BTreeMap::new(),
            uids: 0,
            evidence: BTreeSet::new(),
        }
    }

    fn step(&mut self, input: Input) {
        let at = At { now: self.now, room: self.room, jitter: 0.5, highest_epoch: 0 };
        let (outputs, session) = self.session.take().expect("a session").step(input, at);
        self.session = Some(session);
        let mut written = 0;
        for output in outputs {
            match output {
                Output::Dial => self.open(),
                Output::Send(message) => {
                    written += 1;
                    assert!(message.seq == 0 || written <= at.room, "more was written than there is room for");
                    self.receive(message);
                }
                Output::Drop | Output::Lost => {
                    self.hub.inbox.clear();
                    self.hub.list = None;
                }
                Output::Watch(_) | Output::Show { .. } | Output::Released { .. } | Output::Note(_) => {}
            }
        }
    }

    fn open(&mut self) {
        self.hub.last_seq = 0;
        self.step(Input::Opened);
        self.step(Input::Received(Incoming::Welcome { epoch: 1, is_source: true, message: String::new() }));
    }

    fn receive(&mut self, message: Outgoing) {
        if let Body::Changes { deleted, .. } = &message.body {
            for (key, uid) in deleted {
                assert!(self.evidence.contains(&(key.clone(), uid.clone())), "nobody saw {key} {uid} go");
            }
        }
        assert!(message.seq == 0 || message.seq == self.hub.last_seq + 1, "{message:?}");
        self.hub.last_seq = message.seq;
        self.hub.inbox.push(message);
    }

    fn acknowledge(&mut self) {
        for message in std::mem::take(&mut self.hub.inbox) {
            self.hub.take(message);
        }
        if self.hub.last_seq > 0 && self.live() {
            self.step(Input::Received(Incoming::Ack { seq: self.hub.last_seq }));
        }
    }

    fn live(&self) -> bool {
        matches!(self.session.as_ref().expect("a session").stage(), "listing" | "live")
    }

    fn relist(&mut self) {
        self.step(Input::Source(SourceEvent::ListStarted));
        for (key, standing) in self.cluster.clone() {
            self.step(Input::Source(SourceEvent::Listed(resource(&key, standing))));
        }
        self.step(Input::Source(SourceEvent::ListDone));
    }

    fn play(&mut self, event: Event) {
        match event {
            Event::Apply(name) => {
                let key = key(name);
                let uids = &mut self.uids;
                let standing = self.cluster.entry(key.clone()).or_insert_with(|| {
                    *uids += 1;
                    (*uids, 0)
                });
                standing.1 += 1;
                let seen = resource(&key, *standing);
                self.step(Input::Source(SourceEvent::Applied(seen)));
            }
            Event::Delete(name) => {
                if let Some((uid, _)) = self.cluster.remove(&key(name)) {
                    let (key, uid) = (key(name), uid.to_string());
                    self.evidence.insert((key.clone(), uid.clone()));
                    self.step(Input::Source(SourceEvent::Deleted { key, uid }));
                }
            }
            // What vanished and came back is another resource.
            Event::Vanish(name) => drop(self.cluster.remove(&key(name))),
            Event::Relist => self.relist(),
            Event::BrokenList => {
                self.step(Input::Source(SourceEvent::ListStarted));
                if let Some((key, standing)) = self.cluster.pop_first() {
                    self.step(Input::Source(SourceEvent::Listed(resource(&key, standing))));
                    self.cluster.insert(key, standing);
                }
            }
            Event::Fail => self.step(Input::Source(SourceEvent::Failing("down".to_owned()))),
            Event::Recover => self.step(Input::Source(SourceEvent::Following)),
            Event::Close => {
                if self.live() {
                    self.step(Input::Closed { reason: "gone".to_owned(), refused: false });
                }
            }
            Event::Renew => {
                if self.live() {
                    self.step(Input::Renewed);
                }
            }
            Event::Acknowledge => self.acknowledge(),
            Event::Room(room) => self.room = room,
            Event::Wait(milliseconds) => {
                self.now += Duration::from_millis(milliseconds);
                self.step(Input::Tick);
            }
        }
    }

    /// Nothing is wrong any more, and time passes.
    fn calm_down(&mut self) {
        self.room = 8;
        self.relist();
        for _ in 0..40 {
            if let Some(wake) = self.session.as_ref().expect("a session").wake_at() {
                self.now = self.now.max(wake.min(self.now + Duration::from_secs(10)));
            }
            self.step(Input::Tick);
            self.acknowledge();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn in_the_end_the_hub_holds_what_the_cluster_shows(events in proptest::collection::vec(event(), 0..80)) {
        let mut played = Played::new();
        played.step(Input::Tick);
        for event in events {
            played.play(event);
        }
        played.calm_down();
        prop_assert_eq!(played.session.as_ref().expect("a session").stage(), "live");
        prop_assert_eq!(&played.hub.held, &played.cluster);
    }
}
