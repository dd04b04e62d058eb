//! What stands in the way of new weights: safety rules that users wrote, and facts. Each finding names what it is about, with its
//! numbers, and says what helps. Ways back to recorded weights are judged by none of this.

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::Timestamp;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    view::{ClusterView, GatingSwitch, PolicyView},
    weights,
};
use crate::{
    fleet::Mode,
    ids::{ClusterName, PolicyKey, Weight},
    policy::{Capacity, MaintenanceWindow, SafetyRules, windows},
    status::Reason,
};

/// Without a declared capacity a target may get this much of what the busiest one gets now, in percent: Envoy's overprovisioning
/// factor ("Priority levels", default 1.4), read from the other side.
pub const MOST_LOAD_PERCENT: u64 = 140;

/// The rules; these words name them in every door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub enum Guard {
    /// `spec.safety.freeze` is set.
    Freeze,
    /// Fewer clusters would carry traffic than `spec.safety.minActiveClusters`.
    MinActiveClusters,
    /// A share would change by more than `spec.safety.maxStepPercent`.
    MaxStepPercent,
    /// The last change is younger than `spec.safety.minStepIntervalSeconds`.
    MinStepInterval,
    /// It is outside all of `spec.safety.maintenanceWindows`.
    MaintenanceWindow,
    /// A gating switch is off.
    GatingSwitch,
    /// A cluster that is to gain has no healthy target.
    HealthyTargets,
    /// A cluster has too few healthy targets for its new share.
    Capacity,
    /// AWS leaves no room for the policy, or it cannot be programmed for another reason.
    Quota,
    /// A cluster that is to gain is cordoned, drained, on its way back or removed, as an operator wants it.
    ClusterCordoned,
}

impl Guard {
    /// All, in the order above.
    pub const ALL: [Guard; 10] = [
        Guard::Freeze,
        Guard::MinActiveClusters,
        Guard::MaxStepPercent,
        Guard::MinStepInterval,
        Guard::MaintenanceWindow,
        Guard::GatingSwitch,
        Guard::HealthyTargets,
        Guard::Capacity,
        Guard::Quota,
        Guard::ClusterCordoned,
    ];

    /// True for a rule that a caller with the right may cross. The others are facts: crossing them would move nothing.
    pub fn overridable(self) -> bool {
        match self {
            Guard::MinActiveClusters
            | Guard::MaxStepPercent
            | Guard::MinStepInterval
            | Guard::MaintenanceWindow
            | Guard::GatingSwitch
            | Guard::Capacity => true,
            Guard::Freeze | Guard::HealthyTargets | Guard::Quota | Guard::ClusterCordoned => false,
        }
    }

    /// True for a rule that holds because somebody wants it to: a shift waits for its end without a deadline.
    pub fn by_will(self) -> bool {
        matches!(
            self,
            Guard::Freeze
                | Guard::MinStepInterval
                | Guard::MaintenanceWindow
                | Guard::GatingSwitch
                | Guard::ClusterCordoned
        )
    }

    /// The rules that a rollback within its window may cross by itself: they slow a way forward down, not a way back to what was
    /// carried before.
    pub fn open_to_rollback() -> BTreeSet<Guard> {
        BTreeSet::from([
            Guard::MinActiveClusters,
            Guard::Capacity,
            Guard::MaxStepPercent,
            Guard::MinStepInterval,
            Guard::MaintenanceWindow,
            Guard::GatingSwitch,
        ])
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for Guard {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Guard::ALL.into_iter().find(|guard| guard.to_string() == text);
        found.ok_or_else(|| format!("{text:?} is not a safety rule"))
    }
}

/// Something in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The rule.
    pub guard: Guard,
    /// The policy.
    pub policy: PolicyKey,
    /// The step, from 0.
    pub step: usize,
    /// What, with its numbers, and what helps.
    pub message: String,
    /// The caller may cross it, and does.
    pub overridden: bool,
    /// When it ends by time alone; none: it does not.
    pub until: Option<Timestamp>,
}

/// What the rules that users wrote are judged by; all of it is stored, so every replica can judge.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Of the policy.
    pub policy: &'a PolicyKey,
    /// Of its spec.
    pub safety: &'a SafetyRules,
    /// `spec.safety.freeze`.
    pub frozen: bool,
    /// Since when the weights at AWS are what they are.
    pub moved_at: Option<Timestamp>,
    /// All of them.
    pub switches: &'a [GatingSwitch],
    /// The rules that may be crossed.
    pub overrides: &'a BTreeSet<Guard>,
    /// The present time.
    pub now: Timestamp,
}

type Weights = [(ClusterName, Weight)];

