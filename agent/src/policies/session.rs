//! The state machine of the stream of policies: Offline, Hello, NotSource, Listing, Live.
//!
//! `step` takes the session, one input and the moment, and gives back what to do and the next session. No IO, no clock, no randomness.
//!
//! Rules:
//! - Resources are watched only while the hub takes policies from this cluster.
//! - The hub takes what is missing from a list as gone, though on weak evidence. So a list begins only after the watcher has finished
//!   one, and never while the watcher fails.
//! - A deletion that was seen is told until the hub has stored it, over as many streams as that takes.
//! - After a reconnect everything is told anew; nothing else is kept for a resend.
//! - An agent that has seen an epoch follows no hub with a smaller one.

use std::{collections::VecDeque, time::Duration};

use super::{
    messages::{Body, Incoming, Outgoing, Upsert},
    objects::{Key, SourceEvent},
    status::ResourceStatus,
    table::Table,
};
use crate::backoff::Backoff;

/// Time since some fixed moment of the process; only differences matter.
pub type Moment = Duration;

/// How long the hub may take to answer Hello. It reads one row of its store for that.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the hub may take to store something. Longer than its store is away in a failover of the database, so that the stream
/// outlives one.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);
/// A failure of the watcher is told after this long: a watch that breaks and is picked up again is no news.
const HOLD: Duration = Duration::from_secs(3);
/// Items in one message: the contract's limit.
const MAX_ITEMS: usize = 50;
/// Bytes of specs in one message, but for one that is larger by itself: a quarter of what gRPC accepts.
const MAX_BYTES: usize = 1024 * 1024;
/// Messages that the hub has not acknowledged. With the bytes above this bounds what waits in either process.
const WINDOW: usize = 8;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The time that `Session::wake_at` named has come, or there is room to write again.
    Tick,
    /// The watcher saw something.
    Source(SourceEvent),
    /// The hub was reached and can be written to.
    Opened,
    /// The stream ended, or the hub could not be reached.
    Closed {
        /// Why.
        reason: String,
        /// The hub answered, and does not want this agent: asking again soon is of no use.
        refused: bool,
    },
    /// A message came.
    Received(Incoming),
}

/// The circumstances of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct At {
    /// When it is.
    pub now: Moment,
    /// How many messages can be written without waiting.
    pub room: usize,
    /// A number from 0.0 to 1.0, new for each step.
    pub jitter: f64,
    /// The highest epoch that any stream of this agent has seen.
    pub highest_epoch: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Try to reach the hub; answer with `Opened` or `Closed`.
    Dial,
    /// Write this message. There is room for it.
    Send(Outgoing),
    /// Drop the stream. No `Closed` is expected for it.
    Drop,
    /// The stream is over: what the hub wanted shown is not known to be so any more.
    Lost,
    /// Watch the resources, or stop doing so.
    Watch(bool),
    /// The resource should show this.
    Show {
        /// Where it is.
        key: Key,
        /// Which it is.
        uid: String,
        /// What it should show.
        status: Box<ResourceStatus>,
    },
    /// The hub has stored that this resource is gone.
    Released {
        /// Where it was.
        key: Key,
        /// Which it was.
        uid: String,
    },
    /// Worth a line in the log.
    Note(Note),
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Without a hub.
    Offline {
        /// Why.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The hub takes policies from this cluster.
    Source {
        /// Its epoch.
        epoch: u64,
    },
    /// The hub takes none from this cluster.
    NotSource {
        /// The hub's words.
        message: String,
    },
    /// A list was sent.
    Listed {
        /// How many resources it held.
        policies: usize,
    },
    /// The hub was told that policies cannot be seen.
    Failing {
        /// Why.
        message: String,
    },
}

/// The stream of policies, over all of its connections.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    table: Table,
    failing: Option<Failing>,
    highest_epoch: u64,
    lists: u64,
    backoff: Backoff,
}

#[derive(Debug)]
struct Failing {
    message: String,
    since: Moment,
}

#[derive(Debug)]
enum Stage {
    /// Without a stream; `retry_at` is None while the hub is being dialled.
    Offline { retry_at: Option<Moment> },
    /// Hello was sent.
    Hello { give_up_at: Moment },
    /// The hub takes no policies from here; the stream stays, for its end is the sign to ask again.
    NotSource,
    /// The hub does not yet hold what the cluster shows.
    Listing { stream: Stream, list: Option<List> },
    /// The hub holds what the cluster shows, but for what is on its way.
    Live { stream: Stream },
}

/// A list on its way.
#[derive(Debug)]
struct List {
    id: String,
    left: VecDeque<Key>,
    count: usize,
}

