//! From requested to effective weights (I2, I12), and exact apportioning of a total. Tests are in `core/tests/weights.rs`.

use crate::{
    ids::{ClusterName, Weight},
    status::Reason,
};

/// What is known of one cluster when its weight is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The cluster.
    pub cluster: ClusterName,
    /// What is asked for.
    pub requested: Weight,
    /// Its weight in the rule as read back; none: not in the rule.
    pub programmed: Option<Weight>,
    /// Targets registered, or about to be registered by the same plan before the rule is written.
    pub registered: u32,
    /// Of them healthy at the load balancer.
    pub healthy: u32,
}

/// The decision for one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The cluster.
    pub cluster: ClusterName,
    /// The weight to program.
    pub weight: Weight,
    /// Why it differs from the request; [`Reason::AsRequested`] when it does not.
    pub reason: Reason,
    /// The sentence for it; empty when as requested.
    pub message: String,
}

impl Effective {
    fn new(candidate: &Candidate, weight: Weight, reason: Reason, message: String) -> Self {
        let cluster = candidate.cluster.clone();
        if weight == candidate.requested {
            return Self { cluster, weight, reason: Reason::AsRequested, message: String::new() };
        }
        Self { cluster, weight, reason, message }
    }
}

/// The weights of a rule that does not exist yet: as requested, but nothing for a cluster without targets, whose share would
/// be answered with 503. `None` when that leaves nothing: then there is no rule to make.
pub fn for_new_rule(candidates: &[Candidate]) -> (Vec<Effective>, bool) {
    let decide = |c: &Candidate| {
        if c.registered == 0 {
            let message = format!("{} has no target to register: its share would be answered with 503", c.cluster);
            Effective::new(c, Weight::ZERO, Reason::NoTargets, message)
        } else {
            Effective::new(c, c.requested, Reason::AsRequested, String::new())
        }
    };
    let effective: Vec<Effective> = candidates.iter().map(decide).collect();
    let carries = effective.iter().any(|e| e.weight.carries());
    (effective, carries)
}

/// The weights of a rule that exists.
///
/// A cluster gets a larger share only when its group has a healthy target. When one cannot take its share the whole change
/// waits: moving only part of it would put the missing share on clusters that were not meant to carry it, and with nothing
/// left to carry the rule would answer 503 (I2). What is programmed then stays, clusters that are new stay at 0.
pub fn for_present_rule(candidates: &[Candidate]) -> Vec<Effective> {
    let requested_sum: u32 = candidates.iter().map(|c| c.requested.get()).sum();
    let programmed_sum: u32 = candidates.iter().map(|c| programmed(c).get()).sum();
    // Cross-multiplied shares: requested/requested_sum > programmed/programmed_sum, without rounding. A rule that carries
    // nothing (by another hand) has no shares: every requested weight is then a rise.
    let rises = |c: &Candidate| match programmed_sum {
        0 => c.requested.carries(),
        sum => c.requested.get() * sum > programmed(c).get() * requested_sum,
    };
    let blocking: Vec<&Candidate> = candidates.iter().filter(|c| rises(c) && c.healthy == 0).collect();
    // A rule whose weights are all 0 answers only 503: anything with a target is better, so only empty groups block then.
    let stuck = |c: &&Candidate| programmed_sum > 0 || c.registered == 0;
    let blocking: Vec<&Candidate> = blocking.into_iter().filter(stuck).collect();
    if requested_sum > 0 && blocking.is_empty() {
        return candidates.iter().map(|c| Effective::new(c, c.requested, Reason::AsRequested, String::new())).collect();
    }
    let names: Vec<&str> = blocking.iter().map(|c| c.cluster.as_str()).collect();
    let waiting_for = if requested_sum == 0 { "a weight above 0: all are 0".to_owned() } else { names.join(", ") };
    let hold = |c: &Candidate| {
        let (reason, message) = held_because(c, rises(c), &waiting_for);
        Effective::new(c, programmed(c), reason, message)
    };
    candidates.iter().map(hold).collect()
}

fn programmed(candidate: &Candidate) -> Weight {
    candidate.programmed.unwrap_or(Weight::ZERO)
}

fn held_because(candidate: &Candidate, rises: bool, waiting_for: &str) -> (Reason, String) {
    let name = &candidate.cluster;
    if rises && candidate.registered == 0 {
        let message =
            format!("{name} has no registered target; give it ready pods, or set its weight to 0 to go on without it");
        return (Reason::NoTargets, message);
    }
    if rises && candidate.healthy == 0 {
        let message = format!(
            "{name} has no target that passes the load balancer's health check yet ({} registered); check the pods and \
             spec.backend.healthCheck, or set its weight to 0 to go on without it",
            candidate.registered
        );
        return (Reason::NoHealthyTarget, message);
    }
    (Reason::WeightsHeld, format!("the change of weights waits as a whole for {waiting_for}"))
}

/// Splits `total` in proportion to `shares` by the largest remainder, ties to the earlier one; a share above 0 never gets 0
/// as long as `total` is at least the number of such shares (I12).
pub fn apportion(shares: &[u64], total: u32) -> Vec<u32> {
    let sum: u128 = shares.iter().map(|share| u128::from(*share)).sum();
    if sum == 0 {
        return vec![0; shares.len()];
    }
    let exact = |share: u64| u128::from(share) * u128::from(total);
    let mut parts: Vec<u32> = shares.iter().map(|share| u32::try_from(exact(*share) / sum).unwrap_or(total)).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(exact(shares[*i]) % sum), *i));
    let missing = total - parts.iter().sum::<u32>();
    for i in order.into_iter().take(missing as usize) {
        parts[i] += 1;
    }
    lift_zeros(shares, &mut parts);
    parts
}

/// Gives each share that was rounded to nothing one unit, taken from the largest part.
fn lift_zeros(shares: &[u64], parts: &mut [u32]) {
    for i in 0..parts.len() {
        if shares[i] == 0 || parts[i] > 0 {
            continue;
        }
        let largest = (0..parts.len()).max_by_key(|j| (parts[*j], std::cmp::Reverse(*j)));
        if let Some(largest) = largest.filter(|j| parts[*j] > 1) {
            parts[largest] -= 1;
            parts[i] = 1;
        }
    }
}
