//! A policy as a row and as a value: reading it back through the same door that it came in by ([`validate`]). A row that a newer
//! version wrote is an error of that row alone.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::{
    ids::{ClusterName, PolicyUid, Weight},
    policy::{ClusterTrafficPolicy, PolicyMemory, PolicyRecord, validate},
    source::{Holder, Owner},
    status::PolicyStatus,
};

use super::{
    error::StoreError,
    gates::GateBooks,
    values::{at, from_json, unreadable, unsigned},
};

/// A policy as stored, with what the engine last said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPolicy {
    /// What is planned from.
    pub record: PolicyRecord,
    /// What the user wrote.
    pub manifest: ClusterTrafficPolicy,
    /// Who decides about it.
    pub ownership: Ownership,
    /// When it was created, by the database's clock.
    pub created_at: Timestamp,
    /// When its spec, weights or deletion last changed.
    pub updated_at: Timestamp,
    /// The last status, once the engine looked at it.
    pub status: Option<PolicyStatus>,
    /// When that was stored.
    pub status_at: Option<Timestamp>,
    /// What the planner remembers of it.
    pub memory: PolicyMemory,
    /// The health of pods that carry its readiness gate, by cluster.
    pub gates: Arc<GateBooks>,
}

/// Who decides about a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The owner.
    pub owner: Owner,
    /// What is known of the owner's resource; none when that is gone, or there never was one.
    pub resource: Option<Resource>,
}

/// The resource that owns a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its newest generation; not in force when it cannot be taken.
    pub generation: u64,
    /// The faults of that generation by itself.
    pub refusal: Option<String>,
    /// Since when it is missing from its cluster's list.
    pub absent_since: Option<Timestamp>,
    /// Why its cluster's agent cannot see resources now.
    pub failing: Option<String>,
}

/// The columns of [`PolicyRow`], from `policies p`; to be followed by `where`.
macro_rules! policy_select {
    ($rest:literal) => {
        concat!(
            "select p.uid, p.namespace, p.name, p.version, p.generation, p.manifest, p.deleting_since, p.failback_at, p.created_at, ",
            "p.updated_at, p.owner_cluster, p.owner_uid, p.owner_generation, c.generation as claim_generation, ",
            "c.refusal as claim_refusal, c.absent_since as claim_absent_since, ps.failing as source_failing, ",
            "s.status, s.saved_at, m.memory, g.gates, ",
            "(select jsonb_object_agg(o.cluster, o.weight) from policy_overrides o where o.uid = p.uid) as overrides ",
            "from policies p left join policy_status s on s.uid = p.uid left join policy_memory m on m.uid = p.uid ",
            "left join policy_gates g on g.uid = p.uid ",
            "left join policy_claims c on c.cluster = p.owner_cluster and c.namespace = p.namespace and c.name = p.name ",
            "left join policy_sources ps on ps.cluster = p.owner_cluster ",
            $rest
        )
    };
}
pub(super) use policy_select;

/// A row as Postgres gives it.
#[derive(sqlx::FromRow)]
pub(super) struct PolicyRow {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub version: i64,
    pub generation: i64,
    pub manifest: Json<Value>,
    pub overrides: Option<Json<Value>>,
    pub deleting_since: Option<jiff_sqlx::Timestamp>,
    pub failback_at: Option<jiff_sqlx::Timestamp>,
    pub created_at: jiff_sqlx::Timestamp,
    pub updated_at: jiff_sqlx::Timestamp,
    #[sqlx(flatten)]
    pub owner: OwnerRow,
    pub status: Option<Json<Value>>,
    pub saved_at: Option<jiff_sqlx::Timestamp>,
    pub memory: Option<Json<Value>>,
    pub gates: Option<Json<Value>>,
}

impl PolicyRow {
    /// For messages.
    pub fn what(&self) -> String {
        format!("policy {}/{}", self.namespace, self.name)
    }

    /// Into core's types.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] naming the policy.
    pub fn read(self) -> Result<StoredPolicy, StoreError> {
        let what = self.what();
        let kept = Kept {
            uid: PolicyUid::new(self.uid).map_err(|error| unreadable(&what, error))?,
            version: unsigned(&what, self.version)?,
            generation: unsigned(&what, self.generation)?,
            manifest: from_json(&what, self.manifest)?,
            owner: self.owner.owner(&what)?,
            weight_override: self.overrides.map(|value| from_json(&what, value)).transpose()?,
            deleting_since: self.deleting_since.map(at),
            failback_at: self.failback_at.map(at),
            created_at: at(self.created_at),
            updated_at: at(self.updated_at),
            status_at: self.saved_at.map(at),
            // Status and memory can be made anew; a form that this version does not know must not hide the policy.
            status: self.status.and_then(|value| rebuildable(&what, "status", value)),
            memory: self.memory.and_then(|value| rebuildable(&what, "memory", value)).unwrap_or_default(),
        };
        let resource = self.owner.resource(&what)?;
        let gates =
            self.gates.and_then(|value| rebuildable(&what, "health of gated targets", value)).unwrap_or_default();
        let kept = kept.read()?;
        let ownership = Ownership { resource, ..kept.ownership };
        Ok(StoredPolicy { gates: Arc::new(gates), ownership, ..kept })
    }
}

