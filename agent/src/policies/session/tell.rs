//! What a step of the session tells the hub: as much as there is to say, and room and window for.

use std::{collections::VecDeque, time::Duration};

use super::{Failing, Moment, Note, Output, Stage, Step};
use crate::policies::{
    messages::{Body, Outgoing, Upsert},
    objects::Key,
    table::Table,
};

/// How long the hub may take to store something. Longer than its store is away in a failover of the database, so that the stream
/// outlives one.
pub(super) const ACK_TIMEOUT: Duration = Duration::from_secs(60);
/// A failure of the watcher is told after this long: a watch that breaks and is picked up again is no news.
const HOLD: Duration = Duration::from_secs(3);
/// Items in one message: the contract's limit.
const MAX_ITEMS: usize = 50;
/// Bytes of specs in one message, but for one that is larger by itself: a quarter of what gRPC accepts.
const MAX_BYTES: usize = 1024 * 1024;
/// Messages that the hub has not acknowledged. With the bytes above this bounds what waits in either process.
const WINDOW: usize = 8;

/// A list on its way.
#[derive(Debug)]
pub(super) struct List {
    id: String,
    left: VecDeque<Key>,
    count: usize,
}

/// The connection of the moment.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) last_seq: u64,
    in_flight: VecDeque<InFlight>,
    /// The failure that the hub was told of last.
    told_failing: Option<String>,
    pub(super) wants_room: bool,
}

/// A message that is not known to be stored.
#[derive(Debug)]
struct InFlight {
    seq: u64,
    sent_at: Moment,
    deleted: Vec<(Key, String)>,
}

impl Stream {
    fn has_window(&self) -> bool {
        self.in_flight.len() < WINDOW
    }

    pub(super) fn is_stuck(&self, now: Moment) -> bool {
        self.in_flight.front().is_some_and(|message| message.sent_at + ACK_TIMEOUT <= now)
    }

    pub(super) fn wake_at(&self, failing: Option<&Failing>) -> Option<Moment> {
        let stored_by = self.in_flight.front().map(|message| message.sent_at + ACK_TIMEOUT);
        let untold = failing.filter(|failing| self.told_failing.as_ref() != Some(&failing.message));
        // Without room or window the tick comes with the room or the acknowledgement.
        let told_at = untold.filter(|_| self.has_window() && !self.wants_room).map(|failing| failing.since + HOLD);
        [stored_by, told_at].into_iter().flatten().min()
    }

    /// Everything up to `seq` is stored; gives the deletions among it.
    pub(super) fn acknowledged(&mut self, seq: u64) -> Vec<(Key, String)> {
        let mut deleted = Vec::new();
        while let Some(message) = self.in_flight.pop_front_if(|message| message.seq <= seq) {
            deleted.extend(message.deleted);
        }
        deleted
    }
}

/// How far the telling is.
pub(super) enum Phase {
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

impl Step {
    /// Writes as much as there is to say, and room for.
    pub(super) fn tell(&mut self, mut stream: Stream, mut phase: Phase) -> Stage {
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
}
