//! Resources that ask for policies, as rows and as values. A row that a newer version wrote is an error of that row alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::{
    ids::{ClusterName, PolicyKey, ResourceUid},
    policy::{ClusterTrafficPolicy, ValidatedPolicy, validate},
    source::{Claim, Holder, Verdict, words},
};

use super::{
    error::StoreError,
    values::{at, from_json, unreadable, unsigned},
};

/// Claims by cluster, then by the policy's name.
pub type Claims = BTreeMap<ClusterName, BTreeMap<PolicyKey, Arc<StoredClaim>>>;

/// A resource as its cluster's agent told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewClaim {
    /// The policy that it asks for.
    pub key: PolicyKey,
    /// Which it is.
    pub uid: ResourceUid,
    /// Its generation, at least 1.
    pub generation: u64,
    /// What it asks for, or its faults for people (1 to 8192 characters).
    pub wanted: Result<Box<Wanted>, String>,
}

/// A valid policy in both of its forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// As written.
    pub manifest: ClusterTrafficPolicy,
    /// As validated from it.
    pub policy: ValidatedPolicy,
}

/// A resource as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredClaim {
    /// The policy that it asks for.
    pub key: PolicyKey,
    /// What is decided from.
    pub claim: Claim,
    /// What it asks for, as written; none when it is not valid.
    pub manifest: Option<ClusterTrafficPolicy>,
    /// Since when it has asked for this.
    pub changed_at: Timestamp,
}

impl StoredClaim {
    /// As the owner of its policy, with its present generation in force.
    pub(crate) fn holder(&self) -> Holder {
        let claim = &self.claim;
        Holder { cluster: claim.cluster.clone(), uid: claim.uid.clone(), generation: claim.generation }
    }

    /// Both forms of what it asks for.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when it is not valid, so never for a claim that core chose.
    pub(crate) fn valid(&self) -> Result<(&ClusterTrafficPolicy, &ValidatedPolicy), StoreError> {
        match (&self.manifest, &self.claim.verdict) {
            (Some(manifest), Verdict::Valid(policy)) => Ok((manifest, &**policy)),
            _ => Err(unreadable(format!("the claim to policy {}", self.key), "it was chosen and is not valid")),
        }
    }

    /// True when the agent told nothing new.
    pub(super) fn says(&self, new: &NewClaim) -> bool {
        let same_content = match (&self.manifest, &self.claim.verdict, &new.wanted) {
            (Some(manifest), _, Ok(wanted)) => *manifest == wanted.manifest,
            (None, Verdict::Refused(known), Err(faults)) => known == faults,
            _ => false,
        };
        let claim = &self.claim;
        same_content && claim.uid == new.uid && claim.generation == new.generation && claim.absent_since.is_none()
    }
}

/// The columns of [`ClaimRow`]; to be followed by `where`.
macro_rules! claim_select {
    ($rest:literal) => {
        concat!(
            "select cluster, namespace, name, uid, generation, manifest, refusal, first_seen, changed_at, absent_since ",
            "from policy_claims ",
            $rest
        )
    };
}
pub(super) use claim_select;

/// A row as Postgres gives it.
#[derive(sqlx::FromRow)]
pub(super) struct ClaimRow {
    cluster: String,
    namespace: String,
    name: String,
    uid: String,
    generation: i64,
    manifest: Option<Json<Value>>,
    refusal: Option<String>,
    first_seen: jiff_sqlx::Timestamp,
    changed_at: jiff_sqlx::Timestamp,
    absent_since: Option<jiff_sqlx::Timestamp>,
}

impl ClaimRow {
    /// Into core's types.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] naming the resource.
    pub fn read(self) -> Result<StoredClaim, StoreError> {
        let what = format!("the resource {}/{} of cluster {}", self.namespace, self.name, self.cluster);
        let manifest = self.manifest.map(|value| from_json::<ClusterTrafficPolicy>(&what, value)).transpose()?;
        let verdict = match (&manifest, self.refusal) {
            // Judged anew: what an older version took may not be valid for this one.
            (Some(manifest), _) => match validate(manifest) {
                Ok(policy) => Verdict::Valid(Box::new(policy)),
                Err(faults) => Verdict::Refused(words(&faults)),
            },
            (None, refusal) => Verdict::Refused(refusal.unwrap_or_default()),
        };
        let claim = Claim {
            cluster: self.cluster.parse().map_err(|error| unreadable(&what, error))?,
            uid: self.uid.parse().map_err(|error| unreadable(&what, error))?,
            generation: unsigned(&what, self.generation)?,
            verdict,
            first_seen: at(self.first_seen),
            absent_since: self.absent_since.map(at),
        };
        Ok(StoredClaim {
            key: read_key(&what, self.namespace, self.name)?,
            claim,
            manifest,
            changed_at: at(self.changed_at),
        })
    }
}

/// Reads rows, passing over those that this version cannot read.
pub(super) fn read_claims(rows: Vec<ClaimRow>) -> Vec<StoredClaim> {
    let mut claims = Vec::with_capacity(rows.len());
    for row in rows {
        match row.read() {
            Ok(claim) => claims.push(claim),
            Err(error) => tracing::error!(error = %error, "a stored resource is passed over"),
        }
    }
    claims
}

/// A policy's name from its columns.
pub(super) fn read_key(what: &str, namespace: String, name: String) -> Result<PolicyKey, StoreError> {
    Ok(PolicyKey {
        namespace: namespace.parse().map_err(|error| unreadable(what, error))?,
        name: name.parse().map_err(|error| unreadable(what, error))?,
    })
}

/// What a mirror does not know of the claims.
#[derive(Debug)]
pub(super) struct ClaimPart {
    pub head: i64,
    pub changed: Vec<StoredClaim>,
    /// Who there is.
    pub present: BTreeSet<(ClusterName, PolicyKey)>,
}
