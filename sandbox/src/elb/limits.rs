//! The quota table: one list for enforcement and for DescribeAccountLimits. Must not import the state.

use std::collections::BTreeMap;

use super::errors::ApiError;

pub const LOAD_BALANCERS: &str = "application-load-balancers";
pub const LISTENERS_PER_LB: &str = "listeners-per-application-load-balancer";
pub const RULES_PER_LB: &str = "rules-per-application-load-balancer";
pub const GROUPS: &str = "target-groups";
pub const GROUPS_PER_ACTION: &str = "target-groups-per-action-on-application-load-balancer";
pub const GROUPS_PER_LB: &str = "target-groups-per-application-load-balancer";
pub const TARGETS_PER_LB: &str = "targets-per-application-load-balancer";
pub const TARGETS_PER_GROUP: &str = "targets-per-target-group";
pub const CONDITION_VALUES: &str = "condition-values-per-alb-rule";
pub const CONDITION_WILDCARDS: &str = "condition-wildcards-per-alb-rule";
pub const CERTIFICATES_PER_LB: &str = "certificates-per-application-load-balancer";
pub const TAGS_PER_RESOURCE: &str = "tags-per-resource";
pub const REGISTRATIONS_PER_TARGET: &str = "registrations-per-target-id";

/// (name, default, whether AWS answers it in DescribeAccountLimits). Sources: the quota page of the ALB guide; 50 tags
/// and 1,000 registrations per target id are general knowledge without a page at hand.
const TABLE: &[(&str, u64, bool)] = &[
    (LOAD_BALANCERS, 50, true),
    (CERTIFICATES_PER_LB, 25, false),
    (CONDITION_VALUES, 5, true),
    (CONDITION_WILDCARDS, 5, true),
    (LISTENERS_PER_LB, 50, true),
    (RULES_PER_LB, 100, true),
    (TAGS_PER_RESOURCE, 50, false),
    (GROUPS, 3_000, true),
    (GROUPS_PER_ACTION, 5, true),
    (GROUPS_PER_LB, 100, true),
    (TARGETS_PER_LB, 1_000, true),
    (TARGETS_PER_GROUP, 1_000, false),
    (REGISTRATIONS_PER_TARGET, 1_000, false),
];

/// The quotas in force.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(transparent)]
pub struct Limits(BTreeMap<&'static str, u64>);

impl Default for Limits {
    fn default() -> Self {
        Self(TABLE.iter().map(|(name, max, _)| (*name, *max)).collect())
    }
}

impl Limits {
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(u64::MAX)
    }

    /// Sets one quota; an unknown name is refused with the list of those that exist.
    pub fn set(&mut self, name: &str, max: u64) -> Result<(), String> {
        match self.0.iter_mut().find(|(known, _)| **known == name) {
            Some((_, value)) => {
                *value = max;
                Ok(())
            }
            None => Err(format!(
                "there is no quota '{name}'; known are {}",
                TABLE.iter().map(|t| t.0).collect::<Vec<_>>().join(", ")
            )),
        }
    }

    /// What DescribeAccountLimits answers, by name.
    pub fn published(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        TABLE.iter().filter(|(_, _, published)| *published).map(|(name, ..)| (*name, self.get(name)))
    }

    /// Refuses with `code` when `wanted` things would exceed the quota `name`.
    pub fn check(&self, name: &str, wanted: usize, code: &'static str, what: &str) -> Result<(), ApiError> {
        let max = self.get(name);
        if wanted as u64 > max {
            return Err(ApiError::quota(code, what, wanted.saturating_sub(1), max));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_that_was_set_is_enforced_and_published_alike() {
        let mut limits = Limits::default();
        limits.set(RULES_PER_LB, 2).unwrap();
        assert!(limits.check(RULES_PER_LB, 2, "TooManyRules", "rules").is_ok());
        let error = limits.check(RULES_PER_LB, 3, "TooManyRules", "rules").unwrap_err();
        assert_eq!(error.code, "TooManyRules");
        assert!(error.message.contains("2 of 2"));
        assert!(limits.published().any(|l| l == (RULES_PER_LB, 2)));
        assert!(limits.set("nonsense", 1).unwrap_err().contains(RULES_PER_LB));
    }
}
