//! Leases: one row a scope, so one holder; by the database's clock alone. A new holder gets the next epoch, and the row outlives
//! a release, so that an epoch is never given out twice (I7). Whatever only the holder may write is fenced by [`Fence`] in the
//! writing transaction itself.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::PgExecutor;
use switchyard_core::ids::Epoch;
use uuid::Uuid;

use super::{
    Store,
    error::{Query, StoreError},
    values::{Conn, at, signed, unreadable, unsigned},
};

/// Selects the lease `$1` while it is held under epoch `$2`, and keeps it from being taken or renewed until the transaction ends.
macro_rules! held_lease {
    () => {
        "select scope, epoch from leases \
         where scope = $1 and epoch = $2 and expires_at > clock_timestamp() for share"
    };
}
pub(super) use held_lease;

/// Under what a holder writes: a writer whose lease was taken since, or has expired, is refused by the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence<'a> {
    /// The lease.
    pub scope: &'a str,
    /// The epoch in which the writer holds it.
    pub epoch: Epoch,
}

/// Why a write under an epoch did not happen. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum FencedError {
    /// Another holder has taken the lease, or nobody ever held it.
    #[error("the lease {scope} is no longer in epoch {epoch}; the present epoch is {}", .present.map_or("none".to_owned(), |e| e.to_string()))]
    EpochPassed {
        /// The lease.
        scope: String,
        /// The caller's.
        epoch: Epoch,
        /// The row's, when there is one.
        present: Option<Epoch>,
    },
    /// The epoch is right, and the lease has expired: another holder may take it at any moment.
    #[error("the lease {scope} has expired in epoch {epoch}; renew it first")]
    Expired {
        /// The lease.
        scope: String,
        /// The caller's.
        epoch: Epoch,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who holds a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// The caller.
    Held {
        /// Under this number.
        epoch: Epoch,
        /// For so long, counted by the database when it answered: count from before the call was made.
        remaining: Duration,
        /// The database's clock when it answered. It may be set back between two answers.
        at: Timestamp,
    },
    /// Somebody else.
    HeldByOther {
        /// Who.
        holder: Uuid,
        /// Under this number.
        epoch: Epoch,
        /// At most so long, unless renewed.
        remaining: Duration,
    },
}

/// Tries before a lease that changes under every one of them is given up on.
const TRIES: u32 = 10;

