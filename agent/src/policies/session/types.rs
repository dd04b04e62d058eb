//! What goes into a step of the session of policies and what comes out of it. Values only.

use std::time::Duration;

use crate::policies::{
    messages::{Incoming, Outgoing},
    objects::{Key, SourceEvent},
    status::ResourceStatus,
};

/// Time since some fixed moment of the process; only differences matter.
pub type Moment = Duration;

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
