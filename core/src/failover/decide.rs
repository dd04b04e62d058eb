//! One decision: scores, times, shares, and the reasons for what differs from the request.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    ClusterInput, Input, Memory, Rules, WHOLE,
    explain::{ClusterExplanation, Explanation, LevelExplanation, Pending, Standing},
    memory::{ClusterMemory, LastDecision},
    score::{self, Counts, EXPECTED_WINDOW, Expected},
    share::{self, ALL, Carrier, Shares, factor},
    timing, words,
};
use crate::{
    fleet::Mode,
    ids::{ClusterName, Weight},
    status::{Note, Reason},
};

/// What should be programmed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// A weight for each cluster, in the order of the input.
    pub weights: Vec<(ClusterName, Weight)>,
    /// To be remembered.
    pub memory: Memory,
    /// With all numbers.
    pub explanation: Explanation,
    /// What users have to hear beside the reasons of single clusters.
    pub notes: Vec<Note>,
    /// When another decision may follow although nothing else changed.
    pub again_at: Option<Timestamp>,
}

/// What a cluster looks like at this moment.
pub(super) struct Seen {
    pub(super) counts: Counts,
    /// None: not known.
    pub(super) score: Option<u32>,
}

/// Decides the weights of one policy.
pub fn decide(input: &Input<'_>, memory: Memory) -> Decided {
    let mut memory = memory;
    memory.clusters.retain(|name, _| input.clusters.iter().any(|cluster| cluster.cluster == *name));
    let lost = expect(input, &mut memory);
    let seen: Vec<Seen> = input.clusters.iter().map(|cluster| look(cluster, &memory, &lost)).collect();
    let panic = input.rules.is_some_and(|rules| looks_all_bad(input, &seen, rules));
    match input.rules {
        Some(rules) if !panic => move_in_time(input, &seen, rules, &mut memory),
        _ => memory.clusters.values_mut().for_each(|cluster| cluster.pending = None),
    }
    let since = memory.panic_since.unwrap_or(input.now);
    memory.panic_since = panic.then_some(since);
    let shares = if panic { None } else { shares(input, &seen, &memory) };
    let (weights, shares) = settle(input, shares, panic, &mut memory);
    let explanation = explain(input, &seen, &memory, &weights, shares.as_ref(), panic, &lost);
    let notes = words::notes(&explanation, shares.as_ref());
    let again_at = again_at(input, &memory);
    Decided { weights, memory, explanation, notes, again_at }
}

/// Keeps how many targets each cluster should have, and names the zones that are lost everywhere.
fn expect(input: &Input<'_>, memory: &mut Memory) -> BTreeSet<String> {
    for cluster in input.clusters {
        let remembered = memory.clusters.entry(cluster.cluster.clone()).or_default();
        let Some(sight) = &cluster.sight else { continue };
        let nothing = score::ZoneSight::default();
        let zones: BTreeSet<&String> = sight.zones.keys().chain(remembered.expected.keys()).collect();
        let next = |zone: &String| {
            let seen = sight.zones.get(zone).unwrap_or(&nothing);
            (zone.clone(), Expected::next(remembered.expected.get(zone).copied(), seen, input.now))
        };
        let expected: BTreeMap<String, Expected> = zones.into_iter().map(next).collect();
        remembered.expected = expected.into_iter().filter(|(_, zone)| *zone != Expected::default()).collect();
    }
    if input.rules.is_none() {
        return BTreeSet::new();
    }
    score::lost_zones(input.clusters.iter().filter_map(|cluster| {
        let sight = cluster.sight.as_ref().filter(|_| cluster.place().is_some())?;
        Some((sight, &memory.clusters.get(&cluster.cluster)?.expected))
    }))
}

fn look(cluster: &ClusterInput, memory: &Memory, lost: &BTreeSet<String>) -> Seen {
    let expected = memory.clusters.get(&cluster.cluster).map(|remembered| &remembered.expected);
    match (&cluster.sight, expected) {
        (Some(sight), Some(expected)) => {
            let counts = score::counts(sight, expected, lost);
            Seen { counts, score: Some(counts.score()) }
        }
        _ => Seen { counts: Counts::default(), score: None },
    }
}

/// No cluster that could carry looks healthy. One that cannot be seen is not unhealthy.
fn looks_all_bad(input: &Input<'_>, seen: &[Seen], rules: &Rules) -> bool {
    let mut places = input.clusters.iter().zip(seen).filter(|(cluster, _)| cluster.place().is_some()).peekable();
    places.peek().is_some() && places.all(|(_, seen)| seen.score.is_some_and(|score| !is_healthy(score, rules)))
}

