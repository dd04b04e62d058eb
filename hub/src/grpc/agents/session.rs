//! One agent's session: the task around the machine of `state.rs`. It reads the stream, lets the machine decide, has one write
//! under way at the store, and acknowledges after the commit. While the store is away messages wait; when too many wait the
//! stream is not read, which the agent feels as a full window.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use switchyard_core::ids::ClusterName;
use switchyard_proto::agent::v1::{self as proto, AgentMessage, HubMessage, hub_message::Message};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::{
    AgentParts,
    end::End,
    home,
    load::Load,
    parse::Parsed,
    registry::Place,
    seen,
    state::{Effect, Hello, Input, State, Work, Write},
    watch_set::WatchSet,
    wire::{Inbox, Outbox},
    writer::{Batch, Tally, Writer, next_batch},
};
use crate::{
    access::Access,
    feed::Picture,
    grpc::{caller::speaks_for, convert::to_proto_service_ref},
    metrics::EndReason,
    store::{AgentFeature, SessionError, access::certificates::Shown},
};

/// Time for Hello after the stream opened.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Time for the store, the epoch and the first picture after Hello; agents wait ten seconds for Welcome.
const OPEN_WITHIN: Duration = Duration::from_secs(8);
/// Pause between two tries to open a session.
pub(super) const OPEN_PAUSE: Duration = Duration::from_millis(200);
/// Messages to the agent that wait to be written.
pub const OUTBOX: usize = 64;
/// The stream counts as dead after this many heartbeats that did not come.
const MISSED_HEARTBEATS: u32 = 3;

type Stored = (u64, Result<(), SessionError>);
type InFlight = Option<Pin<Box<dyn Future<Output = Stored> + Send>>>;

/// Serves one stream to its end and says in the log why it ended.
pub async fn serve(
    parts: AgentParts,
    (access, shown): (Access, Option<Shown>),
    inbound: Streaming<AgentMessage>,
    outbox: mpsc::Sender<Result<HubMessage, Status>>,
) {
    let outbox = Outbox::new(outbox, parts.heartbeat_interval * MISSED_HEARTBEATS);
    let mut inbound = Inbox::new(inbound, parts.metrics.clone(), parts.heartbeat_interval);
    let (cluster, end) = match open(&parts, (&access, shown.as_ref()), &mut inbound, &outbox).await {
        Ok(session) => {
            let cluster = session.cluster.clone();
            let id = session.id;
            let end = session.run(&mut inbound).await;
            if !matches!(end, End::TakenOver) {
                close(&parts, id, &cluster).await;
            }
            (Some(cluster), end)
        }
        Err((cluster, end)) => (cluster, end),
    };
    let reason = end.label();
    parts.metrics.sessions_ended.get_or_create(&EndReason { reason }).inc();
    let cluster = cluster.as_ref().map_or("(unknown)", ClusterName::as_str);
    // One that is refused comes back every few seconds.
    let is_news = !end.will_repeat() || parts.said.is_news(format!("{cluster}: {end}"));
    if end.is_fault() && is_news {
        let (error, identity): (&dyn std::error::Error, _) = (&end, access.identity());
        tracing::warn!(cluster, %identity, source = access.source(), reason, error, "the session of an agent ended");
    } else if end.is_fault() {
        tracing::debug!(cluster, reason, "the session of an agent ended as it did before");
    } else {
        tracing::info!(cluster, reason, "the session of an agent ended");
    }
    if let Some(status) = end.status() {
        outbox.end(status).await;
    }
}

/// Best effort: without it the cluster counts as connected until its heartbeat is old.
async fn close(parts: &AgentParts, id: Uuid, cluster: &ClusterName) {
    const WITHIN: Duration = Duration::from_secs(1);
    match timeout(WITHIN, parts.store.session_close(id, cluster)).await {
        Ok(Ok(_)) => parts.feed.nudge(),
        Ok(Err(error)) => tracing::debug!(%cluster, %error, "the end of a session was not stored"),
        Err(_) => tracing::debug!(%cluster, "the end of a session was not stored in time"),
    }
}

struct Session {
    parts: AgentParts,
    outbox: Outbox,
    cluster: ClusterName,
    id: Uuid,
    state: State,
    pending: VecDeque<Write>,
    load: Load,
    writer: Writer,
    place: Place,
    picture: watch::Receiver<Arc<Picture>>,
    policies: Arc<crate::feed::Policies>,
    /// As its Hello said.
    reports_nodes: bool,
    last_heard: Instant,
}

