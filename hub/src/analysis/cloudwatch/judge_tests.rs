//! What is asked of CloudWatch, and what its points mean.

use TargetGroupMetric as M;
use switchyard_core::{
    ids::{ShiftId, SourceName, Weight},
    shift::analysis::MeasuredPolicy,
};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

fn group(name: &str) -> TargetGroupArn {
    TargetGroupArn::new(format!("arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/{name}/1")).unwrap()
}

fn balancer() -> LoadBalancerArn {
    LoadBalancerArn::new("arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/app/shared/1").unwrap()
}

/// A measurement of groups `one`, `two`, ... of as many policies.
fn ask(metric: M, statistic: &str, divided_by: Option<M>, groups: &[&str]) -> Measure {
    let green = ClusterName::new("green").unwrap();
    let policies = groups.iter().map(|name| MeasuredPolicy {
        policy: PolicyKey::new("shop", *name).unwrap(),
        weights: vec![(green.clone(), Weight::new(5).unwrap())],
        load_balancer: Some(balancer()),
        gaining: vec![(green.clone(), Some(group(name)))],
    });
    Measure {
        shift: ShiftId::new("s-1").unwrap(),
        step: 0,
        percent: 5,
        gate: 0,
        name: SourceName::new("gate").unwrap(),
        query: GateQuery::CloudWatch { metric, statistic: statistic.to_owned(), period_seconds: 60, divided_by },
        policies: policies.collect(),
    }
}

fn value(ask: &Measure, points: &[Option<f64>]) -> Result<f64, String> {
    metrics(ask).unwrap().value(&points.to_vec())
}

#[test]
fn the_period_is_the_last_one_that_ended_a_minute_ago() {
    let window = |now: &str| Window::last(at(now), MINUTE, 1, at("00:00:00")).unwrap();
    for (now, start) in [("10:05:00", "10:03:00"), ("10:05:59", "10:03:00"), ("10:06:00", "10:04:00")] {
        let window = window(now);
        assert_eq!((window.start, window.period_seconds()), (at(start), 60), "{now}");
    }
    // Longer ones stand by the clock, as CloudWatch's do.
    let longer = Window::last(at("10:14:30"), MINUTE, 5, at("00:00:00")).unwrap();
    assert_eq!((longer.start, longer.end), (at("10:05:00"), at("10:10:00")));
}

