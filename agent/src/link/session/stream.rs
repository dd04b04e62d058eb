//! What a session does while it has a stream: heartbeats, the state of the sources, the snapshot, changes.
//!
//! Each function sends as much as the window and the room to write allow, remembers where it stopped, and goes on at the next step.

use std::{sync::Arc, time::Duration};

use super::{Base, Body, MAX_SOURCES, Moment, Note, Output, Settings, Stage, Step};
use crate::index::{
    Snapshot,
    objects::{Batch, Health, SourceStatus},
};

/// The stream counts as dead after this many heartbeats of the hub did not come.
const MISSED_HEARTBEATS: u32 = 3;

/// One connection to the hub, after its Welcome.
#[derive(Debug)]
pub struct Stream {
    heartbeat: Duration,
    next_heartbeat: Moment,
    last_heard: Moment,
    /// When the changes that gather are sent.
    flush_at: Option<Moment>,
    /// What this hub was last told of the sources.
    sources: Option<Arc<Vec<SourceStatus>>>,
    /// The sources may stand differently from what was told.
    sources_due: bool,
    sources_not_before: Moment,
    /// Something waits for room to be written.
    pub wants_room: bool,
}

/// How far the hub has been brought up to date.
#[derive(Debug)]
pub enum Phase {
    /// The hub has not said which Services to watch.
    AwaitWatchSet { resume_after: Option<u64> },
    /// A snapshot is due as soon as all sources are synced. `held`: it took too long, and what is known is sent meanwhile.
    AwaitSources { since: Moment, held: bool },
    /// A snapshot is being sent.
    Snapshot(Box<Sending>),
    /// What was not acknowledged on the last connection is sent again, behind this number.
    Resend { after: u64 },
    /// Changes since the snapshot are being sent.
    Changes,
}

/// A snapshot under way.
#[derive(Debug)]
pub struct Sending {
    id: String,
    begun: bool,
    snapshot: Snapshot,
    services_sent: usize,
    endpoints_sent: usize,
}

impl Phase {
    pub fn wake_at(&self, settings: &Settings) -> Option<Moment> {
        match self {
            Self::AwaitSources { since, held: false } => Some(*since + settings.hold),
            Self::AwaitSources { held: true, .. }
            | Self::AwaitWatchSet { .. }
            | Self::Snapshot(_)
            | Self::Resend { .. }
            | Self::Changes => None,
        }
    }
}

impl Stream {
    pub fn new(now: Moment, heartbeat: Duration) -> Self {
        Self {
            heartbeat,
            next_heartbeat: now + heartbeat,
            last_heard: now,
            flush_at: None,
            sources: None,
            sources_due: true,
            sources_not_before: now,
            wants_room: false,
        }
    }

    pub fn heard(&mut self, now: Moment) {
        self.last_heard = now;
    }

    pub fn silence(&self, now: Moment) -> Duration {
        now.saturating_sub(self.last_heard)
    }

    fn dead_at(&self) -> Moment {
        // Half an interval more, so that the third heartbeat may be a little late.
        self.last_heard + self.heartbeat * MISSED_HEARTBEATS + self.heartbeat / 2
    }

    pub fn is_dead(&self, now: Moment) -> bool {
        now >= self.dead_at()
    }

    pub fn index_changed(&mut self, now: Moment, touched: bool, settings: &Settings) {
        self.sources_due = true;
        if touched && self.flush_at.is_none() {
            self.flush_at = Some(now + settings.coalesce);
        }
    }

    /// Another watch set: other sources, and something to say of them at once.
    pub fn watch_set_changed(&mut self, now: Moment) {
        self.sources_due = true;
        self.flush_at = Some(now);
    }

    /// When something is due by time alone. What waits for room or for an acknowledgement is not.
    pub fn wake_at(&self, window_is_open: bool) -> Moment {
        let mut at = self.next_heartbeat.min(self.dead_at());
        if window_is_open && !self.wants_room {
            at = at.min(self.flush_at.unwrap_or(Moment::MAX));
            if self.sources_due {
                at = at.min(self.sources_not_before);
            }
        }
        at
    }
}

