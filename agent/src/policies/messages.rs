//! What the stream of policies says and hears, in our own types: protobuf stops at `link::policies`.

use std::sync::Arc;

use super::{objects::Key, status::ResourceStatus};

/// A message to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// 0 for Hello.
    pub seq: u64,
    /// What it says.
    pub body: Body,
}

/// What a message to the hub says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The first of a stream.
    Hello {
        /// The highest epoch of the hub seen so far.
        highest_epoch: u64,
    },
    /// A list begins.
    ListBegin {
        /// Unique within this process.
        list_id: String,
    },
    /// Part of a list, or changes since it.
    Changes {
        /// As they stand now.
        upserts: Vec<Upsert>,
        /// Gone, with evidence.
        deleted: Vec<(Key, String)>,
    },
    /// The list is complete.
    ListEnd {
        /// As in ListBegin.
        list_id: String,
        /// How many resources it held.
        count: usize,
    },
    /// Policies cannot be seen; an empty message takes that back.
    Failing {
        /// For people.
        message: String,
    },
}

/// A resource on its way to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upsert {
    /// Where it is.
    pub key: Key,
    /// Which it is.
    pub uid: String,
    /// The generation of its spec.
    pub generation: u64,
    /// Its spec as JSON.
    pub spec: Arc<str>,
}

impl Body {
    /// A fixed name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::ListBegin { .. } => "list_begin",
            Self::Changes { .. } => "changes",
            Self::ListEnd { .. } => "list_end",
            Self::Failing { .. } => "failing",
        }
    }
}

/// A message from the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The answer to Hello.
    Welcome {
        /// The hub's epoch.
        epoch: u64,
        /// The hub takes policies from this cluster.
        is_source: bool,
        /// For people: how to make it take them.
        message: String,
    },
    /// Everything up to `seq` is stored.
    Ack {
        /// Up to here.
        seq: u64,
    },
    /// What became of one resource.
    Status {
        /// Where it is.
        key: Key,
        /// Which it is.
        uid: String,
        /// What the resource should show.
        status: Box<ResourceStatus>,
    },
}

impl Incoming {
    /// A fixed name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Welcome { .. } => "welcome",
            Self::Ack { .. } => "ack",
            Self::Status { .. } => "status",
        }
    }
}
