//! What sessions hold in memory of what their agents sent and the store does not have yet. Past the bound of a session its stream is not
//! read; past the bound of all of them, those that hold more than their share are not, and a snapshot that would grow beyond it is given
//! up: it cannot be stored before it is whole. Counts only. Tests are at the end of the file.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::state::{Inbound, Refusal};

/// Messages of a session that wait for the store before its stream is no longer read: twice the window of an agent.
const MOST_MESSAGES: usize = 128;
/// Bytes in memory of messages of a session that wait: as many as a large cluster's agent sends in some seconds.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Bytes in memory of what all sessions hold: the 100,000 endpoints that a fleet may have, with 2.6 kB each. An ordinary one has 1.5 kB:
/// some 500 for what it is known by, 350 for how it stands, and some 600 for the details of its pod (`weight` of a message; the tests
/// compute it). It may be one cluster's: whoever is alone may have all of it.
///
/// When it is full, whoever holds little is taken in all the same, so that no cluster keeps the others out: he may have an eighth of what
/// is left up to twice as much. So all together is half a gigabyte at the most, in a hub that may have one.
const MOST_IN_ALL: usize = 256 * 1024 * 1024;

/// Of what is left beyond [`MOST_IN_ALL`], one session may have one part of so many.
const SHARES: usize = 8;

/// What all sessions of this process hold, in bytes. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Arc<AtomicUsize>);

impl Shelf {
    /// True when a session that holds so much may not hold more.
    fn is_full_for(&self, own: usize) -> bool {
        let held = self.0.load(Relaxed);
        held >= MOST_IN_ALL && own >= (2 * MOST_IN_ALL).saturating_sub(held) / SHARES
    }

    /// A session holds so much now instead of what it held before.
    fn moved(&self, before: usize, now: usize) {
        // In one step: who looks in between two would take a large session for two, and turn somebody else away.
        if now >= before {
            self.0.fetch_add(now - before, Relaxed);
        } else {
            self.0.fetch_sub(before - now, Relaxed);
        }
    }
}

/// What one session holds; given back when dropped.
#[derive(Debug)]
pub struct Load {
    shelf: Shelf,
    /// Numbers and bytes of messages that wait, oldest first.
    waiting: VecDeque<(u64, usize)>,
    bytes: usize,
    /// Bytes of the snapshot that is being received.
    staged: Option<usize>,
    /// What the shelf knows of.
    told: usize,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shelf.moved(self.told, 0);
    }
}

impl Load {
    /// Of a session that holds nothing yet.
    pub fn new(shelf: Shelf) -> Self {
        Self { shelf, waiting: VecDeque::new(), bytes: 0, staged: None, told: 0 }
    }

    /// A message came; to be told before it is looked at.
    ///
    /// # Errors
    /// [`Refusal::NoShare`] when a snapshot grows and there is no room for it, [`Refusal::TooLarge`] when there will never be.
    pub fn came(&mut self, seq: u64, inbound: &Inbound) -> Result<(), Refusal> {
        let bytes = inbound.weight();
        let held = match (inbound, &mut self.staged) {
            (Inbound::SnapshotBegin { .. }, staged) => {
                *staged = Some(0);
                bytes
            }
            (Inbound::Changes(_), Some(staged)) => {
                *staged = staged.saturating_add(bytes);
                // It is acknowledged at once, and held with the snapshot.
                0
            }
            // From here on the whole of it waits for the store.
            (Inbound::SnapshotEnd { .. }, staged) => bytes.saturating_add(staged.take().unwrap_or(0)),
            (Inbound::Changes(_) | Inbound::Live { .. } | Inbound::Sources(_), _) => bytes,
        };
        self.waiting.push_back((seq, held));
        self.bytes = self.bytes.saturating_add(held);
        self.tell();
        if self.staged.is_some_and(|staged| staged > MOST_IN_ALL) {
            return Err(Refusal::TooLarge { what: "bytes", most: MOST_IN_ALL });
        }
        if self.staged.is_some() && self.shelf.is_full_for(self.told) {
            return Err(Refusal::NoShare { most: MOST_IN_ALL });
        }
        Ok(())
    }

    /// Everything up to this number is stored.
    pub fn stored(&mut self, seq: u64) {
        while let Some((_, bytes)) = self.waiting.pop_front_if(|(waiting, _)| *waiting <= seq) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        self.tell();
    }

    /// True when another message may be read. A session without room holds messages that are being stored, which makes room again.
    pub fn has_room(&self) -> bool {
        let own = self.waiting.len() < MOST_MESSAGES && self.bytes < MOST_BYTES;
        own && (self.bytes == 0 || !self.shelf.is_full_for(self.told))
    }

    fn tell(&mut self) {
        let now = self.bytes.saturating_add(self.staged.unwrap_or(0));
        self.shelf.moved(self.told, now);
        self.told = now;
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
