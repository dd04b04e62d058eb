//! Writing policies: each change is one transaction that first takes the policies' lock (their change number), then looks for
//! the first answer to the request id, checks the version, writes, audits, keeps the answer and notifies. What a change means is
//! decided by core and by the pure functions of `policy_change`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use switchyard_core::{
    ids::{ClusterName, PolicyKey, PolicyUid, Weight},
    policy::{ClusterTrafficPolicy, PolicyRecord, ValidatedPolicy},
    shift::{by_cluster, validate::rules},
};

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    idempotency::Request,
    lease::{Fence, FencedError},
    notice::Notice,
    policy_change::{
        ApplyDecision, apply_detail, check_caller, check_manifest, check_owner, check_version, decide_apply,
        decide_weights,
    },
    policy_rows::{Kept, PolicyRow, StoredPolicy, policy_select, read_all},
    settle::Cause,
    shifts_leave::Leave,
    values::{Conn, at, signed, to_json, unreadable},
};

pub use super::policy_change::{Applied, ApplyError, Caller};

/// What is kept as the first answer to a request.
#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    pub policy: Kept,
    applied: Applied,
}

impl Answer {
    pub fn new(stored: &StoredPolicy, applied: Applied) -> Self {
        Self { policy: Kept::new(stored), applied }
    }
}

impl Store {
    /// Creates or replaces a policy. `expected_version` 0: whatever is there; else the version that the caller has seen.
    ///
    /// A spec that did not change changes nothing. A spec whose weights differ from those of the spec before supersedes an
    /// override, and the shift that made it; any other change keeps both.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing is stored then.
    pub async fn policy_apply(
        &self,
        caller: &Caller,
        manifest: &ClusterTrafficPolicy,
        policy: &ValidatedPolicy,
        expected_version: u64,
    ) -> Result<(StoredPolicy, Applied), ApplyError> {
        check_caller(caller)?;
        check_manifest(manifest)?;
        let request = Request::new(caller, "ApplyPolicy", &(manifest, expected_version))?;
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<Answer>(&mut txn, &request).await? {
            return Ok((answer.policy.read()?, answer.applied));
        }
        let present = self.policy_in_txn(&mut txn, &policy.key).await?;
        let decision = decide_apply(present.as_ref(), manifest, policy, expected_version)?;
        caller.may_apply(present.as_ref(), policy)?;
        if let Some(present) = &present {
            self.owner_to_api(&mut txn, present, change).await?;
        }
        let applied = match (&present, decision) {
            (Some(present), ApplyDecision::Keep) => {
                self.keep_answer(&mut txn, &request, &Answer::new(present, Applied::Unchanged)).await?;
                self.commit(txn).await?;
                return Ok((present.clone(), Applied::Unchanged));
            }
            (None, _) => {
                self.policy_insert(&mut txn, policy, manifest, change).await?;
                Applied::Created
            }
            (Some(present), ApplyDecision::Replace { supersede }) => {
                let record = &present.record;
                let new_spec = Some(manifest).filter(|manifest| present.manifest.spec != manifest.spec);
                if supersede {
                    self.shift_lets_go(&mut txn, caller, (&policy.key, &record.uid)).await?;
                    let leave = leave(caller, false, change);
                    self.shift_leave(&mut txn, (&policy.key, &record.uid), leave).await?;
                }
                self.policy_update(&mut txn, record, change, new_spec).await?;
                if supersede {
                    self.override_write(&mut txn, &record.uid, &BTreeMap::new()).await?;
                }
                Applied::Configured
            }
        };
        let stored = self.policy_expected(&mut txn, &policy.key).await?;
        let detail = apply_detail(present.as_ref(), &stored, applied);
        self.audit_caller(&mut txn, caller, "apply", &policy.key, detail).await?;
        self.keep_answer(&mut txn, &request, &Answer::new(&stored, applied)).await?;
        self.notify(&mut txn, &Notice::Policies).await?;
        self.commit(txn).await?;
        Ok((stored, applied))
    }

