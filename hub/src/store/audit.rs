//! The audit log: who changed what, from where, and why; and what was refused. It only grows; the schema refuses anything else.
//! Ids, times and the chain of hashes are made by the schema when a row is written (`migrations/0008_audit_lock.sql`), one writer after
//! the other until its end: so the order of ids is the order of commits, and a reader that goes by ids misses none. An entry is the
//! last thing that a transaction waits for, but for the answer to its request id; refusals are in `audit_refused`.
//! Tests: `hub/tests/store_audit.rs`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;
use sqlx::{Postgres, QueryBuilder, pool::PoolConnection};
use switchyard_core::{
    audit::{Hash, Link},
    ids::{Namespace, PolicyKey, ShiftId},
};

use super::{
    Store,
    error::{Query, StoreError},
    values::{Conn, at, text, to_json, unreadable},
};

/// Entries of one page.
const MOST_IN_PAGE: u32 = 1000;

/// What came of what an entry tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditResult {
    /// It was done.
    Done,
    /// The caller may not.
    Refused,
    /// The caller may, and it was not done all the same.
    Failed,
}

impl AuditResult {
    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The result of that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Done, Self::Refused, Self::Failed].into_iter().find(|result| result.as_str() == word)
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// Grows with time.
    pub id: i64,
    /// When, by the database's clock.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done: `apply`, `set-weights`, `failback`, `delete`, `handover`, `forget`, by the hub `failover.out`, `.back`, `set-switch`, `delete-switch`, of a cluster
    /// `cluster.cordon`, `.drain`, `.uncordon`, `.remove`, `.drill`, and by the hub `.step`, `.end`, `.purge`, `source.keep`, or of a shift
    /// `shift-create`, `-pause`, `-resume`, `-approve`, `-promote`, `-abort`, `-step`, `-back`, `-end`, `-supersede`; of access
    /// `join-token.create`, `.revoke`, `.replayed`, `.refused`, `certificate.issue`, `.seen`, `.revoke`, `.refused`, `service-token.create`,
    /// `.revoke`, `authority.create`, `.adopt`, `.rotate`, `.retire`; of what was refused at the door the call, such as
    /// `PolicyService/ApplyPolicy`.
    pub action: String,
    /// To which policy; empty: not to one.
    pub policy: String,
    /// By which shift; none: not by one.
    pub shift: Option<String>,
    /// What changed.
    pub detail: Value,
    /// The same, character for character as the hash is over it.
    pub detail_text: String,
    /// Why, as the caller said.
    pub reason: String,
    /// The request; empty for what the hub did by itself.
    pub request_id: String,
    /// Where the call came from; empty for what the hub did by itself, and in entries from before this was recorded.
    pub source: String,
    /// What came of it.
    pub result: AuditResult,
    /// Of the entry before; 32 zero bytes in the first.
    pub previous_hash: Hash,
    /// Of this entry.
    pub hash: Hash,
}

impl AuditRow {
    /// The fields that the hash is over, for [`switchyard_core::audit::Verifier`].
    pub fn link(&self) -> Link<'_> {
        Link {
            // Ids are positive; one that is not fits no chain.
            id: u64::try_from(self.id).unwrap_or_default(),
            at: self.at,
            actor: &self.actor,
            action: &self.action,
            policy: &self.policy,
            shift_id: self.shift.as_deref().unwrap_or_default(),
            detail: &self.detail_text,
            reason: &self.reason,
            request_id: &self.request_id,
            source: &self.source,
            result: self.result.as_str(),
        }
    }

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
    /// With this result.
    pub result: Option<AuditResult>,
    /// With a greater id.
    pub above: Option<i64>,
    /// What the reader may see. None: everything; else entries about policies of these namespaces, and no others.
    pub visible: Option<BTreeSet<Namespace>>,
}

/// What is read of an entry.
const COLUMNS: &str = "id, at, actor, action, policy, shift_id, detail::text as detail, reason, request_id, source, result, previous_hash, hash";

