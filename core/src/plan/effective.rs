//! From requested to effective weights: failover and what operators want of clusters first, then the last word, that no share grows
//! where nothing is healthy.

use jiff::{SignedDuration, Timestamp};

use super::{
    draft::{ClusterDraft, Draft, RuleView},
    failures,
};
use crate::{
    failover::{self, ClusterInput, Decided},
    ids::Weight,
    status::Reason,
    weights::{self, Candidate, Effective},
};

/// Readings of the groups of a policy are made within this time of each other, unless all of them are slow: three times the default
/// interval between two readings of health.
const OLD_SIGHT: SignedDuration = SignedDuration::from_secs(30);

/// What failover decides by; clusters on their way out are not asked.
pub(super) fn inputs(draft: &Draft<'_>, now: Timestamp) -> Vec<ClusterInput> {
    let oldest = oldest_sight(draft, now);
    let standbys = &draft.record.policy.standbys;
    let of = |cluster: &ClusterDraft<'_>| ClusterInput {
        cluster: cluster.name.clone(),
        requested: cluster.requested,
        standby: standbys.iter().find(|of| of.cluster == cluster.name).map(|of| (of.priority, of.weight)),
        programmed: cluster.programmed,
        sight: cluster.sight.clone().filter(|sight| sight.read_at >= oldest),
        registered: cluster.counts.registered,
        link: cluster.link,
        ceiling: cluster.ceiling,
    };
    draft.clusters.iter().filter(|cluster| !cluster.leaving).map(of).collect()
}

/// Readings from before this are no news. One cluster is judged beside the others, so they must have been looked at at about the same
/// time: a hub that was stopped, or throttled for minutes, reads the sick one first and knows the others from long ago.
fn oldest_sight(draft: &Draft<'_>, now: Timestamp) -> Timestamp {
    let newest = draft.clusters.iter().filter_map(|cluster| cluster.sight.as_ref()).map(|sight| sight.read_at).max();
    let age = newest.map_or(SignedDuration::ZERO, |newest| now.duration_since(newest));
    now.saturating_sub(OLD_SIGHT.max(age.saturating_mul(3))).unwrap_or(Timestamp::MIN)
}

/// The rest of what failover decides by.
pub(super) fn input<'a>(draft: &Draft<'a>, clusters: &'a [ClusterInput], now: Timestamp) -> failover::Input<'a> {
    failover::Input {
        rules: draft.record.policy.failover.as_ref(),
        capacity: draft.record.policy.capacity.as_ref(),
        clusters,
        has_rule: matches!(draft.rule, RuleView::Present { .. }),
        failback_at: draft.record.failback_at,
        now,
    }
}

/// Decides the effective weights of a draft.
pub(super) fn decide(draft: &mut Draft<'_>, now: Timestamp) {
    let clusters = inputs(draft, now);
    let memory = std::mem::take(&mut draft.memory.failover);
    let decided = failover::decide(&input(draft, &clusters, now), memory);
    take(draft, decided);
}

fn take(draft: &mut Draft<'_>, decided: Decided) {
    draft.memory.failover = decided.memory;
    draft.decide_again_at = decided.again_at;
    draft.notes.extend(decided.notes);
    let asked = |cluster: &ClusterDraft<'_>| {
        let found = decided.weights.iter().find(|(name, _)| *name == cluster.name);
        found.map_or(Weight::ZERO, |(_, weight)| *weight)
    };
    let candidates = candidates(draft, asked);
    let present = !matches!(draft.rule, RuleView::Absent);
    let (effective, carries) = if present {
        (weights::for_present_rule(&candidates), matches!(draft.rule, RuleView::Present { .. }))
    } else {
        weights::for_new_rule(&candidates)
    };
    draft.wants_rule = carries;
    draft.effective = effective;
    draft.failover = decided.explanation;
    give_reasons(draft);
}

/// What is as decided, and still differs from the request, has the reason of the decision.
fn give_reasons(draft: &mut Draft<'_>) {
    for effective in &mut draft.effective {
        let explained = draft.failover.clusters.iter().find(|cluster| cluster.cluster == effective.cluster);
        let Some(explained) = explained else { continue };
        let as_decided = effective.reason == Reason::AsRequested;
        if as_decided && explained.reason != Reason::AsRequested {
            let Effective { reason, message, .. } = effective;
            (*reason, *message) = (explained.reason, explained.message.clone());
        }
    }
}

fn candidates(draft: &Draft<'_>, asked: impl Fn(&ClusterDraft<'_>) -> Weight) -> Vec<Candidate> {
    // A new rule is not written when a registration before it fails; a change of a rule that exists is, so for that only
    // what was read back counts.
    let new_rule = matches!(draft.rule, RuleView::Absent);
    let memory = &draft.memory;
    let about_to = |cluster: &ClusterDraft<'_>| {
        let no_group = cluster.group.is_none() && failures::cannot_be_made(memory, &cluster.group_name);
        if new_rule && !no_group { cluster.register.len() } else { 0 }
    };
    let candidate = |cluster: &ClusterDraft<'_>| Candidate {
        cluster: cluster.name.clone(),
        requested: asked(cluster),
        programmed: cluster.programmed,
        registered: cluster.counts.registered.saturating_add(u32::try_from(about_to(cluster)).unwrap_or(u32::MAX)),
        healthy: cluster.counts.healthy,
    };
    draft.clusters.iter().map(candidate).collect()
}
