//! The loop of the shifts: it feeds the session and the writer what happens, one thing at a time, and does what they say.
//! It decides nothing: rules belong in `session`, `status` and `policies::writer`.

use switchyard_proto::agent::v1::SyncShiftsRequest;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    session::{At, Input, Note, Outgoing, Output, Session},
    status::ShiftStatus,
};
use crate::{
    complaints::Complaints,
    link::{
        epoch::HighestEpoch,
        messages::Identity,
        shifts::{ShiftCall, to_proto_message},
        transport::{Link, LinkEvent, room_in, sleep_until},
    },
    metrics::Metrics,
    policies::{
        events::Draft,
        objects::{Key, SourceEvent},
        writer::{Action, Outcome, Writer},
    },
    watch::{
        policies::PolicyWatch,
        write::{EventOutcome, PolicyWrites},
    },
};

/// Events on their way to the API server. Past it they are dropped: an Event is a courtesy.
const MAX_EVENTS: usize = 32;
/// Names of the complaints.
const WATCHING: &str = "shifts";
const WRITING: &str = "shift status";
const TELLING: &str = "shift events";

/// The parts that the loop drives.
pub struct Driver {
    /// Who the agent is.
    pub identity: Identity,
    /// The stream.
    pub link: Link<ShiftCall>,
    /// The watcher.
    pub watch: PolicyWatch<ShiftStatus>,
    /// Writes to the API server.
    pub writes: PolicyWrites,
    /// Shared with the other streams.
    pub epoch: HighestEpoch,
    /// Counted here.
    pub metrics: Metrics,
    /// What cannot be done.
    pub complaints: Complaints,
}

impl Driver {
    /// Runs until the token is cancelled, then half-closes the stream and ends the watcher.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut running = Running {
            parts: self,
            session: Some(Session::new()),
            writer: Writer::default(),
            calls: JoinSet::new(),
            outbox: None,
            offline_reason: None,
            started: Instant::now(),
        };
        running.step(Input::Tick);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                happened = running.next(&mut batch) => running.handle(happened, &mut batch),
            }
        }
        running.stop().await;
    }
}

/// What happened outside.
enum Happened {
    Link(LinkEvent<ShiftCall>),
    /// The batch holds what the watcher saw.
    Source,
    Called(Called),
    Tick,
}

/// A call that ended.
enum Called {
    Status { key: Key, uid: String, outcome: Outcome<ShiftStatus> },
    Event { outcome: EventOutcome },
}

struct Running {
    parts: Driver,
    /// Taken out during a step, which consumes it; there at all other times.
    session: Option<Session>,
    writer: Writer<ShiftStatus>,
    calls: JoinSet<Called>,
    outbox: Option<mpsc::Sender<SyncShiftsRequest>>,
    /// Why there is no stream, as it was logged last: retries that fail in the same way are not logged again.
    offline_reason: Option<String>,
    started: Instant,
}

impl Running {
    /// The next thing that happens. Cancel safe: what was taken in is in the batch.
    async fn next(&mut self, batch: &mut Vec<SourceEvent<ShiftStatus>>) -> Happened {
        let session = self.session.as_ref().expect("the session is only out during a step, which does not await");
        let wake = [session.wake_at(), self.writer.wake_at()].into_iter().flatten().min();
        let wake = wake.map(|at| self.started + at);
        let room = self.outbox.as_ref().filter(|_| session.wants_room());
        tokio::select! {
            event = self.parts.link.next() => Happened::Link(event),
            () = self.parts.watch.next(batch) => Happened::Source,
            Some(called) = self.calls.join_next() => match called {
                Ok(called) => Happened::Called(called),
                // A call that panicked leaves its write open for ever; that resource is written again after a restart.
                Err(_) => Happened::Tick,
            },
            () = room_in(room) => Happened::Tick,
            () = sleep_until(wake) => Happened::Tick,
        }
    }

    fn handle(&mut self, happened: Happened, batch: &mut Vec<SourceEvent<ShiftStatus>>) {
        match happened {
            Happened::Link(LinkEvent::Opened(outbox)) => {
                self.outbox = Some(outbox);
                self.step(Input::Opened);
            }
            Happened::Link(LinkEvent::Received(message)) => {
                self.parts.metrics.of_shifts().message_received(message.label());
                self.step(Input::Received(message));
            }
            Happened::Link(LinkEvent::Closed { reason, refused }) => {
                self.outbox = None;
                self.step(Input::Closed { reason, refused });
            }
            Happened::Link(LinkEvent::Renewed) => self.step(Input::Renewed),
            Happened::Source => {
                for event in batch.drain(..) {
                    self.saw(event);
                }
            }
            Happened::Called(called) => self.called(called),
            Happened::Tick => self.step(Input::Tick),
        }
        self.act();
        self.publish();
    }

    /// Both the session and the writer hear what the watcher saw.
    fn saw(&mut self, event: SourceEvent<ShiftStatus>) {
        match &event {
            SourceEvent::Listed(resource) | SourceEvent::Applied(resource) => self.writer.saw(resource),
            SourceEvent::Deleted { key, uid } => self.writer.gone(key, uid),
            SourceEvent::ListStarted | SourceEvent::ListDone | SourceEvent::Failing(_) | SourceEvent::Following => {}
        }
        let is_list = event == SourceEvent::ListDone;
        self.step(Input::Source(event));
        if is_list && let Some(session) = &self.session {
            self.writer.retain(|key| session.holds(key));
        }
    }

