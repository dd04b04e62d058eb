//! Which group, and which target of it, a request goes to. Pure but for the random source that is passed in; must not
//! import HTTP.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use rand::{Rng, rngs::StdRng};

use crate::elb::{
    actions::Forward,
    model::{HealthState, Target, TargetGroup},
};

/// A target at the very start of its slow start gets this share of a settled one's, and never nothing.
const LEAST_SHARE: f64 = 0.02;

/// The group for one request: the one that `sticks` says, else by weight. None when no group has a weight.
///
/// A sticky client stays even when the weight of its group is 0 by now: stickiness takes precedence over weights.
pub fn choose_group<'a>(forward: &'a Forward, sticks: impl Fn(&str) -> bool, rng: &mut StdRng) -> Option<&'a str> {
    if forward.stickiness_s.is_some()
        && let Some(group) = forward.groups.iter().find(|g| sticks(&g.arn))
    {
        return Some(&group.arn);
    }
    let total: u32 = forward.groups.iter().map(|g| g.weight).sum();
    if total == 0 {
        return None;
    }
    let mut left = rng.random_range(0..total);
    for group in &forward.groups {
        if left < group.weight {
            return Some(&group.arn);
        }
        left -= group.weight;
    }
    None
}

/// What the choice of a target depends on besides the group.
pub struct Moment<'a> {
    /// How often this group was asked before; drives the round robin.
    pub turn: usize,
    pub now: Instant,
    /// Scaled.
    pub slow_start: Duration,
    pub rng: &'a mut StdRng,
}

/// The target for one request. None when nothing is registered that does not drain.
pub fn choose_target<'a>(
    group: &'a TargetGroup,
    sticks: impl Fn(&Target) -> bool,
    moment: Moment<'_>,
) -> Option<&'a Target> {
    let eligible = eligible(group);
    if let Some(target) = eligible.iter().find(|t| sticks(t)) {
        return Some(target);
    }
    if eligible.is_empty() {
        return None;
    }
    let start = moment.turn % eligible.len();
    let mut in_turn = eligible[start..].iter().chain(&eligible[..start]).copied();
    match group.attribute("load_balancing.algorithm.type") {
        "least_outstanding_requests" => in_turn.min_by_key(|t| t.live.outstanding.load(Ordering::Relaxed)),
        "weighted_random" => eligible.get(moment.rng.random_range(0..eligible.len())).copied(),
        _ => {
            let accepted = |t: &&Target| {
                let share = slow_start_share(t, moment.now, moment.slow_start);
                share >= 1.0 || moment.rng.random_bool(share)
            };
            in_turn.find(accepted).or(Some(eligible[start]))
        }
    }
}

/// The healthy targets; all that are registered when too few of them are healthy (fail-open).
fn eligible(group: &TargetGroup) -> Vec<&Target> {
    let registered: Vec<&Target> = group.targets.values().filter(|t| !t.is_draining()).collect();
    let healthy: Vec<&Target> =
        registered.iter().copied().filter(|t| t.effective_state() == HealthState::Healthy).collect();
    let minimum = |unit: &str| {
        group.attribute_number(&format!("target_group_health.unhealthy_state_routing.minimum_healthy_targets.{unit}"))
    };
    // A group of two with a minimum of three is not failed open for ever: all it has is enough.
    let count = minimum("count").max(1).min(registered.len() as u64);
    let percentage = (minimum("percentage") * registered.len() as u64).div_ceil(100);
    if (healthy.len() as u64) < count.max(percentage) { registered } else { healthy }
}

fn slow_start_share(target: &Target, now: Instant, duration: Duration) -> f64 {
    match target.slow_start_from {
        Some(from) if !duration.is_zero() => {
            let passed = now.saturating_duration_since(from).as_secs_f64();
            (passed / duration.as_secs_f64()).clamp(LEAST_SHARE, 1.0)
        }
        _ => 1.0,
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
