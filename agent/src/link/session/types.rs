//! What goes into a step of the session and what comes out of it. Values only.

use std::time::Duration;

use crate::link::messages::{Incoming, Outgoing};

/// Time since some fixed moment of the process; only differences matter.
pub type Moment = Duration;

/// Sizes and times, fixed in production and small in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Unacknowledged messages at most. 64 of 500 endpoints are 32,000, some 20 MB when every pod is different.
    pub window: usize,
    /// Items in one message at most: the contract's limit.
    pub max_items: usize,
    /// How long changes gather before they are sent. One pod's end is three events within a few milliseconds.
    pub coalesce: Duration,
    /// How long a snapshot waits for all sources before what is known is sent without one.
    pub hold: Duration,
    /// Time between two reports of the sources, so that a hundred namespaces that sync one by one are not three hundred reports.
    pub source_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: 64,
            max_items: 500,
            coalesce: Duration::from_millis(50),
            hold: Duration::from_secs(5),
            source_pause: Duration::from_millis(200),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The time that `Session::wake_at` named has come, or there is room to write again.
    Tick,
    /// The index was told something.
    IndexChanged,
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
    /// The stream is to be opened anew, with another certificate.
    Renewed,
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
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Try to reach the hub; answer with `Opened` or `Closed`.
    Dial,
    /// Write this message. There is room for it.
    Send(Outgoing),
    /// Drop the stream. No `Closed` is expected for it.
    Drop,
    /// The wanted sources may have changed.
    WatchSetChanged,
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
    /// The hub answered.
    Welcomed {
        /// Its epoch.
        epoch: u64,
        /// Its name for the session.
        session_id: String,
        /// Whether the stream goes on where it was.
        resumed: bool,
    },
    /// The hub named the Services to watch.
    WatchSet {
        /// Version of the set.
        version: u64,
        /// How many references it has.
        services: usize,
    },
    /// A snapshot waits for sources that fail; what is known of the others is sent.
    SnapshotHeld,
    /// A snapshot begins.
    Snapshot {
        /// How many service states it holds.
        services: usize,
        /// How many endpoints it holds.
        endpoints: usize,
    },
    /// The hub asked for a new snapshot.
    Resync {
        /// Why.
        reason: String,
    },
    /// The hub holds what the cluster shows.
    Live {
        /// Version of the watch set.
        version: u64,
    },
}