impl Step<'_> {
    pub(super) fn sync(&mut self, mut stream: Stream, mut phase: Phase) -> Stage {
        stream.wants_room = false;
        self.keep_alive(&mut stream);
        if let Phase::AwaitWatchSet { .. } = phase {
            // Without a watch set there is nothing to say.
            stream.sources_due = false;
            stream.flush_at = None;
            return Stage::Syncing { stream, phase };
        }
        if let Phase::Resend { after } = phase {
            // Before anything new gets a number, what has one already must be on its way: numbers only grow.
            if let Some(after) = self.resend(after) {
                stream.wants_room = true;
                return Stage::Syncing { stream, phase: Phase::Resend { after } };
            }
            stream.flush_at = Some(self.at.now);
            phase = Phase::Changes;
        }
        self.report_sources(&mut stream);
        loop {
            phase = match phase {
                Phase::AwaitWatchSet { .. } => return Stage::Syncing { stream, phase },
                Phase::AwaitSources { since, held } => {
                    if !self.index.all_synced() {
                        let held = self.send_what_is_known(&mut stream, since, held);
                        return Stage::Syncing { stream, phase: Phase::AwaitSources { since, held } };
                    }
                    Phase::Snapshot(Box::new(self.begin_snapshot(&mut stream)))
                }
                Phase::Snapshot(mut sending) => {
                    if !self.send_snapshot(&mut sending) {
                        stream.wants_room = true;
                        return Stage::Syncing { stream, phase: Phase::Snapshot(sending) };
                    }
                    stream.flush_at = Some(self.at.now);
                    Phase::Changes
                }
                Phase::Resend { .. } | Phase::Changes => return self.finish_sync(stream),
            };
        }
    }

    pub(super) fn live(&mut self, mut stream: Stream) -> Stage {
        stream.wants_room = false;
        self.keep_alive(&mut stream);
        self.report_sources(&mut stream);
        if stream.flush_at.is_some_and(|at| at <= self.at.now) && self.send_changes(&mut stream) {
            stream.flush_at = None;
        }
        Stage::Live { stream }
    }

    /// The last changes, and then the word that there are no more. Says Live once all sources of the watch set are synced.
    fn finish_sync(&mut self, mut stream: Stream) -> Stage {
        let due = stream.flush_at.is_some_and(|at| at <= self.at.now);
        if due && self.send_changes(&mut stream) {
            stream.flush_at = None;
        }
        if stream.flush_at.is_some() || !self.index.all_synced() || !self.may_send(&mut stream) {
            return Stage::Syncing { stream, phase: Phase::Changes };
        }
        let version = self.index.watch_set_version();
        let seq = self.send(Body::Live { watch_set_version: version }, true);
        self.memory.live_seq = Some(seq);
        self.outputs.push(Output::Note(Note::Live { version }));
        Stage::Live { stream }
    }

    fn keep_alive(&mut self, stream: &mut Stream) {
        if stream.next_heartbeat <= self.at.now {
            // Without room something else is on its way, and that is a sign of life as well.
            self.send_unnumbered(Body::Heartbeat);
            stream.next_heartbeat = self.at.now + stream.heartbeat;
        }
    }

    fn report_sources(&mut self, stream: &mut Stream) {
        if !stream.sources_due || stream.sources_not_before > self.at.now {
            return;
        }
        let mut statuses = self.index.source_statuses();
        if statuses.len() > MAX_SOURCES {
            statuses.sort_by_key(|status| !matches!(status.health, Health::Failing(_)));
            statuses.truncate(MAX_SOURCES);
        }
        if stream.sources.as_deref() == Some(&statuses) {
            stream.sources_due = false;
        } else if self.may_send(stream) {
            let statuses = Arc::new(statuses);
            self.send(Body::SourceStates(Arc::clone(&statuses)), true);
            stream.sources = Some(statuses);
            stream.sources_due = false;
            stream.sources_not_before = self.at.now + self.settings.source_pause;
        }
    }

    /// True when the window is open and there is room; without room it remembers that it is wanted.
    fn may_send(&mut self, stream: &mut Stream) -> bool {
        if self.memory.unacked.len() >= self.settings.window {
            return false;
        }
        if self.at.room == 0 {
            stream.wants_room = true;
            return false;
        }
        true
    }

    /// Sends changes until there are none, which gives true, or no more may be sent.
    fn send_changes(&mut self, stream: &mut Stream) -> bool {
        while self.may_send(stream) {
            match self.index.take_changes(self.settings.max_items) {
                Some(batch) => self.send(Body::Changes(Arc::new(batch)), true),
                None => return true,
            };
        }
        false
    }

    /// A source fails, so there can be no snapshot yet. After a while, what is known of the others is sent: additions need none.
    fn send_what_is_known(&mut self, stream: &mut Stream, since: Moment, mut held: bool) -> bool {
        if !held && self.at.now >= since + self.settings.hold {
            held = true;
            // What an earlier stream carried may never have arrived.
            self.index.forget_sent();
            stream.flush_at = Some(self.at.now);
            self.outputs.push(Output::Note(Note::SnapshotHeld));
        }
        if !held {
            // Nothing may be sent before, so nothing is due before.
            stream.flush_at = None;
        } else if stream.flush_at.is_some_and(|at| at <= self.at.now) && self.send_changes(stream) {
            stream.flush_at = None;
        }
        held
    }

    fn begin_snapshot(&mut self, stream: &mut Stream) -> Sending {
        let snapshot = self.index.take_snapshot();
        self.memory.unacked.clear();
        self.memory.snapshots += 1;
        stream.flush_at = None;
        let (services, endpoints) = (snapshot.services.len(), snapshot.endpoints.len());
        self.outputs.push(Output::Note(Note::Snapshot { services, endpoints }));
        let id = self.memory.snapshots.to_string();
        Sending { id, begun: false, snapshot, services_sent: 0, endpoints_sent: 0 }
    }

    /// Sends the snapshot as far as there is room; true at its end. The window does not bind here: a hub may store a snapshot, and
    /// so acknowledge it, only as a whole.
    fn send_snapshot(&mut self, sending: &mut Sending) -> bool {
        while self.at.room > 0 {
            if !sending.begun {
                sending.begun = true;
                let (snapshot_id, watch_set_version) = (sending.id.clone(), sending.snapshot.watch_set_version);
                self.send(Body::SnapshotBegin { snapshot_id, watch_set_version }, false);
            } else if let Some(batch) = sending.next(self.settings.max_items) {
                self.send(Body::Changes(Arc::new(batch)), false);
            } else {
                let (services, endpoints) = (sending.services_sent, sending.endpoints_sent);
                let end = Body::SnapshotEnd { snapshot_id: sending.id.clone(), services, endpoints };
                let end_seq = self.send(end, false);
                self.memory.base = Base::Sent { end_seq, version: sending.snapshot.watch_set_version };
                return true;
            }
        }
        false
    }

    /// Sends again what was not acknowledged. Gives the number it got to when room ran out, None at the end.
    fn resend(&mut self, mut after: u64) -> Option<u64> {
        while let Some(message) = self.memory.unacked.iter().find(|message| message.seq > after) {
            if self.at.room == 0 {
                return Some(after);
            }
            self.at.room -= 1;
            after = message.seq;
            self.outputs.push(Output::Send(message.clone()));
        }
        None
    }
}

impl Sending {
    fn next(&mut self, max: usize) -> Option<Batch> {
        let services: Vec<_> = self.snapshot.services.iter().skip(self.services_sent).take(max).cloned().collect();
        let room = max - services.len();
        let upserts: Vec<_> = self.snapshot.endpoints.iter().skip(self.endpoints_sent).take(room).cloned().collect();
        self.services_sent += services.len();
        self.endpoints_sent += upserts.len();
        let batch = Batch { services, upserts, tombstones: Vec::new() };
        (!batch.is_empty()).then_some(batch)
    }
}
