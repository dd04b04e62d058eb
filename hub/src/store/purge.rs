//! Removing what is past its time. Rows that readers mirror leave in two steps: first they are marked as forgotten, under a new
//! rev, and only when every reader has had the time to notice are they deleted.

use std::time::Duration;

use serde_json::json;
use switchyard_core::ids::ClusterName;

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    inventory_statements::ALL,
    values::unreadable,
};

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Endpoints that are gone, with the evidence; default 24 h.
    pub gone: Duration,
    /// Forgotten rows, for readers to notice; default 1 h. A reader that was away for longer reads the cluster anew.
    pub forgotten: Duration,
    /// First answers to request ids; default 24 h.
    pub answers: Duration,
    /// Intents with an outcome; default 7 days.
    pub intents: Duration,
    /// Shifts that have ended; default 90 days. What the audit log says of them stays.
    pub shifts: Duration,
    /// Join tokens and certificates that have ended, and authorities that nobody has trusted for as long; default 7 days.
    pub certificates: Duration,
    /// Service tokens that have ended or were revoked; default 90 days. Their names stay taken.
    pub service_tokens: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            gone: Duration::from_secs(24 * HOUR),
            forgotten: Duration::from_secs(HOUR),
            answers: Duration::from_secs(24 * HOUR),
            intents: Duration::from_secs(7 * 24 * HOUR),
            shifts: Duration::from_secs(90 * 24 * HOUR),
            certificates: Duration::from_secs(7 * 24 * HOUR),
            service_tokens: Duration::from_secs(90 * 24 * HOUR),
        }
    }
}

/// How much went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Endpoints that were gone and are now forgotten.
    pub gone: u64,
    /// Endpoints and Services deleted for good.
    pub forgotten: u64,
    /// First answers.
    pub answers: u64,
    /// Intents.
    pub intents: u64,
    /// Shifts.
    pub shifts: u64,
    /// Join tokens, certificates, authorities and service tokens.
    pub access: u64,
    /// Clusters that operators removed, of which everything that their agents reported went.
    pub removed_clusters: usize,
}

impl Store {
    /// Removes what is past its time, by the database's clock. Any replica may call it at any time; once in some minutes is enough.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer; what was removed until then stays removed.
    pub async fn purge(&self, keep: &Retention) -> Result<Purged, StoreError> {
        let mut purged = Purged { removed_clusters: self.clusters_purge().await?.len(), ..Purged::default() };
        let names = sqlx::query_scalar::<_, String>("select name from clusters order by name");
        for name in self.run(Query::Purge, names.fetch_all(&self.pool)).await? {
            let cluster = ClusterName::new(name).map_err(|error| unreadable("a cluster", error))?;
            self.purge_cluster(&cluster, keep, &mut purged).await?;
        }
        let answers = "delete from idempotency where created_at < now() - make_interval(secs => $1)";
        let answers = sqlx::query(answers).bind(keep.answers.as_secs_f64());
        purged.answers = self.run(Query::Purge, answers.execute(&self.pool)).await?.rows_affected();
        let intents =
            "delete from intents where outcome is not null and finished_at < now() - make_interval(secs => $1)";
        let intents = sqlx::query(intents).bind(keep.intents.as_secs_f64());
        purged.intents = self.run(Query::Purge, intents.execute(&self.pool)).await?.rows_affected();
        purged.shifts = self.purge_shifts(keep).await?;
        purged.access = self.purge_access(keep).await?;
        Ok(purged)
    }

    /// Nothing that replicas keep in memory: all of it has ended.
    async fn purge_access(&self, keep: &Retention) -> Result<u64, StoreError> {
        let certificates = keep.certificates.as_secs_f64();
        let all = [
            ("delete from join_tokens where expires_at < now() - make_interval(secs => $1)", certificates),
            ("delete from agent_certificates where not_after < now() - make_interval(secs => $1)", certificates),
            (
                "delete from service_tokens where least(expires_at, revoked_at) < now() - make_interval(secs => $1)",
                keep.service_tokens.as_secs_f64(),
            ),
        ];
        let mut deleted = 0;
        for (statement, seconds) in all {
            let delete = sqlx::query(statement).bind(seconds);
            deleted += self.run(Query::Purge, delete.execute(&self.pool)).await?.rows_affected();
        }
        Ok(deleted + self.purge_authorities(keep).await?)
    }

