//! What the engine that holds the lease made of clusters (I7): saved only if nobody wanted something else meanwhile. A lost update is
//! no error: the engine looks again. And what goes with a cluster that was removed for good.

use serde_json::json;
use switchyard_core::{fleet::ClusterState, ids::ClusterName};

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    fleet::detail,
    lease::{Fence, FencedError},
    notice::Notice,
    values::unreadable,
};

/// What the engine made of one cluster.
#[derive(Clone, Copy, Debug)]
pub struct ClusterUpdate<'a> {
    /// The version that it was made from.
    pub before_version: u64,
    /// The state; it is stored with the version after that, whatever it says itself.
    pub state: &'a ClusterState,
}

impl Store {
    /// Saves what the engine made of clusters; the answer names those that were saved.
    ///
    /// # Errors
    /// [`FencedError`]; nothing is stored then.
    pub async fn clusters_save(
        &self,
        fence: Fence<'_>,
        updates: &[ClusterUpdate<'_>],
    ) -> Result<Vec<ClusterName>, FencedError> {
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        let mut txn = self.begin().await?;
        let (change, _) = self.fleet_change(&mut txn).await?;
        let mut won = Vec::new();
        for update in updates {
            let cluster = &update.state.cluster;
            let before = match self.cluster_state_in_txn(&mut txn, cluster).await {
                // A newer version wrote it: it is that version's to move.
                Err(StoreError::Unreadable { .. }) => continue,
                before => before?,
            };
            let Some(before) = before.filter(|before| before.version == update.before_version) else { continue };
            let after = ClusterState { version: update.before_version.saturating_add(1), ..update.state.clone() };
            self.cluster_state_write(&mut txn, &after, change).await?;
            let ended = before.operation.ended_at.is_none() && after.operation.ended_at.is_some();
            if before.mode != after.mode || ended {
                let entry = Entry {
                    actor: "switchyard-hub",
                    action: if ended { "cluster.end" } else { "cluster.step" },
                    policy: None,
                    shift: None,
                    detail: detail(Some(&before), &after),
                    reason: &after.operation.message,
                    request_id: "",
                    source: "",
                };
                self.audit(&mut txn, entry).await?;
            }
            won.push(cluster.clone());
        }
        if won.is_empty() {
            return Ok(won);
        }
        self.notify(&mut txn, &Notice::Fleet).await?;
        self.fence_in_txn(&mut txn, fence).await?;
        self.commit(txn).await?;
        Ok(won)
    }

    /// Removes what agents of clusters reported that were removed for good, once nothing of them is left at the load balancers. Their
    /// resources that own policies are held: those policies stay in force, and callers of the API may take them over or delete
    /// them. The answer names the clusters of which something was removed.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer; what was removed until then stays removed.
    pub async fn clusters_purge(&self) -> Result<Vec<ClusterName>, StoreError> {
        let gone = "select s.cluster from cluster_states s where s.removed and s.state #>> '{operation,endedAt}' is not null \
                    and (exists (select from clusters c where c.name = s.cluster) or exists (select from policy_claims p \
                    where p.cluster = s.cluster and p.absent_since is null)) order by s.cluster";
        let gone = sqlx::query_scalar::<_, String>(gone);
        let mut purged = Vec::new();
        for name in self.run(Query::Purge, gone.fetch_all(&self.pool)).await? {
            let cluster = ClusterName::new(name).map_err(|error| unreadable("a removed cluster", error))?;
            if self.cluster_purge(&cluster).await? {
                purged.push(cluster);
            }
        }
        Ok(purged)
    }

    async fn cluster_purge(&self, cluster: &ClusterName) -> Result<bool, StoreError> {
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        let claim_change = self.claim_change(&mut txn).await?;
        // It may have been taken back since.
        if !self.cluster_is_removed(&mut txn, cluster).await? {
            self.run(Query::Rollback, txn.rollback()).await?;
            return Ok(false);
        }
        let hold = "update policy_claims c set absent_since = clock_timestamp(), change = $2 where c.cluster = $1 \
                    and c.absent_since is null and exists (select from policies p where p.owner_cluster = c.cluster \
                    and p.namespace = c.namespace and p.name = c.name)";
        let hold = sqlx::query(hold).bind(cluster.as_str()).bind(claim_change);
        self.run(Query::ClaimsWrite, hold.execute(&mut *txn)).await?;
        let forget = "delete from policy_claims c where c.cluster = $1 and c.absent_since is null";
        self.run(Query::ClaimsDelete, sqlx::query(forget).bind(cluster.as_str()).execute(&mut *txn)).await?;
        let touch = sqlx::query("update policies set change = $2 where owner_cluster = $1");
        self.run(Query::SourceNote, touch.bind(cluster.as_str()).bind(change).execute(&mut *txn)).await?;
        // With it everything that its agent reported.
        let delete = sqlx::query("delete from clusters where name = $1").bind(cluster.as_str());
        self.run(Query::Purge, delete.execute(&mut *txn)).await?;
        let entry = Entry {
            actor: "switchyard-hub",
            action: "cluster.purge",
            policy: None,
            shift: None,
            detail: json!({"cluster": cluster}),
            reason: "the cluster was removed, and nothing of it is left at the load balancers",
            request_id: "",
            source: "",
        };
        self.audit(&mut txn, entry).await?;
        self.notify(&mut txn, &Notice::Policies).await?;
        self.commit(txn).await?;
        Ok(true)
    }
}
