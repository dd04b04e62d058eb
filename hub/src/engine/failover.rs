//! Tells what failover decided, once for each change: in the log, and in metrics. Decides nothing; the decision is part of the plan.

use std::collections::BTreeMap;

use switchyard_core::{
    failover::{Explanation, Standing},
    ids::{ClusterName, PolicyKey, PolicyUid, Weight},
    plan::RegionPlan,
    policy::PolicyRecord,
};
use tracing::{info, warn};

use crate::metrics::{Direction, Metrics, PolicyStanding};

/// What was told last of each policy, for one term of the lease; none before the first plan.
#[derive(Default)]
pub(super) struct FailoverTerm {
    told: Option<BTreeMap<PolicyUid, Told>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    standing: Standing,
    requested: Vec<(ClusterName, Weight)>,
    decided: Vec<(ClusterName, Weight)>,
    /// How much of the requests goes elsewhere than asked for, in thousandths.
    moved: u32,
}

impl Told {
    fn new(explanation: &Explanation) -> Self {
        let clusters = &explanation.clusters;
        Self {
            standing: explanation.standing,
            requested: clusters.iter().map(|cluster| (cluster.cluster.clone(), cluster.requested)).collect(),
            decided: clusters.iter().map(|cluster| (cluster.cluster.clone(), cluster.decided)).collect(),
            moved: clusters.iter().map(|cluster| cluster.requested_share.saturating_sub(cluster.share)).sum(),
        }
    }
}

impl FailoverTerm {
    /// Takes in what a plan decided.
    pub(super) fn tell(&mut self, records: &BTreeMap<PolicyKey, PolicyRecord>, plan: &RegionPlan, metrics: &Metrics) {
        let mut standings: BTreeMap<&'static str, i64> = WORDS.iter().map(|word| (*word, 0)).collect();
        let mut told = BTreeMap::new();
        let first = self.told.is_none();
        let before = self.told.take().unwrap_or_default();
        for (key, planned) in &plan.policies {
            let Some(record) = records.get(key).filter(|record| record.deleting_since.is_none()) else { continue };
            let explanation = &planned.status.failover;
            let now = Told::new(explanation);
            *standings.entry(word(now.standing)).or_default() += 1;
            match before.get(&record.uid) {
                Some(before) if *before == now => {}
                Some(before) => {
                    if before.requested == now.requested && before.moved != now.moved {
                        let direction = if now.moved > before.moved { "out" } else { "back" };
                        metrics.failover_moves.get_or_create(&Direction { direction }).inc();
                    }
                    log(key, Some(before), &now, explanation);
                }
                // What the first look of a term finds has been told by whoever held the lease before, unless it is a matter of
                // this moment.
                None if first && !differs(now.standing) => {}
                None => log(key, None, &now, explanation),
            }
            told.insert(record.uid.clone(), now);
        }
        for (standing, policies) in standings {
            metrics.failover_policies.get_or_create(&PolicyStanding { standing }).set(policies);
        }
        self.told = Some(told);
    }
}

fn differs(standing: Standing) -> bool {
    matches!(standing, Standing::FailedOver | Standing::Panic)
}

const WORDS: [&str; 4] = ["off", "as_requested", "failed_over", "panic"];

/// As labels have it.
fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Off => "off",
        Standing::AsRequested => "as_requested",
        Standing::FailedOver => "failed_over",
        Standing::Panic => "panic",
    }
}

fn log(policy: &PolicyKey, before: Option<&Told>, now: &Told, explanation: &Explanation) {
    let from = before.map(|before| before.standing);
    let moved = before.is_none_or(|before| before.decided != now.decided);
    if from == Some(now.standing) && !moved {
        return;
    }
    let (standing, detail) = (now.standing, explanation.message.as_str());
    let weights = now.decided.iter().map(|(name, weight)| format!("{name}={weight}")).collect::<Vec<_>>().join(",");
    match standing {
        Standing::Panic => {
            warn!(%policy, ?standing, weights, detail, "no cluster of the policy looks healthy, so nothing is changed");
        }
        Standing::FailedOver => {
            warn!(%policy, ?standing, weights, detail, "the weights of the policy differ from what is asked for");
        }
        Standing::AsRequested | Standing::Off if from.is_some_and(differs) => {
            info!(%policy, ?standing, weights, "the weights of the policy are as asked for again");
        }
        Standing::AsRequested | Standing::Off => {}
    }
}

#[cfg(test)]
#[path = "failover_tests.rs"]
mod tests;
