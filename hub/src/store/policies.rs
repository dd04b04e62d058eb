//! Writing policies: each change is one transaction that first takes the policies' lock (their change number), then looks for
//! the first answer to the request id, checks the version, writes, audits, keeps the answer and notifies. What a change means is
//! decided by core (`validate_update`, `validate_weights`) and by the pure functions at the end of this file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use switchyard_core::{
    ids::{ClusterName, PolicyKey, PolicyUid, Weight, cut},
    policy::{
        ClusterTrafficPolicy, PolicyRecord, ValidatedPolicy, Violation, validate::validate_weights, validate_update,
    },
};

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    idempotency::Request,
    notice::Notice,
    policy_rows::{Kept, PolicyRow, StoredPolicy, policy_select, read_all},
    values::{Conn, signed, to_json, unreadable},
};

/// Who asks, and under which request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// 1 to 128 printable characters without spaces; the same id again gives the first answer.
    pub request_id: String,
    /// For the audit log, 1 to 256 characters.
    pub actor: String,
    /// For the audit log, at most 1024 characters, may be empty.
    pub reason: String,
}

/// What applying a manifest did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// There was no such policy.
    Created,
    /// Its spec changed.
    Configured,
    /// It was so already; version and override stay.
    Unchanged,
}

/// Why a change of a policy was refused. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The content is at fault.
    #[error("the request is not valid: {}", violations.first().map(ToString::to_string).unwrap_or_default())]
    Invalid {
        /// All faults, at least one.
        violations: Vec<Violation>,
    },
    /// Somebody changed the policy since the caller looked.
    #[error("the policy is at version {present}, not at {expected}; read it again and decide anew")]
    VersionConflict {
        /// The version that the caller has seen.
        expected: u64,
        /// The version now; 0 when there is no such policy.
        present: u64,
    },
    /// There is no such policy.
    #[error("there is no policy {0}")]
    NotFound(PolicyKey),
    /// It is on its way out.
    #[error("policy {0} is being deleted; wait until it is gone, or use another name")]
    Deleting(PolicyKey),
    /// The request id was used for something else.
    #[error("request id {request_id:?} was used for another {method} request; use a new id for a new request")]
    RequestReused {
        /// The id.
        request_id: String,
        /// What it was used for.
        method: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is kept as the first answer to a request.
#[derive(Serialize, Deserialize)]
struct Answer {
    policy: Kept,
    applied: Applied,
}

impl Answer {
    fn new(stored: &StoredPolicy, applied: Applied) -> Self {
        Self { policy: Kept::new(stored), applied }
    }
}

impl Store {
    /// Creates or replaces a policy. `expected_version` 0: whatever is there; else the version that the caller has seen.
    ///
    /// A spec that did not change changes nothing. A spec whose weights differ from those of the spec before supersedes an
    /// override; any other change keeps it.
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
        let request = Request::new(&caller.request_id, "ApplyPolicy", &(manifest, expected_version))?;
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<Answer>(&mut txn, &request).await? {
            return Ok((answer.policy.read()?, answer.applied));
        }
        let present = self.policy_in_txn(&mut txn, &policy.key).await?;
        let decision = decide_apply(present.as_ref(), manifest, policy, expected_version)?;
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
                self.policy_update(&mut txn, record, change, Some(manifest)).await?;
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
    /// nothing; weights equal to the spec's end the override.
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
        let request = Request::new(&caller.request_id, "SetWeights", &(key, &content, expected_version))?;
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<Answer>(&mut txn, &request).await? {
            return Ok(answer.policy.read()?);
        }
        let present = self.policy_in_txn(&mut txn, key).await?.ok_or_else(|| ApplyError::NotFound(key.clone()))?;
        let weights = decide_weights(&present, wanted, expected_version)?;
        if weights == present.record.requested() {
            self.keep_answer(&mut txn, &request, &Answer::new(&present, Applied::Unchanged)).await?;
            self.commit(txn).await?;
            return Ok(present);
        }
        let weights: BTreeMap<ClusterName, Weight> = weights.into_iter().collect();
        let of_spec: BTreeMap<ClusterName, Weight> = present.record.policy.clusters.iter().cloned().collect();
        let stored_override = if weights == of_spec { BTreeMap::new() } else { weights.clone() };
        self.override_write(&mut txn, &present.record.uid, &stored_override).await?;
        self.policy_update(&mut txn, &present.record, change, None).await?;
        let stored = self.policy_expected(&mut txn, key).await?;
        let old: BTreeMap<ClusterName, Weight> = present.record.requested().into_iter().collect();
        let detail = json!({"old": old, "new": weights, "version": stored.record.version});
        self.audit_caller(&mut txn, caller, "set-weights", key, detail).await?;
        self.keep_answer(&mut txn, &request, &Answer::new(&stored, Applied::Configured)).await?;
        self.notify(&mut txn, &Notice::Policies).await?;
        self.commit(txn).await?;
        Ok(stored)
    }

    /// Marks a policy for deletion; the engine takes it down and then calls [`Store::policy_forget`]. A policy that is marked
    /// already stays as it is.
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
        let request = Request::new(&caller.request_id, "DeletePolicy", &(key, expected_version))?;
        let mut txn = self.begin().await?;
        let change = self.policy_change(&mut txn).await?;
        if let Some(answer) = self.first_answer::<Answer>(&mut txn, &request).await? {
            return Ok(answer.policy.read()?);
        }
        let present = self.policy_in_txn(&mut txn, key).await?.ok_or_else(|| ApplyError::NotFound(key.clone()))?;
        if present.record.deleting_since.is_some() {
            self.keep_answer(&mut txn, &request, &Answer::new(&present, Applied::Unchanged)).await?;
            self.commit(txn).await?;
            return Ok(present);
        }
        check_version(expected_version, present.record.version)?;
        let update = "update policies set deleting_since = clock_timestamp() where uid = $1";
        let update = sqlx::query(update).bind(present.record.uid.as_str());
        self.run(Query::PolicyUpdate, update.execute(&mut *txn)).await?;
        self.policy_update(&mut txn, &present.record, change, None).await?;
        let stored = self.policy_expected(&mut txn, key).await?;
        let detail = json!({"uid": stored.record.uid, "version": stored.record.version});
        self.audit_caller(&mut txn, caller, "delete", key, detail).await?;
        self.keep_answer(&mut txn, &request, &Answer::new(&stored, Applied::Configured)).await?;
        self.notify(&mut txn, &Notice::Policies).await?;
        self.commit(txn).await?;
        Ok(stored)
    }

    /// Removes a policy for good, after everything of it is gone at AWS. Only one that is marked for deletion and that still is
    /// the one meant; false when there is none such.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn policy_forget(&self, key: &PolicyKey, uid: &PolicyUid) -> Result<bool, StoreError> {
        let mut txn = self.begin().await?;
        self.policy_change(&mut txn).await?;
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
            policy: key,
            detail: json!({"uid": uid}),
            reason: "everything of it is gone at AWS",
            request_id: "",
        };
        self.audit(&mut txn, entry).await?;
        self.notify(&mut txn, &Notice::Policies).await?;
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

    async fn policy_in_txn(&self, conn: &mut Conn, key: &PolicyKey) -> Result<Option<StoredPolicy>, StoreError> {
        let read =
            sqlx::query_as::<_, PolicyRow>(policy_select!("where p.namespace = $1 and p.name = $2 for update of p"));
        let read = read.bind(key.namespace.as_str()).bind(key.name.as_str());
        self.run(Query::PolicyGet, read.fetch_optional(conn)).await?.map(PolicyRow::read).transpose()
    }

    /// The policy as this transaction left it.
    async fn policy_expected(&self, conn: &mut Conn, key: &PolicyKey) -> Result<StoredPolicy, StoreError> {
        let stored = self.policy_in_txn(conn, key).await?;
        stored.ok_or_else(|| unreadable(format!("policy {key}"), "it vanished within the transaction that wrote it"))
    }

    async fn policy_insert(
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
    async fn policy_update(
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

    async fn override_write(
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

    async fn audit_caller(
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
            policy,
            detail,
            reason: &caller.reason,
            request_id: &caller.request_id,
        };
        self.audit(conn, entry).await
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ApplyDecision {
    Keep,
    Replace { supersede: bool },
}

fn decide_apply(
    present: Option<&StoredPolicy>,
    manifest: &ClusterTrafficPolicy,
    policy: &ValidatedPolicy,
    expected_version: u64,
) -> Result<ApplyDecision, ApplyError> {
    let Some(present) = present else {
        check_version(expected_version, 0)?;
        return Ok(ApplyDecision::Replace { supersede: false });
    };
    if present.record.deleting_since.is_some() {
        return Err(ApplyError::Deleting(policy.key.clone()));
    }
    check_version(expected_version, present.record.version)?;
    if present.manifest.spec == manifest.spec {
        return Ok(ApplyDecision::Keep);
    }
    validate_update(&present.record.policy, policy).map_err(|violations| ApplyError::Invalid { violations })?;
    let weights = |policy: &ValidatedPolicy| policy.clusters.iter().cloned().collect::<BTreeMap<_, _>>();
    let supersede = weights(&present.record.policy) != weights(policy);
    Ok(ApplyDecision::Replace { supersede })
}

fn decide_weights(
    present: &StoredPolicy,
    wanted: &[(String, u32)],
    expected_version: u64,
) -> Result<Vec<(ClusterName, Weight)>, ApplyError> {
    let record = &present.record;
    if record.deleting_since.is_some() {
        return Err(ApplyError::Deleting(record.policy.key.clone()));
    }
    check_version(expected_version, record.version)?;
    validate_weights(&record.policy, &record.requested(), wanted)
        .map_err(|violations| ApplyError::Invalid { violations })
}

fn check_version(expected: u64, present: u64) -> Result<(), ApplyError> {
    if expected == 0 || expected == present { Ok(()) } else { Err(ApplyError::VersionConflict { expected, present }) }
}

fn apply_detail(before: Option<&StoredPolicy>, after: &StoredPolicy, applied: Applied) -> serde_json::Value {
    let superseded = before.and_then(|before| before.record.weight_override.clone());
    let superseded = superseded.filter(|_| after.record.weight_override.is_none());
    json!({
        "outcome": applied,
        "uid": after.record.uid,
        "version": after.record.version,
        "generation": after.record.generation,
        "old": before.map(|before| &before.manifest.spec),
        "new": after.manifest.spec,
        "supersededOverride": superseded,
    })
}

fn check_caller(caller: &Caller) -> Result<(), ApplyError> {
    let mut violations = Vec::new();
    let mut add = |field: &str, value: &str, problem: &str, remedy: &str| {
        violations.push(Violation {
            field: field.to_owned(),
            value: cut(value),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    };
    let id = &caller.request_id;
    if id.is_empty() || id.len() > 128 || !id.chars().all(|c| c.is_ascii_graphic()) {
        add(
            "request_id",
            id,
            "is not a request id",
            "use 1 to 128 printable ASCII characters without spaces, such as a UUID",
        );
    }
    if caller.actor.is_empty() || caller.actor.chars().count() > 256 {
        add("actor", &caller.actor, "is not the name of a caller", "use 1 to 256 characters");
    }
    if caller.reason.chars().count() > 1024 {
        add("reason", &caller.reason, "is too long", "use at most 1024 characters");
    }
    if violations.is_empty() { Ok(()) } else { Err(ApplyError::Invalid { violations }) }
}

/// jsonb cannot hold U+0000, and a manifest is never changed on its way into the store.
fn check_manifest(manifest: &ClusterTrafficPolicy) -> Result<(), ApplyError> {
    let text = serde_json::to_string(manifest).map_err(|error| unreadable("a manifest", error))?;
    if !text.contains("\\u0000") {
        return Ok(());
    }
    let violation = Violation {
        field: "spec".to_owned(),
        value: "\\u0000".to_owned(),
        problem: "is a character that cannot be stored".to_owned(),
        remedy: "remove it from the text that holds it".to_owned(),
    };
    Err(ApplyError::Invalid { violations: vec![violation] })
}
