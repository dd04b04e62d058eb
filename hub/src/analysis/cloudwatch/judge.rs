//! Which metrics a measurement needs, of which time, and what the points that came mean. Pure: no clock and no client.
//!
//! AWS ("CloudWatch metrics for your Application Load Balancer"): metrics come every 60 seconds, and only while requests flow
//! through the load balancer; connection errors are reported when there are any, and of other counts that have no value older and
//! newer versions of the page say different things. So a count without a point is 0 where the request count of the same group
//! has a point for the same period, and unknown where it has none.

use std::time::Duration;

use jiff::Timestamp;
use switchyard_core::{
    arn::{LoadBalancerArn, TargetGroupArn},
    ids::{ClusterName, PolicyKey},
    shift::{
        analysis::{GateQuery, Measure},
        spec::TargetGroupMetric,
    },
};

/// From the end of a period until its numbers are taken for whole, in periods. Others who read these metrics found that those of
/// the last minute are incomplete and still change (Netflix/atlas pull request 1300: "increase delay for alb cloudwatch metrics to
/// avoid partial data", to 2 minutes from the begin of the minute; influxdata/telegraf issue 10134).
const PERIODS_TO_COMPLETE: u32 = 1;
/// Metrics of one GetMetricData (AWS: "as many as 500 MetricDataQuery structures").
const MOST_QUERIES: usize = 500;

/// The values that came, in the order of the queries; none: no point for the period.
pub(super) type Points = Vec<Option<f64>>;

/// One series that is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Asked<'a> {
    pub(super) metric: TargetGroupMetric,
    pub(super) statistic: &'a str,
    pub(super) load_balancer: &'a LoadBalancerArn,
    pub(super) group: &'a TargetGroupArn,
}

/// One period, by the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Within.
    pub(super) start: Timestamp,
    /// Without.
    pub(super) end: Timestamp,
}

/// The next period that CloudWatch takes: 1, 5, 10, 20, 30 or a multiple of 60 seconds (AWS: "MetricStat"). Those below a minute
/// are for stand-ins only.
fn allowed(seconds: i64) -> i64 {
    let short = [1, 5, 10, 20, 30].into_iter().find(|allowed| *allowed >= seconds);
    short.unwrap_or_else(|| (seconds + 59).div_euclid(60) * 60)
}

impl Window {
    /// The last whole period whose numbers are complete at `now`; a period is `periods` times the resolution.
    ///
    /// # Errors
    /// A sentence when it began before `since`: then its numbers are of another time.
    pub(super) fn last(now: Timestamp, resolution: Duration, periods: u32, since: Timestamp) -> Result<Self, String> {
        let cell = i64::try_from(resolution.as_secs()).unwrap_or(60).max(1);
        let length = allowed(cell * i64::from(periods.max(1)));
        let settled = cell * i64::from(PERIODS_TO_COMPLETE);
        let end = (now.as_second() - settled).div_euclid(length) * length;
        let at = |second| Timestamp::from_second(second).map_err(|_| "the clock of this machine is wrong".to_owned());
        if at(end - length)? >= since {
            return Ok(Self { start: at(end - length)?, end: at(end)? });
        }
        // A second that has begun is over only in the next one.
        let begun = since.as_second() + i64::from(since.subsec_nanosecond() > 0);
        let first = begun.div_euclid(length) * length + if begun.rem_euclid(length) == 0 { 0 } else { length };
        let readable = at(first + length + settled)?;
        Err(format!(
            "CloudWatch has no whole period of {length} s since {} yet; the first can be read at {readable}",
            at(since.as_second())?
        ))
    }

    pub(super) fn period_seconds(&self) -> i32 {
        i32::try_from(self.end.as_second() - self.start.as_second()).unwrap_or(i32::MAX)
    }
}

/// A group of a measurement.
#[derive(Clone, Debug, PartialEq)]
struct Group<'a> {
    policy: &'a PolicyKey,
    cluster: &'a ClusterName,
    load_balancer: &'a LoadBalancerArn,
    group: &'a TargetGroupArn,
}

/// What one measurement asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Metrics<'a> {
    metric: TargetGroupMetric,
    statistic: &'a str,
    divided_by: Option<TargetGroupMetric>,
    period_seconds: u32,
    groups: Vec<Group<'a>>,
}

/// The groups of the clusters that gain.
///
/// # Errors
/// A sentence when there is nothing to ask.
pub(super) fn metrics(ask: &Measure) -> Result<Metrics<'_>, String> {
    let GateQuery::CloudWatch { metric, statistic, period_seconds, divided_by } = &ask.query else {
        return Err("this gate does not ask CloudWatch".to_owned());
    };
    let mut groups = Vec::new();
    for measured in &ask.policies {
        for (cluster, group) in &measured.gaining {
            let policy = &measured.policy;
            let (Some(group), Some(load_balancer)) = (group, &measured.load_balancer) else {
                return Err(format!("the target group of {policy} in {cluster} is not known yet"));
            };
            groups.push(Group { policy, cluster, load_balancer, group });
        }
    }
    if groups.is_empty() {
        return Err("no cluster gains in this step, so there is no target group to look at".to_owned());
    }
    let metrics =
        Metrics { metric: *metric, statistic, divided_by: *divided_by, period_seconds: *period_seconds, groups };
    let count = metrics.queries().len();
    if count > MOST_QUERIES {
        return Err(format!(
            "this gate needs {count} metrics, CloudWatch answers {MOST_QUERIES} at a time; move fewer policies"
        ));
    }
    Ok(metrics)
}

