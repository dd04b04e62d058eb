//! What is wrong with `spec.failover` and with priorities. Every fault is named; nothing looks at the world.

use std::collections::BTreeSet;

use super::{
    MOST_AFTER_SECONDS, MOST_DEAD_BAND_PERCENT, MOST_MOVES_PER_HOUR, MOST_OVERPROVISIONING_PERCENT, MOST_PRIORITY,
    MOST_UNHEALTHY_AFTER_SECONDS, Report,
};
use crate::{
    failover::Rules,
    ids::{ClusterName, Weight},
    policy::{
        Standby,
        spec::{Cluster, Failback, PolicySpec},
    },
};

/// Builds the rules; what cannot be built is in the report.
pub(super) fn rules(spec: &PolicySpec, report: &mut Report) -> Option<Rules> {
    let given = spec.failover.as_ref()?;
    let mut range = |field: &str, value: u32, least: u32, most: u32, unit: &str| {
        report.range(&format!("spec.failover.{field}"), value, least, most, unit);
    };
    range("overprovisioningPercent", given.overprovisioning_percent, 100, MOST_OVERPROVISIONING_PERCENT, " percent");
    range("panicThresholdPercent", given.panic_threshold_percent, 1, 100, " percent");
    range("unhealthyAfterSeconds", given.unhealthy_after_seconds, 0, MOST_UNHEALTHY_AFTER_SECONDS, " seconds");
    range("healthyAfterSeconds", given.healthy_after_seconds, 0, MOST_AFTER_SECONDS, " seconds");
    range("failbackStepPercent", given.failback_step_percent, 1, 100, " percent");
    range("failbackStepSeconds", given.failback_step_seconds, 0, MOST_AFTER_SECONDS, " seconds");
    range("deadBandPercent", given.dead_band_percent, 0, MOST_DEAD_BAND_PERCENT, " percent");
    range("holdDownMaxSeconds", given.hold_down_max_seconds, 0, MOST_AFTER_SECONDS, " seconds");
    range("maxMovesPerHour", given.max_moves_per_hour, 1, MOST_MOVES_PER_HOUR, "");
    let standby = spec.clusters.iter().any(|cluster| cluster.priority > 0);
    let failback = given.failback.unwrap_or(if standby { Failback::Manual } else { Failback::Auto });
    Some(Rules {
        overprovisioning_percent: given.overprovisioning_percent,
        panic_threshold_percent: given.panic_threshold_percent,
        unhealthy_after_seconds: given.unhealthy_after_seconds,
        healthy_after_seconds: given.healthy_after_seconds,
        failback,
        failback_step_percent: given.failback_step_percent,
        failback_step_seconds: given.failback_step_seconds,
        dead_band_percent: given.dead_band_percent,
        hold_down_max_seconds: given.hold_down_max_seconds,
        max_moves_per_hour: given.max_moves_per_hour,
    })
}

/// Standby clusters with their levels and their weights within them.
pub(super) fn standbys(spec: &PolicySpec, report: &mut Report) -> Vec<Standby> {
    let clusters = spec.clusters.iter().take(20).enumerate();
    let mut found = Vec::new();
    for (i, cluster) in clusters.filter(|(_, cluster)| cluster.priority > 0) {
        standby(i, cluster, spec, report);
        let name = ClusterName::new(cluster.name.clone()).ok();
        let weight = Weight::new(cluster.weight).ok();
        if let (Some(cluster_name), Some(weight)) = (name, weight) {
            found.push(Standby { cluster: cluster_name, priority: cluster.priority, weight });
        }
    }
    let levels: BTreeSet<u32> = spec.clusters.iter().map(|cluster| cluster.priority).collect();
    let gap = (0u32..).zip(&levels).find(|(expected, level)| expected != *level);
    if let Some((missing, _)) = gap.filter(|_| !spec.clusters.is_empty()) {
        let i = spec.clusters.iter().position(|cluster| cluster.priority > missing).unwrap_or_default();
        report.add(
            &format!("spec.clusters[{i}].priority"),
            spec.clusters[i].priority.to_string(),
            format!("leaves out priority {missing}"),
            "use priorities 0, 1, 2 and so on without a gap; 0 is the level that carries the requests",
        );
    }
    found
}

fn standby(i: usize, cluster: &Cluster, spec: &PolicySpec, report: &mut Report) {
    let at = |field: &str| format!("spec.clusters[{i}].{field}");
    report.range(&at("priority"), cluster.priority, 0, MOST_PRIORITY, "");
    if spec.failover.is_none() {
        report.add(
            &at("priority"),
            cluster.priority.to_string(),
            "makes a standby, and spec.failover is not set, so it would never get a request",
            "add spec.failover (failover: {} takes the defaults), or leave the priority out",
        );
    }
    if cluster.weight == 0 {
        report.add(
            &at("weight"),
            "0",
            "is the weight of a standby: it would get nothing when it is needed",
            "give it its share among the clusters of its priority, such as 100, or leave the cluster out",
        );
    }
}