type Opening<T> = Result<T, (Option<ClusterName>, End)>;

/// Who calls, and the certificate that he showed.
type Peer<'a> = (&'a Access, Option<&'a Shown>);

async fn open(parts: &AgentParts, peer: Peer<'_>, inbox: &mut Inbox, outbox: &Outbox) -> Opening<Session> {
    let hello = tokio::select! {
        () = parts.shutdown.cancelled() => Err(End::Shutdown),
        first = timeout(HELLO_WITHIN, inbox.next(None)) => first.unwrap_or(Err(End::HelloLate)),
    };
    let hello = match hello.map_err(|end| (None, end))? {
        Parsed::Hello(hello) => hello,
        Parsed::Heartbeat => return Err((None, End::NoHello)),
        Parsed::Message(seq, inbound) => {
            let (effects, _) = State::AwaitHello.step(Input::Message(seq, inbound));
            return Err((None, refusal(effects).unwrap_or(End::NoHello)));
        }
    };
    let cluster = hello.agent.cluster.clone();
    // Whatever it says of itself: the name counts that it proved.
    speaks_for(peer.0, &cluster).map_err(|not_yours| (Some(cluster.clone()), End::NotYours(not_yours)))?;
    let opened = open_named(parts, peer, hello, outbox).await;
    opened.map_err(|end| (Some(cluster), end))
}

fn refusal(effects: Vec<Effect>) -> Option<End> {
    effects.into_iter().find_map(|effect| match effect {
        Effect::End(refusal) => Some(End::Refused(refusal)),
        _ => None,
    })
}

async fn open_named(parts: &AgentParts, peer: Peer<'_>, hello: Box<Hello>, outbox: &Outbox) -> Result<Session, End> {
    let deadline = Instant::now() + OPEN_WITHIN;
    let mut epochs = parts.epoch.clone();
    let known = timeout_at(deadline, epochs.wait_for(Option::is_some));
    let epoch = match known.await {
        Ok(Ok(epoch)) => epoch.unwrap_or_default(),
        Ok(Err(_)) => return Err(End::Shutdown),
        Err(_) => return Err(End::NoEpoch),
    };
    // An empty watch set that only means "not read yet" would have the agent report nothing, and the hub forget everything.
    let mut picture = parts.feed.subscribe();
    match timeout_at(deadline, picture.wait_for(|picture| picture.loaded)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Err(End::Shutdown),
        Err(_) => return Err(End::NoPicture),
    }
    let present = Arc::clone(&picture.borrow_and_update());
    // Before the store takes the new place for the cluster's.
    home::check(&hello.agent, &present).map_err(|moved| End::Moved(Box::new(moved)))?;
    let policies = Arc::clone(&present.policies);
    // Not held for the life of the session: it holds the whole inventory.
    drop(present);
    let cluster = hello.agent.cluster.clone();
    let reports_nodes = hello.agent.can(AgentFeature::InstanceTargets);
    let set = watch_set(&cluster, reports_nodes, &policies);
    let (effects, state) = State::AwaitHello.step(Input::Hello(hello.clone(), epoch));
    if let Some(end) = refusal(effects) {
        return Err(end);
    }
    if let (access, Some(shown)) = peer {
        seen::note(parts, access, &hello.agent, shown, deadline).await?;
    }
    let id = Uuid::now_v7();
    let resume = open_stored(parts, &hello, id, deadline).await?;
    // A set that differs says that Services may have left while nobody could confirm it: a snapshot tells them apart.
    let resume_after = resume.filter(|_| hello.agent.watch_set_version == set.version);
    let place = parts.registry.enter(&cluster, id);
    let writer = Writer {
        store: parts.store.clone(),
        session: id,
        cluster: cluster.clone(),
        epoch: parts.epoch.clone(),
        opened_in: epoch,
        tally: Arc::new(Tally::default()),
    };
    let (version, resumed) = (hello.agent.agent_version.as_str(), resume_after.is_some());
    tracing::info!(%cluster, session = %id, %epoch, version, resumed, "an agent opened its session");
    let mut session = Session {
        parts: parts.clone(),
        outbox: outbox.clone(),
        cluster,
        id,
        state,
        pending: VecDeque::new(),
        load: Load::new(parts.shelf.clone()),
        writer,
        place,
        picture,
        policies,
        reports_nodes,
        last_heard: Instant::now(),
    };
    session.step(Input::Opened { resume_after, set }).await?;
    session.parts.feed.nudge();
    Ok(session)
}