impl AuditFilter {
    /// The statement for a page. None: the reader may see nothing of what is asked for.
    ///
    /// Of some namespaces the newest entries of each are looked up by themselves and then put together: to go through the whole log
    /// for the few that a reader may see would cost the more the less he may.
    fn statement(&self, oldest_first: bool, after: Option<i64>, most: u32) -> Option<QueryBuilder<Postgres>> {
        let most = i64::from(most);
        let order = if oldest_first { " order by id limit " } else { " order by id desc limit " };
        let Some(names) = self.namespaces()? else {
            let mut page = QueryBuilder::new(format!("select {COLUMNS} from audit where true"));
            self.narrow(&mut page, oldest_first, after);
            page.push(order).push_bind(most);
            return Some(page);
        };
        let mut page = QueryBuilder::new("with page as materialized (select one.id from unnest(");
        page.push_bind(names);
        page.push(
            "::text[]) as namespace (name) cross join lateral \
             (select id from audit where split_part(policy, '/', 1) = namespace.name",
        );
        self.narrow(&mut page, oldest_first, after);
        page.push(order).push_bind(most).push(") one").push(order).push_bind(most);
        page.push(format!(") select {COLUMNS} from page join audit using (id) order by id"));
        page.push(if oldest_first { "" } else { " desc" });
        Some(page)
    }

    /// The namespaces that have to be looked through. `Some(None)`: the entries are found otherwise. None: there is nothing to see.
    fn namespaces(&self) -> Option<Option<Vec<String>>> {
        let sees = |namespace: &Namespace| self.visible.as_ref().is_none_or(|visible| visible.contains(namespace));
        if let Some(policy) = &self.policy {
            let fits = self.namespace.as_ref().is_none_or(|namespace| *namespace == policy.namespace);
            return (fits && sees(&policy.namespace)).then_some(None);
        }
        match (&self.namespace, &self.visible) {
            (Some(namespace), _) => sees(namespace).then(|| Some(vec![namespace.to_string()])),
            (None, Some(visible)) if visible.is_empty() => None,
            (None, Some(visible)) => Some(Some(visible.iter().map(ToString::to_string).collect())),
            (None, None) => Some(None),
        }
    }

    fn narrow(&self, page: &mut QueryBuilder<Postgres>, oldest_first: bool, after: Option<i64>) {
        if let Some(policy) = &self.policy {
            page.push(" and policy = ").push_bind(policy.to_string());
        }
        if let Some(shift) = &self.shift {
            page.push(" and shift_id = ").push_bind(shift.as_str());
        }
        if let Some(actor) = &self.actor {
            page.push(" and actor = ").push_bind(text(actor, 256));
        }
        // Ids grow with time but for a clock that was set back, which is not by a day: so a short time in a long log is found by ids,
        // and the times themselves decide.
        if let Some(since) = self.since.map(jiff_sqlx::Timestamp::from) {
            page.push(" and at >= ").push_bind(since).push(" and id >= (select id from audit where at >= ");
            page.push_bind(since).push(" - interval '1 day' order by at limit 1)");
        }
        if let Some(before) = self.before.map(jiff_sqlx::Timestamp::from) {
            page.push(" and at < ").push_bind(before).push(" and id <= (select id from audit where at < ");
            page.push_bind(before).push(" + interval '1 day' order by at desc limit 1)");
        }
        if let Some(result) = self.result {
            // Written out: the indexes of what was not done are found by the word alone.
            page.push(" and result = '").push(result.as_str()).push("'");
        }
        if let Some(above) = self.above {
            page.push(" and id > ").push_bind(above);
        }
        if let Some(after) = after {
            page.push(if oldest_first { " and id > " } else { " and id < " }).push_bind(after);
        }
    }
}

/// The newest link of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// Of the newest entry.
    pub id: i64,
    /// Its hash.
    pub hash: Hash,
    /// When it was written.
    pub at: Timestamp,
}

/// A new entry.
pub(super) struct Entry<'a> {
    pub actor: &'a str,
    pub action: &'a str,
    pub policy: Option<&'a PolicyKey>,
    pub shift: Option<&'a ShiftId>,
    pub detail: Value,
    pub reason: &'a str,
    pub request_id: &'a str,
    pub source: &'a str,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    at: jiff_sqlx::Timestamp,
    actor: String,
    action: String,
    policy: String,
    shift_id: Option<String>,
    detail: String,
    reason: String,
    request_id: String,
    source: String,
    result: String,
    previous_hash: Vec<u8>,
    hash: Vec<u8>,
}

fn hash(id: i64, bytes: &[u8]) -> Result<Hash, StoreError> {
    Hash::try_from(bytes).map_err(|error| unreadable(format!("audit entry {id}"), error))
}

impl Row {
    fn read(self) -> Result<AuditRow, StoreError> {
        let what = || format!("audit entry {}", self.id);
        let detail = serde_json::from_str(&self.detail).map_err(|error| unreadable(what(), error))?;
        let result = AuditResult::parse(&self.result);
        let result = result.ok_or_else(|| unreadable(what(), format!("the result {:?}", self.result)))?;
        Ok(AuditRow {
            id: self.id,
            at: at(self.at),
            actor: self.actor,
            action: self.action,
            policy: self.policy,
            shift: self.shift_id,
            detail,
            detail_text: self.detail,
            reason: self.reason,
            request_id: self.request_id,
            source: self.source,
            result,
            previous_hash: hash(self.id, &self.previous_hash)?,
            hash: hash(self.id, &self.hash)?,
        })
    }
}

