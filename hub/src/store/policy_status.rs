//! Status and planner's memory of policies, written by the engine that holds the lease (I7), and only when they differ from what
//! is stored.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::{ids::PolicyUid, policy::PolicyMemory, status::PolicyStatus};

use super::{
    Store,
    error::Query,
    lease::{Fence, FencedError},
    notice::Notice,
    values::to_json,
};

/// What the engine has to say of one policy.
#[derive(Clone, Copy, Debug)]
pub struct StatusUpdate<'a> {
    /// Which.
    pub uid: &'a PolicyUid,
    /// Its status.
    pub status: &'a PolicyStatus,
    /// What the planner wants to remember.
    pub memory: &'a PolicyMemory,
}

impl Store {
    /// Stores status and memory of one policy; true when something changed. A policy that is gone is passed over.
    ///
    /// # Errors
    /// [`FencedError`]; nothing is stored then.
    pub async fn policy_status_save(
        &self,
        fence: Fence<'_>,
        uid: &PolicyUid,
        status: &PolicyStatus,
        memory: &PolicyMemory,
    ) -> Result<bool, FencedError> {
        let saved = self.policy_statuses_save(fence, &[StatusUpdate { uid, status, memory }]).await?;
        Ok(!saved.is_empty())
    }

    /// Stores many in one transaction; the answer names those that changed. When nothing differs, it costs one
    /// read, and the lease is not looked at.
    ///
    /// # Errors
    /// [`FencedError`]; nothing is stored then.
    pub async fn policy_statuses_save(
        &self,
        fence: Fence<'_>,
        updates: &[StatusUpdate<'_>],
    ) -> Result<Vec<PolicyUid>, FencedError> {
        // By uid: one statement must not write a row twice; the last of equal ones holds.
        let mut by_uid = BTreeMap::new();
        for update in updates {
            let parts = (to_json("a status", update.status)?, to_json("a memory", update.memory)?);
            by_uid.insert(update.uid.clone(), parts);
        }
        let columns = Columns::new(&by_uid);
        let differing = "select w.uid from unnest($1::text[], $2::jsonb[], $3::jsonb[]) as w (uid, status, memory) \
                         join policies p on p.uid = w.uid left join policy_status s on s.uid = w.uid \
                         left join policy_memory m on m.uid = w.uid \
                         where s.status is distinct from w.status or m.memory is distinct from w.memory";
        let differing = sqlx::query_scalar::<_, String>(differing)
            .bind(&columns.uids)
            .bind(&columns.statuses)
            .bind(&columns.memories);
        let differing = self.run(Query::PolicyStatusGet, differing.fetch_all(&self.pool)).await?;
        if differing.is_empty() {
            return Ok(Vec::new());
        }
        by_uid.retain(|uid, _| differing.iter().any(|text| text == uid.as_str()));
        self.statuses_write(fence, &Columns::new(&by_uid)).await?;
        Ok(by_uid.into_keys().collect())
    }

    async fn statuses_write(&self, fence: Fence<'_>, columns: &Columns) -> Result<(), FencedError> {
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        // Joined with policies: one may have been forgotten since.
        let moved = "update policies set change = $2 where uid = any($1)";
        let moved = sqlx::query(moved).bind(&columns.uids).bind(change);
        self.run(Query::PolicyStatusSave, moved.execute(&mut *txn)).await?;
        let status = "insert into policy_status as s (uid, status, saved_at) \
                      select w.uid, w.status, clock_timestamp() from unnest($1::text[], $2::jsonb[]) as w (uid, status) \
                      join policies p on p.uid = w.uid \
                      on conflict (uid) do update set status = excluded.status, saved_at = excluded.saved_at \
                      where s.status is distinct from excluded.status";
        let status = sqlx::query(status).bind(&columns.uids).bind(&columns.statuses);
        self.run(Query::PolicyStatusSave, status.execute(&mut *txn)).await?;
        let memory = "insert into policy_memory as m (uid, memory) \
                      select w.uid, w.memory from unnest($1::text[], $2::jsonb[]) as w (uid, memory) \
                      join policies p on p.uid = w.uid \
                      on conflict (uid) do update set memory = excluded.memory \
                      where m.memory is distinct from excluded.memory";
        let memory = sqlx::query(memory).bind(&columns.uids).bind(&columns.memories);
        self.run(Query::PolicyStatusSave, memory.execute(&mut *txn)).await?;
        self.notify(&mut txn, &Notice::Status).await?;
        self.fence_in_txn(&mut txn, fence).await?;
        Ok(self.commit(txn).await?)
    }
}

#[derive(Default)]
struct Columns {
    uids: Vec<String>,
    statuses: Vec<Json<Value>>,
    memories: Vec<Json<Value>>,
}

impl Columns {
    fn new(by_uid: &BTreeMap<PolicyUid, (Json<Value>, Json<Value>)>) -> Self {
        let mut columns = Columns::default();
        for (uid, (status, memory)) in by_uid {
            columns.uids.push(uid.to_string());
            columns.statuses.push(status.clone());
            columns.memories.push(memory.clone());
        }
        columns
    }
}
