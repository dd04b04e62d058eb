//! The state machine of the stream to the hub: Offline, Hello, Syncing, Live.
//!
//! `step` takes the session, one input and the moment, and gives back what to do and the next session. No IO, no clock, no
//! randomness: the driver brings the time, how many messages can be written, and the dice. The index is read and told what was sent.
//!
//! Rules:
//! - The hub takes what is missing from a complete snapshot as gone. So a snapshot is made only when every namespace of the watch
//!   set was listed completely at least once. When one of them fails for longer than [`Settings::hold`] (no leave to list, say), what
//!   is known of the others is sent as changes: additions need no snapshot, and one namespace must not hold up the rest.
//! - Changes are kept until they are acknowledged, at most [`Settings::window`] of them; a slow hub gets fewer and later messages with
//!   the last state of each endpoint. A snapshot is not kept: when the stream breaks, a new one is made.
//! - Resuming is offered only when the last snapshot was acknowledged whole.
//! - An agent that has seen an epoch follows no hub with a smaller one.

#[cfg(test)]
mod properties;
mod stream;
#[cfg(test)]
mod tests;
mod types;

use std::{collections::VecDeque, time::Duration};

use stream::{Phase, Stream};
pub use types::{At, Input, Moment, Note, Output, Settings};

use super::messages::{Body, Incoming, Outgoing};
use crate::{backoff::Backoff, index::Index};

/// How long the hub may take to answer Hello. It reads one row of its store for that.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// When the hub names none.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(5);
/// Bounds on what the hub may ask for: below, heartbeats become load; above, a dead stream is noticed too late.
const HEARTBEAT_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// References in one watch set. At about 100 bytes each the message is 1 MB, a quarter of what gRPC accepts.
const MAX_WATCH_SET: usize = 10_000;
/// Sources in one report, the failing ones first. At 1024 characters of error each that is 1 MB.
const MAX_SOURCES: usize = 1000;

/// The session with the hub, over all of its connections.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    stage: Stage,
    memory: Memory,
}

#[derive(Debug)]
enum Stage {
    /// Without a stream; `retry_at` is None while the hub is being dialled.
    Offline { retry_at: Option<Moment> },
    /// Hello was sent.
    Hello { give_up_at: Moment },
    /// The hub does not yet hold what the cluster shows.
    Syncing { stream: Stream, phase: Phase },
    /// The hub holds what the cluster shows, but for what is on its way.
    Live { stream: Stream },
}

/// What outlives a connection.
#[derive(Debug)]
struct Memory {
    next_seq: u64,
    acked_seq: u64,
    highest_epoch: u64,
    snapshots: u64,
    /// Changes that the hub may not have stored, oldest first.
    unacked: VecDeque<Outgoing>,
    base: Base,
    /// The watch set that the acknowledged state answers.
    acked_version: u64,
    /// The number of the Live that answers the present watch set. Until it is acknowledged the hub may still hold what left the
    /// set: the message can be lost with its stream.
    live_seq: Option<u64>,
    backoff: Backoff,
}

/// The snapshot that later changes stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    /// None that is complete.
    None,
    /// Sent to its end, which has this sequence number.
    Sent { end_seq: u64, version: u64 },
    /// Stored by the hub.
    Stored,
}

impl Session {
    /// A session that has not tried to reach the hub yet; the first `Tick` does.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let memory = Memory {
            next_seq: 1,
            acked_seq: 0,
            highest_epoch: 0,
            snapshots: 0,
            unacked: VecDeque::new(),
            base: Base::None,
            acked_version: 0,
            live_seq: None,
            backoff: Backoff::default(),
        };
        Self { settings, stage: Stage::Offline { retry_at: Some(Duration::ZERO) }, memory }
    }

    /// One of the names in `metrics::STAGES`.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Offline { .. } => "offline",
            Stage::Hello { .. } => "hello",
            Stage::Syncing { .. } => "syncing",
            Stage::Live { .. } => "live",
        }
    }

    /// The highest epoch of a hub that was followed.
    #[must_use]
    pub fn highest_epoch(&self) -> u64 {
        self.memory.highest_epoch
    }

    /// How many messages the hub has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.memory.unacked.len()
    }

    /// When the next `Tick` is due; None when only an input can bring it forward.
    #[must_use]
    pub fn wake_at(&self) -> Option<Moment> {
        match &self.stage {
            Stage::Offline { retry_at } => *retry_at,
            Stage::Hello { give_up_at } => Some(*give_up_at),
            Stage::Syncing { stream, phase } => {
                Some(stream.wake_at(self.window_is_open()).min(phase.wake_at(&self.settings).unwrap_or(Moment::MAX)))
            }
            Stage::Live { stream } => Some(stream.wake_at(self.window_is_open())),
        }
    }

    /// True when something waits for room to be written; a `Tick` is due as soon as there is any.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        match &self.stage {
            Stage::Offline { .. } | Stage::Hello { .. } => false,
            Stage::Syncing { stream, .. } | Stage::Live { stream } => stream.wants_room,
        }
    }

    fn window_is_open(&self) -> bool {
        self.memory.unacked.len() < self.settings.window
    }

    /// Takes one step.
    #[must_use]
    pub fn step(self, input: Input, at: At, index: &mut Index) -> (Vec<Output>, Self) {
        let mut step = Step { settings: self.settings, memory: self.memory, at, index, outputs: Vec::new() };
        let stage = step.take(self.stage, input);
        let stage = step.go_on(stage);
        let Step { memory, outputs, settings, .. } = step;
        (outputs, Self { settings, stage, memory })
    }
}