/// The columns about the owner.
#[derive(sqlx::FromRow)]
pub(super) struct OwnerRow {
    owner_cluster: Option<String>,
    owner_uid: Option<String>,
    owner_generation: Option<i64>,
    claim_generation: Option<i64>,
    claim_refusal: Option<String>,
    claim_absent_since: Option<jiff_sqlx::Timestamp>,
    source_failing: Option<String>,
}

impl OwnerRow {
    fn owner(&self, what: &str) -> Result<Owner, StoreError> {
        let (Some(cluster), Some(uid), Some(generation)) =
            (&self.owner_cluster, &self.owner_uid, self.owner_generation)
        else {
            return Ok(Owner::Api);
        };
        Ok(Owner::Resource(Holder {
            cluster: cluster.parse().map_err(|error| unreadable(what, error))?,
            uid: uid.parse().map_err(|error| unreadable(what, error))?,
            generation: unsigned(what, generation)?,
        }))
    }

    fn resource(self, what: &str) -> Result<Option<Resource>, StoreError> {
        let Some(generation) = self.claim_generation else {
            return Ok(None);
        };
        Ok(Some(Resource {
            generation: unsigned(what, generation)?,
            refusal: self.claim_refusal,
            absent_since: self.claim_absent_since.map(at),
            failing: self.source_failing,
        }))
    }
}

fn rebuildable<T: serde::de::DeserializeOwned>(what: &str, part: &str, value: Json<Value>) -> Option<T> {
    let result = from_json(what, value);
    result.inspect_err(|error| tracing::debug!(policy = what, part, error = %error, "a stored part is made anew")).ok()
}

/// Reads rows, passing over those that this version cannot read; says how many those were.
pub(super) fn read_all(rows: impl IntoIterator<Item = PolicyRow>) -> (Vec<StoredPolicy>, usize) {
    let mut unreadable = 0;
    let mut policies = Vec::new();
    for row in rows {
        let policy = row.what();
        match row.read() {
            Ok(stored) => policies.push(stored),
            Err(error) => {
                unreadable += 1;
                tracing::error!(policy, error = %error, "a stored policy is passed over, its rules at AWS stay as they are");
            }
        }
    }
    (policies, unreadable)
}

/// A policy as JSON, for the first answer to a request id.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    uid: PolicyUid,
    version: u64,
    generation: u64,
    manifest: ClusterTrafficPolicy,
    #[serde(default)]
    owner: Owner,
    weight_override: Option<BTreeMap<ClusterName, Weight>>,
    deleting_since: Option<Timestamp>,
    #[serde(default)]
    failback_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
    status: Option<PolicyStatus>,
    status_at: Option<Timestamp>,
    memory: PolicyMemory,
}

impl Kept {
    pub fn new(stored: &StoredPolicy) -> Self {
        Self {
            uid: stored.record.uid.clone(),
            version: stored.record.version,
            generation: stored.record.generation,
            manifest: stored.manifest.clone(),
            owner: stored.ownership.owner.clone(),
            weight_override: stored.record.weight_override.clone(),
            deleting_since: stored.record.deleting_since,
            failback_at: stored.record.failback_at,
            created_at: stored.created_at,
            updated_at: stored.updated_at,
            status: stored.status.clone(),
            status_at: stored.status_at,
            memory: stored.memory.clone(),
        }
    }

    /// # Errors
    /// [`StoreError::Unreadable`] when the manifest is not valid for this version.
    pub fn read(self) -> Result<StoredPolicy, StoreError> {
        let meta = &self.manifest.metadata;
        let policy = validate(&self.manifest).map_err(|violations| {
            let first = violations.first().map(ToString::to_string).unwrap_or_default();
            unreadable(format!("policy {}/{}", meta.namespace, meta.name), first)
        })?;
        Ok(StoredPolicy {
            record: PolicyRecord {
                uid: self.uid,
                version: self.version,
                generation: self.generation,
                policy,
                weight_override: self.weight_override,
                deleting_since: self.deleting_since,
                failback_at: self.failback_at,
            },
            manifest: self.manifest,
            ownership: Ownership { owner: self.owner, resource: None },
            created_at: self.created_at,
            updated_at: self.updated_at,
            status: self.status,
            status_at: self.status_at,
            memory: self.memory,
            gates: Arc::default(),
        })
    }
}
