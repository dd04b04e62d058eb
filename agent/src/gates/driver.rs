//! The loop of the readiness gates: watches, the hub's stream, writes and the clock meet here. It decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use switchyard_proto::agent::v1::WatchTargetHealthRequest;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    inject::Injection,
    machine::{At, Gates, Input, Settings},
    objects::{GateId, Outcome, Patch, PolicyKey},
    pods::{Pods, Watch, concerns},
    services::Services,
    stream::{Event, Output, Stream},
    wire::HealthCall,
};
use crate::{
    complaints::Complaints,
    index::objects::SourceRun,
    link::{
        epoch::HighestEpoch,
        transport::{Link, LinkEvent},
    },
    metrics::Metrics,
    watch::{SourceUpdate, Tap, Watchers, gates::GateKeeper},
};

/// Updates that may wait here. They are small: pods with gates, Services, and the ends of lists.
const UPDATES: usize = 256;
/// Writes at once: each is a few milliseconds, and a rollout brings some tens of pods.
const PARALLEL: usize = 8;
/// Between two looks through the cluster for gates that nobody watches. It bounds how long such a gate can hang.
const LOOK_INTERVAL: Duration = Duration::from_secs(300);
/// The first look waits for the hub to name what is watched in any case.
pub const FIRST_LOOK: Duration = Duration::from_secs(10);
/// After a look that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Policies of which it is kept in mind that a release was logged. Policies that are gone stay in it, so it must not grow for ever.
const MAX_RELEASED: usize = 10_000;
/// Names of complaints.
const CANNOT_WRITE: &str = "readiness gates";
const CANNOT_LOOK: &str = "forgotten readiness gates";

/// The parts that the loop drives.
pub struct Driver {
    /// Name of this cluster.
    pub cluster: String,
    /// UUID of this process.
    pub instance_id: String,
    /// How long nobody may judge a pod before its gates open.
    pub release_after: Duration,
    /// Where to look for forgotten gates; everywhere when empty.
    pub namespaces: Vec<String>,
    /// When to look for them first; [`FIRST_LOOK`] outside of tests.
    pub first_look: Duration,
    /// The hub.
    pub link: Link<HealthCall>,
    /// Shared by all streams of the agent.
    pub epoch: HighestEpoch,
    /// The API server.
    pub keeper: GateKeeper,
    /// What the agent's own watches say.
    pub tapped: Tapped,
    /// Watches that are kept for gates alone, and what they say.
    pub kept: (Watchers, mpsc::Receiver<SourceUpdate>),
    /// Counted here.
    pub metrics: Metrics,
    /// Raised here.
    pub complaints: Complaints,
    /// Published here, for the webhook.
    pub injection: watch::Sender<Arc<Injection>>,
}

/// The receiving ends of a tap.
pub struct Tapped {
    updates: mpsc::Receiver<SourceUpdate>,
    wanted: watch::Receiver<Vec<SourceRun>>,
}

/// A tap for the agent's own watchers, and its other end for the driver.
#[must_use]
pub fn tap() -> (Tap, Tapped) {
    let (sender, updates) = mpsc::channel(UPDATES);
    let (wanted_sender, wanted) = watch::channel(Vec::new());
    (Tap { updates: sender, wanted: wanted_sender, concerns }, Tapped { updates, wanted })
}

impl Driver {
    /// Runs until the token is cancelled.
    pub async fn run(self, shutdown: CancellationToken) {
        let settings = Settings { release_after: self.release_after, parallel: PARALLEL };
        let mut running = Running {
            gates: Gates::new(settings, Duration::ZERO),
            stream: Stream::new(Duration::ZERO),
            pods: Pods::default(),
            services: Services::default(),
            request: None,
            writes: JoinSet::new(),
            released: BTreeMap::new(),
            forbidden: BTreeSet::new(),
            looks: JoinSet::new(),
            look_at: self.first_look,
            offline_reason: None,
            started: Instant::now(),
            parts: self,
        };
        running.route();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = running.turn() => {}
            }
        }
        running.stop().await;
    }
}

struct Running {
    parts: Driver,
    gates: Gates,
    stream: Stream,
    pods: Pods,
    services: Services,
    /// The hub's request that waits for a connection.
    request: Option<WatchTargetHealthRequest>,
    writes: JoinSet<(String, GateId, Outcome)>,
    /// The policies whose gates were last opened without a verdict, and why: told once, not once a pod.
    released: BTreeMap<PolicyKey, String>,
    /// Namespaces in which conditions cannot be written.
    forbidden: BTreeSet<String>,
    looks: JoinSet<Result<BTreeSet<String>, String>>,
    /// When to look through the cluster next.
    look_at: Duration,
    /// As it was logged last.
    offline_reason: Option<String>,
    started: Instant,
}