fn is_healthy(score: u32, rules: &Rules) -> bool {
    score >= rules.panic_threshold_percent * WHOLE / 100
}

fn move_in_time(input: &Input<'_>, seen: &[Seen], rules: &Rules, memory: &mut Memory) {
    let now = input.now;
    timing::forget_old(&mut memory.moves, now);
    for (cluster, seen) in input.clusters.iter().zip(seen) {
        let (Some(score), Some(sight)) = (seen.score, &cluster.sight) else { continue };
        let Some(remembered) = memory.clusters.get_mut(&cluster.cluster) else { continue };
        let look = timing::Look {
            rules,
            score,
            read_at: sight.read_at,
            matters: cluster.matters(),
            exhausted: memory.moves.len() >= rules.max_moves_per_hour as usize,
            failback_at: input.failback_at,
            now,
        };
        if timing::step(remembered, &look) {
            remember_move(memory, rules, now);
        }
    }
    if let Some(name) = last_resort(input, seen, rules, memory) {
        let score = input.clusters.iter().zip(seen).find(|(cluster, _)| cluster.cluster == name);
        let remembered = memory.clusters.entry(name).or_default();
        let expected = std::mem::take(&mut remembered.expected);
        let outs = std::mem::take(&mut remembered.outs);
        let used = score.and_then(|(_, seen)| seen.score);
        *remembered = ClusterMemory { expected, outs, used, ..ClusterMemory::default() };
        remember_move(memory, rules, now);
    }
}

fn remember_move(memory: &mut Memory, rules: &Rules, now: Timestamp) {
    memory.moves.push(now);
    if memory.moves.len() > rules.max_moves_per_hour as usize {
        memory.moves.remove(0);
    }
}

/// While nothing that carries looks healthy, a cluster that does is taken at once, whatever it still had to wait for: nothing could
/// be worse than what is.
fn last_resort(input: &Input<'_>, seen: &[Seen], rules: &Rules, memory: &Memory) -> Option<ClusterName> {
    let used = |name: &ClusterName| memory.clusters.get(name).and_then(|remembered| carried(remembered, rules));
    let mut places = input.clusters.iter().filter(|cluster| cluster.place().is_some());
    if places.any(|cluster| used(&cluster.cluster).is_none_or(|used| is_healthy(used, rules))) {
        return None;
    }
    let places = input.clusters.iter().zip(seen).filter(|(cluster, _)| cluster.place().is_some());
    let best =
        places.filter_map(|(cluster, seen)| Some((seen.score.filter(|score| is_healthy(*score, rules))?, cluster)));
    best.max_by_key(|(score, cluster)| (*score, std::cmp::Reverse(&cluster.cluster))).map(|(_, c)| c.cluster.clone())
}

