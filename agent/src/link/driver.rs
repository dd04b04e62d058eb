//! The loop that owns the index and the session: it feeds them what happens, one thing at a time, and does what they say.
//!
//! The only place where watchers, stream and clock meet. It decides nothing: rules belong in `index` and `session`.

use switchyard_proto::agent::v1::AgentMessage;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    convert::to_proto_message,
    epoch::HighestEpoch,
    messages::{Identity, Outgoing},
    session::{At, Input, Note, Output, Session, Settings},
    transport::{Link, LinkEvent, room_in, sleep_until},
};
use crate::{
    index::Index,
    metrics::Metrics,
    watch::{SourceUpdate, Watchers},
};

/// Updates that are taken in before the session is asked again. A list of a thousand pods is then four steps, not a thousand.
const UPDATES_A_STEP: usize = 256;

/// How the agent stands, for probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The stage of the stream.
    pub stage: &'static str,
    /// The hub has said which Services to watch.
    pub has_watch_set: bool,
    /// Every source of the watch set was listed completely at least once.
    pub synced: bool,
}

impl Standing {
    /// Ready unless a watch set is known and not yet synced: without a hub the agent does all that it can do.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.has_watch_set || self.synced
    }
}

/// The parts that the loop drives.
pub struct Driver {
    /// Who the agent is.
    pub identity: Identity,
    /// Sizes and times of the stream.
    pub settings: Settings,
    /// The stream.
    pub link: Link,
    /// The watchers.
    pub watchers: Watchers,
    /// What the watchers say.
    pub updates: mpsc::Receiver<SourceUpdate>,
    /// Shared with the other streams.
    pub epoch: HighestEpoch,
    /// Counted here.
    pub metrics: Metrics,
    /// Published here.
    pub standing: watch::Sender<Standing>,
}

impl Driver {
    /// How an agent stands that has just started.
    #[must_use]
    pub fn first_standing() -> watch::Sender<Standing> {
        watch::Sender::new(Standing { stage: "offline", has_watch_set: false, synced: false })
    }

    /// Runs until the token is cancelled, then half-closes the stream and ends the watchers.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { identity, settings, link, watchers, updates, epoch, metrics, standing } = self;
        let mut running = Running {
            identity,
            link,
            watchers,
            updates,
            epoch,
            metrics,
            standing,
            index: Index::new(),
            session: Some(Session::new(settings)),
            outbox: None,
            offline_reason: None,
            started: Instant::now(),
        };
        running.watchers.want(&running.index.wanted_sources());
        running.step(Input::Tick);
        let mut batch = Vec::with_capacity(UPDATES_A_STEP);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                input = running.next(&mut batch) => running.step(input),
            }
        }
        running.stop().await;
    }
}

struct Running {
    identity: Identity,
    link: Link,
    watchers: Watchers,
    updates: mpsc::Receiver<SourceUpdate>,
    epoch: HighestEpoch,
    metrics: Metrics,
    standing: watch::Sender<Standing>,
    index: Index,
    /// Taken out during a step, which consumes it; there at all other times.
    session: Option<Session>,
    outbox: Option<mpsc::Sender<AgentMessage>>,
    /// Why there is no stream, as it was logged last: retries that fail in the same way are not logged again.
    offline_reason: Option<String>,
    started: Instant,
}

impl Running {
    /// The next thing that happens. Cancel safe: what was taken in is in the index.
    async fn next(&mut self, batch: &mut Vec<SourceUpdate>) -> Input {
        let session = self.session.as_ref().expect("the session is only out during a step, which does not await");
        let wake = session.wake_at().map(|at| self.started + at);
        let room = self.outbox.as_ref().filter(|_| session.wants_room());
        tokio::select! {
            event = self.link.next() => match event {
                LinkEvent::Opened(outbox) => {
                    self.outbox = Some(outbox);
                    Input::Opened
                }
                LinkEvent::Received(message) => {
                    self.metrics.received(message.label());
                    Input::Received(message)
                }
                LinkEvent::Closed { reason, refused } => {
                    self.outbox = None;
                    Input::Closed { reason, refused }
                }
                LinkEvent::Renewed => Input::Renewed,
            },
            _ = self.updates.recv_many(batch, UPDATES_A_STEP) => {
                for SourceUpdate { from, event } in batch.drain(..) {
                    self.index.handle(&from, event);
                }
                Input::IndexChanged
            }
            () = room_in(room) => Input::Tick,
            () = sleep_until(wake) => Input::Tick,
        }
    }

    fn step(&mut self, input: Input) {
        let at = At {
            now: self.started.elapsed(),
            room: self.outbox.as_ref().map_or(0, mpsc::Sender::capacity),
            jitter: rand::random(),
        };
        let session = self.session.take().expect("the session is only out during a step, and steps do not nest");
        let (outputs, session) = session.step(input, at, &mut self.index);
        self.session = Some(session);
        for output in outputs {
            self.carry_out(output);
        }
        self.publish();
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Dial => {
                self.metrics.connection_attempt();
                self.link.dial();
            }
            Output::Send(message) => self.write(&message),
            Output::Drop => {
                self.outbox = None;
                self.link.hang_up();
            }
            Output::WatchSetChanged => self.watchers.want(&self.index.wanted_sources()),
            Output::Note(note) => self.log(note),
        }
    }

    fn write(&mut self, message: &Outgoing) {
        let Some(outbox) = &self.outbox else { return };
        let label = message.body.label();
        // There is room, so this fails only when the stream just ended; its end comes as the next event.
        if outbox.try_send(to_proto_message(message, &self.identity, jiff::Timestamp::now())).is_ok() {
            self.metrics.sent(label);
        }
    }

    fn log(&mut self, note: Note) {
        match note {
            Note::Offline { reason, retry_in } => {
                let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
                if self.offline_reason.as_ref() == Some(&reason) {
                    debug!(reason, retry_in_ms, "There is still no stream to the hub; it is tried again");
                } else {
                    warn!(reason, retry_in_ms, "There is no stream to the hub; it is tried again until there is");
                    self.offline_reason = Some(reason);
                }
            }
            Note::Welcomed { epoch, session_id, resumed } => {
                self.offline_reason = None;
                info!(epoch, session_id, resumed, "The hub welcomed this agent");
            }
            Note::WatchSet { version, services } => info!(version, services, "The hub named the Services to watch"),
            Note::SnapshotHeld => warn!(
                "The snapshot is held back, for some sources were never listed; what is known of the other namespaces is sent"
            ),
            Note::Snapshot { services, endpoints } => info!(services, endpoints, "A snapshot is sent to the hub"),
            Note::Resync { reason } => warn!(reason, "The hub asked for a new snapshot"),
            Note::Live { version } => info!(version, "The hub holds what this cluster shows"),
        }
    }

    fn publish(&self) {
        let Some(session) = &self.session else { return };
        let (services, endpoints) = self.index.counts();
        self.metrics.inventory(services, endpoints);
        self.epoch.raise(session.highest_epoch());
        self.metrics.stream(session.stage(), session.highest_epoch(), session.unacknowledged());
        let now = Standing {
            stage: session.stage(),
            has_watch_set: self.index.watch_set_version() > 0,
            synced: self.index.all_synced(),
        };
        self.standing.send_if_modified(|standing| std::mem::replace(standing, now) != now);
    }

    async fn stop(mut self) {
        self.outbox = None;
        self.link.say_farewell().await;
        self.watchers.stop().await;
    }
}