    fn step(&mut self, input: Input) {
        let at = At {
            now: self.started.elapsed(),
            room: self.outbox.as_ref().map_or(0, mpsc::Sender::capacity),
            jitter: rand::random(),
            highest_epoch: self.parts.epoch.get(),
        };
        let session = self.session.take().expect("the session is only out during a step, and steps do not nest");
        let (outputs, session) = session.step(input, at);
        self.session = Some(session);
        for output in outputs {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Dial => {
                self.parts.metrics.of_shifts().connection_attempt();
                self.parts.link.dial();
            }
            Output::Send(message) => self.write(message),
            Output::Drop => {
                self.outbox = None;
                self.parts.link.hang_up();
            }
            Output::Lost => self.writer.lost(),
            Output::Watch(wanted) => {
                self.parts.watch.want(wanted);
                if !wanted {
                    self.writer.retain(|_| false);
                }
            }
            Output::Show { key, uid, status } => self.writer.show(&key, &uid, *status),
            Output::Note(note) => self.log(note),
        }
    }

    fn write(&mut self, message: Outgoing) {
        let Some(outbox) = &self.outbox else { return };
        let label = message.label();
        // There is room, so this fails only when the stream just ended; its end comes as the next event.
        if outbox.try_send(to_proto_message(message, &self.parts.identity)).is_ok() {
            self.parts.metrics.of_shifts().message_sent(label);
        }
    }

    /// What the writer has decided.
    fn act(&mut self) {
        for action in self.writer.due(self.started.elapsed()) {
            match action {
                Action::Write { key, uid, version, status } => {
                    let writes = self.parts.writes.clone();
                    self.calls.spawn(async move {
                        let outcome = writes.status(&key, &uid, &version, &*status).await;
                        Called::Status { key, uid, outcome }
                    });
                }
                Action::Tell { key, uid, draft } => self.tell(key, uid, draft),
            }
        }
    }

    fn tell(&mut self, key: Key, uid: String, draft: Draft) {
        if self.calls.len() >= MAX_EVENTS {
            self.parts.metrics.of_shifts().event("dropped");
            return;
        }
        let writes = self.parts.writes.clone();
        self.calls
            .spawn(async move { Called::Event { outcome: writes.event::<ShiftStatus>(&key, &uid, &draft).await } });
    }

    fn called(&mut self, called: Called) {
        match called {
            Called::Status { key, uid, outcome } => {
                self.report_write(&key, &outcome);
                self.writer.written(&key, &uid, outcome, self.started.elapsed(), rand::random());
            }
            Called::Event { outcome: EventOutcome::NamespaceGone } => self.parts.metrics.of_shifts().event("dropped"),
            Called::Event { outcome: EventOutcome::Written } => {
                self.parts.metrics.of_shifts().event("written");
                self.parts.complaints.clear(TELLING);
            }
            Called::Event { outcome: EventOutcome::Failed(error) } => {
                self.parts.metrics.of_shifts().event("failed");
                if self.parts.complaints.raise(TELLING, &error) {
                    warn!(error, "An Event about a shift was not written; nothing else depends on it");
                }
            }
        }
    }

    fn report_write(&self, key: &Key, outcome: &Outcome<ShiftStatus>) {
        let label = outcome.label();
        self.parts.metrics.of_shifts().status_write(label);
        match outcome.failure() {
            Some(error) if self.parts.complaints.raise(WRITING, error) => {
                warn!(shift = %key, error, "The status of a TrafficShift cannot be written; it is tried again until it can");
            }
            Some(_) => {}
            None if label == "written" && self.parts.complaints.clear(WRITING) => {
                info!(shift = %key, "The status of TrafficShifts can be written again");
            }
            None => {}
        }
    }

    fn log(&mut self, note: Note) {
        match note {
            Note::Offline { reason, retry_in } => {
                let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
                if self.offline_reason.as_ref() == Some(&reason) {
                    debug!(reason, retry_in_ms, "There is still no stream of shifts to the hub; it is tried again");
                } else {
                    warn!(
                        reason,
                        retry_in_ms, "There is no stream of shifts to the hub; it is tried again until there is"
                    );
                    self.offline_reason = Some(reason);
                }
            }
            Note::Source { epoch } => {
                self.offline_reason = None;
                info!(epoch, "The hub takes shifts from this cluster");
            }
            Note::NotSource { message } => {
                self.offline_reason = None;
                info!(reason = message, "The hub takes no shifts from this cluster");
            }
        }
    }

    fn publish(&self) {
        let Some(session) = &self.session else { return };
        self.parts.epoch.raise(session.highest_epoch());
        self.parts.metrics.of_shifts().stream(session.stage(), session.active());
        match session.failing() {
            Some(message) => {
                self.parts.complaints.raise(WATCHING, message);
            }
            None => {
                self.parts.complaints.clear(WATCHING);
            }
        }
    }

    async fn stop(mut self) {
        self.outbox = None;
        self.parts.link.say_farewell().await;
        self.parts.watch.stop().await;
        self.calls.shutdown().await;
    }
}
