//! When a change of a cluster's health counts: fast out, slow back, longer each time it flaps. Times are measured from reading to
//! reading, so that a reading that was never repeated moves nothing. Tests: `core/tests/failover_timing.rs`.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Rules, WHOLE,
    memory::{ClusterMemory, PendingSince},
    share::factor,
};
use crate::policy::spec::Failback;

/// Moves and outs are counted over this time.
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// The time of a reading is made from its age, by two clocks.
const JITTER: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);
/// Outs that are remembered: by then the hold-down has grown by 2^11.
const MOST_OUTS: usize = 12;

/// What one look at a cluster is judged by, beside its memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) rules: &'a Rules,
    /// 0..=1000, as seen.
    pub(super) score: u32,
    /// When the load balancer was asked.
    pub(super) read_at: Timestamp,
    /// False for a cluster that nobody depends on: what is seen is used at once, see [`idle`].
    pub(super) matters: bool,
    /// Moves within the last hour have reached their limit.
    pub(super) exhausted: bool,
    pub(super) failback_at: Option<Timestamp>,
    pub(super) now: Timestamp,
}

/// Forgets what is older than an hour. What a clock that was set back left in the future counts from now.
pub(super) fn forget_old(times: &mut Vec<Timestamp>, now: Timestamp) {
    times.iter_mut().for_each(|at| *at = (*at).min(now));
    times.retain(|at| now.duration_since(*at) < jiff::SignedDuration::from_hours(1));
}

/// After a clock was set back nothing waits for a time that is far away.
pub(super) fn follow_clock(memory: &mut ClusterMemory, now: Timestamp) {
    memory.stepped_at = memory.stepped_at.map(|at| at.min(now));
    memory.out_since = memory.out_since.map(|at| at.min(now));
}

/// Lets one look count; true when it moved the cluster's share by itself.
pub(super) fn step(memory: &mut ClusterMemory, look: &Look<'_>) -> bool {
    forget_old(&mut memory.outs, look.now);
    let Some(used) = memory.used else {
        take(memory, look.score);
        return false;
    };
    if !look.matters {
        idle(memory, look, used);
        return false;
    }
    let (seen, before) = (factor(look.score, look.rules), factor(used, look.rules));
    let band = look.rules.dead_band_percent * WHOLE / 100;
    let worse = seen < before && (before - seen >= band || look.score == 0);
    let better = seen > before && (seen - before >= band || seen == WHOLE);
    match (worse, better) {
        (true, _) => out(memory, look),
        (_, true) => back(memory, look, before),
        _ => {
            memory.pending = None;
            // Equal in effect: the newer number is the truer one.
            if seen == before {
                memory.used = Some(look.score);
            }
            climb(memory, look)
        }
    }
}

/// What is seen is what is used.
fn take(memory: &mut ClusterMemory, score: u32) {
    let (expected, outs) = (std::mem::take(&mut memory.expected), std::mem::take(&mut memory.outs));
    *memory = ClusterMemory { expected, outs, used: Some(score), ..ClusterMemory::default() };
}

/// Nobody depends on it, so what is seen is used at once. Only a standby that went out has to show that it lasts before it is there
/// for others again; nobody's word is needed for that, since nothing moves by it.
fn idle(memory: &mut ClusterMemory, look: &Look<'_>, used: u32) {
    if memory.out_since.is_none() {
        return take(memory, look.score);
    }
    if look.score <= used {
        memory.used = Some(look.score);
        memory.pending = None;
        return;
    }
    let since = pending(memory, true, look.read_at);
    let lasted = look.read_at.duration_since(since) >= seconds(hold_down(memory.outs.len(), look.rules));
    if lasted && !look.exhausted {
        take(memory, look.score);
    }
}

fn pending(memory: &mut ClusterMemory, back: bool, read_at: Timestamp) -> Timestamp {
    // A clock that was set back begins the time anew. The times of one reading differ by a little from plan to plan.
    let latest = read_at.saturating_add(JITTER).unwrap_or(Timestamp::MAX);
    let same = memory.pending.filter(|pending| pending.back == back && pending.since <= latest);
    let pending = same.unwrap_or(PendingSince { back, since: read_at });
    memory.pending = Some(pending);
    pending.since
}

