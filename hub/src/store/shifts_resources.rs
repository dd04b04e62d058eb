//! What is remembered of TrafficShift resources, for good: one UID makes one shift, ever, also after the shift itself was forgotten.

use std::collections::BTreeMap;

use jiff::Timestamp;
use switchyard_core::{
    ids::{ClusterName, ResourceUid, ShiftId},
    shift::Shift,
};

use super::{
    Store,
    error::{Query, StoreError},
    shifts_change::ShiftError,
    values::{Conn, at, signed, text, unreadable},
};

/// What became of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceMemory {
    /// The shift that it made.
    pub shift: Option<ShiftId>,
    /// Or why it was refused.
    pub refused: Option<String>,
    /// When that was, by the database's clock.
    pub first_seen: Timestamp,
}

#[derive(sqlx::FromRow)]
struct MemoryRow {
    uid: String,
    shift_id: Option<String>,
    refused: Option<String>,
    first_seen: jiff_sqlx::Timestamp,
}

impl MemoryRow {
    fn read(self) -> Result<(ResourceUid, ResourceMemory), StoreError> {
        let broken = |error| unreadable("the memory of a resource", error);
        let memory = ResourceMemory {
            shift: self.shift_id.map(|id| id.parse()).transpose().map_err(broken)?,
            refused: self.refused,
            first_seen: at(self.first_seen),
        };
        Ok((self.uid.parse().map_err(broken)?, memory))
    }
}

impl Store {
    /// What is remembered of these resources of a cluster; those that are new are left out.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn shift_resources(
        &self,
        cluster: &ClusterName,
        uids: &[ResourceUid],
    ) -> Result<BTreeMap<ResourceUid, ResourceMemory>, StoreError> {
        let uids: Vec<String> = uids.iter().map(ToString::to_string).collect();
        let read =
            "select uid, shift_id, refused, first_seen from shift_resources where cluster = $1 and uid = any($2)";
        let read = sqlx::query_as::<_, MemoryRow>(read).bind(cluster.as_str()).bind(uids);
        let rows = self.run(Query::ShiftResources, read.fetch_all(&self.pool)).await?;
        rows.into_iter().map(MemoryRow::read).collect()
    }

    /// Remembers that a resource was refused for good, and why; what is remembered already stays.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn shift_resource_refuse(
        &self,
        cluster: &ClusterName,
        uid: &ResourceUid,
        why: &str,
    ) -> Result<ResourceMemory, StoreError> {
        let mut txn = self.begin().await?;
        // Behind the lock of whoever makes the resource's shift at this moment.
        self.policy_change(&mut txn).await?;
        self.resource_insert(&mut txn, cluster, uid, Err(why)).await?;
        let memory = self.resource_in_txn(&mut txn, cluster, uid).await?;
        self.commit(txn).await?;
        memory.ok_or_else(|| unreadable("the memory of a resource", "it vanished within the transaction that wrote it"))
    }

    pub(super) async fn resource_in_txn(
        &self,
        conn: &mut Conn,
        cluster: &ClusterName,
        uid: &ResourceUid,
    ) -> Result<Option<ResourceMemory>, StoreError> {
        let read = "select uid, shift_id, refused, first_seen from shift_resources where cluster = $1 and uid = $2";
        let read = sqlx::query_as::<_, MemoryRow>(read).bind(cluster.as_str()).bind(uid.as_str());
        let row = self.run(Query::ShiftResources, read.fetch_optional(conn)).await?;
        row.map(|row| row.read().map(|(_, memory)| memory)).transpose()
    }

    /// Remembers that this generation was told; false when it, or a later one, was before.
    pub(super) async fn resource_told(
        &self,
        conn: &mut Conn,
        cluster: &ClusterName,
        uid: &ResourceUid,
        generation: u64,
    ) -> Result<bool, StoreError> {
        let told = "update shift_resources set generation = $3 where cluster = $1 and uid = $2 and generation < $3";
        let told = sqlx::query(told).bind(cluster.as_str()).bind(uid.as_str()).bind(signed(generation));
        let told = self.run(Query::ShiftResources, told.execute(conn)).await?;
        Ok(told.rows_affected() > 0)
    }

    pub(super) async fn resource_insert(
        &self,
        conn: &mut Conn,
        cluster: &ClusterName,
        uid: &ResourceUid,
        became: Result<&ShiftId, &str>,
    ) -> Result<(), StoreError> {
        let insert = "insert into shift_resources (cluster, uid, shift_id, refused, first_seen) \
                      values ($1, $2, $3, $4, clock_timestamp()) on conflict do nothing";
        // An empty refusal would not be one for the schema.
        let refused = became.err().map(|why| if why.is_empty() { "refused".to_owned() } else { text(why, 8192) });
        let insert = sqlx::query(insert)
            .bind(cluster.as_str())
            .bind(uid.as_str())
            .bind(became.ok().map(ShiftId::as_str))
            .bind(refused);
        self.run(Query::ShiftResources, insert.execute(conn)).await.map(|_| ())
    }

    /// The answer for a resource that was carried out, or refused, before.
    pub(super) async fn shift_of_memory(&self, conn: &mut Conn, memory: ResourceMemory) -> Result<Shift, ShiftError> {
        match memory {
            ResourceMemory { shift: Some(id), .. } => {
                let shift = self.shift_in_txn(conn, &id).await?;
                shift.ok_or(ShiftError::ResourceForgotten { shift: id })
            }
            ResourceMemory { shift: None, refused, .. } => {
                Err(ShiftError::ResourceRefused { why: refused.unwrap_or_default() })
            }
        }
    }
}
