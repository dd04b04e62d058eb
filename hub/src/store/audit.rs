//! The audit log: who changed what, and why. It only grows; the schema refuses anything else. Whoever writes an entry holds the
//! policies' lock, so the order of ids is the order of commits, and a reader that goes by ids misses none.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use sqlx::{Postgres, QueryBuilder, types::Json};
use switchyard_core::ids::{Namespace, PolicyKey, ShiftId};

use super::{
    Store,
    error::{Query, StoreError},
    values::{Conn, at, text, to_json},
};

/// Entries of one page.
const MOST_IN_PAGE: u32 = 1000;

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// Grows with time.
    pub id: i64,
    /// When, by the database's clock.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done: `apply`, `set-weights`, `failback`, `delete`, `handover`, `forget`, `set-switch`, `delete-switch`, of a cluster
    /// `cluster.cordon`, `.drain`, `.uncordon`, `.remove`, `.drill`, and by the hub `.step`, `.end`, or of a shift
    /// `shift-create`, `-pause`, `-resume`, `-approve`, `-promote`, `-abort`, `-step`, `-back`, `-end`, `-supersede`.
    pub action: String,
    /// To which policy; empty: not to one.
    pub policy: String,
    /// By which shift; none: not by one.
    pub shift: Option<String>,
    /// What changed.
    pub detail: Value,
    /// Why, as the caller said.
    pub reason: String,
    /// The request; empty for what the hub did by itself.
    pub request_id: String,
}

impl AuditRow {
    /// The weights that were asked for before, by cluster; empty when none moved.
    pub fn from_weights(&self) -> BTreeMap<String, u32> {
        self.weights("from", "old")
    }

    /// The weights that were asked for afterwards, by cluster; empty when none moved.
    pub fn to_weights(&self) -> BTreeMap<String, u32> {
        self.weights("to", "new")
    }

    /// The safety rules that the caller crossed on purpose.
    pub fn overrides(&self) -> Vec<String> {
        let words = self.detail.get("overrides").and_then(Value::as_array);
        words.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn weights(&self, name: &str, of_old: &str) -> BTreeMap<String, u32> {
        // Before there were shifts only `set-weights` said it, under other names.
        let found = self.detail.get(name).or_else(|| self.detail.get(of_old).filter(|_| self.action == "set-weights"));
        let pairs = found.and_then(Value::as_object).into_iter().flatten();
        pairs.filter_map(|(cluster, weight)| Some((cluster.clone(), u32::try_from(weight.as_u64()?).ok()?))).collect()
    }
}

/// Which entries are read; all when nothing is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// About policies of this namespace.
    pub namespace: Option<Namespace>,
    /// About this policy.
    pub policy: Option<PolicyKey>,
    /// Of this shift.
    pub shift: Option<ShiftId>,
    /// Of this actor, as written in the entry.
    pub actor: Option<String>,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub before: Option<Timestamp>,
}

/// A new entry.
pub(super) struct Entry<'a> {
    pub actor: &'a str,
    pub action: &'static str,
    pub policy: Option<&'a PolicyKey>,
    pub shift: Option<&'a ShiftId>,
    pub detail: Value,
    pub reason: &'a str,
    pub request_id: &'a str,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    at: jiff_sqlx::Timestamp,
    actor: String,
    action: String,
    policy: String,
    shift_id: Option<String>,
    detail: Json<Value>,
    reason: String,
    request_id: String,
}

impl Row {
    fn read(self) -> AuditRow {
        AuditRow {
            id: self.id,
            at: at(self.at),
            actor: self.actor,
            action: self.action,
            policy: self.policy,
            shift: self.shift_id,
            detail: self.detail.0,
            reason: self.reason,
            request_id: self.request_id,
        }
    }
}

impl Store {
    pub(super) async fn audit(&self, conn: &mut Conn, entry: Entry<'_>) -> Result<(), StoreError> {
        // The time is read when the row is written: the transaction may have waited for its lock.
        let insert = "insert into audit (at, actor, action, policy, shift_id, detail, reason, request_id) \
                      values (clock_timestamp(), $1, $2, $3, $4, $5, $6, $7)";
        let insert = sqlx::query(insert)
            .bind(text(entry.actor, 256))
            .bind(entry.action)
            .bind(entry.policy.map(ToString::to_string).unwrap_or_default())
            .bind(entry.shift.map(ShiftId::as_str))
            .bind(to_json("an audit entry", &entry.detail)?)
            .bind(text(entry.reason, 1024))
            .bind(text(entry.request_id, 128));
        self.run(Query::AuditInsert, insert.execute(conn)).await.map(|_| ())
    }

    /// Entries, the newest first or the oldest first; those that come after the entry of that id in this order. At most 1000.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn audit_page(
        &self,
        filter: &AuditFilter,
        oldest_first: bool,
        after: Option<i64>,
        most: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let mut page = QueryBuilder::<Postgres>::new(
            "select id, at, actor, action, policy, shift_id, detail, reason, request_id from audit where true",
        );
        if let Some(namespace) = &filter.namespace {
            page.push(" and split_part(policy, '/', 1) = ").push_bind(namespace.as_str());
        }
        if let Some(policy) = &filter.policy {
            page.push(" and policy = ").push_bind(policy.to_string());
        }
        if let Some(shift) = &filter.shift {
            page.push(" and shift_id = ").push_bind(shift.as_str());
        }
        if let Some(actor) = &filter.actor {
            page.push(" and actor = ").push_bind(text(actor, 256));
        }
        if let Some(since) = filter.since {
            page.push(" and at >= ").push_bind(jiff_sqlx::Timestamp::from(since));
        }
        if let Some(before) = filter.before {
            page.push(" and at < ").push_bind(jiff_sqlx::Timestamp::from(before));
        }
        if let Some(after) = after {
            page.push(if oldest_first { " and id > " } else { " and id < " }).push_bind(after);
        }
        page.push(if oldest_first { " order by id limit " } else { " order by id desc limit " });
        page.push_bind(i64::from(most.clamp(1, MOST_IN_PAGE)));
        let rows = self.run(Query::AuditList, page.build_query_as::<Row>().fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().map(Row::read).collect())
    }
}
