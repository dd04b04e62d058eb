//! Who gets how much, in the terms of Envoy's priority levels: a level carries its health, what it cannot carry spills to the next,
//! and what all levels together cannot carry stays with them in proportion. Where a cluster may not get more, the rest goes to the
//! others, and what nobody can take stays where it was asked for: a brown-out beats a black-out.
//! Tests: `core/tests/failover_share.rs`.

use super::{Rules, WHOLE};
use crate::{ids::Weight, weights::apportion};

/// All requests, in the unit in which shares are computed: thousandths of a thousandth.
pub(super) const ALL: u64 = 1_000_000;

/// One cluster as far as shares are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Carrier {
    /// Its level, and its weight there above 0; none: it gets nothing.
    pub(super) place: Option<(u32, u32)>,
    /// Its score with what operators leave of it, 0..=1000.
    pub(super) score: u32,
    /// The share that is asked for.
    pub(super) requested: u64,
    /// The most that it may get; none: everything.
    pub(super) most: Option<u64>,
    /// The same without what a cordon says.
    pub(super) most_uncordoned: Option<u64>,
    /// False: it has no healthy target, so `most` holds whatever becomes of the rest.
    pub(super) may_grow: bool,
    /// True when requests to it are answered by somebody at all: what nobody else can take may stay here.
    pub(super) answers: bool,
}

/// What a level can carry and what it gets, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) priority: u32,
    pub(super) health: u32,
    pub(super) load: u32,
}

/// The shares, in the order of the carriers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) shares: Vec<u64>,
    pub(super) levels: Vec<Level>,
    /// What nobody had room for: it stayed where it was asked for.
    pub(super) stayed: u64,
    /// What had to go to clusters beyond what they may get, since nobody else answers.
    pub(super) forced: u64,
}

/// What a cluster of this score carries of its share, 0..=1000.
pub(super) fn factor(score: u32, rules: &Rules) -> u32 {
    with_overprovisioning(score, rules.overprovisioning_percent)
}

pub(super) fn with_overprovisioning(score: u32, percent: u32) -> u32 {
    (score * percent / 100).min(WHOLE)
}

/// Splits all requests; `None` when no level can carry anything.
pub(super) fn split(carriers: &[Carrier], overprovisioning_percent: u32) -> Option<Shares> {
    let levels = levels(carriers, overprovisioning_percent)?;
    let mut shares = vec![0; carriers.len()];
    for level in &levels {
        let load = u64::from(level.load) * ALL / u64::from(WHOLE);
        spread(load, &mut shares, carriers, |carrier| of_level(carrier, level.priority, overprovisioning_percent));
    }
    // Loads are whole thousandths: what rounding lost goes to the first that carries.
    let lost = ALL.saturating_sub(shares.iter().sum());
    if let Some(first) = shares.iter_mut().max_by_key(|share| **share) {
        *first += lost;
    }
    let mut result = Shares { shares, levels, stayed: 0, forced: 0 };
    cap(&mut result, carriers, overprovisioning_percent);
    Some(result)
}

/// The weight of a carrier within a level, with its health.
fn of_level(carrier: &Carrier, priority: u32, overprovisioning_percent: u32) -> u64 {
    let weight = carrier.place.filter(|(level, _)| *level == priority).map_or(0, |(_, weight)| weight);
    u64::from(weight) * u64::from(with_overprovisioning(carrier.score, overprovisioning_percent))
}

fn levels(carriers: &[Carrier], overprovisioning_percent: u32) -> Option<Vec<Level>> {
    let mut priorities: Vec<u32> =
        carriers.iter().filter_map(|carrier| carrier.place).map(|(level, _)| level).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let mut left = WHOLE;
    let mut levels: Vec<Level> = priorities
        .into_iter()
        .map(|priority| {
            let health = level_health(carriers, priority, overprovisioning_percent);
            let load = health.min(left);
            left -= load;
            Level { priority, health, load }
        })
        .collect();
    let carried = WHOLE - left;
    if carried == 0 {
        return None;
    }
    // Together they carry less than everything: each gets its part of all requests all the same (Envoy, "Priority levels").
    let loads: Vec<u64> = levels.iter().map(|level| level.load.into()).collect();
    for (level, load) in levels.iter_mut().zip(apportion(&loads, WHOLE)) {
        level.load = load;
    }
    Some(levels)
}

/// The level's score, each cluster counted by its weight, with overprovisioning.
fn level_health(carriers: &[Carrier], priority: u32, overprovisioning_percent: u32) -> u32 {
    let of_level =
        || carriers.iter().filter_map(|c| Some((c.place.filter(|(level, _)| *level == priority)?.1, c.score)));
    let weights: u64 = of_level().map(|(weight, _)| u64::from(weight)).sum();
    let scores: u64 = of_level().map(|(weight, score)| u64::from(weight) * u64::from(score)).sum();
    let health = scores * u64::from(overprovisioning_percent) / (100 * weights.max(1));
    // A cluster that is nearly dead is not nothing: else its level would be skipped.
    u32::try_from(health).unwrap_or(WHOLE).min(WHOLE).max(u32::from(scores > 0))
}

/// Adds `load` to the shares in proportion to what `weight` says; what rounding leaves goes to the first largest. True when somebody
/// took it.
fn spread(load: u64, shares: &mut [u64], carriers: &[Carrier], weight: impl Fn(&Carrier) -> u64) -> bool {
    let weights: Vec<u64> = carriers.iter().map(weight).collect();
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if sum == 0 || load == 0 {
        return load == 0;
    }
    let mut left = load;
    for (share, weight) in shares.iter_mut().zip(&weights) {
        let part = u64::try_from(u128::from(load) * u128::from(*weight) / sum).unwrap_or(0);
        *share += part;
        left -= part;
    }
    if let Some(i) = (0..weights.len()).max_by_key(|i| (weights[*i], std::cmp::Reverse(*i))) {
        shares[i] += left;
    }
    true
}

