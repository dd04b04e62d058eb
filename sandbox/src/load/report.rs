//! What a load run counts: totals, windows between marks, and the share of each cluster in the last whole second. Pure: the
//! time of an event is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::histogram::Histogram;

/// Failures that are kept with time and reason, per window.
const FAILURES_KEPT: usize = 50;
/// Windows of one run.
pub const WINDOW_LIMIT: usize = 1_000;
/// Distinct names counted in one map; what comes after is counted together.
const NAME_LIMIT: usize = 256;

/// How one request ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// From the moment the request was due, not from when a connection was free for it.
    pub latency: Duration,
    pub result: Result<Answer, String>,
}

/// An HTTP answer, whatever its status.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub cluster: Option<String>,
    pub version: Option<String>,
    /// What a load balancer says it chose.
    pub target: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// UTC, RFC 3339.
    pub at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Latency percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

/// Counters as they are shown.
#[derive(Debug, Clone, Serialize)]
pub struct Counters {
    /// Requests that ended, one way or another.
    pub sent: u64,
    /// Answered with a status below 400.
    pub ok: u64,
    pub failed: u64,
    pub by_status: BTreeMap<u16, u64>,
    pub by_error: BTreeMap<String, u64>,
    pub by_cluster: BTreeMap<String, u64>,
    pub by_version: BTreeMap<String, u64>,
    pub latency_ms: Latency,
    /// The first of them.
    pub failures: Vec<Failure>,
    /// When the first request that failed was due (UTC, RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_from: Option<String>,
    /// When the last request that failed ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_until: Option<String>,
}

/// Counters of the stretch that began with a mark.
#[derive(Debug, Clone, Serialize)]
pub struct WindowReport {
    pub name: String,
    #[serde(flatten)]
    pub counters: Counters,
}

/// The last whole second.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LastSecond {
    pub sent: u64,
    pub ok: u64,
    pub failed: u64,
    /// Fraction of the answers that named a cluster, 0 to 1.
    pub share: BTreeMap<String, f64>,
}

#[derive(Debug, Default, Clone)]
struct Window {
    sent: u64,
    ok: u64,
    by_status: BTreeMap<u16, u64>,
    by_error: BTreeMap<String, u64>,
    by_cluster: BTreeMap<String, u64>,
    by_version: BTreeMap<String, u64>,
    latency: Histogram,
    failures: Vec<Failure>,
    /// When requests that failed were due first and ended last.
    failing: Option<(jiff::Timestamp, jiff::Timestamp)>,
}

fn count(map: &mut BTreeMap<String, u64>, name: &str) {
    let known = map.len() < NAME_LIMIT || map.contains_key(name);
    let name = if known { name } else { "other" };
    // Names come from answers: cut to a length that fits a report.
    *map.entry(name.chars().take(200).collect()).or_default() += 1;
}

impl Window {
    fn record(&mut self, outcome: &Outcome, failure: Option<&Failure>) {
        self.sent += 1;
        self.latency.record(u64::try_from(outcome.latency.as_micros()).unwrap_or(u64::MAX));
        match &outcome.result {
            Ok(answer) => {
                *self.by_status.entry(answer.status).or_default() += 1;
                if let Some(cluster) = &answer.cluster {
                    count(&mut self.by_cluster, cluster);
                }
                if let Some(version) = &answer.version {
                    count(&mut self.by_version, version);
                }
            }
            Err(error) => count(&mut self.by_error, error),
        }
        if failure.is_some() {
            let now = jiff::Timestamp::now();
            // A latency that no date can bear does not occur; the request would count as due now.
            let due = jiff::SignedDuration::try_from(outcome.latency).ok().and_then(|age| now.checked_sub(age).ok());
            let due = due.unwrap_or(now);
            let from = self.failing.map_or(due, |(from, _)| from.min(due));
            self.failing = Some((from, now));
        }
        match failure {
            None => self.ok += 1,
            Some(failure) if self.failures.len() < FAILURES_KEPT => self.failures.push(failure.clone()),
            Some(_) => {}
        }
    }

    fn report(&self) -> Counters {
        let at = |percent| self.latency.percentile_ms(percent);
        Counters {
            sent: self.sent,
            ok: self.ok,
            failed: self.sent - self.ok,
            by_status: self.by_status.clone(),
            by_error: self.by_error.clone(),
            by_cluster: self.by_cluster.clone(),
            by_version: self.by_version.clone(),
            latency_ms: Latency { p50: at(50.0), p90: at(90.0), p99: at(99.0), max: self.latency.max_ms() },
            failures: self.failures.clone(),
            failing_from: self.failing.map(|(from, _)| shown(from)),
            failing_until: self.failing.map(|(_, until)| shown(until)),
        }
    }
}

#[derive(Debug, Default)]
struct Second {
    number: u64,
    sent: u64,
    ok: u64,
    by_cluster: BTreeMap<String, u64>,
}

/// Everything one run counts.
#[derive(Debug, Default)]
pub struct Recorder {
    total: Window,
    windows: Vec<(String, Window)>,
    seconds: VecDeque<Second>,
}

