//! Whose resource is it (I5): names and tags of what this hub makes, and the marks of other controllers.

use sha2::{Digest, Sha256};

use crate::{
    ids::{ClusterName, Epoch, HubId, PolicyKey, PolicyUid},
    observed::Tags,
};

/// The installation that owns a resource.
pub const TAG_HUB: &str = "switchyard.dev/hub";
/// `namespace/name` of the policy, for people.
pub const TAG_POLICY: &str = "switchyard.dev/policy";
/// The policy's UID, which decides.
pub const TAG_POLICY_UID: &str = "switchyard.dev/policy-uid";
/// The cluster of a target group.
pub const TAG_CLUSTER: &str = "switchyard.dev/cluster";
/// On a load balancer, followed by the hub id: the highest epoch under which that installation wrote there.
const TAG_EPOCH_OF: &str = "switchyard.dev/epoch.";
/// ELBv2 takes so many characters as the value of a tag. A namespace and a name may be 63 and 253.
const MOST_TAG_VALUE: usize = 256;
/// Every target group of ours starts with this; the tags decide, the prefix only keeps listings small.
pub const GROUP_PREFIX: &str = "sy-";

/// Tag keys by which other controllers mark what is theirs (AWS Load Balancer Controller, its Gateway API part, ECS).
const FOREIGN_KEYS: [&str; 5] =
    ["elbv2.k8s.aws/", "ingress.k8s.aws/", "service.k8s.aws/", "gateway.k8s.aws", "aws:ecs:"];

/// What the tags of a resource say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// This installation, for the policy with this UID.
    Ours {
        /// The policy.
        policy_uid: &'a str,
        /// The cluster, on target groups.
        cluster: Option<&'a str>,
    },
    /// Another controller, or another installation of Switchyard; the text is the tag that says so.
    Foreign(String),
    /// Nobody that we know.
    Nobody,
}

/// Reads the owner from tags.
pub fn owner<'a>(tags: &'a Tags, hub: &HubId) -> Owner<'a> {
    if let Some(mark) = foreign_mark(tags) {
        return Owner::Foreign(mark);
    }
    match (tags.get(TAG_HUB), tags.get(TAG_POLICY_UID)) {
        (Some(id), Some(uid)) if id == hub.as_str() => {
            Owner::Ours { policy_uid: uid, cluster: tags.get(TAG_CLUSTER).map(String::as_str) }
        }
        (Some(id), _) => Owner::Foreign(format!("{TAG_HUB}={id}")),
        (None, _) => Owner::Nobody,
    }
}

/// The tag by which another controller claims a resource, if there is one.
pub fn foreign_mark(tags: &Tags) -> Option<String> {
    let claimed = tags.iter().find(|(key, _)| FOREIGN_KEYS.iter().any(|mark| key.starts_with(mark)));
    claimed.map(|(key, value)| format!("{key}={value}"))
}

/// True when the tags say: this installation, this policy.
pub fn belongs_to(tags: &Tags, hub: &HubId, uid: &PolicyUid) -> bool {
    matches!(owner(tags, hub), Owner::Ours { policy_uid, .. } if policy_uid == uid.as_str())
}

/// The tags of a rule.
pub fn rule_tags(hub: &HubId, policy: &PolicyKey, uid: &PolicyUid) -> Tags {
    Tags::from([
        (TAG_HUB.to_owned(), hub.to_string()),
        (TAG_POLICY.to_owned(), policy.to_string().chars().take(MOST_TAG_VALUE).collect()),
        (TAG_POLICY_UID.to_owned(), uid.to_string()),
    ])
}

/// The tags of a cluster's target group.
pub fn group_tags(hub: &HubId, policy: &PolicyKey, uid: &PolicyUid, cluster: &ClusterName) -> Tags {
    let mut tags = rule_tags(hub, policy, uid);
    tags.insert(TAG_CLUSTER.to_owned(), cluster.to_string());
    tags
}

