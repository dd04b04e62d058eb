//! A ClusterTrafficPolicy as a caller sends it, YAML or JSON: `manifest::parse` and then core's `validate`. What is accepted means the
//! same after it was written out, which is what the store does with it.

use switchyard_core::policy::{ClusterTrafficPolicy, validate};
use switchyard_hub::fuzz::manifest;

use crate::text::is_one_sound_line;

/// Tries one manifest.
pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let read = match manifest::parse(text) {
        Ok(read) => read,
        Err(violation) => {
            is_one_sound_line("the manifest cannot be read", &violation.to_string());
            return false;
        }
    };
    let written = serde_json::to_string(&read).expect("a manifest can be written as JSON");
    let again: ClusterTrafficPolicy = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(again, read, "a manifest that was written means something else");
    let policy = match validate(&read) {
        Ok(policy) => policy,
        Err(violations) => {
            assert!(!violations.is_empty(), "refused without a reason");
            violations.iter().for_each(|one| is_one_sound_line("the policy is not valid", &one.to_string()));
            return false;
        }
    };
    assert_eq!(validate(&again).as_ref(), Ok(&policy), "what was accepted is not accepted again");
    let yaml = serde_norway::to_string(&read).expect("a manifest can be written as YAML");
    // Longer than what is taken is the one reason why YAML of ours may be refused.
    if yaml.len() <= manifest::MOST_BYTES {
        assert_eq!(manifest::parse(&yaml).as_ref(), Ok(&read), "YAML of an accepted manifest means something else");
    }
    assert!(!policy.clusters.is_empty() && policy.clusters.len() <= 100, "{} clusters", policy.clusters.len());
    for (cluster, weight) in &policy.clusters {
        assert!(weight.get() <= 999, "{cluster} has the weight {weight:?}");
    }
    true
}
