//! One agent's stream of shifts. It takes resources in, has the store do one thing at a time about them, and tells each how it
//! stands. `desk` decides; the order of the loop is that a flood of messages never keeps the end or the store's answers waiting.

use std::{future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use prost::Message as _;
use sha2::{Digest, Sha256};
use switchyard_core::{
    access::Identity,
    ids::{ClusterName, ResourceUid},
    shift::Origin,
};
use switchyard_proto::agent::v1::{
    self as proto, SyncShiftsRequest, SyncShiftsResponse, sync_shifts_response::Message,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use super::{
    ShiftSourceParts,
    desk::{Desk, Done, Job, MOST_RESOURCES},
    parse::{self, Hello, Resource, Rights},
};
use crate::{
    access::Access,
    feed::Picture,
    grpc::{
        agents::{Pace, Place},
        caller::speaks_for,
        code_word,
        sources::{End, has_the_turn},
    },
    metrics::Metrics,
    store::{Caller, ResourceMemory, ShiftError, Store},
};

/// The call, as the table of calls has it.
const RPC: &str = "switchyard.agent.v1.ShiftSourceService/SyncShifts";
/// Messages to the agent that wait to be written.
pub const OUTBOX: usize = 16;
/// Time for ShiftSourceHello after the stream opened.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Time for the epoch and the picture after it; agents wait ten seconds for ShiftSourceWelcome.
const OPEN_WITHIN: Duration = Duration::from_secs(8);
/// Between two looks at the picture: what changes within it is told once.
const SPACING: Duration = Duration::from_millis(200);
/// An agent that takes nothing for this long is as good as gone.
const PATIENCE: Duration = Duration::from_secs(30);

type Answer = Result<SyncShiftsResponse, Status>;

/// Serves one stream to its end and says in the log why it ended.
pub async fn serve(
    parts: ShiftSourceParts,
    access: Access,
    inbound: Streaming<SyncShiftsRequest>,
    outbox: mpsc::Sender<Answer>,
) {
    let mut inbound = inbound;
    let outbox = Outbox { parts: parts.clone(), outbox };
    let (cluster, end) = match greet(&parts, &mut inbound).await {
        // Whatever it says of itself: the name counts that it proved.
        Ok(hello) => match speaks_for(&access, &hello.cluster) {
            Ok(()) => (Some(hello.cluster.clone()), run(&parts, &access, hello, &mut inbound, &outbox).await),
            Err(not_yours) => (Some(hello.cluster), End::NotYours(not_yours)),
        },
        Err(end) => (None, end),
    };
    Metrics::count(&parts.metrics.grpc_calls, "SyncShifts", code_word(end.code()));
    let cluster = cluster.as_ref().map_or("(unknown)", ClusterName::as_str);
    // One that is refused comes back every few seconds.
    let is_news = !end.will_repeat() || parts.said.is_news(format!("{cluster}: {end}"));
    if end.is_fault() && is_news {
        let (error, identity): (&dyn std::error::Error, _) = (&end, access.identity());
        tracing::warn!(cluster, %identity, source = access.source(), error, "the stream of a cluster's shifts ended");
    } else if end.is_fault() {
        tracing::debug!(cluster, "the stream of a cluster's shifts ended as it did before");
    } else {
        tracing::info!(cluster, reason = %end, "the stream of a cluster's shifts ended");
    }
    if let Some(status) = end.status() {
        // An agent that does not read sees the connection end.
        drop(timeout(SPACING, outbox.outbox.send(Err(status))).await);
    }
}

struct Outbox {
    parts: ShiftSourceParts,
    outbox: mpsc::Sender<Answer>,
}

impl Outbox {
    async fn send(&self, message: Message) -> Result<(), End> {
        let message = SyncShiftsResponse { message: Some(message) };
        tokio::select! {
            () = self.parts.shutdown.cancelled() => Err(End::Shutdown),
            sent = timeout(PATIENCE, self.outbox.send(Ok(message))) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(End::AgentClosed),
                Err(_) => Err(End::NotReading),
            },
        }
    }
}

async fn greet(parts: &ShiftSourceParts, inbound: &mut Streaming<SyncShiftsRequest>) -> Result<Hello, End> {
    let first = tokio::select! {
        () = parts.shutdown.cancelled() => return Err(End::Shutdown),
        first = timeout(HELLO_WITHIN, inbound.message()) => first.map_err(|_| End::HelloLate)?,
    };
    parse::hello(first.map_err(End::of_stream)?.ok_or(End::AgentClosed)?)
}

async fn run(
    parts: &ShiftSourceParts,
    access: &Access,
    hello: Hello,
    inbound: &mut Streaming<SyncShiftsRequest>,
    outbox: &Outbox,
) -> End {
    let opened = tokio::select! {
        () = parts.shutdown.cancelled() => Err(End::Shutdown),
        opened = timeout(OPEN_WITHIN, open(parts, access, hello, outbox)) => opened.unwrap_or(Err(End::NotReady)),
    };
    let result = match opened {
        Err(end) => Err(end),
        Ok(None) => not_a_source(parts, inbound).await,
        Ok(Some(session)) => session.serve(inbound).await,
    };
    result.err().unwrap_or(End::AgentClosed)
}

/// Welcomes the agent; none when nothing is taken from its cluster.
async fn open<'a>(
    parts: &ShiftSourceParts,
    access: &Access,
    hello: Hello,
    outbox: &'a Outbox,
) -> Result<Option<Session<'a>>, End> {
    let deadline = Instant::now() + OPEN_WITHIN;
    let mut epochs = parts.epoch.clone();
    let epoch = match timeout_at(deadline, epochs.wait_for(Option::is_some)).await {
        Ok(Ok(epoch)) => epoch.unwrap_or_default(),
        Ok(Err(_)) => return Err(End::Shutdown),
        Err(_) => return Err(End::NotReady),
    };
    if hello.highest_epoch > epoch {
        return Err(End::OlderHub { own: epoch, seen: hello.highest_epoch });
    }
    let cluster = hello.cluster;
    has_the_turn(&parts.store, &cluster, hello.instance, &parts.hearing).await?;
    let is_source = parts.sources.contains(&cluster);
    let message = if is_source {
        String::new()
    } else {
        format!(
            "the hub takes no shifts from cluster {cluster}; to take them, start it with --policy-source {cluster} (environment: \
             SWITCHYARD_POLICY_SOURCES)"
        )
    };
    outbox.send(Message::Welcome(proto::ShiftSourceWelcome { epoch: epoch.0, is_source, message })).await?;
    if !is_source {
        return Ok(None);
    }
    let mut picture = parts.feed.subscribe();
    if picture.wait_for(|picture| picture.loaded).await.is_err() {
        return Err(End::Shutdown);
    }
    if picture.borrow().is_removed(&cluster) {
        return Err(End::ClusterRemoved(cluster));
    }
    let place = parts.registry.enter(&cluster, Uuid::now_v7());
    tracing::info!(%cluster, agent = %hello.instance, %epoch, "shifts are taken from a cluster");
    Ok(Some(Session {
        parts: parts.clone(),
        outbox,
        cluster,
        source: access.source_address(),
        place,
        picture,
        desk: Desk::default(),
        started: Instant::now(),
        pace: Pace::new(PATIENCE),
        look_at: Some(Instant::now()),
        status: None,
        progress: Instant::now(),
    }))
}

