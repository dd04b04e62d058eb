//! Sentences for decisions: each with its numbers, and what helps.

use super::{
    ClusterInput, Input, Memory, WHOLE,
    explain::{ClusterExplanation, Explanation, Standing},
    share::Shares,
    tell::factor_of,
};
use crate::{
    fleet::Mode,
    policy::spec::Failback,
    status::{Note, Reason},
};

fn percent(permille: u32) -> String {
    if permille.is_multiple_of(10) {
        format!("{} %", permille / 10)
    } else {
        format!("{:.1} %", f64::from(permille) / 10.0)
    }
}

/// Puts the reason and the sentence to each cluster that gets something else than what is asked for, and to the whole.
pub(super) fn fill(input: &Input<'_>, explanation: &mut Explanation, memory: &Memory) {
    let giving: Vec<String> = explanation
        .clusters
        .iter()
        .filter(|cluster| cluster.share < cluster.requested_share)
        .map(|cluster| cluster.cluster.to_string())
        .collect();
    for (cluster, of_input) in explanation.clusters.iter_mut().zip(input.clusters) {
        if cluster.decided == of_input.requested {
            continue;
        }
        (cluster.reason, cluster.message) = if cluster.share < cluster.requested_share {
            less(input, of_input, cluster, memory)
        } else {
            let from = giving.join(", ");
            let name = &cluster.cluster;
            let (share, requested) = (percent(cluster.share), percent(cluster.requested_share));
            (
                Reason::FailedOver,
                format!("{name} gets {share} instead of {requested}: it takes what {from} does not get"),
            )
        };
    }
    explanation.message = whole(input, explanation);
}

fn less(input: &Input<'_>, of_input: &ClusterInput, cluster: &ClusterExplanation, memory: &Memory) -> (Reason, String) {
    let name = &cluster.cluster;
    let (share, requested) = (percent(cluster.share), percent(cluster.requested_share));
    let start = format!("{name} gets {share} instead of {requested}");
    let limit = memory.clusters.get(name).and_then(|remembered| remembered.limit);
    let unproven = input.has_rule && cluster.known && cluster.healthy == 0 && !cluster.decided.carries();
    if of_input.ceiling.mode == Mode::Returning && unproven {
        let registered = of_input.registered;
        let message =
            format!("{start}: none of its {registered} registered targets is healthy yet, so it waits with its return");
        return (Reason::NoHealthyTarget, message);
    }
    if of_input.ceiling.permille < WHOLE {
        let ceiling = percent(of_input.ceiling.permille);
        return match of_input.ceiling.mode {
            Mode::Returning => (Reason::Returning, format!("{start}: it comes back in steps and is at {ceiling}")),
            Mode::Removed => (Reason::ClusterRemoved, format!("{start}: an operator removed it")),
            Mode::Cordoned => {
                let message = format!(
                    "{start}: it was cordoned on its way back and stays at {ceiling} of its share; yardctl uncordon {name}"
                );
                (Reason::Cordoned, message)
            }
            Mode::Active | Mode::Draining | Mode::Drained => {
                (Reason::Draining, format!("{start}: an operator drains it, at most {ceiling} of its share is left"))
            }
        };
    }
    if factor_of(cluster.used, input) < WHOLE && limit.is_none() {
        return (Reason::FailedOver, format!("{start}: {}; {}", health(cluster), returns(input, cluster)));
    }
    if let Some(limit) = limit {
        let limit = percent(limit);
        return (Reason::Returning, format!("{start}: it is healthy again and comes back in steps, it is at {limit}"));
    }
    if of_input.ceiling.mode == Mode::Cordoned {
        return (
            Reason::Cordoned,
            format!("{start}: it is cordoned, so it gets no new weight; yardctl uncordon {name}"),
        );
    }
    (Reason::FailedOver, format!("{start}: its level cannot carry everything, the next one takes the rest"))
}

fn health(cluster: &ClusterExplanation) -> String {
    let since = cluster.out_since.map(|since| format!(" since {since:.0}")).unwrap_or_default();
    if !cluster.known {
        return format!("it was at {}{since}, and its targets cannot be read now", percent(cluster.used));
    }
    let unjudged = if cluster.unjudged > 0 { format!(", {} not judged yet", cluster.unjudged) } else { String::new() };
    format!(
        "{} of {} expected targets are healthy{unjudged} ({}), it is taken for {}{since}",
        cluster.healthy,
        cluster.expected,
        percent(cluster.score),
        percent(cluster.used)
    )
}