impl Running {
    fn at(&self) -> At {
        At { now: self.started.elapsed(), jitter: rand::random() }
    }

    /// Waits for one thing to happen, and carries it out. Cancel safe: nothing is awaited after something was taken.
    async fn turn(&mut self) {
        let wake = self.gates.wake_at().into_iter().chain([self.stream.wake_at(), self.look_at]).min();
        let wake = self.started + wake.unwrap_or(Duration::ZERO);
        tokio::select! {
            event = self.parts.link.next() => self.hub(event),
            Some(update) = self.parts.tapped.updates.recv() => {
                self.route_if_changed();
                self.watched(Watch::Routed, update);
            }
            Ok(()) = self.parts.tapped.wanted.changed() => self.route(),
            Some(update) = self.parts.kept.1.recv() => self.watched(Watch::Kept, update),
            Some(written) = self.writes.join_next() => self.written(written),
            Some(looked) = self.looks.join_next() => self.looked(looked),
            () = tokio::time::sleep_until(wake) => self.tick(),
        }
        self.parts.metrics.gates(self.gates.waiting(), self.stream.is_synced());
    }

    fn tick(&mut self) {
        let at = self.at();
        self.stream.raise_epoch(self.parts.epoch.get());
        let outputs = self.stream.handle(Event::Tick, at);
        self.carry_out(outputs);
        self.decide(Input::Tick);
        if at.now >= self.look_at {
            // Far away until the look has ended.
            self.look_at = at.now.saturating_add(LOOK_INTERVAL);
            let (keeper, namespaces) = (self.parts.keeper.clone(), self.parts.namespaces.clone());
            self.looks.spawn(async move { keeper.look(&namespaces).await });
        }
        // The absence of the hub ends injection without any message.
        self.publish();
    }