#[derive(Debug, Default)]
struct Stream {
    last_seq: u64,
    acked_seq: u64,
    in_flight: VecDeque<InFlight>,
    /// The failure that the hub was told of last.
    told_failing: Option<String>,
    wants_room: bool,
}

#[derive(Debug)]
struct InFlight {
    seq: u64,
    sent_at: Moment,
    deleted: Vec<(Key, String)>,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session that has not tried to reach the hub yet; the first `Tick` does.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stage: Stage::Offline { retry_at: Some(Duration::ZERO) },
            table: Table::default(),
            failing: None,
            highest_epoch: 0,
            lists: 0,
            backoff: Backoff::default(),
        }
    }

    /// One of the names in `metrics::POLICY_STAGES`.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Offline { .. } => "offline",
            Stage::Hello { .. } => "hello",
            Stage::NotSource => "not_source",
            Stage::Listing { .. } => "listing",
            Stage::Live { .. } => "live",
        }
    }

    /// The highest epoch of a hub that was followed.
    #[must_use]
    pub fn highest_epoch(&self) -> u64 {
        self.highest_epoch
    }

    /// How many resources the cluster shows.
    #[must_use]
    pub fn policies(&self) -> usize {
        self.table.len()
    }

    /// True when the cluster shows this resource.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        self.table.holds(key)
    }

    /// Why the resources cannot be seen, when they cannot.
    #[must_use]
    pub fn failing(&self) -> Option<&str> {
        self.failing.as_ref().map(|failing| failing.message.as_str())
    }

    /// When the next `Tick` is due; None when only an input can bring it forward.
    #[must_use]
    pub fn wake_at(&self) -> Option<Moment> {
        match &self.stage {
            Stage::Offline { retry_at } => *retry_at,
            Stage::Hello { give_up_at } => Some(*give_up_at),
            Stage::NotSource => None,
            Stage::Listing { stream, .. } | Stage::Live { stream } => {
                let stored_by = stream.in_flight.front().map(|message| message.sent_at + ACK_TIMEOUT);
                let untold =
                    self.failing.as_ref().filter(|failing| stream.told_failing.as_ref() != Some(&failing.message));
                // Without room or window the tick comes with the room or the acknowledgement.
                let told_at = untold.filter(|_| stream.has_window()).map(|failing| failing.since + HOLD);
                [stored_by, told_at.filter(|_| !stream.wants_room)].into_iter().flatten().min()
            }
        }
    }

    /// True when something waits for room to be written; a `Tick` is due as soon as there is any.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        match &self.stage {
            Stage::Offline { .. } | Stage::Hello { .. } | Stage::NotSource => false,
            Stage::Listing { stream, .. } | Stage::Live { stream } => stream.wants_room,
        }
    }

    /// Takes one step.
    #[must_use]
    pub fn step(self, input: Input, at: At) -> (Vec<Output>, Self) {
        let Self { stage, table, failing, highest_epoch, lists, backoff } = self;
        let mut step = Step { table, failing, highest_epoch, lists, backoff, at, outputs: Vec::new() };
        let stage = step.take(stage, input);
        let stage = step.go_on(stage);
        let Step { table, failing, highest_epoch, lists, backoff, outputs, .. } = step;
        (outputs, Self { stage, table, failing, highest_epoch, lists, backoff })
    }
}

impl Stream {
    fn has_window(&self) -> bool {
        self.in_flight.len() < WINDOW
    }

    fn is_stuck(&self, now: Moment) -> bool {
        self.in_flight.front().is_some_and(|message| message.sent_at + ACK_TIMEOUT <= now)
    }
}

/// A step under way: what it may read and change, and what it has decided to do.
struct Step {
    table: Table,
    failing: Option<Failing>,
    highest_epoch: u64,
    lists: u64,
    backoff: Backoff,
    at: At,
    outputs: Vec<Output>,
}

impl Step {
    /// What the input itself changes.
    fn take(&mut self, stage: Stage, input: Input) -> Stage {
        match (stage, input) {
            (stage, Input::Source(event)) => {
                self.saw(event);
                stage
            }
            (_, Input::Closed { reason, refused }) => self.offline(reason, refused),
            (Stage::Offline { .. }, Input::Opened) => self.greet(),
            (Stage::Hello { .. }, Input::Received(Incoming::Welcome { epoch, is_source, message })) => {
                self.welcomed(epoch, is_source, message)
            }
            (Stage::Hello { .. }, Input::Received(other)) => {
                self.abandon(format!("the hub answered Hello with {}", other.label()), true)
            }
            (Stage::Listing { stream, list }, Input::Received(message)) => match self.hear(stream, message) {
                Ok(stream) => Stage::Listing { stream, list },
                Err(reason) => self.abandon(reason, true),
            },
            (Stage::Live { stream }, Input::Received(message)) => match self.hear(stream, message) {
                Ok(stream) => Stage::Live { stream },
                Err(reason) => self.abandon(reason, true),
            },
            // Late words of a stream that was dropped, and words to an agent that is no source, change nothing.
            (stage, Input::Tick | Input::Opened | Input::Received(_)) => stage,
        }
    }

