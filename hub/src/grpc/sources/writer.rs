//! Storing what a stream of policies says, again and again while the store is away: the agent waits for its acknowledgement, and
//! leaves when it has waited long enough.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use switchyard_core::ids::PolicyKey;
use switchyard_proto::agent::v1::{self as proto, SourcePolicyStatus};
use tokio::time::sleep;

use super::{end::End, parse, told::no_room};
use crate::{
    grpc::convert::to_proto_time,
    store::{SourceError, SourceSession, Store, StoreError},
};

/// Between two tries to store something while the store is away.
const STORE_PAUSE: Duration = Duration::from_millis(250);

/// Writes for one stream.
#[derive(Clone)]
pub struct Writer {
    store: Store,
    at: SourceSession,
}

/// What storing a message led to.
#[derive(Default)]
pub struct Stored {
    /// The message.
    pub seq: u64,
    /// Resources of it that are stored.
    pub listed: Vec<PolicyKey>,
    /// Resources of it that are gone.
    pub unlisted: Vec<PolicyKey>,
    /// How many resources it held, those included that there was no room for.
    pub received: usize,
    /// Resources that changed something.
    pub changed: usize,
    /// What those are to be told that there was no room for.
    pub no_room: Vec<SourcePolicyStatus>,
}

impl Writer {
    /// A writer for this stream.
    pub fn new(store: Store, at: SourceSession) -> Self {
        Self { store, at }
    }

    /// Makes the stream the one of its cluster.
    ///
    /// # Errors
    /// [`End`], as with every method here: the stream is over.
    pub async fn open(&self) -> Result<(), End> {
        while let Err(error) = self.store.source_open(&self.at).await {
            pause(error).await?;
        }
        // What an earlier stream said of failures is over; this one says its own.
        self.failing(None).await
    }

    /// Stores resources.
    ///
    /// # Errors
    /// [`End`].
    pub async fn changes(&self, seq: u64, list: proto::PolicyChanges) -> Result<Stored, End> {
        let parsed = tokio::task::spawn_blocking(move || parse::changes(list)).await;
        let changes = parsed.map_err(|error| {
            tracing::error!(%error, "resources of a cluster could not be read; please report this defect");
            End::Defect
        })??;
        let taken = loop {
            match self.store.source_changes(&self.at, &changes.upserts, &changes.deleted).await {
                Ok(taken) => break taken,
                Err(error) => pause(error).await?,
            }
        };
        let (now, missed) = (to_proto_time(Timestamp::now()), taken.no_room);
        let refused = changes.upserts.iter().filter(|new| missed.contains(&new.key));
        Ok(Stored {
            seq,
            changed: taken.changed,
            no_room: refused.map(|new| no_room(new, now)).collect(),
            received: changes.upserts.len(),
            listed: changes.upserts.iter().map(|new| new.key.clone()).filter(|key| !missed.contains(key)).collect(),
            unlisted: changes.deleted.into_iter().map(|(key, _)| key).collect(),
        })
    }

    /// Stores what is missing from a complete list.
    ///
    /// # Errors
    /// [`End`].
    pub async fn listed(&self, seq: u64, list: BTreeSet<PolicyKey>) -> Result<Stored, End> {
        let done = loop {
            match self.store.source_listed(&self.at, &list).await {
                Ok(done) => break done,
                Err(error) => pause(error).await?,
            }
        };
        let (cluster, policies) = (&self.at.cluster, list.len());
        if done.held > 0 {
            tracing::warn!(
                %cluster, policies, held = done.held,
                "policies are missing from the list of a cluster, and that is not believed; they stay in force as SourceAbsent"
            );
        } else {
            tracing::info!(%cluster, policies, gone = done.gone, "the policies of a cluster are listed");
        }
        Ok(Stored { seq, changed: done.gone, ..Stored::default() })
    }

    async fn failing(&self, why: Option<String>) -> Result<(), End> {
        while let Err(error) = self.store.source_failing(&self.at, why.as_deref()).await {
            pause(error).await?;
        }
        Ok(())
    }

    /// Stores that the agent cannot see resources; none: it can.
    ///
    /// # Errors
    /// [`End`].
    pub async fn failed(&self, seq: u64, why: Option<String>) -> Result<Stored, End> {
        self.failing(why).await?;
        Ok(Stored { seq, ..Stored::default() })
    }
}

/// Waits a little when the same write may succeed then.
async fn pause(error: SourceError) -> Result<(), End> {
    match error {
        SourceError::TakenOver { .. } => Err(End::TakenOver),
        SourceError::ClusterRemoved { cluster } => Err(End::ClusterRemoved(cluster)),
        SourceError::Store(StoreError::Unavailable { .. }) => {
            sleep(STORE_PAUSE).await;
            Ok(())
        }
        SourceError::Store(error) => Err(End::Store(error)),
    }
}
