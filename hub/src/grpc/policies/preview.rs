//! What a change would store, for dry runs: refused as the store would refuse it. Writes nothing; the plan over the change is made by
//! [`crate::grpc::planning`].

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use switchyard_core::{
    ids::{ClusterName, PolicyKey, PolicyUid, Weight},
    policy::{
        ClusterTrafficPolicy, PolicyMemory, PolicyRecord, ValidatedPolicy, validate::validate_weights, validate_update,
    },
    shift::{validate::rules, view::GatingSwitch},
    source::{Claim, Fate, Owner, settle},
};

use crate::{
    feed::Picture,
    grpc::{errors::ApiError, shifts::active_on},
    store::{
        Applied, ApplyError, Caller, Ownership, Resource, StoredClaim, StoredPolicy, check_caller, check_owner,
        supersedes,
    },
};

/// A change to be looked at.
pub struct Change {
    /// The policy as it would be.
    pub stored: StoredPolicy,
    /// What applying it would do.
    pub applied: Applied,
}

/// What ApplyPolicy would store.
///
/// # Errors
/// As the store would refuse it.
pub fn apply(
    caller: &Caller,
    picture: &Picture,
    manifest: &ClusterTrafficPolicy,
    policy: &ValidatedPolicy,
    expected_version: u64,
) -> Result<Change, ApiError> {
    check_caller(caller)?;
    let Some(present) = picture.policies.get(&policy.key) else {
        check_version(expected_version, 0)?;
        caller.may_apply(None, policy)?;
        return Ok(Change { stored: created(manifest, policy, Timestamp::now())?, applied: Applied::Created });
    };
    let mut stored = check_present(present, expected_version)?;
    check_owner(present)?;
    caller.may_apply(Some(present), policy)?;
    stored.ownership = Ownership::default();
    if present.manifest.spec == manifest.spec {
        return Ok(Change { stored, applied: Applied::Unchanged });
    }
    validate_update(&stored.record.policy, policy).map_err(ApiError::Invalid)?;
    if supersedes(&present.record.policy, policy) {
        shift_lets_go(caller, picture, present)?;
    }
    replace(&mut stored, manifest, policy);
    Ok(Change { stored, applied: Applied::Configured })
}

/// Refused where taking the policy out of its shift would move policies that are not the caller's.
fn shift_lets_go(caller: &Caller, picture: &Picture, present: &StoredPolicy) -> Result<(), ApiError> {
    let (key, uid) = (&present.record.policy.key, &present.record.uid);
    active_on(picture, key).map_or(Ok(()), |shift| Ok(caller.may_leave(shift, key, uid)?))
}

fn created(
    manifest: &ClusterTrafficPolicy,
    policy: &ValidatedPolicy,
    now: Timestamp,
) -> Result<StoredPolicy, ApiError> {
    let uid = PolicyUid::new(uuid::Uuid::now_v7().to_string()).map_err(|_| ApiError::Internal)?;
    Ok(StoredPolicy {
        record: PolicyRecord {
            uid,
            version: 1,
            generation: 1,
            policy: policy.clone(),
            weight_override: None,
            deleting_since: None,
            failback_at: None,
        },
        manifest: manifest.clone(),
        ownership: Ownership::default(),
        created_at: now,
        updated_at: now,
        status: None,
        status_at: None,
        memory: PolicyMemory::default(),
        gates: std::sync::Arc::default(),
    })
}

/// What SetWeights would store.
///
/// # Errors
/// As the store would refuse it.
pub fn set_weights(
    caller: &Caller,
    picture: &Picture,
    key: &PolicyKey,
    wanted: &[(String, u32)],
    expected_version: u64,
) -> Result<Change, ApiError> {
    check_caller(caller)?;
    let mut stored = check_present(find(picture, key)?, expected_version)?;
    let record = &mut stored.record;
    let present = record.requested();
    let weights = validate_weights(&record.policy, &present, wanted).map_err(ApiError::Invalid)?;
    caller.may_weigh(key, &present, &weights)?;
    if weights == present {
        let applied = Applied::Unchanged;
        return Ok(Change { stored, applied });
    }
    check_weights(picture, &stored, &weights, Timestamp::now())?;
    let record = &mut stored.record;
    let of_spec = weights == record.policy.clusters;
    record.weight_override = (!of_spec).then(|| weights.into_iter().collect());
    record.version += 1;
    let applied = Applied::Configured;
    Ok(Change { stored, applied })
}

