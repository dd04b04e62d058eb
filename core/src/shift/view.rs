//! What a shift sees of the world: its policies with their status, and the gating switches. Made from what the planner knows.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{analysis::Measured, by_cluster};
use crate::{
    arn::TargetGroupArn,
    fleet::Mode,
    ids::{ClusterName, PolicyKey, PolicyUid, SwitchName, Weight},
    observed::Observed,
    policy::{Capacity, PolicyMemory, PolicyRecord, SafetyRules},
    status::{ConditionType, Note, PolicyStatus, Reason, TargetCounts},
};

/// Everything that a shift is moved by, beside calls.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// By the clock that every replica shares, and never going back within a term.
    pub now: Timestamp,
    /// The policies of the shift; one that is missing is gone.
    pub policies: &'a BTreeMap<PolicyKey, PolicyView>,
    /// All gating switches.
    pub switches: &'a [GatingSwitch],
    /// Measurements that came in since the last look.
    pub measured: &'a [Measured],
}

/// One policy as a shift sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyView {
    /// This one, not another of the same name.
    pub uid: PolicyUid,
    /// It is on its way out.
    pub deleting: bool,
    /// Nothing is written at AWS for it.
    pub frozen: bool,
    /// Its safety rules.
    pub safety: SafetyRules,
    /// Its declared capacity.
    pub capacity: Option<Capacity>,
    /// What is asked for now.
    pub requested: Vec<(ClusterName, Weight)>,
    /// Its clusters.
    pub clusters: Vec<ClusterView>,
    /// The rule was read back with what is asked for; none: not known at this moment.
    pub programmed: Option<bool>,
    /// And it has been so for the settle time.
    pub converged: bool,
    /// Since when the weights at AWS are what they are.
    pub moved_at: Option<Timestamp>,
    /// Why it is not programmed, or the first thing that is wrong with it.
    pub trouble: Option<Note>,
    /// Whether the clusters that lost their share are quiet.
    pub evidence: Evidence,
}

/// One cluster of a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterView {
    /// Its name.
    pub cluster: ClusterName,
    /// As read back; none: not in the rule, or not known.
    pub programmed: Option<Weight>,
    /// False while its targets are not known: the counts then say nothing.
    pub known: bool,
    /// Its targets.
    pub targets: TargetCounts,
    /// Its target group.
    pub target_group: Option<TargetGroupArn>,
    /// What operators want of it.
    pub mode: Mode,
}

/// What is known of requests that still reach clusters without a share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Evidence {
    /// No source of it is configured: the settle time stands alone.
    #[default]
    NotConfigured,
    /// They still get requests, or it is being asked, in words.
    Pending(String),
    /// Nothing can be said of it, in words: nothing was counted on either side, or the source does not answer.
    NoData(String),
    /// They get next to none.
    Quiet,
}

/// A switch over a group of policies: while it is off, their weights do not move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatingSwitch {
    /// Its name.
    pub name: SwitchName,
    /// `namespace/name`, where each side may be or end with `*`.
    pub policies: Vec<String>,
    /// False: weights do not move.
    pub on: bool,
    /// Why, as the caller said.
    pub reason: String,
}

impl GatingSwitch {
    /// True when it is about this policy.
    pub fn covers(&self, policy: &PolicyKey) -> bool {
        self.policies.iter().any(|pattern| covers(pattern, policy))
    }
}

fn covers(pattern: &str, policy: &PolicyKey) -> bool {
    let Some((namespace, name)) = pattern.split_once('/') else {
        return false;
    };
    let matches = |pattern: &str, value: &str| match pattern.strip_suffix('*') {
        Some(start) => value.starts_with(start),
        None => value == pattern,
    };
    matches(namespace, policy.namespace.as_str()) && matches(name, policy.name.as_str())
}

impl PolicyView {
    /// A policy, with the status that was made from this very record, or that was stored last. `observed` tells whether targets are
    /// known; without it they count as known.
    pub fn new(
        record: &PolicyRecord,
        status: Option<&PolicyStatus>,
        memory: &PolicyMemory,
        observed: Option<&Observed>,
        evidence: Evidence,
    ) -> Self {
        // A status of an older version speaks of other weights.
        let status = status.filter(|status| status.observed_version == record.version);
        let condition = |kind| status.and_then(|status| status.condition(kind)).and_then(|condition| condition.status);
        let known = |arn: Option<&TargetGroupArn>| match (arn, observed) {
            (Some(arn), Some(observed)) => {
                observed.target_groups.get(arn).is_some_and(|group| group.targets.get().is_some())
            }
            // Before AWS was read through once, a group that is not known may well exist.
            (None, Some(observed)) => observed.audited_at.is_some(),
            (_, None) => true,
        };
        let clusters = status.into_iter().flat_map(|status| &status.clusters).map(|cluster| ClusterView {
            cluster: cluster.cluster.clone(),
            programmed: cluster.programmed,
            known: known(cluster.target_group.as_ref()),
            targets: cluster.targets,
            target_group: cluster.target_group.clone(),
            mode: mode(status, &cluster.cluster),
        });
        Self {
            uid: record.uid.clone(),
            deleting: record.deleting_since.is_some(),
            frozen: record.policy.freeze,
            safety: record.policy.safety.clone(),
            capacity: record.policy.capacity.clone(),
            requested: record.requested(),
            clusters: clusters.collect(),
            programmed: condition(ConditionType::Programmed),
            converged: condition(ConditionType::Converged) == Some(true),
            moved_at: memory.programmed.as_ref().map(|programmed| programmed.since),
            trouble: trouble(status),
            evidence,
        }
    }

    /// One of its clusters.
    pub fn cluster(&self, name: &ClusterName) -> Option<&ClusterView> {
        self.clusters.iter().find(|cluster| cluster.cluster == *name)
    }

    /// True when exactly these weights are asked for and were read back. A cluster without a weight need not be in the rule.
    pub fn has(&self, weights: &[(ClusterName, Weight)]) -> bool {
        let read_back = |(name, weight): &(ClusterName, Weight)| {
            let programmed = self.cluster(name).and_then(|cluster| cluster.programmed);
            programmed == Some(*weight) || (programmed.is_none() && !weight.carries())
        };
        // A spec may name its clusters in another order than when the shift was made.
        let asked = by_cluster(&self.requested) == by_cluster(weights);
        self.programmed == Some(true) && asked && weights.iter().all(read_back)
    }
}

fn mode(status: Option<&PolicyStatus>, name: &ClusterName) -> Mode {
    let explained = status.and_then(|status| status.failover.clusters.iter().find(|of| of.cluster == *name));
    explained.map(|explained| explained.mode).unwrap_or_default()
}

/// What users should hear first when a policy is not what was asked for.
fn trouble(status: Option<&PolicyStatus>) -> Option<Note> {
    let status = status?;
    let held = status.clusters.iter().find(|cluster| {
        !matches!(cluster.reason, Reason::AsRequested | Reason::WeightsHeld) && !cluster.message.is_empty()
    });
    if let Some(held) = held {
        let (cluster, message) = (Some(held.cluster.clone()), held.message.clone());
        return Some(Note { cluster, reason: held.reason, message });
    }
    let condition = status.condition(ConditionType::Programmed).filter(|condition| condition.status != Some(true))?;
    Some(Note { cluster: None, reason: condition.reason, message: condition.message.clone() })
}
