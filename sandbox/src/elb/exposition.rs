//! The data plane's totals as Prometheus reads them (text format 0.0.4): what an exporter beside a load balancer would tell.
//! Reads only.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    model::World,
    series::{BOUNDS, Group, Series},
};

/// The tag by which Switchyard's hub marks the cluster of a target group.
const CLUSTER_TAG: &str = "switchyard.dev/cluster";
/// The tag by which it marks the policy.
const POLICY_TAG: &str = "switchyard.dev/policy";

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The labels of a group: names as people know them, empty where the group is gone or has no such tag.
fn labels(world: &World, load_balancer: &str, group: &str) -> String {
    let name = |arn: &str| arn.rsplit('/').nth(1).unwrap_or(arn).to_owned();
    let tags = world.tags.get(group);
    let tag = |key: &str| tags.and_then(|tags| tags.get(key)).cloned().unwrap_or_default();
    let pairs = [
        ("load_balancer", name(load_balancer)),
        ("target_group", name(group)),
        ("cluster", tag(CLUSTER_TAG)),
        ("policy", tag(POLICY_TAG)),
    ];
    pairs.map(|(key, value)| format!("{key}=\"{}\"", escaped(&value))).join(",")
}

/// Writing into a `String` does not fail, so its results are dropped here.
fn histogram(text: &mut String, labels: &str, group: &Group) {
    const NAME: &str = "sandbox_alb_response_seconds";
    let mut so_far = 0;
    for (bound, count) in BOUNDS.iter().zip(group.totals.within) {
        so_far += count;
        let _ = writeln!(text, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {so_far}");
    }
    so_far += group.totals.within[BOUNDS.len()];
    let _ = writeln!(text, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {so_far}");
    let _ = writeln!(text, "{NAME}_sum{{{labels}}} {}", group.totals.seconds);
    let _ = writeln!(text, "{NAME}_count{{{labels}}} {so_far}");
}

/// All totals. Groups of the same labels (one that was deleted and made anew) are told apart by their ARN.
pub fn text(world: &World, series: &Series) -> String {
    let mut seen = BTreeMap::new();
    let groups: Vec<(String, &Group)> = series
        .groups()
        .map(|((load_balancer, arn), group)| {
            let labels = labels(world, load_balancer, arn);
            let again = seen.insert(labels.clone(), ()).is_some();
            (if again { format!("{labels},arn=\"{}\"", escaped(arn)) } else { labels }, group)
        })
        .collect();
    let mut text = String::from(
        "# HELP sandbox_alb_requests_total Requests by target group, by status and by who answered.\n\
         # TYPE sandbox_alb_requests_total counter\n",
    );
    for (labels, group) in &groups {
        for ((code, by_target), count) in &group.totals.answers {
            let source = if *by_target { "target" } else { "elb" };
            let _ =
                writeln!(text, "sandbox_alb_requests_total{{{labels},code=\"{code}\",source=\"{source}\"}} {count}");
        }
    }
    text.push_str(
        "# HELP sandbox_alb_response_seconds Seconds until the head of the target's answer.\n\
         # TYPE sandbox_alb_response_seconds histogram\n",
    );
    for (labels, group) in &groups {
        histogram(&mut text, labels, group);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elb::{counters::Ending, series::Served};

    #[test]
    fn buckets_add_up_and_labels_come_from_names_and_tags() {
        let (lb, group) = ("arn:aws:elasticloadbalancing:x:1:loadbalancer/app/shared/1", "arn:x:targetgroup/sy-a/2");
        let mut world = World::default();
        let tags = [(CLUSTER_TAG, "blue"), (POLICY_TAG, "shop/\"odd\"")];
        world.tags.insert(group.to_owned(), tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let mut series = Series::new(1_000);
        for (code, seconds) in [(200, 0.003), (200, 0.2), (500, 20.0)] {
            let ending = Ending::Target(code);
            let seconds = Some(seconds);
            series.add(0, &Served { load_balancer: lb, group, ending, target: Some("t"), seconds, unconnected: false });
        }
        let text = text(&world, &series);
        let labels = r#"load_balancer="shared",target_group="sy-a",cluster="blue",policy="shop/\"odd\"""#;
        for line in [
            format!(r#"sandbox_alb_requests_total{{{labels},code="200",source="target"}} 2"#),
            format!(r#"sandbox_alb_requests_total{{{labels},code="500",source="target"}} 1"#),
            format!(r#"sandbox_alb_response_seconds_bucket{{{labels},le="0.005"}} 1"#),
            format!(r#"sandbox_alb_response_seconds_bucket{{{labels},le="0.25"}} 2"#),
            format!(r#"sandbox_alb_response_seconds_bucket{{{labels},le="10"}} 2"#),
            format!(r#"sandbox_alb_response_seconds_bucket{{{labels},le="+Inf"}} 3"#),
            format!("sandbox_alb_response_seconds_count{{{labels}}} 3"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
    }
}
