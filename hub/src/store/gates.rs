//! The health of gated pods' targets, by policy and cluster. Written by the engine that holds the lease (I7) and only when it
//! differs; read with the policies. Tests: `hub/tests/store_gates.rs`.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::{
    gate::GateBook,
    ids::{ClusterName, PolicyUid},
};

use super::{
    Store,
    error::Query,
    lease::{Fence, FencedError},
    notice::Notice,
    values::to_json,
};

/// The books of one policy.
pub type GateBooks = BTreeMap<ClusterName, GateBook>;

impl Store {
    /// Stores the books of some policies, empty ones included. Policies that are gone are passed over.
    ///
    /// # Errors
    /// [`FencedError`]; nothing is stored then.
    pub async fn policy_gates_save(
        &self,
        fence: Fence<'_>,
        updates: &BTreeMap<PolicyUid, GateBooks>,
    ) -> Result<(), FencedError> {
        let mut uids: Vec<String> = Vec::with_capacity(updates.len());
        let mut books: Vec<Json<Value>> = Vec::with_capacity(updates.len());
        for (uid, of_policy) in updates {
            uids.push(uid.to_string());
            books.push(to_json("the health of gated targets", of_policy)?);
        }
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        let moved = "update policies set change = $2 where uid = any($1)";
        let moved = sqlx::query(moved).bind(&uids).bind(change);
        self.run(Query::PolicyGatesSave, moved.execute(&mut *txn)).await?;
        let write = "insert into policy_gates as g (uid, gates, saved_at) \
                     select w.uid, w.gates, clock_timestamp() from unnest($1::text[], $2::jsonb[]) as w (uid, gates) \
                     join policies p on p.uid = w.uid \
                     on conflict (uid) do update set gates = excluded.gates, saved_at = excluded.saved_at";
        let write = sqlx::query(write).bind(&uids).bind(&books);
        self.run(Query::PolicyGatesSave, write.execute(&mut *txn)).await?;
        self.notify(&mut txn, &Notice::Status).await?;
        self.fence_in_txn(&mut txn, fence).await?;
        Ok(self.commit(txn).await?)
    }
}
