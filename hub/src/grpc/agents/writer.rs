//! From a session's pending writes to transactions: several messages of news in one, retried until the store has them.
//! Must not speak to the agent.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::Rng;
use switchyard_core::{
    ids::{ClusterName, Epoch},
    inventory::SourceProblem,
};
use tokio::{sync::watch, time::sleep};
use uuid::Uuid;

use super::state::{MOST_ENDPOINTS, Snapshot, Work, Write};
use crate::store::{self, EndpointChange, SessionError, Store};

/// Items that one transaction may hold: ten full messages, some tens of milliseconds.
const MOST_ITEMS: usize = 5_000;
/// The first pause after a failed write, and the longest: a restarted Postgres is back within seconds, and an agent whose pods
/// change meanwhile should not wait much longer than that.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One transaction's work.
#[derive(Clone, Debug)]
pub enum Batch {
    /// Nothing to store.
    Nothing,
    /// News of one or several messages.
    Changes(Vec<EndpointChange>),
    /// A snapshot.
    Snapshot(Box<Snapshot>),
    /// Live.
    Live,
    /// Failing sources.
    Sources(Vec<SourceProblem>),
}

/// Takes as many writes from the front as fit into one transaction, with the number to acknowledge after it.
pub fn next_batch(pending: &mut VecDeque<Write>) -> Option<(u64, Batch)> {
    let first = pending.pop_front()?;
    let mut seq = first.seq;
    let mut changes = match first.work {
        Work::Changes(changes) => changes,
        Work::Staged => {
            while let Some(next) = pending.pop_front_if(|next| matches!(next.work, Work::Staged)) {
                seq = next.seq;
            }
            return Some((seq, Batch::Nothing));
        }
        Work::Snapshot(snapshot) => return Some((seq, Batch::Snapshot(snapshot))),
        Work::Live => return Some((seq, Batch::Live)),
        Work::Sources(problems) => return Some((seq, Batch::Sources(problems))),
    };
    while let Some(next) = pending.pop_front() {
        match next.work {
            Work::Changes(more) if changes.len() + more.len() <= MOST_ITEMS => {
                seq = next.seq;
                changes.extend(more);
            }
            work => {
                pending.push_front(Write { seq: next.seq, work });
                break;
            }
        }
    }
    Some((seq, Batch::Changes(changes)))
}

/// Which session writes.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The store.
    pub store: Store,
    /// The session.
    pub session: Uuid,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The present epoch.
    pub epoch: watch::Receiver<Option<Epoch>>,
    /// The epoch of the welcome: used when none is known at the moment.
    pub opened_in: Epoch,
    /// How much of the cluster is stored.
    pub tally: Arc<Tally>,
}

/// Endpoints that one cluster may have in the store: a snapshot takes [`MOST_ENDPOINTS`], news may add a tenth to that.
const MOST_PRESENT: usize = MOST_ENDPOINTS + MOST_ENDPOINTS / 10;
/// With those that are gone and kept for a day: every pod of the largest cluster anew ten times.
const MOST_STORED: usize = 10 * MOST_ENDPOINTS;

/// Never less than what is stored of a cluster. Counted anew only when it comes near the bound, since counting costs some ten
/// milliseconds, and reports need not be new endpoints.
#[derive(Debug)]
pub struct Tally(Mutex<(usize, usize)>);

impl Default for Tally {
    /// Nothing known yet.
    fn default() -> Self {
        Self(Mutex::new((MOST_PRESENT, MOST_STORED)))
    }
}

impl Tally {
    fn read(&self) -> (usize, usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, present: usize, all: usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (present, all);
    }
}

impl Writer {
    /// Stores the batch, however long the store is away. The numbers are acknowledged by the caller, after this returned.
    ///
    /// # Errors
    /// When the session was taken over, and on defects; both end the session.
    pub async fn store(&self, seq: u64, batch: &Batch) -> Result<(), SessionError> {
        let mut pause = FIRST_PAUSE;
        let mut failed = 0_u32;
        loop {
            match self.once(seq, batch).await {
                Ok(()) => {
                    if failed > 0 {
                        tracing::info!(cluster = %self.cluster, failed, seq, "the agent's report is stored after the store came back");
                    }
                    return Ok(());
                }
                Err(SessionError::Store(error)) if error.is_unavailable() => {
                    failed += 1;
                    if failed == 1 {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(cluster = %self.cluster, seq, error, "an agent's report cannot be stored yet; trying again");
                    }
                    // Full jitter: many sessions wait for the same database.
                    let share = rand::rng().random_range(0.5..1.0);
                    sleep(pause.mul_f64(share)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What a cluster's agent reports message by message is bounded as its snapshots are.
    async fn must_fit(&self, changes: &[EndpointChange]) -> Result<(), SessionError> {
        let more = changes.iter().filter(|change| matches!(change, EndpointChange::Upsert(..))).count();
        if more == 0 {
            return Ok(());
        }
        let fits = |(present, all): (usize, usize)| present + more <= MOST_PRESENT && all + more <= MOST_STORED;
        let mut known = self.tally.read();
        if !fits(known) {
            known = self.store.session_endpoints(&self.cluster).await?;
        }
        if !fits(known) {
            let (what, most) = if known.0 + more > MOST_PRESENT {
                ("endpoints", MOST_PRESENT)
            } else {
                ("endpoints within a day", MOST_STORED)
            };
            return Err(SessionError::TooMany { cluster: self.cluster.clone(), what, most });
        }
        self.tally.write(known.0 + more, known.1 + more);
        Ok(())
    }

    fn epoch(&self) -> Epoch {
        self.epoch.borrow().unwrap_or(self.opened_in)
    }

    /// Every write may be repeated: it leads to the same rows.
    async fn once(&self, seq: u64, batch: &Batch) -> Result<(), SessionError> {
        let (store, session, cluster) = (&self.store, self.session, &self.cluster);
        match batch {
            Batch::Nothing => return Ok(()),
            Batch::Changes(changes) => {
                self.must_fit(changes).await?;
                return store.session_apply(session, cluster, seq, changes).await;
            }
            Batch::Snapshot(snapshot) => {
                let whole = store::Snapshot {
                    watch_set: &snapshot.set.services,
                    services: &snapshot.services,
                    endpoints: &snapshot.endpoints,
                    epoch: self.epoch(),
                };
                return store.session_snapshot(session, cluster, seq, whole).await;
            }
            Batch::Live => store.session_live(session, cluster, self.epoch()).await?,
            Batch::Sources(problems) => store.session_sources(session, cluster, problems).await?,
        }
        if seq == 0 {
            return Ok(());
        }
        // Only the number, so that the session can be resumed behind it.
        store.session_apply(session, cluster, seq, &[]).await
    }
}