/// The score that is used, held down by a return that is under way; none: it was never seen.
fn carried(remembered: &ClusterMemory, rules: &Rules) -> Option<u32> {
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

fn shares(input: &Input<'_>, seen: &[Seen], memory: &Memory) -> Option<Shares> {
    let percent = input.rules.map_or(100, |rules| rules.overprovisioning_percent);
    let health: Vec<u32> = input.clusters.iter().map(|cluster| health(cluster, input, memory)).collect();
    let ceilings: Vec<u32> = input.clusters.iter().map(|cluster| cluster.ceiling.permille).collect();
    let untouched = input.clusters.iter().all(|cluster| cluster.ceiling == crate::fleet::Ceiling::default());
    // An operator's drain is obeyed as long as anybody else carries.
    let none = vec![WHOLE; ceilings.len()];
    let first = shares_under(input, seen, &health, &ceilings, percent);
    match first {
        Some(shares) => Some(shares),
        None if untouched => None,
        None => shares_under(input, seen, &health, &none, percent),
    }
}

fn health(cluster: &ClusterInput, input: &Input<'_>, memory: &Memory) -> u32 {
    let Some(rules) = input.rules else { return WHOLE };
    memory.clusters.get(&cluster.cluster).and_then(|remembered| carried(remembered, rules)).unwrap_or(WHOLE)
}

fn shares_under(input: &Input<'_>, seen: &[Seen], health: &[u32], ceilings: &[u32], percent: u32) -> Option<Shares> {
    let requested = parts(input.clusters.iter().map(|cluster| cluster.requested.get()));
    let programmed = parts(input.clusters.iter().map(|cluster| cluster.programmed.map_or(0, Weight::get)));
    let carrier = |i: usize| {
        let cluster = &input.clusters[i];
        let programmed = programmed[i];
        let cordoned = cluster.ceiling.mode == Mode::Cordoned && input.has_rule;
        Carrier {
            place: cluster.place().map(|(level, weight)| (level, weight.get())),
            score: health[i].min(below(ceilings[i], percent)),
            requested: requested[i],
            most: cordoned.then_some(programmed),
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
    }
    share::split(&carriers, percent)
}

/// Rounding of thirds is no difference.
fn is_near(shares: &[u64], requested: &[u64]) -> bool {
    shares.iter().zip(requested).all(|(a, b)| a.abs_diff(*b) <= ALL / 1000 / 2)
}

/// The share of the peak that the healthy targets carry, out of [`ALL`]; none: not declared, or not known.
fn capacity(input: &Input<'_>, seen: &Seen) -> Option<u64> {
    let capacity = input.capacity.filter(|_| seen.score.is_some())?;
    let carries = u64::from(seen.counts.healthy) * u64::from(capacity.requests_per_second_per_target);
    Some(carries * ALL / u64::from(capacity.peak_requests_per_second))
}

/// From shares to weights; what was decided last stays where nothing worth a call has changed.
fn settle(
    input: &Input<'_>,
    shares: Option<Shares>,
    panic: bool,
    memory: &mut Memory,
) -> (Vec<(ClusterName, Weight)>, Option<Shares>) {
    let requested: Vec<(ClusterName, Weight)> =
        input.clusters.iter().map(|cluster| (cluster.cluster.clone(), cluster.requested)).collect();
    let asked = asked(input);
    let names = || input.clusters.iter().map(|cluster| cluster.cluster.clone());
    let last = memory.decided.take().filter(|last| last.asked == asked);
    let of_last = |last: &LastDecision| -> Vec<(ClusterName, Weight)> {
        names().map(|name| (name.clone(), last.weights.get(&name).copied().unwrap_or(Weight::ZERO))).collect()
    };
    let (weights, kept) = match (&shares, &last) {
        // Nobody looks healthy: what is, stays.
        (_, Some(last)) if panic => (of_last(last), true),
        (None, _) => (requested.clone(), false),
        (Some(now), Some(last)) if too_small(input, now, last) => (of_last(last), true),
        (Some(now), _) => (whole(input, now, &requested), false),
    };
    let parts = parts(weights.iter().map(|(_, weight)| weight.get()));
    let same = last.filter(|last| kept || of_last(last) == weights);
    let decided = same.unwrap_or_else(|| LastDecision {
        asked,
        shares: names().zip(&parts).map(|(name, part)| (name, u32::try_from(*part).unwrap_or(u32::MAX))).collect(),
        weights: weights.iter().cloned().collect(),
        at: input.now,
    });
    memory.decided = Some(decided);
    (weights, shares.map(|shares| Shares { shares: parts, ..shares }))
}

fn asked(input: &Input<'_>) -> BTreeMap<ClusterName, (Weight, Weight, u32)> {
    let of = |cluster: &ClusterInput| {
        let standby = cluster.standby.map_or(Weight::ZERO, |(_, weight)| weight);
        // One more than a whole for a cluster without a ceiling, so that the end of a drain is no small change either.
        let free = cluster.ceiling.mode == Mode::Active;
        (cluster.requested, standby, if free { WHOLE + 1 } else { cluster.ceiling.permille })
    };
    input.clusters.iter().map(|cluster| (cluster.cluster.clone(), of(cluster))).collect()
}

/// Whole weights for the shares; exactly what is asked for where the shares are.
fn whole(input: &Input<'_>, shares: &Shares, requested: &[(ClusterName, Weight)]) -> Vec<(ClusterName, Weight)> {
    let sum: u32 = requested.iter().map(|(_, weight)| weight.get()).sum();
    let asked = parts(requested.iter().map(|(_, weight)| weight.get()));
    if is_near(&shares.shares, &asked) {
        return requested.to_vec();
    }
    let names = input.clusters.iter().map(|cluster| cluster.cluster.clone());
    names.zip(share::weights(&shares.shares, sum)).collect()
}

/// True when no share changes by more than the dead band, nobody begins or stops to carry, and it is no return to the request.
fn too_small(input: &Input<'_>, now: &Shares, last: &LastDecision) -> bool {
    let Some(rules) = input.rules else { return false };
    let band = u64::from(rules.dead_band_percent) * ALL / 100;
    let requested = parts(input.clusters.iter().map(|cluster| cluster.requested.get()));
    if is_near(&now.shares, &requested) {
        return false;
    }
    input.clusters.iter().zip(&now.shares).all(|(cluster, share)| {
        let before = u64::from(last.shares.get(&cluster.cluster).copied().unwrap_or(0));
        before.abs_diff(*share) < band && (before > 0) == (*share > 0)
    })
}

fn explain(
    input: &Input<'_>,
    seen: &[Seen],
    memory: &Memory,
    weights: &[(ClusterName, Weight)],
    shares: Option<&Shares>,
    panic: bool,
    lost: &BTreeSet<String>,
) -> Explanation {
    let requested = parts(input.clusters.iter().map(|cluster| cluster.requested.get()));
    let decided = parts(weights.iter().map(|(_, weight)| weight.get()));
    let permille = |share: u64| u32::try_from(share * u64::from(WHOLE) / ALL).unwrap_or(WHOLE);
    let cluster = |i: usize| {
        let (cluster, counts) = (&input.clusters[i], seen[i].counts);
        let nothing = ClusterMemory::default();
        let remembered = memory.clusters.get(&cluster.cluster).unwrap_or(&nothing);
        let pending = remembered.pending.filter(|_| input.rules.is_some()).map(|pending| Pending {
            back: pending.back,
            since: pending.since,
            at: input.rules.and_then(|rules| timing::pending_until(remembered, rules)),
        });
        ClusterExplanation {
            cluster: cluster.cluster.clone(),
            priority: cluster.place().map_or(0, |(level, _)| level),
            requested: cluster.requested,
            standby: cluster
                .standby
                .filter(|_| !cluster.requested.carries())
                .map_or(Weight::ZERO, |(_, weight)| weight),
            decided: weights[i].1,
            programmed: cluster.programmed,
            link: cluster.link,
            mode: cluster.ceiling.mode,
            ceiling: cluster.ceiling.permille,
            expected: counts.expected,
            healthy: counts.healthy,
            unjudged: counts.unjudged,
            unhealthy: counts.unhealthy,
            known: seen[i].score.is_some(),
            score: seen[i].score.unwrap_or(0),
            used: input.rules.and_then(|rules| carried(remembered, rules)).unwrap_or(WHOLE),
            share: permille(decided[i]),
            requested_share: permille(requested[i]),
            capacity: capacity(input, &seen[i]).map(permille),
            pending,
            out_since: remembered.out_since,
            outs: u32::try_from(remembered.outs.len()).unwrap_or(u32::MAX),
            held_until: pending.filter(|pending| pending.back).and_then(|pending| pending.at),
            reason: Reason::AsRequested,
            message: String::new(),
        }
    };
    let levels = shares.into_iter().flat_map(|shares| &shares.levels).map(|level| LevelExplanation {
        priority: level.priority,
        health: level.health,
        load: level.load,
    });
    let mut explanation = Explanation {
        standing: standing(input, weights, panic),
        message: String::new(),
        clusters: (0..input.clusters.len()).map(cluster).collect(),
        levels: levels.collect(),
        moves_last_hour: u32::try_from(memory.moves.len()).unwrap_or(u32::MAX),
        max_moves_per_hour: input.rules.map_or(0, |rules| rules.max_moves_per_hour),
        decided_at: memory.decided.as_ref().map(|decided| decided.at),
        lost_zones: lost.iter().cloned().collect(),
    };
    words::fill(input, &mut explanation, memory);
    explanation
}

fn standing(input: &Input<'_>, weights: &[(ClusterName, Weight)], panic: bool) -> Standing {
    let same = input.clusters.iter().zip(weights).all(|(cluster, (_, weight))| cluster.requested == *weight);
    match (panic, same, input.rules) {
        (true, ..) => Standing::Panic,
        (false, false, _) => Standing::FailedOver,
        (false, true, Some(_)) => Standing::AsRequested,
        (false, true, None) => Standing::Off,
    }
}

fn again_at(input: &Input<'_>, memory: &Memory) -> Option<Timestamp> {
    let rules = input.rules?;
    let hour = |at: &Timestamp| at.checked_add(timing::HOUR).ok();
    let of = |cluster: &ClusterMemory| {
        let short = cluster.expected.values().filter_map(|zone| zone.short_since?.checked_add(EXPECTED_WINDOW).ok());
        short.chain(timing::pending_until(cluster, rules)).chain(timing::next_step(cluster, rules)).collect::<Vec<_>>()
    };
    let times = memory.clusters.values().flat_map(of).chain(memory.moves.first().and_then(hour));
    times.filter(|at| *at > input.now).min()
}

/// How much of its share a cluster carries at this score, for messages.
pub(super) fn factor_of(score: u32, input: &Input<'_>) -> u32 {
    input.rules.map_or(WHOLE, |rules| factor(score, rules))
}