/// The highest epoch of this installation that a load balancer's tags know of; zero when none, or when the tag is not a
/// number. Other installations on the same load balancer count for themselves.
pub fn epoch_of(tags: &Tags, hub: &HubId) -> Epoch {
    Epoch(tags.get(&format!("{TAG_EPOCH_OF}{hub}")).and_then(|value| value.parse().ok()).unwrap_or_default())
}

/// The tag that says under which epoch this installation writes on a load balancer.
pub fn epoch_tags(epoch: Epoch, hub: &HubId) -> Tags {
    Tags::from([(format!("{TAG_EPOCH_OF}{hub}"), epoch.to_string())])
}

/// The name of a cluster's target group: readable parts and a hash, 31 characters at most (ELBv2 allows 32).
///
/// It is made from what never changes in a policy's life, so a renamed Service keeps its groups, and a create whose answer was
/// lost is found again by name.
pub fn group_name(hub: &HubId, policy: &PolicyKey, uid: &PolicyUid, cluster: &ClusterName) -> String {
    let mut hasher = Sha256::new();
    for part in [hub.as_str(), uid.as_str(), cluster.as_str()] {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    let hash: String = hasher.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let policy = readable(policy.name.as_str(), 12);
    let cluster = readable(cluster.as_str(), 6);
    format!("{GROUP_PREFIX}{policy}-{cluster}-{hash}")
}

/// The first letters of a name, without dots and doubled or trailing hyphens, which target group names do not take.
fn readable(name: &str, most: usize) -> String {
    let mut text = String::new();
    for c in name.chars().map(|c| if c == '.' { '-' } else { c }).take(most) {
        if c != '-' || !text.ends_with('-') {
            text.push(c);
        }
    }
    text.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> HubId {
        HubId::new("hub-1").unwrap()
    }

    #[test]
    fn group_names_fit_elbv2_and_tell_policies_and_clusters_apart() {
        let mut seen = std::collections::BTreeSet::new();
        for policy in ["a", "a.b", "checkout-service.v2-with-a-long-name", "x-.-y"] {
            for cluster in ["blue", "b", "a-very-long-cluster-name"] {
                let Ok(key) = PolicyKey::new("shop", policy) else {
                    continue;
                };
                let uid = PolicyUid::new(format!("uid-{policy}")).unwrap();
                let name = group_name(&hub(), &key, &uid, &ClusterName::new(cluster).unwrap());
                assert!(name.len() <= 32, "{name}");
                assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
                assert!(!name.contains("--") && !name.ends_with('-'), "{name}");
                assert!(seen.insert(name));
            }
        }
    }

    #[test]
    fn the_longest_name_of_a_policy_fits_a_tag_and_the_policy_is_known_by_its_uid() {
        let label = "n".repeat(63);
        let key = PolicyKey::new(&label, [label.as_str(); 4].join(".").split_at(253).0).unwrap();
        let uid = PolicyUid::new("u").unwrap();
        let tags = rule_tags(&hub(), &key, &uid);
        assert_eq!(tags[TAG_POLICY], key.to_string()[..256]);
        assert!(tags.values().all(|value| value.len() <= 256) && belongs_to(&tags, &hub(), &uid));
    }

    #[test]
    fn another_installation_and_other_controllers_are_foreign() {
        let tag = |key: &str, value: &str| Tags::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(owner(&Tags::new(), &hub()), Owner::Nobody);
        for tags in [tag(TAG_HUB, "hub-2"), tag("elbv2.k8s.aws/cluster", "x"), tag("ingress.k8s.aws/stack", "y")] {
            assert!(matches!(owner(&tags, &hub()), Owner::Foreign(_)), "{tags:?}");
        }
        let key = PolicyKey::new("shop", "checkout").unwrap();
        let uid = PolicyUid::new("u").unwrap();
        let mut tags = rule_tags(&hub(), &key, &uid);
        assert!(belongs_to(&tags, &hub(), &uid));
        tags.insert("elbv2.k8s.aws/cluster".into(), "x".into());
        assert!(!belongs_to(&tags, &hub(), &uid), "a mark of another controller wins over ours");
    }
}
