//! The quota ledger: what each load balancer holds, so that the one object that does not fit is refused by name, and the
//! others go on.

use std::collections::BTreeMap;

use super::draft::Draft;
use crate::{
    arn::LoadBalancerArn,
    observed::{Limits, Observed},
};

/// What one load balancer holds; `None` where it is not known, and then AWS decides.
#[derive(Clone, Debug, Default)]
struct Account {
    rules: Option<u32>,
    groups: Option<u32>,
    targets: u32,
}

/// Counts of all load balancers, consumed while plans are made in the order of the policies.
pub(super) struct Ledger {
    limits: Limits,
    accounts: BTreeMap<LoadBalancerArn, Account>,
}

/// A request that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// In use before the request.
    pub(super) used: u32,
    /// The limit.
    pub(super) limit: u32,
}

impl Ledger {
    pub(super) fn new(observed: &Observed, drafts: &[Draft<'_>]) -> Self {
        let mut accounts: BTreeMap<LoadBalancerArn, Account> = BTreeMap::new();
        for (arn, load_balancer) in &observed.load_balancers {
            let groups = load_balancer.target_groups_in_use.get().copied();
            accounts.insert(arn.clone(), Account { rules: Some(0), groups, targets: 0 });
        }
        for listener in observed.listeners.values() {
            let Some(account) = accounts.get_mut(&listener.load_balancer) else {
                continue;
            };
            let rules = listener.rules.get().map(|rules| u32::try_from(rules.len()).unwrap_or(u32::MAX));
            account.rules = account.rules.zip(rules).map(|(sum, rules)| sum.saturating_add(rules));
        }
        for draft in drafts {
            let account = draft.place.and_then(|place| accounts.get_mut(place.load_balancer_arn));
            if let Some(account) = account {
                account.targets += draft.clusters.iter().map(|cluster| cluster.counts.registered).sum::<u32>();
            }
        }
        Self { limits: observed.limits.clone(), accounts }
    }

    /// Takes room for one rule.
    pub(super) fn rule(&mut self, load_balancer: &LoadBalancerArn) -> Result<(), Full> {
        let limit = self.limits.rules_per_load_balancer;
        take(self.accounts.get_mut(load_balancer).and_then(|account| account.rules.as_mut()), 1, limit)
    }

    /// Takes room for target groups that the load balancer does not use yet.
    pub(super) fn groups(&mut self, load_balancer: &LoadBalancerArn, more: u32) -> Result<(), Full> {
        let limit = self.limits.target_groups_per_load_balancer;
        take(self.accounts.get_mut(load_balancer).and_then(|account| account.groups.as_mut()), more, limit)
    }

    /// Takes room for as many of `wanted` targets as fit, and says how many that is.
    pub(super) fn targets(&mut self, load_balancer: &LoadBalancerArn, wanted: usize) -> (usize, Full) {
        let limit = self.limits.targets_per_load_balancer;
        let Some(account) = self.accounts.get_mut(load_balancer) else {
            return (wanted, Full { used: 0, limit });
        };
        let full = Full { used: account.targets, limit };
        let fits = wanted.min(limit.saturating_sub(account.targets) as usize);
        account.targets = account.targets.saturating_add(u32::try_from(fits).unwrap_or(u32::MAX));
        (fits, full)
    }
}

fn take(used: Option<&mut u32>, more: u32, limit: u32) -> Result<(), Full> {
    let Some(used) = used else { return Ok(()) };
    if used.saturating_add(more) > limit {
        return Err(Full { used: *used, limit });
    }
    *used += more;
    Ok(())
}