impl Store {
    /// Takes a lease that is free or expired (the epoch counts up), or renews the caller's own (the epoch stays). One statement.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn lease_acquire(&self, scope: &str, holder: Uuid, ttl: Duration) -> Result<LeaseAnswer, StoreError> {
        // `now()` is when the statement began: when it had to wait for the row, the comparison errs on the side of the holder,
        // and the new expiry on the side of the next one.
        let acquire = "with taken as ( \
                           insert into leases as l (scope, holder, epoch, expires_at) \
                           values ($1, $2, 1, now() + make_interval(secs => $3)) \
                           on conflict (scope) do update set holder = excluded.holder, expires_at = excluded.expires_at, \
                           epoch = l.epoch + case when l.holder = excluded.holder then 0 else 1 end \
                           where l.holder = excluded.holder or l.expires_at <= now() \
                           returning holder, epoch, expires_at) \
                       select true, holder, epoch, extract(epoch from expires_at - clock_timestamp())::float8, \
                       clock_timestamp() from taken \
                       union all \
                       select false, holder, epoch, extract(epoch from expires_at - clock_timestamp())::float8, \
                       clock_timestamp() from leases where scope = $1 and not exists (select 1 from taken)";
        for _ in 0..TRIES {
            let acquire = sqlx::query_as::<_, (bool, Uuid, i64, f64, jiff_sqlx::Timestamp)>(acquire);
            let acquire = acquire.bind(scope).bind(holder).bind(ttl.as_secs_f64());
            let row = self.run(Query::LeaseAcquire, acquire.fetch_optional(&self.vital)).await?;
            // The second half reads with the statement's snapshot, which is older than what the first half met when it had to
            // wait: no row (another's first insert), or the caller as the holder that it was before. Then look again.
            let Some((taken, by, epoch, seconds, answered)) = row.filter(|(taken, by, ..)| *taken || *by != holder)
            else {
                continue;
            };
            let epoch = Epoch(unsigned("a lease's epoch", epoch)?);
            let remaining = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
            if !taken {
                return Ok(LeaseAnswer::HeldByOther { holder: by, epoch, remaining });
            }
            return Ok(LeaseAnswer::Held { epoch, remaining, at: at(answered) });
        }
        Err(unreadable(format!("lease {scope}"), "its row came and went at every try"))
    }

    /// Lets a lease expire at once, when the caller holds it; the epoch is remembered.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn lease_release(&self, scope: &str, holder: Uuid) -> Result<bool, StoreError> {
        let release = "update leases set expires_at = now() where scope = $1 and holder = $2 and expires_at > now()";
        let release = sqlx::query(release).bind(scope).bind(holder);
        let released = self.run(Query::LeaseRelease, release.execute(&self.vital)).await?;
        Ok(released.rows_affected() > 0)
    }

    /// The epoch of a lease that somebody holds now.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn lease_current(&self, scope: &str) -> Result<Option<Epoch>, StoreError> {
        let read = sqlx::query_scalar::<_, i64>("select epoch from leases where scope = $1 and expires_at > now()");
        let epoch = self.run(Query::LeaseCurrent, read.bind(scope).fetch_optional(&self.vital)).await?;
        epoch.map(|epoch| unsigned("a lease's epoch", epoch).map(Epoch)).transpose()
    }

    /// Lifts the epoch of a lease that the caller holds to at least `to`, as when a restored store is older than the epoch that
    /// stands at AWS. The new epoch; none when the caller does not hold the lease.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn lease_raise_epoch(&self, scope: &str, holder: Uuid, to: Epoch) -> Result<Option<Epoch>, StoreError> {
        let raise = "update leases set epoch = greatest(epoch, $3) where scope = $1 and holder = $2 and expires_at > now() \
                     returning epoch";
        let raise = sqlx::query_scalar::<_, i64>(raise).bind(scope).bind(holder).bind(signed(to.0));
        let epoch = self.run(Query::LeaseRaise, raise.fetch_optional(&self.vital)).await?;
        epoch.map(|epoch| unsigned("a lease's epoch", epoch).map(Epoch)).transpose()
    }

    /// Refuses a transaction whose writer no longer holds the lease, and keeps the lease from being taken until the transaction
    /// ends. To be called right before the commit: what was written so far goes when it is refused, and the lock, for which a
    /// renewal has to wait, is held for the shortest time.
    ///
    /// # Errors
    /// [`FencedError`]; the caller drops the transaction then.
    pub(super) async fn fence_in_txn(&self, conn: &mut Conn, fence: Fence<'_>) -> Result<(), FencedError> {
        let held = sqlx::query(held_lease!()).bind(fence.scope).bind(signed(fence.epoch.0));
        match self.run(Query::LeaseFence, held.fetch_optional(&mut *conn)).await? {
            Some(_) => Ok(()),
            None => Err(self.fence_refusal(conn, fence).await),
        }
    }

    /// Why [`held_lease`] found nothing.
    pub(super) async fn fence_refusal<'e>(&self, executor: impl PgExecutor<'e>, fence: Fence<'_>) -> FencedError {
        let read = sqlx::query_scalar::<_, i64>("select epoch from leases where scope = $1").bind(fence.scope);
        let present = match self.run(Query::LeaseCurrent, read.fetch_optional(executor)).await {
            Ok(present) => present,
            Err(error) => return error.into(),
        };
        let (scope, epoch) = (fence.scope.to_owned(), fence.epoch);
        match present.map(|epoch| unsigned("a lease's epoch", epoch).map(Epoch)).transpose() {
            Err(error) => error.into(),
            Ok(Some(present)) if present == epoch => FencedError::Expired { scope, epoch },
            Ok(present) => FencedError::EpochPassed { scope, epoch, present },
        }
    }
}
