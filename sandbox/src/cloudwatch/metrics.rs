//! The metrics of target groups (AWS: "CloudWatch metrics for your Application Load Balancer"), computed from what was served.
//! Pure: the time is an argument.

use std::collections::BTreeMap;

use super::request::{Query, Request, Statistic};
use crate::elb::series::{Bucket, Gauge, Series, Times};

const NAMESPACE: &str = "AWS/ApplicationELB";

/// One series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub id: String,
    pub label: String,
    /// Milliseconds since 1970 at which a period begins, and the value.
    pub points: Vec<(i64, f64)>,
}

/// What can be read at a time.
#[derive(Debug, Clone, Copy)]
pub struct Visible {
    /// Milliseconds since 1970.
    pub now: i64,
    /// Milliseconds from the end of a period until its numbers can be read.
    pub delay: i64,
    /// Groups with targets report zeros.
    pub zeros: bool,
}

/// Answers a call.
pub fn answer(series: &Series, request: &Request, visible: Visible) -> Vec<Found> {
    let found = |query: &Query| {
        let mut points = points(series, request, query, visible);
        if request.newest_first {
            points.reverse();
        }
        Found { id: query.id.clone(), label: query.label.clone(), points }
    };
    request.queries.iter().map(found).collect()
}

/// The dimension of an ARN: what follows the account, without the word that only ARNs of load balancers have.
fn dimension(arn: &str) -> &str {
    let resource = arn.rsplit(':').next().unwrap_or(arn);
    resource.strip_prefix("loadbalancer/").unwrap_or(resource)
}

fn points(series: &Series, request: &Request, query: &Query, visible: Visible) -> Vec<(i64, f64)> {
    if query.namespace != NAMESPACE || query.other_dimension {
        return Vec::new();
    }
    let (period, cell) = (query.period_ms, series.period_ms());
    // Periods are aligned with the clock; the first begins at or before the start (AWS rounds it down).
    let first = request.start - request.start.rem_euclid(period.min(60_000));
    let mut periods: BTreeMap<i64, (Bucket, bool)> = BTreeMap::new();
    for ((load_balancer, group), held) in series.groups() {
        // A metric is stored with all of its dimensions, and found by exactly these.
        let flowing = query.load_balancer.as_deref() == Some(dimension(load_balancer));
        let mine = flowing && query.target_group.as_deref().is_none_or(|wanted| wanted == dimension(group));
        for bucket in &held.buckets {
            let public = bucket.start + cell + visible.delay <= visible.now;
            if !flowing || !public || bucket.start < first || bucket.start >= request.end {
                continue;
            }
            let start = bucket.start - (bucket.start - first).rem_euclid(period);
            if mine {
                periods.entry(start).or_default().0.merge(bucket);
            }
            if bucket.requests > 0 {
                periods.entry(start).or_default().1 = true;
            }
        }
    }
    let value = |(start, (bucket, flows)): (i64, (Bucket, bool))| {
        let zeros = visible.zeros && flows && bucket.healthy.samples > 0;
        Some((start, value(query, &bucket, zeros)?))
    };
    periods.into_iter().filter_map(value).collect()
}

/// The value of a metric in a period; none when it is not reported.
fn value(query: &Query, bucket: &Bucket, zeros: bool) -> Option<f64> {
    let count = |n: u64| (n > 0 || zeros).then(|| counted(query.statistic, n));
    match query.metric.as_str() {
        "RequestCount" => count(bucket.requests),
        "HTTPCode_Target_2XX_Count" => count(bucket.codes[0]),
        "HTTPCode_Target_3XX_Count" => count(bucket.codes[1]),
        "HTTPCode_Target_4XX_Count" => count(bucket.codes[2]),
        "HTTPCode_Target_5XX_Count" => count(bucket.codes[3]),
        // AWS: reported when there is a nonzero value, always.
        "TargetConnectionErrorCount" => {
            (bucket.connection_errors > 0).then(|| counted(query.statistic, bucket.connection_errors))
        }
        "RequestCountPerTarget" if bucket.requests > 0 || zeros => {
            let hosts = if bucket.healthy.most > 0.0 { bucket.healthy } else { bucket.unhealthy };
            // AWS: divided by the healthy targets, or by all when none is healthy.
            (hosts.samples > 0).then(|| bucket.requests as f64 / (hosts.sum / hosts.samples as f64).max(1.0))
        }
        "TargetResponseTime" => timed(query.statistic, &bucket.times),
        "HealthyHostCount" => sampled(query.statistic, &bucket.healthy),
        "UnHealthyHostCount" => sampled(query.statistic, &bucket.unhealthy),
        _ => None,
    }
}

/// AWS: of a count only the sum means something; minimum, maximum and average all are 1.
fn counted(statistic: Statistic, count: u64) -> f64 {
    match statistic {
        Statistic::Sum | Statistic::SampleCount => count as f64,
        _ if count == 0 => 0.0,
        _ => 1.0,
    }
}

fn timed(statistic: Statistic, times: &Times) -> Option<f64> {
    if times.count == 0 {
        return None;
    }
    Some(match statistic {
        Statistic::Sum => times.sum,
        Statistic::Average => times.sum / times.count as f64,
        Statistic::Minimum => times.least,
        Statistic::Maximum => times.most,
        Statistic::SampleCount => times.count as f64,
        Statistic::Percentile(percent) => times.percentile(percent)?,
    })
}

