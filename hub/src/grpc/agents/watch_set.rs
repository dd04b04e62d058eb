//! Which Services an agent watches: the backends of the policies that name its cluster, those being deleted included, since
//! their endpoints are needed until the rule is gone. Pure.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use switchyard_core::{
    ids::ClusterName,
    inventory::ServiceKey,
    policy::{PolicyRecord, validate::target_type_word},
};

/// A sorted list of Services with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSet {
    /// A hash of the list, never 0: equal lists have equal versions on every replica and after every restart.
    pub version: u64,
    /// Sorted, each once.
    pub services: Vec<ServiceKey>,
}

impl WatchSet {
    /// Sorts the list and gives it its version.
    pub fn new(mut services: Vec<ServiceKey>) -> Self {
        services.sort();
        services.dedup();
        let mut hash = Sha256::new();
        for key in &services {
            for part in [key.namespace.as_str(), key.name.as_str(), key.port.as_str()] {
                // None of the three can hold a line end, so no two lists have the same text.
                hash.update(part.as_bytes());
                hash.update(b"\n");
            }
            // Written for nodes only, so that the versions of lists without them are what they always were. No part of a key
            // begins with the sign.
            if key.targets_nodes() {
                hash.update(b"=");
                hash.update(target_type_word(key.target_type).as_bytes());
                hash.update(b"\n");
            }
        }
        let digest = hash.finalize();
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        Self { version: u64::from_be_bytes(head).max(1), services }
    }

    /// The set of one cluster. An agent that cannot report nodes is asked for pods only; core says so in the policy's status.
    pub fn of<'a>(
        cluster: &ClusterName,
        reports_nodes: bool,
        policies: impl Iterator<Item = &'a PolicyRecord>,
    ) -> Arc<Self> {
        let names = |record: &&PolicyRecord| {
            let able = reports_nodes || !record.policy.service.targets_nodes();
            able && record.policy.clusters.iter().any(|(name, _)| name == cluster)
        };
        let services = policies.filter(names).map(|record| record.policy.service.clone()).collect();
        Arc::new(Self::new(services))
    }

    /// True when the Service is in the set.
    pub fn contains(&self, key: &ServiceKey) -> bool {
        self.services.binary_search(key).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::policy::spec::TargetType;

    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey {
            namespace: "shop".parse().unwrap(),
            name: name.parse().unwrap(),
            port: "http".parse().unwrap(),
            target_type: TargetType::Ip,
        }
    }

    #[test]
    fn the_version_depends_on_the_list_and_on_nothing_else() {
        let one = WatchSet::new(vec![key("b"), key("a"), key("a")]);
        let two = WatchSet::new(vec![key("a"), key("b")]);
        assert_eq!(one, two);
        assert_ne!(one.version, WatchSet::new(vec![key("a")]).version);
        assert_ne!(WatchSet::new(Vec::new()).version, 0);
    }

    #[test]
    fn the_version_is_the_same_in_every_build() {
        // Pinned: an agent that resumes at a hub of another version compares it with what it was told before.
        assert_eq!(WatchSet::new(Vec::new()).version, 0xe3b0_c442_98fc_1c14);
        assert_eq!(WatchSet::new(vec![key("a")]).version, 0xc0fc_fb55_2362_078f);
    }

    #[test]
    fn the_same_service_for_nodes_is_another_reference() {
        let nodes = ServiceKey { target_type: TargetType::Instance, ..key("a") };
        let versions = [vec![key("a")], vec![nodes.clone()], vec![key("a"), nodes.clone()]].map(|list| {
            let set = WatchSet::new(list);
            assert!(set.services.iter().all(|key| set.contains(key)));
            set.version
        });
        assert_eq!(versions.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{versions:x?}");
    }
}
