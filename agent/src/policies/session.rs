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

mod tell;
mod types;

use std::time::Duration;

use self::tell::{ACK_TIMEOUT, List, Phase, Stream};
pub use self::types::{At, Input, Moment, Note, Output};
use super::{
    messages::{Body, Incoming, Outgoing},
    objects::{Key, SourceEvent},
    table::Table,
};
use crate::backoff::Backoff;

/// How long the hub may take to answer Hello. It reads one row of its store for that.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

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

    /// One of the names in `metrics::RESOURCE_STAGES`.
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
            Stage::Listing { stream, .. } | Stage::Live { stream } => stream.wake_at(self.failing.as_ref()),
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
            (stage @ Stage::Offline { .. }, Input::Renewed) => stage,
            // As after a loss, but at once and for no fault.
            (_, Input::Renewed) => {
                self.outputs.push(Output::Drop);
                self.table.forget_sent();
                self.outputs.push(Output::Lost);
                Stage::Offline { retry_at: Some(self.at.now) }
            }
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
                for (key, uid) in stream.acknowledged(seq) {
                    if self.table.deletion_stored(&key, &uid) {
                        self.outputs.push(Output::Released { key, uid });
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