/// A step under way: what it may read and change, and what it has decided to do.
struct Step<'a> {
    settings: Settings,
    memory: Memory,
    at: At,
    index: &'a mut Index,
    outputs: Vec<Output>,
}

impl Step<'_> {
    /// What the input itself changes.
    fn take(&mut self, stage: Stage, input: Input) -> Stage {
        match (stage, input) {
            (Stage::Offline { .. }, Input::Opened) => self.greet(),
            (
                Stage::Hello { .. },
                Input::Received(Incoming::Welcome { epoch, session_id, heartbeat, resume_after }),
            ) => self.welcomed(epoch, session_id, heartbeat, resume_after),
            // A hub may send a sign of life while it looks the agent up.
            (stage @ Stage::Hello { .. }, Input::Received(Incoming::Heartbeat)) => stage,
            (Stage::Hello { .. }, Input::Received(other)) => {
                self.abandon(format!("the hub answered Hello with {}", other.label()), true)
            }
            (Stage::Syncing { mut stream, phase }, Input::Received(message)) => {
                stream.heard(self.at.now);
                self.hear(stream, Some(phase), message)
            }
            (Stage::Live { mut stream }, Input::Received(message)) => {
                stream.heard(self.at.now);
                self.hear(stream, None, message)
            }
            (_, Input::Closed { reason, refused }) => self.offline(reason, refused),
            (Stage::Syncing { mut stream, phase }, Input::IndexChanged) => {
                stream.index_changed(self.at.now, self.index.is_touched(), &self.settings);
                Stage::Syncing { stream, phase }
            }
            (Stage::Live { mut stream }, Input::IndexChanged) => {
                stream.index_changed(self.at.now, self.index.is_touched(), &self.settings);
                Stage::Live { stream }
            }
            // As after a loss, but at once and for no fault: what is not acknowledged is said again, or the stream is resumed.
            (Stage::Hello { .. } | Stage::Syncing { .. } | Stage::Live { .. }, Input::Renewed) => {
                self.outputs.push(Output::Drop);
                Stage::Offline { retry_at: Some(self.at.now) }
            }
            // Late words of a stream that was dropped change nothing.
            (stage, Input::Renewed | Input::Tick | Input::IndexChanged | Input::Opened | Input::Received(_)) => stage,
        }
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
            Stage::Syncing { stream, .. } | Stage::Live { stream } if stream.is_dead(self.at.now) => {
                let silence = stream.silence(self.at.now).as_secs_f32();
                self.abandon(format!("the hub was silent for {silence:.1} s, longer than three heartbeats"), false)
            }
            Stage::Syncing { stream, phase } => self.sync(stream, phase),
            Stage::Live { stream } => self.live(stream),
            waiting @ (Stage::Offline { .. } | Stage::Hello { .. }) => waiting,
        }
    }

    fn greet(&mut self) -> Stage {
        // Only a snapshot that the hub stored whole is something to go on from.
        let resumable = self.memory.base == Base::Stored;
        let body = Body::Hello {
            highest_epoch: self.memory.highest_epoch,
            last_acked_seq: if resumable { self.memory.acked_seq } else { 0 },
            watch_set_version: if resumable { self.memory.acked_version } else { 0 },
        };
        self.outputs.push(Output::Send(Outgoing { seq: 0, body }));
        Stage::Hello { give_up_at: self.at.now + HELLO_TIMEOUT }
    }

    fn welcomed(&mut self, epoch: u64, session_id: String, heartbeat: Duration, resume_after: Option<u64>) -> Stage {
        let highest = self.memory.highest_epoch;
        if epoch < highest {
            return self.abandon(format!("the hub is at epoch {epoch}, and epoch {highest} was seen before"), true);
        }
        self.memory.highest_epoch = epoch;
        let heartbeat = match heartbeat {
            Duration::ZERO => DEFAULT_HEARTBEAT,
            asked => asked.clamp(HEARTBEAT_BOUNDS.0, HEARTBEAT_BOUNDS.1),
        };
        let stream = Stream::new(self.at.now, heartbeat);
        let resumed = resume_after.is_some_and(|seq| self.can_resume(seq));
        let resume_after = resume_after.filter(|_| resumed);
        self.outputs.push(Output::Note(Note::Welcomed { epoch, session_id, resumed }));
        if let Some(seq) = resume_after {
            self.acknowledged(seq);
        }
        Stage::Syncing { stream, phase: Phase::AwaitWatchSet { resume_after } }
    }

    fn can_resume(&self, after: u64) -> bool {
        self.memory.base == Base::Stored && (self.memory.acked_seq..self.memory.next_seq).contains(&after)
    }

    fn hear(&mut self, mut stream: Stream, phase: Option<Phase>, message: Incoming) -> Stage {
        let back = |stream, phase| match phase {
            Some(phase) => Stage::Syncing { stream, phase },
            None => Stage::Live { stream },
        };
        match message {
            Incoming::Heartbeat => back(stream, phase),
            Incoming::Welcome { .. } => self.abandon("the hub sent a second Welcome".to_owned(), true),
            Incoming::Ack { seq } if seq >= self.memory.next_seq => {
                self.abandon(format!("the hub acknowledged message {seq}, which was never sent"), true)
            }
            Incoming::Ack { seq } => {
                self.memory.backoff.reset();
                self.acknowledged(seq);
                back(stream, phase)
            }
            Incoming::Resync { reason } => {
                self.outputs.push(Output::Note(Note::Resync { reason }));
                match phase {
                    Some(Phase::AwaitWatchSet { .. }) => {
                        Stage::Syncing { stream, phase: Phase::AwaitWatchSet { resume_after: None } }
                    }
                    _ => self.prepare_snapshot(stream),
                }
            }
            Incoming::WatchSet { services, .. } if services.len() > MAX_WATCH_SET => self
                .abandon(format!("the watch set has {} references, more than {MAX_WATCH_SET}", services.len()), true),
            Incoming::WatchSet { version, services } => {
                self.outputs.push(Output::Note(Note::WatchSet { version, services: services.len() }));
                self.index.set_watch_set(version, services);
                self.memory.live_seq = None;
                self.outputs.push(Output::WatchSetChanged);
                stream.watch_set_changed(self.at.now);
                match phase {
                    Some(Phase::AwaitWatchSet { resume_after: Some(after) }) => {
                        Stage::Syncing { stream, phase: Phase::Resend { after } }
                    }
                    Some(Phase::Resend { after }) => Stage::Syncing { stream, phase: Phase::Resend { after } },
                    // The snapshot names the set it was made from, and the hub judges absence by that one: it goes on.
                    Some(Phase::Snapshot(sending)) => Stage::Syncing { stream, phase: Phase::Snapshot(sending) },
                    Some(Phase::AwaitWatchSet { .. } | Phase::AwaitSources { .. }) => self.prepare_snapshot(stream),
                    Some(Phase::Changes) | None => Stage::Syncing { stream, phase: Phase::Changes },
                }
            }
        }
    }

    fn prepare_snapshot(&mut self, stream: Stream) -> Stage {
        // The snapshot says everything that was on its way, so nothing of that is sent again.
        self.memory.unacked.clear();
        self.memory.live_seq = None;
        self.memory.base = Base::None;
        Stage::Syncing { stream, phase: Phase::AwaitSources { since: self.at.now, held: false } }
    }

    fn acknowledged(&mut self, seq: u64) {
        self.memory.acked_seq = self.memory.acked_seq.max(seq);
        if let Base::Sent { end_seq, version } = self.memory.base
            && self.memory.acked_seq >= end_seq
        {
            self.memory.base = Base::Stored;
            self.memory.acked_version = version;
        }
        if self.memory.live_seq.is_some_and(|live| live <= seq) {
            self.memory.live_seq = None;
            self.index.set_confirmed();
        }
        // A Live that is acknowledged came after the snapshot. Versions have no order: only the place in the stream counts.
        while self.memory.unacked.front().is_some_and(|message| message.seq <= seq) {
            if let Some(Outgoing { body: Body::Live { watch_set_version }, .. }) = self.memory.unacked.pop_front() {
                self.memory.acked_version = watch_set_version;
            }
        }
    }

    /// Drops the stream.
    fn abandon(&mut self, reason: String, slowly: bool) -> Stage {
        self.outputs.push(Output::Drop);
        self.offline(reason, slowly)
    }

    fn offline(&mut self, reason: String, slowly: bool) -> Stage {
        if slowly {
            self.memory.backoff.slow_down();
        }
        let retry_in = self.memory.backoff.next(self.at.jitter);
        self.outputs.push(Output::Note(Note::Offline { reason, retry_in }));
        Stage::Offline { retry_at: Some(self.at.now + retry_in) }
    }

    /// Writes a message that is not acknowledged. False when there is no room.
    fn send_unnumbered(&mut self, body: Body) -> bool {
        if self.at.room == 0 {
            return false;
        }
        self.at.room -= 1;
        self.outputs.push(Output::Send(Outgoing { seq: 0, body }));
        true
    }

    /// Writes a numbered message; the caller has made sure of the room. Gives its number.
    fn send(&mut self, body: Body, keep: bool) -> u64 {
        let seq = self.memory.next_seq;
        self.memory.next_seq += 1;
        self.at.room = self.at.room.saturating_sub(1);
        let message = Outgoing { seq, body };
        if keep {
            self.memory.unacked.push_back(message.clone());
        }
        self.outputs.push(Output::Send(message));
        seq
    }
}