fn returns(input: &Input<'_>, cluster: &ClusterExplanation) -> String {
    let Some(rules) = input.rules else { return String::new() };
    match (cluster.pending.filter(|pending| pending.back), rules.failback) {
        (Some(_), Failback::Manual) => {
            "it looks better now and returns when somebody says so (yardctl failback)".to_owned()
        }
        (Some(pending), Failback::Auto) => match pending.at {
            Some(at) if at > input.now => format!("it looks better now and returns at {at:.0}"),
            _ => format!(
                "it looks better now and waits, since {} moves within an hour are the limit (maxMovesPerHour); yardctl \
                 failback lets it return now",
                rules.max_moves_per_hour
            ),
        },
        (None, Failback::Manual) => "it returns when it is healthy and somebody says so (yardctl failback)".to_owned(),
        (None, Failback::Auto) => {
            let seconds = super::timing::hold_down(cluster.outs as usize, rules);
            format!("it returns after {seconds} s of health")
        }
    }
}

fn whole(input: &Input<'_>, explanation: &Explanation) -> String {
    match explanation.standing {
        Standing::Off => {
            "spec.failover is not set: weights are as requested whatever the health of clusters".to_owned()
        }
        Standing::AsRequested => "every cluster gets what is requested".to_owned(),
        Standing::Panic => {
            let threshold = input.rules.map_or(0, |rules| rules.panic_threshold_percent);
            let scores: Vec<String> = explanation
                .clusters
                .iter()
                .filter(|cluster| cluster.requested.carries() || cluster.standby.carries())
                .map(|cluster| {
                    format!(
                        "{} {} of {} ({})",
                        cluster.cluster,
                        cluster.healthy,
                        cluster.expected,
                        percent(cluster.score)
                    )
                })
                .collect();
            format!(
                "no cluster has {threshold} % healthy targets ({}), so the observer is the likely fault and nothing is \
                 changed; look at the health check, security groups and the last release, or set weights by hand",
                scores.join(", ")
            )
        }
        Standing::FailedOver => {
            let differ = explanation.clusters.iter().filter(|c| c.reason != Reason::AsRequested);
            let sentences: Vec<&str> = differ.map(|cluster| cluster.message.as_str()).collect();
            sentences.join("; ")
        }
    }
}

/// Alarms, beside the reasons of clusters.
pub(super) fn notes(explanation: &Explanation, shares: Option<&Shares>) -> Vec<Note> {
    let note = |reason, message: String| Note { cluster: None, reason, message };
    let mut notes = Vec::new();
    if explanation.standing == Standing::Panic {
        notes.push(note(Reason::Panic, explanation.message.clone()));
    }
    let carrying = || explanation.clusters.iter().filter(|c| c.requested.carries() || c.standby.carries());
    let out = explanation.standing == Standing::AsRequested && carrying().all(|cluster| cluster.used == 0);
    if out && carrying().next().is_some() {
        let message = format!(
            "every cluster went out, and {} moves within an hour are the limit (maxMovesPerHour), so all get what is \
             requested; look at their health, or let those return that are well (yardctl failback)",
            explanation.max_moves_per_hour
        );
        notes.push(note(Reason::Panic, message));
    }
    if !explanation.lost_zones.is_empty() {
        let zones = explanation.lost_zones.join(", ");
        let message = format!(
            "zone {zones} has no healthy target in any cluster: what failed is the zone, so its targets are left out of the \
             scores"
        );
        notes.push(note(Reason::ZoneLost, message));
    }
    let permille = |share: u64| u32::try_from(share / 1000).unwrap_or(WHOLE);
    let Some(shares) = shares.filter(|_| explanation.standing == Standing::FailedOver) else { return notes };
    if shares.stayed > 0 {
        let message = format!(
            "{} of the requests stay where they were asked for: the others carry no more (spec.capacity, or no healthy \
             target); give them targets",
            percent(permille(shares.stayed))
        );
        notes.push(note(Reason::BrownOut, message));
    }
    if shares.forced > 0 {
        let message = format!(
            "{} of the requests go to clusters beyond what they can carry: nobody else answers; give them targets",
            percent(permille(shares.forced))
        );
        notes.push(note(Reason::Overloaded, message));
    }
    notes
}