impl Rules<'_> {
    fn finding(&self, guard: Guard, step: usize, message: String, until: Option<Timestamp>) -> Finding {
        let overridden = guard.overridable() && self.overrides.contains(&guard);
        Finding { guard, policy: self.policy.clone(), step, message, overridden, until }
    }

    /// What is wrong with a step from these weights to those, whenever it is made.
    pub fn shape(&self, step: usize, from: &Weights, to: &Weights) -> Vec<Finding> {
        let mut found = Vec::new();
        let (least, policy) = (self.safety.min_active_clusters, self.policy);
        let active = to.iter().filter(|(_, weight)| weight.carries()).count();
        let active_before = from.iter().filter(|(_, weight)| weight.carries()).count();
        // A policy that is below it already may move, as long as it does not fall further.
        if active < least as usize && active < active_before.max(1) {
            let clusters = if active == 1 { "cluster" } else { "clusters" };
            let message = format!(
                "{policy} would be served by {active} {clusters}, spec.safety.minActiveClusters asks for {least}; leave a \
                 weight on more clusters"
            );
            found.push(self.finding(Guard::MinActiveClusters, step, message, None));
        }
        let (change, most) = (weights::largest_change_percent(from, to), self.safety.max_step_percent);
        if change > most {
            let message = format!(
                "{policy}: the share of a cluster would change by {change} percentage points at once, \
                 spec.safety.maxStepPercent allows {most}; use more and smaller steps"
            );
            found.push(self.finding(Guard::MaxStepPercent, step, message, None));
        }
        found
    }

    /// What is wrong with moving anything of this policy now.
    pub fn moment(&self, step: usize) -> Vec<Finding> {
        let (mut found, policy, now) = (Vec::new(), self.policy, self.now);
        if self.frozen {
            let message =
                format!("{policy} is frozen: nothing is written for it at AWS; set spec.safety.freeze to false");
            found.push(self.finding(Guard::Freeze, step, message, None));
        }
        if let Some(until) = interval_end(self.safety, self.moved_at).filter(|until| *until > now) {
            let seconds = self.safety.min_step_interval_seconds;
            let message = format!(
                "the weights of {policy} changed less than {seconds} s ago (spec.safety.minStepIntervalSeconds); they \
                 may change again at {until:.0}"
            );
            found.push(self.finding(Guard::MinStepInterval, step, message, Some(until)));
        }
        let windows: &[MaintenanceWindow] = &self.safety.windows;
        if !windows.is_empty() && !windows.iter().any(|window| window.contains(now)) {
            let until = windows::next_start(windows, now);
            let next = until.map_or_else(String::new, |at| format!("; the next one starts at {at:.0}"));
            let message = format!("it is outside the maintenance windows of {policy}{next}");
            found.push(self.finding(Guard::MaintenanceWindow, step, message, until));
        }
        for switch in self.switches.iter().filter(|switch| !switch.on && switch.covers(policy)) {
            let why = if switch.reason.is_empty() { String::new() } else { format!(" ({})", switch.reason) };
            let message = format!("gating switch {} is off for {policy}{why}; turn it on first", switch.name);
            found.push(self.finding(Guard::GatingSwitch, step, message, None));
        }
        found
    }
}

fn interval_end(safety: &SafetyRules, moved_at: Option<Timestamp>) -> Option<Timestamp> {
    let interval = std::time::Duration::from_secs(u64::from(safety.min_step_interval_seconds));
    moved_at.map(|at| at.saturating_add(interval).unwrap_or(Timestamp::MAX))
}

/// What the world says against these weights. `recorded` are those from before the shift: what a target may get is measured by what
/// it got then, since the steps of the shift itself thin out what the others get now.
pub fn facts(
    rules: &Rules<'_>,
    view: &PolicyView,
    step: usize,
    recorded: &Weights,
    from: &Weights,
    to: &Weights,
) -> Vec<Finding> {
    let (mut found, policy) = (Vec::new(), rules.policy);
    let mut add = |guard, message| found.push(rules.finding(guard, step, message, None));
    if let Some(note) = view.trouble.as_ref().filter(|note| is_refusal(note.reason)) {
        add(Guard::Quota, format!("{policy} cannot be programmed: {}", note.message));
    }
    for (name, _) in to.iter().filter(|(name, weight)| weight.carries() && !weights::gaining(from, to).contains(name)) {
        // Weights that operators hold down are never read back as asked for.
        let mode = view.cluster(name).map(|cluster| cluster.mode).unwrap_or_default();
        if matches!(mode, Mode::Draining | Mode::Drained | Mode::Returning) {
            add(Guard::ClusterCordoned, kept_out(name, mode));
        }
    }
    for name in weights::gaining(from, to) {
        let mode = view.cluster(&name).map(|cluster| cluster.mode).unwrap_or_default();
        if mode != Mode::Active {
            add(Guard::ClusterCordoned, kept_out(&name, mode));
            // That it has no targets, or few, follows from it.
            continue;
        }
        let healthy = view.cluster(&name).map_or(0, |cluster| cluster.targets.healthy);
        if healthy == 0 {
            let registered = view.cluster(&name).map_or(0, |cluster| cluster.targets.registered);
            add(
                Guard::HealthyTargets,
                format!(
                    "{name} has no target of {policy} that passes the load balancer's health check ({registered} \
                     registered); look at its pods and at spec.backend.healthCheck"
                ),
            );
        } else if let Some(message) = overload(view, policy, &name, recorded, to) {
            add(Guard::Capacity, message);
        }
    }
    found
}

