//! Rule priorities of one listener: in the order of the policies, around the rules of others, and with as few moves as the
//! order allows. Tests are at the end of the file.

use std::collections::{BTreeMap, BTreeSet};

use crate::{arn::RuleArn, ids::PolicyKey};

/// The last priority that ELBv2 knows.
pub const LAST_PRIORITY: u32 = 50_000;

/// One policy that wants a rule on the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `spec.order`.
    pub order: u32,
    /// Decides between equal orders.
    pub policy: PolicyKey,
    /// The rule and its priority, where it exists.
    pub present: Option<(RuleArn, u32)>,
}

/// The outcome for one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Priorities {
    /// The priority of each policy's rule; a policy that is missing found none free.
    pub assigned: BTreeMap<PolicyKey, u32>,
    /// Rules that must move, for one SetRulePriorities call.
    pub moves: BTreeMap<RuleArn, u32>,
}

/// Assigns priorities: each policy gets the first free one at or after its order and after the policies before it. A rule
/// that already stands in order stays where it is.
pub fn assign(mut entries: Vec<Entry>, taken: &BTreeSet<u32>) -> Priorities {
    entries.sort_by(|a, b| (a.order, &a.policy).cmp(&(b.order, &b.policy)));
    let mut result = Priorities::default();
    let mut previous = 0;
    for entry in entries {
        let least = entry.order.max(previous + 1);
        let stays = entry.present.as_ref().map(|(_, p)| *p).filter(|p| *p >= least && !taken.contains(p));
        let free = || (least..=LAST_PRIORITY).find(|p| !taken.contains(p));
        let Some(priority) = stays.or_else(free) else { continue };
        previous = priority;
        if let Some((rule, present)) = entry.present
            && present != priority
        {
            result.moves.insert(rule, priority);
        }
        result.assigned.insert(entry.policy, priority);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(name: &str) -> PolicyKey {
        PolicyKey::new("shop", name).unwrap()
    }

    fn rule(name: &str) -> RuleArn {
        RuleArn::new(format!("arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener-rule/app/x/1/2/{name}"))
            .unwrap()
    }

    fn entry(name: &str, order: u32, present: Option<u32>) -> Entry {
        Entry { order, policy: key(name), present: present.map(|p| (rule(name), p)) }
    }

    #[test]
    fn policies_of_equal_order_follow_each_other_by_name_around_foreign_rules() {
        let result = assign(vec![entry("b", 100, None), entry("a", 100, None)], &BTreeSet::from([100, 102]));
        assert_eq!(result.assigned, BTreeMap::from([(key("a"), 101), (key("b"), 103)]));
        assert!(result.moves.is_empty());
    }

    #[test]
    fn a_rule_that_stands_in_order_does_not_move() {
        let result = assign(vec![entry("a", 100, Some(140)), entry("b", 100, Some(150))], &BTreeSet::new());
        assert!(result.moves.is_empty());
        assert_eq!(result.assigned[&key("a")], 140);
    }

    #[test]
    fn a_policy_that_comes_before_moves_only_those_in_its_way() {
        let present = vec![entry("b", 100, Some(100)), entry("c", 100, Some(200)), entry("a", 100, None)];
        let result = assign(present, &BTreeSet::new());
        assert_eq!(result.assigned[&key("a")], 100);
        assert_eq!(result.moves, BTreeMap::from([(rule("b"), 101)]));
    }

    #[test]
    fn without_a_free_priority_a_policy_is_left_out() {
        let taken: BTreeSet<u32> = (49_000..=LAST_PRIORITY).collect();
        assert!(assign(vec![entry("a", 49_000, None)], &taken).assigned.is_empty());
    }

    proptest! {
        #[test]
        fn the_result_is_in_order_unique_and_stable(
            rows in proptest::collection::vec((1u32..40, proptest::option::of(1u32..60)), 1..12),
            taken in proptest::collection::btree_set(1u32..60, 0..10),
        ) {
            let mut used = taken.clone();
            let entries: Vec<Entry> = rows.iter().enumerate().map(|(i, (order, present))| {
                let present = present.filter(|p| used.insert(*p));
                entry(&format!("p{i:02}"), *order, present)
            }).collect();
            let first = assign(entries.clone(), &taken);
            let mut sorted = entries.clone();
            sorted.sort_by(|a, b| (a.order, &a.policy).cmp(&(b.order, &b.policy)));
            let priorities: Vec<u32> = sorted.iter().map(|e| first.assigned[&e.policy]).collect();
            prop_assert!(priorities.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(priorities.iter().all(|p| !taken.contains(p)));
            let again = entries.into_iter().map(|e| Entry { present: Some((rule(e.policy.name.as_str()), first.assigned[&e.policy])), ..e });
            prop_assert!(assign(again.collect(), &taken).moves.is_empty());
        }
    }
}
