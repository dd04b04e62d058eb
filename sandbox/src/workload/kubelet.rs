//! The nodes of a cluster: gives new pods a node, an address and a server, keeps their status true, and ends them. One task
//! per pod; its only inputs are the pod's object, the mode it was put into, and time.
//! Writes pods as a kubelet does: status freely, the object only to schedule and to remove it. Where the API server is a real one
//! a write may fail, and is then made again: nothing a pod does waits for it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::behaviour::{Behaviour, Mode, ModeRequest};
use super::pod_server::{Face, Identity, PodServer};
use super::pod_status::{self, Health};
use super::reach::{Reach, ReachMap, Reaches};
use crate::addresses::IpPool;
use crate::external::External;
use crate::kube::kinds::{NODES, PODS};
use crate::kube::object::Object;
use crate::kube::status::ApiError;
use crate::kube::store::Key;
use crate::objects::Objects;

/// Between two attempts to get an address and its ports.
const START_RETRY: Duration = Duration::from_millis(500);
/// A drain gets at least this long, however little of the grace period is left.
const DRAIN_AT_LEAST: Duration = Duration::from_secs(1);

struct Running {
    uid: String,
    object: watch::Sender<Option<Arc<Object>>>,
    mode: watch::Sender<ModeRequest>,
    ready_since: Arc<Mutex<Option<Instant>>>,
}

