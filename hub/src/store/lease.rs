//! Leases: one row a scope, so one holder; by the database's clock alone. A new holder gets the next epoch, and the row outlives
//! a release, so that an epoch is never given out twice (I7).

use std::time::Duration;

use switchyard_core::ids::Epoch;
use uuid::Uuid;

use super::{
    Store,
    error::{Query, StoreError},
    values::{signed, unreadable, unsigned},
};

/// Who holds a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// The caller.
    Held {
        /// Under this number.
        epoch: Epoch,
        /// For so long, counted by the database when it answered: count from before the call was made.
        remaining: Duration,
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
                       select true, holder, epoch, extract(epoch from expires_at - clock_timestamp())::float8 from taken \
                       union all \
                       select false, holder, epoch, extract(epoch from expires_at - clock_timestamp())::float8 from leases \
                       where scope = $1 and not exists (select 1 from taken)";
        for _ in 0..TRIES {
            let acquire = sqlx::query_as::<_, (bool, Uuid, i64, f64)>(acquire);
            let acquire = acquire.bind(scope).bind(holder).bind(ttl.as_secs_f64());
            let row = self.run(Query::LeaseAcquire, acquire.fetch_optional(&self.pool)).await?;
            // The second half reads with the statement's snapshot, which is older than what the first half met when it had to
            // wait: no row (another's first insert), or the caller as the holder that it was before. Then look again.
            let Some((taken, by, epoch, seconds)) = row.filter(|(taken, by, ..)| *taken || *by != holder) else {
                continue;
            };
            let epoch = Epoch(unsigned("a lease's epoch", epoch)?);
            let remaining = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
            if !taken {
                return Ok(LeaseAnswer::HeldByOther { holder: by, epoch, remaining });
            }
            return Ok(LeaseAnswer::Held { epoch, remaining });
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
        let released = self.run(Query::LeaseRelease, release.execute(&self.pool)).await?;
        Ok(released.rows_affected() > 0)
    }

    /// The epoch of a lease that somebody holds now.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn lease_current(&self, scope: &str) -> Result<Option<Epoch>, StoreError> {
        let read = sqlx::query_scalar::<_, i64>("select epoch from leases where scope = $1 and expires_at > now()");
        let epoch = self.run(Query::LeaseCurrent, read.bind(scope).fetch_optional(&self.pool)).await?;
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
        let epoch = self.run(Query::LeaseRaise, raise.fetch_optional(&self.pool)).await?;
        epoch.map(|epoch| unsigned("a lease's epoch", epoch).map(Epoch)).transpose()
    }
}
