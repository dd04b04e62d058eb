//! One agent's stream of policies. It reads a message, has it stored, acknowledges it, and only then reads the next: intents are
//! few, and what the hub has not stored the agent must feel as a full window. Beside that it tells each resource its status.

use std::{collections::BTreeSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use prost::Message as _;
use switchyard_core::ids::{ClusterName, PolicyKey};
use switchyard_proto::agent::v1::{
    self as proto, SyncPoliciesRequest, SyncPoliciesResponse, sync_policies_response::Message,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::{
    SourceParts,
    end::{End, has_the_turn},
    parse::{self, Body, Hello},
    told::Told,
    writer::{Stored, Writer},
};
use crate::{
    access::Access,
    feed::Picture,
    grpc::{
        agents::{Pace, Place},
        caller::speaks_for,
        code_word,
    },
    metrics::Metrics,
    store::SourceSession,
};

/// Messages to the agent that wait to be written.
pub const OUTBOX: usize = 16;
/// Time for SourceHello after the stream opened.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Time for the epoch, the picture and the store after SourceHello; agents wait ten seconds for SourceWelcome.
const OPEN_WITHIN: Duration = Duration::from_secs(8);
/// Between two rounds of statuses: what changes within it is told once.
const SPACING: Duration = Duration::from_millis(200);
/// An agent that takes nothing for this long is as good as gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves one stream to its end and says in the log why it ended.
pub async fn serve(
    parts: SourceParts,
    access: Access,
    inbound: Streaming<SyncPoliciesRequest>,
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
    Metrics::count(&parts.metrics.grpc_calls, "SyncPolicies", code_word(end.code()));
    let cluster = cluster.as_ref().map_or("(unknown)", ClusterName::as_str);
    // One that is refused comes back every few seconds.
    let is_news = !end.will_repeat() || parts.said.is_news(format!("{cluster}: {end}"));
    if end.is_fault() && is_news {
        let (error, identity): (&dyn std::error::Error, _) = (&end, access.identity());
        tracing::warn!(cluster, %identity, source = access.source(), error, "the stream of a cluster's policies ended");
    } else if end.is_fault() {
        tracing::debug!(cluster, "the stream of a cluster's policies ended as it did before");
    } else {
        tracing::info!(cluster, reason = %end, "the stream of a cluster's policies ended");
    }
    if let Some(status) = end.status() {
        // An agent that does not read sees the connection end.
        drop(timeout(SPACING, outbox.outbox.send(Err(status))).await);
    }
}

type Answer = Result<SyncPoliciesResponse, Status>;

struct Outbox {
    parts: SourceParts,
    outbox: mpsc::Sender<Answer>,
}

impl Outbox {
    async fn send(&self, message: Message) -> Result<(), End> {
        let message = SyncPoliciesResponse { message: Some(message) };
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

async fn greet(parts: &SourceParts, inbound: &mut Streaming<SyncPoliciesRequest>) -> Result<Hello, End> {
    let first = tokio::select! {
        () = parts.shutdown.cancelled() => return Err(End::Shutdown),
        first = timeout(HELLO_WITHIN, inbound.message()) => first.map_err(|_| End::HelloLate)?,
    };
    parse::hello(first.map_err(End::of_stream)?.ok_or(End::AgentClosed)?)
}

async fn run(
    parts: &SourceParts,
    access: &Access,
    hello: Hello,
    inbound: &mut Streaming<SyncPoliciesRequest>,
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
    parts: &SourceParts,
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
    if !parts.sources.contains(&cluster) {
        let message = format!(
            "the hub takes no policies from cluster {cluster}; to take them, start it with --policy-source {cluster} (environment: \
             SWITCHYARD_POLICY_SOURCES)"
        );
        tracing::info!(%cluster, "no policies are taken from a cluster, since --policy-source does not name it");
        outbox.send(Message::Welcome(proto::SourceWelcome { epoch: epoch.0, is_source: false, message })).await?;
        return Ok(None);
    }
    let mut picture = parts.feed.subscribe();
    if picture.wait_for(|picture| picture.loaded).await.is_err() {
        return Err(End::Shutdown);
    }
    let id = Uuid::now_v7();
    let place = parts.registry.enter(&cluster, id);
    let at = SourceSession { cluster, id, source: access.source() };
    let writer = Writer::new(parts.store.clone(), at.clone());
    writer.open().await?;
    tracing::info!(cluster = %at.cluster, agent = %hello.instance, %epoch, "policies are taken from a cluster");
    outbox
        .send(Message::Welcome(proto::SourceWelcome { epoch: epoch.0, is_source: true, message: String::new() }))
        .await?;
    Ok(Some(Session {
        parts: parts.clone(),
        outbox,
        at,
        place,
        writer,
        picture,
        told: Told::default(),
        look_at: Some(Instant::now()),
        progress: Instant::now(),
        last_seq: 0,
        opened: Instant::now(),
        pace: Pace::new(PATIENCE),
        list: None,
        failing: false,
    }))
}

/// Stays until the agent goes: the end of the stream is its sign to ask again.
async fn not_a_source(parts: &SourceParts, inbound: &mut Streaming<SyncPoliciesRequest>) -> Result<(), End> {
    let message = tokio::select! {
        () = parts.shutdown.cancelled() => return Err(End::Shutdown),
        message = inbound.message() => message.map_err(End::of_stream)?,
    };
    match message {
        None => Ok(()),
        Some(_) => Err(End::OutOfOrder { message: "a message", place: "from a cluster that is no source" }),
    }
}

type InFlight = Option<Pin<Box<dyn Future<Output = Result<Stored, End>> + Send>>>;

/// A list under way. As many names as are stored, so at most [`switchyard_core::source::MOST_CLAIMS`].
struct List {
    id: String,
    keys: BTreeSet<PolicyKey>,
    received: usize,
    /// False when the agent could not see the resources in between: what is missing says nothing.
    believed: bool,
}

struct Session<'a> {
    parts: SourceParts,
    outbox: &'a Outbox,
    at: SourceSession,
    place: Place,
    writer: Writer,
    picture: watch::Receiver<Arc<Picture>>,
    told: Told,
    /// When the picture is to be looked at; none: it has not changed.
    look_at: Option<Instant>,
    /// When the agent last took a status, or there was none for it.
    progress: Instant,
    last_seq: u64,
    opened: Instant,
    pace: Pace,
    list: Option<List>,
    failing: bool,
}

enum Woken {
    Shutdown,
    TakenOver,
    Gone,
    Stored(Result<Stored, End>),
    Picture(bool),
    Look,
    Room,
    Stuck,
    Slept,
    Message(Result<Option<SyncPoliciesRequest>, Status>),
}

impl Session<'_> {
    async fn serve(mut self, inbound: &mut Streaming<SyncPoliciesRequest>) -> Result<(), End> {
        let mut in_flight: InFlight = None;
        loop {
            let wait = self.wait();
            let reads = in_flight.is_none() && wait.is_zero();
            let (idle, look_at) = (self.told.is_idle(), self.look_at.unwrap_or_else(Instant::now));
            let woken = tokio::select! {
                // In this order: a flood of messages must not keep the end or acknowledgements waiting.
                biased;
                () = self.parts.shutdown.cancelled() => Woken::Shutdown,
                () = self.place.ended.cancelled() => Woken::TakenOver,
                () = self.outbox.outbox.closed() => Woken::Gone,
                stored = finished(&mut in_flight) => Woken::Stored(stored),
                changed = self.picture.changed() => Woken::Picture(changed.is_ok()),
                () = sleep_until(look_at), if idle && self.look_at.is_some() => Woken::Look,
                () = room(&self.outbox.outbox), if !idle => Woken::Room,
                () = sleep_until(self.progress + PATIENCE), if !idle => Woken::Stuck,
                () = sleep(wait), if !wait.is_zero() => Woken::Slept,
                message = inbound.message(), if reads => Woken::Message(message),
            };
            match woken {
                Woken::Shutdown | Woken::Picture(false) => return Err(End::Shutdown),
                Woken::TakenOver => return Err(End::TakenOver),
                Woken::Picture(true) if self.picture.borrow().is_removed(&self.at.cluster) => {
                    return Err(End::ClusterRemoved(self.at.cluster.clone()));
                }
                Woken::Gone => return Ok(()),
                Woken::Slept => {}
                Woken::Stuck => return Err(End::NotReading),
                Woken::Stored(stored) => {
                    in_flight = None;
                    self.stored(stored?).await?;
                }
                Woken::Picture(true) => self.look_at = self.look_at.or(Some(self.progress + SPACING)),
                Woken::Look => self.look(),
                Woken::Room => self.tell().await?,
                Woken::Message(message) => match message.map_err(End::of_stream)? {
                    Some(message) => in_flight = self.take(message)?,
                    None => return Ok(()),
                },
            }
        }
    }

    /// How long the stream is not to be read; zero: it may be.
    fn wait(&mut self) -> Duration {
        let of_changes = self.parts.paces.wait(&self.at.cluster, Instant::now());
        self.pace.wait(self.opened.elapsed()).max(of_changes)
    }

    fn look(&mut self) {
        self.look_at = None;
        self.progress = Instant::now();
        // Let go at once: it holds the whole inventory.
        let picture = Arc::clone(&self.picture.borrow_and_update());
        self.told.look(&picture, &self.at.cluster);
    }

    async fn tell(&mut self) -> Result<(), End> {
        if let Some(status) = self.told.next() {
            self.outbox.send(Message::Status(status)).await?;
        }
        self.progress = Instant::now();
        Ok(())
    }

    fn take(&mut self, message: SyncPoliciesRequest) -> Result<InFlight, End> {
        self.pace.message(message.encoded_len(), self.opened.elapsed());
        let (seq, body) = parse::body(message)?;
        if seq != self.last_seq + 1 {
            return Err(End::Sequence { got: seq, last: self.last_seq });
        }
        self.last_seq = seq;
        let writer = self.writer.clone();
        Ok(Some(match body {
            Body::ListBegin(id) => {
                self.list = Some(List { id, keys: BTreeSet::new(), received: 0, believed: !self.failing });
                Box::pin(async move { Ok(Stored { seq, ..Stored::default() }) })
            }
            Body::Changes(changes) => Box::pin(async move { writer.changes(seq, changes).await }),
            Body::ListEnd(id, count) => match self.list_ended(&id, count)? {
                Some(keys) => Box::pin(async move { writer.listed(seq, keys).await }),
                None => Box::pin(async move { Ok(Stored { seq, ..Stored::default() }) }),
            },
            Body::Failing(why) => {
                self.failing = why.is_some();
                if let Some(list) = &mut self.list {
                    list.believed = false;
                }
                if let Some(why) = &why {
                    tracing::warn!(cluster = %self.at.cluster, why, "a cluster's agent cannot see policies; they stay in force");
                }
                Box::pin(async move { writer.failed(seq, why).await })
            }
        }))
    }

    /// The names in the list, when what is missing from it says something.
    fn list_ended(&mut self, id: &str, count: u32) -> Result<Option<BTreeSet<PolicyKey>>, End> {
        let Some(list) = self.list.take().filter(|list| list.id == id) else {
            return Err(End::OutOfOrder { message: "PolicyListEnd", place: "without PolicyListBegin of that id" });
        };
        let complete = usize::try_from(count).is_ok_and(|count| count == list.received);
        if complete && list.believed {
            return Ok(Some(list.keys));
        }
        let (announced, received) = (count, list.received);
        tracing::warn!(
            cluster = %self.at.cluster, announced, received,
            "a list of policies is not complete, so nothing is concluded from what is missing"
        );
        Ok(None)
    }

    async fn stored(&mut self, stored: Stored) -> Result<(), End> {
        if let Some(list) = &mut self.list {
            list.received += stored.received;
            list.keys.extend(stored.listed);
            for key in &stored.unlisted {
                list.keys.remove(key);
            }
        }
        self.parts.feed.nudge();
        let cluster = &self.at.cluster;
        self.parts.paces.changed(cluster, stored.changed, Instant::now());
        if !self.parts.paces.wait(cluster, Instant::now()).is_zero()
            && self.parts.said.is_news(format!("{cluster}: policies change too fast"))
        {
            tracing::warn!(%cluster, "resources of a cluster change policies without end; they are taken more slowly from now on");
        }
        for status in stored.no_room {
            self.outbox.send(Message::Status(status)).await?;
        }
        self.outbox.send(Message::Ack(proto::PolicyAck { seq: stored.seq })).await
    }
}

/// Waits for the write under way; forever when there is none.
async fn finished(in_flight: &mut InFlight) -> Result<Stored, End> {
    match in_flight {
        Some(write) => write.await,
        None => std::future::pending().await,
    }
}

/// Waits until one message fits. Nobody else writes, so it still fits afterwards.
async fn room(outbox: &mpsc::Sender<Answer>) {
    // A closed outbox is noticed by whoever waits for that.
    drop(outbox.reserve().await);
}