    async fn purge_authorities(&self, keep: &Retention) -> Result<u64, StoreError> {
        let mut txn = self.begin().await?;
        // The youngest stays whatever its age; one that has certificates is still needed to name where they came from.
        let retire = "delete from authorities a where exists (select 1 from authorities y where y.issues_from > a.issues_from \
                      and y.issues_from < now() - make_interval(secs => $1)) \
                      and not exists (select 1 from agent_certificates c where c.authority = a.id) returning a.id";
        let retire = sqlx::query_scalar::<_, String>(retire).bind(keep.certificates.as_secs_f64());
        let retired = self.run(Query::Purge, retire.fetch_all(&mut *txn)).await?;
        let entries = retired.iter().map(|id| Entry {
            actor: "switchyard-hub",
            action: "authority.retire",
            policy: None,
            shift: None,
            detail: json!({"authority": id}),
            reason: "a younger authority issues, and nothing that this one issued is kept any more",
            request_id: "",
            source: "",
        });
        self.audit_all(&mut txn, entries.collect()).await?;
        self.commit(txn).await?;
        Ok(u64::try_from(retired.len()).unwrap_or(u64::MAX))
    }

    async fn purge_shifts(&self, keep: &Retention) -> Result<u64, StoreError> {
        // Looked at first: the lock of all writers is not taken for nothing.
        let due =
            "select exists (select 1 from shifts where not active and updated_at < now() - make_interval(secs => $1))";
        let due = sqlx::query_scalar::<_, bool>(due).bind(keep.shifts.as_secs_f64());
        if !self.run(Query::Purge, due.fetch_one(&self.pool)).await? {
            return Ok(0);
        }
        let mut txn = self.begin().await?;
        self.shift_change(&mut txn).await?;
        let ended = "delete from shifts where not active and updated_at < now() - make_interval(secs => $1)";
        let ended = sqlx::query(ended).bind(keep.shifts.as_secs_f64());
        let deleted = self.run(Query::Purge, ended.execute(&mut *txn)).await?.rows_affected();
        self.commit(txn).await?;
        Ok(deleted)
    }

    async fn purge_cluster(
        &self,
        cluster: &ClusterName,
        keep: &Retention,
        purged: &mut Purged,
    ) -> Result<(), StoreError> {
        let due = "select exists (select 1 from endpoints where cluster = $1 and state <> 'present' \
                   and updated_at < now() - make_interval(secs => least($2, $3))) \
                   or exists (select 1 from services where cluster = $1 and forgotten) \
                   or exists (select 1 from node_endpoints where cluster = $1 and state <> 'present' \
                   and updated_at < now() - make_interval(secs => least($2, $3))) \
                   or exists (select 1 from node_services where cluster = $1 and forgotten)";
        let due = sqlx::query_scalar::<_, bool>(due)
            .bind(cluster.as_str())
            .bind(keep.gone.as_secs_f64())
            .bind(keep.forgotten.as_secs_f64());
        if !self.run(Query::Purge, due.fetch_one(&self.pool)).await? {
            return Ok(());
        }
        let mut txn = self.begin().await?;
        let lock = sqlx::query_scalar::<_, i64>("update clusters set rev = rev + 1 where name = $1 returning rev");
        let Some(rev) = self.run(Query::Purge, lock.bind(cluster.as_str()).fetch_optional(&mut *txn)).await? else {
            return Ok(());
        };
        let mut deleted: Option<i64> = None;
        for table in ALL.iter().flat_map(|statements| [statements.endpoints_purge, statements.services_purge]) {
            let delete = sqlx::query_as::<_, (i64, Option<i64>)>(table)
                .bind(cluster.as_str())
                .bind(keep.forgotten.as_secs_f64());
            let (count, highest) = self.run(Query::Purge, delete.fetch_one(&mut *txn)).await?;
            purged.forgotten += u64::try_from(count).unwrap_or_default();
            deleted = deleted.max(highest);
        }
        let purged_rev = "update clusters set purged_rev = greatest(purged_rev, $2) where name = $1";
        let purged_rev = sqlx::query(purged_rev).bind(cluster.as_str()).bind(deleted.unwrap_or_default());
        self.run(Query::Purge, purged_rev.execute(&mut *txn)).await?;
        for statements in ALL {
            let expire = sqlx::query(statements.endpoints_expire);
            let expire = expire.bind(cluster.as_str()).bind(keep.gone.as_secs_f64()).bind(rev);
            purged.gone += self.run(Query::Purge, expire.execute(&mut *txn)).await?.rows_affected();
        }
        self.commit(txn).await
    }
}