impl Store {
    /// Of what was done. The transaction holds the chain's lock from here to its end: nothing that others may hold is waited for after
    /// this.
    pub(super) async fn audit(&self, conn: &mut Conn, entry: Entry<'_>) -> Result<(), StoreError> {
        self.audit_as(conn, entry, AuditResult::Done).await
    }

    /// The same, of what came out in this way.
    pub(super) async fn audit_as(
        &self,
        conn: &mut Conn,
        entry: Entry<'_>,
        result: AuditResult,
    ) -> Result<(), StoreError> {
        let insert = "insert into audit (actor, action, policy, shift_id, detail, reason, request_id, source, result) \
                      values ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let insert = sqlx::query(insert)
            .bind(text(entry.actor, 256))
            .bind(entry.action)
            .bind(entry.policy.map(ToString::to_string).unwrap_or_default())
            .bind(entry.shift.map(ShiftId::as_str))
            .bind(to_json("an audit entry", &entry.detail)?)
            .bind(text(entry.reason, 1024))
            .bind(text(entry.request_id, 128))
            .bind(text(entry.source, 256))
            .bind(result.as_str());
        self.run(Query::AuditInsert, insert.execute(conn)).await.map(|_| ())
    }

    /// The same, of many that were done, in this order: one statement, since whoever writes them holds the chain's lock.
    pub(super) async fn audit_all(&self, conn: &mut Conn, entries: Vec<Entry<'_>>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let column = |of: fn(&Entry<'_>) -> String| entries.iter().map(of).collect::<Vec<String>>();
        let details = entries.iter().map(|entry| to_json("an audit entry", &entry.detail));
        let details = details.collect::<Result<Vec<_>, _>>()?;
        let insert = "insert into audit (actor, action, policy, shift_id, detail, reason, request_id, source, result) \
                      select e.actor, e.action, e.policy, nullif(e.shift_id, ''), e.detail, e.reason, e.request_id, e.source, $9 \
                      from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::text[], $7::text[], $8::text[]) \
                      with ordinality as e (actor, action, policy, shift_id, detail, reason, request_id, source, n) order by e.n";
        let insert = sqlx::query(insert)
            .bind(column(|entry| text(entry.actor, 256)))
            .bind(column(|entry| entry.action.to_owned()))
            .bind(column(|entry| entry.policy.map(ToString::to_string).unwrap_or_default()))
            .bind(column(|entry| entry.shift.map(ToString::to_string).unwrap_or_default()))
            .bind(details)
            .bind(column(|entry| text(entry.reason, 1024)))
            .bind(column(|entry| text(entry.request_id, 128)))
            .bind(column(|entry| text(entry.source, 256)))
            .bind(AuditResult::Done.as_str());
        self.run(Query::AuditInsert, insert.execute(conn)).await.map(|_| ())
    }

    /// The newest link of the chain; none: nothing was ever logged.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn audit_head(&self) -> Result<Option<AuditHead>, StoreError> {
        let read = "select id, hash, at from audit order by id desc limit 1";
        let read = sqlx::query_as::<_, (i64, Vec<u8>, jiff_sqlx::Timestamp)>(read);
        let head = self.run(Query::AuditHead, read.fetch_optional(&self.pool)).await?;
        head.map(|(id, bytes, time)| Ok(AuditHead { id, hash: hash(id, &bytes)?, at: at(time) })).transpose()
    }

    /// Entries, the newest first or the oldest first; those that come after the entry of that id in this order. At most 1000.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer; [`StoreError::ListsBusy`] and [`StoreError::ListTooLong`] since the log may be
    /// long.
    pub async fn audit_page(
        &self,
        filter: &AuditFilter,
        oldest_first: bool,
        after: Option<i64>,
        most: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let Some(mut page) = filter.statement(oldest_first, after, most.clamp(1, MOST_IN_PAGE)) else {
            return Ok(Vec::new());
        };
        let read =
            async |conn: &mut PoolConnection<Postgres>| page.build_query_as::<Row>().fetch_all(&mut **conn).await;
        let rows = self.list(Query::AuditList, read).await?;
        rows.into_iter().map(Row::read).collect()
    }
}
