//! What the loss of a cluster would do to a policy, and whether the others can carry it: the same decision as in earnest, made once
//! more with that cluster at nothing. Tests: `core/tests/fleet_forecast.rs`.

use serde::{Deserialize, Serialize};

use crate::{
    failover::{self, Input, Memory, Standing},
    fleet::{Ceiling, Mode},
    ids::{ClusterName, Weight},
    status::Reason,
};

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// The cluster has no share.
    Untouched,
    /// The others take it, and can.
    Carried,
    /// They take it; without `spec.capacity` nobody knows whether they can.
    Unproven,
    /// A part stays on the lost cluster, or the others get more than they can carry.
    Overloaded,
    /// Nobody takes it.
    NotCarried,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// What it comes to.
    pub verdict: Verdict,
    /// For programs.
    pub reason: Reason,
    /// With its numbers.
    pub message: String,
    /// Every cluster of the policy.
    pub clusters: Vec<ClusterForecast>,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterForecast {
    /// Its name.
    pub cluster: ClusterName,
    /// As decided now.
    pub before: Weight,
    /// As it would be.
    pub after: Weight,
    /// In thousandths of all requests.
    pub share_before: u32,
    /// In thousandths of all requests.
    pub share_after: u32,
    /// By the load balancer.
    pub healthy: u32,
    /// What its healthy targets carry of the peak, in thousandths; none without `spec.capacity`.
    pub capacity: Option<u32>,
}

/// Says what the loss of `lost` would do. `force`: the declared capacity of the others is not asked.
pub fn loss(input: &Input<'_>, memory: &Memory, lost: &ClusterName, force: bool) -> Forecast {
    let before = failover::decide(input, memory.clone());
    let mut clusters = input.clusters.to_vec();
    for cluster in clusters.iter_mut().filter(|cluster| cluster.cluster == *lost) {
        cluster.ceiling = Ceiling { mode: Mode::Drained, permille: 0, deregister: false, force };
    }
    let after = failover::decide(&Input { clusters: &clusters, ..*input }, memory.clone());
    let of = |i: usize| {
        let (now, then) = (&before.explanation.clusters[i], &after.explanation.clusters[i]);
        ClusterForecast {
            cluster: now.cluster.clone(),
            before: now.decided,
            after: then.decided,
            share_before: now.share,
            share_after: then.share,
            healthy: now.healthy,
            capacity: now.capacity,
        }
    };
    let clusters: Vec<ClusterForecast> = (0..input.clusters.len()).map(of).collect();
    let (verdict, reason, message) = match after.explanation.standing {
        // Nothing is changed then, so nobody takes anything.
        Standing::Panic => (Verdict::NotCarried, Reason::Panic, after.explanation.message),
        Standing::Off | Standing::AsRequested | Standing::FailedOver => judge(input, &clusters, lost),
    };
    Forecast { verdict, reason, message, clusters }
}

fn judge(input: &Input<'_>, clusters: &[ClusterForecast], lost: &ClusterName) -> (Verdict, Reason, String) {
    let Some(own) = clusters.iter().find(|cluster| cluster.cluster == *lost) else {
        return (Verdict::Untouched, Reason::AsRequested, format!("{lost} is not a cluster of this policy"));
    };
    if own.share_before == 0 {
        return (Verdict::Untouched, Reason::AsRequested, format!("{lost} has no share"));
    }
    let percent = |permille: u32| format!("{:.1} %", f64::from(permille) / 10.0);
    if own.share_after >= own.share_before {
        let message = format!(
            "nobody takes the {} of {lost}: no other cluster has a weight, a priority and healthy targets; add one to \
             spec.clusters",
            percent(own.share_before)
        );
        return (Verdict::NotCarried, Reason::NoHealthyTarget, message);
    }
    let takers: Vec<String> = clusters
        .iter()
        .filter(|cluster| cluster.share_after > cluster.share_before)
        .map(|cluster| {
            let (from, to) = (percent(cluster.share_before), percent(cluster.share_after));
            let carries = cluster.capacity.map(|capacity| format!(", can carry {}", percent(capacity)));
            format!(
                "{} {from} -> {to} with {} healthy targets{}",
                cluster.cluster,
                cluster.healthy,
                carries.unwrap_or_default()
            )
        })
        .collect();
    let takers = takers.join("; ");
    let over = |cluster: &&ClusterForecast| {
        cluster.capacity.is_some_and(|capacity| cluster.share_after > capacity.max(cluster.share_before))
    };
    if own.share_after > 0 {
        let message = format!("{takers}; {} stays on {lost}: the others carry no more", percent(own.share_after));
        return (Verdict::Overloaded, Reason::BrownOut, message);
    }
    if clusters.iter().filter(|cluster| cluster.cluster != *lost).any(|cluster| over(&cluster)) {
        return (Verdict::Overloaded, Reason::Overloaded, format!("{takers}: more than they can carry"));
    }
    if input.capacity.is_none() {
        let message = format!("{takers}; spec.capacity is not declared, so nobody knows whether they can carry it");
        return (Verdict::Unproven, Reason::FailedOver, message);
    }
    (Verdict::Carried, Reason::FailedOver, takers)
}
