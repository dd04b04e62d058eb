//! Status and planner's memory of policies, written by the engine that holds the lease (I7), and only when they differ from what
//! is stored. Where a status says that failover took clusters out or let them return, the audit log says so too: nobody asked for it, and
//! it changed production.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sqlx::types::Json;
use switchyard_core::{
    failover::Explanation,
    ids::{ClusterName, PolicyKey, PolicyUid, Weight},
    policy::PolicyMemory,
    status::PolicyStatus,
};

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    lease::{Fence, FencedError},
    notice::Notice,
    policy_failback::out,
    source_rows::read_key,
    values::{Conn, to_json, unreadable},
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
            let status = to_json("a status", update.status)?;
            let memory = to_json("a memory", update.memory)?;
            by_uid.insert(update.uid.clone(), Written { status, memory, failover: &update.status.failover });
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
        self.statuses_write(fence, &by_uid).await?;
        Ok(by_uid.into_keys().collect())
    }

    async fn statuses_write(
        &self,
        fence: Fence<'_>,
        by_uid: &BTreeMap<PolicyUid, Written<'_>>,
    ) -> Result<(), FencedError> {
        let columns = Columns::new(by_uid);
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        let moves = self.failover_moves(&mut txn, by_uid, &columns).await?;
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
        self.audit_all(&mut txn, moves.iter().map(FailoverMove::entry).collect()).await?;
        self.notify(&mut txn, &Notice::Status).await?;
        self.fence_in_txn(&mut txn, fence).await?;
        Ok(self.commit(txn).await?)
    }

    /// What failover did by these statuses, against those that are stored. A stored one that a newer version wrote says nothing.
    async fn failover_moves(
        &self,
        conn: &mut Conn,
        by_uid: &BTreeMap<PolicyUid, Written<'_>>,
        columns: &Columns,
    ) -> Result<Vec<FailoverMove>, StoreError> {
        let read = "select w.uid, p.namespace, p.name, s.status -> 'failover' as failover \
                    from unnest($1::text[], $2::jsonb[]) as w (uid, status) join policies p on p.uid = w.uid \
                    left join policy_status s on s.uid = w.uid \
                    where s.status -> 'failover' is distinct from w.status -> 'failover' order by p.namespace, p.name";
        let read = sqlx::query_as::<_, Before>(read).bind(&columns.uids).bind(&columns.statuses);
        let mut moves = Vec::new();
        for before in self.run(Query::PolicyStatusGet, read.fetch_all(conn)).await? {
            let uid = PolicyUid::new(before.uid).map_err(|error| unreadable("the uid of a policy", error))?;
            let Some(written) = by_uid.get(&uid) else { continue };
            let Ok(stored) = before.failover.map(|Json(value)| serde_json::from_value(value)).transpose() else {
                continue;
            };
            let policy = read_key("the key of a policy", before.namespace, before.name)?;
            moves.extend(failover_move(policy, &stored.unwrap_or_default(), written.failover));
        }
        Ok(moves)
    }
}

#[derive(sqlx::FromRow)]
struct Before {
    uid: String,
    namespace: String,
    name: String,
    failover: Option<Json<Value>>,
}

/// Clusters of one policy that went out for their health, or returned.
struct FailoverMove {
    policy: PolicyKey,
    action: &'static str,
    detail: Value,
    reason: String,
}

impl FailoverMove {
    fn entry(&self) -> Entry<'_> {
        Entry {
            actor: "switchyard-hub",
            action: self.action,
            policy: Some(&self.policy),
            shift: None,
            detail: self.detail.clone(),
            reason: &self.reason,
            request_id: "",
            source: "",
        }
    }
}

/// None: the same clusters are out as before.
fn failover_move(policy: PolicyKey, before: &Explanation, after: &Explanation) -> Option<FailoverMove> {
    let (was, is) = (out(before), out(after));
    let gone: BTreeSet<&ClusterName> = is.difference(&was).collect();
    // One that left the spec did not return.
    let named = |cluster: &&ClusterName| after.clusters.iter().any(|one| one.cluster == **cluster);
    let returned: BTreeSet<&ClusterName> = was.difference(&is).filter(named).collect();
    if gone.is_empty() && returned.is_empty() {
        return None;
    }
    let weights = |explanation: &Explanation| -> BTreeMap<ClusterName, Weight> {
        explanation.clusters.iter().map(|one| (one.cluster.clone(), one.decided)).collect()
    };
    let action = if gone.is_empty() { "failover.back" } else { "failover.out" };
    let detail = json!({
        "wentOut": gone,
        "returned": returned,
        "out": is,
        "decidedFrom": weights(before),
        "decidedTo": weights(after),
    });
    Some(FailoverMove { policy, action, detail, reason: after.message.clone() })
}

/// What is to be stored of one policy.
struct Written<'a> {
    status: Json<Value>,
    memory: Json<Value>,
    failover: &'a Explanation,
}

#[derive(Default)]
struct Columns {
    uids: Vec<String>,
    statuses: Vec<Json<Value>>,
    memories: Vec<Json<Value>>,
}

impl Columns {
    fn new(by_uid: &BTreeMap<PolicyUid, Written<'_>>) -> Self {
        let mut columns = Columns::default();
        for (uid, written) in by_uid {
            columns.uids.push(uid.to_string());
            columns.statuses.push(written.status.clone());
            columns.memories.push(written.memory.clone());
        }
        columns
    }
}