    /// Sets weights over those of the spec; clusters that are not named keep theirs. Weights equal to the present ones change
    /// nothing; weights equal to the spec's end the override. Refused while a shift moves the policy, and by its safety rules.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing is stored then.
    pub async fn policy_set_weights(
        &self,
        caller: &Caller,
        key: &PolicyKey,
        wanted: &[(String, u32)],
        expected_version: u64,
    ) -> Result<StoredPolicy, ApplyError> {
        check_caller(caller)?;
        // Sorted: the caller may hold them in a hash map, whose order differs between two tries.
        let mut content = wanted.to_vec();
        content.sort();
        let request = Request::new(caller, "SetWeights", &(key, &content, expected_version))?;
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<Answer>(&mut txn, &request).await? {
            return Ok(answer.policy.read()?);
        }
        let present = self.policy_in_txn(&mut txn, key).await?.ok_or_else(|| ApplyError::NotFound(key.clone()))?;
        let weights = decide_weights(&present, wanted, expected_version)?;
        caller.may_weigh(key, &present.record.requested(), &weights)?;
        if weights == present.record.requested() {
            self.keep_answer(&mut txn, &request, &Answer::new(&present, Applied::Unchanged)).await?;
            self.commit(txn).await?;
            return Ok(present);
        }
        self.check_weights(&mut txn, &present, &weights).await?;
        let weights: BTreeMap<ClusterName, Weight> = weights.into_iter().collect();
        let of_spec: BTreeMap<ClusterName, Weight> = present.record.policy.clusters.iter().cloned().collect();
        let stored_override = if weights == of_spec { BTreeMap::new() } else { weights.clone() };
        self.override_write(&mut txn, &present.record.uid, &stored_override).await?;
        self.policy_update(&mut txn, &present.record, change, None).await?;
        let stored = self.policy_expected(&mut txn, key).await?;
        let old: BTreeMap<ClusterName, Weight> = present.record.requested().into_iter().collect();
        // Under both names: readers of the first version know the first ones.
        let detail = json!({"old": old, "new": weights, "from": old, "to": weights, "version": stored.record.version});
        self.audit_caller(&mut txn, caller, "set-weights", key, detail).await?;
        self.keep_answer(&mut txn, &request, &Answer::new(&stored, Applied::Configured)).await?;
        self.notify(&mut txn, &Notice::Policies).await?;
        self.commit(txn).await?;
        Ok(stored)
    }

    /// Marks a policy for deletion; the engine takes it down and then calls [`Store::policy_forget`]. A policy that is marked
    /// already stays as it is. When a resource waits for the name, it owns the policy from now on, and nothing is taken down.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing is stored then.
    pub async fn policy_mark_deleting(
        &self,
        caller: &Caller,
        key: &PolicyKey,
        expected_version: u64,
    ) -> Result<StoredPolicy, ApplyError> {
        check_caller(caller)?;
        let request = Request::new(caller, "DeletePolicy", &(key, expected_version))?;
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<Answer>(&mut txn, &request).await? {
            return Ok(answer.policy.read()?);
        }
        let present = self.policy_in_txn(&mut txn, key).await?.ok_or_else(|| ApplyError::NotFound(key.clone()))?;
        caller.may_delete(&present)?;
        if present.record.deleting_since.is_some() {
            self.keep_answer(&mut txn, &request, &Answer::new(&present, Applied::Unchanged)).await?;
            self.commit(txn).await?;
            return Ok(present);
        }
        check_owner(&present)?;
        check_version(expected_version, present.record.version)?;
        self.shift_lets_go(&mut txn, caller, (key, &present.record.uid)).await?;
        self.owner_to_api(&mut txn, &present, change).await?;
        let cause = Cause { leaves: Some(caller), ..Cause::resources(change) };
        self.policy_settle(&mut txn, key, &cause).await?;
        let stored = self.policy_expected(&mut txn, key).await?;
        self.keep_answer(&mut txn, &request, &Answer::new(&stored, Applied::Configured)).await?;
        self.notify(&mut txn, &Notice::Policies).await?;
        self.commit(txn).await?;
        Ok(stored)
    }