/// All nodes of one cluster.
pub struct Kubelet {
    cluster: String,
    objects: Objects,
    ips: Arc<IpPool>,
    reaches: Reaches,
    running: Mutex<HashMap<Key, Running>>,
    /// Counts the pods that were given a node.
    turn: AtomicUsize,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Kubelet {
    pub fn new(
        cluster: &str,
        objects: Objects,
        ips: Arc<IpPool>,
        reaches: Reaches,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let running = Mutex::new(HashMap::new());
        Arc::new(Self {
            cluster: cluster.to_owned(),
            objects,
            ips,
            reaches,
            running,
            turn: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
            shutdown,
        })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, Running>> {
        // Holders only insert, remove and send: the map is whole even after a panic.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a pod as it is now; `None` when it is gone.
    pub fn observe(self: &Arc<Self>, key: &Key, pod: Option<&Arc<Object>>) {
        let mut running = self.running();
        if let Some(known) = running.get(key) {
            let same = pod.filter(|p| p.uid() == known.uid).cloned();
            let replaced = same.is_none();
            known.object.send_replace(same);
            if !replaced {
                return;
            }
            running.remove(key);
        }
        let Some(pod) = pod else { return };
        if pod.text("/spec/nodeName").is_empty() {
            drop(running);
            self.schedule(key, pod);
            return;
        }
        let (object, objects) = watch::channel(Some(pod.clone()));
        let (mode, modes) = watch::channel(ModeRequest::default());
        let ready_since = Arc::new(Mutex::new(None));
        let entry = Running { uid: pod.uid().to_owned(), object, mode, ready_since: ready_since.clone() };
        running.insert(key.clone(), entry);
        let (kubelet, key, reach) = (self.clone(), key.clone(), self.reaches.subscribe());
        let task = PodTask { kubelet, key, pod: pod.clone(), objects, modes, reach, ready_since };
        self.tasks.spawn(task.run());
    }

    /// After a gap in the log: ends the pods that are no longer there.
    pub fn keep_only(self: &Arc<Self>, keys: &[Key]) {
        let gone: Vec<Key> = self.running().keys().filter(|key| !keys.contains(key)).cloned().collect();
        for key in gone {
            self.observe(&key, None);
        }
    }

    /// Round robin over the nodes that take pods.
    fn schedule(&self, key: &Key, pod: &Object) {
        let store = self.objects.store();
        let (_, nodes) = store.list(NODES, None);
        let lost = self.reaches.now().lost;
        let open = |n: &&Arc<Object>| {
            n.value().pointer("/spec/unschedulable") != Some(&Value::Bool(true)) && !lost.contains(n.name())
        };
        let nodes: Vec<&Arc<Object>> = nodes.iter().filter(open).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // No node: the pod stays Pending, and a later change of nodes looks again.
        let Some(node) = turn.checked_rem(nodes.len()).and_then(|at| nodes.get(at)) else { return };
        match &self.objects {
            Objects::Own(store) => {
                pod_status::write(store, key, pod.uid(), |value| pod_status::schedule(value, node.name()));
            }
            Objects::External(external) => self.bind(external.clone(), key.clone(), node.name().to_owned()),
        }
    }

    /// Schedules at a real API server, until it says yes or no.
    fn bind(&self, external: External, key: Key, node: String) {
        let shutdown = self.shutdown.clone();
        let bound = async move {
            while let Err(error) = external.bind(&key.0, &key.1, &node).await {
                // Gone, or bound already.
                if matches!(error.code, 404 | 409) {
                    return;
                }
                tracing::warn!(pod = %key.1, %error, "a pod could not be given a node; trying again");
                tokio::time::sleep(START_RETRY).await;
            }
        };
        self.tasks.spawn(async move { shutdown.run_until_cancelled(bound).await });
    }

    /// Pods that found no node before.
    pub fn schedule_pending(self: &Arc<Self>) {
        for pod in self.objects.store().list(PODS, None).1.iter().filter(|p| p.text("/spec/nodeName").is_empty()) {
            self.schedule(&(pod.namespace().to_owned(), pod.name().to_owned()), pod);
        }
    }

    /// Puts a running pod into a mode. False when there is no such pod.
    pub fn set_mode(&self, key: &Key, mode: ModeRequest) -> bool {
        self.running().get(key).map(|pod| pod.mode.send_replace(mode)).is_some()
    }

    /// Puts every running pod into a mode; gives their number.
    pub fn set_mode_of_all(&self, mode: ModeRequest) -> usize {
        let running = self.running();
        for pod in running.values() {
            pod.mode.send_replace(mode);
        }
        running.len()
    }

    /// Since when the pod of this uid has been ready without a break.
    pub fn ready_since(&self, key: &Key, uid: &str) -> Option<Instant> {
        let running = self.running();
        let pod = running.get(key).filter(|pod| pod.uid == uid)?;
        *pod.ready_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for every pod to end; call after the shutdown token was cancelled.
    pub async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

struct PodTask {
    kubelet: Arc<Kubelet>,
    key: Key,
    pod: Arc<Object>,
    objects: watch::Receiver<Option<Arc<Object>>>,
    modes: watch::Receiver<ModeRequest>,
    reach: watch::Receiver<ReachMap>,
    ready_since: Arc<Mutex<Option<Instant>>>,
}

/// Why the serving part of a pod's life is over.
enum End {
    /// Asked to terminate.
    Terminate,
    /// The object is gone, or the sandbox ends: no grace.
    Kill,
}

struct Live {
    ip: Ipv4Addr,
    ports: Vec<u16>,
    face: Arc<Face>,
    started: watch::Sender<bool>,
    server: Option<PodServer>,
}

impl PodTask {
    async fn run(mut self) {
        let uid = self.pod.uid().to_owned();
        let Some(ip) = self.address(&uid).await else {
            self.remove(&uid).await;
            return;
        };
        if let Some(mut live) = self.start(ip).await {
            let end = self.serve(&mut live).await;
            self.stop(live, end).await;
        }
        self.remove(&uid).await;
        self.kubelet.ips.release(ip, &uid, Instant::now());
    }

    fn over(&self) -> Option<End> {
        match &*self.objects.borrow() {
            None => Some(End::Kill),
            Some(pod) if pod.terminating() => Some(End::Terminate),
            Some(_) => None,
        }
    }

    /// True when the pod should go on trying after a pause.
    async fn pause(&mut self) -> bool {
        tokio::select! {
            () = self.kubelet.shutdown.cancelled() => false,
            // The channel closes only with the kubelet itself.
            _ = self.objects.changed() => self.over().is_none(),
            () = tokio::time::sleep(START_RETRY) => self.over().is_none(),
        }
    }

    async fn address(&mut self, uid: &str) -> Option<Ipv4Addr> {
        loop {
            match self.kubelet.ips.take(uid, Instant::now()) {
                Ok(ip) => return Some(ip),
                Err(error) => tracing::warn!(pod = %self.key.1, %error, "a pod waits for an address"),
            }
            if !self.pause().await {
                return None;
            }
        }
    }

    async fn start(&mut self, ip: Ipv4Addr) -> Option<Live> {
        let behaviour = Behaviour::of(&self.pod);
        let identity = Identity {
            cluster: self.kubelet.cluster.clone(),
            namespace: self.key.0.clone(),
            workload: pod_status::workload(&self.pod),
            pod: self.key.1.clone(),
            version: behaviour.version,
            latency: behaviour.latency,
        };
        let (started, seen) = watch::channel(false);
        let (mode, reach, node) = (self.modes.clone(), self.reach.clone(), self.node().to_owned());
        let face = Arc::new(Face { identity, mode, reach, node, started: seen });
        let ports = pod_status::ports(&self.pod);
        loop {
            if self.dead() {
                return Some(Live { ip, ports, face, started, server: None });
            }
            match PodServer::start(ip, &ports, &face) {
                Ok(server) => {
                    return Some(Live { ip, ports, face, started, server: Some(server) });
                }
                Err(error) => {
                    tracing::warn!(pod = %self.key.1, %ip, ?ports, %error, "a pod cannot listen on its ports; does something on this machine listen there on all addresses?")
                }
            }
            if !self.pause().await {
                return None;
            }
        }
    }

    /// Runs until the pod has to end, grace included. A failing pod goes on failing while it terminates.
    async fn serve(&mut self, live: &mut Live) -> End {
        let behaviour = Behaviour::of(&self.pod);
        let ready_at = tokio::time::Instant::now() + behaviour.ready_after;
        let mut leave_at: Option<tokio::time::Instant> = None;
        loop {
            match self.over() {
                Some(End::Kill) => return End::Kill,
                Some(End::Terminate) => {
                    let allowed = self.grace_period();
                    let until = tokio::time::Instant::now() + behaviour.termination_grace.min(allowed);
                    // A second, shorter deletion shortens the rest.
                    leave_at = Some(leave_at.map_or(until, |at| at.min(until)));
                }
                None => {}
            }
            let written = self.write_status(live).await;
            let waiting = !*live.started.borrow() && leave_at.is_none();
            tokio::select! {
                () = self.kubelet.shutdown.cancelled() => return End::Kill,
                _ = self.objects.changed() => {}
                changed = self.modes.changed() => {
                    // The kubelet let go of this pod: its object was removed or replaced.
                    if changed.is_err() {
                        return End::Kill;
                    }
                    self.follow(live).await;
                }
                // The cluster holds the sender for as long as there are pods.
                Ok(()) = self.reach.changed() => self.follow(live).await,
                () = tokio::time::sleep_until(ready_at), if waiting => {
                    live.started.send_replace(true);
                }
                () = tokio::time::sleep(START_RETRY), if !written => {}
                () = tokio::time::sleep_until(leave_at.unwrap_or(ready_at)), if leave_at.is_some() => return End::Terminate,
            }
        }
    }

    fn grace_period(&self) -> Duration {
        let object = self.objects.borrow();
        let pod = object.as_ref().unwrap_or(&self.pod);
        let seconds = pod.value().pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64);
        Duration::from_secs(seconds.unwrap_or_default())
    }

    fn node(&self) -> &str {
        self.pod.text("/spec/nodeName")
    }

    /// The network refuses connections to it.
    fn dead(&self) -> bool {
        self.reach.borrow().of(self.node()) == Reach::Dead
    }

    /// Brings the server in line with mode and network.
    async fn follow(&mut self, live: &mut Live) {
        let crashed = self.modes.borrow_and_update().mode == Mode::Crashed;
        self.reach.borrow_and_update();
        if crashed || self.dead() {
            if let Some(server) = live.server.take() {
                server.kill().await;
            }
        } else if live.server.is_none() {
            match PodServer::start(live.ip, &live.ports, &live.face) {
                Ok(server) => live.server = Some(server),
                Err(error) => tracing::warn!(pod = %self.key.1, %error, "a pod could not come back"),
            }
        }
    }

    /// False when the API server did not take it.
    async fn write_status(&self, live: &Live) -> bool {
        let started = *live.started.borrow();
        let mode = self.modes.borrow().mode;
        // Probes come from the node itself: a network that is dead outside does not hurt them.
        let running = live.server.is_some() || (self.dead() && mode != Mode::Crashed);
        let lost = self.reach.borrow().lost.contains(self.node());
        let health =
            Health { ip: live.ip, started, running, containers_ready: started && running && mode.ready() && !lost };
        let refresh = |value: &mut Value| pod_status::refresh(value, &health);
        let written = match self.kubelet.objects.change_pod(&self.key, self.pod.uid(), refresh).await {
            Ok(written) => written,
            Err(error) => {
                tracing::warn!(pod = %self.key.1, %error, "the status of a pod could not be written; trying again");
                return false;
            }
        };
        let ready = written.is_some_and(|pod| pod.condition("Ready"));
        let mut since = self.ready_since.lock().unwrap_or_else(PoisonError::into_inner);
        match (ready, *since) {
            (true, None) => *since = Some(Instant::now()),
            (false, Some(_)) => *since = None,
            _ => {}
        }
        true
    }

    async fn stop(&self, live: Live, end: End) {
        let Some(server) = live.server else { return };
        match end {
            // Connections in flight may finish: this is what keeps a rolling update free of errors.
            End::Terminate => server.drain(self.grace_period().max(DRAIN_AT_LEAST)).await,
            End::Kill => server.kill().await,
        }
    }

    async fn remove_for_sure(&mut self, uid: &str) {
        while let Err(error) = self.try_remove(uid).await {
            tracing::warn!(pod = %self.key.1, %error, "a pod that ended could not be removed; trying again");
            tokio::time::sleep(START_RETRY).await;
        }
        // The mirror hears of it later; until then what it still shows must not look like a new pod.
        if matches!(self.kubelet.objects, Objects::External(_)) {
            let _closed = self.objects.wait_for(Option::is_none).await;
        }
    }

    async fn try_remove(&self, uid: &str) -> Result<(), ApiError> {
        self.kubelet.objects.change_pod(&self.key, uid, pod_status::complete).await?;
        self.kubelet.objects.remove_pod(&self.key, uid).await
    }

    /// Removes the object as a kubelet does once the containers are gone, and forgets the pod.
    async fn remove(&mut self, uid: &str) {
        let shutdown = self.kubelet.shutdown.clone();
        if !shutdown.is_cancelled() {
            shutdown.run_until_cancelled(self.remove_for_sure(uid)).await;
        }
        let mut running = self.kubelet.running();
        if running.get(&self.key).is_some_and(|known| known.uid == uid) {
            running.remove(&self.key);
        }
    }
}