    fn saw(&mut self, event: SourceEvent) {
        match &event {
            SourceEvent::Failing(message) => {
                let since = self.failing.take().map_or(self.at.now, |failing| failing.since);
                self.failing = Some(Failing { message: message.clone(), since });
            }
            // An attempt to list is no sign that it succeeds.
            SourceEvent::ListStarted => {}
            SourceEvent::Listed(_)
            | SourceEvent::ListDone
            | SourceEvent::Applied(_)
            | SourceEvent::Deleted { .. }
            | SourceEvent::Following => self.failing = None,
        }
        self.table.handle(event);
    }

    fn greet(&mut self) -> Stage {
        let highest_epoch = self.seen_epoch();
        self.outputs.push(Output::Send(Outgoing { seq: 0, body: Body::Hello { highest_epoch } }));
        Stage::Hello { give_up_at: self.at.now + HELLO_TIMEOUT }
    }

    fn seen_epoch(&self) -> u64 {
        self.highest_epoch.max(self.at.highest_epoch)
    }

    fn welcomed(&mut self, epoch: u64, is_source: bool, message: String) -> Stage {
        let highest = self.seen_epoch();
        if epoch < highest {
            return self.abandon(format!("the hub is at epoch {epoch}, and epoch {highest} was seen before"), true);
        }
        self.highest_epoch = epoch;
        self.outputs.push(Output::Watch(is_source));
        if is_source {
            self.outputs.push(Output::Note(Note::Source { epoch }));
            return Stage::Listing { stream: Stream::default(), list: None };
        }
        self.outputs.push(Output::Note(Note::NotSource { message }));
        // Nobody asks for it any more, and a later watch begins with a list.
        self.table = Table::default();
        self.failing = None;
        self.backoff.reset();
        Stage::NotSource
    }

    fn hear(&mut self, mut stream: Stream, message: Incoming) -> Result<Stream, String> {
        match message {
            Incoming::Welcome { .. } => return Err("the hub sent a second Welcome".to_owned()),
            Incoming::Ack { seq } if seq > stream.last_seq => {
                return Err(format!("the hub acknowledged message {seq}, which was never sent"));
            }
            Incoming::Ack { seq } => {
                self.backoff.reset();
                stream.acked_seq = stream.acked_seq.max(seq);
                while let Some(message) = stream.in_flight.pop_front_if(|message| message.seq <= seq) {
                    for (key, uid) in message.deleted {
                        if self.table.deletion_stored(&key, &uid) {
                            self.outputs.push(Output::Released { key, uid });
                        }
                    }
                }
            }
            Incoming::Status { key, uid, status } => self.outputs.push(Output::Show { key, uid, status }),
        }
        Ok(stream)
    }

    /// What is due at this moment, whatever the input was.
    fn go_on(&mut self, stage: Stage) -> Stage {
        match stage {
            Stage::Offline { retry_at: Some(at) } if at <= self.at.now => {
                self.outputs.push(Output::Dial);
                Stage::Offline { retry_at: None }
            }
            Stage::Hello { give_up_at } if give_up_at <= self.at.now => {
                self.abandon(format!("the hub did not answer Hello within {} s", HELLO_TIMEOUT.as_secs()), false)
            }
            Stage::Listing { stream, .. } | Stage::Live { stream } if stream.is_stuck(self.at.now) => {
                self.abandon(format!("the hub stored nothing for {} s", ACK_TIMEOUT.as_secs()), false)
            }
            Stage::Listing { stream, list } => self.tell(stream, Phase::Listing(list)),
            Stage::Live { stream } => self.tell(stream, Phase::Live),
            waiting @ (Stage::Offline { .. } | Stage::Hello { .. } | Stage::NotSource) => waiting,
        }
    }

    /// Writes as much as there is to say, and room for.
    fn tell(&mut self, mut stream: Stream, mut phase: Phase) -> Stage {
        stream.wants_room = false;
        while let Some(next) = self.next(&stream, &phase) {
            if !stream.has_window() {
                break;
            }
            if self.at.room == 0 {
                stream.wants_room = true;
                break;
            }
            phase = self.say(&mut stream, phase, next);
        }
        match phase {
            Phase::Listing(list) => Stage::Listing { stream, list },
            Phase::Live => Stage::Live { stream },
        }
    }