    /// Removes a policy for good, after everything of it is gone at AWS. Only one that is marked for deletion and that still is
    /// the one meant; false when there is none such, whoever asks. A resource that waited for the name then makes a new one.
    ///
    /// # Errors
    /// [`FencedError`]; the policy stays then.
    pub async fn policy_forget(&self, fence: Fence<'_>, key: &PolicyKey, uid: &PolicyUid) -> Result<bool, FencedError> {
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        let delete =
            "delete from policies where uid = $1 and namespace = $2 and name = $3 and deleting_since is not null";
        let delete = sqlx::query(delete).bind(uid.as_str()).bind(key.namespace.as_str()).bind(key.name.as_str());
        let deleted = self.run(Query::PolicyForget, delete.execute(&mut *txn)).await?;
        if deleted.rows_affected() == 0 {
            return Ok(false);
        }
        let entry = Entry {
            actor: "switchyard-hub",
            action: "forget",
            policy: Some(key),
            shift: None,
            detail: json!({"uid": uid}),
            reason: "everything of it is gone at AWS",
            request_id: "",
            source: "",
        };
        self.audit(&mut txn, entry).await?;
        self.policy_settle(&mut txn, key, &Cause::resources(change)).await?;
        self.notify(&mut txn, &Notice::Policies).await?;
        self.fence_in_txn(&mut txn, fence).await?;
        self.commit(txn).await?;
        Ok(true)
    }

    /// One policy.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when a newer version wrote it.
    pub async fn policy_get(&self, key: &PolicyKey) -> Result<Option<StoredPolicy>, StoreError> {
        let read = sqlx::query_as::<_, PolicyRow>(policy_select!("where p.namespace = $1 and p.name = $2"));
        let read = read.bind(key.namespace.as_str()).bind(key.name.as_str());
        self.run(Query::PolicyGet, read.fetch_optional(&self.pool)).await?.map(PolicyRow::read).transpose()
    }