async fn open_stored(parts: &AgentParts, hello: &Hello, id: Uuid, deadline: Instant) -> Result<Option<u64>, End> {
    loop {
        match parts.store.session_open(&hello.agent, id, parts.hub_instance, parts.hearing.clone()).await {
            Ok(opened) => {
                if let Some(relieved) = opened.relieves {
                    let (cluster, by) = (&hello.agent.cluster, hello.agent.agent_instance_id);
                    tracing::info!(%cluster, %relieved, %by, "an agent process took a cluster over from another one");
                }
                return Ok(opened.resume_after_seq);
            }
            Err(SessionError::Store(error)) if error.is_unavailable() && Instant::now() + OPEN_PAUSE < deadline => {
                sleep(OPEN_PAUSE).await;
            }
            Err(error) => return Err(end_of(error)),
        }
    }
}

fn watch_set(cluster: &ClusterName, reports_nodes: bool, policies: &crate::feed::Policies) -> Arc<WatchSet> {
    WatchSet::of(cluster, reports_nodes, policies.values().map(|stored| &stored.record))
}

/// What woke the session.
enum Woken {
    Shutdown,
    TakenOver,
    Stored(Stored),
    Tick,
    Picture,
    Epoch,
    Slept,
    Message(Result<Parsed, End>),
    HubGone,
}

impl Session {
    async fn run(mut self, inbox: &mut Inbox) -> End {
        match self.serve(inbox).await {
            Ok(()) => End::AgentClosed,
            Err(end) => end,
        }
    }

    async fn serve(&mut self, inbox: &mut Inbox) -> Result<(), End> {
        let mut in_flight: InFlight = None;
        let mut epochs = self.parts.epoch.clone();
        epochs.mark_unchanged();
        let mut ticks = interval(self.parts.heartbeat_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if in_flight.is_none() {
                in_flight = self.next_write();
            }
            let (room, wait) = (self.load.has_room(), inbox.wait());
            let reads = room && wait.is_zero();
            let woken = tokio::select! {
                // In this order: a flood of messages must not keep heartbeats, acknowledgements or the end waiting.
                biased;
                () = self.parts.shutdown.cancelled() => Woken::Shutdown,
                () = self.place.ended.cancelled() => Woken::TakenOver,
                stored = finished(&mut in_flight) => Woken::Stored(stored),
                _ = ticks.tick() => Woken::Tick,
                changed = self.picture.changed() => changed.map_or(Woken::HubGone, |()| Woken::Picture),
                changed = epochs.changed() => changed.map_or(Woken::HubGone, |()| Woken::Epoch),
                () = sleep(wait), if room && !reads => Woken::Slept,
                message = inbox.next(Some(&self.cluster)), if reads => Woken::Message(message),
            };
            match woken {
                Woken::Shutdown | Woken::HubGone => return Err(End::Shutdown),
                // The place is given up, too, when a heartbeat finds that an operator removed the cluster.
                Woken::TakenOver if self.is_removed() => return Err(End::ClusterRemoved(self.cluster.clone())),
                Woken::TakenOver => return Err(End::TakenOver),
                Woken::Stored(stored) => {
                    in_flight = None;
                    self.stored(stored).await?;
                }
                Woken::Slept => {}
                Woken::Tick => self.beat(reads).await?,
                Woken::Picture if self.is_removed() => return Err(End::ClusterRemoved(self.cluster.clone())),
                Woken::Picture => self.watch_set_may_have_changed().await?,
                Woken::Epoch => self.new_epoch(),
                Woken::Message(message) => {
                    self.last_heard = Instant::now();
                    match message? {
                        Parsed::Heartbeat => {}
                        Parsed::Hello(hello) => self.step(Input::Hello(hello, self.writer.opened_in)).await?,
                        Parsed::Message(seq, inbound) => {
                            self.load.came(seq, &inbound).map_err(End::Refused)?;
                            self.step(Input::Message(seq, inbound)).await?;
                        }
                    }
                }
            }
        }
    }