fn seconds(seconds: u64) -> jiff::SignedDuration {
    jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn out(memory: &mut ClusterMemory, look: &Look<'_>) -> bool {
    let since = pending(memory, false, look.read_at);
    if look.read_at.duration_since(since) < seconds(look.rules.unhealthy_after_seconds.into()) {
        return false;
    }
    // What falls further while it is out is the same incident: it neither flaps nor moves anew.
    let is_new = memory.out_since.is_none() || memory.limit.is_some() || memory.returned;
    memory.used = Some(look.score);
    memory.pending = None;
    memory.limit = None;
    memory.stepped_at = None;
    memory.returned = false;
    if is_new {
        // Also when it was on its way back: the word that let it return was about the incident before.
        memory.out_since = Some(look.now);
        memory.outs.push(look.now);
    }
    if memory.outs.len() > MOST_OUTS {
        memory.outs.remove(0);
    }
    is_new
}

/// How long a cluster must look better before it returns: `healthyAfterSeconds`, doubled for each time it went out within the last
/// hour but the first, at most `holdDownMaxSeconds`.
pub(super) fn hold_down(outs: usize, rules: &Rules) -> u64 {
    let least = u64::from(rules.healthy_after_seconds);
    let doubled = least.saturating_mul(1 << outs.saturating_sub(1).min(MOST_OUTS));
    doubled.min(u64::from(rules.hold_down_max_seconds)).max(least)
}

/// Somebody has let it return since it went out.
fn allowed(memory: &ClusterMemory, failback_at: Option<Timestamp>) -> bool {
    failback_at.is_some_and(|at| memory.out_since.is_none_or(|out| out <= at))
}

fn back(memory: &mut ClusterMemory, look: &Look<'_>, before: u32) -> bool {
    let since = pending(memory, true, look.read_at);
    let lasted = look.read_at.duration_since(since) >= seconds(hold_down(memory.outs.len(), look.rules));
    // One that never went out, and was ill when it was seen first, waits for nobody's word.
    let was_out = memory.out_since.is_some();
    let by_itself = (look.rules.failback == Failback::Auto && !look.exhausted) || !was_out;
    // A word that was given while it looked ill lets it return, and not at the first good reading.
    let allowed = allowed(memory, look.failback_at);
    let at_once = allowed && look.failback_at.is_some_and(|at| since <= at);
    if !at_once && !(lasted && (by_itself || allowed)) {
        return false;
    }
    memory.used = Some(look.score);
    memory.pending = None;
    memory.returned = true;
    // One that is on its way back already goes on from step to step.
    if memory.limit.is_some() {
        return climb(memory, look);
    }
    raise(memory, before, look);
    true
}

/// The next step of a return that is under way.
fn climb(memory: &mut ClusterMemory, look: &Look<'_>) -> bool {
    let (Some(limit), Some(at)) = (memory.limit, memory.stepped_at) else {
        if factor(memory.used.unwrap_or(WHOLE), look.rules) == WHOLE {
            memory.out_since = None;
            memory.returned = false;
        }
        return false;
    };
    if look.now.duration_since(at) >= seconds(look.rules.failback_step_seconds.into()) {
        raise(memory, limit, look);
    }
    false
}

fn raise(memory: &mut ClusterMemory, from: u32, look: &Look<'_>) {
    let limit = from + look.rules.failback_step_percent * WHOLE / 100;
    memory.stepped_at = Some(look.now);
    memory.limit = Some(limit).filter(|limit| *limit < WHOLE);
    if memory.limit.is_none() {
        memory.stepped_at = None;
        if factor(memory.used.unwrap_or(WHOLE), look.rules) == WHOLE {
            memory.out_since = None;
            memory.returned = false;
        }
    }
}

/// When the pending change counts if it lasts; none: nothing is pending, or only somebody's word helps.
pub(super) fn pending_until(
    memory: &ClusterMemory,
    rules: &Rules,
    failback_at: Option<Timestamp>,
) -> Option<Timestamp> {
    let pending = memory.pending?;
    let wait = match pending.back {
        false => u64::from(rules.unhealthy_after_seconds),
        true if rules.failback == Failback::Manual && memory.out_since.is_some() && !allowed(memory, failback_at) => {
            return None;
        }
        true => hold_down(memory.outs.len(), rules),
    };
    pending.since.checked_add(seconds(wait)).ok()
}

/// The next step of a return that is under way.
pub(super) fn next_step(memory: &ClusterMemory, rules: &Rules) -> Option<Timestamp> {
    memory.limit?;
    memory.stepped_at?.checked_add(seconds(rules.failback_step_seconds.into())).ok()
}