    /// All policies by namespace and name. Those that this version cannot read are logged and passed over.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn policies_all(&self) -> Result<Vec<StoredPolicy>, StoreError> {
        let read =
            sqlx::query_as::<_, PolicyRow>(policy_select!("order by p.namespace collate \"C\", p.name collate \"C\""));
        let rows = self.run(Query::PoliciesAll, read.fetch_all(&self.pool)).await?;
        Ok(read_all(rows).0)
    }

    /// The next change number; locks out every other writer of policies until the end of the transaction.
    pub(super) async fn policy_change(&self, conn: &mut Conn) -> Result<i64, StoreError> {
        let next = sqlx::query_scalar("update policy_changes set last = last + 1 returning last");
        self.run(Query::PolicyChange, next.fetch_one(conn)).await
    }

    pub(super) async fn policy_in_txn(
        &self,
        conn: &mut Conn,
        key: &PolicyKey,
    ) -> Result<Option<StoredPolicy>, StoreError> {
        let read =
            sqlx::query_as::<_, PolicyRow>(policy_select!("where p.namespace = $1 and p.name = $2 for update of p"));
        let read = read.bind(key.namespace.as_str()).bind(key.name.as_str());
        self.run(Query::PolicyGet, read.fetch_optional(conn)).await?.map(PolicyRow::read).transpose()
    }

    /// The policy as this transaction left it.
    pub(super) async fn policy_expected(&self, conn: &mut Conn, key: &PolicyKey) -> Result<StoredPolicy, StoreError> {
        let stored = self.policy_in_txn(conn, key).await?;
        stored.ok_or_else(|| unreadable(format!("policy {key}"), "it vanished within the transaction that wrote it"))
    }

    pub(super) async fn policy_insert(
        &self,
        conn: &mut Conn,
        policy: &ValidatedPolicy,
        manifest: &ClusterTrafficPolicy,
        change: i64,
    ) -> Result<(), StoreError> {
        let insert = "insert into policies (uid, namespace, name, version, generation, manifest, created_at, updated_at, change) \
                      select gen_random_uuid()::text, $1, $2, 1, 1, $3, t.now, t.now, $4 from (select clock_timestamp() as now) t";
        let insert = sqlx::query(insert)
            .bind(policy.key.namespace.as_str())
            .bind(policy.key.name.as_str())
            .bind(to_json("a manifest", manifest)?)
            .bind(change);
        self.run(Query::PolicyInsert, insert.execute(conn)).await.map(|_| ())
    }

    /// Counts the version up, and with a new manifest the generation too.
    pub(super) async fn policy_update(
        &self,
        conn: &mut Conn,
        record: &PolicyRecord,
        change: i64,
        manifest: Option<&ClusterTrafficPolicy>,
    ) -> Result<(), StoreError> {
        let manifest = manifest.map(|manifest| to_json("a manifest", manifest)).transpose()?;
        let update = "update policies set version = version + 1, manifest = coalesce($2, manifest), \
                      generation = generation + case when $2::jsonb is null then 0 else 1 end, \
                      updated_at = clock_timestamp(), change = $3 where uid = $1 and version = $4";
        let update =
            sqlx::query(update).bind(record.uid.as_str()).bind(manifest).bind(change).bind(signed(record.version));
        self.run(Query::PolicyUpdate, update.execute(conn)).await.map(|_| ())
    }

    pub(super) async fn override_write(
        &self,
        conn: &mut Conn,
        uid: &PolicyUid,
        weights: &BTreeMap<ClusterName, Weight>,
    ) -> Result<(), StoreError> {
        let clear = sqlx::query("delete from policy_overrides where uid = $1").bind(uid.as_str());
        self.run(Query::PolicyOverride, clear.execute(&mut *conn)).await?;
        if weights.is_empty() {
            return Ok(());
        }
        let (names, values): (Vec<String>, Vec<i32>) = weights
            .iter()
            .map(|(name, weight)| (name.to_string(), i32::try_from(weight.get()).unwrap_or(i32::MAX)))
            .unzip();
        let insert = "insert into policy_overrides (uid, cluster, weight) \
                      select $1, w.cluster, w.weight from unnest($2::text[], $3::int[]) as w (cluster, weight)";
        let insert = sqlx::query(insert).bind(uid.as_str()).bind(names).bind(values);
        self.run(Query::PolicyOverride, insert.execute(conn)).await.map(|_| ())
    }

    /// Weights are not set beside a shift, nor against the safety rules of the policy.
    async fn check_weights(
        &self,
        conn: &mut Conn,
        present: &StoredPolicy,
        wanted: &[(ClusterName, Weight)],
    ) -> Result<(), ApplyError> {
        let record = &present.record;
        if let Some(shift) = self.shift_of_policy(conn, &record.uid).await? {
            return Err(ApplyError::ShiftActive { policy: record.policy.key.clone(), shift: shift.id });
        }
        let switches = self.switches_in_txn(conn).await?;
        let now = self.now(conn).await?;
        let (none, from) = (BTreeSet::new(), record.requested());
        let mut rules = rules(record, &present.memory, &switches, &none, now);
        // What was asked for last and is not read back yet has moved too: else any number of calls would pass before AWS sees one.
        let in_force =
            present.memory.programmed.as_ref().is_some_and(|programmed| programmed.weights == by_cluster(&from));
        if !in_force {
            rules.moved_at = rules.moved_at.map(|at| at.max(present.updated_at));
        }
        let mut findings = rules.moment(0);
        findings.extend(rules.shape(0, &from, wanted));
        if findings.is_empty() { Ok(()) } else { Err(ApplyError::Held { findings }) }
    }

    /// The database's time.
    async fn now(&self, conn: &mut Conn) -> Result<Timestamp, StoreError> {
        let now = sqlx::query_scalar::<_, jiff_sqlx::Timestamp>("select clock_timestamp()");
        Ok(at(self.run(Query::Now, now.fetch_one(conn)).await?))
    }

    /// A policy whose owner may not exist any more ([`check_owner`]) belongs to the API from now on.
    async fn owner_to_api(&self, conn: &mut Conn, present: &StoredPolicy, change: i64) -> Result<(), StoreError> {
        let Some(cluster) = present.ownership.owner.cluster() else {
            return Ok(());
        };
        let key = &present.record.policy.key;
        self.claim_change(conn).await?;
        self.claim_remove(conn, cluster, key, None).await?;
        self.owner_write(conn, present, None, change).await
    }

    pub(super) async fn audit_caller(
        &self,
        conn: &mut Conn,
        caller: &Caller,
        action: &'static str,
        policy: &PolicyKey,
        detail: serde_json::Value,
    ) -> Result<(), StoreError> {
        let entry = Entry {
            actor: &caller.actor,
            action,
            policy: Some(policy),
            shift: None,
            detail,
            reason: &caller.reason,
            request_id: &caller.request_id,
            source: &caller.source,
        };
        self.audit(conn, entry).await
    }
}

/// Why a policy leaves its shift, by a call.
fn leave(caller: &Caller, deleted: bool, change: i64) -> Leave<'_> {
    let Caller { actor, reason, request_id, source, .. } = caller;
    Leave { deleted, change, actor, reason, request_id, source }
}