#[test]
fn a_period_is_one_that_cloudwatch_takes() {
    for (seconds, periods, wanted) in
        [(60, 1, 60), (60, 7, 420), (1, 1, 1), (1, 2, 5), (5, 3, 20), (1, 31, 60), (30, 3, 120)]
    {
        let resolution = Duration::from_secs(seconds);
        let window = Window::last(at("10:00:00"), resolution, periods, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(window.period_seconds(), wanted, "{seconds} x {periods}");
    }
}

#[test]
fn a_period_that_began_before_the_step_is_not_of_the_step() {
    let since = at("10:00:30.5");
    let early = Window::last(at("10:02:59"), MINUTE, 1, since).unwrap_err();
    assert!(early.contains("2026-01-01T10:03:00Z"), "{early}");
    assert_eq!(Window::last(at("10:03:00"), MINUTE, 1, since).unwrap().start, at("10:01:00"));
    // A step that begins with a minute has that minute.
    assert!(Window::last(at("10:01:59"), MINUTE, 1, at("10:00:00")).unwrap_err().contains("10:02:00"));
    assert_eq!(Window::last(at("10:02:00"), MINUTE, 1, at("10:00:00")).unwrap().start, at("10:00:00"));
    // A hair after its begin it has not.
    assert!(Window::last(at("10:02:00"), MINUTE, 1, at("10:00:00.001")).unwrap_err().contains("10:03:00"));
}

#[test]
fn the_time_that_is_announced_is_the_first_at_which_there_is_a_period() {
    for offset in [0, 1, 29, 59, 60, 61, 299, 300, 301] {
        for periods in [1, 2, 5] {
            let since = Timestamp::from_second(1_700_000_000 + offset).unwrap();
            let why = Window::last(since, MINUTE, periods, since).unwrap_err();
            let announced: Timestamp = why.rsplit(' ').next().unwrap().parse().unwrap();
            let just_before = Timestamp::from_second(announced.as_second() - 1).unwrap();
            assert!(Window::last(just_before, MINUTE, periods, since).is_err(), "{offset} {periods}");
            assert!(Window::last(announced, MINUTE, periods, since).is_ok(), "{offset} {periods}");
        }
    }
}

#[test]
fn a_ratio_asks_for_three_metrics_of_each_group_and_divides_the_sums() {
    let ask = ask(M::Code5xx, "Sum", Some(M::RequestCount), &["one", "two"]);
    let queries = metrics(&ask).unwrap().queries();
    let names: Vec<&str> = queries.iter().map(|asked| asked.metric.name()).collect();
    assert_eq!(names, ["HTTPCode_Target_5XX_Count", "RequestCount", "RequestCount"].repeat(2));
    assert_eq!(queries[3].group, &group("two"));
    let points = [Some(2.0), Some(100.0), Some(100.0), Some(1.0), Some(200.0), Some(200.0)];
    assert_eq!(value(&ask, &points), Ok(0.01));
}

#[test]
fn a_count_without_a_point_is_zero_only_where_requests_were_counted() {
    let errors = ask(M::Code5xx, "Sum", Some(M::RequestCount), &["one"]);
    assert_eq!(value(&errors, &[None, Some(100.0), Some(100.0)]), Ok(0.0));
    assert!(value(&errors, &[None, None, None]).unwrap_err().contains("shop/one in green"));
    assert!(value(&errors, &[Some(0.0), Some(0.0), Some(0.0)]).unwrap_err().contains("divided"));
    for metric in [M::RequestCount, M::TargetResponseTime, M::HealthyHostCount, M::RequestCountPerTarget] {
        let ask = ask(metric, "Average", None, &["one"]);
        assert!(value(&ask, &[None, Some(5.0)]).unwrap_err().contains(metric.name()), "{metric:?}");
    }
}

#[test]
fn one_group_without_data_leaves_the_whole_without() {
    let ask = ask(M::Code5xx, "Sum", None, &["one", "two"]);
    let why = value(&ask, &[Some(0.0), Some(10.0), None, None]).unwrap_err();
    assert!(why.contains("shop/two"), "{why}");
}

#[test]
fn sums_are_added_and_of_the_rest_the_worst_is_taken() {
    for (metric, statistic, wanted) in [
        (M::RequestCount, "Sum", 5.0),
        (M::Code5xx, "Sum", 5.0),
        (M::TargetResponseTime, "p99", 4.0),
        (M::TargetResponseTime, "Minimum", 4.0),
        (M::HealthyHostCount, "Minimum", 1.0),
        (M::HealthyHostCount, "Average", 1.0),
        (M::UnHealthyHostCount, "Maximum", 4.0),
        (M::RequestCountPerTarget, "Sum", 4.0),
    ] {
        let ask = ask(metric, statistic, None, &["one", "two"]);
        let points = [Some(1.0), Some(9.0), Some(4.0), Some(9.0)];
        assert_eq!(value(&ask, &points), Ok(wanted), "{metric:?} {statistic}");
    }
}

#[test]
fn numbers_that_cannot_be_compared_are_no_data() {
    let ask = ask(M::TargetResponseTime, "Average", None, &["one"]);
    for odd in [f64::NAN, f64::INFINITY] {
        assert!(value(&ask, &[Some(odd), Some(1.0)]).is_err());
    }
    assert!(value(&ask, &[Some(1.0)]).unwrap_err().contains("another number"));
}

#[test]
fn a_group_that_is_not_there_yet_and_too_many_groups_are_said() {
    let mut missing = ask(M::RequestCount, "Sum", None, &["one"]);
    missing.policies[0].gaining[0].1 = None;
    assert!(metrics(&missing).unwrap_err().contains("shop/one in green is not known yet"));
    let mut nothing = missing.clone();
    nothing.policies[0].gaining.clear();
    assert!(metrics(&nothing).unwrap_err().contains("no cluster gains"));
    let names: Vec<String> = (0..200).map(|n| format!("p{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let many = ask(M::Code5xx, "Sum", Some(M::RequestCount), &names);
    assert!(metrics(&many).unwrap_err().contains("600 metrics"));
}

#[test]
fn old_groups_are_quiet_without_a_point_only_when_new_ones_have_points() {
    let departed = Departed { load_balancer: balancer(), old: vec![group("a"), group("b")], new: vec![group("c")] };
    assert_eq!(departed.queries().len(), 3);
    let requests = |points: [Option<f64>; 3]| departed.requests(&points.to_vec());
    assert_eq!(requests([None, None, Some(9.0)]), Ok(0.0));
    assert_eq!(requests([Some(3.0), None, Some(9.0)]), Ok(3.0));
    // Both told: the new ones are not needed.
    assert_eq!(requests([Some(3.0), Some(1.0), None]), Ok(4.0));
    assert!(requests([None, Some(1.0), None]).is_err());
    assert!(requests([None, None, None]).unwrap_err().contains("no request counts"));
    assert!(departed.requests(&vec![None]).is_err());
    let unknown = Departed { old: Vec::new(), ..departed };
    assert!(unknown.requests(&vec![Some(1.0)]).unwrap_err().contains("not known"));
}
