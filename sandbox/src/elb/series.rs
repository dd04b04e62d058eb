//! What the data plane served, over time: totals for Prometheus, and one bucket per group and period for CloudWatch. Numbers
//! only: times come as arguments. Written by the data plane, read by `crate::cloudwatch` and `exposition`.

use std::collections::{BTreeMap, VecDeque};

use super::counters::Ending;

/// Buckets that are kept of each group; older ones are forgotten. At a period of a minute this is more than half a day.
const MOST_BUCKETS: usize = 1_000;
/// Upper bounds of the latency histogram, in seconds: the defaults of Prometheus' own client libraries.
pub const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Times are kept by the logarithm to this base, which makes percentiles exact to 1 %.
const STEP: f64 = 1.01;

/// One request that reached a group.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    pub load_balancer: &'a str,
    pub group: &'a str,
    pub ending: Ending,
    /// None when no target was chosen, because the group has none.
    pub target: Option<&'a str>,
    /// Until the head of the target's answer; None when there was none.
    pub seconds: Option<f64>,
    /// No connection to the target was made.
    pub unconnected: bool,
}

/// An answer of a target, for tests of what reads series.
#[cfg(test)]
pub fn answered(code: u16) -> Ending {
    Ending::Target(code)
}

/// Response times of one bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Times {
    pub count: u64,
    pub sum: f64,
    pub least: f64,
    pub most: f64,
    by_size: BTreeMap<i32, u64>,
}

/// Something that was sampled several times.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gauge {
    pub samples: u64,
    pub sum: f64,
    pub least: f64,
    pub most: f64,
}

/// What happened to one group in one period.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bucket {
    /// Milliseconds since 1970.
    pub start: i64,
    /// Requests for which a target was chosen.
    pub requests: u64,
    /// Answers of targets: 2xx, 3xx, 4xx, 5xx.
    pub codes: [u64; 4],
    pub connection_errors: u64,
    pub times: Times,
    pub healthy: Gauge,
    pub unhealthy: Gauge,
}

/// What happened to one group since the start.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Answers by their status, and whether a target gave them.
    pub answers: BTreeMap<(u16, bool), u64>,
    /// Answers of targets within each of [`BOUNDS`], not cumulative; the last is for those above all.
    pub within: [u64; BOUNDS.len() + 1],
    pub seconds: f64,
}

/// One group under one load balancer.
#[derive(Debug, Clone, Default)]
pub struct Group {
    pub buckets: VecDeque<Bucket>,
    pub totals: Totals,
}

/// All groups, by load balancer and group (ARNs).
#[derive(Debug)]
pub struct Series {
    period_ms: i64,
    groups: BTreeMap<(String, String), Group>,
}

impl Times {
    fn add(&mut self, seconds: f64) {
        self.least = if self.count == 0 { seconds } else { self.least.min(seconds) };
        self.most = self.most.max(seconds);
        self.count += 1;
        self.sum += seconds;
        // Saturates for what is no time at all; a request takes between a microsecond and an hour.
        let size = (seconds.max(1e-6).ln() / STEP.ln()).round() as i32;
        *self.by_size.entry(size).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Times) {
        if other.count == 0 {
            return;
        }
        self.least = if self.count == 0 { other.least } else { self.least.min(other.least) };
        self.most = self.most.max(other.most);
        self.count += other.count;
        self.sum += other.sum;
        for (size, count) in &other.by_size {
            *self.by_size.entry(*size).or_default() += count;
        }
    }

    /// The time below which so many percent (0 to 100) lie; none without any.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let wanted = (percent / 100.0 * self.count as f64).ceil().max(1.0);
        let mut seen = 0.0;
        for (size, count) in &self.by_size {
            seen += *count as f64;
            if seen >= wanted {
                return Some(STEP.powi(*size).clamp(self.least, self.most));
            }
        }
        None
    }
}

impl Gauge {
    fn add(&mut self, value: f64) {
        self.merge(&Gauge { samples: 1, sum: value, least: value, most: value });
    }

    pub fn merge(&mut self, other: &Gauge) {
        if other.samples == 0 {
            return;
        }
        self.least = if self.samples == 0 { other.least } else { self.least.min(other.least) };
        self.most = self.most.max(other.most);
        self.samples += other.samples;
        self.sum += other.sum;
    }
}

impl Bucket {
    /// Adds what another bucket holds, so that both together count as one.
    pub fn merge(&mut self, other: &Bucket) {
        self.requests += other.requests;
        self.connection_errors += other.connection_errors;
        for (mine, theirs) in self.codes.iter_mut().zip(other.codes) {
            *mine += theirs;
        }
        self.times.merge(&other.times);
        self.healthy.merge(&other.healthy);
        self.unhealthy.merge(&other.unhealthy);
    }
}

impl Totals {
    fn add(&mut self, served: &Served<'_>) {
        let answer = match served.ending {
            Ending::Target(code) => (code, true),
            Ending::Generated(code) | Ending::Configured(code) => (code, false),
        };
        *self.answers.entry(answer).or_default() += 1;
        if let Some(seconds) = served.seconds {
            let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
            self.within[at] += 1;
            self.seconds += seconds;
        }
    }
}