/// Takes from each what it may not get, and finds somebody for it.
fn cap(result: &mut Shares, carriers: &[Carrier], overprovisioning_percent: u32) {
    let mut over = 0;
    for (share, carrier) in result.shares.iter_mut().zip(carriers) {
        let most = carrier.most.unwrap_or(ALL);
        over += share.saturating_sub(most);
        *share = (*share).min(most);
    }
    // First those who have room, level by level.
    for level in result.levels.clone() {
        over = fill(over, &mut result.shares, carriers, |carrier| {
            of_level(carrier, level.priority, overprovisioning_percent)
        });
    }
    if over == 0 {
        return;
    }
    // Then where it was asked for, as long as somebody answers there. In proportion to the request, not to what is missing: what is
    // missing depends on what was decided last, and would be another part of it each time.
    let wanting: Vec<Carrier> =
        result.shares.iter().zip(carriers).map(|(share, carrier)| up_to_its_request(carrier, *share)).collect();
    let left = fill(over, &mut result.shares, &wanting, |carrier| if carrier.answers { carrier.requested } else { 0 });
    result.stayed = over - left;
    // An error for certain helps nobody: the rest goes to those that answer, however much they have already.
    result.forced = left;
    let answers = |carrier: &Carrier| if carrier.answers { u64::from(carrier.score) } else { 0 };
    let healthy = |carrier: &Carrier| if carrier.may_grow { answers(carrier) } else { 0 };
    // Healthy and held back, by its hold-down or by an operator, is better than not healthy.
    let held = |carrier: &Carrier| if carrier.may_grow && carrier.answers { carrier.requested.max(1) } else { 0 };
    if spread(result.forced, &mut result.shares, carriers, healthy)
        || spread(result.forced, &mut result.shares, carriers, held)
    {
        return;
    }
    // Nobody is healthy: what is in force stays in force as far as it goes.
    let rooms: Vec<u64> = result
        .shares
        .iter()
        .zip(carriers)
        .map(|(share, carrier)| carrier.most.unwrap_or(0).saturating_sub(*share))
        .collect();
    let kept = result.forced.min(rooms.iter().sum());
    for (share, part) in result.shares.iter_mut().zip(proportional(kept, &rooms)) {
        *share += part;
    }
    let rest = result.forced - kept;
    if !spread(rest, &mut result.shares, carriers, answers)
        && let Some(share) = result.shares.iter_mut().max_by_key(|share| **share)
    {
        *share += rest;
    }
}

/// The same, with room for no more than is asked of it.
fn up_to_its_request(carrier: &Carrier, share: u64) -> Carrier {
    let most = if carrier.may_grow { ALL } else { carrier.most.unwrap_or(ALL) };
    Carrier { most: Some(carrier.requested.min(most).max(share)), ..carrier.clone() }
}

/// Spreads over those that have room until nobody has; returns what is left.
fn fill(mut over: u64, shares: &mut [u64], carriers: &[Carrier], weight: impl Fn(&Carrier) -> u64) -> u64 {
    // Each round fills at least one carrier, or everything is placed.
    for _ in 0..carriers.len() {
        let room = |i: usize| carriers[i].most.unwrap_or(ALL).saturating_sub(shares[i]);
        let open: Vec<u64> = (0..carriers.len()).map(|i| if room(i) > 0 { weight(&carriers[i]) } else { 0 }).collect();
        if over == 0 || open.iter().sum::<u64>() == 0 {
            break;
        }
        let rooms: Vec<u64> = (0..carriers.len()).map(room).collect();
        let parts = proportional(over, &open);
        for (i, part) in parts.into_iter().enumerate() {
            let taken = part.min(rooms[i]);
            shares[i] += taken;
            over -= taken;
        }
    }
    over
}

fn proportional(total: u64, shares: &[u64]) -> Vec<u64> {
    let sum: u128 = shares.iter().map(|share| u128::from(*share)).sum();
    if sum == 0 {
        return vec![0; shares.len()];
    }
    let exact = |share: &u64| u64::try_from(u128::from(total) * u128::from(*share) / sum).unwrap_or(0);
    let mut parts: Vec<u64> = shares.iter().map(exact).collect();
    let missing = total - parts.iter().sum::<u64>();
    if let Some(i) = (0..shares.len()).max_by_key(|i| (shares[*i], std::cmp::Reverse(*i))) {
        parts[i] += missing;
    }
    parts
}

/// Whole weights for shares: with the sum of what is asked for where that is exact, so that numbers stay familiar, else out of 100
/// or 999 (I12: a share above 0 never becomes 0).
pub(super) fn weights(shares: &[u64], requested_sum: u32) -> Vec<Weight> {
    let most = Weight::MAX.get();
    // Neither a hundredth of a weight nor half a thousandth of all requests is a difference that anybody could see.
    let near = |share: u64, total: u32| {
        let scaled = share * u64::from(total);
        let rest = scaled % ALL;
        rest.min(ALL - rest) <= (ALL / 100).min(u64::from(total) * ALL / 2000)
    };
    let exact = |total: &u32| (1..=most).contains(total) && shares.iter().all(|share| near(*share, *total));
    let total = [requested_sum, 100].into_iter().find(exact).unwrap_or(most);
    apportion(shares, total).into_iter().map(|part| Weight::new(part.min(most)).unwrap_or(Weight::MAX)).collect()
}
