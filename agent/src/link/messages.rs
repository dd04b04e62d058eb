//! What the session says and hears, in our own types: protobuf stops at `convert`.

use std::{sync::Arc, time::Duration};

use crate::index::objects::{Batch, ServiceRef, SourceStatus};

/// Who the agent is; the same for the life of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the member cluster.
    pub cluster: String,
    /// AWS region of the cluster.
    pub region: String,
    /// VPC that the cluster's pods have their addresses in.
    pub vpc_id: String,
    /// UUID of this process.
    pub instance_id: String,
    /// Version of this agent.
    pub version: String,
}

/// A message to the hub.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// 0 for Hello and Heartbeat, which are not acknowledged.
    pub seq: u64,
    /// What it says.
    pub body: Body,
}

/// What a message to the hub says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// The first of a session.
    Hello {
        /// The highest epoch of the hub seen so far.
        highest_epoch: u64,
        /// Everything up to here is known to be stored; 0 when nothing can be resumed.
        last_acked_seq: u64,
        /// The watch set that the stored state was made from; 0 when nothing can be resumed.
        watch_set_version: u64,
    },
    /// A snapshot begins.
    SnapshotBegin {
        /// Unique within this process.
        snapshot_id: String,
        /// The watch set it answers.
        watch_set_version: u64,
    },
    /// Part of a snapshot, or changes since it. Shared, for it is kept until it is acknowledged.
    Changes(Arc<Batch>),
    /// The snapshot is complete.
    SnapshotEnd {
        /// As in SnapshotBegin.
        snapshot_id: String,
        /// How many service states it held.
        services: usize,
        /// How many endpoints it held.
        endpoints: usize,
    },
    /// The hub now holds what the cluster shows.
    Live {
        /// The watch set that is answered in full.
        watch_set_version: u64,
    },
    /// A sign of life.
    Heartbeat,
    /// How the sources stand.
    SourceStates(Arc<Vec<SourceStatus>>),
}

impl Body {
    /// A fixed name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::SnapshotBegin { .. } => "snapshot_begin",
            Self::Changes(_) => "changes",
            Self::SnapshotEnd { .. } => "snapshot_end",
            Self::Live { .. } => "live",
            Self::Heartbeat => "heartbeat",
            Self::SourceStates(_) => "source_states",
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
        /// For logs.
        session_id: String,
        /// How often both sides send a heartbeat.
        heartbeat: Duration,
        /// Where to resume; None asks for a snapshot.
        resume_after: Option<u64>,
    },
    /// Which Services to watch from now on.
    WatchSet {
        /// Its version.
        version: u64,
        /// The whole set.
        services: Vec<ServiceRef>,
    },
    /// Everything up to `seq` is stored.
    Ack {
        /// Up to here.
        seq: u64,
    },
    /// The hub wants a new snapshot.
    Resync {
        /// Why, for the log.
        reason: String,
    },
    /// A sign of life.
    Heartbeat,
}

impl Incoming {
    /// A fixed name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Welcome { .. } => "welcome",
            Self::WatchSet { .. } => "watch_set",
            Self::Ack { .. } => "ack",
            Self::Resync { .. } => "resync",
            Self::Heartbeat => "heartbeat",
        }
    }
}