    fn hub(&mut self, event: LinkEvent<HealthCall>) {
        let event = match event {
            LinkEvent::Opened(outbox) => {
                if let Some(request) = self.request.take() {
                    // The call takes this one message; should it have ended already, its end is the next event.
                    let _ = outbox.try_send(request);
                }
                return;
            }
            LinkEvent::Received(message) => Event::Received(message),
            LinkEvent::Closed { reason, refused } => Event::Closed { reason, refused },
            LinkEvent::Renewed => Event::Renewed,
        };
        self.stream.raise_epoch(self.parts.epoch.get());
        let outputs = self.stream.handle(event, self.at());
        self.parts.epoch.raise(self.stream.highest_epoch());
        self.carry_out(outputs);
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Dial { highest_epoch } => {
                    self.request = Some(WatchTargetHealthRequest {
                        cluster: self.parts.cluster.clone(),
                        agent_instance_id: self.parts.instance_id.clone(),
                        highest_epoch_seen: highest_epoch,
                    });
                    self.parts.link.dial();
                }
                Output::Drop => self.parts.link.hang_up(),
                Output::Tell(input) => {
                    let injects = self.gates.changes_injection(&input);
                    self.decide(input);
                    if injects {
                        self.publish();
                    }
                }
                Output::Offline { reason, retry_in } => self.offline(reason, retry_in),
                Output::Synced { epoch } => {
                    self.offline_reason = None;
                    info!(
                        epoch,
                        waiting = self.gates.waiting(),
                        "The hub tells of target health; readiness gates follow it"
                    );
                }
            }
        }
    }

    fn offline(&mut self, reason: String, retry_in: Duration) {
        let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
        if self.offline_reason.as_ref() == Some(&reason) {
            debug!(reason, retry_in_ms, "There is still no stream of target health; it is tried again");
        } else {
            let release_after_s = self.parts.release_after.as_secs();
            warn!(
                reason,
                retry_in_ms,
                release_after_s,
                "There is no stream of target health; readiness gates open by themselves when that lasts"
            );
            self.offline_reason = Some(reason);
        }
    }

    fn route_if_changed(&mut self) {
        // The watchers were named before they said anything, so their first words find them known.
        if self.parts.tapped.wanted.has_changed().unwrap_or(false) {
            self.route();
        }
    }

    fn route(&mut self) {
        let wanted = self.parts.tapped.wanted.borrow_and_update().clone();
        self.pods.route(&wanted);
        self.services.route(&wanted);
        self.keep();
        self.publish();
    }

    fn keep(&mut self) {
        self.parts.kept.0.want(&self.pods.kept());
    }

    fn watched(&mut self, watch: Watch, update: SourceUpdate) {
        let SourceUpdate { from, event } = update;
        if watch == Watch::Routed && self.services.handle(&from, event.clone()) {
            self.publish();
        }
        for input in self.pods.handle(watch, &from, event) {
            self.decide(input);
        }
    }

    fn decide(&mut self, input: Input) {
        let at = self.at();
        for patch in self.gates.handle(input, at) {
            self.write(patch);
        }
    }

    fn write(&mut self, patch: Patch) {
        let keeper = self.parts.keeper.clone();
        debug!(
            namespace = patch.namespace,
            pod = patch.name,
            policy = patch.gate.policy,
            open = patch.condition.open,
            reason = patch.condition.reason,
            "A readiness gate is written"
        );
        if patch.condition.open {
            self.parts.metrics.gate_opened(patch.condition.label());
            self.log_release(&patch);
        }
        self.writes.spawn(async move {
            let outcome = keeper.write(&patch, jiff::Timestamp::now()).await;
            (patch.namespace, patch.gate, outcome)
        });
    }

    fn log_release(&mut self, patch: &Patch) {
        let Patch { gate, namespace, condition, .. } = patch;
        let policy = PolicyKey { namespace: namespace.clone(), name: gate.policy.clone() };
        if condition.is_a_verdict() {
            self.released.remove(&policy);
        } else if self.released.get(&policy) != Some(&condition.reason) && self.released.len() < MAX_RELEASED {
            info!(
                namespace,
                policy = gate.policy,
                reason = condition.reason,
                message = condition.message,
                "Readiness gates of this policy open without the load balancer's word"
            );
            self.released.insert(policy, condition.reason.clone());
        }
    }

    fn written(&mut self, written: Result<(String, GateId, Outcome), JoinError>) {
        // A write neither panics nor is aborted while the loop runs.
        let Ok((namespace, gate, outcome)) = written else { return };
        self.parts.metrics.gate_written(outcome.label());
        let forbidden = self.forbidden.len();
        match &outcome {
            Outcome::Written => {
                if self.forbidden.remove(&namespace) {
                    info!(namespace, "Readiness gates can be written again");
                    self.complain();
                }
            }
            Outcome::PodGone => {}
            Outcome::Forbidden(message) => {
                if self.forbidden.insert(namespace.clone()) {
                    warn!(
                        namespace,
                        error = message,
                        "Readiness gates cannot be written; grant the agent the verb patch on pods/status"
                    );
                    self.complain();
                }
            }
            Outcome::Failed(message) => {
                debug!(error = message, policy = gate.policy, "A readiness gate was not written; it is tried again");
            }
        }
        self.decide(Input::Patched(gate, outcome));
        if self.forbidden.len() != forbidden {
            self.publish();
        }
    }

    fn complain(&self) {
        if self.forbidden.is_empty() {
            self.parts.complaints.clear(CANNOT_WRITE);
            return;
        }
        let namespaces: Vec<&str> = self.forbidden.iter().map(String::as_str).collect();
        let message = format!(
            "no leave to patch pods/status in {}, so pods with readiness gates stay unready; grant the verb",
            namespaces.join(", ")
        );
        self.parts.complaints.raise(CANNOT_WRITE, &message);
    }

    fn looked(&mut self, looked: Result<Result<BTreeSet<String>, String>, JoinError>) {
        match looked {
            Ok(Ok(namespaces)) => {
                self.parts.complaints.clear(CANNOT_LOOK);
                self.pods.found(namespaces);
                self.keep();
            }
            Ok(Err(message)) => {
                self.look_at = self.started.elapsed().saturating_add(LOOK_AGAIN);
                if self.parts.complaints.raise(CANNOT_LOOK, &message) {
                    warn!(
                        error = message,
                        "Pods cannot be listed; a readiness gate whose policy is gone may go unseen"
                    );
                }
            }
            Err(_) => {}
        }
    }

    fn publish(&self) {
        let injection = Injection::new(self.gates.injected(self.started.elapsed()), &self.services);
        self.parts.injection.send_if_modified(|held| {
            let is_new = **held != injection;
            if is_new {
                *held = Arc::new(injection);
            }
            is_new
        });
    }

    async fn stop(mut self) {
        self.parts.link.hang_up();
        self.writes.shutdown().await;
        self.looks.shutdown().await;
        self.parts.kept.0.stop().await;
    }
}