/// Weights are not set beside a shift, nor against the safety rules of the policy.
fn check_weights(
    picture: &Picture,
    stored: &StoredPolicy,
    wanted: &[(ClusterName, Weight)],
    now: Timestamp,
) -> Result<(), ApiError> {
    let record = &stored.record;
    let policy = &record.policy.key;
    if let Some(shift) = active_on(picture, policy) {
        return Err(ApplyError::ShiftActive { policy: policy.clone(), shift: shift.id.clone() }.into());
    }
    let switches: Vec<GatingSwitch> = picture.switches.iter().map(|stored| stored.switch.clone()).collect();
    let none = BTreeSet::new();
    let rules = rules(record, &stored.memory, &switches, &none, now);
    let mut findings = rules.moment(0);
    findings.extend(rules.shape(0, &record.requested(), wanted));
    if findings.is_empty() { Ok(()) } else { Err(ApplyError::Held { findings }.into()) }
}

/// What DeletePolicy would store.
///
/// # Errors
/// As the store would refuse it.
pub fn delete(caller: &Caller, picture: &Picture, key: &PolicyKey, expected_version: u64) -> Result<Change, ApiError> {
    check_caller(caller)?;
    let present = find(picture, key)?;
    caller.may_delete(present)?;
    let mut stored = StoredPolicy::clone(present);
    let applied = Applied::Configured;
    if stored.record.deleting_since.is_some() {
        return Ok(Change { stored, applied });
    }
    check_owner(present)?;
    check_version(expected_version, stored.record.version)?;
    shift_lets_go(caller, picture, present)?;
    let leaving = present.ownership.owner.cluster();
    let waiting = picture.claims.iter().filter(|(cluster, _)| leaving != Some(*cluster));
    let claims: Vec<Arc<StoredClaim>> = waiting.filter_map(|(_, claims)| claims.get(key).cloned()).collect();
    let decided: Vec<Claim> = claims.iter().map(|stored| stored.claim.clone()).collect();
    match settle(Some(present.in_force()), &decided, true) {
        Fate::HandOver(cluster) => {
            let taken = claims.into_iter().find(|stored| stored.claim.cluster == cluster).ok_or(ApiError::Internal)?;
            hand_over(&mut stored, &taken)?;
        }
        Fate::Keep | Fate::Create(_) | Fate::Update(_) | Fate::Delete => {
            stored.record.deleting_since = Some(Timestamp::now());
            stored.record.version += 1;
        }
    }
    Ok(Change { stored, applied })
}

fn hand_over(stored: &mut StoredPolicy, taken: &StoredClaim) -> Result<(), ApiError> {
    let (manifest, policy) = taken.valid()?;
    if stored.manifest.spec != manifest.spec {
        replace(stored, manifest, policy);
    }
    let resource = Resource {
        generation: taken.claim.generation,
        refusal: None,
        absent_since: taken.claim.absent_since,
        failing: None,
    };
    stored.ownership = Ownership { owner: Owner::Resource(taken.holder()), resource: Some(resource) };
    Ok(())
}

/// Another spec, and what follows from it.
fn replace(stored: &mut StoredPolicy, manifest: &ClusterTrafficPolicy, policy: &ValidatedPolicy) {
    let record = &mut stored.record;
    if supersedes(&record.policy, policy) {
        record.weight_override = None;
    }
    record.policy = policy.clone();
    record.version += 1;
    record.generation += 1;
    stored.manifest = manifest.clone();
}

/// The policy in the picture.
///
/// # Errors
/// [`ApiError::NotFound`].
pub fn find<'a>(picture: &'a Picture, key: &PolicyKey) -> Result<&'a Arc<StoredPolicy>, ApiError> {
    picture.policies.get(key).ok_or_else(|| ApiError::NotFound(key.clone()))
}

fn check_present(present: &StoredPolicy, expected_version: u64) -> Result<StoredPolicy, ApiError> {
    let record = &present.record;
    if record.deleting_since.is_some() {
        return Err(ApplyError::Deleting(record.policy.key.clone()).into());
    }
    check_version(expected_version, record.version)?;
    Ok(present.clone())
}

fn check_version(expected: u64, present: u64) -> Result<(), ApiError> {
    if expected == 0 || expected == present {
        return Ok(());
    }
    Err(ApplyError::VersionConflict { expected, present }.into())
}
