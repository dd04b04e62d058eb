//! The member clusters: pods with their addresses and zones, what Kubernetes says of them, and the agents that report it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use switchyard_core::{
    ids::{ClusterName, PodUid},
    inventory::{Endpoint, EndpointKey, EndpointState, Evidence, Link, ServiceKey},
    observed::Target,
    policy::spec::TargetType,
};

use super::{
    SLOTS, Tick,
    event::{App, Place, Slot},
    seconds,
    store::Store,
};

pub const PORT: u16 = 8080;
/// From the death of a process to the end of its pod's readiness.
const NOTICED: Tick = seconds(2);
/// The grace period of a pod that is deleted.
const GRACE: Tick = seconds(6);
/// Without a sign of the agent for so long its link is stale.
const STALE: Tick = seconds(5);

#[derive(Clone, Debug)]
pub struct Pod {
    pub uid: u32,
    pub address: Ipv4Addr,
    pub ready: bool,
    pub terminating: bool,
    /// Its process lives and is fit.
    pub answers: bool,
    /// When its readiness or its fitness last changed.
    pub changed: Tick,
    /// Its end, once it is terminating.
    ends: Tick,
    /// When its kubelet notices that it does not answer, or that it does.
    notices: Option<Tick>,
}

impl Pod {
    pub fn target(&self) -> Target {
        Target::ip(self.address, PORT)
    }

    /// May get requests, by what Kubernetes says.
    pub fn wanted(&self) -> bool {
        self.ready && !self.terminating
    }
}

#[derive(Debug, Default)]
pub struct Agent {
    pub away: bool,
    /// Since when nothing was heard of it.
    silent_since: Option<Tick>,
    /// When its snapshot is complete, while it is not.
    completes: Option<Tick>,
    lag: Tick,
    next: Tick,
    /// What this process has seen itself: only of that it can say that it was deleted.
    seen: BTreeSet<EndpointKey>,
}

pub struct Member {
    pub place: Place,
    pub pods: BTreeMap<(App, u8), Pod>,
    /// The load balancer reaches nothing in here.
    pub dark: bool,
    pub api_empty: bool,
    pub agent: Agent,
    now: Tick,
    /// Something changed that the agent has not looked at.
    dirty: bool,
}

pub fn cluster(place: Place) -> ClusterName {
    ClusterName::new(place.name()).unwrap()
}

pub fn service(app: App) -> ServiceKey {
    ServiceKey {
        namespace: "shop".parse().unwrap(),
        name: app.name().parse().unwrap(),
        port: "http".parse().unwrap(),
        target_type: TargetType::Ip,
    }
}

/// The zone of a slot.
pub fn zone(slot: u8) -> u8 {
    slot % 3
}

impl Member {
    pub fn new(place: Place, uids: &mut u32) -> Self {
        let mut member = Self {
            place,
            pods: BTreeMap::new(),
            dark: false,
            api_empty: false,
            agent: Agent { completes: Some(0), ..Agent::default() },
            now: 0,
            dirty: true,
        };
        for app in App::ALL {
            for slot in 0..SLOTS - 1 {
                member.start(app, slot, None, uids);
            }
        }
        member
    }

    fn start(&mut self, app: App, slot: u8, address: Option<Ipv4Addr>, uids: &mut u32) {
        *uids += 1;
        let own = Ipv4Addr::new(10, self.place as u8, (*uids >> 8) as u8, (*uids & 0xff) as u8);
        let address = address.unwrap_or(own);
        let pod = Pod {
            uid: *uids,
            address,
            ready: true,
            terminating: false,
            answers: true,
            changed: self.now,
            ends: 0,
            notices: None,
        };
        self.pods.insert((app, slot), pod);
        self.dirty = true;
    }

    /// One pod more, if the slot is free.
    pub fn scale_up(&mut self, (_, app, slot): Slot, uids: &mut u32) {
        if !self.pods.contains_key(&(app, slot)) {
            self.start(app, slot, None, uids);
        }
    }

    pub fn scale_down(&mut self, (_, app, slot): Slot, now: Tick) {
        if let Some(pod) = self.pods.get_mut(&(app, slot)).filter(|pod| !pod.terminating) {
            pod.terminating = true;
            pod.ends = now + GRACE;
            self.dirty = true;
        }
    }

    /// Deleted at once, and replaced; at this address, or at a new one.
    pub fn replace(&mut self, (_, app, slot): Slot, address: Option<Ipv4Addr>, uids: &mut u32) {
        self.pods.remove(&(app, slot));
        self.start(app, slot, address, uids);
    }

    /// Gone at once.
    pub fn remove(&mut self, (_, app, slot): Slot) {
        self.dirty = true;
        self.pods.remove(&(app, slot));
    }

    /// A process dies, or is well again.
    pub fn set_answers(&mut self, app: App, slot: u8, answers: bool, now: Tick) {
        if let Some(pod) = self.pods.get_mut(&(app, slot)).filter(|pod| pod.answers != answers) {
            pod.answers = answers;
            pod.changed = now;
            pod.notices = Some(now + NOTICED);
        }
    }

    pub fn set_ready(&mut self, app: App, slot: u8, ready: bool) {
        if let Some(pod) = self.pods.get_mut(&(app, slot)).filter(|pod| pod.ready != ready) {
            pod.ready = ready;
            pod.changed = self.now;
            self.dirty = true;
        }
    }