/// Why an operator's wish keeps a cluster from gaining, and what helps.
fn kept_out(name: &ClusterName, mode: Mode) -> String {
    let (what, remedy) = match mode {
        Mode::Active | Mode::Cordoned => ("is cordoned", "bring it back first"),
        Mode::Draining => ("is being drained", "bring it back first"),
        Mode::Drained => ("is drained", "bring it back first"),
        Mode::Returning => {
            return format!("{name} is on its way back after a drain and gains nothing else until it is there; wait");
        }
        Mode::Removed => ("is removed", "take it back first"),
    };
    format!("{name} {what}, so no policy gives it new weight; {remedy}: yardctl uncordon {name}")
}

/// Reasons that are no matter of a moment: nothing of the policy can be programmed until somebody acts.
fn is_refusal(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::QuotaExceeded
            | Reason::NoPriorityFree
            | Reason::ListenerNotFound
            | Reason::ListenerUnsuitable
            | Reason::ForeignOwner
            | Reason::ObserveOnly
            | Reason::InvariantViolated
            | Reason::CallRefused
    )
}

/// Why a cluster cannot carry its new share, by what was declared, or else by what targets got at the recorded weights.
fn overload(view: &PolicyView, policy: &PolicyKey, name: &ClusterName, from: &Weights, to: &Weights) -> Option<String> {
    let healthy = u64::from(view.cluster(name)?.targets.healthy);
    let share = (u64::from(weights::weight_of(to, name).get()), u64::from(weights::sum(to)).max(1));
    let percent = share.0 * 100 / share.1;
    if let Some(Capacity { peak_requests_per_second, requests_per_second_per_target }) = &view.capacity {
        let load = u64::from(*peak_requests_per_second) * share.0;
        let needed = load.div_ceil(share.1 * u64::from(*requests_per_second_per_target).max(1));
        return (healthy < needed).then(|| {
            format!(
                "{name} needs {needed} healthy targets of {policy} for {percent} % of {peak_requests_per_second} \
                 requests/s at {requests_per_second_per_target} each (spec.capacity) and has {healthy}; add pods there"
            )
        });
    }
    // Whoever leaves a sick cluster is not asked what its targets carried: the other one is better whatever it has.
    let sick = |name: &ClusterName| view.cluster(name).is_some_and(|cluster| cluster.targets.unhealthy > 0);
    if weights::gaining(to, from).iter().any(sick) {
        return None;
    }
    // Shares per target as fractions: the busiest cluster at the recorded weights, and this one afterwards.
    let from_sum = u64::from(weights::sum(from)).max(1);
    let carrying =
        |cluster: &&ClusterView| weights::weight_of(from, &cluster.cluster).carries() && cluster.targets.healthy > 0;
    let load = |cluster: &ClusterView| {
        (u64::from(weights::weight_of(from, &cluster.cluster).get()), u64::from(cluster.targets.healthy))
    };
    let busiest = view.clusters.iter().filter(carrying).max_by(|a, b| {
        let ((x, m), (y, n)) = (load(a), load(b));
        (x * n).cmp(&(y * m))
    })?;
    let (old_weight, old_targets) = load(busiest);
    // share.0/share.1/healthy > 1.4 * old_weight/from_sum/old_targets, without rounding.
    let after = u128::from(share.0) * u128::from(from_sum) * u128::from(old_targets) * 100;
    let most = u128::from(old_weight) * u128::from(share.1) * u128::from(MOST_LOAD_PERCENT);
    let needed = after.div_ceil(most.max(1));
    (u128::from(healthy) < needed).then(|| {
        format!(
            "{name} has {healthy} healthy targets of {policy} for {percent} % of the requests; {} carried {} %, with \
             {old_targets} now, so {needed} are needed (at most {MOST_LOAD_PERCENT} % of that load for a target); add pods \
             there, or declare spec.capacity",
            busiest.cluster,
            old_weight * 100 / from_sum,
        )
    })
}
