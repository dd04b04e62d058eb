//! What a term remembers from one cycle to the next.

use switchyard_core::{
    policy::{ClusterTrafficPolicy, Failure, validate},
    status::Reason,
};

use super::*;
use crate::store::{Ownership, StoredPolicy};

fn picture(version: u64) -> Picture {
    let manifest: ClusterTrafficPolicy = serde_norway::from_str(
        "{apiVersion: switchyard.dev/v1alpha1, kind: ClusterTrafficPolicy, metadata: {name: checkout, namespace: shop}, \
         spec: {listener: {loadBalancer: shared, port: 443}, match: {paths: [{value: /}]}, \
         backend: {service: {name: checkout, port: http}}, clusters: [{name: blue, weight: 100}]}}",
    )
    .unwrap();
    let record = PolicyRecord {
        uid: "uid".parse().unwrap(),
        version,
        generation: 1,
        policy: validate(&manifest).unwrap(),
        weight_override: None,
        deleting_since: None,
    };
    let stored = StoredPolicy {
        record,
        manifest,
        ownership: Ownership::default(),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        status: None,
        status_at: None,
        memory: PolicyMemory::default(),
        gates: Arc::default(),
    };
    let key = stored.record.policy.key.clone();
    Picture { policies: Arc::new([(key, Arc::new(stored))].into()), ..Picture::empty() }
}

#[test]
fn a_refused_change_of_a_rule_is_tried_at_once_when_something_else_is_asked_for() {
    let mut term = Term::default();
    let failure =
        Failure { reason: Reason::CallRefused, message: String::new(), attempts: 6, not_before: Timestamp::MAX };
    let failures = ["ModifyRule arn", "RegisterTargets sy-a"].map(|key| (key.to_owned(), failure.clone()));
    let memory = PolicyMemory { failures: failures.into(), ..PolicyMemory::default() };
    let key = PolicyKey::new("shop", "checkout").unwrap();
    term.remember(&key, &"uid".parse().unwrap(), memory);
    let mut waiting = |version| {
        term.try_what_is_new(&picture(version));
        term.memories[&key].1.failures.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(waiting(3).len(), 2, "what the term began with says nothing of what is new");
    assert_eq!(waiting(3).len(), 2, "as before");
    assert_eq!(waiting(4), ["RegisterTargets sy-a"]);
}
