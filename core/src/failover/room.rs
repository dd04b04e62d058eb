//! Who may carry how much at this moment: health, what operators leave of it, and what nobody may get beyond what it has.

use super::{
    ClusterInput, Input, Memory, Rules, WHOLE,
    decide::Seen,
    memory::ClusterMemory,
    share::{self, ALL, Carrier, Shares},
};
use crate::{fleet::Mode, ids::Weight};

/// The score that is used, held down by a return that is under way; none: it was never seen.
pub(super) fn carried(remembered: &ClusterMemory, rules: &Rules) -> Option<u32> {
    let limit = remembered.limit.map_or(WHOLE, |limit| below(limit, rules.overprovisioning_percent));
    remembered.used.map(|used| used.min(limit))
}

/// The score of which a cluster carries just this part of its share.
fn below(limit: u32, overprovisioning_percent: u32) -> u32 {
    if limit >= WHOLE { WHOLE } else { limit * 100 / overprovisioning_percent.max(1) }
}

/// The share of each, out of [`ALL`].
pub(super) fn parts(weights: impl Iterator<Item = u32> + Clone) -> Vec<u64> {
    let sum: u64 = weights.clone().map(u64::from).sum();
    weights.map(|weight| u64::from(weight) * ALL / sum.max(1)).collect()
}

/// The shares; none: nobody carries anything whatever is left out, so what is asked for stays.
pub(super) fn shares(input: &Input<'_>, seen: &[Seen], memory: &Memory) -> Option<Shares> {
    let percent = input.rules.map_or(100, |rules| rules.overprovisioning_percent);
    let health: Vec<u32> =
        input.clusters.iter().zip(seen).map(|(cluster, seen)| health(cluster, seen, input, memory)).collect();
    let ceilings: Vec<u32> = input.clusters.iter().map(|cluster| cluster.ceiling.permille).collect();
    let whole = vec![WHOLE; input.clusters.len()];
    // An operator's drain is obeyed as long as anybody else carries; where nobody does, health is not asked before operators are.
    shares_under(input, seen, &health, &ceilings, percent)
        .or_else(|| shares_under(input, seen, &health, &whole, percent))
        .or_else(|| without_health(input, seen))
}

/// As for a policy without rules: by what is asked for, and by what operators want.
pub(super) fn without_health(input: &Input<'_>, seen: &[Seen]) -> Option<Shares> {
    let percent = input.rules.map_or(100, |rules| rules.overprovisioning_percent);
    let ceilings: Vec<u32> = input.clusters.iter().map(|cluster| cluster.ceiling.permille).collect();
    shares_under(input, seen, &vec![WHOLE; ceilings.len()], &ceilings, percent)
}

fn health(cluster: &ClusterInput, seen: &Seen, input: &Input<'_>, memory: &Memory) -> u32 {
    let Some(rules) = input.rules else { return WHOLE };
    // Beside a rule that serves, a cluster where nothing is and nothing was seen carries nothing.
    let empty = seen.score.is_some() && seen.counts.expected == 0 && cluster.registered == 0;
    let in_rule = cluster.programmed.is_some_and(Weight::carries);
    let unseen = if input.has_rule && empty && !in_rule { 0 } else { WHOLE };
    memory.clusters.get(&cluster.cluster).and_then(|remembered| carried(remembered, rules)).unwrap_or(unseen)
}

fn shares_under(input: &Input<'_>, seen: &[Seen], health: &[u32], ceilings: &[u32], percent: u32) -> Option<Shares> {
    let requested = parts(input.clusters.iter().map(|cluster| cluster.requested.get()));
    // Rounded up, so that who keeps what it has does not lose it bit by bit.
    let of_rule: u64 = input.clusters.iter().map(weight_in_rule).sum();
    let programmed: Vec<u64> =
        input.clusters.iter().map(|cluster| (weight_in_rule(cluster) * ALL).div_ceil(of_rule.max(1))).collect();
    let carrier = |i: usize| {
        let cluster = &input.clusters[i];
        let programmed = programmed[i];
        // A drain gives nothing to a cluster that has nothing, such as one that was cordoned before.
        let has_nothing = !cluster.programmed.is_some_and(Weight::carries);
        let drains = cluster.ceiling.mode == Mode::Draining && has_nothing;
        let cordoned = (cluster.ceiling.mode == Mode::Cordoned || drains) && input.has_rule;
        Carrier {
            place: cluster.place().map(|(level, weight)| (level, weight.get())),
            score: health[i].min(below(ceilings[i], percent)),
            requested: requested[i],
            most: cordoned.then_some(programmed),
            most_uncordoned: None,
            may_grow: true,
            // Targets that cannot be read now are there all the same.
            answers: cluster.registered > 0 || (cluster.sight.is_none() && programmed > 0),
        }
    };
    let mut carriers: Vec<Carrier> = (0..input.clusters.len()).map(carrier).collect();
    let plain = share::split(&carriers, percent)?;
    if plain.shares == requested || is_near(&plain.shares, &requested) {
        return Some(Shares { shares: requested, ..plain });
    }
    // Shares move away from what was asked for, so nobody gets what it is not known to carry.
    let forced = input.clusters.iter().any(|cluster| cluster.ceiling.force);
    for (i, carrier) in carriers.iter_mut().enumerate() {
        let unproven = input.has_rule && seen[i].counts.healthy == 0;
        let capacity = capacity(input, &seen[i]).filter(|_| !forced).map(|capacity| capacity.max(requested[i]));
        let bounds = [carrier.most, unproven.then_some(programmed[i]), capacity];
        carrier.most = bounds.into_iter().flatten().min();
        carrier.may_grow = !unproven;
        carrier.most_uncordoned = [unproven.then_some(programmed[i]), capacity].into_iter().flatten().min();
    }
    let shares = share::split(&carriers, percent)?;
    if shares.forced == 0 {
        return Some(shares);
    }
    // A cordon is obeyed as long as anybody else carries.
    carriers.iter_mut().for_each(|carrier| carrier.most = carrier.most_uncordoned);
    share::split(&carriers, percent)
}

fn weight_in_rule(cluster: &ClusterInput) -> u64 {
    cluster.programmed.map_or(0, Weight::get).into()
}

/// Rounding of thirds is no difference; to carry nothing is one, however small the share was.
pub(super) fn is_near(shares: &[u64], requested: &[u64]) -> bool {
    shares.iter().zip(requested).all(|(a, b)| a.abs_diff(*b) <= ALL / 1000 / 2 && (*a > 0) == (*b > 0))
}

/// The share of the peak that the healthy targets carry, out of [`ALL`]; none: not declared, or not known.
pub(super) fn capacity(input: &Input<'_>, seen: &Seen) -> Option<u64> {
    let capacity = input.capacity.filter(|_| seen.score.is_some())?;
    let carries = u64::from(seen.counts.healthy) * u64::from(capacity.requests_per_second_per_target);
    Some(carries * ALL / u64::from(capacity.peak_requests_per_second))
}