impl Group {
    fn bucket(&mut self, start: i64) -> &mut Bucket {
        // Requests end in about the order of time, so the place is at the end or a few before.
        let at = self.buckets.iter().rposition(|bucket| bucket.start <= start);
        let index = match at {
            Some(index) if self.buckets[index].start == start => index,
            other => {
                let index = other.map_or(0, |index| index + 1);
                self.buckets.insert(index, Bucket { start, ..Bucket::default() });
                index
            }
        };
        let index = if self.buckets.len() > MOST_BUCKETS && index > 0 {
            self.buckets.pop_front();
            index - 1
        } else {
            index
        };
        &mut self.buckets[index]
    }
}

impl Series {
    /// With buckets of so many milliseconds; 0 counts as 1.
    pub fn new(period_ms: i64) -> Self {
        Self { period_ms: period_ms.max(1), groups: BTreeMap::new() }
    }

    pub fn period_ms(&self) -> i64 {
        self.period_ms
    }

    fn group(&mut self, load_balancer: &str, group: &str) -> &mut Group {
        self.groups.entry((load_balancer.to_owned(), group.to_owned())).or_default()
    }

    /// Counts a request that ended at `now_ms`.
    pub fn add(&mut self, now_ms: i64, served: &Served<'_>) {
        let start = now_ms - now_ms.rem_euclid(self.period_ms);
        let group = self.group(served.load_balancer, served.group);
        group.totals.add(served);
        // AWS counts a request only when a target was chosen for it.
        if served.target.is_none() {
            return;
        }
        let bucket = group.bucket(start);
        bucket.requests += 1;
        bucket.connection_errors += u64::from(served.unconnected);
        if let Ending::Target(code) = served.ending
            && let Some(class) = bucket.codes.get_mut(usize::from(code / 100).wrapping_sub(2))
        {
            *class += 1;
        }
        if let Some(seconds) = served.seconds {
            bucket.times.add(seconds);
        }
    }

    /// Takes a sample of a group that has targets.
    pub fn sample(&mut self, now_ms: i64, load_balancer: &str, group: &str, (healthy, unhealthy): (usize, usize)) {
        let start = now_ms - now_ms.rem_euclid(self.period_ms);
        let bucket = self.group(load_balancer, group).bucket(start);
        bucket.healthy.add(healthy as f64);
        bucket.unhealthy.add(unhealthy as f64);
    }

    /// All groups, by load balancer and group (ARNs).
    pub fn groups(&self) -> impl Iterator<Item = (&(String, String), &Group)> {
        self.groups.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(ending: Ending, seconds: Option<f64>) -> Served<'static> {
        Served { load_balancer: "lb", group: "g", ending, target: Some("t"), seconds, unconnected: false }
    }

    fn only(series: &Series) -> &Group {
        series.groups().next().expect("one group").1
    }

    #[test]
    fn requests_are_counted_in_the_period_in_which_they_ended() {
        let mut series = Series::new(1_000);
        for (at, code) in [(1_000, 200), (1_999, 404), (2_000, 503), (1_500, 200)] {
            series.add(at, &served(Ending::Target(code), Some(0.1)));
        }
        let buckets = &only(&series).buckets;
        let seen: Vec<_> = buckets.iter().map(|b| (b.start, b.requests, b.codes)).collect();
        assert_eq!(seen, [(1_000, 3, [2, 0, 1, 0]), (2_000, 1, [0, 0, 0, 1])]);
    }

    #[test]
    fn a_request_for_which_there_was_no_target_is_in_the_totals_only() {
        let mut series = Series::new(1_000);
        series.add(0, &Served { target: None, ..served(Ending::Generated(503), None) });
        assert!(only(&series).buckets.is_empty());
        assert_eq!(only(&series).totals.answers[&(503, false)], 1);
    }

    #[test]
    fn percentiles_are_exact_to_one_percent() {
        let mut times = Times::default();
        for ms in 1..=1_000 {
            times.add(f64::from(ms) / 1_000.0);
        }
        for (percent, wanted) in [(50.0, 0.5), (99.0, 0.99), (100.0, 1.0), (0.0, 0.001)] {
            let found = times.percentile(percent).unwrap();
            assert!((found / wanted - 1.0).abs() <= 0.011, "p{percent}: {found}");
        }
        assert_eq!(Times::default().percentile(50.0), None);
    }

    #[test]
    fn no_more_buckets_are_kept_than_the_bound_and_the_newest_stay() {
        let mut series = Series::new(10);
        for n in 0..2_000 {
            series.add(n * 10, &served(Ending::Target(200), None));
        }
        let buckets = &only(&series).buckets;
        assert_eq!((buckets.len(), buckets.back().map(|b| b.start)), (MOST_BUCKETS, Some(19_990)));
    }

    #[test]
    fn samples_keep_their_extremes() {
        let mut series = Series::new(1_000);
        for (at, hosts) in [(0, (3, 0)), (500, (1, 2))] {
            series.sample(at, "lb", "g", hosts);
        }
        let bucket = &only(&series).buckets[0];
        assert_eq!(bucket.healthy, Gauge { samples: 2, sum: 4.0, least: 1.0, most: 3.0 });
        assert_eq!(bucket.unhealthy.most, 2.0);
    }
}
