//! Carrying out what core decides about a name ([`switchyard_core::source::settle`]), within the transaction that changed what it
//! is decided from: a claim that came or went, a call that gave a policy up, a policy that was taken down.

use std::collections::BTreeMap;

use serde_json::json;
use switchyard_core::{
    ids::{ClusterName, PolicyKey},
    source::{Claim, Fate, Holder, InForce, Owner, settle},
};

use super::{
    Store,
    audit::Entry,
    error::{Query, StoreError},
    policy_change::{Applied, Caller, apply_detail, supersedes},
    policy_rows::StoredPolicy,
    shifts_leave::Leave,
    source_rows::StoredClaim,
    values::{Conn, signed, unreadable},
};

/// Why a name is looked at.
pub(super) struct Cause<'a> {
    /// The policies' change number of the transaction.
    pub change: i64,
    /// Who gives the policy up; none: nobody, the claims moved.
    pub leaves: Option<&'a Caller>,
    /// For the audit log.
    pub reason: &'a str,
    /// Where the claims come from, as far as it is known.
    pub source: &'a str,
}

impl Cause<'_> {
    /// Claims moved.
    pub fn resources(change: i64) -> Self {
        Self { change, leaves: None, reason: "", source: "" }
    }
}

impl<'a> Cause<'a> {
    /// What the policy's shift, and the audit log, are told.
    fn leave(&self, actor: &'a str, deleted: bool) -> Leave<'a> {
        let request_id = self.leaves.map_or("", |caller| caller.request_id.as_str());
        let reason = self.leaves.map_or(self.reason, |caller| &caller.reason);
        let source = self.leaves.map_or(self.source, |caller| caller.source.as_str());
        Leave { deleted, change: self.change, actor, reason, request_id, source }
    }
}

impl Store {
    /// Decides what becomes of a name, and writes it. A policy or claim that a newer version wrote is left as it is, so that it
    /// never stands in the way of the others.
    pub(super) async fn policy_settle(
        &self,
        conn: &mut Conn,
        key: &PolicyKey,
        cause: &Cause<'_>,
    ) -> Result<(), StoreError> {
        let present = match self.policy_in_txn(conn, key).await {
            Ok(present) => present,
            Err(error @ StoreError::Unreadable { .. }) => {
                tracing::error!(policy = %key, %error, "a policy is left as it is, whatever its resources say");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let stored = match self.claims_of(conn, key).await {
            Ok(stored) => stored,
            Err(error @ StoreError::Unreadable { .. }) => {
                tracing::error!(policy = %key, %error, "a policy is left as it is, since a resource of its name cannot be read");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let claims: Vec<Claim> = stored.iter().map(|stored| stored.claim.clone()).collect();
        let in_force = present.as_ref().map(StoredPolicy::in_force);
        let fate = settle(in_force, &claims, cause.leaves.is_some());
        match (fate, present) {
            (Fate::Keep, Some(present)) => self.policy_touch(conn, &present, cause.change).await,
            (Fate::Keep | Fate::Delete, None) => Ok(()),
            (Fate::Create(cluster) | Fate::Update(cluster) | Fate::HandOver(cluster), None) => {
                self.policy_from_claim(conn, key, find(&stored, &cluster)?, cause).await
            }
            (Fate::Create(cluster) | Fate::Update(cluster) | Fate::HandOver(cluster), Some(present)) => {
                self.policy_by_claim(conn, &present, find(&stored, &cluster)?, cause).await
            }
            (Fate::Delete, Some(present)) => self.policy_leaves(conn, &present, cause).await,
        }
    }

    /// What is shown of an owner's resource may differ now.
    async fn policy_touch(&self, conn: &mut Conn, present: &StoredPolicy, change: i64) -> Result<(), StoreError> {
        if present.ownership.owner == Owner::Api {
            return Ok(());
        }
        let touch = sqlx::query("update policies set change = $2 where uid = $1");
        let touch = touch.bind(present.record.uid.as_str()).bind(change);
        self.run(Query::PolicyUpdate, touch.execute(conn)).await.map(|_| ())
    }

    async fn policy_from_claim(
        &self,
        conn: &mut Conn,
        key: &PolicyKey,
        claim: &StoredClaim,
        cause: &Cause<'_>,
    ) -> Result<(), StoreError> {
        let (manifest, policy) = claim.valid()?;
        self.policy_insert(conn, policy, manifest, cause.change).await?;
        let made = self.policy_expected(conn, key).await?;
        self.owner_write(conn, &made, Some(&claim.holder()), cause.change).await?;
        let detail = apply_detail(None, &made, Applied::Created);
        self.audit_claim(conn, claim, "apply", detail, cause).await
    }

    /// The claim is the policy from now on: as its owner's new word, or as its new owner.
    async fn policy_by_claim(
        &self,
        conn: &mut Conn,
        present: &StoredPolicy,
        claim: &StoredClaim,
        cause: &Cause<'_>,
    ) -> Result<(), StoreError> {
        let (manifest, policy) = claim.valid()?;
        let record = &present.record;
        let new_spec = (present.manifest.spec != manifest.spec).then_some(manifest);
        let superseded = supersedes(&record.policy, policy);
        if superseded {
            let actor = format!("cluster:{}", claim.claim.cluster);
            match self.shift_leave(conn, (&claim.key, &record.uid), cause.leave(&actor, false)).await {
                Err(error @ StoreError::Unreadable { .. }) => {
                    tracing::error!(policy = %claim.key, %error, "a policy keeps its spec, since its shift cannot be read");
                    return Ok(());
                }
                result => result?,
            }
        }
        if record.deleting_since.is_some() {
            let stay =
                sqlx::query("update policies set deleting_since = null where uid = $1").bind(record.uid.as_str());
            self.run(Query::PolicyUpdate, stay.execute(&mut *conn)).await?;
        }
        if new_spec.is_some() || record.deleting_since.is_some() {
            self.policy_update(conn, record, cause.change, new_spec).await?;
            if superseded {
                self.override_write(conn, &record.uid, &BTreeMap::new()).await?;
            }
        }
        self.owner_write(conn, present, Some(&claim.holder()), cause.change).await?;
        let same_owner = present.ownership.owner.cluster() == Some(&claim.claim.cluster);
        let action = if same_owner && record.deleting_since.is_none() { "apply" } else { "handover" };
        if action == "apply" && new_spec.is_none() {
            // A generation that changes nothing of the spec, such as one with a default written out.
            return Ok(());
        }
        let after = self.policy_expected(conn, &record.policy.key).await?;
        let applied = if new_spec.is_some() { Applied::Configured } else { Applied::Unchanged };
        let mut detail = apply_detail(Some(present), &after, applied);
        detail["before"] = json!(present.ownership.owner.to_string());
        detail["stays"] = json!(record.deleting_since.is_some());
        self.audit_claim(conn, claim, action, detail, cause).await
    }

    async fn policy_leaves(
        &self,
        conn: &mut Conn,
        present: &StoredPolicy,
        cause: &Cause<'_>,
    ) -> Result<(), StoreError> {
        let record = &present.record;
        let key = &record.policy.key;
        let of_resource = present.ownership.owner.cluster().map(|cluster| format!("cluster:{cluster}"));
        let actor = cause.leaves.map_or(of_resource.unwrap_or_default(), |caller| caller.actor.clone());
        match self.shift_leave(conn, (key, &record.uid), cause.leave(&actor, true)).await {
            // Whoever can read it sees that the policy goes, and lets it go.
            Err(error @ StoreError::Unreadable { .. }) => {
                tracing::error!(policy = %key, %error, "a policy is deleted, and its shift cannot be read");
            }
            result => result?,
        }
        let leave = sqlx::query("update policies set deleting_since = clock_timestamp() where uid = $1");
        self.run(Query::PolicyUpdate, leave.bind(record.uid.as_str()).execute(&mut *conn)).await?;
        self.policy_update(conn, record, cause.change, None).await?;
        let detail = json!({"uid": record.uid, "version": record.version + 1});
        let Leave { reason, request_id, source, .. } = cause.leave(&actor, true);
        let (policy, shift) = (Some(key), None);
        let entry = Entry { actor: &actor, action: "delete", policy, shift, detail, reason, request_id, source };
        self.audit(conn, entry).await
    }

    /// Writes the owner; none: the API.
    pub(super) async fn owner_write(
        &self,
        conn: &mut Conn,
        present: &StoredPolicy,
        holder: Option<&Holder>,
        change: i64,
    ) -> Result<(), StoreError> {
        let write =
            "update policies set owner_cluster = $2, owner_uid = $3, owner_generation = $4, change = $5 where uid = $1";
        let write = sqlx::query(write)
            .bind(present.record.uid.as_str())
            .bind(holder.map(|holder| holder.cluster.as_str()))
            .bind(holder.map(|holder| holder.uid.as_str()))
            .bind(holder.map(|holder| signed(holder.generation)))
            .bind(change);
        self.run(Query::PolicyOwner, write.execute(conn)).await.map(|_| ())
    }

    async fn audit_claim(
        &self,
        conn: &mut Conn,
        claim: &StoredClaim,
        action: &'static str,
        detail: serde_json::Value,
        cause: &Cause<'_>,
    ) -> Result<(), StoreError> {
        let actor = format!("cluster:{}", claim.claim.cluster);
        let Leave { reason, request_id, source, .. } = cause.leave(&actor, false);
        let (policy, shift) = (Some(&claim.key), None);
        let entry = Entry { actor: &actor, action, policy, shift, detail, reason, request_id, source };
        self.audit(conn, entry).await
    }
}

fn find<'a>(claims: &'a [StoredClaim], cluster: &ClusterName) -> Result<&'a StoredClaim, StoreError> {
    let found = claims.iter().find(|stored| stored.claim.cluster == *cluster);
    found.ok_or_else(|| unreadable(format!("the claim of cluster {cluster}"), "it vanished while it was decided from"))
}

impl StoredPolicy {
    /// What is decided from when its resources move.
    pub fn in_force(&self) -> InForce<'_> {
        InForce {
            owner: &self.ownership.owner,
            policy: &self.record.policy,
            deleting: self.record.deleting_since.is_some(),
        }
    }
}