impl Recorder {
    /// Counts one request that ended `since_start` after the run began.
    pub fn record(&mut self, since_start: Duration, outcome: &Outcome) {
        let failure = failure_of(outcome);
        self.total.record(outcome, failure.as_ref());
        if let Some((_, window)) = self.windows.last_mut() {
            window.record(outcome, failure.as_ref());
        }
        let number = since_start.as_secs();
        if self.seconds.back().is_none_or(|second| second.number < number) {
            self.seconds.push_back(Second { number, ..Second::default() });
            // The present second and the one before it are all that is ever shown.
            while self.seconds.len() > 2 {
                self.seconds.pop_front();
            }
        }
        let Some(second) = self.seconds.back_mut() else { return };
        second.sent += 1;
        second.ok += u64::from(failure.is_none());
        if let Ok(Answer { cluster: Some(cluster), .. }) = &outcome.result {
            count(&mut second.by_cluster, cluster);
        }
    }

    /// Begins a window; gives its name, or `None` when there are too many.
    pub fn mark(&mut self, name: Option<String>) -> Option<String> {
        if self.windows.len() >= WINDOW_LIMIT {
            return None;
        }
        let name = name.unwrap_or_else(|| format!("window-{}", self.windows.len() + 1));
        self.windows.push((name.clone(), Window::default()));
        Some(name)
    }

    pub fn counters(&self) -> Counters {
        self.total.report()
    }

    pub fn windows(&self) -> Vec<WindowReport> {
        self.windows.iter().map(|(name, w)| WindowReport { name: name.clone(), counters: w.report() }).collect()
    }

    /// The whole second before the one that runs at `since_start`.
    pub fn last_second(&self, since_start: Duration) -> LastSecond {
        let wanted = since_start.as_secs().checked_sub(1);
        let Some(second) = self.seconds.iter().find(|s| Some(s.number) == wanted) else {
            return LastSecond::default();
        };
        let named: u64 = second.by_cluster.values().sum();
        let share = second.by_cluster.iter().map(|(name, n)| (name.clone(), *n as f64 / named as f64)).collect();
        LastSecond { sent: second.sent, ok: second.ok, failed: second.sent - second.ok, share }
    }
}

fn shown(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn failure_of(outcome: &Outcome) -> Option<Failure> {
    let at = || shown(jiff::Timestamp::now());
    match &outcome.result {
        Ok(answer) if answer.status < 400 => None,
        Ok(answer) => {
            Some(Failure { at: at(), status: Some(answer.status), error: None, target: answer.target.clone() })
        }
        Err(error) => Some(Failure { at: at(), status: None, error: Some(error.clone()), target: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, cluster: &str) -> Outcome {
        let answer = Answer { status, cluster: Some(cluster.into()), ..Answer::default() };
        Outcome { latency: Duration::from_millis(5), result: Ok(answer) }
    }

    #[test]
    fn failures_are_answers_from_400_on_and_broken_connections() {
        let mut recorder = Recorder::default();
        for status in [200, 302, 404, 503] {
            recorder.record(Duration::ZERO, &answer(status, "blue"));
        }
        let broken = Outcome { latency: Duration::ZERO, result: Err("connection refused".into()) };
        recorder.record(Duration::ZERO, &broken);
        let shown = recorder.counters();
        assert_eq!((shown.sent, shown.ok, shown.failed), (5, 2, 3));
        assert_eq!(shown.by_error["connection refused"], 1);
        assert_eq!(shown.failures.len(), 3);
        assert_eq!(shown.by_cluster["blue"], 4);
    }

    #[test]
    fn failures_are_told_from_when_the_first_was_due_to_when_the_last_ended() {
        let mut recorder = Recorder::default();
        recorder.record(Duration::ZERO, &answer(200, "blue"));
        assert_eq!((recorder.counters().failing_from, recorder.counters().failing_until), (None, None));
        let slow = Outcome { latency: Duration::from_secs(7), result: Err("no answer".into()) };
        recorder.record(Duration::ZERO, &slow);
        recorder.record(Duration::ZERO, &answer(502, "blue"));
        let shown = recorder.counters();
        let at = |text: Option<String>| text.unwrap().parse::<jiff::Timestamp>().unwrap();
        let stretch = at(shown.failing_until) - at(shown.failing_from);
        assert!((7.0..60.0).contains(&stretch.total(jiff::Unit::Second).unwrap()), "{stretch}");
    }

    #[test]
    fn a_mark_begins_counters_of_its_own() {
        let mut recorder = Recorder::default();
        recorder.record(Duration::ZERO, &answer(200, "blue"));
        assert_eq!(recorder.mark(None).as_deref(), Some("window-1"));
        recorder.record(Duration::ZERO, &answer(500, "blue"));
        assert_eq!(recorder.mark(Some("after".into())).as_deref(), Some("after"));
        let windows = recorder.windows();
        assert_eq!((windows[0].counters.sent, windows[0].counters.failed), (1, 1));
        assert_eq!((windows[1].counters.sent, recorder.counters().sent), (0, 2));
    }

    #[test]
    fn the_last_whole_second_shows_shares() {
        let mut recorder = Recorder::default();
        for n in 0..10 {
            recorder.record(Duration::from_millis(1_000 + n), &answer(200, if n < 9 { "blue" } else { "green" }));
        }
        recorder.record(Duration::from_millis(2_001), &answer(200, "green"));
        let shown = recorder.last_second(Duration::from_millis(2_500));
        assert_eq!((shown.sent, shown.share["blue"]), (10, 0.9));
        assert_eq!(recorder.last_second(Duration::from_secs(9)), LastSecond::default());
    }
}
