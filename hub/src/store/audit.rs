//! The audit log: who changed what, and why. It only grows; the schema refuses anything else.

use jiff::Timestamp;
use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::ids::PolicyKey;

use super::{
    Store,
    error::{Query, StoreError},
    values::{Conn, at, text, to_json},
};

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// Grows with time.
    pub id: i64,
    /// When, by the database's clock.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done: `apply`, `set-weights`, `delete`, `forget`.
    pub action: String,
    /// To which policy.
    pub policy: String,
    /// What changed.
    pub detail: Value,
    /// Why, as the caller said.
    pub reason: String,
    /// The request; empty for what the hub did by itself.
    pub request_id: String,
}

/// A new entry.
pub(super) struct Entry<'a> {
    pub actor: &'a str,
    pub action: &'static str,
    pub policy: &'a PolicyKey,
    pub detail: Value,
    pub reason: &'a str,
    pub request_id: &'a str,
}

impl Store {
    pub(super) async fn audit(&self, conn: &mut Conn, entry: Entry<'_>) -> Result<(), StoreError> {
        // The time is read when the row is written: the transaction may have waited for its lock.
        let insert = "insert into audit (at, actor, action, policy, detail, reason, request_id) \
                      values (clock_timestamp(), $1, $2, $3, $4, $5, $6)";
        let insert = sqlx::query(insert)
            .bind(text(entry.actor, 256))
            .bind(entry.action)
            .bind(entry.policy.to_string())
            .bind(to_json("an audit entry", &entry.detail)?)
            .bind(text(entry.reason, 1024))
            .bind(text(entry.request_id, 128));
        self.run(Query::AuditInsert, insert.execute(conn)).await.map(|_| ())
    }

    /// The newest entries about one policy, or about all, newest first; at most 1000.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn audit_list(&self, policy: Option<&PolicyKey>, most: u32) -> Result<Vec<AuditRow>, StoreError> {
        type Row = (i64, jiff_sqlx::Timestamp, String, String, String, Json<Value>, String, String);
        let read = "select id, at, actor, action, policy, detail, reason, request_id from audit \
                    where $1::text is null or policy = $1 order by id desc limit $2";
        let read = sqlx::query_as::<_, Row>(read).bind(policy.map(ToString::to_string)).bind(i64::from(most.min(1000)));
        let rows = self.run(Query::AuditList, read.fetch_all(&self.pool)).await?;
        let entry = |(id, time, actor, action, policy, detail, reason, request_id): Row| AuditRow {
            id,
            at: at(time),
            actor,
            action,
            policy,
            detail: detail.0,
            reason,
            request_id,
        };
        Ok(rows.into_iter().map(entry).collect())
    }
}