    /// What is to be said next.
    fn next(&self, stream: &Stream, phase: &Phase) -> Option<Next> {
        if let Some(failing) = &self.failing {
            let is_news = stream.told_failing.as_ref() != Some(&failing.message);
            if is_news && self.at.now >= failing.since + HOLD {
                return Some(Next::Failing(failing.message.clone()));
            }
        } else if stream.told_failing.is_some() {
            return Some(Next::Recovered);
        }
        match phase {
            Phase::Listing(Some(list)) => Some(if list.left.is_empty() { Next::ListEnd } else { Next::ListPart }),
            Phase::Listing(None) => (self.table.is_listed() && self.failing.is_none()).then_some(Next::ListBegin),
            Phase::Live if self.table.needs_list() => self.failing.is_none().then_some(Next::ListBegin),
            Phase::Live => self.table.has_changes().then_some(Next::Changes),
        }
    }

    fn say(&mut self, stream: &mut Stream, phase: Phase, next: Next) -> Phase {
        match (next, phase) {
            (Next::Failing(message), phase) => {
                stream.told_failing = Some(message.clone());
                self.outputs.push(Output::Note(Note::Failing { message: message.clone() }));
                self.send(stream, Body::Failing { message });
                phase
            }
            // The contract: a new list follows. One that was under way begins anew with it.
            (Next::Recovered, _) => {
                stream.told_failing = None;
                self.send(stream, Body::Failing { message: String::new() });
                Phase::Listing(None)
            }
            (Next::ListBegin, _) => {
                self.lists += 1;
                let id = self.lists.to_string();
                let left = self.table.begin_list().into();
                self.send(stream, Body::ListBegin { list_id: id.clone() });
                Phase::Listing(Some(List { id, left, count: 0 }))
            }
            (Next::ListPart, Phase::Listing(Some(mut list))) => {
                let upserts = self.gather(|_| list.left.pop_front());
                list.count += upserts.len();
                if !upserts.is_empty() {
                    self.send(stream, Body::Changes { upserts, deleted: Vec::new() });
                }
                Phase::Listing(Some(list))
            }
            (Next::ListEnd, Phase::Listing(Some(list))) => {
                self.outputs.push(Output::Note(Note::Listed { policies: list.count }));
                self.send(stream, Body::ListEnd { list_id: list.id, count: list.count });
                Phase::Live
            }
            (Next::Changes, phase) => {
                let upserts = self.gather(Table::next_change);
                let deleted = self.table.tell_deleted(MAX_ITEMS - upserts.len());
                self.send(stream, Body::Changes { upserts, deleted });
                phase
            }
            (Next::ListPart | Next::ListEnd, phase) => phase,
        }
    }

    /// Resources for one message. Those that are gone by now are left out.
    fn gather(&mut self, mut next: impl FnMut(&Table) -> Option<Key>) -> Vec<Upsert> {
        let mut upserts = Vec::new();
        let mut bytes = 0;
        while upserts.len() < MAX_ITEMS && bytes < MAX_BYTES {
            let Some(key) = next(&self.table) else { break };
            if let Some(upsert) = self.table.tell(&key) {
                bytes += upsert.spec.len();
                upserts.push(upsert);
            }
        }
        upserts
    }

    fn send(&mut self, stream: &mut Stream, body: Body) {
        stream.last_seq += 1;
        let deleted = match &body {
            Body::Changes { deleted, .. } => deleted.clone(),
            Body::Hello { .. } | Body::ListBegin { .. } | Body::ListEnd { .. } | Body::Failing { .. } => Vec::new(),
        };
        stream.in_flight.push_back(InFlight { seq: stream.last_seq, sent_at: self.at.now, deleted });
        self.at.room = self.at.room.saturating_sub(1);
        self.outputs.push(Output::Send(Outgoing { seq: stream.last_seq, body }));
    }

    /// Drops the stream.
    fn abandon(&mut self, reason: String, slowly: bool) -> Stage {
        self.outputs.push(Output::Drop);
        self.offline(reason, slowly)
    }

    fn offline(&mut self, reason: String, slowly: bool) -> Stage {
        if slowly {
            self.backoff.slow_down();
        }
        self.table.forget_sent();
        self.outputs.push(Output::Lost);
        let retry_in = self.backoff.next(self.at.jitter);
        self.outputs.push(Output::Note(Note::Offline { reason, retry_in }));
        Stage::Offline { retry_at: Some(self.at.now + retry_in) }
    }
}

/// How far the telling is.
enum Phase {
    /// With a list under way, or waiting to begin one.
    Listing(Option<List>),
    Live,
}

/// One message.
enum Next {
    Failing(String),
    Recovered,
    ListBegin,
    ListPart,
    ListEnd,
    Changes,
}