fn sampled(statistic: Statistic, gauge: &Gauge) -> Option<f64> {
    if gauge.samples == 0 {
        return None;
    }
    Some(match statistic {
        Statistic::Sum => gauge.sum,
        Statistic::Minimum => gauge.least,
        Statistic::Maximum => gauge.most,
        Statistic::SampleCount => gauge.samples as f64,
        Statistic::Average | Statistic::Percentile(_) => gauge.sum / gauge.samples as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elb::series::Served;

    const LB: &str = "arn:aws:elasticloadbalancing:x:1:loadbalancer/app/shared/1";
    const OLD: &str = "arn:aws:elasticloadbalancing:x:1:targetgroup/old/1";
    const NEW: &str = "arn:aws:elasticloadbalancing:x:1:targetgroup/new/2";

    fn query(metric: &str, group: &str, statistic: Statistic) -> Query {
        Query {
            id: "q".into(),
            label: metric.into(),
            namespace: NAMESPACE.into(),
            metric: metric.into(),
            load_balancer: Some("app/shared/1".into()),
            target_group: Some(dimension(group).into()),
            other_dimension: false,
            period_ms: 60_000,
            statistic,
        }
    }

    fn ask(series: &Series, query: Query, visible: Visible) -> Vec<(i64, f64)> {
        let request = Request { queries: vec![query], start: 0, end: 240_000, newest_first: false };
        answer(series, &request, visible).remove(0).points
    }

    /// In the first minute both groups are served, in the second only the new one.
    fn played() -> Series {
        let mut series = Series::new(60_000);
        let ending = crate::elb::series::answered;
        for (at, group, code, seconds) in [
            (1_000, OLD, 200, 0.1),
            (2_000, OLD, 500, 0.3),
            (3_000, NEW, 200, 0.1),
            (61_000, NEW, 200, 0.2),
            (62_000, NEW, 404, 0.4),
        ] {
            series.add(
                at,
                &Served {
                    load_balancer: LB,
                    group,
                    ending: ending(code),
                    target: Some("t"),
                    seconds: Some(seconds),
                    unconnected: false,
                },
            );
            series.sample(at, LB, OLD, (2, 0));
            series.sample(at, LB, NEW, (4, 1));
        }
        series
    }

    const LATE: Visible = Visible { now: 1_000_000, delay: 60_000, zeros: false };

    #[test]
    fn counts_are_summed_by_period_and_a_period_without_any_has_no_point() {
        let series = played();
        assert_eq!(ask(&series, query("RequestCount", OLD, Statistic::Sum), LATE), [(0, 2.0)]);
        assert_eq!(ask(&series, query("RequestCount", NEW, Statistic::Sum), LATE), [(0, 1.0), (60_000, 2.0)]);
        assert_eq!(ask(&series, query("HTTPCode_Target_5XX_Count", OLD, Statistic::Sum), LATE), [(0, 1.0)]);
        assert_eq!(ask(&series, query("HTTPCode_Target_5XX_Count", NEW, Statistic::Sum), LATE), []);
        assert_eq!(ask(&series, query("RequestCount", OLD, Statistic::Average), LATE), [(0, 1.0)]);
        let longer = Query { period_ms: 120_000, ..query("RequestCount", NEW, Statistic::Sum) };
        assert_eq!(ask(&series, longer, LATE), [(0, 3.0)]);
    }

    #[test]
    fn zeros_are_reported_where_asked_for_while_requests_flow_through_the_load_balancer() {
        let visible = Visible { zeros: true, ..LATE };
        let series = played();
        assert_eq!(ask(&series, query("RequestCount", OLD, Statistic::Sum), visible), [(0, 2.0), (60_000, 0.0)]);
        assert_eq!(ask(&series, query("TargetConnectionErrorCount", OLD, Statistic::Sum), visible), []);
    }

    #[test]
    fn a_period_is_not_to_be_seen_before_its_delay_has_passed() {
        let series = played();
        let at = |now| ask(&series, query("RequestCount", NEW, Statistic::Sum), Visible { now, ..LATE }).len();
        assert_eq!([119_999, 120_000, 179_999, 180_000].map(at), [0, 1, 1, 2]);
    }

    #[test]
    fn times_hosts_and_requests_per_target_have_their_own_statistics() {
        let series = played();
        let one = |metric, statistic| ask(&series, query(metric, NEW, statistic), LATE)[1].1;
        assert!((one("TargetResponseTime", Statistic::Average) - 0.3).abs() < 1e-9);
        assert_eq!(one("TargetResponseTime", Statistic::Maximum), 0.4);
        assert!((one("TargetResponseTime", Statistic::Percentile(99.0)) - 0.4).abs() < 0.005);
        assert_eq!(one("HealthyHostCount", Statistic::Minimum), 4.0);
        assert_eq!(one("UnHealthyHostCount", Statistic::Maximum), 1.0);
        assert_eq!(one("RequestCountPerTarget", Statistic::Sum), 0.5);
    }

    #[test]
    fn other_names_and_dimensions_have_no_data() {
        let series = played();
        let base = || query("RequestCount", OLD, Statistic::Sum);
        for odd in [
            Query { namespace: "AWS/ELB".into(), ..base() },
            Query { other_dimension: true, ..base() },
            Query { load_balancer: None, ..base() },
            Query { load_balancer: Some("app/other/9".into()), ..base() },
            query("Requests", OLD, Statistic::Sum),
        ] {
            assert_eq!(ask(&series, odd.clone(), LATE), [], "{odd:?}");
        }
        // The load balancer alone: all of its groups.
        let whole = Query { target_group: None, ..base() };
        assert_eq!(ask(&series, whole, LATE), [(0, 3.0), (60_000, 2.0)]);
    }
}
