//! One decision: scores, times, shares, and the reasons for what differs from the request.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    ClusterInput, Input, Memory, Rules, WHOLE,
    explain::Explanation,
    memory::{Asked, ClusterMemory, LastDecision},
    room::{carried, is_near, parts, shares, without_health},
    score::{self, Counts, Expected},
    share::{self, ALL, Shares},
    tell::{again_at, explain},
    timing, words,
};
use crate::{
    fleet::Mode,
    ids::{ClusterName, Weight},
    status::Note,
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
        Some(_) => memory.clusters.values_mut().for_each(|cluster| cluster.pending = None),
        None => forget_health(&mut memory),
    }
    let since = memory.panic_since.unwrap_or(input.now);
    memory.panic_since = panic.then_some(since);
    let shares = if panic { without_health(input, &seen) } else { shares(input, &seen, &memory) };
    let (weights, shares) = settle(input, &seen, shares, panic, &mut memory);
    let explanation = explain(input, &seen, &memory, &weights, shares.as_ref(), panic, &lost);
    let notes = words::notes(&explanation, shares.as_ref());
    let again_at = again_at(input, &memory);
    Decided { weights, memory, explanation, notes, again_at }
}

/// Without rules nothing is out: whoever adds them later begins with what is seen then.
fn forget_health(memory: &mut Memory) {
    memory.moves.clear();
    for cluster in memory.clusters.values_mut() {
        *cluster = ClusterMemory { expected: std::mem::take(&mut cluster.expected), ..ClusterMemory::default() };
    }
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

/// No cluster that could carry looks healthy. One that cannot be seen is not unhealthy. One that an operator drained carries nothing; but
/// with targets that the load balancer finds healthy it proves that the observer is well, and it is there when nobody else is.
fn looks_all_bad(input: &Input<'_>, seen: &[Seen], rules: &Rules) -> bool {
    let places = || input.clusters.iter().zip(seen).filter(|(cluster, _)| cluster.place().is_some());
    let looks_bad = |(cluster, seen): (&ClusterInput, &Seen)| {
        let drained = cluster.ceiling.permille == 0;
        match seen.score {
            Some(score) => !is_healthy(score, rules) || (drained && seen.counts.healthy == 0),
            None => drained,
        }
    };
    places().any(|(cluster, _)| cluster.ceiling.permille > 0) && places().all(looks_bad)
}

fn is_healthy(score: u32, rules: &Rules) -> bool {
    score >= rules.panic_threshold_percent * WHOLE / 100
}

fn move_in_time(input: &Input<'_>, seen: &[Seen], rules: &Rules, memory: &mut Memory) {
    let now = input.now;
    timing::forget_old(&mut memory.moves, now);
    memory.clusters.values_mut().for_each(|cluster| timing::follow_clock(cluster, now));
    for (cluster, seen) in input.clusters.iter().zip(seen) {
        let (Some(score), Some(sight)) = (seen.score, &cluster.sight) else { continue };
        let Some(remembered) = memory.clusters.get_mut(&cluster.cluster) else { continue };
        // Where nothing was ever there, nothing has failed: pods that come later find the cluster as if it had been well.
        if remembered.used.is_none() && seen.counts.expected == 0 && cluster.registered == 0 {
            continue;
        }
        let look = timing::Look {
            rules,
            score,
            read_at: sight.read_at,
            matters: cluster.matters() && !is_held_out(cluster),
            exhausted: memory.moves.len() >= rules.max_moves_per_hour as usize,
            failback_at: input.failback_at,
            now,
        };
        if timing::step(remembered, &look) {
            remember_move(memory, rules, now);
        }
    }
    let exhausted = memory.moves.len() >= rules.max_moves_per_hour as usize;
    if let Some(name) = last_resort(input, seen, rules, memory).filter(|_| !exhausted) {
        let score = input.clusters.iter().zip(seen).find(|(cluster, _)| cluster.cluster == name);
        let remembered = memory.clusters.entry(name).or_default();
        let expected = std::mem::take(&mut remembered.expected);
        let outs = std::mem::take(&mut remembered.outs);
        let used = score.and_then(|(_, seen)| seen.score);
        *remembered = ClusterMemory { expected, outs, used, ..ClusterMemory::default() };
        remember_move(memory, rules, now);
    }
}

/// An operator keeps it out: that its pods go and come meanwhile is no failure, and its return is the operator's.
fn is_held_out(cluster: &ClusterInput) -> bool {
    let carries = cluster.programmed.is_some_and(Weight::carries);
    cluster.ceiling.permille == 0 || (cluster.ceiling.mode == Mode::Returning && !carries)
}

fn remember_move(memory: &mut Memory, rules: &Rules, now: Timestamp) {
    memory.moves.push(now);
    if memory.moves.len() > rules.max_moves_per_hour as usize {
        memory.moves.remove(0);
    }
}

/// While nothing that carries looks healthy, a cluster that does is taken at once, whatever it still had to wait for: nothing could
/// be worse than what is. Past the moves of an hour nobody is: then all get what is asked for, which is half right at least.
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

/// From shares to weights; what was decided last stays where nothing worth a call has changed.
fn settle(
    input: &Input<'_>,
    seen: &[Seen],
    shares: Option<Shares>,
    panic: bool,
    memory: &mut Memory,
) -> (Vec<(ClusterName, Weight)>, Option<Shares>) {
    let requested: Vec<(ClusterName, Weight)> =
        input.clusters.iter().map(|cluster| (cluster.cluster.clone(), cluster.requested)).collect();
    let asked = asked(input);
    let names = || input.clusters.iter().map(|cluster| cluster.cluster.clone());
    let before = memory.decided.take();
    // With the memory lost the rule itself says what was decided.
    let unremembered = before.is_none() && input.has_rule;
    let last = before.filter(|last| if panic { same_request(&last.asked, &asked) } else { last.asked == asked });
    let of_last = |last: &LastDecision| -> Vec<(ClusterName, Weight)> {
        names().map(|name| (name.clone(), last.weights.get(&name).copied().unwrap_or(Weight::ZERO))).collect()
    };
    let (weights, kept) = match (&shares, &last) {
        // Nobody looks healthy: what is, stays.
        (_, Some(last)) if panic => (of_last(last), true),
        (_, None) if panic && unremembered => (programmed(input).unwrap_or_else(|| requested.clone()), false),
        (None, _) => (requested.clone(), false),
        // Whatever moves, somebody gains, and nobody may who has no healthy target: then nothing moves.
        (Some(now), _) if nobody_may_gain(input, seen, now) => {
            (programmed(input).unwrap_or_else(|| requested.clone()), false)
        }
        (Some(now), Some(last)) if too_small(input, now, last) => (of_last(last), true),
        (Some(now), _) => (whole(input, seen, now, &requested), false),
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

/// No healthy target anywhere, and something else wanted than what is asked for.
fn nobody_may_gain(input: &Input<'_>, seen: &[Seen], now: &Shares) -> bool {
    let requested = parts(input.clusters.iter().map(|cluster| cluster.requested.get()));
    input.has_rule && seen.iter().all(|seen| seen.counts.healthy == 0) && !is_near(&now.shares, &requested)
}

/// What the rule says; none when it says nothing of these clusters.
fn programmed(input: &Input<'_>) -> Option<Vec<(ClusterName, Weight)>> {
    let of = |cluster: &ClusterInput| (cluster.cluster.clone(), cluster.programmed.unwrap_or(Weight::ZERO));
    let weights: Vec<(ClusterName, Weight)> = input.clusters.iter().map(of).collect();
    weights.iter().any(|(_, weight)| weight.carries()).then_some(weights)
}

/// Whoever changes the request while nobody looks healthy means it; a ceiling that goes on in its steps is no such word.
fn same_request(a: &Asked, b: &Asked) -> bool {
    let request = |asked: &Asked| -> BTreeMap<ClusterName, (Weight, Weight)> {
        asked.iter().map(|(name, (requested, standby, _))| (name.clone(), (*requested, *standby))).collect()
    };
    request(a) == request(b)
}

fn asked(input: &Input<'_>) -> Asked {
    let of = |cluster: &ClusterInput| {
        let standby = cluster.standby.map_or(Weight::ZERO, |(_, weight)| weight);
        // One more than a whole for a cluster without a ceiling, so that the end of a drain is no small change either.
        let free = cluster.ceiling.mode == Mode::Active;
        (cluster.requested, standby, if free { WHOLE + 1 } else { cluster.ceiling.permille })
    };
    input.clusters.iter().map(|cluster| (cluster.cluster.clone(), of(cluster))).collect()
}

/// Whole weights for the shares; exactly what is asked for where the shares are.
fn whole(
    input: &Input<'_>,
    seen: &[Seen],
    shares: &Shares,
    requested: &[(ClusterName, Weight)],
) -> Vec<(ClusterName, Weight)> {
    let sum: u32 = requested.iter().map(|(_, weight)| weight.get()).sum();
    let asked = parts(requested.iter().map(|(_, weight)| weight.get()));
    if is_near(&shares.shares, &asked) {
        return requested.to_vec();
    }
    let names = input.clusters.iter().map(|cluster| cluster.cluster.clone());
    let mut weights = share::weights(&shares.shares, sum);
    if input.has_rule {
        lower_unproven(input, seen, &mut weights);
    }
    names.zip(weights).collect()
}

/// Rounding raises nobody without a healthy target: such a rise would hold back the whole change ([`crate::weights`]).
fn lower_unproven(input: &Input<'_>, seen: &[Seen], weights: &mut [Weight]) {
    let programmed = |i: usize| input.clusters[i].programmed.map_or(0, Weight::get);
    let of_rule: u32 = (0..weights.len()).map(programmed).sum();
    let sum: u32 = weights.iter().map(|weight| weight.get()).sum();
    let Some(taker) = (0..weights.len()).filter(|i| seen[*i].counts.healthy > 0).max_by_key(|i| weights[*i]) else {
        return;
    };
    for i in (0..weights.len()).filter(|i| seen[*i].counts.healthy == 0) {
        let most = (programmed(i) * sum).checked_div(of_rule).unwrap_or(0);
        let over = weights[i].get().saturating_sub(most);
        // More than a rounding is not meant to be hidden.
        if over == 1 {
            let both = [(i, weights[i].get() - 1), (taker, weights[taker].get() + 1)];
            if let [(i, Ok(less)), (taker, Ok(more))] = both.map(|(i, weight)| (i, Weight::new(weight))) {
                (weights[i], weights[taker]) = (less, more);
            }
        }
    }
}

/// What rounding to whole weights can make of a share, out of [`ALL`]: without it a share that may not grow would give way bit by bit,
/// each bit a call.
const ROUNDING: u64 = ALL * 6 / 1000;

/// True when no share changes by more than the dead band, nobody begins or stops to carry, and it is no return to the request.
fn too_small(input: &Input<'_>, now: &Shares, last: &LastDecision) -> bool {
    let percent = input.rules.map_or(0, |rules| rules.dead_band_percent);
    let band = (u64::from(percent) * ALL / 100).max(ROUNDING);
    let requested = parts(input.clusters.iter().map(|cluster| cluster.requested.get()));
    if is_near(&now.shares, &requested) {
        return false;
    }
    input.clusters.iter().zip(&now.shares).all(|(cluster, share)| {
        let before = u64::from(last.shares.get(&cluster.cluster).copied().unwrap_or(0));
        before.abs_diff(*share) < band && (before > 0) == (*share > 0)
    })
}
