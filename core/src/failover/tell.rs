//! What is told of a decision: its numbers, its sentences, and when the next may follow.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    Input, Memory, WHOLE,
    decide::Seen,
    explain::{ClusterExplanation, Explanation, LevelExplanation, Pending, Standing},
    memory::ClusterMemory,
    room::{capacity, carried, parts},
    score::EXPECTED_WINDOW,
    share::{ALL, Shares, factor},
    timing, words,
};
use crate::{
    ids::{ClusterName, Weight},
    status::Reason,
};

/// The numbers of a decision, with its sentences.
pub(super) fn explain(
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
            at: input.rules.and_then(|rules| timing::pending_until(remembered, rules, input.failback_at)),
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

/// When another decision may follow by time alone.
pub(super) fn again_at(input: &Input<'_>, memory: &Memory) -> Option<Timestamp> {
    let rules = input.rules?;
    let hour = |at: &Timestamp| at.checked_add(timing::HOUR).ok();
    let of = |cluster: &ClusterMemory| {
        let short = cluster.expected.values().filter_map(|zone| zone.short_since?.checked_add(EXPECTED_WINDOW).ok());
        short
            .chain(timing::pending_until(cluster, rules, input.failback_at))
            .chain(timing::next_step(cluster, rules))
            .collect::<Vec<_>>()
    };
    let times = memory.clusters.values().flat_map(of).chain(memory.moves.first().and_then(hour));
    times.filter(|at| *at > input.now).min()
}

/// How much of its share a cluster carries at this score, for messages.
pub(super) fn factor_of(score: u32, input: &Input<'_>) -> u32 {
    input.rules.map_or(WHOLE, |rules| factor(score, rules))
}
