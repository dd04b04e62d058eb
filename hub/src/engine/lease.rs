//! Keeps the lease of this (account, region) and says how long it still holds (I7). The time left is counted from before the
//! question to the database, so it is never more than what the database grants.

use std::time::Duration;

use jiff::Timestamp;
use switchyard_core::ids::Epoch;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    metrics::Metrics,
    store::{Store, lease::LeaseAnswer},
};

/// The lease as far as it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The epoch under which this replica may write.
    pub epoch: Epoch,
    /// The end of the lease by this machine's monotonic clock.
    pub until: Instant,
    /// Since when it was held without a gap. After one somebody else may have written, whatever the epoch says: a database that was
    /// restored meanwhile knows nothing of it.
    pub began: Instant,
    /// The database's time when it was asked, and when that was by this machine's monotonic clock.
    pub clock: (Timestamp, Instant),
}

/// The least time that must be left of the lease for a call to be started: a call that takes longer than its time limit is cut,
/// and the limit is what is left after this margin.
const MARGIN: Duration = Duration::from_millis(500);

impl Lease {
    /// The time by the database's clock. What is remembered between plans, such as since when weights are in force, is
    /// compared with it: replicas share it, and this machine's own clock may jump.
    pub fn now(&self) -> Timestamp {
        let (then, asked) = self.clock;
        then.saturating_add(asked.elapsed()).unwrap_or(then)
    }

    /// The time that a call may take; none: too little is left (I7).
    pub fn time_for_a_call(&self) -> Option<Duration> {
        self.remaining().checked_sub(MARGIN).filter(|left| *left >= MARGIN)
    }

    /// True when a call may be started.
    pub fn allows_a_call(&self) -> bool {
        self.time_for_a_call().is_some()
    }

    /// The time left; zero when it is over.
    pub fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// What keeping a lease needs.
pub struct Keeper {
    /// Where it is kept.
    pub store: Store,
    /// `account/region`.
    pub scope: String,
    /// This process.
    pub holder: Uuid,
    /// How long the lease lasts without renewal.
    pub ttl: Duration,
    /// Metrics.
    pub metrics: Metrics,
    /// Where the lease is published.
    pub lease: watch::Sender<Option<Lease>>,
    /// Where the epoch is published for the agents' streams, also that of another holder.
    pub epoch: watch::Sender<Option<Epoch>>,
}

impl Keeper {
    /// Acquires and renews until shutdown, then gives the lease back.
    pub async fn run(self, shutdown: CancellationToken) {
        // Three tries fit into one term, so one lost answer never costs the lease.
        let interval = self.ttl / 3;
        loop {
            let answered = self.renew().await;
            // A try that hung has used up its pause.
            let pause = if answered { interval } else { Duration::ZERO };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
        self.lease.send_replace(None);
        if let Err(error) = self.store.lease_release(&self.scope, self.holder).await {
            warn!(error = &error as &dyn std::error::Error, scope = %self.scope, "the lease was not given back and ends by itself");
        }
    }

    /// False when the database did not answer at all.
    async fn renew(&self) -> bool {
        let asked = Instant::now();
        // A try that hangs must not cost the next one: the connection may be gone without a word, and the next try gets another.
        let tried = timeout(self.ttl / 2, self.store.lease_acquire(&self.scope, self.holder, self.ttl)).await;
        let Ok(answer) = tried else {
            warn!(scope = %self.scope, waited = ?asked.elapsed(), "the lease was not renewed: the database does not answer");
            self.show_expired();
            return false;
        };
        match answer {
            Ok(LeaseAnswer::Held { epoch, remaining, at }) => {
                let before = *self.lease.borrow();
                if before.is_none_or(|lease| lease.epoch != epoch) {
                    info!(%epoch, scope = %self.scope, "this replica holds the lease");
                }
                // Judged by when the answer was asked for: a process that was stopped in between had lost it.
                let held = before.filter(|lease| lease.epoch == epoch && lease.until > asked);
                let began = held.map_or(asked, |lease| lease.began);
                self.lease.send_replace(Some(Lease { epoch, until: asked + remaining, began, clock: (at, asked) }));
                self.publish(epoch, true);
            }
            Ok(LeaseAnswer::HeldByOther { holder, epoch, remaining }) => {
                let lost = self.lease.send_replace(None).is_some();
                // A replica asks all day long: it says so once for each epoch.
                let news = self.publish(epoch, false);
                if lost {
                    warn!(%holder, %epoch, scope = %self.scope, "another replica took the lease; this one stops writing");
                } else if news {
                    info!(%holder, %epoch, ?remaining, scope = %self.scope, "another replica holds the lease");
                }
            }
            // The lease in hand stays good for as long as it was granted.
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, scope = %self.scope, "the lease was not renewed");
                self.show_expired();
            }
        }
        true
    }

    /// A lease that has run out lets nobody write, whatever was true when it was granted.
    fn show_expired(&self) {
        if self.lease.borrow().is_none_or(|lease| lease.remaining().is_zero()) {
            self.metrics.lease_held.set(0);
        }
    }

    /// True when the epoch was not known before.
    fn publish(&self, epoch: Epoch, held: bool) -> bool {
        self.metrics.lease_held.set(i64::from(held));
        self.metrics.epoch.set(i64::try_from(epoch.0).unwrap_or(i64::MAX));
        self.epoch.send_if_modified(|present| {
            let moved = *present != Some(epoch);
            *present = Some(epoch);
            moved
        })
    }
}