    pub fn each(&mut self, mut change: impl FnMut(&mut Self, App, u8)) {
        let slots: Vec<(App, u8)> = self.pods.keys().copied().collect();
        for (app, slot) in slots {
            change(self, app, slot);
        }
    }

    /// Time passes for the pods.
    pub fn pass(&mut self, now: Tick) {
        self.now = now;
        let before = self.pods.len();
        self.pods.retain(|_, pod| !pod.terminating || pod.ends > now);
        self.dirty |= self.pods.len() != before;
        for pod in self.pods.values_mut() {
            if pod.notices.is_some_and(|at| at <= now) {
                pod.notices = None;
                if pod.ready != pod.answers {
                    (pod.ready, pod.changed) = (pod.answers, now);
                    self.dirty = true;
                }
            }
        }
    }

    pub fn agent_away(&mut self, now: Tick) {
        self.agent.away = true;
        self.agent.silent_since.get_or_insert(now);
    }

    pub fn agent_back(&mut self, now: Tick) {
        if self.agent.away {
            self.agent.away = false;
            self.connects(now);
        }
    }

    /// A new process: it knows only what it lists.
    pub fn agent_restarts(&mut self, now: Tick) {
        self.agent.seen.clear();
        self.agent.silent_since.get_or_insert(now);
        self.connects(now);
    }

    /// Its session is opened anew.
    pub fn connects(&mut self, now: Tick) {
        self.agent.completes = Some(now + seconds(1));
        self.agent.next = now;
        self.dirty = true;
    }

    pub fn lags(&mut self, lag: u8) {
        self.agent.lag = seconds(lag.into());
    }

    pub fn set_api_empty(&mut self, empty: bool) {
        self.api_empty = empty;
        self.dirty = true;
    }

    /// What the API server says.
    fn listed(&self) -> BTreeMap<EndpointKey, (EndpointState, String)> {
        if self.api_empty {
            return BTreeMap::new();
        }
        let endpoint = |(&(app, slot), pod): (&(App, u8), &Pod)| {
            let key = EndpointKey {
                cluster: cluster(self.place),
                service: service(app),
                target: pod.target(),
                pod_uid: PodUid::new(format!("pod-{}", pod.uid)).unwrap(),
            };
            let Pod { ready, terminating, answers, .. } = *pod;
            let state = EndpointState::Present { ready: ready && !terminating, serving: answers, terminating };
            (key, (state, format!("zone-{}", zone(slot))))
        };
        self.pods.iter().map(endpoint).collect()
    }

    /// The agent reports what is new to it, as far as the hub's store takes it.
    pub fn report(&mut self, store: &mut Store, now: Tick) {
        let name = cluster(self.place);
        if !store.is_up() {
            // The hub cannot take anything; the session goes on and comes through later.
            return;
        }
        if self.agent.away {
            let silent = self.agent.silent_since.is_none_or(|since| now >= since + STALE);
            if silent {
                store.set_link(&name, Link::Stale, now);
            }
            return;
        }
        if now < self.agent.next {
            return;
        }
        if let Some(completes) = self.agent.completes {
            let opened = self.agent.silent_since.take().is_some() || store.link(&name) != Some(Link::Syncing);
            if opened {
                store.open_session(&name, now);
            }
            self.say(store, completes <= now, now);
            if completes <= now {
                self.agent.completes = None;
                store.set_link(&name, Link::Connected, now);
                self.dirty = false;
            }
            return;
        }
        if self.dirty {
            self.say(store, true, now);
            self.dirty = false;
            self.agent.next = now + self.agent.lag;
        }
    }

    /// `whole`: what is not listed is gone, too.
    fn say(&mut self, store: &mut Store, whole: bool, now: Tick) {
        let name = cluster(self.place);
        let listed = self.listed();
        let known = store.endpoints(&name);
        for app in App::ALL {
            store.resolve_service(&name, &service(app), now);
        }
        for (key, (state, zone)) in &listed {
            if known.get(key) != Some(state) {
                store.upsert(key.clone(), *state, zone, now);
            }
            self.agent.seen.insert(key.clone());
        }
        if !whole {
            return;
        }
        for (key, _) in known.iter().filter(|(key, state)| present(**state) && !listed.contains_key(key)) {
            // Lists that are empty are no deletes that somebody saw.
            let saw = self.agent.seen.contains(key) && !self.api_empty;
            let evidence = if saw { Evidence::PodDeleted } else { Evidence::Absent };
            store.upsert(key.clone(), EndpointState::Gone(evidence), "", now);
        }
        self.agent.seen.retain(|key| listed.contains_key(key));
    }
}

fn present(state: EndpointState) -> bool {
    matches!(state, EndpointState::Present { .. })
}

/// An endpoint as the store keeps it.
pub fn endpoint(state: EndpointState, zone: &str, first_seen: jiff::Timestamp, now: jiff::Timestamp) -> Endpoint {
    Endpoint {
        state,
        pod_name: String::new(),
        node: String::new(),
        zone: zone.to_owned(),
        eni_ids: Vec::new(),
        gates: Vec::new(),
        first_seen,
        updated_at: now,
    }
}
