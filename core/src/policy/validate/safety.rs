//! What is wrong with `spec.safety` and `spec.capacity`. Every fault is named; nothing looks at the world.

use std::collections::BTreeSet;

use super::{
    MOST_CLUSTERS, MOST_PEAK_REQUESTS_PER_SECOND, MOST_REQUESTS_PER_SECOND_PER_TARGET, MOST_STEP_INTERVAL_SECONDS,
    MOST_WINDOWS, Report,
};
use crate::policy::{
    Capacity, SafetyRules,
    spec::{self, PolicySpec},
    windows::{self, MaintenanceWindow},
};

/// Builds the rules; what cannot be built is in the report.
pub(super) fn rules(spec: &PolicySpec, report: &mut Report) -> SafetyRules {
    let safety = &spec.safety;
    min_active_clusters(spec, report);
    report.range("spec.safety.maxStepPercent", safety.max_step_percent, 1, 100, " percent");
    let interval = safety.min_step_interval_seconds;
    report.range("spec.safety.minStepIntervalSeconds", interval, 0, MOST_STEP_INTERVAL_SECONDS, " seconds");
    let count = safety.maintenance_windows.len();
    if count > MOST_WINDOWS {
        let problem = format!("is more than {MOST_WINDOWS} windows");
        report.add("spec.safety.maintenanceWindows", count.to_string(), problem, "use fewer, or longer ones");
    }
    let windows = safety.maintenance_windows.iter().take(MOST_WINDOWS).enumerate();
    SafetyRules {
        min_active_clusters: safety.min_active_clusters,
        max_step_percent: safety.max_step_percent,
        min_step_interval_seconds: interval,
        windows: windows.filter_map(|(i, given)| window(i, given, report)).collect(),
    }
}

/// A rule that the spec itself breaks could never be kept.
fn min_active_clusters(spec: &PolicySpec, report: &mut Report) {
    let field = "spec.safety.minActiveClusters";
    let least = spec.safety.min_active_clusters;
    let most = u32::try_from(MOST_CLUSTERS).expect("MOST_CLUSTERS is a small number");
    if !(1..=most).contains(&least) {
        report.range(field, least, 1, most, "");
        return;
    }
    // A list without clusters, or without any weight, is a fault of its own.
    let count = |most: usize| u32::try_from(most).unwrap_or(u32::MAX);
    let named = count(spec.clusters.len());
    let active = count(spec.clusters.iter().filter(|cluster| cluster.weight > 0 && cluster.priority == 0).count());
    if named > 0 && least > named {
        let problem = format!("is more than the clusters of the policy ({named})");
        report.add(field, least.to_string(), problem, "name more clusters in spec.clusters, or lower it");
    } else if active > 0 && least > active {
        let problem =
            format!("is more than the clusters of priority 0 with a weight above 0 in spec.clusters ({active})");
        report.add(field, least.to_string(), problem, "give more clusters a weight, or lower it");
    }
}

fn window(i: usize, given: &spec::MaintenanceWindow, report: &mut Report) -> Option<MaintenanceWindow> {
    let at = |field: &str| format!("spec.safety.maintenanceWindows[{i}].{field}");
    let mut days = BTreeSet::new();
    if given.days.is_empty() {
        report.add(&at("days"), "[]", "names no day", "name days, or leave it out for every day");
    }
    if let Some(twice) = given.days.iter().find(|day| !days.insert(**day)) {
        report.add(&at("days"), format!("{twice:?}"), "is named twice", "name each day once");
    }
    let from = windows::minutes(&given.from).filter(|minutes| *minutes < 24 * 60);
    if from.is_none() {
        let remedy = "write it as HH:MM, 00:00 to 23:59";
        report.add(&at("from"), &given.from, "is not a time of the day", remedy);
    }
    let to = windows::minutes(&given.to);
    if to.is_none() {
        report.add(&at("to"), &given.to, "is not a time of the day", "write it as HH:MM, 00:00 to 24:00");
    }
    if from.is_some() && from == to {
        let remedy = "let it close later; a whole day is from 00:00 to 24:00";
        report.add(&at("to"), &given.to, "is when the window opens", remedy);
    }
    if windows::zone_name(&given.time_zone).as_deref() != Some(given.time_zone.as_str()) {
        let remedy = match windows::zone_name(&given.time_zone) {
            Some(name) => format!("write {name}"),
            None => "use a name of the IANA time zone database, such as Europe/Berlin or UTC".to_owned(),
        };
        report.add(&at("timeZone"), &given.time_zone, "is not a known time zone", remedy);
    }
    MaintenanceWindow::new(days, from?, to?, &given.time_zone).ok()
}

/// Builds the declared capacity.
pub(super) fn capacity(spec: &PolicySpec, report: &mut Report) -> Option<Capacity> {
    let given = spec.capacity.as_ref()?;
    let peak = given.peak_requests_per_second;
    let per_target = given.requests_per_second_per_target;
    report.range("spec.capacity.peakRequestsPerSecond", peak, 1, MOST_PEAK_REQUESTS_PER_SECOND, "");
    report.range("spec.capacity.requestsPerSecondPerTarget", per_target, 1, MOST_REQUESTS_PER_SECOND_PER_TARGET, "");
    Some(Capacity { peak_requests_per_second: peak, requests_per_second_per_target: per_target })
}