/// Stays until the agent goes: the end of the stream is its sign to ask again.
async fn not_a_source(parts: &ShiftSourceParts, inbound: &mut Streaming<SyncShiftsRequest>) -> Result<(), End> {
    let message = tokio::select! {
        () = parts.shutdown.cancelled() => return Err(End::Shutdown),
        message = inbound.message() => message.map_err(End::of_stream)?,
    };
    match message {
        None => Ok(()),
        Some(_) => Err(End::OutOfOrder { message: "a message", place: "from a cluster that is no source" }),
    }
}

/// What came of the job for a resource in that generation.
struct Worked {
    uid: ResourceUid,
    generation: u64,
    done: Done,
}

type InFlight = Option<Pin<Box<dyn Future<Output = Worked> + Send>>>;

struct Session<'a> {
    parts: ShiftSourceParts,
    outbox: &'a Outbox,
    cluster: ClusterName,
    /// Where it comes from, as far as it is known.
    source: Option<IpAddr>,
    place: Place,
    picture: watch::Receiver<Arc<Picture>>,
    desk: Desk,
    started: Instant,
    pace: Pace,
    /// When the picture is to be looked at; none: it has not changed.
    look_at: Option<Instant>,
    /// The status that is to be told next.
    status: Option<proto::TrafficShiftStatus>,
    /// When the agent last took a status, or there was none for it.
    progress: Instant,
}

enum Woken {
    Shutdown,
    TakenOver,
    Gone,
    Worked(Worked),
    Picture(bool),
    Look,
    Room,
    Stuck,
    Due,
    Message(Result<Option<SyncShiftsRequest>, Status>),
}