/// True for what counts requests: without a point it is 0 where requests were counted.
fn counts_some_requests(metric: TargetGroupMetric) -> bool {
    use TargetGroupMetric as M;
    match metric {
        M::Code2xx | M::Code3xx | M::Code4xx | M::Code5xx | M::TargetConnectionErrorCount => true,
        M::RequestCount
        | M::RequestCountPerTarget
        | M::TargetResponseTime
        | M::HealthyHostCount
        | M::UnHealthyHostCount => false,
    }
}

/// Values of several groups as one. Sums are added. Averages, extremes and percentiles cannot be: there the group that is worst
/// off speaks, which is the smallest count of healthy hosts, and the largest of everything else. A sum of
/// `RequestCountPerTarget` is an average already (AWS says so).
fn combined(metric: TargetGroupMetric, statistic: &str, values: &[f64]) -> f64 {
    let adds = statistic == "Sum" && metric != TargetGroupMetric::RequestCountPerTarget;
    if adds {
        values.iter().sum()
    } else if metric == TargetGroupMetric::HealthyHostCount {
        values.iter().copied().fold(f64::INFINITY, f64::min)
    } else {
        values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

impl<'a> Metrics<'a> {
    /// How many of the load balancer's own periods one of this gate has.
    pub(super) fn periods(&self) -> u32 {
        (self.period_seconds / 60).max(1)
    }

    /// All series: for each group the metric, its request count, and what is divided by.
    pub(super) fn queries(&self) -> Vec<Asked<'a>> {
        let each = |group: &Group<'a>| {
            let Group { load_balancer, group, .. } = *group;
            let mut asked = vec![
                Asked { metric: self.metric, statistic: self.statistic, load_balancer, group },
                Asked { metric: TargetGroupMetric::RequestCount, statistic: "Sum", load_balancer, group },
            ];
            asked.extend(self.divided_by.map(|metric| Asked { metric, statistic: "Sum", load_balancer, group }));
            asked
        };
        self.groups.iter().flat_map(each).collect()
    }

    /// The number.
    ///
    /// # Errors
    /// A sentence when there is none.
    pub(super) fn value(&self, points: &Points) -> Result<f64, String> {
        let width = if self.divided_by.is_some() { 3 } else { 2 };
        if points.len() != width * self.groups.len() {
            return Err("CloudWatch answered another number of metrics than asked".to_owned());
        }
        let (mut above, mut below) = (Vec::new(), Vec::new());
        for (group, points) in self.groups.iter().zip(points.chunks(width)) {
            let requests = points[1];
            above.push(group.known(self.metric, points[0], requests)?);
            if let Some(divisor) = self.divided_by {
                below.push(group.known(divisor, points[2], requests)?);
            }
        }
        let value = combined(self.metric, self.statistic, &above);
        let Some(divisor) = self.divided_by else { return finite(value) };
        let total = combined(divisor, "Sum", &below);
        if total == 0.0 {
            return Err(format!("{} is 0, and nothing can be divided by it", divisor.name()));
        }
        finite(value / total)
    }
}

fn finite(value: f64) -> Result<f64, String> {
    if value.is_finite() { Ok(value) } else { Err(format!("CloudWatch gave {value}, which is no number to compare")) }
}

impl Group<'_> {
    fn known(&self, metric: TargetGroupMetric, point: Option<f64>, requests: Option<f64>) -> Result<f64, String> {
        match (point, requests) {
            (Some(value), _) => Ok(value),
            (None, Some(_)) if counts_some_requests(metric) => Ok(0.0),
            (None, _) => Err(format!(
                "CloudWatch has no {} of {} in {} for this period; no requests reached it, or they are not told yet",
                metric.name(),
                self.policy,
                self.cluster
            )),
        }
    }
}

/// Clusters that lost their share on one load balancer, and where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// Whose rule it is.
    pub load_balancer: LoadBalancerArn,
    /// The target groups without a share now.
    pub old: Vec<TargetGroupArn>,
    /// Those that have one.
    pub new: Vec<TargetGroupArn>,
}

impl Departed {
    pub(super) fn queries(&self) -> Vec<Asked<'_>> {
        let load_balancer = &self.load_balancer;
        let each = |group| Asked { metric: TargetGroupMetric::RequestCount, statistic: "Sum", load_balancer, group };
        // What no call takes is no evidence; a policy has five clusters at most.
        self.old.iter().chain(&self.new).take(MOST_QUERIES).map(each).collect()
    }

    /// The requests of the old groups. Without a point they had none if the new ones have points: then numbers came.
    ///
    /// # Errors
    /// A sentence when nothing is known.
    pub(super) fn requests(&self, points: &Points) -> Result<f64, String> {
        if self.old.is_empty() {
            return Err("the target groups that lost their share are not known".to_owned());
        }
        let (old, new) = points.split_at(self.old.len().min(points.len()));
        if old.len() < self.old.len() {
            return Err("CloudWatch answered another number of metrics than asked".to_owned());
        }
        if old.iter().any(Option::is_none) && new.iter().all(Option::is_none) {
            return Err(
                "CloudWatch has no request counts of the old and of the new target groups for this period".to_owned()
            );
        }
        Ok(old.iter().flatten().sum())
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