    async fn step(&mut self, input: Input) -> Result<(), End> {
        let state = std::mem::replace(&mut self.state, State::Ended);
        let before = state.name();
        let (effects, state) = state.step(input);
        if before != state.name() {
            tracing::debug!(cluster = %self.cluster, from = before, to = state.name(), "the session of an agent moved on");
        }
        self.state = state;
        for effect in effects {
            match effect {
                // Only the way from AwaitHello leads here, and that is taken before a session exists.
                Effect::Open => {}
                Effect::Welcome { resume_after } => self.welcome(resume_after).await?,
                Effect::SendWatchSet(set) => self.send_watch_set(&set).await?,
                Effect::Resync(reason) => {
                    tracing::info!(cluster = %self.cluster, reason, "an agent is asked for a new snapshot");
                    self.outbox.send(Message::Resync(proto::Resync { reason })).await?;
                }
                Effect::Store(write) => self.pending.push_back(write),
                Effect::End(refusal) => return Err(End::Refused(refusal)),
            }
        }
        Ok(())
    }

    async fn welcome(&self, resume_after: Option<u64>) -> Result<(), End> {
        let millis = self.parts.heartbeat_interval.as_millis();
        let welcome = proto::Welcome {
            epoch: self.writer.opened_in.0,
            session_id: self.id.to_string(),
            heartbeat_interval_ms: u32::try_from(millis).unwrap_or(u32::MAX),
            resume: resume_after.is_some(),
            resume_after_seq: resume_after.unwrap_or(0),
        };
        self.outbox.send(Message::Welcome(welcome)).await
    }

    async fn send_watch_set(&self, set: &WatchSet) -> Result<(), End> {
        let services = set.services.iter().map(to_proto_service_ref);
        let message = proto::WatchSet { version: set.version, services: services.collect() };
        tracing::debug!(cluster = %self.cluster, version = set.version, services = set.services.len(), "watch set sent");
        self.outbox.send(Message::WatchSet(message)).await
    }

    fn next_write(&mut self) -> InFlight {
        let (seq, batch) = next_batch(&mut self.pending)?;
        let writer = self.writer.clone();
        let feed = self.parts.feed.clone();
        Some(Box::pin(async move {
            let result = writer.store(seq, &batch).await;
            if result.is_ok() && !matches!(batch, Batch::Nothing) {
                feed.nudge();
            }
            (seq, result)
        }))
    }

    async fn stored(&mut self, (seq, result): Stored) -> Result<(), End> {
        self.load.stored(seq);
        match result {
            Ok(()) if seq > 0 => self.outbox.send(Message::Ack(proto::Ack { seq })).await,
            Ok(()) => Ok(()),
            Err(error) => Err(end_of(error)),
        }
    }

    async fn beat(&mut self, reads: bool) -> Result<(), End> {
        if !reads {
            // Not read, so nothing can be concluded from silence.
            self.last_heard = Instant::now();
        }
        // Half an interval more, so that the third heartbeat may be a little late.
        let interval = self.parts.heartbeat_interval;
        if self.last_heard.elapsed() > interval * MISSED_HEARTBEATS + interval / 2 {
            return Err(End::Silent);
        }
        let now = Timestamp::now();
        let sent_at = prost_types::Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() };
        let beat = proto::Heartbeat { sent_at: Some(sent_at) };
        self.outbox.send(Message::Heartbeat(beat)).await
    }

    fn is_removed(&self) -> bool {
        self.picture.borrow().is_removed(&self.cluster)
    }

    async fn watch_set_may_have_changed(&mut self) -> Result<(), End> {
        let policies = Arc::clone(&self.picture.borrow_and_update().policies);
        if Arc::ptr_eq(&policies, &self.policies) {
            return Ok(());
        }
        self.policies = policies;
        let set = watch_set(&self.cluster, self.reports_nodes, &self.policies);
        self.step(Input::NewWatchSet(set)).await
    }

    /// What this agent reported is complete in the new epoch too: its stream was not interrupted.
    fn new_epoch(&mut self) {
        if matches!(self.state, State::Live(_)) {
            let work = Work::Live;
            self.pending.push_back(Write { seq: 0, work });
        }
    }
}

/// Why the store ended a session.
fn end_of(error: SessionError) -> End {
    match error {
        SessionError::Store(error) => End::Store(error),
        SessionError::TakenOver { .. } => End::TakenOver,
        SessionError::ClusterRemoved { cluster } => End::ClusterRemoved(cluster),
        SessionError::Relieved(relieved) => End::Relieved(relieved),
        error @ SessionError::TooMany { .. } => End::TooMany(error),
        // Keys are made from the session's own cluster.
        error @ SessionError::WrongCluster { .. } => End::Defect(error),
    }
}

/// Waits for the write under way; forever when there is none.
async fn finished(in_flight: &mut InFlight) -> Stored {
    match in_flight {
        Some(write) => write.await,
        None => std::future::pending().await,
    }
}