impl Session<'_> {
    async fn serve(mut self, inbound: &mut Streaming<SyncShiftsRequest>) -> Result<(), End> {
        let mut in_flight: InFlight = None;
        loop {
            if in_flight.is_none() {
                in_flight = self.next_job();
            }
            if self.desk.has_room_again() {
                return Err(End::Room);
            }
            if self.status.is_none() {
                self.status = self.desk.next_status();
                self.progress = Instant::now();
            }
            let tells = self.status.is_some();
            let wait = self.pace.wait(self.started.elapsed());
            let look_at = self.look_at.unwrap_or_else(Instant::now);
            let due = self.desk.wake_at().map(|at| self.started + at).filter(|_| in_flight.is_none());
            let woken = tokio::select! {
                biased;
                () = self.parts.shutdown.cancelled() => Woken::Shutdown,
                () = self.place.ended.cancelled() => Woken::TakenOver,
                () = self.outbox.outbox.closed() => Woken::Gone,
                worked = finished(&mut in_flight) => Woken::Worked(worked),
                changed = self.picture.changed() => Woken::Picture(changed.is_ok()),
                () = sleep_until(look_at), if self.look_at.is_some() => Woken::Look,
                () = room(&self.outbox.outbox), if tells => Woken::Room,
                () = sleep_until(self.progress + PATIENCE), if tells => Woken::Stuck,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Woken::Due,
                () = sleep(wait), if !wait.is_zero() => Woken::Due,
                message = inbound.message(), if wait.is_zero() => Woken::Message(message),
            };
            match woken {
                Woken::Shutdown | Woken::Picture(false) => return Err(End::Shutdown),
                Woken::TakenOver => return Err(End::TakenOver),
                Woken::Gone => return Ok(()),
                Woken::Stuck => return Err(End::NotReading),
                Woken::Worked(Worked { uid, generation, done }) => {
                    in_flight = None;
                    self.desk.done(&uid, generation, done, self.started.elapsed(), Timestamp::now());
                }
                Woken::Picture(true) if self.picture.borrow().is_removed(&self.cluster) => {
                    return Err(End::ClusterRemoved(self.cluster.clone()));
                }
                Woken::Picture(true) => self.look_at = self.look_at.or(Some(Instant::now() + SPACING)),
                Woken::Look => in_flight = self.look(in_flight),
                Woken::Room => self.tell().await?,
                Woken::Due => {}
                Woken::Message(message) => match message.map_err(End::of_stream)? {
                    Some(message) => self.take(message).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    fn look(&mut self, in_flight: InFlight) -> InFlight {
        self.look_at = None;
        // Let go at once: it holds the whole inventory.
        let shifts = Arc::clone(&self.picture.borrow_and_update().shifts);
        self.desk.picture_changed(self.started.elapsed());
        let Some((uid, shift)) = self.desk.look(&shifts) else { return in_flight };
        if in_flight.is_some() {
            // It is missed again at the next look.
            self.look_at = Some(Instant::now() + SPACING);
            return in_flight;
        }
        Some(self.work(uid, 0, Job::Read(shift)))
    }

    async fn tell(&mut self) -> Result<(), End> {
        if let Some(status) = self.status.take() {
            self.outbox.send(Message::Status(status)).await?;
        }
        Ok(())
    }

    async fn take(&mut self, message: SyncShiftsRequest) -> Result<(), End> {
        self.pace.message(message.encoded_len(), self.started.elapsed());
        let grants = (self.parts.grants_of_resources)(&self.cluster);
        let rights = Rights { cluster: &self.cluster, gate_sources: &self.parts.gate_sources, grants: &grants };
        let resource: Resource = parse::resource(message, rights)?;
        let Some(no_room) = self.desk.report(resource, self.started.elapsed(), Timestamp::now()) else { return Ok(()) };
        tracing::warn!(
            cluster = %self.cluster, shift = format!("{}/{}", no_room.namespace, no_room.name), most = MOST_RESOURCES,
            "a cluster has too many TrafficShifts that have not ended; this one is taken when there is room"
        );
        self.outbox.send(Message::Status(no_room)).await
    }

    fn next_job(&self) -> InFlight {
        let (uid, job) = self.desk.next_job(self.started.elapsed())?;
        let generation = match &job {
            Job::Make { resource, .. } | Job::Say { resource } => resource.generation,
            Job::Refuse { resource, .. } => resource.generation,
            Job::Read(_) => 0,
        };
        Some(self.work(uid, generation, job))
    }

    fn work(&self, uid: ResourceUid, generation: u64, job: Job) -> Pin<Box<dyn Future<Output = Worked> + Send>> {
        let (parts, cluster, source) = (self.parts.clone(), self.cluster.clone(), self.source);
        Box::pin(async move {
            let work = Work { parts: &parts, cluster: &cluster, source };
            let done = work.carry_out(job).await;
            parts.feed.nudge();
            Worked { uid, generation, done }
        })
    }
}

/// What is done about the resources of a cluster, at the store.
struct Work<'a> {
    parts: &'a ShiftSourceParts,
    cluster: &'a ClusterName,
    /// Where they come from, as far as it is known.
    source: Option<IpAddr>,
}

impl Work<'_> {
    async fn carry_out(&self, job: Job) -> Done {
        let (store, cluster) = (&self.parts.store, self.cluster);
        let (resource, result) = match job {
            Job::Make { resource, plan } => {
                let origin = Origin::Resource {
                    cluster: cluster.clone(),
                    namespace: resource.namespace.clone(),
                    name: resource.name.clone(),
                    uid: resource.uid.clone(),
                };
                let made = store.shift_create(&self.caller(&resource), &plan, &origin).await;
                (resource, made)
            }
            Job::Say { resource } => {
                let (caller, generation) = (self.caller(&resource), resource.generation);
                let said = store.shift_resource_said(&caller, cluster, &resource.uid, generation, &resource.said).await;
                (resource, said)
            }
            Job::Refuse { resource, why } => return self.refuse(&resource, why).await,
            Job::Read(shift) => return read(store, &shift).await,
        };
        match result {
            Ok(shift) => Done::Shift(Arc::new(shift)),
            Err(error) => {
                if let ShiftError::MayNot(may_not) = &error {
                    self.note_refused(&resource, &may_not.to_string());
                }
                Done::Not(error)
            }
        }
    }

    async fn refuse(&self, resource: &Resource, why: String) -> Done {
        let store = &self.parts.store;
        match store.shift_resource_refuse(self.cluster, &resource.uid, &why).await {
            // What was made of it before this hub found a fault in it goes on.
            Ok(ResourceMemory { shift: Some(shift), .. }) => read(store, &shift).await,
            Ok(memory) => {
                if resource.lacks_a_right {
                    self.note_refused(resource, &format!("{}: {why}", self.caller(resource).actor));
                }
                Done::Refused(memory.refused.unwrap_or(why))
            }
            Err(error) => Done::Not(ShiftError::Store(error)),
        }
    }

    /// In the audit log, once for each generation of a resource: it comes again with each stream.
    fn note_refused(&self, resource: &Resource, why: &str) {
        let caller = self.caller(resource);
        if !self.parts.said.is_news(format!("{} may not", caller.request_id)) {
            return;
        }
        let identity = Identity::Cluster(self.cluster.clone());
        self.parts.gate.note(&identity, self.source, RPC, Code::PermissionDenied, why);
    }

    /// Who asks, in the audit log. The request id is one for each generation of the resource: what is tried again is the same request.
    fn caller(&self, resource: &Resource) -> Caller {
        let cluster = self.cluster;
        let mut hash = Sha256::new();
        for part in [cluster.as_str(), resource.uid.as_str(), &resource.generation.to_string()] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let digest: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Caller {
            request_id: format!("trafficshift-{digest}"),
            // A name may be longer than the audit log takes.
            actor: format!("cluster:{cluster} TrafficShift {}/{}", resource.namespace, resource.name)
                .chars()
                .take(256)
                .collect(),
            reason: resource.reason.clone(),
            source: self.source.map(|source| source.to_string()).unwrap_or_default(),
            grants: (self.parts.grants_of_resources)(cluster),
        }
    }
}

async fn read(store: &Store, shift: &switchyard_core::ids::ShiftId) -> Done {
    match store.shift_get(shift).await {
        Ok(Some(shift)) => Done::Shift(Arc::new(shift)),
        Ok(None) => Done::Gone,
        Err(error) => Done::Not(ShiftError::Store(error)),
    }
}

/// Waits for the work under way; forever when there is none.
async fn finished(in_flight: &mut InFlight) -> Worked {
    match in_flight {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Waits until one message fits. Nobody else writes, so it still fits afterwards.
async fn room(outbox: &mpsc::Sender<Answer>) {
    // A closed outbox is noticed by whoever waits for that.
    drop(outbox.reserve().await);
}
