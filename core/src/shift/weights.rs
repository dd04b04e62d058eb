//! Which weights a step has. Shares move in a straight line from the recorded weights to the new ones; whole numbers from 0 to 999
//! stand for them as exactly as they can, and a cluster that is to get anything never gets 0 (I12).

use std::collections::BTreeSet;

use crate::{
    ids::{ClusterName, Weight},
    weights::apportion,
};

/// Weights are easiest to read when they add up to this.
const HUNDRED: u32 = 100;

/// The weights after `percent` (0..=100) of the way. Both sides name the same clusters in the same order. At 0 exactly `from`, at
/// 100 exactly `to`; in between they add up to what `to`, or else `from`, adds up to, or to 100, where that is exact, else to 999.
pub fn at(from: &[(ClusterName, Weight)], to: &[(ClusterName, Weight)], percent: u32) -> Vec<(ClusterName, Weight)> {
    match percent {
        0 => return from.to_vec(),
        100.. => return to.to_vec(),
        _ => {}
    }
    let (from_sum, to_sum) = (sum(from), sum(to));
    // Shares over the common denominator 100 * from_sum * to_sum: a side that is all 0 has no shares, the other one is then meant.
    let share = |(old, new): (u32, u32)| -> u64 {
        let (old, new, percent) = (u64::from(old), u64::from(new), u64::from(percent));
        match (from_sum, to_sum) {
            (0, _) => new,
            (_, 0) => old,
            (from_sum, to_sum) => old * u64::from(to_sum) * (100 - percent) + new * u64::from(from_sum) * percent,
        }
    };
    let pairs = from.iter().zip(to).map(|((_, old), (_, new))| (old.get(), new.get()));
    let shares: Vec<u64> = pairs.map(share).collect();
    let most = Weight::MAX.get();
    let all: u64 = shares.iter().sum();
    let exact = |total: &u32| {
        (1..=most).contains(total) && shares.iter().all(|share| (share * u64::from(*total)).is_multiple_of(all.max(1)))
    };
    let total = [to_sum, from_sum, HUNDRED].into_iter().find(exact).unwrap_or(most);
    let parts = apportion(&shares, total);
    let names = to.iter().map(|(name, _)| name.clone());
    names.zip(parts).map(|(name, part)| (name, Weight::new(part.min(most)).unwrap_or(Weight::MAX))).collect()
}

/// The clusters whose share is larger in `to` than in `from`.
pub fn gaining(from: &[(ClusterName, Weight)], to: &[(ClusterName, Weight)]) -> BTreeSet<ClusterName> {
    compare(from, to, |old, new| new > old)
}

/// The clusters that lose all of their share.
pub fn emptied(from: &[(ClusterName, Weight)], to: &[(ClusterName, Weight)]) -> BTreeSet<ClusterName> {
    compare(from, to, |old, new| old > 0 && new == 0)
}

/// The largest change of one cluster's share, in percentage points, rounded up to a whole one.
pub fn largest_change_percent(from: &[(ClusterName, Weight)], to: &[(ClusterName, Weight)]) -> u32 {
    let (from_sum, to_sum) = (u64::from(sum(from)), u64::from(sum(to)));
    let change = |old: u64, new: u64| old.abs_diff(new);
    let largest = to.iter().map(|(name, new)| {
        let old = weight_of(from, name).get();
        change(u64::from(old) * to_sum, u64::from(new.get()) * from_sum)
    });
    let whole = (from_sum * to_sum).max(1);
    let percent = (largest.max().unwrap_or(0) * 100).div_ceil(whole);
    u32::try_from(percent).unwrap_or(100)
}

/// The weight of one cluster; 0 when it is not named.
pub fn weight_of(weights: &[(ClusterName, Weight)], name: &ClusterName) -> Weight {
    weights.iter().find(|(known, _)| known == name).map_or(Weight::ZERO, |(_, weight)| *weight)
}

/// What they add up to.
pub fn sum(weights: &[(ClusterName, Weight)]) -> u32 {
    weights.iter().map(|(_, weight)| weight.get()).sum()
}

fn compare(
    from: &[(ClusterName, Weight)],
    to: &[(ClusterName, Weight)],
    holds: impl Fn(u64, u64) -> bool,
) -> BTreeSet<ClusterName> {
    let (from_sum, to_sum) = (u64::from(sum(from)), u64::from(sum(to)));
    let picked = to.iter().filter(|(name, new)| {
        let old = u64::from(weight_of(from, name).get());
        holds(old * to_sum.max(1), u64::from(new.get()) * from_sum.max(1))
    });
    picked.map(|(name, _)| name.clone()).collect()
}
