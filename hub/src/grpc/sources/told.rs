//! What the resources of one cluster were told of their policies, and what differs from it now. Level-triggered: of what changes
//! quickly the latest is told. Of what was told only a digest is kept, so that a cluster costs little memory. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message;
use sha2::{Digest, Sha256};
use switchyard_core::{
    ids::{ClusterName, PolicyKey},
    source::{MOST_CLAIMS, Place, Standing, standing},
    status::Reason,
};
use switchyard_proto::{
    agent::v1::{self as proto, SourcePolicyStatus},
    api::v1 as api,
};

use crate::{
    feed::Picture,
    grpc::convert::{Links, links, to_proto_policy, to_proto_ref, to_proto_time},
    store::{NewClaim, StoredClaim, StoredPolicy},
};

struct Last {
    claim: Arc<StoredClaim>,
    policy: Option<Arc<StoredPolicy>>,
    digest: Option<[u8; 32]>,
}

/// See the module.
#[derive(Default)]
pub struct Told {
    last: BTreeMap<PolicyKey, Last>,
    links: Links,
    due: BTreeSet<PolicyKey>,
}

impl Told {
    /// True when nothing is left to be told.
    pub fn is_idle(&self) -> bool {
        self.due.is_empty()
    }

    /// Finds out what may have changed.
    pub fn look(&mut self, picture: &Picture, cluster: &ClusterName) {
        let links = links(picture);
        let same_links = links == self.links;
        self.links = links;
        let none = BTreeMap::new();
        let claims = picture.claims.get(cluster).unwrap_or(&none);
        self.last.retain(|key, _| claims.contains_key(key));
        self.due.retain(|key| claims.contains_key(key));
        for (key, claim) in claims {
            let policy = picture.policies.get(key);
            let known = self.last.get(key);
            let same = known.is_some_and(|known| {
                let same_policy = match (&known.policy, policy) {
                    (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                    (None, None) => true,
                    _ => false,
                };
                same_policy && Arc::ptr_eq(&known.claim, claim)
            });
            if same && same_links {
                continue;
            }
            let digest = known.and_then(|known| known.digest);
            self.last.insert(key.clone(), Last { claim: Arc::clone(claim), policy: policy.cloned(), digest });
            self.due.insert(key.clone());
        }
    }

    /// The next status that differs from what was told.
    pub fn next(&mut self) -> Option<SourcePolicyStatus> {
        while let Some(key) = self.due.pop_first() {
            let Some(last) = self.last.get_mut(&key) else { continue };
            let status = status(&last.claim, last.policy.as_deref(), &self.links);
            let digest: [u8; 32] = Sha256::digest(status.encode_to_vec()).into();
            if last.digest != Some(digest) {
                last.digest = Some(digest);
                return Some(status);
            }
        }
        None
    }
}

fn status(stored: &StoredClaim, policy: Option<&StoredPolicy>, links: &Links) -> SourcePolicyStatus {
    let standing = standing(&stored.key, policy.map(StoredPolicy::in_force), &stored.claim);
    let claim = match standing.place {
        Place::Owner => proto::PolicyClaim::Owner,
        Place::Refused => proto::PolicyClaim::Refused,
        Place::Waiting => proto::PolicyClaim::Waiting,
    };
    let whole = policy.filter(|_| standing.place == Place::Owner).map(|policy| of_now(policy, links));
    let mut status = whole.unwrap_or_default();
    if !standing.is_accepted() || status.conditions.is_empty() {
        let version = status.observed_version;
        status.conditions.retain(|condition| condition.r#type != "Accepted");
        status.conditions.insert(0, accepted(stored, &standing, version));
    }
    SourcePolicyStatus {
        policy: Some(to_proto_ref(&stored.key)),
        uid: stored.claim.uid.to_string(),
        observed_generation: stored.claim.generation,
        claim: claim.into(),
        status: Some(status),
        generation_in_force: standing.generation_in_force.unwrap_or(0),
    }
}

/// What can be said of the policy as it is asked for now. A status of an older version says nothing of that: whoever waits for the
/// resource's new generation to be programmed would take the weights before for it.
fn of_now(stored: &StoredPolicy, links: &Links) -> api::PolicyStatus {
    let record = &stored.record;
    let mut status = to_proto_policy(stored, links).status.unwrap_or_default();
    if status.observed_version >= record.version {
        return status;
    }
    for condition in status.conditions.iter_mut().filter(|condition| condition.r#type != "Accepted") {
        condition.set_status(api::ConditionStatus::Unknown);
        condition.reason = Reason::InProgress.to_string();
        condition.message = "what is asked for now has not been planned yet".to_owned();
        condition.last_transition_time = Some(to_proto_time(stored.updated_at));
    }
    for (name, weight) in record.requested() {
        if let Some(cluster) = status.clusters.iter_mut().find(|cluster| cluster.cluster == name.as_str()) {
            cluster.requested_weight = weight.get();
        }
    }
    status
}

fn accepted(stored: &StoredClaim, standing: &Standing, version: u64) -> api::Condition {
    let status = match standing.reason {
        Reason::AsRequested => api::ConditionStatus::True,
        Reason::InProgress => api::ConditionStatus::Unknown,
        _ => api::ConditionStatus::False,
    };
    api::Condition {
        r#type: "Accepted".to_owned(),
        status: status.into(),
        reason: standing.reason.to_string(),
        message: standing.message.clone(),
        observed_version: version,
        last_transition_time: Some(to_proto_time(stored.changed_at)),
    }
}

/// What a resource is told that there was no room for.
pub fn no_room(new: &NewClaim, now: prost_types::Timestamp) -> SourcePolicyStatus {
    let message = format!(
        "the hub takes at most {MOST_CLAIMS} resources from one cluster, and this one is more; delete some, then change this one"
    );
    let accepted = api::Condition {
        r#type: "Accepted".to_owned(),
        status: api::ConditionStatus::False.into(),
        reason: Reason::TooManyPolicies.to_string(),
        message,
        observed_version: 0,
        last_transition_time: Some(now),
    };
    SourcePolicyStatus {
        policy: Some(to_proto_ref(&new.key)),
        uid: new.uid.to_string(),
        observed_generation: new.generation,
        claim: proto::PolicyClaim::Refused.into(),
        status: Some(api::PolicyStatus { conditions: vec![accepted], ..api::PolicyStatus::default() }),
        generation_in_force: 0,
    }
}
